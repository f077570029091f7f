"""Estimate of what a scenario will cost, measured on short stretches of training and evaluation.

Each method runs a small stream of its own, which is thrown away: the first two or three stages with
few steps and short episodes. After the first, penalties, stored batches and columns are at work.

Nothing is ever done whole to be measured. With stages of s_k steps, of which l_k come before
learning starts, the time of a cell is::

    train   sum of (s_k - l_k) x pace + l_k x step     pace: seconds per step of the sample
    after   per stage: fixed x (observations kept / sampled) + updates x (a_2 - a_1) / (u_2 - u_1)
    measure points x tasks x rounds x length x step    step: seconds per step of copies side by side

where a_1 and a_2 are the seconds of a method's work after a task, in samples that do u_1 and u_2 of
its ``updates`` (the argument that the method's class names as its ``work``). On-policy, a sample is
a multiple of the batch, so that it has as many updates per step as the run, unless few steps take
long already.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from holdfast import seeding
from holdfast.agents.compiled.account import opened
from holdfast.continual.experience import Experience
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.method import Method
from holdfast.continual.run_folder.old_stages import WHOLE
from holdfast.continual.streams.evaluation import evaluate
from holdfast.continual.streams.experience import MeasuredExperience
from holdfast.continual.streams.rotation import Rotation
from holdfast.continual.training.memory_budget import Buffer, argument, kept_bytes
from holdfast.continual.training.resource_usage import peak_memory
from holdfast.registry import algorithm
from holdfast.scenarios.schema.scenario import Scenario

STRETCH_S = 0.5
"""Seconds of training that are aimed at in each measured stage."""
_FEW_STEPS = 32
_ROWS = 128  # of a rollout, with which a row of pictures takes about as long as in a whole batch
_FEW_UPDATES, _MOST_UPDATES = 4, 64  # of a method's own, after a measured task
_EPISODE = 64  # steps after which a measured evaluation episode is cut
_GLANCE = 8  # likewise, where only the speed of acting is compared
_SCORE_BYTES = 150  # of one line of scores.jsonl


@dataclass(frozen=True)
class Cost:
    """Cost of one cell of a method.

    Attributes:
        steps_per_s: Environment steps per second of training, over the whole stream.
        least_s: Wall time if episodes are as short as those of the untrained agent.
        most_s: Wall time if every episode lasts until its time limit.
        is_open: Whether no time limit is known, so that evaluation may take longer.
        memory_bytes: Of the process.
        own_bytes: Of these, what the cell takes in a process that has others.
        disk_bytes: Of checkpoints and scores.
        kept_bytes: Of what methods keep and networks grow by, per task of the stream.
    """

    steps_per_s: float
    least_s: float
    most_s: float
    is_open: bool
    memory_bytes: float
    own_bytes: float
    disk_bytes: float
    kept_bytes: float


def estimate(scenario: Scenario, buffer: Buffer | None) -> dict[str, Cost]:
    """Return what one cell of each method costs, by label; it takes a few seconds for each.

    Args:
        scenario: A scenario that ``build`` has built. Its environments are stepped: none of them
            may be exclusive.
        buffer: What ``build`` returned.
    """
    torch.set_num_threads(1)  # as run_cell does
    cells = scenario.cells()[:: len(scenario.seeds)]
    points: dict[str, _Point] = {}
    costs: dict[str, Cost] = {}
    with seeding.isolated(scenario.seeds[0]):
        try:
            for cell in cells:
                alone = scenario.only(cell)
                if cell.point not in points:
                    # torch imports much at the first use of an optimizer
                    first = _Sample(alone, _steps(alone, _FEW_STEPS), stages=1)
                    points[cell.point] = _Point(first)
                costs[cell.label] = _cost(alone, points[cell.point], buffer)
        finally:
            for point in points.values():
                point.measured.close()
    return costs


_OF_BUFFERS = ("replay_buffer", "part-rows")
"""Files of a checkpoint that hold a replay buffer begin with these; it is counted by itself."""


class _Sample:
    """A method's first stages with a few steps each, measured.

    Attributes:
        original: The scenario that is estimated.
        steps: Steps of each stage.
        updates: Updates of the methods' own after each stage.
        start_s: Seconds until an agent can learn, of the last stage; its programs included.
        train_s: Seconds of learning, for each stage.
        after_s: Seconds of the methods' work after a stage, of the longest.
        agent_bytes: Of the agent's tensors in a checkpoint, for each stage.
        method_bytes: Of what the methods keep, for each stage.
    """

    def __init__(
        self, scenario: Scenario, steps: int, *, updates: int = _FEW_UPDATES, stages: int = 2
    ) -> None:
        self.steps, self.original = steps, scenario
        self.scenario = _shortened(scenario, steps)
        kind = kind_of(self.scenario)
        self.agent, self.methods = kind.agent(), kind.methods()
        for method in self.methods:
            if method.work:
                setattr(method, method.work, min(getattr(method, method.work), updates))
        self.updates = _updates(self.methods)
        self.start_s, self.after_s = 0.0, 0.0
        self.train_s: list[float] = []
        self.agent_bytes: list[int] = []
        self.method_bytes: list[int] = []
        stream = kind.stream(self.scenario.seeds[0])
        self.measured: MeasuredExperience = stream.eval_stream[0]
        # Columns grow with the square of the tasks: a third stage shows it.
        grows = stages > 1 and any("networks" in method.doors for method in self.methods)
        for experience in list(stream.train_stream)[: stages + grows]:
            self._run(experience)

    def _run(self, experience: Experience) -> None:
        told = experience.train()
        begins = experience.first in (None, experience)  # else one model goes on
        for method in self.methods if begins else ():
            method.pre_adapt(self.agent.doors(method), told)
        times = [time.monotonic()]
        if begins:
            self.agent.start(experience)
        times.append(time.monotonic())
        with opened() as account:
            self.agent.learn(experience, lambda *_: None, lambda *_: None)
        times.append(time.monotonic())
        for method in self.methods:
            method.post_adapt(self.agent.doors(method), told)
        times.append(time.monotonic())
        start_s, train_s, after_s = (b - a for a, b in pairwise(times))
        # Compiled programs are made once for each task, however long it is.
        self.start_s = start_s + account.making_s if begins else self.start_s
        self.train_s.append(max(train_s - account.making_s, 1e-6))
        self.after_s = max(self.after_s, after_s)
        files = self.agent.files().items()
        own = (tensors for name, tensors in files if not name.startswith(_OF_BUFFERS))
        self.agent_bytes.append(kept_bytes(own))
        self.method_bytes.append(kept_bytes(method.state() for method in self.methods))


@dataclass
class _Point:
    """Evaluation at one point of a sweep, whose methods have the same environments.

    Attributes:
        first: A sample, whose agent and environments were measured.
        step_s: Seconds per step of its episodes side by side.
        glance_s: Likewise, of their first steps alone.
        copies: Episodes side by side.
        length: Steps of its longest episode.
        limit: Steps after which an episode is cut; 0 where nothing says so, None where none is.
    """

    first: _Sample
    step_s: float = field(init=False)
    glance_s: float = field(init=False)
    copies: int = field(init=False)
    length: int = field(init=False)
    limit: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.copies = self.measured.open()
        self.step_s, self.length = self._played(self.first.agent, _EPISODE)
        self.glance_s, _ = self._played(self.first.agent, _GLANCE)
        self.limit = kind_of(self.first.original).time_limit()

    @property
    def measured(self) -> MeasuredExperience:
        """The experience of the first task."""
        return self.first.measured

    def speed(self, agent: Any) -> float:
        """Return the seconds per step of an agent's episodes side by side."""
        return self.step_s * self._played(agent, _GLANCE)[0] / self.glance_s

    def _played(self, agent: Any, most_steps: int) -> tuple[float, int]:
        """Return the seconds per step of episodes side by side, and the longest of them."""
        self.measured.most_steps = most_steps
        plan = self.first.scenario.evaluation.model_copy(update={"episodes": self.copies})
        began = time.monotonic()
        scores = evaluate(agent, [self.measured], plan, 0, stage=0, step=0)
        longest = max(score["length"] for score in scores)
        return (time.monotonic() - began) / longest, longest


def _cost(scenario: Scenario, point: _Point, buffer: Buffer | None) -> Cost:
    small = sample = _Sample(scenario, _glance(scenario))
    slowest = max(small.train_s)
    if slowest < STRETCH_S and small.steps < (few := _steps(scenario, _FEW_STEPS)):
        small = sample = _Sample(scenario, few)
        slowest = max(small.train_s)
    if slowest < STRETCH_S or small.updates:  # else the first says enough, and costs enough
        wanted = max(small.steps * STRETCH_S / slowest, 2 * small.steps)
        each_s = small.after_s / max(small.updates, 1)
        updates = int(min(_MOST_UPDATES, max(2 * _FEW_UPDATES, STRETCH_S / max(each_s, 1e-6))))
        steps = _steps(scenario, wanted) if slowest < STRETCH_S else small.steps
        sample = _Sample(scenario, steps, updates=updates)
    stages = scenario.stage_steps
    step_s = point.speed(sample.agent)
    train_s = _train_s(scenario, sample, step_s / point.copies)
    after_s = _after_s(scenario, small, sample)
    length, limit = point.length, point.limit or 0
    least = limit or length if length >= _EPISODE else length
    rounds = -(-scenario.evaluation.episodes // point.copies)
    count, fixed_s = _evaluations(scenario), train_s + after_s + sample.start_s * len(stages)
    disk = _checkpoints(scenario, small, sample, buffer)
    kept = _stored(small, sample, stages) + _grown(sample, len(stages) - 1)
    filled = buffer.row * buffer.filled if buffer is not None else 0
    return Cost(
        steps_per_s=sum(stages) / train_s,
        least_s=fixed_s + count * rounds * least * step_s,
        most_s=fixed_s + count * rounds * max(limit, least) * step_s,
        is_open=point.limit == 0,
        memory_bytes=peak_memory() + filled + kept,
        own_bytes=filled + kept,
        kept_bytes=kept / len(stages),
        disk_bytes=disk + count * scenario.evaluation.episodes * _SCORE_BYTES,
    )


def _train_s(scenario: Scenario, sample: _Sample, step_s: float) -> float:
    """Return the seconds of training; ``step_s`` is of a step before learning starts."""
    pace = [seconds / sample.steps for seconds in sample.train_s]  # seconds per step
    stages = scenario.stage_steps
    off_policy = algorithm(scenario.agent.algorithm).on_policy is False
    starts = argument(scenario, "learning_starts") if off_policy else 0
    total = 0.0
    for stage, steps in enumerate(stages):
        own = pace[min(stage, len(pace) - 1)]
        idle = min(starts, steps) if isinstance(starts, int) else 0
        total += (steps - idle) * own + idle * min(step_s, own)
    return total


def _after_s(scenario: Scenario, small: _Sample, sample: _Sample) -> float:
    """Return the seconds of the methods' work after all tasks; see the formula above."""
    stages, each_s = scenario.stage_steps, 0.0
    wanted = _updates(kind_of(scenario).methods())
    if sample.updates > small.updates:
        each_s = (sample.after_s - small.after_s) / (sample.updates - small.updates)
    elif sample.updates:
        each_s = sample.after_s / sample.updates
    each_s = min(max(each_s, 0.0), sample.after_s / max(sample.updates, 1))
    fixed_s = sample.after_s - each_s * sample.updates
    worked = _kept(sample.methods, [sample.steps])
    return fixed_s * _kept(sample.methods, stages) / worked + each_s * wanted * len(stages)


def _updates(methods: Sequence[Method]) -> int:
    """Return how many updates of their own the methods do after a task."""
    return sum(int(getattr(method, method.work)) for method in methods if method.work)


def _shortened(scenario: Scenario, steps: int) -> Scenario:
    """Return the scenario with few steps, short episodes, and learning from the first step on."""
    given = scenario.model_dump()
    for task in given["tasks"]:
        task["steps"] = steps
        kind_of(scenario).shortened(task, _EPISODE)
    names = tuple(scenario.tasks[index].name for index in scenario.stream_tasks)
    given["stream"] |= {"order": names, "repeat": 1, "steps": None}  # as many stages, all short
    if scenario.detects_boundaries:  # so few steps make no slot, and methods shall do their work
        given["stream"]["boundaries"] = "known"
        del given["detector"]
    off_policy = algorithm(scenario.agent.algorithm).on_policy is False
    if off_policy or "learning_starts" in given["agent"]:
        given["agent"]["learning_starts"] = 0
    shortened = Scenario.model_validate(given)
    shortened._source, shortened._folder = scenario.source, scenario.folder
    return shortened


def _glance(scenario: Scenario) -> int:
    """Return as few steps as show that a step is slow.

    On-policy, their only batch is smaller than the run's: where its rows take most of the time, as
    those of pictures do, a row costs what it does in a whole batch, and that would take too long.
    """
    if algorithm(scenario.agent.algorithm).on_policy is False:
        return _steps(scenario, _FEW_STEPS)
    n_envs = scenario.n_envs
    steps = -(-_ROWS // n_envs) * n_envs
    return max(1, min(steps, scenario.stage_steps[0]) // n_envs) * n_envs


def _steps(scenario: Scenario, wanted: float) -> int:
    """Return about so many steps, with as many updates for each as the run has.

    n_envs divides them, and they are no more than the first stage has.
    """
    n_envs, most = scenario.n_envs, scenario.stage_steps[0]
    unit = n_envs
    if algorithm(scenario.agent.algorithm).on_policy is False:
        every = argument(scenario, "train_freq")
        unit = n_envs * (every if isinstance(every, int) else 1)
    elif algorithm(scenario.agent.algorithm).on_policy:
        rollout = int(argument(scenario, "n_steps") or 1) * n_envs
        unit = min(int(argument(scenario, "batch_size") or rollout), rollout)
    steps = -(-int(wanted) // unit) * unit
    return max(1, min(steps, most) // n_envs) * n_envs


def _evaluations(scenario: Scenario) -> int:
    """Return how many times a task is measured in one cell."""
    return Rotation(scenario, scenario.seeds[0]).total()


def _kept(methods: Sequence[Method], stages: Sequence[int]) -> int:
    """Return how many observations the methods work on after stages of so many steps."""
    most = max(int(getattr(method, "samples", 0)) for method in methods)
    share = max(float(getattr(method, "share", 1.0)) for method in methods)
    if share < 1:  # of the whole stream
        return min(most, round(share * sum(stages)))
    return sum(min(steps, most) for steps in stages) or len(stages)


def _stored(small: _Sample, sample: _Sample, stages: Sequence[int]) -> float:
    """Return the bytes that the methods keep after these stages.

    They grow with the stages, and with the observations of each, which the samples had few of.
    """
    if sample.steps > small.steps:
        more_bytes = sample.method_bytes[0] - small.method_bytes[0]
        slope = more_bytes / (sample.steps - small.steps)
    else:  # too slow for a second one: as if nothing but rows were kept where any are
        by_row = any(
            method.grows in ("samples", "share", "transitions") for method in sample.methods
        )
        slope = sample.method_bytes[0] / sample.steps if by_row else 0.0
    missing = _kept(sample.methods, stages) - _kept(sample.methods, [sample.steps] * len(stages))
    later = stages[1:]
    growth = sample.method_bytes[1] - sample.method_bytes[0] if later else 0
    return sample.method_bytes[0] + growth * len(later) + slope * max(missing, 0)


def _grown(sample: _Sample, stage: int) -> float:
    """Return the bytes by which the agent's networks are larger than in the first stage."""
    sizes = sample.agent_bytes
    first = sizes[1] - sizes[0] if len(sizes) > 1 else 0
    second = sizes[2] - 2 * sizes[1] + sizes[0] if len(sizes) > 2 else 0
    return first * stage + second * stage * (stage - 1) / 2


def _checkpoints(
    scenario: Scenario, small: _Sample, sample: _Sample, buffer: Buffer | None
) -> float:
    """Return the bytes of a cell's checkpoints, one after each stage; of old ones, what is kept."""
    stages = scenario.stage_steps
    keeps_all = scenario.checkpoint.keep == "all"
    # Of a method whose state old policies need, all of it counts.
    whole = any(getattr(method, "acts_by", None) is None for method in sample.methods)
    total = 0.0
    for stage in range(len(stages)):
        so_far, is_whole = stages[: stage + 1], keeps_all or stage >= len(stages) - WHOLE
        total += sample.agent_bytes[0] + _grown(sample, stage)
        if whole or is_whole:
            total += _stored(small, sample, so_far)
        goes_on = scenario.carry.replay_buffer or scenario.is_one_task
        if is_whole and goes_on and buffer is not None:
            total += buffer.row * min(buffer.rows, sum(so_far))
    return total
