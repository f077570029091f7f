from __future__ import annotations

import pytest

TEAM = """
    tasks:
      - {name: two, env: mpe2.simple_spread_v3, kwargs: {N: 2}, steps: 400}
    agent: {algorithm: ppo, policies: shared}
"""


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("tasks[0].env=mpe2.simple_spred_v3", "did you mean 'mpe2.simple_spread_v3'"),
        ("tasks[0].changes={time_limit: 9}", "not for many agents; each can have action_map"),
        ("tasks[0].drift={gravity: {linear: [1, 2]}}", "not for many agents"),
        ("agent.init=runs/x", "begins with fresh weights"),
        ("agent.algorithm=recurrent_ppo", "'recurrent_ppo' cannot learn in a team"),
        ("n_envs=2 pool={workers: 2}", "stepped in this process"),
        ("on_nan=truncate", "stops at NaN"),
        ("methods=[joint]", "'joint' does not work in a team"),
        ("methods=[[ewc, clear]]", "'clear' does not work in a team"),
        ("agent.policies=shred", "did you mean 'shared'"),
        ("agent.policies={}", "must not be empty"),
        ("agent.policies={a: []}", "must not be empty"),
    ],
)
def test_what_a_team_cannot_have_is_refused(problems, override: str, text: str) -> None:
    found = problems(TEAM, *override.split(" ", 1 if override.startswith("n_envs") else 0))
    assert any(text in problem.message for problem in found), found
