"""What is set apart from the garbage collector, and what is not."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from holdfast.agents.base import garbage


class Cycle:
    def __init__(self) -> None:
        self.self = self


@pytest.fixture(autouse=True)
def nothing_frozen() -> Iterator[None]:
    gc.unfreeze()  # what these tests themselves set apart, see conftest
    yield
    assert gc.get_freeze_count() == 0
    gc.freeze()


@pytest.mark.thorough
def test_what_is_there_is_set_apart_and_what_comes_is_collected() -> None:
    before = Cycle()
    with garbage.apart():
        assert gc.get_freeze_count() > 1000
        old, new = weakref.ref(before), Cycle()
        later = weakref.ref(new)
        del before, new
        gc.collect()
        assert later() is None
        assert old() is not None  # nobody looks at it inside
    gc.collect()
    assert old() is None


@pytest.mark.thorough
def test_setting_apart_again_collects_what_has_been_dropped_since() -> None:
    before = Cycle()
    with garbage.apart():
        old, count = weakref.ref(before), gc.get_freeze_count()
        kept = [Cycle() for _ in range(100)]
        del before
        garbage.set_apart_again()
        assert old() is None
        assert gc.get_freeze_count() >= count + len(kept)


def test_the_freezing_of_a_program_around_is_left_alone() -> None:
    gc.freeze()
    count = gc.get_freeze_count()
    with garbage.apart():
        garbage.set_apart_again()
        assert gc.get_freeze_count() == count
    assert gc.get_freeze_count() == count
    gc.unfreeze()


def test_outside_nothing_is_set_apart() -> None:
    garbage.set_apart_again()
    assert gc.get_freeze_count() == 0


def test_an_error_ends_it() -> None:
    with pytest.raises(ZeroDivisionError), garbage.apart():
        raise ZeroDivisionError
