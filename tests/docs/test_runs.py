"""Pages that show a way from beginning to end: their blocks, in their order, in an empty folder."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, Block, blocks
from typer.testing import CliRunner

from holdfast.cli import app

CHEAP = {
    "run quickstart": "tasks[0].steps=64 tasks[1].steps=64 tasks[2].steps=64 agent.n_steps=8 "
    "agent.batch_size=32 agent.engine=sb3 evaluation={episodes: 1}",
    "run later.yaml": "tasks[0].steps=64 tasks[1].steps=64 agent.n_steps=64 evaluation.episodes=1",
    "run cart.yaml": "tasks[0].steps=64 tasks[1].steps=64 agent.n_steps=64 seeds=[0,1] "
    "evaluation.episodes=1",
    "run decay.yaml": "tasks[0].steps=64 tasks[1].steps=64 agent.n_steps=64 evaluation.episodes=1",
    "run my_study.yaml": "tasks[0].steps=64 tasks[1].steps=64",
}
"""Overrides with which a command takes seconds."""


def page_of(name: str) -> list[Block]:
    return blocks(name, (ROOT / name).read_text("utf-8"))


def command(line: str) -> str:
    """Run a command in this process, with small budgets, and return what it printed."""
    program, *words = shlex.split(line, comments=True)
    assert program == "holdfast"
    words += shlex.split(CHEAP.get(" ".join(words[:2]), "").replace("={", "='{").replace("}", "}'"))
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{line}\n{done.output}"
    return done.output


def followed(name: str) -> str:
    """Write the files of a page here, run what is marked, and return all that was printed."""
    printed = []
    for block in page_of(name):
        if block.named("file"):
            Path(block.named("file")).write_text(block.text, "utf-8")
    for block in page_of(name):
        if block.mark == "run" and block.kind == "python":
            exec(block.text, {})
        elif block.mark == "run":
            for line in filter(str.strip, block.text.splitlines()):
                if line.startswith("python "):
                    script = Path(line.split()[1]).read_text("utf-8")
                    exec(script.replace("40_000", "64").replace("seed=0", "seed=0, n_steps=64"), {})
                else:
                    printed.append(command(line))
    return "\n".join(printed)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_start(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = followed("docs/start.md")
    assert (empty / "runs" / "first" / "report.html").is_file()
    assert "| progressive | 1 |" in text
    assert "my_study.yaml: good" in text or "my_study.yaml: " in text
    assert re.search(r"^finished \[?[01]", capsys.readouterr().out, re.M)


@pytest.mark.slow
def test_from_a_model_of_stable_baselines3(empty: Path) -> None:
    import torch
    from stable_baselines3 import PPO

    import holdfast

    text = followed("docs/sb3.md")
    assert "later.yaml: good, and builds" in text
    model = PPO.load(empty / "model.zip")
    run = holdfast.open_run(empty / "runs" / "later" / "naive" / "seed-0")
    assert run.status == "finished"
    assert {type(value) for value in model.policy.state_dict().values()} == {torch.Tensor}


@pytest.mark.slow
def test_other_pages(empty: Path) -> None:
    """Of what the README's example has left, and of a skeleton of a method."""
    for block in page_of("README.md"):
        if block.named("file"):
            Path(block.named("file")).write_text(block.text, "utf-8")
    command("holdfast run cart.yaml")
    for name in ("docs/trust.md", "docs/policies.md", "docs/own_method.md"):
        text = followed(name)
        assert text or name == "docs/policies.md"
    command("holdfast run decay.yaml")
    runs = (empty / "runs" / "decay").glob("*/seed-0/run.json")
    assert [json.loads(run.read_text("utf-8"))["status"] for run in runs] == ["finished"] * 3


def test_a_decay_is_the_gradient_of_the_sum_of_squares(empty: Path) -> None:
    """Of strength x sum of theta^2, by autograd in float64."""
    import torch

    found: dict[str, Any] = {}
    (text,) = (b.text for b in page_of("docs/own_method.md") if b.named("file") == "decay.py")
    exec(text, found)
    theta = torch.tensor([1.5, -2.0], dtype=torch.float64, requires_grad=True)
    (0.25 * theta.square().sum()).backward()
    method = found["Decay"](strength=0.25)
    assert torch.equal(method.gradient({"w": theta.detach()}, {}, {})["w"], theta.grad)


@pytest.mark.parametrize("task_id", ["observed", pytest.param("heads", marks=pytest.mark.slow)])
def test_a_zip_does_not_fit_another_task_id(task_id: str, empty: Path) -> None:
    """What the page says of `stream: {task_id: hidden}`: with another, the layers differ."""
    from stable_baselines3 import PPO

    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).save("model.zip")
    (later,) = (b.text for b in page_of("docs/sb3.md") if b.named("file") == "later.yaml")
    Path("later.yaml").write_text(later, "utf-8")
    done = CliRunner().invoke(
        app, ["validate", "--build", "later.yaml", f"stream.task_id={task_id}"]
    )
    assert done.exit_code == 2
    assert "do not fit" in done.output
