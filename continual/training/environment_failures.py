"""What is kept of environments that crashed or hung: a file in the run folder, a count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.continual.training.journal import CellJournal

FAILURES = "environment_failures.jsonl"


class EnvironmentFailures:
    """Takes the records of a cell's pools, as their ``on_failure``.

    Args:
        folder: The cell's run folder.

    Attributes:
        journal: Told of each, once there is one.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FAILURES
        self.journal: CellJournal | None = None

    def __call__(self, record: dict[str, Any]) -> None:
        """Append a record to ``environment_failures.jsonl`` and tell of it.

        A disk that is full does not end the training: the file is a help, not a result.
        """
        line = json.dumps(record, ensure_ascii=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
            place = f"; see {self._path}"
        except OSError as error:
            place = f"; {self._path} cannot be written: {error}"
        if self.journal is not None:
            first = str(record["text"]).partition("\n")[0]
            self.journal.environment_failed(f"environment {record['env']}: {first}{place}")
