"""CompoNet: policies that compose themselves of earlier ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from holdfast.agents.base.parameters import ENTROPY_COEFFICIENT
from holdfast.agents.doors.networks import SHARED, Slot
from holdfast.agents.doors.outputs import OutputSpec
from holdfast.continual.method import Doors, Experience
from holdfast.continual.methods.architecture.progressive import Columns, Growing, to_buffers
from holdfast.continual.methods.snapshots import DEVIATION
from holdfast.errors import UsageError


@dataclass(kw_only=True, eq=False)
class CompoNet(Growing):
    """Gives every task a new policy module, which composes what the frozen earlier modules say.

    The first module is the plain policy. With the observation s, and Phi the matrix whose rows are
    the outputs of the k - 1 earlier modules (normalised: probabilities for discrete actions, the
    mean as it is for boxes), module k computes::

        v      = attention(s W_q, (Phi + E) W_k, Phi)           output attention head
        P      = Phi with v as one row more
        c      = attention(s U_q, (P + E) U_k, P U_v)           input attention head
        output = v + internal_policy([s, c])                    then normalised

    with attention(q, K, V) = softmax(q K^T / sqrt(d_model)) V and the cosine positions E. Source:
    Malagon, Ceberio and Lozano 2024 (arXiv:2506.14811), section 4. The order of P's rows, which
    the positions see, is that of the authors' implementation. SAC's log_std is a second head of
    the internal policy; the authors give it a network of its own.

    Only the actor grows, linearly with the tasks: two attention heads and an internal policy of the
    sizes in ``net_arch`` a task. Critic, PPO's ``log_std`` and SAC's entropy coefficient begin
    with every task, as the authors' agents do. A task is acted on by its own module, so it is never
    forgotten; a task that comes again gets a new one. While a task is learned, all modules see
    observations normalised by its statistics; those of a finished task are kept for it.

    Args:
        d_model: Width of queries, keys and what the input head gives; None for the width of the
            last hidden layer, as the authors have it (256 in Meta-World, 512 in Atari).
    """

    doors = ("networks", "lifecycle", "output")
    algorithms = ("ppo", "a2c", "maskable_ppo", "sac", "tqc", "mappo")
    refuses = (("weights", False, "it would drop earlier modules"),)
    grows = "networks"
    memory = "one actor and two attention heads per task"

    d_model: Annotated[int | None, (1, None)] = None

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Build the coming model with one more module, and all else of it new."""
        if "weights" not in doors.facts.carries:
            raise UsageError("method componet: carry.weights: false would drop earlier modules")
        doors.lifecycle.keep_views()
        doors.lifecycle.start_fresh(DEVIATION, ENTROPY_COEFFICIENT)
        doors.lifecycle.start_fresh_where(is_critic)
        self._grown = Columns()
        doors.networks.map(self._modules, method="componet", encoder=SHARED)

    def _modules(self, slot: Slot) -> tuple[nn.Module, dict[str, nn.Module]] | None:
        if slot.role != "actor":
            return None
        assert slot.spec is not None  # the output door is open
        (acts,) = set(slot.heads) - {DEVIATION}
        heads = {
            name: ComposingHead(head, len(self._tasks) + 1, composes=name == acts)
            for name, head in slot.heads.items()
        }
        modules: list[nn.Module] = [slot.trunk]
        if self._tasks:
            newest = compose(slot, self.d_model or heads[acts].width)
            modules += [copy.deepcopy(newest) for _ in self._tasks[1:]] + [newest]
        trunk = ComposingTrunk(modules, heads[acts], partial(normalized, slot.spec))
        self._grown.parts += [trunk, *heads.values()]
        return trunk, dict(heads)

    def _number(self, module: int) -> int:
        return self._tasks[module]


def is_critic(name: str) -> bool:
    """Return whether a tensor of a policy belongs to a critic or its target."""
    return name.startswith(("critic.", "critic_target.", "value_net.", "mlp_extractor.value_net."))


class ComposingTrunk(nn.Module):
    """Modules up to the active one; gives its last hidden layer, with its tentative output after.

    Frozen modules are buffers, which no optimizer, clipping or moving average goes through.

    Args:
        modules: The first takes the observation alone, the others are ``SelfComposing``.
        head: Makes a module's output of what the module gives. The policy owns it as the slot's.
        normalize: Makes of an output, shape (batch, n), the row that later modules see.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        head: ComposingHead,
        normalize: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.count, self.active = len(modules), len(modules) - 1
        self.policies = nn.ModuleList(modules)
        for frozen in self.policies[:-1]:
            to_buffers(frozen)
        self._head = (head,)  # in a tuple, so that its tensors have one name in the policy
        self._normalize = normalize
        encoding = positions(self.count, head.outputs)
        self.register_buffer("positions", encoding, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return shape (batch, width), or (batch, width + n) where the active module composes."""
        rows: list[Tensor] = []
        hidden: Tensor = self.policies[0](inputs)
        for module in range(1, self.active + 1):
            rows.append(self._normalize(self._head[0].output(hidden, module - 1)))
            said = torch.stack(rows, -2)  # Phi: (batch, module, n)
            hidden = self.policies[module](inputs, said, self.positions)
        return hidden


class ComposingHead(nn.Module):
    """One linear head per module, whose output the module's tentative output is added to.

    Args:
        head: The newly built head; it becomes that of the newest module.
        count: Number of modules; the heads of all but the newest are frozen.
        composes: Whether the tentative output is added.
    """

    def __init__(self, head: nn.Linear, count: int, *, composes: bool) -> None:
        super().__init__()
        self.count, self.active, self.composes = count, count - 1, composes
        self.width, self.outputs = head.in_features, head.out_features
        self.heads = nn.ModuleList([copy.deepcopy(head) for _ in range(count - 1)] + [head])
        for frozen in self.heads[:-1]:
            to_buffers(frozen)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the active module's output, shape (batch, n), from what its trunk gives."""
        return self.output(hidden, self.active)

    def output(self, hidden: Tensor, module: int) -> Tensor:
        """Return a module's output before it is normalised, shape (batch, n)."""
        own: Tensor = self.heads[module](hidden[..., : self.width])
        return own + hidden[..., self.width :] if module and self.composes else own


class SelfComposing(nn.Module):
    """A module after the first, up to its last hidden layer.

    Args:
        policy: The internal policy's hidden layers; it takes ``features + d_model`` inputs.
        features: Width of the observation.
        outputs: Width of a policy's output.
        d_model: Width of queries and keys.
    """

    def __init__(self, policy: nn.Sequential, features: int, outputs: int, d_model: int) -> None:
        super().__init__()
        self.output_head = AttentionHead(features, outputs, d_model)
        self.input_head = AttentionHead(features, outputs, d_model, has_values=True)
        self.policy = policy

    def forward(self, state: Tensor, said: Tensor, encoding: Tensor) -> Tensor:
        """Return the last hidden layer with the tentative output after it, (batch, width + n).

        Args:
            state: Shape (batch, features).
            said: What earlier modules say, normalised, shape (batch, k - 1, n).
            encoding: Of the positions, at least k of them, shape (positions, n).
        """
        tentative = self.output_head(state, said, encoding)
        rows = torch.cat([said, tentative.unsqueeze(-2)], -2)  # P: (batch, k, n)
        retrieved = self.input_head(state, rows, encoding)  # (batch, d_model)
        return torch.cat([self.policy(torch.cat([state, retrieved], -1)), tentative], -1)


class AttentionHead(nn.Module):
    """Scaled dot-product attention of the observation to rows of outputs.

    Without biases, as the equations have it; the authors' implementation has them.

    Args:
        features: Width of the observation.
        outputs: Width of a row.
        d_model: Width of query and keys.
        has_values: Whether the values are a linear map of the rows to ``d_model``, not the rows.
    """

    def __init__(
        self, features: int, outputs: int, d_model: int, *, has_values: bool = False
    ) -> None:
        super().__init__()
        self.query = nn.Linear(features, d_model, bias=False)
        self.key = nn.Linear(outputs, d_model, bias=False)
        self.value = nn.Linear(outputs, d_model, bias=False) if has_values else nn.Identity()
        self.scale = 1 / math.sqrt(d_model)

    def forward(self, state: Tensor, rows: Tensor, encoding: Tensor) -> Tensor:
        """Return the weighted mean of the values, shape (batch, n) or (batch, d_model)."""
        keys = self.key(rows + encoding[: rows.shape[-2]])  # (batch, rows, d_model)
        scores = keys @ self.query(state).unsqueeze(-1)  # (batch, rows, 1)
        weights = (self.scale * scores).softmax(-2)
        mixed: Tensor = (weights * self.value(rows)).sum(-2)
        return mixed


def compose(slot: Slot, d_model: int) -> SelfComposing:
    """Return a new module with an internal policy of the shape and initialisation of a slot's.

    Raises:
        UsageError: If the slot has no hidden layer to begin with.
    """
    layers = [*slot.trunk]
    if not layers or not isinstance(layers[0], nn.Linear):
        raise UsageError(
            "method componet: needs a linear hidden layer first (policy_kwargs.net_arch)"
        )
    wider = nn.Linear(slot.features + d_model, layers[0].out_features)
    slot.initialise(wider)
    (outputs,) = {head.out_features for head in slot.heads.values()}
    # Copies, because the layers after the first are the first module's as well.
    internal = nn.Sequential(wider, *copy.deepcopy(layers[1:]))
    return SelfComposing(internal, slot.features, outputs, d_model)


def normalized(spec: OutputSpec, output: Tensor) -> Tensor:
    """Return an output as later modules see it: probabilities, or a Gaussian's mean as it is.

    >>> normalized(OutputSpec("categorical", [2, 1]), torch.tensor([[0.0, 0.0, 3.0]]))
    tensor([[0.5000, 0.5000, 1.0000]])
    """
    if spec.kind == "categorical":
        parts = torch.split(output, spec.splits, -1)
        return torch.cat([part.softmax(-1) for part in parts], -1)
    return torch.sigmoid(output) if spec.kind == "bernoulli" else output


def positions(count: int, width: int) -> Tensor:
    """Return the cosine encodings of the first positions, shape (count, width).

    PE(p, 2i) = sin(p / 10000^(2i / width)), PE(p, 2i + 1) = cos of the same. Source: Vaswani et
    al. 2017 (arXiv:1706.03762), section 3.5.
    """
    place = torch.arange(count, dtype=torch.float64).unsqueeze(-1)  # (count, 1)
    column = torch.arange(width, dtype=torch.float64)
    angle = place / 10_000 ** (2 * (column // 2) / width)  # (count, width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()
