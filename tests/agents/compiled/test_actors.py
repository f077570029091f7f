"""Policies as NumPy programs, against torch's own distributions and Stable-Baselines3's predict."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from mixed_env import mixed
from sb3_contrib import QRDQN, TQC, CrossQ, MaskablePPO
from scipy import stats
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv

from holdfast.agents.compiled.actors import (
    Greedy,
    NumpyActor,
    NumpyPredictor,
    TorchActor,
    TorchPredictor,
    actor_critic,
    predictor,
)
from holdfast.agents.compiled.forward import Forward
from holdfast.agents.doors.networks import install
from holdfast.agents.modules.heads import install_heads

ACTIONS = {
    "one choice": spaces.Discrete(4),
    "several choices": spaces.MultiDiscrete([2, 3, 2]),
    "bits": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 2, (2,)),
}


def actor_of(model: Any) -> tuple[Any, Any]:
    """Return what acts for a model whose weights are not small, and first observations."""
    _spread(model.policy)
    model.policy.set_training_mode(False)
    observations = model.env.reset()
    return actor_critic(model, observations), observations


def _spread(policy: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)


def evaluated(model: Any, observations: Any, actions: Any, **masks: Any) -> tuple[Any, Any]:
    """Return torch's own values and log-likelihoods."""
    with torch.no_grad():
        given = torch.as_tensor(actions)
        seen = obs_as_tensor(observations, model.device)
        values, log_probs, _ = model.policy.evaluate_actions(seen, given, **masks)
    return values.flatten().numpy(), log_probs.numpy()


@pytest.mark.parametrize("single", [True, False], ids=["vector", "dict"])
@pytest.mark.parametrize("actions", ACTIONS.values(), ids=ACTIONS)
def test_values_and_likelihoods_are_torchs(actions: Any, single: bool) -> None:
    env = mixed(actions, 5, single=single)
    model = PPO("MlpPolicy" if single else "MultiInputPolicy", env, seed=0, device="cpu")
    actor, observations = actor_of(model)
    assert isinstance(actor, NumpyActor)
    acted = actor.act(observations)
    values, log_probs = evaluated(model, observations, acted.actions)
    np.testing.assert_allclose(acted.values, values, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(acted.log_probs, log_probs, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(actor.values(observations), acted.values)
    with torch.no_grad():
        theirs = model.policy(obs_as_tensor(observations, model.device))
    for ours, tensor in zip(acted, theirs, strict=True):
        assert ours.dtype == tensor.numpy().dtype
        assert ours.shape == tensor.numpy().reshape(ours.shape).shape
    assert acted.actions.shape == theirs[0].shape


@pytest.mark.parametrize("policy", [{}, {"share_features_extractor": False}])
@pytest.mark.parametrize("made", [PPO, A2C])
def test_discrete_observations_are_shown_as_one_hot(made: Any, policy: dict[str, Any]) -> None:
    env = DummyVecEnv([lambda: gym.make("FrozenLake-v1") for _ in range(3)])
    model = made("MlpPolicy", env, seed=0, device="cpu", policy_kwargs=policy)
    actor, _ = actor_of(model)
    observations = np.array([0, 7, 15])
    assert isinstance(actor, NumpyActor)
    acted = actor.act(observations)
    values, log_probs = evaluated(model, observations, acted.actions)
    np.testing.assert_allclose(acted.values, values, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(acted.log_probs, log_probs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["one choice", "several choices"])
def test_masks_leave_what_sb3_contrib_leaves(name: str) -> None:
    env = mixed(ACTIONS[name], 6, single=True)
    model = MaskablePPO("MlpPolicy", env, seed=0, device="cpu")
    actor, observations = actor_of(model)
    assert isinstance(actor, NumpyActor)
    masks = np.stack(env.env_method("action_masks"))
    assert not masks.all()
    for _ in range(50):
        acted = actor.act(observations, masks)
        values, log_probs = evaluated(model, observations, acted.actions, action_masks=masks)
        np.testing.assert_allclose(acted.values, values, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(acted.log_probs, log_probs, rtol=1e-6, atol=1e-6)
        assert log_probs.min() > -1e3  # -1e8 is what a forbidden one has


def test_bits_that_can_be_masked_are_choices_of_two() -> None:
    env = mixed(spaces.MultiBinary(3), 2, single=True)
    model = MaskablePPO("MlpPolicy", env, seed=0, device="cpu")
    actor, observations = actor_of(model)
    acted = actor.act(observations)
    _, log_probs = evaluated(model, observations, acted.actions)
    np.testing.assert_allclose(acted.log_probs, log_probs, rtol=1e-6, atol=1e-6)
    assert isinstance(actor, NumpyActor)


@pytest.mark.parametrize("name", ["one choice", "several choices", "bits"])
def test_actions_come_as_often_as_they_are_likely(name: str) -> None:
    rows, rounds = 200, 100
    model = PPO("MlpPolicy", mixed(ACTIONS[name], rows, single=True), seed=0, device="cpu")
    actor, observations = actor_of(model)
    assert isinstance(actor, NumpyActor)
    observations[:] = observations[0]
    np.random.seed(0)
    drawn = np.concatenate([actor.act(observations).actions for _ in range(rounds)])
    kinds, counts = np.unique(drawn.reshape(rows * rounds, -1), axis=0, return_counts=True)
    shape = (len(kinds), *ACTIONS[name].shape)
    _, log_probs = evaluated(model, observations[: len(kinds)], kinds.reshape(shape))
    wanted = np.exp(log_probs.astype(np.float64))
    assert wanted.sum() == pytest.approx(1)  # each was drawn once at least
    assert counts.min() >= 5
    assert stats.chisquare(counts, wanted / wanted.sum() * len(drawn)).pvalue > 0.01


def test_gaussian_actions_are_distributed_as_torchs() -> None:
    model = PPO("MlpPolicy", mixed(ACTIONS["box"], 200, single=True), seed=0, device="cpu")
    actor, observations = actor_of(model)
    observations[:] = observations[0]
    np.random.seed(0)
    drawn = np.concatenate([actor.act(observations).actions for _ in range(50)])
    with torch.no_grad():
        seen = obs_as_tensor(observations[:1], model.device)
        wanted = model.policy.get_distribution(seen).distribution
    for column in range(2):
        mean, std = (float(part[0, column]) for part in (wanted.mean, wanted.stddev))
        assert stats.kstest(drawn[:, column], "norm", (mean, std)).pvalue > 0.01


def test_the_program_acts_with_the_weights_of_now() -> None:
    model = PPO("MlpPolicy", mixed(ACTIONS["box"], 3, single=True), seed=0, device="cpu")
    actor, observations = actor_of(model)

    def same() -> bool:
        acted = actor.act(observations)
        theirs = evaluated(model, observations, acted.actions)
        return np.allclose(acted[1:], theirs, rtol=1e-5, atol=1e-5)

    before = actor.values(observations)
    _spread(model.policy)
    assert same()  # changed in place
    assert not np.allclose(actor.values(observations), before)
    model.policy.load_state_dict({k: 2 * t for k, t in model.policy.state_dict().items()})
    assert same()
    for parameter in model.policy.parameters():
        parameter.data = parameter.data / 3  # another memory
    actor.refresh(1)
    assert same()
    head = model.policy.action_net
    head.weight = torch.nn.Parameter(2 * head.weight.detach())  # another parameter
    actor.refresh(1)
    assert same()
    _spread(model.policy)
    actor.refresh(100)
    assert same()


def test_heads_are_picked_by_the_task_id() -> None:
    model = PPO("MlpPolicy", mixed(ACTIONS["box"], 4, single=True), seed=0, device="cpu")
    install(model, [lambda policy: install_heads(policy, 2)])
    actor, observations = actor_of(model)
    assert isinstance(actor, NumpyActor)
    observations[:, 1:] = np.eye(2)[[0, 1, 1, 0]]
    acted = actor.act(observations)
    values, log_probs = evaluated(model, observations, acted.actions)
    np.testing.assert_allclose(acted.values, values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(acted.log_probs, log_probs, rtol=1e-5, atol=1e-6)
    flipped = actor.values(np.concatenate([observations[:, :1], 1 - observations[:, 1:]], 1))
    assert np.abs(flipped - acted.values).min() > 1e-3


class Scaled(torch.nn.Module):
    """Multiplies by what it keeps: a buffer, a number, and a tensor that is neither."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))
        self.number = 1.0
        self.noise: Any = None
        self._shift = 0.0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        noisy = hidden if self.noise is None else hidden + self.noise[0]
        return noisy * self.scale * self.number + self._shift


def test_the_program_follows_what_modules_keep() -> None:
    model = PPO("MlpPolicy", mixed(ACTIONS["box"], 3, single=True), seed=0, device="cpu")
    scaled = Scaled()
    model.policy.mlp_extractor.policy_net.append(scaled)
    actor, observations = actor_of(model)
    assert isinstance(actor, NumpyActor)
    means = []

    def same() -> bool:
        actor.refresh(1)
        acted = actor.act(observations)
        theirs = evaluated(model, observations, acted.actions)
        means.append(theirs[1])
        return np.allclose(acted[1:], theirs, rtol=1e-5, atol=1e-5)

    assert same()
    scaled.scale.fill_(0.5)
    assert same()
    assert actor.is_current
    for changed in ({"number": 3.0}, {"_shift": 1.0}, {"noise": (torch.full((64,), 2.0),)}):
        vars(scaled).update(changed)
        assert not actor.is_current  # it has to be traced again
        assert not same()
        actor = actor_critic(model, observations)
        assert same()
        assert actor.is_current
    scaled.noise = (torch.full((64,), -2.0),)  # another of its shape
    assert actor.is_current
    assert same()


def test_torch_acts_where_hooks_look_at_calls() -> None:
    model = PPO("MlpPolicy", mixed(ACTIONS["box"], 3, single=True), seed=0, device="cpu")
    calls = []
    model.policy.action_net.register_forward_hook(lambda *_: calls.append(1))
    actor, observations = actor_of(model)
    assert isinstance(actor, TorchActor)
    actor.act(observations)
    assert calls == [1]


def test_torch_looks_at_pictures() -> None:
    env = DummyVecEnv([FakeImageEnv])
    model = A2C("CnnPolicy", env, seed=0, device="cpu")
    actor, _ = actor_of(model)
    assert isinstance(actor, TorchActor)


class _OwnForward(ActorCriticPolicy):
    def forward(self, obs: Any, deterministic: bool = False) -> Any:
        actions, values, log_probs = super().forward(obs, deterministic)
        return actions, values + 1, log_probs


@pytest.mark.parametrize(
    ("policy", "arguments"),
    [
        ("MlpPolicy", {"policy_kwargs": {"net_arch": [1024, 1024]}}),
        (_OwnForward, {}),
    ],
    ids=["wide", "forward of its own"],
)
def test_torch_acts_where_numpy_is_slower_or_other(policy: Any, arguments: dict[str, Any]) -> None:
    env = mixed(ACTIONS["one choice"], 3, single=True)
    model = PPO(policy, env, seed=0, device="cpu", **arguments)
    actor, observations = actor_of(model)
    assert isinstance(actor, TorchActor)
    torch.manual_seed(0)
    acted = actor.act(observations)
    torch.manual_seed(0)
    with torch.no_grad():
        theirs = model.policy(obs_as_tensor(observations, model.device))
    for ours, tensor in zip(acted, theirs, strict=True):
        np.testing.assert_array_equal(ours, tensor.numpy().reshape(ours.shape))
    np.testing.assert_array_equal(actor.values(observations) + (policy is _OwnForward), acted[1])


# -- off-policy ------------------------------------------------------------------------------------


def predicting(made: Any, n_envs: int = 2, **arguments: Any) -> tuple[Any, Any, Any]:
    """Return an off-policy model, what acts for it, and observations."""
    is_discrete = made in (DQN, QRDQN)
    env = mixed(ACTIONS["one choice" if is_discrete else "box"], n_envs, single=True)
    model = made("MlpPolicy", env, seed=0, device="cpu", buffer_size=100, **arguments)
    _spread(model.policy)
    model.policy.set_training_mode(False)
    observations = env.reset()
    return model, predictor(model, observations), observations


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("made", [DQN, QRDQN])
def test_action_values_explore_as_published(made: Any, rate: float) -> None:
    model, predict, observations = predicting(made)
    model.exploration_rate = rate
    assert isinstance(predict, NumpyPredictor)
    found = []
    for one in (predict, lambda seen: model.predict(seen, deterministic=False)[0]):
        np.random.seed(0)
        model.action_space.seed(0)
        found.append([one(observations + 0.1 * n) for n in range(30)])
    np.testing.assert_array_equal(*found)
    assert len(np.unique(found[0])) > 1 or not rate


@pytest.mark.parametrize("made", [TD3, DDPG])
def test_deterministic_actors_act_as_published(made: Any) -> None:
    model, predict, observations = predicting(made)
    assert isinstance(predict, NumpyPredictor)
    wanted, _ = model.predict(observations, deterministic=False)
    np.testing.assert_allclose(predict(observations), wanted, rtol=1e-5, atol=1e-6)
    assert predict(observations).dtype == wanted.dtype


@pytest.mark.parametrize("made", [SAC, TQC, CrossQ])
def test_stochastic_actors_squash_mean_and_noise(made: Any) -> None:
    model, predict, observations = predicting(made)
    assert isinstance(predict, NumpyPredictor)
    np.random.seed(0)
    found = predict(observations)
    np.random.seed(0)
    noise = torch.as_tensor(np.random.standard_normal((2, 2)), dtype=torch.float32)
    with torch.no_grad():
        mean, log_std, _ = model.actor.get_action_dist_params(torch.as_tensor(observations))
        wanted = model.policy.unscale_action(torch.tanh(mean + log_std.exp() * noise).numpy())
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


class _Doubled(SAC):
    def predict(self, observation: Any, *rest: Any, **named: Any) -> Any:
        actions, state = super().predict(observation, *rest, **named)
        return actions / 2, state


def test_a_predict_of_its_own_is_called() -> None:
    model, predict, observations = predicting(_Doubled)
    assert isinstance(predict, TorchPredictor)
    torch.manual_seed(0)
    found = predict(observations)
    torch.manual_seed(0)
    np.testing.assert_array_equal(found, model.predict(observations)[0])


# -- measured --------------------------------------------------------------------------------------


def greedy_of(made: Any, actions: str, rows: int = 4, *, single: bool = True) -> Any:
    """Return what is measured of a model, and observations."""
    env = mixed(ACTIONS[actions], rows, single=single)
    model = made("MlpPolicy" if single else "MultiInputPolicy", env, seed=0, device="cpu")
    _spread(model.policy)
    model.policy.set_training_mode(False)
    return Greedy(model), model, env.reset()


def alone(greedy: Greedy, model: Any, observations: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what is done where ``predict`` cannot be called."""

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("predict was called")

    with monkeypatch.context() as patched:
        patched.setattr(model, "predict", forbidden)
        return greedy(observations)


def _quickly(made: Any, actions: str, rows: int, single: bool) -> Any:
    is_quick = made in (PPO, DQN, SAC) and (rows, single) in ((4, True), (1, False))
    return pytest.param(made, actions, rows, single, marks=[] if is_quick else [pytest.mark.slow])


@pytest.mark.parametrize(
    ("made", "actions", "rows", "single"),
    [
        _quickly(made, actions, rows, single)
        for made, actions in (
            *((made, name) for made in (PPO, A2C) for name in ACTIONS),
            *((made, "one choice") for made in (DQN, QRDQN)),
            *((made, "box") for made in (SAC, TQC, TD3, DDPG)),
        )
        for rows in (1, 4)
        for single in (True, False)
    ],
)
def test_what_is_measured_acts_as_predict_does(
    made: Any, actions: str, rows: int, single: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy, model, observations = greedy_of(made, actions, rows, single=single)
    greedy(observations)
    for scale in (1, -1, 3):
        moved = (
            {name: scale * values for name, values in observations.items() if name == "walk"}
            | {"clock": observations["clock"]}
            if not single
            else scale * observations
        )
        found = alone(greedy, model, moved, monkeypatch)
        wanted, _ = model.predict(moved, deterministic=True)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape


def test_each_view_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    greedy, model, observations = greedy_of(PPO, "box")
    scaled = Scaled()
    model.policy.mlp_extractor.policy_net.append(scaled)
    traced = []
    monkeypatch.setattr(
        "holdfast.agents.compiled.actors.Forward",
        lambda *given: traced.append(given) or Forward(*given),
    )

    def measured() -> None:
        greedy.look()
        wanted, _ = model.predict(observations, deterministic=True)
        np.testing.assert_allclose(greedy(observations), wanted, rtol=1e-5, atol=1e-5)

    for number in (1.0, -3.0, 1.0, -3.0):
        scaled.number = number
        measured()
        with torch.no_grad():  # an update in between
            model.policy.action_net.weight += 0.1
    assert len(traced) == 2


def test_predict_acts_where_numpy_says_something_else() -> None:
    model, _, observations = predicting(_Doubled)
    greedy = Greedy(model)
    for _ in range(2):
        wanted, _ = model.predict(observations, deterministic=True)
        np.testing.assert_array_equal(greedy(observations), wanted)


def test_predict_acts_on_pictures_below_hooks_and_where_it_is_another() -> None:
    pictures = A2C("CnnPolicy", DummyVecEnv([FakeImageEnv]), seed=0, device="cpu")
    hooked = PPO("MlpPolicy", mixed(ACTIONS["box"], 3, single=True), seed=0, device="cpu")
    calls: list[int] = []
    hooked.policy.action_net.register_forward_hook(lambda *_: calls.append(1))
    choices = MaskablePPO("MlpPolicy", mixed(ACTIONS["one choice"], 3, single=True), seed=0)
    for model in (pictures, hooked, choices):
        observations = model.env.reset()
        wanted, _ = model.predict(observations, deterministic=True)
        np.testing.assert_array_equal(Greedy(model)(observations), wanted)
    assert len(calls) == 2
