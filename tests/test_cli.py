"""The command line: what it prints, its exit codes, what it imports, how it is stopped."""

import json
import os
import pty
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from cells import run_all
from game_runs import games
from told import Told

import holdfast
from holdfast.continual.run_folder.record import RunFolder
from holdfast.scenarios.json_schema import json_schema

ROOT = Path(__file__).parents[1]

SCENARIO = """\
tasks:
  - {name: left, env: CartPole-v1, steps: 64, changes: {time_limit: 20}}
  - {name: right, env: CartPole-v1, steps: 64, changes: {time_limit: 20, action_map: [1, 0]}}
agent: {algorithm: ppo, n_steps: 32, batch_size: 32, n_epochs: 2}
evaluation: {episodes: 2}
score: {random: 0, reference: 20}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "demo.yaml"
    path.write_text(SCENARIO, "utf-8")
    return path


OWN = """\
from gymnasium.envs.classic_control import CartPoleEnv

class Mine(CartPoleEnv):
    pass
"""


@pytest.mark.slow
def test_trust_is_asked_for_in_words(tmp_path: Path) -> None:
    """By the command itself: the code is listed, exit code 5, nothing is printed to stdout."""
    (tmp_path / "own_cart.py").write_text(OWN, "utf-8")
    text = SCENARIO.replace("CartPole-v1", "'own_cart:Mine'").replace("steps: 64", "steps: 32")
    (tmp_path / "own.yaml").write_text(text, "utf-8")
    (folder,) = run_all(holdfast.load(tmp_path / "own.yaml"), tmp_path / "runs")
    command = [sys.executable, "-P", "-m", "holdfast", "eval", str(folder.path), "--episodes", "1"]
    elsewhere = os.environ | {"XDG_STATE_HOME": str(tmp_path / "nobody")}
    done = subprocess.run(command, capture_output=True, text=True, env=elsewhere, check=False)
    assert (done.returncode, done.stdout) == (5, "")
    assert f"tasks[0].env: 'own_cart:Mine' (from {tmp_path}, or installed)" in done.stderr
    assert "--trust-code (trust_code=True in Python)" in done.stderr
    assert "Traceback" not in done.stderr
    command.append("--trust-code")
    done = subprocess.run(command, capture_output=True, text=True, env=elsewhere, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "after stage 1, in right" in done.stdout


# -- quick, and light ------------------------------------------------------------------------------


def python(code: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "light"),
    [
        (["--help"], ["pydantic", "yaml", "numpy", "gymnasium"]),
        (["validate", "demo.yaml"], []),
        (["schema"], []),
        (["list", "agents"], []),
        (["list", "methods"], []),
        (["list", "envs"], []),
        (["list", "scenarios"], []),
    ],
)
def test_commands_that_train_nothing_import_nothing_heavy(
    scenario: Path, arguments: list[str], light: list[str]
) -> None:
    heavy = ["torch", "avalanche", "stable_baselines3", "sb3_contrib", "matplotlib", *light]
    code = f"""
import sys
from holdfast.cli import app
app({arguments!r}, standalone_mode=False)
print("heavy:", *[name for name in {heavy!r} if name in sys.modules])
"""
    done = python(code, cwd=scenario.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].split() == ["heavy:"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "most_s"), [(["--help"], 0.5), (["validate", "demo.yaml"], 1.0)]
)
def test_help_and_validate_are_quick(scenario: Path, arguments: list[str], most_s: float) -> None:
    """One of five, within three times what is promised: other tests run beside this one."""

    def took_s() -> float:
        began = time.monotonic()
        command = [sys.executable, "-m", "holdfast", *arguments]
        subprocess.run(command, cwd=scenario.parent, check=True, capture_output=True)
        return time.monotonic() - began

    assert any(took_s() < 3 * most_s for _ in range(5))


def test_the_version_is_that_of_the_package() -> None:
    assert holdfast.__version__ == version("holdfast")  # as installed; see test_distribution.py
    assert Told("--version").out == f"holdfast {version('holdfast')}\n"
    assert {"load", "open_run", "run"} <= set(dir(holdfast))
    with pytest.raises(AttributeError, match="has no attribute 'runn'"):
        holdfast.runn  # noqa: B018


@pytest.mark.thorough
def test_an_odd_locale_ends_nothing(scenario: Path) -> None:
    named = scenario.rename(scenario.with_name("größe.yaml"))
    code = "import sys; from holdfast.cli import main; sys.argv[0] = 'holdfast'; main()"
    latin = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = python(code, "validate", named, "agent.gammä=1", env=latin)
    assert (done.returncode, done.stderr.count("?"), "Traceback" in done.stderr)[::2] == (2, False)
    assert "agent.gamm?" in done.stderr
    done = python(code, "validate", named, env=latin)
    assert (done.returncode, "gr??e.yaml: good" in done.stdout) == (0, True)


# -- validate --------------------------------------------------------------------------------------


def test_validate_prints_a_line_for_each_good_file(scenario: Path) -> None:
    told = Told("validate", scenario, "seeds=[0, 1]")
    assert told.code == 0
    good, left, end = told.out.split("\n")
    assert good == f"{scenario}: good; 2 tasks, 2 cells (1 method x 2 seeds) of 128 steps"
    assert left.startswith("Not looked at: whether environments and agents can be built (--build)")
    assert left.endswith(f"(holdfast check-env {scenario}).")
    assert not end


def test_validate_reports_every_mistake_of_every_file(scenario: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(SCENARIO.replace("algorithm: ppo", "algorithm: ppo, gama: 1"), "utf-8")
    told = Told("validate", bad, scenario, tmp_path / "none.yaml", "n_envs=3")
    assert told.code == 2
    assert f"{bad}:4:25: agent.gama: " in told.err
    assert "did you mean 'gamma'" in told.err
    assert "none.yaml: no such file" in told.err
    assert told.err.count("n_envs") >= 2
    assert told.out == ""


def test_validate_build_goes_further(scenario: Path) -> None:
    assert Told("validate", scenario, "agent.policy=CnnPolicy").code == 0
    told = Told("validate", "--build", scenario, "agent.policy=CnnPolicy")
    assert told.code == 2
    place = "override agent.policy=CnnPolicy: agent.policy"
    assert f"{place}: CnnPolicy is for pictures" in told.err
    told = Told("validate", "--build", scenario)
    assert "good, and builds" in told.out
    assert "Not looked at: what environments do when they are stepped" in told.out


# -- schema, list, check-env -----------------------------------------------------------------------


def test_the_committed_schema_is_the_generated_one(tmp_path: Path) -> None:
    committed = (ROOT / "scenarios" / "scenario.schema.json").read_text("utf-8")
    assert Told("schema").out == committed, "run: holdfast schema -o scenarios/scenario.schema.json"
    assert Told("schema", "-o", tmp_path / "s.json").out == ""
    assert json.loads((tmp_path / "s.json").read_text("utf-8")) == json_schema()
    told = Told("schema", "-o", tmp_path / "none" / "s.json")
    assert (told.code, "cannot be written" in told.err) == (2, True)


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("envs", ["CartPole-v1", "HalfCheetah-v5"]),
        ("agents", ["ppo", "maskable_ppo", "learning_starts=100", "doors: lifecycle"]),
        ("methods", ["ewc", "strength=", "must be told: boundaries", "progressive"]),
        ("scenarios", ["continual_world/: Continual World", "reach A planar arm", "61,440 steps"]),
    ],
)
def test_list(what: str, names: list[str]) -> None:
    told = Told("list", what)
    assert told.code == 0
    words = " ".join(told.out.split())  # wherever the terminal's width broke the lines
    assert [name for name in names if name not in words] == []


def test_list_knows_what_it_can_list() -> None:
    told = Told("list", "tasks")
    assert told.code == 2
    assert "scenarios" in told.err


@pytest.mark.thorough
def test_check_env_advises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "arm_here.py").write_text(
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Arm(CartPoleEnv):\n"
        "    def __init__(self, values=5):\n"
        "        super().__init__()\n"
        "        self.values = values\n"
        "    def step(self, action):\n"
        "        return super().step(action)[:self.values]\n",
        "utf-8",
    )
    told = Told("check-env", "arm_here:Arm", "values=5")
    assert told.code == 0
    assert "steps per second" in told.out or "steps/s" in told.out
    told = Told("check-env", "arm_here:Arm", "values=4")
    assert told.code == 3
    assert "error   step() returns 4 values; it must return" in told.out
    assert told.out.endswith("arm_here:Arm does not work here yet\n")
    told = Told("check-env", "arm_here:Amr")
    assert (told.code, "did you mean 'arm_here:Arm'" in told.err) == (2, True)


# -- run, report -----------------------------------------------------------------------------------


@pytest.mark.thorough
def test_run_prints_the_comparison_and_running_again_skips(scenario: Path, tmp_path: Path) -> None:
    runs = tmp_path / "results with ü"
    told = Told("run", scenario, "--runs", runs, "methods=[naive, isolated]")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("demo: 2 tasks, 2 cells (2 methods x 1 seed) of 128 steps\n")
    assert "naive/seed-0: right, 64/128 steps" in told.out
    assert "\nfinished  isolated/seed-0 in " in told.out
    assert "| method | seeds | average performance |" in told.out
    assert f"{runs / 'demo' / 'report.md'} (with report.html, report.csv, " in told.out
    assert f"tensorboard --logdir {runs}" in told.out
    assert (runs / "demo" / "report.png").exists()
    again = Told("run", scenario, "--runs", runs, "methods=[naive, isolated]")
    assert again.code == 0
    assert "skipped   naive/seed-0: finished before\n" in again.out
    assert "| isolated | 1 |" in again.out
    report = Told("report", runs / "demo")
    assert report.code == 0
    assert "## Definitions" in report.out
    dry = Told("run", scenario, "--runs", runs, "methods=[naive, ewc]", "--dry-run")
    assert "1 of them are finished" in dry.out


@pytest.mark.thorough
def test_policies_meet_in_games_and_in_nothing_else(scenario: Path, tmp_path: Path) -> None:
    assert Told("run", scenario, "--runs", tmp_path / "runs").code == 0
    told = Told("cross-play", tmp_path / "runs" / "demo")
    assert (told.code, told.err.count("error:")) == (2, 1)
    assert "is neither a game with opponents: nor a team's" in " ".join(told.err.split())
    run_all(games(tmp_path, "random"), tmp_path)
    told = Told("cross-play", tmp_path / "games", "--games", 2, "--stages", "all", "--seed", 1)
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("cross-play: 0 of 3\n# Cross-play: games\n")
    assert "seed 1." in told.out
    assert (tmp_path / "games" / "cross-play.md").read_text() in told.out


@pytest.mark.thorough
def test_a_different_scenario_is_refused_until_overwritten(scenario: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert Told("run", scenario, "--runs", runs).code == 0
    told = Told("run", scenario, "--runs", runs, "agent.gamma=0.9")
    assert told.code == 2
    assert "gamma: 0.9" in told.err
    assert "--overwrite" in told.err
    assert Told("run", scenario, "--runs", runs, "agent.gamma=0.9", "--overwrite").code == 0


@pytest.mark.parametrize(
    "overrides",
    [
        ["agent.lerning_rate=1"],
        ["agent.policy=CnnPolicy"],
        ["tasks.1.env=MountainCar-v0"],
        ["agent={algorithm: dqn, buffer_size: 1000000000000}"],
        ["agent.init=nothing.zip"],
    ],
)
def test_nothing_is_written_after_a_refusal(
    scenario: Path, tmp_path: Path, overrides: list[str]
) -> None:
    told = Told("run", scenario, "--runs", tmp_path / "runs", *overrides)
    assert told.code == 2
    assert told.err.startswith("error:")
    assert "Traceback" not in told.err
    assert not (tmp_path / "runs").exists()


def test_the_exit_code_is_that_of_the_first_failure(scenario: Path, tmp_path: Path) -> None:
    (tmp_path / "falls.py").write_text(
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Falls(CartPoleEnv):\n"
        "    def step(self, action):\n"
        "        raise OSError('cable unplugged')\n",
        "utf-8",
    )
    told = Told("run", scenario, "--runs", tmp_path / "runs", "tasks.0.env=falls:Falls")
    assert told.code == 3
    assert told.err.startswith("failed: naive/seed-0:\nTraceback (from your own code on):\n")
    assert told.err.count("cable unplugged") == 2  # the line of code, and the error
    # Once: it fails alike, and a third attempt would as well.
    assert told.out.count("retrying  naive/seed-0: attempt ") == 1
    assert "failed    naive/seed-0 in" in told.out


@pytest.mark.thorough
def test_a_cell_in_use_elsewhere_has_a_code_of_its_own(scenario: Path, tmp_path: Path) -> None:
    runs = ["--runs", tmp_path / "runs"]
    assert Told("run", scenario, *runs, "seeds=[1]").code == 0
    folder = RunFolder(tmp_path / "runs" / "demo" / "naive" / "seed-1")
    folder.update(status="running")
    with folder.lock():
        told = Told("run", scenario, *runs, "seeds=[0, 1]")
    assert told.code == 6
    assert told.err.startswith(f"left out: in use elsewhere: naive/seed-1 (process {os.getpid()} ")
    assert "run the command again" in told.err
    assert "finished  naive/seed-0" in told.out
    told = Told("run", scenario, *runs, "seeds=[0, 1]")
    assert (told.code, told.err) == (0, "")  # where all but the status was written, too


def test_escape_sequences_are_shown_and_not_obeyed(scenario: Path, tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Loud(CartPoleEnv):\n"
        "    def step(self, action):\n"
        "        raise OSError('\\x1b[2J\\x1b]0;mine\\x07\\x9b31m gone')\n",
        "utf-8",
    )
    told = Told("run", scenario, "--runs", tmp_path / "runs", "tasks.0.env=loud:Loud")
    assert told.code == 3
    folder = tmp_path / "runs" / "demo" / "naive" / "seed-0"
    files = [(folder / name).read_text("utf-8") for name in ("log.txt", "run.json")]
    for text in (told.out, told.err, *files):
        assert "gone" in text
        assert not any(sign in text for sign in "\x1b\x07\x9b")
    assert r"\x1b[2J\x1b]0;mine\x07\x9b31m gone" in told.err


def test_what_an_environment_prints_reaches_a_terminal_without_power() -> None:
    """On a terminal of its own, with the live table and without."""
    code = (
        "import sys, pty, os\n"
        "from holdfast.cli import main\n"
        "import holdfast.watch\n"
        "from holdfast.progress import Display\n"
        "from holdfast.printing import console\n"
        "def work():\n"
        "    with Display(console(), 1, 100):\n"
        "        print('one \\x1b]0;mine\\x07')\n"
        "    print('two \\x1b]0;mine\\x07')\n"
        "    print('three \\x1b]0;mine\\x07', file=sys.stderr)\n"
        "holdfast.watch.watched = lambda app: work()\n"
        "main()\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
    os.waitpid(pid, 0)
    os.close(terminal)
    assert shown.count(rb"\x1b]0;mine\x07") == 3
    assert b"\x1b]" not in shown
    assert b"\x07" not in shown


def test_a_ray_address_that_does_not_answer_writes_nothing(scenario: Path, tmp_path: Path) -> None:
    where = ["--executor", "ray", "--address", "127.0.0.1:1"]
    told = Told("run", scenario, "--runs", tmp_path / "runs", *where)
    assert told.code == 2
    assert told.err.startswith("error: no Ray cluster answers at 127.0.0.1:1 (")
    assert not (tmp_path / "runs").exists()


@pytest.mark.thorough
def test_a_dry_run_measures_and_writes_nothing(scenario: Path, tmp_path: Path) -> None:
    told = Told("run", scenario, "--runs", tmp_path / "runs", "--dry-run", "seeds=[0, 1]")
    assert told.code == 0
    assert "256 steps in all" in told.out
    row = next(line.split() for line in told.out.splitlines() if line.startswith("naive"))
    assert row[1] == "2"
    assert float(row[2].replace(",", "")) > 10
    assert "In all, 1 cell at a time: " in told.out
    assert not (tmp_path / "runs").exists()


def test_a_robot_does_not_move_for_a_dry_run(scenario: Path) -> None:
    told = Told("run", scenario, "--dry-run", "tasks.1.exclusive=true")
    assert told.code == 0
    assert "Times are not measured: right is exclusive and must not move." in told.out
