"""The card of a run: valid front matter, the record's numbers, code that runs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cells import Interrupted

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.jobs.tuning_plan import cut
from holdfast.continual.results import metrics
from holdfast.continual.results.curves import curves
from holdfast.continual.results.formatting import number
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.card import card
from holdfast.continual.training.cell import run_cell
from holdfast.scenarios.schema.scenario import Scenario


def test_a_finished_run_has_a_card(run: Callable[..., RunFolder]) -> None:
    score = {"random": 0.0, "reference": 100.0}
    folder = run("ppo", "ewc", tasks=2, steps=64, score=score)
    text = (folder.path / "README.md").read_text("utf-8")
    head: Any = yaml.safe_load(text.split("---\n")[1])
    assert {"continual-learning", "ppo", "ewc", "CartPole-v1"} <= set(head["tags"])
    (entry,) = head["model-index"]
    last = {
        task: [s["return"] for s in folder.scores() if (s["stage"], s["task"]) == (2, task)]
        for task in ("t0", "t1")
    }
    for result, returns in zip(entry["results"], last.values(), strict=True):
        (metric,) = result["metrics"]
        assert metric["value"] == f"{np.mean(returns):.2f} +/- {np.std(returns):.2f}"
    found = metrics.summary(curves(folder.scores(), folder.scenario))
    assert f"| forgetting | {number(found['forgetting/cw'])} |" in text
    assert "| 1 | t1 | `CartPole-v1` | 64 | {'changes': {'action_map'" in text

    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(code.splitlines()) == 5
    names: dict[str, Any] = {}
    exec(code.replace("this/folder", str(folder.path)), names)
    assert names["action"] in (0, 1)


def test_the_card_has_the_metrics_of_a_report(
    tmp_path: Path,
    make_scenario: Callable[..., Scenario],
    make_scores: Callable[..., list[Any]],
) -> None:
    """Twenty points a task, a window of two: left falls from .975 to .51."""
    steps = [{"name": name, "env": "CartPole-v1", "steps": 200} for name in ("left", "right")]
    (folder,) = prepare(tmp_path, make_scenario(tasks=steps))
    for point in range(41):
        left = 5 * point if point <= 20 else 100 - 2.5 * (point - 20)
        right = max(0, 4 * (point - 20))
        folder.append(make_scores(point // 20, 10 * point, left=left, right=right))
    folder.update(status="finished")
    text = card(folder)
    # left: (.95 + 1)/2 at its end, (.525 + .5)/2 at the end of all; right: (.76 + .8)/2.
    for title, value, name in (
        ("average performance", (0.5125 + 0.78) / 2, "average_performance/cw"),
        ("performance at the boundary", (0.5 + 0.8) / 2, "average_performance/boundary"),
        ("forgetting", (0.975 - 0.5125) / 2, "forgetting/cw"),
        ("forgetting at the boundary", (1 - 0.5) / 2, "forgetting/boundary"),
    ):
        assert f"| {title} | {number(value)} | `{name}` |" in text
    assert "forward_transfer" not in text  # it needs other runs


def test_a_task_that_was_not_measured_has_no_score(
    tmp_path: Path, make_scenario: Callable[..., Scenario]
) -> None:
    first = cut(make_scenario(), 50)  # as a trial of a tuning
    (folder,) = prepare(tmp_path, first)
    assert run_cell(folder, lambda progress: None)
    text = (folder.path / "README.md").read_text("utf-8")
    assert "| right | n/a | n/a | n/a | 0 |" in text


def test_a_full_disk_spares_the_run(
    run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: RunFolder) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("holdfast.continual.training.cell.write_card", full)
    folder = run("ppo", tasks=1, steps=64)
    assert folder.info()["status"] == "finished"
    assert not (folder.path / "README.md").exists()


@pytest.mark.thorough
def test_a_death_while_it_is_written_leaves_nothing_behind(
    tmp_path: Path, make_scenario: Callable[..., Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = prepare(tmp_path, make_scenario())
    half = folder.path / ".README.tmp-elsewhere-1.md"

    def dies(_: RunFolder) -> None:
        half.touch()
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr("holdfast.continual.training.cell.write_card", dies)
        with pytest.raises(Interrupted):
            run_cell(folder, lambda progress: None)
    assert folder.info()["status"] == "running"
    assert run_cell(folder, lambda progress: None)
    assert folder.info()["status"] == "finished"
    assert (folder.path / "README.md").exists()
    assert not half.exists()


def test_names_cannot_end_the_code_they_stand_in() -> None:
    from holdfast.continual.results.formatting import coded, fenced, plain

    assert coded("a`b|c") == "`` a`b\\|c ``"
    assert fenced("x\n```\n<script>", "yaml") == "````yaml\nx\n```\n<script>\n````"
    assert plain("\x1b[31mred") == "\ufffd\\[31mred"
