"""Stable-Baselines3's networks, and every algorithm's loss on them, traced."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from double import DoubleFlatten
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, MaskablePPO
from shapes import Shapes
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map_only

from holdfast.agents.algorithms.losses import inputs_of, loss_gradient, loss_of
from holdfast.agents.base.buffers import flatten
from holdfast.agents.tracing.pictures import ON_JAX_ALONE
from holdfast.agents.tracing.trace import traced

ROWS = 6
DOUBLE = {"features_extractor_class": DoubleFlatten, "net_arch": [8, 8]}


def model_of(algorithm: Any, shown: str, taken: str, *, double: bool = True, **keys: Any) -> Any:
    on_policy = algorithm in (PPO, A2C, MaskablePPO)
    keys |= {"n_steps": 8} if on_policy else {"buffer_size": 10}
    keys |= {"batch_size": 4} if algorithm in (PPO, MaskablePPO) else {}
    policy = {"dict": "MultiInputPolicy", "picture": "CnnPolicy"}.get(shown, "MlpPolicy")
    if double:
        policy, keys["policy_kwargs"] = "MlpPolicy", DOUBLE | keys.get("policy_kwargs", {})
    model = algorithm(policy, Shapes(shown, taken), seed=1, device="cpu", **keys)
    if double:
        model.policy.double()
    return model


def observations(model: Any, seed: int) -> Any:
    space = model.observation_space
    space.seed(seed)
    rows = [space.sample() for _ in range(ROWS)]
    if isinstance(space, spaces.Dict):
        return {key: torch.as_tensor(np.stack([row[key] for row in rows])) for key in space}
    rows_as_one = torch.as_tensor(np.stack(rows))
    return rows_as_one.float() if isinstance(space, spaces.Box) else rows_as_one


def actions(model: Any) -> Tensor:
    space = model.action_space
    space.seed(5)
    rows = torch.as_tensor(np.stack([space.sample() for _ in range(ROWS)]))
    return rows / 4 if isinstance(space, spaces.Box) else rows


def check(function: Callable[..., Any], *arguments: Any, small: float, numpy: bool = True) -> None:
    """Compare with torch: on JAX, and on NumPy, each to a part of the largest entry."""
    program = traced(function, *arguments)
    given = tree_map_only(Tensor, lambda one: one.detach().numpy().copy(), arguments)
    wanted = [one.detach().numpy() for one in tree_leaves(function(*arguments))]

    def compare(found: Any) -> None:
        leaves = tree_leaves(found)
        assert len(leaves) == len(wanted)
        for one, other in zip(leaves, wanted, strict=True):
            assert np.asarray(one).dtype == other.dtype
            size = max(1e-3, float(np.abs(other).max(initial=0)))
            np.testing.assert_allclose(one, other, rtol=0, atol=small * size)

    with jax.enable_x64(True):
        found = jax.jit(program.on(jnp))(*given)
        # Dicts come back sorted by JAX.
        compare(_in_order(found, function(*arguments)))
    assert numpy == (not program.targets & ON_JAX_ALONE)
    if numpy:
        compare(program.on(np)(*given))


def _in_order(tree: Any, like: Any) -> Any:
    if isinstance(like, dict):
        return {key: _in_order(tree[key], one) for key, one in like.items()}
    if isinstance(like, tuple | list):
        return [_in_order(one, other) for one, other in zip(tree, like, strict=True)]
    return tree


def called(
    network: nn.Module, call: Callable[..., Any], parameters: dict[str, Tensor], *inputs: Any
) -> Any:
    """Return what a call of a network gives with other parameters."""

    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self) -> Any:
            return call(self.network, *inputs)

    named = {f"network.{name}": value for name, value in parameters.items()}
    return functional_call(Holding(), named, ())


def sloped(network: nn.Module, call: Callable[..., Any], parameters: Any, *inputs: Any) -> Any:
    """Return the gradient of the mean square of what a call gives."""

    def loss(values: dict[str, Tensor]) -> Tensor:
        results = tree_leaves(called(network, call, values, *inputs))
        return sum(one.square().mean() for one in results if isinstance(one, Tensor))  # type: ignore[return-value]

    return torch.func.grad(loss)(parameters)


def evaluate(network: Any, seen: Any, taken: Tensor) -> Any:
    return network.evaluate_actions(seen, taken)


NETWORKS: dict[str, tuple[Any, str, str, str, Any]] = {
    "ppo": (PPO, "vector", "discrete", "", evaluate),
    "ppo-box": (PPO, "vector", "box", "", evaluate),
    "ppo-multidiscrete": (PPO, "vector", "multidiscrete", "", evaluate),
    "ppo-multibinary": (PPO, "vector", "multibinary", "", evaluate),
    "ppo-number": (PPO, "number", "discrete", "", evaluate),
    "ppo-dict": (PPO, "dict", "discrete", "", evaluate),
    "ppo-picture": (PPO, "picture", "discrete", "", evaluate),
    "a2c": (A2C, "vector", "discrete", "", evaluate),
    "maskable": (MaskablePPO, "vector", "masked", "", evaluate),
    "dqn": (DQN, "vector", "discrete", "q_net", lambda q, seen, _: q(seen)),
    "dqn-picture": (DQN, "picture", "discrete", "q_net", lambda q, seen, _: q(seen)),
    "qrdqn": (QRDQN, "vector", "discrete", "quantile_net", lambda q, seen, _: q(seen)),
    "sac-actor": (SAC, "vector", "box", "actor", lambda a, seen, _: a(seen, deterministic=True)),
    "sac-critic": (SAC, "vector", "box", "critic", lambda c, seen, taken: c(seen, taken)),
    "tqc-actor": (TQC, "vector", "box", "actor", lambda a, seen, _: a(seen, deterministic=True)),
    "tqc-critic": (TQC, "vector", "box", "critic", lambda c, seen, taken: c(seen, taken)),
    "td3-actor": (TD3, "vector", "box", "actor", lambda a, seen, _: a(seen)),
    "td3-critic": (TD3, "vector", "box", "critic", lambda c, seen, taken: c(seen, taken)),
    "sac-dict": (SAC, "dict", "box", "critic", lambda c, seen, taken: c(seen, taken)),
}
# Convolutions and one-hot entries are of float32 in Stable-Baselines3.
SINGLE = ("ppo-number", "ppo-dict", "ppo-picture", "dqn-picture", "sac-dict")
QUICK = ("ppo", "sac-actor")


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[] if one in QUICK else [pytest.mark.slow]) for one in NETWORKS],
)
def test_networks(name: str) -> None:
    algorithm, shown, taken, part, call = NETWORKS[name]
    double = name not in SINGLE
    model = model_of(algorithm, shown, taken, double=double)
    network = getattr(model.policy, part) if part else model.policy
    parameters = {key: one.detach() for key, one in network.named_parameters()}
    acted = actions(model)
    if taken in ("box", "multibinary"):  # as buffers keep them
        acted = acted.to(next(iter(parameters.values())).dtype)
    given = (parameters, observations(model, 3), acted)
    small = 1e-12 if double else 3e-6
    has_pictures = shown in ("picture", "dict")

    def forward(parameters: Any, seen: Any, taken: Tensor) -> Any:
        found = tree_leaves(called(network, call, parameters, seen, taken))
        return [one for one in found if isinstance(one, Tensor)]

    check(forward, *given, small=small, numpy=not has_pictures)
    check(partial(sloped, network, call), *given, small=small, numpy=not has_pictures)


LOSSES: dict[str, tuple[Any, str, str, dict[str, Any]]] = {
    "ppo": (PPO, "vector", "discrete", {"ent_coef": 0.01, "clip_range_vf": 0.2}),
    "ppo-box": (PPO, "vector", "box", {"normalize_advantage": False}),
    "ppo-picture": (PPO, "picture", "discrete", {}),
    "ppo-dict": (PPO, "dict", "multidiscrete", {}),
    "maskable": (MaskablePPO, "vector", "masked", {}),
    "a2c": (A2C, "vector", "discrete", {"normalize_advantage": True}),
    "dqn": (DQN, "vector", "discrete", {}),
    "qrdqn": (QRDQN, "vector", "discrete", {"policy_kwargs": {"n_quantiles": 5}}),
    "sac": (SAC, "vector", "box", {}),
    "tqc": (TQC, "vector", "box", {"policy_kwargs": {"n_quantiles": 5}}),
    "td3": (TD3, "vector", "box", {}),
    "ddpg": (DDPG, "vector", "box", {}),
}
OF_TWO = ("sac", "tqc", "td3", "ddpg")
PARTS = [
    (name, part) for name in LOSSES for part in (("actor", "critic") if name in OF_TWO else ("",))
]


def rows_of(model: Any, name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(2)

    def column(*shape: int) -> Tensor:
        return torch.randn(ROWS, *shape, generator=draw, dtype=dtype)

    seen = flatten({"observations": observations(model, 3)})
    acted = actions(model).reshape(ROWS, -1)
    if hasattr(model, "rollout_buffer"):
        rows = {"old_values": column(), "old_log_prob": column() / 9 - 1, "advantages": column()}
        if name == "maskable":
            masks = torch.arange(ROWS * 4).reshape(ROWS, 4) % 3 != 1
            rows["action_masks"] = masks.scatter(1, acted, value=True)  # what was taken is valid
        return {**seen, **rows, "actions": acted.to(dtype), "returns": column()}
    acted = acted.to(dtype) if isinstance(model.action_space, spaces.Box) else acted
    rows = {"rewards": column(1), "dones": (column(1) > 1).to(dtype), "actions": acted}
    following = flatten({"next_observations": observations(model, 4)})
    return {**seen, **following, **rows, "discounts": torch.full((ROWS, 1), 0.97, dtype=dtype)}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "part"),
    [
        pytest.param(*one, marks=[] if one == ("sac", "critic") else [pytest.mark.slow])
        for one in PARTS
    ],
)
def test_losses_and_their_gradients(name: str, part: str) -> None:
    algorithm, shown, taken, keys = LOSSES[name]
    double = shown == "vector"
    model = model_of(algorithm, shown, taken, double=double, **keys)
    model._setup_learn(8)
    parameters = {
        key: one.detach()
        for key, one in model.policy.named_parameters()
        if "target" not in key and key.startswith(part)
    }
    rows = rows_of(model, name, torch.float64 if double else torch.float32)
    inputs = inputs_of(model, parameters, rows, torch.Generator().manual_seed(1))
    small = 1e-12 if double else 3e-6
    given = (parameters, inputs)
    check(partial(loss_of, model), *given, small=small, numpy=double)
    check(partial(loss_gradient, model), *given, small=small, numpy=double)
