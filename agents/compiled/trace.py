"""A torch function as a table of operations, which runs on arrays of NumPy or of JAX.

The function is traced once, on examples: torch runs it and notes each operation of its core set,
gradients included. What is left is a list of operations without torch; on JAX it may be compiled,
mapped over lanes and scanned, on NumPy it costs little more than its operations do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from holdfast.agents.compiled.operations import KEPT, operations
from holdfast.errors import UsageError

aten = torch.ops.aten

_NO_OPERATION = frozenset(
    {aten.detach.default, aten.alias.default, aten.clone.default, aten.lift_fresh_copy.default}
)
_SAME_SHAPE = frozenset(
    {aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.expand.default}
)
# Where an array lies in memory is the library's own affair.
_PLACING = ("device", "layout", "pin_memory", "memory_format", "non_blocking")


class _Slot(NamedTuple):
    """Stands for the result of an earlier operation among an operation's arguments."""

    index: int


class _Operation(NamedTuple):
    """An operation: what it is, its arguments, and the slot of its result."""

    target: Any
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    result: int


class Traced:
    """A torch function as a table of operations, of fixed shapes.

    Attributes:
        name: The function's qualified name.
        operations: Number of operations; what does nothing is left out.
    """

    def __init__(self, name: str, graph: GraphModule, read: _Read, outputs: Any) -> None:
        self.name = name
        self._read = read
        self._outputs = outputs
        self._table: list[_Operation] = []
        self._constants: dict[int, Any] = {}
        self._size = 0
        self._slots: dict[Node, _Slot] = {}
        self._results: list[Any] = []
        for node in graph.graph.nodes:
            self._note(graph, node)
        self._slots.clear()
        self.operations = len(self._table)

    def on(self, arrays: ModuleType) -> Callable[..., Any]:
        """Return the function on arrays of a library.

        Arguments and result are nested as those of the traced function; a NumPy result may share
        memory with an argument, as torch's may.

        Args:
            arrays: ``numpy`` or ``jax.numpy``.

        Raises:
            UsageError: If the library lacks an operation.
        """
        table = operations(arrays)
        missing = {str(one.target) for one in self._table if one.target not in table}
        if missing:
            raise UsageError(
                f"{self.name} uses {', '.join(sorted(missing))}, which cannot be done with "
                f"{arrays.__name__}"
            )
        values: list[Any] = [None] * self._size
        for slot, constant in self._constants.items():
            values[slot] = constant
        is_numpy = arrays is np
        steps = self._steps(arrays, values) if is_numpy else self._compiled(arrays)
        return self._function(arrays, values, steps)

    def _function(
        self, arrays: ModuleType, template: list[Any], steps: Sequence[_Step]
    ) -> Callable[..., Any]:
        read, build = self._read, _builder(self._outputs, self._results)
        if arrays is np:

            def on_numpy(*arguments: Any) -> Any:
                values: list[Any] = []
                read(arguments, values)
                values += template[len(values) :]
                with np.errstate(all="ignore"):  # torch does not warn either
                    for step in steps:
                        step(values)
                return build(values, np.asarray)

            return on_numpy

        constants = {slot: template[slot] for slot in self._constants}

        def on_jax(*arguments: Any) -> Any:
            values: list[Any] = []
            read(arguments, values)
            values += template[len(values) :]
            # Made here, and not once: their precision follows JAX's setting of now.
            values = [
                arrays.asarray(value) if slot in constants else value
                for slot, value in enumerate(values)
            ]
            for step in steps:
                step(values)
            return build(values, arrays.asarray)

        return on_jax

    def _steps(self, arrays: ModuleType, values: list[Any]) -> list[_Step]:
        """Return the steps that depend on arguments; do the others now, into ``values``."""
        known, steps = set(self._constants), []
        with np.errstate(all="ignore"):
            for one, step in zip(self._table, self._compiled(arrays), strict=True):
                if all(slot in known for slot in _slots_in((one.arguments, one.named))):
                    step(values)
                    known.add(one.result)
                    _protect(values[one.result])
                else:
                    steps.append(step)
        return steps

    def _compiled(self, arrays: ModuleType) -> list[_Step]:
        table = operations(arrays)
        return [_step(table[one.target], one, arrays) for one in self._table]

    def _note(self, graph: GraphModule, node: Node) -> None:
        match node.op:
            case "placeholder":
                self._slots[node] = self._new_slot()
            case "get_attr":
                slot = self._new_slot()
                constant = getattr(graph, str(node.target)).detach().clone().numpy()
                self._constants[slot.index] = _protect(constant)
                self._slots[node] = slot
            case "output":
                self._results = [self._argument(leaf) for leaf in node.args[0]]  # type: ignore[union-attr]
            case _:
                if _does_nothing(node):
                    self._slots[node] = self._slots[node.args[0]]  # type: ignore[index]
                    return
                target: Any = node.target
                arguments = [self._argument(argument) for argument in node.args]
                named = {
                    name: self._argument(value)
                    for name, value in node.kwargs.items()
                    if name not in _PLACING
                }
                if isinstance(target, OpOverload):
                    if torch.Tag.pointwise in target.tags:
                        arguments = self._promoted(node, arguments)
                    if any(argument.name == "dtype" for argument in target._schema.arguments):
                        named["dtype"] = _dtype(node)
                self._slots[node] = self._add(target, tuple(arguments), named)

    def _new_slot(self) -> _Slot:
        self._size += 1
        return _Slot(self._size - 1)

    def _add(self, target: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> _Slot:
        slot = self._new_slot()
        self._table.append(_Operation(target, arguments, named, slot.index))
        return slot

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, Node):
            return self._slots[argument]
        if isinstance(argument, list | tuple):
            return tuple(self._argument(one) for one in argument)
        return argument

    def _promoted(self, node: Node, arguments: list[Any]) -> list[Any]:
        """Cast arguments as torch does: a 0-d tensor does not widen one that has dimensions."""
        wanted = _dtype(node)
        tensors = [one for one in node.args if isinstance(one, Node)]
        if node.target is aten.where.self:
            tensors = tensors[1:]
        if wanted is torch.bool:
            wanted = _common(tensors)
        return [
            self._add(aten._to_copy.default, (argument,), {"dtype": wanted})
            if given in tensors and _dtype(given) != wanted
            else argument
            for given, argument in zip(node.args, arguments, strict=True)
        ]


_Read = Callable[[Any, list[Any]], None]
_Step = Callable[[list[Any]], None]


def traced(function: Callable[..., Any], *examples: Any) -> Traced:
    """Trace a torch function.

    It is called with copies of the examples. What it reads besides its arguments is frozen as it
    is now: tensors, settings, branches taken.

    Args:
        function: Of nested tensors: dicts, lists, tuples and NamedTuples of them, and None.
        *examples: Its arguments; of their values nothing stays, of shapes and dtypes everything.

    Raises:
        UsageError: If it draws random numbers, looks at the value of a tensor, changes an argument
            in place, or uses an operation that is not in the table.
    """
    name = _qualified_name(function)
    leaves: list[Tensor] = []
    rebuild = _copied(examples, "arguments", leaves)
    read = _reader(examples, "arguments", name)
    outputs: list[Any] = []

    def flat(*given: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        outputs[:] = [_numbered(function(*rebuild(iter(given))), found)]
        return found

    with _without_validation():
        graph = make_fx(flat, _decompositions())(*leaves)
        graph.graph.eliminate_dead_code()
        if any(_changes(node) for node in graph.graph.nodes):
            pure = torch.func.functionalize(graph, remove="mutations")
            graph = make_fx(pure, _decompositions())(*leaves)
            graph.graph.eliminate_dead_code()
    return Traced(name, graph, read, outputs[0])


def _qualified_name(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


@contextmanager
def _without_validation() -> Iterator[None]:
    """Let distributions take their arguments unseen: their checks read values."""
    distribution = torch.distributions.Distribution
    saved = distribution._validate_args
    distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        distribution.set_default_validate_args(saved)


@cache
def _decompositions() -> Mapping[OpOverload, Callable[..., Any]]:
    return {op: rule for op, rule in core_aten_decompositions().items() if op not in KEPT}


# -- nested arguments and results ------------------------------------------------------------------


def _copied(tree: Any, path: str, leaves: list[Tensor]) -> Callable[[Iterator[Tensor]], Any]:
    """Add copies of a tree's tensors to ``leaves``; return what rebuilds it from as many others.

    Copies, because two arguments that are one tensor would be one input of the trace.
    """
    if tree is None:
        return lambda given: None
    if isinstance(tree, Tensor):
        leaves.append(tree.detach().clone())
        return next
    if isinstance(tree, Mapping):
        parts = {key: _copied(one, f"{path}[{key!r}]", leaves) for key, one in tree.items()}
        return lambda given: {key: part(given) for key, part in parts.items()}
    if isinstance(tree, list | tuple):
        items = [_copied(one, f"{path}[{i}]", leaves) for i, one in enumerate(tree)]
        return lambda given: _like(tree, [item(given) for item in items])
    raise UsageError(
        f"{path} is {tree!r}; a function is traced on tensors, and on dicts, lists and tuples "
        "of them: bind other arguments with functools.partial"
    )


def _reader(tree: Any, path: str, name: str) -> _Read:
    """Return what appends the arrays of a tree of this form to a list, in the order of traces."""
    if tree is None:
        return lambda given, into: None
    if isinstance(tree, Tensor):
        shape = tuple(tree.shape)

        def leaf(given: Any, into: list[Any]) -> None:
            if given.shape != shape:
                raise UsageError(
                    f"{name}: {path} has the shape {tuple(given.shape)}; it was traced with {shape}"
                )
            into.append(given)

        return leaf
    keys = list(tree) if isinstance(tree, Mapping) else range(len(tree))
    # By key: JAX hands in dicts that are sorted.
    parts = [(key, _reader(tree[key], f"{path}[{key!r}]", name)) for key in keys]

    def inner(given: Any, into: list[Any]) -> None:
        if len(given) != len(parts):
            raise UsageError(f"{name}: {path} has {len(given)} entries, not {len(parts)}")
        for key, part in parts:
            part(given[key], into)

    return inner


def _numbered(tree: Any, found: list[Tensor]) -> Any:
    """Return a result with numbers for its tensors, which are added to ``found``."""
    if isinstance(tree, Tensor):
        found.append(tree)
        return _Slot(len(found) - 1)
    if isinstance(tree, Mapping):
        return {key: _numbered(one, found) for key, one in tree.items()}
    if isinstance(tree, list | tuple):
        return _like(tree, [_numbered(one, found) for one in tree])
    return tree


def _builder(tree: Any, results: list[Any]) -> Callable[[list[Any], Any], Any]:
    """Return what makes a result out of the values of all slots."""
    if isinstance(tree, _Slot):
        slot = results[tree.index].index
        return lambda values, array: array(values[slot])
    if isinstance(tree, Mapping):
        parts = {key: _builder(one, results) for key, one in tree.items()}
        return lambda values, array: {key: part(values, array) for key, part in parts.items()}
    if isinstance(tree, list | tuple):
        items = [_builder(one, results) for one in tree]
        return lambda values, array: _like(tree, [item(values, array) for item in items])
    return lambda values, array: tree


def _like(tree: Any, items: list[Any]) -> Any:
    """Return items as a list, a tuple, or the NamedTuple that ``tree`` is."""
    if isinstance(tree, list):
        return items
    return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)


# -- nodes of the trace ----------------------------------------------------------------------------


def _dtype(node: Node) -> torch.dtype:
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype


def _common(tensors: list[Node]) -> torch.dtype:
    """Return the dtype in which torch compares tensors."""
    empty = [torch.empty((0,) * one.meta["val"].dim(), dtype=_dtype(one)) for one in tensors]
    return torch.result_type(*empty) if len(empty) == 2 else empty[0].dtype


def _does_nothing(node: Node) -> bool:
    if node.target in _NO_OPERATION:
        return True
    first = node.args[0] if node.args else None
    if not isinstance(first, Node):
        return False
    if node.target is aten._to_copy.default:
        return _dtype(node) == _dtype(first)
    if node.target in _SAME_SHAPE:
        same: bool = node.meta["val"].shape == first.meta["val"].shape
        return same
    return False


def _changes(node: Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


# -- steps -----------------------------------------------------------------------------------------


def _slots_in(argument: Any) -> Iterator[int]:
    if isinstance(argument, _Slot):
        yield argument.index
    elif isinstance(argument, tuple):
        for one in argument:
            yield from _slots_in(one)
    elif isinstance(argument, dict):
        for one in argument.values():
            yield from _slots_in(one)


def _protect(value: Any) -> Any:
    """Return a constant that nobody can write into."""
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    return value


def _step(function: Callable[..., Any], one: _Operation, arrays: ModuleType) -> _Step:
    """Return an operation as a function that reads its arguments' slots and fills its own."""
    result = one.result
    arguments = [_getter(argument, arrays) for argument in one.arguments]
    named = {name: _getter(argument, arrays) for name, argument in one.named.items()}
    slots = [argument.index for argument in one.arguments if isinstance(argument, _Slot)]
    is_plain = not named and not any(
        callable(get) for get in (a for a in arguments if not isinstance(a, _Slot))
    )
    leads = all(isinstance(argument, _Slot) for argument in one.arguments[: len(slots)])
    if is_plain and leads and len(slots) in (1, 2):
        rest = tuple(arguments[len(slots) :])
        return _short_step(function, slots, rest, result)

    def step(values: list[Any]) -> None:
        values[result] = function(
            *[_value(argument, values) for argument in arguments],
            **{name: _value(argument, values) for name, argument in named.items()},
        )

    return step


def _short_step(
    function: Callable[..., Any], slots: list[int], rest: tuple[Any, ...], result: int
) -> _Step:
    first, second = slots[0], slots[-1]

    def unary(values: list[Any]) -> None:
        values[result] = function(values[first])

    def unary_with(values: list[Any]) -> None:
        values[result] = function(values[first], *rest)

    def binary(values: list[Any]) -> None:
        values[result] = function(values[first], values[second])

    def binary_with(values: list[Any]) -> None:
        values[result] = function(values[first], values[second], *rest)

    if len(slots) == 1:
        return unary_with if rest else unary
    return binary_with if rest else binary


def _getter(argument: Any, arrays: ModuleType) -> Any:
    """Return an argument as it is, or a function that gives it from the values of all slots."""
    if isinstance(argument, _Slot):
        return argument
    if isinstance(argument, tuple) and any(True for _ in _slots_in(argument)):
        parts = [_getter(one, arrays) for one in argument]
        return lambda values: [_value(part, values) for part in parts]
    if isinstance(argument, torch.dtype):
        name = str(argument).removeprefix("torch.")
        if arrays is np:
            return np.dtype(name)
        from jax.dtypes import canonicalize_dtype

        return lambda values: canonicalize_dtype(name)
    return argument


def _value(argument: Any, values: list[Any]) -> Any:
    if isinstance(argument, _Slot):
        return values[argument.index]
    return argument(values) if callable(argument) else argument
