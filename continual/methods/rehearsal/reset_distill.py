"""Reset & Distill: an online learner that starts anew, and an offline actor that keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from holdfast.agents.base.buffers import Arrays, choose
from holdfast.agents.base.parameters import Named, gradient_of
from holdfast.agents.doors.outputs import Output, Reader, divergence
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.imitation import OldPolicy, descended
from holdfast.continual.methods.rehearsal.episodic import Labelled

_TASKS = "tasks"


@dataclass(kw_only=True, eq=False)
class ResetDistill(Method):
    """Learns each task with a new agent, and distils it into one actor for all: Reset & Distill.

    The online agent starts every task from nothing, as under ``isolated``, so that no earlier task
    can be in its way. At a task's end the offline actor is trained, without a step in the
    environment, for ``updates`` steps of Adam on::

        mean KL(online actor || offline actor) on observations of the finished task
        + strength * mean KL(offline actor || what it said) on stored observations

    and then ``samples`` observations of the task are stored with what the offline actor says there.
    The first task's actor becomes the offline one as it is. Source: Ahn et al. 2025, Prevalence of
    Negative Transfer in Continual Reinforcement Learning: Analyses and a Simple Baseline
    (arXiv:2403.05066), and the authors' code (github.com/hongjoon0805/Reset-Distill,
    garage/torch/algos/rnd.py), whose directions of KL these are. Batches of stored observations
    are drawn from all tasks alike.

    From a task's end on, its policy is the offline actor, and so is that of every earlier task: the
    score at that point is what survived the distillation. The critic is not distilled.

    Args:
        strength: Factor of what holds earlier tasks; 1 in the authors' code.
        samples: Observations stored of each task; 10,000 there.
        updates: Steps of the distillation. The authors take 5 epochs over up to a million
            observations, 39,000 steps.
        batch_size: Rows of each, of both kinds; 128 there for SAC, 512 for PPO.
        learning_rate: Of these steps; 3e-4 there, that of its SAC.
        observations: Of a finished task that it is distilled on, at most; they are not kept. A
            million there.
    """

    needs = ("boundaries",)
    doors = ("lifecycle", "output", "memory")
    # Not CrossQ: its running statistics are no parameters that could be distilled.
    algorithms = (
        "ppo",
        "a2c",
        "dqn",
        "sac",
        "td3",
        "ddpg",
        "tqc",
        "qrdqn",
        "maskable_ppo",
        "mappo",
        "vdn",
        "qmix",
    )
    claims = ("views",)
    acts_by = ("policy", "normalization", _TASKS)
    grows = "samples"
    work = "updates"
    memory = "a second actor, and 10,000 observations and policy outputs per task (`samples`)"
    extra = "5,000 updates of the offline actor after each task but the first (`updates`)"
    convention = (
        "mean KL(online || offline) on the finished task + strength x mean KL(offline || stored) "
        "on stored observations, after each task; actor only"
    )

    strength: Annotated[float, (0, None)] = 1.0
    samples: Annotated[int, (1, None)] = 10_000
    updates: Annotated[int, (0, None)] = 5000
    batch_size: Annotated[int, (1, None)] = 128
    learning_rate: Annotated[float, (0, None)] = 3e-4
    observations: Annotated[int, (1, None)] = 100_000
    offline: OldPolicy = field(init=False, default_factory=OldPolicy)
    stored: Labelled = field(init=False, default_factory=Labelled)
    _tasks: list[int] = field(init=False, default_factory=list)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Start the coming task from nothing."""
        doors.memory.keep_rollouts(max(self.observations, self.samples))
        doors.lifecycle.keep_views()
        doors.lifecycle.start_fresh()

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Distil the finished task, store some of it, and act as the offline actor from now on."""
        rng = experience.generator("reset-distill")
        seen = doors.memory.observations(max(self.observations, self.samples), rng)
        if self.offline.tensors:
            doors.lifecycle.write(self._distilled(doors, seen, rng), targets=True)
        self.offline.keep(doors)
        chosen = choose(len(next(iter(seen.values()))), self.samples, rng)
        kept = {key: values[chosen] for key, values in seen.items()}
        with torch.no_grad():
            outputs = doors.output.of({}, doors.memory.policy_input(kept))
        self.stored.add(kept, {k: v.expand(len(chosen), -1) for k, v in outputs.items()})
        if doors.facts.current_task not in self._tasks:
            self._tasks.append(doors.facts.current_task)
        self._keep_views(doors)

    def _distilled(self, doors: Doors, seen: Arrays, rng: np.random.Generator) -> Named:
        """Return the offline actor's tensors once it was taught the finished task."""
        output, count = doors.output.actor, len(next(iter(seen.values())))

        def gradient(leaves: Named) -> Named:
            rows = rng.integers(count, size=self.batch_size)
            now = doors.memory.policy_input({key: values[rows] for key, values in seen.items()})
            with torch.no_grad():
                said = output.of({}, now)  # the agent's own networks are written afterwards
            old = self.stored.draw(doors, rng, self.batch_size)
            then = None if old is None else (old["seen"], old["labels"])
            return self.gradient(output, leaves, (now, said), then)

        rate, offline = self.learning_rate, self.offline.tensors
        return descended(offline, gradient, updates=self.updates, learning_rate=rate)

    def gradient(
        self,
        output: Reader,
        tensors: Named,
        now: tuple[Any, Output],
        then: tuple[Any, Output] | None,
    ) -> Named:
        """Return the gradient of the loss, by name.

        Args:
            output: The actor.
            tensors: The offline actor's.
            now: Observations of the finished task as the policy takes them, shape (batch, ...),
                and what the online actor says of them.
            then: Stored observations with what was stored; None where there are none.
        """

        def loss(values: Named) -> Tensor:
            spec = output.spec
            total = divergence(spec, now[1], output.of(values, now[0])).mean()
            if then is not None and self.strength:
                held = divergence(spec, output.of(values, then[0]), then[1]).mean()
                total = total + self.strength * held
            return total

        return gradient_of(loss, tensors)

    def _keep_views(self, doors: Doors) -> None:
        """Act on every finished task by the offline actor."""
        for task in self._tasks:
            doors.lifecycle.keep_view(
                task,
                lambda: {
                    "policy": self.offline.tensors,
                    "normalization": self.offline.statistics,
                },
            )

    def state(self) -> dict[str, Tensor]:
        """Return the offline actor, what is stored, and the finished tasks."""
        tasks = {_TASKS: torch.tensor(self._tasks, dtype=torch.int64)}
        return self.offline.state() | self.stored.state() | tasks

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take them back, and act by the offline actor on finished tasks."""
        self.offline.load(tensors, doors.facts.device)
        rest = {name: t for name, t in tensors.items() if not self.is_acted_by(name)}
        self.stored.load(rest, doors.facts.device)
        self._tasks = [int(task) for task in tensors[_TASKS]]
        doors.lifecycle.keep_views()
        self._keep_views(doors)
