"""Acting as for earlier tasks during the first steps of a new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from holdfast.agents.base.observations import with_task_ids

Exploring = Literal["best_return", "previous", "uniform"]


class Heads:
    """Chooses, episode by episode, the earlier task that a new one is explored as.

    ``best_return`` tries every earlier task for one episode, in the order of the tasks, and takes
    from then on the one with the best mean return on the new task so far; where episodes run side
    by side and none has ended yet, the tries go round once more. ``previous`` takes the last task,
    ``uniform`` draws one. Source: Wolczyk et al. 2022 (arXiv:2209.13900), whose ClonEx-SAC takes
    ``best_return``.

    Args:
        kind: Which of the three.
        tasks: Earlier tasks, each once, oldest first.
        rng: Draws for ``uniform``.
    """

    def __init__(self, kind: Exploring, tasks: Sequence[int], rng: np.random.Generator) -> None:
        self.kind, self.tasks, self.rng = kind, tuple(tasks), rng
        self.tried = dict.fromkeys(self.tasks, 0)
        self.returns: dict[int, list[float]] = {task: [] for task in self.tasks}

    def choose(self) -> int:
        """Return the task that the next episode is played as."""
        chosen = self._choose()
        self.tried[chosen] += 1
        return chosen

    def _choose(self) -> int:
        if self.kind == "previous":
            return self.tasks[-1]
        if self.kind == "uniform":
            return self.tasks[int(self.rng.integers(len(self.tasks)))]
        ended = [task for task in self.tasks if self.returns[task]]
        if not all(self.tried.values()) or not ended:
            return min(self.tasks, key=self.tried.__getitem__)  # the first of those least tried
        return max(ended, key=lambda task: float(np.mean(self.returns[task])))

    def ended(self, task: int, total: float) -> None:
        """Take the return of an episode that was played as ``task``."""
        self.returns[task].append(total)


@dataclass(frozen=True)
class Exploration:
    """First steps of a task, taken as for earlier tasks.

    Attributes:
        steps: Environment steps of the task during which earlier tasks are acted as.
        heads: Chooses them.
        id_width: Length of the one-hot task id.
    """

    steps: int
    heads: Heads
    id_width: int


@contextmanager
def exploring(model: Any, exploration: Exploration | None) -> Iterator[Explorer | None]:
    """Make an off-policy model choose its first actions of a task as ``exploration`` says.

    They take the place of the uniformly random actions before ``learning_starts``; updates begin as
    they would. Two methods of the instance are replaced until the steps are done: the one that
    chooses actions and the one that stores transitions, which sees rewards and ends of episodes.
    """
    if exploration is None:
        yield None
        return
    explorer = Explorer(model, exploration)
    model._sample_action, model._store_transition = explorer.sample, explorer.store
    try:
        yield explorer
    finally:
        explorer.stop()


class Explorer:
    """The tasks that the environments are explored as, and the returns of their episodes."""

    def __init__(self, model: Any, exploration: Exploration) -> None:
        self.model, self.exploration = model, exploration
        self.published = model._sample_action, model._store_transition
        self.tasks = np.array([exploration.heads.choose() for _ in range(model.n_envs)])
        self.totals = np.zeros(model.n_envs)

    def cut(self) -> None:
        """Forget the rewards of episodes that are cut short; they were not played to their end."""
        self.totals[:] = 0.0

    def told(self) -> dict[str, Any]:
        """Return how far the exploration has come, as plain data."""
        heads = self.exploration.heads
        return {
            "tasks": self.tasks.tolist(),
            "tried": [[task, count] for task, count in heads.tried.items()],
            "returns": [[task, list(totals)] for task, totals in heads.returns.items()],
        }

    def put_back(self, told: Mapping[str, Any]) -> None:
        """Put back what ``told`` gave."""
        heads = self.exploration.heads
        self.tasks[:] = told["tasks"]
        heads.tried.update({int(task): int(count) for task, count in told["tried"]})
        heads.returns.update({int(t): [float(r) for r in totals] for t, totals in told["returns"]})

    def stop(self) -> None:
        """Let the model act and store as it was published."""
        for name in ("_sample_action", "_store_transition"):
            vars(self.model).pop(name, None)  # the instance's; the class's shows again

    def sample(self, learning_starts: int, action_noise: Any = None, n_envs: int = 1) -> Any:
        """Return actions as ``_sample_action`` does, of a policy that is shown other tasks."""
        model, published = self.model, self.published[0]
        if model.num_timesteps >= self.exploration.steps:
            self.stop()
            return published(learning_starts, action_noise, n_envs)
        seen = model._last_obs
        model._last_obs = with_task_ids(seen, self.tasks, self.exploration.id_width)
        try:
            with _no_random_actions(model):
                return published(0, action_noise, n_envs)
        finally:
            model._last_obs = seen

    def store(
        self, buffer: Any, actions: Any, new_obs: Any, rewards: Any, dones: Any, infos: Any
    ) -> None:
        """Store transitions as published, and count the returns of the episodes."""
        normalizer = self.model._vec_normalize_env
        self.totals += rewards if normalizer is None else normalizer.get_original_reward()
        for env in np.flatnonzero(dones):
            self.exploration.heads.ended(int(self.tasks[env]), float(self.totals[env]))
            self.tasks[env], self.totals[env] = self.exploration.heads.choose(), 0.0
        self.published[1](buffer, actions, new_obs, rewards, dones, infos)


@contextmanager
def _no_random_actions(model: Any) -> Iterator[None]:
    """Keep DQN and its kin to their final share of random actions: it starts at one."""
    rate = getattr(model, "exploration_rate", None)
    if rate is None:
        yield
        return
    model.exploration_rate = model.exploration_final_eps
    try:
        yield
    finally:
        model.exploration_rate = rate
