"""Names that packages offer by entry points: the sample package, installed and broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast import listing, offers
from holdfast.errors import ScenarioError
from holdfast.scenarios import shipped
from holdfast.scenarios.checks.own_code import offering_packages, own_code
from holdfast.scenarios.load import load

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "helpers" / "sample_package"
LINE = """\
tasks: [{name: a, env: line, steps: 64, wrappers: [{fog: {thickness: 0.3}}]}]
agent: {algorithm: patient-ppo, gamma: 0.99}
methods: [naive]
"""


def forget() -> None:
    offers.offers.cache_clear()
    shipped.offered.cache_clear()


def written(folder: Path, name: str, groups: dict[str, dict[str, str]]) -> Path:
    """Write the metadata of an installed package, as pip does."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "utf-8")
    lines = []
    for group, points in groups.items():
        lines += [f"[holdfast.{group}]", *(f"{n} = {target}" for n, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def groups_of_the_sample() -> dict[str, dict[str, str]]:
    import tomllib

    points = tomllib.loads((SAMPLE / "pyproject.toml").read_text("utf-8"))["project"][
        "entry-points"
    ]
    return {group.removeprefix("holdfast."): names for group, names in points.items()}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The sample package beside its metadata, without the time that a build takes."""
    site = written(tmp_path / "site", "holdfast-sample", groups_of_the_sample())
    (site / "holdfast_sample").symlink_to(SAMPLE / "src" / "holdfast_sample")
    monkeypatch.syspath_prepend(str(site))
    forget()
    yield site
    forget()
    for name in [name for name in sys.modules if name.startswith("holdfast_sample")]:
        del sys.modules[name]


def scenario(folder: Path, text: str = LINE) -> Path:
    path = folder / "own.yaml"
    path.write_text(text, "utf-8")
    return path


def test_names_of_every_group_are_good(installed: Path, tmp_path: Path) -> None:
    loaded = load(scenario(tmp_path, LINE.replace("naive", "naive, {anchor: {strength: 1e1}}")
                           .replace("patient-ppo", "ppo")))  # fmt: skip
    assert [method.label for method in loaded.methods] == ["naive", "anchor"]
    assert offering_packages(loaded) == {"holdfast-sample": "1.0"}
    assert own_code(loaded) == ()  # what is installed was chosen
    assert load(scenario(tmp_path)).agent.algorithm == "patient-ppo"
    assert load("fog-on-the-line").name == "fog-on-the-line"
    assert "holdfast_sample.worlds" not in sys.modules


def test_lists_show_them_with_their_package(installed: Path) -> None:
    shown = {what: getattr(listing, what)() for what in ("methods", "agents", "envs", "changes")}
    assert "anchor  (of holdfast-sample 1.0)\n    Pulls each weight" in shown["methods"]
    assert "patient-ppo  (of holdfast-sample 1.0)\n    PPO that looks" in shown["agents"]
    assert "line  (of holdfast-sample 1.0)\n    A point on a line" in shown["envs"]
    fog = shown["changes"].partition("fog  (of holdfast-sample 1.0)")[2]
    assert fog.splitlines()[1:] == [
        "    Shows nothing that is further away than it is thick.",
        "    arguments: thickness=0.5",
    ]
    assert "time_limit\n    Steps after which an episode is cut." in shown["changes"]
    words = " ".join(f"{shown['methods']} {shown['envs']}".split())
    assert "'halved' that holdfast-sample 1.0 offers cannot be used: module" in words
    assert "'gone' that holdfast-sample 1.0 offers cannot be used: no module" in words
    assert not [name for name in sys.modules if name.startswith("holdfast_sample.")]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("env: line", "env: gone", "the environment 'gone' that holdfast-sample 1.0 offers cannot"),
        ("env: line", "env: lien", "no environment 'lien'; did you mean 'line'?"),
        ("naive", "halved", "module 'holdfast_sample.methods' has no method 'Missing'"),
        ("naive", "anchr", "no method 'anchr'; did you mean 'anchor'?"),
        ("naive", "{anchor: {strenght: 1}}", "'anchor' has no argument 'strenght'"),
        ("naive", "anchor", "'anchor' needs the gradients door of the algorithm"),
        ("patient-ppo", "patient-pppo", "did you mean 'patient-ppo'?"),
        ("[{fog: {thickness: 0.3}}]", "[fogg]", "no wrapper 'fogg'; did you mean 'fog'?"),
        ("wrappers: [{fog: {thickness: 0.3}}]", "changes: {fog: 0.3}", "write wrappers: [fog]"),
    ],
)
def test_mistakes_name_the_offer(
    installed: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in LINE
    with pytest.raises(ScenarioError) as caught:
        load(scenario(tmp_path, LINE.replace(old, new)))
    assert any(message in problem.message for problem in caught.value.problems), caught.value


def test_two_packages_with_one_name_are_both_named(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {
        "methods": {"anchor": "holdfast_sample.methods:Anchor", "naive": "a.b:C", "odd": "x y"}
    }
    monkeypatch.syspath_prepend(str(written(tmp_path / "other", "holdfast-other", other)))
    forget()
    shown = " ".join(listing.methods().split())
    assert "both offer it; uninstall one" in shown
    assert "naive (of holdfast-other 1.0) cannot be used: 'naive' is Holdfast's own name" in shown
    assert "it names 'x y', which is not module:Class" in shown
    with pytest.raises(ScenarioError, match=r"holdfast-other 1\.0 and holdfast-sample 1\.0 both"):
        load(scenario(tmp_path, LINE.replace("naive", "anchor").replace("patient-", "")))
    naive = load(scenario(tmp_path))  # Holdfast's own name wins
    assert naive.methods[0].label == "naive"


def test_a_world_that_is_offered_is_checked_and_made(installed: Path, tmp_path: Path) -> None:
    from holdfast.envs.base.loading import ImportFailed, build
    from holdfast.envs.find import find

    assert find("line", tmp_path).targets == ("line",)
    env = build("line", {"wind": 1.0})
    env.reset(seed=0)
    before = float(env.unwrapped.place[0])  # type: ignore[attr-defined]  # the sample's
    assert env.step(1)[0] == pytest.approx(before + 0.1, abs=1e-6)
    with pytest.raises(ImportFailed, match="the sample's loud module was imported"):
        build("loud", {})


@pytest.mark.slow
def test_the_sample_is_built_installed_and_run(tmp_path: Path) -> None:
    """As its user would, in processes of their own; what is broken in it harms nothing."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = tmp_path / "source"
    _copied(SAMPLE, source)
    wheels = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path)]
    subprocess.run([*pip, *wheels, str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True
    )

    def holdfast(*arguments: str, code: int = 0) -> str:
        path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
        done: Any = subprocess.run(
            [sys.executable, "-m", "holdfast", *arguments],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return str(done.stdout + done.stderr)

    assert "fog-on-the-line\n" in holdfast("list", "scenarios")
    assert "good; 2 tasks, 2 cells" in holdfast("validate", "fog-on-the-line")
    assert "line" in holdfast("check-env", "line")
    holdfast("run", "fog-on-the-line")
    infos = [json.loads(path.read_text("utf-8")) for path in tmp_path.glob("runs/**/run.json")]
    assert [info["status"] for info in infos] == ["finished", "finished"]
    assert {info["versions"]["holdfast-sample"] for info in infos} == {"1.0"}
    alone = LINE.replace("64", "2048")
    scenario(tmp_path, alone)
    holdfast("run", "own.yaml")
    scenario(tmp_path, LINE.replace("line", "loud").replace("own", "loud"))
    told = holdfast("validate", "own.yaml", "--build", code=2)
    assert "importing 'holdfast_sample.loud' failed: RuntimeError" in told


def _copied(source: Path, into: Path) -> None:
    """Copy the sample, so that its build writes nothing beside it."""
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            target = into / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
