"""Explanations: what a policy's action hangs on, and where a later policy departs from it.

States are those of evaluation episodes by the policy of the task's end. On them, every later stage
is asked which entries of the observation its action hangs on (integrated gradients), whether that
is so (deletion), and where it acts otherwise than the policy of the task's end did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast import seeding
from holdfast.agents.base.greedy_action import most_likely
from holdfast.agents.doors.outputs import Output, OutputSpec, as_evaluated
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.policies.trust import vouch
from holdfast.continual.probes.attack import attackable, gap, own_entries, seen_by_policy
from holdfast.continual.probes.outcomes import Cluster, Explained, ExplainPlan, explain_record
from holdfast.continual.probes.record import Tell
from holdfast.continual.probes.rollouts import Player, Rows, World, copied
from holdfast.continual.results.curves import Array
from holdfast.continual.results.statistics import student
from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.cells import task_index
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import MissingExtra, UsageError

PATH_STEPS = 32
"""Points of the path on which gradients are taken, by Gauss and Legendre."""

DRAWS = 10
"""Draws of random entries, which the entries of highest attribution are compared with."""

FAR = 0.1
"""Part of the range of an entry of a continuous action by which it counts as another action."""

FEWEST_CLUSTERED, MOST_CLUSTERS = 10, 5
"""States below which there is one cluster, and clusters at most."""


class States(NamedTuple):
    """States of a task.

    Attributes:
        observations: As the stream has them, shape (states, entries).
        own: Entries that are the task's own; behind them are padding and the task id.
        steps: Step of the episode, shape (states,).
        rest: Return from there on, shape (states,).
    """

    observations: NDArray[Any]
    own: int
    steps: Array
    rest: Array


def explain(
    cells: Sequence[RunFolder],
    plan: ExplainPlan,
    tasks: Sequence[str] | None = None,
    tell: Tell = lambda *_: None,
    *,
    overwrite: bool = False,
) -> None:
    """Explain every stage of runs in the tasks trained up to its end; what is on file is kept.

    Args:
        cells: The runs, as ``probed_cells`` returns them.
        plan: What is asked.
        tasks: Which tasks; by default all that were trained.
        tell: Takes how many stages and tasks of how many are done.
        overwrite: Delete results of another plan.

    Raises:
        UsageError: If no stage was finished, or a policy is no function of one vector.
        MissingExtra: If Captum is not installed.
        CheckpointUnusable: If a checkpoint or a record cannot be read.
    """
    _captum()
    asked = {cell.path: _ends(cell, tasks) for cell in cells}
    wanted = {
        cell.path: [(t, s) for t, end in asked[cell.path].items() for s in _stages(cell, end)]
        for cell in cells
    }
    done, total = 0, sum(map(len, wanted.values()))
    for cell in cells:
        vouch(cell)
        with cell.lock():
            known = {one.place for one in explain_record(cell).begin(plan, overwrite=overwrite)}
            for found in _explained(cell, plan, asked[cell.path], known):
                if found is not None:
                    explain_record(cell).append(found)
                done += 1
                tell(done, total)


def _ends(cell: RunFolder, tasks: Sequence[str] | None) -> dict[int, int]:
    """Return the last stage at which each task was trained, of those with a checkpoint."""
    scenario, there = cell.scenario, checkpoint.named_stages(cell.path / checkpoint.FOLDER)
    if not there:
        raise UsageError(f"{cell.path}: no stage was finished yet, so that no policy is explained")
    newest = checkpoint.newest_stage(cell)
    ends = {task: stage for stage, task in enumerate(scenario.stream_tasks[: newest + 1])}
    named = [task_index(scenario, name, str(cell.path)) for name in tasks or ()]
    if untrained := [scenario.tasks[one].name for one in named if one not in ends]:
        raise UsageError(f"{cell.path}: task '{untrained[0]}' was not trained yet")
    return {task: end for task, end in ends.items() if not tasks or task in named}


def _stages(cell: RunFolder, end: int) -> list[int]:
    """Return the stages from the end of a task's training on."""
    there = checkpoint.named_stages(cell.path / checkpoint.FOLDER)
    return [stage for stage in there if stage >= end]


# -- one cell --------------------------------------------------------------------------------------


def _explained(
    cell: RunFolder, plan: ExplainPlan, ends: dict[int, int], known: set[tuple[int, str]]
) -> Iterator[Explained | None]:
    """Yield the explanation of each stage in each task; None for those on file."""
    names = [task.name for task in cell.scenario.tasks]
    agents: dict[int, Any] = {}

    def restored(stage: int) -> Any:
        if stage not in agents:
            agents[stage] = kind_of(cell.scenario).restore(cell, stage)
        return agents[stage]

    for task, end in ends.items():
        stages = _stages(cell, end)
        left = [stage for stage in stages if (stage, names[task]) not in known]
        yield from (None for stage in stages if stage not in left)
        if not left:
            continue
        states = _met(cell, restored(end), task, plan.states)
        true = View(restored(end).agent, task)
        for stage in left:
            yield _one(View(restored(stage).agent, task), true, states, stage, names[task])


def _met(cell: RunFolder, restored: Any, task: int, count: int) -> States:
    """Play evaluation episodes by the policy of a task's end, and return states of them."""
    from holdfast.continual.streams.task_stream import MOST_COPIES

    scenario, agent = restored.scenario, restored.agent
    _check(cell, agent, scenario.tasks[task])
    numbers = range(min(MOST_COPIES, scenario.evaluation.episodes))
    seeds = [seeding.derive(cell.seed, "evaluation", task, number) for number in numbers]
    world = World(scenario, task, restored.spaces, seeds, agent.shown_task(task)[0])
    stream = kind_of(scenario).stream(cell.seed, restored.spaces)
    experience = stream.eval_stream[task]
    most = experience.most_steps
    experience.close()
    rows = _Seen(world.envs, world.begun(), [0] * len(seeds), most)
    Player(agent, task, cell.seed).play(rows, most)
    own = own_entries(world.envs[0])
    world.close()
    seen = [one for row in rows.seen for one in row]
    steps = [step for row in rows.seen for step in range(len(row))]
    rest = [value for row in rows.rewards for value in np.cumsum(row[::-1])[::-1]]
    chosen = np.unique(np.linspace(0, len(seen) - 1, min(count, len(seen))).round().astype(int))
    return States(
        np.stack(seen)[chosen], own, np.array(steps, dtype=float)[chosen], np.array(rest)[chosen]
    )


class _Seen(Rows):
    """Rows that keep all that is seen."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.seen: list[list[Any]] = [[] for _ in self.envs]

    def before(self, row: int) -> None:
        self.seen[row].append(copied(self._latest[row]))


def _check(cell: RunFolder, agent: Any, task: Any) -> None:
    where = f"{cell.path}: task '{task.name}'"
    if task.opponents is not None:
        raise UsageError(f"{where} is a game; explanations are for environments without opponents")
    if cell.scenario.backend == "envpool":
        raise UsageError(f"{where} is in EnvPool; explanations need environments of Gymnasium")
    try:
        attackable(agent)
    except UsageError as error:
        raise UsageError(f"{where} cannot be explained: {error}") from error


class View:
    """A policy as a function of observations of the stream, in the view of a task.

    Args:
        agent: The agent.
        task: The task.
    """

    def __init__(self, agent: Any, task: int) -> None:
        self.agent, self._task = agent, task

    def of(self, ask: Callable[[Callable[[Tensor], Output]], Any]) -> Any:
        """Return what ``ask`` makes of the policy's output, as a function of observations."""
        with self.agent.view(self._task), as_evaluated(self.agent.policy):
            output = self.agent.output()
            return ask(lambda seen: output(seen_by_policy(self.agent, seen)))

    def actions(self, seen: Tensor) -> NDArray[Any]:
        """Return the most likely actions, shape (states, ...)."""
        with self.agent.view(self._task), as_evaluated(self.agent.policy), torch.no_grad():
            found = most_likely(self.agent.policy, seen_by_policy(self.agent, seen))
        return np.asarray(found.cpu())


def _one(view: View, true: View, states: States, stage: int, task: str) -> Explained:
    """Return the explanation of one stage in one task."""
    seen = torch.as_tensor(states.observations, dtype=torch.float32, device=view.agent.device)
    base = seen.mean(dim=0)
    spec = view.agent.output().spec
    shares = view.of(lambda output: attributions(output, spec, seen, base))
    shares[:, states.own :] = 0.0  # padding and the task id are no part of the task
    removed = max(1, states.own // 4)
    top, random = view.of(
        lambda output: deleted(
            lambda others: gap(spec, view.agent.policy, output(seen), others),
            output,
            seen,
            shares[:, : states.own],
            removed,
        )
    )
    low, high = student((top - random).tolist())
    total = shares.sum(dim=1, keepdim=True)
    mean = (shares / torch.where(total > 0, total, 1.0)).mean(dim=0)[: states.own]
    departs, clusters = departures(view, true, seen, states)
    return Explained(
        stage=stage,
        task=task,
        shares=[float(share) for share in mean],
        removed=removed,
        top=float(top.mean()),
        random=float(random.mean()),
        more=None if np.isnan(low) else [low, high],
        departs=departs,
        clusters=clusters,
    )


# -- attributions ----------------------------------------------------------------------------------


def attributions(
    output: Callable[[Tensor], Output], spec: OutputSpec, seen: Tensor, base: Tensor
) -> Tensor:
    """Return how much the policy's action hangs on each entry, as integrated gradients.

    They are those of the likeliest category's log-probability, of every action value, or of every
    entry of a continuous action's mean; absolute, and added up.

    Source: Sundararajan, Taly and Yan 2017 (arXiv:1703.01365), equation 1.

    Args:
        output: What the policy says of observations.
        spec: How to read it.
        seen: Observations, shape (states, entries).
        base: Where the path begins, shape (entries,).

    Returns:
        Shape (states, entries), from 0 on.
    """
    integrated = _captum()
    found = torch.zeros_like(seen)
    for decide in _decisions(output, spec, seen):
        method = integrated(lambda rows, decide=decide: decide(rows))
        of_one = method.attribute(
            seen,
            baselines=base.expand_as(seen),
            n_steps=PATH_STEPS,
            internal_batch_size=max(_BATCH, len(seen)),
        )
        found += of_one.detach().abs().to(found)
    return found


_BATCH = 8192


def _decisions(
    output: Callable[[Tensor], Output], spec: OutputSpec, seen: Tensor
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield what the action hangs on, each as a function of observations, shape (rows,).

    What was decided is that of the observations that are explained, also on the path to them: a row
    of the path is told by its place, as Captum lays copies of all rows after each other.
    """
    with torch.no_grad():
        said = output(seen)
    if spec.kind != "categorical":
        name = "logits" if spec.kind == "bernoulli" else "mean"
        for entry in range(said[name].shape[-1]):
            yield lambda rows, entry=entry: output(rows)[name][:, entry]  # type: ignore[misc]
        return
    for place, logits in enumerate(torch.split(said["logits"], spec.splits, -1)):
        chosen = logits.argmax(dim=-1)  # (states,)

        def likelihood(rows: Tensor, place: int = place, chosen: Tensor = chosen) -> Tensor:
            part = torch.split(output(rows)["logits"], spec.splits, -1)[place]
            at = chosen.repeat(len(rows) // len(chosen))[:, None]
            return part.log_softmax(-1).gather(1, at)[:, 0]

        yield likelihood


def deleted(
    distance: Callable[[Output], Tensor],
    output: Callable[[Tensor], Output],
    seen: Tensor,
    shares: Tensor,
    removed: int,
) -> tuple[Array, Array]:
    """Return how far the output moves where entries are replaced by their means.

    Args:
        distance: From the output of the true observations, shape (states,).
        output: What the policy says of observations.
        seen: Observations, shape (states, entries).
        shares: Attributions of the entries that may be replaced, which come first.
        removed: How many are.

    Returns:
        Where those of highest attribution are, and where random ones are, shape (states,) each.
    """
    generator = torch.Generator().manual_seed(0)
    count, base = shares.shape[1], seen.mean(dim=0)

    def moved(order: Tensor) -> Tensor:
        gone = torch.zeros_like(seen, dtype=torch.bool)
        gone.scatter_(1, order[:, :removed], value=True)
        return distance(output(torch.where(gone, base, seen)))

    with torch.no_grad():
        top = moved(shares.argsort(dim=1, descending=True))
        drawn = [
            moved(
                torch.rand((len(seen), count), generator=generator).argsort(dim=1).to(seen.device)
            )
            for _ in range(DRAWS)
        ]
    return _numbers(top), _numbers(torch.stack(drawn).mean(dim=0))


# -- departures ------------------------------------------------------------------------------------


def departures(view: View, true: View, seen: Tensor, states: States) -> tuple[float, list[Cluster]]:
    """Return in which share of states a policy departs from another one, and those by kind."""
    spec, policy = true.agent.output().spec, true.agent.policy
    with torch.no_grad():
        said, before = (one.of(lambda output: output(seen)) for one in (view, true))
        divergence = _numbers(gap(spec, policy, before, said))
    space = policy.action_space
    actions, own = view.actions(seen), true.actions(seen)
    if isinstance(space, gym.spaces.Box):
        far = np.abs(actions - own) > FAR * (space.high - space.low)
    else:
        far = actions != own
    departed = np.flatnonzero(far.reshape(len(far), -1).any(axis=1))
    rows = states.observations[:, : states.own].astype(np.float64)
    spread = rows.std(axis=0)
    scaled = (rows - rows.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    clusters = [
        Cluster(
            states=len(group),
            divergence=float(divergence[group].mean()),
            step=float(states.steps[group].mean()),
            rest=float(states.rest[group].mean()),
            centre=scaled[group].mean(axis=0).tolist(),
        )
        for group in _groups(scaled, departed)
    ]
    return len(departed) / len(far), clusters


def _groups(scaled: Array, departed: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Return states in clusters, the largest first: as many as have the best mean silhouette."""
    if len(departed) < FEWEST_CLUSTERED:
        return [departed] if len(departed) else []
    from sklearn.cluster import KMeans  # here: it is slow to import
    from sklearn.metrics import silhouette_score

    rows = scaled[departed]
    distinct = len(np.unique(rows, axis=0))
    best, labels = 0.0, np.zeros(len(rows), dtype=int)
    for count in range(2, min(MOST_CLUSTERS, distinct - 1) + 1):
        tried = KMeans(count, n_init=10, random_state=0).fit_predict(rows)
        score = silhouette_score(rows, tried)
        if score > best:
            best, labels = score, tried
    groups = [departed[labels == label] for label in np.unique(labels)]
    return sorted(groups, key=len, reverse=True)


def _captum() -> Any:
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise MissingExtra("holdfast explain", "captum", "explain") from error
    return IntegratedGradients


def _numbers(found: Tensor) -> Array:
    return np.asarray(found.detach().double().cpu())
