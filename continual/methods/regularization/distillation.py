"""Distillation of the old policy on the new task's observations: learning without forgetting."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from holdfast.agents.doors.outputs import Output, PolicyOutput
from holdfast.agents.sb3.imitation import OldPolicy, imitation_gradient, rehearsal
from holdfast.agents.sb3.task_ids import with_task_ids
from holdfast.continual.method import Method

if TYPE_CHECKING:
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.task_stream import TaskExperience


class Distillation(Method):
    """Stays near what the policy of the last task's end says about the new task's observations.

    The loss added for the actor (and its encoder), on observations drawn from what is being learned
    from, is::

        strength * mean over the batch of KL(old policy's output || current output)

    With a task id, each row is shown to both policies under the id of a finished task, drawn evenly
    for each row, so that the answers of every old head (or id) are held and the new task's own are
    free. Without one, the only answer there is is held, in which the new task is learned too.
    Nothing of old tasks is stored: where the new task's observations differ from theirs, nothing is
    held there. Source: Li & Hoiem 2016, Learning without Forgetting (arXiv:1606.09282), whose loss
    on the old outputs has weight 1 and a temperature of 2; the outputs of policies here are
    compared as they are.

    Args:
        strength: Factor of the loss.
        batch_size: Rows per update; 128 as for ``cloning``.
        temperature: For action values: compare softmax(values / temperature); None compares the
            values.
    """

    needs: ClassVar[tuple[str, ...]] = ("boundaries",)
    doors: ClassVar[tuple[str, ...]] = ("gradients", "output")
    limits: ClassVar[dict[str, tuple[float, float | None]]] = {
        "strength": (0, None),
        "batch_size": (1, None),
        "temperature": (1e-6, None),
    }
    memory: ClassVar[str] = "one copy of the actor, however many tasks"
    convention: ClassVar[str] = (
        "strength x mean KL(old || current) over a batch of the new task's observations, under the "
        "ids of finished tasks; actor only"
    )

    def __init__(
        self, *, strength: float = 1.0, batch_size: int = 128, temperature: float | None = None
    ) -> None:
        self.batch_size = batch_size
        self.old = OldPolicy()
        self.gradient = partial(imitation_gradient, strength=strength, temperature=temperature)

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Add the distillation gradient for the coming task, once there is an old policy."""
        order, width = agent.scenario.stream_tasks, agent.scenario.id_width
        finished = dict.fromkeys(order[: experience.stage])
        if width:  # a task that comes again is free to be learned anew
            finished.pop(order[experience.stage], None)
        if not self.old.tensors or not finished:
            return
        rng, tasks = experience.generator("distillation"), np.array(list(finished))

        def batch(module: PolicyOutput) -> tuple[Tensor, Output]:
            observations = agent.batch_observations(self.batch_size, rng)
            if width:
                drawn = tasks[rng.integers(len(tasks), size=self.batch_size)]
                observations = with_task_ids(observations, drawn, width)
            return observations, self.old.output(agent, module, observations)

        agent.gradients.add(rehearsal(agent, batch, self.gradient))

    def post_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Keep the policy as it is at the finished task's end, in place of the one before."""
        self.old.keep(agent)

    def state(self) -> dict[str, Tensor]:
        """Return the old policy and the statistics of its observations."""
        return self.old.state()

    def load_state(self, agent: StableBaselinesAgent, tensors: dict[str, Tensor]) -> None:
        """Take the old policy back."""
        self.old.load(tensors, agent.device)
