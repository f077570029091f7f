"""Hashes of all that small cells learn and score, and whether a commit gives the same, bit for bit.

The record of a cell holds a SHA-256 of every file of its last checkpoint (each tensor's name,
dtype, shape and bytes), of its scores, of its drifts, and of what the reloaded agent does. With
``--against COMMIT`` both sides run in one go, the other one from a temporary git worktree, so that
packages and machine are the same. Cells are those of ``golden_record/cells.py``; one thread each.

Commits that change what is learned on purpose say so in a trailer, ``Golden: CELLS why``.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from golden_record.cells import CI, NEEDS, cells
from safetensors import deserialize

HERE = Path(__file__).parent
ROOT = HERE.parent
WORLDS, SIDE = HERE / "golden_worlds.py", HERE / "golden_record" / "side.py"
GRACE_S = 10.0
"""Seconds in which a process that is told to stop may close its environments."""

Hashes = dict[str, str]


class Recorded(NamedTuple):
    """What one side made of a cell.

    Attributes:
        hashes: By what was hashed: files of the last checkpoint, scores.jsonl, drift, acts.
        folder: The run folder.
        seconds: Seconds it took, its reloading included.
        error: Why there is no record; empty where there is one.
    """

    hashes: Hashes
    folder: Path
    seconds: float
    error: str


class Announced(NamedTuple):
    """A trailer ``Golden: CELLS why`` of a commit."""

    cells: str
    why: str


# -- hashing ---------------------------------------------------------------------------------------


def tensors(file: Path) -> Hashes:
    """Return a hash of every tensor's dtype, shape and bytes, by name."""
    return {
        name: hashlib.sha256(repr((t["dtype"], t["shape"])).encode() + bytes(t["data"])).hexdigest()
        for name, t in _content(file)
    }


def _content(file: Path) -> list[tuple[str, dict[str, Any]]]:
    found = deserialize(file.read_bytes())  # type: ignore[no-untyped-call]  # compiled, no types
    return sorted(found, key=itemgetter(0))


def score_lines(folder: Path) -> list[str]:
    """Return the scores of a run folder in one form, without times (``..._s``)."""
    lines = (folder / "scores.jsonl").read_text("utf-8").splitlines()
    found = ({k: v for k, v in json.loads(line).items() if not k.endswith("_s")} for line in lines)
    return [json.dumps(score, sort_keys=True) for score in found]


def last_checkpoint(folder: Path) -> Path:
    """Return the newest checkpoint of a run folder."""
    stages = (folder / "checkpoints").glob("task-*")
    return max(stages, key=lambda path: int(path.name.removeprefix("task-")))


def hashes(folder: Path, acts: str) -> Hashes:
    """Return the record of a run folder."""
    files = sorted(last_checkpoint(folder).glob("*.safetensors"))
    found = {file.name: _hash(json.dumps(tensors(file))) for file in files}
    found["scores.jsonl"] = _hash("\n".join(score_lines(folder)))
    for file in sorted(folder.glob("drift/*.csv")):
        found[f"drift/{file.name}"] = _hash(file.read_text("utf-8"))
    return {**found, "acts": _hash(acts)}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# -- running ---------------------------------------------------------------------------------------


def parts(names: Sequence[str], jobs: int) -> list[list[str]]:
    """Return the cells of each process, those first that others of them need.

    >>> parts(["ppo-init", "sac-si", "ppo-si"], 2)
    [['ppo-si', 'ppo-init'], ['sac-si']]
    """
    needed = {NEEDS[name] for name in names if name in NEEDS}
    free = [name for name in names if name not in needed]
    shares = [free[index::jobs] for index in range(min(jobs, len(free)))]
    return [
        list(dict.fromkeys(cell for name in share for cell in (NEEDS.get(name, name), name)))
        for share in shares
    ]


@contextmanager
def started(source: Path, folder: Path, names: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run cells in one process, which is gone after the block; runs there are continued."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(WORLDS, folder)
    made = cells()
    for name in names:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(made[name], sort_keys=False), "utf-8")
    paths = {"PYTHONPATH": str(source / "src"), "OMP_NUM_THREADS": "1"}
    paths["XDG_STATE_HOME"] = str(folder / "state")  # where runs of one's own are remembered
    command = [sys.executable, str(SIDE), str(source), str(folder), *names]
    with (
        (folder / "stderr.txt").open("w", encoding="utf-8") as stderr,
        subprocess.Popen(
            command,
            env=os.environ | paths,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,  # a Ctrl-C is for this process, which then ends that one
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            process.kill()


def recorded(process: subprocess.Popen[str], folder: Path) -> dict[str, Recorded]:
    """Return the record of every cell of a process, once it has ended."""
    output, _ = process.communicate()
    found = {}
    for said in map(json.loads, output.splitlines()):
        name, error = said["cell"], said.get("error", "")
        path = next(folder.glob(f"runs/{name}/*/seed-*"), folder)
        made = {} if error else hashes(path, said["acts"])
        found[name] = Recorded(made, path, float(said["seconds"]), error)
    if process.returncode:
        lines = (folder / "stderr.txt").read_text("utf-8").splitlines()
        raise SystemExit("\n".join(["a process died:", *lines[-20:]]))
    return found


def record(
    sides: Mapping[str, Path], names: Sequence[str], jobs: int
) -> dict[str, dict[str, Recorded]]:
    """Return what each side makes of the cells; all processes run side by side.

    Args:
        sides: By name of its folder below the working directory, the source that each runs.
        names: The cells.
        jobs: Processes of each side.
    """
    with ExitStack() as stack:
        running = []
        for side, source in sides.items():
            for part, share in enumerate(parts(names, jobs)):
                folder = Path(side, str(part)).absolute()
                process = stack.enter_context(started(source, folder, share))
                running.append((side, folder, process))
        found: dict[str, dict[str, Recorded]] = {side: {} for side in sides}
        for side, folder, process in running:
            found[side] |= recorded(process, folder)
    return {side: {name: made[name] for name in names} for side, made in found.items()}


def cut_back(folder: Path) -> None:
    """Let a run folder look as if its process had been stopped in the last task."""
    shutil.rmtree(last_checkpoint(folder))
    info = json.loads((folder / "run.json").read_text("utf-8"))
    (folder / "run.json").write_text(json.dumps(info | {"status": "stopped"}), "utf-8")


# -- the other side --------------------------------------------------------------------------------


def git(*arguments: str) -> str:
    """Return what a git command of this repository prints."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Check a commit out beside everything else, and remove it after the block."""
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        path = Path(folder).resolve() / "source"
        try:
            git("worktree", "add", "--detach", str(path), commit)
            yield path
        finally:
            with suppress(subprocess.CalledProcessError):
                git("worktree", "remove", "--force", str(path))


def announcements(log: str) -> list[Announced]:
    """Return the announced changes among values of trailers, one a line; each must say why.

    >>> announcements("ppo-* losses are summed in another order")
    [Announced(cells='ppo-*', why='losses are summed in another order')]
    >>> announcements("ppo-ewc")
    []
    """
    split = (line.partition(" ") for line in log.splitlines())
    return [Announced(names, why.strip()) for names, _, why in split if why.strip()]


def announced_since(commit: str) -> list[Announced]:
    """Return the changes that commits since ``commit`` announce."""
    trailer = "%(trailers:key=Golden,valueonly,unfold)"
    return announcements(git("log", f"--format={trailer}", f"{commit}..HEAD"))


# -- comparing -------------------------------------------------------------------------------------


def differences(one: Recorded, other: Recorded) -> list[str]:
    """Return in words how two records of a cell differ; nothing where they are equal."""
    for who, side in (("this side", one), ("the other side", other)):
        if side.error:
            return [f"{who} failed: {side.error}"]
    found = []
    for key in dict.fromkeys([*one.hashes, *other.hashes]):
        if one.hashes.get(key) == other.hashes.get(key):
            continue
        if key not in one.hashes or key not in other.hashes:
            where = "this side" if key in one.hashes else "the other side"
            found.append(f"{key} (on {where} only)")
        else:
            found.append(f"{key}{_first_difference(key, one.folder, other.folder)}")
    return found


def _first_difference(key: str, one: Path, other: Path) -> str:
    """Return which tensors or score of a file differ."""
    if key == "scores.jsonl":
        pair = [score_lines(folder) for folder in (one, other)]
        if len(pair[0]) != len(pair[1]):
            return f" ({len(pair[0])} scores, {len(pair[1])} on the other side)"
        number, ours, theirs = next(
            (n, json.loads(a), json.loads(b))
            for n, (a, b) in enumerate(zip(*pair, strict=True), start=1)
            if a != b
        )
        keys = [k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k)]
        words = (f"{k} {ours.get(k)}, on the other side {theirs.get(k)}" for k in keys)
        return f" (line {number}: {', '.join(words)})"
    if not key.endswith(".safetensors"):
        return ""
    ours_, theirs_ = (tensors(last_checkpoint(folder) / key) for folder in (one, other))
    names = [n for n in {**ours_, **theirs_} if ours_.get(n) != theirs_.get(n)]
    return f" ({', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''})"


def compare(
    ours: Mapping[str, Recorded], theirs: Mapping[str, Recorded], announced: Sequence[Announced]
) -> bool:
    """Print a line a cell, and return whether all are equal or announced as changed."""
    good = True
    for name, one in ours.items():
        found = differences(one, theirs[name])
        why = [a.why for a in announced if fnmatch.fnmatchcase(name, a.cells)]
        excused = bool(why) and not one.error
        verdict = "equal" if not found else "changed" if excused else "differs"
        words = "; ".join([*([f"announced: {why[0]}"] if found and excused else []), *found])
        print(f"{name:28} {verdict:8} {one.seconds:6.2f} s {words}".rstrip(), flush=True)
        good = good and (not found or excused)
    return good


def show(made: Mapping[str, Recorded]) -> bool:
    """Print the record as JSON, and return whether every cell has one."""
    print(json.dumps({n: r.hashes if not r.error else r.error for n, r in made.items()}, indent=1))
    return not any(one.error for one in made.values())


# -- command line ----------------------------------------------------------------------------------


def chosen(patterns: Sequence[str]) -> list[str]:
    """Return the names of cells that match one of the patterns.

    Raises:
        SystemExit: A pattern matches none.
    """
    names = list(cells())
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise SystemExit(f"no cell '{pattern}'; there are: {', '.join(names)}")
    return [n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns)]


@contextmanager
def in_temporary_folder() -> Iterator[None]:
    """Work in a folder that is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="golden-runs-") as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def compared(commit: str, names: Sequence[str], jobs: int, *, resume: bool) -> bool:
    """Compare with a commit, print a line a cell, and return whether all went well."""
    announced = announced_since(commit)
    with worktree(commit) as source:
        made = record({"ours": ROOT, "theirs": source}, names, jobs)
    good = compare(made["ours"], made["theirs"], announced)
    if resume:
        for one in made["theirs"].values():
            if not one.error:
                cut_back(one.folder)
        print("\ntheir runs, their last tasks run here:")
        continued = record({"theirs": ROOT}, names, jobs)["theirs"]
        good = compare(continued, made["ours"], announced) and good
    return good


def main(names: Sequence[str], against: str | None, jobs: int, *, resume: bool) -> bool:
    """Record, print, and return whether all went well."""
    began = time.monotonic()
    with in_temporary_folder():
        if against is None:
            good = show(record({"ours": ROOT}, names, jobs)["ours"])
        else:
            commit = git("rev-parse", "--verify", f"{against}^{{commit}}")
            good = compared(commit, names, jobs, resume=resume)
    print(f"{len(names)} cells in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return good


def _stop(*_: object) -> None:
    raise SystemExit("stopped from outside")  # so that what is temporary is removed


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit")
    parser.add_argument(
        *("--cells", "--only"), nargs="+", default=["*"], metavar="PATTERN", help="ppo-*, ..."
    )
    parser.add_argument("--ci", action="store_true", help=f"only {', '.join(CI)}")
    parser.add_argument("--jobs", type=int, default=1, help="processes of each side")
    parser.add_argument(
        "--resume", action="store_true", help="also run the last tasks of COMMIT's runs here"
    )
    options = parser.parse_args()
    if options.resume and options.against is None:
        parser.error("--resume needs --against")
    picked = chosen(CI if options.ci else options.cells)
    sys.exit(not main(picked, options.against, options.jobs, resume=options.resume))
