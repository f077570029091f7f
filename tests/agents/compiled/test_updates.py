"""What compiled updates make of a model, against Stable-Baselines3's own ``train``.

Both sides have equal weights and buffers, and draw the same random numbers. Float64 tells a mistake
from rounding, which a squashed Gaussian's density amplifies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from compiled_agents import numbers, off_policy, on_policy, trained
from sb3_contrib import QRDQN, TQC, MaskablePPO
from shapes import Shapes
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch.optim import SGD, AdamW, RMSprop

from holdfast.agents.base.gradient_norms import GradientNorms
from holdfast.agents.compiled import programs
from holdfast.agents.compiled.engine import Engine, check
from holdfast.agents.doors.gradients import Works

ON_POLICY = (PPO, A2C, MaskablePPO)
SMALL = {"net_arch": [8, 8]}


def compare(
    make: Callable[[], Any], calls: int, *, small: float = 1e-9, logged: float = 1e-9, **given: int
) -> Any:
    """Train two models, and compare all that came of it; return the compiled one."""
    theirs, ours = make(), make()
    before = numbers(theirs)
    norms = GradientNorms(), GradientNorms()
    for one, model in zip(norms, (theirs, ours), strict=True):
        one.attach(model.policy)
    expected = trained(theirs, calls, **given) | numbers(theirs)
    check(ours, "cpu")
    with Engine(ours, Works(), norms[1]).attached():
        found = trained(ours, calls, **given)
    compare_norms(*(one.told() for one in norms), near=max(logged, 1e-9))
    found |= numbers(ours)
    assert found.keys() == expected.keys()
    for one, other in zip(found.pop("logged"), expected.pop("logged"), strict=True):
        assert one.keys() == other.keys()
        for tag in other:
            assert math.isclose(one[tag], other[tag], rel_tol=logged, abs_tol=logged), tag
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=small, err_msg=name)
    learned = max(
        np.abs(value - before[name]).max() for name, value in expected.items() if name in before
    )
    assert learned > 1e3 * small
    assert ours._n_updates == theirs._n_updates
    return ours


def compare_norms(theirs: Any, ours: Any, near: float) -> None:
    """Compare how large the gradients of sampled updates were, and how many updates there were."""
    assert theirs[0] == ours[0]
    assert theirs[1].keys() == ours[1].keys() != set()
    for group, expected in theirs[1].items():
        torch.testing.assert_close(ours[1][group], expected, rtol=near, atol=near, msg=group)


def steps_taken(model: Any) -> int:
    """Return how many steps the optimizer of a policy has taken."""
    (steps,) = {int(own["step"]) for own in model.policy.optimizer.state.values()}
    return steps


# -- the four, in float64 and at their defaults ----------------------------------------------------

PPO_SMALL = {"n_steps": 64, "batch_size": 32, "n_epochs": 20}


@pytest.mark.thorough
@pytest.mark.usefixtures("double")
def test_ppo() -> None:
    ours = compare(partial(on_policy, PPO, "CartPole-v1", n_envs=2, **PPO_SMALL), 4)
    assert steps_taken(ours) == 320


@pytest.mark.thorough
@pytest.mark.usefixtures("double")
def test_dqn() -> None:
    keys = {"target_update_interval": 30, "gradient_steps": 8}
    make = partial(off_policy, DQN, "CartPole-v1", learning_rate=1e-3, **keys)
    ours = compare(make, 40, gradient_steps=8, batch_size=32)
    assert steps_taken(ours) == 320
    assert ours._n_calls // 30 > 300 // 30  # the target has followed meanwhile


@pytest.mark.thorough
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("algorithm", [SAC, pytest.param(TD3, marks=pytest.mark.slow)])
def test_actor_and_critic(algorithm: Any) -> None:
    make = partial(off_policy, algorithm, "Pendulum-v1", policy_kwargs={"net_arch": [32, 32]})
    compare(make, 30, gradient_steps=1, batch_size=32)


@pytest.mark.thorough
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("algorithm", [pytest.param(SAC, marks=pytest.mark.slow), DQN])
def test_arrays_that_are_too_large_for_the_vector(algorithm: Any) -> None:
    """The state has some beside its vector; what acts is read from there as well."""
    env = "CartPole-v1" if algorithm is DQN else "Pendulum-v1"
    make = partial(off_policy, algorithm, env, policy_kwargs={"net_arch": [160, 160]})
    assert programs._SMALL < 160 * 160
    ours = compare(make, 5, gradient_steps=1, batch_size=16)
    assert max(p.numel() for p in ours.policy.parameters()) == 160 * 160
    acting = ours.policy.q_net if algorithm is DQN else ours.policy.actor
    with Engine(ours, Works(), GradientNorms()).attached():
        before = deepcopy(acting.state_dict())
        trained(ours, 2, gradient_steps=1, batch_size=16)
        inside = deepcopy(acting.state_dict())
    for name, value in acting.state_dict().items():
        assert value.equal(inside[name]), name
        assert not value.equal(before[name]), name


@pytest.mark.slow
def test_ppo_by_default_in_float32() -> None:
    make = partial(on_policy, PPO, "CartPole-v1", double=False)
    assert steps_taken(compare(make, 1, small=5e-7, logged=1e-5)) == 320


@pytest.mark.slow
def test_dqn_by_default_in_float32() -> None:
    make = partial(off_policy, DQN, "CartPole-v1", double=False)
    assert (
        steps_taken(compare(make, 320, small=5e-7, logged=1e-5, gradient_steps=1, batch_size=32))
        == 320
    )


# -- their variants --------------------------------------------------------------------------------

LINEAR = {"learning_rate": lambda left: 1e-3 * left}
BOX = ("Pendulum-v1",)


def stops_midway(model: Any) -> None:
    """Check that a limit of the divergence ended an epoch between two of its minibatches."""
    assert 0 < steps_taken(model) < 2 * 20 * 4
    assert steps_taken(model) % 4, "take another limit"


def has_a_row_left(model: Any) -> None:
    assert model.n_steps % model.batch_size == 1


VARIANTS: dict[str, Any] = {
    "value clipping": (PPO, {"clip_range_vf": 0.05}),
    "target_kl": (PPO, {"target_kl": 0.012, "learning_rate": 3e-3}, stops_midway),
    "linear": (PPO, LINEAR | {"clip_range": lambda left: 0.2 * left, "clip_range_vf": 0.1}),
    "a batch that does not divide": (PPO, {"batch_size": 48}),
    "one row left": (PPO, {"n_steps": 65, "n_envs": 1}, has_a_row_left),
    "no normalisation": (PPO, {"normalize_advantage": False, "ent_coef": 0.01}),
    "box": (PPO, {"env": "Pendulum-v1"}),
    "box squashed by a schedule": (PPO, {"env": "Pendulum-v1", "target_kl": 0.05, **LINEAR}),
    "multidiscrete": (PPO, {"env": partial(Shapes, "vector", "multidiscrete")}),
    "numbers": (PPO, {"env": partial(Shapes, "number", "multidiscrete")}),
    "dict": (PPO, {"env": partial(Shapes, "dict"), "policy": "MultiInputPolicy", "n_epochs": 1}),
    "masked": (MaskablePPO, {"env": partial(Shapes, "vector", "masked")}),
    "masked to a limit": (
        MaskablePPO,
        {"env": partial(Shapes, "vector", "masked"), "target_kl": 0.01, "learning_rate": 2e-3},
        stops_midway,
    ),
    "a2c": (A2C, {}),
    "a2c box": (A2C, {"env": "Pendulum-v1", "normalize_advantage": True, **LINEAR}),
    "a2c adam": (A2C, {"use_rms_prop": False}),
    "adam decay": (PPO, {"policy_kwargs": {"optimizer_kwargs": {"weight_decay": 0.1}}}),
    "adamw": (PPO, {"policy_kwargs": {"optimizer_class": AdamW}}),
    "rmsprop": (
        PPO,
        {"policy_kwargs": {"optimizer_class": RMSprop, "optimizer_kwargs": {"momentum": 0.5}}},
    ),
    "rmsprop decay": (
        A2C,
        {
            "policy_kwargs": {
                "optimizer_class": RMSpropTFLike,
                "optimizer_kwargs": {"weight_decay": 0.1, "momentum": 0.9, "eps": 1e-5},
            }
        },
    ),
    "sgd": (
        PPO,
        {"policy_kwargs": {"optimizer_class": SGD, "optimizer_kwargs": {"weight_decay": 0.1}}},
    ),
}


@pytest.mark.slow
@pytest.mark.usefixtures("double")
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("name", VARIANTS)
def test_on_policy_variant(name: str) -> None:
    algorithm, keys, *checks = VARIANTS[name]
    given = {"env": "CartPole-v1", "n_envs": 2, **({} if algorithm is A2C else PPO_SMALL), **keys}
    calls = 20 if algorithm is A2C else 2
    ours = compare(partial(on_policy, algorithm, **given), calls)
    for passes in checks:
        passes(ours)


@pytest.mark.slow
def test_multibinary() -> None:
    """In float32: a rollout's actions are, and torch's Bernoulli rounds to the same."""
    given = {"env": partial(Shapes, taken="multibinary"), "n_envs": 2, **PPO_SMALL}
    make = partial(on_policy, PPO, double=False, **given)
    compare(make, 4, small=5e-7, logged=1e-5)


CARTPOLE, PENDULUM = "CartPole-v1", "Pendulum-v1"
TEMPERATURE = {"ent_coef": "auto_0.2", "target_entropy": -0.5}
# Algorithm, environment, arguments, gradient steps of each call.
OFF_VARIANTS: dict[str, Any] = {
    "dqn linear": (DQN, CARTPOLE, {**LINEAR, "max_grad_norm": 0.01}, 1),
    "dqn dict": (DQN, partial(Shapes, "dict"), {"policy": "MultiInputPolicy"}, 1),
    "dqn n steps": (DQN, CARTPOLE, {"n_steps": 3}, 4),
    "qrdqn": (QRDQN, CARTPOLE, {"target_update_interval": 7}, 1),
    "qrdqn clipped": (QRDQN, CARTPOLE, {"max_grad_norm": 0.01}, 3),
    "sac several": (SAC, PENDULUM, {**TEMPERATURE, **LINEAR}, 3),
    "sac rare targets": (SAC, PENDULUM, {"target_update_interval": 2, "tau": 0.1}, 3),
    "sac fixed temperature": (SAC, PENDULUM, {"ent_coef": 0.1}, 1),
    "sac n steps": (SAC, PENDULUM, {"n_steps": 3}, 2),
    "sac dict": (SAC, partial(Shapes, "dict", "box"), {"policy": "MultiInputPolicy"}, 1),
    "sac three critics": (SAC, PENDULUM, {"policy_kwargs": {**SMALL, "n_critics": 3}}, 1),
    "sac adamw": (SAC, PENDULUM, {"policy_kwargs": {**SMALL, "optimizer_class": AdamW}}, 1),
    "sac decay": (
        SAC,
        PENDULUM,
        {"policy_kwargs": {**SMALL, "optimizer_kwargs": {"weight_decay": 0.1}}},
        1,
    ),
    "tqc": (TQC, PENDULUM, {}, 1),
    "tqc several": (TQC, PENDULUM, {"ent_coef": 0.1, "top_quantiles_to_drop_per_net": 5}, 2),
    "td3 several": (TD3, PENDULUM, {"policy_delay": 3, **LINEAR}, 4),
    "td3 delay across calls": (TD3, PENDULUM, {"policy_delay": 3, "tau": 0.1}, 1),
    "td3 noise": (TD3, PENDULUM, {"target_policy_noise": 1.0, "target_noise_clip": 0.3}, 2),
    "td3 n steps": (TD3, PENDULUM, {"n_steps": 2}, 1),
    "ddpg": (DDPG, PENDULUM, {}, 1),
    "ddpg rmsprop": (DDPG, PENDULUM, {"policy_kwargs": {**SMALL, "optimizer_class": RMSprop}}, 2),
}


@pytest.mark.slow
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", OFF_VARIANTS)
def test_off_policy_variant(name: str) -> None:
    algorithm, env, keys, gradient_steps = OFF_VARIANTS[name]
    given = {"policy_kwargs": SMALL, **keys}
    make = partial(off_policy, algorithm, env, **given)
    ours = compare(make, -(-30 // gradient_steps), gradient_steps=gradient_steps, batch_size=16)
    assert ours._n_updates >= 30
