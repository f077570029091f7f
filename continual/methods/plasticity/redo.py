"""Recycling of dormant units."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdfast.agents.doors.gradients import Named, Rewritten, group_of
from holdfast.agents.modules.initialisation import fresh_weights
from holdfast.agents.modules.plasticity import dormant_scores
from holdfast.agents.modules.units import activations, hidden_layers, renew_units, unit_magnitudes
from holdfast.continual.method import Method

if TYPE_CHECKING:
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.task_stream import TaskExperience


class ReDo(Method):
    """Starts units anew that are hardly ever active: ReDo.

    Every ``period`` updates of an optimizer, each hidden unit i of the networks it moves gets the
    score ``E|h_i| / mean over the layer's units k of E|h_k|``, on observations of what is being
    learned from. Where it is at most ``tau``, the unit's incoming weights are drawn anew as its
    layer was initialised and its outgoing weights become zero, so that the network's output hardly
    moves. Source: Sokar et al. 2023, The Dormant Neuron Phenomenon in Deep RL (arXiv:2302.12902),
    definition 3.1 and algorithm 1. Adam's moments of these weights become zero and the target
    networks take them, which the paper's agents need too (METHODS, section 8).

    Actor and critic alike; a convolution's unit is a channel. An encoder whose readers belong to
    another optimizer (SAC with a shared features extractor) is left as it is, as is an encoder of
    the user's own. Tanh units (PPO's default) are seldom dormant; ``activation: relu`` ones are.

    Args:
        tau: Highest score of a dormant unit; .025 as in the paper's default setting.
        period: Updates between two looks; 1,000 as in the paper.
        samples: Observations that the activity is averaged over.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    doors: ClassVar[tuple[str, ...]] = ("gradients", "output")
    claims: ClassVar[tuple[str, ...]] = ("weights",)
    limits: ClassVar[dict[str, tuple[float, float | None]]] = {
        "tau": (0, 1),
        "period": (1, None),
        "samples": (1, None),
    }
    logs: ClassVar[dict[str, str]] = {"recycled_": "units started anew"}
    memory: ClassVar[str] = "nothing"
    extra: ClassVar[str] = "a forward pass every period updates"
    convention: ClassVar[str] = (
        "units whose mean |activity| is at most tau x the mean of their layer start anew every "
        "period updates; actor and critic"
    )

    def __init__(self, *, tau: float = 0.025, period: int = 1000, samples: int = 256) -> None:
        self.tau = tau
        self.period = period
        self.samples = samples

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Look for dormant units every ``period`` updates of the coming task."""
        rng = experience.generator("redo")
        updates: dict[str, int] = {}

        def recycle(parameters: Named) -> Rewritten | None:
            optimizer = next(iter(parameters))
            updates[optimizer] = updates.get(optimizer, 0) + 1
            if updates[optimizer] % self.period:
                return None
            known = hidden_layers(agent.policy)
            layers = [layer for layer in known if layer.names <= parameters.keys()]
            observations = agent.batch_observations(self.samples, rng)
            activity = activations(agent.policy, observations, [layer.name for layer in layers])
            chosen = [
                (
                    layer,
                    dormant_scores(unit_magnitudes(activity[layer.name], layer.units)) <= self.tau,
                )
                for layer in layers
            ]
            due = [layer for layer, mask in chosen if mask.any()]
            fresh = fresh_weights(
                agent.policy, {name for layer in due for name in layer.incoming}, rng
            )
            for part in ("actor", "critic", "encoder"):
                counts = [
                    int(mask.sum())
                    for layer, mask in chosen
                    if group_of(layer.weight, agent.policy) == part
                ]
                if counts:
                    agent.log(f"method/redo/recycled_{part}", sum(counts))
            return renew_units(parameters, chosen, fresh)

        agent.gradients.rewrite(recycle)
