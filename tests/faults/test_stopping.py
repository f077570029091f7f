"""A run that is stopped from outside, in its terminal or by the system."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from told import Told

from holdfast.continual.run_folder.record import RunFolder

# CartPole whose second task is slow where the environment variable says so.
SLOW = """\
import os
import time

from gymnasium.envs.classic_control import CartPoleEnv

class Slow(CartPoleEnv):
    def __init__(self, slow=False):
        super().__init__()
        self.pause_s = float(os.environ.get("PAUSE_S", 0)) if slow else 0

    def step(self, action):
        time.sleep(self.pause_s)
        return super().step(action)
"""

SLOW_SCENARIO = """\
tasks:
  - {name: quick, env: "slow_pole:Slow", steps: 64, changes: {time_limit: 9}}
  - {name: slow, env: "slow_pole:Slow", kwargs: {slow: true}, steps: 64, changes: {time_limit: 9}}
agent: {algorithm: ppo, n_steps: 32, batch_size: 32, n_epochs: 2}
seeds: [0, 1]
evaluation: {episodes: 2}
"""


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "jobs"),
    [
        pytest.param(signal.SIGTERM, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_continues_and_ends_as_if_it_had_not_been(
    tmp_path: Path, number: signal.Signals, jobs: int
) -> None:
    (tmp_path / "slow_pole.py").write_text(SLOW, "utf-8")
    path = tmp_path / "slow.yaml"
    path.write_text(SLOW_SCENARIO, "utf-8")
    command = [sys.executable, "-m", "holdfast", "run", "slow.yaml", "--jobs", str(jobs)]
    environment = os.environ | {"PAUSE_S": "0.3", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # A shell starts what is in its background deaf to Ctrl-C, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    cells = [tmp_path / "runs" / "slow" / "naive" / f"seed-{seed}" for seed in (0, 1)]
    started = cells[:jobs]
    wait_for(lambda: all((cell / "checkpoints" / "task-0").exists() for cell in started), process)
    process.send_signal(number)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert time.monotonic() - began < 15
    assert err.splitlines() == [
        "stopped: the same command continues every cell from its last checkpoint"
    ]
    with pytest.raises(ProcessLookupError):  # no worker is left in its session
        wait_gone(process.pid)
    assert [RunFolder(cell).info()["status"] for cell in started] == ["stopped"] * jobs
    told = Told("run", path, "--runs", tmp_path / "runs")
    assert told.code == 0
    assert told.out.count("from its checkpoint at 64/128 steps") == jobs
    assert Told("run", path, "--runs", tmp_path / "other").code == 0
    for cell in cells:
        other = tmp_path / "other" / cell.relative_to(tmp_path / "runs")
        assert RunFolder(cell).scores() == RunFolder(other).scores()
        name = Path("checkpoints") / "task-1" / "policy.safetensors"
        assert (cell / name).read_bytes() == (other / name).read_bytes()


DOOM = """\
tasks: [{name: basic, env: Basic-v1, steps: 1_000_000, kwargs: {use_combined_action: true}}]
backend: envpool
n_envs: 2
agent: {algorithm: ppo, n_steps: 32, batch_size: 32}
evaluation: {episodes: 1}
"""


def simulators(folder: Path) -> list[int]:
    """Return the processes of ViZDoom that a run in this folder has started."""
    wanted, found = f"HOLDFAST_TEST={folder}".encode(), []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = wanted in (path / "environ").read_bytes().split(b"\0")
            if is_ours and b"vizdoom" in (path / "cmdline").read_bytes().split(b"\0")[0]:
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are watched on Linux")
@pytest.mark.parametrize(
    ("number", "jobs"),
    [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGKILL, 1), (signal.SIGTERM, 2)],
)
def test_simulators_of_a_stopped_run_end_with_it(
    tmp_path: Path, number: signal.Signals, jobs: int
) -> None:
    pytest.importorskip("envpool")
    (tmp_path / "doom.yaml").write_text(DOOM, "utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "run", "doom.yaml", "--jobs", str(jobs)],
        cwd=tmp_path,
        env=os.environ | {"HOLDFAST_TEST": str(tmp_path), "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    cell = tmp_path / "runs" / "doom" / "naive" / "seed-0"
    wait_for(lambda: (cell / "scores.jsonl").exists() and simulators(tmp_path), process)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 75)
    until = time.monotonic() + 10
    while found := simulators(tmp_path):
        assert time.monotonic() < until, found
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are watched on Linux")
def test_simulators_of_a_killed_worker_end_while_the_run_goes_on(tmp_path: Path) -> None:
    """As by the kernel, where memory runs out."""
    pytest.importorskip("envpool")
    (tmp_path / "doom.yaml").write_text(DOOM, "utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "run", "doom.yaml", "--jobs", "2", "--retries", "1"],
        cwd=tmp_path,
        env=os.environ | {"HOLDFAST_TEST": str(tmp_path), "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    cell = tmp_path / "runs" / "doom" / "naive" / "seed-0"
    wait_for(lambda: (cell / "scores.jsonl").exists() and simulators(tmp_path), process)
    before = simulators(tmp_path)
    _, pid, *_ = (cell / "lock").read_text().split()
    os.kill(int(pid), signal.SIGKILL)
    wait_for(lambda: not {*before} & {*simulators(tmp_path)}, process)
    wait_for(lambda: simulators(tmp_path), process)  # of the next attempt
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert simulators(tmp_path) == []


def wait_gone(group: int) -> None:
    """Return after five seconds; raise ProcessLookupError once the process group is empty."""
    for _ in range(50):
        os.killpg(group, 0)
        time.sleep(0.1)
