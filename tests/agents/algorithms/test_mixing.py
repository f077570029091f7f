"""VDN and QMIX: mixing, targets and losses by hand, absent agents, the two-step game."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from team_runs import learned, run, same_weights, started, team_scenario
from torch import Tensor, nn

from holdfast.agents.algorithms.losses import inputs_of, loss_of
from holdfast.agents.algorithms.mixing import joint_loss, joint_targets, values_of
from holdfast.agents.algorithms.mixing_policy import MonotonicMixer, Observations
from holdfast.agents.base.buffers import flatten
from holdfast.agents.base.parameters import gradient_of, named_parameters, target_parameters
from holdfast.agents.doors.outputs import PolicyOutput, softmax_divergence
from holdfast.continual.streams.team_stream import TeamExperience, make_team_stream
from holdfast.envs.multiagent.joint import JointSeats

BOTH = ["vdn", "qmix"]
LEAVING = {"env": "team_worlds:Leaving"}
TWO_STEP = {"env": "team_worlds:TwoStep"}


def observed(policy: Any, batch: int, seed: int = 0) -> Observations:
    """Return random joint observations, in which everybody is present and everything allowed."""
    generator = torch.Generator().manual_seed(seed)
    seen: Observations = {}
    for key, space in policy.observation_space.spaces.items():
        values = torch.rand((batch, *space.shape), generator=generator)
        seen[key] = torch.ones_like(values) if key in ("present", "action_masks") else values
    return seen


# -- mixing ----------------------------------------------------------------------------------------


def test_the_mixing_is_monotonic() -> None:
    """Whatever the state and the weights, no agent's value lowers the team's."""
    torch.manual_seed(0)
    slopes = []
    for _ in range(20):
        mixer = MonotonicMixer(agents=3, state=4, embed_dim=8, hypernet_dim=8).double()
        values = (10 * torch.randn(50, 3, dtype=torch.float64)).requires_grad_()
        joint = mixer(values, 3 * torch.randn(50, 4, dtype=torch.float64))
        assert joint.shape == (50, 1)
        slopes.append(torch.autograd.grad(joint.sum(), values)[0])
    assert torch.cat(slopes).min() >= 0
    assert (torch.cat(slopes) > 0).double().mean() > 0.99


def test_the_mixing_by_hand() -> None:
    """State 2: weights |-1 x 2|, |1 x 2|; hidden elu(2 x 3 + 2 x -4 + 0.5) = exp(-1.5) - 1."""
    mixer = MonotonicMixer(agents=2, state=1, embed_dim=1, hypernet_dim=1).double()
    layers = (mixer.first_weight, mixer.first_bias, mixer.last_weight, *mixer.last_bias)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    with torch.no_grad():
        mixer.first_weight.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        mixer.first_bias.weight.fill_(0.25)
        mixer.last_weight.weight.fill_(-1.5)
        mixer.last_bias[0].weight.fill_(2.0)
        mixer.last_bias[2].weight.fill_(-1.0)
    joint = mixer(torch.tensor([[3.0, -4.0]]).double(), torch.tensor([[2.0]]).double())
    expected = 3 * (np.exp(-1.5) - 1) - 4  # |-1.5 x 2|; relu(2 x 2) x -1
    np.testing.assert_allclose(joint.item(), expected)


# -- values ----------------------------------------------------------------------------------------


def values_by_hand(policy: Any, seen: Observations) -> Tensor:
    """Return (batch, agents, n) of a network with one hidden layer, agent by agent."""
    first, _, last = policy.q_net.q_net
    agents = seen["observation"].shape[1]
    by_agent = []
    for agent in range(agents):
        place = torch.eye(agents).to(first.weight)[agent].expand(len(seen["observation"]), -1)
        parts = [seen["observation"][:, agent], place, seen["task_id"]]
        hidden = (torch.cat(parts, -1) @ first.weight.T + first.bias).clamp(min=0)
        by_agent.append(hidden @ last.weight.T + last.bias)
    return torch.stack(by_agent, 1)


def test_the_gradient_of_vdn_is_that_of_a_sum() -> None:
    policy = started(team_scenario("vdn", LEAVING))
    seen = {key: value.double() for key, value in observed(policy.double(), 6).items()}
    # Stable-Baselines3 makes observations float32 before they are encoded.
    policy.q_net.extract_features = lambda observations, encoder: encoder(observations)
    actions = torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0], [2, 1], [1, 1]])
    targets = torch.arange(6.0, dtype=torch.float64)[:, None]
    names = dict(policy.q_net.named_parameters())
    own = torch.autograd.grad(joint_loss(policy, seen, actions, targets), list(names.values()))
    table = values_by_hand(policy, seen)
    chosen = torch.stack([table[row, [0, 1], actions[row]] for row in range(6)])  # (6, agents)
    loss = (chosen.sum(1) - targets[:, 0]).square().mean()
    for ours, by_hand in zip(own, torch.autograd.grad(loss, list(names.values())), strict=True):
        torch.testing.assert_close(ours, by_hand, rtol=1e-12, atol=1e-14)


def test_targets_by_hand() -> None:
    """The learning network chooses among allowed actions, the other one judges; r + 0.9 Q'."""
    policy = started(team_scenario("vdn", TWO_STEP, stream={"task_id": "hidden"}))
    following = observed(policy, 4)
    following["present"][2, 1] = 0  # agent 1 is gone after the third transition
    following["action_masks"][3, 0, 1] = 0  # and agent 0 may not take action 1 after the fourth
    online = torch.tensor([[1.0, 2.0], [4.0, 3.0]]).flatten().expand(4, -1)
    slow = torch.tensor([[10.0, 20.0], [100.0, 200.0]]).flatten().expand(4, -1)
    policy.q_net.forward = lambda _: online
    policy.q_net_target.forward = lambda _: slow
    rewards, dones = (
        torch.tensor([[1.0], [1.0], [1.0], [1.0]]),
        torch.tensor([[0.0], [1], [0], [0]]),
    )
    targets = joint_targets(policy, following, rewards, dones, 0.9)
    assert policy.best_actions(following).tolist() == [[1, 0], [1, 0], [1, 0], [0, 0]]
    expected = [[1 + 0.9 * 120], [1.0], [1 + 0.9 * 20], [1 + 0.9 * 110]]
    torch.testing.assert_close(targets, torch.tensor(expected))
    assert not targets.requires_grad


@pytest.mark.parametrize("algorithm", BOTH)
def test_absent_agents_never_reach_the_loss(algorithm: str) -> None:
    policy = started(team_scenario(algorithm, LEAVING))
    seen = observed(policy, 4)
    seen["present"][:, 1] = 0
    targets, actions = torch.zeros(4, 1), torch.zeros(4, 2, dtype=torch.long)
    names = dict(named_parameters(policy))

    def gradients(seen: Observations, actions: Tensor) -> list[Tensor]:
        loss = joint_loss(policy, seen, actions, targets)
        return [loss, *torch.autograd.grad(loss, list(names.values()), allow_unused=True)]

    other = {**seen, "observation": seen["observation"].clone()}
    other["observation"][:, 1] = 77.0
    for one, two in zip(
        gradients(seen, actions), gradients(other, actions + torch.tensor([0, 2])), strict=True
    ):
        assert torch.equal(one, two)
    present = {**other, "present": torch.ones_like(seen["present"])}
    assert not torch.equal(gradients(other, actions)[0], gradients(present, actions)[0])
    rewards, dones = torch.ones(4, 1), torch.zeros(4, 1)
    both = [joint_targets(policy, following, rewards, dones, 0.9) for following in (seen, other)]
    assert torch.equal(*both)


@pytest.mark.parametrize("algorithm", BOTH)
def test_parameters_have_their_groups(algorithm: str) -> None:
    """The network of values decides actions; the mixer judges them, and only in training."""
    policy = started(team_scenario(algorithm, LEAVING))
    actor = set(named_parameters(policy, "actor", "encoder"))
    assert actor == {f"q_net.{n}" for n, _ in policy.q_net.named_parameters()}
    critic = set(named_parameters(policy, "critic"))
    assert critic == {f"mixer.{n}" for n, _ in policy.mixer.named_parameters()}
    assert bool(critic) == (algorithm == "qmix")
    assert set(target_parameters(policy)) == actor | critic
    moved = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
    assert moved == {id(p) for p in named_parameters(policy).values()}


def test_the_output_is_the_values_of_all_agents() -> None:
    policy = started(team_scenario("qmix", LEAVING))
    output = PolicyOutput(policy)
    assert output.spec.splits == [3, 3]
    seen = observed(policy, 5)
    old = {"mean": output(seen)["mean"].detach()}
    new = {"mean": old["mean"] + torch.tensor([1.0, 0, 0, 0, 0, 0])}
    first = {"mean": old["mean"][:, :3]}, {"mean": new["mean"][:, :3]}
    torch.testing.assert_close(
        softmax_divergence(old, new, 1.0, output.spec.splits), softmax_divergence(*first, 1.0)
    )


@pytest.mark.parametrize("algorithm", BOTH)
def test_the_loss_of_named_tensors_is_that_of_train(algorithm: str) -> None:
    """Its gradient on a batch is what ``train`` hands to the optimizer on that batch."""
    model = learned(team_scenario(algorithm, LEAVING)).member("shared").model
    model.max_grad_norm = np.inf
    sampled = model.replay_buffer.sample(8)
    model.replay_buffer.sample = lambda *_, **__: sampled
    parameters = named_parameters(model.policy)
    detached = {name: p.detach().clone() for name, p in parameters.items()}
    inputs = inputs_of(model, detached, flatten(sampled._asdict()), torch.Generator())
    ours = gradient_of(lambda p: loss_of(model, p, inputs), detached)
    stepped: list[dict[str, Tensor]] = []
    model.policy.optimizer.step = lambda: stepped.append(
        {name: p.grad.clone() for name, p in parameters.items()}
    )
    model.train(gradient_steps=1, batch_size=8)
    (theirs,) = stepped
    assert any(gradient.abs().max() > 0.01 for gradient in theirs.values())
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient)


# -- the group as one row --------------------------------------------------------------------------


def joint_seats(algorithm: str, *tasks: dict[str, Any], **keys: Any) -> JointSeats:
    scenario = team_scenario(algorithm, *tasks, spaces={"observation": "pad"}, **keys)
    experience: TeamExperience = next(iter(make_team_stream(scenario, 0).train_stream))
    return experience.make_seats()["shared"]


def test_what_a_group_is_shown_and_paid() -> None:
    """Two agents in a team of at most three: agent 0 leaves after 2 steps, agent 1 after 3."""
    tasks = [{**LEAVING, "kwargs": {"k": k}} for k in (2, 3)]
    seats = joint_seats("qmix", *tasks, n_envs=1)
    assert seats.num_envs == 1
    assert seats.action_space.nvec.tolist() == [3, 3, 3]
    seen = seats.reset()
    steps = [(seen, [0.0], [True], [{}])]
    for _ in range(3):
        seats.step_async(np.array([[0, 1, 2]]))
        steps.append(seats.step_wait())
    shown = [step[0] for step in steps]
    assert [s["present"][0].tolist() for s in shown] == [[1, 1, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0]]
    assert shown[2]["observation"][0].tolist() == [[0, 0], [1, 2], [0, 0]]
    assert shown[2]["state"][0].tolist() == [0, 0, 1, 2, 0, 0]  # joint, absent ones zero
    assert shown[1]["task_id"][0].tolist() == [1, 0]
    assert [step[1][0] for step in steps[1:]] == [11.0, 11.0, 10.0]
    assert [bool(step[2][0]) for step in steps[1:]] == [False, False, True]
    (info,) = steps[-1][3]
    assert info["TimeLimit.truncated"] is True
    assert info["episode"]["r"] == 16.0  # mean of 2 and 30
    assert info["episode"]["l"] == 3
    last = info["terminal_observation"]
    assert last["present"].tolist() == [0, 1, 0]
    assert last["observation"].tolist() == [[0, 0], [1, 3], [0, 0]]
    assert last["state"].tolist() == [0, 0, 1, 3, 0, 0]
    assert shown[3]["observation"][0].tolist() == [[0, 0], [1, 0], [0, 0]]  # the next episode
    seats.close()


@pytest.mark.parametrize("algorithm", BOTH)
def test_transitions_are_stored_as_they_were(algorithm: str) -> None:
    model = learned(team_scenario(algorithm, LEAVING, n_envs=1)).member("shared").model
    buffer = model.replay_buffer
    assert buffer.size() == 60
    assert buffer.rewards[:6, 0].tolist() == [11.0, 11.0, 10.0] * 2
    assert buffer.dones[:6, 0].tolist() == [0, 0, 1] * 2
    assert buffer.timeouts[:6, 0].tolist() == [0, 0, 1] * 2
    assert buffer.observations["present"][:3, 0].tolist() == [[1, 1], [1, 1], [0, 1]]
    assert buffer.next_observations["present"][:3, 0].tolist() == [[1, 1], [0, 1], [0, 1]]
    assert ("state" in buffer.observations) == (algorithm == "qmix")


def test_masked_actions_are_never_taken(tmp_path: Path) -> None:
    """The environment raises where they are: at random, exploring, greedy, before any learning."""
    task = {"env": "team_worlds:Leaving", "kwargs": {"k": 2, "masked": True}}
    agent = {"exploration_final_eps": 0.5}
    folder = run(tmp_path / "runs", team_scenario("qmix", task, agent=agent))
    assert folder.info()["status"] == "finished"


@pytest.mark.parametrize("algorithm", BOTH)
def test_exploration_is_that_of_each_agent(algorithm: str) -> None:
    model = learned(team_scenario(algorithm, LEAVING)).member("shared").model
    masks = np.ones((20_000, 2, 3), np.int8)
    masks[:, 1, 0] = 0
    np.random.seed(0)  # the model draws from it
    chosen = model._explored(np.full((20_000, 2), 2), masks, 0.3)
    assert set(chosen[:, 1]) == {1, 2}
    np.testing.assert_allclose((chosen != 2).mean(0), [0.3 * 2 / 3, 0.3 / 2], atol=0.01)
    both = ((chosen[:, 0] != 2) & (chosen[:, 1] != 2)).mean()
    np.testing.assert_allclose(both, 0.2 * 0.15, atol=0.005)  # independent of each other


# -- the two-step game -----------------------------------------------------------------------------


def joint_table(algorithm: str, seed: int, steps: int, **agent: Any) -> tuple[Any, np.ndarray]:
    """Return a trained policy and its joint values, shape (states, 2, 2)."""
    mixing = {"embed_dim": 8} if algorithm == "qmix" else {}
    options = {
        "gamma": 0.99,
        "exploration_final_eps": 1.0,  # full exploration, as there
        "buffer_size": 1000,
        "learning_starts": 64,
        "policy_kwargs": {"net_arch": [64], **mixing},
        **agent,
    }
    n_envs = options.pop("n_envs")
    scenario = team_scenario(
        algorithm,
        {**TWO_STEP, "steps": steps},
        agent=options,
        n_envs=n_envs,
        stream={"task_id": "hidden"},
    )
    policy = learned(scenario, seed).member("shared").policy
    table = np.zeros((3, 2, 2))
    for state in range(3):
        values = policy.q_net(in_state(policy, state))
        for actions in np.ndindex(2, 2):
            chosen = values_of(policy, values, torch.tensor([actions]))
            table[state][actions] = policy.joint_value(
                chosen, in_state(policy, state), target=False
            ).item()
    return policy, table


def in_state(policy: Any, state: int) -> Observations:
    seen = observed(policy, 1)
    seen["observation"] = torch.eye(3)[state].expand(1, 2, 3)
    return seen | ({"state": torch.eye(3)[state][None]} if "state" in seen else {})


def reached(policy: Any) -> float:
    """Return what the greedy team is paid in an episode."""
    from team_worlds import TwoStep

    env = TwoStep()
    env.reset()
    total = 0.0
    while env.agents:
        (actions,) = policy.best_actions(in_state(policy, env.now)).tolist()
        total += sum(env.step(dict(zip(env.possible_agents, actions, strict=True)))[1].values())
    return total


def check_two_step(algorithm: str, policy: Any, table: np.ndarray) -> None:
    """Compare with table 2 of Rashid et al. 2018, and with what a sum can be at best.

    The best sum of ((0, 1), (1, 8)) is ((-1.5, 2.5), (2.5, 6.5)): so VDN prefers the 7 at once.
    """
    np.testing.assert_allclose(table[1], 7.0, atol=0.3)
    if algorithm == "qmix":
        np.testing.assert_allclose(table[2], [[0, 1], [1, 8]], atol=0.3)
        np.testing.assert_allclose(table[0], 0.99 * np.array([[7, 7], [8, 8]]), atol=0.3)
    else:
        np.testing.assert_allclose(table[2], [[-1.5, 2.5], [2.5, 6.5]], atol=0.8)
        assert table[0][0].min() > table[0][1].max()
    assert reached(policy) == (8.0 if algorithm == "qmix" else 7.0)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", BOTH)
def test_two_step_game_in_short(algorithm: str) -> None:
    """Six times the published learning rate, and a fifth of the updates, on larger batches."""
    fast = {"learning_rate": 3e-3, "batch_size": 64, "target_update_interval": 400, "n_envs": 8}
    check_two_step(algorithm, *joint_table(algorithm, 1, 8000, **fast))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("algorithm", BOTH)
def test_two_step_game_as_published(algorithm: str, seed: int) -> None:
    """Appendix of Rashid et al. 2018: 10,000 steps, an update per episode, rate 5e-4, batch 32."""
    published = {"batch_size": 32, "train_freq": 2, "target_update_interval": 200, "n_envs": 1}
    check_two_step(algorithm, *joint_table(algorithm, seed, 10_000, **published))


# -- through the loop ------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", BOTH)
def test_a_growing_team_runs_with_two_methods(algorithm: str, tmp_path: Path) -> None:
    tasks = [{**LEAVING, "kwargs": {"k": k}} for k in (2, 3)]
    spaces = {"spaces": {"observation": "pad"}}
    scenario = team_scenario(algorithm, *tasks, methods=[["ewc", "replay"]], **spaces)
    folder = run(tmp_path / "runs", scenario)
    assert [score["step"] for score in folder.scores()] == [0, 0, 60, 60, 120, 120]
    assert [score["return"] for score in folder.scores()] == [16.0, 144.0] * 3  # whatever they do


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", BOTH)
def test_groups_are_teams_of_their_own(algorithm: str, tmp_path: Path) -> None:
    """Each with its own joint value; one is over before the other."""
    groups = {"first": ("agent_0",), "rest": ("agent_1", "agent_2")}
    task = {**LEAVING, "kwargs": {"k": 3}}
    agent = learned(team_scenario(algorithm, task, n_envs=1, agent={"policies": groups}))
    first, rest = (agent.member(group).model.replay_buffer for group in groups)
    assert first.rewards[:3, 0].tolist() == [1.0] * 3  # of 4 steps it acts in 2
    assert first.dones[:4, 0].tolist() == [0, 1, 0, 1]
    assert first.timeouts[:4, 0].tolist() == [0, 0, 0, 0]
    assert first.size() == 30
    assert rest.rewards[:5, 0].tolist() == [110.0, 110.0, 110.0, 100.0, 110.0]
    assert rest.dones[:4, 0].tolist() == rest.timeouts[:4, 0].tolist() == [0, 0, 0, 1]
    assert rest.size() == 60


def test_seeds(tmp_path: Path) -> None:
    one, twin, other = (
        learned(team_scenario("qmix", LEAVING), seed).files()["shared.policy"] for seed in (0, 0, 1)
    )
    assert same_weights(one, twin)
    assert not same_weights(one, other)
