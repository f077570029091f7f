"""Run folders whose files were changed: every reader reads them, or refuses them by name.

A case copies a real run, changes one of its files or plants one of the hostile things of
``hostile.py``, and lets the readers at it. Nothing outside may be touched and no code may run.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from soak.lanes import Case
from soak.scenarios import MEMORY
from soak.watch import CANARY, Watch

SCENARIO: dict[str, Any] = {
    "name": "pole",
    "tasks": [
        {"name": name, "env": "CartPole-v1", "steps": 64, "changes": {"time_limit": 12, **change}}
        for name, change in (("left", {}), ("right", {"action_map": [1, 0]}))
    ],
    "agent": {
        "algorithm": "ppo",
        "n_steps": 32,
        "batch_size": 32,
        "n_epochs": 1,
        "policy_kwargs": {"net_arch": [8]},
        "normalize": {"observations": "running"},
    },
    "methods": [["ewc", "cloning"]],
    "evaluation": {"episodes": 2},
    "score": {"random": 0.0, "reference": 12.0},
}
Reader = Callable[[Path], object]

_OF_A_RUN = ("subprocess.Popen ('git', ['git', 'describe'", "opened for writing /proc/")
"""What a run of the user's own does: it notes the commit, and its peak of memory."""

LIMIT_S = 15.0
"""Seconds that a reader may take here: the one that goes on with a run trains."""


def _scores(cell: Path) -> object:
    import holdfast

    return holdfast.open_run(cell).scores


def _report(cell: Path) -> object:
    from holdfast.continual.reports.report import report

    return report(cell.parents[1])


def _agent(cell: Path) -> object:
    import holdfast

    agent: Any = holdfast.open_run(cell).agent()
    env = agent.make_env()
    observation, _ = env.reset(seed=0)
    action = agent.act(observation)
    env.close()
    return action


def _resume(cell: Path) -> object:
    import holdfast

    holdfast.run(holdfast.load(cell.parents[3] / "pole.yaml"), runs=cell.parents[2], retries=0)
    return None


READERS: tuple[Reader, ...] = (_scores, _report, _agent)
SHARES = (3, 3, 3, 1)
"""How often each is chosen, and then the one that trains, which takes longest."""


def real_run(folder: Path) -> Path:
    """Run the scenario there, and return its cell's folder below ``runs``."""
    import holdfast

    (folder / "pole.yaml").write_text(yaml.safe_dump(SCENARIO, sort_keys=False), "utf-8")
    (folder / f"{CANARY}.py").write_text("class Env: ...\n", "utf-8")
    (opened,) = holdfast.run(holdfast.load(folder / "pole.yaml"), runs=folder / "runs")
    return Path(opened.folder.path)


def make(lane: int) -> Case:
    """Return what changes a file of a run for a case, and reads what is left."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from soak.mutations import mutate

    folder, cell, watch = _prepared()
    inside = cell.relative_to(folder)

    def run(case: int) -> tuple[str, str]:
        rng = random.Random(f"folder {case}")
        copy = folder / f"case-{lane}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("case-*", "tb"))
        here = copy / inside
        files = sorted(p for p in here.rglob("*") if p.is_file())
        for changed in rng.sample(files, rng.choice((1, 1, 1, 2))):
            changed.write_bytes(mutate(changed.read_bytes(), rng))
        reader = rng.choices((*READERS, _resume), SHARES)[0]
        return _read(reader, here, copy, watch, f"{changed.relative_to(here)} by {reader.__name__}")

    return run


def _prepared() -> tuple[Path, Path, Watch]:
    folder = Path(tempfile.mkdtemp(prefix="soak-folders-"))
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    cell = real_run(folder)
    return folder, cell, Watch(folder)


def _read(reader: Reader, cell: Path, copy: Path, watch: Watch, what: str) -> tuple[str, str]:
    """Return how a reader took what there is, and whether it did what it must not."""
    from holdfast.errors import HoldfastError

    printed = io.StringIO()
    os.chdir(copy)
    watch.begin()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            reader(cell)
        word, text = "fine", ""
    except HoldfastError as error:
        word, text = "refused", str(error)
    except BaseException:
        sys.stderr.write(f"{what}\n")
        raise
    finally:
        seen = watch.end()
    if reader in (_resume, _resume_there):
        seen = [one for one in seen if not one.startswith(_OF_A_RUN)]
    if seen:
        return "touched", f"{what}: {'; '.join(seen)}"
    if "Traceback" in text or "\x1b" in text:
        return "unclear", f"{what}: {text}"
    return word, what


def make_hostile(_lane: int) -> Case:
    """Return what lets every reader at a hostile folder; those are numbered as they are planted."""
    from soak import hostile

    folder, cell, watch = _prepared()
    outside = hostile.Outside(folder.with_name(f"{folder.name}-outside"))
    sys.path.append(str(outside.code))
    planted = list(hostile.corpus(cell, folder / "planted", outside))

    def run(case: int) -> tuple[str, str]:
        if case >= len(planted):
            return "none", ""
        one, words = planted[case], []
        for reader in (*READERS, _resume_there):
            word, text = _read(reader, one.folder, folder, watch, f"{one.name} {reader.__name__}")
            if word not in ("fine", "refused"):
                return word, text
            words.append(word)
        if changed := outside.changes():
            return "touched", f"{one.name}: {changed}"
        if one.expected == "refused" and "refused" not in words:
            return "read", f"{one.name}: no reader refused it"
        return "refused" if "refused" in words else "fine", one.name

    return run


def _resume_there(cell: Path) -> object:
    import holdfast

    where = cell.parents[2]
    (where / "pole.yaml").write_text(yaml.safe_dump(SCENARIO, sort_keys=False), "utf-8")
    holdfast.run(holdfast.load(where / "pole.yaml"), runs=where, retries=0)
    return None
