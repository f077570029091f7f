"""One of EnvPool's environments as a Gymnasium environment: its spaces, its time limit, its seeds.

What EnvPool 1.2.5 does, found out by trying it:

* ``make_spec`` tells the spaces without building a simulator; the simulator is built here at the
  first reset. Seeds are fixed when a pool is built, one for each environment (``seed=[...]``, 32
  bits with a sign); ``reset(seed=...)`` is ignored. So a reset with a seed builds a new pool: 2 ms
  for HalfCheetah, 50 ms for Meta-World or a robot. An environment's trajectory depends on its own
  seed and actions alone: not on the others in the pool, nor on the number of threads.
* At ``max_episode_steps`` it reports truncation only, even where the episode terminates in that
  very step. Elsewhere the limit changes nothing, so it is given one step more than wanted and
  truncation is told here, as Gymnasium's TimeLimit does it. The exceptions are in ``_OWN_LIMIT``:
  there, an episode that terminates in its very last step counts as truncated.
* An action out of bounds is not cut, and NaN is passed on to the simulator.
* Two of Meta-World's tasks (``_SPOILT_BY_RESETS``) move their goal away at every reset of a
  simulator, by the place of the box or shelf that it belongs to: after the first episode it is out
  of reach. Those get a new simulator for each episode: ``FreshPool``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from holdfast.envs.base.loading import limit
from holdfast.errors import EnvironmentFailed, UsageError
from holdfast.registry import suggestion
from holdfast.scenarios.checks.backend import envpool_ids, no_id
from holdfast.seeding import derive

SUCCESS_KEYS = ("is_success", "success", "solved")
"""Keys under which families report success: robotics; Meta-World, Adroit, Panda; MyoSuite."""

# MiniGrid's and BabyAI's reward falls with step / limit; the others end by clocks of their own.
_OWN_LIMIT = (
    "envpool.minigrid",
    "envpool.vizdoom",
    "envpool.highway",
    "envpool.gfootball",
    "envpool.jumanji",
    "envpool.pgx",
    "envpool.procgen",
)
_SPOILT_BY_RESETS = ("MetaWorld/Hammer-v3", "MetaWorld/ShelfPlace-v3")
_RESERVED = ("num_envs", "batch_size", "seed", "env_seed", "gym_reset_return_info", "env_type")
_LARGEST = 1e30


class EnvPoolSingle(gym.Env[Any, Any]):
    """One environment of EnvPool's, by its id; also the way to build pools of several.

    Args:
        target: EnvPool's id, such as ``MetaWorld/Hammer-v3``.
        kwargs: EnvPool's own arguments of that family; ``holdfast list envs`` says more.
        time_limit: Steps after which an episode is truncated. Default: the id's own.
        render_mode: ``rgb_array``, or None.

    Attributes:
        limit: Steps after which an episode is truncated; 0 where EnvPool cuts it itself.

    Raises:
        MissingExtra: EnvPool is not installed.
        UsageError: It has no such id, or no such argument.
    """

    def __init__(
        self,
        target: str,
        kwargs: Mapping[str, Any],
        *,
        time_limit: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        options = copy.deepcopy(dict(kwargs))
        for key in _RESERVED:
            if key in options:
                raise UsageError(f"kwargs.{key}: is set by the adapter; remove it")
        if time_limit is not None:
            limit(options, time_limit)
        self.target, self.render_mode = target, render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
        if target not in envpool_ids():
            raise UsageError(no_id(target))
        described = self._specified(options)
        steps = int(described.config.max_episode_steps)
        own = envpool_ids()[target].startswith(_OWN_LIMIT) or steps <= 0
        self.limit = 0 if own else steps
        self._options = options if own else {**options, "max_episode_steps": steps + 1}
        with _quiet():
            self.observation_space = described.gymnasium_observation_space
            self.action_space = described.gymnasium_action_space
        self._check_actions()
        # What reads a time limit (the estimate of a run's time) finds it where Gymnasium has it.
        self.spec = EnvSpec("EnvPool-v0", max_episode_steps=steps if steps > 0 else None)
        self._pool: Any = None
        self._steps = 0

    def __str__(self) -> str:
        return f"EnvPool's {self.target}"

    def open_pool(self, seeds: Sequence[int]) -> Any:
        """Return a new pool with one environment for each seed, none of them reset yet.

        Args:
            seeds: Any whole numbers; 32 bits of each count.

        Raises:
            EnvironmentFailed: The constructor raised, perhaps only at the first reset.
        """
        if self.target in _SPOILT_BY_RESETS:
            return FreshPool(self._new_pool, seeds)
        return self._new_pool(seeds)

    def _new_pool(self, seeds: Sequence[int]) -> Any:
        import envpool

        options = dict(self._options)
        if self.render_mode is not None:
            options["render_mode"] = self.render_mode
        signed = (np.array(seeds, dtype=np.int64) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
        try:
            pool = envpool.make_gymnasium(
                self.target, num_envs=len(seeds), seed=signed.tolist(), **options
            )
            with _quiet():
                _ = pool.observation_space  # made once; asked for at every step
            return pool
        except ImportError as error:  # Procgen's message says what to install
            raise UsageError(f"{self}: {error}") from error
        except Exception as error:
            raise EnvironmentFailed(
                f"{self}, constructor: {type(error).__name__}: {error}"
            ) from error

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; with a seed in a newly built simulator."""
        super().reset(seed=seed, options=options)
        if seed is not None or self._pool is None:
            drawn = derive(0, int(np.random.default_rng().integers(2**31)))
            self._pool = self.open_pool([drawn if seed is None else seed])
        self._steps = 0
        observation, info = self._pool.reset()
        return self._one(observation), success_of(info, 0)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step once."""
        observation, rewards, terminated, truncated, info = self._pool.step(
            np.asarray(action)[None]
        )
        self._steps += 1
        out_of_time = bool(truncated[0]) or (0 < self.limit <= self._steps)
        extra = success_of(info, 0)
        return self._one(observation), float(rewards[0]), bool(terminated[0]), out_of_time, extra

    def render(self) -> Any:
        """Return the picture that EnvPool draws; shape (height, width, 3)."""
        if self._pool is None:
            raise UsageError(f"{self} is drawn after reset() only")
        return self._pool.render()[0]

    def close(self) -> None:
        """Release the simulator; EnvPool ends its threads when nothing refers to the pool."""
        self._pool = None

    def _one(self, observations: Any) -> Any:
        return rows(cast_to(self.observation_space, observations), 0)

    def _specified(self, options: dict[str, Any]) -> Any:
        import envpool

        try:
            return envpool.make_spec(self.target, num_envs=1, **options)
        except ImportError as error:
            raise UsageError(f"{self}: {error}") from error
        except Exception as error:
            raise UsageError(f"{self}, kwargs: {_wrong_argument(self.target, error)}") from error

    def _check_actions(self) -> None:
        space = self.action_space
        if isinstance(space, gym.spaces.Box) and np.abs(space.high).max(initial=0) > _LARGEST:
            # ViZDoom's: uninitialised bounds, in EnvPool 1.2.5.
            raise UsageError(
                f"{self} has actions without bounds; ViZDoom's become discrete with "
                "`kwargs: {use_combined_action: true}`"
            )


class FreshPool:
    """Environments side by side, as in one pool of EnvPool's, that no reset has spoilt.

    Environments that are reset together come into a new pool together: where all episodes have the
    same length, as in Meta-World, there is never more than one. Building one takes as long as some
    300 steps.

    An environment's first episode has the seed that it would have in one pool; later ones have
    seeds derived from that and the number of the episode.

    Args:
        build: Returns a pool of EnvPool's with an environment for each seed; its observations must
            be arrays.
        seeds: One for each environment.
    """

    def __init__(self, build: Callable[[Sequence[int]], Any], seeds: Sequence[int]) -> None:
        self._build, self._seeds = build, list(seeds)
        self._episodes = [0] * len(self._seeds)
        self._pools: list[Any] = [None] * len(self._seeds)
        self._places = np.zeros(len(self._seeds), np.int32)  # of each environment in its pool
        self._sent: list[list[int]] = []  # rows of the actions, for each pool that is stepping
        self._stepping: list[Any] = []

    def reset(self, ids: NDArray[np.int32] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in some of the environments, or in all; rows in the order of ``ids``."""
        chosen = range(len(self._seeds)) if ids is None else ids.tolist()
        pool = self._build([self._seed(index) for index in chosen])
        for place, index in enumerate(chosen):
            self._pools[index], self._places[index] = pool, place
            self._episodes[index] += 1
        return pool.reset()  # type: ignore[no-any-return]  # EnvPool ships no types

    def step(self, actions: NDArray[Any], ids: NDArray[np.int32] | None = None) -> tuple[Any, ...]:
        """Step some of the environments, or all; rows in the order of ``ids``."""
        self.send(actions, np.arange(len(self._seeds), dtype=np.int32) if ids is None else ids)
        return self.recv()

    def send(self, actions: NDArray[Any], ids: NDArray[np.int32]) -> None:
        """Begin a step of some of the environments."""
        groups: dict[int, list[int]] = {}
        for row, index in enumerate(ids.tolist()):
            groups.setdefault(id(self._pools[index]), []).append(row)
        self._sent = list(groups.values())
        for rows in self._sent:
            within = ids[rows]
            self._pools[within[0]].send(actions[rows], self._places[within])
        self._stepping = [self._pools[ids[rows[0]]] for rows in self._sent]

    def recv(self) -> tuple[Any, ...]:
        """End the step that was begun; rows in the order of its ``ids``."""
        parts = [pool.recv() for pool in self._stepping]
        if len(parts) == 1:
            return parts[0]  # type: ignore[no-any-return]
        back = np.argsort(np.concatenate(self._sent))
        *arrays, infos = zip(*parts, strict=True)
        joined = [np.concatenate(array)[back] for array in arrays]
        keys = [key for key, value in infos[0].items() if isinstance(value, np.ndarray)]
        return *joined, {key: np.concatenate([info[key] for info in infos])[back] for key in keys}

    def render(self) -> Any:
        """Return pictures of the environments that were reset together with the first."""
        return self._pools[0].render()

    def _seed(self, index: int) -> int:
        seed, episode = self._seeds[index], self._episodes[index]
        return derive(seed, "episode", episode) if episode else seed


def success_of(info: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return ``{"is_success": ...}`` of one environment; empty where its family reports none."""
    key = success_key(info)
    return {} if key is None else {"is_success": bool(info[key][index] > 0)}


def success_key(info: Mapping[str, Any]) -> str | None:
    """Return the key under which a batch's info reports success, if it does."""
    return next((key for key in SUCCESS_KEYS if key in info), None)


def _wrong_argument(target: str, error: Exception) -> str:
    text = str(error)
    _, _, rest = text.partition("unexpected keyword argument '")
    if not rest:
        return text.splitlines()[0] if text else type(error).__name__
    import envpool

    name = rest.partition("'")[0]
    known = [key for key in envpool.make_spec(target).config._fields if key not in _RESERVED]
    return f"no argument '{name}'; {suggestion(name, known, otherwise=f'known: {known}')}"


def cast_to(space: gym.Space[Any], raw: Any) -> Any:
    """Return observations in their space's type; EnvPool's Discrete ones are int32."""
    if isinstance(space, gym.spaces.Dict):
        return {key: cast_to(sub, raw[key]) for key, sub in space.items()}
    return raw if raw.dtype == space.dtype else raw.astype(space.dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Gymnasium from warning that EnvPool gives float32 spaces their bounds in float64."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*precision lowered by casting.*")
        yield


def rows(batch: Any, index: Any) -> Any:
    """Return some environments' part of a batch of observations, or one's."""
    if isinstance(batch, dict):
        return {key: rows(value, index) for key, value in batch.items()}
    return batch[index]
