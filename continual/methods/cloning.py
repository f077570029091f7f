"""Behavioural cloning of old policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from holdfast.agents.gradients import Named, gradient_of, group_of
from holdfast.agents.memory import Arrays
from holdfast.agents.outputs import Output, PolicyOutput, divergence, softmax_divergence
from holdfast.continual.method import Method, check_range

if TYPE_CHECKING:
    from holdfast.agents.stable_baselines import StableBaselinesAgent
    from holdfast.continual.stream import TaskExperience


class Cloning(Method):
    """Stays near what the policy said, at each task's end, about observations of that task.

    The loss added for the actor (and its encoder), on a batch drawn from all finished tasks, is::

        strength * mean over the batch of KL(stored output || current output)

    Source: Wolczyk et al. 2022, Disentangling Transfer in Continual RL (arXiv:2209.13900), where it
    is called behavioural cloning of ClonEx-SAC; no loss on the critic, as there. For algorithms on
    action values, the output is a unit Gaussian around them, or their softmax.

    Args:
        strength: Factor of the loss; ClonEx-SAC uses 100 together with ``clip_norm`` .1 (METHODS,
            section 6).
        samples: Observations kept per task; ClonEx keeps 10,000.
        batch_size: Rows per update; ClonEx uses 128.
        clip_norm: Largest norm of the added gradient; None leaves it as it is.
        temperature: For action values: compare softmax(values / temperature); None compares the
            values.
    """

    needs: ClassVar[tuple[str, ...]] = ("boundaries",)
    doors: ClassVar[tuple[str, ...]] = ("gradients", "output")
    convention: ClassVar[str] = (
        "strength x mean KL(stored || current) over a batch of stored observations; actor only"
    )

    def __init__(
        self,
        *,
        strength: float = 1.0,
        samples: int = 10_000,
        batch_size: int = 128,
        clip_norm: float | None = None,
        temperature: float | None = None,
    ) -> None:
        check_range("cloning.strength", strength, 0)
        check_range("cloning.samples", samples, 1)
        check_range("cloning.batch_size", batch_size, 1)
        check_range("cloning.clip_norm", clip_norm or 0, 0)
        check_range("cloning.temperature", 1 if temperature is None else temperature, 1e-6)
        self.strength = strength
        self.samples = samples
        self.batch_size = batch_size
        self.clip_norm = clip_norm
        self.temperature = temperature
        self._observations: Arrays = {}
        self._outputs: Output = {}

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Add the cloning gradient for the coming task, once there is something to clone."""
        agent.memory.keep_observations(self.samples)
        if not self._outputs:
            return
        rng = experience.generator("cloning")
        module: PolicyOutput | None = None

        def term(parameters: Named) -> Named:
            nonlocal module
            actor = {n: p for n, p in parameters.items() if group_of(n, agent.policy) != "critic"}
            if not actor:
                return {}
            module = module or agent.output()  # the task's model does not exist before it starts
            rows = rng.integers(len(next(iter(self._outputs.values()))), size=self.batch_size)
            observations = agent.policy_input(
                {key: values[rows] for key, values in self._observations.items()}
            )
            stored = {key: values[rows] for key, values in self._outputs.items()}
            return self.gradient(module, actor, observations, stored)

        agent.gradients.add(term)

    def gradient(
        self, module: PolicyOutput, parameters: Named, observations: object, stored: Output
    ) -> Named:
        """Return the gradient of the cloning loss on one batch, clipped where asked."""

        def loss(values: Named) -> Tensor:
            named = {f"policy.{name}": value for name, value in values.items()}
            current = functional_call(module, named, (observations,))
            if self.temperature is not None and module.spec.kind == "unit_gaussian":
                return softmax_divergence(stored, current, self.temperature).mean()
            return divergence(module.spec, stored, current).mean()

        gradients = gradient_of(lambda values: self.strength * loss(values), parameters)
        if self.clip_norm is not None:
            norm = torch.nn.utils.get_total_norm(gradients.values())
            scale = torch.clamp(self.clip_norm / (norm + 1e-6), max=1.0)
            gradients = {name: gradient * scale for name, gradient in gradients.items()}
        return gradients

    def post_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Store observations of the finished task with what the policy says about them now."""
        observations = agent.observations(self.samples, experience.generator("cloning", "store"))
        with torch.no_grad():
            outputs = agent.output()(agent.policy_input(observations))
        for key, values in observations.items():
            old = self._observations.get(key, values[:0])
            self._observations[key] = np.concatenate([old, values])
        for key, output in outputs.items():
            old_output = self._outputs.get(key, output[:0])
            self._outputs[key] = torch.cat([old_output, output.expand(len(values), -1)])

    def state(self) -> dict[str, Tensor]:
        """Return the stored observations and outputs."""
        observations = {
            f"observations/{key}": torch.as_tensor(values)
            for key, values in self._observations.items()
        }
        return observations | {f"output/{key}": value for key, value in self._outputs.items()}

    def load_state(self, agent: StableBaselinesAgent, tensors: dict[str, Tensor]) -> None:
        """Take the stored observations and outputs back."""
        for path, tensor in tensors.items():
            kind, _, key = path.partition("/")
            if kind == "observations":
                self._observations[key] = tensor.numpy()
            else:
                self._outputs[key] = tensor.to(agent.device)
