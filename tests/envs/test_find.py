"""What the words after `check-env` mean; each kind of bad input says one thing."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import pytest

from holdfast.envs.find import Found, find
from holdfast.errors import UsageError

TWO = """
    import abc
    import gymnasium as gym
    from gymnasium.envs.classic_control import CartPoleEnv

    class Base(gym.Env):
        pass

    class Arm(CartPoleEnv, Base):
        pass

    class Hand(CartPoleEnv):
        pass

    class Camera(gym.Wrapper):
        pass

    class _Hidden(CartPoleEnv):
        pass

    Other = Arm
    gym.register("Find/Quick-v0", "{module}:Hand", max_episode_steps=50)
    gym.register("Find/Far-v0", "gymnasium.envs.classic_control:PendulumEnv")
"""


@pytest.fixture(autouse=True)
def same_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym.envs.registration, "registry", copy := dict(gym.registry))
    monkeypatch.setattr(gym, "registry", copy)
    monkeypatch.setattr(gym.envs, "registry", copy)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).replace("{module}", path.stem), "utf-8")
        return path

    return write


@pytest.mark.parametrize("named", ["CartPole-v1", "anywhere:Arm", "ALE/Pong-v5", "NoSuch-v3"])
def test_names_of_one_environment_stay_what_they_are(named: str, tmp_path: Path) -> None:
    assert find(named, tmp_path) == Found((named,), tmp_path)


def test_a_module_means_its_ids_and_its_own_finished_classes(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    """Not wrappers, bases, private names or second names; what an id stands for only once."""
    write("two_arms.py", TWO)
    names = ("two_arms:Find/Quick-v0", "two_arms:Find/Far-v0", "two_arms:Arm")
    assert find("two_arms", tmp_path) == Found(names, tmp_path)


def test_a_file_means_what_its_module_means(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("sub dir/far_arms.py", TWO)
    found = find("./sub dir/far_arms.py", tmp_path)
    assert found.targets[-1] == "far_arms:Arm"
    assert found.folder == path.parent
    assert found.in_file
    assert find(f"{path}:Arm", Path("/")).targets == ("far_arms:Arm",)
    assert find("sub dir/far_arms.py:Find/Far-v0", tmp_path).targets == ("far_arms:Find/Far-v0",)


def test_a_package_means_what_it_shows(write: Callable[..., Path], tmp_path: Path) -> None:
    write("my_robots/arms.py", TWO.replace("{module}", "my_robots.arms"))
    write("my_robots/__init__.py", "from .arms import Arm")
    ids = ("my_robots:Find/Quick-v0", "my_robots:Find/Far-v0")
    assert find("my_robots", tmp_path).targets == (*ids, "my_robots:Arm")


def test_a_file_of_a_package_is_imported_as_its_part(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    write("outer_lab/__init__.py", "")
    write("outer_lab/parts.py", "SPEED = 2")
    write("outer_lab/arm.py", f"from .parts import SPEED\n{textwrap.dedent(TWO)}")
    found = find("outer_lab/arm.py:Arm", tmp_path)
    assert found == Found(("outer_lab.arm:Arm",), tmp_path, in_file=True)


def test_a_file_that_needs_the_current_folder_is_imported_from_there(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("lab_tools.py", "SPEED = 2")
    write("lab_envs/arm_of_lab.py", f"import lab_tools\n{textwrap.dedent(TWO)}")
    monkeypatch.chdir(tmp_path)
    found = find("lab_envs/arm_of_lab.py:Arm", tmp_path)
    assert found == Found(("lab_envs.arm_of_lab:Arm",), tmp_path, in_file=True)
    monkeypatch.chdir("/")  # from elsewhere nothing says where lab_tools is
    other = write("other_lab/arm_too.py", "import missing_lab_tools")
    with pytest.raises(UsageError, match="needs the package 'missing_lab_tools'"):
        find(str(other), tmp_path)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("nothng.py", "there is no file .*nothng.py; did you mean 'nothing.py'"),
        ("./nothing", "there is no file ./nothing; environments are in .py files or modules"),
        ("nothing.py", "nothing.py holds no environment: no class derived from gymnasium.Env"),
        ("nothing", "nothing holds no environment"),
        ("nothing.py:", "ends in a colon; a class or an id comes after it"),
        ("nothin", "no environment and no module is called 'nothin'; did you mean 'nothing'"),
        ("CartPole", "no environment and no module .* did you mean 'CartPole-v1'"),
        ("forgot.py", "; derive Forgot from gymnasium.Env"),
        ("my-arm.py", "cannot be imported: .* rename the file, for example to my_arm.py"),
        ("class.py", "rename the file, for example to class_env.py"),
        ("broken.py", r"broken.py is not valid Python: .*broken.py, line 2\)"),
        ("dotted.py", "relative imports .* put an empty __init__.py there"),
        ("json.py", "a module 'json' is there already .* rename the file"),
        ("folder", "'folder' is a folder; name a file in it: folder/inside.py"),
        ("zero.py", "importing 'zero' failed: ZeroDivisionError"),
    ],
)
def test_each_mistake_says_what_to_write(
    write: Callable[..., Path], tmp_path: Path, named: str, message: str
) -> None:
    write("nothing.py", "x = 1")
    write("forgot.py", "class Forgot:\n    def step(self): ...\n    def reset(self): ...")
    write("my-arm.py", "x = 1")
    write("class.py", "x = 1")
    write("broken.py", "\nx = (")
    write("dotted.py", "from .parts import x")
    write("json.py", TWO)
    write("folder/inside.py", TWO)
    write("zero.py", "1 / 0")
    with pytest.raises(UsageError, match=message):
        find(named, tmp_path)


def test_what_another_interpreter_has_is_not_guessed(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write("there_only.py", "import package_of_that_interpreter")
    with pytest.raises(UsageError, match=r"with --python, name one: there_only.py:Class"):
        find(str(path), tmp_path, imports=False)
    assert find(f"{path}:Arm", tmp_path, imports=False).targets == ("there_only:Arm",)
