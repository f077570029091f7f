"""CKA-RL: task vectors over a base, which later tasks mix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.agents.base.parameters import ENTROPY_COEFFICIENT, Named, below, flat, snapshot
from holdfast.agents.doors.networks import Slot
from holdfast.agents.doors.outputs import ACTING
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.architecture.componet import is_critic
from holdfast.continual.methods.snapshots import DEVIATION, Snapshots
from holdfast.errors import UsageError

MIXTURE = "mixture"
"""Name of the mixture inside the layer that owns it."""

VECTORS = "_vectors"
"""After the name of a tensor, that of the earlier vectors' tensors."""


@dataclass(kw_only=True, eq=False)
class CkaRl(Method):
    """Learns each task as a vector over a common base, beside a mixture of the earlier vectors.

    The weights after the first task are the base. Those of every layer of the actor are in task k::

        theta_k = theta_base + sum over j of softmax(s alpha)_j v_j + v_k

    where the base and the earlier vectors v_j are fixed; v_k, which starts at zero, the mixture's
    logits alpha and their scale s are learned. At the task's end v_k joins the pool. Where that has
    more than ``pool_size`` then, the two vectors with the greatest cosine similarity become their
    mean. Source: Hu et al. 2025 (arXiv:2510.19314); form of the softmax, start of alpha (a standard
    normal over the size of the pool) and of s (1), the first task's vector (zero): the authors'
    code, which adapts the output layers alone and carries what lies before them, merges layer by
    layer, and gives alpha an optimizer of its own at the policy's learning rate.

    Only the actor is mixed; an encoder is carried on. Critic, PPO's ``log_std`` and SAC's entropy
    coefficient begin with every task, as the authors' agents do. The weights that a task ended with
    are kept for it, as the authors keep every task's agent, so it is never forgotten.

    Args:
        pool_size: Most vectors that are kept; the authors' code has 3 for Atari, 9 for Meta-World.
    """

    needs = ("boundaries", "task_id", "evaluation_task_id")
    doors = ("networks", "lifecycle")
    algorithms = ("ppo", "a2c", "maskable_ppo", "sac", "tqc", "mappo")
    claims = ("views", "weights")
    refuses = (("weights", False, "it would drop the base"),)
    grows = "networks"
    memory = "one actor per task, and 9 more (`pool_size`)"

    pool_size: Annotated[int, (1, None)] = 9
    _base: Named = field(init=False, default_factory=dict)
    _pool: list[Named] = field(init=False, default_factory=list)
    _kept: Snapshots = field(init=False, default_factory=Snapshots)
    _mixture: Mixture | None = field(init=False, default=None)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Begin the coming task at the base, with a mixture of what is in the pool."""
        if "weights" not in doors.facts.carries:
            raise UsageError("method cka-rl: carry.weights: false would drop the base")
        doors.lifecycle.keep_views()
        doors.lifecycle.start_fresh(DEVIATION, ENTROPY_COEFFICIENT)
        doors.lifecycle.start_fresh_where(is_critic)
        self._mixture = None
        if self._base:
            rng = experience.generator("cka-rl")
            logits = rng.standard_normal(len(self._pool)) / len(self._pool)
            self._mixture = Mixture(torch.as_tensor(logits, dtype=torch.float32))
            doors.networks.map(self._mixed, method="cka-rl")
            doors.lifecycle.start_fresh_where(lambda name: f".{MIXTURE}." in name)
            doors.lifecycle.blend(lambda _carried, _fresh: self._base | self._stacked())

    def _mixed(self, slot: Slot) -> tuple[nn.Module, dict[str, nn.Module]] | None:
        """Return a slot's layers under the names that they have, mixed where it acts."""
        if slot.role != "actor":
            return None
        assert self._mixture is not None
        count = len(self._pool)
        layers = [
            MixedLinear(layer, self._mixture, count) if isinstance(layer, nn.Linear) else layer
            for layer in slot.trunk
        ]
        heads = {name: MixedLinear(h, self._mixture, count) for name, h in slot.heads.items()}
        # One layer owns the mixture, so that its tensors have one name in the policy.
        next(iter(heads.values())).add_module(MIXTURE, self._mixture)
        return nn.Sequential(*layers), dict(heads)

    def _stacked(self) -> Named:
        """Return the pool as the layers have it."""
        return {
            f"{name}{VECTORS}": torch.stack([vector[name] for vector in self._pool])
            for name in self._base
        }

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Keep what the task ended with, and its vector."""
        acting = doors.lifecycle.weights(*ACTING)
        if self._mixture is None:
            layers = {n: t for n, t in doors.lifecycle.weights("actor").items() if n != DEVIATION}
            self._base = snapshot(layers)
            self._pool = [{name: torch.zeros_like(base) for name, base in self._base.items()}]
        else:
            vector = {name: acting[name] - base for name, base in self._base.items()}
            self._pool = merged([vector, *self._pool], self.pool_size)
            acting = self._mixed_in(acting, self._mixture.share())
        task = doors.facts.current_task
        self._kept.keep(doors, task, acting)
        self._keep_view(doors, task)

    def _mixed_in(self, acting: Named, share: Tensor) -> Named:
        """Return the tensors that act, as they would be without a mixture."""
        mixed = {
            name: added(acting[name], acting[f"{name}{VECTORS}"], share) for name in self._base
        }
        return {name: t for name, t in acting.items() if not is_mixed(name)} | mixed

    def _keep_view(self, doors: Doors, task: int) -> None:
        doors.lifecycle.keep_view(task, partial(self._kept.of, task), inside=self._unmixed)

    @contextmanager
    def _unmixed(self) -> Iterator[None]:
        """Read the layers' own weights alone inside the block."""
        if self._mixture is None:
            yield
            return
        self._mixture.active = False
        try:
            yield
        finally:
            self._mixture.active = True

    def state(self) -> dict[str, Tensor]:
        """Return the base, the pool, and what each task ended with."""
        pool = {str(place): vector for place, vector in enumerate(self._pool)}
        return flat({"base": self._base, "pool": pool, "kept": self._kept.kept})

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take them back and register the views."""
        device = doors.facts.device
        self._base = below(tensors, "base", device)
        count = len({name.split("/")[1] for name in tensors if name.startswith("pool/")})
        self._pool = [below(tensors, f"pool/{place}", device) for place in range(count)]
        self._kept.load(below(tensors, "kept"))
        doors.lifecycle.keep_views()
        for task in self._kept.kept:
            self._keep_view(doors, task)


def is_mixed(name: str) -> bool:
    """Return whether a tensor of the policy belongs to the mixture or its vectors."""
    return name.endswith(VECTORS) or f".{MIXTURE}." in name


class Mixture(nn.Module):
    """Shares of the earlier vectors, one for all layers.

    Attributes:
        active: Whether layers are mixed, or their own weights alone count.

    Args:
        logits: What alpha starts at, shape (vectors,).
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.active = True
        self.alpha = nn.Parameter(logits)
        self.scale = nn.Parameter(torch.ones(1))

    def share(self) -> Tensor:
        """Return softmax(scale alpha), shape (vectors,)."""
        return torch.softmax(self.scale * self.alpha, 0)


class MixedLinear(nn.Module):
    """A linear layer, whose weights have a mixture of fixed vectors added.

    Args:
        linear: Its weights become base + v_k, under their names.
        mixture: The shares.
        count: Number of vectors; they are zero until they are written.
    """

    weight_vectors: Tensor
    bias_vectors: Tensor

    def __init__(self, linear: nn.Linear, mixture: Mixture, count: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self._mixture = (mixture,)  # in a tuple, so that one layer alone owns it
        for name, tensor in (("weight", self.weight), ("bias", self.bias)):
            self.register_buffer(f"{name}{VECTORS}", tensor.new_zeros(count, *tensor.shape))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's output, shape (batch, out)."""
        if not self._mixture[0].active:
            return nn.functional.linear(inputs, self.weight, self.bias)
        share = self._mixture[0].share()
        weight = added(self.weight, self.weight_vectors, share)
        bias = added(self.bias, self.bias_vectors, share)
        return nn.functional.linear(inputs, weight, bias)


def added(own: Tensor, vectors: Tensor, share: Tensor) -> Tensor:
    """Return a tensor with the mixture added: own + sum over j of share_j vectors_j."""
    mixed: Tensor = torch.tensordot(share, vectors, 1)
    return own + mixed


def merged(vectors: list[Named], size: int) -> list[Named]:
    """Return the vectors with the most similar two replaced by their mean, until ``size`` are left.

    >>> vectors = [{"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}]
    >>> [v["w"].tolist() for v in merged([*vectors, {"w": torch.tensor([3.0, 0.0])}], 2)]
    [[0.0, 1.0], [2.0, 0.0]]
    """
    vectors = [*vectors]
    while len(vectors) > size:
        whole = torch.stack([torch.cat([t.flatten() for t in v.values()]) for v in vectors])
        whole = nn.functional.normalize(whole.double(), dim=1)
        similarity = (whole @ whole.T).cpu().numpy()
        similarity[np.tril_indices(len(vectors))] = -np.inf
        first, second = divmod(int(similarity.argmax()), len(vectors))
        one, other = vectors[first], vectors[second]
        mean = {name: (one[name] + other[name]) / 2 for name in one}
        rest = [v for place, v in enumerate(vectors) if place not in (first, second)]
        vectors = [*rest, mean]
    return vectors
