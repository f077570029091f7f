"""Protocols of a learner, as the loop calls it, and of the start of its tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

if TYPE_CHECKING:
    from holdfast.agents.base.pauses import Again, Pauses

Observations = NDArray[Any] | dict[str, NDArray[Any]]
"""A batch of observations: shape (batch, ...) or one such array per key."""

Files = dict[str, dict[str, Tensor]]
"""Named tensors by file stem, as a checkpoint holds them."""

Watch = Callable[[int], None]
"""Called after every environment step with the steps taken in this task so far."""

Boundary = Callable[[int], None]
"""Tells methods of a boundary that a detector found, with the steps of the slot that ends there."""

Log = Callable[[Mapping[str, float], int], None]
"""Takes scalars by TensorBoard tag and the environment step of the stream."""


class Start(Protocol):
    """The part of an experience that every agent needs.

    Attributes:
        stage: Position in the stream, from 0.
        task_index: Which task of the scenario this is; the same number when a task comes again.
        steps: Budget of environment steps.
        first_step: Environment steps of the stream before this task.
        seed: Seed of the agent and of the training environments.
        is_hidden: Whether nothing happens to the learner where this task begins and ends.
    """

    stage: int
    task_index: int
    steps: int
    first_step: int
    seed: int
    is_hidden: bool


class Shown(NamedTuple):
    """What a learner is shown in a task beside its own transitions.

    Attributes:
        rows: Transitions by name, in the spaces of the stream; actions as environments take them.
        share: Of each batch.
        digest: Of the file.
        cloning: Weight of the loss that draws the policy to these actions.
    """

    rows: dict[str, NDArray[Any]]
    share: float
    digest: str
    cloning: float = 0.0


class TaskStart(Start, Protocol):
    """Start of a single agent's task."""

    def make_env(
        self, *, interleaved: bool = False, turns: Sequence[Any] = (), begun: int = 0
    ) -> VecEnv:
        """Return the training environments, newly built.

        Args:
            interleaved: All tasks of the stream, taking turns, instead of this one alone.
            turns: What ``worlds`` gave, where those of an earlier stage went on until here.
            begun: Steps of this stage that endless worlds have taken.
        """

    def build_again(self, env: VecEnv, again: Again, *, interleaved: bool = False) -> VecEnv:
        """Close the training environments and return others in their places.

        Args:
            env: Those of this task.
            again: Where inside the task they go on.
            interleaved: As for ``make_env``.
        """

    def worlds(self, env: VecEnv, *, interleaved: bool = False) -> list[Any]:
        """Return what environments that are built again go on with, as plain data."""

    def demonstrations(self) -> Shown | None:
        """Return what the learner is shown beside its own transitions; None where nothing is."""


class Act(Protocol):
    """A frozen policy for one task."""

    def __call__(
        self,
        observations: Observations,
        state: Any,
        episode_starts: NDArray[np.bool_],
        *,
        deterministic: bool,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[Any], Any]:
        """Return one action per observation, and the recurrent state for the next call."""


class Agent(Protocol):
    """A learner; it owns every environment step inside a task.

    The loop calls, for each task of the stream::

        agent.start(experience)              # a fresh model; what is carried is loaded into it
        agent.learn(experience, watch, log, pauses)  # exactly experience.steps env steps
        with agent.view(task_index) as act:  # as often as wanted; never changes training
            actions, state = act(observations, state, episode_starts, deterministic=True)
        agent.files()                        # what a checkpoint holds; load_files() takes it back

    An experience is a ``TaskStart``; the supervised agent's has a data set in place of environments
    (``DataStart``), and counts updates in place of environment steps. Methods reach it
    by ``doors`` alone.

    Attributes:
        current_task: Index of the task that the model was built for.
        initial: Weights that a task which carries none starts from (``agent.init``); else none.
        notices: What a method warns of, in a line each; shown when the task begins.
    """

    current_task: int
    initial: Files
    notices: list[str]

    @property
    def policy(self) -> Any:
        """The network that acts, a torch module."""

    def doors(self, method: Any) -> Any:
        """Return what a method is handed: the doors that its class declares."""

    def start(self, experience: Any) -> None:
        """Build a fresh model for this task and load what is carried into it."""

    def learn(self, experience: Any, watch: Watch, log: Log, pauses: Pauses | None = None) -> None:
        """Take and learn from exactly ``experience.steps`` environment steps.

        Args:
            experience: The task.
            watch: Called after every environment step.
            log: Takes scalars.
            pauses: Where checkpoints are taken inside the task; None where there are none.
        """

    def output(self) -> Any:
        """Return the policy's output as a function of observations, or raise if it has none."""

    def shown_task(self, task_index: int) -> tuple[int, bool]:
        """Return the task whose id the policy is shown, and whether its own view is missing."""

    @property
    def random_spaces(self) -> tuple[Any, ...]:
        """The spaces whose generators training draws from."""

    def view(self, task_index: int) -> AbstractContextManager[Any]:
        """Return a context in which the policy acts as it does for that task.

        It gives an ``Act``; that of a team gives one for each group, by name.
        """

    def files(self) -> Files:
        """Return everything the next task start needs, as named tensors by file."""

    def load_files(self, files: Files) -> None:
        """Take back what ``files`` gave, after the end of some task."""

    def load_trained(self, files: Files) -> None:
        """Take the weights of the end of the task that was started."""

    def close(self) -> None:
        """Close the training environments of the current task, where they are open."""
