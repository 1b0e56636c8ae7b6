"""The learner: stores the controller's transitions, trains on them, publishes policies."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from functools import partial
from typing import Any

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.publisher import Publisher
from std_msgs.msg import UInt8MultiArray

from mbarl_ros.control.policy import pack_policy
from mbarl_ros.learning import checkpoint
from mbarl_ros.learning.classifier import unpack_classifier
from mbarl_ros.learning.learner import Learner
from mbarl_ros.nodes.support.curves import Curves
from mbarl_ros.nodes.support.demonstrations import (
    demonstrations_folder,
    keep_demonstrations,
    load_demonstrations,
)
from mbarl_ros.nodes.support.fleet import SHARED, Robots
from mbarl_ros.nodes.support.imagined_rollouts import ImaginedRollouts
from mbarl_ros.nodes.support.qos import KEEP_ALL, LATCHED, latched
from mbarl_ros.nodes.support.runtime import BaseNode, bytes_message, main_exit, message_bytes
from mbarl_ros.nodes.support.scheduling import give_way
from mbarl_ros.nodes.support.traffic import RECEIVED, SENT, Traffic
from mbarl_ros.nodes.support.transition_store import Arrival, TransitionStore
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.exit_codes import EXIT_FAILURE
from mbarl_ros.schema.load import without_demonstrations
from mbarl_ros.storage import wire
from mbarl_ros.storage.files import write_file
from mbarl_ros.storage.run_files import POLICY_FILE
from mbarl_ros.storage.transitions import (
    Transitions,
    concatenate,
    select,
)

_CHECKPOINT_EVERY = 500  # environment steps
_CLASSIFIER_TIMEOUT = 10.0  # s; a lost classifier must not end the training
_CLASSIFIERS_KEPT = 4
_MOST_CHUNKS = 2  # that are trained on as one with all their updates; policies must not get old
_POLICY_PERIOD = 5.0  # s between two publications of the same policy


class LearnerNode(BaseNode):
    """Stores transitions, trains on them chunk by chunk, and publishes a policy after each chunk.

    Subscribes to ``policy_controller/transitions`` and ``state_classifier/classifier``. Publishes
    ``~/acknowledged`` (how many transitions of which session are on disk) and ``~/policy``, both
    latched safetensors, and, while somebody subscribes, ``~/imagined``. Parameters:
    ``demonstrations``, ``gives_way``, ``threads``, ``fleet``. In ``run_dir`` it keeps the
    transition log, checkpoints, the last policy, TensorBoard curves and a copy of the
    demonstrations; a restarted learner resumes from there.

    With ``fleet`` it serves all robots in the namespaces below its own, from the moment at which
    they come: it subscribes to ``ROBOT/policy_controller/transitions`` and publishes
    ``ROBOT/learner/acknowledged``. ``robots.json`` in ``run_dir`` keeps their numbers.

    Callbacks run in the main thread, gradient steps in a thread of their own. A policy trained on
    chunks up to c is valid for chunk c + 2: collecting and training overlap, and in lockstep the
    run is reproducible all the same.
    """

    def __init__(self) -> None:
        """Load demonstrations, resume from the run folder if there is one, start training.

        :raises ConfigError: demonstrations or run folder cannot be used.
        """
        super().__init__('learner')
        self.setup(
            {
                'demonstrations': ('', "Folder of demonstrations; empty: the task's own"),
                'gives_way': (True, 'Real time: to the nodes that control a robot'),
                'threads': (1, 'Torch threads; more than the free cores makes it far slower'),
                **SHARED,
            }
        )
        if not self.lockstep and self.value('gives_way'):
            give_way()
        torch.set_num_threads(self.value('threads'))
        folder = demonstrations_folder(self)
        if folder is None:
            self.agent = without_demonstrations(self.agent, self.task.config)
        warn = self.get_logger().warning
        demonstrations = load_demonstrations(folder, self.task, self.run_dir, warn)
        if folder and self.task.reward_known and not demonstrations['terminated'].any():
            self.get_logger().warning(
                f"{folder}: no demonstration reaches what task '{self.task.name}' calls success "
                "(key 'success'); nothing shows that it can be reached"
            )
        self._learner = Learner(self.task, self.agent, demonstrations, self.seed)
        self._arrived: list[Arrival] = []  # not stored
        self._inbox: deque[Transitions] = deque()  # not trained on; guarded by _changed
        self._classifiers: dict[int, dict[str, np.ndarray]] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._failure: BaseException | None = None
        self._metrics: dict[str, float] = {}
        self._traffic = Traffic()
        try:
            self._resume()
            if folder is not None and self.run_dir is not None:
                keep_demonstrations(folder, self.run_dir)
            self._curves = Curves(self.run_dir, 'learner', self.get_logger().error)
        except OSError as error:
            raise ConfigError(
                f'run_dir {self.run_dir}: {error.strerror or error}; make it writable, make room '
                'or give another one'
            ) from None

        self._policies = self.create_publisher(
            UInt8MultiArray, topics.private(topics.POLICY), LATCHED
        )
        self._imagined = ImaginedRollouts(self, self._learner)
        self._acknowledged: dict[str, Publisher] = {}  # by robot
        self._robots = Robots(self, topics.TRANSITIONS, self._connect)
        self.create_subscription(
            UInt8MultiArray, topics.CLASSIFIER, self._on_classifier, latched(depth=10)
        )
        self.create_timer(1.0, self._acknowledge_all, clock=self.steady)
        # A controller that missed the first policy would wait for it, and the learner for data.
        self.create_timer(_POLICY_PERIOD, self._publish_policy, clock=self.steady)
        self._pack_policy(resumed=True)
        self._publish_policy()
        self._thread = threading.Thread(target=self._run_training, name='training', daemon=True)
        self._thread.start()

    def _connect(self, robot: str) -> None:
        """Receive the transitions of a robot, and acknowledge them."""
        own = topics.private(topics.ACKNOWLEDGED)
        topic = topics.of_robot(robot, topics.ACKNOWLEDGED) if robot else own
        self._acknowledged[robot] = self.create_publisher(UInt8MultiArray, topic, LATCHED)
        self.create_subscription(
            UInt8MultiArray,
            topics.of_robot(robot, topics.TRANSITIONS),
            partial(self._on_transitions, robot),
            KEEP_ALL,
        )
        self._acknowledge(robot)

    # --- storage -----------------------------------------------------------------------------

    def _resume(self) -> None:
        """Fill replay from the transition log and networks from the last good checkpoint."""
        self._trained = self._saved = 0
        self._store = TransitionStore(self.run_dir, self.task, self.spec_hash, self.get_logger())
        stored, total = self._store.load(), self._store.total
        if stored is None:
            return
        self._checkpoint = self.run_dir / 'checkpoint' / 'learner.safetensors'
        with contextlib.suppress(FileNotFoundError):
            arrays, meta = checkpoint.load(
                self._checkpoint,
                self.get_logger().error,
                lambda meta: meta['environment_steps'] <= total,
            )
            self._trained = self._saved = meta['environment_steps']
            self._learner.add(select(stored, slice(0, self._trained)))
            try:
                self._learner.load_state_dict(arrays, meta)
            except ValueError as error:
                raise ConfigError(f'{self._checkpoint}: {error}') from error
        if total:
            self._inbox.append(select(stored, slice(self._trained, None)))
            self.get_logger().info(f'resumed: {total} transitions, trained on {self._trained}')

    def _on_transitions(self, robot: str, message: UInt8MultiArray) -> None:
        self._traffic.count(RECEIVED, len(message.data))
        received = self.read_transitions(message, topics.of_robot(robot, topics.TRANSITIONS))
        if received is not None:
            self._arrived.append(Arrival(robot, *received))

    def act_on_messages(self, late: bool) -> None:
        """Store what has arrived: the messages of all robots wait for the disk together."""
        if not self._arrived:
            return
        arrived, self._arrived = self._arrived, []
        new = self._store.store(arrived)
        if new:
            self._imagined.start = new[-1]['next_observation'][-1]
            with self._changed:
                self._inbox.extend(new)
                self._changed.notify()
        for robot in dict.fromkeys(arrival.robot for arrival in arrived):
            self._acknowledge(robot)

    def _acknowledge_all(self) -> None:
        for robot in self._robots.names:
            self._acknowledge(robot)

    def _acknowledge(self, robot: str) -> None:
        data = self._store.acknowledgement(robot)
        self._acknowledged[robot].publish(bytes_message(data, 'acknowledged'))
        self._traffic.count(SENT, len(data))

    def _on_classifier(self, message: UInt8MultiArray) -> None:
        try:
            arrays, steps = unpack_classifier(message_bytes(message), self.task, self.agent)
        except wire.WireError as error:
            self.refuse(error, topics.CLASSIFIER)
            return
        with self._changed:
            self._classifiers.pop(steps, None)
            self._classifiers[steps] = arrays
            # The oldest goes, not the lowest number: one that is too high must not stay.
            while len(self._classifiers) > _CLASSIFIERS_KEPT:
                del self._classifiers[next(iter(self._classifiers))]
            self._changed.notify()

    # --- training thread ---------------------------------------------------------------------

    def _run_training(self) -> None:
        try:
            while not self._stopping:
                chunk = self._next_chunk()
                if chunk is None:
                    return
                self._train(chunk)
        except BaseException as error:
            self._failure = error
            self.get_logger().fatal(f'training stopped: {error!r}')
            self.exit_code = EXIT_FAILURE
            self.finished = True
            raise

    def _next_chunk(self) -> Transitions | None:
        """Next ``agent.chunk`` transitions; in real time all, as one, if there are more."""
        size = self.agent.chunk
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._waiting() >= size)
            if self._stopping:
                return None
            rows = concatenate(list(self._inbox))
            self._inbox.clear()
            if self.lockstep and len(rows['sequence']) > size:
                self._inbox.append(select(rows, slice(size, None)))
                rows = select(rows, slice(0, size))
            return rows

    def _waiting(self) -> int:
        """Transitions not trained on; the training thread changes the inbox meanwhile."""
        with self._changed:
            return sum(len(rows['sequence']) for rows in self._inbox)

    def _train(self, chunk: Transitions) -> None:
        start = time.monotonic()
        self._learner.add(chunk)
        self._trained += len(chunk['sequence'])
        if self.agent.backward == 'classifier':
            self._use_classifier(self._trained)
        new = min(len(chunk['sequence']), _MOST_CHUNKS * self.agent.chunk)
        updates = self.agent.updates_due(self._trained, new)
        metrics = self._learner.train(updates)
        metrics['updates_per_second'] = updates / (time.monotonic() - start)
        # Of a longer backlog the ratio falls, and that is said.
        metrics['updates_per_step'] = updates / len(chunk['sequence'])
        self._metrics = metrics
        self._pack_policy()
        self._publish_policy()
        self._imagined.publish_if_wanted(self._trained)
        self._curves.write(metrics, self._trained)
        if self._trained - self._saved >= _CHECKPOINT_EVERY:
            self._save()

    def _use_classifier(self, steps: int) -> None:
        """Use the classifier trained on exactly these steps; in real time the latest."""
        exact = self.lockstep
        with self._changed:
            ready = self._changed.wait_for(
                lambda: self._stopping or not exact or any(s >= steps for s in self._classifiers),
                timeout=_CLASSIFIER_TIMEOUT,
            )
            if not self._classifiers:
                return
            latest = next(reversed(self._classifiers.values()))
            arrays = self._classifiers.get(steps, latest)
        if not ready:
            self.get_logger().warning(
                'no new weights from state_classifier; training goes on with its last ones',
                throttle_duration_sec=30.0,
            )
        self._learner.set_classifier(arrays)

    def _pack_policy(self, resumed: bool = False) -> None:
        applies_from = 0 if resumed else self._trained + self.agent.chunk
        arrays = self._learner.policy_arrays()
        self._message = pack_policy(arrays, self.task, self.agent, self._trained, applies_from)

    def _publish_policy(self) -> None:
        self._policies.publish(bytes_message(self._message, 'policy'))
        self._traffic.count(SENT, len(self._message))

    def _save(self) -> None:
        if self.run_dir is None:
            return
        arrays, meta = self._learner.state_dict()
        self._saved = self._trained
        if self._store.written(
            'checkpoint', lambda: checkpoint.save(self._checkpoint, arrays, meta)
        ):
            path = self.run_dir / POLICY_FILE
            self._store.written('policy', lambda: write_file(path, self._message))

    # --- reporting and end -------------------------------------------------------------------

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Training progress, model error and how many steps training is behind."""
        lag = self._waiting()
        values = {
            'environment_steps': self._trained,
            'lag_steps': lag,
            'refused': self.refused,
            'duplicates': self._store.duplicates,
            'updates': self._learner.updates,
            'fleet': self.value('fleet'),
            **self._traffic.values(),
            **{
                f'steps of {robot}': self._store.steps_of(robot)
                for robot in self._robots.names
                if robot
            },
            **{name: f'{value:.4g}' for name, value in self._metrics.items()},
        }
        error = f'training stopped: {self._failure!r}' if self._failure else self._store.problem
        if error:
            return DiagnosticStatus.ERROR, error, values
        if not self._store.total:
            reason = 'no transition yet from policy_controller'
            if self.refused:
                reason = f'refused: {self._refusal}'
            return DiagnosticStatus.WARN, reason, values
        behind = lag > 20 * self.agent.chunk
        level = DiagnosticStatus.WARN if behind else DiagnosticStatus.OK
        return level, 'falling behind' if behind else '', values

    def close(self) -> None:
        """Finish the chunk at hand and write a checkpoint."""
        self.act_on_messages(late=False)
        self._stopping = True
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout=3.0)
        if not self._thread.is_alive() and self._failure is None:
            self._save()
        self._curves.close()
        self._store.close()


def main() -> None:
    """Entry point of the node."""
    main_exit(LearnerNode)


if __name__ == '__main__':
    main()
