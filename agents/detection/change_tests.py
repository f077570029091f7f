"""Tests of a stream of numbers for a change, one number at a time.

Each looks at what came since ``forget``. Their state are a few arrays, so that a checkpoint holds
them; a library's objects would have to be pickled.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from holdfast.agents.base.parameters import Named
from holdfast.agents.detection.state import read, written


class ChangeTest(Protocol):
    """A test for a change.

    Attributes:
        statistic: What is compared with a bound, as of the last number; NaN before the first.
        age: Numbers since the change, as far as the test can tell, once it has told of one.
    """

    statistic: float

    @property
    def age(self) -> int: ...  # noqa: D102  # see above

    def update(self, value: float) -> bool:
        """Take the next number, and return whether there was a change."""

    def forget(self) -> None:
        """Begin with nothing seen."""

    def state(self) -> Named:
        """Return all that must survive a restart."""

    def load_state(self, tensors: Named) -> None:
        """Take back what ``state`` returned."""


class PageHinkley:
    """Page-Hinkley test for a mean that moves up, down, or either way.

    With the mean x_t of the numbers so far, m_t = sum of (x - x_t - tolerance), it tells of a rise
    where m_t - min m > threshold; of a fall likewise with -x. The last number counts in its mean.
    The change was where m was least, as is usual for sums of this kind.
    Source: Page 1954, "Continuous inspection schemes", in the form of Gama et al. 2014, "A survey
    on concept drift adaptation", section 3.2.2.

    Args:
        tolerance: Change of the mean that is let pass, in units of the numbers.
        threshold: Bound, in units of the numbers.
        direction: Of the changes that are looked for.
    """

    def __init__(self, tolerance: float, threshold: float, direction: str = "both") -> None:
        self._tolerance, self._threshold = tolerance, threshold
        self._signs = {"up": (1.0,), "down": (-1.0,), "both": (1.0, -1.0)}[direction]
        self.forget()

    def forget(self) -> None:
        """Begin with nothing seen."""
        self.statistic = math.nan
        self._count, self._mean = 0, 0.0
        self._sums = np.zeros(len(self._signs))  # m_t - min m
        self._runs = np.zeros(len(self._signs), dtype=np.int64)  # numbers since m was least

    @property
    def mean(self) -> float:
        """Of the numbers so far; NaN before the first."""
        return self._mean if self._count else math.nan

    @property
    def age(self) -> int:
        """Numbers since the sum that tells of the change began to grow."""
        return int(self._runs[self._sums.argmax()])

    def update(self, value: float) -> bool:
        """Take the next number, and return whether there was a change."""
        self._count += 1
        self._mean += (value - self._mean) / self._count
        for place, sign in enumerate(self._signs):
            above = sign * (value - self._mean) - self._tolerance
            self._sums[place] = max(0.0, self._sums[place] + above)
            self._runs[place] = self._runs[place] + 1 if self._sums[place] else 0
        self.statistic = float(self._sums.max())
        return self.statistic > self._threshold

    def state(self) -> Named:
        """Return all that must survive a restart."""
        return written(vars(self), _PAGE_HINKLEY)

    def load_state(self, tensors: Named) -> None:
        """Take back what ``state`` returned."""
        read(self, tensors, _PAGE_HINKLEY)


def highest_sum(values: NDArray[np.float64], mean: float, tolerance: float) -> float:
    """Return the highest statistic of Page's test for a rise above a mean that is known.

    The highest m_t - min m, with m_t = sum of (x - mean - tolerance) and m_0 = 0 (Page 1954).

    Args:
        values: Shape (count,).
        mean: That they have without a change.
        tolerance: Change of the mean that is let pass.

    >>> highest_sum(np.array([0.0, 2.0, 4.0, -9.0]), mean=1.0, tolerance=0.5)
    3.0
    """
    sums = np.concatenate([[0.0], np.cumsum(values - mean - tolerance)])
    return float((sums - np.minimum.accumulate(sums)).max())


class Adwin:
    """Adaptive window: it drops its older part where the means of two parts differ too much.

    The window W is cut wherever, for parts of n0 and n1 numbers with means m0 and m1,
    |m0 - m1| > e, with m = 1 / (1 / n0 + 1 / n1), d = delta / ln |W|, s^2 the variance of W, and::

        e = sqrt(2 / m * s^2 * ln(2 / d)) + 2 / (3 m) * ln(2 / d)

    Source: Bifet and Gavalda 2007, "Learning from time-changing data with adaptive windowing",
    section 3.2 (ADWIN2), where numbers are in 0..1. As there, the window is kept as buckets of
    1, 2, 4, ... numbers, at most ``_BUCKETS`` of each size, and cut between buckets.

    Args:
        delta: Bound on the probability of a false alarm at one look.
        every: Numbers from one look to the next.
    """

    def __init__(self, delta: float, every: int = 32) -> None:
        self._delta, self._every = delta, every
        self.forget()

    def forget(self) -> None:
        """Begin with nothing seen."""
        self.statistic = math.nan
        self._seen = 0
        self._buckets = np.empty((0, 3))  # oldest first: count, sum, sum of squared deviations

    @property
    def age(self) -> int:
        """Numbers that are left in the window, once its older part was cut off."""
        return int(self._buckets[:, 0].sum())

    def update(self, value: float) -> bool:
        """Take the next number, and return whether there was a change."""
        self._seen += 1
        self._buckets = np.concatenate([self._buckets, [[1.0, value, 0.0]]])
        self._compress()
        return self._seen % self._every == 0 and self._cut()

    def _compress(self) -> None:
        """Merge the two oldest buckets of a size of which there are too many."""
        size = 1.0
        while len(same := np.flatnonzero(self._buckets[:, 0] == size)) > _BUCKETS:
            first = int(same[0])
            merged = _merged(self._buckets[first], self._buckets[first + 1])
            older, newer = self._buckets[:first], self._buckets[first + 2 :]
            self._buckets = np.concatenate([older, [merged], newer])
            size *= 2

    def _cut(self) -> bool:
        """Drop the oldest bucket while some cut tells its parts apart; return whether one did."""
        is_change = False
        while len(self._buckets) > 1 and self._differs():
            self._buckets, is_change = self._buckets[1:], True
        return is_change

    def _differs(self) -> bool:
        counts, sums = self._buckets[:, 0].cumsum(), self._buckets[:, 1].cumsum()
        whole = self._buckets[0]
        for bucket in self._buckets[1:]:
            whole = _merged(whole, bucket)
        variance, total = whole[2] / counts[-1], counts[-1]
        n0, n1 = counts[:-1], total - counts[:-1]
        m0, m1 = sums[:-1] / n0, (sums[-1] - sums[:-1]) / n1
        logarithm = math.log(2 * math.log(total) / self._delta)
        inverse = 1 / n0 + 1 / n1  # 1 / m
        bound = np.sqrt(2 * inverse * variance * logarithm) + 2 / 3 * inverse * logarithm
        self.statistic = float((np.abs(m0 - m1) / bound).max())
        return self.statistic > 1.0

    def state(self) -> Named:
        """Return all that must survive a restart."""
        return written(vars(self), _ADWIN)

    def load_state(self, tensors: Named) -> None:
        """Take back what ``state`` returned."""
        read(self, tensors, _ADWIN)


class KolmogorovSmirnov:
    """Two-sample Kolmogorov-Smirnov test of the newest numbers against those before them.

    Whenever ``recent`` more numbers have come and ``window`` are kept, the newest ``recent`` are
    compared with all the others that are kept; there is a change where the p-value of the two-sided
    test is below ``alpha``. The numbers of one episode depend on each other, and count as if they
    did not: that makes p-values too small. After Raab, Heusinger and Schleif 2020, "Reactive soft
    prototype computing for concept drift streams" (KSWIN), which draws a sample of the older
    numbers and looks at every number.

    Args:
        alpha: Bound on the p-value.
        window: Numbers that are kept.
        recent: Numbers that are tested.
    """

    def __init__(self, alpha: float, window: int, recent: int) -> None:
        self._alpha, self._window, self._recent = alpha, window, recent
        self.forget()

    def forget(self) -> None:
        """Begin with nothing seen."""
        self.statistic = math.nan
        self._seen = 0
        self._numbers = np.empty(0)

    @property
    def age(self) -> int:
        """The newest numbers, which differ."""
        return self._recent

    def update(self, value: float) -> bool:
        """Take the next number, and return whether there was a change."""
        self._seen += 1
        self._numbers = np.append(self._numbers, value)[-self._window :]
        if self._seen < self._window or self._seen % self._recent:
            return False
        older, newer = self._numbers[: -self._recent], self._numbers[-self._recent :]
        p_value = float(ks_2samp(older, newer, method="asymp").pvalue)
        self.statistic = -math.log10(max(p_value, _LEAST))
        return p_value < self._alpha

    def state(self) -> Named:
        """Return all that must survive a restart."""
        return written(vars(self), _KS)

    def load_state(self, tensors: Named) -> None:
        """Take back what ``state`` returned."""
        read(self, tensors, _KS)


def _merged(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return count, sum and sum of squared deviations of the numbers of two buckets."""
    count = one[0] + other[0]
    apart = other[1] / other[0] - one[1] / one[0]
    squares = one[2] + other[2] + apart**2 * one[0] * other[0] / count
    return np.array([count, one[1] + other[1], squares])


_BUCKETS = 5
"""Of one size; Bifet and Gavalda's M."""

_LEAST = 1e-300
_PAGE_HINKLEY = ("statistic", "_count", "_mean", "_sums", "_runs")
_ADWIN = ("statistic", "_seen", "_buckets")
_KS = ("statistic", "_seen", "_numbers")
