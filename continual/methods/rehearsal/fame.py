"""FAME: a fast learner that starts from what does best, and a meta learner that keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import starmap
from typing import Annotated, ClassVar

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from holdfast.agents.base.buffers import Arrays
from holdfast.agents.base.parameters import Named, below, flat, gradient_of, snapshot
from holdfast.agents.doors.gradients import Tensors
from holdfast.agents.doors.outputs import ACTING, Output, OutputSpec, Reader
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.imitation import (
    Imitation,
    OldPolicy,
    descended,
    imitation_loss,
)
from holdfast.continual.methods.rehearsal.episodic import Labelled

FRESH, FAST, META = "fresh", "fast", "meta"
STARTS = (FRESH, FAST, META)
"""Where a fast learner may start: from nothing, from its last end, from the meta learner."""

_CHOICE, _ACTION, _TASKS = "choice", "action", "tasks"


@dataclass(kw_only=True, eq=False)
class FAME(Method):
    """Learns each task with a fast learner, and all of them with a meta learner: FAME.

    At a later task's start three policies act in it, greedily, each for ``trial_share`` of its
    steps and without an update: the meta learner, the fast learner as the last task left it, and a
    new one. These steps are part of the task's budget, and off-policy they are stored. The fast
    learner goes on as it is, starts as the new one, or from the meta learner, if the returns of
    that one are above those of each other one (``chosen``); the new one is taken where none is
    best. The meta learner, where it is taken, gives the actor, and the critic is new. Action
    values cannot start from a policy: there the fast learner goes on from its last end, and for
    ``warm_share`` of the task this is added to its loss::

        strength * mean KL(softmax(meta) || softmax(values)) on what is being learned from

    At a task's end ``samples`` of its observations are stored with what the fast learner says
    there, and the meta learner is trained, without a step in the environment, for ``updates`` steps
    of Adam on::

        mean KL(stored || meta) over stored observations of all tasks so far

    of action values on the mean -log softmax(meta) of the greedy action. That is maximum likelihood
    of the actions that the fast learners took, in expectation over those actions. The first
    task's fast learner becomes the meta learner as it is, and is not tried beside itself.

    From a task's end on, its policy is the meta learner, and so is that of every earlier task;
    inside a task that of the task itself is the fast learner. The critic is the fast learner's.

    Source: Sun et al. 2026, Principled Fast and Meta Knowledge Learners for Continual Reinforcement
    Learning (arXiv:2603.00903), and the authors' code (github.com/datake/FAME). There the new
    learner acts in Meta-World alone; with MinAtar and Atari the value that a new network gives to
    the first observation stands for its return. Its Wasserstein distance in place of the KL
    divergence (FAME-WD) is left out.

    Args:
        trial_share: Part of a task's steps that each start is tried for; 0 tries none and always
            goes on with the fast learner. The authors take 600 of 500,000 steps in MinAtar, 1,200
            rounds of 8 environments of a million steps in Atari, 10 episodes in Meta-World.
        significance: Largest p of a one-sided Welch's t-test of one start's returns against each
            other one's; None compares means, as the authors' code does unless told. .05 there.
        strength: Factor of the loss on action values, lambda; 1 there.
        warm_share: Part of a task that it is added for; 50,000 of 500,000 steps in MinAtar.
        samples: Observations stored of each task; 12,000 in MinAtar, 20,000 in Atari, the last ones
            of the task. Off-policy they are drawn from the replay buffer here.
        updates: Steps of the meta learner after each task but the first. In MinAtar and Atari 200
            epochs of what is stored, in Meta-World 1,000 for each task so far.
        batch_size: Rows of each such step, and of the loss on action values; 64 in MinAtar and
            Atari, 256 in Meta-World.
        learning_rate: Of these steps; that of Atari, 2.5e-4, which decays there.
    """

    needs = ("boundaries",)
    doors = ("gradients", "lifecycle", "output", "memory")
    # Not CrossQ: its running statistics are no parameters that could be trained so.
    algorithms = ("ppo", "a2c", "dqn", "sac", "td3", "ddpg", "tqc", "qrdqn", "maskable_ppo")
    not_in_teams = "its starts are tried alone, and a team's agents act at the same time"
    claims = ("views", "weights")
    refuses = (
        ("weights", False, "it would drop the fast learner"),
        ("optimizer", True, "a start that is chosen then has moments of another"),
    )
    acts_by = ("policy", "normalization", _TASKS)
    grows = "samples"
    work = "updates"
    memory = "two more actors, and 12,000 observations and policy outputs per task (`samples`)"
    extra = (
        "5,000 updates of the meta learner after each task but the first (`updates`); of later "
        "tasks 2% of the steps for each of three starts, which teach nothing (`trial_share`)"
    )
    convention = (
        "strength x mean KL(softmax(meta) || softmax(values)) on batches of a task's first "
        "warm_share; action values only"
    )
    logs: ClassVar[dict[str, str]] = {"start": "start of the task: 0 new, 1 fast, 2 meta learner"}

    trial_share: Annotated[float, (0, 0.25)] = 0.02
    significance: Annotated[float | None, (0, 0.5)] = None
    strength: Annotated[float, (0, None)] = 1.0
    warm_share: Annotated[float, (0, 1)] = 0.1
    samples: Annotated[int, (1, None)] = 12_000
    updates: Annotated[int, (0, None)] = 5000
    batch_size: Annotated[int, (1, None)] = 64
    learning_rate: Annotated[float, (0, None)] = 2.5e-4
    meta: OldPolicy = field(init=False, default_factory=OldPolicy)
    stored: Labelled = field(init=False, default_factory=Labelled)
    start: str = field(init=False, default=FAST)
    _fast: Named = field(init=False, default_factory=dict)  # what acts of it, and its targets
    _fresh: Named = field(init=False, default_factory=dict)  # until the start is chosen
    _steps: int = field(init=False, default=0)  # of each trial of the task
    _tasks: list[int] = field(init=False, default_factory=list)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Bring the fast learner back, ask for the trial, and add the loss on action values."""
        doors.memory.keep_rollouts(self.samples)
        doors.lifecycle.keep_views()
        self.start = FAST
        if not self.meta.tensors:
            return
        doors.lifecycle.blend(self._carried)
        n_envs = doors.facts.n_envs
        self._steps = int(self.trial_share * experience.steps) // n_envs * n_envs
        if self._steps:
            doors.lifecycle.open_with(_CHOICE)
        if doors.facts.output == "values":
            self._warm_up(doors, experience)

    def _carried(self, _carried: Named, fresh: Named) -> Named:
        """Return the fast learner, in the place of the meta learner that was measured."""
        self._fresh = dict(fresh) if self._steps else {}
        return self._fast

    def _warm_up(self, doors: Doors, experience: Experience) -> None:
        """Add the loss on action values, for where the task starts from the meta learner."""
        rng, last = experience.generator("fame"), self.warm_share * experience.steps

        def draw(_: Named) -> Tensors | None:
            if self.start != META or doors.step > last:
                return None
            now = doors.memory.batch_observations(self.batch_size, rng)
            return {"now": now, "then": self.meta.seen(doors, now)}

        term = partial(self.warm_gradient, doors.output.actor)
        doors.gradients.add(term, state={"meta": self.meta.tensors}, batch=draw, groups=ACTING)

    def warm_gradient(
        self, output: Reader, parameters: Named, state: Tensors, batch: Tensors
    ) -> Named:
        """Return the gradient of the loss on action values, by name."""
        with torch.no_grad():
            said = output.of(state["meta"], batch["then"])
        imitation = Imitation(self.strength, temperature=1.0)
        return imitation.gradient(output, parameters, batch["now"], said)

    def due(self, doors: Doors, name: str) -> None:
        """Try the starts, and let the fast learner begin from the best."""
        tensors = {FRESH: self._fresh, FAST: Named(), META: self.meta.tensors}
        if len(self._tasks) == 1:
            del tensors[META]  # it is the fast learner
        tried = {one: doors.lifecycle.try_out(t, self._steps) for one, t in tensors.items()}
        self.start = chosen(tried, self.significance)
        doors.log("method/fame/start", STARTS.index(self.start))
        is_new = self.start == FRESH or (self.start == META and doors.facts.output != "values")
        if is_new:
            doors.lifecycle.write(self._fresh)
        if is_new and self.start == META:
            doors.lifecycle.write(self.meta.tensors, targets=True)
        self._fresh = {}

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Store what the fast learner says, train the meta learner, and act as it from now on."""
        rng = experience.generator("fame", "meta")
        seen = doors.memory.observations(self.samples, rng)
        self.stored.add(seen, self._labels(doors, seen))
        self._fast = _with_targets(doors)
        if self.meta.tensors:
            doors.lifecycle.write(self._trained(doors, rng), targets=True)
        self.meta.keep(doors)
        if doors.facts.current_task not in self._tasks:
            self._tasks.append(doors.facts.current_task)
        self._keep_views(doors)

    @torch.no_grad()
    def _labels(self, doors: Doors, seen: Arrays) -> Named:
        """Return what the fast learner says of observations, a row for each."""
        rows = len(next(iter(seen.values())))
        said = doors.output.of({}, doors.memory.policy_input(seen))
        if doors.facts.output == "values":
            return {_ACTION: said["mean"].argmax(-1)}
        return {name: output.expand(rows, -1).clone() for name, output in said.items()}

    def _trained(self, doors: Doors, rng: np.random.Generator) -> Named:
        """Return the meta learner's tensors after its steps on what is stored."""
        output = doors.output.actor

        def gradient(leaves: Named) -> Named:
            drawn = self.stored.draw(doors, rng, self.batch_size)
            assert drawn is not None
            return meta_gradient(output, leaves, drawn["seen"], drawn["labels"])

        rate, meta = self.learning_rate, self.meta.tensors
        return descended(meta, gradient, updates=self.updates, learning_rate=rate)

    def _keep_views(self, doors: Doors) -> None:
        """Act on every finished task by the meta learner."""
        for task in self._tasks:
            doors.lifecycle.keep_view(
                task,
                lambda: {"policy": self.meta.tensors, "normalization": self.meta.statistics},
            )

    def state(self) -> dict[str, Tensor]:
        """Return both learners, what is stored, the finished tasks, and the task's start."""
        known = {_TASKS: torch.tensor(self._tasks, dtype=torch.int64)}
        known["start"] = torch.tensor(STARTS.index(self.start))
        return self.meta.state() | self.stored.state() | flat({"fast": self._fast}) | known

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take them back, and act by the meta learner on finished tasks."""
        self.meta.load(tensors, doors.facts.device)
        self._fast = below(tensors, "fast", doors.facts.device)
        rest = {name: t for name, t in tensors.items() if name.startswith("settled/")}
        self.stored.load(rest, doors.facts.device)
        self._tasks = [int(task) for task in tensors[_TASKS]]
        self.start = STARTS[int(tensors.get("start", STARTS.index(FAST)))]
        doors.lifecycle.keep_views()
        self._keep_views(doors)


def _with_targets(doors: Doors) -> Named:
    """Return copies of all that acts, and of the slowly moving copies of it."""
    live, acting = doors.lifecycle.weights(), doors.lifecycle.weights(*ACTING)
    targets = {f"{owner}_target.{rest}" for owner, _, rest in (n.partition(".") for n in acting)}
    return snapshot(acting | {name: live[name] for name in targets & live.keys()})


def meta_loss(spec: OutputSpec, labels: Output, said: Output) -> Tensor:
    """Return the mean loss of a meta learner on a batch.

    Args:
        spec: How to read outputs.
        labels: What the fast learner said, as outputs; of action values the greedy ``action``,
            shape (batch,).
        said: What the meta learner says.
    """
    if _ACTION in labels:
        return torch.nn.functional.cross_entropy(said["mean"], labels[_ACTION])
    return imitation_loss(spec, labels, said)


def meta_gradient(output: Reader, tensors: Named, seen: Tensor, labels: Output) -> Named:
    """Return the gradient of ``meta_loss`` at the meta learner's tensors, by name."""
    return gradient_of(lambda v: meta_loss(output.spec, labels, output.of(v, seen)), tensors)


def chosen(returns: Mapping[str, Sequence[float]], significance: float | None) -> str:
    """Return the start whose returns are above those of each other one; else ``fresh``.

    Args:
        returns: Of the episodes of each start, at least one each.
        significance: As ``FAME`` takes it; means are compared where either has one episode alone.

    >>> chosen({"fresh": [1.0], "fast": [3.0, 1.0], "meta": [2.0]}, None)
    'fresh'
    >>> chosen({"fresh": [1.0], "fast": [3.0, 1.0], "meta": [2.5]}, None)
    'meta'
    """
    for one, own in returns.items():
        others = [(own, other) for name, other in returns.items() if name != one]
        if all(starmap(partial(_is_above, significance=significance), others)):
            return one
    return FRESH


def _is_above(one: Sequence[float], other: Sequence[float], significance: float | None) -> bool:
    is_above = bool(np.mean(one) > np.mean(other))
    # Returns that are all alike leave nothing to divide by: any difference is then significant.
    is_constant = np.ptp(one) == np.ptp(other) == 0.0
    if significance is None or min(len(one), len(other)) < 2 or is_constant:
        return is_above
    test = stats.ttest_ind(one, other, equal_var=False, alternative="greater")
    return bool(test.pvalue < significance)
