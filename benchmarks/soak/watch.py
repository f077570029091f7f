"""A watch on this process: files it changes outside a folder, processes it starts, canaries."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

CANARY = "canary_of_the_soak"
"""A module that no case may import; hostile input names it."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.mkdir": (0,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "os.rename": (0, 1),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "shutil.rmtree": (0,),
    "shutil.move": (0, 1),
    "shutil.copyfile": (1,),
}
_STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn"}
_HARMLESS = ("/dev/null", "/dev/tty")


class Watch:
    """Notes what this process does that a reader of data must not.

    An audit hook cannot be taken out again, so there is one watch a process, and it notes only
    between ``begin`` and ``end``.

    Args:
        inside: The folders in which files may change.
    """

    def __init__(self, *inside: Path) -> None:
        self._inside = tuple(f"{os.path.realpath(folder)}/" for folder in inside)
        self._noting = False
        self._seen: list[str] = []
        sys.addaudithook(self._hook)

    def begin(self) -> None:
        """Note from here on."""
        self._seen, self._noting = [], True

    def end(self) -> list[str]:
        """Stop noting, and return what was seen since ``begin``."""
        self._noting = False
        return self._seen

    def _hook(self, event: str, given: tuple[Any, ...]) -> None:
        if not self._noting:
            return
        if event == "open":
            path, _, flags = given
            if isinstance(flags, int) and flags & _WRITING:
                self._changed("opened for writing", path)
        elif event in _CHANGES:
            for index in _CHANGES[event]:
                self._changed(event, given[index])
        elif event in _STARTS:
            self._seen.append(f"{event} {given[:2]!r:.200}")
        elif event == "import" and str(given[0]).partition(".")[0] == CANARY:
            self._seen.append(f"imported {given[0]}")

    def _changed(self, what: str, path: Any) -> None:
        if isinstance(path, int):
            return  # a descriptor: its opening was seen
        self._noting = False  # what is asked below may raise events of its own
        full = os.path.realpath(os.fsdecode(path))
        self._noting = True
        if (
            not full.startswith(self._inside)
            and full not in _HARMLESS
            and "__pycache__" not in full
        ):
            self._seen.append(f"{what} {full}")
