from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.registry import ALGORITHMS
from holdfast.scenarios.checks.agent import POLICY_PLAIN, argument_names
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.method_spec import ACTIVATIONS, OPTIMIZERS

BOX = """\
tasks: [{name: a, env: Pendulum-v1, steps: 1000}]
agent: {algorithm: sac}
"""


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("agent.algorithm=PPO", "no algorithm 'PPO'; did you mean 'ppo'?"),
        ("agent.algorithm=rainbow", "no algorithm 'rainbow'; known: ppo, a2c, dqn"),
        ("agent.lr=1", "'ppo' has no argument 'lr'; did you mean 'learning_rate'?"),
        ("agent.tau=1", "'ppo' has no argument 'tau'; it is one of dqn, sac"),
        ("agent.net_arch=[64]", "write policy_kwargs: {net_arch: ...}"),
        ("agent.activation_fn=relu", "write policy_kwargs: {activation: relu}"),
        ("agent.n_envs=3", "it belongs at the top level"),
        ("agent.env=3", "not for scenarios: the environments are those of tasks:"),
        ("agent.seed=3", "not for scenarios: write seeds:"),
        ("agent.verbose=1", "not for scenarios"),
        ("agent.tensorboard_log=x", "not for scenarios"),
        ("agent._init_setup_model=false", "not for scenarios"),
        ("agent.rollout_buffer_class=x", "not for scenarios"),
        ("agent.batch_size='64'", "expected a whole number, got the text '64'; write 64 without"),
        ("agent.batch_size=64.5", "expected a whole number, got 64.5"),
        ("agent.batch_size=1", "must be at least 2: advantages are normalised"),
        ("agent.n_steps=0", "must be at least 1, got 0"),
        ("agent.gae_lambda=-0.1", "must be from 0 to 1, got -0.1"),
        ("agent.learning_rate=0", "must be greater than 0, got 0"),
        ("agent.learning_rate=-1e-3", "must be greater than 0, got -0.001"),
        ("agent.learning_rate=.inf", "must be a finite number"),
        ("agent.learning_rate=fast", "expected a number or {linear: [start, end]}, got the text"),
        ("agent.learning_rate={linear: 3}", "expected a number or {linear: [start, end]}"),
        ("agent.learning_rate={cosine: [1, 0]}", "expected a number or {linear: [start, end]}"),
        (
            "agent.learning_rate={linear: [1, -1]}",
            "must be a finite number from 0 at both ends, got -1",
        ),
        ("agent.use_sde=yes", "expected true or false, got the text 'yes'; write true"),
        ("agent.policy=MlpPolcy", "did you mean 'MlpPolicy'?"),
        ("agent.policy_kwargs.net_arch=64", "expected a list or a mapping, got 64"),
        ("agent.policy_kwargs.net_arch=[a]", "entry 0: expected a whole number, got the text 'a'"),
        ("agent.policy_kwargs.actvation=relu", "did you mean 'activation'?"),
        ("agent.policy_kwargs.activation=rele", "did you mean 'relu'?"),
        ("agent.policy_kwargs.optimizer_class=adam", "takes a class; write optimizer: adam"),
        ("agent.policy_kwargs.features_extractor=mine:Net", "no module 'mine'"),
        ("agent.policy_kwargs=[64]", "expected a mapping or nothing, got a list"),
        ("agent.device=gpu", "'gpu' is not a device; write cpu, cuda, cuda:0 or auto"),
        ("agent.normalize=true", "expected a mapping, got true; write {observations: running}"),
        ("agent.normalize.rewards=frozen", "'frozen' is not one of running, first_task, per_task"),
    ],
)
def test_on_policy_arguments(one, override: str, message: str) -> None:
    assert message.replace(" or nothing", "") in one(override).message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("agent.train_freq=[1, episode]", "write a number of steps"),
        ("agent.train_freq=0", "must be at least 1, got 0"),
        ("agent.gradient_steps=0", "must not be 0"),
        ("agent.tau=0", "must be above 0 and at most 1, got 0"),
        ("agent.ent_coef=autoo", "expected auto, auto_0.1 or a number, got the text 'autoo'"),
        ("agent.ent_coef=auto_x", "expected auto, auto_0.1 or a number"),
        ("agent.action_noise=0.1", "expected {normal: sigma} or {ornstein_uhlenbeck: sigma}"),
        ("agent.action_noise={gauss: 1}", "expected {normal: sigma} or {ornstein_uhlenbeck"),
        ("agent.n_epochs=3", "it is one of ppo, recurrent_ppo, maskable_ppo"),
        ("agent.replay_buffer_class=x", "expected module:Class"),
    ],
)
def test_off_policy_arguments(problems, override: str, message: str) -> None:
    found = problems(BOX, override)
    assert len(found) == 1
    assert message in found[0].message


def test_right_arguments_arrive_as_their_types(write) -> None:
    arguments = [
        "buffer_size=1e5",
        "train_freq=[4, step]",
        "gradient_steps=-1",
        "ent_coef=auto_0.1",
        "target_entropy=-2",
        "action_noise={normal: 0.1}",
        "n_steps=3",
        "policy_kwargs={net_arch: {pi: [64.0, 64], qf: [256]}, activation: relu, n_critics: 3}",
    ]
    agent = load(write(BOX), [f"agent.{argument}" for argument in arguments]).agent
    assert agent.arguments == {
        "buffer_size": 100_000,
        "train_freq": [4, "step"],
        "gradient_steps": -1,
        "ent_coef": "auto_0.1",
        "target_entropy": -2,
        "action_noise": {"normal": 0.1},
        "n_steps": 3,
        "policy_kwargs": {
            "net_arch": {"pi": [64.0, 64], "qf": [256]},
            "activation": "relu",
            "n_critics": 3,
        },
    }
    assert type(agent.arguments["buffer_size"]) is int


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_algorithm_of_the_registry_can_be_read(algorithm: str) -> None:
    names = argument_names({"algorithm": algorithm}, None)
    assert {"learning_rate", "gamma", "policy_kwargs", "env"} <= set(names)


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_policies_of_every_algorithm_are_known(problems, algorithm: str) -> None:
    env = "Pendulum-v1" if "Discrete" not in ALGORITHMS[algorithm].actions else "CartPole-v1"
    text = f"tasks: [{{name: a, env: {env}, steps: 9}}]\nagent: {{algorithm: {algorithm}}}\n"
    (found,) = problems(text, "agent.policy_kwargs={nett_arch: [64]}")
    assert found.message == "unknown key; did you mean 'net_arch'?"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy_kwargs={layer_norm: frist}", "did you mean 'first'?"),
        ("policy_kwargs={layer_norm: true}", "all"),
        ("policy_kwargs={weight_decay: -1}", "expected a finite number of at least 0, got -1"),
        ("policy_kwargs={weight_decay: much}", "expected a finite number of at least 0"),
        (
            "policy_kwargs={weight_decay: 0.1, optimizer_kwargs: {weight_decay: 0.2}}",
            "optimizer_kwargs has weight_decay too; remove one of them",
        ),
        ("layer_norm=all", "write policy_kwargs: {layer_norm: ...}"),
    ],
)
def test_forms_that_keep_networks_able_to_learn(problems, override: str, message: str) -> None:
    (found,) = problems("", f"agent.{override}")
    assert message in found.message


@pytest.mark.parametrize("form", ["activation: crelu", "layer_norm: all"])
@pytest.mark.parametrize("algorithm", ["crossq", "trpo", "recurrent_ppo"])
def test_networks_that_stay_closed_take_no_forms(problems, algorithm: str, form: str) -> None:
    env = "Pendulum-v1" if algorithm == "crossq" else "CartPole-v1"
    text = f"tasks: [{{name: a, env: {env}, steps: 9}}]\nagent: {{algorithm: {algorithm}}}\n"
    (found,) = problems(text, f"agent.policy_kwargs={{{form}}}")
    what = "crelu" if "crelu" in form else "layer_norm"
    assert f"'{algorithm}' does not open its networks for {what}" in found.message
    assert "these do: ppo, a2c" in found.message


def test_state_dependent_noise_and_crelu_exclude_each_other(problems) -> None:
    (found,) = problems(BOX, "agent.use_sde=true", "agent.policy_kwargs={activation: crelu}")
    assert "crelu cannot be used with agent.use_sde" in found.message


def test_a_users_own_algorithm(write, problems, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from stable_baselines3 import PPO\n"
        "class Mine(PPO):\n"
        "    def __init__(self, policy, env, *, temperature: float = 1.0, gamma: float = 0.9):\n"
        "        pass\n"
    )
    scenario = load(write(), ["agent.algorithm=mine:Mine", "agent.temperature=2"])
    assert scenario.agent.arguments == {"temperature": 2}
    (found,) = problems("", "agent.algorithm=mine:Mine", "agent.temprature=2")
    assert "did you mean 'temperature'?" in found.message
    (found,) = problems("", "agent.algorithm=mine:Mein")
    assert "module 'mine' has no agent 'Mein'; did you mean 'mine:Mine'?" in found.message
    (found,) = problems("", "agent.algorithm=mine:Mine", "methods=[ewc]")
    assert "needs the gradients door" in found.message


def test_plain_names_are_those_that_the_agents_know() -> None:
    arguments = pytest.importorskip("holdfast.agents.sb3.arguments")
    assert set(ACTIVATIONS) == set(arguments.ACTIVATIONS)
    assert set(OPTIMIZERS) == set(arguments.OPTIMIZERS)
    assert set(arguments.OPTIONS) < set(POLICY_PLAIN)
