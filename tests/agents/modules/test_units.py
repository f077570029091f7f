"""Hidden units of every kind of network: silencing one equals cutting its outgoing weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.agents.base.parameters import named_parameters
from holdfast.agents.modules.initialisation import fresh_weights
from holdfast.agents.modules.options import CReLU
from holdfast.agents.modules.units import (
    HiddenLayer,
    Outgoing,
    activations,
    hidden_layers,
    renew_units,
    unit_magnitudes,
)
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.streams.task_stream import make_stream
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Scenario


class Pictures(gym.Env[Any, Any]):
    """A picture and a vector; observations are noise."""

    def __init__(self, kind: str = "dict", actions: str = "discrete") -> None:
        picture = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)
        vector = gym.spaces.Box(-1, 1, (3,), np.float32)
        both = gym.spaces.Dict({"camera": picture, "zone": vector})
        self.observation_space = both if kind == "dict" else picture
        box = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2) if actions == "discrete" else box

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


VECTOR = [
    ("ppo", "CartPole-v1"),
    ("dqn", "CartPole-v1"),
    ("qrdqn", "CartPole-v1"),
    ("sac", "Pendulum-v1"),
    ("td3", "Pendulum-v1"),
    ("tqc", "Pendulum-v1"),
]
PLAIN: dict[str, Any] = {"net_arch": [6, 5], "activation": "relu"}
CRELU: dict[str, Any] = {"net_arch": [6, 5], "activation": "crelu"}
PICTURES = [
    ("ppo", "dict", "observed", {"net_arch": [6]}),
    ("ppo", "dict", "heads", {"net_arch": [6]}),
    ("ppo", "dict", "heads", {"net_arch": []}),
    ("ppo", "picture", "hidden", {"net_arch": [], "share_features_extractor": False}),
    ("dqn", "dict", "heads", {"net_arch": [6]}),
    ("sac", "dict", "observed", {"net_arch": [6], "share_features_extractor": True}),
    ("sac", "picture", "hidden", {"net_arch": [6]}),
]


def _agent(
    algorithm: str, env: str, options: dict[str, Any], task_id: str = "observed", **task: Any
) -> Any:
    buffer = {} if "ppo" in algorithm else {"buffer_size": 100}
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": n, "env": env, "steps": 64, **task} for n in "abc"],
            "stream": {"task_id": task_id},
            "agent": {"algorithm": algorithm, "policy_kwargs": options} | buffer,
        }
    )
    agent = StableBaselinesAgent(scenario)
    agent.start(make_stream(scenario, 0).train_stream[0])
    return agent


@pytest.fixture
def make_agent() -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(*args: Any, **keys: Any) -> Any:
        made.append(_agent(*args, **keys))
        return made[-1]

    yield make
    for agent in made:
        agent.close()


def _observations(agent: Any) -> Any:
    space = agent.policy.observation_space
    samples = [space.sample() for _ in range(7)]
    keys = space.spaces if isinstance(space, gym.spaces.Dict) else [""]
    return agent.policy_input({k: np.stack([s[k] if k else s for s in samples]) for k in keys})


@torch.no_grad()
def _outputs(policy: Any, observations: Any) -> list[Tensor]:
    """Return everything that the learning networks say."""
    policy.set_training_mode(False)
    if hasattr(policy, "mlp_extractor"):
        distribution = policy.get_distribution(observations).distribution
        parts = distribution if isinstance(distribution, list) else [distribution]
        logits = [part.logits if hasattr(part, "logits") else part.mean for part in parts]
        return [*logits, policy.predict_values(observations)]
    for name in ("q_net", "quantile_net"):
        if hasattr(policy, name):
            return [getattr(policy, name)(observations)]
    action = torch.full((7, *policy.action_space.shape), 0.3)
    critics = policy.critic(observations, action)
    return [policy._predict(observations, deterministic=True), *critics]


@contextmanager
def _silenced(policy: Any, layer: HiddenLayer, mask: Tensor) -> Iterator[None]:
    """Let chosen units put out zero, by a hook on their activation."""
    module = policy.get_submodule(layer.name)
    keep = (~mask).repeat(2) if isinstance(module, CReLU) else ~mask

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output * keep.reshape(1, -1, *[1] * (output.dim() - 2))

    handle = module.register_forward_hook(hook)
    yield
    handle.remove()


def _check_every_layer(agent: Any) -> None:
    policy, rng = agent.policy, np.random.default_rng(3)
    observations = _observations(agent)
    parameters = named_parameters(policy)
    for parameter in parameters.values():  # PPO's first outputs are all near zero
        parameter.data.add_(0.1 * torch.randn(parameter.shape))
    layers = hidden_layers(policy)
    assert {layer.name for layer in layers} == set(activations(policy, observations))
    original = {name: p.detach().clone() for name, p in parameters.items()}
    for layer in layers:
        assert all(original[name].shape[0] == layer.units for name in layer.incoming)
        mask = torch.zeros(layer.units, dtype=torch.bool)
        mask[rng.choice(layer.units, size=max(1, layer.units // 3), replace=False)] = True
        with _silenced(policy, layer, mask):
            expected = _outputs(policy, observations)
        fresh = fresh_weights(policy, layer.incoming, rng)
        values, renewed, *_ = renew_units(original, [(layer, mask)], fresh)
        for name, value in values.items():
            assert torch.equal(value[~renewed[name]], original[name][~renewed[name]])
            parameters[name].data.copy_(value)
        changed = _outputs(policy, observations)
        for one, other in zip(changed, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        assert not torch.equal(values[layer.weight], original[layer.weight])
        for name in values:
            parameters[name].data.copy_(original[name])


@pytest.mark.parametrize("options", [PLAIN, CRELU], ids=["relu", "crelu"])
@pytest.mark.parametrize("task_id", ["observed", "heads"])
@pytest.mark.parametrize(("algorithm", "env"), VECTOR)
def test_cutting_a_units_outgoing_weights_silences_it(
    algorithm: str, env: str, task_id: str, options: dict[str, Any], make_agent: Any
) -> None:
    _check_every_layer(make_agent(algorithm, env, options, task_id))


@pytest.mark.parametrize(("algorithm", "kind", "task_id", "options"), PICTURES)
def test_channels_of_an_encoder_are_units_too(
    algorithm: str, kind: str, task_id: str, options: dict[str, Any], make_agent: Any
) -> None:
    actions = "box" if algorithm == "sac" else "discrete"
    agent = make_agent(
        algorithm,
        f"{__name__}:Pictures",
        options,
        task_id,
        kwargs={"kind": kind, "actions": actions},
    )
    names = [layer.name for layer in hidden_layers(agent.policy)]
    assert sum(".cnn." in name for name in names) in (3, 6)  # 6: the critic has its own encoder
    _check_every_layer(agent)


def _with_norm(make_agent: Any) -> Any:
    return make_agent("ppo", "CartPole-v1", CRELU | {"layer_norm": "first"})


def test_a_hidden_layers_wiring_by_hand(make_agent: Any) -> None:
    (first, second, *_) = hidden_layers(_with_norm(make_agent).policy)
    assert first.name == "mlp_extractor.policy_net.2"
    assert first.incoming == tuple(
        f"mlp_extractor.policy_net.{n}" for n in ("0.weight", "0.bias", "1.weight", "1.bias")
    )
    (reader,) = first.outgoing
    assert reader.weight == "mlp_extractor.policy_net.3.weight"
    assert reader.columns.tolist() == [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]
    assert [out.weight for out in second.outgoing] == ["action_net.weight"]


def test_activations_are_those_of_the_forward_and_change_nothing(make_agent: Any) -> None:
    agent = make_agent("sac", "Pendulum-v1", PLAIN)
    observations = _observations(agent)
    policy, state = agent.policy, torch.get_rng_state()
    policy.set_training_mode(True)
    seen = activations(policy, observations)
    hidden = torch.relu(policy.actor.latent_pi[0](observations))
    assert torch.equal(seen["actor.latent_pi.1"], hidden)
    action = policy._predict(observations, deterministic=True)
    judged = torch.relu(policy.critic.qf1[0](torch.cat([observations, action], 1)))
    assert torch.equal(seen["critic.qf1.1"], judged)
    assert torch.equal(state, torch.get_rng_state())
    assert policy.training
    assert policy.actor.training
    assert all(not module._forward_hooks for module in policy.modules())
    assert not any(tensor.requires_grad for tensor in seen.values())


def test_running_statistics_stay(make_agent: Any) -> None:
    agent = make_agent("crossq", "Pendulum-v1", {"net_arch": [6, 5]})
    agent.policy.set_training_mode(True)
    before = {name: t.clone() for name, t in agent.policy.state_dict().items()}
    activations(agent.policy, _observations(agent))
    assert all(torch.equal(t, before[name]) for name, t in agent.policy.state_dict().items())


def test_networks_that_cannot_be_told_apart_are_refused(make_agent: Any) -> None:
    agent = make_agent("recurrent_ppo", "CartPole-v1", {})
    with pytest.raises(UsageError, match="recurrent"):
        hidden_layers(agent.policy)


def test_magnitudes_by_hand() -> None:
    vector = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    assert unit_magnitudes(vector, 2).tolist() == [2.0, 1.0]
    concatenated = torch.tensor([[1.0, 0.0, 0.0, 4.0]])  # units 0 and 1, then their negatives
    assert unit_magnitudes(concatenated, 2).tolist() == [0.5, 2.0]
    picture = torch.zeros(1, 2, 2, 2)
    picture[0, 1] = torch.tensor([[1.0, 2.0], [-3.0, 2.0]])
    assert unit_magnitudes(picture, 2).tolist() == [0.0, 2.0]


def test_a_weight_between_two_new_units_is_zero() -> None:
    one, two = torch.ones(2, 1), torch.ones(2, 2)
    layers = [
        HiddenLayer("a", 2, "w1", ("w1",), (Outgoing("w2", None, torch.tensor([[0], [1]])),)),
        HiddenLayer("b", 2, "w2", ("w2",), (Outgoing("w3", None, torch.tensor([[0], [1]])),)),
    ]
    fresh = {"w1": 5 * one, "w2": 7 * two}
    masks = [torch.tensor([True, False]), torch.tensor([False, True])]
    values, renewed, *_ = renew_units(
        {"w1": one, "w2": two, "w3": one.T.clone()}, list(zip(layers, masks, strict=True)), fresh
    )
    assert values["w1"].tolist() == [[5.0], [1.0]]
    assert values["w2"].tolist() == [[0.0, 1.0], [0.0, 7.0]]
    assert values["w3"].tolist() == [[1.0, 0.0]]
    assert renewed["w2"].tolist() == [[True, False], [True, True]]
