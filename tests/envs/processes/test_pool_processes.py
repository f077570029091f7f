"""The processes of a pool: how they end, whoever ends them, and what is lost by it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from pools import ENVS, FAST, Reference, coded, odd, processes

from holdfast.envs.base.loading import build
from holdfast.envs.processes import process
from holdfast.envs.processes.pool import RESTARTED, ProcessPool
from holdfast.errors import EnvironmentFailed, UsageError
from holdfast.scenarios.schema.sections import Pool


@pytest.mark.thorough
def test_if_one_constructor_fails_the_other_workers_end(tmp_path, all_dead):
    makers = [odd("SixArms", index=i, folder=str(tmp_path)) for i in range(8)]
    with pytest.raises(EnvironmentFailed, match="RuntimeError: no sixth arm"):
        ProcessPool(makers, Pool(workers=4), seed=0)
    pids = [int(file.name.partition("-")[2]) for file in tmp_path.glob("built-*")]
    assert len(pids) >= 1
    assert all_dead(pids)


@pytest.mark.thorough
@pytest.mark.kill
def test_a_constructor_may_hang_exit_or_be_killed(monkeypatch):
    monkeypatch.setattr("holdfast.envs.processes.process.STARTING_S", 1.0)
    for fault, text in {
        "hang": r"did not come back from its constructor within 1.5 s",
        "kill": "SIGKILL",
        "os_exit": r"exit code 7",
        "exit": "SystemExit: 3",
    }.items():
        with pytest.raises(EnvironmentFailed, match=text):
            ProcessPool([odd("Broken", fault=fault)], FAST, seed=0)


@pytest.mark.thorough
def test_usage_errors_stay_usage_errors():
    with pytest.raises(UsageError, match="did you mean 'odd_worlds:Coded'"):
        ProcessPool([odd("Codedd")], FAST, seed=0)


@pytest.mark.thorough
@pytest.mark.parametrize("busy", [False, True])
def test_close_ends_workers_within_a_second(make_pool, busy, all_dead):
    limits = Pool(workers=2, step_timeout_s=60)
    pool = make_pool(coded(2, fault="hang" if busy else None, at=0), limits)
    pool.reset()
    pids = processes(pool)
    pool.step_async(np.zeros(2, int))
    time.sleep(0.2)
    began = time.monotonic()
    pool.close()
    pool.close()
    assert time.monotonic() - began < 1.0
    assert all_dead(pids, within_s=0)


@pytest.mark.thorough
def test_what_an_environment_started_ends_with_it(make_pool, tmp_path, all_dead):
    note = tmp_path / "pid"
    pool = make_pool(coded(2, fault="orphan", note=str(note), once=str(tmp_path / "once")))
    reference = Reference(pool, seed=11)
    for _ in range(20):
        reference.step(np.ones(2, int))
    assert pool.restarts == 1
    assert all_dead([int(note.read_text())])


@pytest.mark.thorough
def test_a_forgotten_pool_leaves_nothing(all_dead, is_alive):
    pool = ProcessPool(coded(2), FAST, seed=0)
    pids = processes(pool)
    assert all(map(is_alive, pids))
    del pool
    assert all_dead(pids)


HUNG, STEPPING = 3, 10**9  # the step at which the environments hang

PARENT = """
import sys, time
from functools import partial
import numpy as np
from holdfast.envs.base.loading import build
from holdfast.envs.processes.pool import ProcessPool
from holdfast.scenarios.schema.sections import Pool
from pathlib import Path

folder = Path({folder!r})
make = partial(build, "odd_worlds:Coded", {{"fault": "hang", "at": {at}}}, folder=folder)
pool = ProcessPool([make] * 2, Pool(workers=2, step_timeout_s=600), seed=0)
pool.reset()
print(*[process.pid for process in pool._processes], flush=True)
try:
    while True:
        pool.step(np.ones(2, int))
finally:
    pool.close()
"""


ENDS = [
    (signal.SIGKILL, HUNG),
    *(
        pytest.param(*end, marks=pytest.mark.slow)
        for end in (
            (signal.SIGKILL, STEPPING),
            (signal.SIGINT, STEPPING),
            (signal.SIGINT, HUNG),
            (signal.SIGTERM, HUNG),
            (signal.SIGTERM, STEPPING),
        )
    ),
]


@pytest.mark.thorough
@pytest.mark.kill
@pytest.mark.parametrize(("sign", "at"), ENDS)
def test_no_worker_outlives_the_parent(sign, at, all_dead):
    code = textwrap.dedent(PARENT).format(folder=str(ENVS), at=at)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # A shell starts what is in its background deaf to Ctrl-C, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        time.sleep(0.3)
        parent.send_signal(sign)
        try:
            parent.wait(5)
        finally:
            parent.kill()
    assert all_dead(pids, within_s=1.0)


def churn(make_pool, all_dead, *, seconds, restarts, seed):
    """Kill, stop and crash workers at random moments while the reference looks on.

    Moments are counted in steps, so that a slow machine gets on too.
    """
    rng = random.Random(seed)
    limits = Pool(workers=3, step_timeout_s=1.0, reset_timeout_s=2.0, restarts=10_000)
    told, steps, stop = [], 0, threading.Event()
    pool = make_pool(coded(6, faulty=4, fault="raise", at=200), limits, on_failure=told.append)
    reference, seen = Reference(pool, seed=11), set()

    def vandal():
        while not stop.is_set():
            goal = steps + rng.choice([0, 1, 3, 10, 30])  # 0: while one restarts
            while steps < goal and not stop.wait(0.002):
                pass
            stop.wait(rng.uniform(0, 0.05))
            pid = rng.choice(processes(pool))
            seen.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, rng.choice([signal.SIGKILL] * 4 + [signal.SIGSTOP, signal.SIGSEGV]))

    thread = threading.Thread(target=vandal)
    thread.start()
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until or pool.restarts < restarts:
            reference.step(np.array([rng.randrange(1000) for _ in range(6)]))
            steps += 1
    finally:
        stop.set()
        thread.join()
    seen |= set(processes(pool))
    pool.close()
    assert all_dead(seen, within_s=0)
    assert len(told) == pool.restarts >= restarts
    assert reference.cuts > restarts / 3
    assert steps > reference.cuts


@pytest.mark.thorough
def test_random_kills_lose_nothing_and_invent_nothing(make_pool, all_dead, monkeypatch):
    # One that is stopped while it starts is waited for so long: no minute in the fast tests.
    monkeypatch.setattr(process, "STARTING_S", 10.0)
    churn(make_pool, all_dead, seconds=3, restarts=5, seed=1)


@pytest.mark.slow
def test_a_minute_of_random_kills(make_pool, all_dead):
    churn(make_pool, all_dead, seconds=60, restarts=20, seed=2)


@pytest.mark.thorough
def test_an_environment_elsewhere_is_restarted_with_its_worker(
    make_pool, other_python, monkeypatch, tmp_path
):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    kwargs = {"fault": "hang", "once": str(tmp_path / "once")}
    limits = Pool(step_timeout_s=1.0)
    make = partial(
        build, "odd_worlds:Coded", kwargs, folder=ENVS, python=str(other_python), limits=limits
    )
    told = []
    pool = make_pool([make], Pool(workers=1), seed=1, on_failure=told.append)
    pool.reset()
    cut = [RESTARTED in pool.step(np.ones(1, int))[3][0] for _ in range(20)]
    pool.close()
    assert (sum(cut), pool.restarts) == (1, 1)
    assert "here_it_hangs" in told[0]["traceback"] + told[0]["text"]


def test_workers_import_neither_torch_nor_avalanche(make_pool):
    class Imported(gym.Env):
        observation_space = action_space = gym.spaces.Discrete(2)

        def heavy(self):
            return [n for n in ("torch", "avalanche", "stable_baselines3") if n in sys.modules]

    pool = make_pool([Imported])
    assert pool.env_method("heavy") == [[]]
