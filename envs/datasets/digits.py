"""Supervised benchmarks of handwritten digits that are in scikit-learn's package: no download.

1,797 images of 8 x 8 pixels, ten classes (Alpaydin and Kaynak 1998, UCI, "Optical Recognition of
Handwritten Digits", its test set). Every fourth sample of each class is held out for evaluation, so
that train and test are the same for every seed: 1,350 and 447 samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import DataAttribute, TaskLabels
from avalanche.benchmarks.utils.classification_dataset import (
    TaskAwareSupervisedClassificationDataset,
)
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import TensorDataset

from holdfast import seeding
from holdfast.errors import UsageError

CLASSES = 10
HELD_OUT = 4
"""One in this many samples of each class is for evaluation."""

_BRIGHTEST = 16.0


def split_digits(n_experiences: int = 5, *, class_order: Sequence[int] | None = None) -> Any:
    """Return the ten digits split into experiences of different classes.

    Args:
        n_experiences: From 1 to 10; where it does not divide ten, the first ones have more classes.
        class_order: The digits in the order of their coming. Default: ascending.

    Raises:
        UsageError: If there cannot be so many, or the order does not hold each digit once.
    """
    order = list(range(CLASSES)) if class_order is None else list(class_order)
    if sorted(order) != list(range(CLASSES)):
        raise UsageError(f"split-digits: class_order must hold 0 to 9 once each, got {order}")
    if not 1 <= n_experiences <= CLASSES:
        raise UsageError(f"split-digits: n_experiences must be from 1 to 10, got {n_experiences}")
    images, labels, held_out = _digits()
    found = (np.isin(labels, classes) for classes in np.array_split(order, n_experiences))
    return _benchmark([(images[mine], labels[mine], held_out[mine]) for mine in found])


def permuted_digits(n_experiences: int = 5, *, seed: int = 0) -> Any:
    """Return all ten digits in every experience, each with a pixel order of its own.

    Args:
        n_experiences: How many; experience k is the same however many there are.
        seed: Of the pixel orders. The first experience is permuted too, as in Avalanche's
            PermutedMNIST.

    Raises:
        UsageError: If there is to be none.
    """
    if n_experiences < 1:
        raise UsageError(f"permuted-digits: n_experiences must be at least 1, got {n_experiences}")
    images, labels, held_out = _digits()
    rngs = (seeding.generator(seed, "permuted-digits", k) for k in range(n_experiences))
    orders = [rng.permutation(images.shape[1]) for rng in rngs]
    return _benchmark([(images[:, order], labels, held_out) for order in orders])


Samples = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]


def _benchmark(experiences: Sequence[Samples]) -> Any:
    """Return Avalanche's scenario of experiences: images, labels, and which are held out."""
    return benchmark_from_datasets(
        train=[_dataset(images[~out], labels[~out]) for images, labels, out in experiences],
        test=[_dataset(images[out], labels[out]) for images, labels, out in experiences],
    )


def _digits() -> Samples:
    """Return images in 0..1, shape (1797, 64), their digits, and which of them are held out."""
    found = load_digits()
    images = (found.data / _BRIGHTEST).astype(np.float32)
    labels = found.target.astype(np.int64)
    number = np.zeros(len(labels), dtype=np.int64)  # of each sample within its class
    for digit in range(CLASSES):
        mine = labels == digit
        number[mine] = np.arange(mine.sum())
    return images, labels, number % HELD_OUT == HELD_OUT - 1


def _dataset(images: NDArray[np.float32], labels: NDArray[np.int64]) -> Any:
    tensors: tuple[Tensor, Tensor] = (torch.from_numpy(images), torch.from_numpy(labels))
    return TaskAwareSupervisedClassificationDataset(
        [TensorDataset(*tensors)],
        data_attributes=[DataAttribute(labels.tolist(), "targets"), TaskLabels([0] * len(labels))],
    )
