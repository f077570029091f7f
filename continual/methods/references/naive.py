"""Keep training: the baseline that every mitigation is compared with."""

from __future__ import annotations

from holdfast.continual.method import Method


class Naive(Method):
    """Fine-tunes on each task in turn and does nothing against forgetting."""

    alone = True
