"""The kind of a scenario's learner: the one place where kinds are told apart."""

from __future__ import annotations

from holdfast.continual.kinds.protocol import Kind
from holdfast.continual.kinds.single import Single
from holdfast.continual.kinds.supervised import Supervised
from holdfast.continual.kinds.team import Team
from holdfast.scenarios.schema.scenario import Scenario


def kind_of(scenario: Scenario) -> Kind:
    """Return the kind of a scenario's learner; ask it for the part that is needed.

    For example ``kind_of(scenario).stream(seed)``.
    """
    if scenario.is_supervised:
        return Supervised(scenario)
    if scenario.agent.policies is not None:
        return Team(scenario)
    return Single(scenario)
