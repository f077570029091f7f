"""Supervised models: a network that learns data sets of Avalanche's, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from holdfast.continual.kinds.protocol import Built, Kind, Words
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Task

if TYPE_CHECKING:
    from holdfast.agents.base.agent import Agent
    from holdfast.continual.method import Method
    from holdfast.continual.policies.exportable import Exporting
    from holdfast.continual.policies.restore import Restored
    from holdfast.continual.policies.trained_agent import TaskClassifier
    from holdfast.envs.processes.pool import OnFailure


class Supervised(Kind):
    """A classifier, measured once on each test set; its accuracy is its return."""

    learner = "holdfast.agents.supervised.learner:SupervisedAgent"
    words = Words(
        task="image-classification",
        library="avalanche",
        metric="accuracy",
        total="accuracy",
        chart="accuracy on every task",
        use="classes = agent.act(inputs)  # shape (batch, ...)",
    )
    unfilmable = "data sets have nothing to film"
    uncuttable = "data sets are no stream of steps; tune on held-out seeds: instead"
    unprobed = f"{Kind.unprobed}; this run is of a supervised model"
    uncheckable = (
        "the supervised agent learns data sets, and there is no environment to check; `holdfast "
        "validate --build` loads them"
    )

    def stream(self, seed: int, spaces: Any = None, *, on_failure: OnFailure | None = None) -> Any:
        """Return the stream, whose experiences carry data sets; see ``Kind``."""
        from holdfast.continual.streams.data_stream import make_data_stream

        return make_data_stream(self.scenario, seed)

    def act(self, restored: Restored, task_index: int) -> TaskClassifier:
        """Return the agent in one task."""
        from holdfast.continual.policies.trained_agent import TaskClassifier

        return TaskClassifier(restored, task_index)

    def export(self, restored: Restored, task: int, seed: int) -> Exporting:
        """Return the network; see ``Kind``."""
        from holdfast.continual.policies.exportable import of_classifier

        return of_classifier(restored.agent, self.stream(seed).eval_stream[task])

    def build(self, seed: int) -> Built:
        """Load the data, and download them where they are not there yet; see ``Kind``."""
        return self.stream(seed).train_stream[0], None

    def try_output(self, agent: Agent, methods: Sequence[Method]) -> None:
        """Try the network on one input: its author may have written it for other ones."""
        agent.output()

    def check_task(self, task: Task) -> Any:
        """Raise, as there is no environment.

        Raises:
            UsageError: Always.
        """
        raise UsageError(self.uncheckable)

    def check_fit(self, tasks: Sequence[Task], results: Sequence[Any]) -> None:
        """Do nothing: no task was checked."""

    def has_own_score(self, task: int) -> bool:
        """Return that the score is the accuracy."""
        return False

    def shortened(self, task: dict[str, Any], steps: int) -> None:
        """Do nothing: a test set is measured whole."""

    def time_limit(self) -> None:
        """Return that a test set lasts as long as it is."""
