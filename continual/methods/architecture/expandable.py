"""An expandable agent: episodic memory, consolidation, distillation and modules that are added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.agents.base.parameters import Named, below, flat, snapshot
from holdfast.agents.doors.networks import SHARED, Slot
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.architecture.freezing import Freezing
from holdfast.continual.methods.architecture.progressive import Columns
from holdfast.continual.methods.regularization.ewc import EWC
from holdfast.continual.methods.rehearsal.cloning import Cloning
from holdfast.continual.methods.snapshots import DEVIATION, Snapshots, deviation_of

_DECIDE = "decide"


@dataclass(kw_only=True, eq=False)
class Expandable(Method):
    """Lets tasks share a module while they can, and adds one where a task stays unlearned.

    A module is a column of actor and critic, fed by the frozen modules before it (Rusu et al. 2016,
    arXiv:1606.04671, equation 1). A new task is tried with the newest module, whose earlier tasks
    are protected meanwhile: an episodic memory of their observations and of what the policy said
    there is distilled into it (the loss of ``cloning``), and its weights are consolidated (online
    EWC: Schwarz et al. 2018, arXiv:1805.06370). If the task stays unlearned, that is, if the mean
    score of its last training episodes is below ``threshold`` once ``patience`` of its steps are
    taken, the module gets back the weights that it had before the task, is frozen for good, and a
    new module is opened for what is left of the task and for the tasks after it. Frozen modules
    need no memory, so that what is stored belongs to the newest module alone. Expanding only where
    learning falls short is the idea of Yoon et al. 2018, Dynamically Expandable Networks
    (arXiv:1708.01547), there by neurons and by the loss.

    A task is acted on through the module that learned it; one that comes again is learned as if it
    were new. No live network grows: a spare module is built at the start of every task but the
    first, stands beside the others, unused and untrained, and is opened or dropped.

    The extremes are other methods: ``threshold: -1e9`` never adds a module (online EWC with
    cloning), and ``threshold: 1e9, patience: 0`` adds one for every task (progressive networks).

    Args:
        threshold: Score below which a task counts as unlearned; .5 is half way from a random
            policy to the reference.
        patience: Share of a task's steps after which that is decided.
        episodes: Training episodes that the score is the mean of; where none has ended yet, no
            module is added.
        max_modules: Most modules there may be; None for any number.
        distillation: Strength of the loss on the episodic memory, as of ``cloning``.
        consolidation: Strength of the penalty on the module's weights, as of ``ewc``.
        samples: Observations kept per task of the newest module, for both.
    """

    needs = ("boundaries", "task_id", "evaluation_task_id", "score")
    doors = ("gradients", "networks", "lifecycle", "output", "memory")
    acts_by = ("newest", "module", "kept")
    claims = ("views",)
    logs: ClassVar[dict[str, str]] = {"score": "score while training", "modules": "modules"}
    memory = (
        "10,000 observations and policy outputs per task of the newest module (`samples`), "
        "2 numbers per weight of it, and the modules"
    )
    extra = "one backward pass per kept observation after each task"
    convention = (
        "distillation as of cloning, consolidation as of online ewc; both on the newest module"
    )

    threshold: float = 0.5
    patience: Annotated[float, (0, 1)] = 0.4
    episodes: Annotated[int, (1, 100)] = 20
    max_modules: Annotated[int | None, (1, None)] = None
    distillation: Annotated[float, (0, None)] = 1.0
    consolidation: Annotated[float, (0, None)] = 100.0
    samples: Annotated[int, (1, None)] = 10_000

    def __post_init__(self) -> None:
        cloning = Cloning(strength=self.distillation, samples=self.samples)
        ewc = EWC(strength=self.consolidation, kind="online", samples=self.samples)
        self.parts: list[Cloning | EWC] = [part for part in (cloning, ewc) if part.strength]
        self._newest = 0  # module that the last task was learned with
        self._modules: dict[int, int] = {}  # of each task
        self._kept = Snapshots()  # by module
        self._grown = Columns()
        self._has_spare = False
        self._is_expanded = False
        self._before: Named = {}
        self._held: Freezing | None = None

    # -- a task ------------------------------------------------------------------------------------

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Protect the newest module's tasks, and let a spare module be built beside it."""
        doors.lifecycle.keep_views()
        doors.lifecycle.start_fresh(DEVIATION)  # of each task, as every policy's exploration
        full = self.max_modules is not None and self._newest + 1 >= self.max_modules
        self._has_spare = bool(self._modules) and not full
        self._is_expanded, self._before, self._held = False, {}, None
        self._grown = Columns()
        doors.networks.map(self._columns, method="expandable", encoder=SHARED)
        for part in self.parts:
            part.pre_adapt(doors, experience)
        if self._has_spare:
            self._held = Freezing(doors.gradients, lambda: self._free(doors))
            doors.lifecycle.after_steps(round(self.patience * experience.steps), _DECIDE)

    def _columns(self, slot: Slot) -> tuple[nn.Module, dict[str, nn.Module]]:
        count, learning = self._newest + 1 + self._has_spare, 1 + self._has_spare
        made = self._grown.of(slot, count=count, adapter="linear", learning=learning)
        self._grown.act_with(self._newest)
        return made

    def _free(self, doors: Doors) -> Named:
        """Note the newest module as it is before its first update; hold it once it is frozen."""
        if self._is_expanded:
            return {n: torch.zeros_like(v, dtype=torch.bool) for n, v in self._before.items()}
        if not self._before:
            self._before = snapshot(_module(doors, self._newest))
        return {}

    def due(self, doors: Doors, name: str) -> None:
        """Decide whether the task needs a module of its own."""
        scores = doors.lifecycle.recent_scores(self.episodes)
        if scores:
            doors.log("method/expandable/score", float(np.mean(scores)))
        if scores and np.mean(scores) < self.threshold:
            self._expand(doors)
        doors.log("method/expandable/modules", self._newest + 1)

    def _expand(self, doors: Doors) -> None:
        """Undo the attempt, freeze the module for good, and go on with the spare one."""
        assert self._held is not None
        doors.lifecycle.write(self._before)
        self._is_expanded = True
        self._held.restart()
        for part in self.parts:
            part.forget()
        self._newest += 1
        self._grown.act_with(self._newest)

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Store and consolidate the finished task for its module, and keep its view."""
        if self._held is not None:
            self._held.write(doors)
        for part in self.parts:
            part.post_adapt(doors, experience)
        self._kept.keep(doors, self._newest, deviation_of(doors))
        self._modules[doors.facts.current_task] = self._newest
        self._keep_view(doors, doors.facts.current_task)
        self._is_expanded, self._before, self._held = False, {}, None

    def _keep_view(self, doors: Doors, task: int) -> None:
        doors.lifecycle.keep_view(
            task,
            lambda: self._kept.of(self._modules[task]),
            inside=lambda: self._grown.acting(self._modules[task]),
        )

    # -- state -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Return the module of each task, what views need, and the state of both parts.

        Inside a task also how the attempt with the newest module goes.
        """
        parts = {index: part.state() for index, part in enumerate(self.parts)}
        own = {"newest": self._newest, "module": self._modules}
        inside: dict[str, Any] = {}
        if self._held is not None:
            held = self._held.state()
            inside = {"expanded": self._is_expanded, "before": self._before, "held": held}
        return flat({**own, "part": parts, "kept": self._kept.kept, "inside": inside})

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` returned and register the views."""
        doors.lifecycle.keep_views()
        self._newest = int(tensors["newest"])
        self._kept.load(below(tensors, "kept"))
        for index, part in enumerate(self.parts):
            part.forget()
            part.load_state(doors, below(tensors, f"part/{index}"))
        self._modules = {int(task): int(m) for task, m in below(tensors, "module").items()}
        for task in self._modules:
            self._keep_view(doors, task)
        # Opened for acting: the last task may have added a module.
        self._grown.act_with(self._newest)
        if inside := below(tensors, "inside", doors.facts.device):
            assert self._held is not None  # pre_adapt came before
            self._is_expanded = bool(inside["expanded"])
            self._before = below(inside, "before")
            self._held.load(below(inside, "held"), doors.facts.device)


def _module(doors: Doors, number: int) -> Named:
    """Return the parameters of one module, by their names in the policy."""
    places = (f".columns.{number}.", f".heads.{number}.", f".adapters.{number - 1}.")
    return {
        name: parameter
        for name, parameter in doors.gradients.parameters().items()
        if any(place in name for place in places)
    }
