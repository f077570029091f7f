"""``backend: auto`` is settled once, and a stream on EnvPool runs, resumes and repeats itself."""

from __future__ import annotations

import pytest

from holdfast.continual.jobs import backend
from holdfast.continual.jobs.backend import settle
from holdfast.continual.jobs.run import run as run_scenario
from holdfast.continual.jobs.run_folders import prepare
from holdfast.scenarios.checks.backend import is_installed

installed = pytest.mark.skipif(not is_installed(), reason="needs envpool")
POOLED = {"backend": "envpool", "tasks": 2, "steps": 256, "n_envs": 4}


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(backend, "MEASURED_S", 0.05)


@pytest.mark.thorough
@installed
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_the_same_seed_gives_equal_scores(run, algorithm):
    keys = POOLED | {"steps": 128}
    one, two = (run(algorithm, runs=name, **keys) for name in ("one", "two"))
    assert one.scores() == two.scores()
    assert len(one.scores()) == 5 * 2 * 2  # points, tasks, episodes
    other = run(algorithm, runs="three", seeds=[1], **keys)
    assert one.scores() != other.scores()


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package catches it."""


@pytest.mark.thorough
@installed
def test_interrupted_and_run_again_equals_uninterrupted(run, weights):
    whole = run(runs="whole", **POOLED)

    def kill_in_second_task(progress):
        if progress.step > 300:
            raise Killed

    with pytest.raises(Killed):
        run(runs="cut", tell=kill_in_second_task, **POOLED)
    resumed = run(runs="cut", **POOLED)
    assert resumed.info()["status"] == "finished"
    assert resumed.scores() == whole.scores()
    one, two = weights(whole), weights(resumed)
    assert all(one[name].equal(two[name]) for name in one)


@pytest.mark.thorough
@installed
def test_episodes_do_not_depend_on_how_many_run_side_by_side(run, monkeypatch):
    from holdfast.continual.streams import task_stream

    keys = POOLED | {"evaluation": {"episodes": 5}, "agent": {"ent_coef": 0.01}}
    together = run(runs="together", **keys)
    monkeypatch.setattr(task_stream, "MOST_IN_POOL", 2)
    in_turns = run(runs="turns", **keys)
    assert [row["return"] for row in together.scores()] == [
        row["return"] for row in in_turns.scores()
    ]


@pytest.mark.thorough
@installed
def test_evaluation_equals_playing_single_environments(run):
    """The oracle is the Gymnasium path: one environment after another, reset with the seed."""
    import holdfast
    from holdfast.seeding import derive

    folder = run(**POOLED)
    agent = holdfast.open_run(folder.path).agent("t1")
    env = agent.make_env()
    last = [row for row in folder.scores() if row["step"] == 512 and row["task"] == "t1"]
    for row in last:
        observation, _ = env.reset(seed=derive(0, "evaluation", 1, row["episode"]))
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
            total, over = total + reward, terminated or truncated
        assert total == row["return"]


@pytest.mark.thorough
@installed
def test_auto_measures_both_and_the_run_folder_names_what_was_used(run, tmp_path, short):
    scenario = run(**POOLED).scenario.model_copy(update={"backend": "auto", "name": "open"})
    settled, reason = settle(scenario, tmp_path)
    assert settled.backend in ("gymnasium", "envpool")
    assert f"backend: {settled.backend}, because random actions measured gymnasium " in reason
    assert "steps/s with n_envs 4" in reason
    (opened,) = run_scenario(scenario, runs=tmp_path / "open")
    assert opened.scenario.backend in ("gymnasium", "envpool")


@pytest.mark.thorough
@installed
@pytest.mark.parametrize("was", ["gymnasium", "envpool"])
def test_a_run_goes_on_with_the_backend_that_it_began_with(run, tmp_path, was):
    folder = run(**(POOLED | {"backend": was}))
    scenario = folder.scenario.model_copy(update={"backend": "auto"})
    settled, reason = settle(scenario, tmp_path / "runs")
    assert settled.backend == was
    assert "seed-0 has it" in reason
    (again,) = prepare(tmp_path / "runs", settled)  # the same scenario, not another
    assert again.info()["status"] == "finished"


@installed
@pytest.mark.parametrize(
    ("task", "side", "reason"),
    [
        (
            {"env": "CartPole-v1", "changes": {"set": {"gravity": 1.0}}},
            "gymnasium",
            "of task 't': EnvPool's simulators have no attributes to set",
        ),
        ({"env": "MetaWorld/Reach-v3"}, "envpool", "gymnasium cannot make it"),
        ({"env": "BabyAI-GoToObj-v0"}, "envpool", "gymnasium cannot make it"),
    ],
)
def test_auto_takes_the_only_backend_that_can(make_scenario, tmp_path, short, task, side, reason):
    scenario = make_scenario(tasks=[{"name": "t", "steps": 100, **task}], backend="auto")
    settled, said = settle(scenario, tmp_path)
    assert settled.backend == side
    assert reason in said


@installed
def test_auto_does_not_take_a_different_task_of_the_same_name(make_scenario, tmp_path, short):
    import gymnasium as gym

    class Other(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (2,))
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 0.0, False, False, {}

    gym.register("D1Basic-v1", Other)
    try:
        scenario = make_scenario(
            tasks=[
                {
                    "name": "t",
                    "env": "D1Basic-v1",
                    "steps": 100,
                    "changes": {"time_limit": 5},
                }
            ],
            backend="auto",
        )
        assert settle(scenario, tmp_path).scenario.backend == "gymnasium"
    finally:
        del gym.registry["D1Basic-v1"]


def test_without_envpool_auto_is_gymnasium(make_scenario, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "is_installed", lambda: False)
    settled, reason = settle(make_scenario(backend="auto"), tmp_path)
    assert (settled.backend, reason) == (
        "gymnasium",
        "backend: gymnasium, because EnvPool is not installed",
    )
