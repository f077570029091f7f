"""What is released: one version everywhere, and distributions that hold what they should."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
VERSION = SETUP["project"]["version"]
CARRIED = ("scenarios", "agents", "envs", "continual", "src", "tests", "docs", "benchmarks")


def test_one_version_is_told_everywhere() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changes, re.MULTILINE)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert released[0] == (VERSION, cited["date-released"])
    assert cited["version"] == VERSION
    assert cited["authors"] == SETUP["project"]["authors"]  # an entity: it has a name alone
    assert cited["license"] == SETUP["project"]["license"]
    assert {"cff-version", "message", "title"} <= cited.keys()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the source distribution, and the wheel that was built from it."""
    source, into = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("dist")
    left_out = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    source.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
        elif path.name in CARRIED:
            shutil.copytree(path, source / path.name, symlinks=True, ignore=left_out)
    (source / "runs").mkdir()
    shutil.copy(ROOT / "runs" / "README.md", source / "runs")
    command = [sys.executable, "-m", "build", "--no-isolation", "-o", str(into), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return into


def packaged() -> set[str]:
    """Return what the wheel should hold, as the lists in pyproject.toml say it."""
    setup = SETUP["tool"]["setuptools"]
    found = set()
    for package in setup["packages"]:
        root = package
        while root not in setup["package-dir"]:
            root = root.rpartition(".")[0]
        folder = ROOT / setup["package-dir"][root] / package[len(root) + 1 :].replace(".", "/")
        for pattern in ("*.py", *setup["package-data"].get(package, ())):
            for path in folder.glob(pattern):
                if "__pycache__" not in path.parts and not path.is_symlink():
                    found.add(f"{package.replace('.', '/')}/{path.relative_to(folder)}")
    return found


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"holdfast-{VERSION}-py3-none-any.whl"
    assert wheel.stat().st_size < 3_000_000
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if ".dist-info/" not in name}
        beside = {name.partition("/")[2] for name in opened.namelist() if ".dist-info/" in name}
    assert names == packaged()
    assert {"licenses/LICENSE", "METADATA", "entry_points.txt"} <= beside


@pytest.mark.slow
def test_the_source_distribution_holds_what_tests_and_pages_need(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    assert archive.stat().st_size < 6_000_000
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    wanted = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "constraints.txt", "Makefile"}
    wanted |= {"runs/README.md", "docs/start.md", "docs/images/report.png", "pyproject.toml"}
    wanted |= {"tests/conftest.py", "tests/helpers/study.py", "benchmarks/README.md"}
    assert wanted <= names
    assert not [name for name in names if re.search(r"__pycache__|\.pyc$|^runs/(?!README)", name)]


@pytest.mark.slow
def test_the_wheel_runs_from_any_folder(built: Path, tmp_path: Path) -> None:
    """Beside the packages of this environment, which are not installed again."""
    (wheel,) = built.glob("*.whl")
    site, here = tmp_path / "site", tmp_path / "somewhere"
    here.mkdir()
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--target", site, wheel], check=True)
    environ = {**os.environ, "PYTHONPATH": str(site), "XDG_STATE_HOME": str(tmp_path / "state")}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=here, env=environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = python("-c", "import holdfast; print(holdfast.__file__, holdfast.__version__)")
    assert where.split() == [str(site / "holdfast" / "__init__.py"), VERSION]
    steps = [f"tasks[{k}].steps=256" for k in range(3)]
    short = ("seeds=[0]", "methods=[naive]", "evaluation.episodes=1", "evaluation.every=null")
    said = python("-m", "holdfast", "run", "quickstart", *steps, *short)
    assert "| naive | 1 |" in said
    assert (here / "runs" / "quickstart" / "report.html").is_file()
    python("-m", "holdfast", "new", "env", "glider")
    assert "good" in python("-m", "holdfast", "validate", "glider.yaml", "cw10", "reach")
