"""Environments that tell where they are, and some that fail in every way there is."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

FAULTS = {}


def fault(name):
    def add(function):
        FAULTS[name] = function
        return function

    return add


@fault("raise")
def _raise(env):
    raise ValueError("boom")


@fault("exit")
def _exit(env):
    sys.exit(3)


@fault("os_exit")
def _os_exit(env):
    os._exit(7)


@fault("kill")
def _kill(env):
    os.kill(os.getpid(), signal.SIGKILL)


@fault("segfault")
def _segfault(env):
    ctypes.string_at(0)


@fault("hang")
def _hang(env):
    here_it_hangs()


def here_it_hangs():
    time.sleep(3600)


@fault("stop")
def _stop(env):
    os.kill(os.getpid(), signal.SIGSTOP)


@fault("nonsense")
def _nonsense(env):
    for descriptor in range(3, 32):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"hello\n\n17\n")


@fault("print")
def _print(env):
    print("to stdout")  # noqa: T201
    os.write(1, b"to stdout, past Python\n")
    subprocess.run(["echo", "to stdout, from a child"])
    assert sys.stdin.read() == ""


@fault("orphan")
def _orphan(env):
    child = subprocess.Popen(["sleep", "3600"])
    Path(env.note).write_text(str(child.pid))
    os._exit(0)


@fault("elsewhere")
def _elsewhere(env):
    os.chdir("/")
    threading.Thread(target=time.sleep, args=(3600,), daemon=False).start()


@fault("nan")
def _nan(env):
    return float("nan")


class Coded(gym.Env):
    """Observations tell who, in which episode and at which step: (index, seed, episode, step).

    An episode has 3 + (seed + episode) % 5 steps; every third ends truncated. The reward is the
    action times a number that episode and step make. ``faults`` maps "step" or "reset" to the name
    of a fault; it happens once in each process, if ``when`` (a file) is not there yet.
    """

    def __init__(self, index=0, fault=None, place="step", at=4, once=None, note=None):
        self.observation_space = Box(-1.0, 2.0**33, (4,), np.float64)
        self.action_space = Discrete(1000)
        self.index, self.fault, self.place, self.at = index, fault, place, at
        self.once, self.note = once, note
        self.seed, self.episode, self.step_count, self.total = -1, 0, 0, 0

    def _maybe_fail(self, place):
        if self.fault is None or place != self.place or self.total < self.at:
            return None
        if self.once is not None:
            try:
                Path(self.once).touch(exist_ok=False)  # in one step: workers come here at once
            except FileExistsError:
                return None
        return FAULTS[self.fault](self)

    def _observation(self):
        return np.array([self.index, self.seed, self.episode, self.step_count], np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.seed, self.episode = seed, 0
        else:
            self.episode += 1
        self.step_count = 0
        self._maybe_fail("reset")
        return self._observation(), {"begun": self.episode}

    def step(self, action):
        self.total += 1
        self.step_count += 1
        found = self._maybe_fail("step")
        done = self.step_count >= 3 + (self.seed + self.episode) % 5
        cut = done and self.episode % 3 == 2
        reward = float(action) * (1 + self.step_count + 10 * self.episode)
        observation = self._observation()
        if found is not None:
            observation[1] = found
        return observation, reward, done and not cut, cut, {"step": self.step_count}

    def stumble(self):
        raise RuntimeError("not now")


class Masked(Coded):
    def action_masks(self):
        return np.arange(3) != self.step_count % 3


class Pictures(gym.Env):
    """A picture and a vector, in a Dict."""

    def __init__(self):
        picture = Box(0, 255, (12, 10, 3), np.uint8)
        self.observation_space = Dict(
            {"vector": Box(-1, 1, (2,), np.float32), "camera": picture, "kind": Discrete(3)}
        )
        self.action_space = Box(-1, 1, (2,), np.float32)
        self.step_count = 0

    def _observation(self):
        return {
            "vector": self.np_random.uniform(-1, 1, 2).astype(np.float32),
            "camera": self.np_random.integers(0, 256, (12, 10, 3), dtype=np.uint8),
            "kind": np.int64(self.np_random.integers(3)),
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_count = 0
        return self._observation(), {"options": options or {}}

    def step(self, action):
        self.step_count += 1
        info = {
            "is_success": self.step_count > 5,
            "array": np.arange(3, dtype=np.float32),
            "object": object(),
        }
        return self._observation(), float(action.sum()), False, self.step_count == 7, info


class Camera(gym.Wrapper):
    """Shows the picture alone."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = env.observation_space["camera"]

    def reset(self, **given):
        observation, info = self.env.reset(**given)
        return observation["camera"], info

    def step(self, action):
        observation, *rest = self.env.step(action)
        return observation["camera"], *rest


class OnlyCamera(Camera):
    def __init__(self):
        super().__init__(Pictures())


class Broken(gym.Env):
    observation_space = Box(-1, 1, (2,))
    action_space = Discrete(2)

    def __init__(self, fault="raise"):
        FAULTS[fault](self)


class SixArms(gym.Env):
    """The sixth cannot be built; each notes its process."""

    observation_space = Box(-1, 1, (2,))
    action_space = Discrete(2)

    def __init__(self, index, folder):
        Path(folder, f"built-{os.getpid()}").touch()
        if index == 5:
            raise RuntimeError("no sixth arm")

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}
