"""The run folder of one cell: what runs, every score, how it ended.

``runs/README.md`` states the contract. ``scores.jsonl`` is the one record of results. It only
grows, by whole evaluation points; a line counts once its newline is on disk. Everything else in the
folder that matters is written beside its place and renamed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import accumulate
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from holdfast.continual.run_folder.episodes import Episode, episodes, misfit
from holdfast.continual.run_folder.files import sync, write_whole
from holdfast.continual.run_folder.lock import leave_word, locked
from holdfast.continual.run_folder.readers import (
    LARGEST,
    RunInfo,
    json_object,
    modelled,
    read_file,
)
from holdfast.errors import (
    CheckpointUnusable,
    FolderUnwritable,
    HoldfastError,
    InUse,
    ScenarioError,
)
from holdfast.scenarios.load import load_resolved
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.source.regular_file import (
    check_inside,
    is_there,
    made_folder,
    opened,
    remove,
)

SCENARIO, RUN, SCORES, LOCK = "scenario.yaml", "run.json", "scores.jsonl", "lock"
CROSS_PLAY, CROSS_PLAY_PAGE = "cross-play.json", "cross-play.md"
"""Of the folder of a cell, a method or a scenario, whose report then has it as a section."""


LEARNING_RULES = 3
"""Version of how cells learn from the same scenario; CHANGELOG.md marks each change **curves**.

1 is that of cells without the entry in ``run.json``. 2: nothing happens at a hidden boundary.
3: a features extractor that actor and critic share goes on learning under every method.
"""

_INFORMATION = {"task_id", "boundaries", "task_count"}


class RunFolder:
    """The folder ``runs/<scenario>/<method label>/seed-<k>`` of one cell.

    Args:
        path: The folder.
        given: The scenario of the cell, where the user gave it: it is what runs, and its code may
            be imported, whatever the folder holds. It travels with the folder between processes.
        trust_code: Whether the user trusts the code that the folder's own scenario names.

    Attributes:
        path: The folder.
        given: As given.
        trust_code: As given.
    """

    def __init__(
        self, path: Path, *, given: Scenario | None = None, trust_code: bool = False
    ) -> None:
        self.path, self.given = path, given
        self.trust_code = trust_code or (given is not None and given.trusts_code)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def create(cls, path: Path, scenario: Scenario, **info: Any) -> RunFolder:
        """Write the folder of a cell that has not started yet, and return it.

        Another process that does the same at the same time is left to it.

        Args:
            path: The folder; it has no ``scenario.yaml`` yet.
            scenario: The scenario with just this cell's method and seed.
            **info: More entries of ``run.json``.
        """
        made_folder(path)
        started = {
            "status": "pending",
            "reason": None,
            "learning_rules": LEARNING_RULES,
            "scenario": scenario.name,
            "method": scenario.methods[0].label,
            "seed": scenario.seeds[0],
            "information": scenario.stream.model_dump(include=_INFORMATION),
            "source": str(scenario.source.resolve()) if scenario.source else None,
            "folder": str(scenario.folder.resolve()) if scenario.folder else None,
        }
        folder = cls(path, given=scenario)
        with suppress(InUse), folder.lock():
            if not is_there(path / SCENARIO):
                folder.update(**started, **info)
                # Last: a folder is a run folder once it has its scenario.
                write_whole(path / SCENARIO, scenario.to_yaml().encode())
        return folder

    @cached_property
    def scenario(self) -> Scenario:
        """The scenario that this cell runs, with just its own method and seed.

        Read from the folder, it has no ``folder`` from which code is imported; see
        ``policies/trust.py``.

        Raises:
            CheckpointUnusable: If ``scenario.yaml`` cannot be read.
        """
        return self.given or self.read_scenario()

    def read_scenario(self) -> Scenario:
        """Return the scenario in ``scenario.yaml``; raises as ``scenario`` does."""
        path = self.path / SCENARIO
        try:
            found = load_resolved(path, content=read_file(path), place=self._place())
            found._trusts_code = self.trust_code
            if fault := _beyond_a_run(found):
                raise CheckpointUnusable(f"{path}: {fault}")
        except FileNotFoundError as error:
            raise CheckpointUnusable(f"{path}: there is no such file") from error
        except ScenarioError as error:
            raise CheckpointUnusable(
                f"{path}: cannot be read as a scenario of this version:\n{error}"
            ) from error
        except HoldfastError:
            raise
        except Exception as error:  # of values that no check foresaw: the file is from anywhere
            raise CheckpointUnusable(
                f"{path}: cannot be read as a scenario: {type(error).__name__}: {str(error)[:200]}"
            ) from error
        return found

    def _place(self) -> Path | None:
        """Return where paths of other runs count from, as ``run.json`` says."""
        stated = self.info().get("folder")
        return Path(stated) if stated else None

    @property
    def label(self) -> str:
        """The method's label, which names the folder above."""
        return self.path.absolute().parent.name

    def policy_name(self, stage: int) -> str:
        """Return the name of its policy at the end of a stage, where policies meet each other."""
        return f"{self.label}-{self.path.name}-{stage}"

    @property
    def seed(self) -> int:
        """The cell's seed."""
        return self.scenario.seeds[0]

    def info(self) -> dict[str, Any]:
        """Return what ``run.json`` holds: status, reason, versions, times, costs.

        Raises:
            CheckpointUnusable: If the file is there and is not what a run writes.
        """
        path = self.path / RUN
        try:
            found = json_object(path)
        except FileNotFoundError:
            return {}
        modelled(RunInfo, found, path)
        return found

    def other_rules(self) -> int | None:
        """Return the learning rules that the cell has begun by, where they are not those of now."""
        info = self.info()
        rules = int(info.get("learning_rules", 1))
        has_begun = info.get("status", "pending") != "pending" or info.get("stages", 0)
        return rules if has_begun and rules != LEARNING_RULES else None

    @property
    def in_lockstep(self) -> bool:
        """Whether the cell learns, or is to learn, in lockstep, which rounds otherwise."""
        agent = self.scenario.agent
        begun = self.info().get("lockstep") if agent.engine == "compiled" else False
        return agent.most_in_lockstep > 1 if begun is None else bool(begun)

    def update(self, **changes: Any) -> None:
        """Change entries of ``run.json`` and keep the others; the file is replaced whole."""
        known = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in {**self.info(), **changes}.items()
        }
        text = json.dumps(known, indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(self.path / RUN, f"{text}\n".encode())

    @contextmanager
    def lock(self, patience_s: float = 0.0) -> Iterator[str]:
        """Hold the folder inside a ``with`` block; another process gets InUse meanwhile.

        Yields:
            Why the process before ended, where it could not write that into ``run.json``.

        Raises:
            CheckpointUnusable: If it holds links, or anything else that no run leaves.
        """
        with locked(self.path / LOCK, patience_s) as left:
            check_inside(self.path)
            for leftover in self.path.glob(".*.tmp-*"):  # of a process killed while it wrote
                remove(leftover)
            yield left

    def note(self, status: str, reason: str | None = None, **more: Any) -> None:
        """Write how the cell is doing, whose lock this process holds.

        Where ``run.json`` cannot be written, the lock file tells the next run.

        Raises:
            OSError: If it cannot be written.
        """
        try:
            self.update(status=status, reason=reason, **more)
        except OSError as error:
            why = FolderUnwritable.of(error) or error
            leave_word(self.path / LOCK, reason or f"{RUN} could not be set to {status}: {why}")
            raise

    def append(self, scores: Iterable[Episode]) -> None:
        """Add one evaluation point to ``scores.jsonl`` and return once it is on disk.

        A half-written last line, left by a crash, is dropped first.

        Raises:
            OSError: If it cannot be written (a full disk); the file is then as it was before.
            ValueError: If a return is NaN or infinite.
        """
        lines = [json.dumps(score, ensure_ascii=False, allow_nan=False) + "\n" for score in scores]
        path, size = self.path / SCORES, self.size()
        is_new = not is_there(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with os.fdopen(opened(path, flags), "ab", buffering=0) as file:
            try:
                file.truncate(size)
                rest = memoryview("".join(lines).encode())
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
        if is_new:
            sync(self.path)

    def scores(self) -> list[Episode]:
        """Return every evaluation episode as written; a half-written last line is ignored.

        Raises:
            CheckpointUnusable: If a whole line is not a score; the text names file and line.
        """
        path = self.path / SCORES
        try:
            lines = read_file(path).split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        found = episodes(lines, path)
        if wrong := misfit(found, self.scenario):
            raise CheckpointUnusable(
                f"{self.path}: scores.jsonl and scenario.yaml do not fit together ({wrong}); "
                "start the cell again with --overwrite"
            )
        return found

    def size(self) -> int:
        """Return the bytes of ``scores.jsonl`` up to its last whole line; checkpoints keep it."""
        try:
            descriptor = opened(self.path / SCORES)
        except FileNotFoundError:
            return 0
        with os.fdopen(descriptor, "rb"):
            if not os.fstat(descriptor).st_size:  # nothing can be mapped
                return 0
            with mmap(descriptor, 0, access=ACCESS_READ) as content:
                return content.rfind(b"\n") + 1

    def truncate(self, size: int) -> None:
        """Cut ``scores.jsonl`` back to a ``size`` it once had: what came after is measured again.

        Raises:
            CheckpointUnusable: If the file is shorter, or that is not the end of a line.
        """
        path = self.path / SCORES
        with os.fdopen(opened(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
            whole = self.size()
            file.seek(max(0, min(size, whole) - 1))
            if size > whole or (size and file.read(1) != b"\n"):
                raise CheckpointUnusable(
                    f"{path}: has {whole} bytes of whole lines, but had {size} when the "
                    "checkpoint was written; start the cell again with --overwrite"
                )
            file.truncate(size)
            os.fsync(file.fileno())

    def stages_ended(self) -> int:
        """Return how many stages are known to have ended with a checkpoint.

        ``run.json`` counts them. A folder of an older version is known by its status, or by scores
        of later steps than the end of a stage.

        Raises:
            CheckpointUnusable: If a file that tells cannot be read.
        """
        info = self.info()
        total = len(self.scenario.stream_tasks)
        if info.get("stages", 0) > total:
            raise CheckpointUnusable(f"{self.path / RUN}: the stream has {total} stages only")
        if info.get("status") == "finished":
            return total
        if "stages" in info:
            return int(info["stages"])
        ends = list(accumulate(self.scenario.stage_steps))
        last = max((score["step"] for score in self.scores()), default=0)
        return sum(end < last for end in ends)


def begun_by(rules: int) -> str:
    """Return why a cell that began by other learning rules does not go on, and what to do."""
    return (
        f"began by version {rules} of the learning rules, and this version of Holdfast learns by "
        f"{LEARNING_RULES} (CHANGELOG.md: curves): its curve would be of two; delete it with "
        "--overwrite, or finish it with the version that began it"
    )


def _beyond_a_run(scenario: Scenario) -> str:
    """Return what no run could have done of a scenario; empty where all is possible.

    It is asked before anything is counted out.
    """
    tasks, stream = scenario.tasks, scenario.stream
    steps = {task.name: task.steps for task in tasks}
    order = (
        [steps[name] for name in stream.order]
        if isinstance(stream.order, tuple)
        else [*steps.values()]
    )
    rounds = stream.repeat if stream.steps is None else -(-stream.steps // sum(order))
    if rounds * len(order) > MOST_STAGES:
        return f"its stream has more than {MOST_STAGES:,} stages"
    if (scenario.stream.steps or rounds * sum(order)) >= LARGEST or scenario.n_envs > MOST_ENVS:
        return "it has more steps or environments than any run"
    return ""


MOST_STAGES, MOST_ENVS = 1_000_000, 100_000
"""Of a scenario in a run folder."""
