"""A run that kills itself at a moment: ``python victim.py MOMENT NTH SCENARIO RUNS``.

With ``count`` as the moment nothing is killed, and how often each moment came is printed as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOMENTS = ("import", "step", "evaluation", "save", "boundary")
_OF_FILES = ("open", "os.rename", "os.mkdir", "os.remove", "shutil.rmtree")
_NAMES = ("watch", "learned", "finished")


class Fate:
    """Counts moments, and kills this process at the one that was chosen."""

    def __init__(self, moment: str, nth: int) -> None:
        self.moment, self.nth = moment, nth
        self.seen: Counter[str] = Counter()
        self.began: tuple[int, int] | None = None
        self.is_measuring = False

    def meet(self, moment: str) -> None:
        """Count a moment; this call is the last one if it is the chosen one."""
        self.seen[moment] += 1
        if moment == self.moment and self.seen[moment] == self.nth:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, given: tuple[Any, ...]) -> None:
        """Meet imports, and what is done to files of a checkpoint."""
        if event == "import":
            self.meet("import")
        elif event in _OF_FILES and "/checkpoints" in str(given[0]):
            self.meet("save")

    def install(self) -> None:
        """Wrap what a cell calls at the other moments."""
        from holdfast.continual.streams import data_stream, task_stream, team_stream
        from holdfast.continual.training.journal import CellJournal

        for name in _NAMES:
            self._wrap(CellJournal, name, self._at_boundary)
        self._wrap(CellJournal, "watch", self._watched)
        for module in (task_stream, team_stream, data_stream):
            for made in vars(module).values():
                if isinstance(made, type) and "play" in vars(made):
                    self._wrap(made, "play", self._measured)
        sys.path.insert(0, str(Path.cwd()))
        import golden_worlds

        for world in (golden_worlds.Walk, golden_worlds.Crowd):
            self._wrap(world, "step", self._stepped)

    def _wrap(self, owner: type, name: str, wrapped: Callable[[Any], Any]) -> None:
        setattr(owner, name, wrapped(getattr(owner, name)))

    def _at_boundary(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any) -> Any:
            self.meet("boundary")
            found = method(*given)
            self.meet("boundary")
            return found

        return wrapped

    def _watched(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(journal: Any, experience: Any) -> Any:
            look = method(journal, experience)

            def met(step: int) -> Any:
                if self.began is None:
                    self.began = experience.stage, step
                    Path("began.json").write_text(json.dumps(self.began), "utf-8")
                self.meet("step")
                return look(step)

            return met

        return wrapped

    def _measured(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any) -> Any:
            self.is_measuring = True
            try:
                return method(*given)
            finally:
                self.is_measuring = False

        return wrapped

    def _stepped(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any) -> Any:
            if self.is_measuring:
                self.meet("evaluation")
            return method(*given)

        return wrapped


def main(moment: str, nth: int, scenario: str, runs: str) -> None:
    """Run a scenario, and die at a moment of it."""
    fate = Fate(moment, nth)
    sys.addaudithook(fate.audit)
    import holdfast

    loaded = holdfast.load(scenario)
    fate.install()
    holdfast.run(loaded, runs=runs, retries=0)
    print(json.dumps({moment: fate.seen[moment] for moment in MOMENTS}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
