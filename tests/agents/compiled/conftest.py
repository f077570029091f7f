"""What tests of the compiled engine share."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest
import torch


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Stable-Baselines3 and JAX compute in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    kind = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    jax.clear_caches()  # jax.numpy's indexing remembers whether indices had 32 bits
    jax.config.update("jax_enable_x64", True)  # of all threads
    yield
    jax.config.update("jax_enable_x64", False)
    jax.clear_caches()
    torch.set_default_dtype(kind)
