"""Checkpoints inside tasks: a cell that is killed anywhere equals one that never was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kills import Kills, assert_unharmed, two_tasks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.cells import find_cells
from holdfast.continual.run_folder.record import RunFolder
from holdfast.scenarios.load import load

NETS = {"policy_kwargs": {"net_arch": [16]}}
PPO = {"algorithm": "ppo", "n_steps": 16, "batch_size": 16, "n_epochs": 2, **NETS}
OFF = {"learning_starts": 16, "batch_size": 16, "buffer_size": 100, **NETS}
SAC = {"algorithm": "sac", "train_freq": 2, **OFF}


@pytest.mark.thorough
@pytest.mark.parametrize("agent", [PPO, SAC], ids=lambda agent: agent["algorithm"])
def test_killed_anywhere_equals_never_killed(
    agent: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = assert_unharmed(monkeypatch, tmp_path, two_tasks(agent), [70, 140, 150, 240, 310])
    assert kills.begun[0] == 1
    assert kills.begun[1] > 1  # inside the first task
    assert kills.begun[-1] > 160 + 48


LONG = """\
tasks: [{name: long, env: CartPole-v1, steps: 250_000}]
agent: {algorithm: ppo, n_steps: 1000, batch_size: 1000, n_epochs: 1}
evaluation: {episodes: 1}
"""


@pytest.mark.slow
def test_fault_48_by_default_a_long_task_goes_on_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nobody has asked for it: every 25,000 steps."""
    (tmp_path / "long.yaml").write_text(LONG, "utf-8")
    (folder,) = prepare(tmp_path / "runs", load(tmp_path / "long.yaml"))
    kills = Kills(monkeypatch, [27_000])
    kills.attempt(folder)
    kills.left = [1]  # as soon as it goes on
    kills.attempt(folder)
    assert kills.begun[0] == 1
    assert kills.begun[1] > 25_000


def scalars(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows, but of times."""
    view = EventAccumulator(str(folder.path / "tb"), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in view.Tags()["scalars"] if not tag.startswith(("time/", "system/"))]
    return {tag: [(event.step, event.value) for event in view.Scalars(tag)] for tag in tags}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("agent", "method"),
    [(PPO, "hat"), pytest.param(SAC, "replay", marks=pytest.mark.slow)],
    ids=["ppo", "sac"],
)
def test_tensorboard_shows_every_number_once(
    agent: dict[str, Any], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = two_tasks(agent, (ON_POLICY | OFF_POLICY)[method], **OF_METHODS)
    assert_unharmed(monkeypatch, tmp_path, data, [70, 150, 215, 255, 310])
    shown = [scalars(find_cells(tmp_path / side / "demo")[0]) for side in ("straight", "killed")]
    assert len(shown[0]) > 10
    assert shown[0] == shown[1]


METHODS: dict[str, Any] = {
    "naive": "naive",
    "isolated": "isolated",
    "joint": "joint",
    "frozen": "frozen",
    "ewc": {"ewc": {"samples": 40}},
    "l2": "l2",
    "l2-init": "l2-init",
    "si": "si",
    "mas": {"mas": {"samples": 40}},
    "rwalk": {"rwalk": {"interval": 7}},
    "vcl": "vcl",
    "distillation": {"distillation": {"batch_size": 8}},
    "cloning": {"cloning": {"samples": 40, "batch_size": 8}},
    "er-ace": {"er-ace": {"samples": 40, "batch_size": 8}},
    "generative-replay": {
        "generative-replay": {"samples": 40, "draws": 30, "updates": 3, "batch_size": 8}
    },
    "agem": {"agem": {"samples": 40, "batch_size": 8}},
    "gem": {"gem": {"samples": 40, "batch_size": 8}},
    "pcgrad": {"pcgrad": {"samples": 40, "batch_size": 8}},
    "redo": {"redo": {"period": 7, "tau": 0.5, "samples": 8}},
    "continual-backprop": {
        "continual-backprop": {"maturity": 5, "replacement_rate": 0.02, "samples": 8}
    },
    "shrink-perturb": {"shrink-perturb": {"period": 7}},
    "parseval": "parseval",
    "weight-clipping": {"weight-clipping": {"kappa": 0.7}},
    "c-chain": {"c-chain": {"warmup": 3, "batch_size": 8, "window": 4}},
    "trac": {"trac": {"scale": 0.1}},
    "upgd": {"upgd": {"beta": 0.9, "sigma": 0.5}},
    "spectral": {"spectral": {"strength": 0.1}},
    "cpr": {"cpr": {"replacement_rate": 0.5, "period": 7}},
    "reptile": "reptile",
    "fire": "fire",
    "reset-distill": {
        "reset-distill": {"samples": 40, "observations": 40, "updates": 3, "batch_size": 8}
    },
    # Of 160 steps 32 are of each of two trials: one of the kills is inside the second.
    "fame": {"fame": {"samples": 40, "updates": 3, "batch_size": 8, "trial_share": 0.2}},
    "packnet": "packnet",
    "hat": "hat",
    "progressive": "progressive",
    "componet": "componet",
    "cka-rl": "cka-rl",
    "progress-compress": {"progress-compress": {"samples": 40, "updates": 3, "batch_size": 8}},
    "expandable": {"expandable": {"samples": 40, "threshold": 1e9, "patience": 0.4}},
    "ewc and packnet": ["packnet", {"cloning": {"samples": 40, "batch_size": 8}}, "l2-init"],
}
ON_POLICY = METHODS | {"clear": {"clear": {"samples": 60, "unroll": 5}}}
OFF_POLICY = METHODS | {
    "replay": {"replay": {"samples": 30}},
    "coverage": {"replay": {"samples": 30, "strategy": "coverage"}},
    "perfect-memory": "perfect-memory",
    "exploring": {"cloning": {"samples": 40, "batch_size": 8, "exploration_steps": 60}},
}
OF_METHODS = {"stream": {"task_count": "known"}, "score": {"random": 0.0, "reference": 500.0}}


FAST = ("cloning",)
COSTLY = [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in ON_POLICY]


@pytest.mark.thorough
@pytest.mark.parametrize("method", COSTLY)
def test_method_on_policy(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = two_tasks(PPO, ON_POLICY[method], **OF_METHODS)
    assert_unharmed(monkeypatch, tmp_path, data, [70, 150, 215, 255, 310])


@pytest.mark.slow
@pytest.mark.parametrize("method", OFF_POLICY)
def test_method_off_policy(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = SAC | ({"buffer_size": 200} if method == "perfect-memory" else {})
    data = two_tasks(agent, OFF_POLICY[method], **OF_METHODS)
    assert_unharmed(monkeypatch, tmp_path, data, [70, 150, 215, 255, 310])


@pytest.mark.thorough
@pytest.mark.parametrize("first_task_kl", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("agent", [PPO, pytest.param(SAC, marks=pytest.mark.slow)])
def test_vcl_with_a_head_per_task(
    agent: dict[str, Any], first_task_kl: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = {"vcl": {"first_task_kl": first_task_kl}}
    data = two_tasks(agent, method, stream={"task_id": "heads", "task_count": "known"})
    assert_unharmed(monkeypatch, tmp_path, data, [70, 150, 215, 255, 310])


A2C = {"algorithm": "a2c", "n_steps": 16, **NETS}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "a2c": A2C,
    "a2c sde": A2C | {"env": "Pendulum-v1", "use_sde": True},
    "ppo box": PPO | {"env": "Pendulum-v1", "learning_rate": {"linear": [1e-3, 0]}},
    "ppo n_envs": PPO | {"n_envs": 2},
    "ppo normalize": PPO | {"normalize": {"observations": "running", "rewards": "running"}},
    "recurrent_ppo": PPO
    | {"algorithm": "recurrent_ppo", "policy_kwargs": {"lstm_hidden_size": 8, "net_arch": [8]}},
    "trpo": {"algorithm": "trpo", "n_steps": 16, "batch_size": 16, **NETS},
    "dqn": {"algorithm": "dqn", **OFF, "target_update_interval": 20, "train_freq": 3},
    "dqn n_envs": {"algorithm": "dqn", **OFF, "n_envs": 2},
    "qrdqn": {"algorithm": "qrdqn", **OFF, "target_update_interval": 20},
    "td3 noise": {"algorithm": "td3", **OFF, "action_noise": {"ornstein_uhlenbeck": 0.2}},
    "td3 n_envs": {
        "algorithm": "td3",
        **OFF,
        "n_envs": 2,
        "action_noise": {"ornstein_uhlenbeck": 0.2},
    },
    "ddpg": {"algorithm": "ddpg", **OFF, "train_freq": 2},
    "tqc": {"algorithm": "tqc", **OFF, "train_freq": 4},
    "crossq": {"algorithm": "crossq", **OFF, "train_freq": 2},
    "sac normalize": SAC | {"normalize": {"observations": "first_task", "rewards": "per_task"}},
    "sac sde": SAC | {"use_sde": True},
    "sac n steps": SAC | {"n_steps": 3, "n_envs": 2},
}
QUICK = ("dqn",)
EACH = [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in ALGORITHMS]


@pytest.mark.thorough
@pytest.mark.parametrize("name", EACH)
def test_algorithm(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = dict(ALGORITHMS[name])
    n_envs, env = agent.pop("n_envs", 1), agent.pop("env", None)
    data = two_tasks(agent, n_envs=n_envs)
    if env is not None:
        data["tasks"] = [task | {"env": env} for task in data["tasks"]]
    if not name.startswith("dqn"):
        data["carry"] = {"optimizer": True}
    assert_unharmed(monkeypatch, tmp_path, data, [70, 140, 150, 240, 310])


@pytest.mark.parametrize("boundaries", ["known", "hidden"])
@pytest.mark.slow
def test_carried_buffer_and_heads(
    boundaries: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ring of 100 rows is carried into the second task, and wraps round in both."""
    given = {"boundaries": boundaries, "task_id": "heads" if boundaries == "known" else "hidden"}
    carry = {"replay_buffer": True, "optimizer": True}
    data = two_tasks(SAC, stream=given, carry=carry)
    assert_unharmed(monkeypatch, tmp_path, data, [70, 140, 150, 240, 310])
