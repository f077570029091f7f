"""One process of one side of ``golden.py``: runs cell after cell, and says how each ended.

``python side.py SOURCE FOLDER CELL...`` runs ``FOLDER/<cell>.yaml`` for each cell, with what
``import holdfast`` finds, and prints a JSON object a cell. It uses what is public and nothing else,
so that it runs on every layout of the code. Modules of Holdfast that are not below ``SOURCE`` are
an error: each side must run its own.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import holdfast


def run(path: Path) -> dict[str, Any]:
    """Run the only cell of a scenario, and return what its agent does afterwards."""
    (opened,) = holdfast.run(holdfast.load(path), runs=path.parent / "runs", retries=0)
    return {"acts": acts(opened)}


def acts(opened: Any) -> str:
    """Return what the agent, loaded from its checkpoint, does at the start of an episode."""
    agent = opened.agent()
    if not hasattr(agent, "make_env"):
        return ""  # it learned data sets, and has no environment to act in
    env = agent.make_env()
    shown, _ = env.reset(seed=0)
    team = getattr(env, "agents", None)
    done = agent.act({name: shown[name] for name in team} if team else shown)
    env.close()
    return repr({name: plain(done[name]) for name in sorted(done)} if team else plain(done))


def plain(action: Any) -> Any:
    """Return an action without what NumPy's versions print differently."""
    return action.tolist() if hasattr(action, "tolist") else action


def strangers(source: Path) -> list[str]:
    """Return modules of Holdfast that were not loaded from below ``source``."""
    loaded = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "holdfast"}
    files = {name: getattr(module, "__file__", None) for name, module in loaded.items()}
    return [n for n, file in files.items() if file and source not in Path(file).resolve().parents]


def main(source: Path, folder: Path, cells: list[str]) -> None:
    """Run cells; what they print goes to standard error."""
    for cell in cells:
        began, said = time.perf_counter(), {"cell": cell}
        try:
            with contextlib.redirect_stdout(sys.stderr):
                said |= run(folder / f"{cell}.yaml")
        except Exception as error:  # whatever it is, the other cells still run
            said["error"] = f"{type(error).__name__}: {error}"
        if found := strangers(source):
            said["error"] = f"{found[0]} was not loaded from {source}"
        said["seconds"] = f"{time.perf_counter() - began:.2f}"
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]), sys.argv[3:])
