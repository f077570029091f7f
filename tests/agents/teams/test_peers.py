"""skrl's IPPO and MAPPO as oracles: from the same weights and random numbers, the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("skrl", reason="skrl is not installed: make setup")
pytest.importorskip("mpe2")

ENVIRONMENT = "simple_speaker_listener_v4"  # its agents' spaces differ


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
    import peers

    monkeypatch.setattr(peers, "COPIES", 2)
    batch = {"n_steps": 30, "batch_size": 60, "n_epochs": 4}  # episodes have 25 steps
    monkeypatch.setattr(peers, "PPO", {**peers.PPO, **batch})
    return peers


def weights(networks: Any) -> torch.Tensor:
    parameters = [w for pair in networks.values() for net in pair for w in net.parameters()]
    return torch.cat([w.detach().flatten() for w in parameters])


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ippo", "mappo"])
def test_three_updates_equal_skrls(algorithm: str, peers: Any) -> None:
    """Rollouts end inside episodes, and episodes are cut inside rollouts."""
    run = peers.Run(ENVIRONMENT, algorithm, "", 0)
    agent, _ = peers.started(run, 60)
    agent.close()
    begun = weights(peers.networks_of(agent))
    (ours, _), (theirs, _) = (learn(run, 180) for learn in peers.LEARN.values())
    assert (weights(ours) - weights(theirs)).abs().max() < 1e-5
    assert (weights(ours) - begun).abs().max() > 0.01  # about 12 steps of 1e-3


def test_the_interval_and_shares_of_a_comparison(peers: Any) -> None:
    """Of five seeds the middle three count; the worst and best of each side do not."""
    pairs = [(-90.0, -9.0), (-11.0, -10.0), (-10.0, -10.0), (-9.0, -10.0), (50.0, -11.0)]
    rows = [
        peers.Row("env", "ippo", seed, -20.0, ours, theirs, ours - theirs)
        for seed, (ours, theirs) in enumerate(pairs)
    ]
    met = peers.compared(rows)
    assert (met.seed, met.holdfast, met.skrl) == ("IQM", -10.0, -10.0)
    assert met.low < 0 < met.high
    assert (met.of_return, met.of_gain, met.met) == (0.0, 0.0, True)
    worse = peers.compared([row._replace(holdfast=row.skrl - 2) for row in rows])
    assert (worse.low, worse.high, worse.of_return, worse.of_gain) == (-2.0, -2.0, 0.2, 0.2)
    assert worse.met is False
