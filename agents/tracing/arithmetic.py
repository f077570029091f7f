"""Torch's operations on single entries as functions of arrays: arithmetic, comparisons, curves.

Arguments have one dtype by the time that they come here: the trace casts them as torch would.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

aten = torch.ops.aten

Functions = dict[Any, Callable[..., Any]]
"""Functions of arrays by the overload whose work they do."""


def arithmetic(xp: ModuleType) -> Functions:
    """Return the functions of ``numpy`` or ``jax.numpy`` that work entry by entry."""
    return {
        **_arithmetic(xp),
        **_extremes(xp),
        **_comparisons(xp),
        **_elementary(xp),
        **_special(xp),
        **_activations(xp),
    }


def _arithmetic(xp: ModuleType) -> Functions:
    def add(a: Any, b: Any, alpha: Any = 1) -> Any:
        return a + b if alpha == 1 else a + alpha * b

    def subtract(a: Any, b: Any, alpha: Any = 1) -> Any:
        return a - b if alpha == 1 else a - alpha * b

    def divide_rounded(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
        if rounding_mode is None:
            return a / b
        if rounding_mode == "floor":
            return xp.floor_divide(a, b)
        if xp.issubdtype(a.dtype, xp.integer):
            return xp.sign(a) * xp.sign(b) * (xp.abs(a) // xp.abs(b))
        return xp.trunc(a / b)

    def power(a: Any, b: Any) -> Any:
        if isinstance(b, int | float) and b in (2, 0.5):  # exact, and much faster
            return a * a if b == 2 else xp.sqrt(a)
        return a**b

    return {
        **dict.fromkeys((aten.add.Tensor, aten.add.Scalar), add),
        **dict.fromkeys((aten.sub.Tensor, aten.sub.Scalar), subtract),
        **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar), operator.mul),
        **dict.fromkeys((aten.div.Tensor, aten.div.Scalar), operator.truediv),
        aten.div.Tensor_mode: divide_rounded,
        aten.pow.Tensor_Scalar: power,
        aten.pow.Scalar: power,
        aten.pow.Tensor_Tensor: power,
        aten.remainder.Tensor: xp.remainder,
        aten.remainder.Scalar: xp.remainder,
        aten.fmod.Tensor: xp.fmod,
        aten.fmod.Scalar: xp.fmod,
        aten.neg.default: operator.neg,
        aten.reciprocal.default: lambda x: 1 / x,
        aten.abs.default: xp.abs,
        aten.sign.default: xp.sign,
        aten.floor.default: xp.floor,
        aten.ceil.default: xp.ceil,
        aten.round.default: xp.round,
        aten.round.decimals: lambda x, *, decimals: xp.round(x, decimals),
        aten.trunc.default: xp.trunc,
    }


def _extremes(xp: ModuleType) -> Functions:
    def clamp(x: Any, low: Any = None, high: Any = None) -> Any:
        x = x if low is None else xp.maximum(x, low)
        return x if high is None else xp.minimum(x, high)

    return {
        aten.minimum.default: xp.minimum,
        aten.maximum.default: xp.maximum,
        aten.clamp.default: clamp,
        aten.clamp.Tensor: clamp,
        aten.where.self: xp.where,
    }


def _comparisons(xp: ModuleType) -> Functions:
    found: Functions = {}
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        for overload in ("Tensor", "Scalar"):
            found[getattr(getattr(aten, name), overload)] = getattr(operator, name)
    for name in ("and", "or", "xor"):
        for overload in ("Tensor", "Scalar"):
            bitwise = getattr(aten, f"bitwise_{name}")
            found[getattr(bitwise, overload)] = getattr(xp, f"bitwise_{name}")
        found[getattr(aten, f"logical_{name}").default] = getattr(xp, f"logical_{name}")
    return found | {
        aten.bitwise_not.default: operator.invert,
        aten.logical_not.default: xp.logical_not,
        aten.isnan.default: xp.isnan,
        aten.isinf.default: xp.isinf,
    }


def _elementary(xp: ModuleType) -> Functions:
    named = {
        **{name: name for name in ("exp", "exp2", "expm1", "log", "log1p", "log2", "log10")},
        **{name: name for name in ("sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh")},
        **{f"a{name}": f"arc{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
        "atan2": "arctan2",
    }
    return {
        **{getattr(aten, name).default: getattr(xp, other) for name, other in named.items()},
        aten.rsqrt.default: lambda x: 1 / xp.sqrt(x),
    }


def _special(xp: ModuleType) -> Functions:
    special: Any
    if xp.__name__ == "numpy":
        from scipy import special
    else:
        from jax.scipy import special

    return {
        aten.erf.default: special.erf,
        aten.erfc.default: special.erfc,
        aten.erfinv.default: special.erfinv,
        aten.lgamma.default: special.gammaln,
        aten.digamma.default: special.digamma,
        aten.polygamma.default: lambda n, x: xp.asarray(special.polygamma(n, x), dtype=x.dtype),
    }


def _activations(xp: ModuleType) -> Functions:
    def sigmoid(x: Any) -> Any:
        small = xp.exp(-xp.abs(x))  # in 0..1: no overflow
        return xp.where(x >= 0, 1, small) / (1 + small)

    def softplus(x: Any, beta: float = 1, threshold: float = 20) -> Any:
        scaled = beta * x
        soft = xp.log1p(xp.exp(xp.minimum(scaled, threshold))) / beta
        return xp.where(scaled > threshold, x, soft)

    def elu(x: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
        low = xp.expm1(xp.minimum(x, 0) * input_scale) * (alpha * scale)
        return xp.where(x > 0, x * scale, low)

    def gelu(x: Any, *, approximate: str = "none") -> Any:
        if approximate == "none":
            return x * 0.5 * (1 + erf(x * 0.5**0.5))
        return 0.5 * x * (1 + xp.tanh((2 / xp.pi) ** 0.5 * (x + 0.044715 * x * x * x)))

    def shrunk(gradient: Any, x: Any, within: float) -> Any:
        return xp.where(xp.abs(x) <= within, 0, gradient)

    erf = _special(xp)[aten.erf.default]
    return {
        aten.relu.default: lambda x: xp.maximum(x, 0),
        aten.threshold_backward.default: lambda gradient, x, at: xp.where(x <= at, 0, gradient),
        **dict.fromkeys(
            (aten.hardshrink_backward.default, aten.softshrink_backward.default), shrunk
        ),
        aten.tanh_backward.default: lambda gradient, y: gradient * (1 - y * y),
        aten.sigmoid.default: sigmoid,
        aten.silu.default: lambda x: x * sigmoid(x),
        aten.softplus.default: softplus,
        aten.elu.default: elu,
        aten.gelu.default: gelu,
        aten.hardtanh.default: lambda x, low=-1.0, high=1.0: xp.clip(x, low, high),
        aten.leaky_relu.default: lambda x, slope=0.01: xp.where(x > 0, x, slope * x),
    }
