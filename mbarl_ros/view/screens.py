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

from mbarl_ros.view.status import (
    RunInfo,
    duration,
    is_status,
    model_error,
    newest_policy,
    number,
    problems,
    robots,
    sparkline,
    status_line,
    steps_node,
    total,
    value,
)

LINE_PERIOD = 10.0
"""Seconds between two status lines."""
_PANEL_PERIOD = 1.0
_ROBOT_ROWS = 20  # of a fleet; more would not fit on a screen
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
        evaluator = self.status.get('policy_evaluator', {})
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
        for label, text in self._rows():
            table.add_row(label, text)
        parts: list[Any] = [table]
        if run.budget:
            steps = number(self._value(steps_node(self.status), 'environment_steps'))
            parts.append(ProgressBar(total=run.budget, completed=steps or 0.0))
        parts += [Text(text, style='bold red') for text in problems(self.status)]
        elapsed = duration(time.monotonic() - self.started)
        return Panel(
            Group(*parts),
            title=f'{run.graph}: {run.task}, {run.agent}, seed {run.seed}',
            subtitle=f'{elapsed} — Ctrl-C stops the run; it can be resumed',
        )

    def _value(self, node: str, key: str, form: str = '') -> str:
        return value(self.status, node, key, form)

    def _rows(self) -> list[tuple[str, str]]:
        gate = (
            'safety gate',
            f'{self._value("safety_gate", "state")}   clipped '
            f'{self._value("safety_gate", "clipped", ".0f")}',
        )
        if self.run.graph == 'record':
            recorder = self.status.get('demo_recorder', {}).get('message') or '-'
            return [gate, ('recorder', recorder)]
        if self.run.graph == 'fleet':
            return [*self._fleet_rows(), *self._learning_rows()]
        rows = [*self._practice_rows()]
        if self.run.graph == 'sim':
            rows += [self._deployed_row(), self._simulation_row()]
        return [*rows, *self._learning_rows(), gate]

    def _practice_rows(self) -> list[tuple[str, str]]:
        budget = f' of {self.run.budget:,}' if self.run.budget else ''
        return [
            (
                'robot',
                f'{self._value("policy_controller", "phase")} phase   '
                f'{self._value("policy_controller", "environment_steps", ",.0f")}{budget} steps   '
                f'{duration(self._value("policy_controller", "robot_seconds"))}',
            ),
            (
                'attempts',
                f'{self._value("policy_controller", "attempts", ".0f")}   successes '
                f'{self._value("policy_controller", "successes", ".0f")}',
            ),
        ]

    def _fleet_rows(self) -> list[tuple[str, str]]:
        """What the robots have done together, and a row for each of them."""
        status, names = self.status, robots(self.status)
        budget = f' of {self.run.budget:,}' if self.run.budget else ''
        together = (
            f'{len(names)} robots   '
            f'{self._value("learner", "environment_steps", ",.0f")}{budget} steps   '
            f'attempts {total(status, "attempts"):.0f}   '
            f'successes {total(status, "successes"):.0f}'
        )
        rows = [('fleet', together), self._deployed_row()]
        rows += [(name, self._robot_row(name)) for name in names[:_ROBOT_ROWS]]
        if len(names) > _ROBOT_ROWS:
            rows.append(('', f'and {len(names) - _ROBOT_ROWS} more'))
        return rows

    def _robot_row(self, robot: str) -> str:
        controller, gate = f'{robot}/policy_controller', f'{robot}/safety_gate'
        return (
            f'{self._value(controller, "phase"):8}   '
            f'{self._value("learner", f"steps of {robot}", ",.0f"):>7} steps   attempts '
            f'{self._value(controller, "attempts", ".0f"):>3}   successes '
            f'{self._value(controller, "successes", ".0f"):>3}   gate '
            f'{self._value(gate, "state")}'
        )

    def _deployed_row(self) -> tuple[str, str]:
        target = f'   target {self.run.target:.2f}' if self.run.target else ''
        return (
            'deployed',
            f'{self._value("policy_evaluator", "deployed_success", ".2f")} '
            f'{sparkline(self.success_rates[-40:])}{target}   clone of the demonstrations '
            f'{self._value("policy_evaluator", "clone_success", ".2f")}',
        )

    def _simulation_row(self) -> tuple[str, str]:
        return (
            'simulation',
            f'{self._value("robot_sim", "steps_per_second", ".0f")} steps/s   resets '
            f'{self._value("robot_sim", "resets", ".0f")}',
        )

    def _learning_rows(self) -> list[tuple[str, str]]:
        return [
            (
                'learner',
                f'{self._value("learner", "updates_per_second", ".0f")} updates/s   lag '
                f'{self._value("learner", "lag_steps", ".0f")} steps   model error '
                f'{model_error(self.status)}   policy '
                f'{newest_policy(self.status)}',
            ),
            (
                'classifier',
                f'score {self._value("state_classifier", "score", ".2f")}   accuracy '
                f'{self._value("state_classifier", "classifier/accuracy", ".2f")}',
            ),
        ]


def screen(kind: str, run: RunInfo) -> LineScreen:
    """The screen for ``live``, ``lines``, ``none`` or ``auto`` (live on a terminal)."""
    if kind == 'auto':
        kind = 'live' if sys.stdout.isatty() else 'lines'
    if kind == 'live':
        return LiveScreen(run)
    return LineScreen(run, show_status=kind == 'lines')
