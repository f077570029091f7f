"""Single agents: one learner in Gymnasium environments, games against opponents included."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.continual.kinds.protocol import Built, Kind, Words
from holdfast.continual.policies.meeting import Meeting
from holdfast.errors import ScenarioError, UsageError
from holdfast.registry import algorithm
from holdfast.scenarios.schema.opponents import OpponentSpec
from holdfast.scenarios.schema.scenario import Task

if TYPE_CHECKING:
    from holdfast.continual.policies.exportable import Exporting
    from holdfast.continual.policies.restore import Restored
    from holdfast.continual.policies.trained_agent import TaskAgent
    from holdfast.envs.base.spaces import StreamSpaces
    from holdfast.envs.checks.check_result import CheckResult
    from holdfast.envs.multiagent.players import PolicyPlayer
    from holdfast.envs.processes.pool import OnFailure


class Single(Kind):
    """One agent of Stable-Baselines3's."""

    learner = "holdfast.agents.sb3.learner:StableBaselinesAgent"
    find_spaces = "holdfast.envs.make:stream_spaces"
    words = Words(
        use="env = agent.make_env()\nobservation, info = env.reset(seed=0)\n"
        "action = agent.act(observation)"
    )
    is_diagnosed = True
    unmoved = unprobed = ""

    @property
    def _frozen(self) -> Callable[[OpponentSpec, Path | None], PolicyPlayer]:
        """What finds opponents that earlier runs left."""
        return partial(frozen_player, trust_code=self.scenario.trusts_code)

    def stream(self, seed: int, spaces: Any = None, *, on_failure: OnFailure | None = None) -> Any:
        """Return the stream; see ``Kind``."""
        from holdfast.continual.streams.task_stream import make_stream

        return make_stream(self.scenario, seed, spaces, on_failure=on_failure, frozen=self._frozen)

    def act(self, restored: Restored, task_index: int) -> TaskAgent:
        """Return the agent in one task."""
        from holdfast.continual.policies.trained_agent import TaskAgent

        return TaskAgent(restored, task_index, self._frozen)

    def export(self, restored: Restored, task: int, seed: int) -> Exporting:
        """Return the policy; see ``Kind``."""
        from holdfast.continual.policies.exportable import of_agent

        return of_agent(restored, self.act(restored, task), task, seed)

    def meeting(self, task_index: int) -> Meeting | None:
        """Return how policies play a game against each other."""
        if self.scenario.tasks[task_index].opponents is None:
            return None
        from holdfast.continual.policies.matches import meet

        play = partial(meet, self.scenario, task_index, frozen=self._frozen)
        return Meeting("games of each two", play)

    def build(self, seed: int) -> Built:
        """Build every task and every opponent; see ``Kind``."""
        spaces = self.spaces()
        self._check_opponents(spaces)
        self._check_spaces(spaces)
        stream = self.stream(seed, spaces).train_stream
        self._check_demonstrations(stream)
        experience = stream[0]
        if algorithm(self.scenario.agent.algorithm).on_policy:
            return experience, None
        with closing(experience.make_env()) as envs:
            return experience, (envs.observation_space, envs.action_space)

    def _check_opponents(self, spaces: StreamSpaces) -> None:
        """Build every opponent of every game, those of earlier runs included."""
        from holdfast.envs.vector import task_env

        for index, task in enumerate(self.scenario.tasks):
            if task.opponents is None:
                continue
            try:
                env: Any = task_env(self.scenario, index, spaces, frozen=self._frozen)
                with closing(env):
                    env.unwrapped.check_opponents()
            except UsageError as error:
                path = f"tasks[{index}].opponents"
                raise ScenarioError([self.scenario.problem(path, str(error))]) from error

    def _check_demonstrations(self, stream: Sequence[Any]) -> None:
        """Read the demonstrations of every task."""
        for experience in {each.task_index: each for each in stream}.values():
            try:
                experience.demonstrations()
            except UsageError as error:
                path = f"tasks[{experience.task_index}].demonstrations"
                raise ScenarioError([self.scenario.problem(path, str(error))]) from error

    def _check_spaces(self, spaces: StreamSpaces) -> None:
        from holdfast.envs.base.compatibility import check_actions, check_policy

        check_actions(self.scenario, spaces)
        check_policy(self.scenario, spaces.observation)
        detector = self.scenario.detector
        if detector is not None and detector.signal == "dynamics":
            from holdfast.agents.detection.signals import check_spaces

            try:
                check_spaces(spaces.observation, spaces.action)
            except UsageError as error:
                raise ScenarioError(
                    [self.scenario.problem("detector.signal", str(error))]
                ) from error

    def identity(self, task: Task) -> str:
        """Return the same text for tasks that are built alike."""
        left_out = {"name", "score", *(() if task.drift else ("steps",))}
        return json.dumps(task.model_dump(exclude=left_out), sort_keys=True, default=str)

    def check_task(self, task: Task) -> CheckResult:
        """Return what was found about a task's environment."""
        from holdfast.envs.checks.environment import check_task

        return check_task(self.scenario, task, self._frozen)

    def check_fit(self, tasks: Sequence[Task], results: Sequence[CheckResult]) -> None:
        """Raise unless all tasks fit into one stream; see ``Kind``."""
        from holdfast.envs.base.spaces import merged_spaces

        known = [(t, r.spaces) for t, r in zip(tasks, results, strict=True) if r.spaces is not None]
        alone = self.scenario.model_copy(update={"tasks": tuple(task for task, _ in known)})
        self._check_spaces(merged_spaces(alone, [spaces for _, spaces in known]))


def frozen_player(
    entry: OpponentSpec, place: Path | None, *, trust_code: bool = False
) -> PolicyPlayer:
    """Return the opponent that an earlier run of a game left; see ``policies/opponents.py``."""
    from holdfast.continual.policies import opponents

    return opponents.frozen_player(entry, place, Single.restored, trust_code=trust_code)
