"""Evidence about learning and control: model, classifier, clone, updates, control periods."""

from __future__ import annotations

import math

import numpy as np

from mbarl_ros.reports.facts import Cause, Facts
from mbarl_ros.reports.history_data import series
from mbarl_ros.view.status import number

_ENOUGH = 3000  # environment steps, before which a model or a policy may well be poor
_POOR = 0.7  # share of an entry's change that the model does not explain
_SHORT = 0.2  # of the configured length of imagined rollouts
_SATURATED = 0.01  # classifier scores nearer than that to 0 or 1
_SAMPLES = 20  # of the history
_Z = 2.0  # standard errors
_MISSED = 0.02  # share of control periods
_BEHIND, _RATIO = 20, 0.5  # chunks; of the configured updates per step


def _latest(facts: Facts, node: str) -> dict[str, str]:
    """What a node reported last."""
    for sample in reversed(facts.run.history):
        if node in sample.status:
            return sample.status[node]
    return {}


def _values(facts: Facts, node: str, key: str) -> np.ndarray:
    """A value over the history, as far as it is a number."""
    found = series(facts.run.history, node, key)
    return found[np.isfinite(found)]


def model_distrusted(facts: Facts) -> Cause | None:
    """Entries that commands move and the model cannot predict, or rollouts that end at once."""
    status, config = _latest(facts, 'learner'), facts.run.agent.model
    if config is None or facts.steps < _ENOUGH:
        return None
    errors = {
        key.removeprefix('model/error/'): error
        for key, text in status.items()
        if key.startswith('model/error/') and (error := number(text)) is not None
    }
    driven = {facts.names[one.entry] for one in facts.driven}
    poor = {name: e for name, e in errors.items() if name in driven and e > _POOR}
    length = _values(facts, 'learner', 'model/length')[-_SAMPLES:]
    short = len(length) >= 5 and np.median(length) < _SHORT * config.rollout_length
    if not poor and not short:
        return None
    worst = max(errors, key=lambda name: errors[name]) if errors else ''
    evidence = [
        f'the model explains {1 - error:.0%} of the change of {name} only'
        for name, error in poor.items()
    ]
    if short:
        evidence.append(
            f'imagined rollouts end after {np.median(length):.1f} of {config.rollout_length} steps '
            f'(median); the worst entry is {worst}'
        )
    return Cause(
        'model_distrusted',
        f'The model cannot be trusted: {", ".join(poor) or worst}',
        evidence,
        'a robot entry that the model cannot predict usually means a delay or a hidden state: add '
        'the commanded pose or velocity to the observation; an object means contact: more practice '
        'there, or its velocity in the observation',
    )


def classifier_saturated(facts: Facts) -> Cause | None:
    """A classifier whose scores are all 0 or all 1, so that they tell the policy nothing."""
    if facts.run.agent.backward != 'classifier':
        return None
    scores = _values(facts, 'state_classifier', 'score')[-3 * _SAMPLES :]
    if len(scores) < _SAMPLES:
        return None
    if not (np.all(scores < _SATURATED) or np.all(scores > 1 - _SATURATED)):
        return None
    accuracy = _latest(facts, 'state_classifier').get('classifier/accuracy', 'unknown')
    return Cause(
        'classifier_saturated',
        'The classifier is saturated',
        [
            f'all of its last {len(scores)} scores lie between {scores.min():.3f} and '
            f'{scores.max():.3f}; accuracy {accuracy}'
        ],
        'an entry that differs between demonstrations and practice gives them away (an offset, a '
        'clock, another object): correct it, or take it out of the observation',
    )


def below_clone(facts: Facts) -> Cause | None:
    """A deployed policy that stays clearly below the clone of the demonstrations."""
    keys = ('environment_steps', 'episodes', 'deployed_success', 'clone_success')
    lines = [
        line
        for line in facts.run.evaluations
        if all(isinstance(line.get(key), int | float) for key in keys)
        and line['environment_steps'] >= _ENOUGH
        and line['episodes'] > 0
    ][-3:]
    if len(lines) < 3:
        return None
    episodes = sum(e['episodes'] for e in lines)
    deployed = sum(e['deployed_success'] * e['episodes'] for e in lines) / episodes
    clone = lines[-1]['clone_success']
    error = math.sqrt(max(clone * (1 - clone), 0.02) * (1 / episodes + 1 / lines[-1]['episodes']))
    if deployed > clone - _Z * error:
        return None
    return Cause(
        'below_clone',
        'The policy is below its clone',
        [
            f'success {deployed:.2f} in the last three evaluations ({episodes} episodes) up to '
            f'{lines[-1]["environment_steps"]} steps, the clone has {clone:.2f}'
        ],
        'give demonstrations a greater share (`demonstration_fraction`), fewer imagined steps '
        '(`model.fraction`), and look at the causes above',
    )


def periods_missed(facts: Facts) -> Cause | None:
    """A control loop that comes too late."""
    status = _latest(facts, 'policy_controller')
    steps = max(facts.steps, 1)
    evidence = []
    for key, what in (
        ('missed_periods', 'control periods were missed'),
        ('steps_left_out', 'steps could not be recorded, because a topic came too late'),
    ):
        count = number(status.get(key, '')) or 0.0
        if count > max(_MISSED * (steps + count), 20):
            evidence.append(
                f'{count:.0f} {what}, of {steps + count:.0f} ({count / (steps + count):.1%})'
            )
    if not evidence:
        return None
    if jitter := status.get('period_error_p99_ms'):
        evidence.append(f'the period deviates by {jitter} ms (99th percentile)')
    return Cause(
        'periods_missed',
        'Control periods are missed',
        evidence,
        'give the controller real-time priority, take load from its computer (learner on another '
        'one), or lower control_rate; `mbarl robot check` shows late topics',
    )


def learner_behind(facts: Facts) -> Cause | None:
    """Training that does not keep up with practice."""
    chunk, wanted = facts.run.agent.chunk, facts.run.agent.updates_per_step
    lag = _values(facts, 'learner', 'lag_steps')[-_SAMPLES:]
    ratio = _values(facts, 'learner', 'updates_per_step')[-_SAMPLES:]
    evidence = []
    if len(lag) >= 5 and np.median(lag) > _BEHIND * chunk:
        evidence.append(f'the learner is {np.median(lag):.0f} steps behind practice (median)')
    if len(ratio) >= 5 and np.median(ratio) < _RATIO * wanted:
        evidence.append(
            f'it makes {np.median(ratio):.2f} updates per step (median), {wanted:g} are configured'
        )
    if not evidence:
        return None
    return Cause(
        'learner_behind',
        'The learner does not keep up',
        evidence,
        'run it on a faster or less busy computer, with as many threads as free cores, or lower '
        'updates_per_step',
    )
