"""TensorBoard's own page over the runs of two methods and two seeds, in a real browser."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from browser import Visit
from cells import run_all

from holdfast.continual.results import metrics
from holdfast.continual.results.curves import curves
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.dashboard import COLUMNS
from holdfast.scenarios.schema.scenario import Scenario

SCENARIO = {
    "name": "page",
    "tasks": [
        {"name": "plain", "env": "CartPole-v1", "steps": 64},
        {"name": "swapped", "env": "CartPole-v1", "steps": 64, "changes": {"action_map": [1, 0]}},
    ],
    "n_envs": 2,
    "agent": {"algorithm": "ppo", "n_steps": 32, "batch_size": 64},
    "methods": ["naive", "agem"],
    "seeds": [0, 1],
    "evaluation": {"every": 32, "episodes": 2},
    "score": {"random": 0.0, "reference": 100.0},
}
OTHER = SCENARIO | {
    "name": "other",
    "agent": {"algorithm": "dqn", "learning_starts": 32, "buffer_size": 100},
    "methods": ["naive"],
    "seeds": [7],
}
NOT_OURS = ("Three.js", "is deprecated", "favicon")  # what TensorBoard warns of itself


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    runs = tmp_path_factory.mktemp("board") / "runs"
    made = [Scenario.model_validate(given) for given in (SCENARIO, OTHER)]
    return [folder for scenario in made for folder in run_all(scenario, runs)]


@pytest.fixture(scope="module")
def address(cells: list[RunFolder]) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    runs = cells[0].path.parents[2]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs)]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, "tensorboard has ended"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def opened(browser: Any, address: str, tab: str, wait_for: str) -> Visit:
    """Open a tab and wait until a text stands there, as TensorBoard reads runs meanwhile."""
    visit = Visit(browser, viewport={"width": 2600, "height": 1600})
    visit.page.set_default_timeout(60_000)
    for _ in range(20):
        visit.page.goto(f"{address}/#{tab}")
        try:
            visit.page.get_by_text(wait_for, exact=False).first.wait_for(timeout=8000)
            break
        except Exception:
            visit.page.reload()
    visit.page.get_by_text(wait_for, exact=False).first.wait_for()
    return visit


WALK = """(wanted) => {
    const texts = [], lines = [];
    const walk = (node) => {
        if (node.nodeType === Node.TEXT_NODE && node.data.trim()) texts.push(node.data.trim());
        if (node.tagName === "path" && (node.getAttribute("d") || "").length > 10
            && node.classList.contains("line")) lines.push(node);
        if (["STYLE", "SCRIPT", "TEMPLATE"].includes(node.tagName)) return;
        if (node.shadowRoot) walk(node.shadowRoot);
        for (const child of node.childNodes) walk(child);
    };
    walk(document.body);
    return wanted === "texts" ? texts : lines.length;
}"""


def texts(visit: Visit) -> list[str]:
    """Return every text of the page, those inside web components too."""
    found: list[str] = visit.page.evaluate(WALK, "texts")
    return found


def ours(visit: Visit) -> list[str]:
    return [text for text in visit.problems if not any(known in text for known in NOT_OURS)]


@pytest.mark.slow
def test_the_charts_are_laid_out_and_drawn_once(browser: Any, address: str) -> None:
    visit = opened(browser, address, "custom_scalars", "score of every task")
    visit.page.get_by_text("Matches (10)").first.wait_for()  # two tasks of five runs
    found = texts(visit)
    for title in (
        "score of every task",
        "return of every task",
        "average performance",
        "forgetting",
        "agem: share of the gradients that was projected",
        "dormant units",
    ):
        assert found.count(title) == 1, (title, found)
    lines = visit.page.evaluate(WALK, "lines")
    assert lines >= 10
    assert ours(visit) == []


@pytest.mark.slow
def test_the_table_of_hyperparameters_holds_the_numbers_of_the_record(
    browser: Any, address: str, cells: list[RunFolder]
) -> None:
    visit = opened(browser, address, "hparams", "average")
    visit.page.get_by_text("page/agem/seed-1").first.wait_for()
    visit.page.get_by_text("other/naive/seed-7").first.wait_for()
    text = texts(visit)
    assert [name for name in COLUMNS if name not in text] == []
    for cell in cells:
        found = metrics.summary(curves(cell.scores(), cell.scenario))
        for name in ("average_performance/cw", "average_performance/boundary"):
            assert metrics.FORMULAS[name].title in text
            shown = f"{found[name]:#.5g}"  # five digits, zeros at the end too
            assert shown in text, (cell.path, shown, text)
    assert ours(visit) == []


@pytest.mark.parametrize(
    ("tab", "text"), [("images", "continual/scores"), ("text", "Without defaults")]
)
@pytest.mark.slow
def test_pictures_and_texts_are_there(browser: Any, address: str, tab: str, text: str) -> None:
    visit = opened(browser, address, tab, text)
    assert any("page/naive/seed-0" in one for one in texts(visit))
    assert ours(visit) == []
