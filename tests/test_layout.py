"""The shape of the project: folders, package map, symlinks, and imports that go leftwards only."""

import ast
import doctest
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
FOLDERS = {
    package: ROOT / folder
    for package, folder in SETUPTOOLS["package-dir"].items()
    if package != "holdfast"
}

# From left to right: a module imports from its own folder and from those before it. A folder stands
# for those below it that are not listed; "" is src/holdfast, with the command line.
ORDER = (
    *("errors", "home", "seeding", "signature", "offers", "registry"),
    *(
        "scenarios.custom_env",
        "scenarios.pictures",
        "scenarios.source",
        "scenarios.schema",
        "scenarios.checks",
    ),
    "scenarios",
    *(
        "envs.datasets",
        "envs.worlds",
        "envs.wrappers",
        "envs.processes",
        "envs.base",
        "envs.envpool",
    ),
    *("envs.multiagent", "envs", "envs.checks"),
    *("agents", "agents.base", "agents.tracing", "agents.doors", "agents.modules"),
    *("agents.detection", "agents.algorithms"),
    *("agents.compiled", "agents.streaming", "agents.sb3", "agents.teams", "agents.supervised"),
    *("continual", "continual.run_folder", "continual.results", "continual.streams"),
    *("continual.methods", "continual.policies", "continual.kinds", "continual.training"),
    "continual.jobs",
    *("continual.probes", "continual.tools", "continual.reports"),
    "",
)
# Neither imports the other, nor do the folders below them.
BESIDE = (
    ("envs", "agents"),
    *(("envs.datasets", f"envs.{folder}") for folder in ("wrappers", "processes", "base")),
    *(("envs.datasets", f"envs.{folder}") for folder in ("envpool", "multiagent", "checks")),
    ("agents.teams", "agents.supervised"),
)
# Tables of plugins: the texts in them may name anything, which is loaded when a user asks for it.
PLUGIN_TABLES = ("holdfast.registry", "holdfast")

RIDDLES = (
    *("absent", "acting", "acting_team", "build", "carrying", "deployed", "differences", "entries"),
    *("findings", "kept", "kinds", "likely", "markdown", "opened", "plain", "prepare", "spent"),
    *("states", "targets", "turns"),
)
MOST_FILES, MOST_LINES = 20, 60

LIGHT = (
    "holdfast",
    "holdfast.scenarios.load",
    "holdfast.scenarios.schema.scenario",
    "holdfast.continual.results.metrics",
    "holdfast.continual.jobs.run_folders",
    "holdfast.continual.jobs.run",
    "holdfast.prompt",
    "holdfast.continual.jobs.tuning_plan",
    "holdfast.continual.kinds.kind",
    "holdfast.continual.run_folder.record",
    "holdfast.continual.reports.report",
    "holdfast.cli_results",
    "holdfast.cli",
)


def modules() -> Iterator[tuple[str, Path]]:
    for path in (ROOT / "src" / "holdfast").glob("*.py"):
        yield _named("holdfast", path.stem), path
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            yield _named(package, *path.relative_to(folder).with_suffix("").parts), path


def _named(*parts: str) -> str:
    return ".".join(parts).removesuffix(".__init__")


MODULES = dict(modules())


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def named(module: str) -> Iterator[tuple[int, str]]:
    """Yield the line and name of every module of ours that a module names.

    By an import at the top, inside a function or under TYPE_CHECKING, or in a text such as
    ``"holdfast.envs.make:build"`` or ``"holdfast.envs.make"``.
    """
    path = MODULES[module]
    for node in ast.walk(tree(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and module not in PLUGIN_TABLES:
            text = re.fullmatch(r"(holdfast(\.\w+)+)\.?(:\w*)?", str(node.value))
            names = [text[1]] if text else []
        for name in names:
            found = ours(name)
            # `import holdfast.envs` names the package; "holdfast.nan" is the key of an info.
            if found and not (found == "holdfast" and isinstance(node, ast.Constant)):
                yield node.lineno, found


def ours(name: str) -> str | None:
    """Return the module of ours in which a dotted name is, or which it is."""
    while name not in MODULES and "." in name:
        name = name.rpartition(".")[0]
    return name if name in MODULES else None


def folder_of(module: str) -> str:
    """Return the entry of ORDER in which a module is."""
    inner = module.removeprefix("holdfast").removeprefix(".")
    is_package = MODULES[module].name == "__init__.py"
    if inner not in ORDER or not (is_package or "." not in inner):
        inner = inner.rpartition(".")[0]
    while inner not in ORDER:
        inner = inner.rpartition(".")[0]
    return inner


def are_beside(one: str, other: str) -> bool:
    """Return whether two folders stand side by side."""
    pairs = [(f"{a}.", f"{b}.") for a, b in BESIDE]
    one, other = f"{one}.", f"{other}."
    return any(
        (one.startswith(a) and other.startswith(b)) or (one.startswith(b) and other.startswith(a))
        for a, b in pairs
    )


def code_folders() -> Iterator[Path]:
    """Yield the folders that hold code, tests and benchmarks too; templates are a user's files."""
    src = ROOT / "src" / "holdfast"
    for root in (*FOLDERS.values(), ROOT / "tests", ROOT / "benchmarks"):
        yield from sorted({path.parent for path in root.rglob("*.py")})
    yield src


def test_package_map_links_and_folders_are_equal() -> None:
    links = {
        path.name: path.resolve()
        for path in (ROOT / "src" / "holdfast").iterdir()
        if path.is_symlink()
    }
    assert {f"holdfast.{name}": target for name, target in links.items()} == FOLDERS
    assert set(FOLDERS) == {f"holdfast.{n}" for n in ("agents", "continual", "envs", "scenarios")}
    assert all(folder == ROOT / folder.name and folder.is_dir() for folder in FOLDERS.values())


def test_every_package_is_listed() -> None:
    found = {
        ".".join((package, *init.parent.relative_to(folder).parts))
        for package, folder in FOLDERS.items()
        for init in folder.rglob("__init__.py")
    }
    assert found | {"holdfast", "holdfast.templates"} == set(SETUPTOOLS["packages"])


def test_every_folder_has_its_place_in_the_order() -> None:
    folders = {name.rpartition(".")[0].removeprefix("holdfast").strip(".") for name in MODULES}
    within = tuple(f"{folder}." for folder in ("continual.methods",))
    assert {folder for folder in folders if not folder.startswith(within)} <= set(ORDER)


@pytest.mark.thorough
def test_arrows_go_leftwards_only() -> None:
    wrong = []
    for module, path in sorted(MODULES.items()):
        own = folder_of(module)
        for line, name in named(module):
            other = folder_of(name)
            if ORDER.index(other) > ORDER.index(own) or are_beside(own, other):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: names {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.thorough
def test_no_modules_form_a_circle() -> None:
    graph = {module: {name for _, name in named(module)} - {module} for module in MODULES}
    circles = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
            break
        except CycleError as error:
            one, other, *rest = error.args[1]
            circles.append(" <- ".join([one, other, *rest]))
            graph[other].discard(one)  # and look for the next one
    assert not circles, "\n".join(circles)


def test_no_folder_has_more_files_than_one_can_look_through() -> None:
    counts = {
        str(folder.relative_to(ROOT)): len(
            [path for path in folder.iterdir() if path.is_file() and path.suffix != ".yaml"]
        )
        for folder in code_folders()
    }
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_no_module_is_named_by_a_riddle() -> None:
    riddles = [str(path.relative_to(ROOT)) for path in MODULES.values() if path.stem in RIDDLES]
    assert riddles == []


@pytest.mark.thorough
def test_functions_fit_on_a_screen() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}, {lines} lines"
        for path in MODULES.values()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MOST_LINES
    ]
    assert long == []


MOST_KINDS = 5
KINDS = re.compile(
    r"is_supervised|policies is (not )?None|def kind_of|isinstance\(.*\b(Single|Team|Supervised)"
)


def test_kinds_of_learners_are_told_apart_in_few_files() -> None:
    """All others ask ``kind_of`` for a part; checks look at what is no valid scenario yet."""
    found = [
        path.relative_to(ROOT).as_posix()
        for name, path in MODULES.items()
        if not name.startswith("holdfast.scenarios.checks") and KINDS.search(path.read_text())
    ]
    assert len(found) <= MOST_KINDS, found


@pytest.mark.thorough
def test_light_modules_import_nothing_heavy() -> None:
    """In one process: what a module brings in first is its own."""
    heavy = ("torch", "avalanche", "stable_baselines3", "matplotlib", "tensorboard", "ray")
    code = f"""
import importlib, json, sys
found, before = {{}}, set()
for module in {LIGHT!r}:
    importlib.import_module(module)
    loaded = {{name for name in {heavy!r} if name in sys.modules}}
    found[module], before = sorted(loaded - before), loaded
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    assert json.loads(done.stdout) == {module: [] for module in LIGHT}


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert headings[0] == PYPROJECT["project"]["version"]


def test_every_dependency_is_pinned_and_no_host_is_named() -> None:
    text = (ROOT / "constraints.txt").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    project = PYPROJECT["project"]
    extras = [
        d for name, ds in project["optional-dependencies"].items() if name != "all" for d in ds
    ]
    wanted = [*project["dependencies"], *extras, *PYPROJECT["dependency-groups"]["dev"]]
    names = {re.split(r"[\[><=~! ]", text)[0].lower().replace("_", "-") for text in wanted}
    assert names - pins.keys() == set()
    assert len(pins) == len(lines)
    assert "://" not in text


EXAMPLES = [name for name, path in MODULES.items() if ">>> " in path.read_text("utf-8")]


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_in_docstrings_are_right(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
