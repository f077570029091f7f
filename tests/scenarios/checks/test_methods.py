from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.registry import METHODS, PLUGINS
from holdfast.scenarios.describe import describe_algorithms, describe_method, describe_methods
from holdfast.scenarios.load import load

OWN = '''
"""A user's own methods."""
from typing import ClassVar, Literal

Kind = Literal["separate", "online"]

class Anchor:
    """Holds the weights where they are.

    More text.
    """

    needs: ClassVar[tuple[str, ...]] = ("boundaries", "task_count")
    doors: ClassVar[tuple[str, ...]] = ("gradients", "output")
    limits: ClassVar[dict[str, tuple[float, float | None]]] = {"rate": (0, 1)}

    def __init__(self, rate: float, *, strength: float = 10.0, kind: Kind = "separate",
                 samples: int = 100, layers: "list[int] | None" = None) -> None:
        pass

class Softer(Anchor):
    """Inherits everything but one."""
    needs = ()

class Grow:
    """Adds a column."""
    doors = ("networks",)

class Grow2(Grow):
    """Adds another."""

class Views:
    """Keeps every task's policy."""
    claims = ("views",)

class OtherViews(Views):
    """Does so too."""

class Rollouts:
    """Works with one algorithm."""
    algorithms = ("a2c",)

class Anything:
    """Takes what it is given."""
    def __init__(self, **kwargs): ...
'''

SAC = """\
tasks: [{name: a, env: Pendulum-v1, steps: 1000}]
agent: {algorithm: sac}
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("EWC", "no method 'EWC'; did you mean 'ewc'?"),
        ("ecw", "no method 'ecw'; did you mean 'ewc'?"),
        ("lotto", "no method 'lotto'; known: naive, isolated, joint, frozen"),
        ("ewc: {strenght: 3}", "'ewc' has no argument 'strenght'; did you mean 'strength'?"),
        ("ewc: {lambda: 3}", "'ewc' has no argument 'lambda'; it takes: strength, kind"),
        ("naive: {strength: 3}", "'naive' has no argument 'strength'; it takes none"),
        (
            "ewc: {kind: onlin}",
            "'onlin' is not one of separate, online, summed; did you mean 'online'?",
        ),
        ("ewc: {strength: high}", "expected a number, got the text 'high'"),
        ("ewc: {strength: -1}", "must be at least 0, got -1"),
        ("ewc: {strength: .inf}", "must be at least 0, got inf"),
        ("ewc: {decay: 1.5}", "must be from 0 to 1, got 1.5"),
        ("'own:Anchor': {rate: 2}", "must be from 0 to 1, got 2"),
        ("ewc: {samples: 0.5}", "expected a whole number, got 0.5"),
        ("ewc: 10", "expected the arguments of 'ewc' as {argument: value}, got 10"),
        ("{ewc: null, strength: 3}", "arguments go under the name: 'ewc: {strength: ...}'"),
        ("{name: ewc, strength: 3}", "'ewc: {strength: 3}'"),
        ("[naive, ewc]", "'naive' composes with nothing"),
        ("[isolated, ewc]", "'isolated' composes with nothing"),
        ("[ewc, joint]", "'joint' composes with nothing"),
        ("['own:Views', 'own:OtherViews']", "'own:OtherViews' both keep the policy of each task"),
        ("'own:Rollouts'", "'own:Rollouts' works with a2c, not with 'ppo'"),
        ("[ewc, ewc]", "'ewc' is composed with itself"),
        ("[[ewc]]", "expected a method: a name, or {name: {argument: value}}"),
        ("3", "expected a method"),
        ("replay", "on-policy 'ppo' keeps no transitions: use 'cloning'"),
        ("'own:Anchr'", "module 'own' has no method 'Anchr'; did you mean 'own:Anchor'?"),
        ("'onw:Anchor'", "no module 'onw', neither beside the scenario"),
        ("'own:Anchor'", "'own:Anchor' needs the argument 'rate' (float)"),
        ("'own:Anchor': {rate: 1, kind: offline}", "did you mean 'online'?"),
        ("'own:Anchor': {rate: 1, layers: [1, x]}", "entry 1: expected a whole number"),
    ],
)
def test_wrong_methods(one, entry: str, message: str) -> None:
    assert message in one("stream.task_count=known", f"methods=[{entry}]").message


def test_right_methods(write) -> None:
    methods = (
        "[{'own:Anchor': {rate: 1, samples: 1e3, layers: [1e1]}}, {'own:Softer': {rate: 0.5}}]"
    )
    scenario = load(write(), [f"methods={methods}", "stream.task_count=known"])
    assert [cell.label for cell in scenario.cells()] == ["Anchor", "Softer"]
    arguments = scenario.methods[0].parts[0].arguments
    assert arguments == {"rate": 1, "samples": 1000, "layers": [10]}
    assert type(arguments["samples"]) is int
    anything = load(write(), ["methods=[{'own:Anything': {whatever: 3}}]"])
    assert anything.methods[0].parts[0].arguments == {"whatever": 3}


def test_the_same_method_twice(one) -> None:
    problem = one("methods=[naive, ewc, naive]")
    assert problem.path == "methods[2]"
    assert "the same method as methods[0]" in problem.message


def test_place_of_an_argument_in_a_composition(problems) -> None:
    (found,) = problems("", extra="methods:\n  - - cloning\n    - ewc:\n        strenght: 3\n")
    assert (found.path, found.line, found.column) == ("methods[0][1].ewc.strenght", 8, 9)


@pytest.mark.parametrize(
    ("stream", "method", "message"),
    [
        ("{boundaries: hidden}", "ewc", "must be told where tasks end"),
        ("{task_id: hidden}", "progressive", "must be told which task it is in"),
        ("{}", "{'own:Anchor': {rate: 1}}", "stream: {task_count: known}"),
    ],
)
def test_a_method_that_needs_what_the_stream_hides(one, stream, method, message) -> None:
    problem = one(f"stream={stream}", f"methods=[{method}]")
    assert problem.path == "methods[0]"
    assert message in problem.message


@pytest.mark.parametrize("method", ["ewc", "cloning", "progressive"])
def test_trpo_takes_what_goes_through_no_gradients(one, write, method: str) -> None:
    trpo = "agent.algorithm=trpo"
    message = one(trpo, f"methods=[{method}]").message
    assert "which 'trpo' does not have; algorithms that have it: ppo, a2c" in message
    assert message.endswith("methods for 'trpo': naive, isolated, joint, frozen, reptile")
    taken = "methods=[naive, isolated, joint, frozen, reptile]"
    assert load(write(), [trpo, taken]).agent.algorithm == "trpo"


def test_an_algorithm_without_policy_output(one) -> None:
    message = one("agent.algorithm=recurrent_ppo", "methods=[cloning]").message
    assert "needs the policy output of the algorithm, which 'recurrent_ppo' does not" in message


def test_replay_names_off_policy_algorithms(one, write) -> None:
    assert "(dqn, sac, td3, ddpg, tqc, qrdqn, crossq)" in one("methods=[replay]").message
    scenario = load(write(SAC), ["methods=[replay]", "agent.n_steps=3"])
    assert scenario.methods[0].label == "replay"


def test_heads_need_networks(one, problems) -> None:
    problem = one("agent.algorithm=trpo", "stream.task_id=heads")
    assert problem.path == "stream.task_id"
    assert "does not open its networks for a head per task" in problem.message
    assert problems(SAC, "agent.algorithm=crossq", "stream.task_id=heads")[0].path == problem.path


@pytest.mark.parametrize(
    ("overrides", "path", "message"),
    [
        (["stream.task_id=heads", "methods=[progressive]"], "methods[0]", "task_id: observed"),
        (["methods=[[progressive, 'own:Grow']]"], "methods[0]", "compose at most one of them"),
        (["methods=['own:Grow2']", "carry.optimizer=true"], "carry.optimizer", "remove it"),
        (["carry.replay_buffer=true"], "carry.replay_buffer", "has no replay buffer"),
        (["agent.use_sde=true", "methods=[ewc]"], "methods[0]", "remove agent.use_sde"),
    ],
)
def test_combinations_that_cannot_work(one, overrides, path: str, message: str) -> None:
    problem = one(*overrides)
    assert problem.path == path
    assert message in problem.message


@pytest.mark.parametrize("override", ["methods=[replay]", "carry.replay_buffer=true"])
def test_a_halved_buffer_cannot_be_kept(problems, override: str) -> None:
    (found,) = problems(SAC, override, "agent.optimize_memory_usage=true")
    assert "agent.optimize_memory_usage" in found.message


def test_rows_of_the_list() -> None:
    rows = {row.name: row for row in describe_methods()}
    assert list(rows) == [*METHODS, *PLUGINS]
    assert all(row.summary for row in rows.values())
    assert rows["ewc"].needs == ("boundaries",)
    assert rows["ewc"].arguments[0].name == "strength"
    assert "trpo" not in rows["ewc"].algorithms
    assert "ppo" not in rows["replay"].algorithms
    assert "trpo" in rows["naive"].algorithms
    algorithms = {row.name: row for row in describe_algorithms()}
    assert algorithms["dqn"].actions == ("Discrete",)
    assert algorithms["trpo"].doors == ("lifecycle",)
    names = [argument.name for argument in algorithms["ppo"].arguments]
    assert names[0] == "learning_rate"
    assert not {"env", "policy", "seed", "device"} & set(names)


def test_row_of_a_users_own_method(tmp_path: Path) -> None:
    row = describe_method("own:Softer", tmp_path)
    assert (row.summary, row.needs) == ("Inherits everything but one.", ())
    assert row.doors == ("gradients", "output")
    assert [argument.name for argument in row.arguments][:2] == ["rate", "strength"]


def test_crelu_does_not_go_with_rebuilt_networks(problems, write) -> None:
    policy = "agent.policy_kwargs={activation: crelu}"
    (found,) = problems("", "methods=[progressive]", policy)
    assert "which 'progressive' does not follow; write relu" in found.message
    assert load(write(), ["methods=[ewc]", policy]).methods[0].label == "ewc"
