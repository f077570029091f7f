"""Factors on the physics of a MuJoCo model, by the names that the model gives its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from holdfast.errors import MissingExtra, UsageError
from holdfast.registry import suggestion

# The values each model was built with. Kept by model, not by wrapper: an environment that shares
# one model between instances would otherwise be scaled again at every rebuild.
_BUILT_WITH: WeakKeyDictionary[Any, dict[str, NDArray[np.float64]]] = WeakKeyDictionary()

EVERY = "*"
"""Stands for every body, geom, joint or actuator of a model, those without a name too."""

_PARTS = {
    "mass": ("body", ("body_mass", "body_inertia")),
    "friction": ("geom", ("geom_friction",)),
    "damping": ("joint", ("dof_damping",)),
    "gear": ("actuator", ("actuator_gear",)),
}
"""The kind of part that each key names, and the arrays of the model that it scales."""

_FIELDS = ("gravity", *(field for _, fields in _PARTS.values() for field in fields))


def _mujoco(key: str) -> Any:
    try:
        import mujoco
    except ImportError as error:
        raise MissingExtra(f"changes.{key}", "mujoco", "mujoco") from error
    return mujoco


def _model(env: gym.Env[Any, Any], key: str) -> Any:
    """Return the environment's ``MjModel``."""
    model = getattr(env.unwrapped, "model", None)
    if isinstance(model, _mujoco(key).MjModel):
        return model
    raise UsageError(
        f"changes.{key}: {type(env.unwrapped).__name__} has no MuJoCo model (attribute 'model')"
    )


def _index(model: Any, kind: str, name: str, key: str) -> int:
    """Return the number of the body, geom, joint or actuator called ``name``."""
    mujoco = _mujoco(key)
    count = {"body": model.nbody, "geom": model.ngeom, "joint": model.njnt, "actuator": model.nu}
    which = getattr(mujoco.mjtObj, f"mjOBJ_{kind.upper()}")
    names = [mujoco.mj_id2name(model, which, number) for number in range(count[kind])]
    if name in names:
        return names.index(name)
    known = [known for known in names if known]
    hint = suggestion(name, known, "did you mean '{}'? ")
    listed = ", ".join(known) or "none that has a name"
    raise UsageError(f"changes.{key}: the model has no {kind} '{name}'; {hint}It has: {listed}")


def actuator_index(env: gym.Env[Any, Any], name: str, key: str) -> int:
    """Return the action dimension of the MuJoCo actuator ``name``; ``key`` is for the error."""
    return _index(_model(env, key), "actuator", name, key)


class MujocoFactors(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Multiplies parts of a MuJoCo model by factors, always counted from the model as it was built.

    The values are written again after every reset, for environments that touch the model there, and
    put back by ``close``.

    Args:
        env: An environment whose ``unwrapped.model`` is an ``MjModel``.
        gravity: Factor on the gravity vector.
        parts: Factors by the names of parts, of which ``*`` means every one.
            ``mass``: of bodies, on their mass and inertia: a body made of a denser material has
            both, and mass alone would leave it as easy to turn as before.
            ``friction``: of geoms, on sliding, torsional and rolling friction. A contact has the
            larger friction of its two geoms, so that a slippery floor wants both lowered.
            ``damping``: of joints, on all their degrees of freedom. ``gear``: of actuators.
    """

    def __init__(
        self, env: gym.Env[Any, Any], *, gravity: float | None = None, **parts: Mapping[str, float]
    ) -> None:
        given: dict[str, Any] = {"gravity": gravity, **parts}
        RecordConstructorArgs.__init__(self, **given)
        gym.Wrapper.__init__(self, env)
        self._model = _model(env, "mujoco")
        built = _BUILT_WITH.setdefault(
            self._model, {field: np.array(self._read(field)) for field in _FIELDS}
        )
        self._targets = {field: values.copy() for field, values in built.items()}
        if gravity is not None:
            self._targets["gravity"] *= gravity
        for key, factors in parts.items():
            for name, factor in factors.items():
                rows = self._rows(key, name)
                for field in _PARTS[key][1]:
                    self._targets[field][rows] *= factor
        self._changed = [
            field for field in _FIELDS if not np.array_equal(self._targets[field], built[field])
        ]
        self._write(self._targets)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, with the changed physics before and after."""
        self._write(self._targets)
        result = self.env.reset(**kwargs)
        self._write(self._targets)
        return result

    def close(self) -> None:
        """Put the model's own values back and close the environment."""
        self._write(_BUILT_WITH[self._model])
        self.env.close()

    def _rows(self, key: str, name: str) -> Any:
        """Return which rows of the model's arrays ``mujoco.<key>.<name>`` means."""
        if name == EVERY:
            return slice(None)
        index = _index(self._model, _PARTS[key][0], name, f"mujoco.{key}")
        # A joint has a row for each of its degrees of freedom: 6, 3 or 1.
        return self._model.dof_jntid == index if key == "damping" else index

    def _read(self, field: str) -> Any:
        return self._model.opt.gravity if field == "gravity" else getattr(self._model, field)

    def _write(self, values: Mapping[str, NDArray[np.float64]]) -> None:
        written = False
        for field in self._changed:
            if not np.array_equal(self._read(field), values[field]):
                self._read(field)[:] = values[field]
                written = True
        if written and {"body_mass", "actuator_gear"} & set(self._changed):
            # The model caches what follows from masses and gears (subtree masses, inverse weights
            # that set the softness of contacts). On scratch data: it would move the environment's.
            mujoco = _mujoco("mujoco")
            mujoco.mj_setConst(self._model, mujoco.MjData(self._model))
