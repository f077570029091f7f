"""Checks of names: is the ``module:Name`` or environment there? Nothing is imported."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, ParamSpec

from holdfast.offers import Group, offers
from holdfast.registry import closest, suggestion
from holdfast.scenarios.checks.messages import did_you_mean
from holdfast.signature import Signature, find_source, function_signature, module_names, signature

P = ParamSpec("P")

_ID = re.compile(r"(?:[\w.-]+/)?[\w.-]+-v\d+")
_NAMED = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*:.+")

# Packages that register their environments only when imported, by the start of their ids.
REGISTERED_BY = {
    "ALE/": "ale_py",
    "MiniGrid-": "minigrid",
    "BabyAI-": "minigrid",
    "Meta-World/": "metaworld",
    "Fetch": "gymnasium_robotics",
    "AntMaze": "gymnasium_robotics",
    "PointMaze": "gymnasium_robotics",
    "AdroitHand": "gymnasium_robotics",
    "highway-": "highway_env",
    "merge-": "highway_env",
    "dm_control/": "shimmy",
    "procgen": "procgen",
}
_OLD_ATARI = re.compile(r"(\w+?)(?:NoFrameskip|Deterministic)-v\d")
_INSTALL = {
    "mujoco": '"holdfast[mujoco]"',
    "minigrid": '"holdfast[minigrid]"',
    "envpool": '"holdfast[envpool]"',
    "ale_py": "ale-py",
    "gymnasium_robotics": "gymnasium-robotics",
    "highway_env": "highway-env",
    "Box2D": '"gymnasium[box2d]"',
    "jax": '"gymnasium[jax]"',
}
_GYMNASIUM = "gymnasium.envs."
# What Gymnasium's own environments need, by the start of where they are defined.
_NEEDED_BY = {
    f"{_GYMNASIUM}mujoco": "mujoco",
    f"{_GYMNASIUM}box2d": "Box2D",
    f"{_GYMNASIUM}phys2d": "jax",
    f"{_GYMNASIUM}tabular": "jax",
}
# Action spaces of Gymnasium's own environments, by where they are defined.
_ACTIONS = {
    f"{_GYMNASIUM}classic_control.cartpole": "Discrete",
    f"{_GYMNASIUM}classic_control.mountain_car": "Discrete",
    f"{_GYMNASIUM}classic_control.acrobot": "Discrete",
    f"{_GYMNASIUM}classic_control.continuous_mountain_car": "Box",
    f"{_GYMNASIUM}classic_control.pendulum": "Box",
    f"{_GYMNASIUM}toy_text": "Discrete",
    f"{_GYMNASIUM}box2d.bipedal_walker": "Box",
    f"{_GYMNASIUM}mujoco": "Box",
}

_MPE = (
    *("simple_adversary_v3", "simple_crypto_v3", "simple_push_v3", "simple_reference_v3"),
    *("simple_speaker_listener_v4", "simple_spread_v3", "simple_tag_v3", "simple_v3"),
    "simple_world_comm_v3",
)


class NotUsable(Exception):  # a finding about the scenario, caught where it is placed
    """A name leads to nothing that can be used; the text says why and what to write instead."""


def why_not(check: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> str:
    """Return why a check says ``NotUsable``; empty where it does not."""
    try:
        check(*args, **kwargs)
    except NotUsable as error:
        return str(error)
    return ""


def is_own(name: str) -> bool:
    """Return whether a name is of the form ``module:Name``."""
    return ":" in name


def is_offered(group: Group, name: str) -> bool:
    """Return whether a name is none of Holdfast's forms, and an installed package offers it."""
    return not is_own(name) and "/" not in name and name in offers(group)


def read_offered(group: Group, name: str, folder: Path | None, noun: str) -> Signature:
    """Return the signature of a class that is the user's own, or that a package offers by a name.

    Raises:
        NotUsable: As ``read_own``; of an offer with its name and package.
    """
    if is_own(name):
        return read_own(name, folder, noun)
    offer = offers(group)[name]
    try:
        if offer.broken:
            raise NotUsable(offer.broken)
        return read_own(offer.target, None, noun)
    except NotUsable as error:
        text = f"the {noun} '{name}' that {offer.origin} offers cannot be used: {error}"
        raise NotUsable(text) from error


def read_own(
    target: str,
    folder: Path | None,
    noun: str,
    kind: Literal["class", "function"] = "class",
) -> Signature:
    """Return the signature of a user's own class or function.

    Raises:
        NotUsable: If the module or the class is not there, or may not be named by a scenario.
    """
    module, name = _split(target, noun)
    if not name.isidentifier() or name.startswith("_"):
        raise NotUsable(f"{target!r}: after the colon comes the name of one {kind}")
    try:
        return (signature if kind == "class" else function_signature)(target, folder)
    except ModuleNotFoundError as error:
        raise NotUsable(_no_module(module, error, folder)) from error
    except SyntaxError as error:
        raise NotUsable(_not_python(module, error)) from error
    except AttributeError as error:
        raise NotUsable(_no_name(module, name, module_names(module, folder), noun)) from error


def is_derived(target: str, base: str, folder: Path | None) -> bool:
    """Return whether the class ``module:Class`` is called ``base``, or has such a base class."""
    known = read_own(target, folder, "class")
    return any(one.rpartition(":")[2] == base for one in (known.target, *known.bases))


def run_inside(place: Path, written: str) -> str:
    """Return which run lies in a folder that is none itself; empty where none does."""
    inside = sorted(str(p.parent.relative_to(place)) for p in place.glob("**/checkpoints"))
    return f"; a run is in it: {written.rstrip('/')}/{inside[0]}" if inside else ""


def check_environment(env: str, folder: Path | None) -> None:
    """Raise if no environment is called ``env``.

    Raises:
        NotUsable: With the nearest name, or what to install.
    """
    if is_own(env):
        _check_own_environment(env, folder)
        return
    spec = _registry().get(env)
    if spec is None and is_offered("environments", env):
        read_offered("environments", env, folder, "environment")
        return
    if spec is None:
        raise NotUsable(_no_environment(env, folder))
    if callable(spec.entry_point):  # what Gymnasium has given up is a function that raises
        current = _newest(env)
        hint = f"; write '{current}'" if current else ""
        raise NotUsable(f"'{env}' is no longer part of Gymnasium{hint}")
    for start, package in _NEEDED_BY.items():
        if str(spec.entry_point).startswith(start) and not _installed(package):
            raise NotUsable(f"'{env}' needs the package '{package}'; {_install(package)}")


def is_team(env: str, folder: Path | None) -> bool:
    """Return whether a name is a PettingZoo id, or a module that makes parallel environments."""
    if is_own(env) or is_offered("environments", env):
        with suppress(NotUsable):
            bases = read_offered("environments", env, folder, "environment").bases
            return any(base.rpartition(":")[2] == "ParallelEnv" for base in bases)
        return False
    if "/" in env:
        return not why_not(check_team_environment, env, folder)
    with suppress(ModuleNotFoundError, SyntaxError, ValueError):
        return "parallel_env" in module_names(env, folder)
    return False


def check_team_environment(env: str, folder: Path | None) -> None:
    """Raise if no PettingZoo environment is called ``env``.

    Raises:
        NotUsable: With the nearest name, or what to install.
    """
    if is_own(env):
        _check_own_environment(env, folder)
    elif is_offered("environments", env):
        read_offered("environments", env, folder, "environment")
    elif "/" in env:
        from pettingzoo.env_registry import registration  # here: only ids need it

        known = {*registration.parallel_registry, *registration.aec_registry}
        if re.sub(r"_v(\d+)$", r"-v\1", env) not in known:  # both ways to write it are PettingZoo's
            hint = did_you_mean(env, sorted(known))
            raise NotUsable(f"PettingZoo has no environment '{env}'{hint}")
    else:
        try:
            find_source(env, folder)
        except ModuleNotFoundError as error:
            if env in _registry():
                raise NotUsable(
                    f"'{env}' has one agent, and agent.policies is for many; remove policies:"
                ) from error
            if error.name and error.name != env.partition(".")[0]:
                hint = did_you_mean(env, [f"mpe2.{name}" for name in _MPE], "")
                raise NotUsable(f"no module '{env}'{hint}") from error
            raise NotUsable(_no_module(env, error, folder)) from error


def action_space(env: str) -> str | None:
    """Return ``Box`` or ``Discrete`` for an environment of Gymnasium's own, None for any other."""
    home = _home(env)
    return next((space for start, space in _ACTIONS.items() if home.startswith(start)), None)


def is_mujoco(env: str) -> bool | None:
    """Return whether an environment of Gymnasium's own is a MuJoCo one, None for any other."""
    home = _home(env)
    return home.startswith(f"{_GYMNASIUM}mujoco") if home.startswith(_GYMNASIUM) else None


def _home(env: str) -> str:
    """Return where a registered environment is defined; empty for any other."""
    spec = None if is_own(env) else _registry().get(env)
    return str(spec.entry_point) if spec else ""


def _registry() -> dict[str, Any]:
    import gymnasium  # here, because it takes a fifth of a second and only ids need it

    return gymnasium.registry


@cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _install(package: str) -> str:
    if package in _INSTALL:
        return f"install it with: pip install {_INSTALL[package]}"
    return f"if it is a package, install it: pip install {package.replace('_', '-')}"


def _split(target: str, noun: str) -> tuple[str, str]:
    """Return module and name, refusing modules that no scenario has business with."""
    module, _, name = target.partition(":")
    if module.endswith(".py") or "/" in module or "\\" in module:
        stem = re.split(r"[/\\]", module)[-1].removesuffix(".py")
        advice = f"write the module, not its file: '{stem}:{name}'"
        raise NotUsable(f"{target!r} is not module:Name; {advice}")
    if not _NAMED.fullmatch(target):
        raise NotUsable(f"{target!r} is not module:Name, such as my_robot:Reach")
    root = module.partition(".")[0]
    # All of Python's own modules, not a list of the dangerous ones: scenarios need none of them.
    if root in sys.stdlib_module_names:
        raise NotUsable(f"'{root}' is part of Python and holds no {noun}; it is not imported")
    return module, name


def _no_module(module: str, error: ModuleNotFoundError, folder: Path | None) -> str:
    missing, root = error.name or module, module.partition(".")[0]
    if missing != root:
        above, _, last = missing.rpartition(".")
        near = closest(last, _modules_of(above, folder))
        hint = f"; did you mean '{above}.{near}'?" if near else ""
        return f"no module '{missing}' in the package '{root}'{hint}"
    where = f"neither beside the scenario ({folder}) nor installed" if folder else "not installed"
    near = closest(root, _modules_in(folder))
    whole = f"{near}{module.removeprefix(root)}"
    hint = f"did you mean '{whole}'?" if near else _install(missing)
    return f"no module '{missing}', {where}; {hint}"


def _modules_of(package: str, folder: Path | None) -> list[str]:
    """Return the modules and packages directly in a package; none of what is no package."""
    with suppress(ModuleNotFoundError, SyntaxError):
        source = find_source(package, folder)
        if source.name == "__init__.py":
            inside = sorted(source.parent.iterdir())
            return [e.stem for e in inside if e.suffix == ".py" or (e / "__init__.py").is_file()]
    return []


def _module_with(package: str, text: str, folder: Path | None) -> str:
    """Return the module of a package in whose source a text stands; empty where none has it."""
    for name in ("", *_modules_of(package, folder)):
        module = f"{package}.{name}" if name else package
        with suppress(ModuleNotFoundError, SyntaxError, OSError):
            tree = ast.parse(find_source(module, folder).read_bytes())
            for node in ast.walk(tree):
                named = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
                named = node.name if isinstance(node, ast.ClassDef) else named
                if named == text:
                    return module
    return ""


def _modules_in(folder: Path | None) -> list[str]:
    """Return the modules and packages beside the scenario, and the known environment packages."""
    known = list(_INSTALL)
    beside = sorted(folder.iterdir()) if folder and folder.is_dir() else []
    own = [e.stem for e in beside if e.suffix == ".py" or (e / "__init__.py").is_file()]
    return own + known


def _not_python(module: str, error: SyntaxError) -> str:
    place = f"{error.filename}, line {error.lineno}"
    return f"module '{module}' is not valid Python: {error.msg} ({place})"


def _no_name(module: str, name: str, names: Iterable[str], noun: str) -> str:
    hint = suggestion(name, names, f"; did you mean '{module}:{{}}'?")
    return f"module '{module}' has no {noun} '{name}'{hint}"


def _check_own_environment(env: str, folder: Path | None) -> None:
    module, name = _split(env, "environment")
    try:
        source = find_source(module, folder)
        names = module_names(module, folder)
    except ModuleNotFoundError as error:
        raise NotUsable(_no_module(module, error, folder)) from error
    except SyntaxError as error:
        raise NotUsable(_not_python(module, error)) from error
    if name in names or "__getattr__" in names:
        return
    tree = ast.parse(source.read_bytes())
    texts = {str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    ids = {text for text in texts if _ID.fullmatch(text)}
    if name in texts:
        return
    if _ID.fullmatch(name):
        # It may be registered by anything that the module imports: only a near miss is sure.
        near = closest(name, ids)
        if near:
            message = f"module '{module}' registers no '{name}'; did you mean '{module}:{near}'?"
            raise NotUsable(message)
        return
    inside = _module_with(module, name, folder)
    if inside not in ("", module):
        raise NotUsable(f"module '{module}' has no environment '{name}'; write '{inside}:{name}'")
    if module.partition(".")[0] in ("pettingzoo", "mpe2"):
        whole = f"{module.replace('pettingzoo.mpe', 'mpe2')}.{name}"
        message = f"'{name}' is for many agents; write {whole}, with agent: {{policies: shared}}"
        raise NotUsable(message)
    raise NotUsable(_no_name(module, name, [*names, *ids], "environment"))


def _no_environment(env: str, folder: Path | None) -> str:
    newest = _newest(env)
    if newest:
        return f"no environment '{env}'; did you mean '{newest}'?"
    for start, package in REGISTERED_BY.items():
        if env.startswith(start):
            also = "" if _installed(package) else f"; {_install(package)}"
            return f"'{env}' comes with the package '{package}': write '{package}:{env}'{also}"
    if game := _OLD_ATARI.fullmatch(env):
        return (
            f"'{env}' is an old name of Atari's: write 'ale_py:ALE/{game[1]}-v5' with kwargs: "
            "{frameskip: 1} and wrappers: [atari]"
        )
    usable = [name for name, spec in _registry().items() if not callable(spec.entry_point)]
    near = closest(env, [*usable, *offers("environments")])
    if near:
        return f"no environment '{env}'; did you mean '{near}'?"
    package = env.partition("/")[0]
    if "/" in env and package.isidentifier() and _modules_of(package, folder):
        inside = _module_with(package, env, folder) or package
        return f"no environment '{env}' is registered; did you mean '{inside}:{env}'?"
    module, _, name = env.rpartition(".")
    if module and name.isidentifier() and name != "py":
        return f"no environment '{env}'; a class of your own is written '{module}:{name}'"
    mine = next((known for known in _modules_in(folder) if known in env), None)
    own = f"; one of your own is written '{mine or 'module'}:Class'"
    return f"no environment '{env}'{own} (holdfast list envs shows the others)"


def _newest(env: str) -> str | None:
    """Return the newest version of an id whose version is missing, unknown or given up."""
    base = re.sub(r"-v\d+$", "", env).casefold()
    versions = [
        name
        for name, spec in _registry().items()
        if not callable(spec.entry_point) and re.sub(r"-v\d+$", "", name).casefold() == base
    ]
    return max(versions, key=lambda name: int(name.rpartition("-v")[2] or 0), default=None)
