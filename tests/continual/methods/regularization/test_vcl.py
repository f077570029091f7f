"""Variational continual learning: its divergence, and one policy per rollout and update."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from all_doors import modules_of
from stable_baselines3 import A2C, PPO
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from holdfast.agents.base.parameters import named_parameters, optimizers_of
from holdfast.continual.methods.regularization.bayesian import (
    SUFFIX,
    BayesianLinear,
    draw_noise,
)
from holdfast.continual.methods.regularization.vcl import VCL


def test_the_divergence_by_hand() -> None:
    """From N(1, 1/4) to N(2, 1): (2 - 1) / (1/4) for the mean, 1 / (1/4) - 1 for log(sigma)."""
    vcl = VCL(strength=2.0)
    vcl.consolidate({"w": torch.tensor([1.0]), "w" + SUFFIX: torch.tensor([0.5]).log()})
    new = {"w": torch.tensor([2.0]), "w" + SUFFIX: torch.tensor([0.0])}
    gradient = vcl.gradient(new, vcl.begun(new), {})
    assert gradient["w"].item() == pytest.approx(2.0 * 4.0)
    assert gradient["w" + SUFFIX].item() == pytest.approx(2.0 * 3.0)


@pytest.mark.parametrize("first_task", [True, False])
def test_the_gradient_is_that_of_the_divergence(first_task: bool) -> None:
    rng = np.random.default_rng(0)
    names = ("a.weight", "a.bias")
    old, new = (
        {
            n + suffix: torch.as_tensor(rng.normal(size=(2, 3)))
            for n in names
            for suffix in ("", SUFFIX)
        }
        for _ in range(2)
    )
    vcl = VCL(strength=0.3, first_task_kl=True)
    if first_task:
        old = {name: torch.zeros_like(value) for name, value in old.items()}  # N(0, 1)
    else:
        vcl.consolidate(old)
    leaves = {name: value.clone().requires_grad_() for name, value in new.items()}
    total = torch.zeros((), dtype=torch.float64)
    for n in names:
        posterior = Normal(leaves[n], leaves[n + SUFFIX].exp())
        prior = Normal(old[n], old[n + SUFFIX].exp())
        total = total + 0.3 * kl_divergence(posterior, prior).sum()
    expected = torch.autograd.grad(total, list(leaves.values()))
    found = vcl.gradient(new | {"other": torch.ones(2)}, vcl.begun(new), {})
    assert found.keys() == leaves.keys()
    for name, value in zip(leaves, expected, strict=True):
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)
    assert vcl.gradient({"critic.weight": torch.ones(2)}, vcl.begun({}), {}) == {}


def test_a_layer_draws_its_weights() -> None:
    linear = nn.Linear(3, 2)
    plain = nn.Linear(3, 2)
    plain.load_state_dict(linear.state_dict())
    layer, inputs = BayesianLinear(linear, 0.1), torch.randn(5, 3)
    assert torch.equal(layer(inputs), plain(inputs))
    draw_noise([layer], torch.Generator().manual_seed(0))
    assert layer.noise is not None
    weight, bias = (
        p + 0.1 * e for p, e in zip((plain.weight, plain.bias), layer.noise, strict=True)
    )
    torch.testing.assert_close(layer(inputs), nn.functional.linear(inputs, weight, bias))
    layer(inputs).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight_log_std.grad is not None
    # dL/d log(sigma) = dL/dw * sigma * noise
    expected = layer.weight.grad * 0.1 * layer.noise[0]
    torch.testing.assert_close(layer.weight_log_std.grad, expected)


@pytest.mark.parametrize("world", ["ppo", "ppo-box", "sac", "dqn", "td3"])
def test_without_deviation_and_penalty_the_means_are_naives_weights(world: str, train: Any) -> None:
    """Nothing else differs, and no noise comes from a generator that training draws from."""
    # A norm over twice as many tensors is rounded differently: without clipping it is not asked.
    loose = {"max_grad_norm": 1e9} if world.startswith("ppo") else {}
    naive = train(world, agent=loose).policy.state_dict()
    still = lambda: [VCL(strength=0.0, initial_std=1e-15)]  # noqa: E731
    means = train(world, still, agent=loose).policy.state_dict()
    assert naive.keys() < means.keys()
    assert [name for name in naive if not torch.equal(naive[name], means[name])] == []


@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_a_restart_changes_nothing(world: str, train: Any, same: Any) -> None:
    build = lambda: [VCL(strength=0.01, initial_std=0.1)]  # noqa: E731
    same(train(world, build), train(world, build, restart_after=1))


def _layers(policy: Any) -> list[BayesianLinear]:
    return modules_of(policy, BayesianLinear)


def _noise(agent_or_policy: Any) -> list[Tensor]:
    layers = _layers(getattr(agent_or_policy, "policy", agent_or_policy))
    assert layers
    return [layer.noise[0].clone() for layer in layers if layer.noise is not None]


@pytest.mark.parametrize("world", ["ppo", "ppo-box", "a2c"])
def test_a_rollout_and_its_update_are_of_one_policy(
    world: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probabilities of the rollout are those of the update before its first step."""
    noises: list[list[Tensor]] = []
    kind = A2C if world == "a2c" else PPO
    published = kind.train

    def checked(model: Any) -> None:
        buffer = model.rollout_buffer
        observations = torch.as_tensor(buffer.observations).flatten(0, 1)
        actions = torch.as_tensor(buffer.actions).flatten(0, 1)
        if world != "ppo-box":
            actions = actions.long().flatten()
        said = torch.as_tensor(buffer.log_probs).flatten()
        with torch.no_grad():
            _, again, _ = model.policy.evaluate_actions(observations, actions)
            torch.testing.assert_close(again, said, rtol=1e-5, atol=1e-5)
            noises.append(_noise(model.policy))
            held = [layer.noise for layer in _layers(model.policy)]
            for layer in _layers(model.policy):
                layer.noise = None
            _, other, _ = model.policy.evaluate_actions(observations, actions)
            assert (other - said).abs().max() > 1e-3  # the means are another policy
            for layer, noise in zip(_layers(model.policy), held, strict=True):
                layer.noise = noise
        published(model)
        assert all(map(torch.equal, noises[-1], _noise(model.policy)))

    monkeypatch.setattr(kind, "train", checked)
    agent = train(world, lambda: [VCL(initial_std=0.2)], tasks=2, steps=128)
    assert len(noises) > 5
    assert len({noise[0].sum().item() for noise in noises}) == len(noises)
    assert _noise(agent) == []  # nothing is left of it after learning


@pytest.mark.parametrize("world", ["sac", "td3", "dqn"])
def test_off_policy_noise_is_new_after_each_update_of_the_actor(
    world: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.continual.methods.regularization import vcl

    draws: list[int] = []
    published = vcl.draw_noise

    def counted(*args: Any) -> None:
        draws.append(1)
        published(*args)

    monkeypatch.setattr(vcl, "draw_noise", counted)
    agent = train(world, lambda: [VCL()], tasks=1)
    updates = agent.model._n_updates // (agent.model.policy_delay if world == "td3" else 1)
    assert updates > 5
    assert len(draws) == updates + 1  # and one before the first


@pytest.mark.thorough
def test_what_is_measured_acts_by_the_means(run: Any, weights: Any) -> None:
    """Measured often or never, inside a rollout or not: the same noise, the same weights."""
    plans = [{"episodes": 1}, {"every": 32, "episodes": 1, "deterministic": False}]
    entry = {"vcl": {"strength": 0.01, "initial_std": 0.3}}
    seldom, often = (
        weights(run("ppo", entry, tasks=2, steps=128, runs=str(i), evaluation=plan))
        for i, plan in enumerate(plans)
    )
    assert all(torch.equal(seldom[name], often[name]) for name in seldom)


def test_other_methods_see_the_means_whatever_their_order(train: Any) -> None:
    from holdfast.continual.methods.rehearsal.cloning import Cloning

    for order in (1, -1):
        cloning = Cloning(samples=20)
        agent = train("ppo", lambda c=cloning, o=order: [VCL(initial_std=0.3), c][::o], tasks=1)
        observations = agent.policy_input(cloning.stored.observations)
        with torch.no_grad():
            said = agent.output()(observations)["logits"]
        assert torch.equal(said, cloning.stored.labels["logits"])


def test_inside_learning_the_view_is_at_the_means_and_gives_the_noise_back(make_vcl: Any) -> None:
    agent, experience = make_vcl
    seen: list[tuple[int, int, int]] = []

    def watch(step: int) -> None:
        before = _noise(agent)
        with agent.view(0):
            inside = _noise(agent)
        seen.append((len(before), len(inside), len(_noise(agent))))
        assert all(map(torch.equal, before, _noise(agent)))

    agent.learn(experience, watch, lambda scalars, step: None)
    assert set(seen) == {(3, 0, 3)}
    assert _noise(agent) == []


@pytest.fixture
def make_vcl() -> Any:
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.task_stream import make_stream
    from holdfast.scenarios.schema.scenario import Scenario

    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": "a", "env": "CartPole-v1", "steps": 64}],
            "agent": {"algorithm": "ppo", "n_steps": 32, "batch_size": 32},
        }
    )
    agent = StableBaselinesAgent(scenario)
    (experience,) = make_stream(scenario, 0).train_stream
    vcl = VCL()
    vcl.pre_adapt(agent.doors(vcl), experience)
    agent.start(experience)
    yield agent, experience
    agent.close()


@pytest.mark.parametrize("world", ["ppo", "sac", "dqn", "td3"])
def test_the_actor_alone_is_bayesian_and_its_deviations_learn(world: str, train: Any) -> None:
    agent = train(world, lambda: [VCL()], tasks=1)
    policy = agent.policy
    deviations = {n: p for n, p in policy.named_parameters() if n.endswith(SUFFIX)}
    moving = {id(p) for o in optimizers_of(policy) for g in o.param_groups for p in g["params"]}
    learning = {n for n, p in deviations.items() if id(p) in moving}
    actor = {"ppo": ("mlp_extractor.policy_net", "action_net"), "dqn": ("q_net.",)}
    assert learning
    assert all(n.startswith(actor.get(world, ("actor.",))) for n in learning)
    assert any((deviations[n] != deviations[n].flatten()[0]).any() for n in learning)
    for name in deviations.keys() - learning:
        assert name.split(".")[0] in ("q_net_target", "actor_target")
    targets = [m for n, m in policy.named_modules() if "_target" in n]
    assert all(m.noise is None for m in targets if isinstance(m, BayesianLinear))


@pytest.mark.thorough
def test_the_penalty_holds_the_means(train: Any) -> None:
    moved = []
    for strength in (0.0, 10.0):
        ends: list[dict[str, Tensor]] = []

        def keep(agent: Any, experience: Any, ends: list[Any] = ends) -> None:
            ends.append({n: v.clone() for n, v in agent.policy.state_dict().items()})

        train("ppo", lambda s=strength: [VCL(strength=s)], tasks=2, steps=256, watch=keep)
        name = "mlp_extractor.policy_net.2.weight"
        moved.append((ends[1][name] - ends[0][name]).square().sum().item())
    assert moved[1] < 0.1 * moved[0]


def test_layer_norms_are_held_as_gaussians_of_a_fixed_deviation() -> None:
    """A point has no posterior: it is held by KL(N(theta, .1^2) || N(theta_old, .1^2))."""
    f64 = {"dtype": torch.float64}
    old = {
        "mu.weight": torch.tensor([0.3, -0.2], **f64),
        "mu.weight_log_std": torch.tensor([-1.0, -2.0], **f64),
        "norm.weight": torch.tensor([1.0, 1.2], **f64),
        "norm.bias": torch.tensor([0.1, -0.1], **f64),
        "log_std": torch.tensor([0.5], **f64),
    }
    now = {name: value + 0.05 * (1 + i) for i, (name, value) in enumerate(old.items())}
    live = {name: value.clone().requires_grad_() for name, value in now.items()}
    divergences = [
        kl_divergence(
            Normal(live["mu.weight"], live["mu.weight_log_std"].exp()),
            Normal(old["mu.weight"], old["mu.weight_log_std"].exp()),
        )
    ]
    norms = ("norm.weight", "norm.bias")
    divergences += [kl_divergence(Normal(live[n], 0.1), Normal(old[n], 0.1)) for n in norms]
    (7.0 * sum(d.sum() for d in divergences)).backward()

    vcl = VCL(strength=7.0, initial_std=0.1)
    vcl.consolidate(old)
    gradient = vcl.gradient(now, vcl.begun(now), {})
    assert gradient.keys() == old.keys() - {"log_std"}
    for name, value in gradient.items():
        torch.testing.assert_close(value, live[name].grad, rtol=1e-12, atol=0.0)


def test_nothing_of_a_layer_norm_is_held_in_the_first_task() -> None:
    """N(0, 1) is the prior of weights; a scale that starts at one is not drawn to zero."""
    vcl = VCL(first_task_kl=True)
    now = {"w": torch.ones(2), "w_log_std": torch.zeros(2), "norm.weight": torch.ones(2)}
    assert vcl.gradient(now, vcl.begun(now), {}).keys() == {"w", "w_log_std"}


# -- a head per task ---------------------------------------------------------------------------

HEADS = {"stream": {"task_id": "heads"}}
_HEADS = ".heads."


def _divergence(new: list[Tensor], old: list[Tensor]) -> Tensor:
    """KL(N(mu, v) || N(m0, v0)) = (log v0 - log v - 1 + (v + (mu - m0)^2) / v0) / 2, summed.

    The paper's closed form; ``new`` and ``old`` are means and logarithms of deviations.
    """
    (mean, log_std), (prior_mean, prior_log_std) = new, old
    variance, prior = (2 * log_std).exp(), (2 * prior_log_std).exp()
    terms = 2 * prior_log_std - 2 * log_std - 1 + (variance + (mean - prior_mean) ** 2) / prior
    return terms.sum() / 2


class Rows:
    """Tells which row of a layer of two heads is the current task's."""

    def __init__(self, task: int) -> None:
        self.task = task

    def __call__(self, name: str) -> Tensor | None:
        if _HEADS not in name:
            return None
        rows = torch.zeros(2, 3, dtype=torch.bool)
        rows[self.task] = True
        return rows


@pytest.mark.parametrize("first_task_kl", [False, True])
def test_the_divergence_with_two_heads(first_task_kl: bool) -> None:
    """Two tasks and a third visit, to the first again; what is held of each head, in float64.

    The trunk is near its last posterior. A head that has learned is near its own; one that learns
    for the first time near N(0, 1), where that is asked for; no other head counts.
    """
    rng = np.random.default_rng(3)
    vcl = VCL(strength=0.7, initial_std=0.1, first_task_kl=first_task_kl)
    rows = Rows(0)
    vcl._own_rows = rows
    names = ("trunk.weight", "mu.heads.weight")
    draw = lambda: torch.as_tensor(rng.normal(size=(2, 3)))  # noqa: E731
    weights = {name + part: draw() for name in names for part in ("", SUFFIX)}
    prior: dict[str, list[Tensor]] = {}  # of the trunk and of each head, once it has learned
    for rows.task in (0, 1, 0):
        now = {name: value + 0.3 * draw() for name, value in weights.items()}
        leaves = {name: value.clone().requires_grad_() for name, value in now.items()}
        parts = {"trunk": [leaves["trunk.weight" + part] for part in ("", SUFFIX)]}
        for head in (0, 1):
            both = [leaves["mu.heads.weight" + part][head] for part in ("", SUFFIX)]
            parts[f"head {head}"] = both
        held = dict(prior)
        if first_task_kl:
            own = ["trunk", f"head {rows.task}"]
            begins = [torch.zeros(3, dtype=torch.float64)] * 2
            held = dict.fromkeys(own, begins) | held
        total = sum(
            (0.7 * _divergence(parts[part], old) for part, old in held.items()),
            start=torch.zeros((), dtype=torch.float64),
        )
        found = {}
        if held:  # else the penalty is not added
            total.backward()
            found = vcl.gradient(now, vcl.begun(now), {})
        for name, leaf in leaves.items():
            expected = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            given = found.get(name, torch.zeros_like(leaf))
            torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-14)
        weights = now
        vcl.consolidate(now)
        for part in ("trunk", f"head {rows.task}"):
            prior[part] = [tensor.detach() for tensor in parts[part]]
        for head in (0, 1):  # what has moved meanwhile is a posterior too
            if f"head {head}" in prior:
                prior[f"head {head}"] = [t.detach() for t in parts[f"head {head}"]]


def _rows_of_heads(agent: Any) -> dict[str, Tensor]:
    """Return means and deviations of the actor's heads by name, shape (tasks, out, ...)."""
    actor = named_parameters(agent.policy, "actor")
    return {n: p.detach().unflatten(0, (3, -1)).clone() for n, p in actor.items() if _HEADS in n}


@pytest.mark.parametrize("first_task_kl", [False, True])
@pytest.mark.parametrize("world", ["ppo", "ppo-box", "a2c", "dqn", "sac", "td3"])
def test_a_head_learns_in_its_own_task_alone(world: str, first_task_kl: bool, train: Any) -> None:
    """Bit for bit, deviations too: neither the divergence nor its rounding moves another head."""
    ends: list[dict[str, Tensor]] = []
    build = lambda: [VCL(strength=1.0, first_task_kl=first_task_kl)]  # noqa: E731
    train(world, build, watch=lambda agent, _: ends.append(_rows_of_heads(agent)), **HEADS)
    assert ends[0].keys() >= {name + SUFFIX for name in ends[0] if not name.endswith(SUFFIX)}
    assert len(ends[0]) == (8 if world == "sac" else 4)
    for name in ends[0]:
        for stage in (1, 2):
            before, after = ends[stage - 1][name], ends[stage][name]
            moved = [not torch.equal(before[task], after[task]) for task in range(3)]
            assert moved == [task == stage for task in range(3)], (name, stage)


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "ppo-box", "a2c", "dqn", "sac", "td3"])
def test_with_heads_a_restart_changes_nothing(world: str, train: Any, same: Any) -> None:
    for first_task_kl in (False, True):
        build = lambda f=first_task_kl: [VCL(strength=0.01, first_task_kl=f)]  # noqa: E731
        straight = train(world, build, **HEADS)
        for stage in (0, 1):
            same(straight, train(world, build, restart_after=stage, **HEADS))


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "ppo-box", "sac", "dqn", "td3"])
def test_with_heads_and_without_deviation_the_means_are_naives(world: str, train: Any) -> None:
    loose = {"max_grad_norm": 1e9} if world.startswith("ppo") else {}
    naive = train(world, agent=loose, **HEADS).policy.state_dict()
    still = lambda: [VCL(strength=0.0, initial_std=1e-15)]  # noqa: E731
    means = train(world, still, agent=loose, **HEADS).policy.state_dict()
    assert naive.keys() < means.keys()
    assert [name for name in naive if not torch.equal(naive[name], means[name])] == []


@pytest.mark.parametrize("world", ["ppo", "sac", "td3"])
def test_a_task_is_acted_on_by_the_means_of_its_own_head(world: str, train: Any) -> None:
    """Worked out from the state dict: the trunk's means, and the rows of that task alone."""
    agent = train(world, lambda: [VCL(initial_std=0.3)], **HEADS)
    state = {name: value.double() for name, value in agent.policy.state_dict().items()}
    trunk, head = {
        "ppo": ("mlp_extractor.policy_net.trunk", "action_net"),
        "sac": ("actor.latent_pi.trunk", "actor.mu"),
        "td3": ("actor.mu.0.trunk", "actor.mu.1"),
    }[world]
    width = agent.policy.observation_space.shape[0]
    seen = np.random.default_rng(0).normal(size=(32, width)).astype(np.float32)
    answers = []
    for task in range(3):
        seen[:, -3:] = np.eye(3, dtype=np.float32)[task]
        hidden = torch.as_tensor(seen[:, :-3]).double()
        for layer in (0, 2):
            weight, bias = (state[f"{trunk}.{layer}.{kind}"] for kind in ("weight", "bias"))
            hidden = hidden @ weight.T + bias
            hidden = hidden.tanh() if world == "ppo" else hidden.relu()
        weight, bias = (
            state[f"{head}.heads.{kind}"].unflatten(0, (3, -1))[task] for kind in ("weight", "bias")
        )
        output = hidden @ weight.T + bias
        expected = output.argmax(1) if world == "ppo" else 2 * output.tanh()  # Pendulum's bound
        with agent.view(task) as act:
            actions, _ = act(seen, None, np.ones(32, dtype=bool), deterministic=True)
        np.testing.assert_allclose(actions, expected.numpy(), rtol=1e-4, atol=1e-5)
        answers.append(actions.astype(np.float64).ravel())
    assert len(np.unique(np.stack(answers), axis=0)) == 3


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "dqn", "sac", "td3"])
def test_heads_are_taken(algorithm: str, refusal: Any) -> None:
    assert refusal("vcl", algorithm, "{task_id: heads}") == ""
    assert "task_id: observed" in refusal("progressive", algorithm, "{task_id: heads}")
