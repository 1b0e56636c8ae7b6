"""The frames and the description of a simulated robot, on the topics of robot_state_publisher."""

from __future__ import annotations

import time
from typing import Any

from geometry_msgs.msg import TransformStamped
from std_msgs.msg import String

from mbarl_ros.nodes.support.qos import LATCHED, RELIABLE_STEPS
from mbarl_ros.nodes.support.runtime import BaseNode, message_class
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.frames import TF_TYPE
from mbarl_ros.schema.message_fields import set_stamp

PARENT = 'world'
_PERIOD = 0.05  # s between two messages, steady clock


class SimulatedFrames:
    """Publishes ``/tf`` (``world`` to each frame of the world) and latched ``robot_description``.

    Frames are read only while somebody subscribes, at most 20 times a second. Without the package
    tf2_msgs, which PyPI does not have, there is only the description.
    """

    def __init__(self, node: BaseNode, world: Any) -> None:
        """Publish the description.

        :param world: a :class:`~mbarl_ros.schema.robot_world.RobotWorld`, has been reset
        """
        self._world, self._due, self._publisher = world, 0.0, None
        text = world.description() if hasattr(world.world, 'description') else ''
        if text:
            self._description = node.create_publisher(String, topics.ROBOT_DESCRIPTION, LATCHED)
            self._description.publish(String(data=text))
        if not hasattr(world.world, 'frames') or not world.frames():
            return
        try:
            self._kind = message_class(TF_TYPE)
        except ConfigError as error:
            node.get_logger().warning(f'no {topics.TF}: {error}')
            return
        self._publisher = node.create_publisher(self._kind, topics.TF, RELIABLE_STEPS)

    def publish(self, stamp_ns: int) -> None:
        """Publish where the frames are now, if it is time and somebody subscribes."""
        now = time.monotonic()
        if self._publisher is None or now < self._due:
            return
        if not self._publisher.get_subscription_count():
            return
        self._due = now + _PERIOD
        message = self._kind()
        for name, pose in self._world.frames().items():
            transform = TransformStamped(child_frame_id=name)
            transform.header.frame_id = PARENT
            set_stamp(transform, stamp_ns)
            place, turn = transform.transform.translation, transform.transform.rotation
            place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w = pose.tolist()
            message.transforms.append(transform)
        self._publisher.publish(message)
