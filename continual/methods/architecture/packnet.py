"""PackNet."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from holdfast.agents.doors.gradients import Named, group_of, named_parameters
from holdfast.agents.sb3.heads import head_tasks, is_deviation, rows_of
from holdfast.continual.method import Method
from holdfast.continual.methods.architecture.freezing import Freezing
from holdfast.continual.methods.architecture.task_snapshots import Kept
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.task_stream import TaskExperience


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
        clip_norm: Largest gradient norm of each optimizer while training again; None leaves it to
            the algorithm. Continual World clips at 2e-5.
        prune: Share of a layer's free weights that is given up after a task; None for what leaves
            every task an equal share. The paper prunes .5 or .75.
    """

    needs: ClassVar[tuple[str, ...]] = ("boundaries", "task_id", "evaluation_task_id", "task_count")
    doors: ClassVar[tuple[str, ...]] = ("gradients", "lifecycle")
    claims: ClassVar[tuple[str, ...]] = ("views",)
    limits: ClassVar[dict[str, tuple[float, float | None]]] = {
        "retrain": (0, 1),
        "retrain_updates": (0, None),
        "clip_norm": (0, None),
        "prune": (0, 1),
    }
    logs: ClassVar[dict[str, str]] = {"free": "share of the weights that is free"}
    memory: ClassVar[str] = "the owner of each weight, however many tasks"
    extra: ClassVar[str] = "retrain_updates after each task but the last, where given"
    convention: ClassVar[str] = (
        "each stage owns an equal share of every layer's weights; actor only"
    )

    def __init__(
        self,
        *,
        retrain: float | None = None,
        retrain_updates: int | None = None,
        clip_norm: float | None = None,
        prune: float | None = None,
    ) -> None:
        if retrain is not None and retrain_updates is not None:
            raise UsageError("method packnet: retrain and retrain_updates exclude each other")
        self.retrain = retrain if retrain is not None else 0.2 if retrain_updates is None else 0.0
        self.retrain_updates = retrain_updates or 0
        self.clip_norm = clip_norm
        self.prune = prune
        self._owners: Named = {}  # 0: nobody; k + 1: stage k
        self._stages: dict[int, int] = {}  # the last stage of each task
        self._kept = Kept()
        self._stage, self._left = 0, 1
        self._held: Freezing | None = None
        self._is_pruned = False

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Freeze what earlier stages own in the coming task, and prune in good time."""
        if not agent.scenario.carry.weights:
            raise UsageError("method packnet: carry.weights: false would drop what tasks own")
        if self.retrain_updates and agent.algorithm.on_policy:
            raise UsageError("method packnet.retrain_updates: needs a replay buffer; use retrain")
        agent.lifecycle.has_views = True
        if self._owners and all(bool((owner > 0).all()) for owner in self._owners.values()):
            agent.notices.append(
                f"packnet has no free weights left at task {experience.stage + 1}, which learns in "
                "nothing but a head of its own; raise prune or widen policy_kwargs.net_arch"
            )
        self._stage, self._left = experience.stage, experience.task_count - experience.stage
        self._held, self._is_pruned = None, False
        steps = experience.steps

        def factors(parameters: Named) -> Named:
            if self._held is None:  # the first update: the task's model exists now
                self._begin(agent)
                due = _pruning_step(agent, steps, self.retrain)
                agent.lifecycle.after_steps(due, partial(self._prune, agent))
            assert self._held is not None
            return self._held.factors(parameters)

        agent.gradients.scale(factors)
        self._open(agent)

    def _open(self, agent: StableBaselinesAgent) -> None:
        agent.gradients.rewrite(lambda named: self._held.restore(named) if self._held else None)
        if self.clip_norm is not None:
            agent.gradients.project(self._clip)

    def _clip(self, _: Named, gradients: Named) -> Named:
        assert self.clip_norm is not None
        if not self._is_pruned or self._left == 1:
            return {}
        norm = torch.nn.utils.get_total_norm(gradients.values())
        scale = torch.clamp(self.clip_norm / (norm + 1e-6), max=1.0)
        return {name: gradient * scale for name, gradient in gradients.items()}

    def _begin(self, agent: StableBaselinesAgent) -> None:
        for name, kernel in _kernels(agent).items():
            if name not in self._owners:
                self._owners[name] = torch.zeros_like(kernel, dtype=torch.int16)
        self._hold(agent, owner=0)

    def _hold(self, agent: StableBaselinesAgent, owner: int) -> None:
        """Freeze all that may not learn now: of the kernels, what ``owner`` does not own."""
        free: Named = {}
        for name, parameter in named_parameters(agent.policy, "actor", "encoder").items():
            tasks = head_tasks(agent.policy, name)
            if tasks:
                free[name] = rows_of(parameter, agent.current_task, tasks)
            elif name in self._owners:
                free[name] = self._owners[name] == owner
            elif self._stage > 0 and not is_deviation(name):
                free[name] = torch.zeros_like(parameter, dtype=torch.bool)
        self._held = Freezing(free)

    @torch.no_grad()
    def _prune(self, agent: StableBaselinesAgent) -> None:
        """Give this stage its share of every kernel and set what is left to zero."""
        for name, kernel in _kernels(agent).items():
            owner = self._owners[name]
            free = owner == 0
            count = share(int(free.sum()), self._left, self.prune)
            owner[largest(kernel, free, count)] = self._stage + 1
            kernel.masked_fill_(owner == 0, 0.0)
        free_count = sum(int((owner == 0).sum()) for owner in self._owners.values())
        total = sum(owner.numel() for owner in self._owners.values())
        agent.log("method/packnet/free", free_count / total)
        self._hold(agent, owner=self._stage + 1)
        self._is_pruned = True

    def post_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Train again where it is done after the task, and keep what the task's view needs."""
        if self._held is None:  # no update was due in so short a task
            self._begin(agent)
        if not self._is_pruned:
            self._prune(agent)
        assert self._held is not None
        if self.retrain_updates and self._left > 1:
            agent.gradients.scale(self._held.factors)
            self._open(agent)
            agent.train_more(self.retrain_updates)
        self._held.write({n: p.detach() for n, p in named_parameters(agent.policy).items()})
        task, policy = agent.current_task, agent.policy
        shared = [*policy.named_buffers(), *policy.named_parameters()]
        own = {
            name: tensor
            for name, tensor in shared
            if group_of(name, policy) in ("actor", "encoder")
            and (is_deviation(name) or not isinstance(tensor, torch.nn.Parameter))
            and not head_tasks(agent.policy, name)
        }
        self._kept.keep(agent, task, own)
        self._stages[task] = self._stage
        agent.lifecycle.keep_view(task, partial(self._view, agent, task))

    def _view(self, agent: StableBaselinesAgent, task: int) -> AbstractContextManager[None]:
        last = self._stages[task] + 1
        tensors = {
            name: torch.where((owner > 0) & (owner <= last), kernel, 0.0)
            for name, kernel in _kernels(agent).items()
            if (owner := self._owners.get(name)) is not None
        }
        return self._kept.overlaid(agent, task, tensors)

    def state(self) -> dict[str, Tensor]:
        """Return the owner of each weight, each task's last stage, and what its view needs."""
        owners = {f"owner/{name}": owner for name, owner in self._owners.items()}
        stages = {f"stage/{task}": torch.tensor(stage) for task, stage in self._stages.items()}
        return owners | stages | self._kept.state()

    def load_state(self, agent: StableBaselinesAgent, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` returned and register the views."""
        self._kept.load_state(tensors)
        agent.lifecycle.has_views = True
        for path, tensor in tensors.items():
            kind, _, name = path.partition("/")
            if kind == "owner":
                self._owners[name] = tensor.to(agent.device)
            elif kind == "stage":
                self._stages[int(name)] = int(tensor)
                agent.lifecycle.keep_view(int(name), partial(self._view, agent, int(name)))


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


def _pruning_step(agent: StableBaselinesAgent, steps: int, retrain: float) -> int:
    """Return the step of the task after which to prune, so that enough of it is left."""
    due = round(steps * (1 - retrain))
    if not agent.algorithm.on_policy:
        return due
    rollout = agent.model.n_steps * agent.model.n_envs
    whole: int = max(rollout, due // rollout * rollout)
    return whole if retrain else steps


def _kernels(agent: StableBaselinesAgent) -> dict[str, torch.nn.Parameter]:
    """Return what is packed: the matrices and filters of actor and encoder, without task heads."""
    return {
        name: parameter
        for name, parameter in named_parameters(agent.policy, "actor", "encoder").items()
        if parameter.dim() > 1 and not is_deviation(name) and not head_tasks(agent.policy, name)
    }
