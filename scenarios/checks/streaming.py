"""What learners that update at every step, from that step alone, cannot take; each by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.registry import AGENTS, ALGORITHMS
from holdfast.scenarios.checks.agent import POLICY_PLAIN, meant_algorithm
from holdfast.scenarios.checks.messages import Finding, mapping
from holdfast.scenarios.source.yaml_file import KeyPath

# By the key: the only value that is taken, and what to say of another.
_ONLY: tuple[tuple[KeyPath, Any, str], ...] = (
    (("n_envs",), 1, "'{}' learns from one step at a time, of one environment; write n_envs: 1"),
    (("agent", "normalize"), None, "'{}' normalises observations and rewards itself; remove it"),
    (("agent", "device"), "cpu", "'{}' was written for the processor; write device: cpu"),
    (("carry", "optimizer"), False, "traces of '{}' begin empty in every episode; remove it"),
)
_LAYERS = "layers of '{}' are linear, LayerNorm and LeakyReLU, moved by ObGD; remove it"


def check_streaming(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what a scenario asks for that its streaming learner cannot do."""
    agent = mapping(data.get("agent"))
    name = meant_algorithm(agent)
    if name not in AGENTS or not AGENTS[name].is_streaming:
        return
    for path, only, why in _ONLY:
        *sections, key = map(str, path)
        section = mapping(data.get(sections[0])) if sections else data
        if section.get(key, only) != only:
            yield Finding(path, why.format(name))
    networks = mapping(agent.get("policy_kwargs"))
    for key in POLICY_PLAIN:
        if key in networks:
            place = ("agent", "policy_kwargs", key)
            yield Finding(place, _LAYERS.format(name), at_key=True)
    layers = networks.get("net_arch", [])
    if not isinstance(layers, list):
        others = ", ".join(n for n, entry in ALGORITHMS.items() if not entry.is_streaming)
        message = f"'{name}' has equal networks: write [128, 128]; mappings are for {others}"
        yield Finding(("agent", "policy_kwargs", "net_arch"), message)
