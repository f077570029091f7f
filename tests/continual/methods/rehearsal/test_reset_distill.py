"""Reset & Distill: its loss by torch.distributions, a new agent per task, one actor for all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from double import Linear, kl_of

from holdfast.agents.base.parameters import named_parameters
from holdfast.agents.doors.outputs import divergence
from holdfast.continual.methods.plasticity.cpr import CPR
from holdfast.continual.methods.plasticity.spectral import Spectral
from holdfast.continual.methods.references.isolated import Isolated
from holdfast.continual.methods.rehearsal.reset_distill import ResetDistill

FEW: dict[str, Any] = {"samples": 32, "observations": 64, "batch_size": 16, "updates": 8}


@pytest.mark.parametrize("kind", Linear.names)
def test_the_gradient_is_autograds_of_both_divergences(kind: str) -> None:
    """KL(online || offline) and, the other way round, KL(offline || stored)."""
    output: Any = Linear(kind)
    rng = np.random.default_rng(0)
    teacher, old, tensors = (
        {n: torch.as_tensor(rng.normal(size=(4, 3))) for n in output.names[kind]} for _ in range(3)
    )
    now, then = torch.as_tensor(rng.normal(size=(2, 12, 4)))
    taught, stored = output.of(teacher, now), output.of(old, then)
    method = ResetDistill(strength=0.7)
    found = method.gradient(output, tensors, (now, taught), (then, stored))
    leaves = {n: t.clone().requires_grad_() for n, t in tensors.items()}
    loss = kl_of(taught, output.of(leaves, now))
    loss = loss + 0.7 * kl_of(output.of(leaves, then), stored)
    expected = torch.autograd.grad(loss, list(leaves.values()))
    for one, other in zip(found.values(), expected, strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_by_hand() -> None:
    """Unit Gaussians: d/dw of (w - 0)^2 / 2 + .5 (w - 1)^2 / 2 at 2."""
    output: Any = Linear("unit_gaussian")
    seen, mean = torch.ones(3, 1), torch.full((3, 1), 1.0)
    method, tensors = ResetDistill(strength=0.5), {"mean": torch.tensor([[2.0]])}
    now, then = (seen, {"mean": 0 * mean}), (seen, {"mean": mean})
    assert method.gradient(output, tensors, now, then)["mean"].item() == pytest.approx(2.0 + 0.5)
    assert method.gradient(output, tensors, now, None)["mean"].item() == pytest.approx(2.0)


@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_every_task_is_learned_as_by_an_agent_of_its_own(world: str, train: Any) -> None:
    """What is not distilled, and the whole first agent, is isolated's, bit for bit."""
    seen: dict[str, list[dict[str, torch.Tensor]]] = {"isolated": [], "ours": []}
    for name, build in (("isolated", Isolated), ("ours", lambda: ResetDistill(**FEW))):

        def watch(agent: Any, _: Any, name: str = name) -> None:
            seen[name].append({n: t.clone() for n, t in agent.policy.state_dict().items()})

        agent = train(world, lambda build=build: [build()], tasks=3, watch=watch)
    acting = set(named_parameters(agent.policy, "actor", "encoder"))
    acting |= {f"q_net_target.{name.removeprefix('q_net.')}" for name in acting}
    firsts = zip(seen["isolated"][0].items(), seen["ours"][0].values(), strict=True)
    assert all(torch.equal(one, other) for (_, one), other in firsts)
    for one, other in zip(seen["isolated"], seen["ours"], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one.keys() - acting)
    assert any(
        not torch.equal(seen["isolated"][2][n], seen["ours"][2][n]) for n in acting & one.keys()
    )


class Compared(ResetDistill):
    """Compares the offline actor, before and after it is taught, with what it shall say."""

    def _distilled(self, doors: Any, seen: Any, rng: Any) -> Any:
        output, taught = doors.output.actor, doors.memory.policy_input(seen)
        old = self.stored.draw(doors, np.random.default_rng(0), 64)
        assert old is not None
        with torch.no_grad():
            said = output.of({}, taught)
        after = super()._distilled(doors, seen, rng)
        with torch.no_grad():
            self.new = [
                float(divergence(output.spec, said, output.of(tensors, taught)).mean())
                for tensors in (self.offline.tensors, after)
            ]
            now = output.of(after, old["seen"])
            self.old = float(divergence(output.spec, old["labels"], now).mean())
        return after


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_the_offline_actor_learns_the_new_task_and_keeps_the_old(world: str, train: Any) -> None:
    """It comes near to the online actor; with a strength, old outputs move less."""
    few = FEW | {"updates": 300, "learning_rate": 3e-3}
    free, held = Compared(**few, strength=0.0), Compared(**few, strength=30.0)
    for method in (free, held):
        train(world, lambda method=method: [method], tasks=2)
    assert free.new[1] < 0.3 * free.new[0]
    assert held.old < 0.5 * free.old


@pytest.mark.parametrize("world", ["ppo-box", "sac"])
def test_finished_tasks_are_acted_on_by_the_offline_actor(world: str, train: Any) -> None:
    method = ResetDistill(**FEW)

    def watch(agent: Any, experience: Any) -> None:
        live = agent.policy.state_dict()
        assert method.offline.tensors
        assert all(torch.equal(live[n], t) for n, t in method.offline.tensors.items())
        for parameter in agent.policy.parameters():  # as another task's training would
            parameter.data += 0.5
        for task in range(experience.task_index):
            with agent.view(task):
                inside = agent.policy.state_dict()
                assert all(torch.equal(inside[n], t) for n, t in method.offline.tensors.items())

    normalize = {"normalize": {"observations": "running"}}
    train(world, lambda: [method], tasks=3, watch=watch, agent=normalize)
    assert method.offline.statistics
    assert len(method.stored) == 3 * FEW["samples"]


@pytest.mark.thorough
@pytest.mark.parametrize("task_id", ["observed", "heads"])
@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_a_restart_changes_nothing(world: str, task_id: str, check_restart: Any) -> None:
    keys = {"stream": {"task_count": "known", "task_id": task_id}}
    check_restart(world, {"reset-distill": FEW}, **keys)


def test_it_is_refused_by_name_where_it_cannot_work(refusal: Any) -> None:
    assert refusal("reset-distill") == refusal("reset-distill", "sac") == ""
    for algorithm in ("trpo", "crossq"):
        assert "reset-distill" in refusal("reset-distill", algorithm)
    assert "boundaries" in refusal("reset-distill", stream="{task_id: hidden, boundaries: hidden}")


@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_it_composes_with_what_acts_inside_tasks(world: str, train: Any, same: Any) -> None:
    """The first task's agent is what those methods alone make of it; then it is distilled."""
    others = lambda: [Spectral(strength=0.1), CPR(replacement_rate=0.5, period=3)]  # noqa: E731
    method = ResetDistill(**FEW)
    ours = train(world, lambda: [ResetDistill(**FEW), *others()], tasks=1)
    same(train(world, others, tasks=1), ours)
    train(world, lambda: [method, *others()], tasks=2)
    assert method.offline.tensors


def test_it_is_refused_beside_what_keeps_policies_too(refusal: Any) -> None:
    assert "keep the policy of each task" in refusal("[reset-distill, progress-compress]")
    assert refusal("[reset-distill, cpr, spectral]") == ""
