"""Shapes as visualization_msgs markers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from mbarl_ros.view.scene import BALL, DISC, POINTS, SEGMENTS, TEXT, Shape

_TYPES = {
    POINTS: Marker.SPHERE_LIST,
    SEGMENTS: Marker.LINE_LIST,
    BALL: Marker.SPHERE,
    DISC: Marker.CYLINDER,
    TEXT: Marker.TEXT_VIEW_FACING,
}


def marker_array(shapes: Iterable[Shape]) -> MarkerArray:
    """Message of shapes; those without points are deleted from the picture."""
    return MarkerArray(markers=[_marker(shape) for shape in shapes])


def _marker(shape: Shape) -> Marker:
    """Marker without a stamp, which means: by the newest transform."""
    marker = Marker(ns=shape.namespace, id=shape.number, type=_TYPES[shape.kind])
    marker.header.frame_id = shape.frame
    if not len(shape.points):
        marker.action = Marker.DELETE
        return marker
    marker.scale.x, marker.scale.y, marker.scale.z = shape.size
    marker.pose.orientation.w = 1.0
    marker.text = shape.text
    if shape.kind in (POINTS, SEGMENTS):
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in shape.points.tolist()]
        if shape.colours.ndim == 2:
            marker.colors = [_colour(row) for row in shape.colours]
    else:
        place = marker.pose.position
        place.x, place.y, place.z = shape.points[0].tolist()
    # Foxglove takes it where the points have colours of their own, too.
    marker.color = _colour(shape.colours if shape.colours.ndim == 1 else shape.colours[-1])
    return marker


def _colour(row: np.ndarray) -> ColorRGBA:
    red, green, blue, alpha = row.tolist()
    return ColorRGBA(r=red, g=green, b=blue, a=alpha)
