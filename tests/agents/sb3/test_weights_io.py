"""What a task start carries: weights by name, the optimizer, the replay buffer, a zip's weights."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import stable_baselines3 as sb3
import torch
from all_doors import every_door

from holdfast.agents.sb3 import weights_io
from holdfast.agents.sb3.weights_io import load_policy, read_zip
from holdfast.errors import UsageError

SAC = {"algorithm": "sac", "learning_starts": 16, "buffer_size": 200, "batch_size": 16}


def _learn(agent: Any, experience: Any) -> None:
    agent.start(experience)
    agent.learn(experience, lambda step: None, lambda scalars, step: None)


@pytest.mark.thorough
@pytest.mark.parametrize("carried", [False, True])
def test_weights_are_carried_and_the_rest_starts_anew(make_agent: Any, carried: bool) -> None:
    """As Continual World, a task learns an entropy coefficient of its own, from log(1) on."""
    carry = {"carry": {"entropy_coefficient": True}} if carried else {}
    agent, (first, second) = make_agent(SAC, "Pendulum-v1", **carry)
    _learn(agent, first)
    before, old = agent.files()["policy"], agent.model
    agent.start(second)
    assert agent.model is not old
    after = agent.files()["policy"]
    assert before.keys() == after.keys()
    learned = before.pop("log_ent_coef").item()
    assert learned != 0.0
    assert after.pop("log_ent_coef").item() == (learned if carried else 0.0)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert agent.model.replay_buffer.size() == 0
    assert not agent.policy.actor.optimizer.state
    agent.close()


@pytest.mark.thorough
def test_a_task_that_comes_again_goes_on_with_its_own_entropy_coefficient(make_agent: Any) -> None:
    """Continual World has one per task; a checkpoint after each task brings them all back."""
    keys = {"carry": {"entropy_coefficient": "per_task"}, "stream": {"repeat": 2}}
    agent, stages = make_agent(SAC, "Pendulum-v1", **keys)
    ends: list[float] = []
    for stage in stages:
        if stage.stage:
            files = agent.files()
            agent, _ = make_agent(SAC, "Pendulum-v1", **keys)
            agent.load_files(files)
        agent.start(stage)
        begins = agent.model.log_ent_coef.item()
        assert begins == (0.0 if stage.stage < 2 else ends[stage.stage - 2])
        agent.learn(stage, lambda step: None, lambda scalars, step: None)
        ends.append(agent.model.log_ent_coef.item())
    assert len(set(ends)) == 4
    agent.close()


@pytest.mark.thorough
def test_the_entropy_coefficient_is_carried_without_weights(make_agent: Any) -> None:
    carry = {"weights": False, "entropy_coefficient": True}
    agent, (first, second) = make_agent(SAC, "Pendulum-v1", carry=carry)
    _learn(agent, first)
    learned = agent.model.log_ent_coef.item()
    agent.start(second)
    assert agent.model.log_ent_coef.item() == learned != 0.0
    agent.close()


@pytest.mark.thorough
def test_optimizer_and_replay_buffer_are_carried_where_the_scenario_says_so(
    make_agent: Any,
) -> None:
    carry = {"carry": {"optimizer": True, "replay_buffer": True}}
    agent, (first, second) = make_agent(SAC, "Pendulum-v1", **carry)
    _learn(agent, first)
    old = agent.model
    agent.start(second)
    buffer = agent.model.replay_buffer
    assert buffer is not old.replay_buffer
    assert buffer.size() == 64
    assert (buffer.observations[:64] == old.replay_buffer.observations[:64]).all()
    for owner in ("actor", "critic"):
        mine, theirs = (
            list(getattr(model.policy, owner).optimizer.state.values())
            for model in (agent.model, old)
        )
        assert mine
        for a, b in zip(mine, theirs, strict=True):
            assert torch.equal(a["exp_avg"], b["exp_avg"])
            assert a["step"] == b["step"]
            assert a["exp_avg"] is not b["exp_avg"]
    agent.close()


@pytest.mark.thorough
@pytest.mark.parametrize("coefficient", [False, "per_task", True])
def test_moments_of_the_entropy_coefficient_are_carried_with_it_alone(
    make_agent: Any, coefficient: bool | str
) -> None:
    """Adam's first step from no moments is the learning rate, whatever the gradient."""
    carry = {"optimizer": True, "entropy_coefficient": coefficient}
    agent, (first, second) = make_agent(SAC, "Pendulum-v1", carry=carry)
    _learn(agent, first)
    (old,) = agent.model.ent_coef_optimizer.state.values()
    agent.start(second)
    coefficients, optimizer = agent.model.log_ent_coef, agent.model.ent_coef_optimizer
    assert agent.policy.actor.optimizer.state
    if coefficient is True:
        (new,) = optimizer.state.values()
        assert old["step"] == new["step"] > 0
        assert torch.equal(old["exp_avg"], new["exp_avg"])
    else:
        coefficients.grad = torch.full_like(coefficients, 1e-3)
        optimizer.step()
        assert coefficients.item() == pytest.approx(-3e-4, rel=1e-4)
    agent.close()


@pytest.mark.thorough
def test_nothing_is_carried_where_weights_are_not(make_agent: Any) -> None:
    agent, (first, second) = make_agent(SAC, "Pendulum-v1", carry={"weights": False})
    _learn(agent, first)
    before = agent.files()["policy"]
    agent.start(second)
    assert not torch.equal(before["actor.mu.weight"], agent.files()["policy"]["actor.mu.weight"])
    agent.close()


def test_a_zip_gives_its_weights(make_agent: Any, tmp_path: Path) -> None:
    hidden = {"stream": {"task_id": "hidden"}}
    agent, (first, _) = make_agent(SAC, "Pendulum-v1", **hidden)
    plain = sb3.SAC("MlpPolicy", "Pendulum-v1", seed=7, buffer_size=10)
    plain.save(tmp_path / "plain.zip")
    agent.initial = read_zip(tmp_path / "plain.zip")
    agent.start(first)
    for name, tensor in plain.policy.state_dict().items():
        assert torch.equal(agent.policy.state_dict()[name], tensor), name
    agent.close()


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


def test_a_zip_with_code_inside_does_not_run_it(tmp_path: Path) -> None:
    """The ``data`` member is never read, a pickled ``policy.pth`` is refused."""
    plain = sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8)
    plain.save(tmp_path / "plain.zip")
    marker = tmp_path / "pickle-ran"
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(tmp_path / "plain.zip") as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            bad = member == "policy.pth"
            target.writestr(member, pickle.dumps(_Bomb(marker)) if bad else source.read(member))
    with pytest.raises(UsageError, match=r"evil\.zip: .* zip: member policy\.pth: "):
        read_zip(path)
    assert not marker.exists()


def test_a_pickle_in_another_member_is_never_read(tmp_path: Path) -> None:
    sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).save(tmp_path / "plain.zip")
    marker, path = tmp_path / "pickle-ran", tmp_path / "evil.zip"
    with zipfile.ZipFile(tmp_path / "plain.zip") as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            is_left = member == "policy.pth"
            target.writestr(member, source.read(member) if is_left else pickle.dumps(_Bomb(marker)))
        target.writestr("other.pth", pickle.dumps(_Bomb(marker)))
    if "pytorch_variables.pth" in zipfile.ZipFile(path).namelist():
        with pytest.raises(UsageError, match=r"member pytorch_variables\.pth"):
            read_zip(path)
    else:
        assert "policy" in read_zip(path)
    assert not marker.exists()


def _with_member(path: Path, name: str, size: int = 1) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(name, b"\0" * size)


def _bomb_inside(path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("archive/data.pkl", b"\0" * 5_000_000)
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("policy.pth", inner.getvalue())


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: _with_member(path, "../../evil.pth"), r"member '\.\./\.\./evil\.pth'"),
        (lambda path: _with_member(path, "/etc/evil.pth"), "member '/etc/evil.pth'"),
        (lambda path: _with_member(path, "C:/evil.pth"), "member 'C:/evil.pth'"),
        (lambda path: _with_member(path, "huge.pth", 3_000_000), r"'huge\.pth' alone 3,000,000"),
        (_bomb_inside, r"member policy\.pth: it is compressed"),
        (lambda path: path.write_bytes(b"PK"), "not a Stable-Baselines3 zip"),
        (lambda path: _with_member(path, "other.pth"), r"has no member policy\.pth"),
    ],
)
def test_a_zip_that_is_no_model_is_refused_by_its_member(
    write: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_io, "MOST_BYTES", 2_000_000)
    write(tmp_path / "evil.zip")
    with pytest.raises(UsageError, match=told):
        read_zip(tmp_path / "evil.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.zip"]


def test_weights_of_other_networks_are_refused_by_name(make_agent: Any) -> None:
    agent, (first, _) = make_agent(SAC, "Pendulum-v1")
    agent.start(first)
    wrong = {"actor.mu.weight": torch.zeros(3, 3), "actor.nowhere": torch.zeros(1)}
    with pytest.raises(UsageError, match=r"actor\.mu\.weight \(3, 3\), here \(1, 256\)"):
        load_policy(agent.model, wrong, lambda name: False)
    agent.close()


@pytest.mark.thorough
@pytest.mark.parametrize("fresh", [True, False])
def test_initial_weights_are_where_a_fresh_task_starts(make_agent: Any, fresh: bool) -> None:
    carry = {"carry": {"entropy_coefficient": True}}
    agent, (first, second) = make_agent(SAC, "Pendulum-v1", **carry)
    agent.start(first)
    initial = agent.files()
    agent.close()
    agent.model, agent.initial = None, initial
    _learn(agent, first)
    learned = agent.files()["policy"]
    if fresh:
        every_door(agent).lifecycle.start_fresh()
    agent.start(second)
    expected = initial["policy"] if fresh else learned
    found = agent.files()["policy"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(learned["actor.mu.weight"], initial["policy"]["actor.mu.weight"])
    agent.close()
