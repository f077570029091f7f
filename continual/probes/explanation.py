"""Explanations: what a policy's action hangs on, and where a later policy departs from it.

States are those of evaluation episodes by the policy of the task's end. On them, every later stage
is asked which entries of the observation, or pixels, its action hangs on (integrated gradients),
whether that is so (deletion), and where it acts otherwise than the policy of the task's end did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.policies.trust import vouch
from holdfast.continual.probes import frames
from holdfast.continual.probes.attack import gap
from holdfast.continual.probes.attribution import attributions, captum, deleted
from holdfast.continual.probes.departures import clusters, departures, middle, standardised
from holdfast.continual.probes.explanation_board import show
from holdfast.continual.probes.reasons import Cluster, Explained, ExplainPlan, explain_record
from holdfast.continual.probes.record import Tell
from holdfast.continual.probes.visited_states import Met, Seen, Unseen, View, meet, rendered
from holdfast.continual.results.curves import Array
from holdfast.continual.results.statistics import student
from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.cells import task_index
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.tensorboard import TensorBoard
from holdfast.errors import UsageError

ENTRIES_REMOVED, PIXELS_REMOVED = 4, 10
"""Of so many entries, or pixels, one is replaced by its mean where that is tried."""


def explain(
    cells: Sequence[RunFolder],
    plan: ExplainPlan,
    tasks: Sequence[str] | None = None,
    tell: Tell = lambda *_: None,
    *,
    overwrite: bool = False,
) -> None:
    """Explain every stage of runs in the tasks trained up to its end; what is on file is kept.

    Args:
        cells: The runs, as ``probed_cells`` returns them.
        plan: What is asked.
        tasks: Which tasks; by default all that were trained.
        tell: Takes how many stages and tasks of how many are done.
        overwrite: Delete results of another plan.

    Raises:
        UsageError: If no stage was finished, or a policy is no function of one vector or picture.
        MissingExtra: If Captum is not installed.
        CheckpointUnusable: If a checkpoint or a record cannot be read.
    """
    captum()
    asked = {cell.path: _ends(cell, tasks) for cell in cells}
    wanted = {
        cell.path: [(t, s) for t, end in asked[cell.path].items() for s in _stages(cell, end)]
        for cell in cells
    }
    done, total = 0, sum(map(len, wanted.values()))
    for cell in cells:
        vouch(cell)
        with cell.lock(), ExitStack() as opened:
            record = explain_record(cell)
            board: TensorBoard | None = None
            known = {one.place for one in record.begin(plan, overwrite=overwrite)}
            for found in _explained(cell, plan, asked[cell.path], known):
                if found is not None:
                    record.append(found)
                    board = board or opened.enter_context(closing(TensorBoard(cell.path / "tb")))
                    show(board, found, step=sum(cell.scenario.stage_steps[: found.stage + 1]))
                done += 1
                tell(done, total)


def _ends(cell: RunFolder, tasks: Sequence[str] | None) -> dict[int, int]:
    """Return the last stage at which each task was trained, of those with a checkpoint."""
    scenario, there = cell.scenario, checkpoint.named_stages(cell.path / checkpoint.FOLDER)
    if not there:
        raise UsageError(f"{cell.path}: no stage was finished yet, so that no policy is explained")
    newest = checkpoint.newest_stage(cell)
    ends = {task: stage for stage, task in enumerate(scenario.stream_tasks[: newest + 1])}
    named = [task_index(scenario, name, str(cell.path)) for name in tasks or ()]
    if untrained := [scenario.tasks[one].name for one in named if one not in ends]:
        raise UsageError(f"{cell.path}: task '{untrained[0]}' was not trained yet")
    return {task: end for task, end in ends.items() if not tasks or task in named}


def _stages(cell: RunFolder, end: int) -> list[int]:
    """Return the stages from the end of a task's training on."""
    there = checkpoint.named_stages(cell.path / checkpoint.FOLDER)
    return [stage for stage in there if stage >= end]


# -- one cell --------------------------------------------------------------------------------------


class _Task(NamedTuple):
    """A task that is explained.

    Attributes:
        name: Of it.
        met: States of it.
        true: The policy of its end.
        restored: The run at its end.
        number: Of the task.
    """

    name: str
    met: Met
    true: View
    restored: Any
    number: int


def _explained(
    cell: RunFolder, plan: ExplainPlan, ends: dict[int, int], known: set[tuple[int, str]]
) -> Iterator[Explained | None]:
    """Yield the explanation of each stage in each task; None for those on file."""
    names = [task.name for task in cell.scenario.tasks]
    agents: dict[int, Any] = {}

    def restored(stage: int) -> Any:
        if stage not in agents:
            agents[stage] = kind_of(cell.scenario).restore(cell, stage)
        return agents[stage]

    for task, end in ends.items():
        stages = _stages(cell, end)
        left = [stage for stage in stages if (stage, names[task]) not in known]
        yield from (None for stage in stages if stage not in left)
        if not left:
            continue
        met = meet(cell, restored(end), task, plan.states)
        true = View(restored(end).agent, task, met.seen)
        asked = _Task(names[task], met, true, restored(end), task)
        for stage in left:
            yield _one(View(restored(stage).agent, task, met.seen), asked, stage)


def _one(view: View, task: _Task, stage: int) -> Explained:
    """Return the explanation of one stage in one task."""
    seen = task.met.seen
    base = seen.values.mean(dim=0)
    spec = view.agent.output().spec
    shares = view.of(lambda output: attributions(output, spec, seen.values, base))
    shares = shares[:, : seen.own]  # padding and the task id are no part of the task
    removed = max(1, seen.own // (PIXELS_REMOVED if seen.is_picture else ENTRIES_REMOVED))
    top, random = view.of(
        lambda output: deleted(
            lambda others: gap(spec, view.agent.policy, output(seen.values), others),
            output,
            seen.values,
            shares,
            removed,
        )
    )
    low, high = student((top - random).tolist())
    total = shares.sum(dim=1, keepdim=True)
    mean = (shares / torch.where(total > 0, total, 1.0)).mean(dim=0)
    departs, found, unseen = _departed(view, task)
    return Explained(
        stage=stage,
        task=task.name,
        shares=_flat(mean, seen),
        removed=removed,
        top=float(top.mean()),
        random=float(random.mean()),
        more=None if np.isnan(low) else [low, high],
        departs=departs,
        clusters=found,
        picture=list(seen.values.shape[2:]) if seen.is_picture else None,
        mean=_drawn(base) if seen.is_picture else None,
        unseen=unseen,
    )


def _flat(mean: Tensor, seen: Seen) -> list[float]:
    """Return shares as a record has them: of entries, or of the cells of a map, row by row."""
    if not seen.is_picture:
        return [float(share) for share in mean]
    whole = mean.reshape(seen.values.shape[2:]).double().cpu().numpy()
    return [float(share) for share in frames.shrunk(whole).ravel()]


def _drawn(picture: Tensor) -> str:
    """Return a picture, (channels, height, width) from 0 to 255, as a record has it."""
    return frames.frame_of(frames.shown(picture.round().byte().cpu().numpy()))


def _departed(view: View, task: _Task) -> tuple[float, list[Cluster], str]:
    """Return in which share of states a policy departs, those by kind, and why frames lack."""
    met = task.met
    seen = met.seen
    found = departures(view, task.true, seen)
    # How alike pictures are, pixels do not tell: what that policy makes of them does.
    rows = task.true.features() if seen.is_picture else _own(seen)
    scaled = standardised(rows)
    kinds, unseen = [], ""
    for group in clusters(scaled, found.departed):
        frame = None
        if not unseen:
            frame, unseen = _frame(task, middle(scaled, group))
        kinds.append(
            Cluster(
                states=len(group),
                divergence=float(found.divergence[group].mean()),
                step=float(met.steps[group].mean()),
                rest=float(met.rest[group].mean()),
                centre=[] if seen.is_picture else scaled[group].mean(axis=0).tolist(),
                frame=frame,
            )
        )
    return len(found.departed) / len(found.divergence), kinds, unseen


def _own(seen: Seen) -> Array:
    return np.asarray(seen.values[:, : seen.own].double().cpu())


def _frame(task: _Task, place: int) -> tuple[str | None, str]:
    """Return the frame of a state, or None and why it lacks; nothing where none can be had."""
    seen = task.met.seen
    if seen.is_picture:
        return _drawn(seen.values[place]), ""
    if not task.met.is_drawn:
        return None, ""
    try:
        picture = rendered(task.restored, task.number, task.met, place)
    except Unseen as error:
        return None, str(error)
    return frames.frame_of(picture), ""
