"""Slots that are kept, to be taken up again where what is seen after a change fits one of them."""

from __future__ import annotations

import math
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from holdfast.agents.base.parameters import Named
from holdfast.agents.detection.change_tests import PageHinkley, highest_sum
from holdfast.agents.detection.dynamics import BLOCK, Learned, Rows
from holdfast.agents.detection.signals import Lived, Prediction
from holdfast.agents.detection.state import written
from holdfast.scenarios.schema.detector import PageHinkley as Options

KEPT = 20
"""Slots that can be taken up again; more would make checkpoints of wide observations large."""

LEAST, MOST = 250, 1000
"""Transitions since the change that the choice is made from."""

FIT = 0.25
"""Of the test's tolerance and threshold, for a slot that fits."""


class Kept(NamedTuple):
    """A slot that has ended.

    Attributes:
        learned: By its model, of what came before the change that ended it.
        mean: Error of its model while it was tested.
    """

    learned: Learned
    mean: float


class Recurrence:
    """Recognises slots that come again by their models of the dynamics.

    A change is detected where the errors of the slot's model rise above their mean. What is lived
    through from that change on is put to the models of all other slots that are kept: a slot fits
    where the same test, begun at the change with the mean of that slot's errors, tells of none. It
    has ``FIT`` times its tolerance and threshold there: what is looked at is short, so that false
    alarms are rare, and worlds that differ by less than was detected must be told apart. The
    fitting slot with the least error is taken up again; where none fits, one begins with the prior.

    After Goncalves and Barros 2013, "RCD: a recurring concept drift framework", which puts new data
    to a test against those of each kept context, and takes up one that it cannot tell apart; models
    of the dynamics as contexts are from Alegre et al. 2021, "Minimum-delay adaptation in
    non-stationary reinforcement learning via online high-confidence change-point detection".

    The change is where the test's statistic last was 0, as for the rows of methods: nothing later
    is in a kept model. The ``KEPT`` slots that were left last are kept.

    Args:
        signal: Whose model is that of the slot under way.
        options: Of the test.

    Attributes:
        count: Slots so far.
    """

    def __init__(self, signal: Prediction, options: Options) -> None:
        self._signal, self._options = signal, options
        self.count = 1
        self._kept: dict[int, Kept] = {}  # that which was left longest ago first
        self._last = _nothing(signal)
        self._steps: list[Rows] = []  # since then: inputs and outputs side by side

    def watch(self, lived: Lived, test: PageHinkley) -> None:
        """Take a step that is tested, before the model learns it."""
        if test.age == 0:
            self._last, self._steps = Kept(self._signal.model.learned, test.mean), []
        self._steps.append(np.concatenate(self._signal.transitions(lived), axis=1))
        while (len(self._steps) - 1) * len(self._steps[0]) >= MOST:
            del self._steps[0]

    def follow(self, lived: Lived) -> None:
        """Take a step after a detection that has not taken effect yet."""
        if self._seen < MOST:
            self._steps.append(np.concatenate(self._signal.transitions(lived), axis=1))

    @property
    def is_ready(self) -> bool:
        """Whether enough was seen since the change."""
        return self._seen >= LEAST

    @property
    def _seen(self) -> int:
        return sum(map(len, self._steps))

    def next_slot(self, slot: int) -> int:
        """Keep the slot that ends, and let the model be that of the next one.

        Args:
            slot: Number of that which ends.

        Returns:
            Number of the next one.
        """
        model, seen = self._signal.model, np.concatenate(self._steps)
        before = self._kept.pop(slot, None)
        fits = []
        for number, kept in self._kept.items():
            model.learned = kept.learned
            errors = self._errors(seen)
            statistic = highest_sum(errors, kept.mean, FIT * self._options.tolerance)
            if statistic <= FIT * self._options.threshold:
                fits.append((float(errors.mean()), number, model.learned))
        # What was hardly tested has no mean to compare with.
        left = before if math.isnan(self._last.mean) else self._last
        if left is not None:
            self._kept[slot] = left
        for number in list(self._kept)[:-KEPT]:
            del self._kept[number]
        self._steps, self._last = [], _nothing(self._signal)
        if fits:
            _, number, model.learned = min(fits, key=itemgetter(0))
            return number
        model.forget()
        self._errors(seen)
        self.count += 1
        return self.count - 1

    def _errors(self, rows: Rows) -> Rows:
        """Return the error of the model on each row, shape (rows,); it learns them."""
        model, found = self._signal.model, []
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            found.append(model.errors(block[:, : -model.outputs], block[:, -model.outputs :]))
        return np.concatenate(found)

    def state(self) -> Named:
        """Return all that must survive a restart, as named tensors."""
        slots = [*self._kept.values(), self._last]
        parts = {
            "numbers": [*self._kept],
            "covariances": [slot.learned.covariance for slot in slots],
            "weights": [slot.learned.weights for slot in slots],
            "means": [slot.mean for slot in slots],
            "steps": self._steps,
            "count": self.count,
        }
        return written(parts, parts)

    def load_state(self, tensors: Named) -> None:
        """Take back what ``state`` returned."""
        parts = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
        learned = map(Learned, parts["covariances"], parts["weights"])
        *kept, self._last = map(Kept, learned, parts["means"].tolist())
        self._kept = dict(zip(parts["numbers"].astype(int).tolist(), kept, strict=True))
        self._steps, self.count = [*parts["steps"]], int(parts["count"])


def _nothing(signal: Prediction) -> Kept:
    """Return what is known of a slot that was not tested yet."""
    return Kept(signal.model.learned, math.nan)
