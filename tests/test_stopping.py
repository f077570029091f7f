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

from holdfast.continual.results.record import RunFolder

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
    environment = os.environ | {"PAUSE_S": "0.15", "OMP_NUM_THREADS": "1"}
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
        "stopped: the same command continues every cell from its last task boundary"
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


def wait_gone(group: int) -> None:
    """Return after five seconds; raise ProcessLookupError once the process group is empty."""
    for _ in range(50):
        os.killpg(group, 0)
        time.sleep(0.1)
