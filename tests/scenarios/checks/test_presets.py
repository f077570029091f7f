"""Presets of rl-zoo3: their numbers, who wins, what is said of them, and that each is taken."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast import listing
from holdfast.cli import app
from holdfast.scenarios.checks.papers import presets, told, zoo
from holdfast.scenarios.load import load
from holdfast.scenarios.source.yaml_file import read

ROOT = Path(__file__).parents[3]
TEXT = """\
tasks: [{{name: a, env: {env}, steps: 1024}}]
agent: {{algorithm: {algorithm}, preset: {preset}}}
"""
CARTPOLE = TEXT.format(env="CartPole-v1", algorithm="ppo", preset="CartPole-v1")


def test_the_numbers_are_those_that_are_published(write) -> None:
    """As hyperparams/ppo.yml has them."""
    scenario = load(write(CARTPOLE))
    assert scenario.n_envs == 8
    assert scenario.agent.arguments == {
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "ent_coef": 0.0,
        "learning_rate": {"linear": [0.001, 0]},
        "clip_range": {"linear": [0.2, 0]},
    }
    assert "preset" not in scenario.to_yaml()
    assert scenario.agent.policy == "auto"


def test_forms_that_scenarios_write_in_their_own_way(write) -> None:
    """As hyperparams/ has them: td3 for MountainCarContinuous, ppo for HalfCheetah, CarRacing."""
    td3 = presets()["td3"]["MountainCarContinuous-v0"]
    assert td3["agent"]["action_noise"] == {"ornstein_uhlenbeck": 0.5}
    assert (td3["steps"], td3["n_envs"]) == (300_000, 1)
    cheetah = presets()["ppo"]["HalfCheetah-v4"]
    assert cheetah["agent"]["learning_rate"] == 2.0633e-05
    assert cheetah["agent"]["normalize"] == {"observations": "running", "rewards": "running"}
    assert cheetah["agent"]["policy_kwargs"] == {
        "log_std_init": -2,
        "ortho_init": False,
        "activation": "relu",
        "net_arch": {"pi": [256, 256], "vf": [256, 256]},
    }
    car = presets()["ppo"]["CarRacing-v3"]
    assert car["agent"]["normalize"] == {"rewards": "running"}
    assert "FrameSkip" in car["left"][0]
    assert presets()["recurrent_ppo"]["atari"]["agent"]["policy_kwargs"]["lstm_hidden_size"] == 128


def test_what_is_written_wins(write) -> None:
    own = ["agent.learning_rate={linear: [1e-4, 1e-5]}", "n_envs=4", "agent.n_steps=64"]
    scenario = load(write(CARTPOLE), own)
    assert scenario.n_envs == 4
    arguments = scenario.agent.arguments
    assert arguments["learning_rate"] == {"linear": [1e-4, 1e-5]}
    assert (arguments["n_steps"], arguments["gamma"]) == (64, 0.98)
    noisy = TEXT.format(env="Pendulum-v1", algorithm="td3", preset="Pendulum-v1")
    kept = load(write(noisy), ["agent.action_noise={ornstein_uhlenbeck: 0.2}"])
    assert kept.agent.arguments["action_noise"] == {"ornstein_uhlenbeck": 0.2}  # one noise
    inside = load(write(noisy), ["agent.policy_kwargs={activation: tanh}"])
    assert inside.agent.arguments["policy_kwargs"] == {
        "activation": "tanh",
        "net_arch": [400, 300],
    }


@pytest.mark.parametrize("algorithm", sorted(presets()))
def test_every_preset_is_taken_by_its_algorithm(write, algorithm: str) -> None:
    """With all that it has beside names of environments: no finding about any key."""
    discrete = algorithm in ("ppo", "a2c", "dqn", "qrdqn", "trpo", "recurrent_ppo")
    env = "CartPole-v1" if discrete else "Pendulum-v1"
    for name, preset in presets()[algorithm].items():
        text = TEXT.format(env=env, algorithm=algorithm, preset=name)
        arguments = load(write(text)).agent.arguments
        assert preset["agent"].keys() - {"normalize"} == arguments.keys(), name


@pytest.mark.parametrize(
    ("algorithm", "preset", "message"),
    [
        ("ppo", "CartPol-v1", "no preset 'CartPol-v1'; did you mean 'CartPole-v1'?"),
        ("ppo", "HalfCheetah-v5", "no preset 'HalfCheetah-v5'; did you mean 'HalfCheetah-v4'?"),
        ("sac", "CartPole-v1", "rl-zoo3 has none of 'CartPole-v1' for 'sac', but for ppo, a2c"),
        ("maskable_ppo", "Line-v0", "rl-zoo3 has none for 'maskable_ppo'; it has for ppo"),
        ("ppo", "[3]", "expected the name of a preset"),
        ("ppo, paper: continual-world", "CartPole-v1", "agent.paper has the same keys"),
    ],
)
def test_what_is_not_there(problems, algorithm: str, preset: str, message: str) -> None:
    text = TEXT.format(env="CartPole-v1", algorithm=algorithm, preset=preset)
    assert any(message in found.message for found in problems(text))


def test_what_is_told_of_one() -> None:
    data = read(CARTPOLE.encode(), "").data
    set_here, steps = told(data)
    assert set_here.startswith("CartPole-v1 of rl-zoo3 2.9.0a2 sets n_envs: 8, n_steps: 32")
    assert steps == "its numbers are for tasks of 100,000 steps; the longest here has 1,024"
    atari = {"agent": {"algorithm": "a2c", "preset": "atari", "ent_coef": 0.1}, "n_envs": 2}
    lines = told(atari)
    assert "yours stay: n_envs, ent_coef" in lines
    assert "not set by it: policy_kwargs: optimizer_class = RMSpropTFLike" in lines
    wrapper = "stable_baselines3.common.atari_wrappers:AtariWrapper"
    assert f"not set by it: in each task, wrappers: [{wrapper}, {{frame_stack: 4}}]" in lines
    assert told({"agent": {"algorithm": "ppo"}}) == []


def test_the_list_has_each_once() -> None:
    lines = listing.presets().splitlines()
    assert zoo()["commit"][:12] in lines[0]
    names = [line.split()[0] for line in lines[2:]]
    assert names == sorted({name for each in presets().values() for name in each})


def test_the_page_shows_what_the_command_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "presets.md").read_text("utf-8")
    name, text = re.findall(r"<!-- file: (\S+) -->\n```yaml\n(.*?)```", page, re.S)[0]
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text, "utf-8")
    shown = CliRunner().invoke(app, ["validate", name]).output
    assert f"$ holdfast validate {name}\n{shown}" in page


def test_the_file_is_what_the_zoo_has() -> None:
    """The writer reads forms of rl-zoo3 that no preset of ours need have."""
    sys.path.append(str(ROOT / "benchmarks"))
    try:
        from presets.zoo import preset
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    made = preset(
        {
            "n_timesteps": "1e6",
            "n_envs": 4,
            "learning_rate": "lin_3e-4",
            "clip_range": "2.5e-1",
            "normalize": "{'norm_obs': True, 'norm_reward': False}",
            "noise_type": "normal",
            "noise_std": 0.1,
            "policy_kwargs": "dict(net_arch=dict(pi=[8], qf=[16]), activation_fn=nn.ELU)",
        }
    )
    assert made == {
        "steps": 1_000_000,
        "n_envs": 4,
        "agent": {
            "learning_rate": {"linear": [0.0003, 0]},
            "clip_range": 0.25,
            "action_noise": {"normal": 0.1},
            "normalize": {"observations": "running"},
            "policy_kwargs": {"net_arch": {"pi": [8], "qf": [16]}, "activation": "elu"},
        },
    }
    assert preset({"env_wrapper": ["ae.wrapper.AutoencoderWrapper"], "n_timesteps": 1}) is None
