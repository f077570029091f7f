"""Values of a policy fitted to returns, compiled: all minibatches of a rollout in one call."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from holdfast.agents.algorithms import losses
from holdfast.agents.base.buffers import Arrays
from holdfast.agents.base.parameters import Named, named_parameters, replaced
from holdfast.agents.compiled.rounds import Planned, Rounds
from holdfast.agents.compiled.transfer import arrays_of, padded, state_of, write
from holdfast.agents.compiled.update import State, Update
from holdfast.agents.doors.gradients import Tensors, Works


class ValueFit:
    """Takes steps of a policy's optimizer on the squared error of its values.

    Args:
        policy: An actor-critic of Stable-Baselines3.
        norm: Greatest common norm of the gradients.
        most: Rows of a whole rollout.
    """

    def __init__(self, policy: Any, norm: float, most: int) -> None:
        parameters = named_parameters(policy)
        self._policy, self._most = policy, most
        self._update = Update(policy.optimizer, parameters, {}, Works(), norm=norm)
        self._rounds = Rounds(self._one)

    def fit(self, rows: Arrays, indices: list[Any], rate: float) -> Any:
        """Return the error before each step, shape (minibatches,).

        Args:
            rows: ``observations`` as buffers name them, and ``returns``.
            indices: The rows of each minibatch.
            rate: Learning rate.

        Raises:
            Diverged: If a gradient is not finite.
        """
        update = self._update
        called, given = update.draw()
        of_groups = [np.asarray(rate, rows["returns"].dtype) for _ in update.stepper.groups]
        shared = {
            "rows": padded(rows, self._most),
            "rates": of_groups,
            "fixed": arrays_of(update.fixed()),
        }
        planned = [Planned(called, {"index": index, "given": given}) for index in indices]
        begun = self._rounds.begun(arrays_of(state_of(update)))
        outcome = self._rounds.run(begun, shared, planned)
        write(update, self._rounds.told(outcome.state))
        return outcome.figures["loss"]

    def _one(
        self, called: Any, state: State, shared: Tensors, own: Tensors
    ) -> tuple[State, Named, Named, Any]:
        """Return what one update makes of the state: a pure function."""
        batch = {name: rows[own["index"]] for name, rows in shared["rows"].items()}

        def loss(parameters: Named) -> tuple[Tensor, Named]:
            with replaced(self._policy, parameters):
                return losses.value_error(self._policy, batch), {}

        done = self._update.function(
            loss, called, state, shared["fixed"], own["given"], shared["rates"]
        )
        return done[:4]
