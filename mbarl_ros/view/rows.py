"""What the terminal panel and the web page say about a run, row by row. ROS-free."""

from __future__ import annotations

from collections.abc import Sequence

from mbarl_ros.view.status import (
    GraphStatus,
    RunInfo,
    duration,
    kilobytes,
    model_error,
    newest_policy,
    robots,
    sparkline,
    total,
    value,
)

Row = tuple[str, str]
"""A label and its text."""
CONTROLLER, EVALUATOR = 'policy_controller', 'policy_evaluator'
_SPARKLINE = 40  # evaluations
_ROBOTS = 20  # rows of a fleet; more would not fit on a screen


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
    if run.graph == 'fleet' or robots(status):
        deployed = [_deployed(run, status, success_rates)] if run.graph == 'fleet' else []
        return [*_fleet(run, status), *deployed, *_robots(run, status), *_learning(status)]
    simulation = (
        [_deployed(run, status, success_rates), _simulation(status)] if run.graph == 'sim' else []
    )
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


def _fleet(run: RunInfo, status: GraphStatus) -> list[Row]:
    """What the robots have done together."""
    budget = f' of {run.budget:,}' if run.budget else ''
    return [
        (
            'fleet',
            f'{len(robots(status))} robots   '
            f'{value(status, "learner", "environment_steps", ",.0f")}{budget} steps   '
            f'attempts {total(status, "attempts"):.0f}   '
            f'successes {total(status, "successes"):.0f}',
        )
    ]


def _robots(run: RunInfo, status: GraphStatus) -> list[Row]:
    """A row for each robot of a fleet."""
    names = robots(status)
    rows = [(name, _robot(run, status, name)) for name in names[:_ROBOTS]]
    return rows if len(names) <= _ROBOTS else [*rows, ('', f'and {len(names) - _ROBOTS} more')]


def _robot(run: RunInfo, status: GraphStatus, robot: str) -> str:
    controller, gate = f'{robot}/{CONTROLLER}', f'{robot}/safety_gate'
    link = (
        f'   round trip {value(status, controller, "round_trip_ms", ".0f")} ms   waiting '
        f'{value(status, controller, "unacknowledged", ",.0f")}'
    )
    return (
        f'{value(status, controller, "phase"):8}   '
        f'{value(status, "learner", f"steps of {robot}", ",.0f"):>7} steps   attempts '
        f'{value(status, controller, "attempts", ".0f"):>3}   successes '
        f'{value(status, controller, "successes", ".0f"):>3}   gate '
        f'{value(status, gate, "state")}{link if run.host != "all" else ""}'
    )


def _deployed(run: RunInfo, status: GraphStatus, success_rates: Sequence[float]) -> Row:
    target = f'   target {run.target:.2f}' if run.target else ''
    return (
        'deployed',
        f'{value(status, EVALUATOR, "deployed_success", ".2f")} '
        f'{sparkline(success_rates[-_SPARKLINE:])}{target}   clone of the demonstrations '
        f'{value(status, EVALUATOR, "clone_success", ".2f")}',
    )


def _simulation(status: GraphStatus) -> Row:
    return (
        'simulation',
        f'{value(status, "robot_sim", "steps_per_second", ".0f")} steps/s   resets '
        f'{value(status, "robot_sim", "resets", ".0f")}',
    )


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
            f'{model_error(status)}   policy {newest_policy(status)}',
        ),
        (
            'classifier',
            f'score {value(status, "state_classifier", "score", ".2f")}   accuracy '
            f'{value(status, "state_classifier", "classifier/accuracy", ".2f")}',
        ),
    ]
