"""What a person sees while a run goes on: a live panel on a terminal, or plain lines. ROS-free."""

from __future__ import annotations

import json
import sys
import termios
import time
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mbarl_ros.view.rows import EVALUATOR, rows, title
from mbarl_ros.view.status import (
    RunInfo,
    duration,
    is_status,
    number,
    problems,
    status_line,
    steps_node,
    value,
)

LINE_PERIOD = 10.0
"""Seconds between two status lines."""
_PANEL_PERIOD = 1.0
_COLOURS = {
    'robot_sim': 'blue',
    'safety_gate': 'yellow',
    'policy_controller': 'green',
    'learner': 'magenta',
    'state_classifier': 'cyan',
    'policy_evaluator': 'bright_blue',
    'demo_recorder': 'magenta',
    'scripted_operator': 'green',
}


class LineScreen:
    """Prefixed output of the nodes, and a status line every ten seconds."""

    def __init__(self, run: RunInfo, *, show_status: bool = True) -> None:
        """``show_status`` False: only the nodes' output."""
        self.run = run
        self.show_status = show_status
        self.status: dict[str, dict[str, str]] = {}
        self.success_rates: list[float] = []
        self.started = time.monotonic()
        self._next_line = self.started + LINE_PERIOD
        self._evaluations = ''

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def line(self, node: str, text: str) -> None:
        """Show a line of a node's output; the monitor's JSON becomes the status."""
        if is_status(node, text):
            self._update_status(text)
        else:
            self._print(node, text)

    def message(self, text: str) -> None:
        """Show a message of the supervisor."""
        print(f'[mbarl] {text}', flush=True)

    def tick(self) -> None:
        """Show the status line when it is due."""
        if self.show_status and self.status and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_PERIOD
            self.message(status_line(self.status))

    def _print(self, node: str, text: str) -> None:
        print(f'[{node}] {text}', flush=True)

    def _update_status(self, text: str) -> None:
        try:
            self.status = json.loads(text)
        except ValueError:
            return
        evaluator = self.status.get(EVALUATOR, {})
        rate = number(evaluator.get('deployed_success', ''))
        if rate is not None and evaluator.get('evaluations') != self._evaluations:
            self._evaluations = evaluator.get('evaluations', '')
            self.success_rates.append(rate)


class LiveScreen(LineScreen):
    """A panel at the bottom of the terminal, updated every second; node output above it."""

    def __init__(self, run: RunInfo, console: Console | None = None) -> None:
        """``console`` defaults to standard output."""
        super().__init__(run)
        self.console = console or Console(force_terminal=True, highlight=False)
        self._live = Live(
            console=self.console,
            auto_refresh=False,
            transient=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._next_update = 0.0

    def __enter__(self) -> Self:
        self._set_echo(False)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.update(self.panel(), refresh=True)
        self._live.stop()
        self._set_echo(True)

    @staticmethod
    def _set_echo(on: bool) -> None:
        """Switch the terminal's echo: the ``^C`` of a Ctrl-C would break the panel."""
        if not sys.stdin.isatty():
            return
        settings = termios.tcgetattr(sys.stdin)
        settings[3] = settings[3] | termios.ECHO if on else settings[3] & ~termios.ECHO
        termios.tcsetattr(sys.stdin, termios.TCSANOW, settings)

    def message(self, text: str) -> None:
        """Show a message of the supervisor above the panel."""
        self.console.print(Text(f'[mbarl] {text}', style='bold'))

    def tick(self) -> None:
        """Update the panel when it is due."""
        if time.monotonic() >= self._next_update:
            self._next_update = time.monotonic() + _PANEL_PERIOD
            self._live.update(self.panel(), refresh=True)

    def _print(self, node: str, text: str) -> None:
        self.console.print(
            Text.assemble((f'[{node}]', _COLOURS.get(node.rpartition('/')[2], 'white')), ' ', text),
            soft_wrap=True,
        )

    def panel(self) -> Panel:
        """The panel, from the newest status."""
        run = self.run
        table = Table.grid(padding=(0, 2))
        table.add_column(style='bold')
        table.add_column()
        for label, text in rows(run, self.status, self.success_rates):
            table.add_row(label, Text(text))  # a str would be markup
        parts: list[Any] = [table]
        if run.budget:
            steps = number(value(self.status, steps_node(self.status), 'environment_steps'))
            parts.append(ProgressBar(total=run.budget, completed=steps or 0.0))
        parts += [Text(text, style='bold red') for text in problems(self.status)]
        elapsed = duration(time.monotonic() - self.started)
        return Panel(
            Group(*parts),
            title=Text(title(run)),
            subtitle=f'{elapsed} — Ctrl-C stops the run; it can be resumed',
        )


def screen(kind: str, run: RunInfo) -> LineScreen:
    """The screen for ``live``, ``lines`` or ``none``; ``auto`` and ``web``: live on a terminal."""
    if kind in ('auto', 'web'):
        kind = 'live' if sys.stdout.isatty() else 'lines'
    if kind == 'live':
        return LiveScreen(run)
    return LineScreen(run, show_status=kind == 'lines')
