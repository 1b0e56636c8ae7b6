"""The state classifier: how much a state looks like a state of the demonstrations."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Float64, UInt8MultiArray

from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.learning import checkpoint
from mbarl_ros.learning.classifier import ClassifierTrainer, logits, pack_classifier
from mbarl_ros.nodes.support.runtime import (
    LATCHED,
    RELIABLE,
    TRANSITIONS_HISTORY,
    BaseNode,
    bytes_message,
    main_exit,
    message_bytes,
)
from mbarl_ros.nodes.support.scheduling import give_way
from mbarl_ros.schema import topics
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
    """Trains C(s) on demonstration states against states visited by the backward policy.

    Publishes its weights (latched) after each chunk of transitions, and the score of the last
    state on ``~/score``. It counts environment steps as the learner does, by its acknowledgements.
    """

    def __init__(self) -> None:
        """Load demonstrations and the last checkpoint of the run, if there is one.

        :raises ConfigError: demonstrations cannot be used.
        """
        super().__init__('state_classifier')
        self.setup({'demonstrations': ('', "Folder of demonstrations; empty: the task's own")})
        if not self.lockstep:
            give_way()
        torch.set_num_threads(1)
        demonstrations = load_demonstrations(
            self.demonstrations_folder(), self.task, run_dir=self.run_dir
        )
        self._trainer = ClassifierTrainer(self.task, self.agent, demonstrations, self.seed)
        self._tracker = SequenceTracker()
        self._acknowledged = ('', 0)  # session, transitions of it
        self._trouble = ''
        self._waiting: list[Transitions] = []
        self._trained = 0
        self._metrics: dict[str, float] = {}
        self._score = float('nan')
        self._load()
        self._weights = self.create_publisher(
            UInt8MultiArray, topics.private(topics.CLASSIFIER), LATCHED
        )
        self._scores = self.create_publisher(Float64, topics.private(topics.SCORE), RELIABLE)
        self.create_subscription(
            UInt8MultiArray, topics.ACKNOWLEDGED, self._on_acknowledged, LATCHED
        )
        self.create_subscription(
            UInt8MultiArray,
            topics.TRANSITIONS,
            self._on_transitions,
            TRANSITIONS_HISTORY,
        )
        self._publish()

    def _on_acknowledged(self, message: UInt8MultiArray) -> None:
        """Count environment steps as the learner does, also after having missed some."""
        try:
            session, stored, total = unpack_acknowledgement(message_bytes(message))
        except wire.WireError as error:
            self.refuse(error, topics.ACKNOWLEDGED)
            return
        if session:
            self._acknowledged = session, stored
            self._tracker.rebase(session, total - stored)

    def _on_transitions(self, message: UInt8MultiArray) -> None:
        received = self.received(message)
        if received is None:
            return
        rows, session, first = received
        stored = self._acknowledged[1] if session == self._acknowledged[0] else 0
        if first > max(stored, self._tracker.stored.get(session, 0)) + WINDOW:
            error = wire.WireError(f'number {first}, when {stored} are acknowledged, cannot be')
            self.refuse(error, topics.TRANSITIONS)
            return
        missed = self._tracker.skip(session, first)
        if missed:
            self.get_logger().warning(f'{missed} transitions missed, which only the learner has')
        rows = self._tracker.fresh(rows, session, first)
        if not len(rows['sequence']):
            return
        self._tracker.count(session, len(rows['sequence']))
        logit = logits(self._trainer.arrays(), rows['next_observation'][-1])
        self._score = 0.5 * (1.0 + math.tanh(0.5 * float(logit)))  # a sigmoid without overflow
        self._scores.publish(Float64(data=self._score))
        self._waiting.append(rows)
        self._train()

    def _train(self) -> None:
        """One gradient step per ``classifier.every`` environment steps, chunk by chunk."""
        rows = concatenate(self._waiting)
        size = self.agent.chunk
        start = 0
        for end in np.flatnonzero(rows['sequence'] % size == size - 1) + 1:
            self._trainer.add(select(rows, slice(start, end)))
            self._trained = int(rows['sequence'][end - 1]) + 1
            self._metrics = self._trainer.train(self.agent.classifier_steps_due(self._trained))
            self._publish()
            if self._trained % _CHECKPOINT_EVERY < size:
                self._save()
            start = end
        self._waiting = [select(rows, slice(start, None))]

    def _publish(self) -> None:
        data = pack_classifier(self._trainer.arrays(), self.spec_hash, self._trained)
        self._weights.publish(bytes_message(data, 'classifier'))

    def _load(self) -> None:
        """Visited states come from the learner's log, the network from our checkpoint."""
        if self.run_dir is None:
            return
        self._checkpoint = self.run_dir / 'checkpoint' / 'classifier.safetensors'
        stored = self._tracker.replay(self.run_dir / TRANSITIONS_FILE, self.task, self.spec_hash)
        self._trained = self._tracker.total - self._tracker.total % self.agent.chunk
        self._trainer.add(select(stored, slice(0, self._trained)))
        self._waiting.append(select(stored, slice(self._trained, None)))
        with contextlib.suppress(FileNotFoundError):
            found = checkpoint.load(self._checkpoint, self.get_logger().error)
            self._trainer.load_state_dict(*found)

    def _save(self) -> None:
        if self.run_dir is None:
            return
        try:
            checkpoint.save(self._checkpoint, *self._trainer.state_dict())
            self._trouble = ''
        except OSError as error:  # a disk that is full now may have room again
            self._trouble = f'{self.run_dir}: checkpoint not written: {error.strerror}'
            self.get_logger().error(self._trouble)

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Score of the last state and training metrics."""
        values = {'score': f'{self._score:.3f}', 'refused': self.refused}
        values |= {name: f'{value:.4g}' for name, value in self._metrics.items()}
        if self._trouble:
            return DiagnosticStatus.ERROR, self._trouble, values
        if not self._tracker.total:
            return DiagnosticStatus.WARN, 'no transition yet from policy_controller', values
        return DiagnosticStatus.OK, '', values

    def close(self) -> None:
        """Keep what has been learned."""
        self._save()


def main() -> None:
    """Entry point of the node."""
    main_exit(StateClassifierNode)


if __name__ == '__main__':
    main()
