"""What EnvPool cannot do is refused with the reason, and what to write instead."""

from __future__ import annotations

import pytest

from holdfast.envs.make import stream_spaces
from holdfast.envs.vector import pooled
from holdfast.errors import EnvironmentFailed, UsageError

pytest.importorskip("envpool")


def test_what_works_on_one_environment_at_a_time_is_refused_when_it_is_built(make_scenario):
    scenario = make_scenario(
        {"env": "CartPole-v1", "changes": {"action_delay": 2}}, backend="envpool"
    )
    with pytest.raises(UsageError, match=r"cannot take ActionDelay.*backend: gymnasium"):
        pooled(scenario, 0, stream_spaces(scenario), 2, seed=0)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"env": "HalfCheeta-v5"}, "did you mean 'HalfCheetah-v5'"),
        ({"env": "HalfCheetah-v5", "kwargs": {"frame_skp": 3}}, "did you mean 'frame_skip'"),
        ({"env": "HalfCheetah-v5", "kwargs": {"num_envs": 3}}, "set by the adapter"),
        ({"env": "Basic-v1"}, "use_combined_action"),
        (
            {
                "env": "CartPole-v1",
                "kwargs": {"max_episode_steps": 5},
                "changes": {"time_limit": 5},
            },
            "give one of the two",
        ),
    ],
)
def test_what_envpool_does_not_have_is_refused_by_name(make_scenario, keys, text):
    with pytest.raises(UsageError, match=text):
        stream_spaces(make_scenario(keys, backend="envpool"))


def test_a_simulator_that_cannot_be_built_is_one_clear_error(make_scenario):
    scenario = make_scenario(
        {"env": "HalfCheetah-v5", "kwargs": {"xml_file": "nope.xml"}}, backend="envpool"
    )
    envs = pooled(scenario, 0, stream_spaces(scenario), 2, seed=0)
    with pytest.raises(EnvironmentFailed, match=r"EnvPool's HalfCheetah-v5.*nope\.xml"):
        envs.reset()


def test_its_environments_have_neither_attributes_nor_methods(make_scenario):
    scenario = make_scenario({"env": "CartPole-v1"}, backend="envpool")
    envs = pooled(scenario, 0, stream_spaces(scenario), 2, seed=0)
    for use in (lambda: envs.set_attr("gravity", 5.0), lambda: envs.env_method("gravity")):
        with pytest.raises(UsageError, match=r"no \w+ 'gravity' to .*write `backend: gymnasium`"):
            use()
