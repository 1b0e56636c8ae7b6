"""The controller's connection to the learner: transitions out, acknowledgements and policies in."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from std_msgs.msg import UInt8MultiArray

from mbarl_ros.control.policy import unpack_policy
from mbarl_ros.nodes.support.fleet import in_fleet
from mbarl_ros.nodes.support.qos import LATCHED, TRANSITIONS_HISTORY
from mbarl_ros.nodes.support.runtime import BaseLifecycleNode, bytes_message, message_bytes
from mbarl_ros.nodes.support.traffic import RECEIVED, SENT, RoundTrip, Traffic
from mbarl_ros.schema import topics
from mbarl_ros.storage import wire
from mbarl_ros.storage.spool import SPOOL_FOLDER, Spool
from mbarl_ros.storage.transitions import WINDOW, pack_transitions, stack, unpack_acknowledgement

_UNCHECKED = 4  # policies kept until it is known how many transitions there are


class LearnerLink:
    """Keeps executed transitions until they are acknowledged, and hands out policies when due.

    What a killed controller left in the run folder is sent first. Refused are acknowledgements of
    transitions that were never sent, and policies of another layout or trained on more
    transitions than there are. Older policies are dropped.

    In a fleet, ``steps`` are those of all its robots, as far as the learner has acknowledged them.
    A policy that was trained on more waits for the next acknowledgement.
    """

    def __init__(self, node: BaseLifecycleNode, on_change: Callable[[], None]) -> None:
        """Connect; ``on_change`` is called after each message that a waiting robot may wait for.

        :raises ConfigError: another controller uses the run folder, or what is left in it is of
            another task or agent.
        """
        self._node = node
        self._on_change = on_change
        self._fleet = in_fleet(node)
        keeps = node.run_dir and not node.value('episodes')
        folder = node.run_dir / SPOOL_FOLDER if keeps else None
        self._spool = Spool(node.task, node.spec_hash, folder)
        self.session_start: int | None = None  # environment steps of the run before this session
        self.valid_until = 0  # environment steps up to which there is a policy to act with
        self.weights: dict[str, np.ndarray] | None = None  # of the policy that was due last
        self._weights_version = -1
        self._newest_version = -1  # of the policies accepted
        self._old_policies = 0
        self._unchecked: deque[UInt8MultiArray] = deque(maxlen=_UNCHECKED)
        self._policies: deque[tuple[int, dict[str, np.ndarray], int]] = deque()
        self._last_received = -np.inf  # s
        self._head_known = False
        self._stored_before = -1
        self._rejection = self._no_policy = ''
        self.policy_message = b''  # of the policies accepted, the newest
        self._traffic, self._round_trip = Traffic(), RoundTrip()
        self._transitions = node.create_publisher(
            UInt8MultiArray, topics.private(topics.TRANSITIONS), TRANSITIONS_HISTORY
        )
        node.create_subscription(UInt8MultiArray, topics.POLICY, self._on_policy, LATCHED)
        node.create_subscription(
            UInt8MultiArray, topics.ACKNOWLEDGED, self._on_acknowledged, LATCHED
        )
        node.create_timer(1.0, self._resend, clock=node.steady)
        if not node.lockstep:
            node.create_timer(0.2, self.flush, clock=node.steady)
        if self._spool.recovered:
            node.get_logger().info(
                f'{self._spool.recovered} transitions of an earlier process are in {folder}; those '
                'that the learner lacks are sent first'
            )

    @property
    def steps(self) -> int:
        """Environment steps of the run, as far as is known."""
        return (self.session_start or 0) + self._spool.own.end

    @property
    def robot_steps(self) -> int:
        """Environment steps of this robot, in a fleet since the start of this process."""
        return self._spool.own.end if self._fleet else self.steps

    @property
    def _unsent(self) -> int:
        """Transitions of this session that were not sent yet."""
        own = self._spool.own
        return own.end - own.sent

    @property
    def alive(self) -> bool:
        """Whether a message of the learner was received within ``learner_timeout``."""
        return time.monotonic() - self._last_received < self._node.value('learner_timeout')

    @property
    def has_policies(self) -> bool:
        """Whether policies have been received that are not in use yet."""
        return bool(self._policies)

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep an executed transition; in lockstep the learner gets each chunk at once."""
        self._spool.add(row)
        if self._node.lockstep and self._unsent >= self._node.agent.chunk:
            self.flush()

    def due_policies(self, accept_any: bool) -> list[dict[str, np.ndarray]]:
        """Weights that are due, oldest first.

        :param accept_any: take the next one although not yet due, as a restarted controller must
        """
        due = []
        while self._policies and (self._policies[0][0] <= self.steps or (accept_any and not due)):
            _, self.weights, self._weights_version = self._policies.popleft()
            due.append(self.weights)
        return due

    def flush(self) -> None:
        """Publish transitions that were not sent, at most one message of them."""
        head = self._spool.head
        # Only the learner knows how much it has of a session that was cut short. While the line is
        # cut nothing is sent: the middleware would drop what it cannot keep for the classifier.
        answered = self._head_known or head is self._spool.own
        if (
            self.alive
            and answered
            and head.sent < head.end
            and head.sent - head.acknowledged < WINDOW
        ):
            self._publish(*self._spool.next_rows())

    def close(self) -> None:
        """Send what was not sent, and leave what is not acknowledged on disk."""
        self.flush()
        time.sleep(0.1)
        self._spool.close()

    def values(self) -> dict[str, Any]:
        """Values for /diagnostics."""
        return {
            'environment_steps': self.steps,
            'unacknowledged': self._spool.unacknowledged,
            'recovered': self._spool.recovered,
            'policy_version': self._weights_version,
            'old_policies': self._old_policies,
            'policy_age_steps': self.steps - self._weights_version if self.weights else -1,
            **self._traffic.values(),
            **self._round_trip.values(),
        }

    @property
    def problem(self) -> str:
        """Why transitions are not on disk or not stored, or no policy fits; empty: no problem."""
        return self._spool.problem or self._rejection or self._no_policy

    # --- subscriptions -----------------------------------------------------------------------

    def _on_acknowledged(self, message: UInt8MultiArray) -> None:
        spool = self._spool
        head = spool.head
        name, session = head.name, None
        data = message_bytes(message)
        self._traffic.count(RECEIVED, len(data))
        try:
            session, stored, total = unpack_acknowledgement(data)
            if session == name:
                spool.acknowledge(stored)
        except ValueError as error:
            self._node.refuse(error, topics.ACKNOWLEDGED)
            if session == name:
                self._rejection = str(error)
            return
        self._last_received = time.monotonic()
        if session != name:
            return
        self._rejection = ''
        if head.name != name:
            self._node.get_logger().warning(
                'the learner lacks transitions that were acknowledged: is it another one, or does '
                f'it use a new run folder? The {len(head.rows)} that are still here are sent to it'
            )
            self._request_acknowledgement()
        elif head is spool.own:
            self._round_trip.acknowledged(stored)
            self._set_session_start(total - stored)
        elif head is spool.head:
            self._head_known = True
            self.flush()
        else:
            self._head_known, self._stored_before = False, -1
            self._request_acknowledgement()
        self._on_change()

    def _set_session_start(self, steps: int) -> None:
        self.session_start = steps
        waiting = list(self._unchecked)
        self._unchecked.clear()
        for message in waiting:
            self._accept(message)

    def _on_policy(self, message: UInt8MultiArray) -> None:
        if self._node.value('policy'):
            return  # the controller acts with a given policy
        self._traffic.count(RECEIVED, len(message.data))
        self._accept(message)
        if self.session_start is not None:
            self._on_change()

    def _accept(self, message: UInt8MultiArray) -> None:
        node = self._node
        data = message_bytes(message)
        try:
            arrays, meta = unpack_policy(data, node.task, node.agent)
            version = meta['version']
            if self.session_start is None:  # and so on how many it can have been trained
                self._unchecked.append(message)
                return
            if version > self.steps and self._fleet:
                self._unchecked.append(message)  # other robots may have executed them
                return
            if version > self.steps:
                raise wire.WireError(
                    f'policy: trained on {version} transitions, but only {self.steps} were executed'
                )
        except wire.WireError as error:
            node.refuse(error, f'{topics.POLICY}; the last good policy stays')
            if self._newest_version < 0:  # it may be the learner of another run
                self._no_policy = f'{error}; start both sides with the same task and agent'
            return
        self._last_received, self._no_policy = time.monotonic(), ''
        if version == self._newest_version:
            return  # published again, for subscribers that missed it
        if version < self._newest_version:  # also of a restarted learner that is catching up
            self._old_policies += 1
            return
        self._newest_version = version
        self._policies.append((meta['applies_from'], arrays, version))
        self.valid_until = meta['valid_until']
        self.policy_message = data

    # --- transitions -------------------------------------------------------------------------

    def _publish(self, rows: Mapping[str, np.ndarray], first: int) -> None:
        data = pack_transitions(rows, self._node.spec_hash, self._spool.head.name, first)
        self._transitions.publish(bytes_message(data, 'transitions'))
        self._traffic.count(SENT, len(data))
        if self._spool.head is self._spool.own and len(rows['phase']):
            self._round_trip.sent(first + len(rows['phase']))

    def _request_acknowledgement(self) -> None:
        """Ask the learner how many rows of the head session it has: by a message without rows."""
        self._publish(stack([], self._node.task), 0)

    def _resend(self) -> None:
        """Once a second: resend unacknowledged rows; contact a learner that has not answered."""
        spool = self._spool
        head = spool.head
        if spool.problem:
            spool.retry()
        if self.session_start is None and not self._node.value('episodes'):
            self._request_acknowledgement()
        if not self.alive:
            self._round_trip.reset()
        else:
            if head.acknowledged < head.sent and head.acknowledged == self._stored_before:
                head.sent = head.acknowledged
            self.flush()
        self._stored_before = head.acknowledged
