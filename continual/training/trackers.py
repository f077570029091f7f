"""Experiment trackers beside TensorBoard (``track:``): W&B, MLflow, trackio.

Each sees the numbers that TensorBoard sees, in a run of its own for each cell: the project is the
scenario, the group the method, the name says method and seed. A cell that goes on after a kill goes
on in the same run of the tracker, and numbers that it measures again are the same. Settings are the
trackers' own (their environment variables); without any, all is kept in ``runs/tracking/``.

A tracker costs no run: what it raises is told once, and the run goes on without it. Nothing that it
draws at random is left behind.
"""

from __future__ import annotations

import io
import math
import netrc
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from holdfast import seeding
from holdfast.continual.run_folder.record import RunFolder
from holdfast.scenarios.source.override import plain_data

FOLDER = "tracking"
"""Beside the scenarios in the folder of all results: what trackers keep on this machine."""

_PATIENCE_S = 30


class Tracker(Protocol):
    """A run of a tracker."""

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Take numbers by tag, at a step of the stream."""

    def finish(self, *, is_finished: bool) -> None:
        """End; the cell has finished, or was stopped or failed."""


class Trackers:
    """The trackers of a cell.

    Args:
        folder: The run folder; ``track`` in its ``run.json`` has the run of each tracker.

    Attributes:
        notes: What went wrong, a line each, until somebody takes it from here.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.notes: list[str] = []
        self._runs: dict[str, Tracker] = {}
        names = folder.scenario.track
        if not names:
            return
        known: dict[str, str] = dict(folder.info().get("track", {}))
        ids = {name: known.get(name) or secrets.token_hex(4) for name in names}
        if known != ids:
            folder.update(track=known | ids)
        for name in names:
            with self._told(name):
                self._runs[name] = _TRACKERS[name](folder, ids[name], self.notes.append)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Hand numbers on; NaN (n/a) is left out."""
        known = {tag: float(value) for tag, value in values.items() if math.isfinite(value)}
        if not known:
            return
        for name, run in list(self._runs.items()):
            with self._told(name):
                run.log(known, step)

    def close(self, *, is_finished: bool) -> None:
        """End the run of every tracker."""
        for name, run in list(self._runs.items()):
            with self._told(name):
                run.finish(is_finished=is_finished)
        self._runs.clear()

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Go on without a tracker that raises; it prints nothing, and draws from no generator."""
        kept = seeding.global_states()
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                yield
        except Exception as error:  # of a package and whatever server it reaches
            self._runs.pop(name, None)
            line = " ".join(str(error).split())[:200]
            text = f"{name} takes no more ({type(error).__name__}: {line}); the run goes on"
            self.notes.append(text)
        finally:
            seeding.set_global_states(kept)


def _name(folder: RunFolder) -> str:
    return f"{folder.label}/seed-{folder.seed}"


def _place(folder: RunFolder, tracker: str) -> Path:
    place = folder.path.absolute().parents[2] / FOLDER / tracker
    place.mkdir(parents=True, exist_ok=True)
    return place


def _settings(folder: RunFolder) -> dict[str, Any]:
    """Return what the scenario says beside defaults, as plain data."""
    found: dict[str, Any] = plain_data(folder.scenario.model_dump(exclude_defaults=True))
    return found


# -- W&B -------------------------------------------------------------------------------------------


class _WandB:
    def __init__(self, folder: RunFolder, own: str, tell: Callable[[str], None]) -> None:
        import wandb  # here, as in all of these: a package that only this tracker needs

        given: dict[str, Any] = {
            "project": os.environ.get("WANDB_PROJECT", folder.scenario.name),
            "group": folder.label,
            "name": _name(folder),
            "id": own,
            "resume": "allow",
            "config": _settings(folder) | {"method": folder.label, "seed": folder.seed},
            "dir": os.environ.get("WANDB_DIR") or str(_place(folder, "wandb")),
            "reinit": "create_new",  # cells side by side in one process
        }
        quiet = {"console": "off", "silent": True, "init_timeout": _PATIENCE_S}
        quiet |= {"x_disable_stats": True, "disable_git": True, "disable_code": True}
        kept = f"kept in {given['dir']} until wandb sync"
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        if mode == "offline" and "WANDB_MODE" not in os.environ:
            tell(f"wandb: no key (WANDB_API_KEY, wandb login); {kept}")
        try:
            self._run = wandb.init(**given, mode=mode, settings=wandb.Settings(**quiet))
        except Exception as error:  # CommError, UsageError and what lies below them
            if mode != "online":
                raise
            tell(f"wandb: {' '.join(str(error).split())[:200]}; {kept}")
            self._run = wandb.init(**given, mode="offline", settings=wandb.Settings(**quiet))
        # An axis of its own: W&B's counts calls, and takes no step twice.
        self._run.define_metric("*", step_metric="step")

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        self._run.log({**scalars, "step": step})

    def finish(self, *, is_finished: bool) -> None:
        self._run.finish(exit_code=0 if is_finished else 1)


def _has_key() -> bool:
    """Return whether W&B knows who the user is, where it would ask otherwise."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    with suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    return False


# -- MLflow ----------------------------------------------------------------------------------------

_MOST_AT_ONCE = 100
"""Parameters, and a tenth of the metrics, that MLflow takes in one call."""
_NO_KEY = re.compile(r"[^\w./: -]")


class _MLflow:
    def __init__(self, folder: RunFolder, own: str, tell: Callable[[str], None]) -> None:
        del tell
        # A server that does not answer is asked once more, not for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_PATIENCE_S))
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            uri = _place(folder, "mlflow").as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric, self._client = Metric, MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", folder.scenario.name)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        mine = f"tags.`holdfast.run` = '{own}'"
        runs = self._client.search_runs([experiment], filter_string=mine, max_results=1)
        if runs:
            self._id = runs[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        tags = {"holdfast.run": own, "method": folder.label, "seed": str(folder.seed)}
        made = self._client.create_run(experiment, run_name=_name(folder), tags=tags)
        self._id = made.info.run_id
        params = [Param(key, str(value)[:6000]) for key, value in _flat(_settings(folder))]
        for start in range(0, len(params), _MOST_AT_ONCE):
            self._client.log_batch(self._id, params=params[start : start + _MOST_AT_ONCE])

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        found = [self._metric(_NO_KEY.sub("_", tag), v, now, step) for tag, v in scalars.items()]
        for start in range(0, len(found), 10 * _MOST_AT_ONCE):
            self._client.log_batch(self._id, metrics=found[start : start + 10 * _MOST_AT_ONCE])

    def finish(self, *, is_finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if is_finished else "FAILED")


def _flat(nested: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield plain data by dotted keys: ``agent.gamma``, ``tasks.0.env``."""
    if isinstance(nested, Mapping | list):
        items = nested.items() if isinstance(nested, Mapping) else enumerate(nested)
        for key, value in items:
            yield from _flat(value, f"{above}.{key}" if above else str(key))
        return
    yield _NO_KEY.sub("_", above), nested


# -- trackio ---------------------------------------------------------------------------------------


class _Trackio:
    def __init__(self, folder: RunFolder, own: str, tell: Callable[[str], None]) -> None:
        del tell
        os.environ.setdefault("TRACKIO_DIR", str(_place(folder, "trackio")))  # read at its import
        import trackio

        self._run = trackio.init(
            project=folder.scenario.name,
            name=f"{_name(folder)}-{own}",  # a run is known by its name alone
            group=folder.label,
            config=dict(_flat(_settings(folder))) | {"method": folder.label, "seed": folder.seed},
            resume="allow",
            embed=False,
        )

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        self._run.log(dict(scalars), step=step)

    def finish(self, *, is_finished: bool) -> None:
        del is_finished
        self._run.finish()


_TRACKERS: dict[str, Callable[[RunFolder, str, Callable[[str], None]], Tracker]] = {
    "wandb": _WandB,
    "mlflow": _MLflow,
    "trackio": _Trackio,
}
