"""The state of an environment: taken, put back, and shown to another world's agent.

State is what the environment's layers hold as plain data (numbers, arrays, texts, generators and
collections of them), and what its simulator holds: all of MuJoCo's ``MjData``, or what a user's own
``get_state`` gives. Whether that is all of it nobody can know: whoever puts a state back plays on
from it and compares.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from holdfast.envs.wrappers.changes import SetAttributes
from holdfast.envs.wrappers.observation_changes import ObservationNoise
from holdfast.errors import UsageError

_DEEPEST = 4
_SINGLE = (int, float, complex, bool, str, bytes, type(None), np.generic)


class State(NamedTuple):
    """State of an environment.

    Attributes:
        layers: Plain attributes of each layer, the innermost first.
        simulator: A copy of MuJoCo's data, or what ``get_state`` gave; None where there is neither.
    """

    layers: tuple[dict[str, Any], ...]
    simulator: Any


class Tap(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps what the environment itself shows, before anything is changed in it.

    Attributes:
        shown: The latest observation.
    """

    shown: Any = None

    def reset(self, **kwargs: Any) -> Any:
        """Reset the environment."""
        result = self.env.reset(**kwargs)
        self.shown = result[0]
        return result

    def step(self, action: Any) -> Any:
        """Step the environment."""
        result = self.env.step(action)
        self.shown = result[0]
        return result


def tapped(env: gym.Env[Any, Any]) -> Tap:
    """Put a tap around the environment that its author made, below all changes; return it."""
    outer: Any = env
    while not _is_of_gymnasium(outer.env):
        outer = outer.env
    outer.env = Tap(outer.env)
    found: Tap = outer.env
    return found


def _is_of_gymnasium(layer: Any) -> bool:
    is_wrapper = isinstance(layer, gym.Wrapper)
    return not is_wrapper or type(layer).__module__.startswith("gymnasium.")


def layers(env: gym.Env[Any, Any]) -> list[Any]:
    """Return an environment and its wrappers, the innermost first."""
    found: list[Any] = [env]
    while isinstance(found[-1], gym.Wrapper):
        found.append(found[-1].env)
    return found[::-1]


def taken(env: gym.Env[Any, Any]) -> State:
    """Return a copy of an environment's state."""
    own = layers(env)
    simulator, core = None, own[0]
    if _has_state(core):
        simulator = copy.deepcopy(core.get_state())
    elif (data := _mujoco_data(core)) is not None:
        simulator = _copied(core.model, data)
    plain = [_plain_of(layer) for layer in own]
    return State(tuple(plain if not _has_state(core) else [{}, *plain[1:]]), simulator)


def put(env: gym.Env[Any, Any], state: State) -> None:
    """Put back what ``taken`` gave, into the environment or into another one built like it."""
    own = layers(env)
    _put_core(own[0], state)
    for layer, attributes in zip(own[1:], state.layers[1:], strict=True):
        _put_plain(layer, attributes)


def put_elsewhere(env: gym.Env[Any, Any], state: State, tap: Tap, shown: Any) -> Any:
    """Put a state into a world with other changes, and return what its agent observes there.

    Its simulator and the layers below the changes get the state; what the changes set stays set.

    Args:
        env: The other world; its agent's environment.
        state: Of an environment of the same id.
        tap: Of the other world.
        shown: What the environment itself showed, below all changes.

    Raises:
        UsageError: If the other world is then in another state.
    """
    own = layers(env)
    changed = own.index(tap)
    _put_core(own[0], state)
    for layer, attributes in zip(own[1:changed], state.layers[1:changed], strict=True):
        _put_plain(layer, attributes)
    kept: set[str] = set()
    for layer in own[changed:]:
        if isinstance(layer, SetAttributes):
            layer._apply()
            kept |= {path.partition(".")[0] for path in layer._settings}
    if not _is_in(own[0], state, kept):
        raise UsageError("its simulator cannot be put into the same state")
    tap.shown = shown
    for layer in own[changed + 1 :]:
        if isinstance(layer, gym.ObservationWrapper):
            shown = layer.observation(shown)
        elif isinstance(layer, ObservationNoise):
            shown = layer.noisy(shown, layer._rng)
    return shown


def _put_core(core: Any, state: State) -> None:
    if _has_state(core):
        core.set_state(copy.deepcopy(state.simulator))
        return
    _put_plain(core, state.layers[0])
    if state.simulator is not None:
        import mujoco

        mujoco.mj_copyData(core.data, core.model, state.simulator)


def _is_in(core: Any, state: State, besides: set[str]) -> bool:
    """Return whether an environment holds a state, but for some attributes."""
    if _has_state(core):
        return _are_equal(core.get_state(), state.simulator)
    if state.simulator is not None:
        moved = all(
            np.array_equal(getattr(core.data, name), getattr(state.simulator, name))
            for name in ("time", "qpos", "qvel", "act", "ctrl", "qacc_warmstart", "mocap_pos")
        )
        if not moved:
            return False
    held = _plain_of(core)
    return all(
        name in besides or (name in held and _are_equal(held[name], value))
        for name, value in state.layers[0].items()
    )


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(_are_equal(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list | tuple | deque):
        is_like = type(one) is type(other) and len(one) == len(other)
        return is_like and all(map(_are_equal, one, other))
    if isinstance(one, np.random.Generator):
        return _are_equal(one.bit_generator.state, other.bit_generator.state)
    if isinstance(one, np.random.RandomState):
        return _are_equal(one.get_state(), other.get_state())
    if isinstance(one, np.ndarray | float | np.generic):
        is_number = np.asarray(one).dtype.kind in "fc"
        return bool(np.array_equal(one, other, equal_nan=is_number))
    return bool(one == other)


def _has_state(core: Any) -> bool:
    return all(callable(getattr(core, name, None)) for name in ("get_state", "set_state")) and (
        # MuJoCo's own set_state takes positions and speeds, and there is no get_state with it.
        _mujoco_data(core) is None
    )


def _mujoco_data(core: Any) -> Any:
    data = getattr(core, "data", None)
    return data if type(data).__module__.startswith("mujoco") else None


def _copied(model: Any, data: Any) -> Any:
    import mujoco

    made = mujoco.MjData(model)
    mujoco.mj_copyData(made, model, data)
    return made


def _plain_of(layer: Any) -> dict[str, Any]:
    """Return copies of the attributes of a layer that are plain data."""
    found = vars(layer).items()
    return {name: copy.deepcopy(value) for name, value in found if _is_plain(value, _DEEPEST)}


def _put_plain(layer: Any, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        now = vars(layer).get(name)
        if isinstance(value, np.random.Generator) and isinstance(now, np.random.Generator):
            now.bit_generator.state = value.bit_generator.state  # others may hold it, too
        else:
            setattr(layer, name, copy.deepcopy(value))


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, np.ndarray):
        return bool(value.dtype.kind != "O")
    if isinstance(value, (*_SINGLE, np.random.Generator, np.random.RandomState)):
        return True
    if depth == 0:
        return False
    if type(value) is dict:
        return all(
            isinstance(key, _SINGLE) and _is_plain(inner, depth - 1) for key, inner in value.items()
        )
    return type(value) in (list, tuple, set, frozenset, deque) and all(
        _is_plain(inner, depth - 1) for inner in value
    )
