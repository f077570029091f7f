"""How often the intervals and p-values of a report are right, on scores that are simulated.

python benchmarks/coverage.py [--trials 2000] > benchmarks/results/coverage.csv

Each study has so many seeds of 10 tasks. A score is the task's mean, plus what the seed adds to all
its tasks, plus noise; the shared part makes up a share of the variance. Coverage is how often the
95% interval of the interquartile mean holds that of endless seeds: once with whole seeds resampled,
as reports do, once with the seeds of every task resampled apart, as rliable does. False alarms are
how often two methods that are alike get a p-value of at most 0.05, with seeds that are independent
between the methods, and with seeds that share half of their variance.
"""

from __future__ import annotations

import argparse
import csv
import sys

import numpy as np

from holdfast.continual.results.statistics import (
    LEVEL,
    Array,
    compare,
    estimate,
    interquartile_mean,
)

TASKS, DEVIATION, REPLICATIONS = 10, 0.15, 1000
SEEDS = (3, 5, 10, 20)
SHARED = (0.0, 0.5)


def main() -> None:
    """Print a line for each number of seeds and each share of variance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000, help="Studies that are simulated.")
    trials = parser.parse_args().trials
    table = csv.writer(sys.stdout, lineterminator="\n")
    head = ["seeds", "shared_variance", "coverage_whole_seeds", "coverage_tasks_apart"]
    table.writerow([*head, "false_alarms", "false_alarms_paired"])
    for seeds in SEEDS:
        for shared in SHARED:
            whole, apart = coverage(seeds, shared, trials)
            alarms = [false_alarms(seeds, shared, trials, paired) for paired in (0.0, 0.5)]
            table.writerow([seeds, shared, *(f"{n:.3f}" for n in (whole, apart, *alarms))])


def coverage(seeds: int, shared: float, trials: int) -> tuple[float, float]:
    """Return how often the intervals hold the truth: whole seeds resampled, and tasks apart."""
    rng = np.random.default_rng(0)
    truth = float(interquartile_mean(draw(rng, 200_000, shared)))
    held = np.zeros(2)
    for trial in range(trials):
        scores = draw(rng, seeds, shared)
        _, low, high, _ = estimate(scores, replications=REPLICATIONS, seed=trial)
        held[0] += low <= truth <= high
        low, high = apart(scores, rng)
        held[1] += low <= truth <= high
    return held[0] / trials, held[1] / trials


def apart(scores: Array, rng: np.random.Generator) -> Array:
    """Return the ends of the interval where the seeds of every task are resampled apart."""
    draws = rng.integers(len(scores), size=(REPLICATIONS, *scores.shape))
    resampled = interquartile_mean(np.take_along_axis(scores[None], draws, axis=1))
    return np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])


def false_alarms(seeds: int, shared: float, trials: int, paired: float) -> float:
    """Return how often two methods that are alike are told apart at p = 0.05."""
    rng = np.random.default_rng(1)
    alarms = 0
    for trial in range(trials):
        common = draw(rng, seeds, shared)
        one, other = (draw(rng, seeds, shared) for _ in range(2))
        weight = np.sqrt(paired), np.sqrt(1 - paired)
        ours, theirs = (weight[0] * common + weight[1] * own for own in (one, other))
        alarms += compare(ours, theirs, replications=2, permutations=999, seed=trial).p <= 0.05
    return alarms / trials


def draw(rng: np.random.Generator, seeds: int, shared: float) -> Array:
    """Return scores of the shape (seeds, tasks)."""
    means = np.linspace(0, 1, TASKS)
    of_seed = rng.normal(size=(seeds, 1)) * np.sqrt(shared)
    own = rng.normal(size=(seeds, TASKS)) * np.sqrt(1 - shared)
    return np.asarray(means + DEVIATION * (of_seed + own))


if __name__ == "__main__":
    main()
