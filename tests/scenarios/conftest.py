from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.errors import Problem, ScenarioError
from holdfast.scenarios.load import load

GOOD = """\
tasks:
  - {name: right, env: CartPole-v1, steps: 1000}
  - {name: left, env: CartPole-v1, steps: 1000, changes: {action_map: [1, 0]}}
agent: {algorithm: ppo}
"""

Write = Callable[..., Path]
Problems = Callable[..., list[Problem]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str = GOOD, name: str = "demo.yaml") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


@pytest.fixture
def problems(write: Write) -> Problems:
    """Return the problems of a scenario: of ``text``, or of a good one with ``extra`` lines."""

    def problems(text: str = "", *overrides: str, extra: str = "") -> list[Problem]:
        path = write(textwrap.dedent(text) if text else GOOD + textwrap.dedent(extra))
        with pytest.raises(ScenarioError) as caught:
            load(path, overrides)
        assert caught.value.exit_code == 2
        return list(caught.value.problems)

    return problems


@pytest.fixture
def one(problems: Problems) -> Callable[..., Problem]:
    """Return the single problem of a good scenario with ``extra`` lines or overrides."""

    def one(*overrides: str, extra: str = "") -> Problem:
        found = problems("", *overrides, extra=extra)
        assert len(found) == 1, "\n".join(map(str, found))
        return found[0]

    return one
