"""A torch function as a table of operations, which runs on arrays of NumPy or of JAX.

The function is traced once, on examples: torch runs it and notes each operation of its core set,
those of gradients included. What is left is a list of operations without torch. On JAX it may be
compiled, scanned, and mapped over lanes; on NumPy it costs little more than its operations do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from holdfast.agents.tracing.decompositions import decompositions
from holdfast.agents.tracing.operations import operations
from holdfast.agents.tracing.refusals import Places, check, is_in_place, refusal
from holdfast.agents.tracing.table import Operation, Step, Table, protected, step_of
from holdfast.agents.tracing.trees import Build, Read, builder, copied, numbered, reader
from holdfast.errors import UsageError

_FEW = 1000
"""Entries of a constant that is computed before JAX is told of it; it makes larger ones itself."""


class Traced:
    """A torch function as a table of operations, of fixed shapes.

    Attributes:
        name: The function's qualified name.
        operations: Number of operations; what has no effect is left out.
        targets: Which operations they are.
    """

    def __init__(
        self,
        name: str,
        graph: GraphModule,
        examples: tuple[Any, ...],
        result: Any,
        places: Places,
    ) -> None:
        self.name = name
        self._reads = [
            reader(one, f"{name}: arguments[{number}]") for number, one in enumerate(examples)
        ]
        leaves, form = tree_flatten(examples)
        shapes = [None if one is None else (tuple(one.shape), one.dtype) for one in leaves]
        self._form = f"{form} {shapes}"
        self._result = result
        self._places = places
        table = Table(graph)
        self._table, self._constants = table.operations, table.constants
        self._size, self._inputs, self._results = table.size, table.inputs, table.results
        self.operations = len(self._table)
        self.targets = frozenset(one.target for one in self._table)

    def content(self) -> Hashable:
        """Return what is equal for traces that do the same to arguments of the same form."""
        constants = (
            (slot, one.dtype.str, one.shape, one.tobytes()) for slot, one in self._constants.items()
        )
        table = repr((self._table, self._inputs, self._results, self._result))
        return self._form, table, tuple(constants)

    def on(self, arrays: ModuleType) -> Any:
        """Return the function on arrays of a library.

        Arguments and result are nested as those of the traced function. A result on NumPy may
        share memory with an argument, as torch's may.

        Args:
            arrays: ``numpy`` or ``jax.numpy``.

        Returns:
            A function; on NumPy it is an ``OnNumpy``.

        Raises:
            UsageError: If the library lacks an operation.
        """
        table = operations(arrays)
        for target in self.targets - table.keys():
            place = self._places.of(target)
            raise UsageError(f"{self.name}: {target} is not there on {arrays.__name__}{place}")
        build = builder(self._result, self._results, arrays.asarray)
        values, left = self._folded(math.inf if arrays is np else _FEW)
        steps = [step_of(table[one.target], one, arrays is np) for one in left]
        rest = values[self._inputs :]
        if arrays is np:
            return OnNumpy(self.name, self._reads, partial(_run, rest, steps, build))
        used = {slot.index for slot in self._results}.union(*(one.slots() for one in left))
        constants = {slot: values[slot] for slot in used if values[slot] is not None}
        return self._on_jax(arrays, rest, steps, build, constants)

    def _on_jax(
        self,
        arrays: ModuleType,
        rest: list[Any],
        steps: Sequence[Step],
        build: Build,
        constants: dict[int, Any],
    ) -> Callable[..., Any]:
        def function(*arguments: Any) -> Any:
            given = _read(self.name, self._reads, arguments, [])
            values = [arrays.asarray(one) for one in given]  # outside jit it may be NumPy's
            values += rest
            for slot, constant in constants.items():
                values[slot] = arrays.asarray(constant)  # with the precision that is set now
            for step in steps:
                step(values)
            return build(values)

        return function

    def _folded(self, most: float) -> tuple[list[Any], list[Operation]]:
        """Do what depends on no argument now, with NumPy, as torch would do it.

        A compiler would reorder it: a division by a constant rounds otherwise in XLA.

        Args:
            most: Entries of a result that is worth keeping.

        Returns:
            The values of all slots, and the operations that are left.
        """
        table, known = operations(np), set(self._constants)
        values = [self._constants.get(slot) for slot in range(self._size)]
        left = []
        for one in self._table:
            if one.target in table and one.entries <= most and known.issuperset(one.slots()):
                with np.errstate(all="ignore"):
                    step_of(table[one.target], one, True)(values)
                known.add(one.result)
                protected(values[one.result])
            else:
                left.append(one)
        return values, left


class OnNumpy:
    """A traced function on NumPy.

    Args:
        name: The function's.
        reads: What reads each argument.
        run: Makes the result of what was read.
    """

    def __init__(self, name: str, reads: list[Read], run: Callable[[list[Any]], Any]) -> None:
        self._name, self._reads, self._run = name, reads, run

    def __call__(self, *arguments: Any) -> Any:
        """Return the function's result."""
        return self._run(_read(self._name, self._reads, arguments, []))

    def having(self, *leading: Any) -> Callable[..., Any]:
        """Return the function of its other arguments; many arrays take time to be read."""
        count = len(leading)
        before = _read(self._name, self._reads[:count], leading, [])
        name, reads, run = self._name, self._reads[count:], self._run
        return lambda *arguments: run(_read(name, reads, arguments, before.copy()))


def _read(name: str, reads: list[Read], arguments: tuple[Any, ...], into: list[Any]) -> list[Any]:
    """Return a list with the arrays of all arguments behind what was in it."""
    if len(arguments) != len(reads):
        raise UsageError(f"{name} takes {len(reads)} arguments, not {len(arguments)}")
    for read, one in zip(reads, arguments, strict=True):
        read(one, into)
    return into


def _run(rest: list[Any], steps: Sequence[Step], build: Build, values: list[Any]) -> Any:
    values += rest
    with np.errstate(all="ignore"):  # torch does not warn either
        for step in steps:
            step(values)
    return build(values)


def traced(function: Callable[..., Any], *examples: Any, name: str | None = None) -> Traced:
    """Trace a torch function.

    It is called with copies of the examples. What it reads besides its arguments is frozen as it
    is now: tensors, settings, branches taken.

    Args:
        function: Of tensors, or of dicts, lists, tuples and NamedTuples of them, and of None.
        *examples: Its arguments; their shapes and dtypes stay, their values do not.
        name: What errors call it; its qualified name where none is given.

    Raises:
        UsageError: If it draws random numbers, looks at the value of a tensor, changes an argument
            in place, or uses an operation that is not in the table.
    """
    name = name or _qualified_name(function)
    leaves: list[Tensor] = []
    rebuild = copied(examples, f"{name}: arguments", leaves)
    results: list[Any] = []

    def flat(*given: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        results[:] = [numbered(function(*rebuild(iter(given))), found)]
        return found

    places = Places()
    try:
        with _settings():
            graph = _pure(flat, leaves, places)
    except RuntimeError as error:
        raise refusal(name, error) from error
    check(name, graph, places)
    return Traced(name, graph, examples, results[0], places)


def _pure(flat: Callable[..., Any], leaves: list[Tensor], places: Places) -> GraphModule:
    """Return the graph of a function without autograd, and without operations in place."""
    with places:
        graph = make_fx(flat, decompositions())(*leaves)
    graph.graph.eliminate_dead_code()
    if any(is_in_place(node) for node in graph.graph.nodes):
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
