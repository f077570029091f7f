"""Resource usage of a cell: updates, memory, energy."""

from __future__ import annotations

import logging
import resource
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

from holdfast.agents.compiled.account import opened
from holdfast.agents.compiled.lockstep import here


class Spent:
    """Counts from its making on, until it is closed.

    Args:
        before: What ``so_far`` gave at the checkpoint of a cell that is resumed; energy that was
            not measured then is not known any more.

    Attributes:
        updates: Optimizer steps while the agent learns.
        extra_updates: Optimizer steps of the methods' own work before and after it.
    """

    def __init__(self, before: Mapping[str, Any] | None = None) -> None:
        known: Mapping[str, Any] = {"energy_kwh": 0.0} if before is None else before
        self.updates: int = known.get("updates", 0)
        self.extra_updates: int = known.get("extra_updates", 0)
        self._learning = False
        self._peak: int = known.get("peak_memory_bytes", 0)
        self._energy_kwh: float | None = known.get("energy_kwh")
        # A worker process runs one cell after another: each has a peak of its own.
        with suppress(OSError):  # not Linux, or not allowed: the peak is then that of the process
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        # Seeds that learn in lockstep share a process: no meter tells whose the energy was.
        self._meter = _energy_meter() if here() is None else None
        self._thread = threading.get_ident()
        self._hook = register_optimizer_step_post_hook(lambda *_: self._count_step())
        self._accounts = ExitStack()
        self._compiled = self._accounts.enter_context(opened())

    @property
    def learning(self) -> bool:
        """Whether the agent learns now."""
        return self._learning

    @learning.setter
    def learning(self, learns: bool) -> None:
        self._count_compiled()
        self._learning = learns

    def so_far(self) -> dict[str, Any]:
        """Return the entries of ``run.json``; energy is None where it was not measured throughout.

        Of the cell's process: not of its environments' own processes.
        """
        self._peak = max(self._peak, peak_memory())
        self._count_compiled()
        self._measure_energy()
        return {
            "updates": self.updates,
            "extra_updates": self.extra_updates,
            "peak_memory_bytes": self._peak,
            "energy_kwh": self._energy_kwh,
        }

    def close(self) -> None:
        """Count no more."""
        self._hook.remove()
        self._accounts.close()
        if self._meter is not None:
            with suppress(Exception):  # a package beside the run never fails it
                self._meter.stop_task()
                self._meter.stop()

    def _measure_energy(self) -> None:
        before, self._energy_kwh = self._energy_kwh, None  # not known, if the meter fails
        if before is None or self._meter is None:
            return
        with suppress(Exception):  # as in close
            task = self._meter.stop_task()
            self._meter.start_task()
            self._energy_kwh = before + float(task.energy_consumed)

    def _count_compiled(self) -> None:
        """Count the steps inside compiled programs, which the hook does not see."""
        self._count(self._compiled.steps)
        self._compiled.steps = 0

    def _count_step(self) -> None:
        """Count a step of this cell's; others may run in other threads."""
        if threading.get_ident() == self._thread:
            self._count(1)

    def _count(self, steps: int) -> None:
        if self._learning:
            self.updates += steps
        else:
            self.extra_updates += steps


def peak_memory() -> int:
    """Return the largest resident memory of this process in bytes.

    On Linux its own: what ``getrusage`` tells begins with that of the process that started it.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _energy_meter() -> Any:
    """Return codecarbon's tracker, started; None where it is not installed or does not work."""
    if find_spec("codecarbon") is None:
        return None
    logging.getLogger("codecarbon").disabled = True  # it would write into the live table
    with suppress(Exception):  # a package beside the run never fails it
        from codecarbon import OfflineEmissionsTracker

        meter = OfflineEmissionsTracker(
            country_iso_code="USA",  # of its estimate of carbon dioxide, which is not taken
            tracking_mode="process",
            allow_multiple_runs=True,
            save_to_file=False,
            log_level="critical",
        )
        meter.start_task()
        return meter
    return None
