import io
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from result_tables import rows
from study import write_study

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.reports.report import report
from holdfast.continual.results import formatting
from holdfast.continual.results.heat_map import heat_map
from holdfast.continual.results.study import gather, spread
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import UsageError


def test_the_means_worked_by_hand(runs: Path) -> None:
    found = report(runs)
    table = rows(found.markdown, "Means and deviations")
    assert list(table) == ["method", "---", "naive", "ewc", "isolated"]
    assert table["method"] == [
        "seeds",
        "average performance",
        "forgetting",
        "forward transfer",
        "backward transfer",
        "area under the curve",
        "plasticity",
    ]
    # performance: seed 0 (.3 + .7)/2 = .5, seed 1 (.4 + .9)/2 = .65; forgetting .3 and .2;
    # forward transfer over the mean references .8 and .7: seed 0 (.1/.2 + 0)/2 = .25, seed 1
    # (0 + .2/.3)/2 = .33; their mean is that of means, (.05/.2 + .1/.3)/2 = .29
    assert table["naive"] == [
        "2",
        "0.57 ± 0.11",
        "0.25 ± 0.07",
        "0.29 ± 0.06",
        "-0.50 ± 0.14",
        "0.83 ± 0.04",
        "0.83 ± 0.04",
    ]
    # The reference itself: 0 on average; seed 0 is (0 - .1/.3)/2, seed 1 as far above.
    assert table["isolated"][3] == "0.00 ± 0.24"
    assert "With 2 seeds, small differences mean nothing. Bootstrap intervals" in found.markdown
    assert "add `isolated`" not in found.markdown
    assert found.folder == runs
    assert (runs / "report.md").read_text(encoding="utf-8") == found.markdown


@pytest.mark.parametrize(("best", "told"), [(4, "reached more than 0.04 in any task"), (6, "")])
def test_where_nothing_was_learned_that_is_said(
    best: int, told: str, tmp_path: Path, make_scenario, finish
) -> None:
    """Not from the end alone: what was learned and forgotten is something else."""
    (folder,) = prepare(tmp_path, make_scenario(methods=["naive"], seeds=[0]))
    finish(folder, [(0, 0), (best, 0), (1, 1)])
    text = report(tmp_path / "demo").markdown
    assert told in text
    assert ("Nothing was learned" in text) == bool(told)


def test_the_summary_worked_by_hand(runs: Path) -> None:
    text = report(runs).markdown
    table = rows(text, "Results")
    assert table["method"] == [
        *("seeds", "average performance", "forgetting", "forward transfer"),
        *("gain over naive", "P(better than naive)", "p (Holm)"),
    ]
    # Resamples hold seed 0 twice, seed 1 twice, or each once. Performance .5 and .65, forgetting .3
    # and .2; transfer of seed 0 alone (.1/.2 + .1/.4)/2 = .38, of seed 1 alone (0 + .1/.2)/2 = .25.
    assert table["naive"] == [
        *("2", "0.57 [0.50, 0.65]", "0.25 [0.20, 0.30]", "0.29 [0.25, 0.38]"),
        *("", "", ""),
    ]
    # .8 and .9 against .5 and .65, seed by seed .3 and .25 more (.275); always better.
    assert table["ewc"][0:2] == ["2", "0.85 [0.80, 0.90]"]
    assert table["ewc"][4:6] == ["0.27 [0.25, 0.30]", "1.00 [1.00, 1.00]"]
    # Two of the six ways to part four runs are that far apart: p is 1/3, twice that by Holm.
    assert table["ewc"][6] == "0.667"
    # .45 and .55 against .5 and .65: better in one of four pairs; four of six ways, p is 2/3.
    assert table["isolated"][4:] == ["-0.07 [-0.10, -0.05]", "0.25 [0.00, 0.25]", "0.667"]
    assert "corrected by Holm for 2 comparisons with naive" in text
    possible = (
        "With 2 seeds no p-value can be below 0.333, which Holm's correction for 2 comparisons"
    )
    assert f"{possible} makes 0.667: no method can reach 0.05" in text


@pytest.mark.thorough
def test_it_is_said_what_the_corrected_test_can_find(tmp_path: Path, make_scenario, finish) -> None:
    """Five seeds: 2/252 of each comparison, which six survive and seven do not."""
    for count, said in (
        (6, "makes 0.048."),
        (7, "makes 0.056: no method can reach 0.05, however large its gain."),
    ):
        strengths = [{"ewc": {"strength": 10.0 + k}} for k in range(count)]
        scenario = make_scenario(
            name=f"of-{count}", methods=["naive", *strengths], seeds=list(range(5))
        )
        for folder in prepare(tmp_path, scenario):
            better = 0 if folder.label == "naive" else 30
            finish(folder, [(0, 0), (50, 0), (20 + better + folder.seed, 50)])
        text = report(tmp_path / f"of-{count}").markdown
        assert "With 5 seeds no p-value can be below 0.008, which Holm's correction for" in text
        assert said in text
        table = rows(text, "Results")
        p = {"0.048"} if count == 6 else {"0.056"}
        assert {row[-1] for label, row in table.items() if label.startswith("ewc")} == p


def test_seeds_of_the_baseline_that_are_not_there_are_counted(runs: Path) -> None:
    RunFolder(runs / "naive" / "seed-1").update(status="failed")
    table = rows(report(runs).markdown, "Results")
    assert table["ewc"][4:] == ["0.30 (1 of 2)", "1.00 (1 of 2)", "n/a"]


def test_boundary_values_stand_beside_those_of_a_window(tmp_path: Path, make_scenario) -> None:
    folder = write_study(
        tmp_path, methods=2, seeds=2, tasks=2, points=40, episodes=4
    )  # 20 points a task: a window of two
    text = report(folder).markdown
    heads = rows(text, "Results")["method"]
    assert heads[1:5] == [
        *("average performance", "performance at the boundary"),
        *("forgetting", "forgetting at the boundary"),
    ]
    ends = {}
    for seed in range(2):
        record = RunFolder(folder / "naive" / f"seed-{seed}").scores()
        curve = np.zeros((41, 2))
        for episode in record:
            task = int(episode["task"].removeprefix("task-"))
            curve[episode["step"] // 100, task] += episode["success"] / 4
        ends[seed] = curve[-2:].mean(), curve[-1].mean()
    wanted = np.mean(list(ends.values()), axis=0)
    shown = [float(cell.partition(" ")[0]) for cell in rows(text, "Results")["naive"][1:3]]
    assert shown == pytest.approx(wanted.tolist(), abs=0.0051)
    assert "Windows (points averaged, of those in the span): 1: task-0 2 of 20" in text


def test_costs_matrices_and_conventions_are_shown(runs: Path) -> None:
    text = report(runs).markdown
    assert rows(text, "Costs")["method"] == [
        *("wall time", "steps/s", "parameters", "stored", "extra steps", "energy")
    ]
    costs = ["1 min 40 s", "1,234", "5,000", "20.0 kB", "0", "12 Wh"]
    assert rows(text, "Costs")["ewc"] == costs
    matrix = rows(text, "naive")
    assert matrix["at the start"] == ["0.00", "0.00"]
    assert matrix["after 1: left"] == ["**0.85**", "0.10"]
    assert matrix["after 2: right"] == ["0.35", "**0.80**"]
    assert matrix["*forgetting*"] == ["0.50 ± 0.14", "0.00 ± 0.00"]
    assert rows(text, "Returns at the end of the stream")["naive"] == ["35.0 ± 7.07", "80.0 ± 14.1"]
    assert "Success rates" not in text
    assert (
        "Windows (points averaged, of those in the span): 1: left 1 of 1, 2: right 1 of 1." in text
    )
    assert "Score of every task: (return - 0) / (100 - 0)." in text
    assert "- **ewc**: strength x half the distance" in text
    assert "1/N Σ_i [P_i(e_i) - P_i(T)]" in text
    assert "- Versions: holdfast 0.1.0" in text
    assert "- Machines: node (2 cores)" in text


def test_evaluation_episodes_that_were_cut_are_counted(
    tmp_path: Path, make_scenario, finish, make_scores
) -> None:
    """Four episodes at each of three boundaries; 'left' did not end at the last two."""
    whole, cut = prepare(tmp_path, make_scenario(seeds=[0, 1]))
    finish(whole)
    for stage in range(3):
        found = make_scores(stage, 10 * stage, left=50, right=50)
        for score in found:
            if score["task"] == "left" and stage:
                score["cut"] = True
        cut.append(found)
    cut.update(status="finished")
    text = report(tmp_path / "demo").markdown
    assert (
        "- 4 of 24 evaluation episodes did not end within `evaluation.most_steps` and were cut "
        "there (left 4): their returns are of so many steps."
    ) in text
    assert "were cut there" not in report(whole.path).markdown


def test_unfinished_cells_are_listed_and_never_averaged(runs: Path, make_scores) -> None:
    RunFolder(runs / "ewc" / "seed-1").update(status="failed", reason="it | raised\nValueError")
    (runs / "naive" / "seed-1" / "scores.jsonl").write_text('{"stage": 0}\n', encoding="utf-8")
    RunFolder(runs / "isolated" / "seed-1").truncate(0)
    text = report(runs).markdown
    table = rows(text, "Results")
    assert table["naive"][:2] == ["1 of 2", "0.50"]
    assert table["ewc"][:2] == ["1 of 2", "0.80"]
    assert table["ewc"][4:] == ["0.30", "1.00", "n/a"]  # of the one seed that both have
    assert "With 1 seed there is no interval and no p-value" in text
    assert table["isolated"][0] == "1 of 2"
    missing = text.split("## Not in these numbers\n")[1].split("\n#")[0]
    assert "- ewc, seed-1: failed: it \\| raised ValueError" in missing
    assert "- naive, seed-1: " in missing
    assert "scores.jsonl:1: lacks" in missing
    assert "- isolated, seed-1: finished, but evaluation points are missing" in missing


def test_a_seed_without_reference_is_counted(runs: Path) -> None:
    RunFolder(runs / "isolated" / "seed-1").update(status="running")
    text = report(runs).markdown
    # Seed 1 counts, too: (.85 - .8)/.2 and (.8 - .6)/.4 over the one reference.
    assert rows(text, "Results")["naive"][3] == "0.38 (reference of 1 of 2)"
    said = "Seeds without a single-task reference of their own: naive 1; ewc 1."
    assert said in text
    assert "running, or killed; running the scenario again continues it" in text
    assert "add `isolated` to `methods:`" not in text  # it is there, and a seed is missing


def test_nothing_finished_is_a_report_too(tmp_path: Path, make_scenario) -> None:
    prepare(tmp_path, make_scenario(seeds=[0, 1]))
    text = report(tmp_path / "demo").markdown
    assert rows(text, "Results")["naive"] == ["0 of 2", *["n/a"] * 3]
    assert "- naive, seed-1: not started" in text
    assert not (tmp_path / "demo" / "report.png").exists()


@pytest.mark.thorough
def test_a_method_and_a_cell_find_their_reference(runs: Path) -> None:
    text = report(runs / "ewc").markdown
    assert rows(text, "Results")["ewc"][3] == rows(report(runs).markdown, "Results")["ewc"][3]
    cell = report(runs / "naive" / "seed-0")
    assert rows(cell.markdown, "Results")["naive"][:4] == [
        "1",
        "0.50",
        "0.30",
        "0.25",
    ]  # all references
    assert (runs / "naive" / "seed-0" / "report.png").exists()


def test_a_reference_of_another_scenario_is_none(runs: Path, make_scenario) -> None:
    foreign = make_scenario(methods=["isolated"], n_envs=2)
    (runs / "isolated" / "seed-0" / "scenario.yaml").write_text(foreign.to_yaml(), "utf-8")
    shown = rows(report(runs / "naive").markdown, "Results")["naive"][3]
    # The one reference has .8 and .8, the means are .85 and .8.
    assert shown == "0.13 (reference of 1 of 2)"


def test_raw_returns_are_said_to_be_raw(tmp_path: Path, make_scenario, finish) -> None:
    scenario = make_scenario(methods=["naive", "isolated"], score=None)
    for folder in prepare(tmp_path, scenario):
        finish(folder)
    text = report(tmp_path / "demo").markdown
    assert "The numbers are raw returns" in text
    table = rows(text, "Results")
    assert table["naive"][:4] == ["1", "50.0", "30.0", "n/a"]
    assert report(tmp_path / "demo").studies[0].summary.methods[0].optimality_gap is None
    assert "Score of every task: the return itself." in text


def test_success_rates_and_unseen_tasks_are_shown(
    tmp_path: Path, make_scenario, make_scores
) -> None:
    (folder,) = prepare(tmp_path, make_scenario(score="success"))
    for stage, rates in enumerate([(0, 0), (1, 0), (0.5, 1)]):
        scores = make_scores(stage, 10 * stage, left=50, right=50)
        for score in scores:
            score["success"] = float(rates[score["task"] == "right"])
            score["unseen"] = stage == 0
        folder.append(scores)
    folder.update(status="finished")
    text = report(tmp_path / "demo").markdown
    assert rows(text, "Success rates at the end")["naive"] == ["0.50", "1.00"]
    assert rows(text, "naive")["at the start"] == ["(0.00)", "(0.00)"]
    assert rows(text, "Costs")["naive"] == ["n/a"] * 5


def test_names_from_files_cannot_break_the_tables() -> None:
    assert formatting.plain("a|b *c* [d](e)\n<script>") == ("a\\|b \\*c\\* \\[d\\](e) &lt;script>")


@pytest.mark.thorough
def test_the_figure_has_a_panel_for_each_method(runs: Path) -> None:
    report(runs / "naive")
    report(runs)
    with Image.open(runs / "naive" / "report.png") as one, Image.open(runs / "report.png") as all_:
        assert one.width == all_.width == 1350
        assert all_.height > one.height + 400
        pixels = np.asarray(all_.convert("RGB")).reshape(-1, 3)
    for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):  # a line for each task
        assert (pixels == colour).all(axis=1).sum() > 500


def test_a_heat_map_of_any_range() -> None:
    image, width, height = heat_map(
        [[np.nan, -3.0], [500.0, 0.2]], rows=["at the start", "a"], columns=["a", "b"]
    )
    with Image.open(io.BytesIO(image)) as picture:
        assert picture.size == (width, height)
        colours = {colour: count for count, colour in picture.convert("RGB").getcolors(1 << 16)}
    lowest, highest = colours[0, 34, 78], colours[254, 232, 56]
    assert abs(lowest - highest) < 500  # a cell of each, apart from its number
    assert min(lowest, highest) > 64 * 34 * 0.65


def test_a_score_that_is_not_known_is_left_blank() -> None:
    def blank(values: list[list[float]]) -> int:
        image, *_ = heat_map(values, rows=["a"], columns=["b", "c"])
        with Image.open(io.BytesIO(image)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        return int((pixels == 255).all(axis=-1).sum())

    assert blank([[np.nan, 1.0]]) - blank([[1.0, 1.0]]) == 64 * 34  # black numbers


def test_results_keep_the_order_of_the_scenario(runs: Path) -> None:
    found = gather(runs)
    assert found.folders == (runs,)
    assert [method.label for method in found.methods] == ["naive", "ewc", "isolated"]
    assert_allclose(
        found.methods[0].over_seeds(lambda cell: cell.metrics["forgetting/cw"]), [0.3, 0.2]
    )


def test_spread_leaves_out_nan() -> None:
    mean, deviation = spread(np.array([[1.0, np.nan, np.nan], [3.0, 2.0, np.nan]]))
    assert_allclose(mean, [2, 2, np.nan])
    assert_allclose(deviation, [2**0.5, np.nan, np.nan])


def test_no_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run folders"):
        report(tmp_path)
