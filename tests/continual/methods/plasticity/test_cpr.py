"""Calibrated partial resets: by hand, by the authors' formulas, and nothing at a rate of zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from holdfast.agents.doors.gradients import Move
from holdfast.agents.modules.units import HiddenLayer, Outgoing
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.methods.plasticity.cpr import CPR, begun, shares, shrunk

# A network of 1 input, 2 units, 2 units and 1 output.
FIRST = HiddenLayer(
    "1",
    2,
    "a.weight",
    ("a.weight", "a.bias"),
    (Outgoing("b.weight", "b.bias", _columns := torch.arange(2)[:, None]),),
)
SECOND = HiddenLayer(
    "3", 2, "b.weight", ("b.weight", "b.bias"), (Outgoing("c.weight", None, _columns),)
)


def _doubles(**values: Any) -> dict[str, torch.Tensor]:
    return {f"{n}.weight": torch.tensor(v, dtype=torch.float64) for n, v in values.items()}


def test_by_hand() -> None:
    """Shares of the first layer are 2 and 0, of the second 1 and 1; no average, rate .5."""
    method = CPR(replacement_rate=0.5, sharpness=np.log(3.0), decay=0.0)
    method._layers = [FIRST, SECOND]
    weights = _doubles(a=[[1.0], [1.0]], b=[[4.0, 4.0], [8.0, 8.0]], c=[[2.0, 2.0]])
    gradients = _doubles(a=[[-6.0], [0.0]], b=[[1.0, -3.0], [2.0, 2.0]], c=[[1.0, 1.0]])
    move = Move(weights, gradients, weights, torch.tensor(0.1))
    state = begun(weights, [FIRST, SECOND])
    assert {n: t.tolist() for n, t in state.items()} == {"a.weight": [1, 1], "b.weight": [1, 1]}
    values, averages = method.revised(move, state, {}, due=False)
    assert values == {}
    assert averages["a.weight"].tolist() == pytest.approx([2.0, 0.0])
    fresh = {"fresh": _doubles(a=[[3.0], [3.0]], b=[[0.0, 0.0], [0.0, 0.0]])}
    values, averages = method.revised(move, state, fresh, due=True)
    # A unit one above the threshold: 2 sigmoid(-ln 3) = 1/2, so a quarter; at or below it a half.
    assert values["a.weight"].flatten().tolist() == pytest.approx([1.5, 2.0])
    # Columns lose a quarter and a half, then both rows a half, which is replaced by zeros.
    expected = np.array([[4 * 0.75, 4 * 0.5], [8 * 0.75, 8 * 0.5]]) * 0.5
    np.testing.assert_allclose(values["b.weight"], expected)
    assert values["c.weight"].tolist() == [pytest.approx([1.0, 1.0])]
    assert [t.tolist() for t in averages.values()] == [[1, 1], [1, 1]]


def test_averages_are_those_of_the_authors() -> None:
    rng = np.random.default_rng(0)
    method, utility = CPR(decay=0.9), np.ones(2)
    method._layers = [FIRST]
    state: Any = {"a.weight": torch.ones(2, dtype=torch.float64)}
    for _ in range(20):
        g = rng.normal(size=(2, 1))
        means = np.abs(g).mean(1)
        utility = 0.9 * utility + 0.1 * means / (means.mean() + 1e-8)
        gradients = {"a.weight": torch.as_tensor(g)}
        _, state = method.revised(Move({}, gradients, {}, torch.tensor(0.1)), state, {}, due=False)
        np.testing.assert_allclose(state["a.weight"], utility)


def test_channels_and_the_columns_that_carry_them() -> None:
    kernel = torch.zeros(2, 3, 2, 2)
    kernel[0] = 2.0
    assert shares(kernel).tolist() == pytest.approx([2.0, 0.0])
    assert shares(torch.zeros(2, 3)).tolist() == [0.0, 0.0]
    columns = torch.tensor([[0, 3], [1, 2]])
    found = shrunk(torch.ones(2, 5, 1, 1), columns, torch.tensor([0.25, 0.5]))
    assert found[:, :, 0, 0].tolist() == [[0.75, 0.5, 0.5, 0.75, 1.0]] * 2


def test_when_it_is_due() -> None:
    method = CPR(period=3)
    assert [update for update in range(8) if method.is_due(update)] == [3, 6]


@pytest.mark.parametrize("world", ["ppo", "dqn", "sac"])
def test_it_resets_every_period_and_leaves_biases_alone(world: str, train: Any) -> None:
    """Without steps of the optimizer, all units are of one kind: scores are what they are."""
    keys: dict[str, Any] = {"tasks": 1, "agent": {"learning_rate": 0.0}}
    before = train(world, **keys).policy.state_dict()
    entire = CPR(replacement_rate=1.0, sharpness=0.0, period=3)  # whole units, whatever they do
    after = train(world, lambda: [entire], **keys).policy.state_dict()
    moved = {n for n in after if not torch.equal(before[n], after[n]) and "_target" not in n}
    assert moved
    assert not any(name.endswith("bias") or name == "log_std" for name in moved)
    last = {"ppo": "action_net.weight", "dqn": "q_net.q_net.4.weight", "sac": "actor.mu.weight"}
    assert after[last[world]].abs().sum() == 0  # it reads new units alone
    idle = train(world, lambda: [CPR(replacement_rate=1.0, period=10_000)], **keys)
    assert all(torch.equal(before[n], t) for n, t in idle.policy.state_dict().items())


@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_at_a_rate_of_zero_it_equals_naive(world: str, train: Any, same: Any) -> None:
    naive = train(world, tasks=2)
    same(naive, train(world, lambda: [CPR(replacement_rate=0.0, period=1)], tasks=2))
    with pytest.raises(AssertionError):
        same(naive, train(world, lambda: [CPR(period=1)], tasks=2))


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_a_restart_changes_nothing(world: str, check_restart: Any) -> None:
    check_restart(world, {"cpr": {"replacement_rate": 0.5, "period": 3}})


def test_it_is_refused_by_name_where_it_cannot_work(refusal: Any) -> None:
    assert refusal("cpr") == refusal("cpr", "sac") == ""
    assert "cpr" in refusal("cpr", "trpo")
    assert "cpr" in refusal("cpr", "recurrent_ppo")


@pytest.mark.thorough
@pytest.mark.parametrize("engine", ["sb3", pytest.param("compiled", marks=pytest.mark.slow)])
def test_updates_that_a_limit_stops_are_not_counted(make_scenario: Any, engine: str) -> None:
    """Adam counts what was taken; the compiled engine draws for whole rollouts before that."""
    agent = {"algorithm": "ppo", "engine": engine, "n_steps": 128, "batch_size": 32, "n_epochs": 5}
    agent |= {"target_kl": 0.003, "learning_rate": 3e-3, "policy_kwargs": {"net_arch": [16]}}
    tasks = [{"name": "a", "env": "CartPole-v1", "steps": 1024}]
    scenario = make_scenario(tasks=tasks, agent=agent, methods=[{"cpr": {"period": 7}}], n_envs=2)
    kind = kind_of(scenario)
    learner, (method,) = kind.agent(), kind.methods()
    (experience,) = kind.stream(0, on_failure=None).train_stream
    method.pre_adapt(learner.doors(method), experience.train())
    learner.start(experience)
    learner.learn(experience, lambda _: None, lambda *_: None)
    taken = int(next(iter(learner.model.policy.optimizer.state.values()))["step"])
    assert [part.updates for part in method._work.parts] == [taken]
    assert 0 < taken < 160  # 5 epochs of 8 batches in 4 rollouts, some of them cut short
