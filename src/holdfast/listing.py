"""Texts of `holdfast list`: environments, algorithms, methods, changes, scenarios."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Collection, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import HoldfastError
from holdfast.offers import Group, offers
from holdfast.printing import aligned
from holdfast.registry import AGENTS, METHODS, PLUGINS
from holdfast.signature import Argument

if TYPE_CHECKING:
    from holdfast.scenarios.describe import MethodRow

# Families of environments that come with Gymnasium and the package that each of them needs.
_NEEDS = {"box2d": "Box2D", "mujoco": "mujoco", "toy_text": "pygame", "classic_control": "pygame"}
_INSTALL = {"mujoco": 'pip install "holdfast[mujoco]"', "box2d": 'pip install "gymnasium[box2d]"'}
# Functional environments: JAX, and no id that gymnasium.make takes as it is.
_LEFT_OUT = ("phys2d", "tabular")


def envs() -> str:
    """Return the environments that are registered with Gymnasium, newest versions, by family."""
    import gymnasium as gym

    newest: dict[tuple[Any, str], Any] = {}
    for spec in gym.registry.values():
        if spec.namespace in _LEFT_OUT or not isinstance(spec.entry_point, str):
            continue
        key = (spec.namespace, spec.name)
        if key not in newest or (spec.version or 0) > (newest[key].version or 0):
            newest[key] = spec
    families: dict[str, list[str]] = {}
    for spec in newest.values():
        families.setdefault(_family(spec), []).append(spec.id)
    blocks = []
    for family, ids in families.items():
        missing = _NEEDS.get(family) and find_spec(_NEEDS[family]) is None
        note = f"  (not installed: {_INSTALL.get(family, _NEEDS[family])})" if missing else ""
        blocks.append(f"{family}{note}\n{_wrapped('  ' + '  '.join(sorted(ids)), 2)}")
    blocks.append(_pooled_families())
    blocks.append(_teams())
    blocks += _offered("environments", "environment")
    blocks.append(
        "Your own: module:Class or module:Id-v0, the module beside the scenario or installed.\n"
        "Will one work? holdfast check-env CartPole-v1"
    )
    return "\n\n".join(blocks)


def _pooled_families() -> str:
    """Return a line for each family of EnvPool's, which scenarios reach by ``backend: envpool``."""
    from holdfast.scenarios.checks.backend import envpool_ids, is_installed

    head = "EnvPool, with backend: envpool in the scenario"
    if not is_installed():
        return f'{head}  (not installed: pip install "holdfast[envpool]")'
    families: dict[str, list[str]] = {}
    for name, module in envpool_ids().items():
        families.setdefault(module.removeprefix("envpool."), []).append(name)
    lines = [
        f"  {family} ({len(names)}): {names[0]}  {names[len(names) // 2]}  {names[-1]}"
        for family, names in families.items()
    ]
    return "\n".join([head, *lines])


def _teams() -> str:
    """Return PettingZoo's environments whose agents act at once, for ``agent.policies``."""
    from pettingzoo.env_registry import registration  # here: nothing else lists teams

    families: dict[str, list[str]] = {}
    for name in registration.parallel_registry:
        family, _, rest = name.partition("/")
        families.setdefault(family, []).append(rest)
    missing = "" if find_spec("mpe2") else '  (not installed: pip install "holdfast[marl]")'
    lines = [f"  {family}/: {'  '.join(names)}" for family, names in families.items()]
    lines.append(f"  mpe2.simple_spread_v3  mpe2.simple_tag_v3  ...{missing}")
    return "\n".join(
        ["PettingZoo, with agent.policies in the scenario", *(_wrapped(t, 4) for t in lines)]
    )


def agents() -> str:
    """Return the algorithms, with what they can do and which arguments scenarios may give."""
    from holdfast.scenarios.describe import describe_algorithms

    blocks = []
    for row in describe_algorithms():
        policy = {True: "on-policy", False: "off-policy", None: "supervised"}[row.on_policy]
        actions = f"; actions: {', '.join(row.actions)}" if row.actions else ""
        blocks.append(
            _block(
                row.name,
                row.summary,
                f"{policy}{actions}; doors: {', '.join(row.doors)}",
                _arguments(row.arguments),
            )
        )
    return "\n\n".join([*blocks, *_offered("agents", "agent", AGENTS)])


def methods() -> str:
    """Return the methods, what they need, and the algorithms that they work with."""
    from holdfast.scenarios.describe import describe_methods

    rows = describe_methods()
    blocks = [_contract(rows)]
    for row in rows:
        told = ", ".join(row.needs).replace("_", " ") or "nothing"
        extra = f"; extra: {row.extra}" if row.extra else ""
        blocks.append(
            _block(
                row.name,
                row.summary,
                f"must be told: {told}; keeps: {row.memory}{extra}",
                f"with: {_with(row.algorithms)}",
                f"not in teams: {row.not_in_teams}" if row.not_in_teams else "",
                f"strength: {row.convention}" if row.convention else "",
                _arguments(row.arguments),
            )
        )
    blocks += _offered("methods", "method", [*METHODS, *PLUGINS])
    blocks.append("Your own: module:Class, the module beside the scenario or installed.")
    return "\n\n".join(blocks)


def changes() -> str:
    """Return what ``changes:`` of a task takes, and the wrappers that installed packages offer."""
    from holdfast.scenarios.schema.changes import Changes, MujocoChanges
    from holdfast.scenarios.schema.fields import descriptions
    from holdfast.scenarios.schema.method_spec import WRAPPERS

    blocks = [_block(key, text) for key, text in descriptions(Changes).items()]
    blocks += [_block(f"mujoco.{key}", text) for key, text in descriptions(MujocoChanges).items()]
    blocks.append(f"As wrappers: beside changes: {', '.join(WRAPPERS)}, or module:Class.")
    return "\n\n".join([*blocks, *_offered("changes", "wrapper", WRAPPERS)])


def presets() -> str:
    """Return the presets of agents: by environment the algorithms, with their source."""
    from holdfast.scenarios.checks import papers

    source = f"Of {papers.zoo()['source']}, commit {papers.zoo()['commit'][:12]}"
    by_env: dict[str, list[str]] = {}
    for algorithm, each in papers.presets().items():
        for env in each:
            by_env.setdefault(env, []).append(algorithm)
    lines = [(env, ", ".join(algorithms)) for env, algorithms in sorted(by_env.items())]
    usage = "agent: {algorithm: ppo, preset: CartPole-v1}; holdfast validate says what it sets."
    return "\n".join([f"{source}: {usage}", "", *aligned(lines)])


def scenarios() -> str:
    """Return the scenarios that come with Holdfast, by family, and those of other packages."""
    from holdfast.scenarios.shipped import FAMILIES, FOLDER, offered, shipped

    blocks = []
    for family, described in FAMILIES.items():
        folder = FOLDER / family
        shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        blocks.append(_wrapped(f"{shown}/: {described}", 2))
        blocks += [
            _shipped(name, file) for name, file in shipped().items() if file.parent == folder
        ]
    for theirs in offered():
        blocks.append(_wrapped(f"{theirs.offer.name}/: of {theirs.offer.origin}", 2))
        blocks += [_shipped(name, file) for name, file in theirs.files.items()]
        blocks += [f"    cannot be used: {theirs.broken}"] if theirs.broken else []
    blocks.append("Any of them runs by its name, from anywhere: holdfast run quickstart")
    return "\n\n".join(blocks)


def _offered(group: Group, noun: str, taken: Collection[str] = ()) -> list[str]:
    """Return a block for each name that installed packages offer; what is broken says why."""
    from holdfast.scenarios.checks.references import NotUsable, read_offered

    blocks = []
    for name, offer in offers(group).items():
        if name in taken:
            told = [f"cannot be used: '{name}' is Holdfast's own name"]
        else:
            try:
                known = read_offered(group, name, None, noun)
            except NotUsable as error:
                told = [str(error)]
            else:
                shown = tuple(a for a in known.arguments if group != "changes" or a.name != "env")
                told = [known.summary, _arguments(shown)]
        blocks.append(_block(f"{name}  (of {offer.origin})", *told))
    return blocks


def _shipped(name: str, path: Path) -> str:
    from holdfast.scenarios.load import load

    try:
        scenario = load(path)
    except HoldfastError as error:  # most often an extra that is not installed
        return _block(f"  {name}", f"cannot run here: {str(error).splitlines()[0]}")
    labels = ", ".join(dict.fromkeys(cell.label for cell in scenario.cells()))
    counts = (
        f"{len(scenario.tasks)} tasks, {scenario.total_steps:,} steps; "
        f"{scenario.agent.algorithm}; methods: {labels}"
    )
    return _block(f"  {name}", " ".join(scenario.description.split()), counts)


_TOLD = {
    "boundaries": "boundaries",
    "task_id": "task id",
    "evaluation_task_id": "id at evaluation",
    "task_count": "task count",
    "score": "score",
}


def _contract(rows: Iterable[MethodRow]) -> str:
    """Return the table of what each method must be told and keeps."""
    head = ("method", *_TOLD.values(), "keeps")
    lines = [
        (row.name, *("x" if need in row.needs else "-" for need in _TOLD), row.memory)
        for row in rows
    ]
    return "\n".join(aligned([head, *lines]))


def _with(algorithms: tuple[str, ...]) -> str:
    """Return the algorithms, or those that are missing where they are the fewer."""
    from holdfast.registry import ALGORITHMS, TEAM_ALGORITHMS

    missing = [name for name in (*ALGORITHMS, *TEAM_ALGORITHMS) if name not in algorithms]
    if len(missing) >= len(algorithms):
        return ", ".join(algorithms)
    return f"all but {', '.join(missing)}" if missing else "all"


def _family(spec: Any) -> str:
    parts = str(spec.entry_point).partition(":")[0].split(".")
    return parts[2] if parts[:2] == ["gymnasium", "envs"] else parts[0]


def _arguments(arguments: Iterable[Argument]) -> str:
    shown = [a.name if a.required else f"{a.name}={a.default_text}" for a in arguments]
    return f"arguments: {', '.join(shown)}" if shown else ""


def _block(head: str, *lines: str) -> str:
    return "\n".join([head, *(_wrapped(f"    {line}", 4) for line in lines if line)])


def _wrapped(text: str, indent: int) -> str:
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    return textwrap.fill(
        text,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
