"""Print the win rates of a game's runs against each opponent over the stream, as CSV.

python benchmarks/games.py runs/connect-four-selfplay "the command" > results/connect-four.csv
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from holdfast.continual.results.statistics import wilson
from holdfast.continual.results.study import gather


def main(folder: Path, command: str) -> None:
    """Print a header (command, versions), then a line per method, seed, step and opponent."""
    results = gather(folder)
    info = results.methods[0].cells[0].info
    print(f"# {command}")
    print("# " + ", ".join(f"{name} {number}" for name, number in info["versions"].items()))
    print("method,seed,step,opponent,games,win rate,lowest,highest")
    for method in results.methods:
        for cell in method.cells:
            points: dict[tuple[int, str], list[float]] = defaultdict(list)
            for episode in cell.scores:
                won = episode["success"]
                assert won is not None, "a game has a winner or a draw"
                points[episode["step"], str(episode["opponent"])].append(won)
            for (step, opponent), wins in sorted(points.items()):
                rate = sum(wins) / len(wins)
                low, high = wilson(rate, len(wins))
                start = f"{method.label},{cell.folder.seed},{step},{opponent},{len(wins)}"
                print(f"{start},{rate:.3f},{low:.3f},{high:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
