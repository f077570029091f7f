"""Weights and optimizer state of a Stable-Baselines3 model as named tensors, and back."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.agents.base.agent import Files
from holdfast.agents.base.parameters import ENTROPY_COEFFICIENT, below, grouped, optimizers_of
from holdfast.errors import CheckpointUnusable, HoldfastError, UsageError
from holdfast.scenarios.source.regular_file import read


def policy_tensors(model: Any) -> dict[str, Tensor]:
    """Return one contiguous copy per name of ``policy.state_dict()``, plus ``log_ent_coef``.

    Some policies share storage under three names; a copy per name is what safetensors can hold.
    """
    tensors = {name: _copy(tensor) for name, tensor in model.policy.state_dict().items()}
    learned = getattr(model, ENTROPY_COEFFICIENT, None)
    return tensors | ({} if learned is None else {ENTROPY_COEFFICIENT: _copy(learned)})


@contextmanager
def of_checkpoint(stem: str) -> Iterator[None]:
    """Tell what goes wrong inside as a fault of a checkpoint's file, by its stem.

    Raises:
        CheckpointUnusable: Whatever went wrong: nobody else made the tensors.
    """
    try:
        yield
    except Exception as error:
        text = (
            str(error) if isinstance(error, HoldfastError) else f"{type(error).__name__}: {error}"
        )
        raise CheckpointUnusable(
            f"checkpoint, {stem}.safetensors: its tensors do not fit this agent: {text[:500]}"
        ) from error


def check_policy(model: Any, tensors: dict[str, Tensor], *, may_grow: bool = False) -> None:
    """Raise unless tensors are all of a policy's, so that nothing is loaded in part.

    Args:
        model: Whose policy.
        tensors: As ``policy_tensors`` gives them.
        may_grow: Whether the policy may have more of them, newly built by a method.

    Raises:
        UsageError: If one is missing, there is one too many, or is of another shape or type.
    """
    wanted = policy_tensors(model)
    missing = [] if may_grow else [name for name in wanted if name not in tensors]
    wrong = [
        name
        for name, tensor in tensors.items()
        if name not in wanted
        or wanted[name].shape != tensor.shape
        or wanted[name].dtype != tensor.dtype
    ]
    if missing or wrong:
        what = f"lacks {missing[0]}" if missing else f"has another {wrong[0]}, or one too many"
        raise UsageError(f"it {what} ({len(missing)} missing, {len(wrong)} strange)")


def load_policy(model: Any, tensors: dict[str, Tensor], is_fresh: Callable[[str], bool]) -> None:
    """Load carried weights by name; what the new policy has besides stays newly built.

    Raises:
        UsageError: If a carried tensor has no place of its name and shape.
    """
    current = model.policy.state_dict()
    carried = {n: t for n, t in tensors.items() if n != ENTROPY_COEFFICIENT and not is_fresh(n)}
    misfits = [
        f"{name} {tuple(tensor.shape)}, here {tuple(current[name].shape)}"
        if name in current
        else f"{name} {tuple(tensor.shape)}, here absent"
        for name, tensor in carried.items()
        if name not in current or current[name].shape != tensor.shape
    ]
    if misfits:
        raise UsageError(
            "the weights do not fit this agent's networks: " + "; ".join(misfits[:3]) + ". "
            "Use the same algorithm, policy_kwargs, task_id and spaces as the run they come from"
        )
    model.policy.load_state_dict(current | carried)
    learned = getattr(model, ENTROPY_COEFFICIENT, None)
    if learned is not None and ENTROPY_COEFFICIENT in tensors and not is_fresh(ENTROPY_COEFFICIENT):
        learned.data.copy_(tensors[ENTROPY_COEFFICIENT])


def optimizer_tensors(model: Any) -> dict[str, Tensor]:
    """Return optimizer state as ``<optimizer>/<parameter>/<quantity>``; not its learning rate."""
    return {
        f"{index}/{parameter}/{quantity}": _copy(value)
        for index, optimizer in enumerate(optimizers(model))
        for parameter, state in optimizer.state_dict()["state"].items()
        for quantity, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimizers(model: Any, tensors: dict[str, Tensor], *, with_entropy: bool = True) -> None:
    """Take back what ``optimizer_tensors`` gave.

    Args:
        model: Whose optimizers.
        tensors: Their state.
        with_entropy: Whether to load that of the entropy coefficient; else it stays newly built.
    """
    entropy = getattr(model, "ent_coef_optimizer", None)
    for index, optimizer in enumerate(optimizers(model)):
        if optimizer is entropy and not with_entropy:
            continue
        # load_state_dict keeps the tensors it is given: without a copy two models share them.
        own = {path: tensor.clone() for path, tensor in below(tensors, str(index)).items()}
        state = {int(parameter): kept for parameter, kept in grouped(own).items()}
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


MOST_BYTES = 4 << 30
"""Of a zip, and of what is in it: more is not read."""
_VARIABLES = ("pytorch_variables.pth", "tensors.pth")
_POLICY = "policy.pth"


def read_zip(path: Path) -> Files:
    """Return the weights of a Stable-Baselines3 zip, read as tensors only.

    ``load`` would unpickle the file's ``data`` member, which runs whatever code it names. Here the
    members that hold weights are read and no others, and nothing is written anywhere.

    Raises:
        UsageError: If the file is not such a zip, or a member is not what it should be; the text
            names it.
        CheckpointUnusable: If it is no regular file.
    """
    try:
        content = read(path.resolve(), MOST_BYTES, folders=0)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_members(path, archive.infolist())
            members = {
                name: archive.read(name)
                for name in (_POLICY, *_VARIABLES)
                if name in archive.namelist()
            }
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such file") from error
    except HoldfastError:
        raise
    except Exception as error:  # a zip from anywhere: any failure to read it means the same
        raise UsageError(f"{path}: not a Stable-Baselines3 zip: {error}") from error
    if _POLICY not in members:
        raise UsageError(f"{path}: has no member {_POLICY}, so no weights to start from")
    tensors = _tensors(path, _POLICY, members.pop(_POLICY))
    for name, member in members.items():
        variables = _tensors(path, name, member)
        if ENTROPY_COEFFICIENT in variables:
            tensors[ENTROPY_COEFFICIENT] = variables[ENTROPY_COEFFICIENT].detach()
    return {"policy": tensors}


def _check_members(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Raise if a member has a path for a name, comes twice, or all are too large together."""
    names = [member.filename for member in members]
    for name in names:
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or not parts[0] or ":" in name or names.count(name) > 1:
            raise UsageError(f"{path}: member {name[:200]!r} belongs into no such zip")
    largest = max(members, key=lambda member: member.file_size, default=None)
    if largest is not None and sum(member.file_size for member in members) > MOST_BYTES:
        raise UsageError(
            f"{path}: its members would be larger than {MOST_BYTES:,} bytes, "
            f"{largest.filename[:200]!r} alone {largest.file_size:,}"
        )


def _tensors(path: Path, name: str, content: bytes) -> dict[str, Tensor]:
    """Return the named tensors in a file of torch's, whose pickle may name nothing else."""
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as inner:  # torch compresses nothing
                if sum(one.file_size for one in inner.infolist()) > len(content):
                    raise ValueError("it is compressed, which torch does not do")
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(found, Mapping):
            raise ValueError(f"holds {type(found).__name__}, not named tensors")
        tensors = dict(found)
        if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items()):
            raise ValueError("holds other things than named tensors")
    except Exception as error:  # as above
        first = str(error).strip().partition("\n")[0][:200]
        raise UsageError(f"{path}: not a Stable-Baselines3 zip: member {name}: {first}") from error
    return tensors


def optimizers(model: Any) -> list[torch.optim.Optimizer]:
    """Return the optimizers of a model: of its policy's parts, and of the entropy coefficient."""
    entropy = getattr(model, "ent_coef_optimizer", None)
    return [*optimizers_of(model.policy), *([] if entropy is None else [entropy])]


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
