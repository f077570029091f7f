"""Checkpoints inside a task, until the one at its end is whole.

``checkpoints/task-<k>.at-<step>/`` is a checkpoint as those of task boundaries are; two are kept.
What never changes once it is there, such as old rows of a replay buffer, is written once, into
``checkpoints/task-<k>.parts/``: the checkpoints name the parts that they need, with their hashes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save as save_tensors
from torch import Tensor

from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.files import write_whole
from holdfast.continual.run_folder.readers import Inside, Member, modelled
from holdfast.errors import CheckpointUnusable
from holdfast.scenarios.source.regular_file import made_folder, remove

Parts = Mapping[str, Callable[[], dict[str, Tensor]]]
"""By name; each is made when it is written or read."""

_KEPT = 2
_STEP = re.compile(r"task-(\d+)\.at-(\d+)")
_OF_A_TASK = re.compile(r"task-(\d+)\.(at-\d+|parts)")


@dataclass
class Found:
    """A checkpoint inside a task.

    Attributes:
        step: Environment steps of the task that it was taken after.
        state: What the run was.
        values: What the agent was, plain data.
        files: Named tensors by file.
        parts: Named tensors that are read one part at a time.
    """

    step: int
    state: dict[str, Any]
    values: dict[str, Any]
    files: dict[str, dict[str, Tensor]]
    parts: Parts


@dataclass
class InsideTask:
    """The checkpoints inside one task of a run.

    Attributes:
        folder: The run folder's ``checkpoints``.
        stage: Position of the task in the stream, from 0.
    """

    folder: Path
    stage: int
    _written: dict[str, Member] = field(default_factory=dict)  # by the name of the part

    def save(
        self,
        step: int,
        files: dict[str, dict[str, Tensor]],
        parts: Parts,
        values: dict[str, Any],
        state: dict[str, Any],
    ) -> None:
        """Write a checkpoint; drop those before the last one, and the parts that none needs.

        Args:
            step: Environment steps of the task so far.
            files: Named tensors that are written each time.
            parts: Named tensors that are written if they were not before.
            values: What the agent is, plain data.
            state: What the run is.
        """
        for name, made in parts.items():
            if name not in self._written:
                self._written[name] = self._write(name, made)
        needed = {name: self._written[name].model_dump() for name in parts}
        inside = {"step": step, "parts": needed, "agent": values, "run": state}
        checkpoint.put(self._place(step), self.stage, files, {"inside": inside})
        for earlier in self._steps()[:-_KEPT]:
            remove(self._place(earlier))
        self._drop_parts()

    def clear(self) -> None:
        """Remove what a checkpoint that could not be written has left."""
        checkpoint.remove_leftovers(self.folder)
        self._drop_parts()

    def newest(self) -> tuple[Found | None, list[str]]:
        """Return the newest checkpoint that can be read, and what is wrong with newer ones.

        Those, and what a process left that died while it wrote, are removed: this is for the one
        that holds the run's lock and goes on.
        """
        damage: list[str] = []
        for step in reversed(self._steps()):
            try:
                found = self._load(step)
            except CheckpointUnusable as error:
                damage.append(str(error))
                remove(self._place(step))
                continue
            self._drop_parts()
            return found, damage
        return None, damage

    def _load(self, step: int) -> Found:
        path = self._place(step)
        saved = checkpoint.load(path)
        inside = _inside(saved.state, path)
        for name, member in inside.parts.items():
            checkpoint.content(self._part(name), member)
        self._written = inside.parts
        told = saved.state["inside"]
        parts = {name: partial(self._read, name, member) for name, member in inside.parts.items()}
        return Found(step, told["run"], told["agent"], saved.files, parts)

    # -- parts -------------------------------------------------------------------------------------

    @property
    def _parts_folder(self) -> Path:
        return self.folder / f"task-{self.stage}.parts"

    def _part(self, name: str) -> Path:
        return self._parts_folder / f"{name}.safetensors"

    def _write(self, name: str, made: Callable[[], dict[str, Tensor]]) -> Member:
        made_folder(self._parts_folder, folders=checkpoint.FOLDERS)
        content = save_tensors({n: tensor.contiguous() for n, tensor in made().items()})
        write_whole(self._part(name), content)
        return Member(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))

    def _read(self, name: str, member: Member) -> dict[str, Tensor]:
        path = self._part(name)
        return checkpoint.tensors(checkpoint.content(path, member), path)

    def _drop_parts(self) -> None:
        """Remove the parts that no checkpoint names, half-written ones among them."""
        needed = set[str]()
        for step in self._steps():
            place = self._place(step)
            try:
                needed |= _inside(checkpoint.read_state(place), place).parts.keys()
            except CheckpointUnusable:  # of no use
                remove(place)
        for path in self._parts_folder.glob("*"):
            if path.name.removesuffix(".safetensors") not in needed:
                remove(path)
        self._written = {name: known for name, known in self._written.items() if name in needed}

    # -- places ------------------------------------------------------------------------------------

    def _place(self, step: int) -> Path:
        return self.folder / f"task-{self.stage}.at-{step}"

    def _steps(self) -> list[int]:
        found = [_STEP.fullmatch(path.name) for path in self.folder.glob("task-*.at-*")]
        return sorted(int(m[2]) for m in found if m is not None and int(m[1]) == self.stage)


def drop(folder: Path, keep: Iterable[int] = ()) -> None:
    """Remove what is there of the inside of tasks, but of those at some stages."""
    kept = set(keep)
    for path in folder.glob("task-*.*"):
        match = _OF_A_TASK.fullmatch(path.name)
        if match is not None and int(match[1]) not in kept:
            remove(path)


def _inside(state: dict[str, Any], path: Path) -> Inside:
    """Return the bounds-checked form of what a checkpoint says of the inside of a task."""
    found: Inside = modelled(Inside, state.get("inside"), path / checkpoint.STATE)
    return found
