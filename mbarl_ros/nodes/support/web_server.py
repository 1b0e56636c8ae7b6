"""Serves the page of a run to browsers on this machine. ROS-free; runs in a thread of its own.

Whoever has the URL has the token in it, as the first part of every path, so that no request can be
made without it. It is in no cookie: browsers send those to every port of a host, so other local
servers would see it, and forged requests would carry it.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.web_address import HOST, WebAddress, bound_socket

MAX_CLIENTS = 8
MAX_STRANGERS = 32
"""Connections without the token that stay; those that wait to be accepted come on top."""
SLOW = 5.0
"""Seconds after which a browser that does not read is dropped."""
COMMAND_TIMEOUT = 5.0
_SEND_BUFFER = 65536  # bytes
_PICTURE_WAIT = 10.0  # s until a request for the next picture ends without one
_NAMES = frozenset({HOST, 'localhost'})
_TYPES = {
    '.html': 'text/html',
    '.css': 'text/css',
    '.js': 'text/javascript',
    '.svg': 'image/svg+xml',
}
_INDEX = 'page.html'
_HEADERS = {
    'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
    'X-Frame-Options': 'DENY',
    'Referrer-Policy': 'no-referrer',
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Cache-Control': 'no-store',
    'Server': 'mbarl',
}
_NO_TOKEN = 'This page opens with its whole URL only, as `mbarl up` printed it.\n'
_WRONG_SITE = 'This page answers to 127.0.0.1 and localhost, and to no other site.\n'

Everything = Callable[[], tuple[int, str]]
Command = Callable[[str], 'Future[tuple[bool, str]]']
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebServer:
    """The page, its updates as server-sent events, pictures, and commands if there are any.

    ``watched`` and ``wants_pictures`` say whether anybody looks.
    """

    def __init__(
        self,
        address: WebAddress,
        files: Path,
        everything: Everything,
        command: Command | None = None,
    ) -> None:
        """Listen; :meth:`start` answers.

        :param files: folder of the static files; read here, once
        :param everything: number and JSON of all that the page shows; called in the server's thread
        :param command: requests a command by its name; its future says whether it was done, and
            what the service answered; None: the page only shows
        :raises ConfigError: the port is in use.
        """
        self._token = address.token.encode()
        self._files = {
            path.name: (path.read_bytes(), _TYPES[path.suffix])
            for path in files.iterdir()
            if path.suffix in _TYPES
        }
        self._everything, self._command = everything, command
        try:
            self._socket = bound_socket(address.port)
            # What a browser does not read stays short; accepted connections inherit it.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            self._socket.listen()
        except OSError as error:
            raise ConfigError(
                f'port {address.port} of the page: {error.strerror}; end the program that uses it, '
                'or start the run with another web_port'
            ) from None
        self._update: tuple[int, str] = (0, '')
        self._picture: tuple[int, bytes] = (0, b'')
        self._clients = self._waiting_for_pictures = 0
        self._ended = False
        self._known = set[web.RequestHandler]()  # connections that have shown the token
        self._loop = asyncio.new_event_loop()
        self._news, self._new_picture = asyncio.Event(), asyncio.Event()
        self._done = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name='web', daemon=True)

    # --- for the thread that has the news ------------------------------------------------------

    @property
    def watched(self) -> bool:
        """Whether a browser shows the page."""
        return self._clients > 0

    @property
    def wants_pictures(self) -> bool:
        """Whether a browser waits for the next picture."""
        return self._waiting_for_pictures > 0

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def publish(self, number: int, text: str) -> None:
        """Send an update, JSON, to all browsers; ``number``: one more than the last."""
        self._loop.call_soon_threadsafe(self._set_update, number, text)

    def publish_picture(self, jpeg: bytes) -> None:
        """Send a picture to the browsers that wait for one."""
        self._loop.call_soon_threadsafe(self._set_picture, jpeg)

    def close(self) -> None:
        """Tell the browsers that this is the end, and stop."""
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join(timeout=3.0)

    # --- the server's thread -------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self._guard], client_max_size=1024)
        app.on_response_prepare.append(_add_headers)
        app.add_routes(
            [
                web.get('/{token}/', self._get_file),
                web.get('/{token}/events', self._get_events),
                web.get('/{token}/picture', self._get_picture),
                web.get('/{token}/{name}', self._get_file),
                web.post('/{token}/command/{name}', self._post_command),
            ]
        )
        # No access log: it would have the token.
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=_log(),
            keepalive_timeout=15.0,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        connect = partial(self._connect, runner)
        server = await self._loop.create_server(connect, sock=self._socket)
        await self._done.wait()
        server.close()
        await runner.cleanup()

    def _connect(self, runner: web.AppRunner) -> asyncio.Protocol:
        """Handler of a new connection; it ends the oldest of too many without the token."""
        assert runner.server is not None
        connections = runner.server.connections
        self._known.intersection_update(connections)
        strangers = [each for each in connections if each not in self._known]
        for oldest in strangers[: 1 - MAX_STRANGERS]:
            if oldest.transport is not None:
                oldest.transport.abort()
        return runner.server()

    def _set_update(self, number: int, text: str) -> None:
        self._update = (number, text)
        self._news.set()
        self._news = asyncio.Event()

    def _set_picture(self, jpeg: bytes) -> None:
        self._picture = (self._picture[0] + 1, jpeg)
        self._new_picture.set()
        self._new_picture = asyncio.Event()

    def _end(self) -> None:
        self._ended = True
        self._news.set()
        self._new_picture.set()
        self._loop.call_later(0.2, self._done.set)

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Let through who has the token and comes from this page; all else learns nothing."""
        given = request.path.lstrip('/').partition('/')[0].encode(errors='surrogateescape')
        if not hmac.compare_digest(given, self._token):
            return _refusal(403, _NO_TOKEN)
        self._known.add(request.protocol)
        if not _is_ours(request):
            return _refusal(403, _WRONG_SITE)
        return await handler(request)

    async def _get_file(self, request: web.Request) -> web.StreamResponse:
        content, kind = self._files.get(request.match_info.get('name', _INDEX), (None, ''))
        if content is None:
            return _refusal(404, 'There is no such file.\n')
        return web.Response(body=content, content_type=kind, charset='utf-8')

    async def _get_events(self, request: web.Request) -> web.StreamResponse:
        if self._clients >= MAX_CLIENTS:
            return _refusal(503, f'{MAX_CLIENTS} browsers show this page already; close one.\n')
        self._clients += 1
        try:
            response = web.StreamResponse(headers={'Content-Type': 'text/event-stream'})
            await response.prepare(request)
            await self._send_events(response)
        except (TimeoutError, ConnectionError):  # what is not read would pile up
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._clients -= 1
        return response

    async def _send_events(self, response: web.StreamResponse) -> None:
        sent = None
        while not self._ended:
            news = self._news
            number, text = self._update
            if sent is None or number > sent + 1:  # too slow for some updates
                sent, text = self._everything()
                await _send(response, 'everything', text)
            elif number > sent:
                sent = number
                await _send(response, 'update', text)
            await news.wait()
        await _send(response, 'end', '{}')

    async def _get_picture(self, request: web.Request) -> web.StreamResponse:
        """The picture after the one that the browser has, when there is one."""
        self._waiting_for_pictures += 1
        try:
            if request.query.get('after') == str(self._picture[0]) or not self._picture[0]:
                await asyncio.wait_for(self._new_picture.wait(), _PICTURE_WAIT)
        except TimeoutError:
            return web.Response(status=204)
        finally:
            self._waiting_for_pictures -= 1
        number, jpeg = self._picture
        headers = {'X-Picture': str(number)}
        return web.Response(body=jpeg, content_type='image/jpeg', headers=headers)

    async def _post_command(self, request: web.Request) -> web.StreamResponse:
        if self._command is None:
            return _answer(403, 'this page only shows; start the run with web_control:=true')
        name = request.match_info['name']
        try:
            future = asyncio.wrap_future(self._command(name))
        except KeyError:
            return _answer(404, f'there is no command {name}')
        try:
            done, text = await asyncio.wait_for(future, COMMAND_TIMEOUT)
        except TimeoutError:
            return _answer(504, f'no answer within {COMMAND_TIMEOUT:g} s: {name} may not be done')
        return _answer(200 if done else 409, text)


def _log() -> logging.Logger:
    """Log of the server's own errors: anybody on this machine could fill it with bad requests."""
    log = logging.getLogger(__name__)
    log.addFilter(_is_own_error)
    return log


def _is_own_error(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


def _is_ours(request: web.Request) -> bool:
    """Whether a request names this machine as its host, and comes from this page or from nowhere.

    The first keeps out sites whose name an attacker points at this machine (DNS rebinding), the
    second requests from other pages; a browser names the origin of every POST.
    """
    host = request.headers.get('Host', '')
    if host.partition(':')[0] not in _NAMES:
        return False
    origin = request.headers.get('Origin')
    return request.method in ('GET', 'HEAD') if origin is None else origin == f'http://{host}'


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _refusal(status: int, text: str) -> web.Response:
    response = web.Response(status=status, text=text)
    response.force_close()
    return response


def _answer(status: int, text: str) -> web.Response:
    return web.json_response({'done': status == 200, 'message': text}, status=status)


async def _send(response: web.StreamResponse, event: str, data: str) -> None:
    await asyncio.wait_for(response.write(f'event: {event}\ndata: {data}\n\n'.encode()), SLOW)
