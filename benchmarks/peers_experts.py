"""Scripted experts for panda-gym's and Gymnasium-Robotics' pushing and picking, by observations.

An expert sees what any policy sees, observation and desired goal, and remembers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Expert = Callable[[Mapping[str, np.ndarray]], np.ndarray]
STEP = 0.05  # m that the hand moves at an action of 1, in both packages
GAIN, SLOW = 0.8, 0.4  # share of the way in one step; action that lowers the hand


@dataclass(frozen=True)
class Pusher:
    """Goes above a place behind the object, then down, and pushes it along the line to the goal.

    ``hand`` and ``thing`` are the first of three entries of the observation, m. ``low`` is the
    height of the hand that pushes and ``high`` that of the one on its way; ``behind`` is the
    distance that it keeps from the object's centre before it pushes. ``speed``: largest action
    that pushes; a fast hand throws the object.
    """

    hand: int
    thing: int
    low: float
    high: float
    behind: float
    speed: float
    size: int  # of the action

    def __call__(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Action of an observation."""
        state, goal = observation['observation'], observation['desired_goal']
        hand = state[self.hand : self.hand + 3]
        thing = state[self.thing : self.thing + 3]
        left = goal[:2] - thing[:2]
        way = left / max(np.linalg.norm(left), 1e-6)
        reach = thing[:2] - hand[:2]
        along = float(reach @ way)
        aside = reach - along * way
        lowered = hand[2] < self.low + 0.02
        if lowered and along > 0 and np.linalg.norm(aside) < 0.015:
            push = way * min(np.linalg.norm(left) * 10, self.speed) + GAIN * aside / STEP
            move = np.append(push, GAIN * (self.low - hand[2]) / STEP)
        else:
            start = np.append(thing[:2] - self.behind * way, self.high)
            move = down_to(start, self.low, hand)
        action = np.zeros(self.size)
        action[:3] = move
        return action.clip(-1, 1)


@dataclass(frozen=True)
class Picker:
    """Goes above the object, down, closes the fingers and carries it to the goal."""

    hand: int
    thing: int
    width: int  # entry of the observation: distance of the fingers, m
    thickness: float  # of the object, m

    def __call__(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Action of an observation."""
        state, goal = observation['observation'], observation['desired_goal']
        hand = state[self.hand : self.hand + 3]
        thing = state[self.thing : self.thing + 3]
        move, fingers = down_to(thing + np.array([0, 0, 0.08]), thing[2], hand), 1.0
        if np.linalg.norm(thing - hand) < 0.02:
            fingers = -1.0
            if state[self.width] < self.thickness + 0.005:  # holds it
                move = GAIN * (goal - thing) / STEP
        return np.append(move, fingers).clip(-1, 1)


def down_to(above: np.ndarray, low: float, hand: np.ndarray) -> np.ndarray:
    """Motion [3] of a hand to the place ``above`` and from there down to the height ``low``.

    It goes down in a funnel, slowly, since an arm that is lowered fast swerves; and up before
    sideways.
    """
    move = GAIN * (above - hand) / STEP
    aside = np.linalg.norm(move[:2]) * STEP / GAIN
    lowered = above[2] - hand[2] > 0.02
    if aside < (0.025 if lowered else 0.01):
        move[2] = max(GAIN * (low - hand[2]) / STEP, -SLOW)
    elif lowered:
        move[:2] = 0.0
    return move


EXPERTS: dict[str, Expert] = {
    'PandaPush-v3': Pusher(hand=0, thing=6, low=0.02, high=0.08, behind=0.06, speed=0.4, size=3),
    'PandaPickAndPlace-v3': Picker(hand=0, thing=7, width=6, thickness=0.04),
    'FetchPush-v4': Pusher(hand=0, thing=3, low=0.425, high=0.49, behind=0.07, speed=1, size=4),
}
