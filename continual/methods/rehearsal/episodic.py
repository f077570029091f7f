"""Rows of finished tasks, the gradient of the algorithm's own loss on them, and its use."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from holdfast.agents.doors.gradients import Named, split
from holdfast.agents.doors.memory import Arrays
from holdfast.agents.sb3.losses import loss_gradient
from holdfast.continual.method import Method
from holdfast.errors import Diverged

if TYPE_CHECKING:
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.task_stream import TaskExperience

_NOT_LEARNED_FROM = ("rewards", "episode_starts")
"""Of a rollout's rows: what advantages and returns were made of."""


class Draws(NamedTuple):
    """What a method draws from in one task.

    Attributes:
        rows: Chooses rows.
        noise: Draws the noise of actions, on the agent's device.
    """

    rows: np.random.Generator
    noise: torch.Generator


def draws(agent: StableBaselinesAgent, experience: TaskExperience, method: str) -> Draws:
    """Return the generators of a method for a task."""
    seed = int(experience.generator(method, "noise").integers(2**63))
    noise = torch.Generator(device=agent.device).manual_seed(seed)
    return Draws(experience.generator(method), noise)


class EpisodicMemory:
    """Rows of finished tasks, and the gradient of the algorithm's own loss on them.

    Off-policy, rows are transitions of the task's replay buffer, raw: what is normalised is
    normalised when it is used. On-policy they are the task's last rollout rows, with
    log-likelihoods, advantages and returns as the policy that collected them had them. A task that
    comes again is one more task.

    Args:
        samples: Rows kept per task.
        batch_size: Rows per gradient, drawn anew each time; all where there are no more than that.
    """

    def __init__(self, samples: int, batch_size: int) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self._rows: Arrays = {}
        self._ends: list[int] = []

    def __len__(self) -> int:
        """Return how many tasks are kept."""
        return len(self._ends)

    def store(self, agent: StableBaselinesAgent, rng: np.random.Generator) -> None:
        """Keep rows of the task that the agent has just finished."""
        new = agent.transitions(self.samples, rng)
        if "returns" in new:
            new = {name: rows for name, rows in new.items() if name not in _NOT_LEARNED_FROM}
        self._rows = {
            name: np.concatenate([self._rows.get(name, rows[:0]), rows])
            for name, rows in new.items()
        }
        self._ends.append(len(self._rows["actions"]))

    def gradient(self, agent: StableBaselinesAgent, parameters: Named, draws: Draws) -> Named:
        """Return the loss's gradient on one batch of rows of all kept tasks."""
        return self._gradient(agent, parameters, draws, 0, self._ends[-1])

    def gradients(
        self, agent: StableBaselinesAgent, parameters: Named, draws: Draws
    ) -> Iterator[Named]:
        """Yield the loss's gradient on one batch of each kept task, oldest task first."""
        for start, end in zip([0, *self._ends], self._ends, strict=False):
            yield self._gradient(agent, parameters, draws, start, end)

    def _gradient(
        self, agent: StableBaselinesAgent, parameters: Named, draws: Draws, start: int, end: int
    ) -> Named:
        chosen: slice | np.ndarray[tuple[int], np.dtype[np.int64]] = slice(start, end)
        if self.batch_size < end - start:
            chosen = draws.rows.integers(start, end, size=self.batch_size)
        batch = agent.batch({name: rows[chosen] for name, rows in self._rows.items()})
        return loss_gradient(agent.model, parameters, batch, draws.noise)

    def state(self) -> dict[str, Tensor]:
        """Return the rows of all tasks, and where each task's end."""
        if not self._ends:
            return {}
        rows = {f"rows/{name}": torch.as_tensor(rows) for name, rows in self._rows.items()}
        return rows | {"ends": torch.tensor(self._ends)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave."""
        self._ends = [int(end) for end in tensors.get("ends", ())]
        self._rows = {
            path.removeprefix("rows/"): tensor.numpy()
            for path, tensor in tensors.items()
            if path.startswith("rows/")
        }


class Labelled:
    """Observations of finished tasks, each with what the policy said or did there.

    Attributes:
        observations: By key, as the environment gave them, shape (rows, ...).
        labels: By name, on the agent's device, shape (rows, ...).
    """

    def __init__(self) -> None:
        self.observations: Arrays = {}
        self.labels: Named = {}

    def __len__(self) -> int:
        """Return how many observations are kept."""
        return len(next(iter(self.observations.values()), ()))

    def add(self, observations: Arrays, labels: Named) -> None:
        """Keep more of both, in the same order."""
        for key, values in observations.items():
            old = self.observations.get(key, values[:0])
            self.observations[key] = np.concatenate([old, values])
        for name, label in labels.items():
            self.labels[name] = torch.cat([self.labels.get(name, label[:0]), label])

    def draw(
        self, agent: StableBaselinesAgent, rng: np.random.Generator, size: int
    ) -> tuple[Any, Named]:
        """Return random observations, as the policy takes them, with their labels."""
        rows = rng.integers(len(self), size=size)
        seen = agent.policy_input({key: v[rows] for key, v in self.observations.items()})
        return seen, {name: label[rows] for name, label in self.labels.items()}

    def clear(self) -> None:
        """Drop everything."""
        self.observations, self.labels = {}, {}

    def state(self) -> dict[str, Tensor]:
        """Return the observations and labels."""
        return {
            f"observations/{key}": torch.as_tensor(values)
            for key, values in self.observations.items()
        } | {f"label/{name}": label for name, label in self.labels.items()}

    def load(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Take back what ``state`` gave."""
        for path, tensor in tensors.items():
            kind, _, name = path.partition("/")
            if kind == "observations":
                self.observations[name] = tensor.numpy()
            else:
                self.labels[name] = tensor.to(device)


class Projecting(Method):
    """What the methods share that project a gradient against those on stored rows.

    Args:
        samples: Rows kept per task.
        batch_size: Rows per gradient.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("boundaries",)
    doors: ClassVar[tuple[str, ...]] = ("gradients", "memory")
    # Those whose loss is a function of stored rows, in ``agents/sb3/losses.py``.
    algorithms: ClassVar[tuple[str, ...]] = (
        "ppo",
        "a2c",
        "maskable_ppo",
        "dqn",
        "qrdqn",
        "sac",
        "td3",
        "ddpg",
        "tqc",
        "mappo",
        "vdn",
        "qmix",
    )
    claims: ClassVar[tuple[str, ...]] = ("projection",)
    limits: ClassVar[dict[str, tuple[float, float | None]]] = {
        "samples": (1, None),
        "batch_size": (1, None),
    }
    logs: ClassVar[dict[str, str]] = {"projected": "share of the gradients that was projected"}
    memory: ClassVar[str] = "10,000 transitions or rollout rows per task (`samples`)"
    extra: ClassVar[str] = "one more gradient per update and finished task"

    def __init__(self, *, samples: int = 10_000, batch_size: int = 128) -> None:
        self.samples = samples
        self.stored = EpisodicMemory(samples, batch_size)

    @abstractmethod
    def project(
        self, agent: StableBaselinesAgent, parameters: Named, gradients: Named, drawn: Draws
    ) -> Iterator[tuple[Named, Tensor | None]]:
        """Yield parts of the gradients with what replaces each, as one vector; None keeps it.

        Args:
            agent: The learner.
            parameters: Those that this optimizer moves, by name.
            gradients: Theirs, after clipping.
            drawn: What rows and noise are drawn from.
        """

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Project the gradients of the coming task, once there is something to protect."""
        agent.memory.keep_rollouts(self.samples)
        if not len(self.stored):
            return
        drawn = draws(agent, experience, self.name)
        tried = replaced = 0

        def edit(parameters: Named, gradients: Named) -> Named:
            nonlocal tried, replaced
            own = {name: parameters[name] for name in gradients}
            changed: Named = {}
            for part, projected in self.project(agent, own, gradients, drawn):
                tried += 1
                if projected is not None:
                    replaced += 1
                    changed |= split(projected, part)
            agent.log(f"method/{self.name}/projected", replaced / tried)
            return changed

        agent.gradients.project(edit)

    def post_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Keep rows of the finished task."""
        self.stored.store(agent, experience.generator(self.name, "store"))

    def state(self) -> dict[str, Tensor]:
        """Return the stored rows."""
        return self.stored.state()

    def load_state(self, agent: StableBaselinesAgent, tensors: dict[str, Tensor]) -> None:
        """Take the stored rows back."""
        self.stored.load(tensors)


def check_finite(value: float | Tensor, method: str) -> None:
    """Stop where a gradient on stored rows has overflowed.

    Raises:
        Diverged: If the value, made of such a gradient, is not finite.
    """
    if not torch.as_tensor(value).isfinite().all():
        raise Diverged(
            f"method {method}: the gradient on stored rows of finished tasks is not finite; the "
            "last task boundary is kept. On-policy, the policy is too far from the one that "
            "collected them: lower agent.learning_rate"
        )
