"""Why a run does not learn: the causes that people hit, each from evidence in its data."""

from __future__ import annotations

from collections.abc import Callable
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

_SENTENCES = 5  # of evidence for a cause
# Each explains those below it: a sensor that stands still makes the model poor and success rare,
# and not the other way round.
TESTS: tuple[Callable[[Facts], Cause | None], ...] = (
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

    A short run shows less: tests without enough steps say nothing.
    """
    facts = Facts(run)
    causes = [cause for test in TESTS if (cause := test(facts)) is not None]
    names = {cause.name for cause in causes}
    if 'other_demonstrations' in names and not opposite_motion(facts):
        # Demonstrations of another task may well disagree about the goals of this one.
        causes.sort(key=lambda cause: cause.name == 'demonstrations_disagree')
    return [replace(cause, evidence=_shortened(cause.evidence)) for cause in causes]


def _shortened(evidence: list[str]) -> list[str]:
    """The first sentences; a robot of seven joints would have a page of them."""
    more = len(evidence) - _SENTENCES
    return evidence if more <= 1 else [*evidence[:_SENTENCES], f'{more} more of this kind']
