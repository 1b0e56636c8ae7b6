"""The picture of a simulated world on the topics of a camera driver."""

from __future__ import annotations

import array
import math
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, Image

from mbarl_ros.nodes.support.qos import PICTURES
from mbarl_ros.nodes.support.runtime import BaseNode
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.message_fields import set_stamp

FRAME = 'camera_optical_frame'
MAX_SIDE = 4096  # pixels
PARAMETERS = {
    'camera': (False, 'Publish the picture of the world as a camera does'),
    'camera_rate': (10.0, 'Pictures per second of simulated time, at most one for each step'),
    'camera_width': (320, 'Pixels of a picture'),
    'camera_height': (240, 'Pixels of a picture'),
}


class SimulatedCamera:
    """Publishes ``camera/image_raw`` (rgb8) and ``camera/camera_info`` with equal stamps.

    A picture is rendered only where one is due and somebody subscribes to one of the two.
    """

    def __init__(self, node: BaseNode, world: Any) -> None:
        """Take a first picture, to see that the world makes some.

        :param node: has the parameters :data:`PARAMETERS`
        :param world: has been reset
        :raises ConfigError: a parameter that cannot be used, or a world without a picture.
        """
        rate = node.value('camera_rate')
        if not (math.isfinite(rate) and rate > 0):
            raise ConfigError(f"parameter 'camera_rate' must be above 0, got {rate}")
        self._size = node.value('camera_width'), node.value('camera_height')
        for name, pixels in zip(('camera_width', 'camera_height'), self._size, strict=True):
            if not 1 <= pixels <= MAX_SIDE:
                raise ConfigError(f"parameter '{name}' must be 1 to {MAX_SIDE}, got {pixels}")
        if not hasattr(world.world, 'render'):
            raise ConfigError(
                f"parameter 'camera': world {type(world.world).__name__} makes no pictures; give "
                'it a method render(width, height)'
            )
        self._world, self._period_ns, self._due_ns = world, round(1e9 / rate), 0
        self._info = camera_info(world.render(*self._size))
        self._images = node.create_publisher(Image, topics.CAMERA_IMAGE, PICTURES)
        self._infos = node.create_publisher(CameraInfo, topics.CAMERA_INFO, PICTURES)

    def publish(self, time_ns: int, stamp_ns: int) -> None:
        """Publish a picture of the present state, if it is time and somebody subscribes.

        :param time_ns: simulated time
        :param stamp_ns: stamp of the messages
        """
        if time_ns < self._due_ns:
            return
        if not (self._images.get_subscription_count() or self._infos.get_subscription_count()):
            return
        # Where nobody subscribed for a while, the period begins anew.
        late = time_ns - self._due_ns >= self._period_ns
        self._due_ns = (time_ns if late else self._due_ns) + self._period_ns
        image = image_message(self._world.render(*self._size))
        for message, publisher in ((image, self._images), (self._info, self._infos)):
            set_stamp(message, stamp_ns)
            publisher.publish(message)


def image_message(picture: np.ndarray) -> Image:
    """Message of a picture, uint8 [height, width, 3]."""
    height, width, _ = picture.shape
    # From array.array, since rclpy takes 300 times as long for an ndarray.
    data = array.array('B')
    data.frombytes(np.ascontiguousarray(picture).tobytes())
    image = Image(height=height, width=width, encoding='rgb8', step=3 * width, data=data)
    image.header.frame_id = FRAME
    return image


def camera_info(picture: np.ndarray) -> CameraInfo:
    """Calibration of the camera that took a picture, without distortion.

    All matrices are 0, which means uncalibrated, where the picture does not tell its camera.
    """
    height, width, _ = picture.shape
    info = CameraInfo(height=height, width=width)
    info.header.frame_id = FRAME
    camera = getattr(picture, 'camera', None)
    if camera is not None:
        matrix = camera.intrinsics(width, height)
        info.distortion_model, info.d = 'plumb_bob', [0.0] * 5
        info.k, info.r = matrix.ravel().tolist(), np.eye(3).ravel().tolist()
        info.p = np.column_stack([matrix, np.zeros(3)]).ravel().tolist()
    return info
