"""The operations of a trace as a list: what each takes, and where its result goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

from holdfast.agents.tracing.trees import Slot

aten = torch.ops.aten

WITHOUT_EFFECT = frozenset(
    {aten.detach.default, aten.alias.default, aten.clone.default, aten.lift_fresh_copy.default}
)
_OF_SHAPE = frozenset({aten.view.default, aten._unsafe_view.default, aten.expand.default})
# Where an array lies in memory is the library's own affair.
_OF_MEMORY = ("device", "layout", "pin_memory", "memory_format", "non_blocking")


@dataclass(frozen=True)
class Operation:
    """An operation with its arguments, in which slots stand for arrays, and its result's slot."""

    target: Any
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    result: int
    entries: int  # of the result

    def slots(self) -> Iterator[int]:
        """Yield the slots of its arguments."""
        return _slots_in((self.arguments, *self.named.values()))


Step = Callable[[list[Any]], None]
"""Does one operation: takes arguments out of the values of all slots, and adds the result."""


class Table:
    """The operations of a graph, with numbers for nodes.

    Attributes:
        operations: In their order; those without an effect are left out.
        constants: Arrays by slot.
        results: Slots of what the graph returns.
        size: Number of slots; those of the graph's inputs come first.
        inputs: Number of inputs.
    """

    def __init__(self, graph: GraphModule) -> None:
        self.operations: list[Operation] = []
        self.constants: dict[int, Any] = {}
        self.results: list[Slot] = []
        self.size = self.inputs = 0
        self._slots: dict[Node, Slot] = {}
        for node in graph.graph.nodes:
            match node.op:
                case "placeholder":
                    self._slots[node] = self._slot()
                    self.inputs += 1
                case "get_attr":
                    constant = getattr(graph, node.target).detach().clone().cpu().numpy()
                    self._slots[node] = slot = self._slot()
                    self.constants[slot.index] = protected(constant)
                case "output":
                    self.results = [self._argument(leaf) for leaf in node.args[0]]
                case _ if not is_check(node):
                    self._slots[node] = self._operation(node)

    def _slot(self) -> Slot:
        self.size += 1
        return Slot(self.size - 1)

    def _operation(self, node: Node) -> Slot:
        if _does_nothing(node):
            return self._slots[node.args[0]]  # type: ignore[index]  # a node
        target: Any = node.target
        arguments = [self._argument(argument) for argument in node.args]
        named = {
            name: self._argument(value)
            for name, value in node.kwargs.items()
            if name not in _OF_MEMORY
        }
        if isinstance(target, OpOverload):
            if torch.Tag.pointwise in target.tags:
                arguments = self._promoted(node, arguments)
            elif target is aten.cat.default:
                wanted, parts = dtype_of(node), node.args[0]
                arguments[0] = tuple(self._cast(part, wanted) for part in parts)  # type: ignore[union-attr]
            if any(argument.name == "dtype" for argument in target._schema.arguments):
                named["dtype"] = dtype_of(node)
        return self._add(target, tuple(arguments), named, node)

    def _add(
        self, target: Any, arguments: tuple[Any, ...], named: dict[str, Any], like: Node
    ) -> Slot:
        slot = self._slot()
        entries = sum(one.numel() for one in tree_leaves(like.meta["val"]) if one is not None)
        self.operations.append(Operation(target, arguments, named, slot.index, entries))
        return slot

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, Node):
            return self._slots[argument]
        if isinstance(argument, list | tuple):
            return tuple(self._argument(one) for one in argument)
        return argument

    def _cast(self, node: Any, dtype: torch.dtype) -> Slot:
        slot = self._slots[node]
        if dtype_of(node) is dtype:
            return slot
        return self._add(aten._to_copy.default, (slot,), {"dtype": dtype}, node)

    def _promoted(self, node: Node, arguments: list[Any]) -> list[Any]:
        """Cast arguments as torch does: a 0-d tensor does not widen one that has dimensions."""
        first = 1 if node.target is aten.where.self else 0
        nodes = [one for one in node.args[first:] if isinstance(one, Node)]
        wanted = dtype_of(node)
        if wanted is torch.bool and nodes:
            wanted = _common(nodes)
        return arguments[:first] + [
            self._cast(given, wanted) if isinstance(given, Node) else argument
            for given, argument in zip(node.args[first:], arguments[first:], strict=True)
        ]


def dtype_of(node: Node) -> torch.dtype:
    """Return the dtype of a node's result."""
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype


def _common(nodes: list[Node]) -> torch.dtype:
    """Return the dtype in which torch compares tensors."""
    first, *others = [
        torch.empty((0,) * one.meta["val"].dim(), dtype=dtype_of(one)) for one in nodes
    ]
    return torch.result_type(first, others[0]) if others else first.dtype


def is_check(node: Node) -> bool:
    """Return whether an operation returns nothing, and would at most have raised."""
    return isinstance(node.target, OpOverload) and not node.target._schema.returns


def _does_nothing(node: Node) -> bool:
    if node.target in WITHOUT_EFFECT:
        return True
    first = node.args[0] if node.args else None
    if not isinstance(first, Node):
        return False
    if node.target is aten._to_copy.default:
        return dtype_of(node) is dtype_of(first)
    return node.target in _OF_SHAPE and node.meta["val"].shape == first.meta["val"].shape


def protected(value: Any) -> Any:
    """Return a constant that nobody can write into."""
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    return value


# -- steps -----------------------------------------------------------------------------------------


def _slots_in(argument: Any) -> Iterator[int]:
    if isinstance(argument, Slot):
        yield argument.index
    elif isinstance(argument, tuple):
        for one in argument:
            yield from _slots_in(one)


def step_of(function: Callable[..., Any], one: Operation, is_numpy: bool) -> Step:
    """Return an operation as a function of the values of all slots."""
    slots = [argument.index for argument in one.arguments if isinstance(argument, Slot)]
    rest = one.arguments[len(slots) :]
    if len(slots) in (1, 2, 3) and all(
        _is_fixed(a, is_numpy) for a in (*rest, *one.named.values())
    ):
        named = {name: _fixed(argument) for name, argument in one.named.items()}
        settled = tuple(_fixed(argument) for argument in rest)
        bound = partial(function, **named) if named else function
        return _short_step(bound, slots, settled, one.result)
    result = one.result
    arguments = [_getter(argument, is_numpy) for argument in one.arguments]
    getters = {name: _getter(argument, is_numpy) for name, argument in one.named.items()}

    def step(values: list[Any]) -> None:
        values[result] = function(
            *[get(values) for get in arguments],
            **{name: get(values) for name, get in getters.items()},
        )

    return step


def _short_step(
    function: Callable[..., Any], slots: list[int], rest: tuple[Any, ...], result: int
) -> Step:
    """Return a step without a loop over arguments, which costs more than a small operation."""
    first, second, third = (*slots, 0, 0)[:3]

    def unary(values: list[Any]) -> None:
        values[result] = function(values[first])

    def unary_with(values: list[Any]) -> None:
        values[result] = function(values[first], *rest)

    def binary(values: list[Any]) -> None:
        values[result] = function(values[first], values[second])

    def binary_with(values: list[Any]) -> None:
        values[result] = function(values[first], values[second], *rest)

    def ternary_with(values: list[Any]) -> None:
        values[result] = function(values[first], values[second], values[third], *rest)

    if len(slots) == 3:
        return ternary_with
    if len(slots) == 1:
        return unary_with if rest else unary
    return binary_with if rest else binary


def _is_fixed(argument: Any, is_numpy: bool) -> bool:
    """Return whether an argument is the same in all calls."""
    # JAX has 32 bits only, unless it is told otherwise before the call.
    return not any(True for _ in _slots_in(argument)) and (
        is_numpy or not isinstance(argument, torch.dtype)
    )


def _fixed(argument: Any) -> Any:
    return np.dtype(_name(argument)) if isinstance(argument, torch.dtype) else argument


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _getter(argument: Any, is_numpy: bool) -> Callable[[list[Any]], Any]:
    """Return what gives an argument from the values of all slots."""
    if isinstance(argument, Slot):
        index = argument.index
        return lambda values: values[index]
    if _is_fixed(argument, is_numpy):
        settled = _fixed(argument)
        return lambda values: settled
    if isinstance(argument, tuple):
        parts = [_getter(one, is_numpy) for one in argument]
        return lambda values: [get(values) for get in parts]
    from jax.dtypes import canonicalize_dtype

    return lambda values: canonicalize_dtype(_name(argument))
