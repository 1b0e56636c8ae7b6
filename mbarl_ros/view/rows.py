"""What the terminal panel and the web page say about a run, row by row. ROS-free."""

from __future__ import annotations

from collections.abc import Sequence

from mbarl_ros.view.status import (
    GraphStatus,
    RunInfo,
    duration,
    kilobytes,
    model_error,
    sparkline,
    value,
)

Row = tuple[str, str]
"""A label and its text."""
CONTROLLER, EVALUATOR = 'policy_controller', 'policy_evaluator'
_SPARKLINE = 40  # evaluations


def title(run: RunInfo) -> str:
    """Graph, task, agent and seed of a run."""
    host = '' if run.host == 'all' else f', host {run.host}'
    return f'{run.graph}: {run.task}, {run.agent}, seed {run.seed}{host}'


def rows(run: RunInfo, status: GraphStatus, success_rates: Sequence[float]) -> list[Row]:
    """The rows of a run, by its graph.

    :param success_rates: deployed success in [0, 1] of all evaluations, in their order
    """
    gate = (
        'safety gate',
        f'{value(status, "safety_gate", "state")}   clipped '
        f'{value(status, "safety_gate", "clipped", ".0f")}',
    )
    if run.graph == 'record':
        recorder = status.get('demo_recorder', {}).get('message') or '-'
        return [gate, ('recorder', recorder)]
    simulation = _simulation(run, status, success_rates) if run.graph == 'sim' else []
    link = _link(status) if run.host != 'all' else []
    return [*_practice(run, status), *simulation, *_learning(status), *link, gate]


def _practice(run: RunInfo, status: GraphStatus) -> list[Row]:
    budget = f' of {run.budget:,}' if run.budget else ''
    return [
        (
            'robot',
            f'{value(status, CONTROLLER, "phase")} phase   '
            f'{value(status, CONTROLLER, "environment_steps", ",.0f")}{budget} steps   '
            f'{duration(value(status, CONTROLLER, "robot_seconds"))}',
        ),
        (
            'attempts',
            f'{value(status, CONTROLLER, "attempts", ".0f")}   successes '
            f'{value(status, CONTROLLER, "successes", ".0f")}',
        ),
    ]


def _simulation(run: RunInfo, status: GraphStatus, success_rates: Sequence[float]) -> list[Row]:
    target = f'   target {run.target:.2f}' if run.target else ''
    return [
        (
            'deployed',
            f'{value(status, EVALUATOR, "deployed_success", ".2f")} '
            f'{sparkline(success_rates[-_SPARKLINE:])}{target}   clone of the demonstrations '
            f'{value(status, EVALUATOR, "clone_success", ".2f")}',
        ),
        (
            'simulation',
            f'{value(status, "robot_sim", "steps_per_second", ".0f")} steps/s   resets '
            f'{value(status, "robot_sim", "resets", ".0f")}',
        ),
    ]


def _link(status: GraphStatus) -> list[Row]:
    """What the controller sends to the learner's host, and gets from it."""
    return [
        (
            'link',
            f'out {kilobytes(value(status, CONTROLLER, "sent_bytes_per_second"))}, in '
            f'{kilobytes(value(status, CONTROLLER, "received_bytes_per_second"))} kB/s   '
            f'round trip {value(status, CONTROLLER, "round_trip_ms", ".0f")} ms   '
            f'policy age {value(status, CONTROLLER, "policy_age_steps", ",.0f")}   '
            f'waiting {value(status, CONTROLLER, "unacknowledged", ",.0f")}',
        )
    ]


def _learning(status: GraphStatus) -> list[Row]:
    return [
        (
            'learner',
            f'{value(status, "learner", "updates_per_second", ".0f")} updates/s   lag '
            f'{value(status, "learner", "lag_steps", ".0f")} steps   model error '
            f'{model_error(status)}   policy {value(status, CONTROLLER, "policy_version")}',
        ),
        (
            'classifier',
            f'score {value(status, "state_classifier", "score", ".2f")}   accuracy '
            f'{value(status, "state_classifier", "classifier/accuracy", ".2f")}',
        ),
    ]
