"""Several robots with one learner: what the nodes of a fleet know about each other.

Each robot has its controller and its gate in a namespace of its own, directly below the one in
which learner, classifier, evaluator and monitor run. Robots come and go; nobody lists them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mbarl_ros.nodes.support.runtime import NodeMixin
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError

SHARED = {'fleet': (False, 'Serve the robots in the namespaces below this one')}
"""Parameter of the nodes that robots share."""
ROBOT = {'fleet': (False, 'One of several robots, which share their learner and the stop of all')}
"""Parameter of the nodes that each robot has."""
_LOOK_EVERY = 1.0  # s between two looks for robots that have come


def in_fleet(node: NodeMixin) -> bool:
    """Parameter ``fleet`` of a node.

    :raises ConfigError: in lockstep; several robots cannot wait for each other.
    """
    if node.value('fleet') and node.lockstep:
        raise ConfigError(
            f"node '{node.get_name()}': parameter 'fleet': robots cannot wait for each other; "
            'set mode to realtime'
        )
    return node.value('fleet')


class Robots:
    """The robots that a shared node serves: all that publish a topic, as soon as they do.

    Without a fleet it is the one robot in the node's own namespace, with the name ''. A robot in a
    namespace below whose controller does not take the policies of the fleet is none of it.
    """

    def __init__(self, node: NodeMixin, topic: str, connect: Callable[[str], None]) -> None:
        """Look for publishers of ``topic``, one of :mod:`~mbarl_ros.schema.topics`, of a robot.

        :param connect: called once with the name of each robot
        :raises ConfigError: a fleet in lockstep.
        """
        self._node, self._connect = node, connect
        self.names: list[str] = []
        if not in_fleet(node):
            self._add('')
            return
        namespace = node.get_namespace().rstrip('/')
        self._pattern = re.compile(f'{re.escape(namespace)}/(\\w+)/{re.escape(topic)}')
        node.create_timer(_LOOK_EVERY, self._look, clock=node.steady)
        self._look()

    def _look(self) -> None:
        for topic, _ in self._node.get_topic_names_and_types():
            match = self._pattern.fullmatch(topic)
            if not match or match[1] in self.names or not self._node.count_publishers(topic):
                continue
            if self._takes_our_policies(match[1]):
                self._add(match[1])

    def _takes_our_policies(self, robot: str) -> bool:
        """Whether its controller does; one with another learner, or with none, is not of the fleet.

        Who publishes does not tell: the robot may be there before its own learner is.
        """
        policies = self._node.resolve_topic_name(topics.POLICY)
        namespace = f'{self._node.get_namespace().rstrip("/")}/{robot}'
        return any(
            subscriber.node_namespace == namespace
            for subscriber in self._node.get_subscriptions_info_by_topic(policies)
        )

    def _add(self, name: str) -> None:
        self.names.append(name)
        self._connect(name)
        if name:
            self._node.get_logger().info(f'robot {name} has joined')
