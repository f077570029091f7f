from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from holdfast.envs.wrappers.action_changes import DeadActuators
from holdfast.envs.wrappers.mujoco_changes import MujocoFactors
from holdfast.errors import UsageError

mujoco = pytest.importorskip("mujoco")

ARM = """
<mujoco>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 0.1" friction="1 0.5 0.25"/>
    <body name="ball"><joint name="free" type="free" damping="2"/>
      <geom name="ball" size="0.1" mass="3"/></body>
    <body name="arm" pos="0 0 1"><joint name="hinge" damping="4"/>
      <geom name="rod" type="capsule" fromto="0 0 0 0 0 1" size="0.05" mass="2"/></body>
  </worldbody>
  <actuator><motor name="motor" joint="hinge" gear="7"/></actuator>
</mujoco>
"""


class Arm(gym.Env):
    """A hand-written model; one model for all instances where it is given."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (8,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, model=None, randomise=False):
        self.model = model or mujoco.MjModel.from_xml_string(ARM)
        self.randomise = randomise

    def reset(self, *, seed=None, options=None):
        if self.randomise:
            self.model.body_mass[:] = 99.0
        return np.zeros(8, np.float32), {}


def cheetah():
    return gym.make("HalfCheetah-v5", disable_env_checker=True)


def test_factors_on_a_model_worked_by_hand():
    env = MujocoFactors(
        Arm(),
        gravity=0.5,
        mass={"ball": 2.0},
        friction={"floor": 0.1},
        damping={"free": 3.0, "hinge": 0.25},
        gear={"motor": -2.0},
    )
    model = env.unwrapped.model
    assert model.opt.gravity.tolist() == [0, 0, -9.81 / 2]
    assert model.body_mass.tolist() == [0, 6, 2]  # world, ball, arm
    # A solid sphere: 2/5 m r^2, with m = 6.
    assert model.body_inertia[1] == pytest.approx([2 / 5 * 6 * 0.1**2] * 3)
    assert model.geom_friction[0] == pytest.approx([0.1, 0.05, 0.025])
    assert model.dof_damping.tolist() == [6, 6, 6, 6, 6, 6, 1]
    assert model.actuator_gear[0].tolist() == [-14, 0, 0, 0, 0, 0]
    # What the model caches of masses follows: the subtree of the world weighs 8 kg now.
    assert model.body_subtreemass[0] == pytest.approx(8.0)


def test_only_the_named_parts_change():
    changed, plain = MujocoFactors(cheetah(), mass={"torso": 2.0}), cheetah()
    ours, theirs = changed.unwrapped.model, plain.unwrapped.model
    torso = theirs.body("torso").id
    factors = np.ones(theirs.nbody)
    factors[torso] = 2.0
    assert np.array_equal(ours.body_mass, theirs.body_mass * factors)
    assert np.array_equal(ours.body_inertia, theirs.body_inertia * factors[:, None])
    assert np.array_equal(ours.opt.gravity, theirs.opt.gravity)
    assert np.array_equal(ours.actuator_gear, theirs.actuator_gear)


def test_a_star_means_every_part():
    plain = cheetah()
    built = plain.unwrapped.model
    friction, mass = built.geom_friction.copy(), built.body_mass.copy()
    damping, gear = built.dof_damping.copy(), built.actuator_gear.copy()
    half = {"*": 0.5}
    env = MujocoFactors(plain, mass=half, friction=half, damping=half, gear=half)
    assert np.array_equal(built.geom_friction, 0.5 * friction)
    assert np.array_equal(built.body_mass, 0.5 * mass)
    assert np.array_equal(built.dof_damping, 0.5 * damping)
    assert np.array_equal(built.actuator_gear, 0.5 * gear)
    env.close()
    assert np.array_equal(built.geom_friction, friction)


def test_factors_hold_across_resets():
    env = MujocoFactors(cheetah(), gravity=1.5, gear={"bthigh": 0.5})
    for seed in (0, None, None):
        env.reset(seed=seed)
        assert env.unwrapped.model.opt.gravity[2] == pytest.approx(-9.81 * 1.5)
        assert env.unwrapped.model.actuator_gear[0, 0] == pytest.approx(60.0)


def test_an_environment_that_touches_its_model_at_reset_keeps_the_change():
    env = MujocoFactors(Arm(randomise=True), mass={"ball": 2.0})
    env.reset(seed=0)
    assert env.unwrapped.model.body_mass[1] == 6.0


def test_factors_never_compound_on_a_model_that_is_shared():
    model = mujoco.MjModel.from_xml_string(ARM)
    first = MujocoFactors(Arm(model), mass={"ball": 2.0})
    second = MujocoFactors(Arm(model), mass={"ball": 2.0})
    assert model.body_mass[1] == 6.0
    second.close()
    assert model.body_mass[1] == 3.0
    first.reset(seed=0)
    assert model.body_mass[1] == 6.0
    first.close()
    assert model.body_mass[1] == 3.0
    assert model.body_subtreemass[0] == pytest.approx(5.0)


def test_physics_differs_and_repeats():
    def position(factor):
        env = MujocoFactors(cheetah(), gravity=factor)
        env.reset(seed=0)
        for _ in range(20):
            observation, *_ = env.step(np.full(6, 0.5, np.float32))
        env.close()
        return observation

    assert np.array_equal(position(2.0), position(2.0))
    assert not np.array_equal(position(2.0), position(1.0))


def test_a_factor_of_one_changes_nothing():
    plain, ours = cheetah(), MujocoFactors(cheetah(), gravity=1.0, mass={"torso": 1.0})
    plain.reset(seed=0), ours.reset(seed=0)
    action = np.full(6, 0.5, np.float32)
    assert np.array_equal(plain.step(action)[0], ours.step(action)[0])


def test_a_dead_actuator_is_named():
    env = DeadActuators(cheetah(), ["bfoot"])
    assert env.action(np.ones(6, np.float32)).tolist() == [1, 1, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("factors", "text"),
    [
        ({"mass": {"torzo": 2.0}}, "mujoco.mass: the model has no body 'torzo'; did you mean 'to"),
        ({"friction": {"x": 2.0}}, r"no geom 'x'; It has: floor, torso, head"),
        ({"damping": {"bthig": 2.0}}, "no joint 'bthig'; did you mean 'bthigh'"),
        ({"gear": {"torso": 2.0}}, "no actuator 'torso'"),
    ],
)
def test_unknown_names_list_the_known(factors, text):
    with pytest.raises(UsageError, match=text):
        MujocoFactors(cheetah(), **factors)


def test_an_environment_without_a_model_is_refused():
    with pytest.raises(UsageError, match="CartPoleEnv has no MuJoCo model"):
        MujocoFactors(gym.make("CartPole-v1"), gravity=2.0)
