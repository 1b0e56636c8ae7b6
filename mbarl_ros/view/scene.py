"""What is drawn of a run in space: workspace, goals, demonstrations, recent states, imagination.

ROS-free: shapes in metres, which the node ``visualizer`` publishes as markers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np

from mbarl_ros.schema.show import ShownPoint
from mbarl_ros.schema.task import TaskConfig
from mbarl_ros.storage.transitions import PHASES

POINTS, SEGMENTS, BALL, DISC, TEXT = 'points', 'segments', 'ball', 'disc', 'text'
"""Kinds of shapes: balls at points, lines between pairs of points, one ball, one disc, text."""
MAX_DEMONSTRATED = 1500  # states that are drawn, evenly spaced

# Red, green, blue, alpha; bright, since RViz and Foxglove have dark backgrounds.
_PHASE_COLOURS = {
    'forward': (0.25, 0.6, 1.0, 1.0),
    'backward': (1.0, 0.6, 0.15, 1.0),
    'explore': (0.75, 0.45, 1.0, 1.0),
    '': (0.7, 0.7, 0.7, 1.0),
}
_GREY, _WHITE = (0.6, 0.6, 0.6, 0.8), (1.0, 1.0, 1.0, 1.0)
_GOAL, _ROBOT = (0.25, 0.8, 0.35, 0.45), (1.0, 0.3, 0.25, 1.0)
_IMAGINED_ALPHA, _OLDEST_ALPHA = 0.75, 0.15
# From a score of 0 to one of 1: dark blue, green, yellow.
_SCORES = np.array([[0.27, 0.2, 0.55], [0.13, 0.57, 0.55], [0.99, 0.9, 0.15]])
# Sizes as shares of the diagonal of the workspace.
_LINE, _THIN_LINE, _STATE, _ROBOT_SIZE, _TEXT_SIZE = 0.004, 0.002, 0.008, 0.022, 0.035


@dataclass(frozen=True, eq=False)
class Shape:
    """Something to draw; ``namespace`` and ``number`` identify it, ``points`` [n, 3] are in m.

    ``size`` (m) are the diameters of a ball or disc, the width of lines, the height of text.
    ``colours`` are red, green, blue, alpha, [4], or [n, 4] for points and segments. Without points,
    what was drawn before under its name disappears.
    """

    kind: str
    namespace: str
    frame: str
    points: np.ndarray
    size: tuple[float, float, float]
    colours: np.ndarray
    text: str = ''
    number: int = 0


class Scene:
    """Draws states of a task at the positions that its key ``show`` names."""

    def __init__(self, task: TaskConfig, workspace: Mapping[str, tuple[float, float]]) -> None:
        """``workspace``: state entry -> bounds, for those that the robot profile limits."""
        self.points = task.shown
        self._labels = _unique([point.label for point in self.points])
        self._task = task
        self._columns = [column.name for column in task.columns]
        self._bounds = {entry.name: (entry.low, entry.high) for entry in task.observation}
        self._bounds |= {name: workspace[name] for name in self._bounds if name in workspace}

    def positions(self, point: ShownPoint, states: np.ndarray) -> np.ndarray:
        """Positions [n, 3] of a point in states [n, state_dim] or observations."""
        places = np.zeros((len(states), 3))
        for axis, entry in enumerate((point.x, point.y, point.z)):
            if isinstance(entry, float):
                places[:, axis] = entry
            else:
                places[:, axis] = states[:, self._columns.index(entry)]
        return places

    # --- what stands still -------------------------------------------------------------------

    def static(self, states: np.ndarray, scores: np.ndarray | None) -> list[Shape]:
        """Workspace, goals and demonstrated states.

        :param states: of the demonstrations [n, observation_dim]
        :param scores: the classifier's, from 0 to 1 [n]; None: there is no classifier
        """
        rows = np.arange(len(states))
        if len(states) > MAX_DEMONSTRATED:
            rows = np.linspace(0, len(states) - 1, MAX_DEMONSTRATED).round().astype(int)
        shapes = []
        for point in self.points:
            shapes.append(self._workspace(point))
            shapes += self._goals(point, self._targets())
            shapes.append(self._demonstrations(point, states[rows], scores, rows))
        return shapes

    def _workspace(self, point: ShownPoint) -> Shape:
        low, high = self._box(point)
        corners = np.array(list(product(*zip(low, high, strict=True))))
        edges = [
            (one, other)
            for one, other in product(range(8), repeat=2)
            if one < other and (one ^ other) in (1, 2, 4)
        ]
        return self._shape(
            point, SEGMENTS, 'workspace', corners[np.ravel(edges)], _THIN_LINE, _GREY
        )

    def _targets(self) -> list[dict[str, float]]:
        """For each goal that does not depend on the state: success entry -> value."""
        success, names = self._task.success, [entry.name for entry in self._task.observation]
        if success.target is not None:
            return [dict(zip(success.entries, success.target, strict=True))]
        goals = (dict(zip(names, goal, strict=True)) for goal in self._task.goals)
        return [{name: goal[name] for name in success.entries} for goal in goals]

    def _goals(self, point: ShownPoint, targets: Sequence[Mapping[str, float]]) -> list[Shape]:
        """A ball, or a disc where the height does not count, of the radius of the tolerance.

        None where success does not depend on the position of the point.
        """
        shapes = []
        diameter = 2 * self._task.success.tolerance
        for number, target in enumerate(targets):
            if point.x not in target or point.y not in target:
                continue
            height = target.get(point.z) if isinstance(point.z, str) else None
            kind, thickness = BALL, diameter
            if height is None:
                kind, thickness = DISC, _LINE * self._diagonal(point)
                height = self._box(point)[0][2]
            centre = np.array([[target[point.x], target[point.y], height]])
            shape = self._shape(point, kind, 'goal', centre, 0.0, _GOAL)
            shapes.append(replace(shape, size=(diameter, diameter, thickness), number=number))
        return shapes

    def _demonstrations(
        self, point: ShownPoint, states: np.ndarray, scores: np.ndarray | None, rows: np.ndarray
    ) -> Shape:
        colours = np.array(_GREY) if scores is None else score_colours(scores[rows])
        places = self.positions(point, states)
        return self._shape(point, POINTS, 'demonstrations', places, _STATE, colours)

    # --- what moves --------------------------------------------------------------------------

    def moving(
        self,
        states: np.ndarray,
        phases: Sequence[str],
        rollouts: Mapping[str, np.ndarray],
        text: str,
    ) -> list[Shape]:
        """Recent states by phase, the newest one, imagined rollouts, and text above all.

        :param states: recent ones, the newest last [n, state_dim], n at least 1
        :param phases: of each of them [n]
        :param rollouts: policy -> segments of its imagined rollouts [pairs, 2, state_dim]
        """
        shapes = []
        for point in self.points:
            places = self.positions(point, states)
            shapes += [self._path(point, places, phases, phase) for phase in _PHASE_COLOURS]
            shapes += [self._rollouts(point, policy, rollouts.get(policy)) for policy in PHASES]
            shapes.append(self._shape(point, BALL, 'robot', places[-1:], _ROBOT_SIZE, _ROBOT))
            if self._task.success.goal_entries:
                shapes += self._goals(point, [self._told_goal(states[-1])])
        first = self.points[0]
        low, high = self._box(first)
        above = np.array([[*(low + high)[:2] / 2, high[2] + 0.06 * self._diagonal(first)]])
        shape = self._shape(first, TEXT, 'text', above, _TEXT_SIZE, _WHITE)
        return [*shapes, replace(shape, namespace='text', text=text)]

    def _path(
        self, point: ShownPoint, places: np.ndarray, phases: Sequence[str], phase: str
    ) -> Shape:
        """The way through the states of a phase; the older, the fainter."""
        pairs = [
            (number, number + 1)
            for number, both in enumerate(pairwise(phases))
            if both == (phase, phase)
        ]
        index = np.array(pairs, int).reshape(-1)
        colours = np.tile(np.array(_PHASE_COLOURS[phase]), (len(index), 1))
        colours[:, 3] = _OLDEST_ALPHA + (1 - _OLDEST_ALPHA) * index / max(len(places) - 1, 1)
        name = f'path/{phase or "other"}'
        return self._shape(point, SEGMENTS, name, places[index], _LINE, colours)

    def _rollouts(self, point: ShownPoint, policy: str, pairs: np.ndarray | None) -> Shape:
        flat = (
            np.zeros((0, len(self._columns)))
            if pairs is None
            else pairs.reshape(-1, pairs.shape[-1])
        )
        pale = np.add(_PHASE_COLOURS[policy], _WHITE)[:3] / 2
        colour = np.array([*pale, _IMAGINED_ALPHA])
        places = self.positions(point, flat)
        return self._shape(point, SEGMENTS, f'imagined/{policy}', places, _THIN_LINE, colour)

    def _told_goal(self, state: np.ndarray) -> dict[str, float]:
        """Success entry -> value of the goal that a state tells."""
        success = self._task.success
        told = zip(success.entries, success.goal_entries, strict=True)
        columns = self._columns
        return {name: float(state[columns.index(goal)]) for name, goal in told if goal in columns}

    # --- sizes and names ---------------------------------------------------------------------

    def _box(self, point: ShownPoint) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner [3] of where a point may be."""
        bounds = [
            (entry, entry) if isinstance(entry, float) else self._bounds[entry]
            for entry in (point.x, point.y, point.z)
        ]
        low, high = np.array(bounds, float).T
        return low, high

    def _diagonal(self, point: ShownPoint) -> float:
        low, high = self._box(point)
        return float(np.linalg.norm(high - low))

    def _shape(
        self,
        point: ShownPoint,
        kind: str,
        name: str,
        places: np.ndarray,
        size: float,
        colours: np.ndarray | Sequence[float],
    ) -> Shape:
        """A shape of a point; ``size`` as a share of its workspace."""
        label = self._labels[self.points.index(point)]
        namespace = '/'.join(filter(None, (name, label)))
        metres = size * self._diagonal(point)
        colours = np.asarray(colours, float)
        return Shape(kind, namespace, point.frame, places, (metres,) * 3, colours)


def _unique(labels: Sequence[str]) -> list[str]:
    """Labels by which points differ; those that several points have get a number."""
    return [
        f'{label or "point"}_{number}' if labels.count(label) > 1 else label
        for number, label in enumerate(labels, 1)
    ]


def rollout_segments(start: np.ndarray, rollouts: Sequence[np.ndarray]) -> np.ndarray:
    """Pairs of states [n, 2, state_dim] that follow each other in rollouts.

    :param start: the state from which all of them start [state_dim]
    :param rollouts: states [steps, state_dim] of each
    """
    chains = [np.concatenate([start[None], states]) for states in rollouts]
    pairs = [np.stack([chain[:-1], chain[1:]], 1) for chain in chains]
    return np.concatenate(pairs) if pairs else np.zeros((0, 2, len(start)))


def score_colours(scores: np.ndarray) -> np.ndarray:
    """Colours [n, 4] of scores [n] from 0 (dark blue) over green to 1 (yellow)."""
    at = np.linspace(0.0, 1.0, len(_SCORES))
    channels = [np.interp(scores, at, channel) for channel in _SCORES.T]
    return np.stack([*channels, np.ones(len(scores))], 1)
