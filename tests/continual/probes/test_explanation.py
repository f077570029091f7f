"""What an action hangs on, whether that is so, and where a later policy departs."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import run_all
from typer.testing import CliRunner

from holdfast.agents.doors.outputs import Output, OutputSpec
from holdfast.cli import app
from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.probes import attribution, departures, outcomes, visited_states
from holdfast.continual.probes import explanation as probe
from holdfast.continual.probes.counterfactual import counterfactual
from holdfast.continual.probes.outcomes import CounterfactualPlan
from holdfast.continual.probes.reasons import EXPLAIN, Explained, ExplainPlan, explain_record
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import CheckpointUnusable, MissingExtra, UsageError
from holdfast.scenarios.schema.scenario import Scenario

PLAN = ExplainPlan(states=24)


def results(cell: RunFolder) -> dict[tuple[int, str], Explained]:
    return {one.place: one for one in explain_record(cell).read()[1]}


def test_exact_on_a_linear_policy() -> None:
    """Of a linear function, an entry's part is its weight times its distance from the base."""
    weights, shift = torch.tensor([[2.0, -1.0, 0.0], [0.5, 3.0, 0.0]]), torch.tensor([7.0, -1.0])
    seen = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    base = seen.mean(dim=0)

    def output(rows: torch.Tensor) -> Output:
        return {"mean": rows @ weights.T + shift}

    found = attribution.attributions(output, OutputSpec("unit_gaussian"), seen, base)
    by_hand = weights.abs().sum(dim=0) * (seen - base).abs()  # (6, 3)
    torch.testing.assert_close(found, by_hand, rtol=1e-5, atol=1e-6)
    assert (found[:, 2] == 0).all()


def test_of_categories_it_is_the_integral_of_the_formula() -> None:
    """Against a midpoint sum of the gradient along the path, of each of two independent choices."""
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5)
    ).double()
    seen, base = torch.randn(4, 3).double(), torch.zeros(3).double()
    spec = OutputSpec("categorical", [2, 3])
    found = attribution.attributions(lambda rows: {"logits": net(rows)}, spec, seen, base)
    by_hand = torch.zeros(4, 3).double()
    for row in range(4):
        for part in (slice(0, 2), slice(2, 5)):
            chosen = int(net(seen[row])[part].argmax())
            places = (torch.arange(2000).double() + 0.5)[:, None] / 2000
            path = (seen[row] * places).requires_grad_()  # (2000, 3)
            net(path)[:, part].log_softmax(-1)[:, chosen].sum().backward()
            assert path.grad is not None
            by_hand[row] += (path.grad.mean(dim=0) * seen[row]).abs()
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-6)


def test_deletion_by_hand() -> None:
    """Only the first entry counts; of three, a random one is it once in three times."""
    seen = torch.tensor([[1.0, 5.0, 5.0], [3.0, 5.0, 9.0]])

    def output(rows: torch.Tensor) -> Output:
        return {"mean": rows[:, :1]}

    def distance(other: Output) -> torch.Tensor:
        return (other["mean"] - seen[:, :1]).abs()[:, 0]

    top, random = attribution.deleted(distance, output, seen, torch.tensor([[3.0, 1, 2]] * 2), 1)
    assert top.tolist() == [1.0, 1.0]  # the mean is 2
    assert (random < 1).all()
    assert np.allclose(random * attribution.DRAWS, np.round(random * attribution.DRAWS))
    everything, all_random = attribution.deleted(distance, output, seen, torch.ones(2, 3), 3)
    assert everything.tolist() == all_random.tolist() == [1.0, 1.0]


def test_stages_of_a_run(cell: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    probe.explain([cell], PLAN, tell=lambda *done: told.append(done))
    found = results(cell)
    assert sorted(found) == [(0, "plain"), (1, "plain"), (1, "swapped")]
    assert told == [(1, 3), (2, 3), (3, 3)]
    for one in found.values():
        assert len(one.shares) == 4
        assert sum(one.shares) == pytest.approx(1.0)
        assert one.removed == 1
    assert found[1, "swapped"].shares[0] == 0.0  # masked in this task
    assert found[0, "plain"].departs == found[1, "swapped"].departs == 0.0
    # By hand: the same states, and what both policies do there.
    own, final = (open_run(cell.path).agent("plain", stage=stage) for stage in (0, 1))
    restored = [kind_of(cell.scenario).restore(cell, stage) for stage in (0, 1)]
    seen = visited_states.meet(cell, restored[0], 0, 24).seen
    assert seen.values.shape == (24, 6)
    differ = [own.act(row) != final.act(row) for row in seen.values[:, :4].numpy()]
    assert found[1, "plain"].departs == pytest.approx(np.mean(differ))
    assert sum(cluster.states for cluster in found[1, "plain"].clusters) == sum(differ)
    path = explain_record(cell).path
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    probe.explain([cell], PLAN)
    assert path.read_bytes() == whole
    monkeypatch.setattr(probe, "_one", None)
    probe.explain([cell], PLAN)
    with pytest.raises(UsageError, match=r"another plan \(states 24, now 9\)"):
        probe.explain([cell], ExplainPlan(states=9))


@pytest.mark.thorough
def test_what_keeps_its_weights_departs_nowhere(
    tmp_path: Path, make_small: Callable[..., Scenario]
) -> None:
    agent = {"algorithm": "ppo", "n_steps": 32, "batch_size": 32}
    keys: dict[str, Any] = {"methods": ["packnet"], "stream": {"task_count": "known"}}
    (cell,) = run_all(make_small(**keys, agent=agent), tmp_path)
    probe.explain([cell], PLAN, ["plain"])
    found = results(cell)
    assert found[1, "plain"].departs == 0.0
    assert found[1, "plain"].clusters == []
    assert found[1, "plain"].shares == found[0, "plain"].shares
    plan = CounterfactualPlan(task="plain", states=6, worlds=[])
    counterfactual([cell], plan)
    lost = [one.lost for one in outcomes.counterfactual_record(cell, plan).read()[1]]
    assert lost == [0.0] * 6


def test_clusters_are_the_groups_that_are_there() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(at, 0.1, (count, 2)) for at, count in ((0, 30), (5, 20))])
    groups = departures.clusters(rows, np.arange(50))
    assert [sorted(group.tolist()) for group in groups] == [[*range(30)], [*range(30, 50)]]
    assert [len(group) for group in departures.clusters(rows, np.arange(3))] == [3]
    assert departures.clusters(rows, np.arange(0)) == []
    alike = np.zeros((12, 2))
    assert [len(group) for group in departures.clusters(alike, np.arange(12))] == [12]


def test_the_command_and_the_report(cell: RunFolder) -> None:
    folder = cell.path.parents[1]
    told = CliRunner().invoke(app, ["explain", str(folder), "--states", "12", "--task", "plain"])
    assert told.exit_code == 0, told.output
    rows = list(csv.DictReader(io.StringIO((folder / "explain.csv").read_text())))
    assert [(row["stage"], row["entry"]) for row in rows] == [
        (stage, entry) for stage in "01" for entry in "0123"
    ]
    found = results(cell)[0, "plain"]
    most = int(np.argmax(found.shares))
    cell_text = f"| naive | plain | 0 | entry {most} ({found.shares[most]:.0%})"
    assert cell_text in (folder / "explain.md").read_text()
    reported = CliRunner().invoke(app, ["report", str(folder)])
    assert reported.exit_code == 0, reported.output
    assert cell_text in (folder / "report.md").read_text()


def test_what_is_refused(
    cell: RunFolder,
    tmp_path: Path,
    make_small: Callable[..., Scenario],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UsageError, match=r"no task 'plane'; did you mean 'plain'"):
        probe.explain([cell], PLAN, ["plane"])
    new = RunFolder.create(tmp_path / "new/naive/seed-3", make_small())
    with pytest.raises(UsageError, match="no stage was finished yet"):
        probe.explain([new], PLAN)
    (cell.path / EXPLAIN).write_bytes(b'{"states": 24}\n{"stage": 0}\n')
    with pytest.raises(CheckpointUnusable, match=r"explain.jsonl:2: task"):
        probe.explain([cell], PLAN)

    def missing() -> Any:
        raise MissingExtra("holdfast explain", "captum", "explain")

    monkeypatch.setattr(probe, "captum", missing)
    with pytest.raises(MissingExtra, match=r'pip install "holdfast\[explain\]"'):
        probe.explain([cell], PLAN)
