"""Every operation of the table gives what torch gives, and so do gradients through it."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.utils._pytree import tree_leaves
from torch_cases import CASES, GROUPS, arguments, whole

from holdfast.agents.tracing.operations import operations
from holdfast.agents.tracing.pictures import ON_JAX_ALONE
from holdfast.agents.tracing.trace import Traced, traced

# Torch's own are rougher: a short series, a constant with 24 bits; a gradient through float32.
ROUGH = {"gamma": 1e-9, "hard sigmoid": 1e-7, "widened as torch does": 1e-6}
# What has its own code for JAX; the others are there by make slow.
QUICK = ("orders", "replacements", "creation")


@cache
def known(name: str) -> tuple[Traced, list[Any]]:
    """Return a case traced with its gradient, and what torch gives."""
    function = whole(name)
    given = [one.clone() for one in arguments(name)]
    return traced(function, *given), [one.detach().numpy() for one in tree_leaves(function(*given))]


def differences(name: str, found: Any, wanted: list[Any] | None = None) -> list[str]:
    """Return what differs from torch's results, those of a case's own arguments by default."""
    leaves = [np.asarray(one) for one in tree_leaves(found)]
    wanted = known(name)[1] if wanted is None else wanted
    assert len(leaves) == len(wanted)
    said = []
    for place, (a, b) in enumerate(zip(leaves, wanted, strict=True)):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            said.append(f"{name}, {place}: {a.dtype}{a.shape} is not {b.dtype}{b.shape}")
            continue
        small = 1e-6 if a.dtype == np.float32 else ROUGH.get(name, 1e-12)
        if not np.allclose(a, b, rtol=small, atol=small, equal_nan=True):
            said.append(f"{name}, {place}: {a} is not {b}")
    return said


def inputs(name: str) -> list[Any]:
    return [one.numpy().copy() for one in arguments(name)]


@pytest.mark.parametrize("name", CASES)
def test_on_numpy(name: str) -> None:
    program, _ = known(name)
    if program.targets & ON_JAX_ALONE:
        pytest.skip("NumPy has no convolution")
    function = program.on(np)
    given = inputs(name)
    for _ in range(2):  # what is computed once is the same the next time
        found = function(*given)
        assert differences(name, found) == []
        assert {type(one) for one in tree_leaves(found)} == {np.ndarray}
    for one, other in zip(given, inputs(name), strict=True):
        np.testing.assert_array_equal(one, other)  # nothing is written into arguments


@pytest.mark.parametrize(
    "group",
    [pytest.param(one, marks=[] if one in QUICK else [pytest.mark.slow]) for one in GROUPS],
)
def test_on_jax(group: str) -> None:
    functions = {name: known(name)[0].on(jnp) for name in GROUPS[group]}
    with jax.enable_x64(True):
        found = jax.jit(lambda given: {name: f(*given[name]) for name, f in functions.items()})(
            {name: inputs(name) for name in functions}
        )
    assert [text for name in functions for text in differences(name, found[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_mapped_over_lanes(group: str) -> None:
    """One lane has a case's arguments, the other has them turned round."""
    functions = {name: jax.vmap(known(name)[0].on(jnp)) for name in GROUPS[group]}
    turned = {
        name: [one.flip(tuple(range(one.dim()))) for one in arguments(name)] for name in functions
    }
    given = {
        name: [
            np.stack([one, other.numpy()])
            for one, other in zip(inputs(name), turned[name], strict=True)
        ]
        for name in functions
    }
    with jax.enable_x64(True):
        found = jax.jit(lambda given: {name: f(*given[name]) for name, f in functions.items()})(
            given
        )
    said = []
    for name in functions:
        first, second = (
            [np.asarray(one)[lane] for one in tree_leaves(found[name])] for lane in (0, 1)
        )
        wanted = [one.detach().numpy() for one in tree_leaves(whole(name)(*turned[name]))]
        said += differences(name, first) + differences(name, second, wanted)
    assert said == []


def test_convolutions_on_jax() -> None:
    function = known("convolved")[0].on(jnp)
    with jax.enable_x64(True):
        found = jax.jit(function)(*inputs("convolved"))
    assert differences("convolved", found) == []


def test_every_operation_is_in_a_case() -> None:
    used = {target for name in CASES for target in known(name)[0].targets}
    on_numpy, on_jax = operations(np).keys(), operations(jnp).keys()
    assert {str(target) for target in on_jax - used} == set()
    assert on_jax - on_numpy == ON_JAX_ALONE
    assert on_numpy <= on_jax


def test_without_64_bits_jax_has_its_own_dtypes() -> None:
    """Operations that name a dtype give JAX's narrower one, without a warning."""

    def function(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x.double() + torch.arange(3), x.argmax(), x.sum(dtype=torch.float64)

    found = traced(function, torch.ones(3)).on(jnp)(jnp.ones(3))
    assert [str(one.dtype) for one in found] == ["float32", "int32", "float32"]
    np.testing.assert_array_equal(found[0], [1, 2, 3])


def test_float32_stays_float32() -> None:
    """Neither a number of 64 bits nor one of no dimensions makes it wider."""

    def function(x: Tensor, s: Tensor) -> tuple[Tensor, ...]:
        total = x.sum()
        return total * 0.1, x * s, x.mean() / x.std(), x.clamp(-s, s), total**2, -total.exp()

    # Always the same numbers: where their sum is near zero, rounding is no small share of it.
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    s = torch.tensor(0.3, dtype=torch.float64)
    found = traced(function, x, s).on(np)(x.numpy(), s.numpy())
    assert {one.dtype for one in found} == {np.dtype("float32")}
    for one, wanted in zip(found, function(x, s), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-5)


@pytest.mark.parametrize("kernel", [(2, 2), (3, 2)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_windows(kernel: tuple[int, int], stride: tuple[int, int], ceil_mode: bool) -> None:
    def function(a: Tensor) -> list[Tensor]:
        return [
            F.max_pool2d(a, kernel, stride, (1, 1), ceil_mode=ceil_mode),
            F.avg_pool2d(a, kernel, stride, (1, 1), ceil_mode=ceil_mode),
            F.avg_pool2d(a, kernel, stride, (1, 1), ceil_mode, count_include_pad=False),
        ]

    a = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    for one, wanted in zip(traced(function, a).on(np)(a.numpy()), function(a), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-12)
