"""Statistics over seeds: pure functions of one number per seed.

One array convention: ``scores`` has the shape (seeds,), the mean over the tasks of each seed, which
is a metric's definition. Nothing is pooled over seeds and tasks: a trimmed mean of all of them
cuts off the tasks that were forgotten, which are its lower tail. A seed that is NaN (n/a) enters
nothing and is not counted. Larger numbers are better.

The bootstrap resamples whole seeds: the tasks of one are learned by one network, one after the
other, and are not independent. The same number of seeds means the same draws, so that whatever two
methods are compared by is resampled with the same seeds on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""Takes scores of the shape (..., seeds) to numbers of the shape (...)."""

LEVEL = 0.95
"""Of every interval."""

_ENDS = (1 - LEVEL) / 2, (1 + LEVEL) / 2
"""Quantiles at the ends of an interval."""

Z = 1.959964
"""Of a standard normal, ``LEVEL`` of which lies between -Z and Z."""

REPLICATIONS = 2000
"""Of the bootstrap."""

PERMUTATIONS = 9999
"""Most that a p-value is of; where there are no more, all of them."""

ALPHA = 0.05
"""A p-value of at most this is called significant where it is said what can be."""

FEW = 10
"""Fewer seeds than this are said to be few."""

FEW_SEEDS = (
    "Bootstrap intervals of few seeds are too narrow: on simulated scores, those called 95% held "
    "the true value in 74% of the studies with 3 seeds, 84% with 5, 90% with 10 and 93% with 20."
)
"""Warning of a report with few seeds, as ``benchmarks/coverage.py`` measured it."""


class Estimate(NamedTuple):
    """A number with its bootstrap interval.

    Attributes:
        value: Of the seeds that are there; NaN where it is n/a.
        low: Lower end of the 95% interval; NaN for fewer than two seeds.
        high: Upper end.
        seeds: How many seeds it is of.
    """

    value: float
    low: float
    high: float
    seeds: int


class Comparison(NamedTuple):
    """Comparison of one method with another, over the seeds that both have.

    Attributes:
        probability: That a run of the one is better than a run of the other.
        difference: Of their means, with the interval of the same seeds on both sides.
        p: Two-sided p-value of their being alike, uncorrected; NaN for fewer than two seeds.
        p_holm: The same after Holm's correction for all methods that were compared.
    """

    probability: Estimate
    difference: Estimate
    p: float
    p_holm: float = float("nan")


class Profile(NamedTuple):
    """Share of the runs and tasks whose score is above each threshold.

    Attributes:
        share: Shape (thresholds,), 0 to 1.
        low: Shape (thresholds,), lower end of the pointwise 95% band; NaN for one seed.
        high: Upper end.
    """

    share: Array
    low: Array
    high: Array


def mean(scores: Array) -> Array:
    """Return the mean over seeds."""
    return np.asarray(scores.mean(axis=-1))


def interquartile_mean(scores: Array) -> Array:
    """Return the mean of the middle half of the seeds (arXiv:2108.13264).

    A quarter, rounded down, is left out at each end.

    >>> interquartile_mean(np.array([0.0, 1.0, 2.0, 9.0]))
    array(1.5)
    """
    ordered = np.sort(scores, axis=-1)  # (..., seeds)
    count = ordered.shape[-1]
    cut = count // 4
    return np.asarray(ordered[..., cut : count - cut].mean(axis=-1))


def optimality_gap(scores: Array, target: float = 1.0) -> Array:
    """Return how far each seed's scores stay below the target; what is above it counts nothing.

    Args:
        scores: Shape (seeds, tasks).
        target: What is aimed at.

    Returns:
        Shape (seeds,), the mean over tasks.

    >>> optimality_gap(np.array([[0.5, 1.5]]))
    array([0.25])
    """
    return np.asarray(np.maximum(target - scores, 0).mean(axis=-1))


def estimate(
    scores: Array,
    statistic: Statistic = mean,
    *,
    replications: int = REPLICATIONS,
    seed: int = 0,
) -> Estimate:
    """Return a statistic with its percentile bootstrap interval.

    Args:
        scores: Shape (seeds,).
        statistic: Of the scores.
        replications: How many resamples are drawn.
        seed: Of the draws.

    Raises:
        ValueError: If there is more than one number per seed.
    """
    known = _complete(scores)[0]
    if not known.size:
        return Estimate(np.nan, np.nan, np.nan, 0)
    value, count = float(statistic(known)), len(known)
    if count < 2:
        return Estimate(value, np.nan, np.nan, count)
    resampled = known[_draws(count, replications, seed)]  # (replications, seeds)
    return _with_interval(value, statistic(resampled), count)


def ratio_of_means(
    areas: Mapping[int, Array],
    references: Mapping[int, Array],
    *,
    replications: int = REPLICATIONS,
    seed: int = 0,
) -> Estimate:
    """Return forward transfer over seeds: the mean over tasks of (X - Y) / (1 - Y).

    X and Y are the means over seeds of a task's area under the curve, of a method and of the
    single-task reference. A seed that both have is drawn on both sides at once: their first tasks
    are the same run. A resample without a seed on one side, or with a Y of 1 or more, is left out;
    there is no interval where one side has fewer than two seeds.

    Source: ``normalized_ft`` of Continual World (arXiv:2105.10919), which draws both sides apart.

    Args:
        areas: Shape (tasks,) each, by seed.
        references: The same of the reference; their seeds may be others.
        replications: How many resamples are drawn.
        seed: Of the draws.
    """
    ours, theirs = (
        {key: row for key, row in side.items() if np.isfinite(row).all()}
        for side in (areas, references)
    )
    if not ours or not theirs:
        return Estimate(np.nan, np.nan, np.nan, 0)
    seeds = sorted({*ours, *theirs})
    value = _transfer(np.ones((1, len(seeds))), seeds, ours, theirs)[0]
    if min(len(ours), len(theirs)) < 2 or np.isnan(value):
        return Estimate(float(value), np.nan, np.nan, len(ours))
    draws = _draws(len(seeds), replications, seed)
    counts = (draws[:, :, None] == np.arange(len(seeds))).sum(axis=1)  # (replications, seeds)
    resampled = _transfer(counts, seeds, ours, theirs)
    return _with_interval(float(value), resampled[np.isfinite(resampled)], len(ours))


def compare(
    scores: Array,
    baseline: Array,
    *,
    replications: int = REPLICATIONS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Comparison:
    """Return how a method does against a baseline; number k of both is of the same seed.

    The p-value is that of the permutation test of Mann and Whitney's statistic, which belongs to
    the probability of improvement: seeds change sides. It is exact where there are few; see
    ``smallest_p``.

    Args:
        scores: Shape (seeds,).
        baseline: Shape (seeds,).
        replications: How many resamples are drawn.
        permutations: How many permutations at most.
        seed: Of the draws.

    Raises:
        ValueError: If the shapes differ, or there is more than one number per seed.
    """
    if scores.shape != baseline.shape:
        raise ValueError(f"scores of shape {scores.shape} against {baseline.shape}: not paired")
    ours, theirs = _complete(scores, baseline)
    count = len(ours)
    if not ours.size:
        nothing = Estimate(np.nan, np.nan, np.nan, 0)
        return Comparison(nothing, nothing, np.nan)
    wins = _wins(ours, theirs)  # (seeds, seeds)
    probability, difference = float(wins.mean()), float(mean(ours - theirs))
    if count < 2:
        alone = [Estimate(value, np.nan, np.nan, count) for value in (probability, difference)]
        return Comparison(alone[0], alone[1], np.nan)
    draws = _draws(count, replications, seed)
    resampled = wins[draws[:, :, None], draws[:, None, :]].mean(axis=(1, 2))
    return Comparison(
        _with_interval(probability, resampled, count),
        _with_interval(difference, mean((ours - theirs)[draws]), count),
        _permuted(ours, theirs, permutations, seed),
    )


def probability_of_improvement(scores: Array, baseline: Array) -> float:
    """Return how likely a run is better than one of the baseline.

    Ties count one half. The numbers of seeds may differ.

    >>> probability_of_improvement(np.array([1.0, 3.0]), np.array([1.0, 2.0]))
    0.625
    """
    return float(_wins(_complete(scores)[0], _complete(baseline)[0]).mean())


def smallest_p(seeds: int, others: int | None = None, permutations: int = PERMUTATIONS) -> float:
    """Return the smallest p-value that ``compare`` can give: that of two sides without overlap.

    Of all ways to part the seeds of both sides in two, two are that extreme.

    >>> [round(smallest_p(seeds), 4) for seeds in (3, 5, 10)]
    [0.1, 0.0079, 0.0002]

    Args:
        seeds: Of the one side.
        others: Of the other side, where they are not as many.
        permutations: How many are drawn where there are more.
    """
    ways = math.comb(seeds + (seeds if others is None else others), seeds)
    return 2 / ways if ways <= permutations else 2 / (permutations + 1)


def holm(p_values: Sequence[float]) -> Array:
    """Return Holm's correction of p-values for as many comparisons as there are; NaN stays NaN.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    >>> holm([0.01, 0.04, 0.03, float("nan")])
    array([0.03, 0.06, 0.06,  nan])
    """
    given = np.asarray(p_values, dtype=np.float64)
    corrected = np.full(given.shape, np.nan)
    known = np.flatnonzero(np.isfinite(given))
    order = known[np.argsort(given[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(given[order] * factors), 1.0)
    return corrected


def performance_profile(
    scores: Array, thresholds: Array, *, replications: int = REPLICATIONS, seed: int = 0
) -> Profile:
    """Return the share of runs and tasks above each threshold, with its bootstrap band.

    Args:
        scores: Shape (seeds, tasks).
        thresholds: Shape (thresholds,).
        replications: How many resamples are drawn.
        seed: Of the draws.
    """
    known = scores[np.isfinite(scores).all(axis=1)]
    if not known.size:
        return Profile(*[np.full(thresholds.shape, np.nan)] * 3)
    above = (known[:, :, None] > thresholds).mean(axis=1)  # (seeds, thresholds)
    return Profile(*mean_band(above, replications=replications, seed=seed))


def mean_band(
    values: Array, *, replications: int = 1000, seed: int = 0
) -> tuple[Array, Array, Array]:
    """Return the mean over seeds, and the ends of its pointwise bootstrap interval.

    NaN where a seed is; the ends are NaN for fewer than two seeds.

    Args:
        values: Shape (seeds, ...), of curves.
        replications: How many resamples are drawn.
        seed: Of the draws.
    """
    count, shape = len(values), values.shape[1:]
    middle = values.mean(axis=0)
    if count < 2:
        return middle, np.full(shape, np.nan), np.full(shape, np.nan)
    draws = _draws(count, replications, seed)
    shares = (draws[:, :, None] == np.arange(count)).mean(axis=1)  # (replications, seeds)
    resampled = shares @ values.reshape(count, -1)
    low, high = np.quantile(resampled, _ENDS, axis=0)
    return middle, low.reshape(shape), high.reshape(shape)


@lru_cache(maxsize=16)
def wilson(rate: float, games: int) -> tuple[float, float]:
    """Return the 95% interval of a rate that was found in so many games.

    A draw counts as half a win and half a loss, which makes it too wide rather than too narrow.

    >>> [round(end, 4) for end in wilson(0.95, 200)]
    [0.9104, 0.9726]

    Source: Wilson 1927 (doi:10.2307/2276774).
    """
    middle = (rate + Z**2 / (2 * games)) / (1 + Z**2 / games)
    half = Z / (1 + Z**2 / games)
    half *= math.sqrt(rate * (1 - rate) / games + Z**2 / (4 * games**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def student(values: Sequence[float]) -> tuple[float, float]:
    """Return Student's 95% interval of a mean; NaN for fewer than two values.

    >>> [round(end, 3) for end in student([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    if len(values) < 2:
        return math.nan, math.nan
    from scipy.stats import t  # here: it is slow to import

    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def _draws(seeds: int, replications: int, seed: int) -> NDArray[np.intp]:
    """Return which seeds each resample holds, shape (replications, seeds)."""
    draws = np.random.default_rng([seed, seeds]).integers(seeds, size=(replications, seeds))
    draws.setflags(write=False)  # it is handed out again
    return draws


def _complete(*scores: Array) -> tuple[Array, ...]:
    """Return the seeds that are known in all of the arrays.

    Raises:
        ValueError: If there is more than one number per seed.
    """
    if any(one.ndim != 1 for one in scores):
        raise ValueError("one number per seed: average over tasks first, never pool with them")
    known = np.all([np.isfinite(one) for one in scores], axis=0)
    return tuple(one[known] for one in scores)


def _transfer(
    counts: NDArray[Any],
    seeds: Sequence[int],
    ours: Mapping[int, Array],
    theirs: Mapping[int, Array],
) -> Array:
    """Return ``ratio_of_means`` where each seed counts as often as said.

    Args:
        counts: Shape (resamples, seeds).
        seeds: Of which each count is.
        ours: As of ``ratio_of_means``.
        theirs: As of ``ratio_of_means``.

    Returns:
        Shape (resamples,); NaN where it is not defined.
    """
    means = []
    for side in (ours, theirs):
        at = [place for place, key in enumerate(seeds) if key in side]
        rows = np.array([side[seeds[place]] for place in at])  # (their seeds, tasks)
        drawn = counts[:, at].sum(axis=1, keepdims=True)  # (resamples, 1)
        means.append(counts[:, at] @ rows / np.where(drawn > 0, drawn, np.nan))
    own, alone = means  # (resamples, tasks)
    ratios = (own - alone) / np.where(alone < 1, 1 - alone, np.nan)
    return np.asarray(ratios.mean(axis=1))


def _with_interval(value: float, resampled: Array, seeds: int) -> Estimate:
    low, high = np.quantile(resampled, _ENDS)
    return Estimate(value, float(low), float(high), seeds)


def _wins(scores: Array, baseline: Array) -> Array:
    """Return whether each run beats each of the baseline, shape (seeds, their seeds)."""
    return np.asarray((1 + np.sign(scores[:, None] - baseline[None, :])) / 2)


def _permuted(scores: Array, baseline: Array, permutations: int, seed: int) -> float:
    """Return the two-sided p-value of seeds changing sides; the statistic is the mean rank."""
    from scipy.stats import permutation_test, rankdata  # here: slow to import

    ranks = rankdata(np.concatenate([scores, baseline]))
    found = permutation_test(
        (ranks[: len(scores)], ranks[len(scores) :]),
        lambda ours, theirs, axis: ours.mean(axis=axis) - theirs.mean(axis=axis),
        vectorized=True,
        n_resamples=permutations,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
