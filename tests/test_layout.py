"""The shape of the project: folders, package map, symlinks, and imports that go leftwards only."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
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

# A file imports from columns to its left, or from its own package.
LEFTMOST = ("errors", "registry", "seeding", "signature")
COLUMNS = dict.fromkeys(LEFTMOST, 0) | {"scenarios": 1, "envs": 2, "agents": 2, "continual": 3}
RIGHTMOST = 4  # the command line, and the package's own lazy names

LIGHT = (
    "holdfast",
    "holdfast.scenarios.load",
    "holdfast.scenarios.schema.scenario",
    "holdfast.continual.results.metrics",
    "holdfast.continual.jobs.run_folders",
    "holdfast.continual.jobs.run",
    "holdfast.continual.jobs.tuning_plan",
    "holdfast.continual.kinds.kind",
    "holdfast.continual.results.record",
    "holdfast.continual.reports.report",
    "holdfast.cli_results",
    "holdfast.cli_tune",
    "holdfast.cli",
)


def modules() -> Iterator[tuple[str, Path]]:
    for path in (ROOT / "src" / "holdfast").glob("*.py"):
        yield f"holdfast.{path.stem}", path
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            inner = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *inner)), path


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and name of every import, those inside functions and TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module == "holdfast":
                yield from ((node.lineno, f"holdfast.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, str(node.module)


def part(module: str) -> str:
    """Return the second word of ``holdfast.envs.make``."""
    return (*module.split("."), "")[1]


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


@pytest.mark.parametrize(("module", "path"), [pytest.param(*m, id=m[0]) for m in modules()])
def test_a_file_imports_only_leftwards(module: str, path: Path) -> None:
    own = part(module)
    column = COLUMNS.get(own, RIGHTMOST)
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module} imports {name}"
        for line, name in imported(path)
        if name.split(".")[0] == "holdfast"
        and part(name) != own
        # The leftmost column and the command line import within themselves too.
        and not (
            COLUMNS.get(part(name), RIGHTMOST) < column
            or COLUMNS.get(part(name), RIGHTMOST) == column in (0, RIGHTMOST)
        )
    ]
    assert wrong == []


# Layers of continual/: a module imports from its own folder and from those to its left.
LAYERS = (
    *("", "results", "streams", "methods", "policies", "kinds", "training", "jobs", "tools"),
    "reports",
)
NAMED = re.compile(r"(holdfast[.\w]*):\w+$")


def layer(module: str) -> int:
    """Return the place of ``holdfast.continual.<folder>...`` in ``LAYERS``."""
    folder = module.split(".")[2]
    return LAYERS.index(folder if folder in LAYERS else "")


CONTINUAL = [(name, path) for name, path in modules() if part(name) == "continual"]


@pytest.mark.parametrize(
    ("module", "path"), [pytest.param(*m, id=m[0]) for m in CONTINUAL if m[1].stem != "__init__"]
)
def test_layers_of_continual(module: str, path: Path) -> None:
    texts = (n.value for n in ast.walk(ast.parse(path.read_text("utf-8"))) if _is_text(n))
    named = [match[1] for text in texts if (match := NAMED.match(text))]
    wrong = [
        name
        for name in [*(name for _, name in imported(path)), *named]
        if name.startswith("holdfast.continual.") and layer(name) > layer(module)
    ]
    assert wrong == []


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


KINDS = re.compile(
    r"is_supervised|policies is (not )?None|def kind_of|isinstance\(.*\b(Single|Team|Supervised)"
)


def test_kinds_of_learners_are_told_apart_in_few_files() -> None:
    """All others ask ``kind_of`` for a part; checks look at what is no valid scenario yet."""
    found = {
        path.relative_to(ROOT).as_posix()
        for name, path in modules()
        if not name.startswith("holdfast.scenarios.checks") and KINDS.search(path.read_text())
    }
    assert found <= {
        "continual/kinds/kind.py",
        "envs/multiagent/parallel.py",
        "scenarios/schema/scenario.py",
    }


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    heavy = ("torch", "avalanche", "stable_baselines3", "matplotlib", "tensorboard", "ray")
    code = f"import sys, {module}\nprint(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout.split(), done.returncode) == ("", [], 0)


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


EXAMPLES = [name for name, path in modules() if ">>> " in path.read_text("utf-8")]


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_in_docstrings_are_right(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
