"""Compiled updates on a GPU: whether they equal those on the CPU, and how many there are a second.

Needs JAX with its CUDA packages (``pip install "jax[cuda13]"``, of the release that is installed).
Both sides are processes of their own, since a process has one platform. In float64 ten updates of
SAC, 4x256, from equal weights, batches and noise are compared; then updates a second are counted
for one agent, and for ten and 32 in lockstep, all in one call, beside Stable-Baselines3 on the same
device. ``--platform cpu`` tries the script where there is no GPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

from holdfast.agents.base.gradient_norms import GradientNorms
from holdfast.agents.compiled.engine import Engine, start_jax
from holdfast.agents.compiled.lockstep import Lockstep
from holdfast.agents.doors.gradients import Works
from holdfast.continual.jobs.lockstep_cells import Scene

SEEDS = (1, 10, 32)
SETTINGS: dict[str, Any] = {"buffer_size": 2000, "learning_starts": 10**6, "batch_size": 128}


def model_of(seed: int, layers: list[int], device: str = "cpu") -> Any:
    """Return SAC with a filled buffer, which has learned nothing."""
    env = make_vec_env("Pendulum-v1", seed=seed)
    model = SAC(
        *("MlpPolicy", env),
        seed=seed,
        policy_kwargs={"net_arch": layers},
        device=device,
        **SETTINGS,
    )
    model.set_logger(Logger(None, []))
    model.learn(2000)
    return model


def learned(layers: list[int], into: Path) -> None:
    """Write the weights after ten updates in float64."""
    start_jax()
    import jax  # here: start_jax says how it is to be imported

    jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    model = model_of(0, layers)
    model.policy.double()
    model.log_ent_coef = model.log_ent_coef.detach().double().requires_grad_()
    model.ent_coef_optimizer = torch.optim.Adam([model.log_ent_coef], lr=model.lr_schedule(1))
    np.random.seed(1)
    torch.manual_seed(1)
    with Engine(model, Works(), GradientNorms()).attached():
        for _ in range(10):
            model.train(gradient_steps=1, batch_size=128)
    print(jax.devices()[0], flush=True)
    np.savez(into, **{name: value.numpy() for name, value in model.policy.state_dict().items()})


def compiled_rate(seeds: int, layers: list[int], count: int) -> float:
    """Return updates a second, of all agents together; compilation is not part of it."""
    start_jax()
    from holdfast.agents.compiled import programs  # here: it imports jax

    programs.LANES = seeds
    times: list[float] = []

    def body(seed: int) -> None:
        model = model_of(seed, layers)
        with Engine(model, Works(), GradientNorms()).attached():
            model.train(gradient_steps=1, batch_size=128)
            times.append(time.perf_counter())
            for _ in range(count):
                model.train(gradient_steps=1, batch_size=128)
            times.append(time.perf_counter())

    if seeds == 1:
        body(0)
    else:
        scenes = [Scene() for _ in range(seeds)]
        Lockstep(scenes).run([partial(body, seed) for seed in range(seeds)])
    return seeds * count / (max(times) - min(times))


def plain_rate(layers: list[int], count: int, device: str) -> float:
    """Return Stable-Baselines3's updates a second."""
    model = model_of(0, layers, device)
    model.train(gradient_steps=3, batch_size=128)
    began = time.perf_counter()
    model.train(gradient_steps=count, batch_size=128)
    return count / (time.perf_counter() - began)


def child(platform: str, *arguments: str) -> str:
    """Run a part of this script in a process of its own, and return what it printed."""
    environment = os.environ | {"JAX_PLATFORMS": platform, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "engines.gpu", "--part", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.PIPE
    )
    return done.stdout.decode().strip()


def main(platform: str, width: int, count: int) -> None:
    """Compare, measure, and print."""
    with tempfile.TemporaryDirectory() as place:
        ends: list[Any] = []
        for name in ("cpu", platform):
            path = Path(place) / f"{name}-{len(ends)}.npz"
            print("learned on", child(name, "learned", str(path), "--width", str(width)))
            ends.append(np.load(path))
        most = max(float(np.abs(ends[0][n] - ends[1][n]).max()) for n in ends[0].files)
    print(f"largest difference of a weight after ten updates in float64: {most:.1e}")
    shown = ["--width", str(width), "--count", str(count), "--platform", platform]
    plain = float(child("cpu", "plain", "1", *shown))
    print(f"Stable-Baselines3: {plain:.0f} updates/s", flush=True)
    for seeds in SEEDS:
        rate = float(child(platform, "compiled", str(seeds), *shown))
        print(f"compiled, {seeds} seeds: {rate:.0f} updates/s, {rate / plain:.2f} times as many")
    if most > 1e-9:
        raise SystemExit("the updates differ by more than rounding")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--platform", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--width", type=int, default=256, help="of four layers")
    parser.add_argument("--count", type=int, default=200, help="updates that are timed")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    layers = [options.width] * 4
    match options.part:
        case None:
            main(options.platform, options.width, options.count)
        case ["learned", path]:
            learned(layers, Path(path))
        case ["plain", _]:
            print(plain_rate(layers, options.count, options.platform))
        case [_, seeds]:
            print(compiled_rate(int(seeds), layers, options.count))
