"""What the compiled engine refuses, by name and with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.registry import ALGORITHMS, COMPILED, METHODS, NOT_COMPILED, ON_HOST
from holdfast.scenarios.load import load

COMPILED_PPO = """\
tasks:
  - {name: right, env: CartPole-v1, steps: 1000}
  - {name: left, env: CartPole-v1, steps: 1000}
stream: {task_count: known}
score: {random: 0.0, reference: 500.0}
agent: {algorithm: ppo, engine: compiled}
"""
BOX = """\
tasks: [{name: a, env: Pendulum-v1, steps: 1000}]
agent: {algorithm: sac, engine: compiled}
"""
GAME = """\
tasks:
  - {name: game, env: classic/connect_four_v3, steps: 1000, opponents: {against: [random]}}
agent: {algorithm: maskable_ppo, engine: compiled}
"""
TEAM = """\
tasks: [{name: spread, env: mpe2.simple_spread_v3, steps: 1000}]
agent: {algorithm: ppo, policies: shared, engine: compiled}
"""
OWN = """\
from stable_baselines3 import PPO

class Own(PPO):
    pass

class Anchor:
    doors = ("gradients",)
"""


def test_sb3_is_the_default_and_takes_what_the_other_refuses(write) -> None:
    assert load(write()).agent.engine == "sb3"
    assert load(write(BOX), ["agent.engine=sb3", "agent.algorithm=crossq"]).agent.engine == "sb3"
    assert load(write(COMPILED_PPO)).agent.engine == "compiled"


@pytest.mark.parametrize("name", sorted(COMPILED))
def test_every_algorithm_that_it_knows_is_taken(write, name) -> None:
    boxes = ("sac", "tqc", "td3", "ddpg")
    text = (BOX if name in boxes else COMPILED_PPO).replace("sac", name).replace("ppo", name)
    assert load(write(text)).agent.engine == "compiled"


@pytest.mark.parametrize("name", ["crossq", "trpo", "recurrent_ppo"])
def test_an_algorithm_that_it_does_not_know(problems, name) -> None:
    assert name in ALGORITHMS
    text = BOX if name == "crossq" else COMPILED_PPO
    (found,) = problems(text, f"agent.algorithm={name}")
    known = "a2c, ddpg, dqn, maskable_ppo, ppo, qrdqn, sac, td3, tqc"
    expected = f"compiled does not know {name}, only {known}; take one, or write engine: sb3"
    assert (found.path, found.message) == ("agent.engine", expected)
    assert text.splitlines()[found.line - 1][found.column - 1 :].startswith("compiled")


def test_an_algorithm_of_the_users_own(problems, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    (found,) = problems(COMPILED_PPO, "agent.algorithm=mine:Own")
    assert found.path == "agent.engine"
    assert found.message.startswith("compiled does not know mine:Own, only a2c")


def test_a_method_of_the_users_own_is_left_to_the_trace(write, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    assert load(write(COMPILED_PPO), ["methods=[mine:Anchor]"]).agent.engine == "compiled"


def test_an_algorithm_that_nobody_knows_is_told_once(problems) -> None:
    (found,) = problems(COMPILED_PPO, "agent.algorithm=PPO")
    assert found.path == "agent.algorithm"
    assert "did you mean 'ppo'?" in found.message


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        (
            "agent.use_sde=true",
            "agent.use_sde",
            "state-dependent noise is drawn between its updates; remove it, or write engine: sb3",
        ),
        (
            "agent.device=cuda",
            "agent.device",
            "engine: compiled was not tried on cuda; write device: cpu, or write engine: sb3",
        ),
        (
            "agent.device=auto",
            "agent.device",
            "engine: compiled was not tried on auto; write device: cpu, or write engine: sb3",
        ),
        ("agent.engine=jit", "agent.engine", "'jit' is not one of sb3, compiled"),
    ],
)
def test_a_setting_that_it_cannot_take(problems, override, path, message) -> None:
    (found,) = problems(BOX, override)
    assert (found.path, found.message) == (path, message)


def test_seeds_at_once_need_this_engine(problems) -> None:
    (found,) = problems(BOX, "agent.engine=sb3", "agent.seeds_at_once=2")
    assert found.path == "agent.seeds_at_once"
    assert found.message == "only engine: compiled takes seeds at once; add it, or remove this"


@pytest.mark.parametrize("count", ["2", "auto"])
@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        (
            "tasks.a.exclusive=true",
            "tasks[0].exclusive",
            "there is one of it, which cannot serve seeds at once; remove it, or write "
            "seeds_at_once: 1",
        ),
        (
            "tasks.a.rate=50",
            "tasks[0].rate",
            "what keeps pace with the clock waits for no seeds at once; remove it, or write "
            "seeds_at_once: 1",
        ),
    ],
)
def test_what_cannot_learn_in_lockstep(problems, count, override, path, message) -> None:
    (found,) = problems(BOX, f"agent.seeds_at_once={count}", override)
    assert (found.path, found.message) == (path, message)


def test_learning_at_the_end_of_episodes_in_lockstep(problems) -> None:
    """Episodes of seeds end at different steps; one that is alone counts steps as well."""
    (found,) = problems(BOX, "agent.seeds_at_once=2", "agent.train_freq=[1, episode]")
    assert found.path == "agent.train_freq"


@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5"])
def test_a_number_of_seeds_that_is_none(problems, count) -> None:
    (found,) = problems(BOX, f"agent.seeds_at_once={count}")
    assert found.path.startswith("agent.seeds_at_once")


def test_what_is_off_is_not_refused(write) -> None:
    assert load(write(BOX), ["agent.use_sde=false", "agent.device=cpu"]).agent.engine == "compiled"


@pytest.mark.parametrize("name", sorted(NOT_COMPILED))
def test_a_method_that_it_cannot_take(problems, name) -> None:
    (found,) = problems(COMPILED_PPO, f"methods=[naive, {name}]")
    assert found.path == "methods[1]"
    assert found.message == f"'{name}' needs engine: sb3, as {NOT_COMPILED[name]}"


def test_methods_that_it_cannot_take_are_these() -> None:
    assert set(NOT_COMPILED) == {"expandable", "gem", "redo", "continual-backprop"}
    assert set(ON_HOST) <= set(NOT_COMPILED) <= set(METHODS)


def test_a_method_inside_a_composition_and_with_arguments(problems) -> None:
    text = COMPILED_PPO + "methods:\n  - naive\n  - [ewc, {gem: {samples: 9}}]\n"
    (found,) = problems(text)
    assert (found.path, found.line) == ("methods[1]", 9)
    assert found.message.startswith("'gem' needs engine: sb3, as its quadratic program")


@pytest.mark.parametrize("policies", ["shared", "independent", "{all: ['agent_*']}"])
def test_a_team(problems, policies) -> None:
    (found,) = problems(TEAM, f"agent.policies={policies}")
    assert found.path == "agent.policies"
    assert found.message.startswith("teams learn by Stable-Baselines3's own updates; remove it")


def test_an_algorithm_of_teams(problems) -> None:
    (found,) = problems(TEAM, "agent.algorithm=mappo")
    assert found.path == "agent.policies"


def test_opponents(problems) -> None:
    (found,) = problems(GAME)
    assert found.path == "tasks[0].opponents"
    assert found.message == (
        "past selves are taken at every step; remove the opponents, or write engine: sb3"
    )


def test_an_engine_that_a_sweep_chooses(problems) -> None:
    text = BOX.replace(", engine: compiled", ", use_sde: true")
    (found,) = problems(text + "sweep: {agent.engine: [sb3, compiled]}\n")
    assert "state-dependent noise" in found.message
