"""Steps that are taken without an update: what is stored of them, and what comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env

from holdfast.agents.sb3.budget import act


@pytest.fixture
def model() -> Any:
    env = make_vec_env("Pendulum-v1", 2, seed=0, wrapper_class=lambda e: TimeLimit(e, 5))
    made = SAC("MlpPolicy", env, seed=0, buffer_size=40, policy_kwargs={"net_arch": [4]})
    made._setup_learn(100, None, True, "task", False)
    return made


def test_greedy_steps_are_stored_as_the_algorithm_stores_its_own(model: Any) -> None:
    first = model._last_obs.copy()
    before = {n: t.clone() for n, t in model.policy.state_dict().items()}
    returns = act(model, 16)
    buffer, env = model.replay_buffer, model.env
    assert (model.num_timesteps, buffer.pos) == (16, 8)
    assert all(t.equal(before[n]) for n, t in model.policy.state_dict().items())
    np.testing.assert_array_equal(buffer.observations[0], first)
    seen = buffer.observations[:8].reshape(16, 3)
    greedy, _ = model.predict(seen, deterministic=True)
    # Torques of 2 at most, kept as a share of that.
    np.testing.assert_allclose(buffer.actions[:8].reshape(16, 1), greedy / 2, atol=1e-6)
    assert np.ptp(greedy) > 1e-3
    # Each of two environments ended one episode of 5 steps; 3 steps of the next are no return.
    np.testing.assert_allclose(returns, buffer.rewards[:5].sum(0), rtol=1e-5)
    assert buffer.dones[4].all()
    np.testing.assert_array_equal(buffer.next_observations[0], buffer.observations[1])
    # And a new episode begins.
    assert [env.get_attr("_elapsed_steps")[place] for place in (0, 1)] == [0, 0]
    np.testing.assert_array_equal(model._last_obs.shape, (2, 3))


def test_an_episode_that_is_cut_short_counts_where_none_ended(model: Any) -> None:
    returns = act(model, 6)
    np.testing.assert_allclose(returns, model.replay_buffer.rewards[:3].sum(0), rtol=1e-5)
