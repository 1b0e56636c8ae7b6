"""What the learner imagines from the robot's newest state on, for whoever looks."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from std_msgs.msg import UInt8MultiArray

from mbarl_ros.learning.learner import Learner
from mbarl_ros.nodes.support.qos import RELIABLE
from mbarl_ros.nodes.support.runtime import bytes_message
from mbarl_ros.schema import topics
from mbarl_ros.storage.imagined import ROLLOUTS, STEPS, Imagined, pack_imagined

_PERIOD = 1.0  # s between two messages


class ImaginedRollouts:
    """Publishes ``~/imagined``: rollouts of each policy in the model (safetensors).

    ``start`` is the newest real observation. The learning is the same whether somebody subscribes
    or not: nothing is computed for nobody, and no random number of the training is drawn.
    """

    def __init__(self, node: Any, learner: Learner) -> None:
        """Make the publisher."""
        self._learner, self._spec_hash = learner, node.spec_hash
        self._publisher = node.create_publisher(
            UInt8MultiArray, topics.private(topics.IMAGINED), RELIABLE
        )
        self._due = 0.0  # s, steady clock
        self.start: np.ndarray | None = None

    def publish_if_wanted(self, environment_steps: int) -> None:
        """Imagine and publish, at most once a second; called from the training thread."""
        now, start = time.monotonic(), self.start  # which another thread replaces
        if start is None or now < self._due or not self._publisher.get_subscription_count():
            return
        self._due = now + _PERIOD
        rollouts = self._learner.imagine(start, ROLLOUTS, STEPS)
        if rollouts:
            imagined = Imagined(start, rollouts, environment_steps)
            data = pack_imagined(imagined, self._spec_hash)
            self._publisher.publish(bytes_message(data, 'imagined'))
