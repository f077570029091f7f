"""PackNet: shares by hand, frozen weights to the last bit, and old policies that stay."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn

from holdfast.continual.methods.architecture.freezing import Freezing, factors, restored
from holdfast.continual.methods.architecture.packnet import PackNet, clipped_to, largest, share
from holdfast.errors import UsageError

KNOWN = {"task_count": "known"}


def test_each_of_ten_stages_gets_a_tenth_of_a_layer() -> None:
    free, owned = 1000, []
    for left in range(10, 0, -1):
        owned.append(share(free, left, None))
        free -= owned[-1]
    assert owned == [100] * 10
    assert free == 0


def test_pruning_by_the_papers_share() -> None:
    """Section 3: half of what is free each time leaves 1/2, 1/4, ... to later tasks."""
    free = [800]
    for left in (4, 3, 2):
        free.append(free[-1] - share(free[-1], left, 0.5))
    assert free == [800, 400, 200, 100]
    assert share(100, 1, 0.5) == 100


def test_the_largest_by_magnitude_stay_and_equals_go_in_order() -> None:
    weights = torch.tensor([[0.0, -5.0, 0.0], [2.0, 0.0, -3.0]])
    candidates = torch.tensor([[True, False, True], [True, True, True]])
    assert largest(weights, candidates, 2).tolist() == [[False] * 3, [True, False, True]]
    assert largest(weights, candidates, 3).tolist() == [[True, False, False], [True, False, True]]


def test_frozen_entries_stay_under_adam_with_moments_and_weight_decay() -> None:
    """By hand: Adam's first step moves a free weight by the learning rate, a frozen one by 0."""
    weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    adam = torch.optim.Adam([weight], lr=0.1, weight_decay=0.5)
    (weight * 3).sum().backward()
    adam.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.9, 0.9]))
    held = Freezing(MagicMock(), lambda: {"w": torch.tensor([True, False])})
    state = held.begun({"w": weight.detach(), "other": weight.detach()})
    scales = factors({}, state, {})
    assert {name: factor.tolist() for name, factor in scales.items()} == {"w": [1.0, 0.0]}
    at = weight.detach()[1].item()
    weight.grad = None
    ((weight * 3).sum()).backward()
    assert weight.grad is not None
    weight.grad *= scales["w"]
    adam.step()
    assert weight.detach()[1].item() < at  # moments and decay moved it all the same
    rewritten = restored({"w": weight.detach()}, state, {}, is_first=True)
    assert rewritten.values["w"][1].item() == at
    assert rewritten.values["w"][0].item() == weight.detach()[0].item() != at
    assert rewritten.renewed["w"].tolist() == [False, True]
    again = restored({"w": weight.detach()}, state, {}, is_first=False)
    assert again.renewed == {}


def test_a_network_packed_by_hand(learn: Any) -> None:
    """Two tasks: each layer's larger half stays for the first, the rest is zero, then the other's.

    The kernel of the head is 2 x 16: 16 entries for each task.
    """
    method, owners, kernels = PackNet(), [], []
    narrow = {"policy_kwargs": {"net_arch": [16]}}
    name = "action_net.weight"
    for learner, _ in learn("ppo", method, tasks=2, agent=narrow):
        owners.append(method._owners[name].clone())
        kernels.append(learner.policy.action_net.weight.detach().clone())
    assert [int((owner == 1).sum()) for owner in owners] == [16, 16]
    assert [int((owner == 2).sum()) for owner in owners] == [0, 16]
    assert (kernels[0][owners[0] == 0] == 0).all()
    assert torch.equal(kernels[1][owners[0] == 1], kernels[0][owners[0] == 1])
    assert (kernels[1][owners[1] == 2] != 0).all()


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["ppo", "ppo-box", "sac"])
@pytest.mark.parametrize("task_id", ["observed", "heads"])
def test_old_tasks_keep_their_policy_bit_for_bit(
    case: str, task_id: str, check_old_policies_stay: Any
) -> None:
    check_old_policies_stay(case, PackNet(), task_id)


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["dqn", "td3", "crossq"])
def test_old_policies_stay_under_other_algorithms(case: str, check_old_policies_stay: Any) -> None:
    check_old_policies_stay(case, PackNet(prune=0.5))


@pytest.mark.thorough
def test_old_policies_stay_under_weight_decay(check_old_policies_stay: Any) -> None:
    """It moves every weight at every step, gradient or not: the heads of other tasks too."""
    decay = {"net_arch": [16], "optimizer_kwargs": {"weight_decay": 0.1}}
    check_old_policies_stay("ppo-box", PackNet(), "heads", policy_kwargs=decay)


@pytest.mark.thorough
def test_updates_on_the_buffer_after_the_task(learn: Any, check_old_policies_stay: Any) -> None:
    updates = {}
    for count in (0, 20):
        method = PackNet(retrain_updates=count, clip_norm=2e-5)
        updates[count] = [agent.model._n_updates for agent, _ in learn("sac", method, tasks=2)]
    # All but the last task train again.
    assert [b - a for a, b in zip(updates[0], updates[20], strict=True)] == [20, 0]
    check_old_policies_stay("sac", PackNet(retrain_updates=20, clip_norm=2e-5))


def test_training_again_moves_only_what_the_task_owns(learn: Any) -> None:
    """Between pruning and the task's end: zeros stay zero, owned weights and biases move."""
    seen: list[dict[str, Tensor]] = []

    class Watched(PackNet):
        def due(self, doors: Any, name: str) -> None:
            super().due(doors, name)
            seen.append({n: p.clone() for n, p in doors.gradients.parameters().items()})

    method = Watched(retrain=0.5)
    for stage, (learner, _) in enumerate(learn("ppo", method, tasks=3)):
        pruned, now = seen[stage], dict(learner.policy.named_parameters())
        for name, owner in method._owners.items():
            moved = now[name] != pruned[name]
            assert not moved[owner != stage + 1].any(), name
            assert not now[name][owner == 0].any(), name
        name = "mlp_extractor.policy_net.2.weight"
        assert (now[name] != pruned[name]).any()
        assert (now["action_net.bias"] != pruned["action_net.bias"]).any() == (stage == 0)
        assert (now["value_net.bias"] != pruned["value_net.bias"]).any()


def test_clipping_only_while_training_again() -> None:
    gradients = {"w": torch.tensor([3.0, 4.0])}
    clipped, _ = clipped_to({}, gradients, {}, {}, norm=0.5)
    torch.testing.assert_close(clipped["w"], torch.tensor([0.3, 0.4]))
    method, doors = PackNet(clip_norm=0.5), MagicMock()
    doors.facts.on_policy, doors.facts.carries = False, {"weights"}
    method.pre_adapt(doors, SimpleNamespace(stage=0, task_count=2, steps=1))
    asked = doors.gradients.project.call_args.kwargs["batch"]
    assert asked({}) is None
    method._is_pruned = True
    assert asked({}) is not None
    method._left = 1
    assert asked({}) is None


def test_a_task_that_comes_again_gets_a_share_of_its_own(learn: Any) -> None:
    method = PackNet()
    stream = KNOWN | {"order": ["t0", "t1", "t0"]}
    for _, experience in learn("ppo", method, tasks=2, stream=stream):
        assert int((method._owners["action_net.weight"] == experience.stage + 1).sum()) > 0
    assert method._stages == {0: 2, 1: 1}


def test_more_stages_than_weights(learn: Any) -> None:
    """A kernel of 1 x 2 for four stages: two of them own nothing of it."""
    method = PackNet()
    agent = {"policy_kwargs": {"net_arch": [2]}}
    for _ in learn("ppo-box", method, agent=agent):
        pass
    # round(2 / 4), round(2 / 3), round(1 / 2), and the last stage takes what is left.
    assert sorted(method._owners["action_net.weight"].flatten().tolist()) == [2, 4]


@pytest.mark.thorough
def test_without_free_weights_it_goes_on_and_says_so(run: Any) -> None:
    """With prune 0 the first task owns all; the second learns nothing, and is told why."""
    notes: list[tuple[str, str]] = []
    folder = run(
        "ppo",
        {"packnet": {"prune": 0.0}},
        tasks=2,
        stream=KNOWN,
        tell=lambda progress: notes.append((progress.task, progress.note)) if progress.note else 0,
    )
    assert [task for task, _ in notes] == ["t1"]
    assert notes[0][1].startswith("packnet has no free weights left at task 2")
    assert folder.info()["status"] == "finished"


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_a_restart_changes_nothing(algorithm: str, check_restart: Any) -> None:
    method = {"packnet": {"retrain_updates": 10}} if algorithm == "sac" else "packnet"
    normalize = {"normalize": {"observations": "running"}}
    check_restart(algorithm, method, stream=KNOWN, agent=normalize)


def test_a_checkpoint_of_a_version_before_gives_the_same(learn: Any) -> None:
    method = PackNet()
    agent = [agent for agent, _ in learn("ppo", method, tasks=2)][-1]
    state = method.state()
    stages = dict(state.pop("stages").tolist())
    again = PackNet()
    older = {f"stage/{task}": torch.tensor(stage) for task, stage in stages.items()}
    again.load_state(agent.doors(again), state | older)
    assert (method.state().keys(), stages) == (again.state().keys(), {0: 0, 1: 1})
    assert torch.equal(method.state()["stages"], again.state()["stages"])


def test_what_it_must_be_told(refusal: Any) -> None:
    told = "{task_count: known}"
    assert "how many tasks come" in refusal("packnet")
    assert "which task" in refusal("packnet", stream="{task_count: known, task_id: hidden}")
    assert "gradients door" in refusal("packnet", "trpo", told)
    assert refusal("packnet", stream=told) == refusal("packnet", "crossq", told) == ""
    assert "from 0 to 1" in refusal("packnet: {retrain: 1.5}", stream=told)


def test_refused_where_it_cannot_work(run: Any) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        PackNet(retrain=0.1, retrain_updates=10)
    with pytest.raises(Exception, match=r"carry\.weights"):
        run("ppo", "packnet", stream=KNOWN, carry={"weights": False})
    with pytest.raises(Exception, match="replay buffer"):
        run("ppo", {"packnet": {"retrain_updates": 5}}, stream=KNOWN, runs="other")
