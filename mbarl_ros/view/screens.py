"""What a person sees while a run goes on: a live panel on a terminal, or plain lines.

Fed with the newest status of each node, as the ``monitor`` node collects it from /diagnostics:
node name -> key -> text. ROS-free. A value that nobody has reported yet is shown as ``-``.
"""

from __future__ import annotations

import json
import shlex
import sys
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mbarl_ros.view.plots import BARS

Status = Mapping[str, Mapping[str, str]]

LINE_PERIOD = 10.0
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


@dataclass(frozen=True)
class Header:
    """What a run is; ``budget`` in environment steps and ``target`` rate are 0 where unlimited."""

    graph: str
    task: str
    agent: str
    seed: int
    run_dir: Path
    budget: int = 0
    target: float = 0.0


# --- formatting ------------------------------------------------------------------------------


def value(status: Status, node: str, key: str, form: str = '') -> str:
    """A reported value; numbers are formatted with ``form``; ``-`` if it is missing."""
    text = status.get(node, {}).get(key, '')
    number = _number(text)
    if number is None:
        return text if text and text.lower() not in ('none', 'nan') else '-'
    return format(number, form) if form else text


def duration(seconds: float | str | None) -> str:
    """Seconds as ``2 h 03 min``, ``4 min 05 s`` or ``7 s``."""
    number = _number(str(seconds))
    if number is None:
        return '-'
    whole = int(number)
    if whole >= 3600:
        return f'{whole // 3600} h {whole % 3600 // 60:02d} min'
    if whole >= 60:
        return f'{whole // 60} min {whole % 60:02d} s'
    return f'{whole} s'


def spark(rates: list[float]) -> str:
    """Success rates in [0, 1] as a row of bars."""
    return ''.join(BARS[round(min(max(rate, 0.0), 1.0) * (len(BARS) - 1))] for rate in rates)


def trouble(status: Status) -> list[str]:
    """One sentence for each node that reports a warning or an error."""
    return [
        f'{node}: {entry.get("message") or "warning"}'
        for node, entry in sorted(status.items())
        if entry.get('level', '0') not in ('0', '')
    ]


def status_line(status: Status) -> str:
    """One line that says how the run goes."""
    parts = [
        f'phase {value(status, "policy_controller", "phase")}',
        f'steps {value(status, "policy_controller", "environment_steps", ",.0f")}',
        f'robot {duration(value(status, "policy_controller", "robot_seconds"))}',
        f'successes {value(status, "policy_controller", "successes", ".0f")}'
        f'/{value(status, "policy_controller", "attempts", ".0f")}',
        f'deployed {value(status, "policy_evaluator", "deployed_success", ".2f")}'
        f' (clone {value(status, "policy_evaluator", "clone_success", ".2f")})',
        f'updates/s {value(status, "learner", "updates_per_second", ".0f")}',
        f'model error {model_error(status)}',
        f'score {value(status, "state_classifier", "score", ".2f")}',
        f'lag {value(status, "learner", "lag_steps", ".0f")}',
    ]
    return ' | '.join(parts + trouble(status))


def model_error(status: Status) -> str:
    """Largest held-out error of an entry of the dynamics model, and which entry it is."""
    prefix = 'model/error/'
    errors = {
        key.removeprefix(prefix): number
        for key, text in status.get('learner', {}).items()
        if key.startswith(prefix) and (number := _number(text)) is not None
    }
    if not errors:
        return '-'
    worst = max(errors, key=lambda name: errors[name])
    return f'{errors[worst]:.2g} ({worst})'


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number == number else None


# --- screens ---------------------------------------------------------------------------------


class LineScreen:
    """Node output with its prefix, and a status line every ten seconds."""

    def __init__(self, header: Header, *, wanted: bool = True) -> None:
        """``wanted``: whether status is shown at all."""
        self.header = header
        self.wanted = wanted
        self.status: dict[str, dict[str, str]] = {}
        self.history: list[float] = []
        self._evaluations = ''
        self._next_line = time.monotonic() + LINE_PERIOD
        self.started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def line(self, node: str, text: str) -> None:
        """Show a line of a node's output; the monitor's JSON is taken as status."""
        if node == 'monitor' and text.startswith('{'):
            self._take(text)
        else:
            self._print(node, text)

    def note(self, text: str) -> None:
        """Show what the supervisor says."""
        print(f'[mbarl] {text}', flush=True)

    def tick(self) -> None:
        """Show the status line when it is due."""
        if self.wanted and self.status and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_PERIOD
            self.note(status_line(self.status))

    def _print(self, node: str, text: str) -> None:
        print(f'[{node}] {text}', flush=True)

    def _take(self, text: str) -> None:
        try:
            self.status = json.loads(text)
        except ValueError:
            return
        entry = self.status.get('policy_evaluator', {})
        rate = _number(entry.get('deployed_success', ''))
        if rate is not None and entry.get('evaluations') != self._evaluations:
            self._evaluations = entry.get('evaluations', '')
            self.history.append(rate)


class LiveScreen(LineScreen):
    """A panel at the bottom of the terminal, renewed once a second; node output above it."""

    def __init__(self, header: Header, console: Console | None = None) -> None:
        """``console`` defaults to standard output."""
        super().__init__(header)
        self.console = console or Console(force_terminal=True, highlight=False)
        self._live = Live(
            console=self.console,
            auto_refresh=False,
            transient=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._next_refresh = 0.0

    def __enter__(self) -> Self:
        self._echo(False)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.update(self.panel(), refresh=True)
        self._live.stop()
        self._echo(True)

    @staticmethod
    def _echo(on: bool) -> None:
        """Switch the echo of ``^C``, which would tear the panel."""
        if not sys.stdin.isatty():
            return
        settings = termios.tcgetattr(sys.stdin)
        settings[3] = settings[3] | termios.ECHO if on else settings[3] & ~termios.ECHO
        termios.tcsetattr(sys.stdin, termios.TCSANOW, settings)

    def note(self, text: str) -> None:
        """Show what the supervisor says, above the panel."""
        self.console.print(Text(f'[mbarl] {text}', style='bold'))

    def tick(self) -> None:
        """Renew the panel once a second."""
        if time.monotonic() >= self._next_refresh:
            self._next_refresh = time.monotonic() + 1.0
            self._live.update(self.panel(), refresh=True)

    def _print(self, node: str, text: str) -> None:
        self.console.print(
            Text.assemble((f'[{node}]', _COLOURS.get(node, 'white')), ' ', text), soft_wrap=True
        )

    def panel(self) -> Panel:
        """The panel, from the newest status."""
        header, status = self.header, self.status
        table = Table.grid(padding=(0, 2))
        table.add_column(style='bold')
        table.add_column()
        for label, text in self._rows():
            table.add_row(label, text)
        steps = _number(value(status, 'policy_controller', 'environment_steps'))
        parts: list[Any] = [table]
        if header.budget:
            parts.append(ProgressBar(total=header.budget, completed=steps or 0.0))
        parts += [Text(text, style='bold red') for text in trouble(status)]
        elapsed = duration(time.monotonic() - self.started)
        return Panel(
            Group(*parts),
            title=f'{header.graph}: {header.task}, {header.agent}, seed {header.seed}',
            subtitle=f'{elapsed} — Ctrl-C stops, and can be resumed',
        )

    def _rows(self) -> list[tuple[str, str]]:
        def get(node: str, key: str, form: str = '') -> str:
            return value(self.status, node, key, form)

        header = self.header
        robot = duration(get('policy_controller', 'robot_seconds'))
        steps = get('policy_controller', 'environment_steps', ',.0f')
        rows = [
            (
                'robot',
                f'{get("policy_controller", "phase")} phase   {steps}'
                + (f' of {header.budget:,}' if header.budget else '')
                + f' steps   {robot}',
            ),
            (
                'attempts',
                f'{get("policy_controller", "attempts", ".0f")}   successes '
                f'{get("policy_controller", "successes", ".0f")}',
            ),
        ]
        if header.graph == 'sim':
            target = f'   target {header.target:.2f}' if header.target else ''
            rows.append(
                (
                    'deployed',
                    f'{get("policy_evaluator", "deployed_success", ".2f")} '
                    f'{spark(self.history[-40:])}{target}   clone of the demonstrations '
                    f'{get("policy_evaluator", "clone_success", ".2f")}',
                )
            )
            rows.append(
                (
                    'simulation',
                    f'{get("robot_sim", "steps_per_second", ".0f")} steps/s   resets '
                    f'{get("robot_sim", "resets", ".0f")}',
                )
            )
        rows += [
            (
                'learner',
                f'{get("learner", "updates_per_second", ".0f")} updates/s   lag '
                f'{get("learner", "lag_steps", ".0f")} steps   model error '
                f'{model_error(self.status)}   policy '
                f'{get("policy_controller", "policy_version")}',
            ),
            (
                'classifier',
                f'score {get("state_classifier", "score", ".2f")}   accuracy '
                f'{get("state_classifier", "classifier/accuracy", ".2f")}',
            ),
            (
                'safety gate',
                f'{get("safety_gate", "state")}   clipped {get("safety_gate", "clipped", ".0f")}',
            ),
        ]
        if header.graph == 'record':
            rows = [row for row in rows if row[0] == 'safety gate']
            rows += [('recorder', self.status.get('demo_recorder', {}).get('message') or '-')]
        return rows


def screen(kind: str, header: Header) -> LineScreen:
    """The screen for ``live``, ``lines``, ``none`` or ``auto`` (live on a terminal)."""
    if kind == 'auto':
        kind = 'live' if sys.stdout.isatty() else 'lines'
    if kind == 'live':
        return LiveScreen(header)
    return LineScreen(header, wanted=kind == 'lines')


# --- the end ---------------------------------------------------------------------------------


def summary(
    header: Header,
    result: Mapping[str, Any] | None,
    code: int,
    wall_seconds: float,
    given: Mapping[str, Any],
) -> str:
    """How a run ended, in a few lines, and how to go on with it.

    ``code`` is the exit code of ``mbarl up``, ``given`` the arguments that start the run again.
    """
    result = result or {}
    reason = {0: 'target reached', 3: 'step budget used up', 130: 'interrupted'}.get(code, 'failed')
    lines = [f'run ended: {reason} after {duration(wall_seconds)}']
    rate, clone = result.get('deployed_success'), result.get('clone_success')
    if rate is not None:
        text = f'  deployed success    {rate:.2f}'
        if result.get('episodes'):
            text += f' over {result["episodes"]} evaluation starts'
        lines.append(text + (f' (target {header.target:.2f})' if header.target else ''))
    if clone is not None:
        lines.append(f'  clone of the demos  {clone:.2f}')
    if result.get('environment_steps') is not None:
        lines.append(
            f'  environment steps   {result["environment_steps"]:,} '
            f'({duration(result.get("robot_seconds"))} of robot time, '
            f'{result.get("training_resets", "-")} resets)'
        )
    lines += [f'  {path}' for path in sorted(header.run_dir.glob('*.png'))]
    if (header.run_dir / 'result.json').is_file():
        lines.append(f'  {header.run_dir / "result.json"}')
    if code == 3:
        given = {**given, 'steps': 2 * header.budget}
    if code != 0:
        words = (f'{name}:={value}' for name, value in given.items())
        lines.append(f'go on with: {shlex.join(["mbarl", "up", header.graph, *words])}')
    return '\n'.join(lines)
