"""What cannot be traced, and what to say of it: the operation, the function, the line of code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast.agents.tracing.operations import operations
from holdfast.agents.tracing.pictures import ON_JAX_ALONE
from holdfast.agents.tracing.table import WITHOUT_EFFECT, dtype_of, is_check
from holdfast.errors import UsageError

aten = torch.ops.aten

_BY_MASK = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
_OF_STRIDES = frozenset({aten.as_strided.default, aten.as_strided_scatter.default})


class Places(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's has no types
    """Notes which line of code called for an operation that may be refused."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self._known: dict[str, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = _name(func)
        may_be_refused = _has_mask(args[1]) if func in _BY_MASK else func not in operations(np)
        if may_be_refused and name not in self._known:
            self._known[name] = _place(_frames(sys._getframe(1)))
        return func(*args, **(kwargs or {}))

    def of(self, target: Any) -> str:
        """Return the first line that called for an operation, in brackets; empty if unknown."""
        return self._known.get(_name(target), "")


def _has_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype is torch.bool for index in indices)


def _name(target: Any) -> str:
    """Return an operation's name, which it shares with the one in place."""
    name = str(getattr(target, "overloadpacket", target))
    return name.removesuffix("_functional").rstrip("_")


def _frames(frame: FrameType | None) -> Iterator[tuple[str, int, str]]:
    """Yield file, line and function of the callers, from the innermost."""
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
        frame = frame.f_back


def _raised_at(traceback: TracebackType | None) -> Iterator[tuple[str, int, str]]:
    """Yield file, line and function that an error went through, from the innermost."""
    if traceback is not None:
        yield from _raised_at(traceback.tb_next)
        code = traceback.tb_frame.f_code
        yield code.co_filename, traceback.tb_lineno, code.co_name


_MACHINERY = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def _place(frames: Iterator[tuple[str, int, str]]) -> str:
    """Return the innermost line that is neither torch's nor ours, in brackets."""
    for file, line, name in frames:
        if not file.startswith((*_MACHINERY, "<")):
            return f" ({file}:{line}, in {name})"
    return ""


def refusal(name: str, error: RuntimeError) -> Exception:
    """Return what to raise where torch could not trace a function."""
    place = _place(_raised_at(error.__traceback__))
    text = str(error)
    if "_local_scalar_dense" in text or "data-dependent" in text:
        return UsageError(
            f"{name} looks at the value of a tensor{place}: no .item() and no branch on data can "
            "be traced; use torch.where, or decide before"
        )
    if "mutating a non-functional tensor" in text:
        return UsageError(f"{name} changes a tensor from outside in place{place}; hand it in")
    return error


def check(name: str, graph: GraphModule, places: Places) -> None:
    """Raise UsageError for what an engine cannot run.

    Args:
        name: Of the function.
        graph: Its trace.
        places: Lines of code that called for its operations.
    """
    known = operations(np).keys() | ON_JAX_ALONE | WITHOUT_EFFECT
    for node in graph.graph.nodes:
        target: Any = node.target
        if not isinstance(target, OpOverload) or is_check(node):
            continue
        place = places.of(target)
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise UsageError(
                f"{name} draws random numbers with {target}{place}: they are handed in as arguments"
            )
        if is_in_place(node):
            raise UsageError(
                f"{name} changes an argument, or a tensor from outside, in place with {target}"
                f"{place}: clone it first"
            )
        if _depends_on_values(node):
            raise UsageError(
                f"{name}: how many entries {target} takes depends on values{place}; use torch.where"
            )
        first: Any = node.args[0] if node.args else None
        if target in _OF_STRIDES and not first.meta["val"].is_contiguous():
            raise UsageError(f"{name}: {target} views a tensor that is not contiguous{place}")
        if target not in known:
            raise UsageError(f"{name} uses {target}, which the compiled engine lacks{place}")


def is_in_place(node: Node) -> bool:
    """Return whether an operation changes a tensor."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _depends_on_values(node: Node) -> bool:
    if node.target in _BY_MASK:  # only with a mask
        indices: Any = node.args[1]
        masks = [one for one in indices if one is not None and dtype_of(one) is torch.bool]
        if not masks or node.target is aten.index.Tensor:
            return bool(masks)
        x, mask, values = (one.meta["val"].dim() for one in (node.args[0], masks[0], node.args[2]))  # type: ignore[union-attr]
        return len(indices) > 1 or values > x - mask  # as many values as the mask has
    tags = getattr(node.target, "tags", ())
    return torch.Tag.dynamic_output_shape in tags
