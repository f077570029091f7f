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
    mean,
    mean_band,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    ratio_of_means,
    smallest_p,
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
    # 8 seeds: two are left out at each end of 0 1 2 3 4 5 9 9
    scores = np.array([9.0, 0.0, 1.0, 5.0, 4.0, 2.0, 3.0, 9.0])
    assert interquartile_mean(scores) == (2 + 3 + 4 + 5) / 4
    # 5 numbers: a quarter is 1.25, rounded down
    assert interquartile_mean(np.array([0.0, 1.0, 2.0, 6.0, 9.0])) == 3
    assert interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3
    assert_allclose(interquartile_mean(np.stack([scores, scores + 1])), [3.5, 4.5])


def test_what_is_forgotten_is_not_trimmed() -> None:
    """Two of ten tasks at zero in every seed: a mean of .8, which no statistic of it may lose."""
    scores = np.array([[0.0, 0.0, *[1.0] * 8]] * 5)
    assert estimate(scores.mean(axis=1)).value == pytest.approx(0.8)
    assert estimate(scores.mean(axis=1), interquartile_mean).value == pytest.approx(0.8)
    with pytest.raises(ValueError, match="one number per seed"):
        estimate(scores, interquartile_mean)
    with pytest.raises(ValueError, match="one number per seed"):
        compare(scores, scores)


def test_an_interval_worked_by_hand() -> None:
    # Two seeds: the mean of a resample is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4.
    found = estimate(np.array([0.0, 1.0]))
    assert found == Estimate(0.5, 0.0, 1.0, 2)
    # Three seeds of which two are alike: resamples of 0 alone have probability 8/27 > 2.5%, those
    # of 1 alone 1/27 > 2.5%.
    assert estimate(np.array([0.0, 0.0, 1.0]))[1:3] == (0.0, 1.0)


def test_constant_scores_one_seed_and_none() -> None:
    assert estimate(np.full(4, 0.7)) == pytest.approx((0.7, 0.7, 0.7, 4))
    assert estimate(np.array([0.3])) == pytest.approx((0.3, NAN, NAN, 1), nan_ok=True)
    assert estimate(np.empty(0)) == pytest.approx((NAN, NAN, NAN, 0), nan_ok=True)
    alone = compare(np.array([0.3]), np.array([0.2]))
    assert alone.probability == pytest.approx((1.0, NAN, NAN, 1), nan_ok=True)
    assert np.isnan(alone.p)
    nothing = compare(np.empty(0), np.empty(0))
    assert np.isnan([nothing.p, nothing.probability.value, nothing.difference.value]).all()


def test_a_seed_that_is_not_known_enters_nothing_and_is_not_counted() -> None:
    scores = drawn(5)
    gap = scores.copy()
    gap[1] = NAN
    assert estimate(gap) == estimate(scores[[0, 2, 3, 4]])
    assert estimate(gap).seeds == 4
    other = drawn(5, seed=1)
    other[0] = NAN
    assert compare(gap, other) == compare(scores[2:], other[2:])  # pairs are left out
    assert compare(gap, other).difference.seeds == 3


def test_compare_worked_by_hand() -> None:
    # Of the 20 ways to part six runs in two, one is as it is and one the other way round.
    apart = compare(np.array([4.0, 5.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert apart.probability == (1.0, 1.0, 1.0, 3)
    assert apart.difference == (3.0, 3.0, 3.0, 3)
    assert apart.p == pytest.approx(2 / 20)
    five = compare(np.arange(5.0) + 9, np.arange(5.0))
    assert five.p == pytest.approx(2 / 252)
    # Of 0 2 against 1 1: ranks 1 4 against 2.5 2.5, whose sums are alike.
    even = compare(np.array([0.0, 2.0]), np.array([1.0, 1.0]))
    assert even.probability.value == 0.5
    assert even.p == 1.0


def test_the_smallest_p_is_that_of_sides_without_overlap() -> None:
    for seeds in (2, 3, 5, 6):
        apart = compare(np.arange(seeds) + 9.0, np.arange(seeds) + 0.0)
        assert smallest_p(seeds) == pytest.approx(apart.p)
    assert smallest_p(2, 3) == pytest.approx(2 / 10)
    many = compare(np.arange(10) + 99.0, np.arange(10) + 0.0)
    assert smallest_p(10) == pytest.approx(many.p)
    # Five seeds allow six comparisons that are all significant by Holm, and not seven.
    assert (holm([smallest_p(5)] * 6) <= 0.05).all()
    assert (holm([smallest_p(5)] * 7) > 0.05).all()
    assert smallest_p(3) > 0.05


def test_ties_count_one_half() -> None:
    same = np.full(4, 0.3)
    found = compare(same, same)
    assert found.probability == (0.5, 0.5, 0.5, 4)
    assert found.difference == (0.0, 0.0, 0.0, 4)
    assert found.p == 1.0


def test_the_same_seeds_are_resampled_on_both_sides() -> None:
    scores = drawn(6)
    found = compare(scores + 0.25, scores)
    assert_allclose(found.difference[:3], 0.25)  # no width, though each side alone has one
    assert estimate(scores).high - estimate(scores).low > 0.05
    with pytest.raises(ValueError, match="not paired"):
        compare(scores, scores[:5])


def test_probability_of_improvement_for_unequal_numbers_of_seeds() -> None:
    ours, theirs = np.array([2.0, 0.0]), np.array([1.0, 2.0, 3.0])
    assert probability_of_improvement(ours, theirs) == pytest.approx((1 + 0.5) / 6)


def test_a_ratio_of_means_worked_by_hand() -> None:
    areas = {0: np.array([0.9, 0.5]), 1: np.array([0.7, 0.7])}
    references = {0: np.array([0.8, 0.4]), 1: np.array([0.6, 0.6]), 2: np.array([0.7, 0.2])}
    # X: .8 .6; Y: .7 .4; (.1 / .3 + .2 / .6) / 2
    found = ratio_of_means(areas, references)
    assert found.value == pytest.approx(1 / 3)
    assert found.seeds == 2
    assert found.low < 1 / 3 < found.high
    assert np.isnan(ratio_of_means(areas, {}).value)
    few = ratio_of_means(areas, {2: references[2]})
    assert few == pytest.approx(((0.1 / 0.3 + 0.4 / 0.8) / 2, NAN, NAN, 2), nan_ok=True)
    one = ratio_of_means({0: areas[0]}, references)
    assert one == pytest.approx(((0.2 / 0.3 + 0.1 / 0.6) / 2, NAN, NAN, 1), nan_ok=True)
    assert np.isnan(ratio_of_means(areas, {0: np.array([1.0, 0.4])}).value)  # no room to gain


def test_the_interval_of_a_ratio_of_means_is_that_of_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(3)
    own, alone = rng.uniform(0.3, 0.7, (6, 4)), rng.uniform(0.2, 0.6, (6, 4))
    found = ratio_of_means(dict(enumerate(own)), dict(enumerate(alone)), replications=8000)
    draws = rng.integers(6, size=(8000, 6))  # the same seeds on both sides
    x, y = own[draws].mean(axis=1), alone[draws].mean(axis=1)
    ends = np.quantile(((x - y) / (1 - y)).mean(axis=1), [0.025, 0.975])
    assert_allclose([found.low, found.high], ends, atol=0.01)
    # Of a reference with itself nothing is gained, whichever seeds are drawn.
    same = ratio_of_means(dict(enumerate(alone)), dict(enumerate(alone)))
    assert_allclose(same[:3], 0.0, atol=1e-12)
    # Seeds that the other side has not are drawn apart.
    apart = ratio_of_means(dict(enumerate(alone)), {k + 6: row for k, row in enumerate(alone)})
    assert apart.value == pytest.approx(0.0)
    assert apart.high - apart.low > 0.1


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
    scores, other = drawn(10), drawn(10, seed=1)
    assert estimate(scores) == estimate(scores)
    assert estimate(scores).low != estimate(scores, seed=1).low
    assert estimate(scores).low != estimate(scores, replications=500).low
    assert compare(scores, other) == compare(scores, other)
    assert compare(scores, other).p != compare(scores, other, seed=1).p
    grid = np.linspace(0, 1, 11)
    bands = [
        performance_profile(drawn(10, 5), grid, replications=99, seed=seed).low
        for seed in (0, 0, 1)
    ]
    assert_array_equal(bands[0], bands[1])
    assert (bands[0] != bands[2]).any()


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_coverage_is_near_95_percent_with_many_seeds(shared: float) -> None:
    """The variance of a task's score is partly its seed's; benchmarks/coverage.py has few seeds."""
    rng = np.random.default_rng(0)

    def draw(seeds: int) -> np.ndarray:
        of_seed, own = rng.normal(size=(seeds, 1)), rng.normal(size=(seeds, 5))
        scores = np.linspace(0, 1, 5) + np.sqrt(shared) * of_seed + np.sqrt(1 - shared) * own
        return scores.mean(axis=1)

    truth = 0.5
    held = 0
    for trial in range(1000):
        _, low, high, _ = estimate(draw(40), replications=400, seed=trial)
        held += low <= truth <= high
    assert 0.91 < held / 1000 < 0.97  # 0.935 with a deviation of 0.008


@pytest.mark.thorough
def test_a_study_takes_less_than_two_seconds() -> None:
    scores = drawn(10, 10, 10)
    means = scores.mean(axis=-1)
    compare(means[0], means[1])  # imports scipy.stats
    start = time.process_time()
    for own, of_seeds in zip(scores, means, strict=True):
        for _ in range(11):
            estimate(of_seeds)
            estimate(of_seeds, interquartile_mean)
        ratio_of_means(dict(enumerate(own)), dict(enumerate(scores[0])))
        compare(of_seeds, means[0])
        performance_profile(own, np.linspace(0, 1, 101))
    assert time.process_time() - start < 2


def test_a_band_is_the_bootstrap_interval_of_each_mean() -> None:
    curves = drawn(6, 4)
    middle, low, high = mean_band(curves, replications=4000)
    assert_allclose(middle, curves.mean(axis=0))
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


@pytest.mark.parametrize("seeds", [1, 3, 5, 7, 20])
def test_point_estimates_are_those_of_rliable(rliable: ModuleType, seeds: int) -> None:
    scores, other = drawn(seeds).round(1), drawn(seeds, seed=1).round(1)  # with ties
    oracle, one, two = rliable.metrics, scores[:, None], other[:, None]
    assert_allclose(estimate(scores).value, oracle.aggregate_mean(one))
    assert_allclose(interquartile_mean(scores), oracle.aggregate_iqm(one))
    assert_allclose(
        probability_of_improvement(scores, other), oracle.probability_of_improvement(one, two)
    )
    of_tasks = drawn(seeds, 4)
    gap = estimate(optimality_gap(of_tasks)).value
    assert_allclose(gap, oracle.aggregate_optimality_gap(of_tasks))
    grid = np.linspace(0, 1, 21)
    shares = [rliable.library.run_score_deviation(of_tasks, tau) for tau in grid]
    assert_allclose(performance_profile(of_tasks, grid).share, shares)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["mean", "iqm"])
def test_intervals_are_those_of_rliable(rliable: ModuleType, name: str) -> None:
    scores = drawn(20)
    aggregate = getattr(rliable.metrics, f"aggregate_{name}")
    np.random.seed(0)  # its random_state has no effect
    _, ends = rliable.library.get_interval_estimates(
        {"ours": scores[:, None]}, lambda found: np.array([aggregate(found)]), reps=4000
    )
    statistic = mean if name == "mean" else interquartile_mean
    found = estimate(scores, statistic, replications=4000)
    assert_allclose([found.low, found.high], ends["ours"][:, 0], atol=0.01)
