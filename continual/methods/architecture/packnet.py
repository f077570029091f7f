"""PackNet."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named, below, flat, is_deviation
from holdfast.agents.doors.lifecycle import Snapshot
from holdfast.agents.doors.outputs import ACTING
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.architecture.freezing import Freezing
from holdfast.continual.methods.imitation import clipped_to
from holdfast.continual.methods.snapshots import Snapshots
from holdfast.errors import UsageError

_PRUNE = "prune"


class PackNet(Method):
    """Packs the tasks into one network: each owns a share of the weights, frozen after it.

    A task learns with every weight that no earlier task owns. Then, in each layer, the largest of
    them by magnitude become its own, the others are set to zero for later tasks, and it trains its
    own alone once more. Owned weights stay bit for bit: an old task is acted on by the weights that
    it and the tasks before it own, the others at zero, so it is never forgotten. Source: Mallya and
    Lazebnik 2018 (arXiv:1711.05769), section 3; in reinforcement learning as Continual World does
    it (Wolczyk et al. 2021, arXiv:2105.10919, appendix B), for the actor and its encoder, with an
    equal share for every stage of the stream.

    Biases and norms learn in the first task only. The heads of ``task_id: heads`` are not packed:
    each learns in its own task; without heads, the output layer is packed like the others, and
    PPO's ``log_std`` and running statistics are kept per task. A task that comes again gets the
    share of its new stage, on top of what it can use already, and is acted on by that from then on.
    The last stage owns all that is left, without pruning. Where nothing of a layer is left for a
    stage (fewer weights than stages, or ``prune: 0``) the stage uses the layer as it is, and learns
    in what is free elsewhere and in its head alone; ``method/packnet/free`` says what is left.

    On-policy, training again takes whole rollouts, at least one where there are two.

    Args:
        retrain: Share of the task's steps after pruning, 0 to 1; .2 by default, as CompoNet
            (arXiv:2506.14811) trains its PackNet.
        retrain_updates: Off-policy: train again by this many further updates on the replay buffer
            after the task instead; Continual World does 100,000.
        clip_norm: Largest gradient norm of the actor's and of the critic's optimizer; None leaves
            it to the algorithm. Continual World clips at 2e-5.
        clip: Updates that ``clip_norm`` bounds: those of ``retraining``, or ``all``, those of every
            task from the first on, as Continual World.
        prune: Share of a layer's free weights that is given up after a task; None for what leaves
            every task an equal share. The paper prunes .5 or .75.
    """

    needs = ("boundaries", "task_id", "evaluation_task_id", "task_count")
    doors = ("gradients", "lifecycle")
    claims = ("views",)
    logs: ClassVar[dict[str, str]] = {"free": "share of the weights that is free"}
    refuses = (("weights", False, "it would drop what tasks own"),)
    work = "retrain_updates"
    off_policy_arguments = ("retrain_updates",)
    memory = "the owner of each weight, however many tasks"
    extra = "retrain_updates after each task but the last, where given"
    convention = "each stage owns an equal share of every layer's weights; actor only"

    def __init__(
        self,
        *,
        retrain: Annotated[float | None, (0, 1)] = None,
        retrain_updates: Annotated[int | None, (0, None)] = None,
        clip_norm: Annotated[float | None, (0, None)] = None,
        clip: Literal["retraining", "all"] = "retraining",
        prune: Annotated[float | None, (0, 1)] = None,
    ) -> None:
        if retrain is not None and retrain_updates is not None:
            raise UsageError("method packnet: retrain and retrain_updates exclude each other")
        self.retrain = retrain if retrain is not None else 0.2 if retrain_updates is None else 0.0
        self.retrain_updates = retrain_updates or 0
        self.clip_norm, self._clips_all = clip_norm, clip == "all"
        self.prune = prune
        self._owners: Named = {}  # 0: nobody; k + 1: stage k
        self._stages: dict[int, int] = {}  # the last stage of each task
        self._kept = Snapshots()
        self._stage, self._left, self._steps = 0, 1, 0
        self._held: Freezing | None = None
        self._is_begun = self._is_pruned = False

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Freeze what earlier stages own in the coming task, and prune in good time."""
        if "weights" not in doors.facts.carries:
            raise UsageError("method packnet: carry.weights: false would drop what tasks own")
        if self.retrain_updates and doors.facts.on_policy:
            raise UsageError("method packnet.retrain_updates: needs a replay buffer; use retrain")
        doors.lifecycle.keep_views()
        if self._owners and all(bool((owner > 0).all()) for owner in self._owners.values()):
            doors.warn(
                f"packnet has no free weights left at task {experience.stage + 1}, which learns in "
                "nothing but a head of its own; raise prune or widen policy_kwargs.net_arch"
            )
        self._stage, self._left = experience.stage, experience.task_count - experience.stage
        self._steps, self._is_begun, self._is_pruned = experience.steps, False, False
        self._open(doors)

    def _open(self, doors: Doors) -> None:
        self._held = Freezing(doors.gradients, lambda: self._free(doors))
        if self.clip_norm is not None:
            doors.gradients.project(
                partial(clipped_to, norm=self.clip_norm),
                batch=lambda _: {} if self._is_clipped else None,
            )

    @property
    def _is_clipped(self) -> bool:
        return self._clips_all or (self._is_pruned and self._left > 1)

    def _free(self, doors: Doors) -> Named:
        """Return what may learn from the next update on; the first one begins the task."""
        if not self._is_begun:
            self._begin(doors)
            due = _pruning_step(doors, self._steps, self.retrain)
            doors.lifecycle.after_steps(due, _PRUNE)
        return self._masks(doors)

    def _begin(self, doors: Doors) -> None:
        self._is_begun = True
        for name, kernel in _kernels(doors).items():
            if name not in self._owners:
                self._owners[name] = torch.zeros_like(kernel, dtype=torch.int16)

    def _masks(self, doors: Doors) -> Named:
        """Return what may learn now: of the kernels, what nobody owns, or this stage once it does.

        Biases and norms learn in the first task, a head in its own.
        """
        owner = self._stage + 1 if self._is_pruned else 0
        free: Named = {}
        for name, parameter in doors.gradients.parameters(*ACTING).items():
            rows = doors.gradients.task_rows(name, doors.facts.current_task)
            if rows is not None:
                free[name] = rows
            elif name in self._owners:
                free[name] = self._owners[name] == owner
            elif self._stage > 0 and not is_deviation(name):
                free[name] = torch.zeros_like(parameter, dtype=torch.bool)
        return free

    def due(self, doors: Doors, name: str) -> None:
        """Give this stage its share of every kernel and set what is left to zero."""
        kept: Named = {}
        for kernel_name, kernel in _kernels(doors).items():
            owner = self._owners[kernel_name]
            free = owner == 0
            count = share(int(free.sum()), self._left, self.prune)
            owner[largest(kernel, free, count)] = self._stage + 1
            kept[kernel_name] = kernel.masked_fill(owner == 0, 0.0)
        doors.lifecycle.write(kept)
        free_count = sum(int((owner == 0).sum()) for owner in self._owners.values())
        total = sum(owner.numel() for owner in self._owners.values())
        doors.log("method/packnet/free", free_count / total)
        self._is_pruned = True
        assert self._held is not None
        self._held.restart()

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Train again where it is done after the task, and keep what the task's view needs."""
        if not self._is_begun:  # no update was due in so short a task
            self._begin(doors)
        if not self._is_pruned:
            self.due(doors, _PRUNE)
        if self.retrain_updates and self._left > 1:
            self._open(doors)
            doors.gradients.train_more(self.retrain_updates)
        assert self._held is not None
        self._held.write(doors)
        task, own = doors.facts.current_task, doors.lifecycle.buffers(*ACTING)
        for name, tensor in doors.gradients.parameters(*ACTING).items():
            if is_deviation(name) and doors.gradients.task_rows(name, task) is None:
                own[name] = tensor
        self._kept.keep(doors, task, own)
        self._stages[task] = self._stage
        self._keep_view(doors, task)
        self._held = None

    def _keep_view(self, doors: Doors, task: int) -> None:
        def shown() -> Snapshot:
            last = self._stages[task] + 1
            tensors = {
                name: torch.where((owner > 0) & (owner <= last), kernel, 0.0)
                for name, kernel in _kernels(doors).items()
                if (owner := self._owners.get(name)) is not None
            }
            return self._kept.of(task, tensors)

        doors.lifecycle.keep_view(task, shown)

    def state(self) -> dict[str, Tensor]:
        """Return the owner of each weight, each task's last stage, and what its view needs.

        Inside a task also how far that is.
        """
        inside = {}
        if self._held is not None:
            now = {"begun": self._is_begun, "pruned": self._is_pruned}
            inside = {"inside": {**now, "held": self._held.state()}}
        # One tensor, not one for each task.
        stages = {"stages": torch.tensor([*self._stages.items()])} if self._stages else {}
        kept = {"owner": self._owners, "kept": self._kept.kept}
        return flat(kept | stages | inside)

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` returned and register the views."""
        self._kept.load(below(tensors, "kept"))
        self._owners = below(tensors, "owner", doors.facts.device)
        stages = below(tensors, "stage").items()  # of a version with a tensor for each task
        self._stages = {int(task): int(stage) for task, stage in tensors.get("stages", stages)}
        doors.lifecycle.keep_views()
        for task in self._stages:
            self._keep_view(doors, task)
        if inside := below(tensors, "inside"):
            assert self._held is not None  # pre_adapt came before
            self._is_begun, self._is_pruned = bool(inside["begun"]), bool(inside["pruned"])
            self._held.load(below(inside, "held"), doors.facts.device)


def share(free: int, stages_left: int, prune: float | None) -> int:
    """Return how many of a layer's free weights a stage gets; the last stage gets them all.

    >>> free, owned = 256 * 256, []
    >>> for left in range(10, 0, -1):
    ...     owned.append(share(free, left, None))
    ...     free -= owned[-1]
    >>> free, min(owned), max(owned)  # a tenth each
    (0, 6553, 6554)
    >>> [share(free, 9, 0.75) for free in (10_000, 7_500)]  # the paper: 25 %, then 18.75 %
    [2500, 1875]
    """
    if stages_left <= 1:
        return free
    return round(free / stages_left if prune is None else free * (1 - prune))


def largest(weights: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Return a mask of the ``count`` candidates that are largest by magnitude.

    >>> weights = torch.tensor([[0.1, -4.0], [3.0, 0.2]])
    >>> candidates = torch.tensor([[True, False], [True, True]])
    >>> largest(weights, candidates, 2).tolist()
    [[False, False], [True, True]]
    """
    magnitudes = weights.abs().masked_fill(~candidates, -1.0).flatten()
    chosen = torch.zeros_like(candidates).flatten()
    # A stable sort: among equals, the zeros of a fresh share, the first ones everywhere.
    chosen[magnitudes.argsort(descending=True, stable=True)[:count]] = True
    return chosen.view_as(candidates)


def _pruning_step(doors: Doors, steps: int, retrain: float) -> int:
    """Return the step of the task after which to prune, so that enough of it is left."""
    due = round(steps * (1 - retrain))
    if not doors.facts.on_policy:
        return due
    rollout = doors.facts.round_steps
    whole = max(rollout, due // rollout * rollout)
    return whole if retrain else steps


def _kernels(doors: Doors) -> Named:
    """Return what is packed: the matrices and filters of actor and encoder, without task heads."""
    return {
        name: parameter
        for name, parameter in doors.gradients.parameters(*ACTING).items()
        if parameter.dim() > 1
        and not is_deviation(name)
        and doors.gradients.task_rows(name, 0) is None
    }
