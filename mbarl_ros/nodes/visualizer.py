"""The visualizer: what the robot does, has learned and imagines, as markers and plain numbers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, String, UInt8MultiArray
from visualization_msgs.msg import MarkerArray

from mbarl_ros.nodes.support.demonstrations import demonstrations_folder, load_demonstrations
from mbarl_ros.nodes.support.marker_messages import marker_array
from mbarl_ros.nodes.support.qos import LATCHED, RELIABLE
from mbarl_ros.nodes.support.robot_topics import StateListener
from mbarl_ros.nodes.support.runtime import BaseNode, main_exit, message_bytes, node_of
from mbarl_ros.nodes.support.scheduling import give_way
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.message_fields import set_stamp
from mbarl_ros.storage.imagined import Imagined, unpack_imagined
from mbarl_ros.storage.transitions import PHASES
from mbarl_ros.storage.wire import WireError
from mbarl_ros.view.measures import MEASURES, SuccessRate, learner_measures
from mbarl_ros.view.scene import Scene, rollout_segments
from mbarl_ros.view.status import number

_PERIOD = 0.4  # s between two messages on ~/markers
_STATIC_PERIOD = 5.0  # s between two messages on ~/static_markers
_RECENT = 500  # states


class Visualizer(BaseNode):
    """Publishes markers of the points that the task shows, its state and numbers of the run.

    ``~/markers`` (MarkerArray): recent states by phase, the newest one, imagined rollouts, text;
    ``~/static_markers`` (latched): workspace, goals, demonstrations coloured by the classifier's
    score. ``~/state`` (JointState): the entries of the observation. And Float64 topics, see
    :data:`mbarl_ros.view.measures.MEASURES`. Parameter: ``demonstrations``.

    It subscribes to ``/diagnostics`` and the phase always; to the robot's state topics,
    ``learner/imagined`` and ``state_classifier/classifier`` only while somebody subscribes to what
    is made of them.
    """

    def __init__(self) -> None:
        """Make the publishers; inputs are subscribed to on demand."""
        super().__init__('visualizer')
        self.setup({'demonstrations': ('', "Folder of demonstrations; empty: the task's own")})
        give_way()
        self._scene = Scene(self.task.config, self.task.robot.workspace)
        if not self._scene.points:
            self.get_logger().warning(
                f"task '{self.task.name}': no markers, since it does not tell which entries are a "
                "position: set key 'show' or, for the success entries, key 'axis'"
            )
        self._names = list(dict.fromkeys(entry.name for entry in self.task.config.observation))
        entries = [entry.name for entry in self.task.config.observation]
        self._order = [entries.index(name) for name in self._names]
        self._phase = ''
        self._recent: deque[tuple[np.ndarray, str]] = deque(maxlen=_RECENT)  # states, phases
        self._stamp = -1  # of the newest state, ns
        self._imagined: Imagined | None = None
        self._rate, self._deployed = SuccessRate(), ''
        self._demonstrated: np.ndarray | None = None  # observations, once they are wanted
        self._weights: dict[str, np.ndarray] = {}  # of the classifier
        self._static_is_old, self._static_due = True, 0.0  # s, steady clock
        self._make_publishers()
        for topic in (topics.PHASE, topics.RECORDER_PHASE):
            self.create_subscription(String, topic, self._on_phase, LATCHED)
        self.create_subscription(
            DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, QoSProfile(depth=20)
        )
        learns = self.agent.backward == 'classifier'
        self._states = OnDemand(self._listen_to_states)
        self._rollouts = OnDemand(self._listen(topics.IMAGINED, self._on_imagined, RELIABLE))
        self._classifier = (
            OnDemand(self._listen(topics.CLASSIFIER, self._on_classifier, LATCHED))
            if learns
            else None
        )
        self.create_timer(_PERIOD, self._tick, clock=self.steady)

    def _make_publishers(self) -> None:
        def publisher(kind: Any, topic: str, qos: QoSProfile = RELIABLE) -> Any:
            return self.create_publisher(kind, topics.private(topic), qos)

        self._markers = publisher(MarkerArray, topics.MARKERS)
        self._static = publisher(MarkerArray, topics.STATIC_MARKERS, LATCHED)
        self._state = publisher(JointState, topics.SHOWN_STATE)
        self._measures = {topic: publisher(Float64, topic) for topic in MEASURES}

    # --- inputs ------------------------------------------------------------------------------

    def _listen_to_states(self) -> Callable[[], None]:
        return StateListener(self, self.task.robot, self.lockstep, self._on_state).close

    def _listen(
        self, topic: str, callback: Callable[[UInt8MultiArray], None], qos: QoSProfile
    ) -> Callable[[], Callable[[], None]]:
        def connect() -> Callable[[], None]:
            subscription = self.create_subscription(UInt8MultiArray, topic, callback, qos)
            return lambda: self.destroy_subscription(subscription)

        return connect

    def _on_state(self, robot_state: np.ndarray, stamp: int) -> None:
        state = self.task.state(robot_state)
        repeated = stamp == self._stamp  # as in lockstep, while the robot waits for a command
        if repeated or not np.isfinite(state).all():
            return
        self._stamp = stamp
        self._recent.append((state, self._phase))
        if self._state.get_subscription_count():
            message = JointState(name=self._names)
            message.position = self.task.to_entries(state)[self._order].astype(float).tolist()
            set_stamp(message, stamp)
            self._state.publish(message)

    def _on_phase(self, message: String) -> None:
        self._phase = message.data if message.data in PHASES else ''

    def _on_imagined(self, message: UInt8MultiArray) -> None:
        try:
            self._imagined = unpack_imagined(message_bytes(message), self.task, self.spec_hash)
        except WireError as error:
            self.refuse(error, topics.IMAGINED)

    def _on_classifier(self, message: UInt8MultiArray) -> None:
        # It imports torch, so only where somebody looks.
        from mbarl_ros.learning.classifier import unpack_classifier

        try:
            self._weights, _ = unpack_classifier(message_bytes(message), self.task, self.agent)
        except WireError as error:
            self.refuse(error, topics.CLASSIFIER)
            return
        self._static_is_old = True

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {item.key: item.value for item in status.values}
            name = node_of(status.name, self.get_namespace())
            if name == 'learner':
                self._publish_measures(learner_measures(values))
            elif name == 'policy_controller':
                self._on_attempts(values)
            elif name == 'policy_evaluator':
                self._deployed = values.get('deployed_success', '')

    def _on_attempts(self, values: dict[str, str]) -> None:
        attempts, successes = (number(values.get(key, '')) for key in ('attempts', 'successes'))
        if attempts is None or successes is None:
            return
        self._rate.add(int(attempts), int(successes))
        succeeded, counted = self._rate.counted
        if counted:
            self._publish_measures({topics.SUCCESS_RATE: succeeded / counted})

    def _publish_measures(self, measures: dict[str, float]) -> None:
        for topic, value in measures.items():
            self._measures[topic].publish(Float64(data=value))

    # --- markers -----------------------------------------------------------------------------

    def _tick(self) -> None:
        """Connect to what somebody wants to see, and publish it."""
        points = bool(self._scene.points)
        moving = points and self._markers.get_subscription_count() > 0
        static = points and self._static.get_subscription_count() > 0
        self._states.follow(moving or self._state.get_subscription_count() > 0)
        self._rollouts.follow(moving)
        if self._classifier is not None:
            self._classifier.follow(static)
        if not moving:
            self._recent.clear()
            self._imagined = None
        elif self._recent:
            self._publish_markers()
        if static and self._static_is_old and time.monotonic() >= self._static_due:
            self._publish_static()

    def _publish_markers(self) -> None:
        states, phases = zip(*self._recent, strict=True)
        rollouts = {}
        if self._imagined is not None:
            start = self._imagined.start[: self.task.state_dim]
            for policy, chains in self._imagined.rollouts.items():
                rollouts[policy] = rollout_segments(start, chains)
        shapes = self._scene.moving(np.stack(states), phases, rollouts, self._text())
        self._markers.publish(marker_array(shapes))

    def _text(self) -> str:
        succeeded, counted = self._rate.counted
        lines = [self._phase or 'no phase yet']
        if counted:
            lines.append(f'practice: {succeeded} of the last {counted} attempts')
        if self._deployed:
            lines.append(f'deployed: {self._deployed}')
        return '\n'.join(lines)

    def _publish_static(self) -> None:
        if self._demonstrated is None:
            self._demonstrated = self._load_demonstrations()
        scores = None
        if self._weights and len(self._demonstrated):
            from mbarl_ros.learning.classifier import logits

            logit = logits(self._weights, self._demonstrated)
            scores = 0.5 * (1.0 + np.tanh(0.5 * logit))  # a sigmoid without overflow
        self._static.publish(marker_array(self._scene.static(self._demonstrated, scores)))
        self._static_is_old, self._static_due = False, time.monotonic() + _STATIC_PERIOD

    def _load_demonstrations(self) -> np.ndarray:
        """Observations [n, observation_dim] of the demonstrations; none, if there are none."""
        try:
            rows = load_demonstrations(demonstrations_folder(self), self.task, self.run_dir)
        except ConfigError as error:
            self.get_logger().warning(f'no markers of demonstrations: {error}')
            return np.zeros((0, self.task.observation_dim), np.float32)
        return rows['observation']

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """How many look, and what was refused."""
        publishers = (self._markers, self._static, self._state)
        viewers = sum(publisher.get_subscription_count() for publisher in publishers)
        return DiagnosticStatus.OK, '', {'viewers': viewers, 'refused': self.refused}


class OnDemand:
    """An input that is connected only while somebody wants what is made of it."""

    def __init__(self, connect: Callable[[], Callable[[], None]]) -> None:
        """``connect()`` subscribes, and returns what unsubscribes."""
        self._connect = connect
        self._disconnect: Callable[[], None] | None = None

    def follow(self, wanted: bool) -> None:
        """Connect or disconnect."""
        if wanted and self._disconnect is None:
            self._disconnect = self._connect()
        elif not wanted and self._disconnect is not None:
            self._disconnect()
            self._disconnect = None


def main() -> None:
    """Entry point of the node."""
    main_exit(Visualizer)


if __name__ == '__main__':
    main()
