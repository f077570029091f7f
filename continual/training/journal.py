"""Journal of a running cell: scores, checkpoints, TensorBoard, costs, progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isnan
from statistics import median
from typing import Any

from torch import Tensor

from holdfast.agents.base.agent import Agent
from holdfast.agents.base.pauses import unflattened
from holdfast.continual.experience import Experience
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.method import Method
from holdfast.continual.policies.restore import load_methods, needed_to_act
from holdfast.continual.progress import Progress, Tell
from holdfast.continual.results.detection import changes_of, outcome, recognition_of
from holdfast.continual.results.formatting import cut_note, fenced
from holdfast.continual.results.online import (
    online_return,
    phases_of,
    reference_rates,
    regret,
)
from holdfast.continual.run_folder import checkpoint, inside_task, old_stages
from holdfast.continual.run_folder.detections import write_detections
from holdfast.continual.run_folder.episodes import Episode
from holdfast.continual.run_folder.files import csv_table, write_whole
from holdfast.continual.run_folder.point_record import COSTS, ONLINE, PointRecord
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.slots import Slots
from holdfast.continual.streams.evaluation import check_success, evaluate
from holdfast.continual.streams.experience import MeasuredExperience
from holdfast.continual.streams.rotation import Rotation
from holdfast.continual.training.dashboard import hyperparameters, layout
from holdfast.continual.training.diagnostics import Diagnostics
from holdfast.continual.training.memory_budget import check_growth, kept_bytes
from holdfast.continual.training.odd_signals import odd_signals
from holdfast.continual.training.resource_usage import Spent
from holdfast.continual.training.scoreboard import Scoreboard
from holdfast.continual.training.task_pauses import GENERATORS, TaskPauses
from holdfast.continual.training.tensorboard import TensorBoard
from holdfast.continual.training.trackers import Trackers
from holdfast.errors import CheckpointUnusable
from holdfast.scenarios.source.regular_file import made_folder
from holdfast.scenarios.source.yaml_file import dump


class CellJournal:
    """Writes down what the loop does in one cell, after taking up what is there already.

    What was recorded after the newest usable checkpoint is dropped: it will be measured again, to
    the same numbers.

    Args:
        folder: The run folder.
        agent: The learner; what the checkpoint holds is loaded into it.
        methods: Its mitigations, likewise.
        measured: The eval stream.
        tell: Takes progress.

    Attributes:
        resumed_at: How many stages were finished before.

    Raises:
        CheckpointUnusable: If there are checkpoints and none can be read.
    """

    def __init__(
        self,
        folder: RunFolder,
        agent: Agent,
        methods: Sequence[Method],
        measured: Sequence[MeasuredExperience],
        tell: Tell,
    ) -> None:
        self.folder, self.agent, self.methods = folder, agent, methods
        self.measured, self.tell = measured, tell
        self.scenario, self.seed = folder.scenario, folder.seed
        self.kind = kind_of(self.scenario)
        self.rotation = Rotation(self.scenario, self.seed)
        self.order, self.total = self.scenario.stream_tasks, self.scenario.total_steps
        self.checkpoints = folder.path / checkpoint.FOLDER
        self.place, self.environment_failures, self.told_cut = (0, 0), 0, False
        self.boundary: inside_task.Found | None = None
        self._slots: Slots | None = None
        # Free weights are those of a task; a slot may begin anywhere in one.
        held = () if self.scenario.detects_boundaries else methods
        self.diagnostics = Diagnostics(folder.path, agent, held)
        checkpoint.remove_leftovers(self.checkpoints)
        if self.scenario.checkpoint.keep == "policies":
            old_stages.thin_out(self.checkpoints, needed_to_act(methods))
        saved, damage = checkpoint.latest(self.checkpoints)
        if saved is not None and saved.state["stage"] >= len(self.scenario.stream_tasks):
            raise CheckpointUnusable(
                f"{self.checkpoints}: holds a checkpoint of stage {saved.state['stage']}, which "
                "the stream does not have; start the cell again with --overwrite"
            )
        self.resumed_at = 0 if saved is None else int(saved.state["stage"]) + 1
        damage += self._lost(self.resumed_at - 1, damage)
        inside_task.drop(self.checkpoints, keep=[self.resumed_at])
        self.store = inside_task.InsideTask(self.checkpoints, self.resumed_at)
        self.inside, more = self.store.newest()
        damage += more
        state = {} if saved is None else saved.state
        state = state if self.inside is None else self.inside.state
        folder.truncate(state.get("scores_bytes", 0))
        if saved is not None:
            self._load(saved)
        self.wall_s: float = state.get("wall_s", 0.0)
        self.costs: dict[str, Any] = state.get("costs", {})
        self.kept: list[int] = list(state.get("kept_bytes", ()))
        self.training = Stopwatch(state.get("training_s", 0.0), state.get("training_steps", 0))
        self.scores = Scoreboard(self.scenario, folder.scores())
        step = sum(self.scenario.stage_steps[: self.resumed_at])
        points = None
        if self.inside is not None:
            step, points = step + self.inside.step, int(state["diagnostics"]["points"])
            self.environment_failures = int(state.get("environment_failures", 0))
        if step:
            self.diagnostics.resume(step, points)
        self.points = {r.file: r.read(folder.path, step) for r in (ONLINE, COSTS)}
        self.trackers = Trackers(folder)
        self.spent = Spent(state.get("spent", {}) if state else None)
        self.board = self._open_board(step)
        self.began, self.is_finished = time.monotonic(), False
        note = self._fell_back(damage) if damage else ""
        self._tell(self.resumed_at, step, note)

    def _load(self, saved: checkpoint.Checkpoint) -> None:
        """Load what the end of a stage holds; where one model lives on, methods do so later."""
        self.agent.load_files(saved.files)
        if self.scenario.is_one_task:
            kept = unflattened(saved.files)
            self.boundary = inside_task.Found(0, saved.state, kept.values, kept.files, kept.parts)
            return
        place = checkpoint.task_folder(self.checkpoints, int(saved.state["stage"]))
        load_methods(self.agent, self.methods, saved, place)

    def _lost(self, newest: int, damage: Sequence[str]) -> list[str]:
        """Return which checkpoint is gone, if a later stage than the newest is known to have ended.

        It may also be one of those that are damaged, which are told already.
        """
        ended = int(self.folder.info().get("stages", 0))
        if damage or ended - 1 <= newest:
            return []
        gone = checkpoint.task_folder(self.checkpoints, ended - 1)
        return [f"{gone} is missing, and stage {ended - 1} had ended"]

    def _fell_back(self, damage: Sequence[str]) -> str:
        """Write into ``run.json`` that the run goes on from an older checkpoint, and tell why."""
        before = self.folder.info().get("fallbacks", [])
        step = 0 if self.inside is None else self.inside.step
        one = {"to_stage": self.resumed_at - 1, "step": step, "damage": list(damage)}
        self.folder.update(fallbacks=[*before, one], stages=self.resumed_at)
        where = f"the end of stage {self.resumed_at - 1}" if self.resumed_at else "the start"
        if step:
            where = f"step {step} of stage {self.resumed_at}"
        return f"{' '.join(damage)}; fell back to {where}"

    def _open_board(self, step: int) -> TensorBoard:
        """Return the event folder, from which what comes after a step is dropped."""
        path = self.folder.path / "tb"
        if step:
            # At a task's end, an attempt that died there may have logged its last evaluation.
            is_end = self.inside is not None and self.inside.step == self._steps_of_stage()
            return TensorBoard(path, purge_step=step + (not is_end), beside=self.trackers.scalars)
        board = TensorBoard(path, purge_step=0, beside=self.trackers.scalars)
        stated = dump(self.scenario.model_dump(exclude_defaults=True))
        board.text("scenario", f"Without defaults:\n\n{fenced(stated, 'yaml')}")
        cell = f"{self.scenario.name}/{self.folder.label}/seed-{self.seed}"
        board.session(cell, hyperparameters(self.scenario, self.folder.label))
        return board

    def _steps_of_stage(self) -> int:
        return self.scenario.stage_steps[self.resumed_at]

    def close(self) -> None:
        """Close the event file and stop counting."""
        self.spent.close()
        self.board.close()
        self.trackers.close(is_finished=self.is_finished)
        self._tell_trackers()

    def _tell_trackers(self) -> None:
        """Tell what went wrong with trackers, each once."""
        while self.trackers.notes:
            self._tell(*self.place, self.trackers.notes.pop(0))

    # -- the Journal of the loop -------------------------------------------------------------------

    def log(self, scalars: Mapping[str, float], step: int, /) -> None:
        """Log the agent's numbers."""
        self.board.scalars(scalars, step)

    def before_learning(self) -> None:
        """Measure row 0 of the score matrix."""
        watched = self.diagnostics.watched(len(self.rotation.at(0, 0)))
        scores = self._evaluate(0, 0, watched)
        has_success = any(score["success"] is not None for score in scores)
        self.board.layout(layout(self.scenario, has_success=has_success))
        self.diagnostics.begin()
        self.board.scalars(self.diagnostics.measure(0, 0), 0)
        self.scores.log_metrics(0, 0, self.board)
        if odd := odd_signals(self.scenario, scores, self.diagnostics.constant):
            self._tell(0, 0, odd)

    def watch(self, experience: Experience) -> Callable[[int], None]:
        """Return what evaluates every ``evaluation.every`` steps and tells progress."""
        notices, self.agent.notices = self.agent.notices, []
        if self.kept and (warning := check_growth(self.kept, len(self.order))):
            notices.append(warning)
        for notice in notices:
            self._tell(experience.stage, experience.first_step, notice)
        every = self.scenario.evaluation.every or experience.steps
        begun = self._begun(experience)
        next_point, next_look = every * (begun // every + 1), time.monotonic()
        first, stage = experience.first_step, experience.stage
        self.diagnostics.attach({*self.order[:stage]} - {self.order[stage]})
        self.training.start(begun)
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
                self._log_online(experience, first + step)
                self._log_costs(experience, first + step)
                self._tell(stage, first + step)
            elif step % _LOOK_EVERY < self.scenario.n_envs and time.monotonic() >= next_look:
                next_look = time.monotonic() + 1.0
                self.training.lap(step)
                self._tell(stage, first + step)

        return look

    def _begun(self, experience: Experience) -> int:
        """Return the steps of a task that were taken before this process went on with it."""
        is_inside = self.inside is not None and experience.stage == self.resumed_at
        return self.inside.step if self.inside is not None and is_inside else 0

    def pauses(self, experience: Experience, told: Experience) -> TaskPauses | None:
        """Return what takes checkpoints inside a task, and the one that it goes on from."""
        found = self.inside or self.boundary if experience.stage == self.resumed_at else None
        if self.scenario.checkpoint.every == "off" and found is None:
            return None
        if experience.stage == self.resumed_at:
            return TaskPauses(self, experience, told, self.store, found)
        store = inside_task.InsideTask(self.checkpoints, experience.stage)
        return TaskPauses(self, experience, told, store, None)

    def slots(self, told: Experience) -> Slots:
        """Return the slots between detected boundaries, the one that the run goes on in begun."""
        self._slots = Slots(told, self.agent, self.methods, self._detected)
        found = self.inside or self.boundary
        if found is not None:
            self._slots.resume(found.files)
        return self._slots

    def slot_files(self) -> dict[str, dict[str, Tensor]]:
        """Return what a checkpoint needs to go on inside a slot; nothing where there are none."""
        return {} if self._slots is None else self._slots.files()

    def learned(self) -> None:
        """Count updates as extra ones from here on."""
        self.spent.learning = False

    def finished(self, experience: Experience) -> None:
        """Measure the finished task's row of the score matrix and save a checkpoint."""
        self.training.lap(experience.steps)
        stages, step = experience.stage + 1, experience.first_step + experience.steps
        self._evaluate(stages, step)
        self.diagnostics.detach()
        self._log_drift(experience)
        self._record_drift(experience)
        self._log_detections(step)
        self._log_online(experience, step)
        self._log_costs(experience, step)
        self.board.scalars(self.diagnostics.measure(stages, step), step)
        self.scores.log_metrics(stages, step, self.board)
        now = time.monotonic()
        self.wall_s, self.began = self.wall_s + now - self.began, now
        # Once: what a method keeps may be thousands of tensors.
        states = {f"method-{index}": m.state() for index, m in enumerate(self.methods)}
        costs = self.costs = self._costs(kept_bytes(states.values()))
        self.board.scalars({f"system/{name}": float(cost) for name, cost in costs.items()}, step)
        self.is_finished = stages == len(self.order)
        if self.is_finished:
            self.board.session_finished(step)
        # Before the checkpoint: a resume purges the steps after it, and trusts those up to it.
        self.board.flush()
        files = self.agent.files() | states | self.slot_files()
        if experience.first is not None:
            files[GENERATORS] = experience.first.generators()
        self.kept.append(kept_bytes(files.values()))
        checkpoint.save(self.checkpoints, experience.stage, files, self._state())
        self.folder.update(stages=stages)
        inside_task.drop(self.checkpoints)
        if self.scenario.checkpoint.keep == "policies" and experience.stage >= old_stages.WHOLE:
            old = checkpoint.task_folder(self.checkpoints, experience.stage - old_stages.WHOLE)
            old_stages.thin(old, needed_to_act(self.methods))
        self._tell(stages, step)

    def _state(self) -> dict[str, Any]:
        return {
            "scores_bytes": self.folder.size(),
            "kept_bytes": self.kept,
            "spent": self.spent.so_far(),
            "wall_s": self.wall_s,
            "costs": self.costs,
            "training_s": self.training.seconds,
            "training_steps": self.training.steps,
        }

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint inside a task keeps of the run."""
        wall_s = self.wall_s + time.monotonic() - self.began
        failures = self.environment_failures
        return self._state() | {"wall_s": wall_s, "environment_failures": failures}

    def note(self, text: str) -> None:
        """Tell of something, beside how far the run is."""
        self._tell(*self.place, text)

    def environment_failed(self, note: str) -> None:
        """Tell that an environment's process failed; training goes on if it restarts."""
        self.environment_failures += 1
        stage, step = self.place
        self.board.scalars({"system/env_restarts": float(self.environment_failures)}, step)
        self._tell(stage, step, note)

    # -- recording ---------------------------------------------------------------------------------

    def _evaluate(self, stages: int, step: int, agent: Agent | None = None) -> list[Episode]:
        measured = [self.measured[task] for task in self.rotation.at(stages, step)]
        plan = self.scenario.evaluation
        scores = evaluate(agent or self.agent, measured, plan, self.seed, stage=stages, step=step)
        check_success(self.scenario, scores)
        self.folder.append(scores)
        if not self.told_cut and (note := cut_note(scores)):
            self.told_cut = True
            self._tell(stages, step, note)
        self.scores.add(scores, step, self.board)
        self._tell_trackers()
        return scores

    def _log_drift(self, experience: Experience) -> None:
        """Log what a drift has set in the training environments last."""
        for step, values in getattr(experience, "drifted", [])[-1:]:
            tag = f"task/{experience.task_index}_{experience.task.name}/drift"
            scalars = {f"{tag}/{name}": value for name, value in values.items()}
            self.board.scalars(scalars, experience.first_step + step)

    def _record_drift(self, experience: Experience) -> None:
        """Write all that a drift set in this stage; a stage that is repeated replaces its file."""
        drifted = getattr(experience, "drifted", [])
        if not drifted:
            return
        names = list(drifted[-1][1])
        at = sorted(dict(drifted).items())  # environments side by side are set alike
        rows = [[step, *(repr(values[name]) for name in names)] for step, values in at]
        folder = self.folder.path / "drift"
        made_folder(folder, folders=2)
        text = csv_table(["step", *names], rows)
        write_whole(folder / f"stage-{experience.stage}.csv", text.encode())

    def _record(
        self, record: PointRecord, experience: Experience, step: int, found: Mapping[str, float]
    ) -> None:
        """Add a point to a record."""
        points = self.points[record.file]
        points.append({"stage": float(experience.stage), "step": float(step), **found})
        record.write(self.folder.path, points)

    def _log_online(self, experience: Experience, step: int) -> None:
        """Log and write what an endless stream was paid so far."""
        if not self.scenario.endless:
            return
        paid = getattr(experience, "online").point(experience.stage)  # noqa: B009  # as drifted
        self._record(ONLINE, experience, step, paid)
        phases = phases_of(self.points[ONLINE.file], self.scenario)
        scalars = {"return": online_return(phases), "reward_rate": paid["reward_rate"]}
        lost = regret(phases, reference_rates(self.scenario))
        scalars |= {} if isnan(lost) else {"regret": lost}
        if self.scenario.tasks[experience.task_index].rate is not None:
            scalars["late_steps"] = paid["late_steps"]
        self.board.scalars({f"online/{name}": value for name, value in scalars.items()}, step)

    def _log_costs(self, experience: Experience, step: int) -> None:
        """Log and write what the stage has cost so far while it is learned."""
        counted: Mapping[str, float] | None = getattr(self.agent, "training_costs", None)
        if counted is None:
            return
        self._record(COSTS, experience, step, counted)
        scalars = {"training_cost": counted["cost"], "training_violations": counted["violations"]}
        tag = f"task/{experience.task_index}_{experience.task.name}"
        self.board.scalars({f"{tag}/{name}": value for name, value in scalars.items()}, step)

    def _detected(self) -> None:
        """Log and write that a slot has begun."""
        assert self._slots is not None
        found = self._slots.detections
        step, begun, _, slot = found[-1]
        self.board.scalars({"detector/slot": float(slot if slot >= 0 else len(found))}, begun)
        self._record_detections()
        note, options = f"a change was detected at step {step:,}", self.scenario.detector
        if slot >= 0:
            is_again = slot in {0, *(one[-1] for one in found[:-1])}
            note += f": slot {slot}{' again' if is_again else ''}"
        if options is not None and len(found) >= options.most:
            note += f"; detector.most: {options.most} ends the search here"
        self._tell(*self.place, note)

    def _log_detections(self, step: int) -> None:
        """Log and write what was detected so far, beside the true changes."""
        if self._slots is None:
            return
        self._record_detections()
        detected = self._slots.detections
        found = outcome(changes_of(self.scenario), [at for at, *_ in detected], step)
        scalars = {"false_alarms": float(found.false_alarms), "missed": float(found.missed)}
        if known := [delay for delay in found.delays if delay is not None]:
            scalars["median_delay"] = float(median(known))
        if self.scenario.recurs:
            slots = [(at, slot) for at, _, _, slot in detected]
            told = recognition_of(self.scenario, slots, step)
            scalars["false_recognitions"] = float(told.false)
            if told.revisits:
                scalars["recognised"] = told.recognised / told.revisits
        self.board.scalars({f"detector/{name}": value for name, value in scalars.items()}, step)

    def _record_detections(self) -> None:
        """Write all changes that were detected so far."""
        if self._slots is not None:
            write_detections(self.folder.path, self._slots.detections)

    def _tell(self, stages: int, step: int, note: str = "") -> None:
        task = self.scenario.tasks[self.order[min(stages, len(self.order) - 1)]].name
        cell, speed = f"{self.folder.label}/seed-{self.seed}", self.training.steps_per_s
        self.tell(Progress(cell, task, step, self.total, speed, dict(self.scores.latest), note))

    def summary(self) -> dict[str, Any]:
        """Return what the cell cost, and what its methods' numbers mean, for ``run.json``."""
        parts = zip(self.scenario.methods[0].parts, self.methods, strict=True)
        conventions = {part.name: getattr(method, "convention", "") for part, method in parts}
        # Of the last stage, which an earlier process may have finished: then there is no agent.
        return self.costs | {
            "extra_steps": 0,  # every method so far works inside the budget
            **self.spent.so_far(),
            "conventions": {name: text for name, text in conventions.items() if text},
        }

    def _costs(self, stored_bytes: int) -> dict[str, Any]:
        return {
            "wall_s": round(self.wall_s, 2),
            "steps_per_s": round(self.training.steps_per_s, 1),
            "parameters": sum(p.numel() for p in self.agent.policy.parameters()),
            "stored_bytes": stored_bytes,
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
