"""CKA-RL: the mixture by hand, the pool's sums, and old policies that stay bit for bit."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.methods.architecture.cka_rl import (
    VECTORS,
    CkaRl,
    MixedLinear,
    Mixture,
    is_mixed,
    merged,
)
from holdfast.continual.methods.architecture.componet import is_critic
from holdfast.errors import UsageError


def _layer() -> tuple[MixedLinear, Mixture]:
    """Two vectors with shares 1/4 and 3/4: s alpha is (0, ln 3), by s = 2."""
    mixture = Mixture(torch.tensor([0.0, math.log(3) / 2]))
    mixture.scale.data.fill_(2.0)
    linear = nn.Linear(2, 1)
    linear.weight.data, linear.bias.data = torch.tensor([[1.0, 10.0]]), torch.tensor([100.0])
    layer = MixedLinear(linear, mixture, 2)
    layer.weight_vectors.copy_(torch.tensor([[[4.0, 0.0]], [[0.0, 8.0]]]))
    layer.bias_vectors.copy_(torch.tensor([[40.0], [80.0]]))
    return layer, mixture


def test_a_layer_by_hand() -> None:
    """Weights (1, 10) + (1, 0) + (0, 6), bias 100 + 10 + 60, at (1, 1) and (1, 2)."""
    layer, mixture = _layer()
    inputs = torch.tensor([[1.0, 1.0], [1.0, 2.0]])
    torch.testing.assert_close(layer(inputs), torch.tensor([[188.0], [204.0]]))
    mixture.active = False
    torch.testing.assert_close(layer(inputs), torch.tensor([[111.0], [121.0]]))


def test_gradients_of_the_mixture_by_hand() -> None:
    """d share_1 / d(s alpha_1) = 3/16, of share_2 -3/16; the outputs of both vectors: 44 and 88.

    At (1, 1) the output moves by (44 - 88) 3/16 = -8.25 with s alpha_1, times s = 2 with alpha_1,
    and by 8.25 ln 3 / 2 with s.
    """
    layer, mixture = _layer()
    layer(torch.ones(1, 2)).sum().backward()
    assert mixture.alpha.grad is not None
    torch.testing.assert_close(mixture.alpha.grad, torch.tensor([-16.5, 16.5]))
    assert mixture.scale.grad is not None
    torch.testing.assert_close(mixture.scale.grad, torch.tensor([8.25 * math.log(3) / 2]))
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, torch.ones(1, 2))
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}


def test_the_pool_is_merged_by_hand() -> None:
    """Cosines over both tensors of a vector: 0 and 1 are alike by .8, 0 and 2 by .6, 1 and 2 by 0.

    Layer by layer, 0 and 2 would be merged in the second one.
    """
    vectors = [
        {"a": torch.tensor([0.8]), "b": torch.tensor([0.6])},
        {"a": torch.tensor([1.0]), "b": torch.tensor([0.0])},
        {"a": torch.tensor([0.0]), "b": torch.tensor([9.0])},
    ]
    two = merged(vectors, 2)
    torch.testing.assert_close(two[0], vectors[2])
    torch.testing.assert_close(two[1], {"a": torch.tensor([0.9]), "b": torch.tensor([0.3])})
    (one,) = merged(vectors, 1)
    torch.testing.assert_close(one, {"a": torch.tensor([0.45]), "b": torch.tensor([4.65])})
    assert merged(vectors, 3) == vectors


def test_a_vector_of_zeros_is_like_no_other() -> None:
    """The first task's: its cosine counts as 0, above that of opposite vectors alone."""
    zero, one = {"a": torch.zeros(2)}, {"a": torch.ones(2)}
    left = merged([one, zero, {"a": -torch.ones(2)}], 2)
    assert sorted(vector["a"].tolist() for vector in left) == [[-1.0, -1.0], [0.5, 0.5]]


# -- inside of agents ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["ppo", "ppo-box", "a2c", "sac"])
def test_the_first_task_equals_naive_bit_for_bit(case: str, train: Any, same: Any) -> None:
    same(train(case, lambda: [CkaRl()], tasks=1), train(case, tasks=1))


@pytest.mark.parametrize("case", ["ppo", "sac"])
def test_each_task_begins_at_the_base_with_a_mixture_of_all_before(case: str, train: Any) -> None:
    """With a learning rate of zero nothing moves: every vector is zero, every task the base."""
    seen: list[dict[str, Any]] = []

    def watch(agent: Any, task: Any) -> None:
        seen.append({n: t.clone() for n, t in agent.policy.state_dict().items()})

    still = {"learning_rate": 0.0}
    train(case, lambda: [CkaRl()], tasks=3, watch=watch, agent=still)
    base = {n: t for n, t in seen[0].items() if not is_critic(n) and n != "log_std"}
    for later, count in ((seen[1], 1), (seen[2], 2)):
        assert [n for n, t in base.items() if not later[n].equal(t)] == []
        vectors = {n: t for n, t in later.items() if n.endswith(VECTORS)}
        assert {n.removesuffix(VECTORS) for n in vectors} == base.keys()
        assert all(t.shape[0] == count and not t.any() for t in vectors.values())
        (alpha,) = (t for n, t in later.items() if n.endswith(".alpha"))
        assert alpha.shape == (count,)
        assert alpha.any()
    weights = [n for n in seen[0] if is_critic(n) and n.endswith("weight")]
    assert weights
    assert all(not seen[0][n].equal(seen[1][n]) for n in weights)


@pytest.mark.parametrize("case", ["ppo", "sac"])
def test_the_pool_holds_what_each_task_added(case: str, train: Any) -> None:
    method, seen = CkaRl(pool_size=2), []

    def watch(agent: Any, task: Any) -> None:
        tensors = {n: t.clone() for n, t in agent.policy.state_dict().items()}
        seen.append((tensors, {n: t.clone() for n, t in method.state().items()}))

    train(case, lambda: [method], tasks=4, watch=watch)
    base = {n.removeprefix("base/"): t for n, t in seen[0][1].items() if n.startswith("base/")}
    assert [n for n, t in base.items() if not t.equal(seen[0][0][n])] == []
    pools: list[list[dict[str, Any]]] = []
    for tensors, state in seen:
        count = sum(n.startswith("pool/") for n in state) // len(base)
        pools.append([{n: state[f"pool/{i}/{n}"] for n in base} for i in range(count)])
        if len(pools) > 1:
            for name in base:  # inside the task the layers had the pool of the task before
                earlier = torch.stack([vector[name] for vector in pools[-2]])
                assert tensors[f"{name}{VECTORS}"].equal(earlier)
    assert [len(pool) for pool in pools] == [1, 2, 2, 2]
    assert all(not tensor.any() for tensor in pools[0][0].values())
    for before, (tensors, _), pool in zip(pools, seen[1:], pools[1:], strict=False):
        own = {name: tensors[name] - base[name] for name in base}
        assert any(tensor.any() for tensor in own.values())
        torch.testing.assert_close(pool, merged([own, *before], 2))


def test_the_mixture_learns(train: Any) -> None:
    seen: list[Any] = []

    def watch(agent: Any, task: Any) -> None:
        found = [p for n, p in agent.policy.named_parameters() if is_mixed(n)]
        seen.append([p.detach().clone() for p in found])

    train("ppo", lambda: [CkaRl()], tasks=3, watch=watch)
    assert seen[0] == []
    alpha, scale = seen[2]
    assert scale.item() != 1.0
    assert alpha.shape == (2,)


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["ppo", "ppo-box", "sac"])
def test_old_tasks_keep_their_policy_bit_for_bit(case: str, check_old_policies_stay: Any) -> None:
    """Deterministic actions after three later tasks, running normalisation included."""
    check_old_policies_stay(case, CkaRl(pool_size=2))


def test_it_runs_with_tqc(train: Any) -> None:
    agent = train("sac", lambda: [CkaRl()], tasks=3, steps=32, agent={"algorithm": "tqc"})
    assert sum(isinstance(m, MixedLinear) for m in agent.policy.actor.modules()) == 4
    assert not any(isinstance(m, MixedLinear) for m in agent.policy.critic.modules())


def test_a_task_that_comes_again_is_kept_as_it_ended_last(learn: Any) -> None:
    method = CkaRl()
    kept = []
    for agent, _ in learn("ppo-box", method, tasks=2, stream={"order": ["t0", "t1", "t0"]}):
        state = method.state()
        kept.append({n: t.clone() for n, t in state.items() if n.startswith("kept/0/policy/")})
        with agent.view(1):
            mixtures = {m for m in agent.policy.modules() if isinstance(m, Mixture)}
            assert [m.active for m in mixtures] == [[], [True], [False]][len(kept) - 1]
    assert all(one.keys() == other.keys() for one, other in pairwise(kept))
    assert all(t.equal(kept[1][n]) for n, t in kept[0].items())
    assert any(not t.equal(kept[2][n]) for n, t in kept[0].items())


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_a_restart_changes_nothing(algorithm: str, check_restart: Any) -> None:
    normalize = {"normalize": {"observations": "running"}}
    check_restart(algorithm, {"cka-rl": {"pool_size": 1}}, agent=normalize)


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_it_runs_marks_unseen_tasks_and_is_restored(algorithm: str, run: Any) -> None:
    folder = run(algorithm, "cka-rl", tasks=2, steps=64)
    marked = {(s["step"], s["task"]) for s in folder.scores() if s["unseen"]}
    assert marked == {(0, "t1"), (64, "t1")}
    agent: Any = kind_of(folder.scenario).restore(folder).agent
    (mixture,) = {m for m in agent.policy.modules() if isinstance(m, Mixture)}
    assert mixture.active
    with agent.view(0):
        assert not mixture.active


def test_validate_refuses_by_name(refusal: Any) -> None:
    assert refusal("cka-rl") == refusal("cka-rl: {pool_size: 3}", "sac") == ""
    able = "ppo, a2c, maskable_ppo, sac, tqc, mappo"
    for other in ("dqn", "td3", "trpo", "crossq"):
        assert f"'cka-rl' works with {able}, not with '{other}'" in refusal("cka-rl", other)
    assert "task_id: observed" in refusal("cka-rl", stream="{task_id: heads}")
    assert "which task it is in" in refusal("cka-rl", stream="{task_id: hidden}")
    assert "where tasks end" in refusal("cka-rl", stream="{boundaries: hidden}")
    assert "at least 1" in refusal("cka-rl: {pool_size: 0}")
    assert "compose at most one" in refusal("[cka-rl, componet]")


def test_it_refuses_to_drop_the_base(run: Any) -> None:
    with pytest.raises(UsageError, match=r"carry\.weights: false would drop the base"):
        run("ppo", "cka-rl", carry={"weights": False})
