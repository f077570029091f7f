"""``holdfast tune`` and sweeps on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli import app

TINY = """\
name: tiny
tasks:
  - {name: right, env: CartPole-v1, steps: 64}
  - {name: left, env: CartPole-v1, steps: 64, changes: {action_map: [1, 0]}}
agent: {algorithm: ppo, n_steps: 32, batch_size: 32, n_epochs: 1, policy_kwargs: {net_arch: [8]}}
methods: [isolated, ewc]
evaluation: {episodes: 1}
score: {random: 10, reference: 500}
sweep: {agent.learning_rate: [1e-4, 1e-3]}
tune: {space: {agent.learning_rate: {log: [1e-4, 1e-2]}}, percent: 50, trials: 2, method: ewc}
"""


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def invoke(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, words)
    return result.exit_code, result.output


def test_validate_counts_the_cells_of_a_sweep(scenario: Path) -> None:
    code, text = invoke("validate", "tiny.yaml")
    assert (code, text.splitlines()[0]) == (
        0,
        "tiny.yaml: good; 2 tasks, 4 cells (2 methods x 1 seed; swept: agent.learning_rate (2)) of "
        "128 steps",
    )
    code, text = invoke("validate", "tiny.yaml", "tune.method=naive", "tune.metric=auc/cm")
    assert code == 2
    assert "no metric 'auc/cm' of a single run; did you mean 'auc/cw'?" in text


@pytest.mark.thorough
def test_tune_then_run_the_best(scenario: Path, tmp_path: Path) -> None:
    code, text = invoke("tune", "tiny.yaml", "--trials", "2")
    assert code == 0, text
    assert "tiny: 2 trials of ewc, on the first 50 percent of the stream, seed 0" in text
    best = "@runs/tiny/tune/ewc/best.yaml"
    assert f"Run them:    holdfast run tiny.yaml 'sweep={{}}' {best} name=tiny-tuned" in text
    code, text = invoke("run", "tiny.yaml", best)
    assert code == 2
    assert "sets it too; write 'sweep.agent.learning_rate=[...]'" in text
    code, text = invoke("run", "tiny.yaml", "sweep={}", best, "name=tiny-tuned")
    assert code == 0, text
    report = (tmp_path / "runs" / "tiny-tuned" / "report.md").read_text("utf-8")
    assert "- Tuned: ewc: agent.learning_rate: trial " in report
    assert "of 2 trials, best by average_performance/cw" in report


@pytest.mark.thorough
def test_a_sweep_runs_every_point(scenario: Path, tmp_path: Path) -> None:
    code, text = invoke("run", "tiny.yaml")
    assert code == 0, text
    folder = tmp_path / "runs" / "tiny"
    assert sorted(path.parent.name for path in folder.glob("*/seed-0")) == [
        f"{method}-learning_rate={rate}"
        for method in ("ewc", "isolated")
        for rate in ("0.0001", "0.001")
    ]
    code, text = invoke("run", "tiny.yaml", "sweep.agent.learning_rate=[1e-4]", "n_envs=2")
    assert code == 2
    assert "is of a different scenario" in text
    assert "+n_envs: 2" in text
