"""Finds the topics of a robot profile in a bag."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mbarl_ros.demos.mcap_file import CDR, Topic
from mbarl_ros.demos.metadata import DemonstrationError
from mbarl_ros.demos.recording import EXECUTED_TYPE
from mbarl_ros.demos.ros1_file import ROS1
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.topics import EXECUTED

_MAX_NAMED = 30  # topics in a message


def match_topics(
    source: Path, robot: RobotConfig, topics: Iterable[Topic], given: Mapping[str, str]
) -> dict[str, str]:
    """Profile topic -> name in the bag, for the states and for what counts as executed.

    The name that is given counts; else the same name; else the only one that ends in it, in any
    namespace. Without ``safety_gate/executed`` in the bag, or where a command topic is given, the
    robot's command topics count as executed.

    :param topics: with messages in the bag
    :param given: profile topic -> name in the bag
    :raises DemonstrationError: one is missing, ambiguous or of another type; commands that are no
        topics, without ``safety_gate/executed``.
    """
    topics = list(topics)
    states = robot.state_topics
    for name, static in robot.tf_topics.items():
        if static and name not in given and not _candidates(name, topics):
            del states[name]  # there need not be static transforms
    commands = {topic.topic: topic.type for topic in robot.command_topics}
    known = {**states, **commands, EXECUTED: EXECUTED_TYPE}
    for topic in given:
        if topic not in known:
            raise DemonstrationError(
                f"--topic {topic}:=...: robot '{robot.name}' has no such topic; it has "
                f'{", ".join(known)}'
            )
    by_gate = EXECUTED in given or (
        _candidates(EXECUTED, topics) and not any(topic in given for topic in commands)
    )
    if not by_gate:
        check_recorded(source, robot)
    wanted = states | ({EXECUTED: EXECUTED_TYPE} if by_gate else commands)
    return {
        topic: _find(source, robot, topic, kind, topics, given.get(topic))
        for topic, kind in wanted.items()
    }


def check_recorded(source: Path, robot: RobotConfig) -> None:
    """Refuse a bag without the executed commands where goals or calls carry the commands.

    :raises DemonstrationError: names them, and what to record.
    """
    if robot.requests:
        labels = ', '.join(entry.label for entry in robot.requests)
        raise DemonstrationError(
            f'{source}: {labels} of robot '
            f"'{robot.name}': goals and calls leave no commands in a bag; record '{EXECUTED}' of "
            'the safety gate'
        )


def _find(
    source: Path,
    robot: RobotConfig,
    wanted: str,
    kind: str,
    topics: list[Topic],
    given: str | None,
) -> str:
    named = _candidates(wanted, topics)
    if given is not None:
        named = [topic for topic in topics if topic.name.strip('/') == given.strip('/')]
    found = list(dict.fromkeys(t.name for t in named if t.type == kind and t.encoding == CDR))
    if len(found) == 1:
        return found[0]
    exact = f"topic '{wanted}' of robot '{robot.name}' is {kind}"
    if len(found) > 1:
        raise DemonstrationError(
            f'{source}: {exact}; in the bag {len(found)} topics of this type end in this name '
            f'({", ".join(found)}); name the right one with --topic {wanted}:=TOPIC'
        )
    if named:
        others = ', '.join(f'{topic.name} is {_kind(topic)}' for topic in named)
        raise DemonstrationError(
            f'{source}: {exact}, but in the bag {others}; set this type, and paths that fit it, '
            'in a robot profile for this bag (robot:=), or name another topic with '
            f'--topic {wanted}:=TOPIC'
        )
    alike = [topic.name for topic in topics if topic.type == kind and topic.encoding == CDR]
    every = list(dict.fromkeys(topic.name for topic in topics))
    more = f' and {len(every) - _MAX_NAMED} more' if len(every) > _MAX_NAMED else ''
    what = f"topic '{given}' is not in the bag" if given else 'no topic in the bag has this name'
    raise DemonstrationError(
        f'{source}: {exact}, but {what}; of that type the bag has {", ".join(alike) or "none"}, in '
        f'all it has {", ".join(every[:_MAX_NAMED])}{more}; name the right one with '
        f'--topic {wanted}:=TOPIC, or in a robot profile (robot:=)'
    )


def _candidates(wanted: str, topics: list[Topic]) -> list[Topic]:
    """Topics of this name; if there is none, those of this name in a namespace."""
    ending = '/' + wanted.strip('/')
    exact = [topic for topic in topics if '/' + topic.name.strip('/') == ending]
    return exact or [topic for topic in topics if topic.name.endswith(ending)]


def _kind(topic: Topic) -> str:
    if topic.encoding in (CDR, ROS1):
        return topic.type or 'of no known type'
    return f'{topic.type or "of no known type"}, encoded as {topic.encoding}, which is not read'
