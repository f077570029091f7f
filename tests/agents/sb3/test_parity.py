"""One task, naive, task id hidden: bit for bit what plain Stable-Baselines3 gives."""

from pathlib import Path

import pytest
import stable_baselines3 as sb3
import torch
from safetensors.torch import load_file
from stable_baselines3.common.env_util import make_vec_env

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.training.cell import run_cell
from holdfast.scenarios.schema.scenario import Scenario

OFF_POLICY = {"learning_starts": 64, "buffer_size": 1000, "train_freq": 4}
CASES = {
    "ppo": (sb3.PPO, "CartPole-v1", {"n_steps": 64, "batch_size": 32}, 4, 1024),
    "a2c": (sb3.A2C, "CartPole-v1", {"n_steps": 8}, 2, 512),
    "dqn": (sb3.DQN, "CartPole-v1", OFF_POLICY | {"target_update_interval": 100}, 1, 512),
    "sac": (sb3.SAC, "Pendulum-v1", OFF_POLICY | {"gradient_steps": 2}, 2, 512),
    "td3": (sb3.TD3, "Pendulum-v1", OFF_POLICY, 1, 512),
}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "algorithm",
    [pytest.param(n, marks=[] if n in ("ppo", "sac") else pytest.mark.slow) for n in CASES],
)
def test_one_naive_task_equals_plain_stable_baselines3(algorithm: str, tmp_path: Path) -> None:
    model_class, env, arguments, n_envs, steps = CASES[algorithm]
    scenario = Scenario.model_validate(
        {
            "name": "parity",
            "tasks": [{"name": "only", "env": env, "steps": steps}],
            "stream": {"task_id": "hidden"},
            "n_envs": n_envs,
            "agent": {"algorithm": algorithm, **arguments},
            "seeds": [3],
            "evaluation": {"every": steps // 4, "episodes": 2, "deterministic": False},
        }
    )
    (folder,) = prepare(tmp_path, scenario)
    run_cell(folder, lambda progress: None)
    ours = load_file(folder.path / "checkpoints" / "task-0" / "policy.safetensors")

    plain = model_class("MlpPolicy", make_vec_env(env, n_envs=n_envs, seed=3), seed=3, **arguments)
    plain.set_logger(sb3.common.logger.Logger(None, []))
    plain.learn(steps)
    theirs = dict(plain.policy.state_dict())
    if algorithm == "sac":
        theirs["log_ent_coef"] = plain.log_ent_coef.detach()

    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
