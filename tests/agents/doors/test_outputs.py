"""Divergences and likelihoods against torch.distributions and by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, Normal, kl_divergence

from holdfast.agents.doors.outputs import (
    OutputSpec,
    PolicyOutput,
    divergence,
    draw,
    log_likelihood,
    softmax_divergence,
)

GENERATOR = torch.Generator().manual_seed(0)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


def test_categorical_divergence_by_hand() -> None:
    old = {"logits": torch.zeros(1, 2)}  # (1/2, 1/2)
    new = {"logits": torch.tensor([[math.log(3.0), 0.0]])}  # (3/4, 1/4)
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert divergence(OutputSpec("categorical", (2,)), old, new).item() == pytest.approx(expected)


def test_unit_gaussian_divergence_by_hand() -> None:
    old, new = {"mean": torch.tensor([[1.0, 2.0]])}, {"mean": torch.tensor([[4.0, 6.0]])}
    assert divergence(OutputSpec("unit_gaussian"), old, new).item() == 12.5  # (9 + 16) / 2


def test_softmax_divergence_by_hand() -> None:
    old = {"mean": torch.zeros(1, 2)}
    new = {"mean": torch.tensor([[2 * math.log(3.0), 0.0]])}  # at temperature 2: (3/4, 1/4)
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert softmax_divergence(old, new, 2.0).item() == pytest.approx(expected)


def _families() -> list[tuple[OutputSpec, dict[str, Tensor], dict[str, Tensor], Any]]:
    box = [{"mean": _random(5, 3), "log_std": 0.5 * _random(5, 3)} for _ in range(2)]
    logits = [{"logits": _random(5, 5)} for _ in range(2)]
    return [
        (OutputSpec("categorical", (5,)), *logits, lambda o: Categorical(logits=o["logits"])),
        (OutputSpec("bernoulli"), *logits, lambda o: Independent(Bernoulli(logits=o["logits"]), 1)),
        (
            OutputSpec("gaussian"),
            *box,
            lambda o: Independent(Normal(o["mean"], o["log_std"].exp()), 1),
        ),
        (OutputSpec("unit_gaussian"), *box, lambda o: Independent(Normal(o["mean"], 1.0), 1)),
    ]


@pytest.mark.parametrize("family", _families(), ids=lambda f: f[0].kind)
def test_against_torch_distributions(family: Any) -> None:
    spec, old, new, distribution = family
    torch.testing.assert_close(
        divergence(spec, old, new), kl_divergence(distribution(old), distribution(new))
    )
    actions = draw(spec, new, torch.Generator().manual_seed(1))
    values = actions[..., 0] if spec.kind == "categorical" else actions
    gap = distribution(new).log_prob(values) - log_likelihood(spec, new, actions)
    torch.testing.assert_close(gap, gap[:1].expand(5))  # equal up to a constant


def test_several_categorical_parts_add_up() -> None:
    old, new = {"logits": _random(4, 5)}, {"logits": _random(4, 5)}
    both = divergence(OutputSpec("categorical", (2, 3)), old, new)
    parts = [
        divergence(
            OutputSpec("categorical", (columns.stop - columns.start,)),
            {"logits": old["logits"][:, columns]},
            {"logits": new["logits"][:, columns]},
        )
        for columns in (slice(0, 2), slice(2, 5))
    ]
    torch.testing.assert_close(both, parts[0] + parts[1])


OFF_POLICY = {"buffer_size": 100}
POLICIES = {
    "ppo": ({"algorithm": "ppo", "n_steps": 32, "batch_size": 32}, "CartPole-v1"),
    "a2c": ({"algorithm": "a2c"}, "Pendulum-v1"),
    "sac": ({"algorithm": "sac"} | OFF_POLICY, "Pendulum-v1"),
    "tqc": ({"algorithm": "tqc"} | OFF_POLICY, "Pendulum-v1"),
    "crossq": ({"algorithm": "crossq"} | OFF_POLICY, "Pendulum-v1"),
    "td3": ({"algorithm": "td3"} | OFF_POLICY, "Pendulum-v1"),
    "dqn": ({"algorithm": "dqn"} | OFF_POLICY, "CartPole-v1"),
    "qrdqn": ({"algorithm": "qrdqn"} | OFF_POLICY, "CartPole-v1"),
}


@pytest.mark.parametrize("name", POLICIES)
def test_the_likeliest_action_of_the_output_is_the_policys(name: str, make_agent: Any) -> None:
    """The output means what Stable-Baselines3's own ``predict`` does with it."""
    arguments, env = POLICIES[name]
    agent, (experience, _) = make_agent(arguments, env)
    agent.start(experience)
    agent.policy.set_training_mode(False)
    space = agent.policy.observation_space
    observations = torch.randn(32, *space.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        output = PolicyOutput(agent.policy)(observations)
        expected = agent.policy._predict(observations, deterministic=True)
    if "logits" in output or not hasattr(agent.policy, "actor"):
        head = output.get("logits", output.get("mean"))
        assert head is not None
        best = head.argmax(-1) if env == "CartPole-v1" else head
        torch.testing.assert_close(best, expected)
    else:
        squashed = output["mean"] if name == "td3" else output["mean"].tanh()
        torch.testing.assert_close(squashed, expected)
    agent.close()
