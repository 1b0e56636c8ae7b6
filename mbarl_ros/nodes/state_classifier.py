"""The state classifier: how likely a state is one of the demonstrations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Float64, UInt8MultiArray

from mbarl_ros.learning import checkpoint
from mbarl_ros.learning.classifier import ClassifierTrainer, logits, pack_classifier
from mbarl_ros.nodes.support.demonstrations import demonstrations_folder, load_demonstrations
from mbarl_ros.nodes.support.fleet import SHARED, Robots
from mbarl_ros.nodes.support.qos import ALL_TRANSITIONS, LATCHED, RELIABLE
from mbarl_ros.nodes.support.runtime import BaseNode, bytes_message, main_exit, message_bytes
from mbarl_ros.nodes.support.scheduling import give_way
from mbarl_ros.nodes.support.traffic import RECEIVED, SENT, Traffic
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage import wire
from mbarl_ros.storage.run_files import TRANSITIONS_FILE
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.storage.transitions import (
    WINDOW,
    Transitions,
    concatenate,
    select,
    unpack_acknowledgement,
)

_CHECKPOINT_EVERY = 500  # environment steps


class StateClassifierNode(BaseNode):
    """Trains C(s): states of the demonstrations against states that the backward policy visits.

    Subscribes to ``policy_controller/transitions`` and ``learner/acknowledged``, by which it
    counts environment steps as the learner does. Publishes ``~/classifier`` (its weights after
    each chunk, latched safetensors) and ``~/score`` (Float64: C of the latest state). Parameters:
    ``demonstrations``, ``gives_way``, ``fleet``. With ``fleet`` it subscribes to these two topics
    of all robots in the namespaces below its own, and counts what it receives.

    On resume it continues from its last checkpoint in ``run_dir`` and trains on the transitions
    that the learner's log has since then, with as many gradient steps as it would have done.
    """

    def __init__(self) -> None:
        """Load demonstrations, and resume from the run folder if there is something in it.

        :raises ConfigError: demonstrations, log or checkpoint cannot be used.
        """
        super().__init__('state_classifier')
        self.setup(
            {
                'demonstrations': ('', "Folder of demonstrations; empty: the task's own"),
                'gives_way': (True, 'Real time: to the nodes that control a robot'),
                **SHARED,
            }
        )
        if not self.lockstep and self.value('gives_way'):
            give_way()
        torch.set_num_threads(1)
        demonstrations = load_demonstrations(demonstrations_folder(self), self.task, self.run_dir)
        self._trainer = ClassifierTrainer(self.task, self.agent, demonstrations, self.seed)
        self._tracker = SequenceTracker()
        self._acknowledged: dict[str, int] = {}  # session -> transitions
        self._on_disk = 0  # transitions that the learner has in its log
        self._save_due = False
        self._disk_problem = ''
        self._waiting: list[Transitions] = []  # received, but not yet a whole chunk
        self._trained = 0  # environment steps
        self._metrics: dict[str, float] = {}
        self._score = float('nan')
        self._traffic = Traffic()
        self._resume()
        self._weights = self.create_publisher(
            UInt8MultiArray, topics.private(topics.CLASSIFIER), LATCHED
        )
        self._scores = self.create_publisher(Float64, topics.private(topics.SCORE), RELIABLE)
        self._robots = Robots(self, topics.TRANSITIONS, self._connect)
        self._publish()

    def _connect(self, robot: str) -> None:
        for topic, receive, qos in (
            (topics.ACKNOWLEDGED, self._on_acknowledged, LATCHED),
            (topics.TRANSITIONS, self._on_transitions, ALL_TRANSITIONS),
        ):
            name = topics.of_robot(robot, topic)
            self.create_subscription(UInt8MultiArray, name, partial(receive, name), qos)

    # --- transitions -------------------------------------------------------------------------

    def _on_acknowledged(self, topic: str, message: UInt8MultiArray) -> None:
        """Count environment steps as the learner does, also after missed transitions.

        The learner's count in a fleet is of other robots, too, and of what is on its way from them.
        """
        try:
            session, stored, total = unpack_acknowledgement(message_bytes(message))
        except wire.WireError as error:
            self.refuse(error, topic)
            return
        self._on_disk = total
        if session:
            self._acknowledged[session] = stored
            if not self.value('fleet'):
                self._tracker.set_session_start(session, total - stored)
        self._save_if_due()

    def _on_transitions(self, topic: str, message: UInt8MultiArray) -> None:
        self._traffic.count(RECEIVED, len(message.data))
        received = self.read_transitions(message, topic)
        if received is None:
            return
        rows, session, first = received
        stored = self._acknowledged.get(session, 0)
        if first > max(stored, self._tracker.received.get(session, 0)) + WINDOW:
            error = wire.WireError(f'number {first}, but only {stored} are acknowledged')
            self.refuse(error, topic)
            return
        missed = self._tracker.skip_missing(session, first)
        if missed:
            self.get_logger().warning(f'{missed} transitions missed; only the learner has them')
        rows = self._tracker.new_rows(rows, session, first)
        if not len(rows['sequence']):
            return
        self._tracker.record_received(session, len(rows['sequence']))
        logit = logits(self._trainer.arrays(), rows['next_observation'][-1])
        self._score = 0.5 * (1.0 + math.tanh(0.5 * float(logit)))  # a sigmoid without overflow
        self._scores.publish(Float64(data=self._score))
        self._waiting.append(rows)
        self._train(self._publish)
        self._save_if_due()

    def _train(self, after_chunk: Callable[[], None]) -> None:
        """Train on the whole chunks that are waiting."""
        rows = concatenate(self._waiting)
        size = self.agent.chunk
        start = 0
        for end in np.flatnonzero(rows['sequence'] % size == size - 1) + 1:
            self._trainer.add(select(rows, slice(start, end)))
            self._trained = int(rows['sequence'][end - 1]) + 1
            self._metrics = self._trainer.train(self.agent.classifier_steps_due(self._trained))
            self._save_due |= self._trained % _CHECKPOINT_EVERY < size
            after_chunk()
            start = end
        self._waiting = [select(rows, slice(start, None))]

    def _publish(self) -> None:
        data = pack_classifier(self._trainer.arrays(), self.spec_hash, self._trained)
        self._weights.publish(bytes_message(data, 'classifier'))
        self._traffic.count(SENT, len(data))

    # --- run folder --------------------------------------------------------------------------

    def _resume(self) -> None:
        """Continue from the last checkpoint with what the learner's log has after it."""
        if self.run_dir is None:
            return
        self._checkpoint = self.run_dir / 'checkpoint' / 'classifier.safetensors'
        log = self.run_dir / TRANSITIONS_FILE
        try:
            stored = self._tracker.load_log(log, self.task, self.spec_hash)
        except OSError as error:
            raise ConfigError(f'{log}: cannot be read: {error.strerror}') from error
        self._on_disk = total = self._tracker.total
        with contextlib.suppress(FileNotFoundError):
            arrays, meta = checkpoint.load(
                self._checkpoint,
                self.get_logger().error,
                lambda meta: meta.get('environment_steps', math.inf) <= total,
            )
            self._trained = meta['environment_steps']
            self._trainer.add(select(stored, slice(0, self._trained)))
            try:
                self._trainer.load_state_dict(arrays, meta)
            except ValueError as error:
                raise ConfigError(f'{self._checkpoint}: {error}') from error
        resumed = self._trained
        self._waiting.append(select(stored, slice(resumed, None)))
        # Only the last weights are published: of several, the learner's choice would be a race.
        self._train(after_chunk=lambda: None)
        if total:
            self.get_logger().info(
                f'resumed: {total} transitions, of which {self._trained - resumed} were trained now'
            )

    def _save_if_due(self) -> None:
        """Write a checkpoint that is due, once the learner has on disk what it was trained on."""
        if self._save_due and self._trained <= self._on_disk:
            self._save()

    def _save(self) -> None:
        self._save_due = False
        if self.run_dir is None:
            return
        arrays, meta = self._trainer.state_dict()
        try:
            checkpoint.save(self._checkpoint, arrays, {**meta, 'environment_steps': self._trained})
            self._disk_problem = ''
        except OSError as error:  # a disk that is full now may have room again
            self._disk_problem = f'{self.run_dir}: checkpoint not written: {error.strerror}'
            self.get_logger().error(self._disk_problem)

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Score of the latest state, training progress and metrics."""
        values = {
            'score': f'{self._score:.3f}',
            'environment_steps': self._trained,
            'refused': self.refused,
            **self._traffic.values(),
        }
        values |= {name: f'{value:.4g}' for name, value in self._metrics.items()}
        if self._disk_problem:
            return DiagnosticStatus.ERROR, self._disk_problem, values
        if not self._tracker.total:
            return DiagnosticStatus.WARN, 'no transition yet from policy_controller', values
        return DiagnosticStatus.OK, '', values

    def close(self) -> None:
        """Write a checkpoint of what the learner has on disk."""
        if self._trained <= self._on_disk:
            self._save()


def main() -> None:
    """Entry point of the node."""
    main_exit(StateClassifierNode)


if __name__ == '__main__':
    main()
