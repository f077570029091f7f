"""Estimate of what a scenario will cost, measured on short stretches of training and evaluation.

Each method runs a small stream of its own, which is thrown away: the first two or three stages with
few steps and short episodes. After the first, penalties, stored batches and columns are at work.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

import torch

from holdfast import seeding
from holdfast.continual.experience import Experience
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.method import Method
from holdfast.continual.results.old_stages import WHOLE
from holdfast.continual.streams.evaluation import evaluate
from holdfast.continual.streams.experience import MeasuredExperience
from holdfast.continual.streams.rotation import Rotation
from holdfast.continual.training.memory_budget import Buffer, kept_bytes
from holdfast.continual.training.resource_usage import peak_memory
from holdfast.registry import algorithm
from holdfast.scenarios.schema.scenario import Scenario

STRETCH_S = 0.5
"""Seconds of training that are aimed at in each measured stage."""
_FEW_STEPS = 64
_EPISODE = 64  # steps after which a measured evaluation episode is cut
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
        disk_bytes: Of checkpoints and scores.
        kept_bytes: Of what methods keep and networks grow by, per task of the stream.
    """

    steps_per_s: float
    least_s: float
    most_s: float
    is_open: bool
    memory_bytes: float
    disk_bytes: float
    kept_bytes: float


def estimate(scenario: Scenario, buffer: Buffer | None) -> dict[str, Cost]:
    """Return what one cell of each method costs, by label; it takes about two seconds for each.

    Args:
        scenario: A scenario that ``build`` has built. Its environments are stepped: none of them
            may be exclusive.
        buffer: What ``build`` returned.
    """
    torch.set_num_threads(1)  # as run_cell does
    cells = scenario.cells()[:: len(scenario.seeds)]
    with seeding.isolated(scenario.seeds[0]):
        few = _whole(scenario, _FEW_STEPS)
        _Sample(scenario.only(cells[0]), few)  # torch imports much at the first use of an optimizer
        return {cell.label: _cost(scenario.only(cell), few, buffer) for cell in cells}


class _Sample:
    """A method's first stages with a few steps each, measured.

    Attributes:
        steps: Steps of each stage.
        start_s: Seconds until an agent can learn, of the last stage.
        train_s: Seconds of learning, for each stage.
        after_s: Seconds of the methods' work after the last stage.
        agent_bytes: Of the agent's tensors in a checkpoint, for each stage.
        method_bytes: Of what the methods keep, for each stage.
    """

    def __init__(self, scenario: Scenario, steps: int) -> None:
        self.steps, self.scenario = steps, _shortened(scenario, steps)
        kind = kind_of(self.scenario)
        self.agent, self.methods = kind.agent(), kind.methods()
        self.start_s, self.after_s = 0.0, 0.0
        self.train_s: list[float] = []
        self.agent_bytes: list[int] = []
        self.method_bytes: list[int] = []
        stream = kind.stream(self.scenario.seeds[0])
        self.measured: MeasuredExperience = stream.eval_stream[0]
        # Columns grow with the square of the tasks: a third stage shows it.
        most = 3 if any("networks" in method.doors for method in self.methods) else 2
        for experience in list(stream.train_stream)[:most]:
            self._run(experience)

    def _run(self, experience: Experience) -> None:
        told = experience.train()
        for method in self.methods:
            method.pre_adapt(self.agent.doors(method), told)
        times = [time.monotonic()]
        self.agent.start(experience)
        times.append(time.monotonic())
        self.agent.learn(experience, lambda *_: None, lambda *_: None)
        times.append(time.monotonic())
        for method in self.methods:
            method.post_adapt(self.agent.doors(method), told)
        times.append(time.monotonic())
        self.start_s, train_s, self.after_s = (b - a for a, b in pairwise(times))
        self.train_s.append(max(train_s, 1e-6))
        files = self.agent.files().items()
        self.agent_bytes.append(kept_bytes(t for name, t in files if name != "replay_buffer"))
        self.method_bytes.append(kept_bytes(method.state() for method in self.methods))

    def evaluation(self) -> tuple[float, int, int]:
        """Return what evaluating the first task takes.

        Returns:
            Seconds per step of episodes side by side; how often they take turns; the longest.
        """
        copies = self.measured.open()
        began = time.monotonic()
        with closing(self.measured):
            plan = self.scenario.evaluation
            scores = evaluate(self.agent, [self.measured], plan, 0, stage=0, step=0)
        lengths = [score["length"] for score in scores]
        rounds = [max(lengths[i : i + copies]) for i in range(0, len(lengths), copies)]
        return (time.monotonic() - began) / sum(rounds), len(rounds), max(lengths)


def _cost(scenario: Scenario, few: int, buffer: Buffer | None) -> Cost:
    small = _Sample(scenario, few)
    wanted = few * STRETCH_S / max(small.train_s)
    sample = _Sample(scenario, _whole(scenario, max(wanted, 2 * few)))
    stages = scenario.stage_steps
    pace = [seconds / sample.steps for seconds in sample.train_s]  # seconds per step
    train_s = stages[0] * pace[0] + sum(stages[1:]) * pace[-1]
    worked = _kept(sample.methods, [sample.steps])
    after_s = sample.after_s * _kept(sample.methods, stages) / worked
    step_s, rounds, length = sample.evaluation()
    known = kind_of(scenario).time_limit()
    limit = known or 0
    least = limit or length if length >= _EPISODE else length
    count, fixed_s = _evaluations(scenario), train_s + after_s + sample.start_s * len(stages)
    disk = _checkpoints(scenario, small, sample, buffer)
    kept = _stored(small, sample, stages) + _grown(sample, len(stages) - 1)
    filled = buffer.row * buffer.filled if buffer is not None else 0
    return Cost(
        steps_per_s=sum(stages) / train_s,
        least_s=fixed_s + count * rounds * least * step_s,
        most_s=fixed_s + count * rounds * max(limit, least) * step_s,
        is_open=known == 0,
        memory_bytes=peak_memory() + filled + kept,
        kept_bytes=kept / len(stages),
        disk_bytes=disk + count * scenario.evaluation.episodes * _SCORE_BYTES,
    )


def _shortened(scenario: Scenario, steps: int) -> Scenario:
    """Return the scenario with few steps, short episodes, and learning from the first step on."""
    given = scenario.model_dump()
    for task in given["tasks"]:
        task["steps"] = steps
        kind_of(scenario).shortened(task, _EPISODE)
    names = tuple(scenario.tasks[index].name for index in scenario.stream_tasks)
    given["stream"] |= {"order": names, "repeat": 1, "steps": None}  # as many stages, all short
    off_policy = algorithm(scenario.agent.algorithm).on_policy is False
    if off_policy or "learning_starts" in given["agent"]:
        given["agent"]["learning_starts"] = 0
    shortened = Scenario.model_validate(given)
    shortened._source, shortened._folder = scenario.source, scenario.folder
    return shortened


def _whole(scenario: Scenario, steps: float) -> int:
    """Return a number of steps that n_envs divides, no more than the first stage has."""
    most = scenario.stage_steps[0]
    return max(1, int(min(steps, most)) // scenario.n_envs) * scenario.n_envs


def _evaluations(scenario: Scenario) -> int:
    """Return how many times a task is measured in one cell."""
    return Rotation(scenario, scenario.seeds[0]).total()


def _kept(methods: Sequence[Method], stages: Sequence[int]) -> int:
    """Return how many observations the methods work on after stages of so many steps."""
    most = [int(getattr(method, "samples", 0)) for method in methods]
    return sum(min(steps, max(most)) for steps in stages) or len(stages)


def _stored(small: _Sample, sample: _Sample, stages: Sequence[int]) -> float:
    """Return the bytes that the methods keep after these stages.

    They grow with the stages, and with the observations of each, which the samples had few of.
    """
    more_bytes = sample.method_bytes[0] - small.method_bytes[0]
    slope = more_bytes / max(sample.steps - small.steps, 1)
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
        if is_whole and scenario.carry.replay_buffer and buffer is not None:
            total += buffer.row * min(buffer.rows, sum(so_far))
    return total
