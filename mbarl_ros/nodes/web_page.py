"""The page: shows a run in a browser on this machine, and has buttons where they are asked for."""

from __future__ import annotations

import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import Log
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from std_msgs.msg import String

from mbarl_ros.nodes.support.fleet import SHARED
from mbarl_ros.nodes.support.qos import LATCHED, RELIABLE_STEPS, SENSOR
from mbarl_ros.nodes.support.runtime import BaseNode, main_exit, node_of
from mbarl_ros.nodes.support.scheduling import give_way
from mbarl_ros.nodes.support.statuses import StatusListener
from mbarl_ros.nodes.support.web_commands import COMMANDS, WebCommands
from mbarl_ros.nodes.support.web_server import WebServer
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.history import read_history
from mbarl_ros.storage.web_address import read_address
from mbarl_ros.view.page import WEB_FILES, Page
from mbarl_ros.view.pictures import PictureError, jpeg
from mbarl_ros.view.status import RunInfo

_PERIOD = 1.0  # s between two updates
_PICTURE_PERIOD = 0.25  # s between two pictures, at least
_NOBODY_LOOKS = 5.0  # s without a request for a picture after which the camera is left alone
_LEVELS = {Log.INFO: 'info', Log.WARN: 'warning', Log.ERROR: 'error', Log.FATAL: 'error'}


class WebPage(BaseNode):
    """Serves the page under the URL in ``web_url`` of the run folder.

    Subscribes to ``/diagnostics``, ``/rosout``, ``policy_controller/phase``, and to
    ``camera/image_raw`` while a browser shows it. With parameter ``control`` it calls
    ``safety_gate/stop`` and ``release``, ``policy_controller/change_state`` and ``turn``, when
    somebody presses a button. Parameters: ``graph``, ``budget``, ``target``, ``control``,
    ``fleet`` (also shows the robots in the namespaces below).
    """

    def __init__(self) -> None:
        """Read what the run folder has, and begin to serve.

        :raises ConfigError: no run folder, no URL in it, an unknown graph, or the port is in use.
        """
        super().__init__('web_page')
        self.setup(
            {
                'graph': ('sim', f'The graph that runs: {", ".join(COMMANDS)}'),
                'budget': (0, 'Environment steps that end the run; 0: unlimited'),
                'target': (0.0, 'Deployed success that ends the run; 0: none'),
                'control': (False, 'The page has buttons'),
                **SHARED,
            }
        )
        give_way()
        run = self._run_info()
        names = COMMANDS[run.graph] if self.value('control') else ()
        self._commands = WebCommands(self, names) if names else None
        self._page = Page(run, names)
        try:
            self._page.load(read_history(run.run_dir))
        except OSError as error:
            self.get_logger().warning(f'the page has no history: {error}')
        self._server = WebServer(
            read_address(run.run_dir),
            WEB_FILES,
            self._page.everything,
            self._commands.request if self._commands else None,
        )
        self._statuses = StatusListener(self, fleet=self.value('fleet'))
        self._root = self.get_namespace().strip('/').replace('/', '.')
        self.create_subscription(Log, topics.LOG, self._on_log, RELIABLE_STEPS)
        self.create_subscription(String, topics.PHASE, self._on_phase, LATCHED)
        self._camera: Subscription | None = None
        self._looked_at = self._next_picture = 0.0
        self.create_timer(_PERIOD, self._update, clock=self.steady)
        self._server.start()
        self.get_logger().info(f'the URL of the page is in {run.run_dir}/web_url')

    def _run_info(self) -> RunInfo:
        graph = self.value('graph')
        if graph not in COMMANDS:
            raise ConfigError(
                f"node 'web_page': parameter 'graph' is '{graph}'; use {', '.join(COMMANDS)}"
            )
        if self.run_dir is None:
            raise ConfigError("node 'web_page': parameter 'run_dir' is empty; give the run folder")
        return RunInfo(
            graph=graph,
            task=self.task.config.name,
            agent=self.agent.name,
            seed=self.seed,
            run_dir=self.run_dir,
            budget=self.value('budget'),
            target=self.value('target'),
        )

    def act_on_messages(self, late: bool) -> None:
        """Call the services that a browser has asked for."""
        if self._commands is not None:
            self._commands.serve()

    def _update(self) -> None:
        self._statuses.mark_silent_robots()
        self._page.receive_status(self._statuses.status, time.time(), self._statuses.ages())
        if self._server.watched:
            self._server.publish(*self._page.update())
        self._look_through_camera()

    def _look_through_camera(self) -> None:
        """A camera, also a simulated one, costs nothing while nobody looks."""
        now = time.monotonic()
        if self._server.wants_pictures:
            self._looked_at = now
        wanted = self._looked_at > 0 and now - self._looked_at < _NOBODY_LOOKS
        if wanted and self._camera is None:
            self._camera = self.create_subscription(
                Image, topics.CAMERA_IMAGE, self._on_image, SENSOR
            )
        elif not wanted and self._camera is not None:
            self.destroy_subscription(self._camera)
            self._camera = None

    def _on_image(self, message: Image) -> None:
        now = time.monotonic()
        if now < self._next_picture or not self._server.wants_pictures:
            return
        self._next_picture = now + _PICTURE_PERIOD
        size = message.width, message.height
        try:
            picture = jpeg(message.data, size, message.step, message.encoding)
        except PictureError as error:
            self.refuse(error, topics.CAMERA_IMAGE)
            return
        self._server.publish_picture(picture)

    def _on_phase(self, message: String) -> None:
        self._page.receive_phase(message.data, time.time())

    def _on_log(self, message: Log) -> None:
        node = self._who(message.name)
        if node and message.level in _LEVELS:
            self._page.receive_line(time.time(), _LEVELS[message.level], node, message.msg)

    def _who(self, logger: str) -> str:
        """The node of a logger, of a fleet also ``robot_1/safety_gate``; empty: none of ours."""
        root, _, node = logger.rpartition('.')
        if root == self._root:
            return node
        name = f'/{logger.replace(".", "/")}'
        return node_of(name, self.get_namespace(), fleet=True) if self.value('fleet') else ''

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Whether a browser shows the page."""
        return DiagnosticStatus.OK, '', {'watched': self._server.watched, 'refused': self.refused}

    def close(self) -> None:
        """Tell the browsers that it ends."""
        self._server.close()


def main() -> None:
    """Entry point of the node."""
    main_exit(WebPage)


if __name__ == '__main__':
    main()
