"""What of another recorder's bag goes into a demonstration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from mbarl_ros.demos.bag_files import uncompressed
from mbarl_ros.demos.clocks import Stamps
from mbarl_ros.demos.mcap_file import CDR, Topic
from mbarl_ros.demos.recording import EXECUTED_TYPE
from mbarl_ros.demos.ros1_file import ROS1, as_ros2
from mbarl_ros.schema.robot import RobotConfig

_TYPE = re.compile(r'\w+/msg/\w+')
_MAX_NAMED = 5  # topics in a remark
# Topic in the demonstration, what makes its messages, and their stamps if it may be needed.
_Route = tuple[Topic, Callable[[bytes], bytes], Stamps | None]


class Intake:
    """Passes the messages of a bag on, as ROS 2 messages, and notes what they were.

    Everything in CDR goes into the demonstration, unparsed. Of ROS 1 only what may be needed is
    converted; what ROS 2 cannot write stays in the bag.
    """

    def __init__(self, types: AbstractSet[str]) -> None:
        """Gather stamps of topics of these types, among which are all that are needed."""
        self._types = types
        self.topics: list[Topic] = []
        self._stamps: dict[tuple[str, str], Stamps] = {}
        self._left_out: list[str] = []

    def take(
        self, messages: Iterable[tuple[Topic, int, bytes]]
    ) -> Iterator[tuple[Topic, int, bytes]]:
        """Messages for the demonstration, while they pass.

        :raises DecodeError: a message of ROS 1 cannot be converted.
        :raises McapFileError: a compressed message is damaged.
        """
        routes: dict[Topic, _Route | None] = {}
        for topic, log, message in messages:
            if topic not in routes:
                routes[topic] = self._route(topic)
            route = routes[topic]
            if route is None:
                continue
            to, converted, stamps = route
            message = converted(message)
            if stamps is not None:
                stamps.add(log, message)
            yield to, log, message

    def _route(self, topic: Topic) -> _Route | None:
        """Where messages of a topic go; None: nowhere."""
        needed = topic.type in self._types
        converted: Callable[[bytes], bytes] = uncompressed
        if topic.encoding == ROS1 and needed:
            topic, converted = as_ros2(topic)
        self.topics.append(topic)
        if topic.encoding != CDR or not _TYPE.fullmatch(topic.type):
            self._left_out.append(topic.name)
            return None
        if not needed:
            return topic, converted, None
        stamps = self._stamps.setdefault((topic.name, topic.type), Stamps(topic))
        return topic, converted, stamps

    def stamps_of(self, names: Mapping[str, str], robot: RobotConfig) -> dict[str, Stamps]:
        """Gathered stamps by the names in the bag of the topics that the profile needs."""
        kinds = {topic.topic: topic.type for topic in (*robot.state, *robot.command_topics)}
        return {
            name: self._stamps[name, kinds.get(topic, EXECUTED_TYPE)]
            for topic, name in names.items()
            if not robot.tf_topics.get(topic)  # static transforms have no time
        }

    def remarks(self) -> list[str]:
        """What was left out, in a sentence; empty if nothing was."""
        names = sorted(set(self._left_out))
        if not names:
            return []
        more = f' and {len(names) - _MAX_NAMED} more' if len(names) > _MAX_NAMED else ''
        return [
            'not copied, because they are not needed and no messages of ROS 2: '
            f'{", ".join(names[:_MAX_NAMED])}{more}'
        ]
