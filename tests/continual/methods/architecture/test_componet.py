"""CompoNet: attention by hand, the equations in loops, and old policies that stay bit for bit."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from all_doors import rebuild
from numpy.typing import NDArray
from torch import nn

from holdfast.agents.doors.outputs import OutputSpec
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.methods.architecture.componet import (
    AttentionHead,
    CompoNet,
    ComposingHead,
    ComposingTrunk,
    SelfComposing,
    is_critic,
    normalized,
    positions,
)
from holdfast.errors import UsageError

Array = NDArray[np.float64]


def _head(*, has_values: bool) -> tuple[AttentionHead, tuple[torch.Tensor, ...]]:
    """One feature, two rows of two numbers, queries and keys of width 4: all worked on paper.

    s = 1 and W_q of ones: the query is (1, 1, 1, 1). W_k takes a row's first number four times, so
    that a score is 4 x / sqrt(4) = 2 x of it. With the positions' first numbers 0 and
    (ln 3) / 2 - .5 it is x = .5 and .5 + (ln 3) / 2: scores 1 and 1 + ln 3, weights 1/4 and 3/4.
    """
    head = AttentionHead(1, 2, 4, has_values=has_values)
    head.query.weight.data = torch.ones(4, 1)
    head.key.weight.data = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    rows = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]])  # (batch, rows, n)
    encoding = torch.tensor([[0.0, 7.0], [math.log(3) / 2 - 0.5, 9.0], [3.0, 3.0]])
    return head, (torch.ones(1, 1), rows, encoding)


def test_the_output_head_by_hand() -> None:
    """The values are the rows: (.5, .5) / 4 + 3 (1, 0) / 4."""
    head, given = _head(has_values=False)
    torch.testing.assert_close(head(*given), torch.tensor([[0.875, 0.125]]))


def test_the_input_head_by_hand() -> None:
    """The values are (8 x, 8 y, 8 x + 8 y, 0) of a row (x, y): (4, 4, 8, 0) and (8, 0, 8, 0)."""
    head, given = _head(has_values=True)
    assert isinstance(head.value, nn.Linear)
    head.value.weight.data = torch.tensor([[8.0, 0.0], [0.0, 8.0], [8.0, 8.0], [0.0, 0.0]])
    torch.testing.assert_close(head(*given), torch.tensor([[7.0, 1.0, 8.0, 0.0]]))


def test_positions_by_hand() -> None:
    one, third = 1.0, 1 / 10_000 ** (2 / 3)
    expected = [
        [0.0, 1.0, 0.0],
        [math.sin(one), math.cos(one), math.sin(third)],
        [math.sin(2 * one), math.cos(2 * one), math.sin(2 * third)],
    ]
    torch.testing.assert_close(positions(3, 3), torch.tensor(expected))


@pytest.mark.parametrize(
    ("kind", "splits", "expected"),
    [
        ("categorical", [2, 3], [0.25, 0.75, 0.25, 0.5, 0.25]),
        ("categorical", [5], [1 / 9, 3 / 9, 1 / 9, 2 / 9, 2 / 9]),
        ("bernoulli", [], [1 / 2, 3 / 4, 1 / 2, 2 / 3, 2 / 3]),
        ("gaussian", [], [0.0, math.log(3), 0.0, math.log(2), math.log(2)]),
    ],
)
def test_rows_are_normalized_by_hand(kind: Any, splits: list[int], expected: list[float]) -> None:
    output = torch.tensor([[0.0, math.log(3), 0.0, math.log(2), math.log(2)]])
    if splits == [2, 3]:
        output[0, 4] = 0.0
    row = normalized(OutputSpec(kind, splits), output)
    torch.testing.assert_close(row, torch.tensor([expected]))


# -- the whole module against its equations in loops -----------------------------------------------

_FEATURES, _WIDTH, _OUTPUTS, _D = 5, 4, 3, 6


def _hidden(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, _WIDTH), nn.Tanh(), nn.Linear(_WIDTH, _WIDTH), nn.Tanh())


def _network(count: int, kind: Any = "categorical") -> tuple[ComposingTrunk, ComposingHead]:
    torch.manual_seed(count)
    head = ComposingHead(nn.Linear(_WIDTH, _OUTPUTS), count, composes=True)
    modules: list[nn.Module] = [_hidden(_FEATURES)]
    modules += [
        SelfComposing(_hidden(_FEATURES + _D), _FEATURES, _OUTPUTS, _D) for _ in range(count - 1)
    ]
    spec = OutputSpec(kind, [_OUTPUTS] if kind == "categorical" else [])
    trunk = ComposingTrunk(modules, head, partial(normalized, spec))
    for part in (trunk, head):
        part.load_state_dict({n: torch.randn_like(t) for n, t in part.state_dict().items()})
    return trunk, head


def _times(vector: Array, weight: Array) -> Array:
    return np.array([sum(w * x for w, x in zip(row, vector, strict=True)) for row in weight])


def _softmax(values: Array) -> Array:
    powers = np.array([math.exp(value) for value in values])
    return powers / powers.sum()


def _encoding(place: int) -> Array:
    angles = [place / 10_000 ** (2 * (j // 2) / _OUTPUTS) for j in range(_OUTPUTS)]
    return np.array([math.cos(a) if j % 2 else math.sin(a) for j, a in enumerate(angles)])


def _attend(weights: dict[str, Array], name: str, state: Array, rows: list[Array]) -> Array:
    query = _times(state, weights[f"{name}.query.weight"])
    scores = []
    for place, row in enumerate(rows):
        key = _times(row + _encoding(place), weights[f"{name}.key.weight"])
        scores.append(sum(q * k for q, k in zip(query, key, strict=True)) / math.sqrt(_D))
    value = weights.get(f"{name}.value.weight")
    values = rows if value is None else [_times(row, value) for row in rows]
    mixed = np.zeros_like(values[0])
    for share, row in zip(_softmax(np.array(scores)), values, strict=True):
        mixed = mixed + share * row
    return mixed


def _policy(weights: dict[str, Array], name: str, inputs: Array) -> Array:
    for layer in (0, 2):
        path = f"{name}.{layer}"
        inputs = np.tanh(_times(inputs, weights[f"{path}.weight"]) + weights[f"{path}.bias"])
    return inputs


def _in_loops(weights: dict[str, Array], state: Array, module: int, kind: str) -> Array:
    """Return the output of a module for one observation, by the equations of the paper."""
    rows: list[Array] = []
    for k in range(module + 1):
        name = f"policies.{k}"
        tentative, inside, inputs = np.zeros(_OUTPUTS), name, state
        if k:
            tentative = _attend(weights, f"{name}.output_head", state, rows)
            context = _attend(weights, f"{name}.input_head", state, [*rows, tentative])
            inside, inputs = f"{name}.policy", np.concatenate([state, context])
        latent = _policy(weights, inside, inputs)
        own = _times(latent, weights[f"heads.{k}.weight"]) + weights[f"heads.{k}.bias"]
        output: Array = tentative + own
        rows.append(_softmax(output) if kind == "categorical" else output)
    return output


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
@pytest.mark.parametrize("active", [0, 1, 2, 3])
def test_each_module_equals_its_equations_in_loops(kind: str, active: int) -> None:
    trunk, head = (part.double() for part in _network(4, kind))
    trunk.positions = torch.tensor(np.array([_encoding(k) for k in range(4)]))
    trunk.active = head.active = active
    tensors = trunk.state_dict() | head.state_dict()
    weights = {name: tensor.numpy() for name, tensor in tensors.items()}
    states = np.random.default_rng(0).normal(size=(7, _FEATURES))
    expected = np.stack([_in_loops(weights, state, active, kind) for state in states])
    said = head(trunk(torch.tensor(states))).detach().numpy()
    np.testing.assert_allclose(said, expected, rtol=1e-12, atol=1e-12)


def test_a_deviation_is_the_internal_policys_alone() -> None:
    trunk, _ = _network(2)
    deviation = ComposingHead(nn.Linear(_WIDTH, _OUTPUTS), 2, composes=False)
    hidden = trunk(torch.randn(5, _FEATURES))
    assert hidden.shape == (5, _WIDTH + _OUTPUTS)
    assert deviation(hidden).equal(deviation.heads[1](hidden[:, :_WIDTH]))


def test_gradients_reach_the_newest_module_alone() -> None:
    trunk, head = _network(4)
    states = torch.randn(9, _FEATURES, requires_grad=True)
    head(trunk(states)).square().sum().backward()
    parameters = dict(trunk.named_parameters()) | dict(head.named_parameters())
    assert {".".join(name.split(".")[:2]) for name in parameters} == {"policies.3", "heads.3"}
    assert len(parameters) == 5 + 4 + 2  # two heads' maps, two layers and an output layer
    assert all(parameter.grad.abs().sum() > 0 for parameter in parameters.values())


# -- inside of agents ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["ppo", "ppo-box", "a2c", "sac"])
def test_the_first_task_equals_naive_bit_for_bit(case: str, train: Any) -> None:
    """Only names differ: the first module is the published policy."""
    plain, composed = train(case, tasks=1), train(case, lambda: [CompoNet()], tasks=1)
    ours, theirs = list(composed.policy.parameters()), list(plain.policy.parameters())
    assert len(ours) == len(theirs)
    assert all(one.equal(other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.thorough
def test_parameters_grow_linearly(train: Any) -> None:
    """By 19 d + 2 n d of two heads, and an internal policy with d inputs more, each task."""
    actors: list[int] = []
    learning: list[int] = []

    def watch(agent: Any, task: Any) -> None:
        tensors = agent.policy.state_dict()
        actors.append(sum(t.numel() for n, t in tensors.items() if not is_critic(n)))
        named = agent.policy.named_parameters()
        learning.append(sum(p.numel() for n, p in named if not is_critic(n)))

    train("ppo", lambda: [CompoNet(d_model=3)], tasks=5, watch=watch)
    features, outputs, width, d = 4 + 5, 2, 8, 3  # CartPole with the task id
    plain = (features + 1) * width + (width + 1) * width + (width + 1) * outputs
    module = plain + d * width + 2 * features * d + 3 * outputs * d
    assert actors == [plain + k * module for k in range(5)]
    assert learning == [plain, *[module] * 4]


@pytest.mark.parametrize("case", ["ppo", "sac"])
def test_earlier_modules_stay_and_the_newest_learns(case: str, train: Any) -> None:
    seen: list[dict[str, Any]] = []

    def watch(agent: Any, task: Any) -> None:
        tensors = agent.policy.state_dict()
        seen.append({n: t.clone() for n, t in tensors.items() if not is_critic(n)})

    train(case, lambda: [CompoNet()], tasks=3, watch=watch)
    for before, after in pairwise(seen):
        kept = before.keys() - {"log_std"}
        assert kept < after.keys()
        assert [name for name in kept if not before[name].equal(after[name])] == []
    new = seen[2].keys() - seen[1].keys()
    assert {name.partition(".policies.")[2][0] for name in new if ".policies." in name} == {"2"}


def test_what_is_no_module_starts_anew(train: Any) -> None:
    """With a learning rate of zero, what is carried over would be the same in both tasks."""
    seen: list[dict[str, Any]] = []

    def watch(agent: Any, task: Any) -> None:
        tensors = agent.policy.state_dict()
        seen.append({name: tensor.clone() for name, tensor in tensors.items()})

    train("sac", lambda: [CompoNet()], tasks=2, watch=watch, agent={"learning_rate": 0.0})
    weights = [n for n in seen[0] if is_critic(n) and n.endswith("weight")]
    assert len(weights) == 2 * 2 * 3  # of two critics and their targets
    for name in weights:
        assert not seen[0][name].equal(seen[1][name])
        online = name.replace("critic_target.", "critic.")
        torch.testing.assert_close(seen[1][name], seen[1][online])
    first = "actor.latent_pi.policies.0.0.weight"
    assert seen[0][first].equal(seen[1][first])


def test_the_temperature_and_ppos_deviation_start_anew(train: Any) -> None:
    agent = train("sac", tasks=1, steps=32)
    CompoNet().pre_adapt(agent.doors(CompoNet()), None)  # type: ignore[arg-type]  # not read
    is_fresh = agent.plan.is_fresh
    assert is_fresh("log_ent_coef")
    assert is_fresh("log_std")
    assert not is_fresh("actor.mu.heads.0.weight")
    assert not is_fresh("actor.log_std.heads.0.weight")


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["ppo", "ppo-box", "sac"])
def test_old_tasks_keep_their_policy_bit_for_bit(case: str, check_old_policies_stay: Any) -> None:
    """Deterministic actions after three later tasks, running normalisation included."""
    check_old_policies_stay(case, CompoNet())


def test_it_runs_with_tqc(train: Any) -> None:
    agent = train("sac", lambda: [CompoNet()], tasks=3, steps=32, agent={"algorithm": "tqc"})
    assert agent.policy.actor.latent_pi.count == agent.policy.actor.mu.count == 3
    assert not hasattr(agent.policy.critic.qf0, "policies")


@pytest.mark.thorough
def test_a_task_that_comes_again_gets_a_new_module(learn: Any) -> None:
    method = CompoNet()
    stream = {"order": ["t0", "t1", "t0"]}
    rows = np.eye(6, dtype=np.float32)
    said = []
    for agent, _ in learn("ppo-box", method, tasks=2, stream=stream):
        with agent.view(1) as act:
            width = agent.policy.observation_space.shape[0]
            said.append(act(rows[:, :width], None, np.ones(6, dtype=bool), deterministic=True)[0])
        trunk = agent.policy.mlp_extractor.policy_net
    assert trunk.count == trunk.active + 1 == 3
    assert method.state()["tasks"].tolist() == [0, 1, 0]
    assert np.array_equal(said[1], said[2])
    with agent.view(0):
        assert trunk.active == 2
    with agent.view(1):
        assert trunk.active == agent.policy.action_net.active == 1
    assert trunk.active == agent.policy.action_net.active == 2


def test_ppos_deviation_is_kept_per_task(learn: Any) -> None:
    kept = []
    for agent, _ in learn("ppo-box", CompoNet(), tasks=2):
        kept.append(agent.policy.log_std.item())
    assert kept[0] != kept[1]
    with agent.view(0):
        assert agent.policy.log_std.item() == kept[0]
    assert agent.policy.log_std.item() == kept[1]


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_a_restart_changes_nothing(algorithm: str, check_restart: Any) -> None:
    normalize = {"normalize": {"observations": "running"}}
    check_restart(algorithm, {"componet": {"d_model": 4}}, agent=normalize)


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_it_runs_marks_unseen_tasks_and_is_restored(algorithm: str, run: Any) -> None:
    folder = run(algorithm, "componet", tasks=2, steps=64)
    marked = {(s["step"], s["task"]) for s in folder.scores() if s["unseen"]}
    assert marked == {(0, "t1"), (64, "t1")}
    agent: Any = kind_of(folder.scenario).restore(folder).agent
    (trunk,) = (m for m in agent.policy.modules() if isinstance(m, ComposingTrunk))
    assert (trunk.count, trunk.active) == (2, 1)
    with agent.view(0):
        assert trunk.active == 0


# -- refusals --------------------------------------------------------------------------------------


def test_validate_refuses_by_name(refusal: Any) -> None:
    assert refusal("componet") == refusal("componet: {d_model: 32}", "sac") == ""
    for other in ("dqn", "td3", "trpo", "crossq"):
        able = "ppo, a2c, maskable_ppo, sac, tqc, mappo"
        said = f"'componet' works with {able}, not with '{other}'"
        assert said in refusal("componet", other)
    assert "task_id: observed" in refusal("componet", stream="{task_id: heads}")
    assert "which task it is in" in refusal("componet", stream="{task_id: hidden}")
    assert "where tasks end" in refusal("componet", stream="{boundaries: hidden}")
    assert "at least 1" in refusal("componet: {d_model: 0}")
    assert "compose at most one" in refusal("[componet, packnet]", stream="{task_count: known}")


@pytest.mark.thorough
def test_what_cannot_be_composed_is_refused(run: Any) -> None:
    policy = nn.Module()
    policy.features_extractor = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="method componet: the features extractor learns"):
        rebuild(CompoNet(), policy)
    with pytest.raises(UsageError, match=r"carry\.weights: false would drop"):
        run("ppo", "componet", carry={"weights": False})
    with pytest.raises(UsageError, match="needs a linear hidden layer"):
        run("ppo", "componet", agent={"policy_kwargs": {"net_arch": []}}, runs="flat")
