"""Weights that no penalty holds: counted, followed and told, by hand and along a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Interrupted, interrupting
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from holdfast.agents.base.parameters import named_parameters, snapshot
from holdfast.continual.methods.regularization.ewc import EWC
from holdfast.continual.methods.regularization.l2 import L2
from holdfast.continual.reports.plasticity_report import plasticity_sections
from holdfast.continual.results.markdown_page import markdown
from holdfast.continual.results.study import gather
from holdfast.continual.run_folder.plasticity_record import (
    FREE,
    line_of,
    read_points,
    write_points,
)
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.cell import run_cell
from holdfast.continual.training.dashboard import layout
from holdfast.continual.training.free_weights import FreeWeights

RELU = {"policy_kwargs": {"net_arch": [16, 12], "activation": "relu"}}


class TwoUnits(nn.Module):
    """Looks like the network of action values: q(x) = relu(x0) + 2 relu(x1 - x0)."""

    def __init__(self) -> None:
        super().__init__()
        self.q_net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double()
        with torch.no_grad():
            self.q_net[0].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
            self.q_net[0].bias.zero_()
            self.q_net[2].weight.copy_(torch.tensor([[1.0, 2.0]]))
            self.q_net[2].bias.zero_()

    def set_training_mode(self, mode: bool) -> None:
        self.train(mode)


ONE = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)  # unit 1: -1 and -2, dead
TWO = torch.tensor([[0.0, 1.0]], dtype=torch.float64)  # unit 0: 0, unit 1: 1


def fisher_by_hand(policy: Any, observations: Tensor) -> dict[str, Tensor]:
    """Mean of the squared gradient of q, which is the Fisher information of a unit Gaussian."""
    total = {name: torch.zeros_like(p) for name, p in policy.named_parameters()}
    for row in observations:
        found = torch.autograd.grad(policy.q_net(row).sum(), list(policy.parameters()))
        for name, gradient in zip(total, found, strict=True):
            total[name] += gradient**2 / len(observations)
    return total


def test_a_unit_that_wakes_up_by_hand() -> None:
    """Task one: units 1 and 1.5 of input x0. Task two wants a larger q at (0, 1), one step of 1.

    dq is 2 for the bias of unit 1 and for its weight of x1, 1 for its outgoing weight and for the
    last bias, and 0 for all of unit 0 (its input of the ReLU is 0).
    """
    policy: Any = TwoUnits()
    importance = fisher_by_hand(policy, ONE)
    assert importance["q_net.0.weight"].tolist() == [[2.5, 0.0], [0.0, 0.0]]
    assert importance["q_net.2.weight"].tolist() == [[2.5, 0.0]]
    ewc = EWC(strength=1e9)
    ewc.penalty.consolidate(snapshot(named_parameters(policy)), importance)
    weights = FreeWeights(policy, [ewc], ONE)
    at_rest = weights.measure(policy, ONE)
    assert (at_rest["free_moved/actor"], at_rest["woken_units/actor"]) == (0.0, 0.0)

    held = ewc.penalty.gradient(dict(policy.named_parameters()))  # 0: all are at their centre
    found = torch.autograd.grad(policy.q_net(TWO).sum(), list(policy.parameters()))
    with torch.no_grad():
        for (name, parameter), gradient in zip(policy.named_parameters(), found, strict=True):
            parameter += gradient - held[name]
    assert policy.q_net[0].bias.tolist() == [0.0, 2.0]
    assert policy.q_net[2].weight.tolist() == [[1.0, 3.0]]
    # On task one at x0 = 1: 1 of unit 0, the last bias, and 3 x (2 - 1) of the unit that woke up.
    assert policy.q_net(ONE)[0].item() == 1.0 + 1.0 + 3.0
    # Free: w01 of unit 0 (x1 is 0 in task one), both weights and the bias of unit 1, its outgoing.
    assert weights.measure(policy, ONE) == {
        "free_weights/actor": 5 / 9,
        "free_moved/actor": pytest.approx(((0 + 0 + 4 + 4 + 1) / 5) ** 0.5, rel=1e-15),
        "held_moved/actor": pytest.approx((1 / 4) ** 0.5, rel=1e-15),
        "dead_units/actor": 1.0,
        "woken_units/actor": 1.0,
    }


def test_what_any_method_holds_is_not_free() -> None:
    """The second finds unit 1 important, the first unit 0: what is left is w01 and w10."""
    policy: Any = TwoUnits()
    one, two = EWC(), EWC()
    parameters = snapshot(named_parameters(policy))
    one.penalty.consolidate(parameters, fisher_by_hand(policy, ONE))
    two.penalty.consolidate(parameters, fisher_by_hand(policy, TWO))
    found = FreeWeights(policy, [one, two], None).measure(policy, None)
    assert found == {"free_weights/actor": 2 / 9, "free_moved/actor": 0.0, "held_moved/actor": 0.0}
    assert FreeWeights(policy, [EWC()], ONE).measure(policy, ONE) == {}  # the first task
    assert L2().free() == {}


def silent(policy: dict[str, Tensor], observations: Tensor) -> Tensor:
    """Which of the 16 + 12 hidden units of SAC's actor put out zero on all observations."""
    found: list[Tensor] = []
    values = observations.float()
    for layer in (0, 2):
        name = f"actor.latent_pi.{layer}"
        values = (values @ policy[f"{name}.weight"].T + policy[f"{name}.bias"]).relu()
        found.append((values == 0).all(0))
    return torch.cat(found)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "method", ["ewc", "si", *(pytest.param(n, marks=pytest.mark.slow) for n in ("mas", "rwalk"))]
)
def test_the_record_of_a_run(method: str, run: Any, weights: Any) -> None:
    """Share and moves again, from the checkpoints."""
    keys: dict[str, Any] = {"steps": 128, "agent": RELU, "checkpoint": {"keep": "all"}}
    folder = run("sac", {method: {"strength": 10.0}}, tasks=3, **keys)
    points = read_points(folder.path)
    assert not [name for p in points if p["stage"] < 1 for name in p if name.split("/")[0] in FREE]
    inside = [p for p in points if p["step"] > 128]
    assert all(f"{name}/actor" in p for p in inside for name in FREE if name != "free_moved")
    for stage in (1, 2):
        end = next(p for p in points if p["stage"] == stage + 1)
        place = folder.path / "checkpoints" / f"task-{stage - 1}"
        old, new = weights(folder, stage - 1), weights(folder, stage)
        state = load_file(place / "method-0.safetensors")
        free: list[float] = []
        held: list[float] = []
        for path, importance in state.items():
            if not path.startswith("importance/"):
                continue
            name = path.removeprefix("importance/")
            moves = (new[name].double() - old[name].double()).flatten().tolist()
            for weight, move in zip(importance.flatten().tolist(), moves, strict=True):
                (held if weight else free).append(move)
        assert end["free_weights/actor"] == pytest.approx(len(free) / len(free + held))
        assert 0 < len(free) < len(held)  # the id of a task that has not come
        for name, found in (("free_moved", free), ("held_moved", held)):
            expected = (sum(move**2 for move in found) / len(found)) ** 0.5
            assert end[f"{name}/actor"] == pytest.approx(expected, rel=1e-9)
            assert expected > 0
        reference = load_file(folder.path / "plasticity.safetensors")
        seen = reference["observations/"][reference["tasks"] < stage]
        dead, now = silent(old, seen), silent(new, seen)
        assert end["dead_units/actor"] == float(dead.sum())
        assert end["woken_units/actor"] == float((dead & ~now).sum())
    view = EventAccumulator(str(folder.path / "tb")).Reload()
    event = view.Scalars("plasticity/free_moved/actor")[-1]
    assert (event.step, event.value) == (384, pytest.approx(points[-1]["free_moved/actor"]))
    assert set(layout(folder.scenario, has_success=False)["Free weights"]) == {
        title for title, _ in FREE.values()
    }


@pytest.mark.thorough
def test_going_on_inside_a_task_leaves_the_same_record(run: Any) -> None:
    keys: dict[str, Any] = {"tasks": 2, "steps": 256, "agent": RELU}
    keys |= {"checkpoint": {"every": 64}}
    method = {"ewc": {"floor": 1e-5, "samples": 64}}
    straight = run("ppo", method, runs="straight", **keys)
    with pytest.raises(Interrupted):
        run("ppo", method, runs="broken", tell=interrupting(384), **keys)
    root = straight.path.parents[3]
    broken = RunFolder(root / "broken" / straight.path.relative_to(root / "straight"))
    assert list((broken.path / "checkpoints").glob("task-1.at-*"))
    run_cell(broken, lambda progress: None)
    points = read_points(straight.path)
    assert points[-1]["free_moved/actor"] > 0
    assert read_points(broken.path) == points


def test_heads_are_left_out(run: Any) -> None:
    """4 x 16 + 16 and 16 x 12 + 12 weights are shared, 2 x (12 x 2 + 2) are of the heads."""
    keys: dict[str, Any] = {"tasks": 2, "steps": 128, "agent": RELU}
    keys |= {"stream": {"task_id": "heads"}, "checkpoint": {"keep": "all"}}
    folder = run("dqn", "si", **keys)
    state = load_file(folder.path / "checkpoints" / "task-0" / "method-0.safetensors")
    importance = {n: t for n, t in state.items() if n.startswith("importance/")}
    assert sum(t.numel() for t in importance.values()) == 284 + 52
    shared = [t for name, t in importance.items() if ".heads." not in name]
    free = sum(int((t == 0).sum()) for t in shared)
    assert read_points(folder.path)[-1]["free_weights/actor"] == free / 284


@pytest.mark.thorough
def test_the_report_has_a_row_for_each_task_and_older_folders_are_reported(run: Any) -> None:
    folder = run("ppo", {"ewc": {"samples": 64}}, tasks=3, steps=64, agent=RELU)
    points = read_points(folder.path)
    text = markdown(plasticity_sections(gather(folder.path)), 2)
    _, _, part = text.partition("## Free weights")
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    assert rows[0] == ["method", "task", *(title for title, _ in FREE.values())]
    assert [row[:2] for row in rows[2:]] == [["ewc", "2: t1"], ["ewc", "3: t2"]]
    for stage, row in zip((2, 3), rows[2:], strict=True):
        end = next(p for p in points if p["stage"] == stage)
        assert row[2:] == [f"{end[f'{name}/actor']:.3g}" for name in FREE]
    assert "- **Woken units**:" in part

    older = [{k: v for k, v in p.items() if k.split("/")[0] not in FREE} for p in points]
    write_points(folder.path, [line_of(point) for point in older])
    sections = plasticity_sections(gather(folder.path))
    assert [section.title for section in sections] == ["Plasticity"]


@pytest.mark.thorough
def test_a_run_begun_before_its_observations_had_tasks_knows_no_units(
    run: Any, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"tasks": 2, "steps": 128, "agent": RELU}
    with pytest.raises(Interrupted):
        run("ppo", "mas", tell=interrupting(192), runs="broken", **keys)
    (path,) = tmp_path.glob("broken/**/plasticity.safetensors")
    kept = load_file(path)
    tasks = kept.pop("tasks")
    assert len(tasks) == len(kept["observations/"])
    assert kept["observations/"][:, -2:].argmax(1).tolist() == tasks.tolist()  # the ids shown
    save_file(kept, path)
    run_cell(RunFolder(path.parent), lambda progress: None)
    last = read_points(path.parent)[-1]
    assert last["free_weights/actor"] > 0
    assert not [name for name in last if "units/" in name]
