"""Points of a state that are drawn: key ``show`` of a task."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from mbarl_ros.schema.base import Strict


class ShownPoint(Strict):
    """A point to draw in RViz and Foxglove: the entries that are its position, in one frame."""

    x: str = Field(description='Observation entry that is its x (m).')
    y: str = Field(description='Observation entry that is its y (m).')
    z: str | float = Field(
        default=0.0, description='Observation entry that is its z, or a fixed height (m).'
    )
    frame: str = Field(
        default='world', min_length=1, description='Frame in which the position is given.'
    )

    @property
    def entries(self) -> tuple[str, ...]:
        """Its entries: x, y and, where an entry tells it, z."""
        return (self.x, self.y, self.z) if isinstance(self.z, str) else (self.x, self.y)

    @property
    def label(self) -> str:
        """What its entries have in common: ``mug`` of mug_x and mug_y; empty: nothing."""
        stems = {name[:-2] for name in self.entries if name.lower()[-2:] in ('_x', '_y', '_z')}
        return stems.pop() if len(stems) == 1 else ''


def point_on_axes(names: Sequence[str], axes: Sequence[str | None]) -> ShownPoint | None:
    """The point of the first entries on the axes x, y and z (key ``axis``); None: x or y lacks."""
    first: dict[str | None, str] = {}
    for name, axis in zip(names, axes, strict=True):
        first.setdefault(axis, name)
    if 'x' not in first or 'y' not in first:
        return None
    return ShownPoint(x=first['x'], y=first['y'], z=first.get('z', 0.0))
