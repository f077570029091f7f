"""Bounds: what a scenario would expand to is counted first, and refused at once with the count."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.errors import ScenarioError
from holdfast.scenarios.load import load, load_resolved
from holdfast.scenarios.source import bounds
from tests.scenarios.conftest import GOOD

ONE_STEP = GOOD.replace("steps: 1000", "steps: 1")
SAMPLED = """\
tasks: [{name: a, env: CartPole-v1, steps: 1, sample: {gravity: 'uniform(1, 2)'}}]
agent: {algorithm: ppo}
"""


def agent(*given: str) -> str:
    return GOOD.replace("{algorithm: ppo}", f"{{algorithm: {', '.join(given)}}}")


def chain(count: int, link: str) -> str:
    lines = ["x:", "  a0: &a0 {k: 1}"]
    return "\n".join(
        [*lines, *(f"  a{k}: &a{k} {link.format(f'*a{k - 1}')}" for k in range(1, count))]
    )


def listed(count: int, form: str) -> str:
    return ", ".join(form.format(k) for k in range(count))


def many_tasks(count: int) -> str:
    return f"tasks: [{listed(count, '{{name: t{0}, env: CartPole-v1, steps: 1}}')}]\n"


WRONG: dict[str, tuple[str, str]] = {
    "doubled merges": (GOOD + chain(29, "{{<<: [{0}, {0}]}}"), "holds more than 20,000 values"),
    "chained merges": (GOOD + chain(3000, "{{<<: {0}}}"), "nested more than 32 levels deep"),
    "chained aliases": (GOOD + chain(3000, "{{b: {0}}}"), "nested more than 32 levels deep"),
    "repeated text": (
        f"{GOOD}description: &d {'x' * 200_000}\nx: [{listed(10_000, '*d')}]\n",
        "more than 1,000,000 characters of text",
    ),
    "repeat": (GOOD + "stream: {repeat: 1000000000}", "2,000,000,000 stages are too many"),
    "one-step tasks": (ONE_STEP + "stream: {steps: 1e12}", "1,000,000,000,000 stages are too many"),
    "shuffled": (
        ONE_STEP + "stream: {steps: 1e12, order: shuffled}",
        "at most 10,000 are taken: give the tasks more steps, or the stream fewer",
    ),
    "sampled": (SAMPLED + "stream: {steps: 1001, task_id: hidden}", "1,001 stages, each a task"),
    "sampled and large": (
        SAMPLED.replace("sample:", f"kwargs: {{{listed(900, 'k{0}: 1')}}}, sample:")
        + "stream: {steps: 500, task_id: hidden}",
        "500 visits to sampled tasks would be written out as",
    ),
    "order": (GOOD + f"stream: {{order: [{listed(15_000, 'left')}]}}", "15,000 stages are"),
    "tasks": (many_tasks(1001) + "agent: {algorithm: ppo}", "1,001 tasks are too many"),
    "columns": (
        many_tasks(1000) + "agent: {algorithm: ppo}\nmethods: [progressive]",
        "'progressive' would have 1,000 columns, each fed by all before it; at most 100",
    ),
    "task_defaults": (
        f"task_defaults: {{kwargs: {{{listed(9000, 'k{0}: 1')}}}}}\n"
        f"tasks: [{listed(5000, '{{}}')}]\nagent: {{algorithm: ppo}}",
        "9,002 values for each of 5,000 tasks are 45,010,000; at most 100,000",
    ),
    "seeds": (GOOD + f"seeds: [{listed(15_000, '{0}')}]", "15,000 seeds are too many"),
    "methods": (GOOD + f"methods: [{listed(9000, 'ewc{0}')}]", "9,000 methods are too many"),
    "cells": (
        f"{GOOD}seeds: [{listed(900, '{0}')}]\nmethods: [naive, isolated]\n"
        "sweep: {agent.gamma: {linear: [0.1, 0.9, 900]}}",
        "1,620,000 cells are too many, 900 points x 2 methods x 900 seeds; at most 10,000",
    ),
    "points": (
        GOOD + "sweep: {agent.gamma: {linear: [0.1, 0.9, 900]}, agent.ent_coef: "
        "{linear: [0, 1, 900]}, agent.vf_coef: {linear: [0, 1, 900]}}",
        "729,000,000 points are too many",
    ),
    "swept values": (GOOD + f"sweep: {{agent.gamma: [{listed(15_000, '0.{0}1')}]}}", "15,000"),
    "endless range": (
        GOOD + "sweep: {agent.gamma: {range: [0, 1e300, 1e-300]}}", "step 1e-300 is too small"
    ),
    "n_envs": (GOOD + "n_envs: 1000000", "must be at most 4096, got 1000000"),
    "episodes": (GOOD + "evaluation: {episodes: 1000000000}", "must be at most 100000"),
    "max_tasks": (GOOD + "stream: {max_tasks: 1000000000}", "must be at most 10000"),
    "units": (
        agent("ppo", "policy_kwargs: {net_arch: [1000000000]}"),
        "net_arch[0]: a layer of 1,000,000,000 units is too wide; at most 65,536",
    ),
    "layers": (agent("ppo", f"policy_kwargs: {{net_arch: [{listed(99, '8')}]}}"), "99 layers"),
    "frames": (
        GOOD.replace("steps: 1000}", "steps: 1000, wrappers: [{frame_stack: 1000000000}]}", 1),
        "stacks 1,000,000,000 frames; at most 1,000",
    ),
    "trials": (
        GOOD + "tune: {space: {agent.gamma: [0, 1]}, percent: 10, trials: 1000000000}",
        "must be at most 10000, got 1000000000",
    ),
    "digits": (GOOD + f"seeds: [{'9' * 400}]", "is not a number"),
    "wrong keys": (GOOD + "\n".join(f"key{k}: 1" for k in range(9000)), "unknown key"),
    "wrong arguments": (agent("ppo", listed(5000, "lerning{0}: 1")), "did you mean"),
    "replay buffer": (
        agent("dqn", "buffer_size: 1000000000000"),
        "a replay buffer of 1,000,000,000,000 transitions takes at least 24,000.0 GB",
    ),
    "rollout": (agent("ppo", "n_steps: 1000000000000"), "a rollout of 1,000,000,000,000 steps"),
    "networks": (
        agent("ppo", "policy_kwargs: {net_arch: {pi: [65000, 65000, 65000], vf: [64]}}"),
        "8,450,000,000 weights and take at least 101.4 GB",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have 16 GB, whatever it has."""
    monkeypatch.setattr("holdfast.scenarios.checks.memory.memory_bytes", lambda: 16 * 10**9)


def refused(path: Path, *overrides: str) -> list[str]:
    """Return what is wrong with a scenario, which is found within a second of processor time."""
    began = time.process_time()
    with pytest.raises(ScenarioError) as caught:
        load(path, overrides)
    assert time.process_time() - began < 1
    assert len(caught.value.problems) <= bounds.PROBLEMS + 1
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("name", WRONG)
def test_fault_45_what_expands_is_refused_within_a_second(write, name: str) -> None:
    text, message = WRONG[name]
    load(write(GOOD))  # what is imported at the first use takes no part
    path = write(text)
    assert any(message in found for found in refused(path))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stream.repeat=1000000000"], "2,000,000,000 stages are too many"),
        (["n_envs=1000000"], "must be at most 4096"),
        ([f"agent.x{k}=1" for k in range(20_000)], "20,000 are too many, at most 1,000 are taken"),
        (["a." * 60_000 + "a=1"], "an override is written key=value"),
        (["a." * 400 + "a=1"], "leads more than 32 levels deep"),
        ([f"tasks[{'9' * 900}].steps=1"], "write an index: tasks[0]"),
        ([f"agent.x=[{', '.join(['1'] * 9000)}]"] * 500, "holds more than 20,000 values"),
        (["@big.yaml"], "sets 5,000 keys; a file sets at most 1,000"),
        (["sweep={agent.gamma: {linear: [0, 1, 900]}, agent.ent_coef: {linear: [0, 1, 900]}}"],
         "810,000 points are too many"),
    ],
    ids=["repeat", "n_envs", "many", "long", "deep", "digits", "values", "file", "sweep"],
)  # fmt: skip
def test_fault_45_overrides_are_bounded_too(
    write, overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write("\n".join(f"agent.k{j}: 1" for j in range(5000)), "big.yaml")
    path = write(GOOD)
    load(path)
    assert any(message in found for found in refused(path, *overrides))


def test_fault_45_the_same_by_the_command_line(write, tmp_path: Path) -> None:
    path = write(GOOD + "stream: {repeat: 1000000000}")
    for command in (["validate"], ["run", "--runs", str(tmp_path / "runs")], ["run", "--dry-run"]):
        done = CliRunner().invoke(app, [*command, str(path)])
        assert done.exit_code == 2
        assert "2,000,000,000 stages are too many; at most 10,000" in done.output
    assert not (tmp_path / "runs").exists()


def test_fault_45_a_run_folders_scenario_is_bounded_too(write) -> None:
    scenario = load(write(GOOD))
    path = write(scenario.to_yaml().replace("repeat: 1,", "repeat: 1000000000,"), "scenario.yaml")
    with pytest.raises(ScenarioError, match="2,000,000,000 stages are too many"):
        load_resolved(path)


@pytest.mark.slow
def test_what_loads_can_be_read_back_from_its_run_folder(write) -> None:
    """Defaults make a resolved scenario larger than the file that it came from may be."""
    scenario = load(write(SAMPLED + "stream: {steps: 1000, task_id: hidden}"))
    alone = scenario.only(scenario.cells()[0])
    path = write(alone.to_yaml(), "scenario.yaml")
    assert path.stat().st_size > bounds.FILE_BYTES
    assert len(load_resolved(path).tasks) == 1000


@pytest.mark.parametrize(
    ("methods", "agent_", "message"),
    [
        ("{cloning: {samples: 1000000000}}", "ppo", "at least 2,400.0 GB after 300 tasks"),
        ("{cloning: {samples: 1000000000}}", "ppo", "task 3 would not fit"),
        ("{clear: {share: 1, samples: 1000000000000}}", "ppo", "at least 6,000.0 GB after 300"),
        ("isolated", "ppo, policy_kwargs: {net_arch: [8000, 8000]}", "task 63 would not fit"),
        ("perfect-memory", "dqn, buffer_size: 400000000", "buffer_size: 'perfect-memory' keeps"),
    ],
)  # fmt: skip
def test_fault_33_what_methods_keep_is_projected(
    write, methods: str, agent_: str, message: str
) -> None:
    tasks = listed(300, "{{name: t{0}, env: CartPole-v1, steps: 1e9}}")
    text = f"tasks: [{tasks}]\nagent: {{algorithm: {agent_}}}\nmethods: [{methods}]\n"
    assert any(message in found for found in refused(write(text)))


def test_fault_33_a_cell_elsewhere_has_the_memory_that_it_asks_for(write) -> None:
    text = agent("dqn", "buffer_size: 1000000000")
    assert "24.0 GB" in refused(write(text))[0]
    load(write(text + "resources: {memory_gb: 64}"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("stream: {boundaries: hidden}\nmethods: [shrink-perturb]", "or give it period:"),
        ("methods: [{packnet: {retrain_updates: 5}}]\nstream: {task_count: known}",
         "needs a replay buffer"),
        ("methods: [packnet]\nstream: {task_count: known}\ncarry: {weights: false}",
         "carry.weights: 'packnet' cannot work with carry.weights: false"),
    ],
)  # fmt: skip
def test_what_a_method_refuses_when_it_starts_is_refused_before(
    one, extra: str, message: str
) -> None:
    assert message in str(one(extra=f"{extra}\n"))


def test_the_bounds_stand_in_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs" / "streams.md").read_text("utf-8")
    numbers = [value for name, value in vars(bounds).items() if name.isupper()]
    assert len(numbers) > 20
    for value in numbers:
        shown = (
            f"{value // 1024:,} KiB"
            if value in (bounds.FILE_BYTES, bounds.RESOLVED_BYTES)
            else f"{value:,}"
        )
        assert shown in page, shown
