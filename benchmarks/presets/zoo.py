"""Write the presets of agents (``agent.preset``) from a checkout of rl-zoo3.

    python -m presets.zoo PATH/TO/rl-baselines3-zoo

What scenarios cannot say is named in ``left``, and nothing is left out in silence.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

TARGET = Path(__file__).parents[2] / "scenarios" / "checks" / "presets.yaml"
HEAD = """\
# Hyperparameters of rl-zoo3 (RL Baselines3 Zoo), by algorithm and environment; agent.preset sets
# them. Written by `python -m presets.zoo` in benchmarks/. steps: of training there; left: what is
# not set here.
"""

ALGORITHMS = {
    **{n: n for n in ("ppo", "a2c", "dqn", "qrdqn", "sac", "td3", "ddpg", "tqc", "trpo", "crossq")},
    "ppo_lstm": "recurrent_ppo",
}
KEPT = re.compile(
    "(CartPole|MountainCar(Continuous)?|Acrobot|Pendulum|BipedalWalker(Hardcore)?|CarRacing"
    "|LunarLander(Continuous)?|Ant|HalfCheetah|Hopper|Walker2d|Humanoid(Standup)?|Swimmer|Pusher"
    r"|Inverted(Double)?Pendulum|Reacher)-v\d+|atari"
)
_SAID = ("policy", "n_timesteps", "n_envs", "normalize", "policy_kwargs")
_NOISE = {"normal": "normal", "ornstein-uhlenbeck": "ornstein_uhlenbeck"}
_ATARI = "stable_baselines3.common.atari_wrappers"


def main(checkout: Path) -> None:
    """Write the file of presets."""
    commit = _git(checkout, "rev-parse", "HEAD").strip()
    version = _shown(checkout, "rl_zoo3/version.txt").strip()
    found: dict[str, Any] = {"source": f"rl-zoo3 {version}", "commit": commit}
    for file, algorithm in ALGORITHMS.items():
        given = yaml.safe_load(_shown(checkout, f"hyperparams/{file}.yml"))
        kept = {env: preset(each) for env, each in given.items() if KEPT.fullmatch(env)}
        found[algorithm] = {env: each for env, each in kept.items() if each is not None}
    text = yaml.dump(found, sort_keys=False, default_flow_style=None, width=110)
    TARGET.write_text(HEAD + text, "utf-8")


def preset(given: dict[str, Any]) -> dict[str, Any] | None:
    """Return a preset as scenarios say it; None where it sees what another network makes."""
    wrappers, left = given.get("env_wrapper", []), []
    if any("Autoencoder" in str(one) for one in wrappers):
        return None
    agent = {
        key: _value(value)
        for key, value in given.items()
        if key not in (*_SAID, "env_wrapper", "frame_stack", "noise_type", "noise_std")
    }
    if "noise_type" in given:
        agent["action_noise"] = {_NOISE[given["noise_type"]]: float(given["noise_std"])}
    if normal := given.get("normalize"):
        agent["normalize"] = _normalize(normal)
    if "policy_kwargs" in given:
        agent["policy_kwargs"], odd = _policy(given["policy_kwargs"])
        left += odd
        if not agent["policy_kwargs"]:
            del agent["policy_kwargs"]
    if wrappers or "frame_stack" in given:
        left.append(_wrapping(wrappers, given.get("frame_stack")))
    return {
        "steps": int(float(given["n_timesteps"])),
        "n_envs": int(given.get("n_envs", 1)),
        "agent": agent,
        **({"left": left} if left else {}),
    }


def _value(value: Any) -> Any:
    """Return a number, a schedule as ``{linear: [start, 0]}``, or what it is."""
    if isinstance(value, str) and value.startswith("lin_"):
        return {"linear": [float(value.removeprefix("lin_")), 0]}
    if isinstance(value, str) and re.fullmatch(r"[\d.]+(e-?\d+)?", value):
        return float(value)
    return int(value) if isinstance(value, float) and value.is_integer() and value > 1 else value


def _normalize(value: Any) -> dict[str, str]:
    """Return ``normalize:`` as VecNormalize has it: both, or what the text says."""
    told = {"norm_obs": True, "norm_reward": True}
    if isinstance(value, str):
        told |= ast.literal_eval(value)
    names = {"norm_obs": "observations", "norm_reward": "rewards"}
    return {names[key]: "running" for key, is_on in told.items() if is_on}


def _policy(text: str) -> tuple[dict[str, Any], list[str]]:
    """Return ``policy_kwargs`` as scenarios say them, and what they cannot say."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    found: dict[str, Any] = {}
    left: list[str] = []
    for keyword in call.keywords:
        name, value = str(keyword.arg), keyword.value
        if name == "activation_fn":
            found["activation"] = ast.unparse(value).rpartition(".")[2].lower()
        elif name in ("optimizer_class", "optimizer_kwargs"):
            left.append(f"policy_kwargs: {name} = {ast.unparse(value)}")
        elif isinstance(value, ast.Call):  # dict(pi=[...], vf=[...])
            found[name] = {str(k.arg): ast.literal_eval(k.value) for k in value.keywords}
        else:
            found[name] = ast.literal_eval(value)
    return found, left


def _wrapping(wrappers: list[Any], frames: int | None) -> str:
    """Return how tasks say the wrappers, or which they are."""
    named = [one if isinstance(one, str) else next(iter(one.items())) for one in wrappers]
    stack = [f"{{frame_stack: {frames}}}"] if frames else []
    if all(_ATARI in str(one) for one in named):
        shown = [n if isinstance(n, str) else f"{{{n[0]}: {n[1]}}}" for n in named]
        parts = [part.replace(f"{_ATARI}.", f"{_ATARI}:").replace("'", "") for part in shown]
        return f"in each task, wrappers: [{', '.join([*parts, *stack])}]".replace("False", "false")
    classes = [(n if isinstance(n, str) else n[0]).rpartition(".")[2] for n in named]
    return f"the wrappers {', '.join(classes)} of its environment, and {frames} frames stacked"


def _shown(checkout: Path, file: str) -> str:
    return _git(checkout, "show", f"HEAD:{file}")


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
