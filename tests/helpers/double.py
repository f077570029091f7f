"""A features extractor for policies in float64."""

from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor


class DoubleFlatten(FlattenExtractor):
    """Stable-Baselines3 turns observations into float32; this turns them into float64."""

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations).double()
