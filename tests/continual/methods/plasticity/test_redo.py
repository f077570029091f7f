"""Recycling of dormant units: which ones, what becomes of them, and nothing besides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from holdfast.agents.base.parameters import named_parameters, optimizers_of
from holdfast.agents.modules.plasticity import dormant_scores
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.methods.plasticity.redo import ReDo

RELU = {"policy_kwargs": {"net_arch": [16, 16], "activation": "relu"}}
MANY = {"tau": 0.8, "period": 3, "samples": 32}


def test_scores_by_hand() -> None:
    """Units with mean |h| of 0, 0.1 and 7.9: the layer's mean is 8/3."""
    scores = dormant_scores(torch.tensor([0.0, 0.1, 7.9], dtype=torch.float64))
    assert scores.tolist() == pytest.approx([0.0, 0.0375, 2.9625])
    assert (scores <= 0.025).tolist() == [True, False, False]
    assert dormant_scores(torch.zeros(2)).tolist() == [0.0, 0.0]


CASES = {
    "ppo": ("mlp_extractor.policy_net", "action_net.weight", 5),
    "sac": ("actor.latent_pi", "actor.mu.weight", 7),
    "dqn": ("q_net.q_net", "q_net.q_net.4.weight", 7),
}


@pytest.mark.parametrize("case", CASES)
def test_a_dead_unit_starts_anew_and_nothing_else_changes(
    case: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a learning rate of zero, whatever moved is the method's doing."""
    trunk, head, period = CASES[case]
    method = ReDo(period=period, samples=64)  # once, with so few updates
    before: dict[str, Tensor] = {}
    adapt = method.pre_adapt

    def kill_then_adapt(doors: Any, experience: Any) -> None:
        adapt(doors, experience)
        start = StableBaselinesAgent.start

        def start_with_dead_units(agent: Any, now: Any) -> None:
            start(agent, now)
            parameters = named_parameters(agent.policy)
            for name, parameter in parameters.items():  # every other unit is alive
                parameter.data.fill_(1.0 if name.endswith("bias") else 0.01)
            parameters[f"{trunk}.0.bias"].data[3] = -1000.0
            parameters[f"{trunk}.2.bias"].data[:2] = -1000.0
            before.update({name: p.detach().clone() for name, p in parameters.items()})

        monkeypatch.setattr(StableBaselinesAgent, "start", start_with_dead_units)

    method.pre_adapt = kill_then_adapt  # type: ignore[method-assign]
    agent = train(case, lambda: [method], tasks=1, agent=RELU | {"learning_rate": 0.0})

    after = {name: p.detach() for name, p in named_parameters(agent.policy).items()}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    names = {f"{trunk}.{n}" for n in ("0.weight", "0.bias", "2.weight", "2.bias")} | {head}
    assert moved - {"actor.log_std.weight"} == names
    first, second = after[f"{trunk}.0.weight"], after[f"{trunk}.2.weight"]
    assert torch.equal(first[:3], before[f"{trunk}.0.weight"][:3])
    assert torch.equal(first[4:], before[f"{trunk}.0.weight"][4:])
    assert 0 < first[3].abs().max() < 2
    assert after[f"{trunk}.0.bias"][3].abs() < 1
    assert torch.equal(second[:, 3], torch.zeros(16))
    assert torch.equal(second[2:, :3], before[f"{trunk}.2.weight"][2:, :3])
    assert second[:2, :3].std() > 0.01
    assert torch.equal(after[head][:, :2], torch.zeros(after[head].shape[0], 2))
    assert torch.equal(after[head][:, 2:], before[head][:, 2:])
    if case == "ppo":  # rows of an orthogonal matrix with gain sqrt(2), biases 0
        torch.testing.assert_close(
            second[0, 4:].norm() / 2**0.5, torch.tensor(1.0), atol=0.5, rtol=0
        )
        assert after[f"{trunk}.2.bias"][:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("case", ["sac", "dqn", "td3"])
def test_moments_and_targets_follow(case: str, train: Any) -> None:
    """The last update recycles: its units have no moments, and the target has their weights."""
    method = ReDo(tau=0.9, period=1, samples=64)
    agent = train(case, lambda: [method], tasks=1, agent=RELU)
    policy = agent.policy
    online, target = (
        (policy.q_net.q_net, policy.q_net_target.q_net)
        if case == "dqn"
        else (policy.critic.qf0, policy.critic_target.qf0)
    )
    optimizer = optimizers_of(policy)[-1]
    cut = (online[4].weight == 0).all(0)  # (units of the last hidden layer,)
    assert 0 < cut.sum() < 16
    for weight, axis, copy in ((online[4].weight, 1, target[4]), (online[2].weight, 0, target[2])):
        moments = optimizer.state[weight]
        for moment in (moments["exp_avg"], moments["exp_avg_sq"]):
            chosen = moment.index_select(axis, cut.nonzero().flatten())
            assert torch.equal(chosen, torch.zeros_like(chosen))
            assert moment.abs().sum() > 0
        rows = cut.nonzero().flatten()
        kept = copy.weight.index_select(axis, rows)  # to rounding: averaging comes after it
        torch.testing.assert_close(kept, weight.index_select(axis, rows), atol=1e-7, rtol=1e-6)
    assert not torch.equal(online[4].weight, target[4].weight)


@pytest.mark.parametrize("case", ["ppo", "dqn", "sac"])
def test_where_no_unit_is_dormant_it_equals_naive(case: str, train: Any, same: Any) -> None:
    tanh = {"policy_kwargs": {"net_arch": [16, 16], "activation": "tanh"}}
    naive = train(case, tasks=2, agent=tanh)
    same(naive, train(case, lambda: [ReDo(tau=0.0, period=1)], tasks=2, agent=tanh))


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["ppo", "dqn", "sac"])
def test_a_restart_changes_nothing(case: str, train: Any, same: Any) -> None:
    keys = {"agent": RELU, "stream": {"task_id": "heads"}}
    straight = train(case, lambda: [ReDo(**MANY)], **keys)
    same(straight, train(case, lambda: [ReDo(**MANY)], restart_after=1, **keys))


@pytest.mark.thorough
def test_it_recycles_and_says_so(run: Any, weights: Any) -> None:
    naive = run("ppo", runs="naive", tasks=1, agent=RELU)
    redo = run("ppo", {"redo": MANY}, runs="redo", tasks=1, agent=RELU)
    name = "action_net.weight"
    assert not torch.equal(weights(naive)[name], weights(redo)[name])
    view = EventAccumulator(str(redo.path / "tb")).Reload()
    assert max(event.value for event in view.Scalars("method/redo/recycled_actor")) > 0
