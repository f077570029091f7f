"""Several folders, and what is wrong with them."""

import shutil
from pathlib import Path

import pytest
from result_tables import rows

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.reports.report import report
from holdfast.continual.results.study import gather
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import UsageError


@pytest.mark.thorough
def test_folders_of_one_scenario_are_taken_together(tmp_path: Path, make_scenario, finish) -> None:
    for root, seeds in (("one", [0]), ("two", [1])):
        scenario = make_scenario(methods=["naive", "ewc", "isolated"], seeds=seeds)
        for folder in prepare(tmp_path / root, scenario):
            finish(folder)
    scenario = make_scenario(methods=["naive", "ewc", "isolated"], seeds=[0, 1])
    for folder in prepare(tmp_path / "whole", scenario):
        finish(folder)
    apart = report(tmp_path / "one" / "demo", tmp_path / "two" / "demo")
    whole = report(tmp_path / "whole" / "demo")
    for heading in ("Results", "Means and deviations"):
        assert rows(apart.markdown, heading) == rows(whole.markdown, heading)
    assert apart.folder == tmp_path
    assert (tmp_path / "report.csv").read_text() == (
        tmp_path / "whole" / "demo" / "report.csv"
    ).read_text()
    # A reference in another folder is found, too.
    split = gather(tmp_path / "one" / "demo" / "naive", tmp_path / "one" / "demo" / "isolated")
    assert [method.label for method in split.methods] == ["naive", "isolated"]
    assert list(split.methods[0].cells[0].references) == [0]


def test_other_scenarios_have_a_section_each(tmp_path: Path, make_scenario, finish) -> None:
    for name in ("first", "second"):
        for folder in prepare(tmp_path, make_scenario(name=name, methods=["naive", "ewc"])):
            finish(folder)
    made = report(tmp_path / "first", tmp_path / "second", into=tmp_path / "out" / "put")
    assert made.folder == tmp_path / "out" / "put"
    assert made.files == (
        *("report.md", "report.html", "report.csv", "report-points.csv", "report.tex"),
        *("report-first.png", "report-first.svg", "report-second.png", "report-second.svg"),
    )
    assert all((made.folder / name).stat().st_size > 100 for name in made.files)
    assert made.markdown.startswith("# Report of first, second\n")
    assert made.markdown.count("\n### Results\n") == 2
    assert "(report-second.png)" in made.markdown
    assert not (tmp_path / "first" / "report.md").exists()
    with pytest.raises(UsageError, match="several scenarios: first, second"):
        gather(tmp_path / "first", tmp_path / "second")


def test_scenarios_that_differ_under_one_name_are_refused(
    tmp_path: Path, make_scenario, finish
) -> None:
    for root, n_envs in (("one", 1), ("two", 2)):
        for folder in prepare(tmp_path / root, make_scenario(n_envs=n_envs)):
            finish(folder)
    both = [tmp_path / "one" / "demo", tmp_path / "two" / "demo"]
    with pytest.raises(UsageError, match="different scenarios of one name") as refused:
        report(*both)
    for text in (*map(str, both), "-n_envs: 1", "+n_envs: 2"):
        assert text in str(refused.value)
    assert not list(tmp_path.glob("**/report.*"))


def test_the_same_cell_twice_is_refused(tmp_path: Path, make_scenario, finish) -> None:
    for root in ("one", "two"):
        for folder in prepare(tmp_path / root, make_scenario()):
            finish(folder)
    with pytest.raises(UsageError, match="are the same cell; leave one of them out"):
        report(tmp_path / "one" / "demo", tmp_path / "two" / "demo")
    again = report(tmp_path / "one" / "demo", tmp_path / "one" / "demo")  # named twice, read once
    assert rows(again.markdown, "Results")["naive"][0] == "1"


def test_a_cell_of_another_scenario_is_marked(runs: Path, make_scenario) -> None:
    foreign = make_scenario(methods=["ewc"], seeds=[1], n_envs=2)
    (runs / "ewc" / "seed-1" / "scenario.yaml").write_text(foreign.to_yaml(), "utf-8")
    text = report(runs).markdown
    assert rows(text, "Results")["ewc"][:2] == ["1 of 2", "0.80"]
    assert "- ewc, seed-1: it is of a different scenario than naive/seed-0: -n" in text
    assert "+n\\_envs: 2" in text or "+n_envs: 2" in text


@pytest.mark.thorough
def test_a_sweep_is_compared_point_by_point(tmp_path: Path, make_scenario, finish) -> None:
    """Cells of other points have other scenarios; run.json names what is swept."""
    for rate, better in ((0.001, 0.0), (0.01, 5.0)):
        scenario = make_scenario(
            methods=["naive", "ewc", "isolated"],
            agent={"algorithm": "ppo", "learning_rate": rate},
        )
        for cell in scenario.cells():
            path = tmp_path / "demo" / f"{cell.label}-learning_rate={rate}" / "seed-0"
            swept = {"agent.learning_rate": rate}
            own = RunFolder.create(path, scenario.only(cell), sweep=swept)
            left, right = {"naive": (30, 70), "ewc": (40, 60), "isolated": (90, 90)}[cell.label]
            finish(own, [(0, 0), (80, 10), (left + better, right + better)])
    (study,) = report(tmp_path / "demo").studies
    methods = {method.label: method for method in study.summary.methods}
    assert all(not method.missing for method in methods.values())
    for rate in (0.001, 0.01):
        ewc = methods[f"ewc-learning_rate={rate}"]
        assert ewc.comparison is not None
        assert ewc.comparison.difference.value == pytest.approx(0)  # to the same point's naive
        assert ewc.measures["forward_transfer/cw"].estimate.seeds == 1
        assert methods[f"naive-learning_rate={rate}"].comparison is None


def test_a_cell_whose_folder_is_not_there_is_marked(runs: Path) -> None:
    shutil.rmtree(runs / "ewc" / "seed-1")
    text = report(runs).markdown
    assert rows(text, "Results")["ewc"][0] == "1 of 2"
    assert "- ewc, seed-1: there is no such folder" in text


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("run.json", "{", "not JSON"),
        ("run.json", "[]", "holds list, not a JSON object"),
        ("scenario.yaml", "tasks: 3", "cannot be read as a scenario"),
        ("scores.jsonl", '{"stage": 0', "evaluation points are missing"),
        ("scores.jsonl", "{\n", "scores.jsonl:1: not JSON"),
        ("plasticity.json", "{", "plasticity.json"),
    ],
)
@pytest.mark.parametrize("seed", ["seed-0", "seed-1"])
def test_a_damaged_cell_is_named_and_the_others_are_reported(
    runs: Path, name: str, content: str, what: str, seed: str
) -> None:
    (runs / "ewc" / seed / name).write_text(content, encoding="utf-8")
    text = report(runs).markdown
    assert rows(text, "Results")["ewc"][0] == "1 of 2"
    (line,) = [line for line in text.splitlines() if line.startswith(f"- ewc, {seed}: ")]
    assert what in line.replace("\\", "")


def test_a_task_that_the_scenario_has_not_is_damage(runs: Path, make_scores) -> None:
    RunFolder(runs / "ewc" / "seed-0").append(make_scores(2, 20, up=3))
    text = report(runs).markdown
    assert "do not fit together (no task 'up')" in text


def test_an_empty_folder_beside_others_stops_all(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run folders in .*nothing"):
        report(runs, tmp_path / "nothing")
    assert not (runs / "report.md").exists()


def test_a_report_that_cannot_be_written_says_so(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match="cannot be written to"):
        report(runs, into=tmp_path / "taken")
