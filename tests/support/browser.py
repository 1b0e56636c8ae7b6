"""A headless Chromium, driven by the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason='chromium is not installed')
TIMEOUT = 30.0  # s


class Browser:
    """A browser process with a profile of its own, without cookies, and one socket to it."""

    def __init__(self, folder: Path) -> None:
        """``folder``: where the profile goes."""
        self._folder = folder

    def __enter__(self) -> Browser:
        self._folder.mkdir(parents=True)
        self._loop = asyncio.new_event_loop()
        switches = ('--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-port=0')
        self._process = subprocess.Popen(
            [CHROMIUM, *switches, '--js-flags=--expose-gc', '--no-first-run',
             '--disable-dev-shm-usage', '--no-proxy-server', f'--user-data-dir={self._folder}'],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            self._loop.run_until_complete(self._connect())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, '_http'):
            self._loop.run_until_complete(self._http.close())
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._loop.close()

    async def _connect(self) -> None:
        told, end = self._folder / 'DevToolsActivePort', time.monotonic() + TIMEOUT
        while not (told.exists() and told.read_text().count('\n')):
            assert self._process.poll() is None and time.monotonic() < end, 'chromium did not start'
            await asyncio.sleep(0.05)
        port, path = told.read_text().split('\n')[:2]
        self._http = aiohttp.ClientSession()
        self._socket = await self._http.ws_connect(f'ws://127.0.0.1:{port}{path}', max_msg_size=0)
        self._numbers = itertools.count(1)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Result of a method of the protocol."""
        return self._loop.run_until_complete(self._call(method, session, parameters))

    async def _call(self, method: str, session: str | None, parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {'id': number, 'method': method, 'params': parameters}
        await self._socket.send_json(message | ({'sessionId': session} if session else {}))
        async with asyncio.timeout(TIMEOUT):
            while True:
                answer = json.loads((await self._socket.receive()).data)
                if answer.get('id') == number:
                    assert 'error' not in answer, f'{method}: {answer}'
                    return answer['result']

    def open(self, url: str, width: int = 1280, height: int = 800, dark: bool = False) -> Tab:
        """A new tab with a page."""
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        tab = Tab(self, self.call('Target.attachToTarget', targetId=target, flatten=True))
        tab.resize(width, height, dark)
        tab.call('Page.enable')
        tab.call('Page.navigate', url=url)
        tab.wait_for('location.protocol !== "about:" && document.readyState === "complete"')
        return tab


class Tab:
    """A page in the browser."""

    def __init__(self, browser: Browser, attached: dict[str, Any]) -> None:
        self._browser, self._session = browser, attached['sessionId']

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Result of a method of the protocol, for this tab."""
        return self._browser.call(method, self._session, **parameters)

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size in CSS pixels, and the scheme of colours."""
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 500)  # fmt: skip
        scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        self.call('Emulation.setEmulatedMedia', features=[scheme])

    def evaluate(self, expression: str) -> Any:
        """Value of an expression of JavaScript; promises are awaited."""
        answer = self.call('Runtime.evaluate', expression=expression, awaitPromise=True,
                           returnByValue=True)  # fmt: skip
        assert 'exceptionDetails' not in answer, answer['exceptionDetails']
        return answer['result'].get('value')

    def text(self, selector: str) -> str:
        """Text of an element as it is shown; empty where there is none."""
        return self.evaluate(f'document.querySelector({json.dumps(selector)})?.innerText ?? ""')

    def wait_for(self, expression: str, timeout: float = TIMEOUT) -> Any:
        """Wait until an expression is true; its value."""
        end = time.monotonic() + timeout
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f'{expression}: not within {timeout:g} s'
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of an element that can be seen."""
        box = self.evaluate(
            f'(() => {{ const e = document.querySelector({json.dumps(selector)});'
            ' e.scrollIntoView({block: "nearest"}); const b = e.getBoundingClientRect();'
            ' return [b.x + b.width / 2, b.y + b.height / 2, b.width * b.height]; })()'
        )
        assert box[2] > 0, f'{selector} cannot be seen'
        for kind in ('mousePressed', 'mouseReleased'):
            self.call('Input.dispatchMouseEvent', type=kind, x=box[0], y=box[1], button='left',
                      clickCount=1)  # fmt: skip

    def press(self, key: str, code: int, text: str = '') -> None:
        """Press a key: its name, its Windows code, and the text that it makes."""
        for kind in ('keyDown', 'keyUp'):
            more = {'text': text} if text and kind == 'keyDown' else {}
            self.call('Input.dispatchKeyEvent', type=kind, key=key, code=key,
                      windowsVirtualKeyCode=code, **more)  # fmt: skip

    def heap_and_nodes(self) -> tuple[int, int]:
        """Bytes of JavaScript in use after garbage collection, and nodes of the document."""
        self.call('HeapProfiler.enable')
        for _ in range(2):
            self.call('HeapProfiler.collectGarbage')
        used = self.call('Runtime.getHeapUsage')['usedSize']
        return int(used), self.call('Memory.getDOMCounters')['nodes']

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Write a PNG; ``whole``: also what is below the window."""
        data = self.call('Page.captureScreenshot', format='png', captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(data['data']))
