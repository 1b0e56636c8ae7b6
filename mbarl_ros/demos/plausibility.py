"""What a person would want to know about demonstrations before a robot practises with them.

Pure functions of episodes. What several demonstrations have in common is said once. What they show
as a set is in :mod:`mbarl_ros.demos.comparison`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mbarl_ros.demos.episodes import SUCCEEDED, UNKNOWN, Episode
from mbarl_ros.schema.findings import INFO, WARNING, Finding
from mbarl_ros.schema.plausible import jump_fact, jump_question, jumps, speeds, unit_question
from mbarl_ros.schema.robot import LONGEST_STEP, SHORTEST_STEP
from mbarl_ros.schema.task import Entry
from mbarl_ros.task import Task

# Share of half the range by which a value may leave it: rounding and the noise of a sensor that
# stands at its end stop. A state may leave it by more, because nothing clips it.
_COMMAND_SLACK, _STATE_SLACK = 0.001, 0.02
# Where a range only scales values, networks still need them within this multiple of it.
_SCALED = 10.0
# A command that changes in each period by what `rate` allows may change twice in one step.
_RATE_MARGIN = 2.0
_NAMED = 5  # demonstrations that a sentence names


def examine(episodes: Sequence[Episode], task: Task) -> list[Finding]:
    """Findings about demonstrations by themselves; times are in s since the first state."""
    wrong_units = _wrong_units(episodes, task)
    return [
        *_clipped(episodes, task),
        *_outside(episodes, task),
        *_fast_commands(episodes, task, wrong_units),
        *_irregular(episodes, task),
        *_without_success(episodes, task),
    ]


def jumping(episodes: Sequence[Episode], task: Task) -> list[Finding]:
    """States that change faster than the limits allow the robot to move.

    Recordings are better checked message by message (:func:`mbarl_ros.demos.align.align`): one in
    ten of another publisher may lie between two control steps.
    """
    findings = []
    period = 1 / task.robot.control_rate
    known, wrong_units = speeds(task.robot), _wrong_units(episodes, task)
    topics = {name: topic.topic for topic in task.robot.state for name in topic.fields}
    for entry, values in entry_values(episodes, task):
        if entry.name not in known or entry.name in wrong_units:
            continue
        speed = known[entry.name]
        bad = [
            episode.whole & jumps(np.diff(value), np.diff(episode.stamps), speed, period)
            for episode, value in zip(episodes, values, strict=True)
        ]
        if any(mask.any() for mask in bad):
            before = np.concatenate([v[:-1][m] for v, m in zip(values, bad, strict=True)])
            after = np.concatenate([v[1:][m] for v, m in zip(values, bad, strict=True)])
            fact = f'{entry.name} {jump_fact(before, after, speed, period)}'
            question = jump_question(topics[entry.name])
            findings.append(_finding(fact, question, bad, episodes))
    return findings


def _commands(episode: Episode, task: Task) -> np.ndarray:
    """Commands [n, action_dim] in physical units, as recorded if that is known."""
    return task.command(episode.actions) if episode.commands is None else episode.commands


def span(columns: Sequence[np.ndarray]) -> tuple[float, float]:
    """Least and greatest value of several arrays."""
    return min(float(c.min()) for c in columns), max(float(c.max()) for c in columns)


def entry_values(
    episodes: Sequence[Episode], task: Task
) -> Iterator[tuple[Entry, list[np.ndarray]]]:
    """Each observation entry, and its values [n + 1] float64 in each episode."""
    values = [task.to_entries(episode.states) for episode in episodes]
    for column, entry in enumerate(task.config.observation):
        yield entry, [one[:, column].astype(float) for one in values]


def _command_range(task: Task, column: int) -> tuple[float, float, str]:
    """Range of a command by task and limits, and the keys that set it."""
    entry = task.config.action[column]
    limit = task.robot.limits[entry.name]
    low, high = max(entry.low, limit.low), min(entry.high, limit.high)
    key = f"'action' of task {task.name}"
    if (low, high) != (entry.low, entry.high):
        key += f" and 'limits.{entry.name}' of robot {task.robot.name}"
    return low, high, key


def _wrong_units(episodes: Sequence[Episode], task: Task) -> set[str]:
    """Entries whose values seem to have another unit: how fast they change says nothing."""
    found = set()
    for entry, values in entry_values(episodes, task):
        if not entry.angle and unit_question(span(values), entry.low, entry.high):
            found.add(entry.name)
    for column, action in enumerate(task.config.action):
        low, high, _ = _command_range(task, column)
        seen = span([_commands(episode, task)[:, column] for episode in episodes])
        if unit_question(seen, low, high):
            found.add(action.name)
    return found


def _clipped(episodes: Sequence[Episode], task: Task) -> list[Finding]:
    """Commands outside of the range of the task or of the limits."""
    findings = []
    for column, entry in enumerate(task.config.action):
        low, high, key = _command_range(task, column)
        values = [_commands(episode, task)[:, column] for episode in episodes]
        beyond = [np.maximum(low - value, value - high) for value in values]
        bad = [excess > _COMMAND_SLACK * (high - low) / 2 for excess in beyond]
        question = unit_question(span(values), low, high)
        if any(mask.any() for mask in bad):
            fact = (
                f'{entry.name}: {_share(bad)} of the commands lie outside {low:g} to {high:g} (key '
                f'{key}) by up to {_worst(beyond):.3g} and are clipped to it'
            )
            remedy = question or 'drive within the range, or widen it'
            findings.append(_finding(fact, remedy, bad, episodes))
        elif question:
            findings.append(_little_used(entry.name, span(values), low, high, key, question))
    return findings


def _outside(episodes: Sequence[Episode], task: Task) -> list[Finding]:
    """States outside of the range of the task; an angle goes round and has no outside."""
    findings = []
    key = f"'observation' of task {task.name}"
    for entry, values in entry_values(episodes, task):
        if entry.angle:
            continue
        low, high = entry.low, entry.high
        half, middle = (high - low) / 2, (high + low) / 2
        reach = half * (1 + _STATE_SLACK if entry.limited else _SCALED)
        beyond = [np.abs(value - middle) - half for value in values]
        bad = [excess > reach - half for excess in beyond]
        question = unit_question(span(values), low, high)
        if any(mask.any() for mask in bad):
            fact = (
                f'{entry.name}: {_share(bad)} of the states lie outside {low:g} to {high:g} (key '
                f'{key}) by up to {_worst(beyond):.3g}'
            )
            remedy = question or 'widen the range to what the robot visits, or drive within it'
            findings.append(_finding(fact, remedy, bad, episodes))
        elif question:
            findings.append(_little_used(entry.name, span(values), low, high, key, question))
    return findings


def _little_used(
    name: str, seen: tuple[float, float], low: float, high: float, key: str, question: str
) -> Finding:
    text = (
        f'{name}: takes only values from {seen[0]:.3g} to {seen[1]:.3g} of {low:g} to {high:g} '
        f'(key {key}), of which networks hardly see anything; {question}'
    )
    return Finding(WARNING, text)


def _fast_commands(episodes: Sequence[Episode], task: Task, wrong_units: set[str]) -> list[Finding]:
    """Commands that change faster than ``limits.*.rate``; a stop may come at once."""
    findings = []
    for column, entry in enumerate(task.config.action):
        limit = task.robot.limits[entry.name]
        if limit.rate is None or entry.name in wrong_units:
            continue
        ratios, bad = [], []
        for episode in episodes:
            values = _commands(episode, task)[:, column]
            elapsed = np.maximum(np.diff(episode.stamps[:-1]), 1 / task.robot.control_rate)
            ratio = np.abs(np.diff(values)) / (limit.rate * elapsed)
            stopping = values[1:] == limit.stop if limit.stop != 'hold' else np.False_
            usable = episode.whole[1:] & episode.whole[:-1] & ~stopping
            ratios.append(ratio)
            bad.append(usable & (ratio > _RATE_MARGIN))
        if any(mask.any() for mask in bad):
            worst = max(float(r[m].max()) for r, m in zip(ratios, bad, strict=True) if m.any())
            fact = (
                f'{entry.name}: the command changes faster than limits.{entry.name}.rate '
                f'({limit.rate:g} per s) in {_share(bad)} of the steps, at most {worst:.2g} times '
                'as fast'
            )
            remedy = (
                'the safety gate will not let the policy do that: drive more smoothly (through the '
                'gate), or raise the rate if the robot can take it'
            )
            findings.append(_finding(fact, remedy, bad, episodes))
    return findings


def _irregular(episodes: Sequence[Episode], task: Task) -> list[Finding]:
    """Steps that are not about one control period long."""
    findings = []
    period = 1 / task.robot.control_rate
    elapsed = [np.diff(episode.stamps) for episode in episodes]
    back = [seconds <= 0 for seconds in elapsed]
    if any(mask.any() for mask in back):
        fact = f'{_share(back)} of the steps have a stamp that is not after the one before'
        findings.append(_finding(fact, 'repair their source', back, episodes))
    usual = float(np.median(np.concatenate(elapsed)))
    if not SHORTEST_STEP * period <= usual <= LONGEST_STEP * period:
        text = (
            f'steps are {usual:.3g} s apart, a control period of robot {task.robot.name} is '
            f'{period:.3g} s: the policy would act at another pace; set control_rate to '
            f'{1 / usual:.3g} Hz, or resample them'
            if usual > 0
            else f'all stamps are equal; give each step its time, {period:.3g} s apart'
        )
        return [*findings, Finding(WARNING, text)]
    gaps = [
        episode.whole & (seconds >= LONGEST_STEP * period)
        for episode, seconds in zip(episodes, elapsed, strict=True)
    ]
    if any(mask.any() for mask in gaps):
        fact = (
            f'{_share(gaps)} of the steps span a gap of up to {_worst(elapsed):.3g} s, which is '
            f'learned as one step of {period:.3g} s'
        )
        remedy = 'cut the demonstration there and import the parts'
        findings.append(_finding(fact, remedy, gaps, episodes))
    return findings


def _without_success(episodes: Sequence[Episode], task: Task) -> list[Finding]:
    """Demonstrations that do not end in success, or of which nobody said so."""
    findings = []
    judged = [e for e in episodes if e.is_forward and e.verdict == SUCCEEDED]
    failed = [e for e in judged if not e.reached(task)]
    if failed:
        text = "the verdict is success, but the task's success test fails in the last state"
        findings.append(_ended(text, failed, episodes, task))
    unjudged = [e for e in episodes if e.verdict == UNKNOWN]
    forward = [e for e in unjudged if e.is_forward]
    reached = [e for e in forward if e.reached(task)]
    failed = [e for e in forward if not e.reached(task)]
    if reached:
        text = f'no verdict; the last state is a success{_in(reached, episodes)}'
        findings.append(Finding(INFO, text))
    if failed:
        text = 'no verdict; the last state is no success, so that it is not used for learning'
        findings.append(_ended(text, failed, episodes, task))
    backward = [e for e in unjudged if not e.is_forward]
    if backward:
        text = (
            'no verdict, without which a backward demonstration is not used for learning'
            f'{_in(backward, episodes)}; import it with --verdict success if it is good'
        )
        findings.append(Finding(WARNING, text))
    return findings


def _ended(text: str, failed: list[Episode], episodes: Sequence[Episode], task: Task) -> Finding:
    """A finding about forward demonstrations whose last state is no success."""
    distances = [episode.success_distances(task) for episode in failed]
    nearest, last = min(d.min() for d in distances), min(d[-1] for d in distances)
    tolerance = task.config.success.tolerance
    left = sum(bool(d.min() <= tolerance) for d in distances)
    how = f'it ends {last:.3g} away, tolerance {tolerance:g}'
    if left:
        how += ', and was a success before' if len(failed) == 1 else f'; {left} were before'
    elif nearest < last:
        how += f'; it came as near as {nearest:.3g}'
    remedy = "end recordings at the success, or correct key 'success' of the task"
    return Finding(WARNING, f'{text} ({how}){_in(failed, episodes)}; {remedy}')


def _share(bad: Sequence[np.ndarray]) -> str:
    """Share of steps for which masks are True, as a percentage that is not rounded to nothing."""
    share = sum(int(mask.sum()) for mask in bad) / sum(len(mask) for mask in bad)
    return f'{share:.0%}' if 0.01 <= share <= 0.99 or share == 1 else f'{share:.2%}'


def _worst(values: Sequence[np.ndarray]) -> float:
    return max(float(value.max()) for value in values)


def _finding(
    fact: str, remedy: str, bad: Sequence[np.ndarray], episodes: Sequence[Episode]
) -> Finding:
    """A warning that says when it begins, or which demonstrations it concerns."""
    if len(episodes) == 1:
        (episode,) = episodes
        first = episode.stamps[int(np.argmax(bad[0]))] - episode.stamps[0]
        return Finding(WARNING, f'{fact} (first at {first:.2f} s); {remedy}')
    concerned = [episode for episode, mask in zip(episodes, bad, strict=True) if mask.any()]
    return Finding(WARNING, f'{fact}{_in(concerned, episodes)}; {remedy}')


def name_of(episode: Episode) -> str:
    """Name of a demonstration, in words."""
    return episode.name or 'one without a name'


def _in(concerned: Sequence[Episode], episodes: Sequence[Episode]) -> str:
    """The concerned ones of several demonstrations, in words; nothing where there is only one."""
    if len(episodes) == 1:
        return ''
    names = [name_of(episode) for episode in concerned]
    more = f' and {len(names) - _NAMED} others' if len(names) > _NAMED else ''
    return f' [{len(names)} of {len(episodes)}: {", ".join(names[:_NAMED])}{more}]'
