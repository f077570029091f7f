"""Loss of plasticity in classic control: its table, and what is known of the tasks that fail.

What is compared is the return while a task is being learned, over all of its evaluations and all
tasks (the metric ``auc/cw``, as a return): the published figures beside it are of that kind. They
are C-CHAIN's (arXiv:2506.00592, table 1, C-CartPole: mean and standard error over six seeds), from
ten tasks of 160,000 steps.

As a command, it prints where methods gain and lose, from the run folders of the cells: what is on
file holds neither TensorBoard nor the record of plasticity.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import holdfast
from holdfast.continual.reports.tables import p_value, possible
from holdfast.continual.results.curves import Span
from holdfast.continual.results.statistics import holm
from holdfast.continual.results.study import gather
from method_tables.comparison import FORGETTING, PERFORMANCE, column, rows, spread
from method_tables.table import has_failed, own_scores

SCENARIO, MEASURE, LEARNED = "continual-control", "auc/cw", "plasticity/cw"
PUBLISHED = {
    "naive": "61.8 ± 6.9",
    "isolated": "299.9 ± 6.0",
    "l2-init": "266.1 ± 5.3",
    "trac": "217.4 ± 26.3",
    "weight-clipping": "154.3 ± 16.0",
    "c-chain": "160.4 ± 14.6",
}
"""C-CHAIN's Vanilla, Oracle, L2 Init, TRAC, Weight Clipping and C-CHAIN."""


def markdown(cells: Sequence[dict[str, str]]) -> str:
    """Return the table as docs/methods.md shows it, and what its test can find."""
    lines = [
        "| method | seeds | return while learning | gain over naive, 95% | p (Holm) "
        "| learned | failed | average performance | forgetting | published |",
        f"| --- |{' ---: |' * 9}",
    ]
    table = rows(cells, MEASURE)
    unit = float(np.diff(returns(np.array([0.0, 1.0])))[0])
    for row, p in zip(table, holm([row.p for row in table]), strict=True):
        own = [cell for cell in cells if cell["method"] == row.label]
        is_naive = row.label == "naive"
        low, gain, high = (unit * (row.gain + side * row.interval) for side in (-1, 0, 1))
        found = (
            row.label,
            str(len(own)),
            spread(returns(row.performance), 0),
            "" if is_naive else f"{gain:+.0f} ({low:+.0f} to {high:+.0f})",
            "" if is_naive else p_value(float(p)).text,
            spread(column(own, LEARNED)),
            str(int(column(own, "failed").sum())),
            *(spread(column(own, name)) for name in (PERFORMANCE, FORGETTING)),
            PUBLISHED.get(row.label, ""),
        )
        lines.append(f"| {' | '.join(found)} |")
    tested = [len(row.performance) for row in table if row.label != "naive"]
    return "\n".join([*lines, "", possible(tested)])


def returns(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores of the scenario as returns of the environment, before ``reward_scale``.

    >>> returns(np.array([0.0, 1.0])).round().tolist()
    [22.0, 400.0]
    """
    scenario = holdfast.load(SCENARIO)
    rule, scale = scenario.score, scenario.tasks[0].changes.reward_scale
    assert rule is not None
    assert rule != "success"
    return (rule.random + scores * (rule.reference - rule.random)) / (scale or 1.0)


def why(folder: Path) -> None:
    """Print where methods gain and lose, and what else is known of the tasks that fail."""
    cells = {m.label: {c.folder.seed: c for c in m.cells} for m in gather(folder).methods}
    failed = {
        (seed, stage)
        for seed, cell in cells["naive"].items()
        for stage, span in enumerate(cell.curves.spans)
        if has_failed(cell.curves, span)
    }
    print("score while learning (tasks); of the actor: gradient norm, dormant share, entropy")
    for label, own in cells.items():
        scores: dict[str, list[float]] = {}
        states: dict[str, list[tuple[float, float, float]]] = {}
        for seed, cell in own.items():
            for stage, span in enumerate(cell.curves.spans):
                at = "where naive fails" if (seed, stage) in failed else "elsewhere"
                mean = float(own_scores(cell.curves, span).mean())
                scores.setdefault(at if stage else "first", []).append(mean)
                kind = "failed" if has_failed(cell.curves, span) else "others"
                if (cell.folder.path / "plasticity.json").exists():  # not in what is on file
                    states.setdefault(kind, []).append(_state(cell.folder.path, stage, span))
        print(label, *(f"{k}: {np.mean(v):.2f} ({len(v)})" for k, v in sorted(scores.items())))
        for kind, found in sorted(states.items()):
            norm, dormant, entropy = np.array(found).T
            print(
                f"  {kind} ({len(found)}): {np.median(norm):.2f} (at most {norm.max():.4f}), "
                f"{dormant.mean():.2f}, {np.median(entropy):.2g} (at most {entropy.max():.2g})"
            )


def _state(cell: Path, stage: int, span: Span) -> tuple[float, float, float]:
    """Return the median gradient norm, the dormant share at the end, and the median entropy."""
    looks = json.loads((cell / "plasticity.json").read_text("utf-8"))
    rows = [look for look in looks if look["stage"] == stage]
    norms = [row["gradient_norm/actor"] for row in rows if "gradient_norm/actor" in row]
    entropies = [value for step, value in _entropies(cell / "tb") if span.start < step <= span.end]
    return float(np.median(norms)), rows[-1]["dormant_fraction/actor"], float(np.median(entropies))


@cache
def _entropies(folder: Path) -> list[tuple[int, float]]:
    """Return the policy's mean entropy at each rollout, with its step."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, -event.value) for event in events.Scalars("train/entropy_loss")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m method_tables.continual_control", description=__doc__
    )
    parser.add_argument("--runs", type=Path, required=True, help="where they are")
    why(parser.parse_args().runs / SCENARIO)
