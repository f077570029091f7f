from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import pytest

from holdfast.registry import ALGORITHMS
from holdfast.scenarios.checks import references
from holdfast.scenarios.load import load

OWN = """
import gymnasium as gym

class Reach(gym.Env):
    pass

class Noise(gym.Wrapper):
    def __init__(self, env, level: float = 0.1):
        super().__init__(env)

gym.register(id="Reach-v0", entry_point="my_robot:Reach")
gym.register(id="Plain", entry_point="my_robot:Reach")
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path) -> None:
    (tmp_path / "my_robot.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("from pack.inner import Reach as Arm\n")
    (tmp_path / "pack" / "inner.py").write_text(OWN)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("CartPol-v1", "no environment 'CartPol-v1'; did you mean 'CartPole-v1'?"),
        ("cartpole-v1", "did you mean 'CartPole-v1'?"),
        ("CartPole", "did you mean 'CartPole-v1'?"),
        ("Pendulum-v0", "did you mean 'Pendulum-v1'?"),
        (
            "HalfCheetah-v2",
            "'HalfCheetah-v2' is no longer part of Gymnasium; write 'HalfCheetah-v5'",
        ),
        ("HalfCheetah-v9", "did you mean 'HalfCheetah-v5'?"),
        ("MiniGrid-Empty-5x5-v0", "write 'minigrid:MiniGrid-Empty-5x5-v0'"),
        ("ALE/Pong-v5", "write 'ale_py:ALE/Pong-v5'"),
        ("Zzz", "one of your own is written 'module:Class'"),
        ("my_robot", "one of your own is written 'my_robot:Class'"),
        ("my_robot.Reach", "a class of your own is written 'my_robot:Reach'"),
        ("my_robot.py:Reach", "write the module, not its file: 'my_robot:Reach'"),
        ("./my_robot.py:Reach", "write the module, not its file: 'my_robot:Reach'"),
        ("my_robot:Reech", "module 'my_robot' has no environment 'Reech'; did you mean"),
        ("my_robot:Reach-v1", "registers no 'Reach-v1'; did you mean 'my_robot:Reach-v0'?"),
        ("my_robt:Reach", "did you mean 'my_robot'?"),
        ("pack.iner:Reach", "no module 'pack.iner' in the package 'pack'"),
        ("broken:Reach", "module 'broken' is not valid Python"),
        ("nowhere_at_all:Reach-v0", "if it is a package, install it: pip install nowhere-at-all"),
    ],
)
def test_fault_6_typo_missing_package_and_import_error_are_told_apart(
    one, env, message, monkeypatch
) -> None:
    for name in [name for name in gym.registry if name.startswith(("ALE/", "MiniGrid-"))]:
        monkeypatch.delitem(gym.registry, name)  # another test has imported their package
    problem = one(f"tasks[0].env={env}")
    assert problem.path == "tasks[0].env"
    assert message in problem.message


@pytest.mark.parametrize(
    "env",
    [
        "CartPole-v1",
        "my_robot:Reach",
        "my_robot:Reach-v0",
        "my_robot:Plain",
        "my_robot:Else-v0",
        "pack:Arm",
        "pack.inner:Reach",
        "gymnasium.envs.classic_control:CartPoleEnv",
        "minigrid:MiniGrid-Empty-5x5-v0",
    ],
)
def test_environments_that_are_there(write, env: str) -> None:
    assert load(write(), [f"tasks[0].env={env}"]).tasks[0].env == env


@pytest.mark.parametrize(
    ("env", "command"),
    [
        ("HalfCheetah-v5", 'pip install "holdfast[mujoco]"'),
        ("LunarLander-v3", 'pip install "gymnasium[box2d]"'),
        ("MiniGrid-Empty-5x5-v0", 'pip install "holdfast[minigrid]"'),
    ],
)
def test_fault_6_missing_extra_gives_the_command(one, monkeypatch, env: str, command: str) -> None:
    monkeypatch.setattr(references, "_installed", lambda package: False)
    known = {name: spec for name, spec in references._registry().items() if "MiniGrid" not in name}
    monkeypatch.setattr(references, "_registry", lambda: known)  # another test may have imported it
    assert one(f"tasks[0].env={env}").message.endswith(command)


@pytest.mark.parametrize(
    ("algorithm", "env", "space"),
    [
        ("sac", "CartPole-v1", "Discrete"),
        ("dqn", "Pendulum-v1", "Box"),
        ("maskable_ppo", "Ant-v5", "Box"),
    ],
)
def test_fault_10_action_space_lists_algorithms_that_can(problems, algorithm, env, space) -> None:
    text = f"tasks: [{{name: a, env: {env}, steps: 8}}]\nagent: {{algorithm: {algorithm}}}\n"
    (found,) = problems(text)
    able = ", ".join(name for name, entry in ALGORITHMS.items() if space in entry.actions)
    assert found.message == (
        f"'{env}' has {space} actions, which '{algorithm}' cannot take; algorithms that can: {able}"
    )
    assert algorithm not in able.split(", ")


def test_fault_10_the_table_is_what_the_environments_have() -> None:
    gym = pytest.importorskip("gymnasium")
    for env in ("CartPole-v1", "MountainCar-v0", "Acrobot-v1", "Pendulum-v1", "Taxi-v4"):
        made = gym.make(env)
        assert references.action_space(env) == type(made.action_space).__name__
        made.close()
    assert references.action_space("MountainCarContinuous-v0") == "Box"


ARGUMENTS = """
import dataclasses
import gymnasium as gym

class Arm(gym.Env):
    def __init__(self, goal=1.0, *, payload=1.0):
        pass

class Longer(Arm):
    pass

class Any(Arm):
    def __init__(self, **options):
        super().__init__(**options)

@dataclasses.dataclass
class Told(gym.Env):
    goal: float = 1.0

class Nothing(gym.Env):
    pass

gym.register(id="Arm-v0", entry_point="arms:Arm")
"""


def with_argument(env: str, key: str) -> str:
    task = f"{{name: a, env: '{env}', kwargs: {{{key}: 1}}, steps: 10}}"
    return f"tasks: [{task}]\nagent: {{algorithm: ppo}}\n"


@pytest.mark.parametrize(
    ("env", "key"),
    [
        *[("arms:Arm", "goal"), ("arms:Arm", "payload"), ("arms:Longer", "goal")],
        *[("arms:Told", "goal"), ("arms:Arm-v0", "gaol"), ("CartPole-v1", "gaol")],
        *[("arms:Any", "gaol"), ("arms:Nothing", "gaol")],  # they tell when they are built
    ],
)
def test_arguments_of_environments_that_may_be_right(write, tmp_path: Path, env, key) -> None:
    (tmp_path / "arms.py").write_text(ARGUMENTS)
    assert load(write(with_argument(env, key))).tasks[0].kwargs == {key: 1}


@pytest.mark.parametrize("env", ["arms:Arm", "arms:Longer", "arms:Told"])
def test_arguments_that_a_class_of_ones_own_does_not_have(problems, tmp_path: Path, env) -> None:
    (tmp_path / "arms.py").write_text(ARGUMENTS)
    (found,) = problems(with_argument(env, "gaol"))
    assert found.path == "tasks[0].kwargs.gaol"
    assert found.message == f"'{env}' has no argument 'gaol'; did you mean 'goal'?"


def test_names_are_unique(one) -> None:
    problem = one("tasks[1].name=right")
    assert problem.path == "tasks[1].name"
    assert "tasks[0] has this name too" in problem.message


@pytest.mark.parametrize(
    ("stream", "path", "message"),
    [
        ("{order: [rihgt]}", "stream.order[0]", "no task 'rihgt'; did you mean 'right'?"),
        ("{order: []}", "stream.order", "must not be empty"),
        ("{order: right}", "stream.order", "expected a list"),
        ("{max_tasks: 1}", "stream.max_tasks", "must be at least 2, the number of tasks, got 1"),
        ("{repeat: 0}", "stream.repeat", "must be greater than 0"),
        ("hidden", "stream", "expected a mapping, got the text 'hidden'"),
    ],
)
def test_streams(one, stream: str, path: str, message: str) -> None:
    problem = one(f"stream={stream}")
    assert problem.path == path
    assert message in problem.message


@pytest.mark.parametrize(
    ("others", "path", "message"),
    [
        (["stream={}"], "adapt", "the stream trains every task, so that none is left"),
        (["adapt.steps=63"], "adapt.steps", "63 is not a multiple of n_envs (4)"),
        (["adapt.every=30"], "adapt.every", "30 is not a multiple of n_envs (4)"),
        (["adapt.stages=first"], "adapt.stages", "'first' is not one of all, last"),
        (["adapt.step=64"], "adapt.step", "did you mean 'steps'?"),
        (["stream.task_count=known"], "stream.task_count", "adapt: adds one; write unknown"),
        (["stream.steps=512"], "stream.steps", "write repeat instead"),
        (["checkpoint.keep=policies"], "checkpoint.keep", "write adapt: {stages: last}"),
        (["tasks[1].rate=10"], "tasks[1].rate", "remove it or adapt:"),
        (["stream.boundaries=hidden"], "adapt", "write boundaries: known"),
    ],
)
def test_adapting(one, others: list[str], path: str, message: str) -> None:
    problem = one("stream={order: [right]}", "n_envs=4", "adapt={steps: 64}", *others)
    assert problem.path == path
    assert message in problem.message


def test_exclusive_environments(one, write) -> None:
    exclusive = "tasks[0].exclusive=true"
    assert "n_envs is 4; write n_envs: 1" in one(exclusive, "n_envs=4").message
    assert "remove evaluation.every" in one(exclusive, "evaluation.every=100").message
    assert load(write(), [exclusive]).tasks[0].exclusive


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ("framestack", "no wrapper 'framestack'; did you mean 'frame_stack'?"),
        ("gray", "no wrapper 'gray'; known: frame_stack, atari, module:Class"),
        ("frame_stack: 0", "how many frames, a whole number, got 0"),
        ("atari: 4", "expected the arguments of 'atari'"),
        ("atari: {frameskip: 4}", "did you mean 'frame_skip'?"),
        ("'my_robot:Noise': {levle: 1}", "has no argument 'levle'; did you mean 'level'?"),
        ("'my_robot:Nose'", "did you mean 'my_robot:Noise'?"),
    ],
)
def test_wrappers(one, wrapper: str, message: str) -> None:
    assert message in one(f"tasks[0].wrappers=[{wrapper}]").message


def test_mujoco_changes_belong_to_mujoco(one) -> None:
    problem = one("tasks[0].changes.mujoco={gravity: 2}")
    assert "'CartPole-v1' is not a MuJoCo environment" in problem.message
