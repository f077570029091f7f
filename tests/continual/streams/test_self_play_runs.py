"""Runs in self-play and with partners: exact after a restart, recorded, measured alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Interrupted
from game_runs import TTT, games

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.kinds.single import frozen_player
from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.cell import run_cell
from holdfast.continual.training.preflight import build
from holdfast.errors import ScenarioError, UsageError
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.opponents import OpponentSpec
from holdfast.scenarios.schema.scenario import Scenario


@pytest.fixture
def play(tmp_path: Path) -> Any:
    """Run a small stream of games to its end, and return its folder."""

    def run(*against: Any, at: int | None = None, **keys: Any) -> RunFolder:
        (folder,) = prepare(tmp_path / "runs", games(tmp_path, *against, **keys))

        def tell(progress: Any) -> None:
            if at is not None and progress.step >= at:
                raise Interrupted

        run_cell(folder, tell)
        return folder

    return run


def saved(folder: RunFolder, stage: int = 1) -> dict[str, dict[str, torch.Tensor]]:
    return checkpoint.load(checkpoint.task_folder(folder.path / "checkpoints", stage)).files


def same(one: RunFolder, two: RunFolder) -> bool:
    first, second = saved(one), saved(two)
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[file][name])
        for file, tensors in first.items()
        for name, tensor in tensors.items()
    )


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["naive", "ewc"])
def test_interrupted_and_run_again_equals_uninterrupted(play: Any, method: str) -> None:
    rule = {"sample": "prioritized", "every": 16, "most": 8}
    straight = play("past", "random", name="straight", method=method, **rule)
    for at in (32, 96):  # in the first task, and in the second
        with pytest.raises(Interrupted):
            play("past", "random", name="broken", method=method, at=at, **rule)
    broken = play("past", "random", name="broken", method=method, **rule)
    assert broken.scores() == straight.scores()
    assert same(broken, straight)
    games = saved(straight)["past_selves"]["games"]
    assert games[:, 0].tolist() == [*range(16, 129, 16)]
    assert games[:, 1].sum() > 5  # of them, some were played


@pytest.mark.thorough
def test_past_selves_change_what_is_learned_and_evaluation_does_not(play: Any) -> None:
    alone, pooled = play("random", name="alone"), play("random", "past", name="pooled", every=16)
    assert not torch.equal(*(saved(run)["policy"]["action_net.weight"] for run in (alone, pooled)))
    assert "past_selves" not in saved(alone)
    before = [[e for e in run.scores() if e["step"] == 0] for run in (alone, pooled)]
    assert before[0] == before[1]


@pytest.mark.thorough
def test_the_record_says_who_played_and_where(play: Any) -> None:
    episodes = [e for e in play("random", {"minimax": 1}).scores() if e["task"] == "first"]
    for point in range(0, len(episodes), 4):
        found = [(e["opponent"], e["seat"]) for e in episodes[point : point + 4]]
        assert found == [
            (opponent, seat)
            for opponent in ("random", "minimax-1")
            for seat in ("player_1", "player_2")
        ]
    assert all(e["success"] == 0.5 + 0.5 * e["return"] for e in episodes)
    assert {e["success"] for e in episodes} >= {0.0, 1.0}


@pytest.mark.thorough
def test_a_frozen_policy_plays_as_its_run_acts(play: Any, tmp_path: Path) -> None:
    run = play("random", "past", every=32, name="earlier")
    player = frozen_player(OpponentSpec(run="runs/earlier/naive/seed-0"), tmp_path)
    assert player.name == "naive-seed-0-1"
    agent = open_run(run.path).agent("second")
    env = agent.make_env()
    seen, _ = env.reset(seed=0)
    for _ in range(3):
        masks = env.unwrapped.action_masks()  # type: ignore[attr-defined]  # a game
        likeliest = int(player.chances(seen, masks).argmax())
        assert likeliest == agent.act(seen, action_masks=masks)
        seen, _, over, _, _ = env.step(likeliest)
        if over:
            break
    other = frozen_player(OpponentSpec(run="runs/earlier/naive/seed-0", stage=0), tmp_path)
    seen, _ = env.reset(seed=0)
    masks = env.unwrapped.action_masks()  # type: ignore[attr-defined]  # a game
    assert (other.chances(seen, masks) != player.chances(seen, masks)).any()
    later = play({"run": "runs/earlier/naive/seed-0"}, name="later")
    assert {e["opponent"] for e in later.scores()} == {"naive-seed-0-1"}


def scenario_against(tmp_path: Path, env: str = TTT, **entry: Any) -> Scenario:
    task = {"name": "game", "env": env, "steps": 64, "opponents": {"against": [entry]}}
    scenario = Scenario.model_validate(
        {"tasks": [task], "agent": {"algorithm": "maskable_ppo", "n_steps": 16, "batch_size": 16}}
    )
    scenario._folder = tmp_path
    return scenario


@pytest.mark.thorough
def test_runs_that_cannot_play_are_refused_before_anything_is_written(
    play: Any, tmp_path: Path
) -> None:
    play("random", name="earlier")
    run = "runs/earlier/naive/seed-0"
    for keys, message in [
        ({"run": "runs/earlier"}, "'runs/earlier' is no run folder; name one"),
        ({"run": run, "stage": 4}, "no checkpoint of stage 4; there are: 0, 1"),
        ({"run": run, "task": "frist"}, "no task 'frist'; did you mean 'first'"),
        ({"run": run, "env": "classic/connect_four_v3"}, "cannot play connect_four_v3"),
    ]:
        with pytest.raises(ScenarioError, match=message):
            build(scenario_against(tmp_path, **keys))
    build(scenario_against(tmp_path, run=run))


def crew(tmp_path: Path, name: str, *partners: Any) -> Scenario:
    """Spread: one agent learns, two others learn too or are frozen."""
    scenario = Scenario.model_validate(
        {
            "name": name,
            "tasks": [
                {
                    "name": f"t{index}",
                    "env": "mpe2.simple_spread_v3",
                    "kwargs": {"N": 3, "max_cycles": 8},
                    "steps": 32,
                    "partners": entry,
                }
                for index, entry in enumerate(partners)
            ],
            "agent": {
                "algorithm": "ppo",
                "policies": {"me": ["agent_0"], "others": ["agent_[12]"]},
                "n_steps": 16,
                "batch_size": 16,
                "n_epochs": 1,
                "policy_kwargs": {"net_arch": [16]},
            },
            "n_envs": 2,
            "evaluation": {"episodes": 2},
        }
    )
    scenario._folder = tmp_path
    return scenario


def run_crew(tmp_path: Path, scenario: Scenario, tell: Any = lambda progress: None) -> RunFolder:
    (folder, *_) = prepare(tmp_path / "runs", scenario)
    run_cell(folder, tell)
    return folder


@pytest.mark.thorough
def test_partners_act_as_in_their_run_and_do_not_learn(tmp_path: Path) -> None:
    earlier = run_crew(tmp_path, crew(tmp_path, "crew", {}, {}))
    path = "runs/crew/naive/seed-0"
    both = [{"others": {"run": path, "stage": 0}}, {"others": {"run": path, "stage": 1}}]
    straight = run_crew(tmp_path, crew(tmp_path, "straight", *both))
    assert set(saved(straight)) == {"me.policy"}
    assert set(saved(earlier)) == {"me.policy", "others.policy"}

    def stop(progress: Any) -> None:
        if progress.step >= 32:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_crew(tmp_path, crew(tmp_path, "broken", *both), stop)
    broken = run_crew(tmp_path, crew(tmp_path, "broken", *both))
    assert broken.scores() == straight.scores()
    assert same(broken, straight)


@pytest.mark.thorough
def test_partners_play_as_their_run_was_measured(tmp_path: Path) -> None:
    earlier = run_crew(tmp_path, crew(tmp_path, "crew", {}, {}))
    restored = kind_of(earlier.scenario).restore(earlier)
    partner = {"run": "runs/crew/naive/seed-0", "deterministic": True}
    later = crew(
        tmp_path, "later", *({"others": partner | {"task": name}} for name in ("t0", "t1"))
    )
    seeds = [3, 4, 5]
    for index in (0, 1):
        with restored.agent.view(index) as acts:
            whole = kind_of(restored.scenario).stream(0).eval_stream[index]
            part = kind_of(later).stream(0).eval_stream[index]
            assert part.play({"me": acts["me"]}, seeds, True) == whole.play(acts, seeds, True)
            # Without the partners, the others act at random.
            alone = kind_of(crew(tmp_path, "alone", {}, {})).stream(0).eval_stream[index]
            assert alone.play({"me": acts["me"]}, seeds, True) != whole.play(acts, seeds, True)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"run": "runs/crew"}, "is no run folder"),
        ({"run": "runs/crew/naive/seed-0", "group": "other"}, "did you mean 'others'"),
        ({"run": "runs/crew/naive/seed-0", "stage": 3}, "there are: 0"),
    ],
)
def test_partners_that_are_not_there_are_refused(tmp_path: Path, entry: Any, message: str) -> None:
    run_crew(tmp_path, crew(tmp_path, "crew", {}))
    with pytest.raises(UsageError, match=message):
        build(crew(tmp_path, "later", {"others": entry}))


def test_what_is_wrong_with_others_is_told_with_its_line(tmp_path: Path) -> None:
    run_crew(tmp_path, crew(tmp_path, "crew", {}))
    (tmp_path / "later.yaml").write_text(
        "tasks:\n"
        "  - name: t\n"
        "    env: mpe2.simple_spread_v3\n"
        "    steps: 32\n"
        "    partners: {others: {run: runs/crew/naive/seed-0, stage: 3}}\n"
        "agent: {algorithm: ppo, policies: {me: [agent_0], others: ['agent_[12]']}, n_steps: 16,\n"
        "        batch_size: 16}\n"
    )
    with pytest.raises(ScenarioError) as caught:
        build(load(tmp_path / "later.yaml"))
    (problem,) = caught.value.problems
    assert (problem.line, problem.path) == (5, "tasks[0].partners")
    assert "no checkpoint of stage 3; there are: 0" in problem.message
    (tmp_path / "game.yaml").write_text(
        "tasks:\n"
        f"  - {{name: t, env: {TTT}, steps: 32,\n"
        "     opponents: {against: [{run: runs/nothing}]}}\n"
        "agent: {algorithm: maskable_ppo, n_steps: 16, batch_size: 16}\n"
    )
    with pytest.raises(ScenarioError, match=r"game\.yaml:3:.*'runs/nothing' is no run folder"):
        build(load(tmp_path / "game.yaml"))


@pytest.mark.thorough
def test_a_run_of_one_agent_is_no_partner(play: Any, tmp_path: Path) -> None:
    play("random", name="earlier")
    entry = {"others": {"run": "runs/earlier/naive/seed-0"}}
    with pytest.raises(UsageError, match="is of one agent, not of a team"):
        build(crew(tmp_path, "later", entry))
