"""Torch's operations on pictures as functions of arrays: convolution, pooling, padding.

Convolutions are there for JAX alone: NumPy has none that is worth its time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import torch

from holdfast.agents.tracing.arithmetic import Functions

aten = torch.ops.aten

Ints = Sequence[int]

ON_JAX_ALONE = frozenset({aten.convolution.default, aten.convolution_backward.default})
"""Operations that NumPy cannot do."""


def pictures(xp: ModuleType, added: Callable[[Any, Any, Any], Any]) -> Functions:
    """Return the functions of a library.

    Args:
        xp: ``numpy`` or ``jax.numpy``.
        added: ``added(x, where, values)``: a copy of ``x`` with values added at indices.
    """
    table = {**_pooling(xp, added), **_averages(xp, added), **_adaptive(xp)}
    table[aten.constant_pad_nd.default] = _pad(xp)
    if xp is not np:
        table |= {
            aten.convolution.default: _convolution,
            aten.convolution_backward.default: _convolution_backward,
        }
    return table


# -- convolutions ----------------------------------------------------------------------------------


def _convolution(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
) -> Any:
    """Return a convolution over any number of spatial dimensions, as torch numbers channels."""
    from jax.lax import conv_general_dilated

    spatial = weight.shape[2:]
    pads = [(p, p) for p in padding]
    spread = [1] * len(spatial)
    if transposed:  # the gradient of a convolution: spread the input, turn the kernel round
        fed, out = weight.shape[0] // groups, weight.shape[1]
        weight = weight.reshape(groups, fed, out, *spatial).swapaxes(1, 2)
        weight = weight.reshape(groups * out, fed, *spatial)
        weight = weight[(..., *[slice(None, None, -1)] * len(spatial))]
        reach = [d * (k - 1) - p for d, k, p in zip(dilation, spatial, padding, strict=True)]
        pads = [(r, r + more) for r, more in zip(reach, output_padding, strict=True)]
        stride, spread = spread, list(stride)
    found = conv_general_dilated(
        x,
        weight,
        stride,
        pads,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        feature_group_count=groups,
    )
    return found if bias is None else found + bias.reshape(-1, *[1] * len(spatial))


def _convolution_backward(
    gradient: Any, x: Any, weight: Any, bias_sizes: Any, *rest: Any
) -> tuple[Any, Any, Any]:
    from jax import vjp

    *settings, wanted = rest
    _, pull = vjp(lambda x, weight: _convolution(x, weight, None, *settings), x, weight)
    to_x, to_weight = pull(gradient)
    to_bias = gradient.sum((0, *range(2, gradient.ndim)))
    found = (to_x, to_weight, to_bias)
    return tuple(one if want else None for one, want in zip(found, wanted, strict=True))  # type: ignore[return-value]


# -- pooling ---------------------------------------------------------------------------------------


def _pair(numbers: Ints, otherwise: Ints) -> tuple[int, int]:
    """Return one number for each of two dimensions."""
    numbers = numbers or otherwise
    return (numbers[0], numbers[-1])


class _Windows:
    """Where a pooling looks: its windows in a padded picture, one slice for each of their cells."""

    def __init__(
        self,
        sizes: Ints,
        kernel: Ints,
        stride: Ints = (),
        padding: Ints = (0,),
        *,
        dilation: Ints = (1,),
        ceil_mode: bool = False,
    ) -> None:
        self.kernel = _pair(kernel, kernel)
        self.stride, self.padding = _pair(stride, kernel), _pair(padding, padding)
        self.dilation = _pair(dilation, dilation)
        self.counts, self.ends = [], []
        for axis, size in enumerate(sizes):
            step, pad = self.stride[axis], self.padding[axis]
            reach = self.dilation[axis] * (self.kernel[axis] - 1)
            room = size + 2 * pad - reach - 1
            count = -(-room // step) + 1 if ceil_mode else room // step + 1
            if ceil_mode and (count - 1) * step >= size + pad:
                count -= 1  # no window begins in the padding behind the picture
            self.counts.append(count)
            self.ends.append(max(0, (count - 1) * step + reach + 1 - size - pad))

    def padded(self, xp: ModuleType, x: Any, value: float) -> Any:
        sides = list(zip(self.padding, self.ends, strict=True))
        return xp.pad(x, [(0, 0)] * (x.ndim - 2) + sides, constant_values=value)

    def slices(self) -> list[tuple[Any, ...]]:
        """Return, for each cell of a window, what takes it out of all windows at once."""
        axes = [
            [slice(d * i, d * i + (count - 1) * step + 1, step) for i in range(kernel)]
            for d, count, step, kernel in zip(
                self.dilation, self.counts, self.stride, self.kernel, strict=True
            )
        ]
        return [(..., *cell) for cell in product(*axes)]


def _pooling(xp: ModuleType, added: Callable[[Any, Any, Any], Any]) -> Functions:
    def max_pool(
        x: Any,
        kernel: Ints,
        stride: Ints = (),
        padding: Ints = (0,),
        dilation: Ints = (1,),
        ceil_mode: bool = False,
    ) -> tuple[Any, Any]:
        sizes = x.shape[-2:]
        windows = _Windows(sizes, kernel, stride, padding, dilation=dilation, ceil_mode=ceil_mode)
        padded = windows.padded(xp, x, -xp.inf)
        places = windows.padded(xp, xp.arange(sizes[0] * sizes[1]).reshape(sizes), -1)
        cells = xp.stack([padded[one] for one in windows.slices()])  # (cells, ..., H, W)
        where = xp.stack([places[one] for one in windows.slices()])  # (cells, H, W)
        best = cells.argmax(0)[None]
        where = xp.broadcast_to(
            where.reshape(-1, *[1] * (x.ndim - 2), *where.shape[1:]), cells.shape
        )
        return tuple(xp.take_along_axis(one, best, 0)[0] for one in (cells, where))

    def max_pool_backward(gradient: Any, x: Any, *rest: Any) -> Any:
        places = rest[-1].reshape(-1, gradient.shape[-2] * gradient.shape[-1])
        flat = xp.zeros((len(places), x.shape[-2] * x.shape[-1]), dtype=gradient.dtype)
        rows = xp.arange(len(places))[:, None]
        return added(flat, (rows, places), gradient.reshape(places.shape)).reshape(x.shape)

    return {
        aten.max_pool2d_with_indices.default: max_pool,
        aten.max_pool2d_with_indices_backward.default: max_pool_backward,
    }


def _averages(xp: ModuleType, added: Callable[[Any, Any, Any], Any]) -> Functions:
    def counts(x: Any, windows: _Windows, counts_padding: bool, divisor: int | None) -> Any:
        """Return by what the sum over each window is divided."""
        if divisor is not None:
            return divisor
        sizes = x.shape[-2:]
        ones = np.ones(sizes)
        if counts_padding:  # but not what lies behind it, in windows that stand out
            height, width = windows.padding
            ones = np.pad(ones, ((height, height), (width, width)), constant_values=1)
            room = [
                (0, max(0, end - p)) for end, p in zip(windows.ends, windows.padding, strict=True)
            ]
            ones = np.pad(ones, room)
        else:
            ones = windows.padded(np, ones, 0)
        total = sum(ones[one] for one in windows.slices())
        return xp.asarray(total, dtype=x.dtype)

    def average_pool(
        x: Any,
        kernel: Ints,
        stride: Ints = (),
        padding: Ints = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        windows = _Windows(x.shape[-2:], kernel, stride, padding, ceil_mode=ceil_mode)
        padded = windows.padded(xp, x, 0)
        total = sum(padded[one] for one in windows.slices())
        return total / counts(x, windows, count_include_pad, divisor_override)

    def average_pool_backward(gradient: Any, x: Any, *settings: Any) -> Any:
        kernel, stride, padding, ceil_mode, counts_padding, divisor = settings
        windows = _Windows(x.shape[-2:], kernel, stride, padding, ceil_mode=ceil_mode)
        shares = gradient / counts(x, windows, counts_padding, divisor)
        found = windows.padded(xp, xp.zeros_like(x), 0)
        for one in windows.slices():
            found = added(found, one, shares)
        top, left = windows.padding
        return found[..., top : top + x.shape[-2], left : left + x.shape[-1]]

    return {
        aten.avg_pool2d.default: average_pool,
        aten.avg_pool2d_backward.default: average_pool_backward,
    }


def _adaptive(xp: ModuleType) -> Functions:
    def adaptive(x: Any, sizes: Ints) -> Any:
        down, across = (
            xp.asarray(_cuts(*pair), dtype=x.dtype)
            for pair in zip(x.shape[-2:], sizes, strict=True)
        )
        return down @ x @ across.T

    def adaptive_backward(gradient: Any, x: Any) -> Any:
        down, across = (
            xp.asarray(_cuts(*pair), dtype=x.dtype)
            for pair in zip(x.shape[-2:], gradient.shape[-2:], strict=True)
        )
        return down.T @ gradient @ across

    return {
        aten._adaptive_avg_pool2d.default: adaptive,
        aten._adaptive_avg_pool2d_backward.default: adaptive_backward,
    }


def _cuts(size: int, parts: int) -> Any:
    """Return the matrix (parts, size) that averages over nearly equal parts of a dimension."""
    matrix = np.zeros((parts, size))
    for part in range(parts):
        begin, end = part * size // parts, -(-(part + 1) * size // parts)
        matrix[part, begin:end] = 1 / (end - begin)
    return matrix


def _pad(xp: ModuleType) -> Callable[..., Any]:
    def pad(x: Any, sides: Ints, value: float = 0) -> Any:
        # From the last dimension to the first; negative numbers cut away.
        pairs = [(0, 0)] * (x.ndim - len(sides) // 2)
        pairs += list(zip(sides[::2], sides[1::2], strict=True))[::-1]
        kept = tuple(
            slice(max(0, -before), size - max(0, -after))
            for size, (before, after) in zip(x.shape, pairs, strict=True)
        )
        grown = [(max(0, before), max(0, after)) for before, after in pairs]
        return xp.pad(x[kept], grown, constant_values=value)

    return pad
