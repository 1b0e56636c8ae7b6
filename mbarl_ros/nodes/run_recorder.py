"""The run recorder: what a run says and does, in MCAP files that Foxglove and rosbags open."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import UInt8MultiArray

from mbarl_ros import __version__
from mbarl_ros.demos.metadata import DemonstrationError
from mbarl_ros.demos.recording import topic_of
from mbarl_ros.demos.run_recording import RunRecording, finish_torn, joint_state, recordings
from mbarl_ros.nodes.support.runtime import BaseNode, main_exit, message_class
from mbarl_ros.nodes.support.scheduling import give_way
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.recorded import LATCHED_TOPICS, recorded_topics
from mbarl_ros.storage.run_files import RECORDING_FOLDER
from mbarl_ros.storage.sequence_tracker import SequenceTracker

_QUEUE_DEPTH = 1000  # messages of a topic that may wait to be written
_LATCHED_DEPTH = {topics.TF_STATIC: 100}  # of several publishers; 1 elsewhere
_FLUSH_PERIOD = 1.0  # s that a killed recorder loses
_PICTURE_PERIOD = 1_000_000_000  # ns of the log between two pictures that are kept
_STAMP_AT, _STAMP_END = 4, 12  # bytes of a message in CDR that begins with a header


class RunRecorder(BaseNode):
    """Records the robot's and the graph's topics into ``run_dir/recording``.

    Messages are written as they came, unconverted; of the camera's pictures one a second. Log time
    is robot time in lockstep (the newest stamp of a state) and ROS time in real time. Where no
    visualizer publishes ``visualizer/state``, the states in which steps began are written there.

    Subscribes to the topics of :func:`~mbarl_ros.schema.recorded.recorded_topics` and to
    ``policy_controller/transitions``. Parameters: ``camera``.
    """

    def __init__(self) -> None:
        """Begin a new file; finish those of recorders that were killed.

        :raises ConfigError: there is no run folder, or a message type has no known definition.
        """
        super().__init__('run_recorder')
        give_way()
        self.setup({'camera': (False, 'Also record the pictures of the simulated camera')})
        if self.run_dir is None:
            raise ConfigError(f"node '{self.get_name()}': parameter 'run_dir' is needed")
        types = recorded_topics(self.task.robot, camera=self.value('camera'))
        names = {topic: self.resolve_topic_name(topic) for topic in types}
        try:
            channels = {topic: topic_of(names[topic], kind) for topic, kind in types.items()}
        except DemonstrationError as error:
            raise ConfigError(f"node '{self.get_name()}': {error}") from error
        self._newest = 0  # ns of robot time, in lockstep
        self._picture_at = -_PICTURE_PERIOD
        self._folder = self.run_dir / RECORDING_FOLDER
        self._recording = RunRecording(
            self._folder,
            channels,
            {topic: _LATCHED_DEPTH.get(topic, 1) for topic in LATCHED_TOPICS if topic in types},
            self._describe(),
        )
        self._reported = ''  # problem that is in the log
        self._tracker = SequenceTracker()
        self._entries = [entry.name for entry in self.task.config.observation]
        # Those from before the discovery of this node, unless they are in an earlier file.
        first = not any(path != self._recording.path for path in recordings(self._folder))
        history = DurabilityPolicy.TRANSIENT_LOCAL if first else DurabilityPolicy.VOLATILE
        for topic, kind in types.items():
            self._subscribe(topic, message_class(kind))
        self.create_subscription(
            UInt8MultiArray,
            topics.TRANSITIONS,
            self._on_transitions,
            QoSProfile(depth=_QUEUE_DEPTH, durability=history),
        )
        self.create_timer(_FLUSH_PERIOD, self._flush, clock=self.steady)
        # In a thread: a large file takes seconds, and nothing is recorded until the node spins.
        threading.Thread(target=self._finish_torn, name='finish', daemon=True).start()

    def _describe(self) -> dict[str, str]:
        clock = 'robot time (newest stamp of a state)' if self.lockstep else 'ROS time'
        return {
            'version': __version__,
            'task': self.task.name,
            'robot': self.task.robot.name,
            'agent': self.agent.name,
            'seed': str(self.seed),
            'mode': self.mode,
            'log_time': clock,
            'started': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
        }

    def _finish_torn(self) -> None:
        try:
            for sentence in finish_torn(self._folder, besides=self._recording.path):
                self.get_logger().warning(sentence)
        except OSError as error:  # the next start tries again
            self.get_logger().error(f'{self._folder}: {error}')

    # --- messages ----------------------------------------------------------------------------

    def _subscribe(self, topic: str, kind: Any) -> None:
        is_state = topic in self.task.robot.state_topics
        static = topic in LATCHED_TOPICS or self.task.robot.tf_topics.get(topic, False)
        # A real robot's driver may offer best effort only.
        best_effort = is_state and not self.lockstep and not static
        qos = QoSProfile(
            depth=_QUEUE_DEPTH,
            reliability=ReliabilityPolicy.BEST_EFFORT
            if best_effort
            else ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if static else DurabilityPolicy.VOLATILE,
        )
        receive: Callable[[bytes], None] = partial(self._receive, topic)
        if self.lockstep and is_state and next(iter(kind.get_fields_and_field_types())) == 'header':
            receive = partial(self._receive_state, topic)
        elif topic in (topics.CAMERA_IMAGE, topics.CAMERA_INFO):
            receive = partial(self._receive_camera, topic)
        self.create_subscription(kind, topic, receive, qos, raw=True)

    def _receive(self, topic: str, data: bytes) -> None:
        self._recording.write(topic, self._log_time(), data)

    def _receive_state(self, topic: str, data: bytes) -> None:
        self._newest = max(self._newest, _stamp(data))
        self._receive(topic, data)

    def _receive_camera(self, topic: str, data: bytes) -> None:
        """Keep one picture a second, and the camera_info that comes after it."""
        now = self._log_time()
        if topic == topics.CAMERA_IMAGE:
            if now < self._picture_at + _PICTURE_PERIOD:
                return
            self._picture_at = now
        elif now > self._picture_at + _PICTURE_PERIOD // 20:
            return
        self._receive(topic, data)

    def _log_time(self) -> int:
        return self._newest if self.lockstep else self.get_clock().now().nanoseconds

    def _on_transitions(self, message: UInt8MultiArray) -> None:
        """Write the states in which steps began, unless a visualizer publishes states."""
        if self.count_publishers(topics.SHOWN_STATE):
            return
        if (taken := self.read_transitions(message, topics.TRANSITIONS)) is None:
            return
        transitions, session, first = taken
        self._tracker.skip_missing(session, first)  # those before the discovery of this node
        rows = self._tracker.new_rows(transitions, session, first)
        assert rows is not None
        self._tracker.record_received(session, len(rows['stamp']))
        states = self.task.to_entries(rows['observation'][:, : self.task.state_dim])
        for values, seconds in zip(states, rows['stamp'], strict=True):
            stamp = round(seconds * 1e9)
            # In real time the robot's driver may have a clock of its own.
            log = stamp if self.lockstep else self._log_time()
            state = joint_state(self._entries, values, stamp)
            self._recording.write(topics.SHOWN_STATE, log, state)

    # --- reporting and end -------------------------------------------------------------------

    def _flush(self) -> None:
        self._recording.flush()
        if self._recording.problem != self._reported:
            self._reported = self._recording.problem
            if self._reported:
                self.get_logger().error(self._reported)
            else:
                self.get_logger().info(f'recording goes on: {self._recording.path}')

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """File, messages and bytes written, messages lost."""
        recording = self._recording
        values = {
            'file': recording.path,
            'messages': sum(recording.counts.values()),
            'megabytes': f'{recording.bytes_written / 1e6:.1f}',
            'lost': recording.lost,
        }
        level = DiagnosticStatus.ERROR if recording.problem else DiagnosticStatus.OK
        return level, recording.problem, values

    def close(self) -> None:
        """Finish the file, with what has arrived and was not written yet."""
        for subscription in self.subscriptions:
            while taken := subscription.handle.take_message(
                subscription.msg_type, subscription.raw
            ):
                subscription.callback(taken[0])
        self._recording.close()


def _stamp(data: bytes) -> int:
    """Stamp in ns of a message in CDR that begins with a header; 0: it is too short."""
    if len(data) < _STAMP_END:
        return 0
    order = '<' if data[1] & 1 else '>'
    seconds, nanoseconds = struct.unpack_from(f'{order}iI', data, _STAMP_AT)
    return seconds * 1_000_000_000 + nanoseconds


def main() -> None:
    """Entry point of the node."""
    main_exit(RunRecorder)


if __name__ == '__main__':
    main()
