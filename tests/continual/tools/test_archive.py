"""Archives of runs: what goes in and comes out, and what is refused of one from elsewhere."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cells import run_all
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.reports.report import report
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.tools.archive import PACK, cells_of, pack, unpack
from holdfast.errors import CheckpointUnusable, InUse, UsageError
from holdfast.scenarios.schema.scenario import Scenario

GIVEN = {
    "name": "demo",
    "tasks": [{"name": name, "env": "CartPole-v1", "steps": 16} for name in "abc"],
    "agent": {"algorithm": "ppo", "n_steps": 16, "batch_size": 16, "n_epochs": 1},
    "methods": ["naive", {"ewc": {"samples": 16}}],
    "evaluation": {"episodes": 1},
}
CELL = "demo/naive/seed-0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    run_all(Scenario.model_validate(GIVEN), runs)
    for cell in runs.glob("demo/*/seed-0"):
        RunFolder(cell).update(
            source="/home/ada/lab/demo.yaml",
            folder="/home/ada/lab",
            failures=[{"ended": "x", "reason": "cannot read /home/ada/lab/demo.csv now"}],
        )
    return runs / "demo"


@pytest.fixture(scope="module")
def archive(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("archive") / "demo.zip"
    pack(made, target)
    return target


@pytest.mark.thorough
def test_what_was_packed_is_opened_elsewhere(made: Path, archive: Path, tmp_path: Path) -> None:
    found = unpack(archive, tmp_path / "runs")
    assert sorted(str(cell.path.relative_to(tmp_path / "runs")) for cell in found) == [
        "demo/ewc/seed-0",
        CELL,
    ]
    for cell in found:
        there = made / cell.path.relative_to(tmp_path / "runs" / "demo")
        assert RunFolder(cell.path).scores() == RunFolder(there).scores()
        newest = "checkpoints/task-2/policy.safetensors"
        assert (cell.path / newest).read_bytes() == (there / newest).read_bytes()
        assert not (cell.path / "checkpoints" / "task-0").exists()
        assert not {"tb", "log.txt", "lock"} & {entry.name for entry in cell.path.iterdir()}
    assert report(tmp_path / "runs" / "demo").files
    agent = open_run(tmp_path / "runs" / CELL).agent("c")
    observation, _ = agent.make_env().reset(seed=0)
    assert agent.act(observation) in (0, 1)


def test_nothing_tells_of_the_machine(archive: Path) -> None:
    with zipfile.ZipFile(archive) as zipped:
        info = json.loads(zipped.read(f"{CELL}/run.json"))
        everything = b"".join(zipped.read(name) for name in zipped.namelist())
        assert {entry.date_time[0] for entry in zipped.infolist()} == {1980}
    assert (info["source"], info["folder"], info["host"]) == (None, None, None)
    assert info["failures"][0]["reason"] == "cannot read demo.csv now"
    for trace in (b"/ada", str(Path.home()).encode() + b"/", str(archive.parents[1]).encode()):
        assert trace not in everything


def test_the_same_cells_give_the_same_bytes(made: Path, archive: Path, tmp_path: Path) -> None:
    pack(made, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    every = pack(made, tmp_path / "all.zip", checkpoints="all")
    none = pack(made / "naive", tmp_path / "none.zip", checkpoints="none")
    assert f"{CELL}/checkpoints/task-0/policy.safetensors" in every
    assert not [name for name in none if "checkpoints" in name]
    assert cells_of(none) == [CELL]
    (cell,) = unpack(tmp_path / "none.zip", tmp_path / "runs")
    assert RunFolder(cell.path).scores()


def test_a_scenario_that_names_a_path_is_packed_on_request_alone(
    made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made, tmp_path / "demo")
    scenario = tmp_path / "demo" / "naive" / "seed-0" / "scenario.yaml"
    text = scenario.read_text("utf-8")
    (scenario).write_text(text.replace("description: ''", "description: see /home/ada/notes.md"))
    with pytest.raises(UsageError, match=r"scenario.yaml, line \d+: names '/home/ada/notes.md'"):
        pack(tmp_path / "demo", tmp_path / "demo.zip")
    assert not list(tmp_path.glob("*.zip*")) + list(tmp_path.glob(".*"))
    assert pack(tmp_path / "demo", tmp_path / "demo.zip", with_paths=True)


def test_a_damaged_or_live_cell_is_not_packed(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "demo")
    cell = RunFolder(tmp_path / "demo" / "naive" / "seed-0")
    with cell.lock(), pytest.raises(InUse):
        pack(tmp_path / "demo", tmp_path / "demo.zip")
    weights = cell.path / "checkpoints" / "task-2" / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointUnusable, match="its hash differs"):
        pack(tmp_path / "demo", tmp_path / "demo.zip")
    assert not list(tmp_path.glob("*.zip*"))


# -- archives from elsewhere -----------------------------------------------------------------------

Members = dict[str, bytes]


def contents(archive: Path) -> Members:
    with zipfile.ZipFile(archive) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def write(
    path: Path, members: Members, *, fit: bool = True, entry: Callable[[Any], None] | None = None
) -> Path:
    """Write an archive; ``fit`` makes its PACK.json say what is in it, as a forger would."""
    if fit:
        told = json.loads(members[PACK])
        told["members"] = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in members.items()
            if name != PACK
        }
        members = {**members, PACK: json.dumps(told).encode()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in members.items():
            made = zipfile.ZipInfo(name)
            made.compress_type = zipfile.ZIP_DEFLATED
            if entry is not None:
                entry(made)
            zipped.writestr(made, data)
    return path


def refused(path: Path, folder: Path, message: str, **how: Any) -> None:
    with pytest.raises(CheckpointUnusable) as caught:
        unpack(path, folder / "inner" / "runs", **how)
    assert message in str(caught.value), caught.value
    assert not (folder / "inner" / "runs").exists()  # nothing is left, and nothing was beside it


@pytest.mark.parametrize(
    "name",
    [
        "../escaped.json",
        "/tmp/escaped.json",
        "demo/../../escaped/seed-0/run.json",
        "demo/../seed-0/run.json",
        f"{CELL}/../../../escaped.json",
        f"{CELL}/checkpoints/task-2/../../../../escaped.safetensors",
        f"{CELL}/evil.py",
        f"{CELL}/tb/events.out",
        f"{CELL}/lock",
        "demo\\naive\\seed-0\\run.json",
        "C:/demo/seed-0/run.json",
        f"{CELL}/scores.jsonl/",
    ],
)
def test_names_that_are_no_part_of_a_run(archive: Path, tmp_path: Path, name: str) -> None:
    members = contents(archive) | {name: b"x"}
    refused(write(tmp_path / "a.zip", members), tmp_path, "is no part of a run")
    assert not list(tmp_path.rglob("*escaped*"))


def test_links_and_devices(archive: Path, tmp_path: Path) -> None:
    def link(made: Any) -> None:
        if made.filename.endswith("scores.jsonl"):
            made.external_attr = (stat.S_IFLNK | 0o777) << 16

    members = contents(archive) | {f"{CELL}/scores.jsonl": b"/etc/passwd"}
    refused(write(tmp_path / "a.zip", members, entry=link), tmp_path, "is a link")


@pytest.mark.thorough
def test_bombs(archive: Path, tmp_path: Path) -> None:
    members = contents(archive)
    bomb = write(
        tmp_path / "bomb.zip", members | {f"{CELL}/scores.jsonl": b"0" * 60_000_000 + b"\n"}
    )
    assert bomb.stat().st_size < 1_000_000
    refused(bomb, tmp_path, "--most-gb says how much", most_gb=0.05)
    refused(bomb, tmp_path, "scores.jsonl")  # small enough, and no scores
    told = json.loads(members[PACK])
    told["members"][f"{CELL}/scores.jsonl"]["bytes"] = 10**15
    lying = members | {PACK: json.dumps(told).encode()}
    refused(write(tmp_path / "lying.zip", lying, fit=False), tmp_path, "has another size than")
    nested = members | {PACK: b"[" * 100_000}
    refused(write(tmp_path / "nested.zip", nested, fit=False), tmp_path, "nested too deeply")


def test_what_is_not_as_stated(archive: Path, tmp_path: Path) -> None:
    members = contents(archive)
    weights = f"{CELL}/checkpoints/task-2/policy.safetensors"
    flipped = members[weights][:-1] + bytes([members[weights][-1] ^ 1])
    changed = write(tmp_path / "1.zip", members | {weights: flipped}, fit=False)
    refused(changed, tmp_path, "the hash of")
    forged = write(tmp_path / "2.zip", members | {weights: flipped})  # PACK.json fits, too
    refused(forged, tmp_path, "its hash differs from the manifest's")
    less = {name: data for name, data in members.items() if name != f"{CELL}/run.json"}
    refused(write(tmp_path / "3.zip", less, fit=False), tmp_path, "is not once in PACK.json")
    none = {name: data for name, data in members.items() if name != PACK}
    refused(write(tmp_path / "4.zip", none, fit=False), tmp_path, "has no PACK.json")
    (tmp_path / "5.zip").write_bytes(archive.read_bytes()[:-300])
    refused(tmp_path / "5.zip", tmp_path, "is no archive")
    moved = {name.replace("naive/seed-0", "naive/seed-7"): data for name, data in members.items()}
    refused(write(tmp_path / "6.zip", moved), tmp_path, "holds a run of demo, seed 0")
    odd = members | {f"{CELL}/run.json": b'{"status": "glorious"}'}
    refused(write(tmp_path / "7.zip", odd), tmp_path, "status")


def test_weights_are_data(archive: Path, tmp_path: Path) -> None:
    """A pickle in the place of tensors runs nothing."""
    members = contents(archive)
    marker = tmp_path / "ran"
    pickled = f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode()
    folder = f"{CELL}/checkpoints/task-2"
    manifest = json.loads(members[f"{folder}/MANIFEST.json"])
    stated = {"sha256": hashlib.sha256(pickled).hexdigest(), "bytes": len(pickled)}
    manifest["policy.safetensors"] = stated
    members |= {
        f"{folder}/MANIFEST.json": json.dumps(manifest).encode(),
        f"{folder}/policy.safetensors": pickled,
    }
    refused(write(tmp_path / "a.zip", members), tmp_path, "holds no tensors")
    assert not marker.exists()


def test_duplicates_and_other_compressions(archive: Path, tmp_path: Path) -> None:
    shutil.copy(archive, tmp_path / "a.zip")
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(tmp_path / "a.zip", "a") as zipped,
    ):
        zipped.writestr(f"{CELL}/scores.jsonl", contents(archive)[f"{CELL}/scores.jsonl"])
    refused(tmp_path / "a.zip", tmp_path, "is not once in PACK.json")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_LZMA) as zipped:
        for name, data in contents(archive).items():
            zipped.writestr(name, data)
    refused(tmp_path / "b.zip", tmp_path, "is compressed in a way")


def test_what_is_there_stays(archive: Path, tmp_path: Path) -> None:
    unpack(archive, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="is there; unpack elsewhere with --runs"):
        unpack(archive, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_commands(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    told = run(app, ["pack", str(made)])
    assert told.exit_code == 0
    assert "Written: demo.zip: 2 cells" in told.output
    opened = run(app, ["unpack", "demo.zip", "--runs", "elsewhere"])
    assert opened.exit_code == 0
    assert opened.output.count("Written: elsewhere/demo/") == 2
    assert run(app, ["unpack", "nowhere.zip"]).exit_code == 2
    assert run(app, ["unpack", "demo.zip", "--runs", "elsewhere"]).exit_code == 2


def test_code_that_a_scenario_names_is_listed(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "naive", tmp_path / "demo" / "naive")
    path = tmp_path / "demo" / "naive" / "seed-0" / "scenario.yaml"
    path.write_text(path.read_text("utf-8").replace("CartPole-v1", "mine:World", 1), "utf-8")
    pack(tmp_path / "demo", tmp_path / "demo.zip")
    told = CliRunner().invoke(
        app, ["unpack", str(tmp_path / "demo.zip"), "--runs", str(tmp_path / "runs")]
    )
    assert "tasks[0].env: 'mine:World'" in told.output
