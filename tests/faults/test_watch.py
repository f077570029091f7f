"""The process of a command, watched: its end is told, and nothing that it started stays behind."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are watched on Linux")

COMMAND = """
import os, signal, subprocess, sys, threading, time
from pathlib import Path
from holdfast.envs.wrappers.at_work import AT_WORK
from holdfast.watch import watched

def work():
    AT_WORK.enter("task 'a' (Odd)")
    {body}

watched(work)
"""
ORPHAN = """
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            Path("orphan").write_text(str(os.getpid()))
            time.sleep(600)
        os._exit(0)
    while not (Path("orphan").exists() and Path("orphan").read_text()):
        time.sleep(0.01)
"""


def command(body: str) -> list[str]:
    return [sys.executable, "-c", COMMAND.format(body=body.strip())]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def wait_for(condition: Callable[[], object], within_s: float = 20.0) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit(75)", 75, ""),
        ("sys.exit('no')", 1, "no\n"),
        ("os._exit(0)", 3, "ended by itself (exit code 0); perhaps an environment calls os._exit"),
        ("os._exit(7)", 3, "ended by itself (exit code 7)"),
        ("os.closerange(0, 200); os._exit(0)", 3, "last at work: task 'a' (Odd)"),
        ("os.kill(os.getpid(), 9)", 137, "was killed (SIGKILL, exit code -9)"),
        ("import ctypes; ctypes.string_at(0)", 139, "died of SIGSEGV (exit code -11)"),
    ],
)
def test_a_shell_sees_success_only_where_the_command_came_to_its_end(
    tmp_path: Path, body: str, code: int, said: str
) -> None:
    done = subprocess.run(
        command(body), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code
    assert said in done.stderr
    assert bool(done.stderr) == bool(said)


@pytest.mark.thorough
def test_a_death_before_any_environment_blames_none(tmp_path: Path) -> None:
    body = "AT_WORK.enter(''); os._exit(0)"
    done = subprocess.run(
        command(body), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "at work" not in done.stderr


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("pass", 0),
        ("os._exit(0)", 3),
        pytest.param("os.kill(os.getpid(), 9)", 137, marks=pytest.mark.slow),
        pytest.param("sys.exit(2)", 2, marks=pytest.mark.slow),
    ],
)
def test_orphans_end_with_the_command(tmp_path: Path, end: str, code: int) -> None:
    body = f"{ORPHAN}\n    {end}"
    done = subprocess.run(command(body), cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert done.returncode == code
    assert not is_alive(int((tmp_path / "orphan").read_text()))


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(
            pytest.param(number, marks=pytest.mark.slow)
            for number in (signal.SIGINT, signal.SIGKILL, signal.SIGHUP)
        ),
    ],
)
def test_orphans_end_with_a_command_that_is_signaled(
    tmp_path: Path, number: signal.Signals
) -> None:
    body = f"{ORPHAN}\n    Path('work').write_text(str(os.getpid()))\n    time.sleep(600)"
    process = subprocess.Popen(
        command(body),
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_hearing,
    )
    wait_for((tmp_path / "work").exists)
    process.send_signal(number)
    code = process.wait(20)
    assert code in (-number, 1)  # KeyboardInterrupt ends with a traceback, as Python's do
    pids = [int((tmp_path / name).read_text()) for name in ("work", "orphan")]
    wait_for(lambda: not any(map(is_alive, pids)))
    wait_for(lambda: is_empty(process.pid))


def _hearing() -> None:
    """Undo what is inherited from a shell's background, deaf to Ctrl-C, and from nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.slow
def test_whichever_watcher_is_killed_the_rest_ends(tmp_path: Path) -> None:
    body = f"{ORPHAN}\n    Path('work').write_text(str(os.getppid()))\n    time.sleep(600)"
    process = subprocess.Popen(command(body), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (tmp_path / "work").exists() and (tmp_path / "work").read_text())
    os.kill(int((tmp_path / "work").read_text()), signal.SIGKILL)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 137
    assert "was killed" in told
    assert not is_alive(int((tmp_path / "orphan").read_text()))


def test_a_thread_that_never_ends_does_not_hold_the_command(tmp_path: Path) -> None:
    body = "threading.Thread(target=time.sleep, args=(600,)).start(); sys.exit(6)"
    text = COMMAND.format(body=body).replace(
        "watched(work)", "watch.LEAVING_S = 0.2\nwatched(work)"
    )
    text = text.replace("from holdfast.watch", "from holdfast import watch\nfrom holdfast.watch")
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 6


@pytest.mark.slow
def test_a_command_that_hangs_in_compiled_code_ends_after_its_grace(tmp_path: Path) -> None:
    body = "Path('work').touch(); import ctypes; ctypes.PyDLL(None).sleep(600)"
    text = COMMAND.format(body=body).replace(
        "watched(work)",
        "watch.STOPPING_S = 0.3, 0.1\nsignal.signal(15, signal.SIG_IGN)\nwatched(work)",
    )
    text = text.replace("from holdfast.watch", "from holdfast import watch\nfrom holdfast.watch")
    process = subprocess.Popen(
        [sys.executable, "-c", text], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    wait_for((tmp_path / "work").exists)
    process.terminate()
    _, told = process.communicate(timeout=20)
    assert process.returncode == 137
    assert "it did not stop when it was told to" in told


@pytest.mark.thorough
def test_the_terminal_is_set_back_where_the_command_died(tmp_path: Path) -> None:
    body = (
        "import termios; found = termios.tcgetattr(0); found[3] &= ~termios.ECHO; "
        "termios.tcsetattr(0, termios.TCSANOW, found); os.kill(os.getpid(), 9)"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, command(body))
    import termios

    shown = b""
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the terminal's other end is closed
            break
        found = termios.tcgetattr(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 137
    assert found[3] & termios.ECHO
    assert b"\x1b[?25h" in shown  # the cursor
    os.close(terminal)


def test_ctrl_c_in_a_terminal_comes_once(tmp_path: Path) -> None:
    body = """
    count = []
    signal.signal(signal.SIGINT, lambda *_: count.append(1))
    print("ready", flush=True)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        time.sleep(0.05)
    print(f"came {len(count)}", flush=True)
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, command(body))
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    while b"came" not in shown:
        shown += os.read(terminal, 4096)
    os.waitpid(pid, 0)
    assert b"came 1" in shown
    os.close(terminal)


@pytest.mark.thorough
def test_a_signal_to_all_of_a_group_is_one_wish(tmp_path: Path) -> None:
    body = """
    from holdfast.continual.jobs.attempt import stoppable
    count, until = 0, time.monotonic() + 20
    with stoppable():
        Path("work").touch()
        while time.monotonic() < until:
            try:
                time.sleep(0.05)
            except KeyboardInterrupt:
                count, until = count + 1, time.monotonic() + 1.0
    sys.exit(10 + count)
    """
    process = subprocess.Popen(command(body), cwd=tmp_path, start_new_session=True)
    wait_for((tmp_path / "work").exists)
    time.sleep(0.3)  # until it sleeps: what comes between is not caught
    os.killpg(process.pid, signal.SIGTERM)  # the watchers pass theirs on as well
    assert process.wait(20) == 11


@pytest.mark.thorough
@pytest.mark.parametrize("line", range(1, 7))
def test_a_signal_that_interrupts_the_handling_of_one_is_the_same_wish(
    tmp_path: Path, line: int
) -> None:
    body = f"""
    from holdfast.continual.jobs.attempt import stoppable
    lines, said = [], []
    def trace(frame, event, argument):
        if frame.f_code.co_name == "stop":
            lines.append(event)
            if len(lines) == {line}:
                signal.raise_signal(signal.SIGTERM)
            return trace
    with stoppable():
        try:
            sys.settrace(trace)
            signal.raise_signal(signal.SIGTERM)
            time.sleep(5)
        except BaseException as error:
            said.append(type(error))
        sys.settrace(None)
        assert said == [KeyboardInterrupt], said
        assert len(lines) >= {line}
        time.sleep(0.1)
    sys.exit(12)
    """
    done = subprocess.run(command(body), cwd=tmp_path, timeout=20, check=False)
    assert done.returncode == 12


@pytest.mark.slow
def test_a_second_signal_leaves_less_time(tmp_path: Path) -> None:
    body = "signal.signal(15, signal.SIG_IGN); Path('work').touch(); time.sleep(600)"
    text = COMMAND.format(body=body)
    text = text.replace("watched(work)", "watch.STOPPING_S = 600.0, 0.2\nwatched(work)")
    text = text.replace("from holdfast.watch", "from holdfast import watch\nfrom holdfast.watch")
    process = subprocess.Popen(
        [sys.executable, "-c", text], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    wait_for((tmp_path / "work").exists)
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)
    process.terminate()
    assert process.wait(10) == 137
