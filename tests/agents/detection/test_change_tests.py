"""Tests for a change, against their papers' formulas worked out here on all numbers at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.agents.detection.change_tests import (
    Adwin,
    ChangeTest,
    KolmogorovSmirnov,
    PageHinkley,
)

MAKE: dict[str, Callable[[], ChangeTest]] = {
    "page_hinkley": lambda: PageHinkley(0.5, 20.0),
    "adwin": lambda: Adwin(1e-4),
    "kolmogorov_smirnov": lambda: KolmogorovSmirnov(1e-6, 200, 40),
}


def moved(seed: int, before: int = 500, after: int = 500, by: float = 2.0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=before), rng.normal(by, size=after)])


def alarms(test: ChangeTest, numbers: NDArray[np.float64]) -> list[int]:
    return [place for place, number in enumerate(numbers) if test.update(float(number))]


@pytest.mark.parametrize(("direction", "signs"), [("up", [1]), ("down", [-1]), ("both", [1, -1])])
def test_page_hinkley_is_the_papers_sum_less_its_minimum(direction: str, signs: list[int]) -> None:
    numbers = moved(0, by=0.3)
    test = PageHinkley(0.05, math.inf, direction)
    found = []
    for number in numbers:
        test.update(float(number))
        found.append(test.statistic)
    means = np.cumsum(numbers) / np.arange(1, len(numbers) + 1)
    expected = []
    for sign in signs:
        sums = np.cumsum(sign * (numbers - means) - 0.05)  # m_t
        least = np.minimum(np.minimum.accumulate(sums), 0.0)  # M_t, from m_0 = 0 on
        expected.append(sums - least)
    assert np.allclose(found, np.max(expected, axis=0), rtol=0, atol=1e-9)


def test_page_hinkley_by_hand() -> None:
    """1, 1, 4, 4 with tolerance .5: means 1, 1, 2, 2.5, so m = -.5, -1, .5, 1.5."""
    test = PageHinkley(0.5, 2.4, "up")
    assert [test.update(number) for number in (1.0, 1.0, 4.0, 4.0)] == [False, False, False, True]
    assert test.statistic == pytest.approx(2.5)  # 1.5 - -1
    assert test.age == 2  # m was least after the second number


def test_the_age_of_a_change_says_when_it_was() -> None:
    """ADWIN drops its oldest buckets, and knows it no finer than by those."""
    for seed in range(5):
        for name, margin in (("page_hinkley", 10), ("adwin", 256)):
            test, numbers = MAKE[name](), moved(seed)
            place = next(n for n, number in enumerate(numbers) if test.update(float(number)))
            assert abs(place + 1 - test.age - 500) <= margin, (name, seed)


def cut_of(window: NDArray[np.float64], sizes: list[int], delta: float) -> bool:
    """Return whether some cut between buckets tells two parts apart, by the paper's formula."""
    places, whole = np.cumsum(sizes)[:-1], len(window)
    for n0 in places:
        older, newer = window[:n0], window[n0:]
        m = 1 / (1 / len(older) + 1 / len(newer))
        log = math.log(2 / (delta / math.log(whole)))
        bound = math.sqrt(2 / m * window.var() * log) + 2 / (3 * m) * log
        if abs(older.mean() - newer.mean()) > bound:
            return True
    return False


def test_adwin_cuts_where_the_papers_bound_says() -> None:
    numbers = moved(1, before=300, after=100, by=1.0)
    test, start = Adwin(0.01, every=8), 0
    for place, number in enumerate(numbers, start=1):
        is_change = test.update(float(number))
        if place % 8:
            assert not is_change
            continue
        sizes = [int(size) for size in test._buckets[:, 0]]
        window = numbers[place - sum(sizes) : place]
        assert not cut_of(window, sizes, 0.01)
        assert is_change == (sum(sizes) < place - start)
        if is_change:  # what it dropped last was told apart from the rest
            dropped = place - start - sum(sizes)
            assert dropped > 0
        start = place - sum(sizes)
        count, mean = len(window), window.mean()
        assert test._buckets[:, 1].sum() == pytest.approx(count * mean)
    assert start >= 250  # little is left of before the change, at 300


def test_adwin_keeps_logarithmically_many_buckets() -> None:
    test = Adwin(1e-9)
    assert alarms(test, np.random.default_rng(2).normal(size=4_000)) == []
    sizes = test._buckets[:, 0]
    assert sizes.sum() == 4_000
    assert (np.diff(sizes) <= 0).all()  # older ones are no smaller
    assert max(np.bincount(np.log2(sizes).astype(int))) <= 5
    assert set(np.log2(sizes) % 1) == {0.0}


def test_kolmogorov_smirnov_is_the_asymptotic_test_of_the_two_samples() -> None:
    numbers = moved(3, before=200, after=20, by=1.0)
    test = KolmogorovSmirnov(1e-300, 200, 20)
    alarms(test, numbers)
    older, newer = numbers[20:200], numbers[200:]
    places = np.concatenate([older, newer])
    shares = [(part[:, None] <= places).mean(axis=0) for part in (older, newer)]
    distance = np.abs(shares[0] - shares[1]).max()
    root = math.sqrt(len(older) * len(newer) / (len(older) + len(newer)))
    # Kolmogorov's distribution, with the count that SciPy rounds to.
    from scipy.stats import kstwo

    p_value = kstwo.sf(distance, round(root**2))
    assert test.statistic == pytest.approx(-math.log10(p_value), abs=1e-6)


@pytest.mark.parametrize("name", MAKE)
def test_a_change_is_found_and_no_other(name: str) -> None:
    found = alarms(MAKE[name](), moved(4))
    assert found
    assert 500 <= found[0] < 600
    assert alarms(MAKE[name](), np.random.default_rng(5).normal(size=1_000)) == []


@pytest.mark.parametrize("name", MAKE)
def test_it_goes_on_from_its_state_bit_for_bit(name: str) -> None:
    numbers = moved(6)
    straight, broken = MAKE[name](), MAKE[name]()
    expected = [(straight.update(float(n)), straight.statistic) for n in numbers]
    found = []
    for place, number in enumerate(numbers):
        if place % 97 == 0:
            fresh = MAKE[name]()
            fresh.load_state({k: v.clone() for k, v in broken.state().items()})
            broken = fresh
        found.append((broken.update(float(number)), broken.statistic))
    assert np.array_equal(np.array(found), np.array(expected), equal_nan=True)


@pytest.mark.parametrize("name", MAKE)
def test_forgetting_is_a_new_test(name: str) -> None:
    old, new = MAKE[name](), MAKE[name]()
    alarms(old, moved(7))
    old.forget()
    assert alarms(old, moved(8)) == alarms(new, moved(8))
