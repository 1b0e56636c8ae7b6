"""A report on paper: PDF, printed by the browser that this machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.files import unwritable, write_file

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
_TIMEOUT = 120.0  # s


def print_page(page: Path, pdf: Path) -> None:
    """Print an HTML file.

    :raises ConfigError: there is no browser, it fails, or the file cannot be written.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ConfigError(
            f'{pdf}: needs a browser on the PATH ({", ".join(BROWSERS)}), and there is none; '
            f'install one, or print {page} from any browser'
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        printed = Path(folder) / 'report.pdf'
        command = [
            browser,
            '--headless',
            '--disable-gpu',
            '--no-first-run',
            '--no-pdf-header-footer',
            f'--user-data-dir={folder}/profile',
            f'--print-to-pdf={printed}',
            # Chromium has no sandbox for root, and the page loads nothing.
            *(['--no-sandbox'] if os.geteuid() == 0 else []),
            page.absolute().as_uri(),
        ]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f'{pdf}: {browser} could not print it: {error}') from None
        if not printed.exists():
            lines = done.stderr.decode(errors='replace').strip().splitlines()
            last = lines[-1] if lines else f'exit code {done.returncode}'
            raise ConfigError(f'{pdf}: {browser} could not print it: {last}')
        try:
            write_file(pdf, printed.read_bytes())
        except OSError as error:
            raise unwritable(pdf, error) from None
