"""Every method: it reads the doors that it declares, and what it gives to updates is pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only, tree_structure

from holdfast.agents.doors import doors as doors_module
from holdfast.agents.doors.doors import ClosedDoor, Doors
from holdfast.agents.doors.gradients import Work
from holdfast.agents.tracing.trace import Traced, traced
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.method import Method
from holdfast.errors import UsageError
from holdfast.registry import METHODS, ON_HOST
from holdfast.scenarios.checks.methods import can_take, method_signature
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.signature import DOORS

FEW = {"samples": 48, "batch_size": 16}
# What brings their functions about in so few updates.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ewc": {"samples": 48},
    "mas": {"samples": 48},
    "rwalk": {"interval": 3},
    "vcl": {"first_task_kl": True},
    "l2-init": {"strength": 1.0},
    "cloning": FEW,
    "replay": {"samples": 48},
    "clear": {"samples": 96, "unroll": 6},
    "generative-replay": {**FEW, "updates": 3, "draws": 32, "hidden": 8, "latent": 2},
    "er-ace": FEW,
    "agem": {**FEW, "dot_product": "per_network"},
    "gem": FEW,
    "pcgrad": FEW,
    "packnet": {"clip_norm": 0.1},
    "expandable": {"episodes": 1, "samples": 48, "threshold": 1e9, "patience": 0.2},
    "progress-compress": {"updates": 3, "samples": 48, "batch_size": 16},
    "redo": {"tau": 0.9, "period": 1, "samples": 16},
    "shrink-perturb": {"period": 1},
    "continual-backprop": {"replacement_rate": 0.5, "maturity": 1, "samples": 16},
    "weight-clipping": {"kappa": 0.7},
    # A coefficient of about one: a larger one multiplies the rounding of what it compares.
    "c-chain": {"warmup": 3, "batch_size": 8, "window": 4, "scale": 1e-5},
    "trac": {"scale": 0.1},
    "upgd": {"beta": 0.9, "sigma": 0.5},
    "spectral": {"strength": 0.1},
    "cpr": {"replacement_rate": 0.5, "period": 2},
    "reset-distill": {**FEW, "observations": 48, "updates": 3},
    "fame": {**FEW, "updates": 3, "trial_share": 0.125},
}
CHANGES = {"time_limit": 8}  # so that episodes end
SETTINGS: dict[str, Any] = {
    "stream": {"task_count": "known"},
    "changes": CHANGES,
    "score": {"random": 0.0, "reference": 100.0},
}
CASES = [
    (world, name)
    for name in METHODS
    for world in ("ppo", "sac")
    if can_take(world, method_signature(name))
]
ON_SAC = ("perfect-memory", "si", "agem")  # the others by make slow
QUICK = [
    pytest.param(*case, marks=[] if case[0] == "ppo" or case[1] in ON_SAC else [pytest.mark.slow])
    for case in CASES
]
STEPS = 5


def build(name: str) -> list[Method]:
    tasks = [{"name": "t", "env": "CartPole-v1", "steps": 64}]
    given = {"tasks": tasks, "agent": {"algorithm": "ppo"}}
    entry = {name: ARGUMENTS.get(name, {})}
    return kind_of(Scenario.model_validate({**given, "methods": [entry]})).methods()


# -- doors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("world", "name"), CASES)
def test_a_task_switch_takes_the_declared_doors_and_no_others(
    world: str, name: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()

    class Noted(Doors):
        def __getattribute__(self, name: str) -> Any:
            if name in DOORS:
                read.add(name)
            return super().__getattribute__(name)

    monkeypatch.setattr("holdfast.agents.sb3.learner.Doors", Noted)
    (method,) = methods = build(name)
    train(world, lambda: methods, tasks=2, restart_after=0, **SETTINGS)
    assert read <= set(method.doors)
    assert bool(read) == bool(method.doors)


class Reads(Method):
    """Reads something of its doors."""

    doors = ("gradients",)

    def __init__(self, what: str) -> None:
        self.what = what

    def pre_adapt(self, doors: Any, experience: Any) -> None:
        getattr(doors, self.what)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "memory",
            r'doors\.memory, which its class does not declare; .*\("gradients", "memory",\)',
        ),
        ("policy", r"doors\.policy does not exist.*pre_adapt\(self, doors, experience\)"),
        ("model", r"doors\.model does not exist.*load_state\(self, doors, tensors\)"),
    ],
)
def test_another_door_is_closed(what: str, said: str, train: Any) -> None:
    with pytest.raises(ClosedDoor, match=f"method Reads: .*{said}"):
        train("ppo", lambda: [Reads(what)], tasks=1)
    assert train("ppo", lambda: [Reads("gradients"), Reads("facts"), Reads("warn")], tasks=1)


class Old(Method):
    """Is written for the agent."""

    doors = ("gradients",)

    def pre_adapt(self, agent: Any, experience: Any) -> None:  # type: ignore[override]
        agent.gradients.add(lambda parameters: {})


def test_a_method_for_the_agent_is_told_the_new_contract(train: Any) -> None:
    with pytest.raises(ClosedDoor, match=r"pre_adapt takes an agent\. Methods are handed"):
        train("ppo", lambda: [Old()], tasks=1)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def pre_adapt(self, agent, experience): ...", "pre_adapt takes an agent"),
        ("def post_adapt(self, doors, experience): doors.model.save()", "doors.model, which is no"),
        ("def load_state(self, doors, tensors): x = doors.facts.device", ""),
        ("def pre_adapt(self, doors, experience): doors.gradients.add(1); doors.log('a', 1)", ""),
    ],
)
def test_validate_sees_the_old_contract(body: str, said: str, refusal: Any, tmp_path: Any) -> None:
    (tmp_path / "mine_own.py").write_text(
        "from holdfast.continual.method import Method\n"
        f'class Mine(Method):\n    doors = ("gradients",)\n    {body}\n'
    )
    found = refusal("mine_own:Mine")
    assert said in found
    assert ("pre_adapt(self, doors, experience)" in found) == bool(said)
    assert found.count("doors = (") == bool(said)


def test_no_door_hands_out_the_agent(train: Any) -> None:
    """Nor the model, nor the policy, by a name that a method may read."""
    agent = train("ppo", tasks=1)

    class Every(Method):
        doors = ("gradients", "memory", "networks", "lifecycle", "output")

    doors = agent.doors(Every())
    hidden = (agent, agent.model, agent.policy)
    for name in ("facts", *Every.doors):
        thing = getattr(doors, name)
        public = {n: getattr(thing, n) for n in dir(thing) if not n.startswith("_")}
        values = [v for v in public.values() if not callable(v)]
        assert not any(value is one for value in values for one in hidden)
        assert not any(isinstance(value, torch.nn.Module) for value in values)
    assert doors_module.DOORS == DOORS


# -- pure functions --------------------------------------------------------------------------------


@dataclass
class Called:
    """A function of a method in the updates of one optimizer, with one set of flags."""

    program: Traced | None  # None where it reads a tensor on the host
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)


def _copied(tree: Any) -> Any:
    return tree_map_only(Tensor, lambda t: t.detach().clone(), tree)


def _program(function: Any, inputs: Any) -> Traced | None:
    try:
        return traced(function, *inputs)
    except (UsageError, RuntimeError, ValueError):
        return None


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Called]:
    """Note the last calls of every function, with all that it was given and what it returned."""
    noted: dict[Any, Called] = {}
    published = Work.__call__

    def call(work: Work, part: Any, *given: Any) -> Any:
        inner = work.function

        def function(*args: Any, **flags: Any) -> Any:
            inputs = _copied(args)
            # An engine traces again for other flags, and for a state of another structure.
            key = (id(work), id(part), *sorted(flags.items()), str(tree_structure(inputs)))
            if key not in noted:
                noted[key] = Called(_program(partial(inner, **flags), inputs))
                alive.append((work, part))  # ids are not used again
            output = inner(*args, **flags)
            one = noted[key]
            one.inputs = [*one.inputs, inputs][-STEPS:]
            one.outputs = [*one.outputs, _copied(output)][-STEPS:]
            return output

        work.function = function
        try:
            return published(work, part, *given)
        finally:
            work.function = inner

    alive: list[Any] = []
    monkeypatch.setattr(Work, "__call__", call)
    return noted


WITHOUT = ("naive", "isolated", "joint", "frozen", "replay", "perfect-memory", "progressive")
WITHOUT += ("componet", "cka-rl", "progress-compress", "fire", "reptile", "reset-distill")
WITHOUT += ("fame",)  # but for action values


@pytest.mark.thorough
@pytest.mark.parametrize(("world", "name"), QUICK)
def test_what_a_method_gives_to_updates_is_pure(
    world: str, name: str, train: Any, calls: dict[Any, Called]
) -> None:
    """Traced once, it gives on what later updates handed in what it gave there."""
    train(world, lambda: build(name), tasks=2, steps=96, **SETTINGS)
    assert bool(calls) == (name not in WITHOUT)
    _check_traces(calls, name)


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", pytest.param("sac", marks=pytest.mark.slow)])
def test_with_a_head_per_task_it_is_pure_too(
    world: str, train: Any, calls: dict[Any, Called]
) -> None:
    keys = SETTINGS | {"stream": {"task_id": "heads"}}
    train(world, lambda: build("vcl"), tasks=2, steps=96, **keys)
    assert calls
    _check_traces(calls, "vcl")


def _check_traces(calls: dict[Any, Called], name: str, library: Any = np) -> None:
    for one in calls.values():
        if one.program is None:
            continue
        function = one.program.on(library)
        function = function if library is np else jax.jit(function)
        for inputs, output in zip(one.inputs, one.outputs, strict=True):
            given = tree_map_only(Tensor, lambda tensor: tensor.numpy(), inputs)
            _assert_close(function(*given), output)
    assert any(one.program is None for one in calls.values()) == (name in ON_HOST)
    if calls:
        assert max(len(one.inputs) for one in calls.values()) == STEPS
        outputs = tree_leaves([one.outputs for one in calls.values()])
        floats = [one for one in outputs if isinstance(one, Tensor) and one.is_floating_point()]
        assert max(float(one.abs().max()) for one in floats if one.numel()) > 1e-4


def _assert_close(found: Any, output: Any) -> None:
    """Compare arrays with tensors, in an order of keys that may be another."""
    if isinstance(output, dict):
        assert found.keys() == output.keys()
        for key in output:
            _assert_close(found[key], output[key])
    elif isinstance(output, tuple | list):
        assert len(found) == len(output)
        for one, other in zip(found, output, strict=True):
            _assert_close(one, other)
    elif isinstance(output, Tensor):
        # Differences of numbers about one, in float32 and in another order of sums.
        np.testing.assert_allclose(found, output.numpy(), rtol=1e-5, atol=1e-6)
    else:
        assert found == output


@pytest.mark.slow
@pytest.mark.parametrize(("world", "name"), CASES)
def test_on_jax_it_gives_the_same(
    world: str, name: str, train: Any, calls: dict[Any, Called]
) -> None:
    train(world, lambda: build(name), tasks=2, steps=96, **SETTINGS)
    _check_traces(calls, name, jnp)


def test_a_function_that_reads_a_tensor_is_no_pure_one() -> None:
    assert _program(lambda p: p if p.sum().item() > 0 else -p, [torch.ones(2)]) is None
