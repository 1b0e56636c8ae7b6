"""Worlds of a user with a mistake in each; tests name them by import path."""

import os

import numpy as np
import pybullet

from mbarl_sim.pointmass import PointMass
from mbarl_sim.worlds import load_urdf

BLOWS_UP_AFTER = 120  # steps without a reset: never in an evaluation, which is shorter


class BlowsUp(PointMass):
    """Its physics break down."""

    steps = 0

    def set_state(self, state):  # also of each reset
        self.steps = 0
        return super().set_state(state)

    def step(self, command):
        state = super().step(command)
        self.steps += 1
        return np.array([state[0], np.nan, *state[2:]]) if self.steps > BLOWS_UP_AFTER else state


class LosesEachTime(PointMass):
    """Whatever is put back is lost again at once."""

    def step(self, command):
        self.put_right += 1
        return super().step(command)


class OwnUrdf(PointMass):
    """It loads a URDF that is no URDF, and does not use :func:`load_urdf`."""

    def __init__(self, *, seed=0):
        super().__init__(seed=seed)
        pybullet.loadURDF(os.environ['URDF'])


class Urdf(PointMass):
    """The same with :func:`load_urdf`."""

    def __init__(self, *, seed=0):
        super().__init__(seed=seed)
        load_urdf(self._client, os.environ['URDF'])


class TwoNumbers(PointMass):
    """A state of another size than its names."""

    def step(self, command):
        return super().step(command)[:2]
