import io
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from tables import rows

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
    # forward transfer: seed 0 ((.9-.8)/.2 + (.7-.6)/.4)/2 = .375, seed 1 (0 + (.9-.8)/.2)/2 = .25
    assert table["naive"] == [
        "2",
        "0.57 ± 0.11",
        "0.25 ± 0.07",
        "0.31 ± 0.09",
        "-0.50 ± 0.14",
        "0.83 ± 0.04",
        "0.83 ± 0.04",
    ]
    assert table["isolated"][3] == "0.00 ± 0.00"
    assert "With 2 seeds, small differences mean nothing. Bootstrap intervals" in found.markdown
    assert "add `isolated`" not in found.markdown
    assert found.folder == runs
    assert (runs / "report.md").read_text(encoding="utf-8") == found.markdown


def test_the_summary_worked_by_hand(runs: Path) -> None:
    text = report(runs).markdown
    table = rows(text, "Results")
    assert table["method"] == [
        *("seeds", "average performance", "forgetting", "forward transfer"),
        *("better than naive", "p (Holm)"),
    ]
    # The middle half of .3 .4 .7 .9; resamples hold seed 0 twice (mean of .3 .7) or seed 1 twice.
    # Forgetting: that of 0 0 .4 .6; of 0 0 .4 .4 and 0 0 .6 .6. Transfer: 0 .25 .5 .5.
    assert table["naive"] == [
        *("2", "0.55 [0.50, 0.65]", "0.20 [0.20, 0.30]", "0.38 [0.25, 0.38]"),
        *("", ""),
    ]
    # Left: .85 .95 against .3 .4, always better; right: .75 .85 against .7 .9, better in half.
    assert table["ewc"][0:2] == ["2", "0.85 [0.80, 0.90]"]
    assert table["ewc"][4] == "0.75 [0.50, 1.00]"
    # Mean ranks 2.5 3.5 against 1 3: two of the six ways to part these are that far apart or
    # farther, so that p is 4/6, and twice that by Holm.
    assert table["ewc"][5] == "1.000"
    assert "corrected by Holm for the 2 methods compared" in text


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


def test_unfinished_cells_are_listed_and_never_averaged(runs: Path, make_scores) -> None:
    RunFolder(runs / "ewc" / "seed-1").update(status="failed", reason="it | raised\nValueError")
    (runs / "naive" / "seed-1" / "scores.jsonl").write_text('{"stage": 0}\n', encoding="utf-8")
    RunFolder(runs / "isolated" / "seed-1").truncate(0)
    text = report(runs).markdown
    table = rows(text, "Results")
    assert table["naive"][:2] == ["1 of 2", "0.50"]
    assert table["ewc"][:2] == ["1 of 2", "0.80"]
    assert table["ewc"][4:] == ["1.00", "n/a"]  # of the one seed that both have
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
    assert rows(text, "Results")["naive"][3] == "0.38 (1 of 2)"
    assert "running, or killed; running the scenario again continues it" in text
    assert "add `isolated` to `methods:`" in text


def test_nothing_finished_is_a_report_too(tmp_path: Path, make_scenario) -> None:
    prepare(tmp_path, make_scenario(seeds=[0, 1]))
    text = report(tmp_path / "demo").markdown
    assert rows(text, "Results")["naive"] == ["0 of 2", *["n/a"] * 3]
    assert "- naive, seed-1: not started" in text
    assert not (tmp_path / "demo" / "report.png").exists()


def test_a_method_and_a_cell_find_their_reference(runs: Path) -> None:
    text = report(runs / "ewc").markdown
    assert rows(text, "Results")["ewc"][3] == rows(report(runs).markdown, "Results")["ewc"][3]
    cell = report(runs / "naive" / "seed-0")
    assert rows(cell.markdown, "Results")["naive"][:4] == ["1", "0.50", "0.30", "0.38"]
    assert (runs / "naive" / "seed-0" / "report.png").exists()


def test_a_reference_of_another_scenario_is_none(runs: Path, make_scenario) -> None:
    foreign = make_scenario(methods=["isolated"], n_envs=2)
    (runs / "isolated" / "seed-0" / "scenario.yaml").write_text(foreign.to_yaml(), "utf-8")
    assert rows(report(runs / "naive").markdown, "Results")["naive"][3] == "0.25 (1 of 2)"


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
