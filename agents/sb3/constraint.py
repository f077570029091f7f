"""Costs while an agent learns: counted, and weighed against the reward by a multiplier.

The agent learns from (reward - multiplier * cost) / (1 + multiplier), the Lagrangian of the limit,
scaled so that a large multiplier leaves the size of what is learned from as it is. With a critic of
the costs, advantages are weighed so, and rewards stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from holdfast.agents.base.buffers import COST_ROWS
from holdfast.agents.base.parameters import Named, below, flat
from holdfast.agents.sb3.cost_critic import CostCritic
from holdfast.scenarios.schema.cost import COST, Constraint, Cost


class Multiplier:
    """The weight of the cost, set by how far episodes are from the limit.

    With J the mean cost of the episodes that ended since the last time, and d the limit::

        lagrangian:  m <- max(0, m + rate (J - d))
        pid:         I <- max(0, I + J - d)
                     m <- max(0, proportional (J - d) + integral I + derivative max(0, J - J_last))
        fixed:       m stays

    Source: Stooke et al. 2020, Responsive Safety in Reinforcement Learning by PID Lagrangian
    Methods (arXiv:2007.03964), whose abstract alone could be read, and the authors' code
    (github.com/astooke/rlpyt, rlpyt/projects/safe/cppo_pid.py), with its smoothing off and a delay
    of one update. There the integral holds its gain already, which comes to the same. The other
    rule, the traditional one, is integral control.

    Args:
        rule: One of three.

    Attributes:
        value: m.
    """

    def __init__(self, rule: Constraint) -> None:
        self._rule = rule
        self._sum, self._last = 0.0, 0.0
        self.value = 0.0
        if rule.lagrangian is not None:
            self.value = rule.lagrangian.initial
        if rule.fixed is not None:
            self.value = rule.fixed.multiplier

    def move(self, cost: float, limit: float) -> None:
        """Set the value by the mean cost of episodes."""
        over = cost - limit
        if self._rule.lagrangian is not None:
            self.value = max(0.0, self.value + self._rule.lagrangian.rate * over)
        elif (pid := self._rule.pid) is not None:
            self._sum = max(0.0, self._sum + over)
            rise = max(0.0, cost - self._last)
            push = pid.proportional * over + pid.integral * self._sum + pid.derivative * rise
            self.value = max(0.0, push)
        self._last = cost

    def state(self) -> list[float]:
        """Return what ``load`` takes back."""
        return [self.value, self._sum, self._last]

    def load(self, state: list[float]) -> None:
        """Take back what ``state`` gave."""
        self.value, self._sum, self._last = state

    def weighed(self, rewards: Any, costs: Any) -> Any:
        """Return what is learned from instead of rewards, arrays of one shape."""
        return (rewards - self.value * costs) / (1.0 + self.value)


@dataclass
class Training:
    """What the episodes of one stage cost while they were learned from.

    Attributes:
        steps: Environment steps, of all environments.
        cost: Sum of their costs.
        episodes: Episodes that ended.
        violations: Those of them that cost more than the limit.
    """

    steps: float = 0.0
    cost: float = 0.0
    episodes: float = 0.0
    violations: float = 0.0


class Counted(VecEnvWrapper):
    """Training environments whose costs are counted and, under a constraint, weighed.

    A multiplier stays as it is within a rollout. Rewards in a replay buffer are always those of the
    multiplier as it is now: reward and cost are kept beside them. Where the costs have a critic,
    rewards go through as they are.

    Args:
        venv: The environments.
        cost: Of the task.
        constraint: Of the agent; None only counts.

    Attributes:
        training: What was counted.
        multiplier: None without a constraint.
    """

    def __init__(self, venv: VecEnv, cost: Cost, constraint: Constraint | None) -> None:
        super().__init__(venv)
        self._limit = cost.limit
        self.training = Training()
        self.multiplier = None if constraint is None else Multiplier(constraint)
        self._episodes = np.zeros(venv.num_envs)
        self._ended: list[float] = []  # costs of episodes since the multiplier was moved
        self._buffer: Any = None  # of a replay
        self._rollout: Any = None
        self._has_critic = constraint is not None and constraint.critic
        self._critic: CostCritic | None = None

    def go_on_in(self, venv: VecEnv) -> Counted:
        """Return the same over other environments, whose episodes begin."""
        self.venv = venv
        self._episodes = np.zeros(venv.num_envs)
        return self

    def follow(self, model: Any, *, is_compiled: bool = False) -> None:
        """Keep costs beside the rows of a model's buffer, and learn what they come to if asked."""
        if isinstance(model, OnPolicyAlgorithm):
            self._rollout = model.rollout_buffer
            self._rollout.costs = np.zeros((model.n_steps, model.n_envs), dtype=np.float32)
            if self._has_critic and self.multiplier is not None:
                weighed = self.multiplier.weighed
                self._critic = CostCritic(model, weighed, is_compiled=is_compiled)
            return
        if self.multiplier is None:
            return
        self._buffer = model.replay_buffer
        for name in COST_ROWS:
            if not hasattr(self._buffer, name):
                setattr(self._buffer, name, np.zeros_like(self._buffer.rewards))

    def reset(self) -> Any:
        """Begin an episode in each environment."""
        self._episodes[:] = 0.0
        return self.venv.reset()

    def step_wait(self) -> Any:
        """Finish a step, and count what it cost."""
        seen, rewards, ends, infos = self.venv.step_wait()
        costs = np.array([info[COST] for info in infos], dtype=np.float64)
        self._episodes += costs
        self.training.steps += len(costs)
        self.training.cost += float(costs.sum())
        for place in np.flatnonzero(ends):
            self._end(int(place))
        if self._rollout is not None and (at := self._rollout.pos) < len(self._rollout.costs):
            self._rollout.costs[at] = costs
        if self._critic is not None:
            self._critic.watch(ends, infos)
        if self.multiplier is None or self._critic is not None:
            return seen, rewards, ends, infos
        if self._buffer is not None:
            at = self._buffer.pos  # of the row that this step will be
            self._buffer.own_rewards[at], self._buffer.costs[at] = rewards, costs
        # In the numbers' own precision, as a buffer's rows are weighed again.
        return seen, self.multiplier.weighed(rewards, costs.astype(rewards.dtype)), ends, infos

    def _end(self, place: int) -> None:
        cost = float(self._episodes[place])
        self._episodes[place] = 0.0
        self._ended.append(cost)
        self.training.episodes += 1
        self.training.violations += cost > self._limit

    def move(self) -> None:
        """Move the multiplier by the episodes that have ended, between two rounds of learning."""
        if not self._ended or self.multiplier is None:
            return
        self.multiplier.move(float(np.mean(self._ended)), self._limit)
        self._ended.clear()
        self.weigh_rows()

    def weigh_rows(self) -> None:
        """Let the rewards in the replay buffer be those of the multiplier as it is now."""
        if self._buffer is not None and self.multiplier is not None:
            own, costs = self._buffer.own_rewards, self._buffer.costs
            self._buffer.rewards[:] = self.multiplier.weighed(own, costs)

    def begin_stage(self) -> None:
        """Count from zero, where the same environments turn to another task."""
        self.training = Training()

    def scalars(self) -> dict[str, float]:
        """Return what is logged."""
        told = {} if self.multiplier is None else {"constraint/multiplier": self.multiplier.value}
        if self.training.steps:
            told["constraint/cost_rate"] = self.training.cost / self.training.steps
        if self._critic is not None and self._critic.loss is not None:
            told["constraint/critic_loss"] = self._critic.loss
        return told

    # -- checkpoints inside a task -----------------------------------------------------------------

    def tensors(self) -> Named:
        """Return all but the rows of the buffer and the episodes that are under way."""
        counted = [*vars(self.training).values()]
        state = [] if self.multiplier is None else self.multiplier.state()
        told = {"counted": counted, "multiplier": state, "ended": self._ended}
        kept = {name: torch.tensor(value, dtype=torch.float64) for name, value in told.items()}
        return kept if self._critic is None else kept | flat({"critic": self._critic.tensors()})

    def load_tensors(self, tensors: Named) -> None:
        """Take back what ``tensors`` gave."""
        self.training = Training(*tensors["counted"].tolist())
        if self.multiplier is not None:
            self.multiplier.load(tensors["multiplier"].tolist())
        self._ended = tensors["ended"].tolist()
        if self._critic is not None:
            self._critic.load_tensors(below(tensors, "critic"))
