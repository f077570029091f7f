"""Statistics: cases worked by hand, coverage on simulated scores, rliable as the oracle."""

import time
import warnings
from types import ModuleType

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from holdfast.continual.results.statistics import (
    Estimate,
    compare,
    estimate,
    holm,
    interquartile_mean,
    mean_band,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)

NAN = float("nan")


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.5, 0.2, size=shape)


@pytest.fixture(scope="module")
def rliable() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        pytest.importorskip("rliable", reason="in the dev group")
        import rliable.library
        import rliable.metrics
    return rliable


def test_interquartile_mean_worked_by_hand() -> None:
    # 8 numbers: two are left out at each end of 0 1 2 3 4 5 9 9
    scores = np.array([[9.0, 0.0], [1.0, 5.0], [4.0, 2.0], [3.0, 9.0]])
    assert interquartile_mean(scores) == (2 + 3 + 4 + 5) / 4
    # 5 numbers: a quarter is 1.25, rounded down
    assert interquartile_mean(np.array([[0.0], [1.0], [2.0], [6.0], [9.0]])) == 3
    assert interquartile_mean(np.array([[1.0, 2.0, 6.0]])) == 3
    assert_allclose(interquartile_mean(np.stack([scores, scores + 1])), [3.5, 4.5])


def test_an_interval_worked_by_hand() -> None:
    # Two seeds, one task: the mean of a resample is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4.
    found = estimate(np.array([[0.0], [1.0]]))
    assert found == Estimate(0.5, 0.0, 1.0, 2)
    # Three seeds of which two are alike: resamples of 0 alone have probability 8/27 > 2.5%, those
    # of 1 alone 1/27 > 2.5%.
    assert estimate(np.array([[0.0], [0.0], [1.0]]))[1:3] == (0.0, 1.0)


def test_whole_seeds_are_resampled() -> None:
    # What one task loses the other gains in each seed: a whole seed is worth 0.5 whichever it is.
    falling = np.linspace(0, 1, 8)[:, None]
    scores = np.concatenate([falling, 1 - falling], axis=1)
    mean = estimate(scores, lambda found: found.mean(axis=(-2, -1)))
    assert_allclose(mean[:3], 0.5)


def test_constant_scores_one_seed_and_none() -> None:
    assert estimate(np.full((4, 3), 0.7)) == pytest.approx((0.7, 0.7, 0.7, 4))
    one = estimate(np.array([[0.2, 0.4]]))
    assert one == pytest.approx((0.3, NAN, NAN, 1), nan_ok=True)
    assert estimate(np.empty((0, 3))) == pytest.approx((NAN, NAN, NAN, 0), nan_ok=True)
    alone = compare(np.array([[0.2, 0.4]]), np.array([[0.3, 0.1]]))
    assert alone.probability == pytest.approx((0.5, NAN, NAN, 1), nan_ok=True)
    assert np.isnan(alone.p)
    nothing = compare(np.empty((0, 2)), np.empty((0, 2)))
    assert np.isnan([nothing.p, nothing.probability.value, nothing.difference.value]).all()


def test_a_seed_that_is_not_known_enters_nothing() -> None:
    scores = drawn(5, 3)
    gap = scores.copy()
    gap[1, 2] = NAN
    assert estimate(gap) == estimate(scores[[0, 2, 3, 4]])
    assert estimate(gap).seeds == 4
    gap[:, 0] = NAN  # a task that is n/a makes the number n/a
    assert estimate(gap).seeds == 0
    other = drawn(5, 3, seed=1)
    other[0, 0] = NAN
    gap = scores.copy()
    gap[1, 2] = NAN
    assert compare(gap, other) == compare(scores[2:], other[2:])  # pairs are left out


def test_compare_worked_by_hand() -> None:
    # Of the 20 ways to part six runs in two, one is as it is and one the other way round.
    apart = compare(np.array([[4.0], [5.0], [6.0]]), np.array([[1.0], [2.0], [3.0]]))
    assert apart.probability == (1.0, 1.0, 1.0, 3)
    assert apart.p == pytest.approx(2 / 20)
    five = compare(np.arange(5.0)[:, None] + 9, np.arange(5.0)[:, None])
    assert five.p == pytest.approx(2 / 252)
    # Better at one task as often as worse at the other.
    even = compare(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert even.probability.value == 0.5
    assert even.p == 1.0


def test_ties_count_one_half() -> None:
    same = np.full((4, 2), 0.3)
    found = compare(same, same)
    assert found.probability == (0.5, 0.5, 0.5, 4)
    assert found.difference == (0.0, 0.0, 0.0, 4)
    assert found.p == 1.0


def test_the_same_seeds_are_resampled_on_both_sides() -> None:
    scores = drawn(6, 4)
    found = compare(scores + 0.25, scores)
    assert_allclose(found.difference[:3], 0.25)  # no width, though each side alone has one
    assert estimate(scores).high - estimate(scores).low > 0.05
    with pytest.raises(ValueError, match="not paired"):
        compare(scores, scores[:5])


def test_probability_of_improvement_for_unequal_numbers_of_seeds() -> None:
    ours, theirs = np.array([[2.0], [0.0]]), np.array([[1.0], [2.0], [3.0]])
    assert probability_of_improvement(ours, theirs) == pytest.approx((1 + 0.5) / 6)


def test_holm_worked_by_hand() -> None:
    assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert_allclose(holm([0.6, 0.5]), [1.0, 1.0])
    assert holm([]).shape == (0,)


def test_a_profile_worked_by_hand() -> None:
    scores = np.array([[0.0, 1.0], [0.5, 1.0]])
    found = performance_profile(scores, np.array([-1.0, 0.0, 0.5, 1.0]))
    assert_allclose(found.share, [1, 0.75, 0.5, 0])  # above, not at
    assert_allclose(found.low, [1, 0.5, 0.5, 0])
    assert_allclose(found.high, [1, 1, 0.5, 0])
    one = performance_profile(scores[:1], np.array([0.5]))
    assert one.share == [0.5]
    assert np.isnan([*one.low, *one.high]).all()


def test_the_seed_is_fixed_and_has_effect() -> None:
    scores, other = drawn(10, 5), drawn(10, 5, seed=1)
    assert estimate(scores) == estimate(scores)
    assert estimate(scores).low != estimate(scores, seed=1).low
    assert estimate(scores).low != estimate(scores, replications=500).low
    assert compare(scores, other) == compare(scores, other)
    assert compare(scores, other).p != compare(scores, other, seed=1).p
    grid = np.linspace(0, 1, 11)
    bands = [
        performance_profile(scores, grid, replications=99, seed=seed).low for seed in (0, 0, 1)
    ]
    assert_array_equal(bands[0], bands[1])
    assert (bands[0] != bands[2]).any()


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_coverage_is_near_95_percent_with_many_seeds(shared: float) -> None:
    """The variance of a task's score is partly its seed's; benchmarks/coverage.py has few seeds."""
    rng = np.random.default_rng(0)

    def draw(seeds: int) -> np.ndarray:
        of_seed, own = rng.normal(size=(seeds, 1)), rng.normal(size=(seeds, 5))
        return np.linspace(0, 1, 5) + np.sqrt(shared) * of_seed + np.sqrt(1 - shared) * own

    truth = interquartile_mean(draw(100_000))
    held = 0
    for trial in range(400):
        _, low, high, _ = estimate(draw(40), replications=400, seed=trial)
        held += low <= truth <= high
    assert 0.91 < held / 400 < 0.98  # 0.95 with a deviation of 0.011


def test_a_study_takes_less_than_two_seconds() -> None:
    scores = drawn(10, 10, 10)
    compare(scores[0], scores[1])  # imports scipy.stats
    start = time.process_time()
    for own in scores:
        for _ in range(9):
            estimate(own)
        compare(own, scores[0])
        performance_profile(own, np.linspace(0, 1, 101))
    assert time.process_time() - start < 2


def test_a_band_is_the_bootstrap_interval_of_each_mean() -> None:
    curves = drawn(6, 4)
    mean, low, high = mean_band(curves, replications=4000)
    assert_allclose(mean, curves.mean(axis=0))
    draws = np.random.default_rng(7).integers(6, size=(4000, 6))
    assert_allclose(
        [low, high], np.quantile(curves[draws].mean(axis=1), [0.025, 0.975], axis=0), atol=0.02
    )
    assert (mean_band(curves, seed=1)[1] != mean_band(curves)[1]).any()
    alone = mean_band(curves[:1])
    assert_allclose(alone[0], curves[0])
    assert np.isnan(alone[1:]).all()
    curves[2, 1] = np.nan
    assert np.isnan(mean_band(curves)[0]).tolist() == [False, True, False, False]


# -- against rliable -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 2), (5, 10), (7, 3), (1, 4)])
def test_point_estimates_are_those_of_rliable(rliable: ModuleType, shape: tuple[int, int]) -> None:
    scores, other = drawn(*shape).round(1), drawn(*shape, seed=1).round(1)  # with ties
    oracle = rliable.metrics
    assert_allclose(interquartile_mean(scores), oracle.aggregate_iqm(scores))
    assert_allclose(optimality_gap(scores), oracle.aggregate_optimality_gap(scores))
    assert_allclose(
        probability_of_improvement(scores, other), oracle.probability_of_improvement(scores, other)
    )
    grid = np.linspace(0, 1, 21)
    shares = [rliable.library.run_score_deviation(scores, tau) for tau in grid]
    assert_allclose(performance_profile(scores, grid).share, shares)


def test_intervals_of_one_task_are_those_of_rliable(rliable: ModuleType) -> None:
    """With several tasks rliable resamples the seeds of each apart; with one it is the same."""
    scores = drawn(20, 1)
    np.random.seed(0)  # its random_state has no effect
    _, ends = rliable.library.get_interval_estimates(
        {"ours": scores}, lambda found: np.array([rliable.metrics.aggregate_iqm(found)]), reps=4000
    )
    found = estimate(scores, replications=4000)
    assert_allclose([found.low, found.high], ends["ours"][:, 0], atol=0.01)
