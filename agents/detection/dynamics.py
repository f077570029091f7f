"""A small model of the environment's dynamics, whose error tells that the dynamics changed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.agents.base.parameters import Named
from holdfast.agents.detection.state import read, written

Rows = NDArray[np.float64]


class Learned(NamedTuple):
    """What a model has learned; its arrays are never written into.

    Attributes:
        covariance: Of the weights, in units of the noise's variance; shape (features, features).
        weights: Their posterior mean, shape (features, outputs).
    """

    covariance: Rows
    weights: Rows


class Dynamics:
    """Bayesian linear regression of the next observation and the reward on random features.

    Of a transition (s, a, r, s') it predicts y = (s' - s, r) from x = (s, a), both standardised by
    the first ``warmup`` transitions of the stream, x then clipped to -5..5. The features are 1, x,
    and ``features`` random Fourier features sqrt(2 / D) cos(W x + b) of a Gaussian kernel with the
    length sqrt(dimension of x) (Rahimi and Recht 2007, "Random Features for Large-Scale Kernel
    Machines"). The weights are the exact posterior mean given all transitions since ``forget``,
    under a normal prior of variance 100 in units of the noise's (Bishop 2006, "Pattern Recognition
    and Machine Learning", equations 3.53 and 3.54), kept by block recursion.

    Its error is log(0.001 + mean((y - prediction)^2) / (1 + h)), with h = phi P phi the variance of
    the prediction in units of the noise's: inputs that were never seen are expected to surprise, so
    that a policy that learns looks less like a world that changes. Below 0.001, a thirtieth of the
    deviation, the prediction counts as right: the logarithm would magnify what does not matter.

    Args:
        inputs: Length of x.
        outputs: Length of y.
        rng: Draws the features.
        features: Random features D.
        warmup: Transitions that standardise; until then there is no error.

    Attributes:
        outputs: Length of y.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rng: np.random.Generator,
        *,
        features: int = 100,
        warmup: int = 500,
    ) -> None:
        self._frequencies = rng.normal(size=(inputs, features)) / np.sqrt(inputs)
        self._phases = rng.uniform(0.0, 2 * np.pi, features)
        self._warmup, self._size = warmup, 1 + inputs + features
        self.outputs = outputs
        self._waiting = np.empty((0, inputs + outputs))
        self._scales = np.empty((0, 2, inputs + outputs))  # mean and deviation, once known
        self.forget()

    def forget(self) -> None:
        """Begin with the prior again; what standardises stays."""
        self._covariance = _PRIOR * np.eye(self._size)
        self._weights = np.zeros((self._size, self.outputs))

    @property
    def learned(self) -> Learned:
        """What it has learned since ``forget``; set to go on from there."""
        return Learned(self._covariance, self._weights)

    @learned.setter
    def learned(self, learned: Learned) -> None:
        self._covariance, self._weights = learned

    def errors(self, inputs: Rows, outputs: Rows) -> Rows:
        """Return the log error of each transition, and learn from all of them.

        Args:
            inputs: Shape (batch, inputs).
            outputs: Shape (batch, outputs).

        Returns:
            Shape (batch,); (0,) while what standardises is not known yet.
        """
        rows = np.concatenate([inputs, outputs], axis=1)
        if not len(self._scales):
            self._waiting = np.concatenate([self._waiting, rows])
            if len(self._waiting) < self._warmup:
                return np.empty(0)
            mean, deviation = self._waiting.mean(axis=0), self._waiting.std(axis=0)
            # What never moved has no scale; a tiny one would make any movement enormous.
            self._scales = np.array([[mean, np.where(deviation > _LEAST, deviation, 1.0)]])
            rows, self._waiting = self._waiting, self._waiting[:0]
            for start in range(0, len(rows), BLOCK):
                self._learn(*self._standardised(rows[start : start + BLOCK]))
            return np.empty(0)
        return self._learn(*self._standardised(rows))

    def _standardised(self, rows: Rows) -> tuple[Rows, Rows]:
        mean, deviation = self._scales[0]
        scaled = (rows - mean) / deviation
        x, y = scaled[:, : -self.outputs], scaled[:, -self.outputs :]
        x = x.clip(-_MOST, _MOST)
        waves = np.cos(x @ self._frequencies + self._phases)
        waves *= np.sqrt(2 / waves.shape[1])
        return np.concatenate([np.ones((len(x), 1)), x, waves], axis=1), y

    def _learn(self, features: Rows, outputs: Rows) -> Rows:
        gain = features @ self._covariance  # (batch, size)
        spread = gain @ features.T  # (batch, batch)
        error = outputs - features @ self._weights  # (batch, outputs)
        inflation = 1.0 + np.diagonal(spread)
        found: Rows = np.log(_RIGHT + (error**2).mean(axis=1) / inflation)
        solved = np.linalg.solve(np.eye(len(features)) + spread, gain)  # (batch, size)
        self._weights = self._weights + solved.T @ error
        covariance = self._covariance - gain.T @ solved
        self._covariance = (covariance + covariance.T) / 2  # rounding would add up
        return found

    def state(self) -> Named:
        """Return all that it has learned, as named tensors."""
        return written(vars(self), _LEARNED)

    def load_state(self, tensors: Named) -> None:
        """Take back what ``state`` returned."""
        read(self, tensors, _LEARNED)


_LEARNED = ("_waiting", "_scales", "_covariance", "_weights")
BLOCK = 32
"""Rows that are learned at once, where there are many."""

_MOST, _LEAST = 5.0, 1e-8
_PRIOR, _RIGHT = 100.0, 1e-3
