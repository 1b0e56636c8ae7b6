"""The page of a running graph, in a browser: live values, buttons, crashes.

Each node is a process of its own; the browser is a real one.
"""

import http.client

import pytest
from std_msgs.msg import String

from mbarl_ros.nodes.support.qos import LATCHED, latched
from mbarl_ros.storage.web_address import keep_address
from support.browser import Browser, needs_chromium
from support.graph import Graph

pytestmark = [pytest.mark.together, needs_chromium]

STEPS = (
    'parseInt((document.querySelector("dd")?.innerText.match(/([\\d,]+) of/)?.[1] ?? "-1")'
    '.replaceAll(",", ""))'
)
LIVE = 'document.querySelector("#connection").innerText === "live"'


class Watched(Graph):
    """A simulated robot that acts at random, and its page."""

    def __init__(self, folder, control, mode='lockstep'):
        super().__init__(folder, task='pointmass', mode=mode)
        self.control = control
        self.gate, self.phases = '', []
        self.address = keep_address(folder / 'run')

    def __enter__(self):
        super().__enter__()
        create = self.node.create_subscription
        create(String, 'safety_gate/state', self._on_gate, LATCHED)
        create(String, 'policy_controller/phase', self._on_phase, latched(100))
        self.start('robot_sim', camera=True)
        self.start('safety_gate')
        self.start('policy_controller', policy='random')
        self.start_page()
        return self

    def start_page(self):
        self.start('web_page', control=self.control, budget=100_000)
        self.wait_for('the page', lambda: 'web_page' in self.statuses)

    def _on_gate(self, message):
        self.gate = message.data

    def _on_phase(self, message):
        self.phases.append(message.data)

    def until(self, tab, expression):
        return self.wait_for(expression, lambda: tab.evaluate(expression))


def test_the_page_is_live_and_its_buttons_do_what_they_say(tmp_path):
    with Watched(tmp_path, control=True) as graph, Browser(tmp_path / 'browser') as browser:
        graph.wait_for_steps(5)
        tab = browser.open(graph.address.url)
        graph.until(tab, LIVE)
        before = tab.evaluate(STEPS)
        graph.until(tab, f'{STEPS} > {before} + 20')
        assert tab.text('#title') == 'sim: pointmass, mbarl, seed 0'
        graph.until(tab, '!document.querySelector("#camera").hidden')
        # The e-stop: by the mouse, and seen by ROS. The page then shows it.
        tab.click('#stop')
        graph.wait_for('e-stop', lambda: graph.gate == 'e-stop')
        graph.until(tab, 'document.querySelector("#answer").innerText.includes("e-stop latched")')
        graph.until(tab, 'document.querySelector("#problems").innerText.includes("e-stop")')
        # Release: asks first, and Cancel has the focus, so that Enter is harmless.
        graph.until(tab, '!document.querySelector("[data-command=release]").disabled')
        tab.click('[data-command=release]')
        tab.press('Enter', 13, '\r')
        graph.until(tab, '!document.querySelector("dialog").open')
        graph.spin(0.5)
        assert graph.gate == 'e-stop'
        tab.click('[data-command=release]')
        tab.click('#yes')
        graph.wait_for('release', lambda: graph.gate == 'ok')
        # Pause and go on, through the lifecycle.
        graph.until(tab, '!document.querySelector("[data-command=pause]").disabled')
        tab.click('[data-command=pause]')
        lifecycle = lambda: graph.statuses['policy_controller']['lifecycle']  # noqa: E731
        graph.wait_for('pause', lambda: lifecycle() == 'inactive')
        graph.until(tab, '!document.querySelector("[data-command=resume]").disabled')
        tab.click('[data-command=resume]')
        tab.click('#yes')
        graph.wait_for('activity', lambda: lifecycle() == 'active')
        # The first key stroke of a person who has just opened the page reaches the e-stop.
        again = browser.open(graph.address.url)
        graph.until(again, LIVE)
        again.press('Tab', 9)
        assert again.evaluate('document.activeElement.id') == 'stop'
        again.press('Enter', 13, '\r')
        graph.wait_for('e-stop by a key', lambda: graph.gate == 'e-stop')
        # Escape is a no, also after a yes.
        graph.until(tab, '!document.querySelector("[data-command=release]").disabled')
        tab.click('[data-command=release]')
        tab.press('Escape', 27)
        graph.until(tab, '!document.querySelector("dialog").open')
        graph.spin(0.5)
        assert graph.gate == 'e-stop'


@pytest.mark.paced
def test_a_turn_ends_the_phase_at_once(tmp_path):
    with Watched(tmp_path, control=True, mode='realtime') as graph:
        with Browser(tmp_path / 'browser') as browser:
            graph.wait_for('the first phase', lambda: graph.phases == ['forward'])
            tab = browser.open(graph.address.url)
            graph.until(tab, '!document.querySelector("[data-command=turn]").disabled')
            tab.click('[data-command=turn]')
            graph.wait_for('the turn', lambda: graph.phases == ['forward', 'backward'], 5.0)
            assert graph.value('policy_controller', 'attempts') <= 1
            graph.until(tab, 'document.querySelector("dd").innerText.startsWith("backward")')


def test_a_page_that_only_shows_has_no_button_and_does_nothing(tmp_path):
    with Watched(tmp_path, control=False) as graph, Browser(tmp_path / 'browser') as browser:
        tab = browser.open(graph.address.url)
        graph.until(tab, LIVE)
        seen = '[...document.querySelectorAll("button")].filter((b) => b.checkVisibility()).length'
        assert tab.evaluate(seen) == 0
        answer = tab.evaluate(
            'fetch("command/stop", {method: "POST"}).then(async (a) => [a.status, await a.text()])'
        )
        assert answer[0] == 403 and 'start the run with web_control:=true' in answer[1]
        # Another browser that does not have the URL.
        stranger = browser.open(f'http://127.0.0.1:{graph.address.port}/')
        assert stranger.text('body').startswith('This page opens with its whole URL only')
        graph.spin(0.5)
        assert graph.gate == 'ok'


def test_a_killed_page_comes_back_under_its_url_and_the_robot_does_not_care(tmp_path):
    with Watched(tmp_path, control=False) as graph, Browser(tmp_path / 'browser') as browser:
        tab = browser.open(graph.address.url)
        graph.until(tab, LIVE)
        graph.kill('web_page')
        graph.until(tab, 'document.querySelector("#connection").innerText === "connection lost"')
        assert tab.text('#lost').startswith('Connection lost: what you see is old')
        steps = graph.value('policy_controller', 'environment_steps')
        graph.wait_for_steps(steps + 20)
        graph.start_page()
        graph.until(tab, f'{LIVE} && document.querySelector("#lost").hidden && {STEPS} > {steps}')


def test_nobody_looks_through_the_camera_unless_a_browser_does(tmp_path):
    with Watched(tmp_path, control=False) as graph:
        count = lambda: graph.node.count_subscribers('camera/image_raw')  # noqa: E731
        graph.spin(2.0)
        assert count() == 0
        connection = http.client.HTTPConnection('127.0.0.1', graph.address.port, timeout=20)
        connection.request('GET', f'/{graph.address.token}/picture')
        graph.wait_for('a look', lambda: count() == 1, 10.0)
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()[:2] == b'\xff\xd8'  # a JPEG
        graph.wait_for('the end of it', lambda: count() == 0, 20.0)
