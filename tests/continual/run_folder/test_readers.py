"""Each file of a run folder has one reader, which says what is wrong and where."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.continual.results.document import read_section
from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.files import csv_table, temporary, write_whole
from holdfast.continual.run_folder.plasticity_record import read_points
from holdfast.continual.run_folder.readers import MOST_BYTES, plain
from holdfast.continual.run_folder.record import SCORES, RunFolder
from holdfast.errors import CheckpointUnusable
from holdfast.scenarios.source.regular_file import opened, read


@pytest.fixture
def folder(tmp_path: Path, make_scenario: Any) -> RunFolder:
    return RunFolder.create(tmp_path / "demo" / "naive" / "seed-0", make_scenario())


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 40 + b"]" * 40, "nested more than 32 levels deep"),
        (b"[" + b"9" * 5000 + b"]", "not JSON"),
        (b"[" + b"9" * 400 + b"]", "a whole number is too large"),
        (b"[1e999]", "a number is too large"),
        (b"[NaN]", "NaN is no number"),
        (b'["' + b"x" * 1_100_000 + b'"]', "a text is too long"),
        (b"\xff\xfe", "not JSON"),
        (b"", "not JSON"),
    ],
)
def test_json_has_bounds(content: bytes, fault: str) -> None:
    with pytest.raises(CheckpointUnusable, match=f"^here: .*{fault}"):
        plain(content, "here")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"status": "odd"}', "status: Input should be 'pending', 'running'"),
        ('{"wall_s": "1"}', "wall_s: Input should be a valid number"),
        ('{"failures": [{"ended": 3}]}', "failures.0.ended: Input should be a valid string"),
        ('{"position": -1}', "position: Input should be greater than or equal to 0"),
        ('{"sweep": 3}', "sweep: Input should be a valid dictionary"),
        ("null", "holds NoneType, not a JSON object"),
    ],
)
def test_run_json_is_named_with_the_entry(folder: RunFolder, text: str, fault: str) -> None:
    (folder.path / "run.json").write_text(text, "utf-8")
    with pytest.raises(CheckpointUnusable, match=re.escape(f"run.json: {fault}")):
        folder.info()


def test_a_large_file_is_refused_before_it_is_read(folder: RunFolder) -> None:
    with (folder.path / "run.json").open("wb") as file:
        file.truncate(10**12)  # sparse: it takes no room
    with pytest.raises(CheckpointUnusable, match=r"has 1,000,000,000,000 bytes, at most 8,388,608"):
        folder.info()
    with (folder.path / SCORES).open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(CheckpointUnusable, match=r"scores\.jsonl: has 1,000,000,000,000 bytes"):
        folder.scores()
    assert set(MOST_BYTES) >= {"scenario.yaml", "MANIFEST.json", "state.json", "journal.log"}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"stage": 3}, "no evaluation at stage 3, step 0"),
        ({"stage": 1, "step": 21}, "no evaluation at stage 1, step 21"),
        ({"task": "middle"}, "no task 'middle'"),
        ({"step": -1}, "a number is too large, or below 0"),
        ({"return": 10**400}, "a number is too large, or below 0"),
        ({"length": 2**70}, "a number is too large, or below 0"),
        ({"agents": {"a": None}}, "a value is of another type"),
        ({"opponent": 3}, "a value is of another type"),
    ],
)
def test_scores_are_of_this_scenario_and_within_bounds(
    folder: RunFolder, make_scores: Any, changes: dict[str, Any], fault: str
) -> None:
    folder.append([{**make_scores(0, 0, left=1)[0], **changes}])
    with pytest.raises(CheckpointUnusable, match=re.escape(fault)):
        folder.scores()


def test_points_of_plasticity_are_numbers(folder: RunFolder) -> None:
    for text in ('{"stage": 0}', '[{"stage": "0", "step": 1}]', "[[]]", "[{}]"):
        (folder.path / "plasticity.json").write_text(text, "utf-8")
        with pytest.raises(CheckpointUnusable, match=r"plasticity\.json"):
            read_points(folder.path)


def test_a_section_from_elsewhere_means_nothing_to_markdown(tmp_path: Path) -> None:
    path = tmp_path / "cross-play.json"
    path.write_text('[["T", [{"text": ["![x](http://y) `z`", {"text": "<b>"}]}]]]', "utf-8")
    (paragraph,) = read_section(path).blocks
    assert [part.style for part in paragraph.text] == ["given", "given"]  # type: ignore[union-attr]  # a Paragraph of Runs
    path.write_text("[]", "utf-8")
    with pytest.raises(CheckpointUnusable, match="it is empty"):
        read_section(path)


def test_a_member_that_is_larger_than_its_manifest_says_is_not_read(tmp_path: Path) -> None:
    import torch

    checkpoint.save(tmp_path, 0, {"policy": {"w": torch.zeros(2)}}, {})
    with (tmp_path / "task-0" / "policy.safetensors").open("ab") as file:
        file.truncate(10**12)
    with pytest.raises(CheckpointUnusable, match=r"policy\.safetensors: has 1,000,000,000,000"):
        checkpoint.load(tmp_path / "task-0")


def test_hard_links_are_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"kept")
    (tmp_path / "here").hardlink_to(tmp_path / "kept")
    assert read(tmp_path / "here", 10) == b"kept"
    with pytest.raises(CheckpointUnusable, match="has another name elsewhere"):
        opened(tmp_path / "here", os.O_RDWR)


def test_what_a_dead_process_left_goes_when_its_file_is_written_again(tmp_path: Path) -> None:
    write = (
        "import os, sys; from pathlib import Path; from holdfast.continual.run_folder.files import "
    )
    write += "temporary; temporary(Path(sys.argv[1])).write_bytes(b'half'); os._exit(0)"
    file = tmp_path / "x.json"
    subprocess.run([sys.executable, "-c", write, str(file)], check=True)
    (left,) = tmp_path.iterdir()
    other = tmp_path / left.name.replace(".tmp-", ".tmp-another")  # of another machine
    other.write_bytes(b"half")
    running = tmp_path / re.sub(r"-\d+\.json$", f"-{os.getppid()}.json", left.name)
    running.write_bytes(b"half")
    write_whole(file, b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([other, running, file])


def test_a_link_that_waits_for_a_temporary_file_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"kept")
    temporary(tmp_path / "x.json").symlink_to(tmp_path / "kept")
    (tmp_path / "x.json").symlink_to(tmp_path / "kept")
    write_whole(tmp_path / "x.json", b"new")
    assert (tmp_path / "kept").read_bytes() == b"kept"
    assert not (tmp_path / "x.json").is_symlink()
    assert (tmp_path / "x.json").read_bytes() == b"new"


def test_formulas_are_texts_in_csv() -> None:
    rows = [["=HYPERLINK(1)", "+1", "-0.5", "@a", "\t=1", -2.0, None, "a"]]
    text = csv_table(["=x", "b", "c", "d", "e", "f", "g", "h"], rows)
    assert text == "'=x,b,c,d,e,f,g,h\n'=HYPERLINK(1),+1,-0.5,'@a,'\t=1,-2.0,,a\n"
