"""The gradient door against float64 autograd, and its silence where it must be silent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from holdfast.agents.base.parameters import named_parameters, optimizers_of
from holdfast.agents.doors.gradients import Move, Part, Step, Work, Works
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.agents.sb3.updates import Updates
from holdfast.continual.methods.regularization.ewc import EWC
from holdfast.continual.methods.rehearsal.cloning import Cloning
from holdfast.errors import CheckpointUnusable, Diverged

EXTRACTOR = {"features_extractor": "double:DoubleFlatten", "net_arch": [8]}
PPO = {"algorithm": "ppo", "n_steps": 32, "batch_size": 32, "n_epochs": 1, "max_grad_norm": 1e9}
SAC = {"algorithm": "sac", "learning_starts": 8, "batch_size": 16, "buffer_size": 100}
CASES = {"ppo": (PPO, "CartPole-v1"), "ppo-box": (PPO, "Pendulum-v1"), "sac": (SAC, "Pendulum-v1")}
ROWS, STRENGTHS = 16, (3.0, 7.0)


def _first_update(
    agent: StableBaselinesAgent, experience: Any, optimizer_index: int
) -> dict[str, Tensor]:
    """Return the gradients that the first step of one optimizer sees, by name."""
    seen: dict[str, Tensor] = {}
    parameters = named_parameters(agent.policy)

    def keep(*_: object) -> None:
        if not seen:
            seen.update({n: p.grad.clone() for n, p in parameters.items() if p.grad is not None})

    attached = agent._attached

    @contextmanager
    def attached_and_watched() -> Iterator[None]:
        with attached():
            optimizers_of(agent.policy)[optimizer_index].register_step_pre_hook(keep)
            yield

    agent._attached = attached_and_watched  # type: ignore[method-assign]
    agent.learn(experience, lambda step: None, lambda scalars, step: None)
    return seen


def _start(make_agent: Any, case: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    arguments, env = CASES[case]
    agent, (experience, _) = make_agent({**arguments, "policy_kwargs": EXTRACTOR}, env)
    return agent, experience


def _actor_distribution(policy: Any, observations: Tensor) -> Any:
    if hasattr(policy, "actor"):
        mean, log_std, _ = policy.actor.get_action_dist_params(observations)
        return Normal(mean, log_std.exp())
    return policy.get_distribution(observations).distribution


def _filled_methods(policy: Any, holds: bool) -> tuple[EWC, Cloning, dict[str, Tensor]]:
    """Return methods as after a task: random importances, centres, observations and outputs."""
    rng = np.random.default_rng(5)
    random = lambda shape: torch.as_tensor(rng.normal(size=shape))  # noqa: E731
    ewc = EWC(strength=STRENGTHS[0], hold_log_std=holds)
    cloning = Cloning(strength=STRENGTHS[1], batch_size=ROWS)
    for name, parameter in named_parameters(policy, "actor", "encoder").items():
        ewc.penalty.importance[name] = random(parameter.shape).square()
        ewc.penalty.centre[name] = random(parameter.shape)
    observations = rng.normal(size=(64, *policy.observation_space.shape)).astype(np.float32)
    actions = getattr(policy.action_space, "n", 1)
    stored = (
        {"logits": random((64, int(actions)))}
        if hasattr(policy.action_space, "n")
        else {"mean": random((64, 1)), "log_std": 0.3 * random((64, 1))}
    )
    cloning.stored.add({"": observations}, stored)
    return ewc, cloning, stored


@pytest.mark.parametrize(("case", "holds"), [*((case, False) for case in CASES), ("ppo-box", True)])
def test_ewc_and_cloning_add_the_gradient_of_the_summed_loss(
    case: str, holds: bool, make_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, experience = _start(make_agent, case, monkeypatch)
    agent.start(experience)
    agent.policy.double()
    without = _first_update(agent, experience, 0)

    agent, experience = _start(make_agent, case, monkeypatch)
    agent.start(experience)
    agent.policy.double()
    ewc, cloning, stored = _filled_methods(agent.policy, holds)
    ewc.pre_adapt(agent.doors(ewc), experience)
    cloning.pre_adapt(agent.doors(cloning), experience)

    # By hand: autograd of strength x penalty through Stable-Baselines3's own forward, before
    # learning.
    rows = experience.generator("cloning").integers(64, size=ROWS)
    actor = named_parameters(agent.policy, "actor", "encoder")
    assert {name for name, p in actor.items() if p.dtype != torch.float64} == set()
    penalty = sum(
        (ewc.penalty.importance[name] * (p - ewc.penalty.centre[name]).square()).sum()
        for name, p in actor.items()
        if holds or name != "log_std"
    )
    old = {key: value[rows] for key, value in stored.items()}
    teacher = (
        Categorical(logits=old["logits"])
        if "logits" in old
        else Normal(old["mean"], old["log_std"].exp())
    )
    student = _actor_distribution(
        agent.policy, torch.as_tensor(cloning.stored.observations[""][rows])
    )
    distance = kl_divergence(teacher, student).reshape(ROWS, -1).sum(-1).mean()
    total = STRENGTHS[0] * penalty + STRENGTHS[1] * distance
    assert isinstance(total, Tensor)
    expected = dict(zip(actor, torch.autograd.grad(total, list(actor.values())), strict=True))

    seen = _first_update(agent, experience, 0)
    assert expected
    for name in without:
        reference = without[name] + expected.get(name, torch.zeros(()))
        torch.testing.assert_close(seen[name], reference, rtol=1e-6, atol=1e-12)


def test_no_hook_is_left_after_learning(make_agent: Any) -> None:
    agent, (experience, _) = make_agent(PPO, "CartPole-v1")
    agent.start(experience)
    agent.gradients.add(lambda *_: {})
    agent.learn(experience, lambda step: None, lambda scalars, step: None)
    (optimizer,) = optimizers_of(agent.policy)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert "zero_grad" not in vars(optimizer)
    assert all(not p._backward_hooks for p in agent.policy.parameters())


@pytest.mark.thorough
def test_the_actors_backward_does_not_open_the_critics_update(make_agent: Any) -> None:
    """SAC's actor loss reaches critic parameters: a term is still asked once per optimizer step."""
    agent, (experience, _) = make_agent(SAC | {"learning_starts": 0}, "Pendulum-v1")
    agent.start(experience)
    calls: list[str] = []

    def term(parameters: dict[str, Tensor], *_: Any) -> dict[str, Tensor]:
        calls.append(next(iter(parameters)).split(".")[0])
        return {}

    agent.gradients.add(term)
    agent.learn(experience, lambda step: None, lambda scalars, step: None)
    updates = agent.model._n_updates
    assert updates > 0
    assert calls == ["critic", "actor"] * updates


def test_a_gradient_that_is_not_finite_stops_before_the_step() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    Updates().attach(Works(), {"actor.weight": weight}, [optimizer])
    (weight * torch.tensor([1.0, float("inf")])).sum().backward()
    with pytest.raises(Diverged, match=r"actor\.weight is not finite"):
        optimizer.step()
    assert torch.equal(weight.detach(), torch.ones(2))


def _attached(**works: Any) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    """Return a weight of 1 and an unused one, with SGD of rate 1/2, under functions of methods."""
    weight, unused = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = torch.optim.SGD([weight, unused], lr=0.5)
    Updates().attach(Works(**works), {"w": weight, "unused": unused}, [optimizer])
    return weight, optimizer


def _update(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer, slope: float) -> None:
    optimizer.zero_grad()
    (slope * weight).sum().backward()
    optimizer.step()


def test_a_moving_term_gets_the_state_that_it_returned() -> None:
    """It adds what the weight was in the update before: the gradients are 2, then 2 + 1."""

    def term(parameters: dict[str, Tensor], state: Any, _: Any) -> Any:
        return {"w": state["old"]}, {"old": parameters["w"].clone()}

    moving = Work(term, {"old": torch.zeros(1)})
    weight, optimizer = _attached(moving=[moving])
    _update(weight, optimizer, 2.0)
    assert weight.item() == 1 - 0.5 * 2
    _update(weight, optimizer, 2.0)
    assert weight.item() == 0 - 0.5 * (2 + 1)
    moving.stop()
    _update(weight, optimizer, 2.0)
    assert weight.item() == -1.5 - 0.5 * 2


def test_a_revision_replaces_what_the_step_led_to_before_others_look() -> None:
    """It doubles each step and counts them; the look sees the doubled step."""
    seen: list[Any] = []

    def revision(move: Move, state: Any, _: Any) -> Any:
        assert move.after.keys() == move.gradients.keys() == {"w"}  # the other has no gradient
        seen.append((move.before["w"].item(), move.gradients["w"].item(), move.rate.item()))
        count = state["count"] + 1
        return {"w": move.before["w"] + 2 * (move.after["w"] - move.before["w"])}, {"count": count}

    def look(step: Step, state: Any, _: Any) -> Any:
        return {"moved": state["moved"] + step.after - step.before}

    revisions = [Work(revision, lambda _: {"count": torch.zeros(())})]
    looks = [Work(look, lambda _: {"moved": torch.zeros(1)})]
    weight, optimizer = _attached(revisions=revisions, looks=looks)
    _update(weight, optimizer, 2.0)
    _update(weight, optimizer, 3.0)
    assert seen == [(1.0, 2.0, 0.5), (-1.0, 3.0, 0.5)]
    assert weight.item() == -1 - 3
    assert revisions[0].parts[0].state == {"count": torch.tensor(2.0)}
    assert looks[0].parts[0].state == {"moved": torch.tensor([-5.0])}


def test_a_checkpoint_that_knows_fewer_kinds_of_functions_is_read() -> None:
    given = Works(terms=[Work(lambda *_: {}, parts=[Part({}, updates=3)])])
    old = given.told()[:5]
    works = Works(terms=[Work(lambda *_: {}, parts=[Part({})])])
    works.put_back(old)
    assert works.terms[0].parts[0].updates == 3
    with pytest.raises(CheckpointUnusable, match="other functions"):
        Works(revisions=[Work(lambda *_: {})]).put_back(old)
