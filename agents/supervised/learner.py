"""A supervised agent: Avalanche's own training loop and plugins, one task start at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from avalanche.logging import BaseLogger
from avalanche.models import avalanche_forward
from avalanche.models.dynamic_modules import avalanche_model_adaptation
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.templates import SupervisedTemplate
from numpy.typing import NDArray
from torch import Tensor

from holdfast import seeding
from holdfast.agents.base.agent import Files, Log, Start, Watch
from holdfast.agents.base.device import device_of
from holdfast.agents.base.parameters import Named, overlaid
from holdfast.agents.base.pauses import Pauses
from holdfast.agents.doors.doors import Doors, Facts, facts_of
from holdfast.agents.doors.lifecycle import Lifecycle, Plan
from holdfast.agents.doors.plugins import Plugins
from holdfast.agents.sb3.weights_io import of_checkpoint
from holdfast.agents.supervised.classifier import Classifier
from holdfast.errors import Diverged, UsageError
from holdfast.scenarios.schema.scenario import Scenario


class Labelled(Protocol):
    """Labels of an experience, which a network needs to grow a head for it."""

    @property
    def task_labels(self) -> list[int]:
        """Task labels of its samples, each once."""

    @property
    def classes_in_this_experience(self) -> list[int]:
        """Classes of its samples, each once."""


class DataStart(Start, Labelled, Protocol):
    """Start of a task of data; Avalanche trains on it as it is. Steps are updates.

    Attributes:
        dataset: Avalanche data set to learn from.
        earlier: The experiences before this one, in order.
        whole: All tasks of the stream, each once.
        input_shape: Shape of one input.
        class_count: Width of the network's output.
    """

    dataset: Any
    earlier: Sequence[Labelled]
    whole: Sequence[Labelled]
    input_shape: tuple[int, ...]
    class_count: int

    def joined(self) -> DataStart:
        """Return this experience with the data of all tasks of the stream."""


class SupervisedAgent:
    """A learner that builds a fresh network and a fresh Avalanche strategy at every task start.

    What lasts is carried by name: weights here, and each plugin's state by its method. With
    ``carry: {optimizer: true}`` that is one strategy trained on one experience after another, whose
    random numbers start again with each.

    Attributes:
        plugins: Avalanche plugins of the coming task; methods add them in ``pre_adapt``.
        plan: What the lifecycle door was told.
        strategy: Avalanche's strategy of the current task.
        current_task: Index of the task that it was built for.
        initial: Weights that a task which carries none starts from (``agent.init``); else none.
    """

    strategy: Any
    normalizer = None  # inputs are taken as they are
    _data: DataStart

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.classifier = Classifier(**scenario.agent.arguments)
        self.plugins: list[Any] = []
        self.plan = Plan()
        self.has_heads = scenario.stream.task_id == "heads"
        self.strategy = None
        self.initial: Files = {}
        self.notices: list[str] = []
        self.current_task = 0
        self._loaded: Files | None = None
        self._keeps_optimizer = scenario.carry.optimizer

    @property
    def policy(self) -> Any:
        """The network. Plugins may put another one in its place (GDumb does)."""
        return self.strategy.model

    @property
    def device(self) -> torch.device:
        """Device of the network's tensors.

        Raises:
            UsageError: If cuda is asked for and torch sees none.
        """
        return device_of(self.scenario.agent.device)

    def output(self) -> Answer:
        """Return the network as a function of inputs, after trying it on one.

        Raises:
            UsageError: If it cannot take the inputs, or has fewer outputs than there are classes.
        """
        answer = Answer(self.policy, self._data.task_labels[0], self.device)
        shape, classes = self._data.input_shape, self._data.class_count
        with self.view(self.current_task):
            try:
                width = answer.logits(self._data.dataset[0][0][None]).shape[-1]
            except (RuntimeError, ValueError, IndexError) as error:
                raise UsageError(
                    f"agent.model: the network cannot take inputs of shape {shape}: {error}"
                ) from error
        if width < classes:
            raise UsageError(f"agent.model: {width} outputs, but there are {classes} classes")
        return answer

    def doors(self, method: Any) -> Doors:
        """Return what a method is handed: the doors that its class declares."""
        doors = Doors(
            method,
            {
                "plugins": lambda: Plugins(self),
                "lifecycle": lambda: Lifecycle(self, lambda name: method.due(doors, name)),
            },
            facts=self._facts,
            step=lambda: int(self.strategy.clock.train_exp_iterations),
            log=lambda *_: None,  # Avalanche has no logger that a method could write to
            warn=lambda text: self.notices.append(text),
        )
        return doors

    def _facts(self) -> Facts:
        return facts_of(self.scenario, device=self.device, current_task=self.current_task)

    # -- a task start is one operation -------------------------------------------------------------

    def start(self, experience: DataStart) -> None:
        """Build a fresh network and strategy for this task and load what is carried into them."""
        carried = {} if self.plan.everything_fresh else self._files_to_carry()
        is_resumed, self._loaded = self._loaded is not None, None
        self._keeps_optimizer = self.scenario.carry.optimizer or self.plan.is_interleaved
        self._data = experience.joined() if self.plan.is_interleaved else experience
        source = carried if self.scenario.carry.weights and "policy" in carried else self.initial
        seeding.seed_everything(experience.seed)
        # Weights that are overwritten at once draw none of the task's random numbers.
        with seeding.isolated(experience.seed) if "policy" in source else nullcontext():
            network = self.network(experience, experience.earlier)
            for task in experience.whole if self.plan.is_interleaved else ():
                avalanche_model_adaptation(network, task)
        avalanche_model_adaptation(network, self._data)  # a new head, where there are heads
        told = of_checkpoint if is_resumed and source is carried else lambda _: nullcontext()
        with told("policy"):
            self._load_network(network, source.get("policy", {}))
        self.strategy = self._strategy(network, experience)
        self.plugins = []
        if self._keeps_optimizer and "optimizer" in carried:
            with told("optimizer"):
                self._load_optimizer(carried["optimizer"])
        self.current_task = experience.task_index
        self.plan.started(experience.stage, self.scenario.stream_tasks)

    def network(self, experience: DataStart, known: Sequence[Labelled]) -> Any:
        """Return a newly initialised network with the heads of these experiences.

        Args:
            experience: Gives the shapes of inputs and outputs.
            known: Experiences that it has been adapted to, in order.
        """
        network = self.classifier.network(
            experience.input_shape,
            experience.class_count,
            heads=self.has_heads,
            folder=self.scenario.folder,
        ).to(self.device)
        for earlier in known:
            avalanche_model_adaptation(network, earlier)
        return network

    def _files_to_carry(self) -> Files:
        if self._loaded is not None or self.strategy is None:
            return self._loaded or {}
        return self.files()

    def _load_network(self, network: Any, tensors: dict[str, Tensor]) -> None:
        current = network.state_dict()
        carried = {n: t for n, t in tensors.items() if not self.plan.is_fresh(n)}
        for name, tensor in carried.items():
            if name not in current or current[name].shape != tensor.shape:
                raise UsageError(
                    f"the weights do not fit this agent's network: {name} {tuple(tensor.shape)}; "
                    "use the same network, task_id and benchmark as the run they come from"
                )
        network.load_state_dict(current | carried)

    def _strategy(self, network: Any, experience: DataStart) -> Any:
        strategy = SupervisedTemplate(
            model=network,
            optimizer=self.classifier.new_optimizer(network),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=self.classifier.batch_size,
            train_epochs=experience.steps,  # at most: the budget of updates ends it
            device=self.device,
            plugins=self.plugins,
            # A logger that does nothing, because Avalanche warns where there is none.
            evaluator=EvaluationPlugin(loggers=[BaseLogger()]),
        )
        strategy.make_optimizer(reset_optimizer_state=True)  # tells it the weights by name
        strategy.clock.train_exp_counter = experience.stage
        strategy.clock.train_iterations = experience.first_step
        return strategy

    # -- learning ----------------------------------------------------------------------------------

    def learn(
        self,
        experience: DataStart,
        watch: Watch,
        log: Log,
        pauses: Pauses | None = None,  # noqa: ARG002  # `validate` refuses them here
    ) -> None:
        """Do exactly ``experience.steps`` updates.

        Where the lifecycle is frozen, none is done and ``watch`` is called as if they were.

        Raises:
            Diverged: If a loss is not finite; the update is not done.
        """
        if self.plan.learned(experience.stage) <= experience.stage:
            for step in range(1, experience.steps + 1):
                watch(step)
            self.plan.detach()
            return
        # Before the strategy's own plugins, after the methods'.
        place = len(self.strategy.plugins) - _OWN_PLUGINS
        budget = Budget(experience, watch, log, self.plan.updated)
        self.strategy.plugins.insert(place, budget)
        try:
            with _without_deprecations(), self.plan.learning():
                self.strategy.train(self._data, eval_streams=[])
        finally:
            self.plan.detach()

    # -- acting ------------------------------------------------------------------------------------

    def shown_task(self, task_index: int) -> tuple[int, bool]:
        """Return the task whose head answers, and whether its own view is missing."""
        return self.plan.shown(task_index, has_heads=self.has_heads)

    @property
    def random_spaces(self) -> tuple[()]:
        """No space draws random numbers here."""
        return ()

    @contextmanager
    def view(self, task_index: int) -> Iterator[Any]:
        """Answer as for that task: by its head, and in its view where a method keeps one."""
        network, shown = self.policy, self.shown_task(task_index)[0]
        was_training = [(module, module.training) for module in network.modules()]
        with self.plan.viewing(task_index, self.current_task):
            network.eval()
            try:
                yield Answer(network, shown if self.has_heads else 0, self.device)
            finally:
                for module, training in was_training:
                    module.training = training

    # -- checkpoints -------------------------------------------------------------------------------

    def files(self) -> Files:
        """Return what the next task start needs; each tensor a copy."""
        files = {"policy": {n: _copy(t) for n, t in self.policy.state_dict().items()}}
        if self._keeps_optimizer:
            state, named = self.strategy.optimizer.state, dict(self.policy.named_parameters())
            files["optimizer"] = {
                f"{name}/{quantity}": _copy(value)
                for name, weight in named.items()
                for quantity, value in state.get(weight, {}).items()
                if isinstance(value, Tensor)
            }
        return files

    def load_files(self, files: Files) -> None:
        """Take back what ``files`` gave; the next ``start`` carries it into its network."""
        self._loaded = files

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        state, named = self.strategy.optimizer.state, dict(self.policy.named_parameters())
        for path, tensor in tensors.items():
            name, _, quantity = path.rpartition("/")
            # Adam counts its steps on the CPU, wherever the weights are.
            device = "cpu" if quantity == "step" else self.device
            state[named[name]][quantity] = tensor.to(device, copy=True)

    def load_trained(self, files: Files) -> None:
        """Take the weights of the end of the task that was started."""
        with of_checkpoint("policy"):
            self.policy.load_state_dict(files["policy"])

    def overlaid(self, tensors: Named, statistics: Named) -> AbstractContextManager[None]:  # noqa: ARG002  # a data set has none
        """Return a context that answers with other weights; names left out stay as they are."""
        return overlaid(self.policy, tensors)

    def close(self) -> None:
        """Do nothing: no environment is open."""


_OWN_PLUGINS = 3
"""Plugins at the end of every strategy: its evaluation, its periodic evaluation and its clock."""


class Budget(SupervisedPlugin):  # type: ignore[misc]  # Avalanche ships no types
    """Tells the loop of every update, logs each epoch, and ends the training after the last one."""

    def __init__(
        self, experience: DataStart, watch: Watch, log: Log, updated: Callable[[int], None]
    ) -> None:
        super().__init__()
        self._experience, self._watch, self._log = experience, watch, log
        self._updated = updated
        self._updates = 0
        self._losses: list[float] = []
        self._right: list[float] = []

    def before_update(self, strategy: Any, **_: Any) -> None:
        """Refuse a loss that is not finite."""
        loss = float(strategy.loss.detach())
        if not np.isfinite(loss):
            raise Diverged(
                f"the loss is {loss} at update {self._updates + 1} of task "
                f"{self._experience.task_index}; try a smaller agent.learning_rate"
            )
        self._losses.append(loss)
        answers = strategy.mb_output.argmax(dim=1)
        self._right.append(float((answers == strategy.mb_y).float().mean()))

    def after_training_iteration(self, strategy: Any, **_: Any) -> None:
        """Count an update; stop after the last one."""
        self._updates += 1
        if self._updates == self._experience.steps:
            strategy.stop_training()
        self._watch(self._updates)
        self._updated(self._updates)

    def after_training_epoch(self, strategy: Any, **_: Any) -> None:  # noqa: ARG002  # Avalanche's signature
        """Log the means over the epoch's minibatches."""
        scalars = {"train/loss": np.mean(self._losses), "train/accuracy": np.mean(self._right)}
        step = self._experience.first_step + self._updates
        self._log({name: float(value) for name, value in scalars.items()}, step)
        self._losses, self._right = [], []


class Answer:
    """The network in one task: inputs to the likeliest classes."""

    def __init__(self, network: Any, label: int, device: torch.device) -> None:
        self._network, self.label, self._device = network, label, device

    @torch.no_grad()
    def logits(self, inputs: Any) -> Tensor:
        """Return the logits of inputs, shape (batch, classes)."""
        tensor = torch.as_tensor(inputs, device=self._device)
        labels = torch.full((len(tensor),), self.label, device=self._device)
        found: Tensor = avalanche_forward(self._network, tensor, labels)
        return found

    def __call__(
        self,
        observations: Any,
        state: Any,
        episode_starts: NDArray[np.bool_],  # noqa: ARG002  # as every frozen policy is called
        *,
        deterministic: bool,  # noqa: ARG002  # there is one likeliest class
        action_masks: NDArray[np.bool_] | None = None,  # noqa: ARG002
    ) -> tuple[NDArray[np.int64], Any]:
        """Return the class of each input, shape (batch,)."""
        return self.logits(observations).argmax(dim=1).cpu().numpy(), state


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Drop Avalanche's warnings that its own plugins call what it has deprecated.

    It puts a filter of its own before every such warning, so that no filter of ours is asked.
    """
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught:
        if not str(warning.message).startswith("Call to deprecated function"):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
