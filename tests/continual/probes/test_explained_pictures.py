"""Pictures that are observed, and frames of what is: explained, kept small, and shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from browser import Visit
from cells import run_all
from gymnasium.spaces import Box, Dict, Discrete
from shapes import PICTURE, Shapes
from stable_baselines3 import A2C
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from holdfast.agents.doors.outputs import Output
from holdfast.cli import app
from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.probes import attribution, frames, visited_states
from holdfast.continual.probes.explanation import explain
from holdfast.continual.probes.reasons import EXPLAIN, Explained, ExplainPlan, explain_record
from holdfast.continual.reports.explanation_report import Pixels, _within
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import CheckpointUnusable, UsageError
from holdfast.scenarios.schema.scenario import Scenario

PLAN = ExplainPlan(states=12)
SIZE = (40, 6)  # of which a map has cells of 2 by 2


class Noise(gym.Env[Any, Any]):
    """Random pictures, or vectors; ``draws`` says how it renders."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(
        self, shows: str = "picture", draws: str = "", render_mode: str | None = None
    ) -> None:
        self.draws, self.render_mode = draws, render_mode
        picture = Box(0, 255, (*SIZE, 3), np.uint8)
        self.observation_space = picture if shows == "picture" else Box(-9, 9, (3,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        if seed is not None:
            # One that draws is another world, where it is asked to be so.
            shift = self.draws == "elsewhere" and self.render_mode is not None
            self.observation_space.seed(seed + shift)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return self.observation_space.sample(), float(action[0]), self.time >= 8, False, {}

    def render(self) -> Any:
        if self.draws == "fails":
            raise RuntimeError("no display")
        if self.draws == "text":
            return "o"
        return np.full((300, 200, 3), 10 * self.time, np.uint8)


gym.register("Noise-v0", entry_point=Noise)
gym.register("Shapes-v0", entry_point=Shapes)


def scenario(first: dict[str, Any], second: dict[str, Any], **keys: Any) -> Scenario:
    given = {
        "name": "noise",
        "tasks": [
            {"name": name, "env": "Noise-v0", "steps": 16, "kwargs": kwargs}
            for name, kwargs in (("first", first), ("second", second))
        ],
        "agent": {
            "algorithm": "ppo",
            "policy": "MlpPolicy",
            "n_steps": 16,
            "batch_size": 16,
            "learning_rate": 1.0,  # so that the second task undoes what the first has learned
            "policy_kwargs": {"net_arch": []},
        },
        "stream": {"task_id": "hidden"},
        "methods": ["naive"],
        "seeds": [3],
        "evaluation": {"episodes": 2},
        "checkpoint": {"keep": "all"},
    }
    return Scenario.model_validate(given | keys)


def results(cell: RunFolder) -> dict[tuple[int, str], Explained]:
    return {one.place: one for one in explain_record(cell).read()[1]}


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of linear policies on pixels, explained; to be read only."""
    (cell,) = run_all(scenario({}, {}), tmp_path_factory.mktemp("linear"))
    explain([cell], PLAN)
    return cell


def test_exact_on_a_linear_policy_of_pixels(linear: RunFolder) -> None:
    """A pixel's part is its weights times its distances from the mean, of all channels."""
    for (stage, task), found in results(linear).items():
        own = 0 if task == "first" else 1
        ends = [kind_of(linear.scenario).restore(linear, one) for one in (own, stage)]
        seen = visited_states.meet(linear, ends[0], own, 12).seen
        pixels = seen.values.numpy().astype(np.float64)  # (states, 3, 40, 6)
        weights = ends[1].agent.policy.action_net.weight.detach().double().numpy()
        weights = weights.reshape(2, 3, *SIZE) / 255  # as Stable-Baselines3 scales pictures
        parts = np.abs(weights).sum(axis=0) * np.abs(pixels - pixels.mean(axis=0))
        of_pixels = parts.sum(axis=1)  # (states, 40, 6)
        of_pixels /= of_pixels.sum(axis=(1, 2), keepdims=True)
        cells = of_pixels.mean(axis=0).reshape(20, 2, 3, 2).sum(axis=(1, 3))
        np.testing.assert_allclose(found.shares, cells.ravel(), rtol=1e-3)
        assert found.removed == 24
        mean = np.moveaxis(pixels.mean(axis=0), 0, -1)
        shown = frames.picture_of(found.mean or "")
        assert np.abs(shown - mean).mean() < 12  # of 64 colours


def test_a_whole_pixel_goes(linear: RunFolder) -> None:
    """The output is the sum of two channels of one pixel; of four, one of three counts here."""
    seen = torch.zeros(2, 3, 2, 2)
    seen[:, 0, 1, 0], seen[:, 2, 1, 0] = torch.tensor([1.0, 3.0]), torch.tensor([10.0, 30.0])

    def output(rows: torch.Tensor) -> Output:
        return {"mean": rows[:, :, 1, 0].sum(dim=1, keepdim=True)}

    def distance(other: Output) -> torch.Tensor:
        return (other["mean"] - output(seen)["mean"]).abs()[:, 0]

    shares = torch.tensor([[0.0, 1.0, 2.0, 1.0]] * 2)
    top, random = attribution.deleted(distance, output, seen, shares, 1)
    assert top.tolist() == [11.0, 11.0]  # means of 2 and 20
    assert (random < 11).all()
    assert np.allclose(random * attribution.DRAWS / 11, np.round(random * attribution.DRAWS / 11))


SHOWN = {
    "colours": (PICTURE, None),
    "stack": (Box(0, 255, (4, 40, 36), np.uint8), None),
    "dict": (Dict(arm=Box(-3, 3, (3,)), camera=PICTURE, zone=Discrete(3)), "camera"),
    "vector": (Box(-3, 3, (3,), np.float32), None),
}


@pytest.mark.parametrize("kind", SHOWN)
def test_policies_get_what_stable_baselines_gives_them(kind: str) -> None:
    space, key = SHOWN[kind]
    env = gym.Env[Any, Any]()
    env.observation_space, env.action_space = space, Discrete(2)
    env.reset = lambda **_: (space.sample(), {})  # type: ignore[method-assign]
    name = {"dict": "MultiInputPolicy", "vector": "MlpPolicy"}.get(kind, "CnnPolicy")
    policy = A2C(name, env, device="cpu").policy
    observed = [space.sample() for _ in range(3)]
    agent: Any = SimpleNamespace(policy=policy, device="cpu", normalizer=None)
    seen = visited_states._tensors(agent, observed, own=3)
    assert seen.key == key
    batch = {name: np.stack([one[name] for one in observed]) for name in space} if key else None
    given, _ = policy.obs_to_tensor(np.stack(observed) if batch is None else batch)
    twice = seen.with_values(seen.values.repeat(2, *[1] * (seen.values.ndim - 1)))
    theirs, ours = given if key else {"": given}, twice if key else {"": twice}
    for name, values in theirs.items():
        assert torch.equal(ours[name].float(), torch.cat([values, values]).float()), name
    assert seen.own == {"vector": 3, "stack": 40 * 36}.get(kind, 36 * 36)


@pytest.mark.thorough
@pytest.mark.parametrize(("algorithm", "taken"), [("dqn", "discrete"), ("sac", "box")])
def test_convolutions_beside_a_task_id(algorithm: str, taken: str, tmp_path: Path) -> None:
    """The states in which a later policy acts otherwise, told from the agents themselves."""
    agent = {"algorithm": algorithm, "learning_rate": 0.003, "learning_starts": 4}
    agent |= {"batch_size": 8, "train_freq": 2, "buffer_size": 50}
    kwargs = {"shown": "picture", "taken": taken, "count": 2}
    tasks = [
        {"name": name, "env": "Shapes-v0", "steps": 16, "kwargs": kwargs}
        for name in ("first", "second")
    ]
    given = {"agent": agent, "stream": {}, "tasks": tasks, "evaluation": {"episodes": 1}}
    (cell,) = run_all(scenario({}, {}, **given), tmp_path)
    explain([cell], PLAN)
    found = results(cell)
    assert len(found[0, "first"].shares) == 18 * 18
    assert sum(found[0, "first"].shares) == pytest.approx(1.0)
    assert found[0, "first"].removed == 129
    own, final = (open_run(cell.path).agent("first", stage=stage) for stage in (0, 1))
    learner = kind_of(cell.scenario).restore(cell, 0).agent
    seen = visited_states.meet(cell, kind_of(cell.scenario).restore(cell, 0), 0, 12).seen
    rows = seen.values.permute(0, 2, 3, 1).byte().numpy()
    far = 0.1 * 6 if taken == "box" else 0  # from -2 to 4
    differ = [np.any(np.abs(own.act(row) - final.act(row)) > far) for row in rows]
    assert found[1, "first"].departs == pytest.approx(np.mean(differ))
    # What clusters are told apart by, from the bytes themselves.
    tasks_shown = np.tile(np.array([1.0, 0.0], np.float32), (12, 1))
    batch = learner.policy_input({"observation": rows, "task_id": tasks_shown})
    net = learner.policy.actor if taken == "box" else learner.policy.q_net
    with torch.no_grad():
        theirs = net.extract_features(batch, net.features_extractor).numpy()
    ours = visited_states.View(learner, 0, seen).features()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.thorough
def test_what_the_report_shows(linear: RunFolder, browser: Any, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["report", str(linear.path), "--output", str(tmp_path)])
    assert told.exit_code == 0, told.output
    kinds = results(linear)[1, "first"].clusters
    for cluster in kinds:
        assert cluster.centre == []
        assert frames.picture_of(cluster.frame or "").shape == (*SIZE, 3)
    assert kinds
    visit = Visit(browser)
    visit.page.goto((tmp_path / "report.html").as_uri())
    images = "svg image"
    assert visit.page.locator(images).count() == 3 + len(kinds)
    assert visit.problems == []
    shown = visit.page.locator(images).evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().width > 20)"
    )
    assert all(shown)
    page = (tmp_path / "report.html").read_text()
    assert len(page) < 500_000
    assert re.search(r"half of it on [\d.]+% of the picture, most at row \d+ of 20", page)


@pytest.mark.thorough
def test_tensorboard_has_pictures_of_its_own(tmp_path: Path) -> None:
    (cell,) = run_all(scenario({"shows": "vector"}, {"shows": "vector"}), tmp_path)
    before = {path: path.read_bytes() for path in (cell.path / "tb").iterdir()}
    explain([cell], PLAN)
    assert {path: path.read_bytes() for path in before} == before
    board = EventAccumulator(str(cell.path / "tb"), size_guidance={"images": 0}).Reload()
    found = results(cell)
    assert found[1, "first"].clusters
    tags = [tag for tag in board.Tags()["images"] if tag.startswith("explain/")]
    assert sorted(tags) == [
        "explain/first/forgotten", "explain/first/reasons", "explain/second/reasons",
    ]  # fmt: skip
    assert [event.step for event in board.Images("explain/first/reasons")] == [16, 32]
    (image,) = board.Images("explain/first/forgotten")
    assert image.step == 32
    assert image.width > 200 * len(found[1, "first"].clusters)
    files = len(list((cell.path / "tb").iterdir()))
    explain([cell], PLAN)  # all is on file, so nothing is written
    assert len(list((cell.path / "tb").iterdir())) == files == len(before) + 1


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("draws", "why"),
    [
        ("", ""),
        ("fails", "RuntimeError: no display"),
        ("text", "render() returned no picture"),
        ("elsewhere", "the same actions led to another state"),
    ],
)
def test_frames_are_of_the_very_states_or_left_out(draws: str, why: str, tmp_path: Path) -> None:
    kwargs = {"shows": "vector", "draws": draws}
    (cell,) = run_all(scenario(kwargs, kwargs), tmp_path)
    explain([cell], PLAN, ["first"])
    found = results(cell)[1, "first"]
    assert found.clusters
    if why:
        assert found.unseen.startswith(why)
        assert all(cluster.frame is None for cluster in found.clusters)
        told = CliRunner().invoke(app, ["explain", str(cell.path), "--states", "12"])
        assert told.exit_code == 0, told.output
        assert f"No frames of first: {why[:6]}" in told.output
        return
    assert found.unseen == ""
    for cluster in found.clusters:
        picture = frames.picture_of(cluster.frame or "")
        assert picture.shape == (128, 85, 3)
        assert (picture == picture[0, 0]).all()
        assert picture[0, 0, 0] % 10 == 0  # ten times the step


def damaged(record: list[dict[str, Any]], change: Callable[[dict[str, Any]], None]) -> str:
    change(record[1])
    return "\n".join(map(json.dumps, record)) + "\n"


def test_a_record_from_elsewhere_holds_pictures_alone(linear: RunFolder, tmp_path: Path) -> None:
    lines = (linear.path / EXPLAIN).read_text().splitlines()
    changes: dict[str, dict[str, Any]] = {
        "mean": {"mean": "R0lGODlhAQABAAAAACw="},
        "picture and mean": {"mean": None},
        "no map": {"picture": [36, 36]},
        "picture.0": {"picture": [10**9, 1]},
        "too_long|at most": {"mean": "A" * 100_000},
    }
    folder = RunFolder.create(tmp_path / "noise/naive/seed-3", linear.scenario)
    for why, change in changes.items():
        record = [json.loads(line) for line in lines]
        (folder.path / EXPLAIN).write_text(damaged(record, lambda one, c=change: one.update(c)))
        with pytest.raises(CheckpointUnusable, match=rf"explain.jsonl:2: .*({why})"):
            explain_record(folder).read()


def test_several_pictures_are_refused() -> None:
    two = Dict(left=PICTURE, right=PICTURE)
    with pytest.raises(UsageError, match=r"or one picture .* but they are Dict"):
        visited_states._explained(two, "here")


def test_a_page_stays_small() -> None:
    shown = [(str(number), Pixels(bytes(50_000), ())) for number in range(5)]
    figures, left_out = _within(shown)
    assert [figure.title for figure in figures] == ["0", "1"]  # of 66,690 letters each
    assert left_out == 3
    assert _within([]) == ((), 0)
