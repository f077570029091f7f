import re
from pathlib import Path

import pytest

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import InUse, UsageError


def names(folders: list[RunFolder], runs: Path) -> list[str]:
    return [str(folder.path.relative_to(runs)) for folder in folders]


def contents(runs: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}


def test_every_cell_gets_a_folder_of_its_own_scenario(tmp_path: Path, make_scenario) -> None:
    strengths = [{"ewc": {"strength": strength}} for strength in (1, 10)]
    scenario = make_scenario(methods=["naive", *strengths], seeds=[0, 7])
    folders = prepare(tmp_path, scenario)
    assert names(folders, tmp_path) == [
        f"demo/{label}/seed-{seed}"
        for label in ("naive", "ewc-strength=1", "ewc-strength=10")
        for seed in (0, 7)
    ]
    own = RunFolder(folders[3].path).scenario
    assert own == make_scenario(methods=[strengths[0]], seeds=[7])
    assert folders[3].info()["method"] == "ewc-strength=1"
    assert [folder.info()["status"] for folder in folders] == ["pending"] * 6


def test_the_same_scenario_keeps_what_is_there(tmp_path: Path, make_scenario, make_scores) -> None:
    (first,) = prepare(tmp_path, make_scenario())
    first.append(make_scores(0, 0, left=1))
    first.update(status="finished")
    grown = make_scenario(methods=["ewc", "naive"], seeds=[0, 1], description="reworded")
    folders = prepare(tmp_path, grown)
    assert len(folders) == 4
    assert folders[2].path == first.path
    assert folders[2].info()["status"] == "finished"
    assert len(folders[2].scores()) == 2
    assert len(prepare(tmp_path, make_scenario(methods=["cloning"], seeds=[5]))) == 1


def test_a_different_scenario_is_refused_with_the_difference(tmp_path: Path, make_scenario) -> None:
    prepare(tmp_path, make_scenario(seeds=[0, 1]))
    before = contents(tmp_path)
    changed = make_scenario(agent={"algorithm": "ppo", "learning_rate": 1e-4}, methods=["ewc"])
    with pytest.raises(UsageError) as caught:
        prepare(tmp_path, changed)
    text = str(caught.value)
    assert "naive/seed-0 (and 1 more cells) is of a different scenario" in text
    assert re.search(r"^\+.*learning_rate: 0\.0001", text, re.MULTILINE)
    assert "--overwrite" in text
    assert contents(tmp_path) == before  # not even the new method's folder


def test_changed_arguments_of_a_method_are_a_different_scenario(
    tmp_path: Path, make_scenario
) -> None:
    prepare(tmp_path, make_scenario(methods=[{"ewc": {"strength": 1}}]))
    with pytest.raises(UsageError, match="strength: 2"):
        prepare(tmp_path, make_scenario(methods=[{"ewc": {"strength": 2}}]))


def test_overwrite_starts_anew_and_spares_the_rest(tmp_path: Path, make_scenario) -> None:
    for folder in prepare(tmp_path, make_scenario(seeds=[0, 1])):
        folder.update(status="finished")
    (anew,) = prepare(tmp_path, make_scenario(seeds=[0]), overwrite=True)
    assert anew.info()["status"] == "pending"
    other = RunFolder(tmp_path / "demo" / "naive" / "seed-1")
    assert other.info()["status"] == "finished"
    prepare(tmp_path, make_scenario(n_envs=2), overwrite=True)  # seed 1 would not fit any more
    assert not other.path.exists()
    assert [entry.name for entry in (tmp_path / "demo" / "naive").iterdir()] == ["seed-0"]


def test_overwrite_leaves_a_cell_that_is_in_use(tmp_path: Path, make_scenario) -> None:
    folders = prepare(tmp_path, make_scenario(seeds=[0, 1]))
    with folders[1].lock(), pytest.raises(InUse, match=r"seed-1 is in use by process"):
        prepare(tmp_path, make_scenario(seeds=[0, 1]), overwrite=True)
    assert all((folder.path / "scenario.yaml").exists() for folder in folders)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, make_scenario, overwrite: bool
) -> None:
    place = tmp_path / "demo" / "naive" / "seed-0"
    place.mkdir(parents=True)
    (place / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"holds 'thesis\.tex' but is not a run folder"):
        prepare(tmp_path, make_scenario(), overwrite=overwrite)
    assert [entry.name for entry in place.iterdir()] == ["thesis.tex"]


def test_an_interrupted_creation_is_finished(tmp_path: Path, make_scenario) -> None:
    (folder,) = prepare(tmp_path, make_scenario())
    (folder.path / "scenario.yaml").rename(folder.path / ".scenario.yaml.tmp-1")
    (again,) = prepare(tmp_path, make_scenario())
    assert again.scenario == make_scenario()


def test_an_unreadable_scenario_is_refused_until_overwritten(tmp_path: Path, make_scenario) -> None:
    (folder,) = prepare(tmp_path, make_scenario())
    (folder.path / "scenario.yaml").write_bytes(b"key_of_another_version: \xff\n")
    with pytest.raises(UsageError, match="cannot be read as a scenario"):
        prepare(tmp_path, make_scenario())
    (anew,) = prepare(tmp_path, make_scenario(), overwrite=True)
    assert anew.scenario == make_scenario()
