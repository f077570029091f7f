"""Pauses inside a task, at which a checkpoint is taken: who asks for them, and what is kept.

At a pause the environments are closed, built again and seeded by the number of the pause, in a run
that is never interrupted too. A run that is resumed there begins its task as ever, puts what was
kept over it, and goes on with that same step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named

Parts = dict[str, Callable[[], Named]]
"""What never changes once it is there (old rows of a buffer), by a name that is never given twice;
each is made when it is written or read."""


@dataclass
class Inside:
    """All that an agent is inside a task.

    Attributes:
        files: Tensors that may be others at the next pause, by file.
        parts: Tensors that are written once, in the order in which they are put back.
        values: Plain data: numbers, texts, lists, dicts.
    """

    files: dict[str, Named] = field(default_factory=dict)
    parts: Parts = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Again:
    """A place inside a task at which its environments are built again.

    Attributes:
        number: Of the pause in this task, from 1.
        step: Environment steps of the task so far.
        worlds: What the environments go on with, as they told before they were closed.
    """

    number: int
    step: int
    worlds: list[Any]


class Pauses(Protocol):
    """The pauses of one task.

    Attributes:
        every: Environment steps between two; 0 where there are none, and the task goes on from a
            hidden boundary.
        resets: Whether environments whose episodes never end may begin again.
        resumed: What was kept at the pause that the task goes on from; None where it begins.
    """

    every: int
    resets: bool
    resumed: Inside | None

    def save(self, step: int, inside: Inside) -> None:
        """Keep what an agent is at this step of the task."""

    def put_back(self) -> None:
        """Give the methods of a resumed task the state that they had."""

    def skipped(self, step: int) -> None:
        """Be told that nothing was kept here, as no episode has ended so far."""


class Stop(Protocol):
    """Makes one learner pause; of a team, all at once."""

    def pause(self, step: int, *, is_last: bool) -> None:
        """Keep all, then build the environments again, unless this is the task's last step."""

    def resume(self) -> None:
        """Put back what was kept, and build the environments again."""


@dataclass
class Turn:
    """Says when a learner pauses.

    Off-policy with one environment, a pause waits for the end of its episode, but no longer than
    the interval.

    Attributes:
        pauses: What the task asks for.
        stop: Pauses.
        steps: Steps of the task, as the learner counts them.
        scale: Its steps for each environment step.
        waits: Whether pauses wait for the end of an episode.
    """

    pauses: Pauses
    stop: Stop
    steps: int
    scale: int = 1
    waits: bool = False
    _due: int = 0

    def begin(self, step: int) -> None:
        """Count from a step of the learner on."""
        self._due = self._after(step)

    def look(self, step: int, *, at_start: bool, is_endless: bool) -> None:
        """Pause if it is time.

        Args:
            step: Of the learner.
            at_start: Whether every environment is at the start of an episode.
            is_endless: Whether no episode has ended so far and nothing says that one will.
        """
        if step >= self.steps:
            self.stop.pause(step // self.scale, is_last=True)
            return
        late = self._due + self.pauses.every * self.scale
        if step < self._due or (self.waits and not at_start and step < late):
            return
        self._due = self._after(step)
        if is_endless and not self.pauses.resets:
            self.pauses.skipped(step // self.scale)
            return
        self.stop.pause(step // self.scale, is_last=False)

    def _after(self, step: int) -> int:
        every = self.pauses.every * self.scale
        return every * (step // every + 1)


def flattened(inside: Inside) -> dict[str, Named]:
    """Return what an agent is as files alone, its parts and its plain data among them."""
    parts = {f"{_PART}{name}": made() for name, made in inside.parts.items()}
    return inside.files | parts | {_VALUES: as_file(inside.values)}


def unflattened(files: Mapping[str, Named]) -> Inside:
    """Return what ``flattened`` was given; of other files, what they are."""
    parts: Parts = {
        name.removeprefix(_PART): partial(dict, tensors)
        for name, tensors in files.items()
        if name.startswith(_PART)
    }
    values = of_file(files[_VALUES]) if _VALUES in files else {}
    return Inside(dict(files), parts, values)


def as_file(plain: Any) -> Named:
    """Return plain data as a file of tensors, which bounds neither its size nor its numbers."""
    text = json.dumps(plain).encode()
    return {"json": torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def of_file(tensors: Mapping[str, Tensor]) -> Any:
    """Return what ``as_file`` was given."""
    return json.loads(tensors["json"].numpy().tobytes())


_PART, _VALUES = "part-", "values"


def taken_apart(tree: Any, tensors: Named) -> Any:
    """Return nested dicts and lists as plain data; tensors go into ``tensors``, by number.

    >>> found = {}
    >>> taken_apart({"a": [torch.ones(1), None]}, found), list(found)
    ({'a': [{'tensor': '0', 'device': 'cpu'}, None]}, ['0'])
    """
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        tensors[name] = tree.detach().cpu().clone()
        return {"tensor": name, "device": tree.device.type}
    if isinstance(tree, Mapping):
        return {str(key): taken_apart(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [taken_apart(value, tensors) for value in tree]
    return tree


def put_together(plain: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """Return what ``taken_apart`` was given, on the device where it was."""
    if isinstance(plain, list):
        return [put_together(value, tensors, device) for value in plain]
    if not isinstance(plain, dict):
        return plain
    if plain.keys() == {"tensor", "device"}:
        found = tensors[plain["tensor"]].clone()
        return found if plain["device"] == "cpu" else found.to(device)
    return {key: put_together(value, tensors, device) for key, value in plain.items()}
