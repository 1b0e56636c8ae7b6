"""Where the page of a run is served, and the token that opens it. Kept in the run folder.

A page that crashed, or a run that is resumed, comes back under the same URL.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.files import unwritable
from mbarl_ros.storage.run_files import WEB_URL_FILE

HOST = '127.0.0.1'
_TOKEN_BYTES = 24
_URL = re.compile(rf'http://{re.escape(HOST)}:(\d{{1,5}})/([\w-]{{{_TOKEN_BYTES},}})/\s*')


@dataclass(frozen=True)
class WebAddress:
    """A port of this machine, and the token that each request must carry."""

    port: int
    token: str

    @property
    def url(self) -> str:
        """What a person opens."""
        return f'http://{HOST}:{self.port}/{self.token}/'


def keep_address(run_dir: Path, port: int = 0) -> WebAddress:
    """Address of a run's page: that of its last start, else a new one; written to the run folder.

    :param port: 0: that of the last start if it is free, else any that is free
    :raises ConfigError: ``port`` is in use, or the file cannot be written.
    """
    before = _private_address(run_dir / WEB_URL_FILE)
    if port and (reason := _why_not(port)):
        raise ConfigError(f'web_port:={port}: {reason}; give another, or 0 for a free one')
    if not port:
        port = before.port if before and not _why_not(before.port) else _free_port()
    address = WebAddress(port, before.token if before else secrets.token_urlsafe(_TOKEN_BYTES))
    if address != before:
        _write(run_dir / WEB_URL_FILE, address)
    return address


def read_address(run_dir: Path) -> WebAddress:
    """Address that :func:`keep_address` has written.

    :raises ConfigError: there is none, or others could have read it.
    """
    address = _private_address(run_dir / WEB_URL_FILE)
    if address is None:
        raise ConfigError(
            f'{run_dir / WEB_URL_FILE}: missing, damaged, or readable by others; remove it and '
            'start the run with view:=web, which writes it'
        )
    return address


def bound_socket(port: int) -> socket.socket:
    """A socket of this machine only.

    :raises OSError: the port is in use.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after a crash, at once
    try:
        opened.bind((HOST, port))
    except OSError:
        opened.close()
        raise
    return opened


def _private_address(path: Path) -> WebAddress | None:
    """The address in a file that nobody else could read; None: there is no such file."""
    try:
        with path.open() as file:
            stat = os.fstat(file.fileno())
            match = _URL.fullmatch(file.read(1000))
    except (OSError, UnicodeDecodeError):
        return None
    if match is None or stat.st_mode & 0o077 or stat.st_uid != os.getuid():
        return None
    port = int(match[1])
    return WebAddress(port, match[2]) if 0 < port <= 65535 else None


def _why_not(port: int) -> str:
    """Why a port cannot be had; empty: it can."""
    try:
        bound_socket(port).close()
    except PermissionError:
        return 'only root may use this port'
    except OSError as error:
        return 'the port is in use' if error.errno == errno.EADDRINUSE else str(error.strerror)
    return ''


def _free_port() -> int:
    with bound_socket(0) as opened:
        return opened.getsockname()[1]


def _write(path: Path, address: WebAddress) -> None:
    temporary = path.with_name(f'.{path.name}.tmp')
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, 'w') as file:
            file.write(f'{address.url}\n')
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from None
