"""Export: the policy of a run as a file that other programs run, checked against the policy."""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.policies.exportable import Exportable
from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.cells import task_index
from holdfast.continual.run_folder.files import temporary
from holdfast.errors import MissingExtra, UsageError
from holdfast.scenarios.schema.method_spec import safe
from holdfast.scenarios.source.regular_file import made_folder

Format = Literal["onnx", "torch-export"]
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
FOLDER = "exports"
METADATA = "holdfast.json"
"""Name of what stands in the file beside the policy: of which run it is, what goes in and out."""

TOLERANCE = 1e-4
"""Largest difference from the policy's actions, as a share of the largest action above 1."""

_WARM_UP, _TIMED = 20, 200

Run = Callable[[list[NDArray[Any]]], NDArray[Any]]
"""The file, loaded: arrays of shape (batch, ...), in the order of its inputs, to actions."""


class Exported(NamedTuple):
    """One file.

    Attributes:
        path: Where it is.
        inputs: Name, shape and type of each input; the first dimension is the batch.
        compared: Observations on which it was compared with the policy.
        difference: Largest difference of an action, in units of the environment.
        latency_ms: Median milliseconds for one observation, of the file.
        policy_ms: The same of the policy in torch, with what Holdfast does around it.
        stage: The policy is that of this stage's end.
    """

    path: Path
    inputs: dict[str, str]
    compared: int
    difference: float
    latency_ms: float
    policy_ms: float
    stage: int = 0


def export(
    run: Path,
    form: Format,
    *,
    task: str | None = None,
    stage: int | None = None,
    output: Path | None = None,
    trust_code: bool = False,
) -> Iterator[Exported]:
    """Export the policy of a run in one task, and yield each file when it is written and checked.

    A team gives one file per group. The action is the most likely one, in the units of the task's
    environment; the observation is that of ``agent.make_env()``.

    Args:
        run: A cell's folder.
        form: What is written.
        task: Whose view acts, and whose environment it is; by default the task trained last.
        stage: The policy at the end of this stage; by default of the last one that was finished.
        output: The file, or of a team of several groups the folder; by default in the run's
            ``exports/``.
        trust_code: As of ``open_run``.

    Raises:
        UsageError: There is no such task or checkpoint, the agent has no such form, the file cannot
            be written, or its actions differ from the policy's. Nothing is left then.
        MissingExtra: ONNX's packages are not installed.
    """
    if form == "onnx":
        _need_onnx()
    folder = open_run(run, trust_code=trust_code).folder
    named = None if task is None else task_index(folder.scenario, task, str(run))
    stage = checkpoint.asked_stage(folder, stage)
    restored = kind_of(folder.scenario).restore(folder, stage)
    index = restored.agent.current_task if named is None else named
    name = folder.scenario.tasks[index].name
    with kind_of(restored.scenario).export(restored, index, folder.seed) as found:
        for one in found:
            path = _place(folder.path, output, name, one.group, ENDINGS[form], len(found))
            about = {
                "scenario": folder.scenario.name,
                "method": folder.label,
                "seed": folder.seed,
                "task": name,
                "stage": stage,
                "group": one.group,
                "algorithm": folder.scenario.agent.algorithm,
                "inputs": _described(one),
                "action": one.action,
                "holdfast": version("holdfast"),
            }
            yield _export(one, form, path, about)._replace(stage=stage)


def _place(
    folder: Path, output: Path | None, task: str, group: str, ending: str, count: int
) -> Path:
    # A group may be called as its environment calls an agent, which is no name of a file.
    name = f"{task}-{safe(group)}{ending}" if group else f"{task}{ending}"
    if output is None:
        made_folder(folder / FOLDER, folders=2)
        return folder / FOLDER / name
    return output / name if count > 1 or output.is_dir() else output


def _export(one: Exportable, form: Format, path: Path, about: dict[str, Any]) -> Exported:
    """Write beside the place, load, compare, and rename."""
    is_onnx = form == "onnx"
    write, load = (_write_onnx, _load_onnx) if is_onnx else (_write_torch, _load_torch)
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = temporary(path)
    try:
        with _told(path), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch's exporters warn of their own code
            _written(one, form, partial(write, one, beside, json.dumps(about)))
            file = load(beside, one)
            difference = _difference(file(one.inputs), one.actions)
            if not difference <= TOLERANCE * max(1.0, float(np.abs(one.actions).max())):
                raise UsageError(
                    f"{path}: the exported policy differs from the policy by {difference:.3g} on "
                    f"{len(one.actions)} observations (at most {TOLERANCE:g}); nothing was kept"
                )
            single = [rows[:1] for rows in one.inputs]
            latency = _latency(lambda: file(single))
            policy = _latency(lambda: one.module(*one.as_arguments(single)))
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return Exported(path, _described(one), len(one.actions), difference, latency, policy)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def _written(one: Exportable, form: Format, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError:
        raise
    except Exception as error:  # the exporters raise whatever their parts do
        first = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"--format {form}: torch cannot export {type(one.module).__name__} of "
            f"'{one.algorithm}': {type(error).__name__}: {first}"
        ) from error


def _shapes(one: Exportable) -> tuple[Any, ...]:
    """Return that the first dimension of every input is free."""
    batch = {0: torch.export.Dim("batch", min=1)}
    seen = dict.fromkeys(one.keys, batch) if one.keys else batch
    return (seen, batch) if one.has_masks else (seen,)


def _program(one: Exportable) -> Any:
    # Two rows: of a single one the exporter would keep that it is one.
    return torch.export.export(one.module, one.arguments(2), dynamic_shapes=_shapes(one))


def _write_torch(one: Exportable, path: Path, about: str) -> None:
    torch.export.save(_program(one), path, extra_files={METADATA: about})


def _load_torch(path: Path, one: Exportable) -> Run:
    module = torch.export.load(path).module()
    return lambda inputs: module(*one.as_arguments(inputs)).numpy()


def _write_onnx(one: Exportable, path: Path, about: str) -> None:
    program = torch.onnx.export(
        _program(one),
        input_names=_onnx_names(one),
        output_names=["action"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[METADATA] = about
    program.save(str(path), external_data=False)


def _load_onnx(path: Path, one: Exportable) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # as torch here: for so small networks more are slower
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    names = _onnx_names(one)
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))[0]


def _onnx_names(one: Exportable) -> list[str]:
    """Return the names of the inputs as ONNX has them: identifiers, whatever their keys are.

    The metadata of the file holds the keys, in the same order.
    """
    names: list[str] = []
    for name in one.names:
        plain = re.sub(r"\W|^(?=\d)", "_", name, flags=re.ASCII)
        while plain in names:
            plain += "_"
        names.append(plain)
    return names


def _need_onnx() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtra("--format onnx", package, "onnx") from error


def _difference(actions: NDArray[Any], expected: NDArray[Any]) -> float:
    if actions.shape != expected.shape:
        return float("inf")
    gaps = np.abs(actions.astype(np.float64) - expected.astype(np.float64))
    return float(gaps.max(initial=0.0))


def _latency(call: Callable[[], Any]) -> float:
    """Return the median of milliseconds that a call takes."""
    taken = []
    for _ in range(_WARM_UP + _TIMED):
        began = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - began))
    return median(taken[_WARM_UP:])


def _described(one: Exportable) -> dict[str, str]:
    """Return shape and type of each input, without the batch."""
    return {
        name: f"{rows.dtype}[{', '.join(['batch', *map(str, rows.shape[1:])])}]"
        for name, rows in zip(one.names, one.inputs, strict=True)
    }
