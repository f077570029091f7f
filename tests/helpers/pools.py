"""Environments that tell where they are, some of which fail, and what a pool of them must show."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from holdfast.envs.base.loading import build
from holdfast.envs.processes.pool import RESTARTED
from holdfast.scenarios.schema.sections import Pool
from holdfast.seeding import derive

ENVS = Path(__file__).parents[1] / "envs"
SLOW, FAST = Pool(workers=2), Pool(workers=2, step_timeout_s=0.5, reset_timeout_s=0.5)


def odd(name, **kwargs):
    """Return what makes an environment of ``odd_worlds``."""
    return partial(build, f"odd_worlds:{name}", kwargs, folder=ENVS)


def coded(count, *, faulty=1, **fault):
    """Return makers of environments that tell where they are; one of them fails."""
    return [odd("Coded", index=i, **(fault if i == faulty else {})) for i in range(count)]


def processes(pool):
    """Return the processes of a pool."""
    return [process.pid for process in pool._processes]


def many_steps(env, count):
    """Step ``count`` environments a hundred times."""
    for _ in range(100):
        env.step(np.ones(count, int))


class Reference:
    """What the environments of ``odd_worlds.Coded`` must show, worked out without running them."""

    def __init__(self, pool, seed):
        self.pool, self.seed = pool, seed
        self.shown = pool.reset()
        self.states = [[index, seed + index, 0, 0] for index in range(pool.num_envs)]
        self.cuts = 0
        assert self.shown.tolist() == self.states or pool.restarts
        if pool.restarts:
            self._adopt(range(pool.num_envs), 0)

    def _adopt(self, indices, before):
        """Check the seeds of episodes that began after a restart."""
        allowed = range(before + 1, self.pool.restarts + 1)
        for i in indices:
            index, seed, episode, step = self.shown[i].tolist()
            derived = {derive(self.seed, "restart", i, n) for n in allowed}
            assert (index, episode, step) == (i, 0, 0)
            assert seed in derived | ({self.seed + i} if before == 0 else set())
            self.states[i] = [i, int(seed), 0, 0]

    def step(self, actions):
        before, restarts = self.shown.copy(), self.pool.restarts
        self.shown, rewards, dones, infos = self.pool.step(actions)
        cut = [i for i, info in enumerate(infos) if RESTARTED in info]
        for i in cut:
            assert (rewards[i], dones[i], infos[i]["TimeLimit.truncated"]) == (0.0, True, True)
            assert np.array_equal(infos[i]["terminal_observation"], before[i])
            assert "episode" not in infos[i]
        self._adopt(cut, restarts)
        self.cuts += bool(cut)
        for i in set(range(len(actions))) - set(cut):
            index, seed, episode, step = self.states[i]
            step += 1
            done = step >= 3 + (seed + episode) % 5
            reached = [index, seed, episode, step]
            assert rewards[i] == np.float32(float(actions[i]) * (1 + step + 10 * episode))
            assert dones[i] == done
            assert infos[i]["step"] == step
            assert infos[i]["TimeLimit.truncated"] == (done and episode % 3 == 2)
            if done:
                assert infos[i]["terminal_observation"].tolist() == reached
                assert infos[i]["episode"]["l"] == step
                reached = [index, seed, episode + 1, 0]
            self.states[i] = reached
            assert self.shown[i].tolist() == reached
        return infos
