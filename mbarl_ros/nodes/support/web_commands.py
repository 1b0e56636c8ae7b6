"""The commands of the page: services of the gate and the controller, called for its server."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from std_srvs.srv import Trigger

from mbarl_ros.schema import topics

_TRIGGERS = {'stop': topics.GATE_STOP, 'release': topics.GATE_RELEASE, 'turn': topics.TURN}
_TRANSITIONS = {
    'pause': Transition.TRANSITION_DEACTIVATE,
    'resume': Transition.TRANSITION_ACTIVATE,
}
_DONE = {'pause': 'policy_controller is inactive', 'resume': 'policy_controller is active'}
_GATE, _PRACTICE = ('stop', 'release'), ('pause', 'resume')
COMMANDS = {
    'sim': (*_GATE, *_PRACTICE, 'turn'),
    'hardware': (*_GATE, *_PRACTICE, 'turn'),
    'evaluate': (*_GATE, *_PRACTICE),
    'record': _GATE,
    'replay': _GATE,
}
"""Graph -> the commands that make sense in it."""

Answer = tuple[bool, str]


class WebCommands:
    """Takes requests from any thread; calls the services in the node's."""

    def __init__(self, node: Node, names: tuple[str, ...]) -> None:
        """Make a client for each of the commands ``names``."""
        self._node = node
        self._waiting: queue.SimpleQueue[tuple[str, Future[Answer]]] = queue.SimpleQueue()
        self._clients: dict[str, Any] = {
            name: node.create_client(Trigger, service)
            for name, service in _TRIGGERS.items()
            if name in names
        }
        if 'pause' in names:
            change = node.create_client(ChangeState, topics.CHANGE_STATE)
            self._clients |= dict.fromkeys(_PRACTICE, change)

    def request(self, name: str) -> Future[Answer]:
        """Ask for a command; the future has whether it was done, and what the service said.

        :raises KeyError: there is no such command in this graph.
        """
        self._clients[name]
        future: Future[Answer] = Future()
        self._waiting.put((name, future))
        self._node.executor.wake()
        return future

    def serve(self) -> None:
        """Call the services that have been asked for; in the node's thread."""
        while not self._waiting.empty():
            self._call(*self._waiting.get())

    def _call(self, name: str, answer: Future[Answer]) -> None:
        if not answer.set_running_or_notify_cancel():
            return
        client = self._clients[name]
        if not client.service_is_ready():
            answer.set_result((False, f'{client.srv_name} is not there: does its node run?'))
            return
        request, said = _request(name)
        called = client.call_async(request)
        called.add_done_callback(lambda done: answer.set_result(said(done.result())))


def _request(name: str) -> tuple[Any, Callable[[Any], Answer]]:
    """Request of a service, and what reads its response."""
    if name in _TRIGGERS:
        return Trigger.Request(), lambda response: (response.success, response.message)
    transition = Transition(id=_TRANSITIONS[name])
    return ChangeState.Request(transition=transition), lambda response: (
        response.success,
        _DONE[name] if response.success else 'refused by policy_controller; its log says why',
    )
