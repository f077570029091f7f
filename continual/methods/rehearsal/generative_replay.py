"""Rehearsal of observations that a generative model draws, without stored data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor

from holdfast.agents.base.buffers import Arrays
from holdfast.agents.base.parameters import Named, below, flat
from holdfast.agents.doors.gradients import Tensors
from holdfast.agents.doors.outputs import ACTING, Output, Reader
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.imitation import Imitation, OldPolicy
from holdfast.continual.methods.rehearsal.generator import Generator, new_generator, seeded
from holdfast.errors import UsageError
from holdfast.scenarios.schema.observation_keys import TASK_ID

_LEARNING_RATE = 1e-3


@dataclass(kw_only=True, eq=False)
class GenerativeReplay(Method):
    """Stays near the old policy on observations that a generative model of old tasks draws.

    At a task's end a variational autoencoder is trained on the task's observations and on its own
    draws of the tasks before, in proportion to the number of tasks; then the observations are
    forgotten. In later tasks the loss added for the actor (and its encoder) is::

        strength * mean over drawn observations of KL(old policy's output || current output)

    where the old policy is that of the last task's end, whose answers are what is to be kept of all
    tasks. With a task id, each row is drawn for a finished task. Sources: Shin et al. 2017,
    Continual Learning with Deep Generative Replay (arXiv:1705.08690); Atkinson et al. 2018, RePR
    (arXiv:1812.02464), which rehearses action values so; both use adversarial networks.

    Args:
        strength: Factor of the loss.
        batch_size: Rows per update; 128 as for ``cloning``.
        draws: Observations drawn and labelled at the start of a task, which its batches come from.
        samples: Observations of a task that the generative model learns from; they are not kept.
        updates: Steps of Adam that it learns for, after each task.
        latent: Entries of its hidden code.
        hidden: Width of its layers.
        clip_norm: Largest norm of the added gradient; None leaves it as it is.
        temperature: For action values: compare softmax(values / temperature); None compares the
            values.
    """

    needs = ("boundaries",)
    doors = ("gradients", "lifecycle", "output", "memory")
    acts_by = ()
    # Not VDN and QMIX: which agents act and what they may do are no vectors to be drawn.
    algorithms = (
        "ppo",
        "a2c",
        "dqn",
        "sac",
        "td3",
        "ddpg",
        "tqc",
        "qrdqn",
        "crossq",
        "maskable_ppo",
        "mappo",
    )
    work = "updates"
    memory = "one generative model and one copy of the actor, however many tasks"
    extra = "2,000 updates of the generative model after each task (`updates`)"
    convention = "strength x mean KL(old || current) over a batch of drawn observations; actor only"

    strength: Annotated[float, (0, None)] = 1.0
    batch_size: Annotated[int, (1, None)] = 128
    draws: Annotated[int, (1, None)] = 10_000
    samples: Annotated[int, (1, None)] = 10_000
    updates: Annotated[int, (0, None)] = 2000
    latent: Annotated[int, (1, None)] = 16
    hidden: Annotated[int, (1, None)] = 128
    clip_norm: Annotated[float | None, (0, None)] = None
    temperature: Annotated[float | None, (1e-6, None)] = None
    old: OldPolicy = field(init=False, default_factory=OldPolicy)
    _generator: Generator | None = field(init=False, default=None)
    _dreamt: tuple[Arrays, Output] | None = field(init=False, default=None)  # in this task

    def __post_init__(self) -> None:
        self._sizes = {"latent": self.latent, "hidden": self.hidden}
        self._imitation = Imitation(self.strength, self.temperature, self.clip_norm)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Add the rehearsal gradient for the coming task, once there is something to rehearse."""
        doors.memory.keep_rollouts(self.samples)
        self._dreamt = None
        doors.lifecycle.after_steps(0, "check")  # the spaces are known once the model is built
        if self._generator is None:
            return
        rng = experience.generator("generative-replay")
        tasks = _finished(doors, experience)

        def draw(_: Named) -> Tensors:
            observations, said = self._dreamt = self._dreamt or self.dream(doors, tasks, rng)
            rows = rng.integers(self.draws, size=self.batch_size)
            kept = {key: values[rows] for key, values in observations.items()}
            labels = {key: values[rows] for key, values in said.items()}
            return {"seen": doors.memory.policy_input(kept), "labels": labels}

        term = partial(self.gradient, doors.output.actor)
        doors.gradients.add(term, batch=draw, groups=ACTING)

    def gradient(self, output: Reader, parameters: Named, _state: Tensors, batch: Tensors) -> Named:
        """Return the gradient of the loss on drawn observations."""
        return self._imitation.gradient(output, parameters, batch["seen"], batch["labels"])

    def due(self, doors: Doors, name: str) -> None:
        """Refuse observations that no generative model here can draw."""
        check_space(doors.facts.observation_space)

    def dream(
        self, doors: Doors, tasks: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Arrays, Output]:
        """Return observations of finished tasks and what the old policy says about them."""
        assert self._generator is not None
        facts = doors.facts
        ids = _one_hots(tasks[rng.integers(len(tasks), size=self.draws)], facts.id_width)
        rows = self._generator.draw(ids.to(facts.device), seeded(rng, facts.device))
        arrays = unflattened(rows.cpu().numpy(), ids.numpy(), facts.observation_space)
        return arrays, self.old.output(doors, doors.memory.policy_input(arrays))

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Teach the generative model the finished task, and keep the policy as it is now."""
        rng = experience.generator("generative-replay", "learn")
        facts = doors.facts
        space, width, device = facts.observation_space, facts.id_width, facts.device
        check_space(space)
        flat = flattened(doors.memory.observations(self.samples, rng), space, width)
        rows = torch.as_tensor(flat, device=device)
        current = np.full(len(rows), facts.current_task if width else 0)
        ids = _one_hots(current, width).to(device)
        if self._generator is not None:
            tasks = _finished(doors, experience)
            again = tasks[rng.integers(len(tasks), size=len(rows) * experience.stage)]
            old_ids = _one_hots(again, width).to(device)
            old = self._generator.draw(old_ids, seeded(rng, device))
            rows, ids = torch.cat([rows, old]), torch.cat([ids, old_ids])
        self.teach(rows, ids, rng)
        self.old.keep(doors)
        self._dreamt = None

    def teach(self, rows: Tensor, ids: Tensor, rng: np.random.Generator) -> None:
        """Train the generative model on observations and the one-hot ids of their tasks."""
        if self._generator is None:
            features, width = rows.shape[1], ids.shape[1]
            self._generator = new_generator(features, width, rng, **self._sizes)
            self._generator.to(rows.device)
        self._generator.standardise(rows)
        noise = seeded(rng, rows.device)
        optimizer = torch.optim.Adam(self._generator.parameters(), lr=_LEARNING_RATE)
        for _ in range(self.updates):
            chosen = torch.as_tensor(rng.integers(len(rows), size=self.batch_size))
            optimizer.zero_grad()
            self._generator.loss(rows[chosen], ids[chosen], noise).backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Return the generative model, the old policy and the statistics of its observations.

        Inside a task also what was drawn for it.
        """
        generator = {} if self._generator is None else self._generator.state_dict()
        seen, said = self._dreamt or ({}, {})
        dreamt = {"dreamt": {"seen": seen, "said": said}}
        return flat({"generator": generator} | dreamt) | self.old.state()

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take them back."""
        self.old.load(tensors, doors.facts.device)
        if learned := below(tensors, "generator"):
            features, width = len(learned["mean"]), doors.facts.id_width
            self._generator = Generator(features, width, **self._sizes).to(doors.facts.device)
            self._generator.load_state_dict(learned)
        if said := below(tensors, "dreamt/said", doors.facts.device):
            seen = {key: rows.numpy() for key, rows in below(tensors, "dreamt/seen").items()}
            self._dreamt = seen, said


def check_space(space: gym.Space[Any]) -> None:
    """Raise where observations are not numbers in vectors.

    Raises:
        UsageError: If there are images or codes.
    """
    for entry in _entries(space).values():
        if not isinstance(entry, gym.spaces.Box) or is_image_space(entry):
            raise UsageError(
                "method generative-replay: its generative model is for vectors of numbers, and "
                f"these observations hold {entry}; use 'cloning', which stores observations"
            )


def _entries(space: gym.Space[Any]) -> dict[str, gym.Space[Any]]:
    """Return the parts of an observation by key ("" for one that is no Dict), without the id."""
    if isinstance(space, gym.spaces.Dict):
        return {key: entry for key, entry in space.spaces.items() if key != TASK_ID}
    return {"": space}


def flattened(observations: Arrays, space: gym.Space[Any], width: int) -> NDArray[np.float32]:
    """Return observations as rows of numbers without the task id, shape (batch, features)."""
    parts = [observations[key].reshape(len(observations[key]), -1) for key in _entries(space)]
    flat = np.concatenate(parts, -1, dtype=np.float32)
    in_vector = width and not isinstance(space, gym.spaces.Dict)
    return flat[:, :-width] if in_vector else flat


def unflattened(
    rows: NDArray[np.float32], ids: NDArray[np.float32], space: gym.Space[Any]
) -> Arrays:
    """Return observations from rows of numbers and one-hot task ids: undoes ``flattened``."""
    if not isinstance(space, gym.spaces.Dict):
        return {"": np.concatenate([rows, ids], -1)}
    arrays: Arrays = {TASK_ID: ids} if TASK_ID in space.spaces else {}
    start = 0
    for key, entry in _entries(space).items():
        shape = entry.shape or ()
        arrays[key] = rows[:, start : start + math.prod(shape)].reshape(-1, *shape)
        start += math.prod(shape)
    return arrays


def _finished(doors: Doors, experience: Experience) -> NDArray[np.int64]:
    """Return the tasks before this one, each once; where the id is hidden, one for all."""
    if not doors.facts.id_width:
        return np.zeros(1, np.int64)
    return np.array(list(dict.fromkeys(experience.earlier_tasks)))


def _one_hots(tasks: NDArray[np.int64], width: int) -> Tensor:
    """Return the ids of tasks, shape (batch, width); of width 0 where the id is hidden."""
    return torch.eye(width)[tasks] if width else torch.zeros(len(tasks), 0)
