"""Rows of finished tasks: what is kept, what is drawn, and the gradients on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from all_doors import every_door
from torch import Tensor

from holdfast.agents.algorithms import losses
from holdfast.agents.base.parameters import joined, split
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.methods.rehearsal.episodic import Draws, EpisodicMemory, Labelled, all_rows
from holdfast.continual.streams.task_stream import make_stream
from holdfast.errors import Diverged
from holdfast.registry import METHODS, load
from holdfast.scenarios.schema.scenario import Scenario

WORLDS = {
    "ppo": ("CartPole-v1", {"n_steps": 16, "batch_size": 32}),
    "sac": ("Pendulum-v1", {"learning_starts": 16, "buffer_size": 500}),
}


def _filled(case: str, samples: int, batch_size: int) -> tuple[StableBaselinesAgent, Any]:
    """Return an agent after three tasks of 64 steps, and what was kept of them."""
    env, arguments = WORLDS[case]
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": n, "env": env, "steps": 64} for n in "abc"],
            "n_envs": 2,
            "agent": {
                "algorithm": case,
                "normalize": {"observations": "running", "rewards": "running"},
                **arguments,
            },
        }
    )
    agent, stored = StableBaselinesAgent(scenario), EpisodicMemory(samples, batch_size)
    for experience in make_stream(scenario, 0).train_stream:
        agent.memory.keep_rollouts(samples)
        agent.start(experience)
        agent.learn(experience, lambda step: None, lambda scalars, step: None)
        stored.store(every_door(agent), experience.generator("test"))
    return agent, stored


def _draws() -> Draws:
    return Draws(np.random.default_rng(0), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", WORLDS)
def test_each_batch_is_of_the_tasks_it_is_meant_for(case: str) -> None:
    agent, stored = _filled(case, samples=40, batch_size=30)
    doors = every_door(agent)
    actor = doors.gradients.parameters("actor")
    batches = [stored.batch(doors, actor, _draws()), *stored.batches(doors, actor, _draws())]
    pooled, *each = (doors.gradients.loss_gradient(actor, batch) for batch in batches)
    assert len(stored) == len(each) == 3
    tasks = [batch["observations"][:, -3:].argmax(-1) for batch in batches]
    assert [len(rows) for rows in tasks] == [30] * 4
    assert torch.bincount(tasks[0]).min() >= 5  # of 30 rows from three tasks
    assert [set(rows.tolist()) for rows in tasks[1:]] == [{0}, {1}, {2}]
    assert all(joined(gradient).abs().max() > 0 for gradient in (pooled, *each))
    assert set(pooled) == set(actor)


@pytest.mark.parametrize("case", WORLDS)
def test_all_rows_are_taken_where_there_are_no_more(case: str) -> None:
    """They are those that the agent gives, normalised as the newest statistics say."""
    agent, stored = _filled(case, samples=20, batch_size=60)
    batch = stored.batch(every_door(agent), {}, _draws())
    state = stored.state()
    rows = {
        name.removeprefix("settled/0/"): np.concatenate(
            [state[name.replace("0", str(block), 1)].numpy() for block in range(3)]
        )
        for name in state
        if name.startswith("settled/0/")
    }
    assert {len(values) for values in state.values()} == {20}
    assert {len(values) for values in rows.values()} == {60}
    expected = agent.memory.batch(rows)
    added = {"others", "clip_range"} if case == "ppo" else {"others", "temperature", "noise"}
    assert set(batch) == set(expected) | added
    assert all(torch.equal(batch[name], values) for name, values in expected.items())
    assert not torch.equal(batch["observations"], torch.as_tensor(rows["observations"]))
    assert ("returns" in rows) == (case == "ppo")
    assert ("rewards" in rows) == (case == "sac")


@pytest.mark.parametrize("case", WORLDS)
def test_state_gives_the_same_gradients_again(case: str) -> None:
    agent, stored = _filled(case, samples=40, batch_size=30)
    again = EpisodicMemory(40, 30)
    assert again.state() == {}
    again.load({})
    assert len(again) == 0
    again.load(stored.state())
    older = EpisodicMemory(40, 30)
    rows, ends = all_rows(stored.state())
    older.load({f"rows/{name}": held for name, held in rows.items()} | {"ends": torch.tensor(ends)})
    doors = every_door(agent)
    own = doors.gradients.parameters("actor")
    for batches in zip(
        *(memory.batches(doors, own, _draws()) for memory in (stored, again, older)), strict=True
    ):
        first, *others = (doors.gradients.loss_gradient(own, batch) for batch in batches)
        assert all(torch.equal(first[name], other[name]) for name in own for other in others)


def test_labelled_rows_come_back_in_blocks_whose_numbers_are_not_used_again() -> None:
    stored, again, older = Labelled(), Labelled(), Labelled()

    def add(memory: Labelled, *values: float) -> None:
        memory.add({"": np.array([values]).T}, {"mean": torch.tensor([values]).T})

    add(stored, 1.0, 2.0)
    stored.clear()
    add(stored, 3.0)
    add(stored, 4.0, 5.0)
    blocks = {name.rpartition("/observations")[0] for name in stored.state()} - {""}
    assert blocks == {"settled/1", "settled/2"}
    again.load(stored.state(), torch.device("cpu"))
    one = {"observations/": torch.tensor([[3.0], [4.0], [5.0]]).double()}
    older.load(one | {"label/mean": one["observations/"].float()}, torch.device("cpu"))
    for memory in (stored, again, older):
        assert memory.observations[""].tolist() == memory.labels["mean"].tolist() == [[3], [4], [5]]
        memory.clear()
    for memory, number in ((stored, 3), (again, 3), (older, 1)):
        add(memory, 6.0)
        assert f"settled/{number}/observations/" in memory.state()


def test_a_slot_that_comes_again_has_the_rows_of_its_newest_visit() -> None:
    """The others keep theirs; no block's name means other rows than before."""
    memory, again, seen = Labelled(), Labelled(), {}
    visits = [(0, [1.0]), (1, [2.0, 2.5]), (2, [3.0]), (1, [4.0, 4.5, 5.0]), (1, [6.0]), (0, [7.0])]
    kept = [[1], [1, 2, 2.5], [1, 2, 2.5, 3], [1, 3, 4, 4.5, 5], [1, 3, 6], [3, 6, 7]]
    for (slot, values), rows in zip(visits, kept, strict=True):
        memory.add({"": np.array([values]).T}, {"mean": torch.tensor([values]).T}, slot)
        assert memory.observations[""].T.tolist() == memory.labels["mean"].T.tolist() == [rows]
        again = Labelled()
        again.load(memory.state(), torch.device("cpu"))
        assert again.state().keys() == memory.state().keys()
        assert all(torch.equal(again.state()[n], held) for n, held in memory.state().items())
        for name, held in memory.state().items():
            if name.startswith("settled"):
                assert torch.equal(seen.setdefault(name, held), held), name
        memory = again
    assert memory.state()["slots"].tolist() == [2, 1, 0]


def test_sixteen_blocks_become_one() -> None:
    """As files a checkpoint has: 45 tasks, of which the first five were dropped."""
    memory, again = Labelled(), Labelled()
    for task in range(45):
        if task == 5:
            memory.clear()
        values = torch.full((1 + task % 3, 1), float(task))
        memory.add({"": values.numpy()}, {"mean": values})
    assert {name.split("/")[1] for name in memory.state() if name.startswith("settled")} == {
        *map(str, range(5, 16)),
        "16-31",
        *map(str, range(32, 45)),
    }
    again.load(memory.state(), torch.device("cpu"))
    rows = [task for task in range(5, 45) for _ in range(1 + task % 3)]
    assert again.labels["mean"].squeeze(1).tolist() == rows
    assert again.observations[""][:, 0].tolist() == rows
    assert again.state().keys() == memory.state().keys()
    assert all(torch.equal(again.state()[name], held) for name, held in memory.state().items())


def test_a_vector_goes_back_into_its_tensors() -> None:
    named = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(6.0), "c": torch.ones(2)}
    vector = joined(named)
    assert vector.tolist() == [0, 1, 2, 3, 4, 5, 6, 1, 1]
    again = split(vector, named)
    assert list(again) == list(named)
    assert all(torch.equal(again[name], tensor) for name, tensor in named.items())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["agem", "gem", "pcgrad"])
def test_an_overflow_on_stored_rows_stops_the_run(
    name: str, bad: float, learn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = losses.loss_gradient

    def loss_gradient(*args: Any) -> dict[str, Tensor]:
        return {name: torch.full_like(g, bad) for name, g in published(*args).items()}

    monkeypatch.setattr(losses, "loss_gradient", loss_gradient)
    method = load(METHODS[name])(samples=32)
    with pytest.raises(
        Diverged, match=rf"method {name}: the gradient on stored rows .* not finite"
    ):
        list(learn("ppo", method, tasks=2))
