"""Process that hosts environments, seen from this side: started, asked, timed, ended."""

from __future__ import annotations

import json
import math
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from holdfast import errors
from holdfast.envs.processes import worker
from holdfast.envs.processes.offspring import MARK, end, marked, new_mark, with_mark
from holdfast.envs.processes.wire import Leaf, decoded, leaves, space_of, viewed
from holdfast.envs.wrappers.guard import EnvironmentCrashed
from holdfast.errors import HoldfastError
from holdfast.scenarios.schema.scenario import Pool

PROGRAM = Path(worker.__file__).resolve()

STARTING_S = 60.0
"""Seconds that a process may take for its imports, on top of the time for a reset."""
CLOSING_S = 0.7
"""Seconds in which environments may close by themselves."""

_SHARED = Path("/dev/shm")  # noqa: S108  # nothing there has a name
_PLACES = {worker.STEP: "step", worker.RESET: "reset", worker.BUILD: "its constructor"}
_MOST_BYTES = 1 << 30
_SLICE_S = 0.1
_ERRORS = (
    errors.UsageError,
    errors.EnvironmentFailed,
    errors.Diverged,
    errors.CheckpointUnusable,
    errors.Stopped,
)


@dataclass(eq=False)
class WorkerFailed(Exception):
    """A worker process that is of no more use.

    Attributes:
        what: ``raised``, ``hung``, ``died`` or ``nonsense``.
        text: A sentence about what happened.
        env: Which of its environments was at work.
        place: ``step 12``, ``reset``, ``constructor``.
        trace: The traceback in that process, where there is one.
        told: The process's own account of an exception.
    """

    what: str
    text: str
    env: int
    place: str
    trace: str = ""
    told: dict[str, Any] = field(default_factory=dict)

    def as_error(self, where: str, hint: str = "") -> EnvironmentCrashed:
        """Return the error to raise where nothing is restarted."""
        trace = f"\n{self.trace.rstrip()}" if self.trace else ""
        return EnvironmentCrashed(f"{where}: {self.text}{hint}{trace}")


class WorkerProcess:
    """A process with one or more environments of equal spaces.

    Args:
        plans: How to build each environment: what ``worker.Host.build`` takes.
        limits: The timeouts.
        python: The interpreter; None for this one, whose module path the process then takes over.
        exact: See ``worker.Host.share``.

    Attributes:
        pid: Of the process.
        observed: By keys, shape (environments, ...): the observation to act on.
        last: As ``observed``: the last observation of an episode that has just ended.
        rewards: Shape (environments,), float64.
        terminated: Shape (environments,), 0 or 1.
        truncated: Shape (environments,), 0 or 1.
    """

    def __init__(
        self,
        plans: Sequence[dict[str, Any]],
        limits: Pool,
        *,
        python: Path | None = None,
        exact: bool = False,
    ) -> None:
        self._limits, self._exact, self._owner = limits, exact, os.getpid()
        self._count, self._number, self._buffer = len(plans), 0, b""
        self._actions_dtype: np.dtype[Any] | None = None
        self._is_started, self._is_forced, self._mark = False, False, new_mark()
        folder = _SHARED if os.access(_SHARED, os.W_OK) else None
        # Without names: nothing is left behind, however both processes end.
        self._memory = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._trace = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._memory.truncate(worker.CLOCK_BYTES)
        self._clock = memoryview(mmap.mmap(self._memory.fileno(), worker.CLOCK_BYTES)).cast("d")
        passed = (self._memory.fileno(), self._trace.fileno())
        command = [str(python or sys.executable), str(PROGRAM), *map(str, passed), str(os.getpid())]
        self._process = subprocess.Popen(  # noqa: S603  # the interpreter is the user's choice
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=passed,
            # They work side by side.
            env={"OMP_NUM_THREADS": "1", **os.environ, MARK: with_mark(self._mark)},
            start_new_session=True,  # a group of its own, with what environments start
            bufsize=0,
        )
        self.pid = self._process.pid
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout.fileno()
        self._ready = select.poll()
        self._ready.register(self._out, select.POLLIN)
        path = None if python else [entry or str(Path.cwd()) for entry in sys.path]
        self.send({"do": "build", "path": path, "plans": list(plans)}, worker.BUILD)

    def finish_start(self) -> dict[str, Any]:
        """Wait until the environments are built, and return what they are like.

        Returns:
            ``observation_space``, ``action_space``, ``render_mode``, ``metadata``, ``spec``.

        Raises:
            WorkerFailed: If a constructor raised or hung, or the process died.
        """
        found = self.receive()
        found["observation_space"] = space_of(found["observation_space"])
        found["action_space"] = space_of(found["action_space"])
        self._share(found["observation_space"], found["action_space"])
        self._is_started = True
        return found

    def _share(self, observation: gym.Space[Any], action: gym.Space[Any]) -> None:
        (acted,) = leaves(action)
        observed = leaves(observation)
        wanted: list[tuple[str, Leaf]] = [
            ("rewards", Leaf((), np.dtype(np.float64), ())),
            ("terminated", Leaf((), np.dtype(np.uint8), ())),
            ("truncated", Leaf((), np.dtype(np.uint8), ())),
            # Eight bytes for each number, so that they can be read as any type.
            ("actions", Leaf((), np.dtype(np.float64), acted.shape)),
            *(("observed", leaf) for leaf in observed),
            *(("last", leaf) for leaf in observed),
        ]
        size = worker.CLOCK_BYTES
        blocks: list[dict[str, Any]] = []
        for name, leaf in wanted:
            shape, dtype = (self._count, *leaf.shape), leaf.dtype
            place = {"path": leaf.path, "dtype": dtype.str, "shape": shape, "offset": size}
            blocks.append({"name": name, **place})
            size += -(-math.prod(shape) * dtype.itemsize // 64) * 64
        # Reserved: a full disk is an OSError here, and not the death of either process later.
        os.posix_fallocate(self._memory.fileno(), 0, size)
        memory = mmap.mmap(self._memory.fileno(), size)
        found = viewed(memory, blocks)
        self.observed, self.last = found["observed"], found["last"]
        self.rewards: NDArray[np.float64] = found["rewards"][()]
        self.terminated: NDArray[np.uint8] = found["terminated"][()]
        self.truncated: NDArray[np.uint8] = found["truncated"][()]
        self._actions: NDArray[np.float64] = found["actions"][()]
        self.ask({"do": "share", "size": size, "blocks": blocks, "exact": self._exact})

    # -- commands ----------------------------------------------------------------------------------

    def begin_step(self, actions: NDArray[Any]) -> None:
        """Begin a step of every environment; ``receive`` waits for its end.

        Args:
            actions: Shape (environments, ...), of any type that numbers have.

        Raises:
            ValueError: If they have another shape.
            WorkerFailed: If the process is gone.
        """
        if actions.shape != self._actions.shape:
            raise ValueError(
                f"actions of shape {actions.shape}, where the action space asks for "
                f"{self._actions.shape}"
            )
        if actions.dtype.kind not in "biuf" or actions.dtype.itemsize > 8:
            raise ValueError(f"actions of type {actions.dtype} are no numbers")
        # None compares as float64 does.
        if self._actions_dtype is None or actions.dtype != self._actions_dtype:
            self.ask({"do": "actions", "dtype": actions.dtype.str})
            self._actions_dtype = actions.dtype
            flat = np.frombuffer(self._actions.data, actions.dtype, actions.size)
            self._typed_actions = flat.reshape(actions.shape)
        self._typed_actions[...] = actions
        self._clock[0] = time.monotonic()
        self._clock[1] = worker.STEP
        self._number += 1
        self._write(b"s\n")

    def ask(self, command: dict[str, Any], kind: int = worker.OTHER) -> dict[str, Any]:
        """Give a command and return the answer; raises as ``receive`` does."""
        self.send(command, kind)
        return self.receive()

    def send(self, command: dict[str, Any], kind: int = worker.OTHER) -> None:
        """Give a command; ``receive`` waits for the answer."""
        line = json.dumps(command).encode() + b"\n"
        self._clock[0] = time.monotonic()
        self._clock[1], self._clock[2] = kind, 0
        self._number += 1
        self._write(line)

    def _write(self, line: bytes) -> None:
        try:
            with suppress(OSError):  # of a process that is gone: ``receive`` finds out how
                self._in.write(line)
        except ValueError as error:  # closed
            raise self._died() from error

    def receive(self) -> dict[str, Any]:
        """Return the answer to the last command, once it is there.

        Raises:
            WorkerFailed: If the process takes too long, dies, tells of an exception, or answers
                what is no answer.
            HoldfastError: If that is what an environment raised, and it is no crash: NaN, say.
        """
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                return self._answer(line)
            if not self._ready.poll(_SLICE_S * 1000):
                self._check()
                continue
            data = os.read(self._out, 1 << 20)
            if not data:
                raise self._died()
            self._buffer += data
            if len(self._buffer) > _MOST_BYTES:
                raise self._nonsense(self._buffer[:80])

    def _answer(self, line: bytes) -> dict[str, Any]:
        number, _, text = line.partition(b" ")
        # Environments can write here only on purpose; the number tells their lines from answers.
        if number != b"%d" % self._number or self._buffer:
            raise self._nonsense(line)
        if not text:
            return {}
        try:
            found = json.loads(text, object_hook=decoded)
        except ValueError as error:
            raise self._nonsense(line) from error
        if not isinstance(found, dict):
            raise self._nonsense(line)
        if "error" in found:
            raise self._raised(found["error"])
        return found

    # -- what goes wrong ---------------------------------------------------------------------------

    def _check(self) -> None:
        """Raise if the process has ended, or its environment is too slow."""
        if self._has_ended():
            raise self._died()
        seconds = time.monotonic() - self._clock[0]
        key = "step_timeout_s" if self._clock[1] == worker.STEP else "reset_timeout_s"
        limit = getattr(self._limits, key)
        if key == "reset_timeout_s" and not self._is_started:
            limit += STARTING_S
        if seconds > limit:
            text = f"did not come back from {self._place()} within {limit:g} s (pool.{key})"
            raise self._failure("hung", text, trace=self._where_it_hangs())

    def _has_ended(self) -> bool:
        """Return whether the process has ended; it is not reaped, so that its group can be."""
        if self._process.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.pid, flags) is not None
        except ChildProcessError:  # somebody else has reaped it
            self._process.returncode = 0
            return True

    def _place(self) -> str:
        return _PLACES.get(int(self._clock[1]), "a command")

    def _failure(self, what: str, text: str, trace: str = "", **keys: Any) -> WorkerFailed:
        at_work = self._clock[2]  # by then perhaps overwritten
        env = int(at_work) if at_work in range(self._count) else 0
        return WorkerFailed(what, text, env=env, place=self._place(), trace=trace, **keys)

    def _died(self) -> WorkerFailed:
        place, usage = self._place(), self._reap(CLOSING_S)
        code = self._process.returncode
        if self._is_forced:
            how = "has closed its pipe; perhaps an environment closes file descriptors"
        elif code == -signal.SIGKILL:
            most = f", with {usage / 2**20:.0f} MiB" if usage else ""
            how = f"was killed (SIGKILL, exit code -9{most}), most likely because memory ran out"
        elif code is not None and code < 0:
            how = f"died of {signal.Signals(-code).name} (exit code {code})"
        else:
            how = f"ended by itself (exit code {code}); perhaps an environment calls os._exit"
        return self._failure("died", f"the worker process {how}, in {place}", trace=self._traced())

    def _nonsense(self, line: bytes) -> WorkerFailed:
        shown = line[:80].decode(errors="replace")
        text = f"the worker process answered nonsense, {shown!r}: something writes into its pipe"
        return self._failure("nonsense", text)

    def _raised(self, told: dict[str, Any]) -> HoldfastError | WorkerFailed:
        code, text = told.get("exit_code"), str(told["text"])
        is_ours = str(told["module"]).startswith("holdfast.")
        if is_ours and isinstance(code, int) and told["type"] != EnvironmentCrashed.__name__:
            kind = {kind.exit_code: kind for kind in _ERRORS}.get(code, HoldfastError)
            return kind(text)
        if not is_ours:
            text = f"raised {told['type']}: {text}"
        return self._failure("raised", text, trace=str(told["trace"]), told=told)

    def _where_it_hangs(self) -> str:
        """Return the stacks of the process's threads, which it writes when it is asked to."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR1)
        before = ""
        for _ in range(20):
            time.sleep(0.01)
            found = self._traced()
            if found and found == before:
                break
            before = found
        return before

    def _traced(self) -> str:
        return os.pread(self._trace.fileno(), 1 << 16, 0).decode(errors="replace")

    # -- the end -----------------------------------------------------------------------------------

    def begin_close(self) -> None:
        """Ask the process to close its environments and end."""
        with suppress(OSError):
            self._in.close()

    def close(self, until: float) -> None:
        """End the process and all that it started: at once, from ``until`` (monotonic) on."""
        self.begin_close()
        self._reap(max(0.0, until - time.monotonic()))
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._memory.close()
        self._trace.close()

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        self.close(0.0)

    def __del__(self) -> None:
        with suppress(Exception):  # it may be half built; a fork's copy must leave it alone
            if os.getpid() == self._owner:
                self.kill()

    def _reap(self, patience_s: float) -> int:
        """Wait for the end of the process, then force it; return the most bytes it has had."""
        if self._process.returncode is not None:
            return 0
        until, pause = time.monotonic() + patience_s, 0.001
        while not self._has_ended() and time.monotonic() < until:
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        if self._process.returncode is not None:
            return 0
        self._is_forced = not self._has_ended()
        # Before it is reaped: until then nobody else can have its number, nor that of its group.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        end(partial(marked, self._mark), patience_s=0.0)  # what has left the group
        return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def close_all(processes: Iterable[WorkerProcess]) -> None:
    """End processes side by side, within a second."""
    processes = list(processes)
    for process in processes:
        process.begin_close()
    until = time.monotonic() + CLOSING_S
    for process in processes:
        process.close(until)
