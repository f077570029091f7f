"""Every scenario has one kind, and each kind has every part."""

from typing import Any

import pytest
from team_runs import team_scenario

from holdfast.continual.jobs.estimate import estimate
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.kinds.protocol import Kind
from holdfast.continual.kinds.single import Single
from holdfast.continual.kinds.supervised import Supervised
from holdfast.continual.kinds.team import Team
from holdfast.continual.training.preflight import build
from holdfast.scenarios.schema.scenario import Scenario

SPREAD = {"env": "mpe2.simple_spread_v3", "kwargs": {"N": 2, "max_cycles": 8}}


def supervised() -> Scenario:
    tasks = [{"name": "a", "benchmark": "split-digits", "experience": 0, "steps": 10}]
    return Scenario.model_validate({"tasks": tasks, "agent": {"algorithm": "supervised"}})


def test_kinds_are_told_apart(make_scenario: Any) -> None:
    scenarios = (make_scenario(), team_scenario("ppo", SPREAD), supervised())
    kinds = [kind_of(scenario) for scenario in scenarios]
    assert [type(kind) for kind in kinds] == [Single, Team, Supervised]
    assert [kind.scenario for kind in kinds] == list(scenarios)
    assert [kind.words.total for kind in kinds] == ["return", "return", "accuracy"]
    assert [kind.is_diagnosed for kind in kinds] == [True, False, False]


@pytest.mark.parametrize("kind", [Single, Team, Supervised])
def test_a_kind_says_itself_what_differs(kind: type[Kind]) -> None:
    said = {name for name in vars(kind) if not name.startswith("_")}
    # The protocol's own of these are no more than descriptions.
    assert said >= {
        "words",
        "stream",
        "learner",
        "act",
        "export",
        "build",
        "check_task",
        "check_fit",
    }


def test_scores_of_their_own(make_scenario: Any) -> None:
    assert kind_of(make_scenario()).has_own_score(0)
    assert not kind_of(make_scenario(score=None)).has_own_score(0)
    assert not kind_of(supervised()).has_own_score(0)


def test_time_limits(make_scenario: Any) -> None:
    assert kind_of(make_scenario()).time_limit() == 500
    assert kind_of(team_scenario("ppo", SPREAD)).time_limit() == 0
    assert kind_of(supervised()).time_limit() is None


def test_a_teams_cost_is_estimated() -> None:
    scenario = team_scenario("ppo", SPREAD)
    (cost,) = estimate(scenario, build(scenario)).values()
    assert cost.is_open
    assert 0 < cost.least_s <= cost.most_s
