"""Cells as tasks of a Ray cluster; their run folders lie where all of its machines see them."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

from holdfast.continual.jobs.attempt import note_end
from holdfast.continual.jobs.lockstep_cells import run_together
from holdfast.continual.jobs.queue import Execute, Outcome, Turn, Turns, cell_name
from holdfast.continual.progress import Progress
from holdfast.continual.results.failure import Failure
from holdfast.continual.run_folder.record import SCENARIO, RunFolder
from holdfast.envs.wrappers.at_work import AT_WORK
from holdfast.errors import MissingExtra, UsageError
from holdfast.scenarios.schema.scenario import Scenario

CONNECT_S = 30.0
"""Seconds within which a cluster must answer; Ray itself takes two minutes, and then exits."""
GRACE_S = 10.0
"""Seconds in which cells that are told to stop may close their environments."""
_LOOK_S = 0.5
_CONNECT = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False)"


@contextmanager
def connected(
    scenario: Scenario, *, jobs: int | None = None, address: str | None = None
) -> Iterator[Execute]:
    """Connect to a Ray cluster, or start one here that ends with the block.

    Args:
        scenario: Whose cells will run.
        jobs: Cells that may run at the same time. Default: all that the cluster has room for.
        address: ``HOST:PORT`` or ``auto``. Default: ``RAY_ADDRESS``, or else one is started.

    Yields:
        What runs cells there.

    Raises:
        UsageError: The cluster does not answer, or no node of it is large enough for a cell.
        MissingExtra: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise MissingExtra("executor ray", "ray", "ray")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _check(scenario, address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read at the import
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or else Ray warns of it
    # Ray makes workers of a cluster that it starts yield to everything else on the machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray  # here: never unasked

    # A folder of its own: Ray leaves its logs and sockets behind in /tmp/ray.
    own = tempfile.mkdtemp(prefix="holdfast-ray-") if address == "local" else None
    try:
        arguments: dict[str, Any] = {}
        if own is not None:  # a cluster on this machine alone
            arguments = {
                "num_cpus": ceil(jobs * scenario.resources.cpus) if jobs else None,  # all cores
                "include_dashboard": False,
                "object_store_memory": 100 << 20,  # progress is all that goes through it
                "_temp_dir": own,
            }
        _init(address, arguments)
        _check_room(scenario, address)
        yield _OnRay(scenario, jobs)
    finally:
        ray.shutdown()
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)


def _init(address: str, arguments: dict[str, Any]) -> None:
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **arguments)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"Ray at {address}: {error}") from error
    with suppress(ValueError):  # not the main thread, which alone handles signals
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own in this place


def _check(scenario: Scenario, address: str) -> None:
    """Refuse what cannot work, before Ray is imported."""
    robots = [task.name for task in scenario.tasks if task.exclusive]
    if robots:
        raise UsageError(f"executor ray: task '{robots[0]}' is exclusive; run it on its machine")
    if scenario.agent.device.startswith("cuda") and not scenario.resources.gpus:
        raise UsageError(
            f"executor ray: agent.device is {scenario.agent.device}, but Ray hides all GPUs from a "
            "cell that asks for none; write resources: {gpus: 1} into the scenario"
        )
    if address.startswith("ray://"):
        raise UsageError(
            f"address {address}: give the address of the cluster's head, such as HOST:6379, and "
            "run the command on a machine of the cluster"
        )
    if address != "local" and (why := _silence(address)):
        raise UsageError(
            f"no Ray cluster answers at {address} ({why}); start one with 'ray start --head', or "
            "leave out the address to start one on this machine"
        )


def _silence(address: str) -> str:
    """Return why no cluster answers, empty if one does; a process that can be given up asks."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():  # refused at once, mostly
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        except (OSError, OverflowError) as error:
            return str(error)
    try:
        done = subprocess.run(  # noqa: S603  # our own words, and an address as an argument
            [sys.executable, "-c", _CONNECT, address],
            capture_output=True,
            text=True,
            timeout=CONNECT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"waited {CONNECT_S:.0f} s"
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def _needs(scenario: Scenario) -> dict[str, float]:
    """Return what a cell takes of a node, under Ray's names."""
    asked = scenario.resources
    needs = {"CPU": asked.cpus, "GPU": asked.gpus, "memory": (asked.memory_gb or 0) * 1e9}
    return {name: count for name, count in needs.items() if count}


def _check_room(scenario: Scenario, address: str) -> None:
    """Refuse what no node of the cluster could ever hold: Ray would wait for ever."""
    import ray

    needs = _needs(scenario)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(name, 0) >= n for name, n in needs.items()) for node in nodes):
        return
    asked = ", ".join(f"{name} {n:g}" for name, n in needs.items())
    of_nodes = (", ".join(f"{name} {node.get(name, 0):g}" for name in needs) for node in nodes)
    raise UsageError(
        f"executor ray: a cell takes {asked} (resources:), and no node of the cluster at {address} "
        f"has as much; they have: {'; '.join(of_nodes)}"
    )


# -- in the process that was started ---------------------------------------------------------------


class _OnRay:
    """Runs cells on the cluster that this process is connected to."""

    def __init__(self, scenario: Scenario, jobs: int | None) -> None:
        self._scenario, self._jobs = scenario, jobs

    def build(self, scenario: Scenario) -> None:
        from holdfast.continual.training import preflight  # here: it imports torch and avalanche

        with AT_WORK.guests():
            preflight.build(scenario, jobs=self._jobs or 1)

    def __call__(self, turns: Turns) -> None:
        import ray

        if not turns:
            return
        mailbox, task = _mailbox(), _task(self._scenario)
        running: dict[Any, tuple[Turn, ...]] = {}
        here = str(Path.cwd()), version("holdfast"), mailbox
        try:
            while turns or running:
                while turns and len(running) < (self._jobs or len(turns) + len(running)):
                    taken = turns.take()
                    path = str(taken[0].folder.path)
                    running[task.remote(pickle.dumps(taken), path, *here)] = taken
                done, _ = ray.wait(list(running), timeout=_LOOK_S)
                for progress in _news(mailbox):
                    turns.watcher.progress(progress)
                for ref in done:
                    taken = running.pop(ref)
                    for turn, outcome in zip(taken, _outcomes(ref, taken), strict=True):
                        turns.ended(turn, outcome)
        finally:
            _stop(running)
            ray.kill(mailbox)


def _mailbox() -> Any:
    """Return an actor, beside this process, that keeps what cells tell until it is asked for."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    kind = ray.remote(num_cpus=0, max_restarts=-1)(_Mailbox)
    return kind.options(scheduling_strategy=here).remote()


class _Mailbox:
    """Keeps pickled progress, unread: to read it would import all that cells import."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []

    def put(self, progress: bytes) -> None:
        """Keep it."""
        self._kept.append(progress)

    def empty(self) -> list[bytes]:
        """Return what came since the last time."""
        kept, self._kept = self._kept, []
        return kept


def _news(mailbox: Any) -> list[Progress]:
    import ray

    # Only a view: a mailbox that is being restarted loses lines of it, and no results.
    with suppress(ray.exceptions.RayError):
        return [pickle.loads(news) for news in ray.get(mailbox.empty.remote(), timeout=GRACE_S)]  # noqa: S301  # from our own cells
    return []


def _task(scenario: Scenario) -> Any:
    """Return what runs a cell as a task of the cluster."""
    import ray

    needs = _needs(scenario)
    return ray.remote(
        num_cpus=needs["CPU"],
        num_gpus=needs.get("GPU", 0),
        memory=int(needs.get("memory", 0)) or None,
        max_retries=0,  # tried again by us, who write that down
        scheduling_strategy="SPREAD",
    )(_cells)


def _outcomes(ref: Any, turns: Sequence[Turn]) -> list[Outcome]:
    """Return how the cells of a task ended: as it says, or lost with its process or node."""
    import ray

    try:
        found: list[Outcome] | Failure = ray.get(ref)
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = f"the Ray task was lost ({type(error).__name__}): {lines[0] if lines else ''}"
        for turn in turns:
            note_end(turn.folder, "failed", text)
        found = Failure(text, 1, may_pass=True)
    if isinstance(found, Failure):
        return [Outcome(cell_name(turn.folder), "failed", failure=found) for turn in turns]
    return found


def _stop(running: dict[Any, tuple[Turn, ...]]) -> None:
    """End tasks, and mark the cells that they ran as stopped."""
    import ray

    if not running:
        return
    try:
        for ref in running:
            ray.cancel(ref)  # KeyboardInterrupt in those that run
        ray.wait(list(running), num_returns=len(running), timeout=GRACE_S)
    finally:  # also where a second Ctrl-C cuts the wait short
        for ref in running:
            ray.cancel(ref, force=True)
        for turns in running.values():
            for turn in turns:
                note_end(turn.folder, "stopped", "stopped from outside")


# -- in a process of the cluster -------------------------------------------------------------------


def _cells(
    pickled: bytes, path: str, cwd: str, made_by: str, mailbox: Any
) -> list[Outcome] | Failure:
    """Run cells. The body of a task; ``pickled`` are their turns, which an equal version reads.

    A turn brings the scenario that the user gave: what lies in the folder decides nothing.
    """
    folder = RunFolder(Path(path))
    if wrong := _unlike(folder, made_by):
        return Failure(wrong, 2)
    turns: tuple[Turn, ...] = pickle.loads(pickled)  # noqa: S301  # from the process that started this task
    with suppress(OSError):  # environments may read files from there, as they would here
        os.chdir(cwd)

    def tell(progress: Progress) -> None:
        mailbox.put.remote(pickle.dumps(progress))

    found: dict[str, Outcome] = {}

    def ended(turn: Turn, outcome: Outcome) -> None:
        found[cell_name(turn.folder)] = outcome

    run_together(turns, tell, ended, capture=True)
    return [found[cell_name(turn.folder)] for turn in turns]


def _unlike(folder: RunFolder, made_by: str) -> str:
    """Return what this machine lacks to run the cell; empty if nothing."""
    here = socket.gethostname()
    if version("holdfast") != made_by:
        return f"{here} has holdfast {version('holdfast')}, and the command ran with {made_by}"
    until = time.monotonic() + GRACE_S  # a shared file system may show a new file late
    while not (folder.path / SCENARIO).exists():
        if time.monotonic() >= until:
            return (
                f"{here} does not see {folder.path}: put the folder of results (--runs) on storage "
                "that all machines of the cluster share under one path"
            )
        time.sleep(_LOOK_S)
    return ""
