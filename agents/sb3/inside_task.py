"""What a learner is inside its task: taken at a pause, and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from holdfast import seeding
from holdfast.agents.base.agent import Files, Shown
from holdfast.agents.base.observations import TaskNormalize
from holdfast.agents.base.pauses import Again, Inside, Pauses, put_together, taken_apart
from holdfast.agents.doors.exploration import Explorer
from holdfast.agents.doors.gradients import Gradients
from holdfast.agents.doors.lifecycle import Plan
from holdfast.agents.doors.memory import Recent
from holdfast.agents.sb3 import model_state
from holdfast.agents.sb3.callbacks import Callbacks
from holdfast.agents.sb3.constraint import Counted
from holdfast.agents.sb3.past_selves import PastSelves
from holdfast.agents.sb3.replay_rows import ReplayRows
from holdfast.agents.sb3.resets import Resets
from holdfast.agents.sb3.weights_io import (
    load_optimizers,
    load_policy,
    optimizer_tensors,
    policy_tensors,
)
from holdfast.errors import CheckpointUnusable

_LIMIT = "_max_episode_steps"
"""Attribute of Gymnasium's wrapper ``TimeLimit``."""

RANDOM = "random"
"""File of the global generators' states."""


class Pausing(Protocol):
    """An agent that can pause: a learner, or the groups of a team together."""

    def inside(self, number: int) -> Inside:
        """Return all that it is inside its task."""

    def put_back(self, inside: Inside) -> None:
        """Put back what ``inside`` gave, into a task that has just begun."""

    def worlds(self) -> list[Any]:
        """Return what the environments go on with when they are built again."""

    def build_again(self, again: Again) -> None:
        """Close the environments and go on in new ones."""


class Learner(Protocol):
    """The parts of a learner that are more than what it starts its task with."""

    model: Any
    plan: Plan
    recent: Recent
    gradients: Gradients
    normalizer: TaskNormalize | None
    past: PastSelves
    detector: Any
    counted: Counted | None
    resets: Resets | None
    shown: Shown | None
    callbacks: Callbacks | None

    @property
    def device(self) -> torch.device: ...  # noqa: D102  # of its tensors


class Alone:
    """Makes one agent pause.

    Args:
        agent: The agent.
        pauses: What keeps the pauses.
        steps: Environment steps of the task.
    """

    def __init__(self, agent: Pausing, pauses: Pauses, steps: int) -> None:
        self._agent, self._pauses, self._steps = agent, pauses, steps
        self._number = 0

    def pause(self, step: int, *, is_last: bool) -> None:
        """Keep all, then build the environments again, unless this is the task's last step."""
        self._number += 1
        inside = self._agent.inside(self._number)
        worlds = [] if is_last else self._agent.worlds()
        inside.files[RANDOM] = seeding.random_states()
        inside.values["again"] = {"number": self._number, "step": step, "worlds": worlds}
        self._pauses.save(step, inside)
        if not is_last:
            self._agent.build_again(Again(self._number, step, worlds))

    def resume(self) -> None:
        """Put back what was kept, and build the environments again."""
        inside = self._pauses.resumed
        assert inside is not None
        with fitting(INSIDE, BEGIN_AGAIN):
            told = inside.values["again"]
            again = Again(int(told["number"]), int(told["step"]), list(told["worlds"]))
            self._pauses.put_back()
            self._agent.put_back(inside)
            seeding.set_random_states(inside.files[RANDOM])
        self._number = again.number
        if again.step < self._steps:
            self._agent.build_again(again)


INSIDE = "the checkpoint inside the task"
BEGIN_AGAIN = "remove the folders checkpoints/task-*.at-* of the cell, and the task begins again"


@contextmanager
def fitting(what: str, remedy: str) -> Iterator[None]:
    """Tell that what was kept is not what this version keeps, and what to do."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointUnusable(
            f"{what} does not fit this version ({error!r}); {remedy}"
        ) from error


def taken(
    learner: Learner,
    number: int,
    rows: ReplayRows,
    explorer: Explorer | None,
    *,
    cuts: bool = True,
) -> Inside:
    """Return all that a learner is inside its task.

    Args:
        learner: The learner.
        number: Of the pause in this task.
        rows: Of its replay buffer, those that were written before.
        explorer: Explores in its place; None where it does so itself.
        cuts: Whether episodes that are under way are cut short.
    """
    model = learner.model
    if cuts:
        model_state.cut_episodes(model)
    if explorer is not None:
        explorer.cut()
    works: dict[str, Any] = {}
    files: Files = {
        "policy": policy_tensors(model),
        "optimizer": optimizer_tensors(model),
        "learning_rates": model_state.learning_rates(model),
        "counters": model_state.counters(model),
        "episodes": model_state.episodes(model),
        "space": {"actions": seeding.state_of(model.action_space.np_random)},
    }
    values: dict[str, Any] = {
        "works": taken_apart(learner.gradients.works.told(), works),
        "due": learner.plan.asked(),
        "recorded": learner.recent.recorded,
        "logged": model_state.logged(model),
        "next_self": learner.past.next_step,
        "exploration": None if explorer is None else explorer.told(),
    }
    if learner.shown is not None:
        values["demonstrations"] = learner.shown.digest
    files["works"], parts = works, learner.recent.parts()
    if learner.normalizer is not None:
        files["normalization"] = learner.normalizer.tensors()
    files["past_selves"] = learner.past.tensors()
    if learner.detector is not None:
        files["detector"] = learner.detector.state()
    if learner.counted is not None:
        files["costs"] = learner.counted.tensors()
    if learner.callbacks is not None:
        files["callbacks"] = learner.callbacks.tensors()
    if not isinstance(model, OnPolicyAlgorithm):
        steps = model.num_timesteps // model.n_envs
        stored, values["rows"] = rows.take(model.replay_buffer, number, steps)
        parts |= stored
        if own := model_state.own_arrays(model.replay_buffer):
            files["own_buffer"] = own
        files["waiting"] = model_state.stacked(getattr(model.replay_buffer, "pending", []))
    return Inside(files, parts, values)


def put_back(learner: Learner, inside: Inside, rows: ReplayRows, explorer: Explorer | None) -> None:
    """Put back what ``taken`` gave, into a task that has just begun."""
    model, files, values = learner.model, inside.files, inside.values
    if values.get("demonstrations") != (learner.shown and learner.shown.digest):
        raise CheckpointUnusable(
            "the task began with other demonstrations than the file that its demonstrations: names "
            f"now; put that file back, or {BEGIN_AGAIN}"
        )
    load_policy(model, files["policy"], is_fresh=lambda _: False)
    load_optimizers(model, files.get("optimizer", {}))
    model_state.set_learning_rates(model, files["learning_rates"])
    model_state.set_counters(model, files["counters"])
    if learner.resets is not None:
        learner.resets.count_again()
    model_state.set_episodes(model, files["episodes"])
    seeding.set_state_of(model.action_space.np_random, files["space"]["actions"])
    if learner.normalizer is not None:
        learner.normalizer.load_tensors(files["normalization"])
    learner.past.load_tensors(files.get("past_selves", {}))
    if learner.detector is not None:
        learner.detector.load_state(files["detector"])
        learner.recent.since = learner.detector.slot_step
    if learner.counted is not None:
        learner.counted.load_tensors(files["costs"])
    if learner.callbacks is not None and "callbacks" in files:
        learner.callbacks.load(files["callbacks"])
    learner.past.next_step = int(values["next_self"])
    learner.gradients.works.put_back(
        put_together(values["works"], files.get("works", {}), learner.device)
    )
    learner.plan.pending.clear()
    for steps, name, owner in values["due"]:
        learner.plan.ask(int(steps), str(name), str(owner))
    learner.recent.put_back(inside.parts, int(values["recorded"]))
    model_state.set_logged(model, values["logged"])
    if explorer is not None and values["exploration"] is not None:
        explorer.put_back(values["exploration"])
    if not isinstance(model, OnPolicyAlgorithm):
        steps = model.num_timesteps // model.n_envs
        rows.put_back(model.replay_buffer, values["rows"], inside.parts, steps)
        model_state.set_own_arrays(model.replay_buffer, files.get("own_buffer", {}))
        if waiting := model_state.unstacked(files.get("waiting", {})):
            model.replay_buffer.pending = waiting
    if learner.counted is not None:  # rows that were written down before the multiplier moved
        learner.counted.weigh_rows()


def has_limit(env: Any) -> bool:
    """Return whether something says that episodes end: a limit of steps."""
    inside = getattr(env, "envs", ())  # empty in processes and in a team
    return bool(inside) and all(one.has_wrapper_attr(_LIMIT) for one in inside)
