"""A method."""

from holdfast.agents.base.parameters import snapshot
from holdfast.continual.method import Method


class Anchor(Method):
    """Pulls each weight of the actor back to where the last task left it."""

    needs = ("boundaries",)
    doors = ("gradients",)
    memory = "one copy of the actor"

    def __init__(self, *, strength: float = 1.0):
        self.strength, self.old = strength, {}

    def pre_adapt(self, doors, experience):
        doors.gradients.add(self.pull, state={"old": self.old})

    def pull(self, parameters, state, batch):
        return {
            name: 2 * self.strength * (parameters[name] - old)
            for name, old in state["old"].items()
            if name in parameters
        }

    def post_adapt(self, doors, experience):
        self.old = snapshot(doors.gradients.parameters("actor"))

    def state(self):
        return self.old

    def load_state(self, doors, tensors):
        self.old = tensors
