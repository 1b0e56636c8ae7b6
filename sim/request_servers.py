"""The simulated robot's side of commands that come as goals of an action or calls of a service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse

from mbarl_ros.nodes.support.runtime import message_class
from mbarl_ros.schema.field_maps import ActionCommand, ServiceCommand


def serve(
    node: Any, entry: ActionCommand | ServiceCommand, take: Callable[[Any], str]
) -> ActionServer | Any:
    """Serve a command entry of the robot profile.

    A goal that is taken has succeeded: like a message it sets what the robot is to do from now on.

    :param take: takes a goal or a request; why it refuses, or an empty text
    """
    kind = message_class(entry.type)
    if isinstance(entry, ServiceCommand):

        def answer(request: Any, response: Any) -> Any:
            refusal = take(request)
            if hasattr(response, 'success'):
                response.success, response.message = not refusal, refusal
            return response

        return node.create_service(kind, entry.service, answer)

    def accept(goal: Any) -> GoalResponse:
        return GoalResponse.REJECT if take(goal) else GoalResponse.ACCEPT

    def succeed(handle: Any) -> Any:
        handle.succeed()
        return kind.Result()

    return ActionServer(
        node,
        kind,
        entry.action,
        execute_callback=succeed,
        goal_callback=accept,
        cancel_callback=lambda _: CancelResponse.ACCEPT,
    )
