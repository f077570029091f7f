"""Arguments of a class, read from its source by ``ast``: nothing is imported, nothing runs.

Importing Stable-Baselines3 takes seconds and importing a user's file runs it; checking a scenario
needs neither. Imports are followed, to re-exported names and inherited arguments.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, TypeVar

Definition = TypeVar("Definition", ast.ClassDef, ast.FunctionDef)

DOORS = ("gradients", "memory", "networks", "lifecycle", "output", "plugins")
"""Doors that the class of a method may declare."""

CONTRACT = (
    "Methods are handed the doors that they declare, not the agent: doors = ("
    '"gradients", ...); pre_adapt(self, doors, experience), post_adapt(self, doors, experience), '
    "load_state(self, doors, tensors); doors.facts, doors.step, doors.log and doors.warn are there "
    "without being declared"
)
"""Error text for a method that is written for the agent itself."""

_WITHOUT_DECLARING = frozenset({"facts", "step", "log", "warn"})

_MAX_HOPS = 12  # imports and base classes followed; a cycle ends here


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor.

    Attributes:
        name: Its name.
        annotation: The annotation as text, aliases of the same file written out; empty without one.
        required: Whether it has no default.
        default: The default where it is a literal, else None.
        default_text: The default as written; empty without one.
        limits: Smallest and largest value where the annotation says ``Annotated[int, (1, None)]``;
            None where there is no largest, or no annotation of that form.
    """

    name: str
    annotation: str = ""
    required: bool = True
    default: Any = None
    default_text: str = ""
    limits: tuple[float, float | None] | None = None


@dataclass(frozen=True)
class Signature:
    """The arguments and attributes of a class, as its source says them.

    Attributes:
        target: ``module:Class`` where the class is defined (a re-export is followed).
        summary: First line of its docstring.
        arguments: Of ``__init__`` without ``self``, inherited where there is none of its own; of a
            dataclass, its fields before those that it inherits.
        attributes: Class attributes that are literals, inherited ones included.
        names: Class attributes that map text to names: ``{"MlpPolicy": "module:Class"}``.
        bases: Every base class that could be followed, nearest first, as ``module:Class``.
        takes_any: Whether ``__init__`` has ``**kwargs``, so that unknown names may be right.
    """

    target: str
    summary: str = ""
    arguments: tuple[Argument, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    bases: tuple[str, ...] = ()
    takes_any: bool = False


@dataclass(frozen=True)
class Module:
    """The parsed source of a module, and its names at the top level."""

    name: str
    path: Path
    names: dict[str, ast.stmt | ast.expr | ast.alias]
    stars: tuple[str, ...]


_Known = dict[tuple[str, Path | None], Signature]

_installed: _Known = {}
_beside: _Known | None = None


@contextmanager
def remembering() -> Iterator[None]:
    """Read each class beside a scenario once inside the block, where its file stays as it is."""
    global _beside
    _beside = {}
    try:
        yield
    finally:
        _beside = None


def signature(target: str, folder: Path | None = None) -> Signature:
    """Return the constructor arguments and literal attributes of ``module:Class``.

    What is installed is read once in the life of the process.

    Args:
        target: For example ``stable_baselines3.ppo.ppo:PPO``.
        folder: Folder of the scenario, looked in after everything installed; None for what is
            installed.

    Raises:
        ModuleNotFoundError: If the module is not there, or has no Python source.
        AttributeError: If the module has no such class.
        SyntaxError: If the file is not Python.
    """
    known = _installed if folder is None else {} if _beside is None else _beside
    if (target, folder) not in known:
        known[target, folder] = _read(*_found(target, folder, ast.ClassDef), folder, _MAX_HOPS)
    return known[target, folder]


def function_signature(target: str, folder: Path | None = None) -> Signature:
    """Return the arguments of ``module:function``; errors as for ``signature``."""
    module, node = _found(target, folder, ast.FunctionDef)
    arguments, takes_any = _arguments(module, node)
    return Signature(f"{module.name}:{node.name}", _summary(node), arguments, takes_any=takes_any)


def _found(target: str, folder: Path | None, kind: type[Definition]) -> tuple[Module, Definition]:
    module_name, _, name = target.partition(":")
    found = _follow(module_name, name, folder, kind=kind)
    if found is None:
        noun = "class" if kind is ast.ClassDef else "function"
        raise AttributeError(f"module '{module_name}' has no {noun} '{name}'")
    return found


def _summary(node: ast.ClassDef | ast.FunctionDef) -> str:
    """Return the first line of a docstring."""
    return (ast.get_docstring(node) or "").strip().partition("\n")[0].strip()


def broken_contract(target: str, folder: Path | None = None) -> str:
    """Return how a method's class reaches past its doors, as its source shows; else "".

    Only its own functions are read, and what they read of their first argument.
    """
    module_name, _, name = target.partition(":")
    found = _follow(module_name, name, folder, kind=ast.ClassDef)
    for function in found[1].body if found else ():
        if not isinstance(function, ast.FunctionDef) or function.name not in _HANDED_DOORS:
            continue
        handed = [argument.arg for argument in function.args.args[1:2]]
        if "agent" in handed:
            return f"{function.name} takes an agent. {CONTRACT}"
        for node in ast.walk(function):
            match node:
                case ast.Attribute(value=ast.Name(id=owner), attr=read) if (
                    owner in handed and read not in (*DOORS, *_WITHOUT_DECLARING)
                ):
                    return f"{function.name} reads {owner}.{read}, which is no door. {CONTRACT}"
    return ""


_HANDED_DOORS = ("pre_adapt", "post_adapt", "load_state", "due")


def module_names(module_name: str, folder: Path | None = None) -> tuple[str, ...]:
    """Return the public names at the top level of a module, those of star imports included.

    Raises:
        ModuleNotFoundError: If the module is not there, or has no Python source.
        SyntaxError: If the file is not Python.
    """
    return tuple(name for name in _all_names(module_name, folder, _MAX_HOPS) if name[0] != "_")


def find_source(module_name: str, folder: Path | None = None) -> Path:
    """Return the file of a module, found without importing it or its parents.

    Raises:
        ModuleNotFoundError: If it is not there, or has no Python source; ``name`` is what lacks.
    """
    parts = module_name.split(".")
    spec = _find_top(parts[0], folder)
    for end in range(2, len(parts) + 1):
        if spec is None:
            break
        missing = ".".join(parts[:end])
        spec = _find_below(missing, list(spec.submodule_search_locations or ()))
        if spec is None:
            raise ModuleNotFoundError(f"no module '{missing}'", name=missing)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise ModuleNotFoundError(f"no module '{module_name}'", name=parts[0])
    return Path(spec.origin)


def _find_top(name: str, folder: Path | None) -> ModuleSpec | None:
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # already imported without a spec, as `__main__` is
        spec = None
    # A namespace package (a mere folder of that name on the path) does not hide the user's module.
    if folder is not None and (spec is None or spec.origin is None):
        importlib.invalidate_caches()  # a file written a moment ago would not be seen
        spec = PathFinder.find_spec(name, [str(folder.resolve())]) or spec
    return spec


def _find_below(name: str, locations: list[str]) -> ModuleSpec | None:
    spec = PathFinder.find_spec(name, locations)
    if spec is None and name.rpartition(".")[0] in sys.modules:
        # Editable installs map folders by a finder of their own; the parent is imported already.
        spec = importlib.util.find_spec(name)
    return spec


def _module(module_name: str, folder: Path | None) -> Module:
    path = find_source(module_name, folder)
    return _parse(module_name, path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _parse(name: str, path: Path, _modified: int) -> Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape in somebody's text is not our business
        try:
            tree = ast.parse(path.read_bytes(), filename=str(path))
        except ValueError as error:  # null bytes, which later Pythons call a SyntaxError
            raise SyntaxError(str(error), (str(path), 1, 1, "")) from error
    names: dict[str, ast.stmt | ast.expr | ast.alias] = {}
    stars: list[str] = []
    for statement in _statements(tree.body):
        match statement:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names[statement.name] = statement
            case ast.Assign(targets=targets, value=value):
                names.update((t.id, value) for t in targets if isinstance(t, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value):
                names[target] = value
            case ast.Import(names=aliases):
                names.update((a.asname or a.name.partition(".")[0], a) for a in aliases)
            case ast.ImportFrom(names=aliases):
                if aliases[0].name == "*":
                    stars.append(_absolute(statement, name, path))
                names.update((a.asname or a.name, statement) for a in aliases if a.name != "*")
    return Module(name, path, names, tuple(stars))


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run at import, those inside ``if`` and ``try`` included."""
    for statement in body:
        yield statement
        for part in ("body", "orelse", "finalbody"):
            if isinstance(statement, ast.If | ast.Try | ast.With):
                yield from _statements(getattr(statement, part, []))


def _absolute(statement: ast.ImportFrom, module_name: str, path: Path) -> str:
    """Return the full name of the module that ``from ... import`` names."""
    package = module_name if path.name == "__init__.py" else module_name.rpartition(".")[0]
    try:
        return importlib.util.resolve_name(
            "." * statement.level + (statement.module or ""), package
        )
    except ImportError:  # it leads out of the package
        return ""


def _all_names(module_name: str, folder: Path | None, hops: int) -> Iterator[str]:
    module = _module(module_name, folder)
    yield from module.names
    for star in module.stars if hops else ():
        try:
            yield from _all_names(star, folder, hops - 1)
        except (ModuleNotFoundError, SyntaxError):
            continue  # not installed or not Python: its names cannot be offered


def _follow(
    module_name: str,
    name: str,
    folder: Path | None,
    hops: int = _MAX_HOPS,
    *,
    kind: type[Definition],
) -> tuple[Module, Definition] | None:
    """Return the class (or function) called ``name``, and the module that defines it."""
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        return None  # typing.Protocol and its like say nothing about arguments
    module = _module(module_name, folder)
    node = module.names.get(name)
    if isinstance(node, kind):
        return module, node
    sources = [(star, name) for star in module.stars] if node is None else []
    if isinstance(node, ast.ImportFrom):
        original = next(a.name for a in node.names if (a.asname or a.name) == name)
        sources = [(_absolute(node, module.name, module.path), original)]
    if isinstance(node, ast.Name):
        sources = [(module_name, node.id)]
    for source, original in sources if hops else ():
        try:
            found = _follow(source, original, folder, hops - 1, kind=kind)
        except (ModuleNotFoundError, SyntaxError):
            continue  # imported from what is not there: the class was not found
        if found:
            return found
    return None


def _read(module: Module, node: ast.ClassDef, folder: Path | None, hops: int) -> Signature:
    inherited = [_read(*base, folder, hops - 1) for base in _bases(module, node, folder, hops)]
    attributes: dict[str, Any] = {}
    names: dict[str, dict[str, str]] = {}
    for base in reversed(inherited):
        attributes |= base.attributes
        names |= base.names
    for name, value in _assigned(node):
        try:
            attributes[name] = ast.literal_eval(value)
        except ValueError:
            names |= _named_classes(module, name, value)
    inits = (s for s in node.body if isinstance(s, ast.FunctionDef) and s.name == "__init__")
    own = next(inits, None)
    arguments, takes_any = _arguments(module, own) if own else ((), False)
    arguments = arguments[1:]  # self
    if own is None and inherited:
        arguments, takes_any = inherited[0].arguments, inherited[0].takes_any
    if own is None and any("dataclass" in ast.unparse(line) for line in node.decorator_list):
        fields = {argument.name: argument for argument in _fields(module, node)}
        arguments = (*fields.values(), *(a for a in arguments if a.name not in fields))
    bases = tuple(t for base in inherited for t in (base.target, *base.bases))
    return Signature(
        target=f"{module.name}:{node.name}",
        summary=_summary(node),
        arguments=arguments,
        attributes=attributes,
        names=names,
        bases=tuple(dict.fromkeys(bases)),
        takes_any=takes_any,
    )


def _assigned(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for statement in node.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value


def _fields(module: Module, node: ast.ClassDef) -> Iterator[Argument]:
    """Yield the arguments that a dataclass makes of its annotated attributes."""
    for statement in node.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                is_state = value is not None and "init=False" in ast.unparse(value)
                if not is_state and not ast.unparse(annotation).startswith("ClassVar"):
                    yield _argument(module, ast.arg(name, annotation), value)


def _bases(
    module: Module, node: ast.ClassDef, folder: Path | None, hops: int
) -> Iterator[tuple[Module, ast.ClassDef]]:
    for expression in node.bases if hops else ():
        target = _target(module, expression)
        if target is None:
            continue
        try:
            found = _follow(*target, folder, kind=ast.ClassDef)
        except (ModuleNotFoundError, SyntaxError):
            continue  # a base that is not installed fails when the class is built, by name
        if found and found[1] is not node:
            yield found


def _target(module: Module, expression: ast.expr) -> tuple[str, str] | None:
    """Return module and name of a base written ``Name``, ``Name[...]`` or ``package.Name``."""
    match expression:
        case ast.Subscript(value=value):
            return _target(module, value)
        case ast.Name(id=name):
            return (module.name, name)
        case ast.Attribute(value=value, attr=attribute):
            prefix = ast.unparse(value)
            first, _, rest = prefix.partition(".")
            origin = module.names.get(first)
            if isinstance(origin, ast.alias):
                full = origin.name if origin.asname else first
                return (f"{full}.{rest}" if rest else full, attribute)
            if isinstance(origin, ast.ImportFrom):
                parent = _absolute(origin, module.name, module.path)
                return (f"{parent}.{prefix}", attribute)
    return None


def _named_classes(module: Module, name: str, value: ast.expr) -> dict[str, dict[str, str]]:
    """Return ``{name: {text: "module:Class"}}`` for a dict display of text to class names."""
    if not isinstance(value, ast.Dict):
        return {}
    found: dict[str, str] = {}
    for key, entry in zip(value.keys, value.values, strict=True):
        if isinstance(key, ast.Constant) and isinstance(entry, ast.Name):
            found[str(key.value)] = f"{module.name}:{entry.id}"
    return {name: found} if found else {}


def _arguments(module: Module, node: ast.FunctionDef) -> tuple[tuple[Argument, ...], bool]:
    spec = node.args
    positional = [*spec.posonlyargs, *spec.args]
    missing: list[ast.expr | None] = [None] * (len(positional) - len(spec.defaults))
    defaults = [*missing, *spec.defaults, *spec.kw_defaults]
    pairs = zip([*positional, *spec.kwonlyargs], defaults, strict=True)
    arguments = tuple(_argument(module, arg, default) for arg, default in pairs)
    return arguments, spec.kwarg is not None


def _argument(module: Module, arg: ast.arg, default: ast.expr | None) -> Argument:
    annotation, limits, stated = "", None, arg.annotation
    match stated:
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[stated, span])):
            with suppress(ValueError):  # metadata of another kind
                limits = ast.literal_eval(span)
    if stated is not None:
        annotation = ast.unparse(_Aliases(module).visit(stated))
    if default is None:
        return Argument(arg.arg, annotation, limits=limits)
    try:
        value = ast.literal_eval(default)
    except ValueError:
        value = None
    return Argument(arg.arg, annotation, False, value, ast.unparse(default), limits)


class _Aliases(ast.NodeTransformer):
    """Writes out ``Kind`` where the file says ``Kind = Literal["a", "b"]``."""

    def __init__(self, module: Module) -> None:
        self.module = module

    def visit_Name(self, node: ast.Name) -> ast.AST:  # the name that ast calls
        """Return the aliased annotation, or the name as it is."""
        value = self.module.names.get(node.id)
        return value if isinstance(value, ast.Subscript | ast.BinOp) else node
