"""Print the metrics of every cell of a scenario as CSV: the evidence behind a published table.

python benchmarks/table.py runs/quickstart "the command that ran it" > results/quickstart.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

from holdfast.continual.results.curves import matrix
from holdfast.continual.results.metrics import FORMULAS
from holdfast.continual.results.study import gather


def main(folder: Path, command: str) -> None:
    """Print a header (command, versions), then one line per method and seed."""
    results = gather(folder)
    info = results.methods[0].cells[0].info
    print(f"# {command}")
    print("# " + ", ".join(f"{name} {number}" for name, number in info["versions"].items()))
    print(f"# {info['cores']} cores, one torch thread a cell")
    finals = [f"final {task.name}" for task in results.scenario.tasks]
    print(",".join(["method", "seed", *FORMULAS, *finals]))
    for method in results.methods:
        for cell in method.cells:
            numbers = [*cell.metrics.values(), *matrix(cell.curves)[-1]]
            print(",".join([method.label, str(cell.folder.seed), *(f"{n:.4f}" for n in numbers)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
