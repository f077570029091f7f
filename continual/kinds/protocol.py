"""The protocol of a kind: all that differs between single agents, teams and supervised models.

A kind is a small record: it holds a scenario, and each of its methods gives one part. Modules that
import torch, Avalanche or PettingZoo are imported inside the parts that need them, because a report
and ``validate`` ask for light parts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from holdfast import registry
from holdfast.scenarios.schema.scenario import MethodPart, Scenario, Score, Task

if TYPE_CHECKING:
    from holdfast.agents.base.agent import Agent
    from holdfast.continual.method import Method
    from holdfast.continual.policies.exportable import Exporting
    from holdfast.continual.policies.meeting import Meeting
    from holdfast.continual.policies.restore import Restored
    from holdfast.continual.run_folder.record import RunFolder
    from holdfast.envs.checks.check_result import CheckResult
    from holdfast.envs.processes.pool import OnFailure


class Words(NamedTuple):
    """Words for a kind in cards, charts and TensorBoard.

    Attributes:
        use: Lines of Python that act, after ``agent`` was opened.
        task: Its task on the Hugging Face Hub.
        library: What it learns with.
        metric: Name of its result on the Hub.
        total: What an episode's ``return`` is called.
        chart: Title of the chart of all tasks.
        place: Follows the algorithm's name, such as " in a team".
    """

    use: str
    task: str = "reinforcement-learning"
    library: str = "stable-baselines3"
    metric: str = "mean_reward"
    total: str = "return"
    chart: str = "return of every task"
    place: str = ""


Built = tuple[Any, tuple[Any, Any] | None]
"""The experience of the first stage, and the spaces of observations and actions that a replay
buffer holds; None where there is no replay buffer whose size is known."""


class Kind(Protocol):
    """One kind of learner, for one scenario.

    Args:
        scenario: The scenario, or that of one cell.

    Attributes:
        learner: ``module:Name`` of its agent, made from a scenario.
        find_spaces: ``module:Name`` of what finds a scenario's spaces; empty where it has none.
        words: How texts speak of it.
        is_diagnosed: Whether the plasticity of its networks is measured.
        unfilmable: Why it cannot be filmed; empty where it can.
        uncuttable: Why its stream cannot be cut short for tuning; empty where it can.
        unmoved: Why it cannot be measured in another environment; empty where it can.
        uncheckable: Why ``check-env`` has nothing to check; empty where it has.
        unprobed: Why probes such as ``stress`` do not look at it; empty where they do.
    """

    scenario: Scenario
    learner: ClassVar[str]
    find_spaces: ClassVar[str] = ""
    words: ClassVar[Words]
    is_diagnosed: ClassVar[bool] = False
    unfilmable: ClassVar[str] = ""
    uncuttable: ClassVar[str] = ""
    unmoved: ClassVar[str] = "--env and --kwargs are for single agents in environments"
    uncheckable: ClassVar[str] = ""
    unprobed: ClassVar[str] = "looks at single agents in environments"

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario

    # -- what a cell is made of --------------------------------------------------------------------

    def spaces(self) -> Any:
        """Return the spaces of the stream, to be handed to ``stream``; None where it has none."""
        return registry.load(self.find_spaces)(self.scenario) if self.find_spaces else None

    def stream(self, seed: int, spaces: Any = None, *, on_failure: OnFailure | None = None) -> Any:
        """Return an Avalanche scenario with the streams ``train`` and ``eval``.

        The train stream has one experience per stage, the eval stream one per task. No environment
        stays open until it is used.

        Args:
            seed: The cell's seed.
            spaces: What ``spaces`` returned, where that is known already.
            on_failure: Takes the record of every failure of a process with training environments.

        Raises:
            UsageError: If the stream cannot be built.
        """

    def agent(self) -> Agent:
        """Return the learner, which has learned nothing yet."""
        made: Agent = registry.load(self.learner)(self.scenario)
        return made

    def methods(self) -> list[Method]:
        """Return the mitigations of the first method entry, newly built, in its order."""
        return [make() for make in method_makers(self.scenario)]

    # -- what a run leaves -------------------------------------------------------------------------

    def restore(self, folder: RunFolder, stage: int | None = None) -> Restored:
        """Return the agent of a run of this scenario; see ``policies/restore.py``.

        Raises:
            CodeNotTrusted: See ``policies/trust.py``.
        """
        from holdfast.continual.policies.restore import restore, unpooled
        from holdfast.continual.policies.trust import vouch

        vouch(folder)
        assert self.scenario is folder.scenario  # whose code may be imported from now on
        return restore(type(self)(unpooled(self.scenario)), folder, stage)

    @classmethod
    def restored(cls, folder: RunFolder, stage: int | None) -> Restored:
        """Return the agent of a run of this kind; see ``restore``."""
        return cls(folder.scenario).restore(folder, stage)

    def bring_back(self, folder: RunFolder, agent: Any, stage: int) -> None:
        """Bring back, from a run's checkpoints, what learned before a stage and not in it."""
        return

    def act(self, restored: Restored, task_index: int) -> Any:
        """Return a trained agent that acts in one task."""

    def export(self, restored: Restored, task: int, seed: int) -> Exporting:
        """Return every policy of an agent, acting as in a task until the block ends.

        Args:
            restored: The agent.
            task: Which task.
            seed: The cell's, from whose evaluation episodes observations are taken.

        Raises:
            UsageError: If the agent has no policy that is a function of one observation.
        """

    def meeting(self, task_index: int) -> Meeting | None:
        """Return how policies of several runs meet in a task; None where they cannot."""
        return None

    # -- checks ------------------------------------------------------------------------------------

    def build(self, seed: int) -> Built:
        """Build the environments of every task, close them, and return the first stage.

        Raises:
            UsageError: What does not fit together.
        """

    def try_output(self, agent: Agent, methods: Sequence[Method]) -> None:
        """Take the output of an agent that has started, where one of the methods reads it."""
        if any("output" in method.doors for method in methods):
            agent.output()

    def identity(self, task: Task) -> str:
        """Return the same text for tasks whose environments are alike, and need one check."""
        return task.name

    def check_task(self, task: Task) -> CheckResult:
        """Return what was found about a task's environment."""

    def check_fit(self, tasks: Sequence[Task], results: Sequence[CheckResult]) -> None:
        """Raise unless tasks that work alone fit into one stream, and the agent into them.

        Args:
            tasks: Those that were checked, alike ones once.
            results: What was found about each.
        """

    # -- measuring ---------------------------------------------------------------------------------

    def has_own_score(self, task: int) -> bool:
        """Return whether a task's score is neither the return, the success rate nor accuracy."""
        return isinstance(self.scenario.score_of(task), Score)

    def shortened(self, task: dict[str, Any], steps: int) -> None:
        """Cut the episodes of a task, given as plain data, after so many steps."""
        limit = task["kwargs"].pop("max_episode_steps", steps)
        limit = min(limit, task["changes"].get("time_limit") or limit, steps)
        task["changes"] = {**task["changes"], "time_limit": limit}

    def time_limit(self) -> int | None:
        """Return the steps after which an episode of the first task is cut.

        It is 0 where nothing says so, and None where nothing can last any longer.
        """
        from holdfast.envs.make import make_env

        task = self.scenario.tasks[0]
        if task.changes.time_limit is not None:
            return task.changes.time_limit
        env = make_env(self.scenario, task)
        env.close()
        return (env.spec.max_episode_steps if env.spec is not None else None) or 0


def method_makers(scenario: Scenario) -> list[Callable[[], Method]]:
    """Return what makes each mitigation of a scenario's first method entry, in its order."""
    return [partial(_make_method, part, scenario) for part in scenario.methods[0].parts]


def _make_method(part: MethodPart, scenario: Scenario) -> Method:
    made = registry.load(registry.method_target(part.name), scenario.folder)
    # Plugins are told by their parents' module: to import Avalanche for that takes seconds.
    if any(base.__module__ == "avalanche.core" for base in made.__mro__):
        from holdfast.continual.methods.avalanche.plugin import PluginMethod

        return PluginMethod(part.name, made, part.arguments)
    method: Method = made(**part.arguments)
    return method
