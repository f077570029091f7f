"""Does the method do what its formula says, and nothing at strength 0?"""

from pathlib import Path

import torch
from my_method import MyMethod

import holdfast

HERE = Path(__file__).parent
SHORT = ["seeds=[0]", "n_envs=1", "evaluation={episodes: 1}"]
SHORT += ["tasks[0].steps=128", "tasks[1].steps=128"]
SMALL = "agent={algorithm: ppo, n_steps: 32, batch_size: 32}"


def test_gradient_by_hand() -> None:
    """d/dw of 3 (w - 1)^2 at w = 3 is 2 * 3 * 2 = 12."""
    method, state = MyMethod(strength=3.0), {"old": {"w": torch.tensor([1.0])}}
    assert method.gradient({"w": torch.tensor([3.0])}, state, {})["w"].tolist() == [12.0]
    assert method.gradient({"other": torch.tensor([3.0])}, state, {}) == {}


def test_at_strength_zero_it_is_naive(tmp_path: Path) -> None:
    """It runs through both tasks, and without its penalty nothing is different."""
    methods = "methods=[naive, {my_method:MyMethod: {strength: 0.0}}]"
    scenario = holdfast.load(HERE / "my_method.yaml", [methods, SMALL, *SHORT])
    naive, zero = holdfast.run(scenario, runs=tmp_path)
    assert naive.scores == zero.scores
