"""Avalanche's Synaptic Intelligence, made to work where the network is on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from avalanche.training.plugins import SynapticIntelligencePlugin


class SynapticIntelligence(SynapticIntelligencePlugin):  # type: ignore[misc]  # Avalanche ships no types
    """Synaptic Intelligence: holds each weight by what its path contributed to the loss.

    Zenke et al. 2017 (arXiv:1703.04200) as in Maltoni and Lomonaco 2018 (arXiv:1806.08568). In
    avalanche-lib 0.6.0 the plugin notes weights as ``param.detach().cpu().flatten()``, which on the
    CPU is no copy but the weight itself: what it remembers then moves along, every importance is
    zero, and the penalty too. Here what it notes is copied; all else is Avalanche's.
    """

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Note the weights at the start of the experience."""
        super().before_training_exp(strategy, **kwargs)
        _copy(self.ewc_data[0].values())

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Note the weights before the update."""
        super().before_training_iteration(strategy, **kwargs)
        _copy(self.syn_data["old_theta"].values())

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Turn the path into importances."""
        with warnings.catch_warnings():  # it calls NumPy on torch tensors
            warnings.simplefilter("ignore", DeprecationWarning)
            super().after_training_exp(strategy, **kwargs)


def _copy(noted: Iterable[Any]) -> None:
    for entry in noted:
        entry.data = entry.data.clone()
