"""One cell, method x seed, from its run folder: what is unfinished is run, and every result recorded."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from holdfast import registry
from holdfast.agents.carrying import read_zip
from holdfast.agents.stable_baselines import StableBaselinesAgent
from holdfast.continual import checkpoint, metrics
from holdfast.continual.evaluate import evaluate
from holdfast.continual.loop import run_stream
from holdfast.continual.method import Method
from holdfast.continual.record import Episode, RunFolder
from holdfast.continual.stream import EvalExperience, TaskExperience, make_stream
from holdfast.continual.tensorboard import TensorBoard
from holdfast.errors import HoldfastError, UsageError
from holdfast.scenarios.schema import Scenario

PACKAGES = ("holdfast", "gymnasium", "stable_baselines3", "sb3_contrib", "torch", "avalanche-lib")


class Progress(NamedTuple):
    """Where a cell is: sent after every evaluation and about once a second while it learns.

    Attributes:
        cell: ``<method label>/seed-<k>``.
        task: Name of the task being trained.
        step: Environment steps of the stream so far.
        total: Environment steps of the whole stream.
        steps_per_s: Environment steps per second of training in this session.
        scores: Latest score of every task, by name; NaN where not measured.
        note: Anything worth a line, such as a damaged checkpoint.
    """

    cell: str
    task: str
    step: int
    total: int
    steps_per_s: float
    scores: dict[str, float]
    note: str = ""


Tell = Callable[[Progress], None]


def make_methods(scenario: Scenario) -> list[Method]:
    """Return the mitigations of a scenario's first method entry, newly built, in its order."""
    return [
        registry.load(registry.METHODS.get(part.name, part.name), scenario.folder)(**part.arguments)
        for part in scenario.methods[0].parts
    ]


def run_cell(folder: RunFolder, tell: Tell) -> None:
    """Run what is left of a cell; a finished one is left alone.

    Args:
        folder: The cell's run folder, as ``prepare`` returns it.
        tell: Takes progress.

    Raises:
        HoldfastError: One of our errors; ``run.json`` holds its text.
    """
    if folder.info().get("status") == "finished":
        return
    # Small networks are bound by overhead, not arithmetic; cells run side by side instead.
    torch.set_num_threads(1)
    with folder.lock():
        folder.update(status="running", reason=None, **_origin())
        try:
            _Cell(folder, tell).run()
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            reason = str(error) if isinstance(error, HoldfastError) else repr(error)
            folder.update(status="stopped" if stopped else "failed", reason=reason, ended=_now())
            raise
        folder.update(status="finished", ended=_now())


class _Cell:
    """The state of one running cell; the Journal of the loop."""

    def __init__(self, folder: RunFolder, tell: Tell) -> None:
        self.folder, self.tell = folder, tell
        self.scenario = folder.scenario
        self.seed = folder.seed
        self.stream = make_stream(self.scenario, self.seed)
        self.agent = StableBaselinesAgent(self.scenario)
        self.methods = make_methods(self.scenario)
        self.train: list[TaskExperience] = list(self.stream.train_stream)
        self.measured: list[EvalExperience] = list(self.stream.eval_stream)
        self.costs = {"wall_s": 0.0, "training_s": 0.0, "training_steps": 0}
        self.latest: dict[str, float] = {task.name: float("nan") for task in self.scenario.tasks}

    def run(self) -> None:
        done, note = self._restore()
        step = self.train[done].first_step if done < len(self.train) else self.scenario.total_steps
        self.board = TensorBoard(self.folder.path / "tb", purge_step=step + 1 if done else 0)
        if done == 0:
            self.board.text("scenario", f"```yaml\n{self.scenario.to_yaml()}\n```")
        self.began = time.monotonic()
        self._progress(done, step, note)
        try:
            run_stream(self.train[done:], self.agent, self.methods, self)
            self.folder.update(**self._summary())
        finally:
            self.agent.close()
            for experience in self.measured:
                experience.close()
            self.board.close()

    def _restore(self) -> tuple[int, str]:
        """Load the newest usable checkpoint; return the number of finished tasks, and a note."""
        saved, damage = checkpoint.latest(self.folder.path / "checkpoints")
        if saved is None:
            self.folder.truncate(0)
            if self.scenario.agent.init is not None:
                self.agent.load_files(initial_files(self.scenario))
            return 0, ""
        self.folder.truncate(saved.state["scores_bytes"])
        self.agent.load_files(saved.files)
        for index, method in enumerate(self.methods):
            method.load_state(self.agent, saved.files.get(f"method-{index}", {}))
        self.costs = saved.state["costs"]
        self._take(self.folder.scores())
        return saved.state["stage"] + 1, " ".join(damage)

    # -- the Journal of the loop -------------------------------------------------------------------

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        self.board.scalars(scalars, step)

    def before_learning(self) -> None:
        self._evaluate(stage=0, step=0)
        self._at_boundary(0, 0)

    def watch(self, experience: TaskExperience) -> Callable[[int], None]:
        every = self.scenario.evaluation.every or experience.steps
        next_point, next_look = every, 0
        self.learning_since, self.learning_from = time.monotonic(), 0

        def look(step: int) -> None:
            nonlocal next_point, next_look
            if step >= next_point and step < experience.steps:
                next_point += every * ((step - next_point) // every + 1)
                self._count_training(step)
                self._evaluate(experience.stage, experience.first_step + step)
                self._progress(experience.stage, experience.first_step + step)
                self.learning_since = time.monotonic()
            elif step >= next_look:
                now = time.monotonic()
                elapsed = max(now - self.learning_since, 1e-3)
                next_look = step + max(1, int((step - self.learning_from) / elapsed))
                self._progress(experience.stage, experience.first_step + step)

        return look

    def finished(self, experience: TaskExperience) -> None:
        self._count_training(experience.steps)
        stage, step = experience.stage + 1, experience.first_step + experience.steps
        self._evaluate(stage, step)
        self._at_boundary(stage, step)
        self.costs["wall_s"] += time.monotonic() - self.began
        self.began = time.monotonic()
        states = {f"method-{i}": method.state() for i, method in enumerate(self.methods)}
        self.board.flush()
        checkpoint.save(
            self.folder.path / "checkpoints",
            experience.stage,
            self.agent.files() | states,
            {"scores_bytes": self.folder.size(), "costs": self.costs},
        )
        self._progress(min(stage, len(self.train) - 1), step)

    # -- recording ---------------------------------------------------------------------------------

    def _count_training(self, step: int) -> None:
        self.costs["training_s"] += time.monotonic() - self.learning_since
        self.costs["training_steps"] += step - self.learning_from
        self.learning_from = step

    def _evaluate(self, stage: int, step: int) -> None:
        measured = self.measured
        if self.scenario.evaluation.tasks == "seen":
            seen = set(self.scenario.stream_tasks[: max(stage, 1)]) | {self.agent.current_task}
            measured = [e for e in measured if e.task_index in seen]
        scores = evaluate(
            self.agent, measured, self.scenario.evaluation, self.seed, stage=stage, step=step
        )
        self.folder.append(scores)
        self._take(scores)
        point = metrics.curves(scores, self.scenario, "return").values[0]
        tags = {f"task/{i}_{t.name}/return": v for i, (t, v) in self._by_task(point)}
        success = metrics.curves(scores, self.scenario, "success").values[0]
        tags |= {f"task/{i}_{t.name}/success_rate": v for i, (t, v) in self._by_task(success)}
        self.board.scalars(tags, step)

    def _by_task(self, values: Any) -> Any:
        return enumerate(zip(self.scenario.tasks, values, strict=True))

    def _take(self, scores: list[Episode]) -> None:
        if scores:
            last = metrics.curves(scores, self.scenario).values[-1]
            self.latest |= {t.name: float(v) for _, (t, v) in self._by_task(last) if v == v}

    def _at_boundary(self, stage: int, step: int) -> None:
        """Log the metrics over the tasks so far, and the score matrix as a picture."""
        so_far = metrics.until(metrics.curves(self.folder.scores(), self.scenario), stage)
        names = [task.name for task in self.scenario.tasks]
        if stage:
            self.board.scalars(
                {f"continual/{n.split('/')[0]}": v for n, v in metrics.summary(so_far).items()},
                step,
            )
        order = [names[index] for index in self.scenario.stream_tasks[:stage]]
        self.board.matrix(
            "continual/scores",
            metrics.matrix(so_far),
            rows=["before", *(f"after {name}" for name in order)],
            columns=names,
            step=step,
        )

    def _progress(self, stage: int, step: int, note: str = "") -> None:
        training_s = self.costs["training_s"]
        steps = self.costs["training_steps"]
        if hasattr(self, "learning_since"):
            experience = self.train[min(stage, len(self.train) - 1)]
            inside = step - experience.first_step - self.learning_from
            if inside > 0:
                training_s += time.monotonic() - self.learning_since
                steps += inside
        task = self.train[min(stage, len(self.train) - 1)].task.name
        cell = f"{self.folder.label}/seed-{self.seed}"
        speed = steps / training_s if training_s > 0 else float("nan")
        total = self.scenario.total_steps
        self.tell(Progress(cell, task, step, total, speed, dict(self.latest), note))

    def _summary(self) -> dict[str, Any]:
        """Return what the cell cost, for ``run.json``."""
        stored = sum(
            tensor.numel() * tensor.element_size()
            for method in self.methods
            for tensor in method.state().values()
        )
        conventions = {
            part.name: text
            for part, method in zip(self.scenario.methods[0].parts, self.methods, strict=True)
            if (text := getattr(method, "convention", ""))
        }
        training_s = self.costs["training_s"]
        return {
            "wall_s": round(self.costs["wall_s"], 2),
            "steps_per_s": round(self.costs["training_steps"] / max(training_s, 1e-9), 1),
            "parameters": sum(p.numel() for p in self.agent.policy.parameters()),
            "stored_bytes": stored,
            "extra_steps": 0,  # every method so far works inside the budget
            "conventions": conventions,
        }


def initial_files(scenario: Scenario) -> dict[str, dict[str, torch.Tensor]]:
    """Return the weights that ``agent.init`` names: a run folder's newest, or a zip's.

    Raises:
        UsageError: If there are none.
    """
    path = (scenario.folder or Path()) / str(scenario.agent.init)
    if path.suffix == ".zip":
        return read_zip(path)
    saved, _ = checkpoint.latest(path / "checkpoints")
    if saved is None:
        raise UsageError(f"agent.init: {path} has no checkpoint; name a run folder or a .zip")
    return {name: saved.files[name] for name in ("policy", "normalization") if name in saved.files}


def _origin() -> dict[str, Any]:
    """Return what a reader needs to run the cell again: versions, commit, machine."""
    return {
        "started": _now(),
        "ended": None,
        "versions": {name: version(name) for name in PACKAGES} | {"python": sys.version.split()[0]},
        "commit": _commit(),
        "host": platform.node(),
        "cores": os.cpu_count(),
    }


def _commit() -> str | None:
    """Return the git commit of the working folder, with a ``+`` where files differ from it."""
    try:
        describe = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        found = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603  # fixed words
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
