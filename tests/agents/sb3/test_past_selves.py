"""The pool of past selves: who is drawn, who joins and leaves, what a checkpoint keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import DummyVecEnv

from holdfast.agents.doors.outputs import PolicyOutput
from holdfast.agents.sb3.past_selves import PastSelf, PastSelves, action_chances, batch_of_one
from holdfast.envs.make import make_env
from holdfast.errors import UsageError
from holdfast.scenarios.schema.opponents import Past
from holdfast.scenarios.schema.scenario import Scenario


def scenario_of(**past):
    return Scenario.model_validate(
        {
            "tasks": [
                {
                    "name": "game",
                    "env": "classic/tictactoe_v3",
                    "steps": 100,
                    "opponents": {"against": ["past"], "past": past},
                }
            ],
            "agent": {"algorithm": "maskable_ppo"},
        }
    )


@pytest.fixture
def make_model():
    def make(seed=0, width=8):
        scenario = scenario_of()
        env = DummyVecEnv([lambda: make_env(scenario, scenario.tasks[0])])
        return MaskablePPO("MlpPolicy", env, seed=seed, policy_kwargs={"net_arch": [width]})

    return make


def test_prioritized_prefers_who_is_lost_against():
    pool = PastSelves()
    pool.rule = Past(sample="prioritized")
    pool.selves = [
        PastSelf(0, {}),  # win rate 1/2
        PastSelf(10, {}, games=3, score=2.5),  # 3/4
        PastSelf(20, {}, games=9, score=0.5),  # 1/10
    ]
    weights = np.array([1 / 4, 1 / 16, 81 / 100])
    assert pool.chances() == pytest.approx(weights / weights.sum())
    pool.rule = Past(sample="uniform")
    assert pool.chances() == pytest.approx([1 / 3] * 3)


def test_selves_join_and_the_oldest_leaves(make_model):
    model, pool = make_model(), PastSelves()
    task = scenario_of(every=20, most=3).tasks[0]
    pool.start(task, model, first_step=1000)
    for step in range(10, 71, 10):
        pool.look(model, step, 1000)
    assert [past.step for past in pool.selves] == [1020, 1040, 1060]
    assert model.env.envs[0].unwrapped.past is pool


def test_a_self_stays_as_it_was_and_the_latest_is_drawn(make_model):
    model, pool = make_model(), PastSelves()
    pool.start(scenario_of(sample="latest", every=10).tasks[0], model, 0)
    seen, allowed = np.zeros((3, 3, 2), np.int8), np.arange(9) % 2 == 0
    name, first = pool.draw(np.random.default_rng(0))
    assert name == "past-0"
    before = first(seen, allowed)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    assert np.array_equal(first(seen, allowed), before)
    pool.look(model, 10, 0)
    name, now = pool.draw(np.random.default_rng(0))
    assert name == "past-10"
    output = PolicyOutput(model.policy)
    tensors, _ = model.policy.obs_to_tensor(batch_of_one(seen))
    assert np.array_equal(now(seen, allowed), action_chances(output, tensors, allowed))
    assert not np.allclose(now(seen, allowed), before)
    assert now(seen, allowed)[~allowed].tolist() == [0] * 4


def test_chances_are_those_of_the_masked_policy(make_model):
    model, rng = make_model(), np.random.default_rng(0)
    seen, allowed = rng.integers(0, 2, (3, 3, 2)).astype(np.int8), np.arange(9) > 3
    tensors, _ = model.policy.obs_to_tensor(batch_of_one(seen))
    own = model.policy.get_distribution(tensors, allowed[None]).distribution.probs[0]
    found = action_chances(PolicyOutput(model.policy), tensors, allowed)
    assert found == pytest.approx(own.detach().numpy(), abs=1e-6)
    assert found.sum() == pytest.approx(1)


def test_games_count_for_the_self_of_that_name():
    pool = PastSelves()
    pool.selves = [PastSelf(0, {}), PastSelf(5, {})]
    for name, score in (("past-5", 1.0), ("past-5", 0.5), ("random", 1.0), ("past-0", 0.0)):
        pool.record(name, score)
    assert [(past.games, past.score) for past in pool.selves] == [(1, 0.0), (2, 1.5)]


def test_tensors_hold_all_of_it(make_model):
    model, pool = make_model(), PastSelves()
    pool.start(scenario_of(every=10).tasks[0], model, 0)
    pool.look(model, 10, 0)
    pool.record("past-10", 0.5)
    again = PastSelves()
    again.load_tensors(pool.tensors())
    assert [(p.step, p.games, p.score) for p in again.selves] == [(0, 0, 0.0), (10, 1, 0.5)]
    for one, two in zip(again.selves, pool.selves, strict=True):
        assert one.tensors.keys() == two.tensors.keys()
        assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)
    assert PastSelves().tensors() == {}


def test_networks_of_another_shape_are_refused(make_model):
    pool, task = PastSelves(), scenario_of().tasks[0]
    pool.start(task, make_model(), 0)
    with pytest.raises(UsageError, match="past-0 does not fit the networks of task 'game'"):
        pool.start(task, make_model(width=16), 100)
