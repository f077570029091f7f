"""The journal keeps what it has recorded, and does not read it again."""

from typing import Any

import numpy as np
import pytest

from holdfast.continual.results.curves import curves
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.journal import CellJournal


def test_the_record_is_read_at_the_start_alone(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real, finished = RunFolder.scores, CellJournal.finished

    def counted(self: RunFolder) -> Any:
        read.append(1)
        return real(self)

    def checked(self: CellJournal, experience: Any) -> None:
        finished(self, experience)
        whole = curves(real(self.folder), self.scenario)
        np.testing.assert_array_equal(self.scores.curves.values, whole.values)
        np.testing.assert_array_equal(self.scores.curves.steps, whole.steps)
        assert len(read) == 1

    monkeypatch.setattr(RunFolder, "scores", counted)
    monkeypatch.setattr(CellJournal, "finished", checked)
    plan = {"every": 32, "episodes": 2, "tasks": "seen"}
    folder = run("ppo", tasks=2, steps=64, evaluation=plan)
    assert len(real(folder)) == 2 * (1 + 2 + 2 * 2)
