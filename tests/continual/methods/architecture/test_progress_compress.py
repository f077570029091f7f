"""Progress & Compress: a frozen knowledge base while learning, and how it is taught."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from all_doors import reader, rebuild
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from holdfast.continual.methods.architecture.progress_compress import (
    ProgressCompress,
    is_active,
    knowledge_base,
)
from holdfast.continual.methods.imitation import imitation_loss
from holdfast.errors import UsageError

WORLDS = ["ppo", "ppo-box", "dqn", "sac", "td3"]


def _build(**arguments: Any) -> Any:
    return lambda: [ProgressCompress(**({"updates": 3, "samples": 40} | arguments))]


@pytest.mark.parametrize("world", WORLDS)
def test_the_knowledge_base_is_frozen_while_the_active_column_learns(
    world: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[bool] = []
    compress = ProgressCompress.compress

    def spy(self: Any, module: Any, kept: Any, *rest: Any) -> Any:
        before = kept if not after else after[-1]
        shared = [n for n in kept if n != "log_std"]
        moved.append(not all(kept[n].equal(before[n]) for n in shared))
        after.append({n: t.clone() for n, t in compress(self, module, kept, *rest).items()})
        return after[-1]

    after: list[dict[str, Tensor]] = []
    monkeypatch.setattr(ProgressCompress, "compress", spy)
    agent = train(world, _build())
    assert moved == [False, False, False]
    kept = knowledge_base(agent.doors(ProgressCompress()))
    assert kept
    assert all(tensor.equal(after[-1][name]) for name, tensor in kept.items())
    assert not all(after[1][name].equal(after[0][name]) for name in kept)
    # The slowly moving copies feed their active columns from the same knowledge base.
    tensors = agent.policy.state_dict()
    for name, tensor in kept.items():
        owner, _, rest = name.partition(".")
        if f"{owner}_target.{rest}" in tensors:
            assert tensors[f"{owner}_target.{rest}"].equal(tensor)


@pytest.mark.parametrize("world", ["ppo-box", "sac", "dqn"])
def test_compressing_by_hand(world: str, train: Any) -> None:
    """Three steps of Adam on the divergence by torch.distributions and on the penalty."""
    agent = train(world, _build(), tasks=1)
    method = ProgressCompress(updates=3, batch_size=8, learning_rate=0.01, strength=5.0)
    module, kept = reader(agent), knowledge_base(agent.doors(ProgressCompress()))
    rng = np.random.default_rng(0)
    for name, tensor in kept.items():
        method.penalty.importance[name] = torch.as_tensor(rng.random(tensor.shape)).float()
        method.penalty.centre[name] = tensor + 0.1
    space = agent.policy.observation_space
    observations = torch.as_tensor(rng.normal(size=(20, *space.shape))).float()
    width = 2 if world == "dqn" else 1
    taught = {"mean": torch.as_tensor(rng.normal(size=(20, width))).float()}
    if world != "dqn":
        taught["log_std"] = torch.as_tensor(rng.normal(size=(20, width))).float()
    found = method.compress(module, kept, (observations, taught), np.random.default_rng(1))

    leaves = {name: tensor.clone().requires_grad_() for name, tensor in kept.items()}
    optimizer, draws = torch.optim.Adam(leaves.values(), lr=0.01), np.random.default_rng(1)
    for _ in range(3):
        rows = draws.integers(20, size=8)
        output = module.of(leaves, observations[rows])
        if world == "dqn":
            loss = 0.5 * (taught["mean"][rows] - output["mean"]).square().sum(-1).mean()
        else:
            teacher = Normal(taught["mean"][rows], taught["log_std"][rows].exp())
            student = Normal(output["mean"], output["log_std"].exp())
            loss = kl_divergence(teacher, student).sum(-1).mean()
        for name, leaf in leaves.items():
            gap = (leaf - method.penalty.centre[name]).square()
            loss = loss + 5.0 * (method.penalty.importance[name] * gap).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, leaf in leaves.items():
        torch.testing.assert_close(found[name], leaf.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("world", WORLDS)
def test_after_a_task_the_knowledge_base_acts_as_the_active_column_did(
    world: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 updates bring it near, and it is what acts: for this task and for earlier ones."""
    compress = ProgressCompress.compress
    gaps: list[tuple[float, float]] = []

    def spy(self: Any, module: Any, kept: Any, taught: Any, rng: Any) -> Any:
        after = compress(self, module, kept, taught, rng)
        before_and_after = (module.of(named, taught[0]) for named in (kept, after))
        spec = module.spec
        gaps.append(tuple(imitation_loss(spec, taught[1], o).item() for o in before_and_after))  # type: ignore[arg-type]  # two
        return after

    def look(agent: Any, experience: Any) -> None:
        batch = agent.memory.observations(40, np.random.default_rng(0))[""]
        starts, acted = np.ones(len(batch), dtype=bool), []
        for task in range(experience.task_index + 1):
            with agent.view(task) as act:
                acted.append(act(batch, None, starts, deterministic=True)[0])
        assert all(np.array_equal(actions, acted[0]) for actions in acted)
        assert {m.active for m in agent.policy.modules() if hasattr(m, "active")} == {0}

    monkeypatch.setattr(ProgressCompress, "compress", spy)
    build = _build(updates=400, learning_rate=3e-3, strength=0.0, samples=64, batch_size=32)
    train(world, build, tasks=2, watch=look)
    assert len(gaps) == 2
    assert all(after < 0.5 * before for before, after in gaps)


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo-box", "sac", "td3"])
@pytest.mark.parametrize("reset", [True, False])
def test_restarted_after_the_first_task_it_ends_the_same(
    world: str, reset: bool, train: Any, same: Any
) -> None:
    build = _build(reset=reset)
    same(train(world, build), train(world, build, restart_after=0))


@pytest.mark.parametrize("reset", [True, False])
def test_a_task_begins_with_a_new_active_column_or_the_old(reset: bool, train: Any) -> None:
    ends: list[dict[str, Tensor]] = []
    starts: list[dict[str, Tensor]] = []

    def look(agent: Any, experience: Any) -> None:
        ends.append({n: t.clone() for n, t in agent.policy.state_dict().items() if is_active(n)})
        method.pre_adapt(agent.doors(method), experience)  # and start the same task once more
        agent.start(experience)
        starts.append({n: t.clone() for n, t in agent.policy.state_dict().items() if is_active(n)})
        agent.close()

    (method,) = methods = _build(reset=reset)()
    train("ppo", lambda: methods, tasks=1, watch=look)
    assert ends[0]
    kept = [starts[0][name].equal(tensor) for name, tensor in ends[0].items()]
    assert not any(kept[:1]) if reset else all(kept)


def test_what_cannot_keep_a_knowledge_base_is_refused(make_scenario: Any) -> None:
    from holdfast.continual.training.preflight import build

    keys = {"agent": {"algorithm": "ppo"}, "carry": {"weights": False}}
    with pytest.raises(UsageError, match=r"remove carry\.weights: false"):
        build(make_scenario(methods=["progress-compress"], **keys))
    policy = torch.nn.Module()
    policy.features_extractor = torch.nn.Linear(2, 2)
    with pytest.raises(UsageError, match="vector observations"):
        rebuild(ProgressCompress(), policy)
