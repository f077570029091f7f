"""Every cell names the same columns, and charts of cells side by side are the same or differ."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cells import finish, interrupting
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import api_pb2, metadata

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.results.curves import curves
from holdfast.continual.results.metrics import FORMULAS, summary
from holdfast.continual.training.dashboard import COLUMNS, METRICS, hyperparameters, layout
from holdfast.continual.training.scoreboard import metric_tag
from holdfast.scenarios.schema.scenario import Scenario

Make = Callable[..., Scenario]


@pytest.mark.parametrize(
    ("agent", "rate", "batch"),
    [
        ({"algorithm": "ppo", "learning_rate": {"linear": [1e-3, 0.0]}}, 1e-3, 64),
        ({"algorithm": "dqn", "batch_size": 8}, 1e-4, 8),
        ({"algorithm": "trpo"}, 1e-3, 128),
    ],
)
def test_numbers_are_those_given_or_the_published_defaults(
    make_scenario: Make, agent: dict[str, Any], rate: float, batch: float
) -> None:
    found = hyperparameters(make_scenario(agent=agent), "ewc-strength=2")
    assert (found["learning_rate"], found["batch_size"]) == (rate, batch)
    assert (found["method"], found["seed"], found["steps"]) == ("ewc-strength=2", "0", 20)
    assert list(found) == list(COLUMNS)


def test_what_an_algorithm_does_not_have_is_left_out(make_scenario: Make) -> None:
    tasks = [{"name": "t", "benchmark": "split-digits", "experience": 0, "steps": 5}]
    made = make_scenario(agent={"algorithm": "supervised"}, tasks=tasks)
    assert set(COLUMNS) - set(hyperparameters(made, "naive")) == {"gamma"}


def test_texts_with_few_known_values_can_have_no_others() -> None:
    """TensorBoard offers fewer than ten known values as boxes, and hides rows of all others."""
    few = {name for name, column in COLUMNS.items() if column.known and len(column.known) < 10}
    assert few == {"normalize", "policies", "task_id"}
    assert sum(column.is_first for column in COLUMNS.values()) == 5


def test_charts_of_one_title_are_alike_in_all_cells(make_scenario: Make) -> None:
    tasks = [{"name": "other", "env": "Pendulum-v1", "steps": 5}]
    cells = [
        make_scenario(),
        make_scenario(methods=[["redo", "agem"]]),
        make_scenario(agent={"algorithm": "sac"}, tasks=tasks, score=None),
    ]
    charts: dict[tuple[str, str], tuple[str, ...]] = {}
    for cell in cells:
        for section, found in layout(cell, has_success=False).items():
            for title, tags in found.items():
                assert charts.setdefault((section, title), tags) == tags
    assert ("Methods", "agem: share of the gradients that was projected") in charts
    assert charts["Methods", "redo: units reset"] == ("(agent/[^/]+/)?method/redo/recycled_",)
    assert "score of every task" not in layout(cells[2], has_success=False)["Tasks"]
    assert "success rate of every task" in layout(cells[2], has_success=True)["Tasks"]


@pytest.mark.thorough
def test_a_continued_cell_is_one_finished_row(make_scenario: Make, tmp_path: Path) -> None:
    tasks = [{"name": name, "env": "CartPole-v1", "steps": 64} for name in ("left", "right")]
    agent = {"algorithm": "ppo", "n_steps": 32, "batch_size": 32}
    (folder,) = prepare(
        tmp_path, make_scenario(tasks=tasks, agent=agent, evaluation={"episodes": 1})
    )
    assert finish(folder, interrupting(100)) == 2
    view = EventAccumulator(str(folder.path / "tb"), size_guidance={"tensors": 0}).Reload()
    for tag in (
        metadata.EXPERIMENT_TAG,
        metadata.SESSION_START_INFO_TAG,
        metadata.SESSION_END_INFO_TAG,
        "custom_scalars__config__",
    ):
        assert len(view.Tensors(tag)) == 1, tag
    content = view.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    assert start.group_name == "demo/naive/seed-0"
    content = view.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    end = metadata.parse_session_end_info_plugin_data(content)
    assert end.status == api_pb2.STATUS_SUCCESS
    charts = Layout.FromString(
        view.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    assert [section.title for section in charts.category] == [
        "Tasks",
        "Continual learning",
        "Plasticity",
    ]
    tags = view.Tags()["scalars"]
    assert set(METRICS) <= set(tags)
    found = summary(curves(folder.scores(), folder.scenario))
    for name in ("average_performance", "forgetting"):
        for tag in (f"{name}/cw", f"{name}/boundary"):
            column = f"continual/{metric_tag(tag)}"
            assert METRICS[column] == FORMULAS[tag].title
            assert view.Scalars(column)[-1].value == pytest.approx(found[tag])
    info = folder.info()
    assert view.Scalars("system/parameters")[-1].value == info["parameters"]
    assert [event.step for event in view.Scalars("task/0_left/score")] == [0, 64, 128]
