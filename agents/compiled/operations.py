"""Torch's core operations as functions of arrays, for NumPy and for JAX alike.

One definition serves both libraries, since ``jax.numpy`` mirrors NumPy. A function takes what its
operation takes, arrays for tensors, tuples for lists of numbers, the library's own dtypes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch

aten = torch.ops.aten

Table = dict[Any, Callable[..., Any]]

KEPT = frozenset(
    {
        aten.t.default,
        aten.silu.default,
        aten.softplus.default,
        aten.select_scatter.default,
        aten.slice_scatter.default,
        aten.diagonal_scatter.default,
    }
)
"""Operations that torch could take apart, and that stay whole: fewer steps."""


@cache
def operations(arrays: ModuleType) -> Mapping[Any, Callable[..., Any]]:
    """Return the function of each operation by its overload.

    Args:
        arrays: ``numpy`` or ``jax.numpy``.
    """
    return {
        **_arithmetic(arrays),
        **_functions(arrays),
        **_comparisons(arrays),
        **_reductions(arrays),
        **_products(arrays),
        **_shapes(arrays),
        **_parts(arrays),
        **_creation(arrays),
        **_foreach(arrays),
    }


def _arithmetic(xp: ModuleType) -> Table:
    def add(a: Any, b: Any, *, alpha: Any = 1) -> Any:
        return a + b if alpha == 1 else a + alpha * b

    def subtract(a: Any, b: Any, *, alpha: Any = 1) -> Any:
        return a - b if alpha == 1 else a - alpha * b

    def divided(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
        if rounding_mode is None:
            return a / b
        return xp.floor_divide(a, b) if rounding_mode == "floor" else xp.trunc(a / b)

    def power(a: Any, b: Any) -> Any:
        if isinstance(b, int | float):
            if b == 2:
                return a * a
            if b == 0.5:
                return xp.sqrt(a)
        return a**b

    def clamp(x: Any, low: Any = None, high: Any = None) -> Any:
        x = x if low is None else xp.maximum(x, low)
        return x if high is None else xp.minimum(x, high)

    return {
        aten.add.Tensor: add,
        aten.add.Scalar: add,
        aten.sub.Tensor: subtract,
        aten.sub.Scalar: subtract,
        aten.rsub.Scalar: lambda a, b, alpha=1: b - alpha * a,
        aten.mul.Tensor: operator.mul,
        aten.mul.Scalar: operator.mul,
        aten.div.Tensor: operator.truediv,
        aten.div.Scalar: operator.truediv,
        aten.div.Tensor_mode: divided,
        aten.div.Scalar_mode: divided,
        aten.pow.Tensor_Scalar: power,
        aten.pow.Scalar: power,
        aten.pow.Tensor_Tensor: power,
        aten.remainder.Tensor: xp.remainder,
        aten.remainder.Scalar: xp.remainder,
        aten.fmod.Tensor: xp.fmod,
        aten.fmod.Scalar: xp.fmod,
        aten.minimum.default: xp.minimum,
        aten.maximum.default: xp.maximum,
        aten.clamp.default: clamp,
        aten.clamp.Tensor: clamp,
        aten.clamp_min.default: xp.maximum,
        aten.clamp_max.default: xp.minimum,
        aten.where.self: xp.where,
        aten.neg.default: operator.neg,
        aten.abs.default: xp.abs,
        aten.sign.default: xp.sign,
        aten.floor.default: xp.floor,
        aten.ceil.default: xp.ceil,
        aten.round.default: xp.round,
        aten.trunc.default: xp.trunc,
        aten.atan2.default: xp.arctan2,
    }


def _functions(xp: ModuleType) -> Table:
    def sigmoid(x: Any) -> Any:
        small = xp.exp(-xp.abs(x))
        return xp.where(x >= 0, 1, small) / (1 + small)

    def softplus(x: Any, beta: float = 1, threshold: float = 20) -> Any:
        scaled = beta * x
        soft = xp.log1p(xp.exp(xp.minimum(scaled, threshold))) / beta
        return xp.where(scaled > threshold, x, soft)

    def elu(x: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
        low = xp.expm1(xp.minimum(x, 0) * input_scale) * (alpha * scale)
        return xp.where(x > 0, x * scale, low)

    def softmax(x: Any, dim: int, half_to_float: bool) -> Any:
        raised = xp.exp(x - x.max(axis=dim, keepdims=True))
        return raised / raised.sum(axis=dim, keepdims=True)

    def log_softmax(x: Any, dim: int, half_to_float: bool) -> Any:
        shifted = x - x.max(axis=dim, keepdims=True)
        return shifted - xp.log(xp.exp(shifted).sum(axis=dim, keepdims=True))

    return {
        aten.exp.default: xp.exp,
        aten.exp2.default: xp.exp2,
        aten.expm1.default: xp.expm1,
        aten.log.default: xp.log,
        aten.log1p.default: xp.log1p,
        aten.log2.default: xp.log2,
        aten.log10.default: xp.log10,
        aten.sqrt.default: xp.sqrt,
        aten.rsqrt.default: lambda x: 1 / xp.sqrt(x),
        aten.reciprocal.default: lambda x: 1 / x,
        aten.sin.default: xp.sin,
        aten.cos.default: xp.cos,
        aten.tan.default: xp.tan,
        aten.asin.default: xp.arcsin,
        aten.acos.default: xp.arccos,
        aten.atan.default: xp.arctan,
        aten.sinh.default: xp.sinh,
        aten.cosh.default: xp.cosh,
        aten.asinh.default: xp.arcsinh,
        aten.acosh.default: xp.arccosh,
        aten.atanh.default: xp.arctanh,
        aten.tanh.default: xp.tanh,
        aten.tanh_backward.default: lambda gradient, y: gradient * (1 - y * y),
        aten.relu.default: lambda x: xp.maximum(x, 0),
        aten.threshold_backward.default: lambda gradient, x, at: xp.where(x <= at, 0, gradient),
        aten.sigmoid.default: sigmoid,
        aten.silu.default: lambda x: x * sigmoid(x),
        aten.softplus.default: softplus,
        aten.elu.default: elu,
        aten.hardtanh.default: lambda x, low=-1.0, high=1.0: xp.clip(x, low, high),
        aten.leaky_relu.default: lambda x, slope=0.01: xp.where(x > 0, x, slope * x),
        aten._softmax.default: softmax,
        aten._log_softmax.default: log_softmax,
    }


def _comparisons(xp: ModuleType) -> Table:
    found: Table = {}
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        for overload in ("Tensor", "Scalar"):
            found[getattr(getattr(aten, name), overload)] = getattr(operator, name)
    for name in ("and", "or", "xor"):
        bitwise = getattr(aten, f"bitwise_{name}")
        for overload in ("Tensor", "Scalar"):
            found[getattr(bitwise, overload)] = getattr(xp, f"bitwise_{name}")
        found[getattr(aten, f"logical_{name}").default] = getattr(xp, f"logical_{name}")
    return found | {
        aten.bitwise_not.default: operator.invert,
        aten.logical_not.default: xp.logical_not,
        aten.isnan.default: xp.isnan,
        aten.isinf.default: xp.isinf,
    }


def _reductions(xp: ModuleType) -> Table:
    def over(reduce: Callable[..., Any]) -> Callable[..., Any]:
        def function(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
            axis = None if dim == () else dim
            if dtype is None:
                return reduce(x, axis=axis, keepdims=keepdim)
            return reduce(x, axis=axis, keepdims=keepdim, dtype=dtype)

        return function

    def variance(x: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Any:
        axis = None if dim == () else dim
        ddof = 1 if correction is None else correction
        return xp.var(x, axis=axis, ddof=ddof, keepdims=keepdim)

    def best(pick: Callable[..., Any]) -> Callable[..., Any]:
        def function(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
            return pick(x, axis=dim, keepdims=keepdim)

        return function

    def with_place(pick: Callable[..., Any]) -> Callable[..., Any]:
        def function(x: Any, dim: int, keepdim: bool = False) -> Any:
            place = pick(x, axis=dim, keepdims=True)
            values = xp.take_along_axis(x, place, dim)
            return (values, place) if keepdim else (values.squeeze(dim), place.squeeze(dim))

        return function

    return {
        aten.sum.default: over(xp.sum),
        aten.sum.dim_IntList: over(xp.sum),
        aten.mean.default: over(xp.mean),
        aten.mean.dim: over(xp.mean),
        aten.prod.default: over(xp.prod),
        aten.prod.dim_int: over(xp.prod),
        aten.amax.default: over(xp.max),
        aten.amin.default: over(xp.min),
        aten.max.default: over(xp.max),
        aten.min.default: over(xp.min),
        aten.any.default: over(xp.any),
        aten.any.dim: over(xp.any),
        aten.any.dims: over(xp.any),
        aten.all.default: over(xp.all),
        aten.all.dim: over(xp.all),
        aten.all.dims: over(xp.all),
        aten.var.correction: variance,
        aten.argmax.default: best(xp.argmax),
        aten.argmin.default: best(xp.argmin),
        aten.max.dim: with_place(xp.argmax),
        aten.min.dim: with_place(xp.argmin),
        aten.cumsum.default: lambda x, dim, *, dtype=None: xp.cumsum(x, axis=dim, dtype=dtype),
        aten.cumprod.default: lambda x, dim, *, dtype=None: xp.cumprod(x, axis=dim, dtype=dtype),
    }


def _products(xp: ModuleType) -> Table:
    def addmm(c: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
        product = a @ b if alpha == 1 else alpha * (a @ b)
        return product + c if beta == 1 else product + beta * c

    return {
        aten.mm.default: operator.matmul,
        aten.bmm.default: operator.matmul,
        aten.mv.default: operator.matmul,
        aten.dot.default: operator.matmul,
        aten.addmm.default: addmm,
        aten.t.default: lambda x: x.T,
    }


def _shapes(xp: ModuleType) -> Table:
    def reshape(x: Any, shape: tuple[int, ...]) -> Any:
        return x.reshape(shape)

    def expand(x: Any, shape: tuple[int, ...], *, implicit: bool = False) -> Any:
        new = len(shape) - x.ndim
        full = [x.shape[i - new] if n == -1 else n for i, n in enumerate(shape)]
        return xp.broadcast_to(x, full)

    def squeeze(x: Any, dim: Any) -> Any:
        dims = (dim,) if isinstance(dim, int) else dim
        return xp.squeeze(x, tuple(i for i in dims if x.ndim and x.shape[i] == 1))

    return {
        aten.view.default: reshape,
        aten._unsafe_view.default: reshape,
        aten.reshape.default: reshape,
        aten.expand.default: expand,
        aten.permute.default: xp.transpose,
        aten.transpose.int: xp.swapaxes,
        aten.unsqueeze.default: xp.expand_dims,
        aten.squeeze.default: xp.squeeze,
        aten.squeeze.dim: squeeze,
        aten.squeeze.dims: squeeze,
        aten.flip.default: lambda x, dims: xp.flip(x, dims),
        aten.repeat.default: xp.tile,
        aten.cat.default: lambda parts, dim=0: xp.concatenate(parts, dim),
        aten.stack.default: lambda parts, dim=0: xp.stack(parts, dim),
        operator.getitem: operator.getitem,
    }


def _slice(x: Any, dim: int, start: int | None, end: int | None, step: int) -> tuple[slice, ...]:
    end = None if end is None or end > x.shape[dim] else end
    return (slice(None),) * (dim % x.ndim) + (slice(start, end, step),)


def _row(x: Any, dim: int, index: int) -> tuple[Any, ...]:
    return (slice(None),) * (dim % x.ndim) + (index,)


def _parts(xp: ModuleType) -> Table:
    assigned = _assigned if xp is np else _assigned_in_jax
    added = _added if xp is np else _added_in_jax

    def gather(x: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
        return x[_grid(xp, x, dim, index)]

    def split(x: Any, size: int, dim: int = 0) -> Any:
        return [x[_slice(x, dim, at, at + size, 1)] for at in range(0, x.shape[dim], size)]

    def split_with_sizes(x: Any, sizes: tuple[int, ...], dim: int = 0) -> Any:
        ends = np.cumsum(sizes).tolist()
        return [x[_slice(x, dim, end - n, end, 1)] for n, end in zip(sizes, ends, strict=True)]

    def index_put(x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
        return (added if accumulate else assigned)(x, _indices(indices), values)

    def scatter(x: Any, dim: int, index: Any, source: Any) -> Any:
        return assigned(x, _grid(xp, x, dim, index), _cropped(source, index))

    def scatter_add(x: Any, dim: int, index: Any, source: Any) -> Any:
        return added(x, _grid(xp, x, dim, index), _cropped(source, index))

    return {
        aten.select.int: lambda x, dim, index: x[_row(x, dim, index)],
        aten.slice.Tensor: lambda x, dim=0, start=None, end=None, step=1: x[
            _slice(x, dim, start, end, step)
        ],
        aten.split.Tensor: split,
        aten.split_with_sizes.default: split_with_sizes,
        aten.unbind.int: lambda x, dim=0: [x[_row(x, dim, i)] for i in range(x.shape[dim])],
        aten.gather.default: gather,
        aten.index.Tensor: lambda x, indices: x[_indices(indices)],
        aten.index_select.default: lambda x, dim, index: xp.take(x, index, axis=dim),
        aten.index_put.default: index_put,
        aten.scatter.src: scatter,
        aten.scatter.value: scatter,
        aten.scatter_add.default: scatter_add,
        aten.select_scatter.default: lambda x, source, dim, index: assigned(
            x, _row(x, dim, index), source
        ),
        aten.slice_scatter.default: lambda x, source, dim=0, start=None, end=None, step=1: assigned(
            x, _slice(x, dim, start, end, step), source
        ),
    }


def _indices(indices: Any) -> tuple[Any, ...]:
    return tuple(slice(None) if index is None else index for index in indices)


def _grid(xp: ModuleType, x: Any, dim: int, index: Any) -> tuple[Any, ...]:
    """Return what indexes ``x`` with ``index`` along one dimension and in step along the others."""
    if x.ndim == 0:
        return ()
    grid = list(xp.indices(index.shape, sparse=True))
    grid[dim] = index
    return tuple(grid)


def _cropped(source: Any, index: Any) -> Any:
    """Return the entries of a source that belong to an index, which may be smaller."""
    if getattr(source, "shape", ()) in ((), index.shape):
        return source
    return source[tuple(slice(n) for n in index.shape)]


def _assigned(x: Any, where: Any, values: Any) -> Any:
    new = np.array(x)
    new[where] = values
    return new


def _added(x: Any, where: Any, values: Any) -> Any:
    new = np.array(x)
    np.add.at(new, where, values)
    return new


def _assigned_in_jax(x: Any, where: Any, values: Any) -> Any:
    return x.at[where].set(values)


def _added_in_jax(x: Any, where: Any, values: Any) -> Any:
    return x.at[where].add(values)


def _creation(xp: ModuleType) -> Table:
    def arange(start: Any, end: Any = None, step: Any = 1, *, dtype: Any) -> Any:
        return xp.arange(start, end, step, dtype=dtype)

    return {
        aten.full.default: lambda shape, value, *, dtype: xp.full(shape, value, dtype=dtype),
        aten.full_like.default: lambda x, value, *, dtype: xp.full(x.shape, value, dtype=dtype),
        aten.scalar_tensor.default: lambda value, *, dtype: xp.asarray(value, dtype=dtype),
        aten.empty.memory_format: lambda shape, *, dtype: xp.zeros(shape, dtype=dtype),
        aten.arange.start_step: arange,
        aten._to_copy.default: lambda x, *, dtype: xp.asarray(x, dtype=dtype),
        aten.copy.default: lambda x, source, wait=False: xp.broadcast_to(source, x.shape).astype(
            x.dtype
        ),
    }


def _foreach(xp: ModuleType) -> Table:
    found: Table = {}
    for name, function in {
        "add": operator.add,
        "sub": operator.sub,
        "mul": operator.mul,
        "div": operator.truediv,
    }.items():
        found |= _foreach_overloads(getattr(aten, f"_foreach_{name}"), function)
    return found


def _foreach_overloads(packet: Any, function: Callable[[Any, Any], Any]) -> Table:
    def lists(xs: Any, ys: Any, *, alpha: Any = 1) -> Any:
        return [function(x, y if alpha == 1 else alpha * y) for x, y in zip(xs, ys, strict=True)]

    def one(xs: Any, y: Any, *, alpha: Any = 1) -> Any:
        return [function(x, y if alpha == 1 else alpha * y) for x in xs]

    return {packet.List: lists, packet.Scalar: one, packet.ScalarList: lists}
