"""Tuning under the k-percent protocol: trials of a search space, kept by Optuna's journal.

What is tuned on is the first k percent of the stream, held-out seeds, or both, and is recorded:
tuning on all of what is reported hides whether a method can work where nobody tuned it. Source:
Mesbahi et al. 2024 (arXiv:2404.02113).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from holdfast.continual.jobs.queue import Outcome, Watcher, cell_name
from holdfast.continual.jobs.run import run_cells
from holdfast.continual.jobs.trials import tell_results
from holdfast.continual.jobs.tuning_plan import TRIALS, Plan, plan
from holdfast.continual.policies.trust import remember
from holdfast.continual.results import curves, metrics
from holdfast.continual.run_folder.files import write_whole
from holdfast.continual.run_folder.lock import locked
from holdfast.continual.run_folder.readers import plain, read_file
from holdfast.continual.run_folder.record import LOCK, SCENARIO, RunFolder
from holdfast.continual.run_folder.scenario_diff import NO_MATTER, text_diff
from holdfast.errors import CheckpointUnusable, InUse, MissingExtra, Stopped, UsageError
from holdfast.scenarios.schema.cells import Axis
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.source.regular_file import (
    check_folder,
    check_inside,
    is_there,
    made_folder,
    opened,
    remove,
)
from holdfast.seeding import derive

if TYPE_CHECKING:
    import optuna

JOURNAL, STUDY = "journal.log", "study.yaml"
_MOST_TRIALS = 100_000


def tune(
    scenario: Scenario,
    *,
    runs: str | Path = "runs",
    trials: int | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    watcher: Watcher | None = None,
    trust_code: bool = False,
) -> Path:
    """Try points of the scenario's search space, and return the folder of the study.

    Trials of an earlier call count; one that was interrupted continues. The same scenario, number
    of trials and jobs give the same trials, interrupted or not.

    Args:
        scenario: What ``holdfast.load`` returned, with ``tune:``.
        runs: The folder of all results.
        trials: How many there are in the end, instead of the scenario's number.
        jobs: Cells run side by side. Trials that run beside each other do not learn of each other.
        overwrite: Delete the study that is there, and start again.
        watcher: Is told what happens in the cells.
        trust_code: As of ``run``.

    Raises:
        UsageError: The scenario cannot be tuned or built, or another study is in its place.
        MissingExtra: Optuna is not installed.
        CheckpointUnusable: The study's journal is damaged.
        HoldfastError: No trial finished; the text holds the last reason.
    """
    from holdfast.continual.training.preflight import build  # here: it imports torch and avalanche

    made = plan(scenario.trusting_code() if trust_code else scenario, Path(runs))
    _optuna()
    build(made.trial({}, made.seeds[0]), jobs=jobs)
    made_folder(made.folder, folders=3)
    with locked(made.folder / LOCK):
        remove(made.folder / f"{JOURNAL}.lock")  # Optuna's, of a process that was killed
        check_inside(made.folder)
        _settle(made, overwrite=overwrite)
        study = _open(made)
        # Seeds that learn in lockstep take one job.
        beside = jobs * min(made.scenario.agent.most_in_lockstep, len(made.seeds))
        wanted, abreast = trials or made.tune.trials, max(1, beside // len(made.seeds))
        while batch := _next(study, made, wanted, abreast):
            _run(study, made, batch, jobs, watcher)
        tell_results(made.folder, study, made, scenario.source)
    return made.folder


def _settle(made: Plan, *, overwrite: bool) -> None:
    """Write what the study is, or check that it is what is there already."""
    space = {axis.key: made.tune.space[axis.key] for axis in made.space}
    same = made.tune.model_copy(update={"trials": 1, "space": space})  # of which there may be more
    alone = {**NO_MATTER, "methods": (made.method,), "sweep": {}, "tune": same}
    text = f"# {metrics.RULES}\n{made.scenario.model_copy(update=alone).to_yaml()}"
    path = made.folder / STUDY
    there = _study_text(path) if is_there(path) and not overwrite else text
    if there != text:
        name = made.scenario.source or "the scenario given now"
        changed = text_diff(there, text, path, name)
        raise UsageError(
            f"{made.folder} is another study:\n{changed}\n"
            "give the scenario another name:, or delete that study with --overwrite"
        )
    if overwrite:
        for old in made.folder.iterdir():
            if old.name != LOCK:
                remove(old)
    write_whole(path, text.encode())


def _study_text(path: Path) -> str:
    try:
        return read_file(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointUnusable(f"{path}: is no text ({error.reason})") from error


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("holdfast tune", "optuna", "tune") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _open(made: Plan) -> optuna.Study:
    """Return the study of the folder's journal; new ones are empty."""
    storages, path = _optuna().storages, made.folder / JOURNAL
    if is_there(path):
        _cut(path)
    journal = storages.journal
    backend = journal.JournalFileBackend(str(path), journal.JournalFileOpenLock(str(path)))
    higher = metrics.FORMULAS[made.tune.metric].higher_is_better
    try:
        study: optuna.Study = _optuna().create_study(
            storage=storages.JournalStorage(backend),
            study_name=TRIALS,
            direction="maximize" if higher else "minimize",
            load_if_exists=True,
        )
        _check_trials(study, made)
    except Exception as error:  # of Optuna's own reading of a file that may be from anywhere
        raise CheckpointUnusable(
            f"{path}: damaged ({type(error).__name__}: {str(error)[:200]}); start the study again "
            "with --overwrite"
        ) from error
    return study


def _check_trials(study: optuna.Study, made: Plan) -> None:
    """Raise unless what was kept of trials is of this search space: it becomes ``best.yaml``.

    Raises:
        ValueError: If a key is none of the space's, or a value lies outside.
    """
    axes = {axis.key: axis for axis in made.space}
    for trial in study.get_trials(deepcopy=False):
        if trial.number >= _MOST_TRIALS:
            raise ValueError(f"more than {_MOST_TRIALS} trials")
        values = trial.user_attrs.get("values", {})
        reason, by_seed = (trial.user_attrs.get(name) for name in ("reason", "by_seed"))
        strange = [key for key in values if key not in axes or not _is_in(made, axes[key], values)]
        if strange or not isinstance(reason, str | None) or not isinstance(by_seed, dict | None):
            raise ValueError(f"trial {trial.number} is not of this search space: {strange}")


def _is_in(made: Plan, axis: Axis, values: Mapping[str, Any]) -> bool:
    value, dimension = values[axis.key], made.tune.space[axis.key]
    if not isinstance(dimension, Mapping):
        return any(value == known for known in dimension)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and axis.values[0] <= value <= axis.values[-1]


def _cut(path: Path) -> None:
    """Cut a half-written last line, left by a crash, which would spoil what comes after it.

    Raises:
        CheckpointUnusable: If a line before it is none of Optuna's.
    """
    content = read_file(path)
    size = content.rfind(b"\n") + 1
    try:
        for number, line in enumerate(content[:size].splitlines(), start=1):
            if not isinstance(plain(line, f"line {number}"), dict):
                raise CheckpointUnusable(f"line {number}: is no entry of Optuna's journal")
    except CheckpointUnusable as error:
        raise CheckpointUnusable(
            f"{path}: damaged ({error}); start the study again with --overwrite"
        ) from error
    with os.fdopen(opened(path, os.O_RDWR), "r+b") as file:
        file.truncate(size)


def _next(
    study: optuna.Study, made: Plan, wanted: int, abreast: int
) -> list[tuple[optuna.Trial, dict[str, Any]]]:
    """Return the trials to run now, with their values: those interrupted, and new ones.

    Trials come in blocks whose borders are multiples of ``abreast``. All of a block get their
    values before the first of it runs, so that an interruption changes none.
    """
    found = _optuna()
    there = study.get_trials(deepcopy=False)
    running = [trial for trial in there if trial.state == found.trial.TrialState.RUNNING]
    first = running[0].number if running else len(there)
    end = min((first // abreast + 1) * abreast, wanted)
    batch = []
    for number in [*(trial.number for trial in running), *range(len(there), end)]:
        study.sampler = _sampler(made, number)
        if number < len(there):
            trial = found.trial.Trial(study, there[number]._trial_id)
        else:
            trial = study.ask()
        _ = trial.relative_params  # lazily drawn: now, by this sampler, however many are suggested
        batch.append((trial, {axis.key: _suggest(study, trial, made, axis) for axis in made.space}))
    return batch


def _sampler(made: Plan, *names: str | int) -> optuna.samplers.BaseSampler:
    """Return a sampler whose draws depend on nothing but the seed, these names and the trials."""
    seed = derive(made.tune.seed, "tune", *names)
    sampler: optuna.samplers.BaseSampler = _optuna().samplers.TPESampler(
        seed=seed, multivariate=True, constant_liar=True
    )
    return sampler


def _suggest(study: optuna.Study, trial: optuna.Trial, made: Plan, axis: Axis) -> Any:
    """Return a trial's value of one key: the one it has, or a new one."""
    study.sampler = _sampler(made, trial.number, axis.key)
    dimension = made.tune.space[axis.key]
    if not isinstance(dimension, Mapping):
        # By place: Optuna's choices are numbers and texts, and ours may be lists.
        place = trial.suggest_categorical(axis.key, list(range(len(dimension))))
        return dimension[int(place)]
    ((kind, bounds),) = dimension.items()
    low, high, step = axis.values[0], axis.values[-1], bounds[2] if kind == "range" else None
    if kind == "int" or (kind == "range" and all(isinstance(number, int) for number in bounds)):
        return trial.suggest_int(axis.key, low, high, step=step or 1)
    return trial.suggest_float(axis.key, low, high, step=step, log=kind == "log")


def _run(
    study: optuna.Study,
    made: Plan,
    batch: Sequence[tuple[optuna.Trial, dict[str, Any]]],
    jobs: int,
    watcher: Watcher | None,
) -> None:
    """Run trials side by side, and tell the study how each ended."""
    folders: dict[int, list[RunFolder]] = {}
    reasons: dict[int, str] = {}
    for trial, values in batch:
        try:
            folders[trial.number] = [_folder(made, trial.number, values, s) for s in made.seeds]
        except ValidationError as error:
            folders[trial.number] = []
            reasons[trial.number] = "; ".join(found["msg"] for found in error.errors())
    listed = [folder for own in folders.values() for folder in own]
    remember(listed)
    outcomes = {o.cell: o for o in run_cells(listed, jobs=jobs, watcher=watcher)}
    for trial, values in batch:
        trial.set_user_attr("values", values)
        own = {folder: outcomes[cell_name(folder)] for folder in folders[trial.number]}
        _tell(study, trial, made, own, reasons.get(trial.number))


def _folder(made: Plan, number: int, values: Mapping[str, Any], seed: int) -> RunFolder:
    path = made.folder / f"trial-{number:04d}" / f"seed-{seed}"
    scenario = made.trial(values, seed)
    if not is_there(path / SCENARIO):
        place = {"position": number, "sweep": dict(values), "trial": number}
        return RunFolder.create(path, scenario, **place)
    check_folder(path, folders=2)
    known = [one.model_copy(update=NO_MATTER) for one in (RunFolder(path).scenario, scenario)]
    if known[0] != known[1]:
        raise CheckpointUnusable(
            f"{path}: is of another scenario than this trial; start the study again with "
            "--overwrite"
        )
    return RunFolder(path, given=scenario)


def _tell(
    study: optuna.Study,
    trial: optuna.Trial,
    made: Plan,
    outcomes: Mapping[RunFolder, Outcome],
    reason: str | None,
) -> None:
    """Tell the study a trial's value, or why it has none."""
    for folder, outcome in outcomes.items():
        if outcome.failure is not None and outcome.failure.exit_code == Stopped.exit_code:
            raise Stopped(outcome.failure.text)
        if outcome.status == "in use":
            raise InUse(folder.path, outcome.user)
        if outcome.failure is not None and reason is None:
            reason = f"{outcome.cell}: {outcome.failure.text}"
    if reason is None:
        records = [curves.curves(folder.scores(), folder.scenario) for folder in outcomes]
        scores = [metrics.summary(found)[made.tune.metric] for found in records]
        trial.set_user_attr("by_seed", dict(zip(map(str, made.seeds), scores, strict=True)))
        value = sum(scores) / len(scores)
        if not math.isnan(value):
            study.tell(trial, value)
            return
        reason = f"{made.tune.metric} is n/a"
    trial.set_user_attr("reason", reason)
    study.tell(trial, state=_optuna().trial.TrialState.FAIL)
