"""Distillation of the old policy on the new task's observations: learning without forgetting."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from holdfast.agents.base.observations import with_task_ids
from holdfast.agents.base.parameters import Named
from holdfast.agents.doors.gradients import Tensors
from holdfast.agents.doors.outputs import ACTING, Reader
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.imitation import Imitation, OldPolicy


@dataclass(kw_only=True, eq=False)
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

    needs = ("boundaries",)
    doors = ("gradients", "output", "memory")
    acts_by = ()
    memory = "one copy of the actor, however many tasks"
    convention = (
        "strength x mean KL(old || current) over a batch of the new task's observations, under the "
        "ids of finished tasks; actor only"
    )

    strength: Annotated[float, (0, None)] = 1.0
    batch_size: Annotated[int, (1, None)] = 128
    temperature: Annotated[float | None, (1e-6, None)] = None
    old: OldPolicy = field(init=False, default_factory=OldPolicy)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Add the distillation gradient for the coming task, once there is an old policy."""
        width, finished = doors.facts.id_width, dict[int, None]()
        if width:  # a task that comes again is free to be learned again
            finished = dict.fromkeys(experience.earlier_tasks)
            finished.pop(experience.task_index, None)
        if not self.old.tensors or (width and not finished):
            return
        rng, tasks = experience.generator("distillation"), np.array(list(finished))

        def draw(_: Named) -> Tensors:
            now = doors.memory.batch_observations(self.batch_size, rng)
            if width:
                drawn = tasks[rng.integers(len(tasks), size=self.batch_size)]
                now = with_task_ids(now, drawn, width)
            return {"now": now, "then": self.old.seen(doors, now)}

        term = partial(self.gradient, doors.output.actor)
        doors.gradients.add(term, state={"old": self.old.tensors}, batch=draw, groups=ACTING)

    def gradient(self, output: Reader, parameters: Named, state: Tensors, batch: Tensors) -> Named:
        """Return the gradient of the loss on observations as both policies take them."""
        with torch.no_grad():
            said = output.of(state["old"], batch["then"])
        imitation = Imitation(self.strength, self.temperature)
        return imitation.gradient(output, parameters, batch["now"], said)

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Keep the policy as it is at the finished task's end, in place of the one before."""
        self.old.keep(doors)

    def state(self) -> dict[str, Tensor]:
        """Return the old policy and the statistics of its observations."""
        return self.old.state()

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take the old policy back."""
        self.old.load(tensors, doors.facts.device)
