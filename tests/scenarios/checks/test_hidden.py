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


DETECTED = "stream={boundaries: detected, task_id: hidden}"


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("stream.task_id=observed", "stream.task_id", "nothing is left to detect"),
        ("stream.task_id=heads", "stream.task_id", "a head per task tells"),
        ("stream.task_count=known", "stream.task_count", "how many tasks come"),
        ("agent.engine=compiled", "agent.engine", "write sb3"),
        ("agent.normalize={observations: per_task}", "agent.normalize.observations", "running"),
        ("carry.optimizer=false", "carry.optimizer", "nothing is dropped"),
        ("methods=[packnet]", "methods[0]", "how many tasks come, which a detector does not find"),
        ("methods=[generative-replay]", "methods[0]", "lifecycle door"),
        ("methods=[vcl]", "methods[0]", "networks door"),
        ("methods=[perfect-memory]", "methods[0]", "longer than what the replay buffer holds"),
        ("methods=[isolated]", "methods[0]", "lifecycle door"),
        ("methods=[joint]", "methods[0]", "lifecycle door"),
    ],
)
def test_what_a_detector_does_not_go_with(one, override: str, path: str, message: str) -> None:
    problem = one(DETECTED, override)
    assert problem.path == path
    assert message in problem.message
    assert "boundaries: known" in problem.message


@pytest.mark.parametrize(
    ("detector", "path", "message"),
    [
        ("{adwin: {}, page_hinkley: {}}", "detector", "are page_hinkley and adwin; keep one"),
        ("[adwin, page_hinkley]", "detector", "expected a mapping"),
        ("{adwin: null}", "detector", "write adwin: {}"),
        ("{signal: loss}", "detector.signal", "is not one of dynamics, reward, return"),
        ("{signal: reward}", "detector", "needs threshold:"),
        ("{signal: return, page_hinkley: {tolerance: 1}}", "detector", "needs threshold:"),
        ("{adwin: {delta: 1}}", "detector.adwin.delta", "less than 1"),
        ("{kolmogorov_smirnov: {recent: 2000}}", "detector.kolmogorov_smirnov", "smaller than"),
        ("{cooldown: -1}", "detector.cooldown", "at least 0"),
        ("{most: 0}", "detector.most", "greater than 0"),
        ("{recurring: 2}", "detector.recurring", "true or false"),
        ("{recurring: true, adwin: {}}", "detector", "asks page_hinkley which slot fits"),
        (
            "{recurring: true, signal: reward, adwin: {}}",
            "detector",
            "recurring compares models of the dynamics, and reward has none",
        ),
    ],
)
def test_wrong_detectors(one, detector: str, path: str, message: str) -> None:
    problem = one(DETECTED, f"detector={detector}")
    assert problem.path == path
    assert message in problem.message


@pytest.mark.parametrize("boundaries", ["known", "hidden"])
def test_a_detector_that_nothing_asks_for_is_refused(one, boundaries: str) -> None:
    problem = one(f"stream={{boundaries: {boundaries}, task_id: hidden}}", "detector={}")
    assert problem.path == "detector"
    assert "boundaries: detected" in problem.message
