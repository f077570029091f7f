"""A detector of task changes: one test of one signal, slot by slot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from holdfast import seeding
from holdfast.agents.base.parameters import Named, below, flat
from holdfast.agents.detection.change_tests import (
    Adwin,
    ChangeTest,
    KolmogorovSmirnov,
    PageHinkley,
)
from holdfast.agents.detection.recurrence import Recurrence
from holdfast.agents.detection.signals import Lived, Prediction, Returns, Rewards, Signal
from holdfast.agents.detection.state import read, written
from holdfast.scenarios.schema.detector import Detector as Options

LONGEST_WAIT = 1000
"""Steps of each environment after which a detection takes effect though no episode has ended."""


class Detection(NamedTuple):
    """A change that was found.

    Attributes:
        step: Of the stream, at which the test told of it.
        begun: Step at which methods were told, and the next slot began; -1 where none has.
        statistic: Of the test.
        slot: Number of the slot that began, where slots may come again; else, or where none has
            begun, -1.
    """

    step: int
    begun: int
    statistic: float
    slot: int = -1


class Detector:
    """Finds where tasks change, by what the learner lives through.

    What lies between two detections is a slot. A test that has told of a change rests until it
    takes effect (``begin_slot``), and for the cool-down of the slot after; then it begins with
    nothing seen. After ``most`` detections it rests for good. With ``recurring``, an earlier slot
    may be taken up again; see ``Recurrence``.

    Args:
        options: The section ``detector:``.
        observations: Space of observations.
        actions: Space of actions.
        n_envs: Environments side by side.
        seed: The cell's.

    Attributes:
        slot: Number of the slot, from 0; that of an earlier one where it is taken up again.
        slot_step: Step of the stream at which it began.
        detections: So far, in order; the last may not have taken effect yet.
        changed: Step of the stream at which the world changed, as far as the last detection tells.
    """

    def __init__(
        self,
        options: Options,
        observations: gym.Space[Any],
        actions: gym.Space[Any],
        n_envs: int,
        seed: int,
    ) -> None:
        self._options, self._n_envs = options, n_envs
        rng = seeding.generator(seed, "detector")
        signals: Mapping[str, Any] = {
            "dynamics": lambda: Prediction(observations, actions, rng),
            "reward": Rewards,
            "return": Returns,
        }
        self._signal: Signal = signals[options.signal]()
        self._test = _test_of(options)
        self._recurrence: Recurrence | None = None
        if options.recurring:
            assert isinstance(self._signal, Prediction)  # as for the test, ``Options`` sees to it
            assert options.page_hinkley is not None
            self._recurrence = Recurrence(self._signal, options.page_hinkley)
        self.slot, self.slot_step, self._step, self._has_ended = 0, 0, 0, False
        self.changed = 0
        self.detections: list[Detection] = []

    @property
    def statistic(self) -> float:
        """What the test compares with its bound; NaN where it rests, or has seen too little."""
        return math.nan if self.is_waiting else self._test.statistic

    @property
    def is_waiting(self) -> bool:
        """Whether a detection has not taken effect yet."""
        return bool(self.detections) and self.detections[-1].begun < 0

    @property
    def is_exhausted(self) -> bool:
        """Whether as many changes were found as may be."""
        return len(self.detections) >= self._options.most

    def look(self, lived: Lived) -> None:
        """Take what was lived through in one step of all environments."""
        self._step += self._n_envs
        if self.is_waiting:
            self._has_ended = self._has_ended or bool(lived.ends.any())
            if self._recurrence is not None:
                self._recurrence.follow(lived)
            return
        if self.is_exhausted:
            return
        is_tested = self._step - self.slot_step > self._options.cooldown
        if is_tested and self._recurrence is not None:
            assert isinstance(self._test, PageHinkley)
            self._recurrence.watch(lived, self._test)
        numbers = self._signal.numbers(lived)
        if not is_tested:
            return
        if any(self._test.update(number) for number in numbers):
            self.detections.append(Detection(self._step, -1, self._test.statistic))
            self._has_ended = bool(lived.ends.any())
            # Returns come at the ends of episodes; how old a change is they tell in no steps.
            age = 0 if self._options.signal == "return" else self._test.age
            self.changed = max(self.slot_step, self._step - age)

    def is_due(self, *, on_policy: bool) -> bool:
        """Return whether a detection is to take effect now, between two rounds of learning.

        On-policy at once, as a rollout was just learned from; off-policy once an episode has ended,
        or after so many steps that none seems to end. Where slots may come again, not before enough
        was seen to choose one.
        """
        if not self.is_waiting:
            return False
        if self._recurrence is not None and not self._recurrence.is_ready:
            return False
        waited = self._step - self.detections[-1].step
        return on_policy or self._has_ended or waited >= LONGEST_WAIT * self._n_envs

    def begin_slot(self) -> None:
        """Let the last detection take effect: what was seen and learned is forgotten, or kept."""
        self.detections[-1] = self.detections[-1]._replace(begun=self._step)
        self.slot_step, self._has_ended = self._step, False
        self._test.forget()
        if self._recurrence is None:
            self.slot += 1
            self._signal.forget()
        else:
            self.slot = self._recurrence.next_slot(self.slot)
            self.detections[-1] = self.detections[-1]._replace(slot=self.slot)

    def state(self) -> Named:
        """Return all that must survive a restart, as named tensors."""
        own = written(vars(self), _OWN)
        width = 3 if self._recurrence is None else 4  # no slots where their numbers tell nothing
        rows = np.array(self.detections, dtype=np.float64).reshape(-1, 4)[:, :width]
        own["detections"] = written({"": rows}, [""])[""]
        parts = {"signal": self._signal.state(), "test": self._test.state()}
        if self._recurrence is not None:
            parts["recurrence"] = self._recurrence.state()
        return own | flat(parts)

    def load_state(self, tensors: Named) -> None:
        """Take back what ``state`` returned."""
        read(self, tensors, _OWN)
        rows = tensors["detections"].tolist()
        self.detections = [
            Detection(int(step), int(begun), statistic, *map(int, slot))
            for step, begun, statistic, *slot in rows
        ]
        self._signal.load_state(below(tensors, "signal"))
        self._test.load_state(below(tensors, "test"))
        if self._recurrence is not None:
            self._recurrence.load_state(below(tensors, "recurrence"))


_OWN = ("slot", "slot_step", "changed", "_step", "_has_ended")


def _test_of(options: Options) -> ChangeTest:
    if options.adwin is not None:
        return Adwin(options.adwin.delta)
    if (ks := options.kolmogorov_smirnov) is not None:
        return KolmogorovSmirnov(ks.alpha, ks.window, ks.recent)
    assert options.page_hinkley is not None
    direction = "up" if options.signal == "dynamics" else "down"
    return PageHinkley(options.page_hinkley.tolerance, options.page_hinkley.threshold, direction)


class Watched(VecEnvWrapper):
    """Training environments whose every step a detector looks at, before anything is normalised.

    Args:
        venv: The environments.
        detector: Looks.
    """

    def __init__(self, venv: VecEnv, detector: Detector) -> None:
        super().__init__(venv)
        self._detector = detector
        self._seen: Any = None
        self._actions: Any = None

    def reset(self) -> Any:
        """Begin an episode in each environment."""
        observations = self.venv.reset()
        self._seen = _copied(observations)
        return observations

    def step_async(self, actions: Any) -> None:
        """Begin a step."""
        self._actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        """Finish it, and let the detector look."""
        seen, rewards, ends, infos = self.venv.step_wait()
        following = _copied(seen)
        for place in np.flatnonzero(ends):
            last = infos[place]["terminal_observation"]
            for key, rows in following.items() if isinstance(following, dict) else ():
                rows[place] = last[key]
            if not isinstance(following, dict):
                following[place] = last
        ended = [infos[place].get("episode") for place in np.flatnonzero(ends)]
        returns = [float(episode["r"]) for episode in ended if episode is not None]
        self._detector.look(
            Lived(self._seen, self._actions, rewards, following, np.array(ends), returns)
        )
        self._seen = _copied(seen)
        return seen, rewards, ends, infos


def _copied(observations: Any) -> Any:
    """Return a copy that the environments do not write into."""
    if isinstance(observations, dict):
        return {key: np.array(rows) for key, rows in observations.items()}
    return np.array(observations)
