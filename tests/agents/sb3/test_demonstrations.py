"""Demonstrations: files from elsewhere, the share of a batch, kills, Stable-Baselines3 beside."""

from __future__ import annotations

import pickle
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from kills import Kills, assert_unharmed, cell, silent, two_tasks
from safetensors.numpy import save
from safetensors.torch import load_file
from stable_baselines3 import DDPG, DQN, SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update

from holdfast.agents.base.demonstrations import content_of, mixing, read_demonstrations
from holdfast.agents.doors.shown_actions import distance
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.streams.task_stream import make_stream
from holdfast.continual.training.cell import run_cell
from holdfast.errors import CheckpointUnusable, ScenarioError, UsageError
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.scenario import Scenario

BOX, TORQUE = spaces.Box(-8, 8, (3,), np.float32), spaces.Box(-2, 2, (1,), np.float32)
OFF = {"learning_starts": 20, "batch_size": 8, "buffer_size": 100}
AGENT = {"algorithm": "sac", **OFF, "policy_kwargs": {"net_arch": [8]}}


def rows_of(count: int = 6, **more: Any) -> dict[str, Any]:
    """Return transitions of Pendulum-v1, and arrays in the place of some of them."""
    rng = np.random.default_rng(count)
    return {
        "observations": rng.normal(size=(count, 3)).astype(np.float32),
        "next_observations": rng.normal(size=(count, 3)).astype(np.float32),
        "actions": rng.uniform(-2, 2, (count, 1)).astype(np.float32),
        "rewards": rng.normal(size=count).astype(np.float32),
        "terminations": np.arange(count) == count - 1,
        "truncations": np.zeros(count, np.bool_),
    } | more


def written(place: Path, rows: dict[str, Any] | None = None) -> Path:
    path = place / "expert.safetensors"
    path.write_bytes(content_of(rows or rows_of(), {"task": "a"}))
    return path


# -- files from elsewhere --------------------------------------------------------------------------


def test_what_is_written_is_read_again_in_the_spaces_own_types(tmp_path: Path) -> None:
    wide = {n: a.astype(np.float64) for n, a in rows_of().items() if a.dtype == np.float32}
    found = read_demonstrations(written(tmp_path, rows_of() | wide), BOX, TORQUE)
    for name, values in rows_of().items():
        assert found.rows[name].dtype == values.dtype
        assert (found.rows[name] == values).all()
    assert len(found.digest) == 64


STRANGE: list[tuple[dict[str, Any], str]] = [
    ({"observations": np.zeros((6, 4), np.float32)}, r"observations is float32 of shape \(6, 4\)"),
    ({"observations": np.zeros((5, 3), np.float32)}, r"observations is float32 of shape \(5, 3\)"),
    ({"actions": np.full((6, 1), 2.5, np.float32)}, "actions has one outside of the task's space"),
    ({"actions": np.zeros((6, 1), np.bool_)}, "actions is bool of shape"),
    ({"rewards": np.full(6, np.nan, np.float32)}, "rewards has a number that is not finite"),
    ({"next_observations": np.full((6, 3), np.inf)}, "next_observations has a number that is not"),
    ({"rewards": np.zeros((6, 1), np.float32)}, r"rewards is float32 of shape \(6, 1\)"),
    ({"terminations": np.zeros(6)}, r"terminations is float64 of shape \(6,\)"),
    ({"costs": np.zeros(6)}, "has a strange array 'costs'"),
    (rows_of(0), "holds no transition"),
]


@pytest.mark.parametrize(("more", "message"), STRANGE)
def test_rows_that_are_not_the_tasks_are_refused(
    more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, rows_of(**more))
    with pytest.raises(UsageError, match=message):
        read_demonstrations(path, BOX, TORQUE)


def test_files_of_another_kind_are_refused_and_nothing_of_them_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    good = save(rows_of())
    lacking = {name: values for name, values in rows_of().items() if name != "truncations"}
    for content in (b"", good[:-1], good[:40], b"\xff" * 64, pickle.dumps(Evil()), save(lacking)):
        path = tmp_path / "evil.safetensors"
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"evil.safetensors: (holds no|has no array 'trunc)"):
            read_demonstrations(path, BOX, TORQUE)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UsageError, match="there is no such file"):
        read_demonstrations(tmp_path / "none.safetensors", BOX, TORQUE)
    with pytest.raises(CheckpointUnusable, match="is a folder"):
        read_demonstrations(tmp_path, BOX, TORQUE)


# -- in the stream's spaces, and in a batch --------------------------------------------------------


def stream_of(place: Path, task: dict[str, Any], rows: dict[str, Any], **more: Any) -> Any:
    task = {"name": "a", "steps": 64, **task, "demonstrations": {"data": str(written(place, rows))}}
    data = {"tasks": [task, *more.pop("others", ())], "agent": AGENT, **more}
    return make_stream(Scenario.model_validate(data), 0).train_stream


def test_the_task_id_stands_beside_what_is_shown(tmp_path: Path) -> None:
    other = {"name": "b", "env": "Pendulum-v1", "steps": 64}
    (first, second) = stream_of(tmp_path, {"env": "Pendulum-v1"}, rows_of(), others=[other])
    shown = first.demonstrations()
    assert shown.share == 0.5
    assert (shown.rows["observations"][:, :3] == rows_of()["observations"]).all()
    assert (shown.rows["next_observations"][:, 3:] == [1.0, 0.0]).all()
    assert second.demonstrations() is None


def test_shorter_observations_are_padded_and_actions_are_not(tmp_path: Path) -> None:
    other = {"name": "b", "env": "MountainCarContinuous-v0", "steps": 64}
    rows = rows_of(4, observations=np.ones((4, 2)), next_observations=np.ones((4, 2)))
    rows["actions"] = np.zeros((4, 1), np.float32)
    keys: dict[str, Any] = {"stream": {"task_id": "hidden"}, "spaces": {"observation": "pad"}}
    pendulum = {"name": "b", "env": "own_parts.buffers:Long", "steps": 64}
    (first, _) = stream_of(tmp_path, {"env": other["env"]}, rows, others=[pendulum], **keys)
    assert first.demonstrations().rows["observations"].tolist() == [[1.0, 1.0, 0.0]] * 4
    keys["spaces"] = {"observation": "pad", "action": "pad"}
    wide = {**pendulum, "env": "Pendulum-v1"}
    (first, _) = stream_of(tmp_path, {"env": other["env"]}, rows, others=[wide], **keys)
    with pytest.raises(UsageError, match="its actions are the task's own"):
        first.demonstrations()


def test_the_last_rows_of_a_batch_are_shown_ones() -> None:
    stored = {"actions": np.arange(5.0)[:, None], "rewards": np.arange(5.0)[:, None]}
    as_batch = lambda rows: {n: torch.as_tensor(v) for n, v in rows.items()}  # noqa: E731
    own = {name: torch.full((8, 1), -1.0) for name in stored}
    np.random.seed(3)
    drawn = np.random.randint(5, size=6)  # .75 of 8
    np.random.seed(3)
    mixed = mixing(stored, 0.75, as_batch)(own)
    assert mixed["rewards"].flatten().tolist() == [-1.0, -1.0, *drawn]
    assert torch.equal(mixed["actions"], mixed["rewards"])


class Beside(ReplayBuffer):
    """Half of each batch from arrays beside it, as a user of Stable-Baselines3 would write it."""

    shown: Any = None

    def sample(self, batch_size: int, env: Any = None) -> Any:
        own = super().sample(batch_size, env)
        rows = np.random.randint(6, size=batch_size // 2)
        given = rows_of()
        beside = [
            given["observations"][rows],
            given["actions"][rows] / 2,  # Pendulum's torque, -2..2, as the policy has it
            given["next_observations"][rows],
            given["terminations"][rows, None].astype(np.float32),
            given["rewards"][rows, None],
        ]
        half = batch_size - batch_size // 2
        pairs = zip(own, beside, strict=False)  # there are no discounts beside
        mixed = [torch.cat([a[:half], torch.as_tensor(b)]) for a, b in pairs]
        return ReplayBufferSamples(*mixed)


@pytest.mark.thorough
def test_one_task_is_that_of_stable_baselines3_bit_for_bit(tmp_path: Path) -> None:
    shown = {"data": str(written(tmp_path))}
    data = {
        "tasks": [{"name": "a", "env": "Pendulum-v1", "steps": 60, "demonstrations": shown}],
        "agent": AGENT,
        "stream": {"task_id": "hidden"},
        "evaluation": {"episodes": 1},
    }
    folder = cell(tmp_path, data)
    run_cell(folder, silent)
    keys = {**OFF, "policy_kwargs": {"net_arch": [8]}, "replay_buffer_class": Beside}
    model = SAC("MlpPolicy", make_vec_env("Pendulum-v1", 1, seed=0), seed=0, **keys)
    model.learn(60)
    saved = load_file(folder.path / "checkpoints/task-0/policy.safetensors")
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(saved[name], tensor), name


class Drawn(DDPG):
    """DDPG whose actor is drawn to demonstrations, as a user would write it into ``train``."""

    weight = 3.0

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size)
            with torch.no_grad():
                following = self.actor_target(batch.next_observations)
                # Its noise of targets has a deviation of .1, cut at 0: it is drawn, and is none.
                batch.actions.clone().data.normal_(0, self.target_policy_noise)
                (value,) = self.critic_target(batch.next_observations, following)
                wanted = batch.rewards + (1 - batch.dones) * self.gamma * value
            (value,) = self.critic(batch.observations, batch.actions)
            self.critic.optimizer.zero_grad()
            torch.nn.functional.mse_loss(value, wanted).backward()
            self.critic.optimizer.step()
            rows = np.random.randint(6, size=batch_size)
            seen = torch.as_tensor(rows_of()["observations"][rows])
            done = torch.as_tensor(rows_of()["actions"][rows] / 2)
            loss = -self.critic.q1_forward(batch.observations, self.actor(batch.observations))
            away = (self.actor(seen) - done).square().sum(1)
            self.actor.optimizer.zero_grad()
            (loss.mean() + self.weight * away.mean()).backward()
            self.actor.optimizer.step()
            polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
            polyak_update(self.actor.parameters(), self.actor_target.parameters(), self.tau)


def assert_drawn_alike(
    place: Path, kind: Any, world: str, steps: int, agent: dict[str, Any], shown: dict[str, Any]
) -> None:
    """Hold a cell's weights to those of a peer of some kind, up to rounding; both have moved.

    Two gradients are added there, and one of a sum is taken here.
    """
    task = {"name": "a", "env": world, "steps": steps, "demonstrations": shown}
    data = {
        "tasks": [task],
        "agent": agent,
        "stream": {"task_id": "hidden"},
        "evaluation": {"episodes": 1},
    }
    folder = cell(place, data)
    run_cell(folder, silent)
    given = {key: agent[key] for key in agent.keys() - {"algorithm", "engine"}}
    peer = kind("MlpPolicy", make_vec_env(world, 1, seed=0), seed=0, **given)
    before = {name: tensor.clone() for name, tensor in peer.policy.state_dict().items()}
    peer.learn(steps)
    saved = load_file(folder.path / "checkpoints/task-0/policy.safetensors")
    moved = 0.0
    for name, tensor in peer.policy.state_dict().items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-4, atol=1e-5)
        moved = max(moved, float((tensor - before[name]).abs().max()))
    assert moved > 0.01


@pytest.mark.thorough
@pytest.mark.parametrize("engine", ["sb3", "compiled"])
def test_the_policy_is_drawn_to_what_was_done(engine: str, tmp_path: Path) -> None:
    shown = {"data": str(written(tmp_path)), "share": 0.0, "cloning": Drawn.weight}
    given = {**OFF, "policy_kwargs": {"net_arch": [8]}}
    agent = {"algorithm": "ddpg", **given, "engine": engine}
    assert_drawn_alike(tmp_path, Drawn, "Pendulum-v1", 60, agent, shown)


class Margined(DQN):
    """DQN with the large margin of DQfD beside its loss, as a user would write it."""

    weight = 2.0

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size)
            with torch.no_grad():
                following = self.q_net_target(batch.next_observations).max(dim=1, keepdim=True)
                wanted = batch.rewards + (1 - batch.dones) * self.gamma * following.values
            value = self.q_net(batch.observations).gather(1, batch.actions.long())
            loss = torch.nn.functional.smooth_l1_loss(value, wanted)
            rows = np.random.randint(6, size=batch_size)
            shown = torch.as_tensor(pole_rows()["actions"][rows])[:, None]
            values = self.q_net(torch.as_tensor(pole_rows()["observations"][rows]))
            above = torch.full_like(values, 0.8).scatter(1, shown, 0.0)
            lacking = (values + above).max(dim=1).values - values.gather(1, shown)[:, 0]
            self.policy.optimizer.zero_grad()
            (loss + self.weight * lacking.mean()).backward()
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()


def pole_rows() -> dict[str, Any]:
    """Return transitions of CartPole-v1."""
    rng = np.random.default_rng(1)
    seen = {
        name: rng.normal(size=(6, 4)).astype(np.float32)
        for name in ("observations", "next_observations")
    }
    return rows_of(6, **seen, actions=np.arange(6) % 2)


@pytest.mark.thorough
@pytest.mark.parametrize("engine", ["sb3", "compiled"])
def test_values_are_drawn_to_what_was_done(engine: str, tmp_path: Path) -> None:
    shown = {"data": str(written(tmp_path, pole_rows())), "share": 0.0, "cloning": Margined.weight}
    given = {**OFF, "learning_rate": 1e-3, "policy_kwargs": {"net_arch": [8]}}
    agent = {"algorithm": "dqn", **given, "engine": engine}
    assert_drawn_alike(tmp_path, Margined, "CartPole-v1", 120, agent, shown)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "engine"),
    [
        *product(("sac", "tqc", "td3", "dqn", "qrdqn"), ("sb3", "compiled")),
        ("crossq", "sb3"),  # compiled refuses batch norm
    ],
)
def test_every_algorithm_comes_nearer_to_what_was_done(
    algorithm: str, engine: str, tmp_path: Path
) -> None:
    """By the measure of the loss itself, beside the same run without it."""
    is_discrete = algorithm in ("dqn", "qrdqn")
    rows, env = (pole_rows(), "CartPole-v1") if is_discrete else (rows_of(), "Pendulum-v1")
    away = {}
    for weight in (0.0, 20.0):
        shown = {"data": str(written(tmp_path, rows)), "share": 0.5, "cloning": weight}
        agent = {"algorithm": algorithm, **OFF, "policy_kwargs": {"net_arch": [16]}}
        agent |= {"train_freq": 1} if is_discrete else {}  # theirs are 4
        data = {
            "tasks": [{"name": "a", "env": env, "steps": 400, "demonstrations": shown}],
            "agent": {**agent, "learning_rate": 3e-3, "engine": engine},
            "evaluation": {"episodes": 1},
            "stream": {"task_id": "hidden"},
        }
        folder = cell(tmp_path / str(weight), data)
        run_cell(folder, silent)
        learned = kind_of(folder.scenario).restore(folder, 0).agent
        seen = learned.policy_input({"": rows["observations"]})
        done = rows["actions"] if is_discrete else rows["actions"] / 2
        with torch.no_grad():
            said = learned.output()(seen)
        away[weight] = distance(said, torch.as_tensor(done.reshape(6, -1))).item()
    assert away[20.0] < 0.5 * away[0.0], away


def shown_twice(place: Path, method: Any = "naive", **more: Any) -> dict[str, Any]:
    data = two_tasks({**AGENT, "train_freq": 5, **more}, method)
    for task in data["tasks"]:
        task["demonstrations"] = {"data": str(written(place)), "share": 0.25, "cloning": 0.5}
    return data


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sb3", "compiled"])
def test_killed_inside_tasks_and_run_again_equals_uninterrupted(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With replay, which takes other rows of the same batches."""
    data = shown_twice(tmp_path, "replay", engine=engine, normalize={"observations": "running"})
    kills = assert_unharmed(monkeypatch, tmp_path, data, [70, 150, 250])
    assert kills.begun[1] > 1  # inside the first task


@pytest.mark.slow
def test_a_task_does_not_go_on_with_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cell(tmp_path / "runs", shown_twice(tmp_path))
    with monkeypatch.context() as inner:
        Kills(inner, [120]).attempt(folder)
    written(tmp_path, rows_of(7))
    with pytest.raises(CheckpointUnusable, match="began with other demonstrations than the file"):
        run_cell(folder, silent)


# -- what is refused -------------------------------------------------------------------------------


SCENARIO = """\
tasks:
  - name: a
    env: {env}
    steps: 64
    demonstrations: {{data: {data}}}
agent: {{algorithm: {algorithm}{more}}}
"""


def refusal(place: Path, **given: str) -> str:
    path = place / "s.yaml"
    keys = {"env": "Pendulum-v1", "algorithm": "sac", "more": "", "data": "expert.safetensors"}
    path.write_text(SCENARIO.format(**keys | given))
    with pytest.raises(ScenarioError) as raised:
        load(path)
    assert len(raised.value.problems) == 1
    return str(raised.value)


def test_who_cannot_be_shown_anything_is_told(tmp_path: Path) -> None:
    written(tmp_path)
    assert "'ppo' learns from rollouts of its own" in refusal(tmp_path, algorithm="ppo")
    hidden = "}\nstream: {boundaries: hidden"
    assert "boundaries are hidden, and is shown nothing" in refusal(tmp_path, more=hidden)
    assert "there is no '" in refusal(tmp_path, data="other.safetensors")


def test_what_shows_nothing_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    nothing = "expert.safetensors, share: 0"
    assert "a share of 0 without cloning: shows nothing" in refusal(tmp_path, data=nothing)


def test_a_file_of_other_spaces_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    from holdfast import run

    written(tmp_path, rows_of(observations=np.zeros((6, 5), np.float32)))
    path = tmp_path / "s.yaml"
    keys = {"env": "Pendulum-v1", "algorithm": "sac", "data": "expert.safetensors"}
    path.write_text(SCENARIO.format(more=", buffer_size: 100", **keys))
    with pytest.raises(ScenarioError, match=r"observations is float32 of shape \(6, 5\), and the"):
        run(load(path), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
