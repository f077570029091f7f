"""A trained team that acts in one task, on the observations of that task's own environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from holdfast.continual.policies.restore import Restored
from holdfast.continual.streams.team_stream import choose_actions, partner_groups
from holdfast.envs.multiagent.joint import learner_vectors
from holdfast.envs.multiagent.parallel import make_parallel, team_spaces
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
    """

    def __init__(self, restored: Restored, task_index: int) -> None:
        self._scenario, self._agent = restored.scenario, restored.agent
        self._task_index = task_index
        self.task = self._scenario.tasks[task_index]
        shown, self.unseen = self._agent.shown_task(task_index)
        spaces = team_spaces(self._scenario)
        env = self.make_env()
        partners = partner_groups(self._scenario, self.task)
        self._teams = Teams(
            [env], self._scenario, task_index, spaces, [0], shown=shown, partners=partners
        )
        self._vectors = learner_vectors(self._scenario, spaces, self._teams.seats)
        env.close()  # it told what there is; whoever asks for actions has one of their own

    def make_env(self, render_mode: str | None = None) -> Any:
        """Return the task's environment, newly made: a ``pettingzoo.ParallelEnv``.

        Args:
            render_mode: For example ``human`` or ``rgb_array``; None renders nothing.
        """
        return make_parallel(self._scenario, self.task, render_mode)

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
