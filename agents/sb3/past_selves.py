"""A pool of past selves: what a learner in self-play plays against.

Prioritized sampling is prioritized fictitious self-play, with the weight that prefers hard
opponents, of Vinyals et al. 2019 (AlphaStar, doi:10.1038/s41586-019-1724-z), Methods.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.agents.base.parameters import below, flat
from holdfast.agents.doors.outputs import PolicyOutput
from holdfast.agents.sb3.weights_io import policy_tensors
from holdfast.errors import UsageError
from holdfast.scenarios.schema.opponents import PAST, Past
from holdfast.scenarios.schema.scenario import Task

Choices = Callable[[Any, NDArray[np.bool_]], NDArray[np.float64]]
"""Takes an observation and the allowed actions; returns the probability of each action."""

_HARDNESS = 2.0
"""Exponent p of AlphaStar's weight (1 - win rate)^p."""


@dataclass
class PastSelf:
    """One self of the past.

    Attributes:
        step: Environment steps of the stream that it had learned from.
        tensors: Its weights, by the names of ``policy.state_dict()``.
        games: Games against it so far.
        score: Sum of the learner's scores in them: 1 for a win, 0.5 for a draw.
    """

    step: int
    tensors: dict[str, Tensor]
    games: int = 0
    score: float = 0.0

    @property
    def name(self) -> str:
        """Its name in the record of games."""
        return f"{PAST}-{self.step}"

    @property
    def win_rate(self) -> float:
        """The learner's mean score against it; a drawn game is added, so that 0.5 is before any."""
        return (self.score + 0.5) / (self.games + 1)


class PastSelves:
    """The pool; all that it holds is in its ``tensors``, so that a checkpoint can keep it.

    A self joins as a task begins, and every ``past.every`` steps of it. Environments call ``draw``
    and ``record``, the agent the rest.

    Attributes:
        selves: The oldest first.
        rule: How the pool is kept and drawn from, as the current task says it; None where it has
            no past selves.
        next_step: Step of the task at which the next self joins.
    """

    def __init__(self) -> None:
        self.selves: list[PastSelf] = []
        self.rule: Past | None = None
        self._template: Any = None
        self._ready: dict[int, Choices] = {}
        self.next_step = 0

    def start(self, task: Task, model: Any, first_step: int) -> None:
        """Begin a task: the current self joins, and the environments draw from this pool.

        Raises:
            UsageError: If networks have changed their shape since a self joined.
        """
        self.rule = rule_of(task)
        if self.rule is None:
            return
        # Without the optimizer, whose moments are larger than the weights.
        optimizers = {id(model.policy.optimizer): None}
        self._template = copy.deepcopy(model.policy, optimizers)
        self._ready.clear()
        shapes = {name: tensor.shape for name, tensor in policy_tensors(model).items()}
        for past in self.selves:
            if {name: tensor.shape for name, tensor in past.tensors.items()} != shapes:
                raise UsageError(
                    f"{past.name} does not fit the networks of task '{task.name}': past selves "
                    "need a method that leaves the networks' shape as it is"
                )
        self.next_step = self.rule.every or 0
        self._join(model, first_step)
        model.env.env_method("meet", self)

    def look(self, model: Any, step: int, first_step: int) -> None:
        """Add the current self to the pool if it is time, at a step of the task."""
        if self.rule is None or not self.rule.every or step < self.next_step:
            return
        self.next_step = self.rule.every * (step // self.rule.every + 1)
        self._join(model, first_step + step)

    def _join(self, model: Any, step: int) -> None:
        assert self.rule is not None
        tensors = {name: tensor.cpu() for name, tensor in policy_tensors(model).items()}
        self.selves = [past for past in self.selves if past.step != step]
        self.selves.append(PastSelf(step, tensors))
        for left in self.selves[: -self.rule.most]:
            self._ready.pop(left.step, None)
        self.selves = self.selves[-self.rule.most :]

    # -- what environments call --------------------------------------------------------------------

    def draw(self, rng: np.random.Generator) -> tuple[str, Choices] | None:
        """Return the name and the policy of a past self, drawn by the task's rule."""
        if self.rule is None or not self.selves:
            return None
        if self.rule.sample == "latest":
            past = self.selves[-1]
        else:
            past = self.selves[int(rng.choice(len(self.selves), p=self.chances()))]
        if past.step not in self._ready:
            self._ready[past.step] = self._policy(past)
        return past.name, self._ready[past.step]

    def chances(self) -> NDArray[np.float64]:
        """Return the probability of each self, shape (selves,), for uniform and prioritized."""
        assert self.rule is not None
        if self.rule.sample == "uniform":
            return np.full(len(self.selves), 1 / len(self.selves))
        weights = np.array([(1 - past.win_rate) ** _HARDNESS for past in self.selves])
        chances: NDArray[np.float64] = weights / weights.sum()
        return chances

    def record(self, name: str, score: float) -> None:
        """Take how a game ended for the learner; games of others than past selves are not kept."""
        for past in self.selves:
            if past.name == name:
                past.games += 1
                past.score += score

    def _policy(self, past: PastSelf) -> Choices:
        policy = copy.deepcopy(self._template)
        policy.load_state_dict(past.tensors)
        policy.set_training_mode(False)
        output = PolicyOutput(policy)

        def choose(observation: Any, allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
            tensors, _ = policy.obs_to_tensor(batch_of_one(observation))
            return action_chances(output, tensors, allowed)

        return choose

    # -- checkpoints -------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Return everything: ``<number>/<name>`` for weights, and a row of each self in ``games``.

        A row is (step, games, sum of scores).
        """
        if not self.selves:
            return {}
        rows = [[past.step, past.games, past.score] for past in self.selves]
        weights = {number: past.tensors for number, past in enumerate(self.selves)}
        return flat({"games": torch.tensor(rows, dtype=torch.float64), **weights})

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``tensors`` gave."""
        rows = tensors.get("games", torch.zeros(0, 3)).tolist()
        self.selves = [
            PastSelf(int(step), below(tensors, str(number)), int(games), float(score))
            for number, (step, games, score) in enumerate(rows)
        ]


def rule_of(task: Task) -> Past | None:
    """Return how a task keeps its past selves; None where nobody plays against them."""
    if task.opponents is None or PAST not in task.opponents.against:
        return None
    return task.opponents.past


def batch_of_one(observation: Any) -> Any:
    """Return an observation as a batch."""
    if isinstance(observation, dict):
        return {key: np.asarray(entry)[None] for key, entry in observation.items()}
    return np.asarray(observation)[None]


def action_chances(
    output: PolicyOutput, tensors: Any, allowed: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return a policy's probability of each action where some are not allowed, shape (actions,).

    A policy of action values is greedy.

    Args:
        output: The policy.
        tensors: One observation, as the policy takes it.
        allowed: Shape (actions,).
    """
    assert isinstance(output.policy.action_space, gym.spaces.Discrete)
    with torch.no_grad():
        found = output(tensors)
    is_sampled = "logits" in found
    worth = (found["logits"] if is_sampled else found["mean"])[0].double().cpu().numpy()
    worth = np.where(allowed, worth, -np.inf)
    weights = np.exp(worth - worth.max()) if is_sampled else (worth == worth.max()).astype(float)
    chances: NDArray[np.float64] = weights / weights.sum()
    return chances
