"""Which of torch's operations are taken apart into simpler ones while a function is traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions
from torch._ops import OpOverload

aten = torch.ops.aten

WHOLE = frozenset(
    {
        aten.t.default,
        aten.silu.default,
        aten.softplus.default,
        aten.var.correction,
        aten.mv.default,
        aten.dot.default,
        aten.tanh_backward.default,
        aten.threshold_backward.default,
        aten.select_scatter.default,
        aten.slice_scatter.default,
        aten.diagonal_scatter.default,
    }
)
"""Operations that torch would take apart, and that stay whole: fewer steps."""

# Operations beyond the core set, and rare ones in it, for which torch has a rule.
_RULED = (
    *(aten.native_layer_norm, aten.native_layer_norm_backward, aten.native_group_norm_backward),
    *(aten.native_batch_norm, aten._native_batch_norm_legit),
    *(aten._native_batch_norm_legit_no_training, aten._native_batch_norm_legit_functional),
    *(aten.embedding, aten.embedding_dense_backward),
    *(aten.reflection_pad1d, aten.reflection_pad2d, aten.reflection_pad2d_backward),
    *(aten.addmv, aten.dist, aten.hypot, aten.fmax, aten.fmin),
    *(aten.remainder.Scalar_Tensor, aten.tril_indices, aten.triu_indices),
)

_LISTED = (
    *("add", "sub", "mul", "div", "addcmul", "addcdiv", "lerp", "pow", "norm", "copy", "zero"),
    *("maximum", "minimum", "clamp_min", "clamp_max", "sqrt", "rsqrt", "neg", "abs", "exp", "log"),
    *("reciprocal", "sign", "tanh", "sigmoid", "clone"),
)
"""Operations that there are for lists of tensors too."""


@cache
def decompositions() -> Mapping[OpOverload, Callable[..., Any]]:
    """Return by operation what does the same in simpler ones."""
    rules = {**core_aten_decompositions(), **get_decompositions(_RULED), **_own(), **_of_lists()}
    return {op: rule for op, rule in rules.items() if op not in WHOLE}


def _own() -> dict[OpOverload, Callable[..., Any]]:
    """Return rules where torch has none, or one that ends in operations of another set."""

    def var_mean(
        x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False
    ) -> Any:
        spread = torch.var(
            x, dim, correction=1 if correction is None else correction, keepdim=keepdim
        )
        return spread, torch.mean(x, dim, keepdim)

    def group_norm(
        x: Tensor,
        weight: Any,
        bias: Any,
        rows: int,
        channels: int,
        size: int,
        groups: int,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        parts = x.reshape(rows, groups, -1)
        spread, mean = torch.var_mean(parts, -1, correction=0, keepdim=True)  # (rows, groups, 1)
        scale = torch.rsqrt(spread + eps)
        found = ((parts - mean) * scale).reshape(x.shape)
        shape = (channels, *[1] * (x.dim() - 2))
        found = found if weight is None else found * weight.reshape(shape)
        found = found if bias is None else found + bias.reshape(shape)
        return found, mean.squeeze(-1), scale.squeeze(-1)

    def put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
        flat = x.reshape(-1).index_put((index.reshape(-1),), source.reshape(-1), accumulate)
        return flat.reshape(x.shape)

    return {
        aten.var_mean.correction: var_mean,
        aten.native_group_norm.default: group_norm,
        aten.put.default: put,
    }


def _of_lists() -> dict[OpOverload, Callable[..., Any]]:
    """Return rules for operations on lists: that of each tensor, one by one."""
    found: dict[OpOverload, Callable[..., Any]] = {}
    for name in (*_LISTED, *[f"{name}_" for name in _LISTED]):
        packet = getattr(aten, f"_foreach_{name}", None)
        for overload in packet.overloads() if packet is not None else ():
            if "out" not in overload:
                found[getattr(packet, overload)] = partial(_one_by_one, name)
    return found


def _one_by_one(name: str, *arguments: Any, **named: Any) -> list[Tensor] | None:
    def of(argument: Any, index: int) -> Any:
        return argument[index] if isinstance(argument, list | tuple) else argument

    single = _single(name)
    count = next(len(one) for one in arguments if isinstance(one, list | tuple))
    found = [
        single(
            *[of(one, i) for one in arguments],
            **{key: of(value, i) for key, value in named.items()},
        )
        for i in range(count)
    ]
    return None if name.endswith("_") else found


def _single(name: str) -> Callable[..., Any]:
    """Return what does for one tensor what an operation does for a list of them."""
    match name.rstrip("_"):
        case "norm":
            return lambda x, order=2, dtype=None: aten.linalg_vector_norm(x, order, dtype=dtype)
        case "addcdiv" | "addcmul":
            packet = getattr(aten, name)
            return lambda x, a, b, value=1: packet(x, a, b, value=value)
        case "maximum" | "minimum":  # of numbers too
            name = name.replace("maximum", "clamp_min").replace("minimum", "clamp_max")
    single: Callable[..., Any] = getattr(aten, name)
    return single
