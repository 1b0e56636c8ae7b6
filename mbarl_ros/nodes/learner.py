"""The learner: stores streamed transitions, trains on them, publishes policies."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSProfile
from std_msgs.msg import UInt8MultiArray

from mbarl_ros.control.policy import pack_policy
from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.learning import checkpoint
from mbarl_ros.learning.classifier import unpack_classifier
from mbarl_ros.learning.learner import Learner
from mbarl_ros.nodes.support.runtime import (
    KEEP_ALL,
    LATCHED,
    BaseNode,
    bytes_message,
    main_exit,
    message_bytes,
)
from mbarl_ros.nodes.support.scheduling import give_way
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage import wire
from mbarl_ros.storage.files import write_file
from mbarl_ros.storage.record_log import RecordLog
from mbarl_ros.storage.run_files import POLICY_FILE, TRANSITIONS_FILE
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.storage.transitions import (
    Transitions,
    concatenate,
    pack_acknowledgement,
    pack_log_record,
    select,
)

_CHECKPOINT_EVERY = 500  # environment steps
_CLASSIFIER_TIMEOUT = 10.0  # seconds; a lost classifier must not end the training
_REPEAT_POLICY = 5.0  # seconds


class LearnerNode(BaseNode):
    """Transitions in, acknowledged once they are on disk; policies out, latched.

    Callbacks run in the main thread, gradient steps in a thread of their own, chunk by chunk.
    A policy trained on chunks <= c is published as valid for chunk c + 2 (README, "How the run is
    kept honest"), which lets collecting and training overlap and yet be reproducible.
    """

    def __init__(self) -> None:
        """Load demonstrations, resume from the run folder if there is one, start training.

        :raises ConfigError: demonstrations or run folder cannot be used.
        """
        super().__init__('learner')
        self.setup(
            {
                'demonstrations': ('', "Folder of demonstrations; empty: the task's own"),
                'threads': (1, 'Torch threads; more than the free cores makes it far slower'),
            }
        )
        if not self.lockstep:
            give_way()
        torch.set_num_threads(self.value('threads'))
        folder = self.demonstrations_folder()
        demonstrations = load_demonstrations(folder, self.task, run_dir=self.run_dir)
        self._learner = Learner(self.task, self.agent, demonstrations, self.seed)
        self._tracker = SequenceTracker()
        self._log: RecordLog | None = None
        self._inbox: deque[Transitions] = deque()
        self._classifiers: dict[int, dict[str, np.ndarray]] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._failure: BaseException | None = None
        self._metrics: dict[str, float] = {}
        self._trouble = ''  # with the disk; what could not be written is kept by the controller
        self._duplicates = 0
        try:
            self._resume()
            self._keep_demonstrations(folder)
            self._board = self._open_board()
        except OSError as error:
            raise ConfigError(
                f'run_dir {self.run_dir}: {error}; make it writable, make room or give another one'
            ) from None

        self._policies = self.create_publisher(
            UInt8MultiArray, topics.private(topics.POLICY), LATCHED
        )
        self._acknowledged = self.create_publisher(
            UInt8MultiArray, topics.private(topics.ACKNOWLEDGED), LATCHED
        )
        self.create_subscription(
            UInt8MultiArray, topics.TRANSITIONS, self._on_transitions, KEEP_ALL
        )
        classifier_qos = QoSProfile(depth=10, durability=LATCHED.durability)
        self.create_subscription(
            UInt8MultiArray, topics.CLASSIFIER, self._on_classifier, classifier_qos
        )
        self.create_timer(1.0, self._acknowledge, clock=self.steady)
        # A controller that missed the first policy would wait for it, and the learner for data.
        self.create_timer(_REPEAT_POLICY, self._say_policy, clock=self.steady)
        self._publish_policy(resumed=True)
        self._acknowledge()
        self._thread = threading.Thread(target=self._train_for_ever, name='training', daemon=True)
        self._thread.start()

    def _keep_demonstrations(self, folder: Path) -> None:
        """Copy the demonstrations used into the run folder."""
        if self.run_dir is None or (self.run_dir / 'demonstrations').exists():
            return
        beside = self.run_dir / '.demonstrations.tmp'
        shutil.rmtree(beside, ignore_errors=True)
        try:
            shutil.copytree(folder, beside)
        except shutil.Error as error:  # it lists each file, with the same reason
            raise OSError(error.args[0][0][2]) from None
        beside.rename(self.run_dir / 'demonstrations')

    # --- storage -----------------------------------------------------------------------------

    def _resume(self) -> None:
        """Fill replay from the transition log and networks from the last good checkpoint."""
        self._trained = self._saved = 0
        if self.run_dir is None:
            return
        self._checkpoint = self.run_dir / 'checkpoint' / 'learner.safetensors'
        path = self.run_dir / TRANSITIONS_FILE
        self._log = RecordLog(path)
        if self._log.torn_bytes:
            self.get_logger().warning(f'{path}: cut a torn tail of {self._log.torn_bytes} bytes')
        stored = self._tracker.replay(path, self.task, self.spec_hash)
        total = self._tracker.total
        with contextlib.suppress(FileNotFoundError):
            arrays, meta = checkpoint.load(
                self._checkpoint,
                self.get_logger().error,
                lambda meta: meta['environment_steps'] <= total,
            )
            self._trained = self._saved = meta['environment_steps']
            self._learner.add(select(stored, slice(0, self._trained)))
            self._learner.load_state_dict(arrays, meta)
        if total:
            self._inbox.append(select(stored, slice(self._trained, None)))
            self.get_logger().info(f'resumed: {total} transitions, trained on {self._trained}')

    def _on_transitions(self, message: UInt8MultiArray) -> None:
        received = self.received(message)
        if received is None:
            return
        rows, session, first = received
        sent = len(rows['sequence'])
        rows = self._tracker.fresh(rows, session, first)
        count = 0 if rows is None else len(rows['sequence'])
        self._duplicates += 0 if rows is None else sent - count
        if count and self._store(rows, session):
            self._tracker.count(session, count)
            with self._changed:
                self._inbox.append(rows)
                self._changed.notify()
        self._acknowledge()

    def _store(self, rows: Transitions, session: str) -> bool:
        """Whether rows are on disk now; if not, the controller has them and sends them again."""
        if self._log is None:
            return True
        first = self._tracker.stored.get(session, 0)
        record = pack_log_record(rows, self.task, self.spec_hash, session, first)
        return self._written(TRANSITIONS_FILE, lambda: self._log.append(record))

    def _written(self, what: str, write: Callable[[], None]) -> bool:
        """Whether something could be written; a disk that is full now may have room again."""
        try:
            write()
        except OSError as error:
            self._trouble = f'{self.run_dir}: {what} not written: {error.strerror or error}'
            self.get_logger().error(self._trouble, throttle_duration_sec=10.0)
            return False
        if f' {what} ' in self._trouble:
            self._trouble = ''
        return True

    def _acknowledge(self) -> None:
        session = self._tracker.last_session
        stored = self._tracker.stored.get(session, 0)
        data = pack_acknowledgement(session, stored, self._tracker.total)
        self._acknowledged.publish(bytes_message(data, 'acknowledged'))

    def _on_classifier(self, message: UInt8MultiArray) -> None:
        try:
            arrays, steps = unpack_classifier(message_bytes(message), self.task, self.agent)
        except wire.WireError as error:
            self.refuse(error, topics.CLASSIFIER)
            return
        with self._changed:
            self._classifiers.pop(steps, None)
            self._classifiers[steps] = arrays
            # By age, not by number: a number that is too high must not stay for ever.
            while len(self._classifiers) > 4:
                del self._classifiers[next(iter(self._classifiers))]
            self._changed.notify()

    # --- training thread ---------------------------------------------------------------------

    def _train_for_ever(self) -> None:
        try:
            while not self._stopping:
                chunk = self._next_chunk()
                if chunk is None:
                    return
                self._train(chunk)
        except BaseException as error:
            self._failure = error
            self.get_logger().fatal(f'training stopped: {error!r}')
            self.exit_code = 1
            self.finished = True
            raise

    def _next_chunk(self) -> Transitions | None:
        """Next ``agent.chunk`` transitions; in real time all there are, if more."""
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
        return sum(len(rows['sequence']) for rows in self._inbox)

    def _train(self, chunk: Transitions) -> None:
        start = time.monotonic()
        self._learner.add(chunk)
        self._trained += len(chunk['sequence'])
        if self.agent.backward == 'classifier':
            self._take_classifier(self._trained)
        updates = self.agent.updates_due(self._trained)
        metrics = self._learner.train(updates)
        metrics['updates_per_second'] = updates / (time.monotonic() - start)
        self._metrics = metrics
        self._publish_policy()
        if self._board is not None:
            self._draw(metrics)
        if self._trained - self._saved >= _CHECKPOINT_EVERY:
            self._save()

    def _draw(self, metrics: dict[str, float]) -> None:
        try:
            for name, value in metrics.items():
                self._board.add_scalar(f'learner/{name}', value, self._trained)
        except OSError as error:
            self._board = None  # its writer has ended; curves are not worth the training
            self.get_logger().error(f'no more curves in tensorboard/: {error}')

    def _take_classifier(self, steps: int) -> None:
        """Use the classifier trained up to exactly these steps; in real time the latest."""
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
                'state_classifier is silent; training goes on with its last weights',
                throttle_duration_sec=30.0,
            )
        self._learner.set_classifier(arrays)

    def _publish_policy(self, resumed: bool = False) -> None:
        applies_from = 0 if resumed else self._trained + self.agent.chunk
        arrays = self._learner.policy_arrays()
        self._message = pack_policy(arrays, self.task, self.agent, self._trained, applies_from)
        self._say_policy()

    def _say_policy(self) -> None:
        self._policies.publish(bytes_message(self._message, 'policy'))

    def _save(self) -> None:
        if self.run_dir is None:
            return
        arrays, meta = self._learner.state_dict()
        self._saved = self._trained
        if self._written('checkpoint', lambda: checkpoint.save(self._checkpoint, arrays, meta)):
            path = self.run_dir / POLICY_FILE
            self._written('policy', lambda: write_file(path, self._message))

    # --- reporting and end -------------------------------------------------------------------

    def _open_board(self) -> Any:
        if self.run_dir is None:
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.run_dir / 'tensorboard' / 'learner'))

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Training progress, model error and how far training is behind."""
        lag = self._waiting()
        values = {
            'environment_steps': self._trained,
            'lag_steps': lag,
            'refused': self.refused,
            'duplicates': self._duplicates,
            'updates': self._learner.updates,
            **{name: f'{value:.4g}' for name, value in self._metrics.items()},
        }
        trouble = f'training stopped: {self._failure!r}' if self._failure else self._trouble
        if trouble:
            return DiagnosticStatus.ERROR, trouble, values
        if not self._tracker.total:
            return DiagnosticStatus.WARN, 'no transition yet from policy_controller', values
        behind = lag > 20 * self.agent.chunk
        level = DiagnosticStatus.WARN if behind else DiagnosticStatus.OK
        return level, 'falling behind' if behind else '', values

    def close(self) -> None:
        """Finish the chunk at hand and write a checkpoint."""
        self._stopping = True
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout=3.0)
        if not self._thread.is_alive() and self._failure is None:
            self._save()
        if self._board is not None:
            self._board.close()
        if self._log is not None:
            self._log.close()


def main() -> None:
    """Entry point of the node."""
    main_exit(LearnerNode)


if __name__ == '__main__':
    main()
