"""What every penalty on weights promises: nothing at strength 0, and nothing lost by a restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from holdfast import registry
from holdfast.agents.base.parameters import named_parameters
from holdfast.continual.method import Method
from holdfast.continual.methods.plasticity.l2_init import L2Init
from holdfast.continual.methods.plasticity.parseval import Parseval
from holdfast.continual.methods.regularization import quadratic
from holdfast.continual.methods.regularization.l2 import L2
from holdfast.continual.methods.regularization.rwalk import RWalk
from holdfast.errors import UsageError

STRENGTHS: dict[str, float] = {
    "l2": 10.0,
    "ewc": 100.0,
    "mas": 100.0,
    "si": 100.0,
    "rwalk": 10.0,
    "l2-init": 1.0,
    "parseval": 1e-2,
}


def _make(name: str, **arguments: Any) -> Method:
    few = {"samples": 64} if name in ("ewc", "mas") else {}
    method: Method = registry.load(registry.METHODS[name])(**few, **arguments)
    return method


def _build(name: str, **arguments: Any) -> Callable[[], list[Method]]:
    return lambda: [_make(name, strength=STRENGTHS[name], **arguments)]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[Any, int]:
    """Count the gradients that were asked for."""
    counted: dict[Any, int] = {}

    def count(owner: Any, name: str) -> None:
        published: Callable[..., Any] = getattr(owner, name)
        counted[owner] = 0

        def gradient(*args: Any) -> Any:
            counted[owner] += 1
            return published(*args)

        monkeypatch.setattr(owner, name, gradient)

    for owner in (L2Init, Parseval):
        count(owner, "gradient")
    count(quadratic, "pull")
    return counted


@pytest.mark.parametrize("world", ["ppo", "ppo-box", "dqn", "sac"])
def test_at_strength_0_all_together_equal_naive(
    world: str, train: Any, same: Any, calls: dict[Any, int]
) -> None:
    zeros = [lambda name=name: _make(name, strength=0.0) for name in STRENGTHS]
    every = train(world, lambda: [zero() for zero in zeros])
    assert min(calls.values()) > 10
    assert calls[quadratic] > 50
    same(every, train(world))


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", pytest.param("sac", marks=pytest.mark.slow), "dqn"])
@pytest.mark.parametrize("name", STRENGTHS)
def test_a_penalty_acts_and_a_restart_changes_nothing(
    name: str, world: str, train: Any, same: Any
) -> None:
    first: list[Any] = []
    watch = lambda agent, _: first.append(agent.files()["policy"])  # noqa: E731
    naive = train(world, watch=watch)
    straight = train(world, _build(name), watch=watch)
    same(straight, train(world, _build(name), restart_after=1))
    with pytest.raises(AssertionError):
        same(straight, naive)
    # What needs no boundaries acts in the first task already; the others have nothing to hold yet.
    acted = any(not torch.equal(first[0][n], first[3][n]) for n in first[0])
    assert acted == (name in ("l2-init", "parseval"))


@pytest.mark.parametrize("name", STRENGTHS)
def test_a_critic_that_is_not_there_is_refused(name: str, train: Any) -> None:
    with pytest.raises(UsageError, match=rf"method {name}\.regularize: critic: dqn has no critic"):
        train("dqn", _build(name, regularize="critic"))


@pytest.mark.parametrize("world", ["ppo-box", "dqn"])
@pytest.mark.parametrize("name", STRENGTHS)
def test_the_head_of_a_finished_task_stays(name: str, world: str, train: Any) -> None:
    """Importances of a head lie in the rows of its task, and other tasks do not move them."""
    (method,) = _build(name)()
    heads: list[Any] = []

    def watch(agent: Any, experience: Any) -> None:
        actor = named_parameters(agent.policy, "actor")
        (head,) = (n for n in actor if "heads.weight" in n)
        heads.append(actor[head].detach().unflatten(0, (3, -1)).clone())  # (tasks, out, in)
        if name in ("ewc", "mas", "si", "rwalk"):
            held = method.penalty.importance[head].unflatten(0, (3, -1))
            used = held.flatten(1).amax(1) > 0
            assert used.tolist() == [index <= experience.stage for index in range(3)]

    train(world, lambda: [method], watch=watch, stream={"task_id": "heads"})
    if name not in ("l2-init", "parseval"):
        assert torch.equal(heads[0][0], heads[2][0])


def test_l2_leaves_the_heads_of_tasks_free(train: Any) -> None:
    l2 = L2(strength=10.0)
    agent = train("ppo-box", lambda: [l2], tasks=1, stream={"task_id": "heads"})
    free = named_parameters(agent.policy, "actor").keys() - l2.penalty.importance.keys()
    assert free == {"action_net.heads.weight", "action_net.heads.bias", "log_std"}


def test_l2_counts_the_tasks_and_holds_the_latest_weights(train: Any) -> None:
    l2 = L2(strength=10.0)

    def watch(agent: Any, experience: Any) -> None:
        live = named_parameters(agent.policy, "actor")
        assert l2.penalty.importance.keys() == live.keys()
        for name, value in live.items():
            assert torch.equal(l2.penalty.centre[name], value)
            assert l2.penalty.importance[name].unique().tolist() == [experience.stage + 1]

    train("ppo", lambda: [l2], watch=watch)


@pytest.mark.parametrize("name", ["l2", "ewc", "mas", "si", "rwalk"])
@pytest.mark.parametrize("keys", [{}, {"hold_log_std": True}])
def test_exploration_is_free_unless_asked_otherwise(
    name: str, keys: dict[str, Any], train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare log_std gets no gradient from a penalty that holds everything else."""
    pulled: set[str] = set()
    published = quadratic.pull

    def pull(*args: Any) -> Any:
        gradients = published(*args)
        pulled.update(gradients)
        return gradients

    monkeypatch.setattr(quadratic, "pull", pull)
    agent = train("ppo-box", _build(name, **keys))
    everything = set(named_parameters(agent.policy, "actor"))
    assert "log_std" in everything
    assert pulled == (everything if keys else everything - {"log_std"})


def test_the_importance_of_log_std_is_of_another_size_than_that_of_weights(train: Any) -> None:
    """E[(d log N / d log sigma)^2] is 2 for every Gaussian: hundreds of times that of a weight."""
    method = _make("ewc", strength=1.0, fisher="analytic")
    train("ppo-box", lambda: [method], tasks=1)
    importance = dict(method.penalty.importance)  # type: ignore[attr-defined]  # of EWC
    assert importance.pop("log_std").tolist() == pytest.approx([2.0], rel=1e-4)
    of_weights = torch.cat([value.flatten() for value in importance.values()])
    assert of_weights.median().item() < 0.02


def test_rwalk_scales_by_the_largest_of_what_it_holds() -> None:
    """F / max F (Chaudhry et al., section 4): .5 is the largest of what is held, not 2."""
    weights, bare = torch.tensor([3.0, 4.0]), torch.tensor([0.1])
    rwalk = RWalk()
    rwalk.fisher = {"w": torch.tensor([0.5, 0.25]), "log_std": torch.tensor([2.0])}
    rwalk.scores = {"w": torch.tensor([0.1, 0.2]), "log_std": torch.tensor([8.0])}
    rwalk.consolidate({"w": weights, "log_std": bare})
    assert rwalk.penalty.importance["w"].tolist() == pytest.approx([1.0 + 0.5, 0.5 + 1.0])
