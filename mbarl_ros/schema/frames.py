"""Frames of TF, as robot profiles name them."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from mbarl_ros.schema.base import Strict

TF_TYPE = 'tf2_msgs/msg/TFMessage'
COMPONENTS = ('x', 'y', 'z', 'qx', 'qy', 'qz', 'qw', 'roll', 'pitch', 'yaw')
"""Values of a transform between two frames."""


class Frames(Strict):
    """Two frames of TF; the values are the pose of the child in the parent.

    There may be any number of frames between them, up and down the tree, static or not.
    """

    parent: str = Field(min_length=1, description='Frame in which the pose is given: `base_link`.')
    child: str = Field(min_length=1, description='Frame whose pose it is: `gripper_tcp`.')
    topic: str = Field(
        default='/tf',
        min_length=1,
        description='Topic of the transforms; static ones come on the same name with `_static`. '
        '`tf` is that of the namespace.',
    )

    @property
    def topics(self) -> dict[str, bool]:
        """Topics of transforms -> whether these are static."""
        return {self.topic: False, f'{self.topic}_static': True}

    @field_validator('parent', 'child')
    @classmethod
    def _plain(cls, name: str) -> str:
        return frame_name(name)

    @model_validator(mode='after')
    def _two(self) -> Frames:
        if self.parent == self.child:
            raise ValueError(f'parent and child: are both {self.parent}; name two frames')
        return self


def frame_name(text: str) -> str:
    """Name of a frame without the / that ROS 1 put before it."""
    return text.removeprefix('/')


def with_topic(raw: dict[str, Any]) -> dict[str, Any]:
    """An entry of the state that has frames, with the topic from which they come.

    :raises ValueError: it names another topic, or constants.
    """
    topic = raw['tf'].get('topic', '/tf') if isinstance(raw['tf'], dict) else '/tf'
    implied = {'topic': topic, 'type': TF_TYPE}
    for key, value in implied.items():
        if raw.get(key, value) != value:
            raise ValueError(f'tf: stands in place of {key}; leave {key} away')
    if raw.get('constants'):
        raise ValueError('tf: has no constants; the frames are named in tf')
    return {**raw, **implied}
