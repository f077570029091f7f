"""MAPPO: who sees what, equality with PPO where both see the same, methods, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import finish, interrupting
from team_runs import run, same_weights, started, team_scenario
from torch import nn

from holdfast.agents.base.parameters import named_parameters
from holdfast.agents.doors.networks import slots
from holdfast.agents.teams.team import TeamAgent
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.streams.team_stream import make_team_stream
from holdfast.continual.training.preflight import build
from holdfast.errors import ScenarioError
from holdfast.scenarios.load import load

LEAVING = {"env": "team_worlds:Leaving"}
STATING = {"env": "team_worlds:Stating"}
GROWING = [{**LEAVING, "kwargs": {"k": k}} for k in (2, 3)]
PAD = {"observation": "pad"}


def observed(policy: Any, batch: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.rand((batch, *space.shape), generator=generator)
        for key, space in policy.observation_space.spaces.items()
    }


# -- who sees what ---------------------------------------------------------------------------------


def test_the_actor_sees_its_observation_and_the_critic_the_state() -> None:
    policy = started(team_scenario("mappo", STATING))
    assert {key: s.shape for key, s in policy.observation_space.spaces.items()} == {
        "observation": (2,),
        "state": (3,),
        "task_id": (1,),
    }
    seen = {key: value.requires_grad_() for key, value in observed(policy, 4).items()}
    values, log_prob, _ = policy.evaluate_actions(seen, torch.zeros(4, dtype=torch.long))
    of_value = torch.autograd.grad(values.sum(), list(seen.values()), allow_unused=True)
    of_action = torch.autograd.grad(log_prob.sum(), list(seen.values()), allow_unused=True)
    assert [gradient is not None for gradient in of_value] == [False, True, True]
    assert [gradient is not None for gradient in of_action] == [True, False, True]


def test_parameters_have_their_groups() -> None:
    """What importance on the actor touches, no value depends on; and the other way round."""
    policy = started(team_scenario("mappo", STATING))
    actor = set(named_parameters(policy, "actor", "encoder"))
    critic = set(named_parameters(policy, "critic"))
    values, log_prob, _ = policy.evaluate_actions(
        observed(policy, 4), torch.zeros(4, dtype=torch.long)
    )
    names = dict(policy.named_parameters())
    for output, own in ((values, critic), (log_prob, actor)):
        found = torch.autograd.grad(output.sum(), list(names.values()), allow_unused=True)
        reached = {n for n, gradient in zip(names, found, strict=True) if gradient is not None}
        assert reached == own
    assert actor | critic == set(names)


def test_slots_are_as_wide_as_what_each_side_sees() -> None:
    policy = started(team_scenario("mappo", STATING))
    widths = {slot.role: (slot.features, slot.trunk[0].in_features) for slot in slots(policy)}
    assert widths == {"actor": (3, 3), "critic": (4, 4)}


@pytest.mark.parametrize(
    ("task", "states"),
    [
        (STATING, [[0, 2, -1], [1, 2, -1], [2, 1, -1], [0, 2, -1]]),
        # Without a state(): what both see, zeros where one is absent.
        (LEAVING, [[0, 0, 1, 0], [0, 1, 1, 1], [0, 0, 1, 2], [0, 0, 1, 0]]),
    ],
)
def test_the_state_of_each_step(task: dict[str, Any], states: list[list[float]]) -> None:
    """Agent 0 leaves after 2 steps and agent 1 after 3; both rows show one state."""
    scenario = team_scenario("mappo", task, n_envs=1, stream={"task_id": "hidden"})
    seats = next(iter(make_team_stream(scenario, 0).train_stream)).make_seats()["shared"]
    shown, infos = [seats.reset()["state"]], []
    for _ in range(3):
        seats.step_async(np.zeros(2, np.int64))
        seen, _, _, told = seats.step_wait()
        shown.append(seen["state"])
        infos.append(told)
    assert [rows[0].tolist() for rows in shown] == states
    assert [rows[1].tolist() for rows in shown] == states
    last = infos[-1][1]["terminal_observation"]  # of agent 1, which was cut off at step 3
    assert last["observation"].tolist() == [1, 3]
    assert last["state"].tolist() == ([3, 0, -1] if task is STATING else [0, 0, 1, 3])
    seats.close()


@pytest.mark.parametrize("algorithm", ["ppo", "mappo"])
def test_a_last_observation_outlives_the_next_episode(algorithm: str) -> None:
    """The environment is reset before the learner reads it."""
    scenario = team_scenario(algorithm, LEAVING, n_envs=1, stream={"task_id": "hidden"})
    seats = next(iter(make_team_stream(scenario, 0).train_stream)).make_seats()["shared"]
    seats.reset()
    for _ in range(3):
        seats.step_async(np.zeros(2, np.int64))
        *_, infos = seats.step_wait()
    last = infos[1]["terminal_observation"]
    assert (last["observation"] if algorithm == "mappo" else last).tolist() == [1, 3]
    seats.close()


def test_states_of_another_length_need_a_rule() -> None:
    with pytest.raises(ScenarioError) as caught:
        build(team_scenario("mappo", *GROWING))
    assert "`spaces: {observation: pad}` brings them together" in str(caught.value)
    assert "state of t1: Box(-inf, inf, (6,), float32)" in str(caught.value)
    build(team_scenario("mappo", *GROWING, spaces=PAD))


# -- against PPO -----------------------------------------------------------------------------------


def test_with_the_same_in_both_places_it_is_ppo() -> None:
    """One agent whose state is its observation: from PPO's weights, the same weights at the end."""
    ended = {}
    begun: dict[str, torch.Tensor] = {}
    for algorithm in ("ppo", "mappo"):
        task = {**LEAVING, "kwargs": {"k": 1}}
        scenario = team_scenario(algorithm, task, stream={"task_id": "hidden"})
        agent, experience = (
            TeamAgent(scenario),
            next(iter(make_team_stream(scenario, 0).train_stream)),
        )
        agent.start(experience)
        policy = agent.member("shared").policy
        begun = begun or {name: t.clone() for name, t in policy.state_dict().items()}
        assert {n: t.shape for n, t in policy.state_dict().items()} == {
            n: t.shape for n, t in begun.items()
        }
        policy.load_state_dict(begun)
        np.random.seed(0)  # the buffer draws from it
        torch.manual_seed(0)
        agent.learn(experience, lambda step: None, lambda scalars, step: None)
        ended[algorithm] = {name: t.clone() for name, t in policy.state_dict().items()}
    assert same_weights(ended["ppo"], ended["mappo"])
    assert not same_weights(ended["ppo"], begun)


def test_pictures_go_through_an_encoder_of_each_side() -> None:
    """The critic's encoder is the critic's; both learn."""
    from gymnasium import spaces

    from holdfast.agents.algorithms.mappo import CentralCriticPolicy

    entries = {
        "observation": spaces.Box(0, 255, (3, 36, 36), np.uint8),
        "state": spaces.Box(0, 255, (3, 40, 40), np.uint8),
    }
    policy = CentralCriticPolicy(spaces.Dict(entries), spaces.Discrete(2), lambda _: 1e-3)
    layers = [m for m in policy.modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 6
    encoder = set(named_parameters(policy, "encoder"))
    assert all(name.startswith("features_extractor.extractors.observation.") for name in encoder)
    critic = set(named_parameters(policy, "critic"))
    assert any(name.startswith("vf_features_extractor.extractors.state.") for name in critic)
    moved = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
    assert moved == {id(p) for p in policy.parameters()}


# -- through the loop ------------------------------------------------------------------------------

METHODS = ["ewc", "cloning", "packnet", "progressive", "componet", "er-ace", "agem"]


@pytest.mark.thorough
@pytest.mark.parametrize("method", METHODS)
def test_methods_run_on_a_growing_team(method: str, tmp_path: Path) -> None:
    score = {"random": 0.0, "reference": 10.0}
    keys = {"spaces": PAD, "score": score, "stream": {"task_count": "known"}}
    scenario = team_scenario("mappo", *GROWING, methods=[method], **keys)
    folder = run(tmp_path / "runs", scenario)
    assert [s["return"] for s in folder.scores()] == [16.0, 144.0] * 3  # whatever they do


@pytest.mark.thorough
def test_a_head_per_task(tmp_path: Path) -> None:
    agent = {"normalize": {"observations": "running"}}
    heads = {"stream": {"task_id": "heads"}, "agent": agent, "methods": [["ewc", "cloning"]]}
    folder = run(tmp_path / "runs", team_scenario("mappo", *GROWING, spaces=PAD, **heads))
    assert {(s["step"], s["task"]) for s in folder.scores() if s["unseen"]} == {
        (0, "t1"),
        (60, "t1"),
    }


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("algorithm", "method"), [("mappo", ["ewc", "cloning"]), ("vdn", "replay"), ("qmix", "naive")]
)
def test_stopped_and_run_again_equals_uninterrupted(
    algorithm: str, method: Any, tmp_path: Path
) -> None:
    scenario = team_scenario(
        algorithm,
        *GROWING,
        methods=[method],
        spaces=PAD,
        evaluation={"every": 20, "episodes": 1},
        carry={"optimizer": method == "naive", "replay_buffer": method == "naive"},
        agent={"normalize": {"observations": "running", "rewards": "running"}},
    )
    straight = run(tmp_path / "straight", scenario)
    (broken,) = prepare(tmp_path / "broken", scenario)
    assert finish(broken, interrupting(20, 80, 100)) == 4
    assert broken.scores() == straight.scores()
    for stage in range(2):
        one, other = (tensors(folder, stage) for folder in (straight, broken))
        assert one
        assert same_weights(one, other)


def tensors(folder: RunFolder, stage: int) -> dict[str, torch.Tensor]:
    """Return all that a checkpoint keeps."""
    from safetensors.torch import load_file

    return {
        f"{file.name}:{name}": tensor
        for file in sorted((folder.path / "checkpoints" / f"task-{stage}").glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["mappo", "vdn", "qmix"])
def test_they_are_refused_without_policies(algorithm: str, tmp_path: Path) -> None:
    path = tmp_path / "alone.yaml"
    path.write_text(
        f"tasks: [{{name: a, env: CartPole-v1, steps: 8}}]\nagent: {{algorithm: {algorithm}}}\n"
    )
    with pytest.raises(ScenarioError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert problem.path == "agent.algorithm"
    said = f"'{algorithm}' trains a team centrally: add agent.policies (shared, independent, or"
    assert problem.message.startswith(said)


def test_a_shared_encoder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shared.yaml"
    path.write_text(
        "tasks: [{name: a, env: CartPole-v1, steps: 64}]\n"
        "agent: {algorithm: mappo, policies: shared"
        ", n_steps: 32, batch_size: 32, policy_kwargs: {share_features_extractor: true}}\n"
    )
    with pytest.raises(ScenarioError) as caught:
        load(path)
    assert "the critic sees the state and the actor does not" in str(caught.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("features_extractor: own:Own", "'qmix' takes vectors of all agents as they are"),
        ("embed_dim: 0", "must be at least 1, got 0"),
        ("embed_dims: 8", "unknown key; did you mean 'embed_dim'?"),
    ],
)
def test_options_of_the_networks_are_checked(option: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text(
        "tasks: [{name: a, env: CartPole-v1, steps: 64}]\n"
        f"agent: {{algorithm: qmix, policies: shared, policy_kwargs: {{{option}}}}}\n"
    )
    with pytest.raises(ScenarioError) as caught:
        load(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("algorithm", ["vdn", "qmix"])
def test_actions_that_have_no_joint_value_are_refused(algorithm: str) -> None:
    task = {"env": "mpe2.simple_spread_v3", "kwargs": {"continuous_actions": True}}
    with pytest.raises(ScenarioError) as caught:
        build(team_scenario(algorithm, task))
    assert f"{algorithm} cannot take the action space Box" in str(caught.value)
    assert str(caught.value).endswith("mappo can")
