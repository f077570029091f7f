"""A stream that one model learns from the first step to the last, as where boundaries are hidden.

The loop still learns stage by stage, because it measures and saves between them. A rollout, or a
round of off-policy steps, that spans a boundary is collected in pieces, and comes out as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from stable_baselines3.common.noise import VectorizedActionNoise
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from holdfast import seeding
from holdfast.agents.base.agent import Boundary, Files, Log, TaskStart, Watch
from holdfast.agents.base.parameters import Named
from holdfast.agents.base.pauses import Again, Inside, Pauses, Turn, as_file, flattened, of_file
from holdfast.agents.sb3.budget import Updated, Watching, set_length, stream_logger
from holdfast.agents.sb3.inside_task import (
    BEGIN_AGAIN,
    INSIDE,
    RANDOM,
    Learner,
    fitting,
    put_back,
    taken,
)
from holdfast.agents.sb3.replay_rows import ReplayRows
from holdfast.scenarios.schema.scenario import Scenario


class Living(Learner, Protocol):
    """A learner, as the whole stream needs it."""

    is_interleaved: bool

    def opened(self, stack: ExitStack) -> None:
        """Open the doors until the stack is closed."""

    def record_rollout(self) -> None:
        """Keep the rollout that was collected, where a method asked for that."""

    def is_endless(self) -> bool:
        """Return whether no episode has ended and nothing says that one will."""

    def inside(self, number: int) -> Inside:
        """Return all that it is inside its stage."""

    def put_back(self, inside: Inside) -> None:
        """Put back what was kept inside a stage."""

    def build_again(self, again: Again) -> None:
        """Close the environments and go on in new ones."""

    def worlds(self) -> list[Any]:
        """Return what the environments go on with when they are built again."""

    def go_on_in(self, env: Any) -> None:
        """Go on in these environments."""

    def close(self) -> None:
        """Close the environments."""

    def reset_if_due(self) -> None:
        """Let the networks begin again, where it is time."""


class WholeStream:
    """The learning of a stream that nothing interrupts.

    Args:
        learner: Its model was built for the first task, and stays.
        scenario: Of the stream.
    """

    def __init__(self, learner: Living, scenario: Scenario) -> None:
        self._learner, self._steps = learner, scenario.total_steps
        self._is_endless, self._keeps_worlds = scenario.endless, scenario.keeps_worlds
        self._opened = ExitStack()
        self._callback: Watching | None = None
        self._started: Any = None
        self._watch: Watch = lambda _: None
        self._collected = 0  # steps of each environment in the rollout or round under way
        self._is_whole, self._noise = True, None
        self._iterations, self._first = 0, 0

    def learn(
        self,
        experience: TaskStart,
        watch: Watch,
        log: Log,
        pauses: Pauses | None,
        turn: Turn | None,
        boundary: Boundary | None = None,
    ) -> None:
        """Learn up to the end of a stage.

        Args:
            experience: The stage.
            watch: Called after every environment step with the steps of the stage.
            log: Takes scalars.
            pauses: What was kept, where the stream goes on from a checkpoint.
            turn: Says when checkpoints are taken inside the stage; None where there are none.
            boundary: Tells methods of a boundary that the detector found.
        """
        model = self._learner.model
        self._watch, self._first = watch, experience.first_step
        begun = 0
        if self._started is None:
            self._begin(log)
            if pauses is not None and pauses.resumed is not None:
                begun = self._resume(experience, pauses, turn)
        if turn is not None:
            turn.begin(begun)
        end = experience.first_step + experience.steps

        def updated(step: int) -> None:
            self._learner.plan.updated(step)
            self._learner.reset_if_due()
            if boundary is not None and step < self._steps:
                self._detect(step, boundary)
            if turn is not None and step < end:
                assert self._callback is not None
                at_start = self._callback.at_start(model.env)
                is_endless = self._learner.is_endless()
                turn.look(step - self._first, at_start=at_start, is_endless=is_endless)

        learn = self._on_policy if isinstance(model, OnPolicyAlgorithm) else self._off_policy
        learn(end, updated)
        if end == self._steps:
            self._started.on_training_end()
            self._opened.close()
            self._learner.close()

    def _detect(self, step: int, boundary: Boundary) -> None:
        """Let methods end their slot and begin the next, if a detection is to take effect."""
        learner, model = self._learner, self._learner.model
        detector = learner.detector
        if not math.isnan(detector.statistic):
            model.logger.record("detector/statistic", detector.statistic)
        at_once = isinstance(model, OnPolicyAlgorithm) or self._is_endless
        if not detector.is_due(on_policy=at_once):
            return
        steps = step - detector.slot_step
        self._opened.close()
        detector.begin_slot()
        learner.recent.end_slot(step, detector.changed)
        boundary(steps)
        learner.recent.begin_slot(step)
        learner.opened(self._opened)

    def _begin(self, log: Log) -> None:
        model = self._learner.model
        model.set_logger(stream_logger(log, 0))
        keeps = isinstance(model, OnPolicyAlgorithm) and self._learner.recent.wanted
        self._callback = Watching(self._look, self._rollout_ended if keeps else None)
        self._learner.opened(self._opened)
        called = self._callback.beside(self._learner.callbacks)
        self._started = model._setup_learn(self._steps, called, True, "task", False)[1]
        self._started.on_training_start({}, {})

    def _look(self, step: int) -> None:
        self._watch(step - self._first)

    def _rollout_ended(self) -> None:
        if self._is_whole:
            self._learner.record_rollout()

    # -- steps and updates -------------------------------------------------------------------------

    def _on_policy(self, end: int, updated: Updated) -> None:
        model = self._learner.model
        buffer = model.rollout_buffer
        while model.num_timesteps < end:
            length, more = self._piece(model.n_steps, end)
            if not self._collected:
                set_length(buffer, length)
            with _going_on(buffer, is_begun=self._collected > 0):
                model.collect_rollouts(model.env, self._started, buffer, n_rollout_steps=more)
            if not self._is_whole:
                self._collected += more
                return
            self._collected = 0
            self._iterations += 1
            model._update_current_progress_remaining(model.num_timesteps, self._steps)
            model.dump_logs(self._iterations)
            model.train()
            updated(model.num_timesteps)

    def _off_policy(self, end: int, updated: Updated) -> None:
        model = self._learner.model
        while model.num_timesteps < end:
            length, more = self._piece(model.train_freq.frequency, end)
            if not self._collected:
                self._noise = _noise(model)
            model.collect_rollouts(
                model.env,
                train_freq=TrainFreq(more, TrainFrequencyUnit.STEP),
                action_noise=self._noise or _noise(model),
                callback=self._started,
                learning_starts=model.learning_starts,
                replay_buffer=model.replay_buffer,
                log_interval=4,
            )
            if not self._is_whole:
                self._collected += more
                return
            self._collected = 0
            if model.num_timesteps > model.learning_starts:
                updates = model.gradient_steps
                updates = length * model.n_envs if updates < 0 else updates
                if updates > 0:
                    model.train(batch_size=model.batch_size, gradient_steps=updates)
            updated(model.num_timesteps)

    def _piece(self, most: int, end: int) -> tuple[int, int]:
        """Return the length of what is under way, and how much of it comes before a boundary."""
        model = self._learner.model
        begun = model.num_timesteps - self._collected * model.n_envs
        length = min(most, (self._steps - begun) // model.n_envs)
        more = min(length - self._collected, (end - model.num_timesteps) // model.n_envs)
        self._is_whole = self._collected + more == length
        return length, more

    # -- checkpoints -------------------------------------------------------------------------------

    def files(self) -> Files:
        """Return all that the learner is at a boundary, as a checkpoint holds it."""
        inside = taken(self._learner, 0, ReplayRows(), None, cuts=not self._keeps_worlds)
        inside.files["episodes"]["episodes"][:, 2] = 0.0  # seconds, which no two runs share
        return flattened(self._with_steps(inside))

    def inside(self, number: int) -> Inside:
        """Return all that the learner is inside a stage whose worlds go on.

        Args:
            number: Of the pause in this stage, from 1.
        """
        return self._with_steps(self._learner.inside(number))

    def _with_steps(self, inside: Inside) -> Inside:
        """Return what a learner is, with what it goes on with in the middle of an episode."""
        model = self._learner.model
        inside.files["last"] = _last(model)
        if self._collected and isinstance(model, OnPolicyAlgorithm):
            inside.files["rollout"] = _arrays(model.rollout_buffer)
        inside.files[RANDOM] = seeding.random_states()
        inside.values["collected"] = self._collected
        if model.num_timesteps < self._steps:
            if self._learner.is_interleaved:
                inside.values["turns"] = self._learner.worlds()
            if self._is_endless:
                inside.files[_WORLDS] = as_file(self._learner.worlds())
        return inside

    def _resume(self, experience: TaskStart, pauses: Pauses, turn: Turn | None) -> int:
        """Put back what was kept, and return at which step of the stage that was."""
        inside = pauses.resumed
        assert inside is not None
        if "again" in inside.values:  # inside the stage
            assert turn is not None
            turn.stop.resume()
            return int(self._learner.model.num_timesteps) - self._first
        with fitting("the checkpoint at a hidden boundary", "start the cell again (--overwrite)"):
            pauses.put_back()
            put_back(self._learner, inside, ReplayRows(), None)
            self._go_on(experience, inside)
        return 0

    def put_back(self, experience: TaskStart, inside: Inside, begun: int) -> None:
        """Put back what ``inside`` gave.

        Args:
            experience: The stage.
            inside: What was kept.
            begun: Steps of this stage that were taken.
        """
        self._learner.put_back(inside)
        self._go_on(experience, inside, begun)

    def _go_on(self, experience: TaskStart, inside: Inside, begun: int = 0) -> None:
        """Go on where the environments were, with the rollout or round that was under way."""
        learner, model = self._learner, self._learner.model
        model.env.close()
        turns = inside.values.get("turns", ())
        if _WORLDS in inside.files:
            turns = of_file(inside.files[_WORLDS])
        env = experience.make_env(interleaved=learner.is_interleaved, turns=turns, begun=begun)
        learner.go_on_in(env)
        if learner.normalizer is not None:  # the first observation was counted before
            learner.normalizer.load_tensors(inside.files["normalization"])
        seeding.set_state_of(model.action_space.np_random, inside.files["space"]["actions"])
        _set_last(model, inside.files["last"])
        self._collected = int(inside.values["collected"])
        if "rollout" in inside.files:
            begun = model.num_timesteps - self._collected * model.n_envs
            length = min(model.n_steps, (self._steps - begun) // model.n_envs)
            set_length(model.rollout_buffer, length)
            model.rollout_buffer.reset()
            _set_arrays(model.rollout_buffer, inside.files["rollout"])
            model.rollout_buffer.pos = self._collected
        seeding.set_random_states(inside.files[RANDOM])


class Lasting:
    """Makes the learner of an endless stream pause: its worlds are saved, and do not begin again.

    Args:
        whole: The learning of the stream.
        experience: The stage.
        pauses: What keeps the pauses.
    """

    def __init__(self, whole: WholeStream, experience: TaskStart, pauses: Pauses) -> None:
        self._whole, self._experience, self._pauses = whole, experience, pauses
        self._number = 0

    def pause(self, step: int, *, is_last: bool) -> None:  # noqa: ARG002  # never at a stage's end
        """Keep all, worlds included."""
        self._number += 1
        inside = self._whole.inside(self._number)
        inside.values["again"] = {"number": self._number, "step": step}
        self._pauses.save(step, inside)

    def resume(self) -> None:
        """Put back what was kept."""
        inside = self._pauses.resumed
        assert inside is not None
        with fitting(INSIDE, BEGIN_AGAIN):
            told = inside.values["again"]
            self._number = int(told["number"])
            self._pauses.put_back()
            self._whole.put_back(self._experience, inside, int(told["step"]))


def _noise(model: Any) -> Any:
    """Return the noise of a round; one that is collected in pieces has the same in all of them."""
    noise = model.action_noise
    if noise is None or model.n_envs == 1 or isinstance(noise, VectorizedActionNoise):
        return noise
    return VectorizedActionNoise(noise, model.n_envs)


@contextmanager
def _going_on(buffer: Any, *, is_begun: bool) -> Iterator[None]:
    """Keep what a rollout buffer holds, where its rollout has begun before."""
    if is_begun:
        buffer.reset = lambda: None
    try:
        yield
    finally:
        vars(buffer).pop("reset", None)  # the instance's; the class's shows again


# -- what Stable-Baselines3 keeps between two steps ------------------------------------------------


_RETURNS = "returns"
"""Of a normaliser: discounted, of the episodes under way; of episodes that were cut they are 0."""

_WORLDS = "worlds"
"""File of what endless worlds go on with; their generators have numbers too large for others."""

_LAST = ("_last_obs", "_last_original_obs", "_last_episode_starts")


def _last(model: Any) -> Named:
    """Return the newest observations, and the states of recurrent networks, by name."""
    found: Named = {}
    for name in _LAST:
        value = getattr(model, name, None)
        entries = value if isinstance(value, dict) else {"": value}
        for key, rows in entries.items():
            if rows is not None:
                found[f"{name}/{key}"] = torch.as_tensor(np.array(rows))
    if model._vec_normalize_env is not None and model._vec_normalize_env.returns.any():
        found[_RETURNS] = torch.as_tensor(model._vec_normalize_env.returns.copy())
    for pair, states in enumerate(getattr(model, "_last_lstm_states", None) or ()):
        found |= {f"_last_lstm_states/{pair}/{n}": t.clone() for n, t in enumerate(states)}
    return found


def _set_last(model: Any, tensors: Named) -> None:
    """Put back what ``_last`` gave."""
    for name in _LAST:
        rows = {
            path.partition("/")[2]: tensor.numpy().copy()
            for path, tensor in tensors.items()
            if path.startswith(f"{name}/")
        }
        if rows:
            setattr(model, name, rows.get("", rows))
    if _RETURNS in tensors:
        model._vec_normalize_env.returns[:] = tensors[_RETURNS].numpy()
    states = getattr(model, "_last_lstm_states", None)
    if states is not None:
        kept = [
            tuple(tensors[f"_last_lstm_states/{pair}/{n}"].to(t.device) for n, t in enumerate(own))
            for pair, own in enumerate(states)
        ]
        model._last_lstm_states = type(states)(*kept)


def _arrays(buffer: Any) -> Named:
    """Return every array of a rollout buffer by name; those of a Dict by their keys too."""
    found: Named = {}
    for name, value in vars(buffer).items():
        entries = value if isinstance(value, dict) else {"": value}
        found |= {
            f"{name}/{key}": torch.as_tensor(rows.copy())
            for key, rows in entries.items()
            if isinstance(rows, np.ndarray)
        }
    return found


def _set_arrays(buffer: Any, tensors: Named) -> None:
    """Put back what ``_arrays`` gave."""
    for path, tensor in tensors.items():
        name, _, key = path.partition("/")
        into = getattr(buffer, name)
        if isinstance(into, dict):
            into[key][...] = tensor.numpy()
        else:
            setattr(buffer, name, tensor.numpy().copy())
