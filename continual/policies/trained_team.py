"""A trained team that acts in one task, on the observations of that task's own environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from holdfast.continual.policies.restore import Restored
from holdfast.continual.policies.trained_agent import Met
from holdfast.continual.streams.team_stream import Partners, choose_actions, no_partners
from holdfast.envs.multiagent.joint import learner_vectors
from holdfast.envs.multiagent.parallel import ACTION_MASK, make_parallel, unmasked
from holdfast.envs.multiagent.teams import Teams
from holdfast.errors import UsageError


class TaskTeam:
    """The team in one task, its partners included; it does not learn.

    For example::

        team = holdfast.open_run("runs/spread-teams/naive/seed-0").agent("three")
        env = team.make_env(render_mode="human")
        observations, infos = env.reset(seed=1)
        while env.agents:
            actions = team.act({agent: observations[agent] for agent in env.agents})
            observations, rewards, terminations, truncations, infos = env.step(actions)

    Observations are those of the task's PettingZoo environment; what the stream adds to them
    (padding, the task id, normalisation) is added here. A group that has learned nothing yet acts
    at random.

    Args:
        restored: The team and its scenario.
        task_index: Which task.
        partners: Finds the groups that do not learn.
    """

    def __init__(
        self, restored: Restored, task_index: int, partners: Partners = no_partners
    ) -> None:
        self._scenario, spaces, self._agent = restored
        self._task_index = task_index
        self.task = self._scenario.tasks[task_index]
        shown, self.unseen = self._agent.shown_task(task_index)
        env, found = self.make_env(), partners(self._scenario, self.task)
        place = [env], self._scenario, task_index, spaces, [0]
        self._teams = Teams(*place, shown=shown, partners=found)
        self._vectors = learner_vectors(self._scenario, spaces, self._teams.seats)
        env.close()  # it told what there is; whoever asks for actions has one of their own

    def make_env(self, render_mode: str | None = None) -> Any:
        """Return the task's environment, newly made: a ``pettingzoo.ParallelEnv``.

        Args:
            render_mode: For example ``human`` or ``rgb_array``; None renders nothing.
        """
        return make_parallel(self._scenario, self.task, render_mode)

    def episode(self, env: Any, seed: int, number: int) -> Iterator[dict[str, Met]]:  # noqa: ARG002  # as TaskAgent's
        """Play an episode of evaluation, and yield what each agent meets before each step.

        Args:
            env: As ``make_env`` returns it.
            seed: Of the episode.
            number: Of the episode; nothing of a team depends on it.
        """
        observations, _ = env.reset(seed=seed)
        while env.agents:
            seen = {name: observations[name] for name in env.agents}
            actions = self.act(seen)
            masks = {
                name: np.asarray(one[ACTION_MASK], bool) if isinstance(one, dict) else None
                for name, one in seen.items()
            }
            yield {n: Met(unmasked(one), masks[n], actions[n]) for n, one in seen.items()}
            observations, *_ = env.step(actions)

    def act(self, observations: Mapping[str, Any], *, deterministic: bool = True) -> dict[str, Any]:
        """Return an action for each agent that observes something.

        Args:
            observations: By agent, as the task's environment gives them; with action masks where it
                shows them.
            deterministic: The most likely action rather than a sample.

        Raises:
            UsageError: The task has no such agent.
        """
        unknown = [name for name in observations if name not in self._teams.returns]
        if unknown:
            known = ", ".join(self._teams.returns)
            raise UsageError(f"task '{self.task.name}' has no agent '{unknown[0]}'; it has {known}")
        self._teams.look(observations)
        with self._agent.view(self._task_index) as acts:
            for group, seats in self._vectors.items():
                starts = np.ones(seats.num_envs, np.bool_)  # no policy of a team has a memory
                actions, _ = choose_actions(
                    seats, acts.get(group), seats.reset(), None, starts, deterministic=deterministic
                )
                seats.step_async(actions)
            chosen = self._teams.actions()
        return {name: chosen[name][0] for name in observations}
