"""Commands that are requested of the robot: goals of an action, calls of a service.

Nothing here waits: answers come as callbacks of the node's executor.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

import numpy as np
from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
from rclpy.action import ActionClient
from rclpy.task import Future

from mbarl_ros.nodes.support.runtime import filled_class, message_class
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.field_maps import ActionCommand, ServiceCommand
from mbarl_ros.schema.message_fields import TopicCodec
from mbarl_ros.schema.robot import RobotConfig

_LOOK_EVERY = 0.2  # s from one look for the server to the next
_ANSWER_TIME = 2.0  # s within which a server answers a request
_RETRY = 1.0  # s from a failure until the same is requested again
_CANCEL_EVERY = 0.1  # s; a goal that is on its way may be accepted after a cancellation
_ENDED = {GoalStatus.STATUS_CANCELED: 'was cancelled', GoalStatus.STATUS_ABORTED: 'was aborted'}


class Requester:
    """Requests what the robot is commanded when that changes, and again after a failure.

    One request at a time: the next one waits for the answer to the last. ``fault`` says what is
    wrong; it is empty again after a success.
    """

    def __init__(
        self, node: Any, entry: ActionCommand | ServiceCommand, codec: TopicCodec, holds: bool
    ) -> None:
        """:param holds: a stop requests nothing, as ``stop: hold`` says."""
        self.entry, self._node, self._codec, self._holds = entry, node, codec, holds
        self.fault = ''
        self.failures = 0
        self._filled = filled_class(entry.type)
        self._tolerance = np.array([entry.tolerance.get(name, 0.0) for name in entry.fields])
        self._stopped = False
        self._wanted: np.ndarray | None = None  # what the fields are to hold; None: nothing
        self._requested: np.ndarray | None = None  # what they held in the request that counts
        self._pending: Future | None = None  # the answer to the last request
        self._requested_at = self._look_at = -math.inf
        self._repeat_at = math.inf  # when the same is requested again
        self._is_there = False
        self._servers: frozenset[bytes] = frozenset()

    def command(self, values: np.ndarray, stop: bool) -> None:
        """Command ``values`` [n]; ``stop``: they are those of a stop, and NaN where it holds."""
        begins, self._stopped = stop and not self._stopped, stop
        if stop and self._holds:
            self._wanted = None
            self.hold()
        else:
            if begins:  # it waits for no answer, and does not count on what was under way
                if self._pending is not None:
                    self._requested = None
                self._drop()
                self._requested_at = -math.inf
            # A Bool or a whole number changes less often than its command.
            self._wanted = np.array(self._codec.decode(self._codec.encode(self._filled(), values)))
        self.poll()

    def hold(self) -> None:
        """A stop keeps what was requested; an action may end it."""

    def poll(self) -> None:
        """Request what is due; call this often."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            self._look()
        if self._pending is not None and now - self._requested_at > _ANSWER_TIME:
            self._drop()
            self.fail(f'no answer within {_ANSWER_TIME:g} s; is its server alive?')
        if self._is_there and self._pending is None and self._is_due(now):
            self._requested, self._requested_at, self._repeat_at = self._wanted, now, math.inf
            self._pending = self.request(self._codec.encode(self._filled(), self._wanted))

    def _is_due(self, now: float) -> bool:
        if self._wanted is None or now - self._requested_at < self.entry.period:
            return False
        if self._requested is None or now >= self._repeat_at:
            return True
        tolerance = 0.0 if self._stopped else self._tolerance
        return bool((abs(self._wanted - self._requested) > tolerance).any())

    def _look(self) -> None:
        """Look for the server; a new one knows nothing of what was requested before."""
        self._is_there, servers = self.server_is_there(), self.servers()
        if not self._is_there:
            self.forget()
            self.fault = 'no server; start its driver or controller, or correct the name'
        elif servers - self._servers:
            self.forget()
            self.fault = ''
        self._servers = servers if self._is_there else frozenset()

    def forget(self) -> None:
        """Whatever was requested counts no more."""
        self._requested = None
        self._drop()

    def _drop(self) -> None:
        """Wait no longer for the answer to the last request."""
        self._pending = None

    def fail(self, why: str) -> None:
        """The last request did not come to its end: it is repeated while its command stands."""
        self.failures += 1
        self.fault, self._repeat_at = why, time.monotonic() + _RETRY
        if self._node.may_log(self.entry.label):
            self._node.get_logger().error(f'{self.entry.label}: {why}')

    def close(self) -> None:
        """The node ends after a stop: answers come no more."""

    def request(self, message: Any) -> Future:
        """Send a request; the future gets the answer."""
        raise NotImplementedError

    def server_is_there(self) -> bool:
        """Whether the server can be reached."""
        raise NotImplementedError

    def servers(self) -> frozenset[bytes]:
        """What tells one server from its successor; a killed one is listed for a while."""
        raise NotImplementedError


class GoalSender(Requester):
    """Sends goals of an action; a new goal takes the place of the one before."""

    def __init__(self, node: Any, entry: ActionCommand, codec: TopicCodec, holds: bool) -> None:
        """Create the action client on ``node``."""
        super().__init__(node, entry, codec, holds)
        self._client = ActionClient(node, message_class(entry.type), entry.action)
        # Cancels all goals, those of a gate that was killed and those on their way included.
        self._canceller = node.create_client(CancelGoal, f'{entry.action}/_action/cancel_goal')
        self._feedback = f'{node.resolve_topic_name(entry.action)}/_action/feedback'
        self._cancels = entry.at_stop == 'cancel'
        self._goal: Any = None  # handle of the goal that the robot works on
        self._ends = False  # whether the server has promised to end it
        self._may_run = True  # whether the robot may work on one
        self._cancelled_at = -math.inf
        self._cancelling: Future | None = None

    def request(self, message: Any) -> Future:
        """Send a goal."""
        self._may_run = True
        future = self._client.send_goal_async(message)
        future.add_done_callback(self._on_answer)
        return future

    def server_is_there(self) -> bool:
        """As the middleware says."""
        return self._client.server_is_ready()

    def servers(self) -> frozenset[bytes]:
        """Publishers of the feedback."""
        infos = self._node.get_publishers_info_by_topic(self._feedback)
        return frozenset(bytes(info.endpoint_gid) for info in infos)

    def forget(self) -> None:
        """Whatever was requested counts no more."""
        super().forget()
        self._goal = None

    def poll(self) -> None:
        """Request what is due, or cancel; call this often."""
        super().poll()
        if self._stopped:  # a gate that was just started has to find the server first
            self.hold()

    def hold(self) -> None:
        """Cancel what runs, if the profile says so, until the server knows of nothing more."""
        now = time.monotonic()
        if not self._cancels:
            return
        self._requested = None
        due = self._may_run and now - self._cancelled_at >= _CANCEL_EVERY
        if not (due and self._canceller.service_is_ready()):
            return
        self._cancelled_at = now
        if self._cancelling is not None:
            self._canceller.remove_pending_request(self._cancelling)
        self._cancelling = self._canceller.call_async(CancelGoal.Request())
        self._cancelling.add_done_callback(self._on_cancelled)

    def _on_cancelled(self, future: Future) -> None:
        if future.result().goals_canceling:
            self._ends = True
        elif self._goal is None and self._pending is None:
            self._may_run = False
        elif self._goal is not None and not self._ends and self._stopped:
            self._cancelled_at = time.monotonic() + _RETRY
            self.fail('the server refuses to cancel the goal at a stop')

    def close(self) -> None:
        """Cancel once more, what was accepted after the stop."""
        if self._cancels:
            time.sleep(_CANCEL_EVERY)
            self.hold()

    def _on_answer(self, future: Future) -> None:
        goal = future.result()
        if future is not self._pending:  # too late: another goal was sent since
            if goal.accepted:
                goal.cancel_goal_async()
            return
        self._pending = None
        before, self._goal, self._ends = self._goal, goal if goal.accepted else None, False
        if before is not None:  # most servers end it themselves, some refuse a goal before that
            before.cancel_goal_async()
        if goal.accepted:
            goal.get_result_async().add_done_callback(partial(self._on_result, goal))
            if self._stopped and self._cancels:
                goal.cancel_goal_async().add_done_callback(self._on_cancelled)
        elif before is not None:
            self._requested = None
        else:
            self.fail('rejected the goal')

    def _on_result(self, goal: Any, future: Future) -> None:
        if goal is not self._goal:
            return
        self._goal = None
        answer = future.result()
        if answer.status == GoalStatus.STATUS_SUCCEEDED:
            self.fault = ''
        elif self._stopped and self._cancels:
            self.fault = ''
        else:
            said = getattr(answer.result, 'error_string', '')  # of a FollowJointTrajectory
            ended = _ENDED.get(answer.status, f'ended with status {answer.status}')
            self.fail(f'the goal {ended}' + (f': {said}' if said else ''))


class ServiceCaller(Requester):
    """Calls a service."""

    def __init__(self, node: Any, entry: ServiceCommand, codec: TopicCodec, holds: bool) -> None:
        """Create the client on ``node``."""
        super().__init__(node, entry, codec, holds)
        self._client = node.create_client(message_class(entry.type), entry.service)
        # As DDS names the topic of the requests; elsewhere a successor is not told apart.
        self._requests = f'rq{node.resolve_service_name(entry.service)}Request'

    def request(self, message: Any) -> Future:
        """Call the service."""
        future = self._client.call_async(message)
        future.add_done_callback(self._on_answer)
        return future

    def server_is_there(self) -> bool:
        """As the middleware says."""
        return self._client.service_is_ready()

    def servers(self) -> frozenset[bytes]:
        """Subscribers to the requests."""
        infos = self._node.get_subscriptions_info_by_topic(self._requests, no_mangle=True)
        return frozenset(bytes(info.endpoint_gid) for info in infos)

    def _drop(self) -> None:
        if self._pending is not None:
            self._client.remove_pending_request(self._pending)
        super()._drop()

    def _on_answer(self, future: Future) -> None:
        if future is not self._pending:
            return
        self._pending = None
        answer = future.result()
        if getattr(answer, 'success', True):
            self.fault = ''
        else:
            said = getattr(answer, 'message', '')
            self.fail('answered success: false' + (f': {said}' if said else ''))


def refuse_lockstep(node: Any, robot: RobotConfig) -> None:
    """Refuse goals and calls in lockstep.

    :raises ConfigError: names the first of them.
    """
    if node.lockstep and robot.requests:
        raise ConfigError(
            f"robot '{robot.name}': {robot.requests[0].label}: is answered in its own time, so "
            'that the same seed would not give the same run; give mode:=realtime'
        )


def requester(
    node: Any, entry: ActionCommand | ServiceCommand, codec: TopicCodec, holds: bool
) -> Requester:
    """What requests a command entry.

    :param holds: a stop requests nothing, as ``stop: hold`` says
    """
    if isinstance(entry, ActionCommand):
        return GoalSender(node, entry, codec, holds)
    return ServiceCaller(node, entry, codec, holds)
