"""A traced function on NumPy, and on JAX compiled, scanned and mapped, gives what torch gives."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.utils._pytree import tree_map_only

from holdfast.agents.base.parameters import gradient_of
from holdfast.agents.tracing.trace import traced
from holdfast.errors import UsageError


def arrays(tree: Any) -> Any:
    return tree_map_only(Tensor, lambda one: one.detach().numpy().copy(), tree)


def assert_equal(found: Any, wanted: Any, small: float = 1e-12) -> None:
    """Compare nested results; what is not there must be in neither."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert_equal(found[key], wanted[key], small)
    elif isinstance(wanted, tuple | list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_equal(one, other, small)
    elif isinstance(wanted, Tensor):
        np.testing.assert_allclose(
            np.asarray(found), wanted.detach().numpy(), rtol=small, atol=small
        )
    else:
        assert found == wanted


# -- arguments and results -------------------------------------------------------------------------


class Pair(NamedTuple):
    one: Any
    other: Any


def nested(tree: dict[str, Any], pair: Pair, nothing: None) -> dict[str, Any]:
    return {
        "z": Pair(pair.one + tree["b"], None),
        "a": [pair.other[0] * 2, (tree["a"]["x"] - 1, "said", 3)],
        "same": tree["b"],
        "best": pair.one.max(0),
    }


TREE = {"b": torch.arange(3.0), "a": {"x": torch.ones(2)}}
PAIR = Pair(torch.tensor([[1.0, 5, 2], [4, 3, 6]]), [torch.tensor(4)])


def test_arguments_and_results_keep_their_form() -> None:
    program = traced(nested, TREE, PAIR, None)
    wanted = nested(TREE, PAIR, None)
    sorted_tree = {"a": arrays(TREE["a"]), "b": arrays(TREE["b"])}  # as JAX hands in dicts
    for library in (np, jnp):
        found = program.on(library)(sorted_tree, arrays(PAIR), None)
        assert_equal(found, wanted)
        assert isinstance(found["z"], Pair)
        assert isinstance(found["a"], list)
        assert type(found["best"]) is tuple
    compiled = jax.jit(lambda tree, pair: program.on(jnp)(tree, pair, None)["z"].one)
    np.testing.assert_array_equal(compiled(arrays(TREE), arrays(PAIR)), wanted["z"].one)


def test_one_tensor_given_twice_is_two_arguments() -> None:
    zero = torch.zeros(2)
    function = traced(lambda m, v: m + 2 * v, zero, zero).on(np)
    np.testing.assert_array_equal(function(np.ones(2), np.full(2, 10.0)), [21, 21])


def test_tensors_from_outside_are_frozen() -> None:
    layer = nn.Linear(2, 2)
    program = traced(layer, torch.zeros(1, 2))
    x = torch.ones(1, 2)
    before = layer(x)
    with torch.no_grad():
        layer.weight.zero_()
    for library in (np, jnp):
        assert_equal(program.on(library)(arrays(x)), before, 1e-6)


def test_contents_are_equal_where_traces_do_the_same_and_else_differ() -> None:
    """As large constants do in one entry, which a text of them leaves out."""
    table = torch.arange(5000.0)
    other = table.clone()
    other[2500] += 1.0

    def content(factor: float, kept: Tensor, name: str = "x", rows: int = 1) -> Any:
        def function(named: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"result": factor * named[name] + kept}

        return traced(function, {name: torch.ones(rows, 5000)}).content()

    same = content(2.0, table)
    assert hash(same) == hash(content(2.0, table.clone()))
    assert same == content(2.0, table.clone())
    assert same != content(2.0, other)
    assert same != content(3.0, table)
    assert same != content(2.0, table, name="y")
    assert same != content(2.0, table, rows=2)
    assert same != content(2.0, table.double())


def test_what_depends_on_no_argument_is_computed_once() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        table = torch.linspace(0, 1, 4).softmax(0).cumsum(0)
        return x + table, table

    program = traced(function, torch.zeros(4))
    on_numpy = program.on(np)
    sums, first = on_numpy(np.ones(4, np.float32))
    _, second = on_numpy(np.ones(4, np.float32))
    assert first is second
    assert not first.flags.writeable
    assert_equal(sums, function(torch.ones(4))[0], 1e-6)


def test_what_has_no_effect_is_no_operation() -> None:
    def function(x: Tensor) -> Tensor:
        return x.detach().clone().contiguous().view(2, 3).to(x.dtype).expand(2, 3) + 1

    assert traced(function, torch.zeros(2, 3)).operations == 1


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        (({"a": 1.5},), r"arguments\[0\]\['a'\] is 1.5; a function is traced on tensors"),
        ((torch.ones(2), "x"), r"arguments\[1\] is 'x'"),
    ],
)
def test_an_argument_that_is_no_tensor_is_refused(examples: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        traced(lambda *given: given[0], *examples)


def test_arguments_of_another_form_are_refused() -> None:
    for library in (np, jnp):
        function = traced(nested, TREE, PAIR, None).on(library)
        with pytest.raises(UsageError, match=r"nested: arguments\[0\]\['b'\] has the shape \(4,\)"):
            function({"b": np.zeros(4), "a": {"x": np.ones(2)}}, arrays(PAIR), None)
        with pytest.raises(UsageError, match=r"nested takes 3 arguments, not 1"):
            function({})
        with pytest.raises(UsageError, match=r"arguments\[0\]\['a'\] has 2 entries, not 1"):
            function({"b": np.zeros(3), "a": {"x": np.ones(2), "y": 0}}, arrays(PAIR), None)


def test_outside_a_compiled_function_jax_takes_numpys_arrays() -> None:
    program = traced(lambda x, i: x.index_put((i,), x[:1]), torch.zeros(3), torch.tensor([1, 2]))
    found = program.on(jnp)(np.arange(3, dtype=np.float32), np.array([1, 2]))
    np.testing.assert_array_equal(found, [0, 0, 0])


# -- compiled, scanned, mapped ---------------------------------------------------------------------

SIZES = (3, 8, 2)


class Moments(NamedTuple):
    """Adam's, by name."""

    first: dict[str, Tensor]
    second: dict[str, Tensor]
    steps: Tensor


def weights(dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=draw, dtype=dtype) / 2
        for name, shape in {"w": SIZES[1::-1], "b": SIZES[1:2], "v": SIZES[:0:-1]}.items()
    }


def network_loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    hidden = torch.tanh(F.linear(x, parameters["w"], parameters["b"]))
    return F.mse_loss(F.linear(hidden, parameters["v"]), y)


def adam(
    parameters: dict[str, Tensor], moments: Moments, x: Tensor, y: Tensor
) -> tuple[dict[str, Tensor], Moments, Tensor]:
    """Do a step of Adam, in place on copies as torch's own."""
    gradients = grad(network_loss)(parameters, x, y)
    steps = moments.steps + 1
    names = list(parameters)
    values, first, second = (
        torch._foreach_mul([tree[name] for name in names], 1)
        for tree in (parameters, moments.first, moments.second)
    )
    slopes = [gradients[name] for name in names]
    torch._foreach_lerp_(first, slopes, 0.1)
    torch._foreach_mul_(second, 0.999)
    torch._foreach_addcmul_(second, slopes, slopes, 0.001)
    corrected = -torch.expm1(steps * math.log(0.999))
    roots = torch._foreach_sqrt(second)
    for value, mean, root in zip(values, first, roots, strict=True):
        scale = -0.01 / -torch.expm1(steps * math.log(0.9))
        value.add_(scale * mean / (root / corrected.sqrt() + 1e-8))
    loss = network_loss(parameters, x, y)
    moved = Moments(*(dict(zip(names, one, strict=True)) for one in (first, second)), steps)
    return dict(zip(names, values, strict=True)), moved, loss


def batches(dtype: torch.dtype, count: int = 6) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(count, 5, SIZES[0], generator=draw, dtype=dtype)
    return x, torch.randn(count, 5, SIZES[2], generator=draw, dtype=dtype)


def started(dtype: torch.dtype, seed: int = 0) -> tuple[dict[str, Tensor], Moments]:
    """Return weights, and moments that are not zero."""
    first = {name: one / 3 for name, one in weights(dtype, seed + 10).items()}
    second = {name: one.square() for name, one in weights(dtype, seed + 20).items()}
    return weights(dtype, seed), Moments(first, second, torch.tensor(7.0, dtype=dtype))


def torch_adam(dtype: torch.dtype) -> list[Tensor]:
    """Return what torch.optim.Adam makes of the weights in all batches."""
    parameters, moments = started(dtype)
    leaves = [one.requires_grad_() for one in parameters.values()]
    optimizer = torch.optim.Adam(leaves, lr=0.01, betas=(0.9, 0.999), eps=1e-8)
    for name, leaf in zip(parameters, leaves, strict=True):
        optimizer.state[leaf] = {
            "step": torch.tensor(7.0),
            "exp_avg": moments.first[name].clone(),
            "exp_avg_sq": moments.second[name].clone(),
        }
    for x, y in zip(*batches(dtype), strict=True):
        optimizer.zero_grad()
        network_loss(parameters, x, y).backward()
        optimizer.step()
    return [leaf.detach() for leaf in leaves]


def adam_program() -> Any:
    """Trace with one tensor for both moments, and with ones that are zero."""
    parameters = weights(torch.float64)
    zeros = {name: torch.zeros_like(one) for name, one in parameters.items()}
    x, y = (one[0] for one in batches(torch.float64))
    moments = Moments(zeros, zeros, torch.zeros((), dtype=torch.float64))
    return traced(adam, parameters, moments, x, y)


def test_steps_of_adam_equal_torchs() -> None:
    program, wanted = adam_program(), torch_adam(torch.float64)
    on_numpy = program.on(np)
    parameters, moments = arrays(started(torch.float64))
    for x, y in zip(*arrays(batches(torch.float64)), strict=True):
        parameters, moments, _ = on_numpy(parameters, moments, x, y)
    assert_equal(list(parameters.values()), wanted)

    on_jax = program.on(jnp)

    @jax.jit
    def scanned(start: Any, rows: Any) -> Any:
        def step(state: Any, batch: Any) -> Any:
            *state, loss = on_jax(*state, *batch)
            return tuple(state), loss

        return jax.lax.scan(step, start, rows)

    with jax.enable_x64(True):
        (parameters, moments), losses = scanned(
            arrays(started(torch.float64)), arrays(batches(torch.float64))
        )
        assert_equal([parameters[name] for name in weights(torch.float64)], wanted)
        assert losses.shape == (6,)
        assert float(moments.steps) == 13


@pytest.mark.thorough
def test_lanes_are_what_each_would_be_alone() -> None:
    program = adam_program()
    x, y = (one[0] for one in batches(torch.float64))
    starts = [started(torch.float64, seed) for seed in range(3)]
    stacked = jax.tree_util.tree_map(lambda *one: np.stack(one), *arrays(starts))
    mapped = jax.jit(jax.vmap(program.on(jnp), in_axes=(0, 0, None, None)))
    with jax.enable_x64(True):
        found = mapped(*stacked, *arrays((x, y)))
    for lane, start in enumerate(starts):
        own = jax.tree_util.tree_map(lambda one, lane=lane: one[lane], found)
        assert_equal(own, adam(*start, x, y))


@pytest.mark.thorough
def test_gradients_by_every_way_to_them() -> None:
    """By torch.func, by autograd on leaves, of a module's call, of a gradient's norm."""
    module = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.LayerNorm(4), nn.Linear(4, 1)).double()
    parameters = {name: one.detach() for name, one in module.named_parameters()}
    x = torch.randn(6, 3, dtype=torch.float64)

    def loss(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(module, values, (x,)).square().mean()

    def penalty(values: dict[str, Tensor], x: Tensor) -> Tensor:
        slopes = torch.func.grad(loss)(values, x)
        return sum((one.square().sum() for one in slopes.values()), torch.zeros(()))

    def per_row(values: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        return torch.func.vmap(grad(loss), in_dims=(None, 0))(values, x[:, None])

    functions = {
        "autograd": lambda values, x: gradient_of(lambda leaves: loss(leaves, x), values),
        "both": torch.func.grad_and_value(loss),
        "second": grad(penalty),
        "rows": per_row,
    }
    for name, function in functions.items():
        program = traced(function, parameters, x)
        wanted = function(parameters, x)
        assert_equal(program.on(np)(arrays(parameters), arrays(x)), wanted)
        if name == "second":
            with jax.enable_x64(True):
                found = jax.jit(program.on(jnp))(arrays(parameters), arrays(x))
            assert_equal(found, wanted)


def test_a_traced_function_has_gradients_in_jax_too() -> None:
    x, y = (one[0] for one in batches(torch.float64))
    parameters = weights(torch.float64)
    program = traced(network_loss, parameters, x, y)
    with jax.enable_x64(True):
        found = jax.jit(jax.grad(program.on(jnp)))(arrays(parameters), *arrays((x, y)))
    assert_equal(found, grad(network_loss)(parameters, x, y))


# -- what is refused -------------------------------------------------------------------------------

OUTSIDE = torch.zeros(3)


def draws(x: Tensor) -> Tensor:
    return x + torch.randn(3)


def drops(x: Tensor) -> Tensor:
    return F.dropout(x, 0.5)


def samples(x: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=x).sample()


def samples_noise(x: Tensor) -> Tensor:
    return torch.distributions.Normal(x, 1.0).rsample()


def shuffles(x: Tensor) -> Tensor:
    return x[torch.randperm(3)]


def branches(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def reads(x: Tensor) -> Tensor:
    return x * x.max().item()


def selects(x: Tensor) -> Tensor:
    return x[x > 0]


def fills(x: Tensor) -> Tensor:
    return x.index_put((x > 0,), x)


def finds(x: Tensor) -> Tensor:
    return x.nonzero()


def changes(x: Tensor) -> Tensor:
    x.add_(1)
    return x * 2


def changes_outside(x: Tensor) -> Tensor:
    OUTSIDE.copy_(x)
    return x


def lacks(x: Tensor) -> Tensor:
    return torch.special.i0(x)


def categories(x: Tensor) -> Tensor:
    return F.one_hot(x.long())


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (draws, r"draws draws random numbers with aten\.randn"),
        (drops, r"drops draws random numbers with aten\.bernoulli"),
        (samples, r"samples draws random numbers with aten\.multinomial"),
        (samples_noise, r"samples_noise draws random numbers with aten\.normal"),
        (shuffles, r"shuffles draws random numbers with aten\.randperm"),
        (branches, r"branches looks at the value of a tensor .*use torch\.where"),
        (reads, r"reads looks at the value of a tensor"),
        (selects, r"selects: how many entries aten\.index\.Tensor takes depends on values"),
        (fills, r"fills: how many entries aten\.index_put\.default takes depends on values"),
        (finds, r"finds: how many entries aten\.nonzero"),
        (changes, r"changes changes an argument, .*clone it first"),
        (changes_outside, r"changes_outside changes a"),
        (lacks, r"lacks uses aten\.(special_)?i0\.default, which the compiled engine lacks"),
        (categories, r"one_hot: give num_classes"),
    ],
)
def test_what_no_trace_can_hold_is_refused_with_its_line(function: Any, said: str) -> None:
    validates = torch.distributions.Distribution._validate_args
    with pytest.raises(UsageError, match=said) as refused:
        traced(partial(function), torch.ones(3))
    if function not in (changes, changes_outside, categories):
        line = function.__code__.co_firstlineno + 1
        assert f"({__file__}:{line}, in {function.__name__})" in str(refused.value)
    assert torch.distributions.Distribution._validate_args == validates


def test_numpy_says_what_it_lacks() -> None:
    program = traced(lambda x: F.conv2d(x, x), torch.ones(1, 1, 3, 3))
    with pytest.raises(UsageError, match=rf"aten\.convolution\.default.*numpy \({__file__}:\d+"):
        program.on(np)
    assert program.on(jnp)(np.ones((1, 1, 3, 3), np.float32)).item() == 9


def test_an_error_of_the_function_itself_stays() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        traced(lambda x: x @ x, torch.ones(2, 3))


@pytest.mark.slow
def test_the_sb3_engine_needs_no_jax() -> None:
    """Nor does acting on NumPy: JAX is imported where a function is asked for on it."""
    code = """
import sys
sys.modules["jax"] = None
import numpy as np, torch
from holdfast.agents.tracing.trace import traced
print(traced(lambda x: x.erf().sum(), torch.zeros(3)).on(np)(np.zeros(3, np.float32)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("0.0\n", 0), done.stderr


# -- cost ------------------------------------------------------------------------------------------


def test_a_step_on_numpy_costs_little_more_than_its_operation() -> None:
    """Less than a microsecond each: an environment's step calls dozens."""

    def function(x: Tensor) -> Tensor:
        for _ in range(200):
            x = -x
        return x

    program, x = traced(function, torch.zeros(4)).on(np), np.zeros(4, np.float32)

    def plain() -> Any:
        y = x
        for _ in range(200):
            y = -y
        return y

    gc.collect()
    best = [math.inf, math.inf]
    for _ in range(200):
        for place, call in enumerate((lambda: program(x), plain)):
            begin = time.perf_counter()
            call()
            best[place] = min(best[place], time.perf_counter() - begin)
    assert (best[0] - best[1]) / 200 < 1e-6
