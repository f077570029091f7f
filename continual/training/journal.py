"""What a running cell writes down: scores, checkpoints, TensorBoard, costs, progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from holdfast.agents.base.agent import Agent
from holdfast.continual.jobs.queue import Progress, Tell
from holdfast.continual.method import Method
from holdfast.continual.results import checkpoint, metrics
from holdfast.continual.results.record import Episode, RunFolder, write_whole
from holdfast.continual.streams.evaluation import evaluate
from holdfast.continual.streams.task_stream import EvalExperience, TaskExperience
from holdfast.continual.training.dashboard import hyperparameters, layout
from holdfast.continual.training.diagnostics import Diagnostics
from holdfast.continual.training.growth import check_growth, kept_bytes
from holdfast.continual.training.resource_usage import Spent
from holdfast.continual.training.tensorboard import TensorBoard
from holdfast.scenarios.schema.scenario import Score, Task
from holdfast.scenarios.source.yaml_file import dump


class CellJournal:
    """Writes down what the loop does in one cell, after taking up what is there already.

    Args:
        folder: The run folder.
        agent: The learner.
        methods: Its mitigations.
        measured: The eval stream.
        tell: Takes progress.
    """

    def __init__(
        self,
        folder: RunFolder,
        agent: Agent,
        methods: Sequence[Method],
        measured: Sequence[EvalExperience],
        tell: Tell,
    ) -> None:
        self.folder, self.agent, self.methods = folder, agent, methods
        self.measured, self.tell = measured, tell
        self.scenario, self.seed = folder.scenario, folder.seed
        self.checkpoints = folder.path / "checkpoints"
        self.training = Stopwatch()
        self.wall_s = 0.0
        self.kept: list[int] = []
        self.place, self.environment_failures = (0, 0), 0
        self.diagnostics = Diagnostics(folder.path, agent)
        self.latest = {task.name: float("nan") for task in self.scenario.tasks}

    # -- opening -----------------------------------------------------------------------------------

    def resume(self) -> int:
        """Load the newest usable checkpoint and return how many stages are finished.

        What was recorded after it is dropped: it will be measured again, to the same numbers.

        Raises:
            CheckpointUnusable: If there are checkpoints and none can be read.
        """
        checkpoint.remove_leftovers(self.checkpoints)
        saved, damage = checkpoint.latest(self.checkpoints)
        stages = 0
        if saved is None:
            self.folder.truncate(0)
        else:
            stages = saved.state["stage"] + 1
            self.folder.truncate(saved.state["scores_bytes"])
            self.agent.load_files(saved.files)
            for index, method in enumerate(self.methods):
                doors = self.agent.doors(method)
                method.load_state(doors, saved.files.get(f"method-{index}", {}))
            self.wall_s = saved.state["wall_s"]
            self.kept = list(saved.state.get("kept_bytes", ()))
            self.training = Stopwatch(saved.state["training_s"], saved.state["training_steps"])
            self._take(self.folder.scores())
        step = self._first_step(stages)
        if stages:
            self.diagnostics.resume(step)
        self.spent = Spent(None if saved is None else saved.state.get("spent", {}))
        self.board = TensorBoard(self.folder.path / "tb", purge_step=step + 1 if stages else 0)
        if not stages:
            stated = dump(self.scenario.model_dump(exclude_defaults=True))
            self.board.text("scenario", f"Without defaults:\n\n```yaml\n{stated}\n```")
            cell = f"{self.scenario.name}/{self.folder.label}/seed-{self.seed}"
            self.board.session(cell, hyperparameters(self.scenario, self.folder.label))
        self.began = time.monotonic()
        note = f"{' '.join(damage)}; fell back to the one before" if damage else ""
        self._tell(stages, step, note)
        return stages

    def close(self) -> None:
        """Close the event file and stop counting."""
        self.spent.close()
        self.board.close()

    # -- the Journal of the loop -------------------------------------------------------------------

    def log(self, scalars: Mapping[str, float], step: int, /) -> None:
        """Log the agent's numbers."""
        self.board.scalars(scalars, step)

    def before_learning(self) -> None:
        """Measure row 0 of the score matrix."""
        scores = self._evaluate(0, 0, self.diagnostics.watched)
        has_success = any(score["success"] is not None for score in scores)
        self.board.layout(layout(self.scenario, has_success=has_success))
        self.diagnostics.begin()
        self.board.scalars(self.diagnostics.measure(0, 0), 0)
        self._log_metrics(0, 0)

    def watch(self, experience: TaskExperience) -> Callable[[int], None]:
        """Return what evaluates every ``evaluation.every`` steps and tells progress."""
        notices, self.agent.notices = self.agent.notices, []
        if self.kept and (warning := check_growth(self.kept, len(self.scenario.stream_tasks))):
            notices.append(warning)
        for notice in notices:
            self._tell(experience.stage, experience.first_step, notice)
        every = self.scenario.evaluation.every or experience.steps
        next_point, next_look = every, time.monotonic()
        first, stage = experience.first_step, experience.stage
        self.diagnostics.attach()
        self.training.start(0)
        self.spent.learning = True

        def look(step: int) -> None:
            nonlocal next_point, next_look
            self.place = stage, first + step
            if step >= next_point and step < experience.steps:
                next_point = every * (step // every + 1)
                with self.training.paused(step):
                    self._evaluate(stage, first + step)
                    self.board.scalars(self.diagnostics.measure(stage, first + step), first + step)
                self._log_drift(experience)
                self._tell(stage, first + step)
            elif step % _LOOK_EVERY < self.scenario.n_envs and time.monotonic() >= next_look:
                next_look = time.monotonic() + 1.0
                self.training.lap(step)
                self._tell(stage, first + step)

        return look

    def learned(self) -> None:
        """Count updates as extra ones from here on."""
        self.spent.learning = False

    def finished(self, experience: TaskExperience) -> None:
        """Measure the finished task's row of the score matrix and save a checkpoint."""
        self.training.lap(experience.steps)
        stages, step = experience.stage + 1, experience.first_step + experience.steps
        self._evaluate(stages, step)
        self.diagnostics.detach()
        self._log_drift(experience)
        self._record_drift(experience)
        self.board.scalars(self.diagnostics.measure(stages, step), step)
        self._log_metrics(stages, step)
        now = time.monotonic()
        self.wall_s, self.began = self.wall_s + now - self.began, now
        costs = self._costs()
        self.board.scalars({f"system/{name}": float(cost) for name, cost in costs.items()}, step)
        if stages == len(self.scenario.stream_tasks):
            self.board.session_finished(step)
        # Before the checkpoint: a resume purges the steps after it, and trusts those up to it.
        self.board.flush()
        states = {f"method-{index}": m.state() for index, m in enumerate(self.methods)}
        files = self.agent.files() | states
        self.kept.append(kept_bytes(files.values()))
        checkpoint.save(
            self.checkpoints,
            experience.stage,
            files,
            {
                "scores_bytes": self.folder.size(),
                "kept_bytes": self.kept,
                "spent": self.spent.so_far(),
                "wall_s": self.wall_s,
                "training_s": self.training.seconds,
                "training_steps": self.training.steps,
            },
        )
        self._tell(stages, step)

    def environment_failed(self, note: str) -> None:
        """Tell that an environment's process failed; training goes on if it can be started anew."""
        self.environment_failures += 1
        stage, step = self.place
        self.board.scalars({"system/env_restarts": float(self.environment_failures)}, step)
        self._tell(stage, step, note)

    # -- recording ---------------------------------------------------------------------------------

    def _evaluate(self, stages: int, step: int, agent: Agent | None = None) -> list[Episode]:
        measured = self.measured
        if self.scenario.evaluation.tasks == "seen":
            seen = {*self.scenario.stream_tasks[:stages], self.agent.current_task}
            measured = [experience for experience in measured if experience.task_index in seen]
        plan = self.scenario.evaluation
        scores = evaluate(agent or self.agent, measured, plan, self.seed, stage=stages, step=step)
        self.folder.append(scores)
        self._take(scores)
        total = "accuracy" if self.scenario.is_supervised else "return"
        for quantity, tag in (("return", total), ("success", "success_rate"), ("score", "score")):
            values = metrics.curves(scores, self.scenario, quantity).values[0]  # type: ignore[arg-type]  # of three words
            tags = {
                f"task/{i}_{task.name}/{tag}": v
                for i, task, v in self._by_task(values)
                if quantity != "score" or self._has_own_score(i)
            }
            self.board.scalars(tags, step)
        return scores

    def _has_own_score(self, task: int) -> bool:
        """Return whether a score is neither the return, the success rate nor the accuracy."""
        is_score = isinstance(self.scenario.score_of(task), Score)
        return is_score and not self.scenario.is_supervised

    def _by_task(self, values: Any) -> Iterator[tuple[int, Task, float]]:
        for index, (task, value) in enumerate(zip(self.scenario.tasks, values, strict=True)):
            yield index, task, float(value)

    def _take(self, scores: list[Episode]) -> None:
        for values in metrics.curves(scores, self.scenario).values:
            self.latest |= {task.name: v for _, task, v in self._by_task(values) if v == v}

    def _log_drift(self, experience: TaskExperience) -> None:
        """Log what a drift has set in the training environments last."""
        for step, values in getattr(experience, "drifted", [])[-1:]:
            tag = f"task/{experience.task_index}_{experience.task.name}/drift"
            scalars = {f"{tag}/{name}": value for name, value in values.items()}
            self.board.scalars(scalars, experience.first_step + step)

    def _record_drift(self, experience: TaskExperience) -> None:
        """Write all that a drift set in this stage; a stage that is repeated replaces its file."""
        drifted = getattr(experience, "drifted", [])
        if not drifted:
            return
        names = list(drifted[-1][1])
        at = sorted(dict(drifted).items())  # environments side by side are set alike
        rows = [[str(step), *(repr(values[name]) for name in names)] for step, values in at]
        text = "\n".join(",".join(row) for row in [["step", *names], *rows]) + "\n"
        folder = self.folder.path / "drift"
        folder.mkdir(exist_ok=True)
        write_whole(folder / f"stage-{experience.stage}.csv", text.encode())

    def _log_metrics(self, stages: int, step: int) -> None:
        """Log the metrics over the tasks so far, and the score matrix as a picture."""
        so_far = metrics.until(metrics.curves(self.folder.scores(), self.scenario), stages)
        if stages:
            named = metrics.summary(so_far).items()
            self.board.scalars({f"continual/{n.split('/')[0]}": v for n, v in named}, step)
        names = [task.name for task in self.scenario.tasks]
        trained = [names[index] for index in self.scenario.stream_tasks[:stages]]
        rows = ["before learning", *(f"after {name}" for name in trained)]
        matrix = metrics.matrix(so_far)
        self.board.matrix("continual/scores", matrix, rows=rows, columns=names, step=step)

    def _first_step(self, stages: int) -> int:
        return sum(self.scenario.stage_steps[:stages])

    def _tell(self, stages: int, step: int, note: str = "") -> None:
        order = self.scenario.stream_tasks
        task = self.scenario.tasks[order[min(stages, len(order) - 1)]].name
        cell = f"{self.folder.label}/seed-{self.seed}"
        total, speed = self.scenario.total_steps, self.training.steps_per_s
        self.tell(Progress(cell, task, step, total, speed, dict(self.latest), note))

    def summary(self) -> dict[str, Any]:
        """Return what the cell cost, and what its methods' numbers mean, for ``run.json``."""
        parts = zip(self.scenario.methods[0].parts, self.methods, strict=True)
        return self._costs() | {
            "extra_steps": 0,  # every method so far works inside the budget
            **self.spent.so_far(),
            "conventions": {
                part.name: convention
                for part, method in parts
                if (convention := getattr(method, "convention", ""))
            },
        }

    def _costs(self) -> dict[str, Any]:
        stored = [tensor for method in self.methods for tensor in method.state().values()]
        return {
            "wall_s": round(self.wall_s, 2),
            "steps_per_s": round(self.training.steps_per_s, 1),
            "parameters": sum(p.numel() for p in self.agent.policy.parameters()),
            "stored_bytes": sum(t.numel() * t.element_size() for t in stored),
        }


_LOOK_EVERY = 64
"""Steps between looks at the clock: a look at every step would cost more than the step's share."""


class Stopwatch:
    """Steps and seconds of training, a method's own work included, evaluation left out.

    Attributes:
        seconds: Seconds counted so far.
        steps: Environment steps counted so far.
    """

    def __init__(self, seconds: float = 0.0, steps: int = 0) -> None:
        self.seconds, self.steps = seconds, steps
        self._since, self._from = 0.0, 0

    def start(self, step: int) -> None:
        """Begin to count at this step of the task."""
        self._since, self._from = time.monotonic(), step

    def lap(self, step: int) -> None:
        """Count what passed since the last call and go on."""
        self.seconds += time.monotonic() - self._since
        self.steps += step - self._from
        self.start(step)

    @contextmanager
    def paused(self, step: int) -> Iterator[None]:
        """Count up to this step, and nothing inside the block."""
        self.lap(step)
        yield
        self.start(step)

    @property
    def steps_per_s(self) -> float:
        """Steps per second; NaN where none were counted."""
        return self.steps / self.seconds if self.seconds > 0 else float("nan")
