"""Turns of SBX, Stable-Baselines3 in JAX, for ``speed.py``: in an interpreter that has it.

Its arguments are an algorithm, an environment, how many of it, the steps of a turn, and the
algorithm's settings as JSON. For each line it reads it learns for a turn, and prints its
environment steps per second of processor time.
"""

from __future__ import annotations

import json
import os
import sys
import time

# As the compiled engine has it; before jax is imported.
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["NPROC"] = "1"

import sbx
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

if __name__ == "__main__":
    name, env_id, n_envs, steps, settings = sys.argv[1:]
    env = make_vec_env(env_id, n_envs=int(n_envs), seed=0)
    model = getattr(sbx, name)("MlpPolicy", env, seed=0, **json.loads(settings))
    model.set_logger(Logger(None, []))
    for _ in sys.stdin:
        started = time.process_time()
        model.learn(int(steps), reset_num_timesteps=True)
        print(int(steps) / (time.process_time() - started), flush=True)
