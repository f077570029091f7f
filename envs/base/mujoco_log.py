"""MuJoCo's own log: each of its warnings once in a process, and none of its files.

Left alone, MuJoCo prints a warning for every model that it compiles, and appends it to
``MUJOCO_LOG.TXT`` in the current folder: a cell of eight environments said forty times that an
attribute of Gymnasium's own HalfCheetah is old.
"""

from __future__ import annotations

import logging
import re
import sys

import gymnasium as gym

_told: set[str] = set()


def tell_once(target: str) -> None:
    """Hand MuJoCo's warnings to Python's logging, unless somebody handles them already.

    Args:
        target: What is built next. Where neither it nor anything before it is of MuJoCo, MuJoCo is
            not imported, and nothing is done.
    """
    spec = gym.registry.get(target)
    if "mujoco" in sys.modules or (spec is not None and "mujoco" in str(spec.entry_point)):
        try:
            import mujoco
        except ImportError:
            return  # whoever builds the environment says how to install it
        if mujoco.get_mju_user_warning() is None:
            mujoco.set_mju_user_warning(_tell)


def _tell(text: str) -> None:
    kind = re.sub(r"\d+(\.\d+)?", "", text)  # the same instability at another time
    if kind not in _told:
        _told.add(kind)
        logging.getLogger("mujoco").warning("MuJoCo: %s", text)
