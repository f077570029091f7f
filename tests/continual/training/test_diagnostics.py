"""Plasticity along a run: the numbers, the record over restarts, and training left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cells import Interrupted
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from holdfast.agents.base import gradient_norms
from holdfast.agents.base.gradient_norms import GradientNorms
from holdfast.agents.base.parameters import named_parameters
from holdfast.continual.reports.plasticity_report import plasticity_sections
from holdfast.continual.results.markdown_page import markdown
from holdfast.continual.results.study import gather
from holdfast.continual.run_folder.plasticity_record import (
    QUANTITIES,
    line_of,
    read_points,
    write_points,
)
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training import diagnostics
from holdfast.continual.training.cell import run_cell
from holdfast.continual.training.diagnostics import Diagnostics, measure_units
from holdfast.errors import CheckpointUnusable

EWC = {"ewc": {"floor": 1e-5, "samples": 64}}
RELU = {"policy_kwargs": {"net_arch": [16, 12], "activation": "relu"}}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("algorithm", "method"), [("ppo", "naive"), ("dqn", EWC), ("sac", "naive"), ("sac", EWC)]
)
def test_measuring_changes_nothing(
    algorithm: str, method: Any, run: Any, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"tasks": 2, "steps": 128, "agent": RELU, "carry": {"optimizer": True}}
    measured = run(algorithm, method, runs="measured", **keys)
    for name in ("begin", "attach", "detach"):
        monkeypatch.setattr(Diagnostics, name, lambda *_: None)
    monkeypatch.setattr(Diagnostics, "measure", lambda self, stage, step: {})
    monkeypatch.setattr(Diagnostics, "watched", lambda self, tasks: None)
    bare = run(algorithm, method, runs="bare", **keys)
    assert read_points(bare.path) == []
    assert measured.scores() == bare.scores()
    one, other = weights(measured), weights(bare)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.thorough
def test_the_record_of_a_run(run: Any, weights: Any) -> None:
    folder = run("sac", tasks=2, agent=RELU)
    points = read_points(folder.path)
    measured = sorted({(score["stage"], score["step"]) for score in folder.scores()})
    assert [(point["stage"], point["step"]) for point in points] == measured
    for name in QUANTITIES:
        assert all(f"{name}/critic" in point for point in points[2:]), name
    first, last = points[0], points[-1]
    assert first["distance/actor"] == 0.0
    assert "gradient_norm/actor" not in first
    assert 0 <= last["dormant_fraction/actor"] <= 1
    assert 1 <= last["effective_rank/critic"] <= 12
    # Norm and distance again, from the checkpoint and the reference.
    reference, saved = load_file(folder.path / "plasticity.safetensors"), weights(folder)
    names = [n for n in saved if n.startswith("critic.")]
    norm = sum(float(saved[n].double().square().sum()) for n in names) ** 0.5
    gap = sum(float((saved[n] - reference[f"weights/{n}"]).double().square().sum()) for n in names)
    assert last["weight_norm/critic"] == pytest.approx(norm)
    assert last["distance/critic"] == pytest.approx(gap**0.5, rel=1e-5)
    seen = reference["observations/"]
    assert 100 < len(seen) <= diagnostics.OBSERVATIONS + 2
    assert set(seen[:, -2:].sum(1).tolist()) == {1.0}  # task ids of both tasks
    assert 0.2 < seen[:, -1].mean() < 0.8
    view = EventAccumulator(str(folder.path / "tb")).Reload()
    for name, value in last.items():
        if name not in ("stage", "step"):
            event = view.Scalars(f"plasticity/{name}")[-1]
            assert (event.step, event.value) == (last["step"], pytest.approx(value))


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["progressive", {"redo": {"tau": 0.5, "period": 5}}, EWC])
def test_a_restart_leaves_the_same_record(method: Any, run: Any) -> None:
    keys = {"tasks": 2, "steps": 128, "agent": RELU}
    straight = run("ppo", method, runs="straight", **keys)
    due = [64, 128, 192]

    def tell(progress: Any) -> None:
        if due and progress.step >= due[0]:
            due.pop(0)
            raise Interrupted

    with pytest.raises(Interrupted):
        run("ppo", method, runs="broken", tell=tell, **keys)
    root = straight.path.parents[3]
    broken = RunFolder(root / "broken" / straight.path.relative_to(root / "straight"))
    while broken.info()["status"] != "finished":
        try:
            run_cell(broken, tell)
        except Interrupted:
            continue
    assert not due
    assert read_points(broken.path) == read_points(straight.path)


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["recurrent_ppo", "trpo", "crossq"])
def test_agents_with_closed_doors_are_measured_as_far_as_they_can_be(
    algorithm: str, run: Any
) -> None:
    world = "sac" if algorithm == "crossq" else "ppo"
    agent: dict[str, Any] = {"algorithm": algorithm}
    folder = run(world, tasks=1, steps=128, agent=agent)
    last = read_points(folder.path)[-1]
    assert last["weight_norm/actor"] > 0
    assert ("effective_rank/actor" in last) == (algorithm != "recurrent_ppo")


class Tiny(nn.Module):
    """Looks like the network of action values; its units are set by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.q_net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        with torch.no_grad():
            self.q_net[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
            self.q_net[0].bias.zero_()

    def set_training_mode(self, mode: bool) -> None:
        self.train(mode)


def test_units_by_hand() -> None:
    """Unit 2 is silent; the other two are as active as each other and independent."""
    found = measure_units(Tiny(), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    assert found == {
        "dormant_fraction/actor": pytest.approx(1 / 3),
        "effective_rank/actor": pytest.approx(2.0),
        "srank/actor": 2.0,
    }


def test_gradient_norms_are_those_of_sampled_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_norms, "SAMPLED", 2)
    policy: Any = Tiny()
    policy.optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    norms = GradientNorms()
    norms.attach(policy)
    for size in (3.0, 100.0, 5.0):
        for parameter in named_parameters(policy).values():
            parameter.grad = torch.zeros_like(parameter)
        policy.q_net[2].bias.grad.fill_(size)
        policy.optimizer.step()
    assert norms.take() == {"gradient_norm/actor": 4.0}  # of the first and the third
    assert norms.take() == {}
    norms.detach()
    assert not policy.optimizer._optimizer_step_pre_hooks


def test_seen_observations_are_thinned_evenly_and_do_not_repeat() -> None:
    seen = diagnostics._Seen()
    for step in range(5000):
        seen.add(np.array([[float(step)], [float(min(step, 10))]]))  # the second episode ends
    rows = seen.spread(100)[""][:, 0]
    assert len(rows) == 100
    assert (rows == 10.0).sum() <= 2
    assert np.histogram(rows, 5, (0, 5000))[0].min() >= 15


def test_a_damaged_record_is_named(tmp_path: Any) -> None:
    write_points(tmp_path, [line_of({"stage": 0, "step": 0, "srank/actor": 2.0})])
    assert read_points(tmp_path) == [{"stage": 0.0, "step": 0.0, "srank/actor": 2.0}]
    (tmp_path / "plasticity.json").write_text("[1]")
    with pytest.raises(CheckpointUnusable, match=r"plasticity\.json"):
        read_points(tmp_path)


@pytest.mark.thorough
def test_the_report_shows_it(run: Any) -> None:
    folder = run("ppo", tasks=1, agent=RELU)
    first, *_, last = read_points(folder.path)
    results = gather(folder.path)
    text = markdown(plasticity_sections(results), 2)
    assert "## Plasticity" in text
    _, _, table = text.partition("### Actor\n\n")
    head, _, before, after, *_ = table.splitlines()
    titles = [cell.strip() for cell in head.strip("|").split("|")]
    assert titles == ["method", *(title for title, _ in QUANTITIES.values())]
    column = titles.index("weight norm")
    shown = [row.strip("| ").split(" | ")[column] for row in (before, after)]
    assert shown == [f"{point['weight_norm/actor']:.3g}" for point in (first, last)]
    assert "### Critic" in text
    assert "- **Srank**:" in text
    (folder.path / "plasticity.json").unlink()
    results = gather(folder.path)
    assert plasticity_sections(results) == []
