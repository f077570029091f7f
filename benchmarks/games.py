"""Play games with a trained policy: win rates with their intervals, and ratings of its stages.

python benchmarks/games.py runs/connect-four-selfplay/naive/seed-0

The policy of the newest checkpoint plays ``--games`` games against a random player and as many
against minimax, half of them in each seat, with moves of its own that are likeliest (``--sample``
draws them). A win counts 1, a draw 0.5. The interval is Wilson's (1927, doi:10.2307/2276774), with
a draw as half a win and half a loss, which makes it too wide rather than too narrow.

``--stages N`` lets the policies of all checkpoints play N games against each other and against the
two opponents, and rates everybody by maximum likelihood (``continual/elo.py``), random at 0.
"""

from __future__ import annotations

import argparse
import itertools
import math
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast import seeding
from holdfast.continual.elo import Game, elo
from holdfast.continual.opponents import frozen_player
from holdfast.continual.record import RunFolder
from holdfast.envs.make import make_env
from holdfast.envs.players import Player, PolicyPlayer, make_player
from holdfast.envs.self_play import SelfPlay
from holdfast.scenarios.opponents import RANDOM, OpponentSpec
from holdfast.scenarios.schema import Scenario

PACKAGES = ("holdfast", "stable_baselines3", "sb3_contrib", "torch", "pettingzoo")
Z = 1.959964
"""Of a standard normal, 95% of which lie between -Z and Z."""


class Match(NamedTuple):
    """Games against one opponent.

    Attributes:
        opponent: Its name.
        scores: Of each game: 1, 0.5 or 0.
        seats: Where the policy sat in each.
    """

    opponent: str
    scores: list[float]
    seats: list[str]

    def rate(self, seat: str | None = None) -> float:
        """Return the mean score, in one seat or all."""
        pairs = zip(self.scores, self.seats, strict=True)
        return float(np.mean([score for score, own in pairs if seat in (None, own)]))


def wilson(rate: float, games: int) -> tuple[float, float]:
    """Return the 95% interval of a rate that was found in so many games.

    >>> [round(end, 4) for end in wilson(0.95, 200)]
    [0.9104, 0.9726]
    """
    middle = (rate + Z**2 / (2 * games)) / (1 + Z**2 / games)
    half = Z / (1 + Z**2 / games)
    half *= math.sqrt(rate * (1 - rate) / games + Z**2 / (4 * games**2))
    return middle - half, middle + half


class Likeliest:
    """A policy's player that takes its likeliest move, ties at random."""

    def __init__(self, player: PolicyPlayer) -> None:
        self.name, self._player = player.name, player

    def act(self, observation: Any, allowed: NDArray[np.bool_], rng: np.random.Generator) -> int:
        """Return an allowed action."""
        chances = self._player.chances(observation, allowed)
        return int(rng.choice(np.flatnonzero(chances == chances.max())))


def play(env: SelfPlay, one: Player, other: Player, games: int, seed: int) -> Match:
    """Return games of one player against another, by turns from all seats.

    Args:
        env: The game.
        one: Plays the seat that learns in training.
        other: Plays the others.
        games: How many.
        seed: Each game has a seed of its own, derived from it.
    """
    scores, seats = [], []
    for number in range(games):
        seat = env.seats[number % len(env.seats)]
        own = seeding.derive(seed, "games", one.name, other.name, number)
        rng = np.random.default_rng(own)
        observation, _ = env.reset(seed=own, options={"seat": seat, "opponent": other})
        over, info = False, dict[str, Any]()
        while not over:
            action = one.act(observation, env.action_masks(), rng)
            observation, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
        scores.append(float(info["success"]))
        seats.append(seat)
    return Match(other.name, scores, seats)


def game_of(folder: RunFolder) -> SelfPlay:
    """Return the game of a run's last task, in which any seat may be played."""
    scenario: Scenario = folder.scenario
    task = scenario.tasks[scenario.stream_tasks[-1]]
    assert task.opponents is not None, f"task '{task.name}' of {folder.path} is no game"
    anywhere = task.opponents.model_copy(update={"seat": "alternate"})
    env = make_env(scenario, task.model_copy(update={"opponents": anywhere, "wrappers": ()}))
    assert isinstance(env.unwrapped, SelfPlay)
    return env.unwrapped


def stages_of(folder: RunFolder) -> list[int]:
    """Return the stages at whose end there is a checkpoint."""
    names = (path.name for path in (folder.path / "checkpoints").glob("task-*[0-9]"))
    return sorted(int(name.removeprefix("task-")) for name in names)


def policy_of(folder: RunFolder, stage: int | None, *, sample: bool) -> Player:
    """Return the policy of a run at the end of a stage; by default of the last one."""
    player = frozen_player(OpponentSpec(run=str(folder.path.resolve()), stage=stage), None)
    return player if sample else Likeliest(player)


def ratings(env: SelfPlay, players: Sequence[Player], games: int, seed: int) -> dict[str, float]:
    """Return the ratings of players who all play against each other; random's is 0."""
    played = [
        Game(one.name, other.name, score)
        for one, other in itertools.combinations(players, 2)
        for score in play(env, one, other, games, seed).scores
    ]
    return elo(played, anchor=RANDOM, prior=1.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Play, and print what came of it as CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="runs/<scenario>/<method>/seed-<k>")
    parser.add_argument("--games", type=int, default=200, help="against each opponent")
    parser.add_argument("--depth", type=int, nargs="*", default=[2], help="of minimax")
    parser.add_argument("--stage", type=int, help="default: the last one")
    parser.add_argument("--stages", type=int, default=0, help="games between each two stages")
    parser.add_argument("--sample", action="store_true", help="draw the policy's moves")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    folder = RunFolder(given.folder)
    env = game_of(folder)
    entries: list[str | OpponentSpec] = [
        RANDOM,
        *(OpponentSpec(minimax=depth) for depth in given.depth),
    ]
    opponents = [make_player(entry, env.kind, None) for entry in entries]
    versions = [f"{name} {version(name)}" for name in PACKAGES]
    print(f"# {', '.join(versions)}, python {platform.python_version()}")
    print(f"# {folder.path}, moves {'drawn' if given.sample else 'likeliest'}, seed {given.seed}")
    print(",".join(["policy", "opponent", "games", "win rate", "low", "high", *env.seats]))
    policy = policy_of(folder, given.stage, sample=given.sample)
    for opponent in opponents:
        match = play(env, policy, opponent, given.games, given.seed)
        rate = match.rate()
        numbers = [rate, *wilson(rate, given.games), *(match.rate(seat) for seat in env.seats)]
        row = [policy.name, opponent.name, str(given.games), *(f"{n:.4f}" for n in numbers)]
        print(",".join(row))
    if given.stages:
        stages = [policy_of(folder, stage, sample=given.sample) for stage in stages_of(folder)]
        rated = ratings(env, [*stages, *opponents], given.stages, given.seed)
        print(f"\nplayer,elo ({given.stages} games between each two; random 0)")
        for name, rating in sorted(rated.items(), key=lambda pair: -pair[1]):
            print(f"{name},{rating:.0f}")


if __name__ == "__main__":
    main()
