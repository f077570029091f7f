"""Record of an episode, as the Monitor of Stable-Baselines3 writes it."""

from __future__ import annotations

import time
from typing import Any


def episode(total: float, length: int, began: float) -> dict[str, Any]:
    """Return what ``info["episode"]`` holds where an episode is over.

    Args:
        total: Sum of its rewards.
        length: Its steps.
        began: Time from which seconds are counted.
    """
    return {"r": round(total, 6), "l": length, "t": round(time.time() - began, 6)}
