"""HAT: equations by hand and in float64, frozen weights to the last bit, old policies that stay."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from all_doors import modules_of, rebuild
from torch import Tensor, nn

from holdfast.agents.base.parameters import Named, named_parameters, split
from holdfast.agents.doors.doors import Doors
from holdfast.agents.doors.gradients import Step
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.methods.architecture.gates import (
    Gate,
    GatedNorm,
    annealed,
    opening,
)
from holdfast.continual.methods.architecture.hat import (
    HAT,
    free_weights,
    sparsity,
    sparsity_gradient,
)
from holdfast.errors import UsageError

EMBEDDINGS = torch.tensor([-2.0, -0.5, 0.0, 0.1, 1.5], dtype=torch.float64)


def _compensation(e: Tensor, s: float, s_max: float) -> Tensor:
    """Equation 5 as the paper has it, with the clamp of its authors' code."""
    numerator = s_max * (torch.cosh((s * e).clamp(-50, 50)) + 1)
    return numerator / (s * (torch.cosh(e) + 1))


def test_gates_by_hand() -> None:
    """Equation 1: sigmoid(3 ln 2) = 8 / 9."""
    gate = Gate(torch.tensor([math.log(2), -math.log(2), 0.0]), 3.0)
    torch.testing.assert_close(gate.value(), torch.tensor([8 / 9, 1 / 9, 0.5]))
    torch.testing.assert_close(gate(torch.full((1, 3), 9.0)), torch.tensor([[8.0, 1.0, 4.5]]))
    with torch.no_grad():
        assert gate.value().equal(opening(gate.gate_embedding, gate.gate_scale))
    gate.harden()
    assert gate.value().tolist() == [1.0, 0.0, 0.0]
    with torch.no_grad():
        assert gate.value().tolist() == [1.0, 0.0, 0.0]


def test_annealing_by_hand() -> None:
    """Equation 3 with s_max = 400: batch b of B has share (b - 1) / (B - 1)."""
    shares = [annealed((b - 1) / 4, 400.0) for b in range(1, 6)]
    assert shares == pytest.approx([0.0025, 100.001875, 200.00125, 300.000625, 400.0])


@pytest.mark.parametrize("scale", [0.0025, 1.0, 12.0])
def test_the_gradient_is_that_of_equation_5(scale: float) -> None:
    """Autograd through sigmoid(s e), times equation 5; ours is without its factor s_max."""
    plain = EMBEDDINGS.clone().requires_grad_()
    torch.sigmoid(scale * plain).sum().backward()
    ours = EMBEDDINGS.clone().requires_grad_()
    opening(ours, torch.tensor(scale, dtype=torch.float64)).sum().backward()
    assert plain.grad is not None
    expected = plain.grad * _compensation(EMBEDDINGS, scale, 400.0) / 400.0
    torch.testing.assert_close(ours.grad, expected)


def test_the_gradient_fades_beyond_the_clamp_and_is_alive_within() -> None:
    """At s e = 40 single precision knows sigmoid as 1; at 60 the clamp leaves about e^-10."""
    e = torch.tensor([1.0, -1.0], requires_grad=True)
    slope = 1 / (2 * (math.cosh(1) + 1))  # of sigmoid at 1
    for scale, left in ((40.0, 1.0), (60.0, math.exp(-10)), (400.0, 0.0)):
        (gradient,) = torch.autograd.grad(opening(e, torch.tensor(scale)).sum(), e)
        torch.testing.assert_close(gradient, torch.full((2,), slope * left))


def test_sparsity_against_autograd() -> None:
    """Equation 6 over two layers: 2 of 3 and 1 of 2 units are free."""
    layers = [EMBEDDINGS[:3].clone(), EMBEDDINGS[3:].clone()]
    used = [torch.tensor([True, False, False]), torch.tensor([False, True])]
    strength, scale = 7.0, 5.0
    leaves = [e.clone().requires_grad_() for e in layers]
    gates = [torch.sigmoid(scale * leaf) for leaf in leaves]
    free = [1 - mask.double() for mask in used]
    loss = sum((a * f).sum() for a, f in zip(gates, free, strict=True))
    (strength * loss / 3.0).backward()  # type: ignore[union-attr]  # a tensor
    unused = [~mask for mask in used]
    steep, factor = (torch.tensor(x, dtype=torch.float64) for x in (scale, strength / 3.0))
    found = sparsity_gradient(layers, unused, steep, factor)
    for e, leaf, gradient in zip(layers, leaves, found, strict=True):
        assert leaf.grad is not None
        expected = leaf.grad * _compensation(e, scale, 400.0) / 400.0
        torch.testing.assert_close(gradient, expected)
    assert found[0][0] == found[1][1] == 0.0


def test_no_sparsity_where_nothing_is_free() -> None:
    method = HAT(strength=1.0)
    method._used = [torch.ones(5, dtype=torch.bool)]
    named = {"a.gate_embedding": EMBEDDINGS}
    (gradient,) = sparsity(named, method.begun(named), {"scale": torch.tensor(1.0)}).values()
    assert gradient.tolist() == [0.0] * 5


def _names(learner: Any, used: list[Tensor], task: int = 0) -> dict[str, Any]:
    free = free_weights(learner.doors(HAT()), used, task)
    return {name: (~mask).long().tolist() for name, mask in free.items()}


def test_what_is_frozen_of_a_network_of_2_2_2_by_hand(learn: Any) -> None:
    """Equation 2 with used units (1, 0) and (1, 1): min over both ends; observations, outputs 1."""
    narrow = {"policy_kwargs": {"net_arch": [2, 2], "layer_norm": "first"}}
    learner, _ = next(learn("ppo", HAT(), tasks=1, agent=narrow))
    used = [torch.tensor([True, False]), torch.tensor([True, True])]
    frozen = _names(learner, used)
    width = learner.policy.observation_space.shape[0]
    net = "mlp_extractor.policy_net"
    assert frozen == {
        f"{net}.0.weight": [[1] * width, [0] * width],
        f"{net}.0.bias": [1, 0],
        f"{net}.1.weight": [1, 0],  # the norm
        f"{net}.1.bias": [1, 0],
        f"{net}.4.weight": [[1, 0], [1, 0]],
        f"{net}.4.bias": [1, 1],
        "action_net.weight": [[1, 1], [1, 1]],
        "action_net.bias": [1, 1],
    }
    assert not any(torch.tensor(mask).any() for mask in _names(learner, []).values())


def test_heads_learn_in_their_own_task_alone(learn: Any) -> None:
    narrow = {"policy_kwargs": {"net_arch": [2]}}
    stream = {"task_id": "heads"}
    learner, _ = next(learn("ppo-box", HAT(), tasks=2, agent=narrow, stream=stream))
    for used in ([], [torch.tensor([True, False])]):
        frozen = _names(learner, used, task=1)
        assert frozen["action_net.heads.weight"] == [[1, 1], [0, 0]]
        assert frozen["action_net.heads.bias"] == [1, 0]
        assert frozen["log_std"] == [[1], [0]]


class Watched(HAT):
    """Notes what each update of the actor is made of, and the scale of each update."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.scales: list[float] = []
        self.seen: list[tuple[Named, Named, Named]] = []  # parameters, gradients, raw gradients

    def pre_adapt(self, doors: Any, experience: Any) -> None:
        super().pre_adapt(doors, experience)
        started: list[tuple[Named, Named]] = []

        def stepping(parameters: Named, gradients: Named, *_: Any) -> Any:
            copies = {name: p.clone() for name, p in parameters.items()}
            started.append((copies, {name: g.clone() for name, g in gradients.items()}))
            if any("gate_embedding" in name for name in parameters):
                self.scales.append(self._gates[0].gate_scale.item())
            return {}, {}

        def stepped(step: Step, like: Named, _: Any) -> Named:
            if any("gate_embedding" in name for name in like):
                self.seen.append((*started[-1], split(step.raw, like)))
            return like

        doors.gradients.project(stepping)
        doors.gradients.watch(stepped, state=dict)


@pytest.mark.parametrize("world", ["ppo-box", "sac"])
def test_an_update_is_the_loss_with_the_term_and_the_factors(world: str, learn: Any) -> None:
    """The first update of the second task, per weight, and what Adam leaves of frozen weights."""
    method = Watched(strength=3.0)
    agent = {"max_grad_norm": 1e9} if world == "ppo-box" else {}
    stages = learn(world, method, tasks=2, agent=agent)
    learner, _ = next(stages)
    before = {n: p.detach().clone() for n, p in named_parameters(learner.policy, "actor").items()}
    used = [mask.clone() for mask in method._used]
    assert all(0 < int(mask.sum()) < len(mask) for mask in used)
    method.seen.clear()
    method.scales.clear()
    learner, _ = next(stages)
    free = free_weights(learner.doors(method), used, 1)
    parameters, gradients, raw = method.seen[0]
    gates = [name for name in parameters if "gate_embedding" in name]
    embeddings = [parameters[name] for name in gates]
    unused = [~mask for mask in used]
    factor = torch.tensor(3.0 / sum(int(mask.sum()) for mask in unused))
    terms = sparsity_gradient(embeddings, unused, torch.tensor(method.scales[0]), factor)
    for name, term in zip(gates, terms, strict=True):
        assert term.any()
        torch.testing.assert_close(gradients[name], raw[name] + term)
    after = dict(named_parameters(learner.policy, "actor"))
    for name, mask in free.items():
        torch.testing.assert_close(gradients[name], raw[name] * mask)
        assert before[name][~mask].equal(after[name][~mask]), name
    kernels = [name for name in free if before[name].dim() > 1]
    assert all((before[n][free[n]] != after[n][free[n]]).any() for n in kernels)


def test_the_scale_grows_between_rollouts_only(learn: Any) -> None:
    """Four rollouts of 32 steps, each with 2 epochs of 2 minibatches."""
    method = Watched(s_max=10.0)
    next(learn("ppo", method, tasks=1))
    rounds = [annealed(share, 10.0) for share in (0.0, 1 / 3, 2 / 3, 1.0)]
    assert method.scales == pytest.approx([scale for scale in rounds for _ in range(4)])


def test_the_scale_off_policy_and_of_a_single_rollout(learn: Any) -> None:
    """Off-policy there are 32 rounds of 2 x 2 steps; updates start after step 16."""
    method = Watched(s_max=10.0)
    next(learn("sac", method, tasks=1, agent={"gradient_steps": 1}))
    assert method.scales == pytest.approx([annealed(r / 31, 10.0) for r in range(4, 32)])
    method = Watched(s_max=10.0)
    next(learn("ppo", method, tasks=1, agent={"n_steps": 64, "n_epochs": 1, "batch_size": 128}))
    assert method.scales == [10.0]


def test_the_ratio_of_ppo_is_one_at_the_first_update(
    learn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one update per rollout, old and new probabilities are of one and the same policy."""
    divergences: list[float] = []
    from stable_baselines3.common.logger import Logger

    record = Logger.record

    def keep(self: Logger, key: str, value: Any, *args: Any, **keys: Any) -> None:
        if key == "train/approx_kl":
            divergences.append(float(value))
        record(self, key, value, *args, **keys)

    monkeypatch.setattr(Logger, "record", keep)
    one = {"n_epochs": 1, "batch_size": 32, "learning_rate": 0.05}
    for _ in learn("ppo", HAT(), tasks=2, agent=one):
        pass
    assert len(divergences) == 8
    assert max(abs(value) for value in divergences) < 1e-6


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["ppo", "ppo-box", "sac"])
@pytest.mark.parametrize("task_id", ["observed", "heads"])
def test_old_tasks_keep_their_policy_bit_for_bit(
    case: str, task_id: str, check_old_policies_stay: Any
) -> None:
    check_old_policies_stay(case, HAT(), task_id)


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["a2c", "dqn", "td3"])
def test_old_policies_stay_under_other_algorithms(case: str, check_old_policies_stay: Any) -> None:
    check_old_policies_stay(case, HAT(s_max=50.0))


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["ppo-box", "sac", "td3"])
def test_old_policies_stay_with_norms_and_weight_decay(
    case: str, check_old_policies_stay: Any
) -> None:
    """A norm mixes all units of its layer, and decay moves every weight at every step."""
    given = {"net_arch": [8, 8], "layer_norm": "all", "optimizer_kwargs": {"weight_decay": 0.1}}
    for task_id in ("observed", "heads"):
        check_old_policies_stay(case, HAT(), task_id, policy_kwargs=given)


def test_a_norm_does_not_see_closed_units() -> None:
    gate = Gate(torch.tensor([1.0, 1.0, -1.0]), 1.0)
    gate.harden()
    norm = nn.LayerNorm(3)
    seen = torch.tensor([[1.0, 3.0, 7.0], [1.0, 3.0, -50.0]])
    gated = GatedNorm(norm, gate)(seen)
    assert gated[0].equal(gated[1])
    torch.testing.assert_close(gated[0], norm(torch.tensor([1.0, 3.0, 0.0])))
    assert {name for name, _ in GatedNorm(norm, gate).named_parameters()} == {"weight", "bias"}


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_a_restart_changes_nothing(algorithm: str, check_restart: Any) -> None:
    check_restart(algorithm, "hat", agent={"normalize": {"observations": "running"}})


@pytest.mark.thorough
def test_a_restart_changes_nothing_where_a_task_comes_again(check_restart: Any) -> None:
    stream = {"order": ["t0", "t1", "t0"], "task_id": "heads"}
    check_restart("ppo", {"hat": {"s_max": 20.0}}, tasks=2, stream=stream)


@pytest.mark.thorough
def test_each_task_has_embeddings_of_its_own(learn: Any) -> None:
    """Drawn from N(0, 1) by the cell's generator: others in each task, the same in each run."""
    drawn = []
    for _ in range(2):
        method = HAT(strength=0.0)
        for _ in learn("ppo", method, tasks=2, agent={"policy_kwargs": {"net_arch": [4000]}}):
            pass
        drawn.append([method._embeddings[task][0] for task in (0, 1)])
    assert drawn[0][0].equal(drawn[1][0])
    assert drawn[0][1].equal(drawn[1][1])
    correlation = torch.corrcoef(torch.stack(drawn[0]))[0, 1]
    assert abs(correlation) < 0.06
    assert drawn[0][0].std() == pytest.approx(1.0, abs=0.05)


def test_a_task_that_comes_again_goes_on_from_its_embedding(learn: Any) -> None:
    begins: list[list[Tensor]] = []

    class Started(HAT):
        def _begin(self, doors: Any) -> None:
            super()._begin(doors)
            begins.append([gate.gate_embedding.detach().clone() for gate in self._gates])

    method, ends, used, acts = Started(), [], [], []
    rows = torch.randn(16, 6).numpy()
    stream = {"order": ["t0", "t1", "t0"]}
    for learner, experience in learn("ppo", method, tasks=2, stream=stream):
        ends.append(method._embeddings[experience.task_index])
        used.append(method._used)
        if experience.stage > 0:  # t1 acts as it did, whatever t0 learns after it
            with learner.view(1) as act:
                acts.append(act(rows, None, None, deterministic=True)[0])
    assert all(a.equal(b) for a, b in zip(begins[2], ends[0], strict=True))
    assert not all(a.equal(b) for a, b in zip(begins[1], ends[0], strict=True))
    assert any(not a.equal(b) for a, b in zip(ends[2], ends[0], strict=True))  # it learned on
    for earlier, later in itertools.pairwise(used):
        assert all((a <= b).all() for a, b in zip(earlier, later, strict=True))
    assert (acts[0] == acts[1]).all()


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_a_network_that_is_all_used(world: str, learn: Any, monkeypatch: Any) -> None:
    """Nothing but the embedding learns then: the actor's weights stay, and nothing is divided by 0.

    With heads the task's own head learns besides.
    """
    logged: list[float] = []
    for task_id in ("observed", "heads"):
        method = HAT()
        stages = learn(world, method, tasks=2, stream={"task_id": task_id})
        learner, _ = next(stages)
        method._used = [torch.ones_like(mask) for mask in method._used]
        before = {n: p.detach().clone() for n, p in learner.policy.named_parameters()}
        monkeypatch.setattr(Doors, "log", lambda _, tag, value: logged.append(value))
        learner, _ = next(stages)
        moved = {
            n for n, p in named_parameters(learner.policy, "actor").items() if p.ne(before[n]).any()
        }
        moved = {name for name in moved if "gate_embedding" not in name}
        assert bool(moved) == (task_id == "heads")
        assert all(".heads." in name for name in moved)
        assert all(e.isfinite().all() for e in method._embeddings[1])
    assert logged == [0.0, 1.0, 0.0]  # of the second task, and of both with heads


def test_it_tells_what_is_free(learn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float]] = []
    monkeypatch.setattr(Doors, "log", lambda _, tag, value: told.append((tag, value)))
    for _ in learn("ppo", HAT(), tasks=3):
        pass
    tags, values = zip(*told, strict=True)
    assert set(tags) == {"method/hat/free"}
    assert values[0] == 1.0 > values[1] >= values[2] >= 0.0


@pytest.mark.thorough
def test_a_restored_agent_acts_through_hard_gates(run: Any) -> None:
    folder = run("ppo", "hat", tasks=2)
    agent: Any = kind_of(folder.scenario).restore(folder).agent
    with torch.no_grad():
        values = torch.cat([gate.value() for gate in modules_of(agent.policy, Gate)])
        with agent.view(0):
            earlier = torch.cat([gate.value() for gate in modules_of(agent.policy, Gate)])
    for gates in (values, earlier):
        assert set(gates.unique().tolist()) == {0.0, 1.0}
    assert not values.equal(earlier)


def test_what_it_must_be_told(refusal: Any) -> None:
    assert refusal("hat") == refusal("hat", "sac") == refusal("hat", "dqn") == ""
    assert "which task" in refusal("hat", stream="{task_id: hidden}")
    assert "networks door" in refusal("hat", "crossq")
    assert "gradients door" in refusal("hat", "trpo")
    assert "at least 1" in refusal("hat: {s_max: 0.5}")
    assert "both keep the policy" in refusal("[hat, packnet]", stream="{task_count: known}")


def test_refused_where_it_cannot_work(run: Any, learn: Any) -> None:
    with pytest.raises(Exception, match=r"carry\.weights"):
        run("ppo", "hat", carry={"weights": False})
    with pytest.raises(UsageError, match="hidden layer"):
        next(learn("ppo", HAT(), agent={"policy_kwargs": {"net_arch": []}}))
    policy = nn.Module()
    policy.features_extractor = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="vector observations"):
        rebuild(HAT(), policy)
