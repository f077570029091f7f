"""One integer per cell; every consumer gets a generator spawned from it by name.

Names rather than positions: adding a consumer never shifts the random numbers of another.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """Return a 32-bit seed for the consumer called ``names``.

    >>> derive(0, "evaluation", 3) == derive(0, "evaluation", 3)
    True
    >>> derive(0, "evaluation", 3) == derive(1, "evaluation", 3)
    False
    """
    text = "/".join(str(name) for name in names)
    words = np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint32)
    return int(np.random.SeedSequence([seed, *words.tolist()]).generate_state(1)[0])


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a NumPy generator for the consumer called ``names``."""
    return np.random.default_rng(derive(seed, *names))


def task_seed(seed: int, stage: int) -> int:
    """Return the seed of the agent and the environments of the ``stage``-th task of the stream.

    The first task takes the cell's integer as it is, as plain Stable-Baselines3 would.
    """
    return seed if stage == 0 else derive(seed, "task", stage)


def group_seed(seed: int, number: int, name: str) -> int:
    """Return the seed of a team's group, so that groups begin and explore each in its own way.

    The first one takes the integer as it is, as a single agent does.
    """
    return seed if number == 0 else derive(seed, "group", name)


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch."""
    import torch  # here, because `validate` and `report` import this module without torch

    random.seed(seed)
    np.random.seed(seed)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # manual_seed() would write down the stack, for each kind of device that may yet come
        torch.default_generator.manual_seed(seed)


@contextmanager
def isolated(seed: int, *spaces: Any) -> Iterator[None]:
    """Seed Python, NumPy and torch inside the block and put their random state back after it.

    Args:
        seed: Seed for the block.
        *spaces: Gymnasium spaces whose own generators are put back too (DQN draws from one).
    """
    kept = global_states()
    space_states = [space.np_random.bit_generator.state for space in spaces]
    seed_everything(seed)
    for space in spaces:
        space.seed(seed)
    try:
        yield
    finally:
        set_global_states(kept)
        for space, state in zip(spaces, space_states, strict=True):
            space.np_random.bit_generator.state = state


def global_states() -> Any:
    """Return the state of the global generators of Python, NumPy and torch, for this process."""
    import torch  # here, because `validate` and `report` import this module without torch

    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def set_global_states(states: Any) -> None:
    """Put back what ``global_states`` gave."""
    import torch  # here, as above

    of_python, of_numpy, of_torch, of_cuda = states
    random.setstate(of_python)
    np.random.set_state(of_numpy)
    torch.set_rng_state(of_torch)
    if of_cuda is not None:
        torch.cuda.set_rng_state_all(of_cuda)


def random_states() -> dict[str, Any]:
    """Return the state of the global generators as named tensors, which a checkpoint keeps."""
    import torch  # here, because `validate` and `report` import this module without torch

    legacy: dict[str, Any] = np.random.get_state(legacy=False)
    inner = {**legacy["state"], "key": legacy["state"]["key"].tolist()}
    states = {
        "python": _packed(random.getstate()),
        "numpy": _packed({**legacy, "state": inner}),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        for device, state in enumerate(torch.cuda.get_rng_state_all()):
            states[f"cuda-{device}"] = state
    return states


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put back what ``random_states`` gave; devices that are not there are left out."""
    import torch  # here, as above

    version, words, gauss = _unpacked(states["python"])
    random.setstate((version, tuple(words), gauss))
    legacy = _unpacked(states["numpy"])
    key = np.array(legacy["state"]["key"], np.uint32)
    np.random.set_state({**legacy, "state": {**legacy["state"], "key": key}})
    torch.set_rng_state(states["torch"])
    for device in range(torch.cuda.device_count()):
        if f"cuda-{device}" in states:
            torch.cuda.set_rng_state(states[f"cuda-{device}"], device)


def state_of(rng: Any) -> Any:
    """Return the state of a NumPy or torch generator, as a tensor."""
    if isinstance(rng, np.random.Generator):
        return _packed(rng.bit_generator.state)
    return rng.get_state()


def set_state_of(rng: Any, state: Any) -> None:
    """Put back what ``state_of`` gave."""
    if isinstance(rng, np.random.Generator):
        rng.bit_generator.state = _unpacked(state)
    else:
        rng.set_state(state)


def _packed(value: Any) -> Any:
    """Return plain data as a tensor of bytes."""
    import torch  # here, as above

    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _unpacked(tensor: Any) -> Any:
    return json.loads(tensor.numpy().tobytes())
