"""Cells that go on past the end that their stream had: with more tasks, or more visits to old ones.

What was learned stays as it was, and so does what it was learned from: the longer stream begins as
the shorter one did, and nothing that a learner knew depended on how long it was.
"""

from __future__ import annotations

from contextlib import suppress

from holdfast.continual.run_folder.files import write_whole
from holdfast.continual.run_folder.record import SCENARIO, RunFolder
from holdfast.errors import InUse
from holdfast.scenarios.schema.scenario import Scenario


def is_longer(new: Scenario, old: Scenario) -> bool:
    """Return whether a cell's scenario is another one with more stages at its end, and no more.

    Args:
        new: As the user's file gives it.
        old: As the run folder has it.
    """
    tasks, stages = len(old.tasks), len(old.stream_tasks)
    if (
        new.tasks[:tasks] != old.tasks
        or len(new.stream_tasks) <= stages
        or new.stream_tasks[:stages] != old.stream_tasks
        or new.stage_steps[:stages] != old.stage_steps
    ):
        return False
    length = {name: getattr(old.stream, name) for name in ("order", "repeat", "steps", "max_tasks")}
    stream = new.stream.model_copy(update=length)
    return new.model_copy(update={"tasks": old.tasks, "stream": stream}) == old


def obstacle(new: Scenario, old: Scenario) -> str:
    """Return why a cell cannot go on in a longer stream, and what to do; empty where it can.

    Args:
        new: As the user's file gives it; ``is_longer`` than the other.
        old: As the run folder has it.
    """
    if old.closed:
        return old.closed
    if old.id_width != new.id_width:
        return (
            f"its task id is {old.id_width} wide, and would have to be {new.id_width}; to add "
            f"tasks later, begin with stream: {{max_tasks: {new.id_width}}}, or more"
        )
    if new.tasks != old.tasks and "pad" in (old.spaces.observation, old.spaces.action):
        return "spaces were padded to the largest of its tasks; begin with all tasks"
    return ""


def advice(new: Scenario, old: Scenario) -> str:
    """Return how a task goes on that has ended, where a longer one was asked for; else nothing."""
    last = old.stream_tasks[-1]
    if len(new.tasks) <= last or new.tasks[last].steps <= old.tasks[last].steps:
        return ""
    name = old.tasks[last].name
    order = [old.tasks[index].name for index in old.stream_tasks]
    return (
        f"a task keeps the steps that it began with; to go on with '{name}', let it come again: "
        f"stream: {{order: [{', '.join([*order, name])}]}}\n"
    )


def extend(folder: RunFolder, old: Scenario) -> int:
    """Let a cell go on in the longer stream of its scenario; ``run.json`` keeps where that began.

    A cell that another process runs is left to it.

    Args:
        folder: With the scenario as the user's file gives it.
        old: As ``scenario.yaml`` has it.

    Returns:
        How many stages came to it.
    """
    before, stages = len(old.stream_tasks), folder.scenario.stream_tasks
    if len(stages) == before:
        return 0
    with suppress(InUse), folder.lock():
        info = folder.info()
        names = [folder.scenario.tasks[index].name for index in stages[before:]]
        known = [one for one in info.get("extended", ()) if one["stage"] < before]
        is_ended = info.get("status") == "finished"
        status = {"status": "stopped", "reason": "its stream became longer"} if is_ended else {}
        folder.update(extended=[*known, {"stage": before, "tasks": names}], **status)
        write_whole(folder.path / SCENARIO, folder.scenario.to_yaml().encode())
        return len(names)
    return 0
