"""CReLU, layer normalisation and weight decay, with every algorithm that opens its networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.agents.base.parameters import optimizers_of
from holdfast.agents.doors.outputs import as_evaluated
from holdfast.agents.modules.options import CReLU
from holdfast.agents.modules.units import hidden_layers
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.streams.task_stream import make_stream
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Scenario

ON_POLICY: dict[str, Any] = {"n_steps": 32}
OFF_POLICY: dict[str, Any] = {"buffer_size": 100, "learning_starts": 8, "batch_size": 8}
ALGORITHMS = {
    "ppo": ("CartPole-v1", ON_POLICY | {"batch_size": 32}),
    "a2c": ("CartPole-v1", {}),
    "dqn": ("CartPole-v1", OFF_POLICY),
    "qrdqn": ("CartPole-v1", OFF_POLICY),
    "sac": ("Pendulum-v1", OFF_POLICY),
    "td3": ("Pendulum-v1", OFF_POLICY),
    "ddpg": ("Pendulum-v1", OFF_POLICY),
    "tqc": ("Pendulum-v1", OFF_POLICY),
}
ALL = {"activation": "crelu", "layer_norm": "all", "weight_decay": 0.01, "optimizer": "adamw"}


def _agent(algorithm: str, options: dict[str, Any], **keys: Any) -> tuple[Any, list[Any]]:
    env, arguments = ALGORITHMS[algorithm]
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": n, "env": env, "steps": 64} for n in "ab"],
            "agent": {
                "algorithm": algorithm,
                "policy_kwargs": {"net_arch": [8, 6]} | options,
                **arguments,
            },
        }
        | keys
    )
    return StableBaselinesAgent(scenario), list(make_stream(scenario, 0).train_stream)


def _learn(agent: Any, experience: Any) -> None:
    agent.start(experience)
    agent.learn(experience, lambda step: None, lambda scalars, step: None)


QUICK = [("ppo", "heads"), ("sac", "heads"), ("dqn", "observed")]
CASES = [
    pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
    for case in [*((n, "heads") for n in ALGORITHMS), ("ppo", "observed"), ("dqn", "observed")]
]


@pytest.mark.thorough
@pytest.mark.parametrize(("algorithm", "task_id"), CASES)
def test_all_together_learn_carry_and_restart(algorithm: str, task_id: str) -> None:
    keys = {"stream": {"task_id": task_id}, "carry": {"optimizer": True}}
    agent, (first, second) = _agent(algorithm, ALL, **keys)
    _learn(agent, first)
    files = agent.files()
    _learn(agent, second)
    restarted, (_, again) = _agent(algorithm, ALL, **keys)
    restarted.load_files(files)
    _learn(restarted, again)
    one, other = agent.policy.state_dict(), restarted.policy.state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert not torch.equal(
        *(
            next(t for n, t in found.items() if n.endswith("weight"))
            for found in (one, files["policy"])
        )
    )


def _layers(module: Any) -> list[str]:
    """Return the layers of a network, flat, each with its sizes."""
    found = []
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            found.append(f"{layer.in_features}-{layer.out_features}")
        elif isinstance(layer, nn.LayerNorm | CReLU | nn.Tanh | nn.ReLU):
            found.append(type(layer).__name__)
    return found


def test_networks_by_hand() -> None:
    agent, (first, _) = _agent("ppo", {"activation": "crelu", "layer_norm": "all"})
    agent.start(first)
    policy = agent.policy
    trunk = ["6-8", "LayerNorm", "CReLU", "16-6", "LayerNorm", "CReLU"]
    assert _layers(policy.mlp_extractor.policy_net) == trunk
    assert _layers(policy.mlp_extractor.value_net) == trunk
    assert _layers(policy.action_net) == ["12-2"]
    assert _layers(policy.value_net) == ["12-1"]
    agent.close()
    agent, (first, _) = _agent("sac", {"layer_norm": "first"})
    agent.start(first)
    policy = agent.policy
    assert _layers(policy.actor.latent_pi) == ["5-8", "LayerNorm", "ReLU", "8-6", "ReLU"]
    for critic in (policy.critic, policy.critic_target):
        assert _layers(critic.qf1) == ["6-8", "LayerNorm", "ReLU", "8-6", "ReLU", "6-1"]
    for (name, one), two in zip(
        policy.critic.state_dict().items(), policy.critic_target.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two), name
    members = {id(p) for o in optimizers_of(policy) for g in o.param_groups for p in g["params"]}
    targets = {id(p) for p in policy.critic_target.parameters()}
    assert members == {id(p) for p in policy.parameters()} - targets
    agent.close()


def test_crelu_gives_both_halves() -> None:
    assert CReLU()(torch.tensor([[1.0, -2.0]])).tolist() == [[1.0, 0.0, 0.0, 2.0]]


def test_a_wider_ppo_is_still_orthogonal() -> None:
    agent, (first, _) = _agent("ppo", {"activation": "crelu"})
    agent.start(first)
    weight = agent.policy.mlp_extractor.policy_net[2].weight
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(6))
    head = agent.policy.action_net.weight
    torch.testing.assert_close(head @ head.T, 1e-4 * torch.eye(2), rtol=1e-3, atol=1e-8)
    agent.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_weight_decay_reaches_every_optimizer(algorithm: str) -> None:
    """A2C and QR-DQN replace ``optimizer_kwargs``; what else they set must stay."""
    plain, (first, _) = _agent(algorithm, {})
    plain.start(first)
    agent, (first, _) = _agent(algorithm, {"weight_decay": 0.25})
    agent.start(first)
    assert optimizers_of(agent.policy)
    for one, other in zip(optimizers_of(plain.policy), optimizers_of(agent.policy), strict=True):
        assert type(one) is type(other)
        for a, b in zip(one.param_groups, other.param_groups, strict=True):
            assert b["weight_decay"] == 0.25
            same = a.keys() - {"params", "weight_decay"}
            assert {key: a[key] for key in same} == {key: b[key] for key in same}
    entropy = getattr(agent.model, "ent_coef_optimizer", None)
    assert entropy is None or entropy.param_groups[0]["weight_decay"] == 0
    plain.close()
    agent.close()


@pytest.mark.parametrize(("optimizer", "expected"), [("adamw", 0.995), ("sgd", 0.995)])
def test_weight_decay_by_hand(optimizer: str, expected: float) -> None:
    """With no gradient, lr .1 and decay .05, a step multiplies weights by 1 - .005."""
    agent, (first, _) = _agent("sac", {"optimizer": optimizer, "weight_decay": 0.05})
    agent.start(first)
    (actor, _) = optimizers_of(agent.policy)
    actor.param_groups[0]["lr"] = 0.1
    before = [p.detach().clone() for p in agent.policy.actor.parameters()]
    for parameter in agent.policy.actor.parameters():
        parameter.grad = torch.zeros_like(parameter)
    actor.step()
    for old, new in zip(before, agent.policy.actor.parameters(), strict=True):
        torch.testing.assert_close(new, expected * old)
    agent.close()


def test_without_options_nothing_is_rebuilt() -> None:
    agent, (first, _) = _agent("ppo", {})
    plain, (same, _) = _agent("ppo", {"layer_norm": None, "weight_decay": None})
    agent.start(first)
    plain.start(same)
    one, other = agent.policy.state_dict(), plain.policy.state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    agent.close()
    plain.close()


def test_a_norm_without_a_hidden_layer_is_refused() -> None:
    agent, (first, _) = _agent("ppo", {"net_arch": [], "layer_norm": "all"})
    with pytest.raises(UsageError, match="hidden layer"):
        agent.start(first)
    agent.close()


def test_crelu_units_are_never_all_off() -> None:
    agent, (first, _) = _agent("dqn", {"activation": "crelu"})
    agent.start(first)
    observations = agent.policy_input({"": np.random.default_rng(0).normal(size=(9, 6))})
    hidden = agent.policy.q_net.q_net[:2](observations.float())
    assert torch.equal((hidden > 0).sum(1), torch.full((9,), 8))
    agent.close()


@pytest.mark.parametrize("algorithm", ["sac", "td3", "ddpg", "tqc"])
def test_critics_alone_have_dropout_before_layer_norm(algorithm: str) -> None:
    """DroQ, figure 1: the critic by hand, with the masks that torch draws; targets draw too."""
    agent, (first, _) = _agent(algorithm, {"layer_norm": "critics", "dropout_rate": 0.5})
    agent.start(first)
    policy = agent.policy
    assert not any(isinstance(m, nn.LayerNorm | nn.Dropout) for m in policy.actor.modules())
    seen, actions = torch.randn(5, 5), torch.rand(5, 1)  # a task id of two beside Pendulum's three
    for critic, is_target in ((policy.critic, False), (policy.critic_target, True)):
        one, _, norm, _, two, _, norm_two, _, head = critic.q_networks[0]
        policy.set_training_mode(True)
        torch.manual_seed(1)
        value = critic(seen, actions)
        value = (value if algorithm == "tqc" else value[0]).reshape(len(seen), -1)
        torch.manual_seed(1)
        hidden = torch.cat([seen, actions], 1)
        for layer, normal in ((one, norm), (two, norm_two)):
            kept = nn.functional.dropout(layer(hidden), 0.5)
            hidden = nn.functional.layer_norm(kept, [kept.shape[1]], normal.weight, normal.bias)
            hidden = hidden.relu()
        width = head.out_features  # of TQC, the quantiles of the first critic
        torch.testing.assert_close(value[:, :width], head(hidden))
        policy.set_training_mode(False)
        again = [critic(seen, actions) for _ in range(2)]
        again = again if algorithm == "tqc" else [each[0] for each in again]
        assert torch.equal(*again) is not is_target
    agent.close()


@pytest.mark.thorough
def test_dropout_is_off_where_networks_are_asked_and_units_are_behind_it() -> None:
    agent, (first, _) = _agent("sac", {"layer_norm": "critics", "dropout_rate": 0.5})
    _learn(agent, first)
    layers = {layer.name: layer for layer in hidden_layers(agent.policy)}
    assert [name for name in layers if name.startswith("critic.qf0")] == [
        "critic.qf0.3",
        "critic.qf0.7",
    ]
    assert layers["critic.qf0.3"].incoming == (
        *("critic.qf0.0.weight", "critic.qf0.0.bias"),
        *("critic.qf0.2.weight", "critic.qf0.2.bias"),
    )
    agent.policy.set_training_mode(True)
    with as_evaluated(agent.policy):
        critic, inputs = agent.policy.critic, (torch.ones(4, 5), torch.ones(4, 1))
        assert torch.equal(critic(*inputs)[0], critic(*inputs)[0])
    assert agent.policy.critic.training
