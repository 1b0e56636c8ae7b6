"""The demonstration recorder: the robot's topics, unconverted, in one bag per demonstration."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import String
from std_srvs.srv import Trigger

from mbarl_ros.control.teleop import TeleopSource
from mbarl_ros.demos.episodes import SUCCEEDED, UNKNOWN
from mbarl_ros.demos.metadata import DemonstrationError, Metadata, file_of, layout, profile_hash
from mbarl_ros.demos.recording import Recording, recover, topic_types
from mbarl_ros.nodes.support.qos import LATCHED, SENSOR, STATIC_TRANSFORMS
from mbarl_ros.nodes.support.runtime import BaseNode, main_exit, message_class
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import recording_folder
from mbarl_ros.schema.message_fields import stamp_ns
from mbarl_ros.schema.robot import LONGEST_STEP
from mbarl_ros.schema.topics import EXECUTED, RECORDER_PHASE
from mbarl_ros.schema.transforms import TransformCodec, TransformTree
from mbarl_ros.storage.transitions import DIRECTIONS

# A service call may overtake the last state and command; they are waited for so long (s).
_SETTLE_TIMEOUT = 1.0
_DISCOVERY_TIMEOUT = 8.0  # s; of a robot that has just been started
_QUEUE_DEPTH = 1000  # messages of a topic that may wait to be written


class DemoRecorder(BaseNode):
    """Records state, command and ``safety_gate/executed`` from start to stop.

    Services (Trigger), also called by gamepad buttons that the robot profile names: ``~/start``;
    ``~/success`` (stop, keep as a success); ``~/stop`` (stop and keep; whether it is a success is
    determined when it is read); ``~/discard``. Publishes ``~/status`` and ``~/phase`` (String,
    latched); the latter is also recorded. Subscribes to the profile's state, command and teleop
    topics and to ``safety_gate/executed``.

    Parameters: ``demonstrations``, ``direction`` and ``operator``. The latter two may be changed
    between demonstrations: ``ros2 param set /demo_recorder direction backward``.
    """

    def __init__(self) -> None:
        """Subscribe to the robot's topics, unconverted.

        :raises ConfigError: the folder to record into comes with the package, or cannot be used.
        """
        super().__init__('demo_recorder')
        self.setup(
            {
                'demonstrations': ('', "Folder to add to; empty: the task's, or my_demos/TASK"),
                'direction': (DIRECTIONS[0], 'Of the next demonstration: forward or backward'),
                'operator': ('person', 'Who demonstrates'),
            }
        )
        self._check_parameters(list(self._parameters.values()))
        self.add_on_set_parameters_callback(self._check_parameters_result)
        self._folder = recording_folder(self.task.config, self.value('demonstrations'))
        self.get_logger().info(f'records into {self._folder}')
        self._types = topic_types(self.task.robot)
        self._states = [t.topic for t in self.task.robot.state if not t.frames]
        self._tree = TransformTree()
        self._transforms = [TransformCodec(entry) for entry in self.task.robot.transforms]
        self._tf_topics = self.task.robot.tf_topics  # whether they are static
        self._classes = {topic: message_class(kind) for topic, kind in self._types.items()}
        self._subscriptions_by_topic = {
            topic: self.create_subscription(
                self._classes[topic],
                topic,
                partial(self._receive, topic),
                self._qos(topic),
                raw=True,
            )
            for topic in self._types
            if topic != RECORDER_PHASE
        }
        self._recording: Recording | None = None
        self._latest: dict[str, bytes] = {}
        self._saved = self._discarded = 0
        self._newest = 0
        self._status = self.create_publisher(
            String, topics.private(topics.RECORDER_STATUS), LATCHED
        )
        for name, action in (
            (topics.RECORDER_START, self.start),
            (topics.RECORDER_SUCCESS, self.success),
            (topics.RECORDER_STOP, self.stop),
            (topics.RECORDER_DISCARD, self.discard),
        ):
            self.create_service(Trigger, topics.private(name), partial(self._serve, action))
        for entry in self.task.robot.teleop:
            if entry.buttons:
                self.create_subscription(
                    message_class(entry.type),
                    entry.topic,
                    partial(self._on_buttons, TeleopSource(entry)),
                    SENSOR,
                )
        self._phase = self.create_publisher(String, topics.private(topics.RECORDER_PHASE), LATCHED)
        try:
            for sentence in recover(self._folder):
                self.get_logger().warning(sentence)
        except OSError as error:
            raise ConfigError(f'{self._folder}: cannot be used: {error}') from error
        self._set_status('idle')

    # --- services ----------------------------------------------------------------------------

    def start(self) -> str:
        """Begin a demonstration in the present state of the robot."""
        if self._recording is not None:
            raise DemonstrationError(
                f'{self._recording.name} is being recorded; call ~/success, ~/stop or ~/discard'
            )
        self._require_robot()
        recording = Recording(self._folder, self._metadata(), self._types)
        for topic in self._states:
            recording.write(topic, self._log_time(topic, self._latest[topic]), self._latest[topic])
        if self._transforms:
            self._write_transforms(recording)
        phase = String(data=self.value('direction'))
        self._phase.publish(phase)
        now = self._newest if self.lockstep else self.get_clock().now().nanoseconds
        recording.write(RECORDER_PHASE, now, serialize_message(phase))
        self._recording = recording
        return self._set_status(f'recording {recording.name}')

    def success(self) -> str:
        """Stop and keep the demonstration as a success."""
        return self._finish(SUCCEEDED)

    def stop(self) -> str:
        """Stop and keep the demonstration; whether it is a success is determined by its reader."""
        return self._finish(UNKNOWN)

    def discard(self) -> str:
        """Stop and delete the demonstration."""
        recording = self._running()
        recording.discard()
        self._recording = None
        self._discarded += 1
        return self._set_status(f'discarded {recording.name}')

    def _finish(self, verdict: str) -> str:
        recording = self._running()
        self._settle()
        if not recording.counts[EXECUTED]:
            raise DemonstrationError(
                f'{recording.name} has no executed command yet (topic {EXECUTED}); drive, or call '
                '~/discard'
            )
        self._recording = None
        path = recording.finish(verdict)
        self._saved += 1
        return self._set_status(f'saved {path}')

    def _running(self) -> Recording:
        if self._recording is None:
            raise DemonstrationError('nothing is being recorded; call ~/start first')
        return self._recording

    def _serve(self, action: Any, _request: Any, response: Any) -> Any:
        try:
            response.message = action()
            response.success = True
        except (DemonstrationError, OSError) as error:
            self.get_logger().error(str(error))
            response.message = str(error)
        return response

    def _on_buttons(self, source: TeleopSource, message: Any) -> None:
        try:
            pressed = source.read(message, time.monotonic()).pressed
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        for button in pressed:
            self._serve(getattr(self, button), None, Trigger.Response())

    # --- messages ----------------------------------------------------------------------------

    def _write_transforms(self, recording: Recording) -> None:
        """Write the latest transform of each frame: a latched one is not sent again."""
        now = self.get_clock().now().nanoseconds
        for topic, static in self._tf_topics.items():
            message = self._classes[topic]()
            message.transforms = self._tree.transforms(static=static)
            recording.write(topic, now, serialize_message(message))

    def _receive(self, topic: str, data: bytes) -> None:
        self._latest[topic] = data
        if topic in self._tf_topics:
            self._add_transforms(topic, data)
        if self._recording is None:
            return
        try:
            self._recording.write(topic, self._log_time(topic, data), data)
        except OSError as error:  # what was written is recovered at the next start
            self._recording.abandon()
            self._recording = None
            self.get_logger().error(self._set_status(f'recording stopped: {self._folder}: {error}'))

    def _add_transforms(self, topic: str, data: bytes) -> None:
        try:
            message = deserialize_message(data, self._classes[topic])
        except Exception as error:  # the middleware raises many kinds for bytes that are no message
            self.refuse(error, topic)
            return
        static = self._tf_topics[topic]
        self._tree.add(message, time.monotonic(), static=static)

    def _log_time(self, topic: str, data: bytes) -> int:
        """ns: robot time in lockstep, so that the bag plays at the robot's speed; else now."""
        if not self.lockstep:
            return self.get_clock().now().nanoseconds
        if topic in self._states:
            self._newest = max(self._newest, self._stamp(topic, data) or 0)
        return self._newest

    def _stamp(self, topic: str, data: bytes) -> int | None:
        return stamp_ns(deserialize_message(data, self._classes[topic]))

    def _receive_waiting(self) -> None:
        """Receive messages that have arrived: services may be served before them."""
        for topic, subscription in self._subscriptions_by_topic.items():
            while (
                taken := subscription.handle.take_message(subscription.msg_type, True)
            ) is not None:
                self._receive(topic, taken[0])

    def _require_robot(self) -> None:
        """Wait until all state topics have delivered a message and the gate is there.

        :raises DemonstrationError: one is missing after the time-out.
        """
        deadline = time.monotonic() + _DISCOVERY_TIMEOUT
        while True:
            self._receive_waiting()
            silent = [topic for topic in self._states if topic not in self._latest]
            gate = self.count_publishers(EXECUTED) > 0
            unconnected = self._unconnected()
            if gate and not silent and not unconnected:
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        if silent:
            raise DemonstrationError(
                f'no message yet on {", ".join(silent)}; is the robot running, and are these its '
                f"topics (robot profile '{self.task.robot.name}')?"
            )
        if unconnected:
            raise DemonstrationError(
                f"{unconnected}; are these the frames of robot profile '{self.task.robot.name}', "
                'and is robot_state_publisher running?'
            )
        raise DemonstrationError(f'nobody publishes {EXECUTED}; is safety_gate running?')

    def _unconnected(self) -> str:
        """Why there is no transform between frames of the profile; empty: there are all."""
        try:
            self._transform_stamps()
        except ValueError as error:
            return str(error)
        return ''

    def _transform_stamps(self) -> list[int | None]:
        return [codec.read(self._tree).stamp for codec in self._transforms]

    def _settle(self) -> None:
        """Wait for the last command and for the state that it led to, up to a time-out."""
        deadline = time.monotonic() + _SETTLE_TIMEOUT
        self._receive_waiting()
        while not self._is_settled() and time.monotonic() < deadline:
            time.sleep(0.005)
            self._receive_waiting()

    def _is_settled(self) -> bool:
        last = self._latest.get(EXECUTED)
        answered = self._stamp(EXECUTED, last) if last is not None else None
        stamps = [self._stamp(topic, self._latest[topic]) for topic in self._states]
        if answered is None:
            return True
        if self._unconnected():
            return False
        stamps += self._transform_stamps()
        # In lockstep the last state may arrive before the executed command that led to it.
        step = LONGEST_STEP * 1e9 / self.task.robot.control_rate if self.lockstep else math.inf
        return all(stamp is None or 0 < stamp - answered < step for stamp in stamps)

    # --- set-up ------------------------------------------------------------------------------

    def _qos(self, topic: str) -> Any:
        if self._tf_topics.get(topic):
            return STATIC_TRANSFORMS
        # Deep: while the disk is slow, messages wait here instead of being lost.
        sensor = topic in self.task.robot.state_topics and not self.lockstep
        kind = ReliabilityPolicy.BEST_EFFORT if sensor else ReliabilityPolicy.RELIABLE
        return QoSProfile(depth=_QUEUE_DEPTH, reliability=kind)

    def _metadata(self) -> Metadata:
        robot = self.task.robot
        return Metadata(
            task=self.task.name,
            robot=robot.name,
            direction=self.value('direction'),
            verdict=UNKNOWN,
            operator=self.value('operator'),
            lockstep=self.lockstep,
            spec=layout(robot),
            profile=profile_hash(robot),
            recorded=datetime.now(UTC).isoformat(timespec='microseconds'),
            topics={
                **{
                    topic: subscription.topic_name
                    for topic, subscription in self._subscriptions_by_topic.items()
                },
                RECORDER_PHASE: self._phase.topic_name,
            },
            task_file=file_of(self.value('task')),
            robot_file=file_of(self.value('robot') or self.task.config.robot),
        )

    def _check_parameters(self, parameters: list[Any]) -> None:
        for parameter in parameters:
            if parameter.name == 'direction' and parameter.value not in DIRECTIONS:
                raise ConfigError(
                    f"node '{self.get_name()}': parameter 'direction' is '{parameter.value}'; "
                    f'use {" or ".join(DIRECTIONS)}'
                )

    def _check_parameters_result(self, parameters: list[Any]) -> SetParametersResult:
        try:
            self._check_parameters(parameters)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _set_status(self, status: str) -> str:
        self._status.publish(String(data=status))
        if status != 'idle':
            self.get_logger().info(status)
        return status

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Whether it is recording, and how many demonstrations it has saved."""
        name = self._recording.name if self._recording is not None else ''
        values = {
            'recording': name or 'no',
            'saved': self._saved,
            'discarded': self._discarded,
            'folder': self._folder,
        }
        if self._recording is not None:
            silent = [
                topic.topic
                for topic in self.task.robot.state
                if not self._recording.counts.get(topic.topic)
            ]
            if silent:
                text = f'recording {name}, but no message comes on {", ".join(silent)}'
                return DiagnosticStatus.ERROR, text, values
        return DiagnosticStatus.OK, f'recording {name}' if name else 'idle', values

    def close(self) -> None:
        """Keep a demonstration that is being recorded, since robot time is expensive."""
        if self._recording is not None:
            self._serve(
                self.stop if self._recording.counts[EXECUTED] else self.discard,
                None,
                Trigger.Response(),
            )


def main() -> None:
    """Entry point of the node."""
    main_exit(DemoRecorder)


if __name__ == '__main__':
    main()
