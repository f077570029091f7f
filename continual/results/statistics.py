"""Statistics over seeds and tasks: pure functions of scores, after rliable (arXiv:2108.13264).

One array convention: ``scores`` has the shape (seeds, tasks), one row per run and one column per
task (the strata); a number that a run has once is a column of its own, (seeds, 1). A seed for which
one task is NaN (n/a) enters nothing and is not counted. Larger numbers are better.

The bootstrap resamples whole runs. Each task then has as many numbers in a resample as it has
seeds, which is what stratification by task asks for, but the tasks of one run stay together: they
were learned by one network, one after the other, and are not independent. Drawing the seeds of
every task apart, as rliable does for tasks that were learned apart, makes intervals too narrow here
(``benchmarks/coverage.py`` measures both).

The same number of seeds means the same draws, so that whatever two methods are compared by is
resampled with the same seeds on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""Takes scores of the shape (..., seeds, tasks) to numbers of the shape (...)."""

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

FEW = 10
"""Fewer seeds than this are said to be few."""

FEW_SEEDS = (
    "Bootstrap intervals of few seeds are too narrow: on simulated scores, those called 95% held "
    "the true value in 75% of the studies with 3 seeds, 84% with 5, 90% with 10 and 93% with 20."
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
        probability: That a run of the one is better than a run of the other at a task, averaged
            over the tasks.
        difference: Of their interquartile means, with the interval of the same seeds on both sides.
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


def interquartile_mean(scores: Array) -> Array:
    """Return the mean of the middle half of the numbers of all seeds and tasks.

    A quarter, rounded down, is left out at each end.

    >>> interquartile_mean(np.array([[0.0, 1.0], [2.0, 9.0]]))
    array(1.5)
    """
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)  # (..., seeds * tasks)
    count = flat.shape[-1]
    cut = count // 4
    return np.asarray(flat[..., cut : count - cut].mean(axis=-1))


def optimality_gap(scores: Array, target: float = 1.0) -> Array:
    """Return how far the scores stay below the target on average; what is above it counts nothing.

    >>> optimality_gap(np.array([[0.5, 1.5]]))
    array(0.25)
    """
    return np.asarray(np.maximum(target - scores, 0).mean(axis=(-2, -1)))


def estimate(
    scores: Array,
    statistic: Statistic = interquartile_mean,
    *,
    replications: int = REPLICATIONS,
    seed: int = 0,
) -> Estimate:
    """Return a statistic with its percentile bootstrap interval.

    Args:
        scores: Shape (seeds, tasks).
        statistic: Of the scores.
        replications: How many resamples are drawn.
        seed: Of the draws.
    """
    known = _complete(scores)[0]
    if not known.size:
        return Estimate(np.nan, np.nan, np.nan, 0)
    value, count = float(statistic(known)), len(known)
    if count < 2:
        return Estimate(value, np.nan, np.nan, count)
    resampled = known[_draws(count, replications, seed)]  # (replications, seeds, tasks)
    return _with_interval(value, statistic(resampled), count)


def compare(
    scores: Array,
    baseline: Array,
    *,
    replications: int = REPLICATIONS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Comparison:
    """Return how a method does against a baseline; row k of both is the same seed.

    The p-value is that of the permutation test that belongs to the probability of improvement (the
    Mann-Whitney statistic, averaged over tasks): whole runs change sides, since their tasks are not
    independent. It is exact where there are few runs; with n seeds it cannot be smaller than 2
    divided by the binomial coefficient of 2n and n: 0.1 for three seeds, 0.008 for five.

    Args:
        scores: Shape (seeds, tasks).
        baseline: Shape (seeds, tasks).
        replications: How many resamples are drawn.
        permutations: How many permutations at most.
        seed: Of the draws.

    Raises:
        ValueError: If the shapes differ.
    """
    if scores.shape != baseline.shape:
        raise ValueError(f"scores of shape {scores.shape} against {baseline.shape}: not paired")
    ours, theirs = _complete(scores, baseline)
    count = len(ours)
    if not ours.size:
        nothing = Estimate(np.nan, np.nan, np.nan, 0)
        return Comparison(nothing, nothing, np.nan)
    wins = _wins(ours, theirs)  # (seeds, seeds)
    probability = float(wins.mean())
    difference = float(interquartile_mean(ours) - interquartile_mean(theirs))
    if count < 2:
        alone = [Estimate(value, np.nan, np.nan, count) for value in (probability, difference)]
        return Comparison(alone[0], alone[1], np.nan)
    draws = _draws(count, replications, seed)
    resampled = wins[draws[:, :, None], draws[:, None, :]].mean(axis=(1, 2))
    apart = interquartile_mean(ours[draws]) - interquartile_mean(theirs[draws])
    return Comparison(
        _with_interval(probability, resampled, count),
        _with_interval(difference, apart, count),
        _permuted(ours, theirs, permutations, seed),
    )


def probability_of_improvement(scores: Array, baseline: Array) -> float:
    """Return how likely a run is better than one of the baseline, averaged over tasks.

    Ties count one half. The numbers of seeds may differ.

    >>> probability_of_improvement(np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]]))
    0.625
    """
    return float(_wins(_complete(scores)[0], _complete(baseline)[0]).mean())


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
    known = _complete(scores)[0]
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
    mean = values.mean(axis=0)
    if count < 2:
        return mean, np.full(shape, np.nan), np.full(shape, np.nan)
    draws = _draws(count, replications, seed)
    shares = (draws[:, :, None] == np.arange(count)).mean(axis=1)  # (replications, seeds)
    resampled = shares @ values.reshape(count, -1)
    low, high = np.quantile(resampled, _ENDS, axis=0)
    return mean, low.reshape(shape), high.reshape(shape)


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
    """Return the seeds for which every task is known, in all of the arrays."""
    known = np.all([np.isfinite(one).all(axis=1) for one in scores], axis=0)
    return tuple(one[known] for one in scores)


def _with_interval(value: float, resampled: Array, seeds: int) -> Estimate:
    low, high = np.quantile(resampled, _ENDS)
    return Estimate(value, float(low), float(high), seeds)


def _wins(scores: Array, baseline: Array) -> Array:
    """Return how often each run beats each of the baseline, shape (seeds, their seeds)."""
    signs = np.sign(scores[:, None, :] - baseline[None, :, :])  # (seeds, their seeds, tasks)
    return np.asarray((1 + signs.mean(axis=-1)) / 2)


def _permuted(scores: Array, baseline: Array, permutations: int, seed: int) -> float:
    """Return the two-sided p-value of whole runs changing sides.

    The Mann-Whitney statistic averaged over tasks rises with the sum of a side's ranks, averaged
    over tasks, so that one rank for each run is all that has to be permuted.
    """
    from scipy.stats import permutation_test, rankdata  # here: slow to import

    ranks = rankdata(np.concatenate([scores, baseline]), axis=0).mean(axis=1)
    found = permutation_test(
        (ranks[: len(scores)], ranks[len(scores) :]),
        lambda ours, theirs, axis: ours.mean(axis=axis) - theirs.mean(axis=axis),
        vectorized=True,
        n_resamples=permutations,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
