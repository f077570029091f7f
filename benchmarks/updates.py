"""What each method costs per update, and what it keeps per task; method and naive take turns.

Every method is brought through four tasks of a stream, and timed in the fifth, where penalties,
stored batches and five columns are at work: ``train()`` of the algorithm on one filled buffer, with
the method's doors open, against the same under ``naive`` in the same process, pair by pair. A
method's work between tasks (importance passes, distilling) is not part of it; a cell's ``run.json``
tells what that takes.

Agents have Stable-Baselines3's default networks: PPO 2 x 64 units and batches of 64, SAC 2 x 256
units and batches of 256.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from overhead import alternate, header, write_table

from holdfast.agents.sb3.budget import stream_logger
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.jobs.estimate import estimate
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.streams.task_stream import make_stream
from holdfast.continual.training.memory_budget import kept_bytes
from holdfast.continual.training.preflight import build
from holdfast.registry import METHODS
from holdfast.scenarios.checks.methods import can_take, method_signature
from holdfast.scenarios.schema.scenario import Scenario

RESULTS = Path(__file__).parent / "results"
FILES = {"sb3": RESULTS / "updates.csv", "compiled": RESULTS / "updates-compiled.csv"}
TASKS = 5
GOALS: dict[str, dict[str, float]] = {
    "sb3": {
        **dict.fromkeys(("l2", "ewc", "mas", "si", "rwalk"), 1.15),
        **dict.fromkeys(("vcl", "parseval"), 1.5),
        **dict.fromkeys(("agem", "cloning"), 2.2),
        "progressive": 3.0,
    },
    "compiled": {
        **dict.fromkeys(("l2", "ewc", "mas", "packnet"), 1.15),
        **dict.fromkeys(("agem", "cloning"), 2.0),
    },
}
# No update of these differs from naive's, or there is none.
LEFT_OUT = ("naive", "isolated", "joint", "frozen")
SETTINGS: dict[str, tuple[dict[str, Any], str, int, int]] = {
    "ppo": ({"n_steps": 32, "batch_size": 64, "n_epochs": 5}, "CartPole-v1", 8, 512),
    "sac": ({"learning_starts": 100, "buffer_size": 2000}, "Pendulum-v1", 1, 300),
}
SAC_UPDATES = 20


class Row(NamedTuple):
    """One method on one algorithm; naive's time per update is in the same run.

    Attributes:
        algorithm: The algorithm.
        method: The method, with its default arguments.
        naive_us: Median microseconds per update of naive.
        method_us: Median microseconds per update of the method.
        ratio: Median over pairs of their quotient.
        goal: The largest ratio that was asked for; None where nothing was.
        kept_per_task: Bytes that the method keeps and the networks grew by after four tasks, over
            four.
        planned_per_task: The same as ``holdfast run --dry-run`` plans it for four tasks.
    """

    algorithm: str
    method: str
    naive_us: float
    method_us: float
    ratio: float
    goal: float | None
    kept_per_task: float
    planned_per_task: float


def scenario_of(algorithm: str, method: str, engine: str, tasks: int = TASKS) -> Scenario:
    """Return equal tasks for one method."""
    arguments, env, n_envs, steps = SETTINGS[algorithm]
    return Scenario.model_validate(
        {
            "tasks": [{"name": f"t{i}", "env": env, "steps": steps} for i in range(tasks)],
            "stream": {"task_count": "known"},
            "n_envs": n_envs,
            "agent": {"algorithm": algorithm, "engine": engine, **arguments},
            "methods": [method],
        }
    )


class Trained:
    """An agent in the fifth task, with the method's doors open.

    Attributes:
        kept_per_task: Bytes that the method keeps and the networks grew by, over finished tasks.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.agent, self.methods = StableBaselinesAgent(scenario), kind_of(scenario).methods()
        *finished, self.last = make_stream(scenario, 0).train_stream
        first = 0
        for experience in finished:
            self._start(experience)
            first = first or kept_bytes([self.agent.files()["policy"]])
            self.agent.learn(experience, lambda _: None, lambda *_: None)
            for method in self.methods:
                method.post_adapt(self.agent.doors(method), experience.train())
        states = [method.state() for method in self.methods]
        kept = kept_bytes([self.agent.files()["policy"], *states]) - first
        self.kept_per_task = kept / len(finished)
        self._start(self.last)

    def _start(self, experience: Any) -> None:
        for method in self.methods:
            method.pre_adapt(self.agent.doors(method), experience.train())
        self.agent.start(experience)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Fill the buffer and keep the doors open inside the block."""
        model, quick = self.agent.model, self.last.steps // 2
        model.set_logger(stream_logger(lambda *_: None, 0))
        with self.agent._open_doors():
            if hasattr(model, "rollout_buffer"):
                _, callback = model._setup_learn(quick, None, True, "task", False)
                model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
                self.agent.record_rollout()
            else:
                model.learning_starts = quick  # random steps fill the buffer, nothing is learned
                model.learn(quick)
            yield
        self.agent.close()

    def update_s(self) -> float:
        """Return the seconds of one update, over one call of the algorithm's ``train``."""
        model = self.agent.model
        before, began = model._n_updates, time.perf_counter()
        if hasattr(model, "rollout_buffer"):
            model.train()
            rows = model.n_steps * model.n_envs
            updates = (model._n_updates - before) * -(-rows // model.batch_size)
        else:
            model.train(gradient_steps=SAC_UPDATES, batch_size=model.batch_size)
            updates = model._n_updates - before
        return (time.perf_counter() - began) / int(updates)


def measure(algorithm: str, method: str, engine: str, pairs: int) -> Row:
    """Return what a method costs on an algorithm."""
    scenario = scenario_of(algorithm, method, engine)
    ours, naive = Trained(scenario), Trained(scenario_of(algorithm, "naive", engine))
    with naive.ready(), ours.ready():
        alternate(naive.update_s, ours.update_s, 2)
        measured = alternate(naive.update_s, ours.update_s, pairs)
    finished = scenario_of(algorithm, method, engine, TASKS - 1)
    (planned,) = estimate(finished, build(finished)).values()
    before, after = (statistics.median(side) * 1e6 for side in zip(*measured, strict=True))
    return Row(
        algorithm,
        method,
        naive_us=before,
        method_us=after,
        ratio=statistics.median(second / first for first, second in measured),
        goal=GOALS[engine].get(method),
        kept_per_task=ours.kept_per_task,
        planned_per_task=planned.kept_bytes,
    )


def show(row: Row) -> None:
    """Print one line."""
    goal = "" if row.goal is None else f"goal {row.goal:<5}"
    met = "" if row.goal is None else "met" if row.ratio <= row.goal else "MISSED"
    print(
        f"{row.algorithm:4} {row.method:20} {row.naive_us:8.0f} us {row.method_us:8.0f} us "
        f"{row.ratio:7.3f} {goal:10} {met:6} {row.kept_per_task / 1e3:10.1f} kB a task, planned "
        f"{row.planned_per_task / 1e3:.1f}",
        flush=True,
    )


def on_file(path: Path) -> tuple[list[str], list[Row]]:
    """Return what made the rows of a file, a line each, and the rows."""
    lines = path.read_text("utf-8").splitlines()
    head = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    found = csv.DictReader(line for line in lines if not line.startswith("#"))
    return head, [
        Row(
            algorithm=row["algorithm"],
            method=row["method"],
            naive_us=float(row["naive_us"]),
            method_us=float(row["method_us"]),
            ratio=float(row["ratio"]),
            goal=float(row["goal"]) if row["goal"] else None,
            kept_per_task=float(row["kept_per_task"]),
            planned_per_task=float(row["planned_per_task"]),
        )
        for row in found
    ]


def beside(known: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Return rows with new ones in the place of those of their algorithm and method, or last."""
    rows = {(row.algorithm, row.method): row for row in (*known, *new)}
    algorithms = [*SETTINGS]
    return sorted(rows.values(), key=lambda row: algorithms.index(row.algorithm))


def main(names: Sequence[str], engine: str, pairs: int, *, adds: bool) -> None:
    """Measure and print the table; write the engine's file if nothing was left out, or adds to it.

    Args:
        names: Methods; all where there are none.
        engine: What they learn under.
        pairs: Turns of each side.
        adds: Whether the rows are put beside those on file, below what made both.
    """
    torch.set_num_threads(1)
    head = header("updates.py")
    print(*head, sep="\n")
    every = METHODS if engine == "sb3" else GOALS[engine]
    rows = []
    for algorithm in SETTINGS:
        for name in names or [name for name in every if name not in LEFT_OUT]:
            if can_take(algorithm, method_signature(name)):
                rows.append(measure(algorithm, name, engine, pairs))
                show(rows[-1])
                if adds:  # each at once: what is measured stays where the rest is stopped
                    made, known = on_file(FILES[engine])
                    lines = list(dict.fromkeys([*made, *head]))
                    write_table(FILES[engine], lines, beside(known, rows[-1:]))
    if not names and not adds:
        write_table(FILES[engine], head, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    told = "only these; the file is then written with --add alone"
    parser.add_argument("methods", nargs="*", help=told)
    parser.add_argument("--add", action="store_true", help="put their rows beside those on file")
    told = "compiled measures the methods that have a goal there"
    parser.add_argument("--engine", choices=FILES, default="sb3", help=told)
    parser.add_argument("--pairs", type=int, default=30, help="turns of each side")
    options = parser.parse_args()
    main(options.methods, options.engine, options.pairs, adds=options.add)
