"""Processes that were left behind, found by their mark and ended; no others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from holdfast.envs.processes.escapes import Escaped, visible, without_controls
from holdfast.envs.processes.offspring import MARK, descendants, end, marked, new_mark, with_mark

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="found by /proc")

ORPHAN = "setsid sh -c 'trap \"\" TERM; sleep 60' >/dev/null & "


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_mark_finds_what_a_worker_started_and_nothing_else() -> None:
    mark, other = new_mark(), new_mark()
    inner = os.environ | {MARK: f":{other}:{mark}"}
    subprocess.run(["sh", "-c", ORPHAN], env=inner, check=True)
    bystander = subprocess.Popen(["sleep", "60"], env=os.environ | {MARK: f":{new_mark()}"})
    wait_for(lambda: len(marked(mark)) >= 2)  # the shell, and its sleep
    assert set(marked(mark)) == set(marked(other))  # that of the worker above, too
    assert bystander.pid not in marked(mark)
    began = time.monotonic()
    end(lambda: marked(mark), patience_s=0.2)
    assert time.monotonic() - began >= 0.2  # it was asked before it was killed
    assert marked(mark) == []
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_marks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, ":one")
    assert with_mark("two") == ":one:two"


def test_descendants_are_those_of_a_process() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"]) as parent:
        wait_for(lambda: len(descendants(parent.pid)) == 1)
        (child,) = descendants(parent.pid)
        assert {parent.pid, child} <= set(descendants(os.getpid()))
        assert descendants(child) == []
        end(lambda: descendants(parent.pid))
    assert parent.returncode is not None


def test_control_characters_are_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a\x1b[2J\r\x07\x9bm\n"
    assert visible(text) == "a\\x1b[2J\\x0d\\x07\\x9bm\n"
    assert without_controls(text.encode("latin-1")) == b"a?[2J\r?\x9bm\n"
    print(text, end="", file=Escaped(sys.stdout))
    assert capsys.readouterr().out == "a\\x1b[2J\r\\x07\\x9bm\n"
