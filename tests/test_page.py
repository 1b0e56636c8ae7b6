"""The page of a run without ROS: what it keeps, who gets it, and how it stays small."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mbarl_ros.bringup import graphs
from mbarl_ros.bringup.argument_values import parse
from mbarl_ros.nodes.support import web_server
from mbarl_ros.nodes.support.web_server import MAX_CLIENTS, MAX_STRANGERS, WebServer
from mbarl_ros.reports.history_data import series
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.history import Sample
from mbarl_ros.storage.run_files import EVALUATIONS_FILE, WEB_URL_FILE
from mbarl_ros.storage.web_address import bound_socket, keep_address, read_address
from mbarl_ros.view.measures import learner_measures
from mbarl_ros.view.page import LINES, PHASES, POINTS, WEB_FILES, Page, PracticeSuccess, Series
from mbarl_ros.view.pictures import PictureError, jpeg
from mbarl_ros.view.status import RunInfo
from support.browser import Browser, needs_chromium
from support.fed_page import status


def page_of(run_dir, commands=()):
    return Page(RunInfo('sim', 'pointmass', 'mbarl', 0, run_dir, budget=20_000), commands)


# --- what is shown ---------------------------------------------------------------------------


def test_a_curve_keeps_its_ends_and_its_shape_however_long_it_is():
    series = Series()
    for x in range(100_000):
        series.add(float(x), float(x))
    xs = [x for x, _ in series.points]
    assert POINTS / 4 < len(xs) <= POINTS
    assert (xs[0], xs[-1]) == (0.0, 99_999.0) and xs == sorted(xs)
    assert np.diff(xs[:-1]).max() < 100_000 / POINTS * 5
    series.add(99_999.0, 7.0)  # the run stands still: the newest value is shown
    assert series.points[-1] == (99_999.0, 7.0) and len(series.points) <= POINTS


def test_success_in_practice_is_that_of_the_last_attempts_and_survives_a_new_controller():
    practice = PracticeSuccess()
    assert practice.rate(0, 0) is None
    assert practice.rate(2, 1) == 0.5
    for attempts in range(3, 103):
        rate = practice.rate(attempts, 1 + max(0, attempts - 92))
    assert rate == 10 / 20
    assert practice.rate(1, 1) == 1.0


def test_a_page_that_is_opened_late_shows_the_whole_run(tmp_path):
    lines = [{'environment_steps': 500 * i, 'deployed_success': 0.1 * i} for i in range(4)]
    lines[-1]['clone_success'] = 0.4
    (tmp_path / EVALUATIONS_FILE).write_text(''.join(json.dumps(each) + '\n' for each in lines))
    page = page_of(tmp_path)
    page.load([Sample(1e9 + i, status(i)) for i in range(1, 40)])
    data = json.loads(page.everything()[1])
    assert data['curves']['deployed']['points'] == [[500.0 * i, 0.1 * i] for i in range(4)]
    assert [x for x, _ in data['curves']['score']['points']] == [50.0 * i for i in range(1, 40)]
    assert data['clone'] == 0.4 and len(data['phases']) == 40 and data['successes']
    assert ['attempts', '19   successes 13'] in data['rows']


def test_updates_have_what_is_new_and_everything_stays_bounded(tmp_path):
    page = page_of(tmp_path)
    for second in range(3000):
        page.receive_status(status(second), float(second))
        page.receive_line(float(second), 'error', 'learner', 'x' * 10_000)
        number, text = page.update()
        assert number == second + 1 and len(text) < 5000
    data = json.loads(text)
    assert [each[1:] for each in data['phases']] == [[2999.0, 'backward']]
    assert data['log'][0][2:4] == ['error', 'learner'] and len(data['log']) == 1
    everything = json.loads(page.everything()[1])
    assert len(everything['phases']) == PHASES and len(everything['log']) == LINES
    assert max(len(curve['points']) for curve in everything['curves'].values()) <= POINTS


@pytest.mark.parametrize('text', ['1e308', '-1e308', '1e15', 'inf', '9' * 400])
def test_an_absurd_value_of_a_stranger_leaves_the_curves_as_they_are(text, tmp_path):
    page, history = page_of(tmp_path), []
    stranger = {'updates_per_second': text, 'model/error/vx': text, 'environment_steps': text}
    for second, learner in enumerate(({'updates_per_second': '20'}, stranger, {'lag': '1'})):
        steps = {'environment_steps': text if learner is stranger else str(10 * second)}
        reported = {'policy_controller': steps, 'learner': learner}
        page.receive_status(reported, float(second))
        history.append(Sample(float(second), reported))
    assert learner_measures(stranger) == {}
    curves = json.loads(page.everything()[1])['curves']
    assert list(curves) == ['updates'] and curves['updates']['points'] == [[0.0, 20.0]]
    for node, key in (('policy_controller', 'environment_steps'), ('learner', 'model/error/vx')):
        assert np.isnan(series(history, node, key)[1])


def test_values_that_json_does_not_have_are_left_out(tmp_path):
    page = page_of(tmp_path)
    page.receive_status(
        {'policy_controller': {'environment_steps': 'inf', 'successes': '-inf'}}, 0.0
    )
    page.receive_status(
        {'policy_controller': {'environment_steps': '5'}, 'state_classifier': {'score': 'nan'}}, 1.0
    )
    assert json.loads(page.everything()[1])['curves'] == {}


@pytest.mark.parametrize(
    ('encoding', 'pixel'),
    [('rgb8', (250, 10, 10)), ('bgr8', (10, 10, 250)), ('bgra8', (10, 10, 250, 0))],
)
def test_a_picture_has_the_right_colours_in_each_encoding_and_with_padded_rows(encoding, pixel):
    width, height = 32, 16
    padded = np.zeros((height, width * len(pixel) + 7), np.uint8)
    padded[:, : width * len(pixel)] = np.tile(pixel, width)
    data = jpeg(padded.tobytes(), (width, height), padded.shape[1], encoding)
    red, green, blue = Image.open(BytesIO(data)).convert('RGB').getpixel((16, 8))
    assert red > 230 and green < 30 and blue < 30
    with pytest.raises(PictureError, match='too few for 32 x 17'):
        jpeg(padded.tobytes(), (width, height + 1), padded.shape[1], encoding)
    with pytest.raises(PictureError, match="encoding 'yuv422' cannot be shown; known: rgb8"):
        jpeg(padded.tobytes(), (width, height), padded.shape[1], 'yuv422')


# --- address ---------------------------------------------------------------------------------


def test_the_url_is_for_its_owner_only_and_the_same_after_a_restart(tmp_path):
    address = keep_address(tmp_path)
    path = tmp_path / WEB_URL_FILE
    assert path.stat().st_mode & 0o777 == 0o600 and path.read_text().strip() == address.url
    assert len(address.token) >= 32
    assert keep_address(tmp_path) == read_address(tmp_path) == address
    path.chmod(0o644)  # whoever has read it shall not open the page
    with pytest.raises(ConfigError, match='readable by others; remove it'):
        read_address(tmp_path)
    assert keep_address(tmp_path).token != address.token


def test_a_port_that_is_in_use_is_named(tmp_path):
    address = keep_address(tmp_path)
    with bound_socket(address.port) as other:
        other.listen()
        with pytest.raises(ConfigError, match=f'web_port:={address.port}: the port is in use'):
            keep_address(tmp_path, address.port)
        with pytest.raises(ConfigError, match=f'port {address.port} of the page: Address already'):
            WebServer(address, WEB_FILES, lambda: (0, '{}'))
        moved = keep_address(tmp_path)
        assert moved.port != address.port and moved.token == address.token


def test_the_page_of_a_fleet_has_the_steps_of_all_and_a_row_for_each_robot(tmp_path):
    page = Page(RunInfo('fleet', 'pointmass', 'mbarl', 0, tmp_path, budget=20_000), ())
    practice = {'phase': 'forward', 'environment_steps': '90', 'attempts': '4', 'successes': '1'}
    robots = {f'robot_{n}/policy_controller': practice for n in (1, 2)}
    page.receive_status({'learner': {'environment_steps': '100'}, **robots}, 1.0)
    shown = json.loads(page.everything()[1])
    assert shown['steps'] == 100 and shown['curves']['practice']['points'] == [[100, 0.25]]
    assert [row[0] for row in shown['rows']][:4] == ['fleet', 'deployed', 'robot_1', 'robot_2']
    assert shown['successes'][0][2] == 2


def test_a_silent_robot_is_told_once_and_a_silent_learner_too(tmp_path):
    page = Page(RunInfo('fleet', 'pointmass', 'mbarl', 0, tmp_path, budget=20_000), ())
    gone = {'level': '2', 'message': 'silent for 12 s'}  # as StatusListener marks it
    silent = {'robot_1/safety_gate': 12.0, 'learner': 12.0}
    page.receive_status({'learner': {}, 'robot_1/safety_gate': gone}, 1.0, silent)
    assert json.loads(page.everything()[1])['problems'] == [
        ['robot_1/safety_gate: silent for 12 s', True],
        ['learner: silent for 12 s', True],
    ]


def test_the_page_is_of_one_moment_while_robots_join_and_leave(tmp_path):
    page = Page(RunInfo('fleet', 'pointmass', 'mbarl', 0, tmp_path, budget=20_000), ())
    status = {'robot_1/policy_controller': {'phase': 'forward'}}
    page.receive_status(status, 1.0)
    status['robot_2/policy_controller'] = {'phase': 'forward'}  # between two calls
    rows = json.loads(page.everything()[1])['rows']
    assert [label for label, _ in rows if label.startswith('robot_')] == ['robot_1']


# --- arguments -------------------------------------------------------------------------------


def test_the_page_is_a_node_only_where_it_is_asked_for():
    assert 'web_page' not in {spec.name for spec in graphs.plan('sim', {}).nodes}
    for graph in ('sim', 'hardware', 'record'):
        given = {'view': 'web', 'web_control': 'true'}
        (page,) = [s for s in graphs.plan(graph, given).nodes if s.name == 'web_page']
        assert page.respawn and page.optional and not page.required
        assert page.parameters['control'] is True and page.parameters['graph'] == graph


def test_wrong_words_for_the_page_are_answered_with_one_sentence(monkeypatch):
    for given, message in (
        ({'web_port': '70000', 'view': 'web'}, "argument 'web_port' must be 0 to 65535"),
        ({'web_control': 'true'}, "argument 'web_control' is for the page; give view:=web"),
    ):
        with pytest.raises(ConfigError, match=message):
            graphs.plan('sim', given)
    monkeypatch.setitem(sys.modules, 'aiohttp', None)
    monkeypatch.delitem(sys.modules, 'aiohttp')
    monkeypatch.setattr(sys, 'path', [p for p in sys.path if 'site-packages' not in p])
    monkeypatch.setattr(sys, 'path_importer_cache', {})
    with pytest.raises(ConfigError, match='view:=web needs aiohttp: pip install'):
        parse('sim', {'view': 'web'})


# --- who gets it -----------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path):
    """A page with buttons: its address, and the commands that were asked for."""
    asked = []

    def command(name):
        asked.append(name)
        future = Future()
        if name == 'stop':
            future.set_result((True, 'e-stop latched'))
        return future

    address, page = keep_address(tmp_path), page_of(tmp_path, ('stop',))
    server = WebServer(address, WEB_FILES, page.everything, command)
    server.start()
    server.page = page
    yield address, asked, server
    server.close()


def ask(address, path, method='GET', host='', **headers):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection('127.0.0.1', address.port, timeout=10)
    host = host or f'127.0.0.1:{address.port}'
    headers = {name.replace('_', '-'): value for name, value in headers.items()}
    connection.request(method, path, headers={'Host': host, **headers})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body.decode()


def test_without_the_token_nobody_gets_anything(served):
    address, asked, _ = served
    wrong = 'A' * len(address.token)
    origin = f'http://127.0.0.1:{address.port}'
    answers = [
        ask(address, path, method, Origin=origin)
        for method in ('GET', 'POST', 'PUT', 'OPTIONS')
        for prefix in ('', f'/{wrong}', f'/{address.token[:-1]}', f'/{wrong}/..')
        for path in (f'{prefix}/', f'{prefix}/page.js', f'{prefix}/events', f'{prefix}/picture',
                     f'{prefix}/command/stop', f'{prefix}/?token={address.token}')
    ]  # fmt: skip
    upgrade = {'Upgrade': 'websocket', 'Connection': 'Upgrade', 'Sec_WebSocket_Version': '13',
               'Sec_WebSocket_Key': 'dGhlIHNhbXBsZSBub25jZQ=='}  # fmt: skip
    answers.append(ask(address, '/events', **upgrade))
    answers.append(ask(address, '*', 'OPTIONS'))
    answers.append(ask(address, f'/%FF{address.token}/'))
    cookie = ask(address, '/', Cookie=f'token={address.token}')
    for code, headers, body in (*answers, cookie):
        assert code == 403 and 'Set-Cookie' not in headers
        assert body == 'This page opens with its whole URL only, as `mbarl up` printed it.\n'
    assert not asked


def test_bad_requests_fill_no_log(served, caplog):
    address, _, _ = served
    head = f'POST /{address.token}/command/stop HTTP/1.1\r\nHost: localhost\r\n'
    for request in (
        b'\x16\x03\x01',
        b'HELLO\r\n\r\n',
        f'{head}Host: x\r\n\r\n'.encode(),
        f'{head}X: {"x" * 100_000}\r\n\r\n'.encode(),
        f'{head}Transfer-Encoding: chunked\r\n\r\nZ\r\n'.encode(),
        f'{head}Origin: http://localhost\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n'
        '\r\nabcd'.encode(),
    ):
        with socket.create_connection(('127.0.0.1', address.port), timeout=10) as opened:
            opened.sendall(request)
            assert opened.recv(100).startswith((b'HTTP/1.0 400', b'HTTP/1.1'))
    assert ask(address, f'/{address.token}/')[0] == 200
    assert not caplog.records


def test_many_connections_without_the_token_keep_nobody_out(served, caplog):
    address, _, _ = served
    here = (socket.create_connection(('127.0.0.1', address.port), timeout=10) for _ in range(400))
    opened = []
    for connection in here:
        connection.sendall(b'GET / HTTP/1.1\r\nX: ')  # and never an end
        opened.append(connection)
    assert ask(address, f'/{address.token}/')[0] == 200
    left = 0
    for connection in opened:
        connection.settimeout(0.01)
        try:
            left += bool(connection.recv(1))
        except TimeoutError:
            left += 1
        except ConnectionError:
            pass
        connection.close()
    assert left <= MAX_STRANGERS + 128 and not caplog.records  # 128: accepted at a time


def test_other_sites_get_nothing_even_with_the_token(served):
    address, asked, _ = served
    base = f'/{address.token}'
    ours = f'http://127.0.0.1:{address.port}'
    for path, method, more in (
        ('/', 'GET', {'host': f'evil.example:{address.port}'}),  # DNS rebinding
        ('/', 'GET', {'host': '127.0.0.1.evil.example'}),
        ('/events', 'GET', {'Origin': 'http://evil.example'}),
        ('/command/stop', 'POST', {}),  # a browser says where a POST comes from
        ('/command/stop', 'POST', {'Origin': 'null'}),
        ('/command/stop', 'POST', {'Origin': 'http://127.0.0.1:1'}),  # another local page
        ('/command/stop', 'POST', {'Origin': ours, 'host': 'localhost'}),
    ):
        code, _, body = ask(address, f'{base}{path}', method, **more)
        assert code == 403 and body.startswith('This page answers to 127.0.0.1 and localhost')
    assert not asked
    forwarded = {'host': 'localhost:8000', 'Origin': 'http://localhost:8000'}  # ssh -L 8000:...
    assert ask(address, f'{base}/command/stop', 'POST', **forwarded)[0] == 200
    assert asked == ['stop']


def test_the_page_needs_nothing_from_elsewhere_and_nothing_inline(served):
    address, _, _ = served
    code, headers, body = ask(address, f'/{address.token}/')
    assert code == 200 and 'unsafe' not in headers['Content-Security-Policy']
    assert headers['Referrer-Policy'] == 'no-referrer' and headers['Cache-Control'] == 'no-store'
    files = [path.read_text() for path in WEB_FILES.iterdir() if path.suffix != '.svg']
    assert not [text for text in files if 'https://' in text or ' style=' in text]
    assert '<script type="module" src="page.js"></script>' in body
    assert ask(address, f'/{address.token}/../page.py')[0] in (403, 404)


def test_a_command_answers_what_the_service_said_or_that_it_said_nothing(served, monkeypatch):
    address, _, _ = served
    monkeypatch.setattr(web_server, 'COMMAND_TIMEOUT', 0.2)
    origin = {'Origin': f'http://127.0.0.1:{address.port}'}
    code, _, body = ask(address, f'/{address.token}/command/stop', 'POST', **origin)
    assert code == 200 and json.loads(body) == {'done': True, 'message': 'e-stop latched'}
    code, _, body = ask(address, f'/{address.token}/command/turn', 'POST', **origin)
    assert code == 504 and json.loads(body)['message'].startswith('no answer within 0.2 s')


def test_browsers_that_do_not_read_are_dropped_and_there_are_not_too_many(served, monkeypatch):
    address, _, server = served
    monkeypatch.setattr(web_server, 'SLOW', 0.3)
    request = f'GET /{address.token}/events HTTP/1.1\r\nHost: localhost\r\n\r\n'.encode()
    silent = []
    for _ in range(MAX_CLIENTS):
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect(('127.0.0.1', address.port))
        opened.sendall(request)
        silent.append(opened)
    end = time.monotonic() + 90
    while server._clients < MAX_CLIENTS and time.monotonic() < end:
        time.sleep(0.01)
    code, _, body = ask(address, f'/{address.token}/events')
    assert code == 503 and body.startswith(f'{MAX_CLIENTS} browsers show this page already')
    for _ in range(LINES):
        server.page.receive_line(0.0, 'info', 'learner', 'x' * 500)
    number = 0
    while server.watched and time.monotonic() < end:
        number += 1
        server.publish(number, '{}')
        time.sleep(0.01)
    assert not server.watched
    for opened in silent:
        opened.close()


# --- an hour in a browser --------------------------------------------------------------------


@pytest.mark.slow
@needs_chromium
def test_a_page_left_open_for_an_hour_does_not_grow(tmp_path):
    address = keep_address(tmp_path)
    command = [sys.executable, '-m', 'support.fed_page', str(tmp_path)]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as server,
        Browser(tmp_path / 'browser') as browser,
    ):

        def feed(seconds):
            server.stdin.write(f'{seconds}\n')
            server.stdin.flush()
            memory = int(server.stdout.readline())
            tab.wait_for(f'document.querySelector("dd").innerText.includes("{50 * seconds:,} of")')
            tab.evaluate('new Promise(requestAnimationFrame)')
            return (memory, *tab.heap_and_nodes())

        server.stdin.write('0\n')
        server.stdin.flush()
        server.stdout.readline()  # it listens
        tab = browser.open(address.url)
        before = feed(600)
        after = feed(3600)
        server.stdin.close()
    names = ('server KiB', 'heap', 'nodes')
    growth = {name: b / a for name, a, b in zip(names, before, after, strict=True)}
    assert all(ratio < 1.15 for ratio in growth.values()), (before, after)
    assert after[2] < 1500  # nodes


@needs_chromium
def test_each_line_of_the_log_is_shown_once(served, tmp_path):
    address, _, server = served
    server.page.receive_line(0.0, 'info', 'learner', 'before')
    with Browser(tmp_path / 'browser') as browser:
        tab = browser.open(address.url)
        tab.wait_for('document.querySelectorAll("#log li").length')
        server.page.receive_line(1.0, 'info', 'learner', 'after')
        server.publish(*server.page.update())
        tab.wait_for('document.querySelector("#log").innerText.includes("after")')
        assert tab.evaluate('document.querySelectorAll("#log li").length') == 2


def test_a_server_ends_with_its_browsers_told_so(served):
    address, _, server = served
    heard = []

    def listen():
        heard.append(ask(address, f'/{address.token}/events')[2])

    listener = threading.Thread(target=listen)
    listener.start()
    end = time.monotonic() + 20
    while not server.watched and time.monotonic() < end:
        time.sleep(0.01)
    server.close()
    listener.join(10)
    events = [line for line in heard[0].splitlines() if line.startswith('event:')]
    assert events == ['event: everything', 'event: end']
