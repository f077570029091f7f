"""Worlds without episodes: they live over boundaries and checkpoints; their rewards are summed."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np

from holdfast.envs.wrappers.robot import LATE_KEY
from holdfast.errors import EnvironmentFailed, UsageError

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


class World(NamedTuple):
    """What an environment is for a part of its life.

    Attributes:
        make: Builds it.
        steps: Steps of this environment before the next world takes its place.
        seed: Of the first environment of those side by side.
        takes_over: Whether it goes on with the turns of the world before it, both interleaved.
    """

    make: Callable[..., gym.Env[Any, Any]]
    steps: int
    seed: int
    takes_over: bool = False


class Online:
    """Rewards of a life: sums for each stage, and the newest ones. It does not grow with the steps.

    Args:
        window: How many of the newest rewards are kept.

    >>> online = Online(window=2)
    >>> for reward in (1.0, 2.0, 4.0):
    ...     online.add(0, reward, is_late=False)
    >>> online.point(0)
    {'phase_steps': 3.0, 'phase_return': 7.0, 'reward_rate': 3.0, 'late_steps': 0.0}
    """

    def __init__(self, window: int) -> None:
        self._newest = np.zeros(window)
        self._phases: dict[int, list[float]] = {}
        self._steps, self._late = 0, 0

    def add(self, stage: int, reward: float, *, is_late: bool) -> None:
        """Take one step of one environment."""
        phase = self._phases.setdefault(stage, [0.0, 0.0])
        phase[0] += 1.0
        phase[1] += reward
        self._newest[self._steps % len(self._newest)] = reward
        self._steps += 1
        self._late += is_late

    def point(self, stage: int) -> dict[str, float]:
        """Return the steps and the return of a stage so far, and the newest reward per step."""
        steps, total = self._phases.get(stage, [0.0, 0.0])
        newest = self._newest[: min(self._steps, len(self._newest))]
        return {
            "phase_steps": steps,
            "phase_return": total,
            "reward_rate": float(newest.mean()) if len(newest) else 0.0,
            "late_steps": float(self._late),
        }

    def state(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        phases = [[stage, *sums] for stage, sums in self._phases.items()]
        counts = {"steps": self._steps, "late": self._late}
        return {"newest": plain(self._newest), "phases": phases, **counts}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state`` gave."""
        self._newest = unplain(state["newest"])
        self._phases = {int(stage): [*sums] for stage, *sums in state["phases"]}
        self._steps, self._late = int(state["steps"]), int(state["late"])


class Endless(gym.Wrapper[Any, Any, Any, Any]):
    """A world without episodes, in the worlds of one stage after the other.

    At a boundary the next world takes over the state of the last one, by ``get_state`` and
    ``set_state`` of the unwrapped environment; whoever acts sees no reset. It stands in the place
    of Stable-Baselines3's ``Monitor``, which keeps every reward until a reset. Worlds that may
    begin again are truncated at a boundary instead, and the next one is reset.

    Args:
        worlds: One for each stage; the last one stays.
        index: Which of the environments side by side this is.
        online: Takes rewards.
        stage: Of the first world.
        state: What ``get_state`` gave, to go on from; None begins a life.
        within: Whether the state is of the first world itself, and not of one of a stage before.
        resets: Whether worlds begin again at boundaries.

    Raises:
        EnvironmentFailed: In ``step``, where an episode ends after all.
    """

    def __init__(
        self,
        worlds: Sequence[World],
        index: int,
        online: Online,
        *,
        stage: int = 0,
        state: Mapping[str, Any] | None = None,
        within: bool = False,
        resets: bool = False,
    ) -> None:
        self._worlds, self._index, self._online = list(worlds), index, online
        super().__init__(self._worlds[0].make())
        # Those of the first world: a wrapper's follow its environment, and worlds take turns.
        self.action_space, self.observation_space = self.action_space, self.observation_space
        self._stage, self._steps, self._last = stage, 0, None
        self._state, self._within, self._resets = state, within, resets

    @property
    def _is_over(self) -> bool:
        return len(self._worlds) > 1 and self._steps >= self._worlds[0].steps

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> Any:
        """Begin the life, or go on with the one whose state was given."""
        if self._is_over:
            self._next()
            seed = self._worlds[0].seed + self._index
        self._last, info = self.env.reset(seed=seed, **kwargs)
        if self._state is not None:
            set_state(self.env, self._state["world"], layers=self._within)
            self._last = unplain(self._state["last"])
            self._state = None
        return self._last, info

    def step(self, action: Any) -> Any:
        """Step the world, the next one where it is its turn."""
        if self._is_over:
            before = state_of(self.env)
            self._next()
            self.env.reset(seed=self._worlds[0].seed + self._index)
            set_state(self.env, before, layers=False)
        self._last, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        if terminated or truncated:
            raise EnvironmentFailed(ended(self.env, step=self._steps))
        self._online.add(self._stage, float(reward), is_late=LATE_KEY in info)
        return self._last, reward, False, self._resets and self._is_over, info

    def get_state(self) -> dict[str, Any] | None:
        """Return the state of the world, and what it showed last, as plain data.

        None where worlds begin again.
        """
        return None if self._resets else {"world": state_of(self.env), "last": plain(self._last)}

    def _next(self) -> None:
        """Put the next world in the place of the last one."""
        self.env.close()
        self._worlds.pop(0)
        self._stage, self._steps = self._stage + 1, 0
        self.env = self._worlds[0].make()


def endless_vector(makers: Sequence[Callable[[], gym.Env[Any, Any]]], seed: int) -> VecEnv:
    """Return environments side by side, seeded as ``vectorize`` does it, but without a monitor."""
    from stable_baselines3.common.vec_env import DummyVecEnv  # here: it imports torch

    made = [make() for make in makers]
    for index, env in enumerate(made):
        env.action_space.seed(seed + index)
    vector = DummyVecEnv([lambda env=env: env for env in made])  # type: ignore[misc]  # bound now
    vector.seed(seed)
    return vector


def ended(env: gym.Env[Any, Any], *, step: int) -> str:
    """Return what is wrong with an endless environment that ends."""
    return (
        f"{env.unwrapped} ended its episode at step {step}, and endless: true is for environments "
        "without episodes; remove the key, or let the environment go on"
    )


# -- the state of a world --------------------------------------------------------------------------


def check_endless(env: gym.Env[Any, Any], *, is_saved: bool) -> None:
    """Check that a world can go on without an end, and be saved and put back.

    Args:
        env: The environment of a task.
        is_saved: Whether a checkpoint or another stage needs its state.

    Raises:
        UsageError: It ends after some steps, or has no ``get_state`` and ``set_state``.
    """
    if env.spec is not None and (env.spec.max_episode_steps or 0) > 0:
        raise UsageError(
            f"its episodes end after {env.spec.max_episode_steps} steps, and endless: true is for "
            "environments without episodes; write kwargs: {max_episode_steps: -1}"
        )
    if not is_saved:
        return
    missing = [name for name in ("get_state", "set_state") if not _has(env.unwrapped, name)]
    if missing:
        raise UsageError(
            f"{type(env.unwrapped).__name__} has no {' and no '.join(missing)}, so that no "
            "checkpoint can hold it; write these two methods (docs/endless.md), or write "
            "checkpoint: {resets: true}, and the world begins again at boundaries and checkpoints"
        )


def state_of(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return the state of an environment and of its wrappers that have one, as plain data."""
    layers = [plain(layer.get_state()) for layer in _layers(env)]
    inner: Any = env.unwrapped
    return {"layers": layers, "world": plain(inner.get_state())}


def set_state(env: gym.Env[Any, Any], state: Mapping[str, Any], *, layers: bool) -> None:
    """Put back what ``state_of`` gave.

    Args:
        env: Has been reset.
        state: Plain data.
        layers: Whether the wrappers take theirs, too.

    Raises:
        EnvironmentFailed: The environment's ``set_state`` raised.
    """
    inner: Any = env.unwrapped
    try:
        inner.set_state(unplain(state["world"]))
    except Exception as error:
        raise EnvironmentFailed(
            f"set_state() of {inner} raised {type(error).__name__}: {error}; it must take what "
            "get_state() gave, arrays as arrays and tuples as lists"
        ) from error
    for layer, own in zip(_layers(env), state["layers"] if layers else (), strict=layers):
        layer.set_state(unplain(own))


def _layers(env: Any) -> Iterator[Any]:
    """Yield the wrappers that have a state, outermost first."""
    while env is not env.unwrapped:
        if _has(env, "get_state"):
            yield env
        env = env.env


def _has(env: Any, name: str) -> bool:
    return callable(getattr(type(env), name, None))


def plain(value: Any) -> Any:
    """Return nested dicts, lists, arrays and numbers as plain data that JSON keeps to the bit.

    >>> unplain(plain({"at": (1, 2.5), "food": np.arange(3)}))
    {'at': [1, 2.5], 'food': array([0, 1, 2])}

    Raises:
        UsageError: If there is anything else among them.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {_ARRAY: data, "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, np.generic):
        return plain(value.item())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UsageError(
        f"get_state() returned a {type(value).__name__}, which no checkpoint holds; return "
        "numbers, texts, arrays, and lists and dicts of those (of a generator, "
        "bit_generator.state)"
    )


def unplain(value: Any) -> Any:
    """Return what ``plain`` was given; a tuple comes back as a list."""
    if isinstance(value, list):
        return [unplain(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if _ARRAY in value:
        flat = np.frombuffer(base64.b64decode(value[_ARRAY]), np.dtype(value["dtype"]))
        return flat.reshape(value["shape"]).copy()
    return {key: unplain(entry) for key, entry in value.items()}


_ARRAY = "array:base64"
