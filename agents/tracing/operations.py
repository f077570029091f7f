"""Torch's core operations as functions of arrays, for NumPy and for JAX alike.

One definition serves both libraries, since ``jax.numpy`` mirrors NumPy. A function takes what its
operation takes: arrays for tensors, tuples for lists of numbers, the library's own dtypes. It never
writes into an argument.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from itertools import accumulate
from types import ModuleType
from typing import Any

import numpy as np
import torch

from holdfast.agents.tracing.arithmetic import Functions, arithmetic
from holdfast.agents.tracing.pictures import pictures
from holdfast.errors import UsageError

aten = torch.ops.aten


@cache
def operations(arrays: ModuleType) -> Mapping[Any, Callable[..., Any]]:
    """Return the function of each operation by its overload.

    Args:
        arrays: ``numpy`` or ``jax.numpy``.
    """
    return {
        **arithmetic(arrays),
        **_reductions(arrays),
        **_orders(arrays),
        **_products(arrays),
        **_shapes(arrays),
        **_parts(arrays),
        **_replacements(arrays),
        **_written_views(arrays),
        **_creation(arrays),
        **pictures(arrays, _written(arrays, "add")),
    }


# -- reductions and orders -------------------------------------------------------------------------


def _axes(x: Any, dim: Any) -> Any:
    """Return dimensions as NumPy names them.

    Torch has an empty list too for all of them, and a dimension 0 where there is none.
    """
    return None if dim == () or x.ndim == 0 else dim


def _reductions(xp: ModuleType) -> Functions:
    # Methods: NumPy's functions of these names take twice as long for few numbers.
    def over(name: str) -> Callable[..., Any]:
        def reduced(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
            return getattr(x, name)(axis=_axes(x, dim), keepdims=keepdim)

        return reduced

    def into(name: str) -> Callable[..., Any]:
        def reduced(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any) -> Any:
            return getattr(x, name)(axis=_axes(x, dim), keepdims=keepdim, dtype=dtype)

        return reduced

    def variance(x: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Any:
        ddof = 1 if correction is None else correction
        return x.var(axis=_axes(x, dim), ddof=ddof, keepdims=keepdim)

    def softmax(x: Any, dim: int, half_to_float: bool) -> Any:
        axis = _axes(x, dim)
        raised = xp.exp(x - x.max(axis=axis, keepdims=True))
        return raised / raised.sum(axis=axis, keepdims=True)

    def log_softmax(x: Any, dim: int, half_to_float: bool) -> Any:
        axis = _axes(x, dim)
        shifted = x - x.max(axis=axis, keepdims=True)
        return shifted - xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))

    return {
        aten.sum.dim_IntList: into("sum"),
        aten.mean.default: into("mean"),
        aten.mean.dim: into("mean"),
        aten.prod.default: into("prod"),
        aten.prod.dim_int: into("prod"),
        aten.amax.default: over("max"),
        aten.amin.default: over("min"),
        aten.max.default: over("max"),
        aten.min.default: over("min"),
        **dict.fromkeys((aten.any.default, aten.any.dim, aten.any.dims), over("any")),
        aten.var.correction: variance,
        aten.argmax.default: over("argmax"),
        aten.argmin.default: over("argmin"),
        aten.cumsum.default: lambda x, dim, *, dtype: x.cumsum(axis=dim, dtype=dtype),
        aten.cumprod.default: lambda x, dim, *, dtype: x.cumprod(axis=dim, dtype=dtype),
        aten._softmax.default: softmax,
        aten._log_softmax.default: log_softmax,
    }


def _orders(xp: ModuleType) -> Functions:
    def best(pick: Callable[..., Any]) -> Callable[..., Any]:
        def picked(x: Any, dim: int, keepdim: bool = False) -> tuple[Any, Any]:
            place = pick(x, axis=dim, keepdims=True)
            return taken(x, place, dim, keepdim)

        return picked

    def taken(x: Any, place: Any, dim: int, keepdim: bool) -> tuple[Any, Any]:
        values = xp.take_along_axis(x, place, dim)
        return (values, place) if keepdim else (values.squeeze(dim), place.squeeze(dim))

    def order(x: Any, dim: int, descending: bool) -> Any:
        if not descending:
            return xp.argsort(x, axis=dim, stable=True)
        backwards = xp.argsort(xp.flip(x, dim), axis=dim, stable=True)
        return x.shape[dim] - 1 - xp.flip(backwards, dim)

    def sort(x: Any, dim: int = -1, descending: bool = False) -> tuple[Any, Any]:
        place = order(x, dim, descending)
        return xp.take_along_axis(x, place, dim), place

    def sort_stable(
        x: Any, *, stable: bool | None, dim: int = -1, descending: bool = False
    ) -> tuple[Any, Any]:
        return sort(x, dim, descending)

    def top(
        x: Any, k: int, dim: int = -1, largest: bool = True, ordered: bool = True
    ) -> tuple[Any, Any]:
        place = order(x, dim, largest)[_slice(x, dim, None, k)]
        return xp.take_along_axis(x, place, dim), place

    def ranked(x: Any, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Any, Any]:
        place = order(x, dim, False)[_slice(x, dim, k - 1, k)]
        return taken(x, place, dim, keepdim)

    def median(x: Any, dim: int, keepdim: bool = False) -> tuple[Any, Any]:
        return ranked(x, (x.shape[dim] + 1) // 2, dim, keepdim)  # the lower of two

    def place_in(
        ordered: Any, x: Any, *, right: bool = False, side: str | None = None, **_: Any
    ) -> Any:
        side = "right" if right or side == "right" else "left"
        return xp.asarray(xp.searchsorted(ordered, x, side), dtype=int)

    return {
        aten.max.dim: best(xp.argmax),
        aten.min.dim: best(xp.argmin),
        aten.sort.default: sort,
        aten.sort.stable: sort_stable,
        aten.topk.default: top,
        aten.kthvalue.default: ranked,
        aten.median.default: lambda x: median(x.reshape(-1), 0)[0],
        aten.median.dim: median,
        aten.searchsorted.Tensor: place_in,
    }


# -- products --------------------------------------------------------------------------------------


def _products(xp: ModuleType) -> Functions:
    def addmm(c: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
        product = a @ b if alpha == 1 else alpha * (a @ b)
        return product + (c if beta == 1 else beta * c)

    def qr(x: Any, mode: str = "reduced") -> tuple[Any, Any]:
        q, r = xp.linalg.qr(x, mode)
        return q, r

    def solve_triangular(
        a: Any, b: Any, *, upper: bool, left: bool = True, unitriangular: bool = False
    ) -> Any:
        a = xp.triu(a) if upper else xp.tril(a)
        if unitriangular:
            a = a + xp.eye(a.shape[-1], dtype=a.dtype) * (1 - a)
        if left:
            return xp.linalg.solve(a, b)
        return xp.linalg.solve(a.swapaxes(-1, -2), b.swapaxes(-1, -2)).swapaxes(-1, -2)

    return {
        aten.mm.default: operator.matmul,
        aten.bmm.default: operator.matmul,
        aten.mv.default: operator.matmul,
        aten.dot.default: operator.matmul,
        aten.addmm.default: addmm,
        aten.linalg_inv_ex.default: lambda x, *, check_errors=False: (xp.linalg.inv(x), None),
        aten.linalg_qr.default: qr,
        aten.linalg_solve_triangular.default: solve_triangular,
    }


# -- shapes ----------------------------------------------------------------------------------------


def _shapes(xp: ModuleType) -> Functions:
    def reshape(x: Any, shape: tuple[int, ...]) -> Any:
        return x.reshape(shape)

    def expand(x: Any, shape: tuple[int, ...], *, implicit: bool = False) -> Any:
        new = len(shape) - x.ndim
        full = [x.shape[i - new] if n == -1 else n for i, n in enumerate(shape)]
        return xp.broadcast_to(x, full)

    def squeeze(x: Any, dims: Any) -> Any:
        return x.squeeze(tuple(i for i in dims if x.ndim and x.shape[i] == 1))

    return {
        aten.view.default: reshape,
        aten.expand.default: expand,
        aten.t.default: lambda x: x.T,
        aten.permute.default: xp.transpose,
        aten.unsqueeze.default: lambda x, dim: x[(slice(None),) * (dim % (x.ndim + 1)) + (None,)],
        aten.squeeze.dims: squeeze,
        aten.flip.default: xp.flip,
        aten.repeat.default: xp.tile,
        aten.diagonal.default: lambda x, offset=0, dim1=0, dim2=1: xp.diagonal(
            x, offset, dim1, dim2
        ),
        aten.cat.default: lambda parts, dim=0: xp.concatenate(parts, dim),
    }


# -- parts of arrays, and arrays with parts replaced -----------------------------------------------


def _slice(x: Any, dim: int, start: int | None, end: int | None, step: int = 1) -> Any:
    return (slice(None),) * (dim % x.ndim) + (slice(start, end, step),)


def _row(x: Any, dim: int, index: int) -> Any:
    return (slice(None),) * (dim % x.ndim) + (index,)


def _places(indices: Any) -> tuple[Any, ...]:
    return tuple(slice(None) if index is None else index for index in indices)


def _grid(x: Any, dim: int, index: Any) -> tuple[Any, ...]:
    """Return indices of ``x``: ``index`` along one dimension, in step with it along the others."""
    if x.ndim == 0:
        return ()
    grid = list(_ranges(index.shape))
    grid[dim] = index
    return tuple(grid)


@lru_cache(maxsize=100)
def _ranges(shape: tuple[int, ...]) -> tuple[Any, ...]:
    return np.indices(shape, sparse=True)


def _parts(xp: ModuleType) -> Functions:
    def part(x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
        return x[_slice(x, dim, start, end, step)]

    def split(x: Any, sizes: tuple[int, ...], dim: int = 0) -> list[Any]:
        ends = accumulate(sizes)
        return [x[_slice(x, dim, end - n, end)] for n, end in zip(sizes, ends, strict=True)]

    def gather(x: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
        return x[_grid(x, dim, index)]

    return {
        operator.getitem: operator.getitem,
        aten.select.int: lambda x, dim, index: x[_row(x, dim, index)],
        aten.slice.Tensor: part,
        aten.split_with_sizes.default: split,
        aten.gather.default: gather,
        aten.index.Tensor: lambda x, indices: x[_places(indices)],
        aten.as_strided.default: lambda x, shape, strides, offset=None: x.reshape(-1)[
            _strided(shape, strides, offset)
        ],
        aten.index_select.default: lambda x, dim, index: xp.take(x, index, axis=dim),
    }


def _strided(shape: tuple[int, ...], strides: tuple[int, ...], offset: int | None) -> Any:
    """Return where entries of a view by strides are in the array that is viewed, as one line."""
    found = np.asarray(offset or 0)
    for size, stride in zip(shape, strides, strict=True):
        found = found[..., None] + np.arange(size) * stride
    return found


_Write = Callable[[Any, Any, Any], Any]


def _written(xp: ModuleType, how: str) -> _Write:
    """Return ``written(x, where, values)``: a copy of ``x`` with entries set, added to, and so on.

    Args:
        xp: ``numpy`` or ``jax.numpy``.
        how: ``set``, or a ufunc that takes the old and the new entry.
    """

    def in_numpy(x: Any, where: Any, values: Any) -> Any:
        copy = np.array(x)
        if how == "set":
            copy[where] = values
        else:
            getattr(np, how).at(copy, where, values)
        return copy

    def in_jax(x: Any, where: Any, values: Any) -> Any:
        verb = {"maximum": "max", "minimum": "min"}.get(how, how)
        return getattr(x.at[where], verb)(values)

    return in_numpy if xp is np else in_jax


def _replacements(xp: ModuleType) -> Functions:
    assigned, added = _written(xp, "set"), _written(xp, "add")
    reductions = {
        "sum": added,
        "prod": _written(xp, "multiply"),
        "amax": _written(xp, "maximum"),
        "amin": _written(xp, "minimum"),
    }

    def index_put(x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
        mask = indices[0]
        if mask is not None and mask.dtype == bool:
            mask = mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
            return xp.where(mask, x + values if accumulate else values, x)
        return (added if accumulate else assigned)(x, _places(indices), values)

    def scatter_with(write: _Write) -> Callable[..., Any]:
        def scatter(x: Any, dim: int, index: Any, source: Any) -> Any:
            if getattr(source, "shape", ()) not in ((), index.shape):  # may be larger
                source = source[tuple(slice(n) for n in index.shape)]
            return write(x, _grid(x, dim, index), source)

        return scatter

    def scatter_reduce(
        x: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True
    ) -> Any:
        if reduce not in reductions or not include_self:
            raise UsageError(f"scatter_reduce: {reduce}, include_self={include_self} is not there")
        scatter = scatter_with(reductions[reduce])
        return scatter(x, dim, index, source)

    return {
        aten.index_put.default: index_put,
        aten.scatter.src: scatter_with(assigned),
        aten.scatter.value: scatter_with(assigned),
        aten.scatter_add.default: scatter_with(added),
        aten.scatter_reduce.two: scatter_reduce,
    }


def _written_views(xp: ModuleType) -> Functions:
    """Return what writes into a view of an array, and gives the whole array."""
    assigned = _written(xp, "set")

    def select_scatter(x: Any, source: Any, dim: int, index: int) -> Any:
        return assigned(x, _row(x, dim, index), source)

    def slice_scatter(
        x: Any, source: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
    ) -> Any:
        return assigned(x, _slice(x, dim, start, end, step), source)

    def diagonal_scatter(x: Any, source: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
        rows, columns = x.shape[dim1], x.shape[dim2]
        count = min(rows + min(offset, 0), columns - max(offset, 0))
        places: list[Any] = [slice(None)] * x.ndim
        places[dim1] = np.arange(count) - min(offset, 0)
        places[dim2] = np.arange(count) + max(offset, 0)
        near = abs(dim1 % x.ndim - dim2 % x.ndim) == 1
        # Indexed dimensions come first where others are between them, else stay in place.
        source = xp.moveaxis(source, -1, min(dim1 % x.ndim, dim2 % x.ndim) if near else 0)
        return assigned(x, tuple(places), source)

    def strided_scatter(
        x: Any, source: Any, shape: Any, strides: Any, offset: int | None = None
    ) -> Any:
        line = assigned(x.reshape(-1), _strided(shape, strides, offset), source)
        return line.reshape(x.shape)

    return {
        aten.as_strided_scatter.default: strided_scatter,
        aten.select_scatter.default: select_scatter,
        aten.slice_scatter.default: slice_scatter,
        aten.diagonal_scatter.default: diagonal_scatter,
    }


# -- new arrays ------------------------------------------------------------------------------------


def _creation(xp: ModuleType) -> Functions:
    def empty(shape: tuple[int, ...], *_: Any, dtype: Any) -> Any:
        return xp.zeros(shape, dtype=dtype)

    def copy(x: Any, source: Any, wait: bool = False) -> Any:
        return xp.broadcast_to(source, x.shape).astype(x.dtype)

    return {
        aten.full.default: lambda shape, value, *, dtype: xp.full(shape, value, dtype=dtype),
        aten.full_like.default: lambda x, value, *, dtype: xp.full(x.shape, value, dtype=dtype),
        aten.scalar_tensor.default: lambda value, *, dtype: xp.asarray(value, dtype=dtype),
        aten.arange.start_step: lambda start, end, step=1, *, dtype: xp.arange(
            start, end, step, dtype=dtype
        ),
        aten.empty.memory_format: empty,
        aten.empty_strided.default: empty,
        aten.empty_permuted.default: empty,
        aten.new_empty_strided.default: lambda x, shape, *_, dtype: empty(shape, dtype=dtype),
        aten._to_copy.default: lambda x, *, dtype: x.astype(dtype),
        aten.copy.default: copy,
    }
