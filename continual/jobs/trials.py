"""Results of a tuning study: a table of them, and the best values as a file of overrides."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.continual.jobs.tuning_plan import Plan
from holdfast.continual.results.formatting import NA, plain, plural, table
from holdfast.continual.run_folder.files import csv_table, write_whole
from holdfast.errors import HoldfastError
from holdfast.scenarios.schema.method_spec import short
from holdfast.scenarios.source.yaml_file import dump

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

BEST, TABLE, PAGE = "best.yaml", "trials.csv", "tune.md"


def tell_results(folder: Path, study: Study, made: Plan, source: Path | None) -> None:
    """Write ``tune.md``, ``trials.csv`` and ``best.yaml`` into the folder of a study.

    Raises:
        HoldfastError: If no trial finished; the tables are there then.
    """
    trials = study.get_trials(deepcopy=False)
    done = [trial for trial in trials if trial.value is not None]
    best = study.best_trial if done else None
    write_whole(folder / TABLE, _csv(trials, made).encode())
    write_whole(folder / PAGE, _page(trials, best, made, source).encode())
    if best is None:
        last = trials[-1].user_attrs.get("reason", "")
        raise HoldfastError(
            f"none of {plural(len(trials), 'trial')} finished; the last one: {last}"
        )
    record = {f"tuned.{made.method.label}": _record(trials, best, made)}
    write_whole(folder / BEST, dump({**best.user_attrs["values"], **record}).encode())


def command(made: Plan, source: Path | None) -> str:
    """Return the command that runs the whole study with the best values."""
    scenario = shlex.quote(str(source or "SCENARIO.yaml"))
    best = shlex.quote(f"@{made.folder / BEST}")
    swept = "'sweep={}' " if made.scenario.sweep else ""
    return f"holdfast run {scenario} {swept}{best} name={made.scenario.name}-tuned"


def _record(trials: Sequence[FrozenTrial], best: FrozenTrial, made: Plan) -> str:
    """Return how the best values were found, in a sentence that runs and reports keep."""
    failed = sum(trial.value is None for trial in trials)
    count = plural(len(trials), "trial") + (f" ({failed} failed)" if failed else "")
    return (
        f"{', '.join(axis.key for axis in made.space)}: trial {best.number} of {count}, best by "
        f"{made.tune.metric} ({best.value:.6g}) on {made.protocol}"
    )


def _page(
    trials: Sequence[FrozenTrial], best: FrozenTrial | None, made: Plan, source: Path | None
) -> str:
    """Return the page of a study, as markdown."""
    parts = [
        f"# Tuning {plain(made.method.label)} of {plain(made.scenario.name)}",
        f"Tuned on {made.protocol}; `{made.tune.metric}`, averaged over the seeds. The protocol is "
        "that of arXiv:2404.02113.",
    ]
    if best is not None:
        parts.append(f"{plain(_record(trials, best, made))}.")
        parts.append(f"`{BEST}` holds its values:\n\n```\n{command(made, source)}\n```")
    head = ["trial", made.tune.metric, *(plain(axis.key) for axis in made.space)]
    rows = []
    for trial in trials:
        value = NA if trial.value is None else _digits(trial.value)
        values = trial.user_attrs.get("values", {})
        own = [plain(_digits(values[axis.key])) if values else NA for axis in made.space]
        mark = "**" if best is not None and trial.number == best.number else ""
        rows.append([f"{mark}{trial.number}{mark}", f"{mark}{value}{mark}", *own])
    parts.append(table(head, rows))
    told = {t.number: t.user_attrs["reason"] for t in trials if "reason" in t.user_attrs}
    if failed := [f"- trial {number}: {plain(reason)}" for number, reason in told.items()]:
        parts += ["## Failed", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"


def _digits(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else short(value)


def _csv(trials: Sequence[FrozenTrial], made: Plan) -> str:
    """Return one row for each trial: its values, its value for each seed, and how it ended."""
    keys = [axis.key for axis in made.space]
    seeds = [f"seed-{seed}" for seed in made.seeds]
    rows = []
    for trial in trials:
        values: dict[str, Any] = trial.user_attrs.get("values", {})
        scores: dict[str, float] = trial.user_attrs.get("by_seed", {})
        status = "finished" if trial.value is not None else trial.state.name.lower()
        row = [trial.number, status, trial.value, *(values.get(key) for key in keys)]
        row += [scores.get(str(seed)) for seed in made.seeds]
        rows.append([*row, trial.user_attrs.get("reason", "")])
    return csv_table(["trial", "status", made.tune.metric, *keys, *seeds, "reason"], rows)
