"""Scripted operators of the tasks in which the Panda grasps an object."""

from __future__ import annotations

import numpy as np

from mbarl_sim import peg, pick_place
from mbarl_sim.arm_operators import ArmOperator
from mbarl_sim.manipulation import SPEED
from mbarl_sim.operator import BACKWARD, FORWARD
from mbarl_sim.panda import OPEN

# m, wanted of the fingers: they press on what is between them. A teleop topic keeps the last
# command while its field is 0.
CLOSED = 0.01
CLOSES, OPENS = 3, 2  # steps that fingers take; waiting longer, a clone never learns to go on
STUCK = 4  # steps without progress downwards after which the hand rests on something


class GraspOperator(ArmOperator):
    """Fetches the object from above, carries it to its place, lets go and goes up.

    Backward, the hand goes home afterwards. Subclasses say where the place is. Whenever the object
    is not between the fingers where it should be, it starts again.
    """

    home: np.ndarray  # m
    height: float  # m, of the middle of the standing object
    grasp: float  # m, from there up to the hand that holds it
    travel: float  # m, height at which the hand travels
    near = 0.025  # m, from its place the object may stay
    scatter = 0.008  # m, of the places at which the object is put down

    def begin(self, direction: str = FORWARD, goal: np.ndarray | None = None) -> None:
        """Start an episode; forward episodes of a task with goals need one."""
        super().begin(direction, goal)
        self._place = self._target() + self.rng.uniform(-self.scatter, self.scatter, 2)
        self._grip, self._wait, self._lowest, self._still = OPEN, 0, np.inf, 0

    def _target(self) -> np.ndarray:
        """Place [2] (m) to which the object is taken in this episode."""
        raise NotImplementedError

    def _done(self, hand: np.ndarray, thing: np.ndarray) -> bool:
        """Whether the object is at its place, and nobody holds it."""
        near = np.linalg.norm(thing[:2] - self._target()) < self.near
        return bool(near and abs(thing[2] - self.height) < 0.01)

    def _plan(self, hand: np.ndarray, thing: np.ndarray) -> tuple[np.ndarray, float]:
        aside = float(np.linalg.norm(hand[:2] - thing[:2]))
        slipped = aside > 0.03 or hand[2] - thing[2] > self.grasp + 0.03
        if self._stage in ('lift', 'carry', 'lower') and slipped:
            self._go('begin')
        motion = getattr(self, f'_{self._stage}')(hand, thing, aside)
        return motion, self._grip

    def _go(self, stage: str) -> None:
        self._stage, self._wait, self._lowest, self._still = stage, 0, np.inf, 0

    def _begin(self, hand: np.ndarray, thing: np.ndarray, aside: float) -> np.ndarray:
        """Open, and go up to where nothing is in the way."""
        self._grip = OPEN
        if hand[2] < self.travel - self.rise:
            return self._towards(np.array([*hand[:2], self.travel]), hand)
        self._go('leave' if self._done(hand, thing) else 'over')
        return self._towards(hand, hand)

    def _over(self, hand: np.ndarray, thing: np.ndarray, aside: float) -> np.ndarray:
        if aside < 0.006:
            self._go('down')
        return self._towards(np.array([*thing[:2], self.travel]), hand)

    def _down(self, hand: np.ndarray, thing: np.ndarray, aside: float) -> np.ndarray:
        low = thing[2] + self.grasp
        if aside > 0.02:
            self._go('begin')
        elif hand[2] < low + 0.005 or self._rests(hand[2]):
            self._go('close')
        return self._towards(np.array([*thing[:2], low - 0.005]), hand, gain=4.0)

    def _close(self, hand: np.ndarray, thing: np.ndarray, aside: float) -> np.ndarray:
        return self._hold(CLOSED, CLOSES, 'lift')

    def _lift(self, hand: np.ndarray, thing: np.ndarray, aside: float) -> np.ndarray:
        if hand[2] > self.travel - self.rise:
            self._go('carry')
        return self._towards(np.array([*hand[:2], self.travel]), hand)

    def _carry(self, hand: np.ndarray, thing: np.ndarray, aside: float) -> np.ndarray:
        way = self._place - thing[:2]
        if np.linalg.norm(way) < 0.006:
            self._go('lower')
        return self._towards(np.array([*(hand[:2] + way), self.travel]), hand)

    def _lower(self, hand: np.ndarray, thing: np.ndarray, aside: float) -> np.ndarray:
        if thing[2] < self.height + 0.004 or self._rests(hand[2]):
            self._go('release')
        way = self._place - thing[:2]
        down = self.height - thing[2] - 0.004
        return self._towards(hand + np.array([*way, down]), hand, gain=4.0)

    def _release(self, hand: np.ndarray, thing: np.ndarray, aside: float) -> np.ndarray:
        return self._hold(OPEN, OPENS, 'begin')

    def _leave(self, hand: np.ndarray, thing: np.ndarray, aside: float) -> np.ndarray:
        if not self._done(hand, thing):
            self._go('begin')
        home = np.append(hand[:2], self.travel) if self.direction == FORWARD else self.home
        self._finished = bool(np.linalg.norm(hand - home) < 0.025)
        return self._towards(home, hand)

    def _hold(self, grip: float, steps: int, then: str) -> np.ndarray:
        """Stand still for ``steps`` while the fingers move, then go on to another stage."""
        self._grip = grip
        self._wait += 1
        if self._wait == steps:
            self._go(then)
        return np.zeros(3)

    def _rests(self, height: float) -> bool:
        """Whether the hand has stopped sinking."""
        if height < self._lowest - 0.002:
            self._lowest, self._still = height, 0
        self._still += 1
        return self._still > STUCK + self._pause


class PickPlaceOperator(GraspOperator):
    """Takes the cube to its goal; backward, to where the demonstrations began."""

    home, travel = pick_place.HAND_START, pick_place.HAND_START[2]
    height, grasp = pick_place.SIDE / 2, 0.0

    def _target(self) -> np.ndarray:
        if self.direction == BACKWARD:
            return pick_place.START
        names = [entry.name for entry in self.task.config.observation]
        return np.asarray(self.goal, np.float64)[[names.index(f'object_{axis}') for axis in 'xy']]


class PegOperator(GraspOperator):
    """Puts the peg into the box; backward, pulls it out and puts it where demonstrations began."""

    home, travel = peg.HAND_START, peg.HAND_START[2]
    height, grasp = peg.BALLAST, 0.038
    _IN = peg.DEPTH - 0.018  # m, height of the tip at which the hole guides the peg

    def _target(self) -> np.ndarray:
        return peg.START if self.direction == BACKWARD else peg.HOLE

    def _carry(self, hand: np.ndarray, thing: np.ndarray, aside: float) -> np.ndarray:
        if self.direction == BACKWARD:
            return super()._carry(hand, thing, aside)
        way = self._place - thing[:2]
        distance = float(np.linalg.norm(way))
        if distance < 0.0015:
            self._go('lower')
        up = np.clip(self.travel - hand[2], -0.02, 0.02)
        return self._careful(np.array([*way, up]), distance)

    def _lower(self, hand: np.ndarray, thing: np.ndarray, aside: float) -> np.ndarray:
        if self.direction == BACKWARD:
            return super()._lower(hand, thing, aside)
        if thing[2] - self.height < self._IN:
            self._go('release')
        elif self._rests(hand[2]):  # on the rim
            self._place = peg.HOLE + self.rng.uniform(-0.003, 0.003, 2)
            self._go('carry')
        return self._careful(np.array([*(self._place - thing[:2]), -0.02]), 0.01)

    def _careful(self, way: np.ndarray, distance: float) -> np.ndarray:
        """Slower the nearer the peg is to the hole; the slower, the less tremor."""
        return self._steer(way, min(self._pace, 2.0 * distance + 0.02), SPEED, 3.0)
