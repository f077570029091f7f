"""Turn-based games as environments of one learner: PettingZoo's own game, opponents inside."""

from __future__ import annotations

import itertools

import numpy as np
import pettingzoo
import pytest
from gymnasium import spaces

from holdfast.envs.base.spaces import StreamSpaces
from holdfast.envs.checks.environment import check_task
from holdfast.envs.make import make_env, stream_spaces
from holdfast.envs.multiagent.board_games import ROW_GAMES, best_moves
from holdfast.envs.multiagent.players import PolicyPlayer
from holdfast.envs.multiagent.self_play import GAME, SelfPlay
from holdfast.envs.vector import task_env
from holdfast.errors import EnvironmentFailed, UsageError
from holdfast.scenarios.schema.scenario import Scenario

FOUR, TTT = "classic/connect_four_v3", "classic/tictactoe_v3"


@pytest.fixture
def game():
    """Make the environment of one game, guarded, and the game inside."""

    def make(*against, env=FOUR, **opponents):
        scenario = Scenario.model_validate(
            {
                "tasks": [
                    {
                        "name": "game",
                        "env": env,
                        "steps": 100,
                        "opponents": {"against": list(against or ["random"]), **opponents},
                    }
                ],
                "agent": {"algorithm": "maskable_ppo"},
            }
        )
        made = make_env(scenario, scenario.tasks[0])
        assert isinstance(made.unwrapped, SelfPlay)
        return made

    return make


class Scripted:
    """Plays given moves and keeps what it was shown."""

    name = "scripted"

    def __init__(self, moves):
        self.moves, self.shown = iter(moves), []

    def act(self, observation, allowed, rng):
        move = next(self.moves)
        self.shown.append(observation)
        assert allowed[move]
        return move


def played(env, rng, seed=None):
    """Play a game at random; return all observations, actions, rewards and the last info."""
    seen, _ = env.reset(seed=seed)
    record = [seen.copy()]
    while True:
        action = int(rng.choice(np.flatnonzero(env.unwrapped.action_masks())))
        seen, reward, terminated, truncated, info = env.step(action)
        record += [action, seen.copy(), reward]
        if terminated or truncated:
            return record, info


def same(one, two):
    return len(one) == len(two) and all(map(np.array_equal, one, two))


# Columns played by turns; the player of the last one wins, or nobody where it says so.
FIRST_WINS = [3, 0, 3, 0, 3, 1, 3]
SECOND_WINS = [0, 3, 0, 3, 1, 3, 6, 3]
DRAW = [0, 1, 2, 4, 3, 5, 7, 6, 8]  # tic-tac-toe


@pytest.mark.parametrize("own", [0, 1])
@pytest.mark.parametrize(
    ("env", "moves", "rewards"),
    [(FOUR, FIRST_WINS, (1, -1)), (FOUR, SECOND_WINS, (-1, 1)), (TTT, DRAW, (0, 0))],
)
def test_a_game_is_pettingzoos_own_from_the_learners_seat(game, own, env, moves, rewards):
    raw = pettingzoo.make("aec", env)
    raw.reset(seed=5)
    shown = {agent: [] for agent in raw.possible_agents}
    seat, other = raw.possible_agents[own], raw.possible_agents[1 - own]
    for move, agent in zip(moves, itertools.cycle(shown), strict=False):
        shown[agent].append(raw.observe(agent))
        raw.step(move)

    opponent = Scripted(moves[1 - own :: 2])
    env_ = game(env=env)
    seen, _ = env_.reset(seed=5, options={"seat": seat, "opponent": opponent})
    result = None
    for number, move in enumerate(moves[own::2]):
        assert result is None or not (result[2] or result[3])
        expected = shown[seat][number]
        assert np.array_equal(seen, expected["observation"])
        assert (
            env_.unwrapped.action_masks().tolist() == expected["action_mask"].astype(bool).tolist()
        )
        result = env_.step(move)
        seen = result[0]
        last = number == len(moves[own::2]) - 1
        assert result[1] == (rewards[own] if last else 0)
    observation, _, terminated, truncated, info = result
    assert (terminated, truncated) == (True, False)
    assert np.array_equal(observation, raw.observe(seat)["observation"])
    assert info["success"] == info["is_success"] == (rewards[own] + 1) / 2
    assert info[GAME] == {"opponent": "scripted", "seat": seat}
    for theirs, expected in zip(opponent.shown, shown[other], strict=True):
        assert np.array_equal(theirs, expected["observation"])


def test_full_columns_are_masked_and_refused(game):
    env = game()
    env.reset(seed=0, options={"seat": "player_0", "opponent": Scripted([0, 0, 0, 6])})
    for _ in range(3):
        env.step(0)
    assert env.unwrapped.action_masks().tolist() == [False, *[True] * 6]
    with pytest.raises(EnvironmentFailed, match=r"0 is no allowed move; there are: \[1, 2, 3"):
        env.step(0)


def test_seats_alternate_or_are_drawn_or_named(game):
    def seats(env, games=40):
        rng = np.random.default_rng(0)
        ends = [played(env, rng, seed=3 if number == 0 else None)[1] for number in range(games)]
        return [end[GAME]["seat"] for end in ends]

    found = seats(game(env=TTT))
    assert set(found[:2]) == {"player_1", "player_2"}
    assert all(one != two for one, two in itertools.pairwise(found))
    drawn = seats(game(env=TTT, seat="drawn"))
    assert 10 < drawn.count("player_1") < 30
    assert any(one == two for one, two in itertools.pairwise(drawn))
    assert set(seats(game(env=TTT, seat="player_2"), games=4)) == {"player_2"}
    with pytest.raises(UsageError, match="no agent 'player_0'"):
        game(env=TTT).reset(options={"seat": "player_0"})


def test_in_evaluation_seats_and_opponents_come_by_turns(game):
    env = game("past", measured=["random", {"minimax": 1}])
    found = []
    for turn in range(8):
        env.reset(seed=turn, options={"measured": turn})
        found.append((env.unwrapped.seat, env.unwrapped.player.name))
    assert found[:4] == [
        ("player_0", "random"),
        ("player_1", "random"),
        ("player_0", "minimax-1"),
        ("player_1", "minimax-1"),
    ]
    assert found[4:] == found[:4]


def test_one_seed_gives_one_sequence_of_games(game):
    def games(seed):
        env, rng = game("random", {"minimax": 1}), np.random.default_rng(1)
        return [played(env, rng, seed if number == 0 else None) for number in range(4)]

    one, two, other = games(7), games(7), games(8)
    assert all(same(a[0], b[0]) and a[1] == b[1] for a, b in zip(one, two, strict=True))
    assert not all(same(a[0], b[0]) for a, b in zip(one, other, strict=True))


def test_opponents_are_drawn_alike(game):
    env = game("random", {"minimax": 1}, env=TTT)
    env.reset(seed=0)
    names = []
    for _ in range(200):
        env.reset()
        names.append(env.unwrapped.player.name)
    assert 75 < names.count("random") < 125  # four standard deviations are 28


class Pool:
    """One past self, which always plays the highest allowed action."""

    def __init__(self):
        self.recorded, self.shown = [], []

    def draw(self, rng):
        return "past-5", self.choose

    def choose(self, observation, allowed):
        self.shown.append(observation)
        return np.eye(len(allowed))[np.flatnonzero(allowed)[-1]]

    def record(self, name, score):
        self.recorded.append((name, score))


def test_past_selves_see_the_game_as_the_learner_and_their_games_are_recorded():
    opponents = {"against": ["past"]}
    flat = ["gymnasium.wrappers:FlattenObservation"]
    scenario = Scenario.model_validate(
        {
            "tasks": [
                {"name": name, "env": env, "steps": 9, "opponents": opponents, "wrappers": flat}
                for name, env in (("three", TTT), ("four", FOUR))
            ],
            "spaces": {"observation": "pad", "action": "pad"},
            "agent": {"algorithm": "maskable_ppo"},
        }
    )
    merged = stream_spaces(scenario)
    assert merged.action == spaces.Discrete(9)
    env, pool = task_env(scenario, 1, merged), Pool()
    env.unwrapped.meet(pool)
    seen, _ = env.reset(seed=0, options={"seat": "player_1"})
    assert seen.shape == (84 + 2,)
    assert seen[-2:].tolist() == [0, 1]
    # Of 9 actions, 7 and 8 stand for columns 0 and 1; the last allowed one is 8.
    assert env.unwrapped._game.unwrapped.board[35:].index(1) == 1
    assert pool.shown[0].shape == (86,)
    assert pool.shown[0][-2:].tolist() == [0, 1]
    for column in (2, 3, 4):
        end = env.step(column)
    assert (end[1], end[2]) == (-1.0, True)  # the pool has four in column 1 first
    assert pool.recorded == [("past-5", 0.0)]


def test_before_there_are_past_selves_moves_are_drawn(game):
    env = game("past")
    env.reset(seed=0)
    assert env.unwrapped.player.name == "random"


# -- minimax ---------------------------------------------------------------------------------------

BOARDS = {
    # X is to move. Bottom row last.
    "wins at once": (1, "...OOO.  ...XXX.", {2, 6}),
    "wins along a diagonal": (1, "...X... ..XO... .XOO... ..OXX..", {0}),
    "blocks": (2, "X......  X......  OOO...X", {3}),
    "wins rather than blocks": (2, "OOO.... XXX....", {3}),
    "does not lift the other's fourth": (2, "OOO.... XXO....", {0, 1, 2, 4, 5, 6}),
    "sees the open three": (3, "...XX..", {2, 5}),
}


def board_of(text, rows=6, columns=7):
    cells = "." * (rows * columns - len("".join(text.split()))) + "".join(text.split())
    return tuple(
        sum(1 << place for place, stone in enumerate(cells) if stone == who) for who in "XO"
    )


@pytest.mark.parametrize("name", BOARDS)
def test_minimax_finds(name):
    depth, text, expected = BOARDS[name]
    assert set(best_moves(ROW_GAMES["connect_four_v3"], board_of(text), depth)) == expected


def test_there_are_69_lines_of_four_and_8_of_three():
    for name, count in (("connect_four_v3", 69), ("tictactoe_v3", 8)):
        lines = {line for through in ROW_GAMES[name].lines for line in through}
        assert len(lines) == count


def test_the_board_is_what_pettingzoo_shows(game):
    env = game(env=TTT)
    env.reset(seed=0, options={"seat": "player_1", "opponent": Scripted([5])})
    seen, *_ = env.step(0)
    assert ROW_GAMES["tictactoe_v3"].board(seen) == (1 << 0, 1 << 5)
    env = game()
    env.reset(seed=0, options={"seat": "player_0", "opponent": Scripted([6])})
    seen, *_ = env.step(0)
    assert ROW_GAMES["connect_four_v3"].board(seen) == (1 << 35, 1 << 41)


def test_seen_to_the_end_tic_tac_toe_is_a_draw_and_never_lost(game):
    assert ROW_GAMES["tictactoe_v3"].value((0, 0), 9) == 0
    env, rng = game({"minimax": 9}, env=TTT), np.random.default_rng(0)
    scores = [played(env, rng, seed)[1]["success"] for seed in range(6)]
    assert max(scores) <= 0.5
    assert min(scores) == 0.0  # and a random player loses


@pytest.mark.thorough
def test_the_check_finds_nothing_wrong(game):
    scenario = Scenario.model_validate(
        {
            "tasks": [
                {
                    "name": "game",
                    "env": TTT,
                    "steps": 9,
                    "opponents": {"against": ["random", {"minimax": 1}]},
                }
            ],
            "agent": {"algorithm": "maskable_ppo"},
        }
    )
    found = check_task(scenario, scenario.tasks[0])
    assert found.ok, found


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"env": "classic/rps_v2"}, "agents act at once, and `opponents:` is for games"),
        ({"env": "mpe2.simple_spread_v3"}, "agents act at once"),
        ({"env": "classic/connect_for_v3"}, "PettingZoo has no environment"),
        ({"seat": "player_2"}, "connect_four_v3 has no agent 'player_2'; did you mean 'player_1'"),
    ],
)
def test_a_game_that_cannot_be_played_is_refused(game, keys, message):
    with pytest.raises(UsageError, match=message):
        game(**keys)


def test_minimax_does_not_know_every_game(game):
    env = game({"minimax": 2}, env="envs_of_games:Nim")
    with pytest.raises(UsageError, match="minimax knows connect_four_v3, tictactoe_v3, not nim"):
        env.unwrapped.check_opponents()


def test_a_game_of_ones_own_is_played(game):
    env, rng = game(env="envs_of_games:Nim"), np.random.default_rng(0)
    ends = [played(env, rng, seed)[1] for seed in range(20)]
    assert {end["success"] for end in ends} == {0.0, 1.0}
    assert env.observation_space == spaces.Box(0, 5, (1,), np.int8)


def test_policies_do_not_play_through_wrappers_with_a_memory():
    scenario = Scenario.model_validate(
        {
            "tasks": [
                {
                    "name": "game",
                    "env": TTT,
                    "steps": 100,
                    "opponents": {"against": ["past"]},
                    "wrappers": [{"frame_stack": {"n": 2}}],
                }
            ],
            "agent": {"algorithm": "maskable_ppo"},
        }
    )
    env = make_env(scenario, scenario.tasks[0])
    merged = StreamSpaces(env.observation_space, env.action_space)
    with pytest.raises(UsageError, match="cannot play through the wrapper FrameStack"):
        task_env(scenario, 0, merged)


def test_a_policys_choice_is_drawn_from_its_probabilities():
    player = PolicyPlayer("one", lambda observation, allowed: np.array([0.25, 0.75]))
    rng = np.random.default_rng(0)
    moves = [player.act(None, np.ones(2, bool), rng) for _ in range(400)]
    assert 260 < sum(moves) < 340  # 300, and four standard deviations are 35
