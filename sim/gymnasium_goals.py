"""What a goal environment of Gymnasium tells: the entries that are to reach the goal, how near."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mbarl_sim.gymnasium_world import SUCCESS, GymnasiumWorld

GOAL = 'desired_goal_'  # and a number: names of the goal's entries in the state
DIRECTIONS = 20
DISTANCES = np.append(0.0, np.geomspace(1e-4, 1e2, 61))
BISECTIONS = 40


def reaching_entries(
    world: GymnasiumWorld, states: np.ndarray, achieved: np.ndarray
) -> dict[str, str]:
    """Entry of the goal -> the state entry that is to reach it; empty where nothing tells.

    It tells where the ``achieved_goal`` equals the same entries, in a row, in all states.

    :param states: [n, S], visited
    :param achieved: achieved goals [n, G] in these states
    """
    goals = [name for name in world.state_names if name.startswith(GOAL)]
    size = len(goals)
    if not size or achieved.shape[1] != size or not np.ptp(achieved, axis=0).any():
        return {}
    firsts = [
        i for i in range(states.shape[1] - size + 1) if (states[:, i : i + size] == achieved).all()
    ]
    if len(firsts) != 1:
        return {}
    return dict(zip(goals, world.state_names[firsts[0] :], strict=False))


def success_by_goal(
    world: GymnasiumWorld, reaching: dict[str, str], states: np.ndarray
) -> dict[str, Any] | None:
    """Key ``success`` of the task, where success is a distance between entries of the state.

    So it is where the reward by ``compute_reward`` has two values, a higher one within a distance
    of the goal, as in the sparse environments of Gymnasium-Robotics, and where what the
    environment itself calls a success agrees.

    :param states: [n, S], each the result of a step
    """
    tolerance = _tolerance(world, len(reaching)) if reaching else None
    if tolerance is None:
        return None
    names = world.state_names
    entries, goals = (
        [names.index(name) for name in side] for side in (reaching.values(), reaching)
    )
    near = np.linalg.norm(states[:, entries] - states[:, goals], axis=-1) <= tolerance
    if (near != states[:, names.index(SUCCESS)]).any():
        return None
    return {
        'entries': list(reaching.values()),
        'goal_entries': list(reaching),
        'tolerance': tolerance,
    }


def _tolerance(world: GymnasiumWorld, size: int) -> float | None:
    """Distance up to which a goal counts as reached, the same in all directions; None: no such."""
    compute_reward = getattr(world.env.unwrapped, 'compute_reward', None)
    if compute_reward is None:
        return None
    shapes = [world.env.observation_space[f'{key}_goal'].shape for key in ('achieved', 'desired')]
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(DIRECTIONS):
        way = rng.normal(size=size)
        way /= np.linalg.norm(way)

        def reward(distance: float, way: np.ndarray = way) -> float:
            ends = (distance * way).reshape(shapes[0]), np.zeros(shapes[1])
            return float(np.squeeze(compute_reward(*ends, {})))

        try:
            found.add(_edge(reward))
        except Exception:  # whatever somebody's reward raises without its info
            return None
    return found.pop() if len(found) == 1 else None


def _edge(reward: Callable[[float], float]) -> float | None:
    """Where a reward falls from its one value to its other, six digits; None: it has no two."""
    values = [reward(distance) for distance in DISTANCES]
    falls = np.flatnonzero(np.diff(values))
    if len(falls) != 1 or values[0] < values[-1]:
        return None
    inside, outside = DISTANCES[falls[0]], DISTANCES[falls[0] + 1]
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if reward(middle) == values[0] else (inside, middle)
    return float(f'{inside:.6g}')
