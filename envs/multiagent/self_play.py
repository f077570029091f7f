"""A turn-based game of PettingZoo's as an environment of one agent: the opponents are inside.

Self-play as in Bansal et al. 2018 (arXiv:1710.03748), section 3.2, where opponents are drawn from
all past selves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from pettingzoo import AECEnv

from holdfast.envs.base.fitting import PadAction
from holdfast.envs.base.spaces import StreamSpaces
from holdfast.envs.multiagent import players
from holdfast.envs.multiagent.parallel import ACTION_MASK, agent_spaces, pettingzoo_env
from holdfast.envs.multiagent.players import (
    Choices,
    FrozenPlayers,
    Player,
    PolicyPlayer,
    RandomPlayer,
)
from holdfast.envs.wrappers.guard import Guard
from holdfast.errors import EnvironmentFailed, UsageError
from holdfast.registry import suggestion
from holdfast.scenarios.schema.opponents import PAST
from holdfast.scenarios.schema.scenario import Scenario, Task

GAME = "game"
"""Key of an info at a game's end: who was the opponent, and where the learner sat."""


class PastSelves(Protocol):
    """The pool that ``past`` draws from; see ``agents/sb3/past_selves.py``."""

    def draw(self, rng: np.random.Generator) -> tuple[str, Choices] | None:
        """Return the name and the policy of a past self; None where there is none yet."""

    def record(self, name: str, score: float) -> None:
        """Take how a game against a past self went for the learner: 1, 0.5 or 0."""


class View:
    """A policy's view of a game that its environment shows it through wrappers.

    Args:
        env: The environment of that policy, its wrappers outermost.

    Raises:
        UsageError: If a wrapper does more than change what is seen at a time.
    """

    def __init__(self, env: gym.Env[Any, Any] | None = None) -> None:
        self._observe: list[Callable[[Any], Any]] = []
        self._pad: PadAction | None = None
        while isinstance(env, gym.Wrapper):
            if isinstance(env, gym.ObservationWrapper):
                self._observe.insert(0, env.observation)
            elif isinstance(env, PadAction):
                self._pad = env
            elif not _is_clear(env):
                raise UsageError(
                    f"opponents: a policy cannot play through the wrapper {type(env).__name__}; "
                    "those that change single observations can stay"
                )
            env = env.env

    def through(self, choices: Choices) -> Choices:
        """Return a policy's choices as choices of the game's own observations and actions."""

        def choose(observation: Any, allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
            for layer in self._observe:
                observation = layer(observation)
            if self._pad is None:
                return choices(observation, allowed)
            padded = choices(observation, self._pad.masks(allowed))
            actions = self._pad.action(np.arange(len(padded)))
            return np.bincount(actions, padded, len(allowed)).astype(np.float64)

        return choose


def _is_clear(wrapper: gym.Wrapper[Any, Any, Any, Any]) -> bool:
    """Return whether a wrapper leaves observations and actions alone."""
    return isinstance(wrapper, Guard | gym.wrappers.TimeLimit | gym.wrappers.OrderEnforcing)


class SelfPlay(gym.Env[Any, Any]):
    """One seat of a turn-based game; the other seats are played by an opponent.

    Every game has one opponent, drawn from the task's ``opponents.against``, and one seat that
    learns. All chance of the opponents comes from the environment's own generator.

    Observation: what PettingZoo shows the seat, the action mask apart, which ``action_masks()``
    returns. Action: PettingZoo's. Reward: the seat's, of everything since its last move. End: the
    seat's part in the game is over; ``success`` is then 1, 0.5 or 0 for a return above, at or below
    0, and ``info["game"]`` names the opponent and the seat.

    ``reset`` takes the options ``seat`` (an agent's name), ``opponent`` (a ``Player``), and
    ``measured``: the number of a game of evaluation, in which seats and opponents come by turns.

    Args:
        scenario: The scenario; runs are looked for from its folder.
        task: One of its tasks, which has ``opponents``.
        render_mode: Passed on to the game.

    Attributes:
        kind: The game's name in its metadata.
        seats: Those that learn.
        past: Past selves that ``past`` draws from; until there are any, it plays at random.
        view: How those see the game.
        frozen: Finds opponents that earlier runs left.

    Raises:
        UsageError: The game cannot be found, is not turn-based, its seats differ in what they see
            or do, or one of them was named and is not there.
    """

    def __init__(self, scenario: Scenario, task: Task, render_mode: str | None = None) -> None:
        assert task.opponents is not None
        self.opponents = task.opponents
        self.past: PastSelves | None = None
        self.view = View()
        self.frozen: FrozenPlayers | None = None
        self.render_mode = render_mode
        self._task, self._place = task.name, scenario.place
        assert task.env is not None
        shown = {} if render_mode is None else {"render_mode": render_mode}
        made = pettingzoo_env(task.env, {**task.kwargs, **shown}, scenario.folder)
        self._game = _turn_based(made, task)
        self.kind = str(self._game.metadata.get("name", task.env))
        self.metadata = {"render_modes": [], **self._game.metadata}
        self.seats = [self.opponents.seat]
        if self.opponents.seat in ("alternate", "drawn"):
            self.seats = list(self._game.possible_agents)
        self._check_seat(self.seats[0])
        spaces = [self._spaces_of(seat) for seat in self.seats]
        if any(space != spaces[0] for space in spaces):
            raise UsageError(
                f"the seats of {task.env} see or do different things; name the one that learns: "
                f"opponents: {{seat: {self.seats[0]}}}"
            )
        self.observation_space, self.action_space = spaces[0].observation, spaces[0].action
        self._players: dict[Any, Player] = {}
        self._next_seat = 0
        self._allowed = np.ones(0, np.bool_)
        self._return = 0.0

    def _check_seat(self, seat: str) -> None:
        agents = list(self._game.possible_agents)
        if seat not in agents:
            known = f"there are: {', '.join(['alternate', 'drawn', *agents])}"
            hint = suggestion(seat, agents, otherwise=known)
            raise UsageError(f"opponents.seat: {self.kind} has no agent '{seat}'; {hint}")

    def _spaces_of(self, seat: str) -> StreamSpaces:
        own = agent_spaces(self._game, seat)
        if not isinstance(own.action, gym.spaces.Discrete):
            raise UsageError(f"opponents: games have Discrete actions; {seat} has {own.action}")
        return own

    def check_opponents(self) -> None:
        """Make every opponent, so that what is wrong with one is known before a game begins.

        Raises:
            UsageError: See ``make_player``; also where an earlier run saw or did other things.
        """
        allowed = np.ones(int(self.action_space.n), np.bool_)  # type: ignore[attr-defined]  # Discrete
        zeros = np.zeros(self.observation_space.shape or (), self.observation_space.dtype)
        for entry in (*self.opponents.against, *self.opponents.in_evaluation):
            if entry == PAST:
                continue
            if isinstance(entry, str) or entry.run is None:
                self._player(entry)
                continue
            try:
                self._player(entry).act(zeros, allowed, np.random.default_rng(0))
            except (ValueError, RuntimeError, IndexError) as error:
                raise UsageError(
                    f"opponents: the policy of '{entry.run}' cannot play {self.kind}: {error}"
                ) from error

    # -- a game ------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a game and let the opponents move until it is the learner's turn."""
        super().reset(seed=seed)
        if seed is not None:
            self._next_seat = int(self.np_random.integers(len(self.seats)))
        options = dict(options or {})
        self.seat, self.player = self._set_up(options)
        self._game.reset(seed=seed)
        self._return = 0.0
        observation, _, over, _ = self._until_my_turn()
        if over:
            raise EnvironmentFailed(f"task '{self._task}': the game ended before {self.seat} moved")
        return observation, {}

    def _set_up(self, options: dict[str, Any]) -> tuple[str, Player]:
        """Return the learner's seat and the opponent of the coming game."""
        if "measured" in options:
            turn, measured = int(options["measured"]), self.opponents.in_evaluation
            seat = self.seats[turn % len(self.seats)]
            return seat, self._player(measured[turn // len(self.seats) % len(measured)])
        if self.opponents.seat == "drawn":
            self._next_seat = int(self.np_random.integers(len(self.seats)))
        seat = options.get("seat", self.seats[self._next_seat % len(self.seats)])
        self._next_seat += 1
        against = self.opponents.against
        entry = against[int(self.np_random.integers(len(against)))]
        self._check_seat(seat)
        return seat, options.get("opponent") or self._player(entry)

    def _player(self, entry: Any) -> Player:
        if entry == PAST:
            drawn = self.past.draw(self.np_random) if self.past is not None else None
            return PolicyPlayer(drawn[0], self.view.through(drawn[1])) if drawn else RandomPlayer()
        key = repr(entry)
        if key not in self._players:
            self._players[key] = players.make_player(entry, self.kind, self._place, self.frozen)
        return self._players[key]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move, and let the opponents move until it is the learner's turn again."""
        if not self._allowed[int(action)]:
            legal = np.flatnonzero(self._allowed).tolist()
            raise ValueError(f"{int(action)} is no allowed move; there are: {legal}")
        self._game.step(int(action))
        observation, reward, over, cut = self._until_my_turn()
        self._return += reward
        if not (over or cut):
            return observation, reward, False, False, {}
        score = 0.5 + 0.5 * float(np.sign(self._return))
        if self.past is not None:
            self.past.record(self.player.name, score)
        told = {"opponent": self.player.name, "seat": self.seat}
        return observation, reward, over, cut, {"success": score, "is_success": score, GAME: told}

    def _until_my_turn(self) -> tuple[Any, float, bool, bool]:
        """Return what the learner sees next, its reward since it moved, and whether it is over."""
        game = self._game
        while True:
            shown, reward, terminated, truncated, _ = game.last()
            observation, allowed = self._parted(shown)
            if game.agent_selection == self.seat:
                self._allowed = allowed
                return observation, float(reward), bool(terminated), bool(truncated)
            if terminated or truncated:
                game.step(None)
            else:
                game.step(self.player.act(observation, allowed, self.np_random))

    def _parted(self, shown: Any) -> tuple[Any, NDArray[np.bool_]]:
        """Return an observation and the actions that it allows."""
        if isinstance(shown, dict) and ACTION_MASK in shown:
            return shown["observation"], np.asarray(shown[ACTION_MASK], np.bool_)
        return shown, np.ones(int(self.action_space.n), np.bool_)  # type: ignore[attr-defined]  # Discrete

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are allowed now, shape (actions,)."""
        return self._allowed.copy()

    def meet(self, past: PastSelves) -> None:
        """Draw ``past`` from this pool from now on."""
        self.past = past

    def render(self) -> Any:
        """Return PettingZoo's picture of the game."""
        return self._game.render()

    def close(self) -> None:
        """Close the game."""
        with contextlib.suppress(AttributeError):  # of games that never drew anything
            self._game.close()


class Legal(gym.ActionWrapper[Any, Any, Any]):
    """Takes the next allowed action for one that is not, for checks that know no masks."""

    def action(self, action: Any) -> int:
        """Return an allowed action."""
        allowed = np.flatnonzero(self.env.get_wrapper_attr("action_masks")())
        return int(allowed[np.searchsorted(allowed, action) % len(allowed)])


def _turn_based(made: Any, task: Task) -> Any:
    if not isinstance(made, AECEnv) or made.metadata.get("is_parallelizable"):
        what = "agents act at once" if hasattr(made, "possible_agents") else "there is one agent"
        raise UsageError(
            f"in {task.env} {what}, and `opponents:` is for games in which they take turns"
            + ("; write agent.policies for its learners, and partners:" if "once" in what else "")
        )
    return made
