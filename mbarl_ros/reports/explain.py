"""Why a run does not learn: the causes that people hit, each from evidence in its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mbarl_ros.reports.explain_demonstrations import (
    demonstrations_clipped,
    demonstrations_disagree,
    few_demonstrations,
    opposite_motion,
    other_demonstrations,
    success_unreachable,
)
from mbarl_ros.reports.explain_learning import (
    below_clone,
    classifier_saturated,
    learner_behind,
    model_distrusted,
    periods_missed,
)
from mbarl_ros.reports.explain_motion import action_order, delay, no_effect, wrong_sign
from mbarl_ros.reports.explain_practice import (
    failed_requests,
    gate_stops,
    human_drives,
    never_returns,
    never_succeeds,
    no_backward,
    workspace,
)
from mbarl_ros.reports.explain_sensors import frozen_sensor, out_of_range, units
from mbarl_ros.reports.facts import Cause, Facts
from mbarl_ros.reports.run_data import RunData

Test = Callable[[Facts], Cause | None]
_SENTENCES = 5  # of evidence for a cause
# Each explains those below it: a sensor that stands still makes the model poor and success rare,
# and not the other way round.
TESTS: tuple[Test, ...] = (
    failed_requests,
    frozen_sensor,
    units,
    demonstrations_disagree,
    action_order,
    wrong_sign,
    delay,
    no_effect,
    workspace,
    success_unreachable,
    other_demonstrations,
    no_backward,
    periods_missed,
    gate_stops,
    human_drives,
    learner_behind,
    demonstrations_clipped,
    out_of_range,
    few_demonstrations,
    model_distrusted,
    classifier_saturated,
    never_returns,
    never_succeeds,
    below_clone,
)


def explain(run: RunData) -> list[Cause]:
    """Causes that the data of a run show, likeliest first; none: nothing is known to be wrong.

    A short run shows less: tests without enough steps say nothing. Of several robots, a cause that
    shows only in the data of some of them names these.
    """
    facts = Facts(run)
    each = {name: Facts(own) for name, own in run.by_robot().items()}
    causes = [cause for test in TESTS if (cause := _cause(test, facts, each)) is not None]
    names = {cause.name for cause in causes}
    if 'other_demonstrations' in names and not opposite_motion(facts):
        # Demonstrations of another task may well disagree about the goals of this one.
        causes.sort(key=lambda cause: cause.name == 'demonstrations_disagree')
    return [replace(cause, evidence=_shortened(cause.evidence)) for cause in causes]


def _cause(test: Test, facts: Facts, robots: Mapping[str, Facts]) -> Cause | None:
    """What a test finds in all the data, or else in those of some robots."""
    if (cause := test(facts)) is not None:
        return cause
    found = {name: cause for name, own in robots.items() if (cause := test(own)) is not None}
    if not found:
        return None
    first = next(iter(found.values()))
    evidence = [f'{name}: {text}' for name, cause in found.items() for text in cause.evidence]
    return replace(first, title=f'{", ".join(found)}: {first.title}', evidence=evidence)


def _shortened(evidence: list[str]) -> list[str]:
    """The first sentences; a robot of seven joints would have a page of them."""
    more = len(evidence) - _SENTENCES
    return evidence if more <= 1 else [*evidence[:_SENTENCES], f'{more} more of this kind']
