"""How often the intervals and p-values of a report are right, on scores that are simulated.

python benchmarks/coverage.py [--trials 2000] > benchmarks/results/coverage.csv

Each study has so many seeds of 10 tasks. A score is the task's mean, plus what the seed adds to all
its tasks, plus noise; the shared part makes up half of the variance. A report takes the mean over
tasks of each seed, and so does this. Coverage is how often the 95% interval of the mean over seeds,
and of their interquartile mean, holds the truth; beside it that of Student's interval. False alarms
are how often two methods that are alike get a p-value of at most 0.05, with seeds that are
independent between the methods, and with seeds that share half of their variance; and how often
some of ten methods that are all like the baseline gets one, uncorrected and corrected by Holm.
"""

from __future__ import annotations

import argparse
import csv
import sys

import numpy as np

from holdfast.continual.results.statistics import (
    ALPHA,
    Array,
    compare,
    estimate,
    holm,
    interquartile_mean,
    student,
)

TASKS, DEVIATION, SHARED, REPLICATIONS, PERMUTATIONS = 10, 0.15, 0.5, 1000, 999
SEEDS = (3, 5, 10, 20)
METHODS = 10


def main() -> None:
    """Print a line for each number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000, help="Studies that are simulated.")
    trials = parser.parse_args().trials
    table = csv.writer(sys.stdout, lineterminator="\n")
    head = ["seeds", "coverage_mean", "coverage_interquartile_mean", "coverage_student"]
    head += ["false_alarms", "false_alarms_paired", "any_of_ten", "any_of_ten_holm"]
    table.writerow(head)
    for seeds in SEEDS:
        alarms = [false_alarms(seeds, trials, paired) for paired in (0.0, 0.5)]
        numbers = (*coverage(seeds, trials), *alarms, *families(seeds, trials // METHODS))
        table.writerow([seeds, *(f"{number:.3f}" for number in numbers)])


def coverage(seeds: int, trials: int) -> Array:
    """Return how often the intervals hold the truth: of mean, interquartile mean, Student's."""
    rng = np.random.default_rng(0)
    truth = 0.5  # of a symmetric distribution both means
    held = np.zeros(3)
    for trial in range(trials):
        scores = draw(rng, seeds)
        mean = estimate(scores, replications=REPLICATIONS, seed=trial)
        middle = estimate(scores, interquartile_mean, replications=REPLICATIONS, seed=trial)
        ends = (mean[1:3], middle[1:3], student(scores.tolist()))
        held += [low <= truth <= high for low, high in ends]
    return held / trials


def false_alarms(seeds: int, trials: int, paired: float) -> float:
    """Return how often two methods that are alike are told apart at p = 0.05."""
    rng = np.random.default_rng(1)
    alarms = 0
    for trial in range(trials):
        ours, theirs = alike(rng, seeds, paired), alike(rng, seeds, paired)
        common = draw(rng, seeds) - 0.5
        ours, theirs = ours + np.sqrt(paired) * common, theirs + np.sqrt(paired) * common
        alarms += p_value(ours, theirs, trial) <= ALPHA
    return alarms / trials


def families(seeds: int, trials: int) -> Array:
    """Return how often one of ten methods alike is told apart from naive, plain and by Holm."""
    rng = np.random.default_rng(2)
    alarms = np.zeros(2)
    for trial in range(trials):
        baseline = draw(rng, seeds)
        found = np.array([p_value(draw(rng, seeds), baseline, trial) for _ in range(METHODS)])
        alarms += [found.min() <= ALPHA, holm(found.tolist()).min() <= ALPHA]
    return alarms / trials


def p_value(ours: Array, theirs: Array, trial: int) -> float:
    """Return the p-value of a comparison."""
    return compare(ours, theirs, replications=2, permutations=PERMUTATIONS, seed=trial).p


def alike(rng: np.random.Generator, seeds: int, paired: float) -> Array:
    """Return scores whose variance leaves room for what both methods share."""
    return np.asarray(0.5 + np.sqrt(1 - paired) * (draw(rng, seeds) - 0.5))


def draw(rng: np.random.Generator, seeds: int) -> Array:
    """Return the mean over tasks of each seed's scores, shape (seeds,)."""
    means = np.linspace(0, 1, TASKS)
    of_seed = rng.normal(size=(seeds, 1)) * np.sqrt(SHARED)
    own = rng.normal(size=(seeds, TASKS)) * np.sqrt(1 - SHARED)
    return np.asarray((means + DEVIATION * (of_seed + own)).mean(axis=1))


if __name__ == "__main__":
    main()
