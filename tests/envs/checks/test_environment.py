from __future__ import annotations

import textwrap

import pytest

from holdfast.envs.base.loading import MissingPackage, UnknownEnvironment
from holdfast.envs.checks import probes
from holdfast.envs.checks.environment import check_env

CLASS = """
    import gymnasium as gym
    import numpy as np

    class Arm(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.time = 0
            self.position = self.np_random.uniform(-1, 1, 2).astype(np.float32)
            return {reset}

        def step(self, action):
            self.time += 1
            self.position = np.clip(self.position + 0.1 * action, -1, 1).astype(np.float32)
            {step}

        def close(self):
            {close}
"""
GOOD = {
    "reset": "self.position.copy(), {}",
    "step": "return self.position.copy(), 1.0, self.time >= 20, False, {}",
    "close": "pass",
}


@pytest.fixture
def check(tmp_path, monkeypatch, request):
    """Check an arm that differs from a good one in what the test gives."""
    monkeypatch.setattr(probes, "_SPEED_S", 0.02)
    monkeypatch.setattr(probes, "_PROBE_STEPS", 50)

    def check(more: str = "", **parts: str):
        module = f"arm_{abs(hash(request.node.name))}"
        source = textwrap.dedent(CLASS)
        for name, text in (GOOD | parts).items():
            source = source.replace(f"{{{name}}}", text)
        (tmp_path / f"{module}.py").write_text(source + textwrap.dedent(more))
        return check_env(f"{module}:Arm", folder=tmp_path)

    return check


def errors(result):
    return [finding.text for finding in result.findings if finding.level == "error"]


def texts(result, level):
    return "\n".join(finding.text for finding in result.findings if finding.level == level)


def test_a_good_environment_passes(check):
    result = check()
    assert errors(result) == []
    assert result.ok
    said = texts(result, "ok")
    assert "action space Box(-1.0, 1.0, (1,), float32); algorithms that can take it: ppo" in said
    assert "the same seed gives the same" in said
    assert "episodes end (longest with random actions: 20 steps)" in said
    assert "Gymnasium's checker found no error" in said
    assert "Stable-Baselines3's checker found no error" in said
    assert result.steps_per_s > 100
    assert texts(result, "advice") == ""


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_registered_environments_pass(name, monkeypatch):
    monkeypatch.setattr(probes, "_SPEED_S", 0.02)
    assert errors(check_env(name)) == []


@pytest.mark.thorough
def test_half_cheetah_passes(monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.setattr(probes, "_SPEED_S", 0.02)
    assert errors(check_env("HalfCheetah-v5", {"ctrl_cost_weight": 0.2})) == []


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"reset": "self.position.copy()"}, "reset() returns a ndarray; it must return (obs"),
        ({"step": "return self.position.copy(), 1.0, False, {}"}, "step() returns 4 values; "),
        ({"step": "return self.position.copy(), 1.0, 0, False, {}"}, "`terminated` is 0; "),
        ({"step": "return self.position.copy(), 1.0, False, False, None"}, "`info` is a NoneT"),
        (
            {"step": "return self.position + [0, 3], 1.0, False, False, {}"},
            "return `observation.astype(np.float32)`",
        ),
        (
            {"step": "return np.array([0, 3], np.float32), 1.0, False, False, {}"},
            "is outside its space: [1] is 3, allowed -1 to 1",
        ),
        (
            {"step": "return self.position[:1], 1.0, False, False, {}"},
            "its shape is (1,), the space's is (2,)",
        ),
        (
            {"step": "return np.float32([0, np.nan]), 1.0, False, False, {}"},
            "is not finite: observation[1] is nan",
        ),
        ({"step": "return self.position.copy(), np.inf, False, False, {}"}, "must be finite"),
        ({"step": "return self.position.copy(), None, False, False, {}"}, "must be one number"),
        ({"step": "raise OSError('cable')"}, "raised OSError: cable (arm_"),
        ({"step": "raise SystemExit(1)"}, "raised SystemExit: 1 (arm_"),
        ({"close": "raise OSError('cable')"}, "close() fails"),
    ],
)
def test_what_is_wrong_is_said_once_in_plain_words(check, parts, text):
    result = check(**parts)
    assert not result.ok
    assert len(errors(result)) == 1
    assert text in errors(result)[0]


def test_a_buffer_that_is_written_again_is_detected_with_its_values(check):
    step = """self.buffer = getattr(self, 'buffer', np.zeros(2, np.float32))
        self.buffer[:] = self.position
        return self.buffer, 1.0, self.time >= 20, False, {}"""
    result = check(step=step)
    assert "observation is an array that is reused between steps: it was [" in errors(result)[0]
    assert "observation.copy()" in errors(result)[0]


def test_a_buffer_under_a_key_is_named(check):
    more = """
        class Arm(Arm):
            observation_space = gym.spaces.Dict(
                arm=Arm.observation_space, tick=gym.spaces.Discrete(99)
            )
            memory = np.zeros(2, np.float32)

            def shown(self):
                self.memory[:] = self.position
                return {"arm": self.memory, "tick": self.time}

            def reset(self, *, seed=None, options=None):
                super().reset(seed=seed)
                return self.shown(), {}

            def step(self, action):
                return self.shown(), *super().step(action)[1:]
    """
    assert "observation['arm'] is an array that is reused" in errors(check(more))[0]


def test_a_key_outside_its_space_is_named(check):
    more = """
        class Arm(Arm):
            observation_space = gym.spaces.Dict(
                arm=Arm.observation_space, tick=gym.spaces.Discrete(5)
            )

            def reset(self, *, seed=None, options=None):
                return {"arm": super().reset(seed=seed)[0], "tick": 0}, {}

            def step(self, action):
                arm, *rest = super().step(action)
                return {"arm": arm, "tick": self.time}, *rest
    """
    assert "key 'tick' is outside its space: 5 is not in Discrete(5)" in errors(check(more))[0]


def test_randomness_that_no_seed_reaches_is_an_error(check):
    result = check(step="return self.position.copy(), np.random.rand(), self.time > 9, False, {}")
    assert (
        "not repeatable: at step 1 after reset(seed=7), the same actions gave reward"
        in (errors(result)[0])
    )


@pytest.mark.thorough
def test_an_episode_without_end_gets_advice(check):
    result = check(step="return self.position.copy(), 1.0, False, False, {}")
    assert result.ok
    assert (
        "no episode ended in 2,000 steps, and nothing says how long one lasts: evaluation cuts it "
        "after 10,000; limit it by `changes: {time_limit: ...}`, or write `evaluation:"
    ) in texts(result, "advice")


@pytest.mark.parametrize(
    ("reward", "cause"),
    [
        ("np.array([1.0])", "array([1.]), an array of shape (1,); it must be one number: return "
         "`float(reward.item())`"),
        ("np.ones(2)", "an array of shape (2,); it must be one number: return `float("),
        ("[1.0]", "[1.0]; it must be one number"),
        ("'1'", "'1'; it must be one number"),
        ("float('nan') if self.steps > 500 else 1.0", "the reward of step 500, action"),
    ],
)  # fmt: skip
def test_fault_52_the_cause_is_named_alone(check, reward, cause):
    result = check(
        step="self.steps = getattr(self, 'steps', 0) + 1; "
        f"return self.position.copy(), {reward}, self.time > 9, False, {{}}"
    )
    (text,) = errors(result)
    assert cause in text


def test_fault_52_a_reward_that_a_run_takes_is_not_called_broken(check):
    result = check(step="return self.position.copy(), np.array(1.0), self.time > 9, False, {}")
    assert result.ok
    assert "rewards are arrays without a dimension; return `float(reward)`" in (
        texts(result, "advice")
    )


def test_a_slow_environment_gets_the_time_it_will_take(check, monkeypatch):
    monkeypatch.setattr(probes, "_VALUE_STEPS", 50)
    result = check(
        step="import time; time.sleep(0.006); "
        "return self.position.copy(), 1.0, self.time > 9, False, {}"
    )
    assert 50 < result.steps_per_s < 200
    assert "min of 100,000 steps are the environment's" in texts(result, "advice")


@pytest.mark.thorough
def test_action_bounds_that_slow_learning_get_advice(monkeypatch):
    monkeypatch.setattr(probes, "_SPEED_S", 0.02)
    assert "actions lie in -2 to 2" in texts(check_env("Pendulum-v1"), "advice")


def test_an_action_space_that_nobody_takes_is_an_error(check):
    result = check("Arm.action_space = gym.spaces.Tuple([gym.spaces.Discrete(2)])")
    assert "no known algorithm can take the action space Tuple" in errors(result)[0]


def test_an_observation_that_no_policy_takes_says_what_to_keep(check):
    more = """
        class Arm(Arm):
            observation_space = gym.spaces.Dict(
                arm=Arm.observation_space, mission=gym.spaces.Text(5)
            )

            def reset(self, *, seed=None, options=None):
                return {"arm": super().reset(seed=seed)[0], "mission": "go"}, {}

            def step(self, action):
                arm, *rest = super().step(action)
                return {"arm": arm, "mission": "go"}, *rest
    """
    (text,) = errors(check(more))
    assert "no policy can take the entry 'mission' of the observation" in text
    assert "{gymnasium.wrappers:FilterObservation: {filter_keys: [arm]}}" in text


def test_names_that_are_wrong_are_the_users_mistake(tmp_path):
    with pytest.raises(UnknownEnvironment, match="did you mean 'CartPole-v1'"):
        check_env("CartPol-v1")
    with pytest.raises(MissingPackage):
        check_env("no_such_module_y:Arm", folder=tmp_path)


def test_whether_it_repeats_itself_when_built_again_is_said(check):
    text = "built again, it repeats itself: checkpoints inside tasks are exact"
    assert text in [finding.text for finding in check().findings]


def test_what_keeps_a_count_of_its_instances_does_not_repeat_itself(check):
    more = """
    made = []

    class Arm(Arm):
        def __init__(self):
            super().__init__()
            made.append(1)
            self.number = len(made)

        def reset(self, *, seed=None, options=None):
            observation, info = super().reset(seed=seed, options=options)
            return np.full_like(observation, 0.01 * self.number), info
    """
    found = check(more)
    assert not errors(found)
    (said,) = [f for f in found.findings if f.text.startswith("built again")]
    assert said.level == "advice"
    assert "does not repeat itself: at step 0" in said.text
