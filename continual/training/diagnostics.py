"""Plasticity, the ability to go on learning: measured at evaluation points, training unchanged.

What the networks do is measured on one fixed set of observations, so that a change is the
network's and not the data's: those that the untrained agent saw in its first evaluation. They and
the first weights are kept in ``plasticity.safetensors``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from holdfast.agents.base.agent import Act, Agent
from holdfast.agents.base.parameters import below, group_of, named_parameters
from holdfast.agents.modules import plasticity
from holdfast.agents.modules.units import activations, magnitudes
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.method import Method
from holdfast.continual.run_folder.checkpoint import tensors
from holdfast.continual.run_folder.files import write_whole
from holdfast.continual.run_folder.plasticity_record import (
    GROUPS,
    line_of,
    read_points,
    write_points,
)
from holdfast.continual.run_folder.readers import read_file
from holdfast.continual.training.free_weights import FreeWeights
from holdfast.scenarios.source.regular_file import is_there

REFERENCE = "plasticity.safetensors"
OBSERVATIONS = 512
"""At least the features of a layer, for its rank to be the network's and not the batch's."""

TAU = 0.025

_PLACE = re.compile(r"(\.(\d+|trunk|columns|cnn|linear))+$")


class Diagnostics:
    """Measures plasticity in one cell and keeps its record.

    Args:
        folder: The run folder.
        agent: The learner; one that is no Stable-Baselines3 agent is not measured.
        methods: Its mitigations, those with an importance per weight among them.

    Attributes:
        constant: Tasks whose observations never changed in the evaluation that was watched.
    """

    def __init__(self, folder: Path, agent: Agent, methods: Sequence[Method] = ()) -> None:
        self.folder = folder
        self.constant: list[int] = []
        self.agent = agent if isinstance(agent, StableBaselinesAgent) else None
        self._seen: dict[int, dict[str, NDArray[Any]]] = {}
        self._reference: dict[str, Tensor] = {}
        self._points: list[str] = []  # as they are written: to write each again takes long
        self._methods = [method for method in methods if getattr(method, "has_importance", False)]
        self._free: FreeWeights | None = None
        self._earlier: Collection[int] = ()

    def resume(self, step: int, points: int | None = None) -> None:
        """Take up the record of a run as it was at this step of the stream.

        Args:
            step: Later points are dropped.
            points: How many there were; None at a task's end, where the step says it.
        """
        path = self.folder / REFERENCE
        self._reference = tensors(read_file(path), path) if is_there(path) else {}
        known = [point for point in read_points(self.folder) if point["step"] <= step]
        self._points = [line_of(point) for point in known[:points]]

    def inside(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what a checkpoint inside a task keeps: plain data and tensors."""
        told, tensors = ([], {}) if self.agent is None else self.agent.gradient_norms.told()
        return {"points": len(self._points), "updates": told}, tensors

    def put_back(self, told: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Put back the norms that ``inside`` gave, after ``attach``."""
        if self.agent is not None:
            self.agent.gradient_norms.put_back(told["updates"], tensors)

    def watched(self, tasks: int) -> Any:
        """Return the agent, for an evaluation whose observations become the fixed set.

        Args:
            tasks: How many tasks are measured in it.
        """
        share = -(-OBSERVATIONS // max(1, tasks))
        return self.agent and _Watched(self.agent, self._seen, share, self.constant)

    def begin(self) -> None:
        """Keep the observations that were watched, and the weights as they are now."""
        if self.agent is None:
            return
        rows = [self._seen[task] for task in sorted(self._seen)]
        parameters = named_parameters(self.agent.policy)
        self._reference = {f"weights/{n}": p.detach().cpu().clone() for n, p in parameters.items()}
        for key in rows[0] if rows else ():
            joined = np.ascontiguousarray(np.concatenate([arrays[key] for arrays in rows]))
            self._reference[f"observations/{key}"] = torch.from_numpy(joined)
        counts = {task: len(next(iter(self._seen[task].values()))) for task in sorted(self._seen)}
        owners = [task for task, count in counts.items() for _ in range(count)]
        self._reference["tasks"] = torch.tensor(owners, dtype=torch.long)
        self._seen = {}
        write_whole(self.folder / REFERENCE, save(self._reference))

    def attach(self, earlier: Collection[int] = ()) -> None:
        """Follow the task that was started: its gradients, until ``detach``, and its free weights.

        Args:
            earlier: Other tasks, which were finished before.
        """
        if self.agent is None:
            return
        self.agent.gradient_norms.attach(self.agent.policy)
        self._free, self._earlier = None, earlier
        if self._methods:
            self._free = FreeWeights(self.agent.policy, self._methods, self._policy_input(earlier))

    def detach(self) -> None:
        """Follow no gradients any more."""
        if self.agent is not None:
            self.agent.gradient_norms.detach()

    def measure(self, stage: int, step: int) -> dict[str, float]:
        """Record one point and return its numbers by TensorBoard tag."""
        if self.agent is None:
            return {}
        found = self._weights() | self.agent.gradient_norms.take()
        if (observations := self._policy_input()) is not None:
            found |= measure_units(self.agent.policy, observations)
        if self._free is not None:
            found |= self._free.measure(self.agent.policy, self._policy_input(self._earlier))
        known = {name: value for name, value in found.items() if np.isfinite(value)}
        self._points.append(line_of({"stage": stage, "step": step, **known}))
        write_points(self.folder, self._points)
        return {f"plasticity/{name}": value for name, value in known.items()}

    def _policy_input(self, tasks: Collection[int] | None = None) -> Any:
        """Return the fixed observations of these tasks, or of all; None where there are none."""
        assert self.agent is not None
        stored = below(self._reference, "observations")
        if not stored or self.agent.algorithm.output is None:
            return None
        if tasks is not None:
            of_tasks = self._reference.get("tasks", torch.zeros(0, dtype=torch.long))
            chosen = torch.isin(of_tasks, torch.tensor(list(tasks), dtype=torch.long))
            if not chosen.any():
                return None
            stored = {key: rows[chosen] for key, rows in stored.items()}
        return self.agent.policy_input({key: rows.numpy() for key, rows in stored.items()})

    def _weights(self) -> dict[str, float]:
        assert self.agent is not None
        found = {}
        for group in GROUPS:
            parameters = named_parameters(self.agent.policy, group)
            if not parameters:
                continue
            found[f"weight_norm/{group}"] = plasticity.norm(parameters.values())
            # A column that a method added later has no first weight.
            first = {n: self._reference.get(f"weights/{n}") for n in parameters}
            gaps = [
                parameters[name].detach().cpu() - old
                for name, old in first.items()
                if old is not None and old.shape == parameters[name].shape
            ]
            if gaps:
                found[f"distance/{group}"] = plasticity.norm(gaps)
        return found


def measure_units(policy: Any, observations: Any) -> dict[str, float]:
    """Return what the hidden units of each group do on a batch, by ``<quantity>/<group>``."""
    seen = activations(policy, observations)
    sizes = magnitudes(policy, seen)
    by_group: dict[str, list[Tensor]] = {}
    last: dict[str, dict[str, Tensor]] = {}  # the last layer of each network
    for name, activity in seen.items():
        group = str(group_of(name, policy))
        by_group.setdefault(group, []).append(sizes[name])
        if activity.dim() == 2:
            last.setdefault(group, {})[_PLACE.sub("", name)] = activity
    found = {}
    for group, layers in by_group.items():
        found[f"dormant_fraction/{group}"] = plasticity.dormant_fraction(layers, TAU)
    for group, features in last.items():
        values = [plasticity.singular_values(one) for one in features.values()]
        found[f"effective_rank/{group}"] = float(np.mean([*map(plasticity.effective_rank, values)]))
        found[f"srank/{group}"] = float(np.mean([*map(plasticity.srank, values)]))
    return found


class _Watched:
    """An agent whose observations are kept, ``share`` by task, while it is evaluated."""

    def __init__(
        self,
        agent: Agent,
        kept: dict[int, dict[str, NDArray[Any]]],
        share: int,
        constant: list[int],
    ) -> None:
        self._agent, self._kept, self._share, self._constant = agent, kept, share, constant
        self.shown_task, self.random_spaces = agent.shown_task, agent.random_spaces

    @contextmanager
    def view(self, task_index: int) -> Iterator[Act]:
        seen = _Seen()
        with self._agent.view(task_index) as act:

            def watched_act(observations: Any, *args: Any, **options: Any) -> Any:
                seen.add(observations)
                return act(observations, *args, **options)

            yield watched_act
        # At once: all that was seen of hundreds of tasks would fill the memory.
        self._kept[task_index] = seen.spread(self._share)
        if seen.is_constant:
            self._constant.append(task_index)


class _Seen:
    """Observations of one task, thinned out evenly as they become many."""

    def __init__(self) -> None:
        self._kept: list[dict[str, NDArray[Any]]] = []
        self._every, self._count = 1, 0
        self._before: dict[str, NDArray[Any]] = {}
        self._looks = 0

    @property
    def is_constant(self) -> bool:
        """Whether all observations of several steps were one and the same."""
        rows = self.spread(OBSERVATIONS).values()
        # A step or two tell nothing.
        return self._looks > 2 and all((one == one[:1]).all() for one in rows)

    def add(self, observations: Any) -> None:
        """Take a batch; rows of episodes that have ended, which repeat, are left out."""
        batch = observations if isinstance(observations, dict) else {"": observations}
        size = len(next(iter(batch.values())))
        is_new = np.zeros(size, dtype=bool)
        for key, rows in batch.items():
            before = self._before.get(key)
            if before is None or before.shape != rows.shape:
                is_new[:] = True
            else:
                is_new |= (rows != before).reshape(size, -1).any(1)
        self._before = {key: rows.copy() for key, rows in batch.items()}
        self._looks += 1
        if is_new.any():
            if self._count % self._every == 0:
                self._kept.append({key: rows[is_new] for key, rows in batch.items()})
            self._count += 1
        if len(self._kept) >= OBSERVATIONS:
            self._kept, self._every = self._kept[::2], 2 * self._every

    def spread(self, count: int) -> dict[str, NDArray[Any]]:
        """Return up to ``count`` rows, evenly over what was seen, by key."""
        joined = {key: np.concatenate([rows[key] for rows in self._kept]) for key in self._before}
        size = len(next(iter(joined.values()), ()))
        rows = np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(int))
        return {key: values[rows] for key, values in joined.items()}
