"""What is kept grows with the tasks: whether the coming ones still fit into the memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from holdfast.continual.results.formatting import plural, size
from holdfast.continual.training.buffer_size import memory_bytes
from holdfast.errors import UsageError


def kept_bytes(files: Iterable[Mapping[str, Tensor]]) -> int:
    """Return the bytes of what a checkpoint holds of agent and methods."""
    return sum(t.numel() * t.element_size() for tensors in files for t in tensors.values())


def check_growth(kept: Sequence[int], stages: int, memory: int | None = None) -> str:
    """Raise if the coming task would need more than the memory; warn of a later one.

    Args:
        kept: Bytes of agent and methods after each finished task, one task at least.
        stages: Tasks of the whole stream.
        memory: Bytes there are; by default those of this machine or container.

    Returns:
        A warning that names the task at which memory runs out, if growth goes on; else "".

    Raises:
        UsageError: With the numbers. What was learned so far is saved: on a machine with more
            memory the run goes on.

    >>> check_growth([40, 60], stages=4, memory=100)
    ''
    >>> check_growth([40, 60], stages=6, memory=100)
    'agent and methods keep 60 B after 2 tasks and grow by 20 B a task: task 5 of 6 will not fit'
    >>> check_growth([40, 60, 90], stages=6, memory=100)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    holdfast.errors.UsageError: agent and methods keep 90 B after 3 tasks and grow by 30 B ...
    """
    memory = memory_bytes() if memory is None else memory
    done, left = len(kept), stages - len(kept)
    growth = max(kept[-1] - kept[-2], 0) if done > 1 else 0
    if not left or not growth or kept[-1] + growth * left <= memory:
        return ""
    text = (
        f"agent and methods keep {size(kept[-1])} after {plural(done, 'task')} "
        f"and grow by {size(growth)} a task: "
    )
    fitting = int((memory - kept[-1]) // growth)
    if fitting > 0:
        return f"{text}task {done + fitting + 1} of {stages} will not fit"
    raise UsageError(
        f"{text}task {done + 1} of {stages} does not fit into {size(memory)}. What was learned is "
        "saved: the same command goes on where there is more memory; or keep less (fewer samples, "
        "a method that does not grow)"
    )
