"""The functional losses against the gradients that Stable-Baselines3's own ``train`` computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast.agents.algorithms.losses import inputs_of, loss_gradient, loss_of
from holdfast.agents.base.buffers import flatten
from holdfast.agents.base.parameters import named_parameters, optimizers_of
from holdfast.errors import UsageError

EXTRACTOR = {"features_extractor": "double:DoubleFlatten", "net_arch": [8]}
FREE = {"max_grad_norm": 1e9}
ROLLOUT = {"n_steps": 32, "ent_coef": 0.01, "learning_rate": 0.02} | FREE
PPO = ROLLOUT | {"batch_size": 16, "n_epochs": 3, "clip_range": {"linear": [0.2, 0.05]}}
OFF = {"learning_starts": 8, "batch_size": 16, "buffer_size": 100, "learning_rate": 0.01}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("CartPole-v1", PPO),
    "ppo-box": ("Pendulum-v1", PPO | {"clip_range_vf": 0.2, "normalize_advantage": False}),
    "maskable_ppo": ("masked:Masked", PPO),
    "a2c": ("CartPole-v1", ROLLOUT | {"normalize_advantage": True}),
    "a2c-box": ("Pendulum-v1", ROLLOUT),
    "dqn": ("CartPole-v1", OFF | FREE | {"target_update_interval": 8}),
    "qrdqn": ("CartPole-v1", OFF | FREE | {"target_update_interval": 8}),
    "sac": ("Pendulum-v1", OFF),
    "sac-fixed": ("Pendulum-v1", OFF | {"ent_coef": 0.2}),
    "sac-n": ("Pendulum-v1", OFF | {"n_steps": 3}),
    "tqc": ("Pendulum-v1", OFF),
    "td3": ("Pendulum-v1", OFF),
    "ddpg": ("Pendulum-v1", OFF),
}
MASKED = """
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv

class Masked(CartPoleEnv):
    def action_masks(self):
        return np.array([self.state[0] > 0, True])
"""


class Sampled:
    """The batch of the update in progress, and what was true when it was sampled."""

    def __init__(self, model: Any) -> None:
        self.model, self.batch, self.random = model, {}, torch.get_rng_state()
        self.entropy: Tensor | None = None
        on_policy = hasattr(model, "rollout_buffer")
        buffer = model.rollout_buffer if on_policy else model.replay_buffer
        name = "get" if on_policy else "sample"
        published = getattr(buffer, name)

        def sample(*args: Any, **keys: Any) -> Any:
            batch = published(*args, **keys)
            self._take(batch)
            return batch

        def get(*args: Any, **keys: Any) -> Iterator[Any]:
            for batch in published(*args, **keys):
                self._take(batch)
                yield batch

        setattr(buffer, name, get if on_policy else sample)

    def _take(self, batch: Any) -> None:
        self.batch, self.random = flatten(batch._asdict()), torch.get_rng_state()
        learned = getattr(self.model, "log_ent_coef", None)
        self.entropy = None if learned is None else learned.detach().clone()

    def generator(self, *, skipped: int = 0) -> torch.Generator:
        """Return one that draws what ``train`` drew, after some draws of one number an action."""
        generator = torch.Generator()
        generator.set_state(self.random)
        for _ in range(skipped):
            torch.empty(self.batch["actions"].shape, dtype=torch.float64).normal_(
                generator=generator
            )
        return generator

    @contextmanager
    def entropy_coefficient(self) -> Iterator[None]:
        """Put back the coefficient of the start: ``train`` reads it before it is moved."""
        if self.entropy is None:
            yield
            return
        coefficient = self.model.log_ent_coef.data
        now = coefficient.clone()
        coefficient.copy_(self.entropy)
        yield
        coefficient.copy_(now)


def _start(make_agent: Any, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "masked.py").write_text(MASKED)
    monkeypatch.syspath_prepend(tmp_path)
    env, arguments = CASES[case]
    agent = {"algorithm": case.partition("-")[0], "policy_kwargs": EXTRACTOR} | arguments
    learner, (experience, _) = make_agent(agent, env)
    learner.start(experience)
    learner.policy.double()
    return learner, experience


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_train(
    case: str, make_agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every update of a task, not the first alone: ratios leave 1, and targets move apart."""
    agent, experience = _start(make_agent, case, tmp_path, monkeypatch)
    model = agent.model
    sampled, compared = Sampled(model), []

    def compare(parameters: dict[str, Tensor], gradients: dict[str, Tensor], *_: Any) -> Any:
        (owner,) = {name.split(".")[0] for name in parameters} & {"critic", "actor"} or {"all"}
        soft_critic = owner == "critic" and hasattr(model, "ent_coef_optimizer")
        global_state = torch.get_rng_state()
        with sampled.entropy_coefficient():
            generator = sampled.generator(skipped=int(soft_critic))
            inputs = inputs_of(model, parameters, sampled.batch, generator)
            expected = loss_gradient(model, parameters, inputs)
        assert torch.equal(torch.get_rng_state(), global_state)
        for name, gradient in gradients.items():
            torch.testing.assert_close(expected[name], gradient, rtol=1e-6, atol=1e-12)
        compared.append((owner, max(g.abs().max().item() for g in gradients.values())))
        return {}, {}

    agent.gradients.project(compare)
    agent.learn(experience, lambda step: None, lambda scalars, step: None)
    owners = {owner for owner, _ in compared}
    assert owners == ({"actor", "critic"} if hasattr(agent.policy, "critic") else {"all"})
    assert len(compared) >= 2
    assert all(size > 0 for _, size in compared)


def test_nothing_in_the_model_changes(make_agent: Any) -> None:
    """Buffers of the networks included: running statistics are read from copies."""
    agent, (experience, _) = make_agent({"algorithm": "sac"} | OFF, "Pendulum-v1")
    agent.start(experience)
    policy = agent.policy
    policy.actor.latent_pi.append(torch.nn.BatchNorm1d(256))
    policy.set_training_mode(True)
    observations = torch.randn(8, 5)
    batch = {
        "observations": observations,
        "next_observations": observations + 1,
        "actions": torch.rand(8, 1),
        "rewards": torch.rand(8, 1),
        "dones": torch.zeros(8, 1),
    }
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    for optimizer in optimizers_of(policy):
        members = {id(p) for group in optimizer.param_groups for p in group["params"]}
        own = {n: p.detach() for n, p in named_parameters(policy).items() if id(p) in members}
        gradient, again = (
            loss_gradient(
                agent.model,
                own,
                inputs_of(agent.model, own, batch, torch.Generator().manual_seed(0)),
            )
            for _ in range(2)
        )
        assert all(torch.equal(gradient[name], again[name]) for name in own)
    after = policy.state_dict()
    assert "actor.latent_pi.4.running_mean" in before
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in policy.parameters())
    agent.close()


def test_another_generator_gives_another_action(make_agent: Any) -> None:
    agent, (experience, _) = make_agent({"algorithm": "sac"} | OFF, "Pendulum-v1")
    agent.start(experience)
    own = {n: p.detach() for n, p in named_parameters(agent.policy, "actor").items()}
    batch = {"observations": torch.randn(8, 5), "actions": torch.zeros(8, 1)}
    noises = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    losses = [
        loss_of(agent.model, own, inputs_of(agent.model, own, batch, noise)).item()
        for noise in noises
    ]
    assert losses[0] == losses[1] != losses[2]
    agent.close()


def test_other_algorithms_are_refused_by_name(make_agent: Any) -> None:
    agent, (experience, _) = make_agent({"algorithm": "crossq"} | OFF, "Pendulum-v1")
    agent.start(experience)
    own = {n: p.detach() for n, p in named_parameters(agent.policy, "actor").items()}
    with pytest.raises(UsageError, match=r"CrossQ: its loss is not known .* SAC, TD3, TQC"):
        loss_of(agent.model, own, inputs_of(agent.model, own, {}, torch.Generator()))
    agent.close()
