"""Machines that lack what others have, clocks that jump, and processes that have threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from holdfast.continual.run_folder.record import RunFolder

ALONE = ["unshare", "--map-root-user", "--mount", "--net", "sh", "-ec"]
SCENARIO = """\
tasks:
  - {name: one, env: CartPole-v1, steps: 32}
  - {name: two, env: CartPole-v1, steps: 32, changes: {action_map: [1, 0]}}
agent: {algorithm: ppo, n_steps: 32, batch_size: 32, n_epochs: 1}
evaluation: {episodes: 1}
seeds: [0, 1]
"""


@cache
def _is_allowed() -> bool:
    try:
        return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def bare(**variables: str) -> dict[str, str]:
    """Return an environment without a display, a home and a language, but for what is given."""
    kept = ("PATH", "PYTHONPATH", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | variables


def poor(folder: Path, lines: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run lines where home and /tmp may only be read, and there is neither network nor terminal."""
    if not _is_allowed():
        pytest.skip("this system gives users no namespace (unshare --map-root-user --mount --net)")
    # The folder of the test stays writable under another name; what runs may lie below /tmp.
    hidden = "mount --bind /tmp /tmp; mount -o remount,bind,ro /tmp"
    return subprocess.run(
        [*ALONE, f'mount --bind "$PWD" /mnt; cd /mnt; {hidden}\n{lines}'],
        cwd=folder,
        env=bare(HOME="/tmp/nobody", **{"LC_ALL": "C"} | variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_avalanche_can_be_imported_where_the_home_folder_is_read_only(tmp_path: Path) -> None:
    code = (
        "import os; from holdfast.home import ready_for_avalanche; ready_for_avalanche(); "
        "import sys; found = sys.modules['avalanche.benchmarks.datasets.dataset_utils']; "
        "print(found.default_dataset_location('x'), os.environ['HOME'])"
    )
    done = poor(tmp_path, f'{sys.executable} -c "{code}"')
    assert done.stdout == "/tmp/nobody/.avalanche/data/x /tmp/nobody\n", done.stderr


def test_avalanche_finds_its_file_whole(tmp_path: Path) -> None:
    code = "from holdfast.home import ready_for_avalanche; ready_for_avalanche()"
    environment = bare(HOME=str(tmp_path))
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    found = tmp_path / ".avalanche"
    assert [path.name for path in found.iterdir()] == ["config.json"]
    assert json.loads((found / "config.json").read_text()) == {
        "dataset_location": str(found / "data")
    }


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["C", "POSIX", "tr_TR.UTF-8"])
def test_a_poor_machine_runs_all_the_same(tmp_path: Path, locale: str) -> None:
    folder = tmp_path / "mit Leerzeichen und Ümlaut"
    folder.mkdir()
    (folder / "größe.yaml").write_text(SCENARIO, "utf-8")
    run = f'{sys.executable} -m holdfast run größe.yaml name=poor --jobs 2 --runs "rüns hier"'
    done = poor(folder, run, LC_ALL=locale)
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        info = RunFolder(folder / "rüns hier" / "poor" / "naive" / f"seed-{seed}").info()
        assert info["status"] == "finished"
    assert "\x1b" not in done.stdout  # plain lines: no terminal
    assert "finished  naive/seed-1" in done.stdout


FORKS = """
import threading, time, warnings
import holdfast
import jax

if __name__ == "__main__":
    jax.numpy.ones(3).sum().block_until_ready()  # its threads are there
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    warnings.simplefilter("error")  # Python warns where a process with threads is forked
    scenario = holdfast.load("s.yaml", ["n_envs=2", "pool={workers: 2}"])
    print([run.status for run in holdfast.run(scenario, jobs=2)])
"""


@pytest.mark.slow
def test_a_process_with_threads_is_not_forked(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    (tmp_path / "s.yaml").write_text(SCENARIO)
    (tmp_path / "script.py").write_text(FORKS)
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout == "['finished', 'finished']\n", done.stderr
    assert "fork" not in done.stderr
