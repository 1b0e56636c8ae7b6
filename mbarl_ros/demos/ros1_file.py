"""Reads bags of ROS 1 as messages of ROS 2.

Both write the same numbers in the same order; only their alignment and the header differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rosbags.rosbag1 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mbarl_ros.demos.decode import DecodeError, typestore
from mbarl_ros.demos.mcap_file import CDR, McapFileError, Topic

ROS1 = 'ros1'
"""Encoding of the messages of ROS 1."""
_HEADER = 'std_msgs/msg/Header'


def read_ros1(
    path: Path, wanted: Callable[[Topic], bool] = lambda _: True
) -> Iterator[tuple[Topic, int, bytes]]:
    """Yield (topic, log time in ns, message as ROS 1 wrote it) in the order of time.

    :param wanted: selects the topics to yield
    :raises McapFileError: not a bag, damaged, or without an index.
    """
    try:
        with Reader(path) as reader:
            topics = {
                one.id: Topic(one.topic, one.msgtype, one.msgdef.data, ROS1)
                for one in reader.connections
            }
            chosen = [one for one in reader.connections if wanted(topics[one.id])]
            for connection, log, data in reader.messages(chosen) if chosen else ():
                yield topics[connection.id], log, data
    except Exception as error:  # damaged files make rosbags raise any exception
        raise McapFileError(
            f'{path}: cannot be read as a bag of ROS 1 ({error}); `rosbag reindex {path.name}` '
            'mends one whose recorder was killed'
        ) from error


def as_ros2(topic: Topic) -> tuple[Topic, Callable[[bytes], bytes]]:
    """A topic of ROS 1 as one of ROS 2, and the function that turns its messages into CDR.

    :raises DecodeError: the definition is not understood, or ROS 2 has another of this name.
    """
    common = typestore()
    try:
        types = get_types_from_msg(topic.definition, topic.type)
        types[_HEADER] = common.fielddefs[_HEADER]
        store = get_typestore(Stores.EMPTY)
        store.register(types)
        definition, _ = store.generate_msgdef(topic.type, ros_version=2)
    except Exception as error:  # the parser of rosbags raises any exception
        raise DecodeError(
            f"topic '{topic.name}': the definition of {topic.type} is not understood ({error!r})"
        ) from error
    for kind in types:
        if kind in common.fielddefs and _shape(store, kind) != _shape(common, kind):
            raise DecodeError(
                f"topic '{topic.name}': {kind} of ROS 1 and of ROS 2 differ; convert the bag with "
                '`rosbags-convert --src BAG --dst FOLDER --dst-typestore ros2_jazzy`'
            )

    def to_cdr(message: bytes) -> bytes:
        try:
            return bytes(store.ros1_to_cdr(message, topic.type))
        except Exception as error:  # the same
            raise DecodeError(
                f"topic '{topic.name}': a message is not a {topic.type} of ROS 1 ({error})"
            ) from error

    return topic._replace(definition=definition, encoding=CDR), to_cdr


def _shape(store: Typestore, kind: str) -> list[object]:
    """What decides how a message is written: the kinds of its fields, whatever their names."""
    return [field for _, field in store.fielddefs[kind][1]]
