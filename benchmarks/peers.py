"""IPPO and MAPPO against skrl's, on two environments of MPE: equal budgets, equal settings.

skrl is not among the project's packages: ``pip install skrl`` first.

Holdfast's team (``agent.policies: independent`` with ``ppo`` or ``mappo``) and skrl's agents
(``skrl_team.py``) learn with what ``PPO`` and ``COPIES`` say. Where their defaults differ, both
were set alike:

* One batch is the whole rollout: skrl scales advantages over the rollout, Stable-Baselines3 over
  each batch. Batches of one rollout are what the MAPPO paper uses for MPE, with ten epochs.
* ``time_limit_bootstrap`` is on in skrl, as it always is in Stable-Baselines3. Off, skrl lets
  advantages run on from an episode into the next one.
* Adam's epsilon is Stable-Baselines3's 1e-5. Clipped values, stopping by KL, schedules, and scaled
  observations, rewards or values are off on both sides.
* Every agent has an actor, a critic and an optimizer of its own, and gradients are clipped over
  actor and critic together. skrl's networks are copies of those that Holdfast's begin with
  (orthogonal, tanh). Actors see their own observation; critics the same in IPPO, and the
  environment's ``state()`` in MAPPO.

The two sides of a seed share weights at the start, episodes and the random numbers that actions are
sampled with, so that they part only where the implementations do. They do part: batches are summed
in another order, and a rounding error that changes one action changes all that follows.
``first_update`` is the largest difference of a weight after the first update.

A return is the mean over ``EPISODES`` episodes, the same for both, of the sum of rewards (mean over
the agents), with actions sampled as in training. ``random`` is what uniformly random actions get.
The goal is judged on interquartile means over the seeds (Agarwal et al. 2021, arXiv:2108.13264):
the 95% interval of their difference, from bootstrap samples of seeds, includes 0, and the
difference is at most 10% of skrl's mean. ``of_gain`` is its share of what skrl gained over random
actions.
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from overhead import header, write_table
from scipy.stats import trim_mean
from torch import nn

from holdfast.agents.teams.team import TeamAgent
from holdfast.continual.streams.team_stream import make_team_stream
from holdfast.scenarios.schema.observation_keys import OBSERVATION, STATE
from holdfast.scenarios.schema.scenario import Scenario

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "peers.csv"
STEPS = {"simple_spread_v3": 48_000, "simple_speaker_listener_v4": 24_000}
"""Environment steps of each run, all copies' together, by environment."""
ALGORITHMS = {"ippo": "ppo", "mappo": "mappo"}
"""As skrl and as Holdfast calls them."""
SEEDS = range(5)
COPIES, EPISODES = 16, 100
ROLLOUT = 30
"""Steps of each copy; no multiple of an episode's 25, so that rollouts end inside episodes."""
PPO: dict[str, Any] = {
    "n_steps": ROLLOUT,
    "batch_size": ROLLOUT * COPIES,
    "n_epochs": 10,
    "learning_rate": 1e-3,
    "gamma": 0.95,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.01,
    "vf_coef": 0.5,
    "max_grad_norm": 10.0,
}
SIDE_BY_SIDE = 50
"""Copies that are open at once while a policy is measured."""
GOAL = 0.1

Acting = Callable[[Mapping[str, Any], NDArray[Any]], Mapping[str, Any]]
"""From each agent's observations and the states, in all copies, to each agent's actions."""


class Run(NamedTuple):
    """One side of a comparison, for one seed."""

    environment: str
    algorithm: str
    learner: str
    seed: int


class Row(NamedTuple):
    """A line of the table: a seed, or the interquartile means over all of them.

    Attributes:
        low: Lower end of the 95% interval of the difference.
        high: Upper end.
        of_return: Size of the difference as a share of skrl's return.
        of_gain: As a share of what skrl gained over random actions.
        first_update: Largest difference of a weight after the first update of the first seed.
        met: Whether the goal is.
    """

    environment: str
    algorithm: str
    seed: int | str
    random: float
    holdfast: float
    skrl: float
    difference: float
    low: float | str = ""
    high: float | str = ""
    of_return: float | str = ""
    of_gain: float | str = ""
    first_update: float | str = ""
    goal: str = ""
    met: bool | str = ""


# -- the two sides ---------------------------------------------------------------------------------


def make_parallel(environment: str) -> Any:
    """Return the PettingZoo environment, as published."""
    return import_module(f"mpe2.{environment}").parallel_env(max_cycles=25)


def started(run: Run, steps: int) -> tuple[TeamAgent, Any]:
    """Return Holdfast's team before it learns, and what it shall learn."""
    task = {"name": "only", "env": f"mpe2.{run.environment}", "steps": steps}
    scenario = Scenario.model_validate(
        {
            "tasks": [{**task, "kwargs": {"max_cycles": 25}}],
            "n_envs": COPIES,
            "stream": {"task_id": "hidden"},
            "agent": {"algorithm": ALGORITHMS[run.algorithm], "policies": "independent", **PPO},
        }
    )
    agent = TeamAgent(scenario)
    (experience,) = make_team_stream(scenario, run.seed).train_stream
    agent.start(experience)
    return agent, experience


def networks_of(agent: TeamAgent) -> dict[str, tuple[nn.Sequential, nn.Sequential]]:
    """Return copies of each agent's actor and critic as they are now."""
    networks = {}
    for name, member in agent.members.items():
        trunks = member.policy.mlp_extractor
        actor = nn.Sequential(*trunks.policy_net, member.policy.action_net)
        critic = nn.Sequential(*trunks.value_net, member.policy.value_net)
        networks[name] = copy.deepcopy((actor, critic))
    return networks


def learn_holdfast(run: Run, steps: int) -> tuple[Any, Acting]:
    """Return networks that Holdfast has trained, and how they act."""
    agent, experience = started(run, steps)
    torch.manual_seed(run.seed)
    agent.learn(experience, lambda _: None, lambda *_: None)

    def act(seen: Mapping[str, Any], states: NDArray[Any]) -> dict[str, Any]:
        actions, starts = {}, np.zeros(len(states), np.bool_)
        with agent.view(0) as acts:
            for name, own in seen.items():
                shown = {OBSERVATION: own, STATE: states} if run.algorithm == "mappo" else own
                actions[name], _ = acts[name](shown, None, starts, deterministic=False)
        return actions

    return networks_of(agent), act


def learn_skrl(run: Run, steps: int) -> tuple[Any, Acting]:
    """Return networks that skrl has trained, and how they act."""
    import skrl_team

    agent, _ = started(run, steps)
    agent.close()
    envs = [make_parallel(run.environment) for _ in range(COPIES)]
    team = skrl_team.make_team(run.algorithm, envs[0], networks_of(agent), COPIES, PPO)
    torch.manual_seed(run.seed)
    skrl_team.learn(team, envs, steps, run.seed)

    def act(seen: Mapping[str, Any], states: NDArray[Any]) -> dict[str, Any]:
        del states  # its actors read observations alone
        actions = {}
        for name, own in seen.items():
            drawn, _ = team.policies[name].act({"observations": torch.as_tensor(own)})
            actions[name] = drawn.flatten().numpy()
        return actions

    return skrl_team.networks_of(team), act


def act_randomly(environment: str, seed: int) -> Acting:
    """Return what draws every action with the same chance."""
    env, rng = make_parallel(environment), np.random.default_rng(seed)
    counts = {name: int(env.action_space(name).n) for name in env.possible_agents}
    return lambda seen, _: {name: rng.integers(counts[name], size=len(seen[name])) for name in seen}


LEARN = {"holdfast": learn_holdfast, "skrl": learn_skrl}


# -- measuring -------------------------------------------------------------------------------------


def mean_return(environment: str, act: Acting) -> float:
    """Return the mean over episodes of the sum of rewards, mean over agents."""
    envs = [make_parallel(environment) for _ in range(SIDE_BY_SIDE)]
    totals: list[float] = []
    torch.manual_seed(0)
    for first in range(0, EPISODES, SIDE_BY_SIDE):
        # Far from the seeds of training.
        seen = [env.reset(seed=10_000 + first + number)[0] for number, env in enumerate(envs)]
        sums = np.zeros(SIDE_BY_SIDE)
        while envs[0].agents:  # all episodes are as long
            rows = {name: np.stack([own[name] for own in seen]) for name in seen[0]}
            with torch.no_grad():
                actions = act(rows, np.stack([env.state() for env in envs]))
            for number, env in enumerate(envs):
                own = {name: int(drawn[number]) for name, drawn in actions.items()}
                seen[number], rewards, *_ = env.step(own)
                sums[number] += np.mean(list(rewards.values()))
        totals += sums.tolist()
    return float(np.mean(totals))


def trained_return(run: Run) -> float:
    """Return the mean return of a team that has learned."""
    _, act = LEARN[run.learner](run, STEPS[run.environment])
    return mean_return(run.environment, act)


def first_update(environment: str, algorithm: str, seed: int) -> float:
    """Return the largest difference of a weight between the sides after one rollout's update."""
    ends = []
    for learner, learn in LEARN.items():
        networks, _ = learn(Run(environment, algorithm, learner, seed), ROLLOUT * COPIES)
        ends.append([w for pair in networks.values() for net in pair for w in net.parameters()])
    pairs = zip(*ends, strict=True)
    return max(float((one - other).detach().abs().max()) for one, other in pairs)


def measured(kept: Path, key: Mapping[str, Any], measure: Callable[[], float]) -> float:
    """Return a number that is kept from before, or measure and keep it."""
    lines = kept.read_text("utf-8").splitlines() if kept.exists() else []
    for line in map(json.loads, lines):
        if line["key"] == key:
            return float(line["value"])
    value = measure()
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"key": key, "value": value}) + "\n")
    print(*key.values(), f"{value:.6g}", flush=True)
    return value


# -- the table -------------------------------------------------------------------------------------


def compared(seeds: list[Row], samples: int = 10_000) -> Row:
    """Return the row of interquartile means: of five seeds the mean of the middle three."""
    one, first = np.array([(row.holdfast, row.skrl) for row in seeds]), seeds[0]
    drawn = np.random.default_rng(0).integers(len(seeds), size=(samples, len(seeds)))
    means = trim_mean(one[drawn], 0.25, axis=1)  # (samples, 2): both sides of a seed together
    low, high = np.quantile(means[:, 0] - means[:, 1], [0.025, 0.975])
    ours, theirs = trim_mean(one, 0.25, axis=0)
    difference = float(ours - theirs)
    shares = [abs(difference / theirs), abs(difference / (theirs - first.random))]
    return first._replace(
        seed="IQM",
        holdfast=float(ours),
        skrl=float(theirs),
        difference=difference,
        low=float(low),
        high=float(high),
        of_return=float(shares[0]),
        of_gain=float(shares[1]),
        goal=f"interval includes 0, of_return <= {GOAL}",
        met=bool(low <= 0 <= high and shares[0] <= GOAL),
    )


def comparison(
    environment: str, algorithm: str, kept: Path, seeds: Sequence[int] = SEEDS
) -> Iterator[Row]:
    """Yield the row of each seed of one environment and algorithm."""
    settings = {"steps": STEPS[environment], "copies": COPIES, "episodes": EPISODES, **PPO}
    untrained = {"environment": environment, "episodes": EPISODES, "learner": "random"}
    drawn = partial(mean_return, environment, act_randomly(environment, 0))
    random = measured(kept, untrained, drawn)
    for seed in seeds:
        runs = [Run(environment, algorithm, learner, seed) for learner in LEARN]
        ours, theirs = (
            measured(kept, {**run._asdict(), **settings}, partial(trained_return, run))
            for run in runs
        )
        yield Row(environment, algorithm, seed, random, ours, theirs, ours - theirs)


def whole(environment: str, algorithm: str, kept: Path) -> Iterator[Row]:
    """Yield all rows of one environment and algorithm, the comparison last."""
    rows = list(comparison(environment, algorithm, kept))
    key = {"environment": environment, "algorithm": algorithm, "first_update": SEEDS[0], **PPO}
    part = measured(kept, key, partial(first_update, environment, algorithm, SEEDS[0]))
    yield from rows
    yield compared(rows)._replace(first_update=part)


def main() -> None:
    """Measure what is not kept from before, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs=2, metavar=("ENVIRONMENT", "ALGORITHM"), help="no table")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="beside --only")
    parser.add_argument("--kept", type=Path, default=ROOT / "runs" / "peers.jsonl")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of PettingZoo and MPE
    torch.set_num_threads(1)
    lines = header("peers.py", "skrl", "pettingzoo", "mpe2", arguments=())
    print("\n".join(lines), flush=True)
    if options.only:
        environment, algorithm = options.only
        list(comparison(environment, algorithm, options.kept, options.seeds))
        return
    rows = [
        row
        for environment in STEPS
        for algorithm in ALGORITHMS
        for row in whole(environment, algorithm, options.kept)
    ]
    for row in rows:
        print(*(f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row))
    write_table(RESULTS, lines, rows)


if __name__ == "__main__":
    main()
