"""Subscribes to the markers of a graph, and draws them as RViz would."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from visualization_msgs.msg import Marker, MarkerArray

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_BACKGROUND = '#303030'  # RViz's


class MarkerView:
    """The markers that are shown now: those of both topics, less the deleted ones."""

    def __init__(self, node: Any) -> None:
        """Subscribe, as a viewer does."""
        self.markers: dict[tuple[str, int], Marker] = {}
        self.received = 0  # messages
        create = node.create_subscription
        create(MarkerArray, 'visualizer/static_markers', self._receive, LATCHED)
        create(MarkerArray, 'visualizer/markers', self._receive, 10)

    def _receive(self, message: MarkerArray) -> None:
        self.received += 1
        for marker in message.markers:
            self.markers.pop((marker.ns, marker.id), None)
            if marker.action == Marker.ADD:
                self.markers[marker.ns, marker.id] = marker

    def points(self, namespace: str) -> np.ndarray:
        """Points [n, 3] of a list, or the centre [1, 3] of a single thing; none: not shown."""
        marker = self.markers.get((namespace, 0))
        return np.zeros((0, 3)) if marker is None else points_of(marker)

    def colours(self, namespace: str) -> np.ndarray:
        """Colours [n, 4] of the points, or the one [1, 4] of all."""
        marker = self.markers[namespace, 0]
        return np.array([[c.r, c.g, c.b, c.a] for c in marker.colors or [marker.color]])

    def draw(
        self,
        path: Path,
        elevation: float = 90.0,
        azimuth: float = -90.0,
        names: Collection[str] = (),
    ) -> np.ndarray:
        """Write a PNG of what is shown; its pixels [height, width, 3].

        :param elevation: from where it is seen (degrees); 90: from above
        :param names: namespaces that are drawn; empty: all
        """
        import matplotlib

        matplotlib.use('Agg')
        from matplotlib import pyplot

        figure = pyplot.figure(figsize=(8, 7), facecolor=_BACKGROUND)
        axes = figure.add_axes((0.0, 0.0, 1.0, 0.96), projection='3d', computed_zorder=False)
        axes.set_facecolor(_BACKGROUND)
        axes.view_init(elevation, azimuth)
        axes.set_proj_type('ortho')
        axes.set_axis_off()
        drawn = [m for m in self.markers.values() if not names or m.ns in names]
        for marker in drawn:
            _draw(axes, marker, figure)
        _frame(axes, np.concatenate([points_of(marker) for marker in drawn]))
        figure.savefig(path, dpi=100, facecolor=_BACKGROUND)
        pyplot.close(figure)
        return (pyplot.imread(path)[..., :3] * 255).astype(np.uint8)


def points_of(marker: Marker) -> np.ndarray:
    """Points [n, 3] of a marker."""
    if marker.type in (Marker.SPHERE_LIST, Marker.LINE_LIST):
        return np.array([[point.x, point.y, point.z] for point in marker.points]).reshape(-1, 3)
    place = marker.pose.position
    return np.array([[place.x, place.y, place.z]])


def _draw(axes: Any, marker: Marker, figure: Any) -> None:
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    points = points_of(marker)
    colours = [(c.r, c.g, c.b, c.a) for c in marker.colors or [marker.color]]
    if marker.type == Marker.LINE_LIST:
        lines = points.reshape(-1, 2, 3)
        each = colours[::2] if len(colours) > 1 else colours
        width = 1.0 if marker.ns.startswith(('imagined', 'workspace')) else 2.0
        axes.add_collection3d(Line3DCollection(lines, colors=each, linewidths=width, zorder=2))
    elif marker.type == Marker.SPHERE_LIST:
        axes.scatter(*points.T, c=colours, s=14, depthshade=False, zorder=3)
    elif marker.type == Marker.TEXT_VIEW_FACING:
        figure.text(0.5, 0.97, marker.text, color=colours[0], ha='center', va='top', fontsize=14)
    else:
        _draw_round(axes, marker, points[0], colours[0])


def _draw_round(axes: Any, marker: Marker, centre: np.ndarray, colour: tuple) -> None:
    """A sphere, or a cylinder's outline as an ellipsoid as flat as it is; what is clear, below."""
    turn, tilt = np.mgrid[0 : 2 * np.pi : 40j, 0 : np.pi : 20j]
    unit = np.stack([np.cos(turn) * np.sin(tilt), np.sin(turn) * np.sin(tilt), np.cos(tilt)])
    scale = np.array([marker.scale.x, marker.scale.y, marker.scale.z]) / 2
    surface = unit * scale[:, None, None] + centre[:, None, None]
    order = 4 if colour[3] == 1.0 else 1
    axes.plot_surface(*surface, color=colour, linewidth=0, antialiased=False, zorder=order)


def _frame(axes: Any, points: np.ndarray) -> None:
    """Equal scales on all axes, around all points."""
    middle = (points.min(0) + points.max(0)) / 2
    half = np.ptp(points, axis=0).max() / 2 * 0.78
    for axis, centre in zip('xyz', middle, strict=True):
        getattr(axes, f'set_{axis}lim')(centre - half, centre + half)
    axes.set_box_aspect((1, 1, 1))


def main() -> None:
    """Draw the markers of a running graph, again and again: ``marker_picture.py FILE [ANGLES]``.

    ANGLES are elevation and azimuth; the graph is found by ROS_DOMAIN_ID. Ends with Ctrl-C.
    """
    path, *angles = sys.argv[1:]
    rclpy.init()
    node = Node('marker_picture')
    view, due = MarkerView(node), time.monotonic()
    while rclpy.ok():
        rclpy.spin_once(node, timeout_sec=0.2)
        if time.monotonic() > due and any(name.startswith('imagined') for name, _ in view.markers):
            view.draw(Path(path), *map(float, angles))
            due = time.monotonic() + 10.0


if __name__ == '__main__':
    main()
