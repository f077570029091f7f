import ast
import doctest
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from holdfast.continual.results import curves, metrics, statistics
from holdfast.continual.results.curves import Curves, Span

NAN = float("nan")


def run_of_two(every: int = 1, points: int = 10) -> Curves:
    """Task 0 rises to 1 in steps 0..10 and falls by 0.05 a step after; task 1 rises to 1 later."""
    steps = np.arange(0, 2 * points + 1, every)
    first = np.where(steps <= points, steps / points, 1 - 0.05 * (steps - points))
    second = np.where(steps <= points, 0.0, (steps - points) / points)
    return Curves(
        steps, np.stack([first, second], axis=1), (Span(0, points, 0), Span(points, 2 * points, 1))
    )


def boundary_run(matrix: list[list[float]], tasks: list[int], **unit: str) -> Curves:
    """Evaluated at boundaries alone; stage k trains tasks[k] for 10 steps."""
    spans = tuple(Span(10 * k, 10 * k + 10, task) for k, task in enumerate(tasks))
    steps = np.arange(len(matrix)) * 10
    return Curves(steps, np.array(matrix), spans, **unit)  # type: ignore[arg-type]  # a literal


def test_doctests() -> None:
    result = doctest.testmod(metrics)
    assert result.attempted > 10
    assert result.failed == 0


def test_imports_numpy_and_the_standard_library_only() -> None:
    found = set()
    for module in (metrics, curves, statistics):
        for node in ast.parse(Path(module.__file__).read_text()).body:  # not under TYPE_CHECKING
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module))
    names = {name for name in found if name.partition(".")[0] not in sys.stdlib_module_names}
    assert names == {"numpy", "numpy.typing", "holdfast.continual.results.curves"}


@pytest.mark.parametrize(
    ("points", "wanted"), [(1, 1), (8, 1), (10, 1), (19, 1), (20, 2), (50, 5), (100, 10)]
)
def test_a_window_is_a_tenth_of_a_spans_points(points: int, wanted: int) -> None:
    run = run_of_two(points=points)
    assert [curves.window(run, span) for span in run.spans] == [wanted, wanted]
    # Task 0 ends its span at 1, 1 - 1/points, ...; task 1 likewise.
    ends = 1 - np.arange(wanted) / points
    assert_allclose(curves.at_end(run, run.spans[0])[0], ends.mean())
    assert_allclose(metrics.performance(run)[1], ends.mean())
    # In the second span task 0 loses 0.05 a step.
    fallen = 1 - 0.05 * (points - np.arange(wanted))
    assert_allclose(metrics.performance(run)[0], fallen.mean())
    assert_allclose(metrics.forgetting(run), [ends.mean() - fallen.mean(), 0.0], atol=1e-12)
    assert_allclose(metrics.boundary_performance(run), [1 - 0.05 * points, 1.0])
    found = metrics.summary(run)
    assert_allclose(found["average_performance/boundary"], 1 - 0.025 * points)
    assert_allclose(found["forgetting/boundary"], 0.025 * points)


def test_windows_never_reach_into_the_task_before() -> None:
    run = Curves(np.array([0, 10, 20]), np.zeros((3, 2)), (Span(0, 10, 0), Span(10, 15, 1)))
    assert [curves.window(run, span) for span in run.spans] == [1, 0]
    assert np.isnan(metrics.performance(run)).all()  # nothing was measured inside the last span


def test_auc_excludes_the_start_and_includes_the_end() -> None:
    run = run_of_two()
    assert_allclose(metrics.auc(run), [0.55, 0.55])  # mean of .1 .. 1


def test_summary_worked_by_hand() -> None:
    run = boundary_run(
        [[0.0, 0.1, 0.0], [0.9, 0.2, 0.1], [0.5, 0.8, 0.0], [0.3, 0.6, 1.0]], [0, 1, 2]
    )
    alone = boundary_run([[0, 0, 0], [0.8, 0, 0], [0, 0.6, 0], [0, 0, 0.5]], [0, 1, 2])
    found = metrics.summary(run, [alone])
    assert set(found) == set(metrics.FORMULAS)
    assert_allclose(found["average_performance/cw"], (0.3 + 0.6 + 1.0) / 3)
    assert_allclose(found["forgetting/cw"], (0.6 + 0.2 + 0.0) / 3)
    # (0.9 - 0.8)/0.2 = 0.5, (0.8 - 0.6)/0.4 = 0.5, (1 - 0.5)/0.5 = 1
    assert_allclose(found["forward_transfer/cw"], 2 / 3)
    assert_allclose(found["backward_transfer/gem"], -(0.6 + 0.2) / 2)
    assert_allclose(found["auc/cw"], 0.9)


def test_a_true_zero_is_a_zero() -> None:
    found = metrics.summary(boundary_run([[0, 0], [0, 0], [0, 0]], [0, 1]))
    assert found["average_performance/cw"] == 0.0
    assert found["forgetting/cw"] == 0.0
    assert found["backward_transfer/gem"] == 0.0


def test_na_is_nan() -> None:
    run = boundary_run([[0, 0], [1, NAN], [1, NAN]], [0, 1])
    found = metrics.summary(run)
    assert np.isnan(found["average_performance/cw"])  # one task is missing
    assert np.isnan(found["forward_transfer/cw"])  # no reference
    one = boundary_run([[0.0], [1.0]], [0])
    assert np.isnan(metrics.summary(one)["backward_transfer/gem"])
    assert np.isnan(metrics.summary(one)["forgetting/cw"])  # nothing could be forgotten


def test_forward_transfer_is_undefined_without_room() -> None:
    run = boundary_run([[0, 0], [0.5, 0], [0.5, 0.5]], [0, 1])
    alone = boundary_run([[0, 0], [1.0, 0], [0, 1.2]], [0, 1])
    assert np.isnan(metrics.forward_transfer(run, [alone])).all()


def test_raw_returns_have_no_forward_transfer_and_mixed_units_no_average() -> None:
    raw = boundary_run([[0, 0], [50, 0], [50, 80]], [0, 1], unit="return")
    assert np.isnan(metrics.summary(raw, [raw])["forward_transfer/cw"])
    assert metrics.summary(raw)["average_performance/cw"] == 65.0
    mixed = boundary_run([[0, 0], [1, 0], [1, 80]], [0, 1], unit="mixed")
    assert all(np.isnan(value) for value in metrics.summary(mixed, [mixed]).values())
    assert_allclose(metrics.performance(mixed), [1, 80])


def test_forward_transfer_refuses_another_stream() -> None:
    run = boundary_run([[0, 0], [1, 0], [1, 1]], [0, 1])
    for other in ([0, 0], [0]):
        values = np.zeros((len(other) + 1, 2)).tolist()
        with pytest.raises(ValueError, match="two streams"):
            metrics.forward_transfer(run, [run, boundary_run(values, other)])
    turned = boundary_run([[0, 0], [0, 0.5], [0.5, 0]], [1, 0])  # alone, an order is none
    assert_allclose(metrics.forward_transfer(run, [turned]), [1.0, 1.0])


def test_repeated_tasks_forget_from_the_last_training_and_gain_over_the_first() -> None:
    run = boundary_run([[0, 0], [0.5, 0], [0.1, 0.6], [0.9, 0.2], [0.7, 0.8]], [0, 1, 0, 1])
    assert_allclose(metrics.forgetting(run), [0.2, 0.0], atol=1e-12)
    assert_allclose(metrics.auc(run), [0.5, 0.6])
    assert_allclose(metrics.summary(run)["backward_transfer/gem"], -0.2)
    assert curves.trained(run) == (0, 1)


def test_tasks_that_are_only_evaluated_stay_out_of_the_averages() -> None:
    run = boundary_run([[0, 0.3], [0.8, 0.1]], [0])
    found = metrics.summary(run)
    assert found["average_performance/cw"] == 0.8
    assert np.isnan(found["forgetting/cw"])
    assert_allclose(metrics.performance(run), [0.8, 0.1])
    assert np.isnan(metrics.forgetting(run)[1])


def test_until_shows_the_metrics_of_the_tasks_so_far() -> None:
    run = boundary_run([[0.0, 0.1], [0.9, 0.2], [0.3, 0.6]], [0, 1])
    first = curves.until(run, 1)
    assert metrics.summary(first)["average_performance/cw"] == 0.9
    assert curves.matrix(first).shape == (2, 2)
    nothing = curves.until(run, 0)
    assert np.isnan(metrics.summary(nothing)["average_performance/cw"])
    assert_allclose(curves.matrix(nothing), [[0.0, 0.1]])


def test_matrix_takes_boundaries_and_leaves_the_unmeasured_nan() -> None:
    run = run_of_two(every=5)
    assert_allclose(curves.matrix(run), [[0, 0], [1, 0], [0.5, 1]])
    cut = Curves(run.steps[:4], run.values[:4], run.spans)
    assert np.isnan(curves.matrix(cut)[2]).all()
    assert np.isnan(metrics.summary(cut)["backward_transfer/gem"])


def test_curves_average_episodes_and_normalise(make_scenario, make_scores) -> None:
    scenario = make_scenario(score={"random": 20, "reference": 120})
    scores = [
        *make_scores(1, 10, left=120, right=20),
        *make_scores(0, 0, left=20, right=-80),
        *make_scores(2, 20, left=70, right=220),
    ]
    found = curves.curves(scores, scenario)
    assert found.steps.tolist() == [0, 10, 20]
    assert_allclose(found.values, [[0, -1], [1, 0], [0.5, 2]])  # unclipped
    assert found.spans == (Span(0, 10, 0), Span(10, 20, 1))
    assert found.unit == "score"
    raw = curves.curves(scores, scenario, "return")
    assert raw.unit == "return"
    assert_allclose(raw.values[0], [20, -80])


def test_curves_of_successes(make_scenario, make_scores) -> None:
    scenario = make_scenario(score="success")
    scores = make_scores(0, 0, left=5, right=5)
    for score, success in zip(scores, (1.0, 0.0, 1.0, None), strict=True):
        score["success"] = success
    found = curves.curves(scores, scenario)
    assert_allclose(found.values, [[0.5, NAN]])  # one episode of `right` reports no success
    assert found.unit == "score"


def test_a_tasks_own_score_comes_first_and_none_means_raw(make_scenario, make_scores) -> None:
    tasks = [
        {
            "name": "left",
            "env": "CartPole-v1",
            "steps": 10,
            "score": {"random": 0, "reference": 10},
        },
        {"name": "right", "env": "CartPole-v1", "steps": 10},
    ]
    scores = make_scores(0, 0, left=5, right=5)
    both = curves.curves(scores, make_scenario(tasks=tasks))
    assert_allclose(both.values, [[0.5, 0.05]])
    some = curves.curves(scores, make_scenario(tasks=tasks, score=None))
    assert_allclose(some.values, [[0.5, 5.0]])
    assert some.unit == "mixed"
    none = curves.curves(scores, make_scenario(score=None))
    assert none.unit == "return"


def test_evaluation_of_seen_tasks_leaves_nan(make_scenario, make_scores) -> None:
    scores = [
        *make_scores(0, 0, left=0),
        *make_scores(1, 10, left=100),
        *make_scores(2, 20, left=50, right=80),
    ]
    found = curves.curves(scores, make_scenario())
    assert_allclose(found.values, [[0, NAN], [1, NAN], [0.5, 0.8]])
    summary = metrics.summary(found)
    assert_allclose(summary["average_performance/cw"], 0.65)
    assert_allclose(summary["forgetting/cw"], 0.25)


def test_the_boundary_counts_where_a_dense_point_has_the_same_step(
    make_scenario, make_scores
) -> None:
    scores = [*make_scores(1, 10, left=30, right=0), *make_scores(0, 10, left=90, right=0)]
    found = curves.curves(scores, make_scenario())
    assert_allclose(curves.matrix(found)[1], [0.3, 0])


def test_unseen_marks_boundaries(make_scenario, make_scores) -> None:
    scores = [
        *make_scores(0, 0, right=0),
        *make_scores(1, 10, right=0),
        *make_scores(1, 15, right=0),
    ]
    for score in scores:
        score["unseen"] = score["step"] != 10
    found = curves.unseen(scores, make_scenario())
    assert found.tolist() == [[False, True], [False, False], [False, False]]


def test_curves_refuse_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="rows of values"):
        Curves(np.array([0]), np.zeros((2, 1)), ())
    with pytest.raises(ValueError, match="never fall"):
        Curves(np.array([5, 0]), np.zeros((2, 1)), ())
    with pytest.raises(ValueError, match="do not fit"):
        Curves(np.array([0]), np.zeros((1, 1)), (Span(0, 10, 1),))


def test_plasticity_less_forgetting_is_average_performance() -> None:
    found = metrics.summary(run_of_two())
    assert_allclose(found["plasticity/cw"], 1.0)
    assert_allclose(
        found["plasticity/cw"] - found["forgetting/cw"], found["average_performance/cw"]
    )


def test_the_stability_gap_worked_by_hand() -> None:
    # Task 0 falls from 0.8 to 0.1 right after the switch, and is back at 0.7 in the end.
    steps = np.array([0, 5, 10, 12, 20, 25, 30])
    first = [0.0, 0.4, 0.8, 0.1, 0.6, 0.5, 0.7]
    second = [0.0, 0.0, 0.1, 0.5, 0.9, 0.3, 0.6]
    third = [0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 1.0]
    spans = (Span(0, 10, 0), Span(10, 20, 1), Span(20, 30, 2))
    run = Curves(steps, np.array([first, second, third]).T, spans)
    assert_allclose(metrics.min_acc(run), [0.1, 0.3, NAN])
    assert_allclose(metrics.stability_gap(run), [0.7, 0.6, NAN])
    found = metrics.summary(run)
    assert_allclose(found["min_acc/dense"], 0.2)
    assert_allclose(found["stability_gap/dense"], 0.65)
    # Without a point inside the last span what happened there is not known.
    sparse = Curves(steps[[0, 1, 2, 3, 4, 6]], run.values[[0, 1, 2, 3, 4, 6]], spans)
    assert np.isnan(metrics.summary(sparse)["min_acc/dense"])
    assert np.isnan(metrics.min_acc(sparse)).all()


def test_recovery_time_worked_by_hand() -> None:
    spans = (Span(0, 10, 0), Span(10, 20, 1), Span(20, 30, 0), Span(30, 40, 1), Span(40, 50, 0))
    steps = np.array([0, 10, 20, 25, 30, 35, 40, 45, 50])
    first = [0.0, 0.8, 0.2, 0.5, 0.8, 0.1, 0.9, 0.9, 0.9]
    second = [0.0, 0.0, 0.9, 0.2, 0.1, 0.3, 0.4, 0.0, 0.0]
    run = Curves(steps, np.array([first, second]).T, spans)
    # Task 0: P is 0.8 at 10, reached again 10 steps into the visit and at the start of the one at
    # 40. Task 1: 0.9 is not reached in its 10 steps.
    assert_allclose(metrics.recovery_time(run), [5, 11])
    assert_allclose(metrics.summary(run)["recovery_time/steps"], 8)
    assert np.isnan(metrics.summary(run_of_two())["recovery_time/steps"])  # no task comes again
    at = [0, 1, 2, 4, 6, 8]
    assert np.isnan(metrics.recovery_time(Curves(steps[at], run.values[at], spans))).all()


def partly_run() -> curves.Curves:
    """Three tasks of which two are measured at a time, the current one among them; all at last."""
    nan = np.nan
    values = [
        [0.0, 0.1, nan],
        [0.8, nan, 0.2],  # 0 is trained
        [0.6, 0.9, nan],  # 1 is trained; inside
        [nan, 0.7, 0.3],  # its end
        [0.4, nan, 0.5],  # 2 is trained; inside
        [0.2, 0.3, 0.9],
    ]
    spans = (curves.Span(0, 10, 0), curves.Span(10, 30, 1), curves.Span(30, 50, 2))
    return curves.Curves(np.array([0, 10, 20, 30, 40, 50]), np.array(values), spans)


def test_metrics_of_tasks_that_take_turns_use_what_was_measured() -> None:
    run = partly_run()
    # A window of one: the last point, at which all are measured.
    assert_allclose(metrics.performance(run), [0.2, 0.3, 0.9])
    assert_allclose(curves.measured_at_end(run, run.spans[-1]), [1, 1, 1])
    assert_allclose(metrics.plasticity(run), [0.8, 0.7, 0.9])
    assert_allclose(metrics.forgetting(run), [0.6, 0.4, 0.0])
    assert_allclose(metrics.summary(run)["forgetting/cw"], 1 / 3)
    assert_allclose(metrics.backward_transfer(run), [-0.6, -0.4, 0.0])
    # Task 0 was measured with .6, .4 and .2 after its training.
    single = curves.Curves(run.steps, run.values, (run.spans[0], *run.spans[1:]))
    assert_allclose(metrics.min_acc(single), [0.2, 0.3, np.nan])


def test_in_mid_stream_what_is_missing_is_estimated_only_where_tasks_take_turns() -> None:
    so_far = curves.until(partly_run(), 2)
    assert np.isnan(metrics.summary(so_far)["average_performance/cw"])  # task 0 was not measured
    assert np.isnan(metrics.summary(so_far, sampled=True)["average_performance/cw"])  # nor others
    # Of three tasks that are trained, one of the two others is measured: it stands for both.
    nan = np.nan
    values = np.array([[0, 0, 0], [0.8, 0, 0], [0.6, 0.7, nan], [nan, 0.4, 0.9]], dtype=float)
    spans = tuple(Span(10 * k, 10 * k + 10, k) for k in range(3))
    run = Curves(np.arange(4) * 10, values, spans)
    assert np.isnan(metrics.summary(run)["average_performance/cw"])
    found = metrics.summary(run, sampled=True)
    assert_allclose(found["average_performance/cw"], (2 * 0.4 + 0.9) / 3)
    assert_allclose(found["forgetting/cw"], 2 * (0.7 - 0.4) / 3)


def test_a_task_not_measured_at_some_point_of_a_window_has_the_mean_of_the_others() -> None:
    values = np.full((21, 1), 0.5)
    values[19:] = [[0.2], [0.8]]
    run = Curves(np.arange(21), values, (Span(0, 20, 0),))
    assert_allclose(metrics.performance(run), [0.5])
    values[19] = NAN
    assert_allclose(metrics.performance(run), [0.8])
    assert_allclose(curves.measured_at_end(run, run.spans[0]), [1])


def test_the_task_trained_last_weighs_once_in_an_estimate() -> None:
    values = np.array([0.2, np.nan, np.nan, 0.4, 0.8])
    assert metrics.estimated(values, last=4) == pytest.approx((4 * 0.3 + 0.8) / 5)
    assert metrics.estimated(values, last=None) == pytest.approx((0.2 + 0.4 + 0.8) / 3)
    assert np.isnan(metrics.estimated(np.array([np.nan, 0.8]), last=1))
    assert metrics.estimated(np.array([0.8]), last=0) == 0.8
