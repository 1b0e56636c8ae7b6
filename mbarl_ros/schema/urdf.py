"""Names and limits of joints from a robot description (URDF)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree import ElementTree

from mbarl_ros.schema.base import ConfigError

_MOVING = ('revolute', 'prismatic', 'continuous')
_SOURCE = 'robot_description'


@dataclass(frozen=True)
class Joint:
    """A joint that moves; None: the description has no such limit.

    Units are rad, or m for a ``linear`` joint, and s. ``endless``: it turns without end.
    """

    linear: bool
    low: float | None = None
    high: float | None = None
    speed: float | None = None
    endless: bool = False


@dataclass(frozen=True)
class Description:
    """Name of the robot, its root link, and the joints by name."""

    name: str
    root: str
    joints: dict[str, Joint]


def read_urdf(text: str) -> Description:
    """Read a URDF.

    :raises ConfigError: it is no XML, declares entities, or is not a robot.
    """
    if '<!DOCTYPE' in text or '<!ENTITY' in text:  # no URDF needs them; they may fill the memory
        raise ConfigError(f'{_SOURCE}: has a DOCTYPE, which a URDF does not need; remove it')
    try:
        robot = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ConfigError(f'{_SOURCE}: is no XML: {error}') from None
    if robot.tag != 'robot':
        raise ConfigError(f'{_SOURCE}: is no URDF: it begins with <{robot.tag}>, not <robot>')
    joints = robot.findall('joint')
    children = {_link(joint, 'child') for joint in joints}
    links = [link.get('name', '') for link in robot.findall('link')]
    roots = [link for link in links if link not in children]
    moving = {
        joint.get('name', ''): _joint(joint) for joint in joints if joint.get('type') in _MOVING
    }
    return Description(robot.get('name', ''), roots[0] if roots else '', moving)


def _link(joint: ElementTree.Element, which: str) -> str | None:
    end = joint.find(which)
    return None if end is None else end.get('link')


def _joint(joint: ElementTree.Element) -> Joint:
    limit = joint.find('limit')
    low, high, speed = (_number(limit, key) for key in ('lower', 'upper', 'velocity'))
    endless = joint.get('type') == 'continuous'
    if endless or low is None or high is None or not low < high:
        low = high = None
    linear = joint.get('type') == 'prismatic'
    return Joint(linear, low, high, speed if speed and speed > 0 else None, endless)


def _number(limit: ElementTree.Element | None, key: str) -> float | None:
    """A finite attribute; ``lower`` and ``upper`` are 0 where a limit leaves them out."""
    if limit is None:
        return None
    try:
        value = float(limit.get(key, '0'))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
