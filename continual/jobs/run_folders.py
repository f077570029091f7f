"""The run folders of a scenario: found again, created, or refused as another scenario's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from holdfast.continual.policies.trust import remember
from holdfast.continual.results.formatting import plural
from holdfast.continual.run_folder.cells import cells_in
from holdfast.continual.run_folder.extension import advice, extend, is_longer, obstacle
from holdfast.continual.run_folder.files import write_whole
from holdfast.continual.run_folder.record import LOCK, RUN, SCENARIO, RunFolder, begun_by
from holdfast.continual.run_folder.scenario_diff import NO_MATTER, text_diff
from holdfast.errors import CheckpointUnusable, InUse, UsageError
from holdfast.scenarios.schema.scenario import Cell, Scenario
from holdfast.scenarios.source.override import NoSuchPlace
from holdfast.scenarios.source.regular_file import check_folder, is_there, remove

_REMOVED = ".removed-"


def prepare(
    runs: Path,
    scenario: Scenario,
    *,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> list[RunFolder]:
    """Return the run folder of every cell of the scenario, in order; new ones are pending.

    Cells that are there already are kept if they run the same scenario; its lists of methods and
    seeds, and what it sweeps, may grow and shrink from run to run; its description, pool and
    resources may change, and so may the engine, which unfinished cells go on under. Its stream may
    become longer: cells then go on where they have ended.

    Args:
        runs: The folder of all results.
        scenario: The resolved scenario.
        overwrite: Delete the scenario's cells that are there, and those of a different scenario
            under its name, and start again.
        tell: Takes a line where cells go on in a longer stream, or cannot be remembered as runs of
            the user's own.

    Raises:
        UsageError: If a cell there is of a different scenario (the text shows the difference), or
            its place is taken by something else. Nothing was changed then.
        InUse: If another process runs a cell that is to be deleted. Nothing was changed then.
        CheckpointUnusable: If the folder of the scenario, of a method or of a cell is a link, or
            ``run.json`` is damaged. Nothing was changed then, either.
    """
    root = runs / scenario.name
    wanted = {root / cell.label / f"seed-{cell.seed}": cell for cell in scenario.cells()}
    check_folder(root)
    present = cells_in(root, "*/seed-*", 2)
    differences = {path: _difference(path, scenario, wanted.get(path)) for path in present}
    for path in wanted:
        check_folder(path, folders=2)
        strange = [] if path in present or not is_there(path) else _strange(path)
        if strange:
            raise UsageError(f"{path} holds {strange[0]} but is not a run folder; move it away")
    different = [path for path in present if differences[path]]
    if different and not overwrite:
        others = f" (and {len(different) - 1} more cells)" if len(different) > 1 else ""
        raise UsageError(
            f"{different[0]}{others} is of a different scenario:\n{differences[different[0]]}\n"
            "give the scenario another name:, or delete those results with --overwrite"
        )
    if not overwrite:
        _check_rules(path for path in present if path in wanted)
    else:
        _remove([path for path in present if path in wanted or path in different])
    order = [*dict.fromkeys(cell.label for cell in wanted.values())]
    for path, cell in wanted.items():
        if not is_there(path / SCENARIO):
            swept = {"sweep": dict(cell.sweep), "point": cell.point} if cell.sweep else {}
            RunFolder.create(path, scenario.only(cell), position=order.index(cell.label), **swept)
    folders = _all_going_on({path: scenario.only(cell) for path, cell in wanted.items()}, tell)
    if unknown := remember(folders):
        tell(unknown)
    return folders


def _check_rules(paths: Iterable[Path]) -> None:
    """Refuse cells that are unfinished and began by other learning rules."""
    for path in paths:
        folder = RunFolder(path)
        rules = folder.other_rules()
        if rules is not None and folder.info().get("status") != "finished":
            raise UsageError(f"{path} {begun_by(rules)}")


def _difference(path: Path, scenario: Scenario, cell: Cell | None) -> str:
    """Return how the cell there differs from what the scenario would run; empty if not at all."""
    try:
        old = RunFolder(path).scenario.model_copy(update=NO_MATTER)
        sweep = RunFolder(path).info().get("sweep", {})
        if cell is None:  # its method, seed or point is not listed now: the rest must be the same
            cell = Cell(old.methods[0], old.seeds[0], "", sweep)
        new = _as_begun(scenario.only(cell), old).model_copy(update=NO_MATTER)
    except (CheckpointUnusable, NoSuchPlace) as error:
        return str(error)
    old = _as_given(old, new)
    if old == new:
        return ""
    if is_longer(new, old):
        return obstacle(new, old)
    name = scenario.source or "the scenario given now"
    diff = text_diff(old.to_yaml(), new.to_yaml(), path / SCENARIO, name)
    return f"{diff}\n{advice(new, old)}".rstrip()


def _all_going_on(
    scenarios: Mapping[Path, Scenario], tell: Callable[[str], None]
) -> list[RunFolder]:
    """Return the folders of cells that are to run; tell which of them have more to learn now."""
    began = {path: RunFolder(path).scenario for path in scenarios}
    folders = [_going_on(path, given, began[path]) for path, given in scenarios.items()]
    if more := [count for one in folders if (count := extend(one, began[one.path]))]:
        goes = "goes" if len(more) == 1 else "go"
        tell(f"{plural(len(more), 'cell')} {goes} on: {plural(max(more), 'more stage')}")
    return folders


def _as_given(old: Scenario, new: Scenario) -> Scenario:
    """Return a cell's scenario with all that may be another one in the user's file as it is there.

    What is kept changes no number, and an engine changes them by rounding alone.
    """
    checkpoint = old.checkpoint.model_copy(update={"keep": new.checkpoint.keep})
    kept = {name: getattr(new.agent, name) for name in ("engine", "seeds_at_once")}
    agent = old.agent.model_copy(update=kept)
    return old.model_copy(update={"checkpoint": checkpoint, "agent": agent})


def _going_on(path: Path, scenario: Scenario, begun: Scenario) -> RunFolder:
    """Return the folder of a cell that is to run, with its scenario as the user's file gives it."""
    folder = RunFolder(path, given=_as_begun(scenario, begun))
    _change_engine(folder, begun.agent.engine)
    return folder


def _change_engine(folder: RunFolder, begun: str) -> None:
    """Let an unfinished cell go on under the engine that the user's file names now.

    ``run.json`` then says which engine learned from which stage on. A cell that another process
    runs is left to it.

    Args:
        folder: With the scenario as the user's file gives it.
        begun: The engine that the folder's own scenario names.
    """
    engine = folder.scenario.agent.engine
    if begun == engine:
        return
    with suppress(InUse), folder.lock():
        info = folder.info()
        if info.get("status") == "finished":
            return
        if info.get("status", "pending") != "pending":
            engines = info.get("engines") or [{"engine": begun, "stage": 0}]
            folder.update(engines=[*engines, {"engine": engine, "stage": info.get("stages", 0)}])
        write_whole(folder.path / SCENARIO, folder.scenario.to_yaml().encode())


def _as_begun(scenario: Scenario, begun: Scenario) -> Scenario:
    """Return a cell's scenario, with checkpoints as often as it began where the file says nothing.

    Args:
        scenario: Of the cell, as the file gives it.
        begun: As the run folder has it.
    """
    if scenario.states("checkpoint", "every"):
        return scenario
    checkpoint = scenario.checkpoint.model_copy(update={"every": begun.checkpoint.every})
    return scenario.model_copy(update={"checkpoint": checkpoint})


def _strange(path: Path) -> list[str]:
    """Return what does not belong into a run folder whose creation was interrupted."""
    if not path.is_dir():
        return ["a file"]
    names = sorted(entry.name for entry in path.iterdir())
    if SCENARIO in names:  # another process has just created it
        return []
    return [repr(name) for name in names if name not in (RUN, LOCK) and ".tmp-" not in name]


def _remove(paths: list[Path]) -> None:
    """Delete run folders, none of them if one is in use."""
    with ExitStack() as held:
        for path in paths:
            held.enter_context(RunFolder(path).lock())
        for path in paths:
            # Renamed first: a crash half-way leaves no folder that looks like a run.
            path.rename(path.with_name(f".{path.name}{_REMOVED}{os.getpid()}"))
    for path in paths:
        for removed in path.parent.glob(f".seed-*{_REMOVED}*"):
            remove(removed)
