"""State of an Avalanche plugin as named tensors, and back: nothing is pickled.

Avalanche's own checkpoints pickle whole strategies, and fail at that with current torch. Here the
attributes of a plugin are walked: tensors are stored by their path, and plain values in one JSON
text, the layout, as a tensor of bytes. Four kinds of objects have a form of their own:

- Avalanche's containers (``ParamData``, exemplar buffers, LwF's state): their attributes;
- data sets: the numbers of their samples among the training data of the stream;
- copies of the network: their weights; the agent rebuilds them;
- random iterators over a memory (A-GEM): left out; rebuilt from the memory, of which they have
  drawn nothing yet when a task ends.

Only these classes are ever built, whatever a file says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset, concat_datasets
from avalanche.benchmarks.utils.data_loader import GroupBalancedInfiniteDataLoader
from avalanche.training.plugins import AGEMPlugin, GEMPlugin
from avalanche.training.regularization import LearningWithoutForgetting
from avalanche.training.storage_policy import (
    ClassBalancedBuffer,
    ExperienceBalancedBuffer,
    ReservoirSamplingBuffer,
)
from avalanche.training.utils import ParamData
from torch import Tensor, nn

from holdfast.envs.datasets.benchmarks import SAMPLE
from holdfast.errors import UsageError

LAYOUT = "layout"
"""Name of the tensor that holds the JSON text."""

_CONTAINERS = {
    kind.__name__: kind
    for kind in (
        ClassBalancedBuffer,
        ExperienceBalancedBuffer,
        LearningWithoutForgetting,
        ReservoirSamplingBuffer,
    )
}
# Worked out again before it is used.
_DERIVED = {
    AGEMPlugin: ("buffer_dataloader", "buffer_dliter", "reference_gradients"),
    GEMPlugin: ("G",),
}


class Rebuild(NamedTuple):
    """Parts of a plugin's state that come from the run.

    Attributes:
        samples: Numbers of training samples to the data set of them, in that order.
        network: A number of experiences to a new network that has their heads.
    """

    samples: Callable[[list[int]], Any]
    network: Callable[[int], Any]


def pack(plugin: Any, name: str, stages: int) -> dict[str, Tensor]:
    """Return the state of a plugin, as a checkpoint keeps it.

    Args:
        plugin: The plugin, at the end of a task.
        name: As the scenario writes it, for errors.
        stages: Experiences that its copies of the network have heads of.

    Raises:
        UsageError: If it holds something that cannot be stored; the text names it.
    """
    packer = _Packer(name, stages)
    left_out = _derived(plugin)
    forms = {
        key: packer.form(value, key) for key, value in vars(plugin).items() if key not in left_out
    }
    text = json.dumps(forms).encode()
    packer.tensors[LAYOUT] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return packer.tensors


def unpack(plugin: Any, packed: dict[str, Tensor], rebuild: Rebuild) -> None:
    """Put what was packed into a newly made plugin; nothing where nothing was packed yet."""
    if LAYOUT not in packed:
        return
    forms = json.loads(packed[LAYOUT].numpy().tobytes())
    reader = _Reader(packed, rebuild)
    for key, form in forms.items():
        setattr(plugin, key, reader.value(form, getattr(plugin, key, None)))
    if isinstance(plugin, AGEMPlugin) and plugin.buffers:
        # As AGEMPlugin.update_memory makes them.
        plugin.buffer_dataloader = GroupBalancedInfiniteDataLoader(
            plugin.buffers,
            batch_size=plugin.sample_size // len(plugin.buffers),
            num_workers=0,
            pin_memory=False,
            persistent_workers=False,
        )
        plugin.buffer_dliter = iter(plugin.buffer_dataloader)


def _derived(plugin: Any) -> tuple[str, ...]:
    return next((names for kind, names in _DERIVED.items() if isinstance(plugin, kind)), ())


class _Packer:
    """Values to JSON forms; tensors are put aside by their path."""

    def __init__(self, name: str, stages: int) -> None:
        self.name, self.stages = name, stages
        self.tensors: dict[str, Tensor] = {}

    def form(self, value: Any, path: str) -> Any:
        """Return the form of a value: itself, or ``{kind: ...}``."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor):
            return {"tensor": self._keep(value, path), "device": str(value.device)}
        if isinstance(value, np.ndarray | np.generic):
            return {"array": self._keep(torch.from_numpy(np.array(value)), path)}
        if isinstance(value, dict):
            pairs = [[key, self.form(entry, f"{path}/{key}")] for key, entry in value.items()]
            self._check_keys(value, path)
            return {"dict": pairs}
        if isinstance(value, list | tuple | set):
            entries = [self.form(entry, f"{path}/{i}") for i, entry in enumerate(value)]
            return {type(value).__name__: entries}
        return self._object(value, path)

    def _object(self, value: Any, path: str) -> Any:
        if isinstance(value, torch.device):
            return {"torch.device": str(value)}
        if isinstance(value, ParamData):
            return {"ParamData": [value.name, self.form(value.data, path)]}
        if type(value).__name__ in _CONTAINERS and type(value) in _CONTAINERS.values():
            forms = {key: self.form(entry, f"{path}/{key}") for key, entry in vars(value).items()}
            return {"container": type(value).__name__, "attributes": forms}
        if isinstance(value, AvalancheDataset):
            return self._data_set(value, path)
        if isinstance(value, nn.Module):
            weights = {n: self._keep(t, f"{path}/{n}") for n, t in value.state_dict().items()}
            frozen = [n for n, weight in value.named_parameters() if not weight.requires_grad]
            form = {"network": weights, "stages": self.stages, "training": value.training}
            return form | {"frozen": frozen}
        raise self._refusal(value, path)

    def _data_set(self, value: Any, path: str) -> Any:
        if not len(value):
            return {"samples": None}
        if not hasattr(value, SAMPLE):
            raise self._refusal(value, path)
        numbers = torch.tensor(list(getattr(value, SAMPLE)), dtype=torch.int64)
        return {"samples": self._keep(numbers, path)}

    def _keep(self, tensor: Tensor, path: str) -> str:
        while path in self.tensors or path == LAYOUT:
            path += "'"
        self.tensors[path] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        return path

    def _check_keys(self, value: dict[Any, Any], path: str) -> None:
        for key in value:
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise self._refusal(key, f"{path}, as a key")

    def _refusal(self, value: Any, path: str) -> UsageError:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return UsageError(
            f"method {self.name}: its plugin keeps a {kind} (in {path.replace('/', '.')}), which "
            "no checkpoint can hold as tensors, so that a run of it could not be resumed; it "
            "cannot be used here"
        )


class _Reader:
    """JSON forms to values."""

    def __init__(self, tensors: dict[str, Tensor], rebuild: Rebuild) -> None:
        self.tensors, self.rebuild = tensors, rebuild

    def value(self, form: Any, like: Any = None) -> Any:
        """Return the value of a form.

        Args:
            form: What the packer wrote.
            like: What a newly made plugin has in its place; a dict of a special kind is filled
                rather than replaced.
        """
        if not isinstance(form, dict):
            return form
        kind, inner = next(iter(form.items()))
        match kind:
            case "tensor":
                return self.tensors[inner].to(form["device"], copy=True)
            case "array":
                return self.tensors[inner].numpy().copy()
            case "dict":
                filled = like if isinstance(like, dict) else {}
                filled.clear()
                filled.update((key, self.value(entry)) for key, entry in inner)
                return filled
            case "list" | "tuple" | "set":
                made = {"list": list, "tuple": tuple, "set": set}[kind]
                return made(self.value(entry) for entry in inner)
            case "torch.device":
                return torch.device(inner)
            case "ParamData":
                data = self.value(inner[1])
                return ParamData(inner[0], data.shape, init_tensor=data, device=data.device)
            case "container":
                return self._container(_CONTAINERS[inner], form["attributes"], like)
            case "samples":
                if inner is None:
                    return concat_datasets([])
                return self.rebuild.samples(self.tensors[inner].tolist())
            case "network":
                return self._network(form)
        raise AssertionError(kind)

    def _container(self, kind: Any, attributes: dict[str, Any], like: Any) -> Any:
        filled = like if isinstance(like, kind) else kind.__new__(kind)
        for key, form in attributes.items():
            # Past the properties of the class: what was read are plain attributes.
            vars(filled)[key] = self.value(form, vars(filled).get(key))
        return filled

    def _network(self, form: dict[str, Any]) -> Any:
        network = self.rebuild.network(form["stages"])
        network.load_state_dict(
            {name: self.tensors[path] for name, path in form["network"].items()}
        )
        network.train(form["training"])
        for name, weight in network.named_parameters():
            weight.requires_grad = name not in form["frozen"]
        return network
