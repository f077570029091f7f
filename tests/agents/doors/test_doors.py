"""What happens in one update, in which order, and what lives for one task only."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from all_doors import every_door
from torch import Tensor, nn

from holdfast.agents.base.parameters import Named, named_parameters, target_parameters
from holdfast.agents.doors.gradients import Gradients, Rewritten, Tensors, Works
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.agents.sb3.updates import Updates

PPO = {"algorithm": "ppo", "n_steps": 32, "batch_size": 32, "n_epochs": 1}
SAC = {"algorithm": "sac", "learning_starts": 8, "batch_size": 8, "buffer_size": 100}


class _One:
    """A weight of two entries at (1, 1), whose own loss has the gradient (3, 5)."""

    def __init__(self, optimizer: Any = torch.optim.SGD, **options: Any) -> None:
        self.weight = nn.Parameter(torch.ones(2))
        self.target = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.optimizer = optimizer([self.weight], **{"lr": 1.0, **options})
        self.gradients, self.updates = Gradients(None), Updates()  # type: ignore[arg-type]  # no agent

    def attach(self) -> None:
        self.updates.attach(
            self.gradients.works, {"w": self.weight}, [self.optimizer], targets={"w": self.target}
        )

    def update(self) -> None:
        self.optimizer.zero_grad()
        (self.weight * torch.tensor([3.0, 5.0])).sum().backward()
        self.optimizer.step()


def test_terms_then_scales_then_projections_then_the_step() -> None:
    one = _One()
    seen: dict[str, Any] = {}
    one.gradients.add(lambda *_: {"w": torch.tensor([1.0, 1.0])})
    one.gradients.add(lambda *_: {"w": torch.tensor([0.0, 2.0])})
    one.gradients.scale(lambda *_: {"w": torch.tensor([2.0, 1.0])})
    one.gradients.scale(lambda *_: {"w": torch.tensor([1.0, 0.5])})

    def halve(parameters: Named, gradients: Named, state: Tensors, batch: Tensors) -> Any:
        seen["projected"] = gradients["w"].clone()
        return {"w": gradients["w"] / 2}, state

    one.gradients.project(halve)
    one.gradients.watch(lambda step, state, batch: seen.update(step._asdict()))
    one.attach()
    one.update()
    # ((3 + 1) x 2, (5 + 1 + 2) x 1/2), then half of it, then a step of 1 down from (1, 1).
    assert seen["projected"].tolist() == [8.0, 4.0]
    assert one.weight.tolist() == [-3.0, -1.0]
    assert seen["raw"].tolist() == [3.0, 5.0]
    assert seen["before"].tolist() == [1.0, 1.0]
    assert seen["after"].tolist() == [-3.0, -1.0]


def test_a_rewrite_puts_values_moments_and_targets_anew() -> None:
    one = _One(torch.optim.Adam)
    mask = torch.tensor([True, False])
    one.gradients.rewrite(
        lambda parameters, *_: Rewritten(
            {"w": torch.where(mask, 7.0, parameters["w"])}, {"w": mask}
        )
    )
    one.attach()
    one.update()
    assert one.weight[0].item() == 7.0
    assert one.weight[1].item() == pytest.approx(0.0, abs=1e-6)  # Adam's first step is its rate
    state = one.optimizer.state[one.weight]
    assert state["exp_avg"][0].item() == 0.0
    assert state["exp_avg"][1].item() == pytest.approx(0.5)  # (1 - .9) x 5
    assert state["exp_avg_sq"][0].item() == 0.0
    assert one.target.tolist() == [7.0, 0.0]


def test_a_rewrite_that_has_nothing_to_write_changes_nothing() -> None:
    one = _One()
    one.gradients.rewrite(lambda *_: None)
    one.attach()
    one.update()
    assert one.weight.tolist() == [-2.0, -4.0]


def test_the_next_task_starts_without_the_work_of_the_last() -> None:
    one = _One()
    one.gradients.project(lambda *_: ({"w": torch.zeros(2)}, {}))
    one.attach()
    one.updates.detach()
    one.gradients.works = Works()
    one.attach()
    one.update()
    assert one.weight.tolist() == [-2.0, -4.0]


@pytest.mark.thorough
@pytest.mark.parametrize(("arguments", "env"), [(PPO, "CartPole-v1"), (SAC, "Pendulum-v1")])
def test_looks_and_rewrites_that_do_nothing_change_no_bit(
    make_agent: Any, arguments: dict[str, Any], env: str
) -> None:
    def trained(hooked: bool) -> dict[str, Tensor]:
        agent, (experience, _) = make_agent(arguments, env)
        agent.start(experience)
        if hooked:
            agent.gradients.watch(lambda *_: {})
            agent.gradients.scale(lambda *_: {})
            agent.gradients.project(lambda *_: ({}, {}))
            agent.gradients.rewrite(lambda *_: Rewritten({}, {}))
        agent.learn(experience, lambda step: None, lambda scalars, step: None)
        return {name: p.clone() for name, p in agent.policy.state_dict().items()}

    plain, hooked = trained(False), trained(True)
    assert all(torch.equal(plain[name], hooked[name]) for name in plain)


@pytest.mark.parametrize(
    ("arguments", "env", "pairs"),
    [
        (PPO, "CartPole-v1", 0),
        (SAC, "Pendulum-v1", 12),  # two critics of three layers
        ({"algorithm": "dqn", "buffer_size": 100}, "CartPole-v1", 6),
        ({"algorithm": "td3", "buffer_size": 100}, "Pendulum-v1", 18),
    ],
)
def test_targets_are_named_after_what_they_follow(
    make_agent: Any, arguments: dict[str, Any], env: str, pairs: int
) -> None:
    agent, (experience, _) = make_agent(arguments, env)
    agent.start(experience)
    targets, own = target_parameters(agent.policy), named_parameters(agent.policy)
    assert len(targets) == pairs
    assert set(targets) <= set(own)
    assert all(targets[name].shape == own[name].shape for name in targets)
    agent.close()


def _learn(agent: StableBaselinesAgent, experience: Any) -> None:
    agent.start(experience)
    agent.learn(experience, lambda step: None, lambda scalars, step: None)


def test_an_action_comes_between_two_rollouts(make_agent: Any) -> None:
    agent, (experience, second) = make_agent(PPO, "CartPole-v1", steps=128)
    seen: list[tuple[str, int, int]] = []

    def note(name: str) -> None:
        seen.append((name, agent.model.num_timesteps, agent.model._n_updates))

    names = ("at", "between", "never")
    doors = every_door(agent, **{name: partial(note, name) for name in names})
    for name, step in zip(names, (64, 33, 129), strict=True):
        doors.lifecycle.after_steps(step, name)
    # What is due is known by name and step, so that it can be saved.
    assert [due[:2] for due in agent.plan.pending] == [(64, "at"), (33, "between"), (129, "never")]
    _learn(agent, experience)
    assert seen == [("between", 64, 2), ("at", 64, 2)]
    _learn(agent, second)
    assert len(seen) == 2


def test_rows_of_rollouts_are_those_that_were_learned_from(make_agent: Any) -> None:
    agent, (experience, _) = make_agent(PPO, "CartPole-v1", steps=128, n_envs=2)
    agent.memory.keep_rollouts(100)
    _learn(agent, experience)
    first, second = agent.memory.rollouts()
    assert first["observations"].shape == (32, 2, 6)  # the task id is two entries
    assert set(first) >= {"rewards", "episode_starts", "old_log_prob", "old_values"}
    rng = experience.generator("test")
    rows = agent.memory.transitions(1000, rng)
    assert rows["actions"].shape == (100, 1)
    assert (rows["advantages"] == agent.recent.rows()["advantages"]).all()
    newest = second["returns"].reshape(-1)
    assert (rows["returns"][-64:] == newest).all()
    batch = agent.memory.batch(agent.memory.transitions(5, rng))
    assert batch["observations"].shape == (5, 6)
    assert "discounts" not in batch


@pytest.mark.parametrize(("arguments", "env"), [(PPO, "CartPole-v1"), (SAC, "Pendulum-v1")])
def test_observations_of_what_is_learned_from_now(
    make_agent: Any, arguments: dict[str, Any], env: str
) -> None:
    agent, (experience, _) = make_agent(arguments, env)
    rng = experience.generator("test")
    seen: list[Tensor] = []

    agent.gradients.add(
        lambda *_: {}, batch=lambda _: seen.append(agent.memory.batch_observations(6, rng))
    )
    _learn(agent, experience)
    assert len(seen) > 1
    assert all(batch.shape == (6, agent.policy.observation_space.shape[0]) for batch in seen)
    assert not torch.equal(seen[0], seen[-1])


@pytest.mark.thorough
def test_more_updates_after_the_task_go_through_the_doors(make_agent: Any) -> None:
    agent, (experience, _) = make_agent(SAC, "Pendulum-v1")
    _learn(agent, experience)
    steps, updates, calls = agent.model.num_timesteps, agent.model._n_updates, []
    agent.gradients.watch(lambda step, *_: calls.append(len(step.after)))
    agent.train_more(3)
    assert agent.model._n_updates == updates + 3
    assert agent.model.num_timesteps == steps
    assert len(calls) == 6  # critic and actor
    agent.train_more(1)
    assert len(calls) == 6
