"""The controller's line to the learner: transitions out, acknowledgements and policies in."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from std_msgs.msg import UInt8MultiArray

from mbarl_ros.control.policy import unpack_policy
from mbarl_ros.nodes.support.runtime import (
    LATCHED,
    TRANSITIONS_HISTORY,
    BaseLifecycleNode,
    bytes_message,
    message_bytes,
)
from mbarl_ros.schema import topics
from mbarl_ros.storage import wire
from mbarl_ros.storage.spool import SPOOL_FOLDER, Spool
from mbarl_ros.storage.transitions import WINDOW, pack_transitions, stack, unpack_acknowledgement

_EARLY = 4


class LearnerLink:
    """Keeps what was executed until it is acknowledged, and hands out policies when they are due.

    What a killed controller left in the run folder goes out first. Nothing that comes in is
    believed that cannot be: acknowledgements of what was never sent, policies of another layout,
    older ones, and such as were trained on more transitions than there are.
    """

    def __init__(self, node: BaseLifecycleNode, on_news: Callable[[], None]) -> None:
        """Connect; ``on_news`` is called after anything that a waiting robot may wait for.

        :raises ConfigError: another controller uses the run folder, or what is left in it is of
            another task or agent.
        """
        self._node = node
        self._on_news = on_news
        keeps = node.run_dir and not node.value('episodes')
        folder = node.run_dir / SPOOL_FOLDER if keeps else None
        self._spool = Spool(node.task, node.spec_hash, folder)
        self.base: int | None = None  # environment steps of the run before this session
        self.valid_until = 0  # environment steps up to which there is a policy to act with
        self.old_policies = 0
        self._version = -1  # newest that was accepted
        self._early: deque[UInt8MultiArray] = deque(maxlen=_EARLY)
        self._policies: deque[tuple[int, dict[str, np.ndarray], int]] = deque()
        self._last_heard = -np.inf
        self._head_known = False
        self._stored_before = -1
        self._dispute = ''
        self._transitions = node.create_publisher(
            UInt8MultiArray, topics.private(topics.TRANSITIONS), TRANSITIONS_HISTORY
        )
        node.create_subscription(UInt8MultiArray, topics.POLICY, self._on_policy, LATCHED)
        node.create_subscription(
            UInt8MultiArray, topics.ACKNOWLEDGED, self._on_acknowledged, LATCHED
        )
        node.create_timer(1.0, self._repeat, clock=node.steady)
        if not node.lockstep:
            node.create_timer(0.2, self.flush, clock=node.steady)
        if self._spool.recovered:
            node.get_logger().info(
                f'{self._spool.recovered} transitions are in {folder} from before; what the '
                'learner lacks of them goes out first'
            )

    @property
    def steps(self) -> int:
        """Environment steps of the run, as far as is known."""
        return (self.base or 0) + self._spool.own.end

    @property
    def _unsent(self) -> int:
        """Transitions of this session that were not sent yet."""
        own = self._spool.own
        return own.end - own.sent

    @property
    def learner_alive(self) -> bool:
        """Whether the learner was heard of late."""
        return time.monotonic() - self._last_heard < self._node.value('learner_timeout')

    @property
    def has_policies(self) -> bool:
        """Whether a policy waits for its turn."""
        return bool(self._policies)

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep an executed transition; in lockstep the learner gets each chunk at once."""
        self._spool.add(row)
        if self._node.lockstep and self._unsent >= self._node.agent.chunk:
            self.flush()

    def due_policies(self, any_will_do: bool) -> list[tuple[dict[str, np.ndarray], int]]:
        """Policies and their versions whose time has come; or else the first that there is.

        A restarted controller has no policy yet and takes the one there is, due or not.
        """
        due = []
        while self._policies and (self._policies[0][0] <= self.steps or (any_will_do and not due)):
            _, arrays, version = self._policies.popleft()
            due.append((arrays, version))
        return due

    def flush(self) -> None:
        """Publish what was not sent, at most one message of it."""
        head = self._spool.head
        # Only the learner can say how much it has of a session that was cut short.
        answered = self._head_known or head is self._spool.own
        if answered and head.sent < head.end and head.sent - head.acknowledged < WINDOW:
            self._publish(*self._spool.next_rows())

    def close(self) -> None:
        """Send what was not sent, and leave what is not acknowledged on disk."""
        self.flush()
        time.sleep(0.1)
        self._spool.close()

    def values(self) -> dict[str, Any]:
        """For /diagnostics."""
        return {
            'environment_steps': self.steps,
            'unacknowledged': self._spool.unacknowledged,
            'recovered': self._spool.recovered,
            'old_policies': self.old_policies,
        }

    @property
    def problem(self) -> str:
        """Why transitions are not on disk or not taken by the learner; empty where they are."""
        return self._spool.problem or self._dispute

    # --- in ----------------------------------------------------------------------------------

    def _on_acknowledged(self, message: UInt8MultiArray) -> None:
        spool = self._spool
        head = spool.head
        session = None
        try:
            session, stored, total = unpack_acknowledgement(message_bytes(message))
            if session == head.name:
                spool.acknowledge(stored)
        except ValueError as error:
            self._node.refuse(error, topics.ACKNOWLEDGED)
            if session == head.name:
                self._dispute = str(error)
            return
        self._last_heard = time.monotonic()
        if session != head.name:
            return
        self._dispute = ''
        if head is spool.own:
            self._know_base(total - stored)
        elif head is spool.head:
            self._head_known = True
            self.flush()
        else:
            self._head_known, self._stored_before = False, -1
            self._hello()
        self._on_news()

    def _know_base(self, base: int) -> None:
        first, self.base = self.base is None, base
        while first and self._early:
            self._take(self._early.popleft())

    def _on_policy(self, message: UInt8MultiArray) -> None:
        if self._node.value('policy'):
            return  # acts with a policy that was given
        if self.base is None:  # how much it can have been trained on is not known yet
            self._early.append(message)
        else:
            self._take(message)
            self._on_news()

    def _take(self, message: UInt8MultiArray) -> None:
        node = self._node
        try:
            arrays, meta = unpack_policy(message_bytes(message), node.task, node.agent)
            version = meta['version']
            if version > self.steps:
                raise wire.WireError(
                    f'policy: trained on {version} transitions, of {self.steps} that were made'
                )
        except wire.WireError as error:
            node.refuse(error, 'learner/policy; the last good policy stays')
            return
        self._last_heard = time.monotonic()
        if version == self._version:
            return  # said again, for those who missed it
        if version < self._version:  # also what a restarted learner says until it has caught up
            self.old_policies += 1
            return
        self._version = version
        self._policies.append((meta['applies_from'], arrays, version))
        self.valid_until = meta['valid_until']

    # --- out ---------------------------------------------------------------------------------

    def _publish(self, rows: Mapping[str, np.ndarray], first: int) -> None:
        data = pack_transitions(rows, self._node.spec_hash, self._spool.head.name, first)
        self._transitions.publish(bytes_message(data, 'transitions'))

    def _hello(self) -> None:
        """Ask how much of the head's rows the learner has."""
        self._publish(stack([], self._node.task), 0)

    def _repeat(self) -> None:
        """Once a second: say hello to a learner that does not know us, repeat what is unacked."""
        spool = self._spool
        head = spool.head
        if spool.problem:
            spool.retry()
        if self.base is None and not self._node.value('episodes'):
            self._hello()
        if self.learner_alive:
            if head.acknowledged < head.sent and head.acknowledged == self._stored_before:
                head.sent = head.acknowledged
            self.flush()
        self._stored_before = head.acknowledged
