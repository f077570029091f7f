"""ObGD, gradient descent whose steps are bounded so that no update overshoots; with traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

TRACE = "eligibility_trace"


class ObGD(torch.optim.Optimizer):
    """Overshooting-bounded gradient descent on one vector of weights.

    With z the eligibility trace, ``z <- gamma lambda z + gradient``, and delta the error, weights
    move by ``alpha delta z`` with ``alpha = min(lr, 1 / (kappa max(|delta|, 1) |z|_1))``.

    It is a torch optimizer, so that checkpoints hold its trace; updates come one at a time in
    NumPy, by ``update`` in place of ``step``.

    Args:
        flat: The weights, shape (n,), on the processor.
        lr: The largest step.
        decay: By which the trace fades at each update, gamma lambda.
        kappa: How far below overshooting steps stay; larger is more careful.

    Source: arXiv:2410.14606, algorithm ObGD (overshooting-bounded gradient descent).

    >>> weights = torch.tensor([1.0, 2.0])
    >>> ObGD(weights, lr=1.0, decay=0.5, kappa=2.0).update(np.array([1.0, 3.0]), delta=4.0)
    0.03125
    >>> weights  # 1 / (2 * 4 * (1 + 3)) = 1 / 32; times 4, times the trace
    tensor([1.1250, 2.3750])
    """

    def __init__(self, flat: Tensor, *, lr: float, decay: float, kappa: float) -> None:
        super().__init__([flat], {"lr": lr})
        self._decay, self._kappa = decay, kappa
        self.state[flat][TRACE] = torch.zeros_like(flat)
        self._weights = flat.detach().numpy()
        self.trace = self.state[flat][TRACE].numpy()
        self._moves = np.empty_like(self.trace)

    def update(self, gradient: Any, delta: float) -> float:
        """Take a gradient into the trace, move the weights along it, and return the step size.

        Args:
            gradient: Of what is to grow where ``delta`` is positive, shape (n,).
            delta: The temporal-difference error.
        """
        trace, moves, lr = self.trace, self._moves, self.param_groups[0]["lr"]
        trace *= self._decay
        trace += gradient
        length = float(np.add.reduce(np.abs(trace, out=moves)))
        bound = lr * self._kappa * max(abs(delta), 1.0) * length
        size = lr / bound if bound > 1.0 else lr
        np.multiply(trace, size * delta, out=moves)
        self._weights += moves
        return float(size)

    def clear(self) -> None:
        """Forget the trace."""
        self.trace.fill(0.0)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back the trace that ``state_dict`` gave, into the memory that updates use."""
        kept = state_dict["state"]
        self.clear()
        if kept:
            self.trace[:] = kept[0][TRACE].numpy()
