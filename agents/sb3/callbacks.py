"""Callbacks of the user's own (``agent.callbacks``), inside the bounds that a cell needs.

They see all that Stable-Baselines3 shows a callback, and may change it. What they draw at random
is put back, so that a callback which only looks changes nothing; none ends a task, whose steps are
exact; and what they remember goes along where a killed run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from holdfast import registry, seeding
from holdfast.agents.base.pauses import as_file, of_file
from holdfast.errors import UsageError
from holdfast.scenarios.schema.method_spec import Callback

Memory = dict[str, dict[str, Any]]
"""By name of the callback: ``n_calls``, and ``state`` where it has a ``state_dict``."""


class Callbacks(BaseCallback):
    """The callbacks of a scenario, each called as Stable-Baselines3 calls one.

    Args:
        specs: As the scenario has them.
        folder: Where their modules are looked for after what is installed.
        told: What those of an earlier task have told, which these take over.

    Raises:
        UsageError: One is no callback, or tells a state that is not plain data.
    """

    def __init__(self, specs: Sequence[Callback], folder: Path | None, told: Memory) -> None:
        super().__init__()
        self._own = [(spec.name, _made(spec, folder)) for spec in specs]
        self._pending = {name: {"state": own["state"]} for name, own in told.items()}
        self._model: Any = None
        self._has_begun = False

    def tensors(self) -> dict[str, Any]:
        """Return what the callbacks remember, as a file of a checkpoint."""
        return as_file(self.told())

    def load(self, tensors: Any) -> None:
        """Take back what ``tensors`` gave, now or once training has begun."""
        self._pending = of_file(tensors)
        if self._has_begun:
            self._remember()

    def told(self) -> Memory:
        """Return what the callbacks remember, as plain data."""
        return {
            name: {"n_calls": own.n_calls, "state": _state(name, own)} for name, own in self._own
        }

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """Put random states back, those of the model's actions included."""
        kept, space = seeding.global_states(), self.model.action_space
        of_actions = space.np_random.bit_generator.state
        try:
            yield
        finally:
            seeding.set_global_states(kept)
            space.np_random.bit_generator.state = of_actions

    def _each(self, call: Callable[[BaseCallback], Any]) -> None:
        with self._unseen():
            for _, own in self._own:
                call(own)

    def _init_callback(self) -> None:
        if self._model is self.model:  # set up twice where a run goes on inside the task
            return
        self._model = self.model
        self._each(lambda own: own.init_callback(self.model))

    def _on_training_start(self) -> None:
        self._each(lambda own: own.on_training_start(self.locals, self.globals))
        self._has_begun = True
        self._remember()
        self.told()  # what is no plain data is told now, not at the first checkpoint

    def _remember(self) -> None:
        for name, own in self._own:
            kept = self._pending.get(name, {})
            own.n_calls = kept.get("n_calls", own.n_calls)
            if kept.get("state") is not None:
                own.load_state_dict(kept["state"])  # type: ignore[attr-defined]  # it had told one
        self._pending = {}

    def _on_rollout_start(self) -> None:
        self._each(lambda own: own.on_rollout_start())

    def _on_step(self) -> bool:
        with self._unseen():
            for name, own in self._own:
                if not own.on_step():
                    raise UsageError(
                        f"agent.callbacks: '{name}' returned False after {self.num_timesteps} "
                        "steps of the task; a callback cannot end a task, whose steps are exact: "
                        "return True, and write fewer steps:"
                    )
        return True

    def _on_rollout_end(self) -> None:
        self._each(lambda own: own.on_rollout_end())

    def _on_training_end(self) -> None:
        self._each(lambda own: own.on_training_end())

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        """Show the callbacks what the loop holds."""
        for _, own in self._own:
            own.update_locals(locals_)


def _made(spec: Callback, folder: Path | None) -> BaseCallback:
    made = registry.load(spec.name, folder)
    if not (isinstance(made, type) and issubclass(made, BaseCallback)):
        base = "stable_baselines3.common.callbacks.BaseCallback"
        raise UsageError(f"agent.callbacks: '{spec.name}' is no class derived from {base}")
    return made(**spec.arguments)


def _state(name: str, own: BaseCallback) -> Any:
    tell = getattr(own, "state_dict", None)
    if tell is None:
        return None
    state = tell()
    try:
        as_file(state)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"agent.callbacks: state_dict() of '{name}' gives what is no plain data ({error}); "
            "return numbers, texts, lists and dicts"
        ) from error
    return state
