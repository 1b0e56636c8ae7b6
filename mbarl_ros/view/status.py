"""Formatting of a graph's status, for the terminal panel, the status line and the summary.

The status of a graph is what its nodes reported last on /diagnostics, as the ``monitor`` node
collects it. ROS-free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mbarl_ros.view.plots import BARS

GraphStatus = Mapping[str, Mapping[str, str]]
"""Node name -> key -> text. A value that no node has reported yet is shown as ``-``."""

MONITOR = 'monitor'
_MODEL_ERROR = 'model/error/'
# Anybody can publish on /diagnostics: one point of 1e308 would leave nothing to see of a curve.
_LARGEST = 1e12


@dataclass(frozen=True)
class RunInfo:
    """What a run is; ``budget`` (environment steps) and ``target`` (rate) are 0 where unlimited.

    ``host``: which side of the graph runs here: ``all``, ``robot`` or ``learner``.
    """

    graph: str
    task: str
    agent: str
    seed: int
    run_dir: Path
    budget: int = 0
    target: float = 0.0
    host: str = 'all'


def is_status(node: str, line: str) -> bool:
    """Whether a line of a node's output is the graph's status as JSON, not text for people."""
    return node == MONITOR and line.startswith('{')


def value(status: GraphStatus, node: str, key: str, form: str = '') -> str:
    """A reported value; numbers are formatted with ``form``; ``-`` if it is missing."""
    text = status.get(node, {}).get(key, '')
    parsed = number(text)
    if parsed is None:
        return text if text and text.lower() not in ('none', 'nan') else '-'
    return format(parsed, form) if form else text


def number(text: object) -> float | None:
    """A reported text as a number; None if it is none, or NaN, infinite or beyond any measure."""
    try:
        parsed = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return parsed if abs(parsed) <= _LARGEST else None


def duration(seconds: float | str | None) -> str:
    """Seconds as ``2 h 03 min``, ``4 min 05 s`` or ``7 s``."""
    parsed = number(str(seconds))
    if parsed is None:
        return '-'
    whole = int(parsed)
    if whole >= 3600:
        return f'{whole // 3600} h {whole % 3600 // 60:02d} min'
    if whole >= 60:
        return f'{whole // 60} min {whole % 60:02d} s'
    return f'{whole} s'


def kilobytes(rate: str) -> str:
    """A number of bytes in kilobytes, as ``4.2``."""
    parsed = number(rate)
    return '-' if parsed is None else f'{parsed / 1000:,.1f}'


def sparkline(rates: Sequence[float]) -> str:
    """Success rates in [0, 1] as a row of bars."""
    return ''.join(BARS[round(min(max(rate, 0.0), 1.0) * (len(BARS) - 1))] for rate in rates)


def problems(status: GraphStatus) -> list[str]:
    """One sentence for each node that reports a warning or an error."""
    return [text for text, _ in graded_problems(status)]


def graded_problems(status: GraphStatus) -> list[tuple[str, bool]]:
    """As :func:`problems`, each with whether it is an error."""
    return [
        (f'{node}: {entry.get("message") or "warning"}', entry['level'] not in ('', '0', '1'))
        for node, entry in sorted(status.items())
        if entry.get('level', '0') not in ('0', '')
    ]


def largest_model_error(values: Mapping[str, str]) -> tuple[str, float] | None:
    """Entry with the largest held-out error of the dynamics model, and that error.

    :param values: what the learner reports
    :returns: None before the first fit
    """
    errors = {
        key.removeprefix(_MODEL_ERROR): parsed
        for key, text in values.items()
        if key.startswith(_MODEL_ERROR) and (parsed := number(text)) is not None
    }
    return max(errors.items(), key=lambda item: item[1]) if errors else None


def model_error(status: GraphStatus) -> str:
    """Largest held-out error of an entry of the dynamics model, and the name of that entry."""
    worst = largest_model_error(status.get('learner', {}))
    return f'{worst[1]:.2g} ({worst[0]})' if worst else '-'


def robots(status: GraphStatus) -> list[str]:
    """Names of the robots of a fleet, whose nodes are in the status as ``robot_1/safety_gate``."""
    names = {node.partition('/')[0] for node in status if '/' in node}
    return sorted(names, key=lambda name: (len(name), name))


def total(status: GraphStatus, key: str) -> float:
    """Sum of a value over the controllers of all robots; one that reports none adds 0."""
    controllers = [entry for node, entry in status.items() if node.endswith('policy_controller')]
    values = [number(entry.get(key, '')) for entry in controllers]
    return sum(value for value in values if value is not None)


def newest_policy(status: GraphStatus) -> str:
    """Version of the newest policy with which a robot acts; ``-``: none has reported one."""
    controllers = [entry for node, entry in status.items() if node.endswith('policy_controller')]
    versions = [number(entry.get('policy_version', '')) for entry in controllers]
    return f'{max((v for v in versions if v is not None), default="-")}'.removesuffix('.0')


def steps_node(status: GraphStatus) -> str:
    """The node that tells the environment steps of the run: in a fleet the learner."""
    return 'learner' if robots(status) else 'policy_controller'


def _practice(status: GraphStatus) -> list[str]:
    if fleet := robots(status):
        return [f'robots {len(fleet)}']
    return [f'phase {value(status, "policy_controller", "phase")}']


def status_line(status: GraphStatus) -> str:
    """The progress of a run, and the problems of its nodes, as one line."""
    known = any(node.endswith('policy_controller') for node in status)
    parts = [
        *_practice(status),
        f'steps {value(status, steps_node(status), "environment_steps", ",.0f")}',
        f'robot {duration(total(status, "robot_seconds") if known else None)}',
        f'successes {total(status, "successes"):.0f}/{total(status, "attempts"):.0f}'
        if known
        else 'successes -/-',
        f'deployed {value(status, "policy_evaluator", "deployed_success", ".2f")}'
        f' (clone {value(status, "policy_evaluator", "clone_success", ".2f")})',
        f'updates/s {value(status, "learner", "updates_per_second", ".0f")}',
        f'model error {model_error(status)}',
        f'score {value(status, "state_classifier", "score", ".2f")}',
        f'lag {value(status, "learner", "lag_steps", ".0f")}',
    ]
    return ' | '.join(parts + problems(status))
