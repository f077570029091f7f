"""What cannot hold over a hidden boundary is refused, with place and remedy."""

import pytest

HIDDEN = "stream={boundaries: hidden, task_id: hidden}"


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("agent.normalize={observations: per_task}", "agent.normalize.observations", "running"),
        ("agent.normalize={rewards: first_task}", "agent.normalize.rewards", "running"),
        ("agent.use_sde=true", "agent.use_sde", "remove it"),
        ("carry.optimizer=false", "carry.optimizer", "nothing is dropped"),
        ("carry.weights=false", "carry.weights", "nothing is dropped"),
        ("pool.workers=1", "pool.workers", "remove it"),
        ("methods=[isolated]", "methods[0]", "boundaries: known"),
    ],
)
def test_what_a_hidden_boundary_cannot_keep(one, override: str, path: str, message: str) -> None:
    problem = one(HIDDEN, override)
    assert problem.path == path
    assert message in problem.message
    assert "boundaries: known" in problem.message


def test_heads_are_refused(one) -> None:
    assert one("stream={boundaries: hidden, task_id: heads}").path == "stream.task_id"


DQN = "agent={algorithm: dqn, optimize_memory_usage: true}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((DQN,), "optimize_memory_usage"),
        (("tasks.0.exclusive=true", "evaluation.every=null"), "exclusive"),
    ],
)
def test_joint_refuses_what_one_model_for_the_stream_cannot_keep(
    one, overrides: tuple[str, ...], message: str
) -> None:
    problem = one("methods=[naive, joint]", *overrides)
    assert problem.path == "methods[1]"
    assert message in problem.message
    assert "remove" in problem.message
