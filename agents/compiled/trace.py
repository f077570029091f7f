"""A torch function as a table of operations, which runs on arrays of NumPy or of JAX.

The function is traced once, on examples: torch runs it and notes each operation of its core set,
those of gradients included. What is left is a list of operations without torch. On JAX it may be
compiled, scanned, and mapped over lanes; on NumPy it costs little more than its operations do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast.agents.compiled.decompositions import decompositions
from holdfast.agents.compiled.nesting import Build, Read, Slot, builder, copied, numbered, reader
from holdfast.agents.compiled.operations import operations
from holdfast.agents.compiled.pictures import ON_JAX_ALONE
from holdfast.errors import UsageError

aten = torch.ops.aten

_WITHOUT_EFFECT = frozenset(
    {aten.detach.default, aten.alias.default, aten.clone.default, aten.lift_fresh_copy.default}
)
_OF_SHAPE = frozenset({aten.view.default, aten._unsafe_view.default, aten.expand.default})
_OF_STRIDES = frozenset({aten.as_strided.default, aten.as_strided_scatter.default})
# Where an array lies in memory is the library's own affair.
_OF_MEMORY = ("device", "layout", "pin_memory", "memory_format", "non_blocking")


@dataclass(frozen=True)
class _Operation:
    """An operation with its arguments, in which slots stand for arrays, and its result's slot."""

    target: Any
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    result: int


_Step = Callable[[list[Any]], None]
"""Does one operation: takes arguments out of the values of all slots, and adds the result."""


class Traced:
    """A torch function as a table of operations, of fixed shapes.

    Attributes:
        name: The function's qualified name.
        operations: Number of operations; what has no effect is left out.
        targets: Which operations they are.
    """

    def __init__(
        self, name: str, graph: GraphModule, read: Read, result: Any, places: dict[Any, str]
    ) -> None:
        self.name = name
        self._read = read
        self._result = result
        self._places = places
        table = _Table(graph)
        self._table, self._constants = table.operations, table.constants
        self._size, self._results = table.size, table.results
        self.operations = len(self._table)
        self.targets = frozenset(one.target for one in self._table)

    def on(self, arrays: ModuleType) -> Callable[..., Any]:
        """Return the function on arrays of a library.

        Arguments and result are nested as those of the traced function. A result on NumPy may
        share memory with an argument, as torch's may.

        Args:
            arrays: ``numpy`` or ``jax.numpy``.

        Raises:
            UsageError: If the library lacks an operation.
        """
        table = operations(arrays)
        for target in self.targets - table.keys():
            place = self._places.get(target, "")
            raise UsageError(f"{self.name}: {target} is not there on {arrays.__name__}{place}")
        steps = [_step(table[one.target], one, arrays is np) for one in self._table]
        build = builder(self._result, self._results, arrays.asarray)
        return self._on_numpy(steps, build) if arrays is np else self._on_jax(arrays, steps, build)

    def _on_numpy(self, steps: Sequence[_Step], build: Build) -> Callable[..., Any]:
        read, template = self._read, self._template()
        steps = self._fold(steps, template)

        def function(*arguments: Any) -> Any:
            values: list[Any] = []
            read(arguments, values)
            values += template[len(values) :]
            with np.errstate(all="ignore"):  # torch does not warn either
                for step in steps:
                    step(values)
            return build(values)

        return function

    def _on_jax(
        self, arrays: ModuleType, steps: Sequence[_Step], build: Build
    ) -> Callable[..., Any]:
        read, template = self._read, self._template()

        def function(*arguments: Any) -> Any:
            values: list[Any] = []
            read(arguments, values)
            values += template[len(values) :]
            for slot, constant in self._constants.items():
                values[slot] = arrays.asarray(constant)  # with the precision that is set now
            for step in steps:
                step(values)
            return build(values)

        return function

    def _template(self) -> list[Any]:
        return [self._constants.get(slot) for slot in range(self._size)]

    def _fold(self, steps: Sequence[_Step], values: list[Any]) -> list[_Step]:
        """Do what depends on no argument now; return the other steps."""
        known, others = set(self._constants), []
        for one, step in zip(self._table, steps, strict=True):
            if known.issuperset(_slots_in((one.arguments, *one.named.values()))):
                with np.errstate(all="ignore"):
                    step(values)
                known.add(one.result)
                _protected(values[one.result])
            else:
                others.append(step)
        return others


def traced(function: Callable[..., Any], *examples: Any) -> Traced:
    """Trace a torch function.

    It is called with copies of the examples. What it reads besides its arguments is frozen as it
    is now: tensors, settings, branches taken.

    Args:
        function: Of tensors, or of dicts, lists, tuples and NamedTuples of them, and of None.
        *examples: Its arguments; their shapes and dtypes stay, their values do not.

    Raises:
        UsageError: If it draws random numbers, looks at the value of a tensor, changes an argument
            in place, or uses an operation that is not in the table.
    """
    name = _qualified_name(function)
    leaves: list[Tensor] = []
    rebuild = copied(examples, f"{name}: arguments", leaves)
    results: list[Any] = []

    def flat(*given: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        results[:] = [numbered(function(*rebuild(iter(given))), found)]
        return found

    places = _Places()
    try:
        with _settings():
            graph = _pure(flat, leaves, places)
    except RuntimeError as error:
        raise _refusal(name, error) from error
    _check(name, graph, places.known)
    read = reader(examples, f"{name}: arguments")
    return Traced(name, graph, read, results[0], places.known)


def _pure(flat: Callable[..., Any], leaves: list[Tensor], places: _Places) -> GraphModule:
    """Return the graph of a function without autograd, and without operations in place."""
    with places:
        graph = make_fx(flat, decompositions())(*leaves)
    graph.graph.eliminate_dead_code()
    if any(_is_in_place(node) for node in graph.graph.nodes):
        function = torch.func.functionalize(graph, remove="mutations")
        graph = make_fx(function, decompositions())(*leaves)
        graph.graph.eliminate_dead_code()
    return graph


def _qualified_name(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


@contextmanager
def _settings() -> Iterator[None]:
    """Let distributions take arguments unseen, since checks read values; plain attention."""
    distribution = torch.distributions.Distribution
    validates = distribution._validate_args
    distribution.set_default_validate_args(False)
    try:
        # One record of shapes for the whole trace: torch would make one for each operation.
        shapes = TracingContext(FakeTensorMode(allow_fallback_kernels=True))
        with sdpa_kernel(SDPBackend.MATH), _Unseen(), tracing(shapes):
            yield
    finally:
        distribution.set_default_validate_args(validates)


class _Unseen(TorchFunctionMode):
    """Does without looking at values what torch does with a look at them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is torch.nn.functional.one_hot:
            return _one_hot(*args, **named)
        return func(*args, **named)


def _one_hot(categories: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 0:
        raise UsageError("one_hot: give num_classes, which would depend on values")
    return (categories[..., None] == torch.arange(num_classes)).long()


# -- what cannot be traced -------------------------------------------------------------------------


class _Places(TorchDispatchMode):
    """Notes which line of code called for an operation that NumPy lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[Any, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in self.known and func not in operations(np):
            self.known[func] = _place(_frames(sys._getframe(1)))
        return func(*args, **(kwargs or {}))


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


def _refusal(name: str, error: RuntimeError) -> Exception:
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


def _check(name: str, graph: GraphModule, places: dict[Any, str]) -> None:
    known = operations(np).keys() | ON_JAX_ALONE | _WITHOUT_EFFECT
    for node in graph.graph.nodes:
        target: Any = node.target
        if not isinstance(target, OpOverload) or _is_check(node):
            continue
        place = places.get(target, "")
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise UsageError(
                f"{name} draws random numbers with {target}{place}: they are handed in as arguments"
            )
        if _is_in_place(node):
            raise UsageError(
                f"{name} changes an argument, or a tensor from outside, in place with {target}"
                f"{place}: clone it first"
            )
        if _depends_on_values(node):
            raise UsageError(
                f"{name}: the shape of what {target} returns depends on values{place}; "
                "use torch.where"
            )
        if target in _OF_STRIDES and not node.args[0].meta["val"].is_contiguous():  # type: ignore[union-attr]
            raise UsageError(f"{name}: {target} views a tensor that is not contiguous{place}")
        if target not in known:
            raise UsageError(f"{name} uses {target}, which the compiled engine lacks{place}")


def _is_in_place(node: Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _depends_on_values(node: Node) -> bool:
    if node.target is aten.index.Tensor:  # only with a mask
        indices: Any = node.args[1]
        return any(index is not None and _dtype(index) is torch.bool for index in indices)
    tags = getattr(node.target, "tags", ())
    return torch.Tag.dynamic_output_shape in tags


# -- the table -------------------------------------------------------------------------------------


class _Table:
    """The operations of a graph, with numbers for nodes."""

    def __init__(self, graph: GraphModule) -> None:
        self.operations: list[_Operation] = []
        self.constants: dict[int, Any] = {}
        self.results: list[Slot] = []
        self.size = 0
        self._slots: dict[Node, Slot] = {}
        for node in graph.graph.nodes:
            match node.op:
                case "placeholder":
                    self._slots[node] = self._slot()
                case "get_attr":
                    constant = getattr(graph, node.target).detach().clone().cpu().numpy()
                    self._slots[node] = slot = self._slot()
                    self.constants[slot.index] = _protected(constant)
                case "output":
                    self.results = [self._argument(leaf) for leaf in node.args[0]]
                case _ if not _is_check(node):
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
                wanted, parts = _dtype(node), node.args[0]
                arguments[0] = tuple(self._cast(part, wanted) for part in parts)  # type: ignore[union-attr]
            if any(argument.name == "dtype" for argument in target._schema.arguments):
                named["dtype"] = _dtype(node)
        return self._add(target, tuple(arguments), named)

    def _add(self, target: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Slot:
        slot = self._slot()
        self.operations.append(_Operation(target, arguments, named, slot.index))
        return slot

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, Node):
            return self._slots[argument]
        if isinstance(argument, list | tuple):
            return tuple(self._argument(one) for one in argument)
        return argument

    def _cast(self, node: Any, dtype: torch.dtype) -> Slot:
        slot = self._slots[node]
        if _dtype(node) is dtype:
            return slot
        return self._add(aten._to_copy.default, (slot,), {"dtype": dtype})

    def _promoted(self, node: Node, arguments: list[Any]) -> list[Any]:
        """Cast arguments as torch does: a 0-d tensor does not widen one that has dimensions."""
        first = 1 if node.target is aten.where.self else 0
        nodes = [one for one in node.args[first:] if isinstance(one, Node)]
        wanted = _dtype(node)
        if wanted is torch.bool and nodes:
            wanted = _common(nodes)
        return arguments[:first] + [
            self._cast(given, wanted) if isinstance(given, Node) else argument
            for given, argument in zip(node.args[first:], arguments[first:], strict=True)
        ]


def _dtype(node: Node) -> torch.dtype:
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype


def _common(nodes: list[Node]) -> torch.dtype:
    """Return the dtype in which torch compares tensors."""
    first, *others = [torch.empty((0,) * one.meta["val"].dim(), dtype=_dtype(one)) for one in nodes]
    return torch.result_type(first, others[0]) if others else first.dtype


def _is_check(node: Node) -> bool:
    """Return whether an operation returns nothing, and would at most have raised."""
    return isinstance(node.target, OpOverload) and not node.target._schema.returns


def _does_nothing(node: Node) -> bool:
    if node.target in _WITHOUT_EFFECT:
        return True
    first = node.args[0] if node.args else None
    if not isinstance(first, Node):
        return False
    if node.target is aten._to_copy.default:
        return _dtype(node) is _dtype(first)
    return node.target in _OF_SHAPE and node.meta["val"].shape == first.meta["val"].shape


def _protected(value: Any) -> Any:
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


def _step(function: Callable[..., Any], one: _Operation, is_numpy: bool) -> _Step:
    """Return an operation as a function of the values of all slots."""
    slots = [argument.index for argument in one.arguments if isinstance(argument, Slot)]
    rest = one.arguments[len(slots) :]
    if len(slots) in (1, 2) and all(_is_fixed(a, is_numpy) for a in (*rest, *one.named.values())):
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
) -> _Step:
    """Return a step without a loop over arguments, which costs more than a small operation."""
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
