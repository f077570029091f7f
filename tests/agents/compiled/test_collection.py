"""What is collected, against Stable-Baselines3's own ``collect_rollouts``.

Random numbers of acting differ, so Stable-Baselines3's distribution is handed the actions that were
drawn here; all else is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from mixed_env import mixed
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from holdfast.agents.base.observations import TaskNormalize
from holdfast.agents.base.parameters import overlaid
from holdfast.agents.compiled.collection import collecting, collector_of, stepping
from holdfast.agents.doors.exploration import Exploration, Heads, exploring
from holdfast.agents.sb3.budget import set_length
from holdfast.scenarios.schema.agent import Normalize


class Seen(BaseCallback):
    """Notes what callbacks are told."""

    def __init__(self, stops_at: int = 10**9) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self._stops_at = stops_at

    def _on_rollout_start(self) -> None:
        self.calls.append(("start", self.num_timesteps))

    def _on_step(self) -> bool:
        told = self.locals
        seen = (told["dones"].copy(), told["rewards"].copy(), told["new_obs"])
        ends = [info.get("terminal_observation") for info in told["infos"]]
        stored = told.get("buffer_actions", told["actions"])
        self.calls.append((self.num_timesteps, self.model.num_timesteps, *seen, ends, stored))
        return self.num_timesteps < self._stops_at

    def _on_rollout_end(self) -> None:
        self.calls.append(("end", self.num_timesteps))


def begun(model: Any, stops_at: int = 10**9) -> tuple[Any, Seen]:
    """Begin learning; return the callback as the model calls it, and what it notes."""
    seen = Seen(stops_at)
    _, callback = model._setup_learn(10_000, seen, True, "test", False)
    return callback, seen


def same(ours: Any, theirs: Any, tolerance: float = 0.0) -> None:
    """Assert that nested arrays are equal."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            same(ours[key], theirs[key], tolerance)
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other, tolerance)
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
    else:
        assert ours == theirs


def same_states(ours: Any, theirs: Any) -> None:
    """Assert that models are where they would be after the same steps."""
    assert ours.num_timesteps == theirs.num_timesteps
    assert ours._episode_num == theirs._episode_num
    same(ours._last_obs, theirs._last_obs)
    same(ours._last_original_obs, theirs._last_original_obs)
    same(ours._last_episode_starts, theirs._last_episode_starts)
    told = [[(i["r"], i["l"]) for i in model.ep_info_buffer] for model in (ours, theirs)]
    assert told[0] == told[1]
    assert told[0]
    assert list(ours.ep_success_buffer) == list(theirs.ep_success_buffer)


# -- on-policy -------------------------------------------------------------------------------------


def pendulum(n_envs: int, seed: int = 0) -> VecEnv:
    make = {"id": "Pendulum-v1", "max_episode_steps": 11}
    return make_vec_env(lambda: gym.make(**make), n_envs=n_envs, seed=seed)


def normalized(n_envs: int) -> VecEnv:
    options = Normalize.model_validate({"observations": "running", "rewards": "running"})
    return TaskNormalize(pendulum(n_envs), options, 0.9, 0, stage=0)


class OwnVector(DummyVecEnv):
    """A vector that is not quite Stable-Baselines3's own."""


def own_vector(n_envs: int) -> VecEnv:
    return make_vec_env("CartPole-v1", n_envs=n_envs, seed=0, vec_env_cls=OwnVector)


ONE, SEVERAL = spaces.Discrete(3), spaces.MultiDiscrete([2, 3])
ON_POLICY: dict[str, tuple[Any, str, Callable[[], VecEnv]]] = {
    "cartpole": (PPO, "MlpPolicy", lambda: make_vec_env("CartPole-v1", n_envs=3, seed=0)),
    "one environment": (A2C, "MlpPolicy", lambda: make_vec_env("CartPole-v1", seed=0)),
    "pendulum": (PPO, "MlpPolicy", lambda: pendulum(3)),
    "dict": (PPO, "MultiInputPolicy", lambda: mixed(SEVERAL, 3)),
    "several choices": (A2C, "MlpPolicy", lambda: mixed(SEVERAL, 3, single=True)),
    "bits": (PPO, "MlpPolicy", lambda: mixed(spaces.MultiBinary(2), 3, single=True)),
    "lake": (PPO, "MlpPolicy", lambda: make_vec_env("FrozenLake-v1", n_envs=3, seed=0)),
    "normalized": (PPO, "MlpPolicy", lambda: normalized(3)),
    "masks": (MaskablePPO, "MlpPolicy", lambda: mixed(SEVERAL, 3, single=True)),
    "masks and dict": (MaskablePPO, "MultiInputPolicy", lambda: mixed(ONE, 3)),
    "another vector": (PPO, "MlpPolicy", lambda: own_vector(2)),
}


def on_policy(name: str) -> Any:
    made, policy, env = ON_POLICY[name]
    return made(policy, env(), n_steps=64, seed=0, device="cpu", gamma=0.9)


def hand_in(distribution: Any, actions: Iterator[Any]) -> None:
    """Make a distribution of Stable-Baselines3 draw these actions."""
    distribution.sample = lambda: torch.as_tensor(next(actions))


def rollouts(model: Any, lengths: list[int], drawn: list[Any] | None = None) -> list[Any]:
    """Return the buffer's arrays after each rollout, and what callbacks were told at last."""
    callback, seen = begun(model)
    buffer, found = model.rollout_buffer, []
    for number, length in enumerate(lengths):
        set_length(buffer, length)
        if drawn is not None:
            hand_in(model.policy.action_dist, iter(_as_drawn(model, drawn[number]["actions"])))
        assert model.collect_rollouts(model.env, callback, buffer, length)
        assert buffer.full
        found.append({k: v for k, v in vars(buffer).items() if isinstance(v, np.ndarray | dict)})
    model.env.close()
    return [*found, seen.calls]


def _as_drawn(model: Any, actions: Any) -> Any:
    """Return the actions of a rollout in the form in which the distribution draws them."""
    if isinstance(model.action_space, spaces.Discrete):
        return actions[..., 0]
    return actions.astype(np.float32) if actions.dtype == np.int8 else actions


COMPUTED = ("values", "log_probs", "advantages", "returns")


def _compare(ours: Any, theirs: Any) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        # A reward may have the value of a last observation in it.
        tolerance = 2e-5 if name in COMPUTED else 1e-5 if name == "rewards" else 0
        same(ours[name], theirs[name], tolerance)


@pytest.mark.parametrize("name", ON_POLICY)
def test_rollouts_are_those_of_stable_baselines3(name: str) -> None:
    ours, theirs, lengths = on_policy(name), on_policy(name), [64, 64, 7]
    with collecting(ours):
        found = rollouts(ours, lengths)
    wanted = rollouts(theirs, lengths, found)
    for one, other in zip(found[:-1], wanted[:-1], strict=True):
        _compare(one, other)
    same(found[-1], wanted[-1])
    same_states(ours, theirs)
    assert "collect_rollouts" not in vars(ours)


def test_a_rollout_in_pieces_is_one() -> None:
    ours, theirs = on_policy("pendulum"), on_policy("pendulum")
    callback, _ = begun(ours)
    buffer = ours.rollout_buffer
    ours.rollout_buffer.reset()
    with collecting(ours):
        buffer.reset = lambda: None  # as where a boundary is hidden
        for piece in (20, 1, 43):
            assert not buffer.full
            ours.collect_rollouts(ours.env, callback, buffer, piece)
    found = [{k: v for k, v in vars(buffer).items() if isinstance(v, np.ndarray)}]
    (wanted, _) = rollouts(theirs, [64], found)
    _compare(found[0], wanted)
    same_states(ours, theirs)


def test_a_callback_that_returns_false_ends_a_rollout() -> None:
    told = []
    for ours in (True, False):
        model = on_policy("one environment")
        collect = collector_of(model).collect_rollouts if ours else model.collect_rollouts  # type: ignore[union-attr]  # of A2C
        callback, seen = begun(model, stops_at=5)
        np.random.seed(0)
        assert not collect(model.env, callback, model.rollout_buffer, 64)
        told.append((len(seen.calls), model.num_timesteps, model.rollout_buffer.pos))
    assert told[0] == told[1] == (6, 5, 4)


@pytest.mark.parametrize("name", ["cartpole", "pendulum"])
def test_advantages_are_stable_baselines3s_to_the_bit(name: str) -> None:
    model = on_policy(name)
    callback, seen = begun(model)
    with collecting(model):
        model.collect_rollouts(model.env, callback, model.rollout_buffer, 64)
    found, last = copy(model.rollout_buffer), torch.as_tensor(seen.locals["values"])
    model.rollout_buffer.advantages = np.zeros_like(found.advantages)
    model.rollout_buffer.compute_returns_and_advantage(last, model._last_episode_starts)
    assert found.advantages.any()
    np.testing.assert_array_equal(found.advantages, model.rollout_buffer.advantages)
    np.testing.assert_array_equal(found.returns, model.rollout_buffer.returns)


def test_a_new_collector_goes_on_as_the_old_one() -> None:
    """Nothing is drawn ahead: a checkpoint between rollouts holds all that acting needs."""
    found = []
    for is_new in (False, True):
        model = on_policy("cartpole")
        callback, _ = begun(model)
        np.random.seed(3)
        collector = collector_of(model)
        for _ in range(2):
            collector.collect_rollouts(model.env, callback, model.rollout_buffer, 64)  # type: ignore[union-attr]  # of PPO
            collector = collector_of(model) if is_new else collector
        found.append(model.rollout_buffer.actions)
    np.testing.assert_array_equal(*found)


class _Measuring(Seen):
    """Acts with other weights in the middle of a rollout, as an evaluation of another task does."""

    def _on_step(self) -> bool:
        policy: Any = self.model.policy
        others = {name: 0.5 * tensor for name, tensor in policy.state_dict().items()}
        with overlaid(policy, others):
            self.model.predict(self.locals["new_obs"], deterministic=True)
        return super()._on_step()


def test_other_weights_that_measure_in_between_change_nothing() -> None:
    found = []
    for made in (Seen, _Measuring):
        model = on_policy("cartpole")
        _, callback = model._setup_learn(10_000, made(), True, "test", False)
        np.random.seed(3)
        with collecting(model):
            model.collect_rollouts(model.env, callback, model.rollout_buffer, 64)
        found.append([model.rollout_buffer.actions, model.rollout_buffer.log_probs])
    same(*found)


# -- environments ----------------------------------------------------------------------------------


@pytest.mark.parametrize("single", [True, False], ids=["vector", "dict"])
def test_environments_are_stepped_as_their_vector_steps_them(single: bool) -> None:
    ours, theirs = (mixed(SEVERAL, 3, single=single) for _ in range(2))
    step = stepping(ours)
    assert step != ours.step
    same(ours.reset(), theirs.reset())
    rng, ends = np.random.default_rng(0), 0
    kept = []
    for _ in range(40):
        actions = rng.integers(0, 2, (3, 2))
        found, wanted = step(actions), theirs.step(actions)
        for infos in (found[3], wanted[3]):
            for info in infos:
                info.get("episode", {}).pop("t", None)
        same(found, wanted)
        kept.append((found[0], wanted[0]))
        ends += int(found[2].sum())
        for name in ("buf_obs", "buf_rews", "buf_dones", "actions", "reset_infos"):
            same(getattr(ours, name), getattr(theirs, name))
    same(*zip(*kept, strict=True))  # what was returned earlier did not change since
    assert ends > 5


def test_other_vectors_step_themselves() -> None:
    env = OwnVector([lambda: gym.make("CartPole-v1")])
    assert stepping(env) == env.step
    plain = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    plain.step_wait = lambda: None  # type: ignore[method-assign, assignment, return-value]  # as someone may
    assert stepping(plain) == plain.step


# -- off-policy ------------------------------------------------------------------------------------

ROUND = TrainFreq(5, TrainFrequencyUnit.STEP)
SMALL: dict[str, Any] = {"buffer_size": 90}  # filled more than once
ROOMY: dict[str, Any] = {"buffer_size": 600}


def walk(n_envs: int) -> VecEnv:
    return mixed(spaces.Box(-2, 1, (2,)), n_envs)


def cartpole(n_envs: int) -> VecEnv:
    return make_vec_env("CartPole-v1", n_envs=n_envs, seed=0)


def waves(made: Any, n_envs: int) -> Any:
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.3 * np.ones(1))
    return made("MlpPolicy", pendulum(n_envs), action_noise=noise, seed=0, **SMALL)


OFF_POLICY: dict[str, Callable[[], Any]] = {
    "dqn": lambda: DQN("MlpPolicy", cartpole(1), seed=0, target_update_interval=7, **ROOMY),
    "dqn side by side": lambda: DQN("MlpPolicy", cartpole(3), seed=0, **SMALL),
    "sac": lambda: SAC("MlpPolicy", pendulum(1), seed=0, **ROOMY),
    "sac side by side": lambda: SAC("MlpPolicy", pendulum(2), seed=0, **SMALL),
    "td3 with noise": lambda: TD3(
        "MlpPolicy",
        pendulum(1),
        action_noise=NormalActionNoise(np.zeros(1), 0.5 * np.ones(1)),
        seed=0,
        **ROOMY,
    ),
    "waves of noise": lambda: waves(DDPG, 1),
    "waves of noise side by side": lambda: waves(TD3, 3),
    "dict": lambda: SAC("MultiInputPolicy", walk(2), seed=0, **SMALL),
    "lake": lambda: DQN(
        "MlpPolicy", make_vec_env("FrozenLake-v1", n_envs=2, seed=0), seed=0, **ROOMY
    ),
    "normalized": lambda: SAC("MlpPolicy", normalized(2), seed=0, **ROOMY),
    "normalized dict": lambda: SAC("MultiInputPolicy", normalized_dict(), seed=0, **ROOMY),
    "n-step": lambda: DQN("MlpPolicy", cartpole(1), seed=0, n_steps=3, **ROOMY),
    "little memory": lambda: DQN(
        "MlpPolicy",
        cartpole(1),
        seed=0,
        **SMALL,
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
    ),
    "hindsight": lambda: DQN(
        "MultiInputPolicy",
        make_vec_env(lambda: BitFlippingEnv(n_bits=4, max_steps=4), seed=0),
        replay_buffer_class=HerReplayBuffer,
        seed=0,
        **ROOMY,
    ),
}


def normalized_dict() -> VecEnv:
    options = Normalize.model_validate({"observations": "running", "rewards": "running"})
    return TaskNormalize(walk(2), options, 0.9, 0, stage=0)


def off_policy(name: str) -> Any:
    model = OFF_POLICY[name]()
    model.learning_starts = 30
    return model


def transitions(model: Any, actions: Any = None) -> Any:
    """Collect 250 steps; return what the buffer holds, and what callbacks were told."""
    callback, seen = begun(model)
    np.random.seed(1)
    if actions is not None:
        hand_in(model.actor.action_dist, iter(actions))
    for _ in range(50):
        found = model.collect_rollouts(
            model.env,
            train_freq=ROUND,
            action_noise=model.action_noise,
            callback=callback,
            learning_starts=model.learning_starts,
            replay_buffer=model.replay_buffer,
            log_interval=4,
        )
        assert found.episode_timesteps == 5 * model.n_envs
        assert found.continue_training
    model.env.close()
    held = vars(model.replay_buffer).items()
    return {k: v for k, v in held if isinstance(v, np.ndarray | dict | int)}, seen.calls


@pytest.mark.parametrize("name", OFF_POLICY)
def test_transitions_are_those_of_stable_baselines3(name: str) -> None:
    ours, theirs = off_policy(name), off_policy(name)
    with collecting(ours):
        found, told = transitions(ours)
    steps = [call for call in told if len(call) > 2]
    first = -(-ours.learning_starts // ours.n_envs)  # before it actions are uniformly random
    drawn = [call[-1] for call in steps[first:]]
    wanted, seen = transitions(theirs, drawn if isinstance(ours, SAC) else None)
    tolerance = 1e-5 if isinstance(ours.action_space, spaces.Box) else 0
    _compare_rows(found, wanted, tolerance)
    same(told, seen, 1e-4 if tolerance else 0)
    same_rates(ours, theirs)


def _compare_rows(found: Any, wanted: Any, tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name in found:
        if name != "infos":
            same(found[name], wanted[name], tolerance)


def same_rates(ours: Any, theirs: Any) -> None:
    """Assert that models are where they would be, and that their target networks are equal."""
    assert ours.num_timesteps == theirs.num_timesteps
    assert ours._episode_num == theirs._episode_num
    assert ours._episode_num > 2
    assert ours._current_progress_remaining == theirs._current_progress_remaining
    assert getattr(ours, "exploration_rate", 0) == getattr(theirs, "exploration_rate", 0)
    for (name, one), other in zip(
        ours.policy.state_dict().items(), theirs.policy.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_the_first_steps_are_taken_as_an_earlier_task() -> None:
    """An explorer replaces what chooses actions and what stores; it is asked until it is done."""
    found = []
    for is_ours in (True, False):
        model = DQN("MlpPolicy", mixed(ONE, 1, single=True), seed=0, **ROOMY)
        callback, _ = begun(model)
        np.random.seed(1)
        model.action_space.seed(1)
        heads = Heads("best_return", [0, 1], np.random.default_rng(0))
        with ExitStack() as stack:
            explorer = stack.enter_context(exploring(model, Exploration(60, heads, 2)))
            if is_ours:
                stack.enter_context(collecting(model))
            for _ in range(30):
                model.collect_rollouts(
                    model.env, callback, ROUND, model.replay_buffer, log_interval=4
                )
        assert explorer is not None
        held = {k: v for k, v in vars(model.replay_buffer).items() if isinstance(v, np.ndarray)}
        found.append((held, explorer.told()))
    same(*found)
    assert sum(len(ended) for _, ended in found[0][1]["returns"]) > 3
