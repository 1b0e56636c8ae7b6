"""Evidence about practice: the way back, the workspace, the safety gate, people, no success."""

from __future__ import annotations

import numpy as np

from mbarl_ros.reports.facts import Cause, Driven, Facts
from mbarl_ros.reports.history_data import series, total
from mbarl_ros.storage.transitions import BACKWARD, FORWARD, HUMAN, SAFETY

_IDLE, _ACTIVE = 0.02, 0.1  # spread of actions, in half ranges
_SHORT = 0.25  # of a demonstration's length
_LEAST_PHASES, _LEAST_STEPS = 2, 60
_OUTSIDE = 0.05  # share of demonstrated states
_CUT = 0.15  # of what demonstrations visit, that practice does not reach
_AT_BOUND, _BLOCKED = 0.01, 0.04  # of half the range; share of steps
_FAULTS, _FAULTY = 3, 0.05  # samples with a fault; share of all
_HUMAN, _STOPPED = 0.3, 0.15  # shares of steps
_NEVER = 25  # attempts without success
_RETURNS = 10  # ways back
_PASSED = 0.1  # of the entries' half ranges: how near to a blocked state demonstrations went on
_MOST = 0.5  # of the attempts: nothing that matters is in the way of a robot that succeeds so often
_PLACE = 0.12  # of its spread, which a place changes in a step at most, and a speed may exceed
_BASELINE = 'sac'  # the preset that is meant to have no backward policy


def no_backward(facts: Facts) -> Cause | None:
    """Backward phases that do not exist, stand still, or are too short to return."""
    if facts.run.agent.resets:
        return None
    evidence = _missing(facts) or _idle(facts) or _too_short(facts)
    if not evidence:
        return None
    return Cause(
        'no_backward',
        'The backward policy does not return the robot',
        [evidence, facts.outcome],
        "use a preset with a backward policy (key 'backward' of the agent), give it time (key "
        "'phases.backward_limit' of the task), and see that the robot obeys in backward phases",
    )


def _missing(facts: Facts) -> str:
    limit = facts.task.config.phases.forward_limit
    none = not (facts.practice['phase'] == BACKWARD).any()
    if not none or not facts.attempts or facts.steps <= limit + facts.run.agent.chunk:
        return ''
    if facts.run.agent.name == _BASELINE and (facts.successes or len(facts.attempts) < _NEVER):
        return ''
    return (
        f'there is no backward phase in {facts.steps} steps and {len(facts.attempts)} attempts '
        f"(key 'backward: {facts.run.agent.backward}' of agent {facts.run.agent.name}): each "
        'attempt starts where the one before it ended'
    )


def _idle(facts: Facts) -> str:
    phase, actions = facts.practice['phase'], facts.practice['action']
    driven = facts.practice['source'] != SAFETY
    back, there = actions[(phase == BACKWARD) & driven], actions[(phase == FORWARD) & driven]
    if len(back) < _LEAST_STEPS or len(there) < _LEAST_STEPS:
        return ''
    if back.std(0).max() > _IDLE or there.std(0).max() < _ACTIVE:
        return ''
    return (
        f'the command hardly changes in {len(back)} steps of backward phases (standard deviation '
        f'{back.std(0).max():.3f} of half its range; {there.std(0).max():.2f} in forward phases)'
    )


def _too_short(facts: Facts) -> str:
    limit = facts.task.config.phases.backward_limit
    if not facts.forward or len(facts.attempts) < _LEAST_PHASES:
        return ''
    usual = float(np.median([len(part['action']) for part in facts.forward]))
    if limit > _SHORT * usual:
        return ''
    return (
        f'a backward phase ends after {limit} steps ({limit * facts.period:.1f} s), a '
        f'demonstration of the task takes {usual:.0f} ({usual * facts.period:.1f} s)'
    )


def never_returns(facts: Facts) -> Cause | None:
    """Backward phases that end farther from demonstrated states than they begin."""
    ways = facts.ways_back
    if len(ways) < _RETURNS or not facts.demonstrations or facts.successes > 0.2 * len(ways):
        return None
    spread = np.maximum(facts.demonstrated_states.std(0), 0.02 * facts.half)
    known = facts.demonstrated_states / spread

    def away(state: np.ndarray) -> float:
        return float(np.sqrt(((known - state[: facts.dim] / spread) ** 2).mean(1)).min())

    before = np.array([away(way['observation'][0]) for way in ways])
    after = np.array([away(way['next_observation'][-1]) for way in ways])
    if np.median(after) < 1.5 or np.mean(after >= before) < 0.8:
        return None
    return Cause(
        'never_returns',
        'The backward policy does not come back to where demonstrations have been',
        [
            f'{len(ways)} backward phases end {np.median(after):.1f} standard deviations of the '
            f'demonstrated states away from the nearest one (median), and begin '
            f'{np.median(before):.1f} away; {facts.outcome}'
        ],
        'record backward demonstrations, lengthen phases.backward_limit, or put the robot back by '
        'hand (teleoperation) a few times',
    )


def workspace(facts: Facts) -> Cause | None:
    """Bounds that keep the robot from where demonstrations have been."""
    evidence = [*_outside_box(facts), *_beyond_limits(facts)]
    evidence = evidence or _walls(facts)
    if not evidence:
        return None
    stopped = (facts.practice['source'] == SAFETY).mean() if facts.steps else 0.0
    if stopped:
        evidence.append(f'the safety gate stood in for the policy in {stopped:.0%} of the steps')
    return Cause(
        'workspace',
        'The workspace is too small for what the demonstrations show',
        [*evidence, facts.outcome],
        "widen 'workspace' and 'limits' of the robot profile as far as it is safe, remove what is "
        'in the way, or record demonstrations inside of the bounds',
    )


def _outside_box(facts: Facts) -> list[str]:
    evidence = []
    for name, (low, high) in facts.task.robot.workspace.items():
        entries = [entry.name for entry in facts.task.config.observation]
        if name not in entries or not facts.demonstrations:
            continue
        values = facts.task.to_entries(facts.demonstrated_states)[:, entries.index(name)]
        slack = 0.01 * (high - low)
        share = float(((values < low - slack) | (values > high + slack)).mean())
        if share > _OUTSIDE:
            evidence.append(
                f'{share:.0%} of the demonstrated states lie outside workspace.{name} ({low:g} to '
                f'{high:g}): they go from {values.min():.3g} to {values.max():.3g}'
            )
    return evidence


def _beyond_limits(facts: Facts) -> list[str]:
    """Demonstrated commands that the gate would cut."""
    evidence = []
    if not facts.demonstrations:
        return evidence
    commands = facts.task.command(facts.demonstrated['action'])
    for column, entry in enumerate(facts.task.config.action):
        limit = facts.task.robot.limits[entry.name]
        slack = 0.05 * (entry.high - entry.low)
        beyond = (commands[:, column] < limit.low - slack) | (
            commands[:, column] > limit.high + slack
        )
        if beyond.mean() > 2 * _OUTSIDE:
            evidence.append(
                f'{beyond.mean():.0%} of the demonstrated commands {entry.name} lie outside '
                f'limits.{entry.name} ({limit.low:g} to {limit.high:g})'
            )
    return evidence


def _walls(facts: Facts) -> list[str]:
    """Entries that stop where demonstrations go on, while commands push on.

    A wall of the room that has a gap elsewhere is none: demonstrations go through the gap.
    """
    evidence = []
    if facts.steps < 2 * _LEAST_STEPS or facts.successes > _MOST * len(facts.attempts):
        return evidence
    change = (facts.practice['next_observation'] - facts.practice['observation'])[:, : facts.dim]
    for one in facts.driven:
        values = facts.practice['observation'][:, one.entry].astype(float)
        if not facts.direct(one) or np.ptp(values) < _AT_BOUND * facts.half[one.entry]:
            continue  # an object that rests is not blocked, nor is a sensor that stands still
        shown = facts.demonstrated_states[:, one.entry]
        half, push = facts.half[one.entry], facts.practice['action'][:, one.action]
        for side in (1, -1):
            bound = (side * values).max()
            missing = (side * shown).max() - bound
            at = side * values > bound - _AT_BOUND * half
            outward = side * push * np.sign(one.correlation) > 0.2
            still = np.abs(change[:, one.entry]) < 0.002 * half
            stuck = at & outward & still
            if missing <= _CUT * np.ptp(shown) or stuck.mean() <= _BLOCKED:
                continue
            blocked = _passed(facts, one, np.flatnonzero(stuck)) / facts.steps
            if blocked > _BLOCKED:
                evidence.append(
                    f'{facts.names[one.entry]} stops at {side * bound:.3g} in practice, where '
                    f'{facts.actions[one.action]} pushes on without motion in {blocked:.0%} of the '
                    f'steps; demonstrations go on to {side * (side * shown).max():.3g}'
                )
    return evidence


def _passed(facts: Facts, blocked: Driven, rows: np.ndarray) -> int:
    """How many of these steps are at a place which a demonstration has passed."""
    shown = facts.demonstrated
    change = (shown['next_observation'] - shown['observation'])[:, : facts.dim].std(0)
    places = change < _PLACE * facts.demonstrated_states.std(0)
    entries = sorted(
        one.entry
        for one in facts.driven
        if facts.direct(one)
        and (one is blocked or (places[one.entry] and one.action != blocked.action))
    )
    passed = (facts.demonstrated_states / facts.half)[:, entries]
    mine = (facts.practice['observation'][:, : facts.dim] / facts.half)[rows][:, entries]
    return sum(bool((np.abs(passed - one).max(1) < _PASSED).any()) for one in mine)


def failed_requests(facts: Facts) -> Cause | None:
    """A gripper or another device that does not do what the safety gate requests of it."""
    evidence, names = [], []
    history = [s for s in facts.run.history if 'safety_gate' in s.status]
    for entry in facts.task.robot.requests:
        reported = (sample.status['safety_gate'].get(entry.label, '') for sample in history)
        faults = [text for text in reported if text]
        if len(faults) >= max(_FAULTS, _FAULTY * len(history)):
            names.append(entry.label)
            evidence.append(
                f'{entry.label}: {faults[-1]} (last of {len(faults)} in {len(history)} samples of '
                "the gate's diagnostics)"
            )
    if not names:
        return None
    number = total(series(history, 'safety_gate', 'failed_requests'))
    return Cause(
        'failed_requests',
        f'Goals or calls fail: {", ".join(names)}',
        [*evidence, f'{number:.0f} goals and calls failed in {facts.steps} steps'],
        'look into the log of its server, and send it a goal or call by hand (`ros2 action '
        'send_goal`, `ros2 service call`); then go on in a new run',
    )


def gate_stops(facts: Facts) -> Cause | None:
    """A safety gate that stands in for the policy in many steps, or refuses its commands."""
    if facts.steps < _LEAST_STEPS:
        return None
    share = float((facts.practice['source'] == SAFETY).mean())
    if share < _STOPPED:
        return None
    status = facts.run.history[-1].status.get('safety_gate', {}) if facts.run.history else {}
    counts = ', '.join(
        f'{key} {status[key]}' for key in ('clipped', 'refused', 'state') if status.get(key)
    )
    return Cause(
        'gate_stops',
        'The safety gate stops the robot too often',
        [
            f'in {share:.0%} of {facts.steps} steps the command was that of the safety gate'
            + (f' ({counts})' if counts else '')
        ],
        'its messages are in log/safety_gate.log; widen limits or workspace where it is safe, or '
        'repair the sensor that becomes stale',
    )


def human_drives(facts: Facts) -> Cause | None:
    """A person who drives so often that the policy hardly practises."""
    if facts.steps < _LEAST_STEPS:
        return None
    share = float((facts.practice['source'] == HUMAN).mean())
    if share < _HUMAN:
        return None
    return Cause(
        'human_drives',
        'A person takes over too often',
        [f'{share:.0%} of {facts.steps} steps were driven by a person; {facts.outcome}'],
        'let the policy fail where that is safe; if it is not, tighten limits and workspace, or '
        'record more demonstrations',
    )


def never_succeeds(facts: Facts) -> Cause | None:
    """Many attempts and no success."""
    attempts = len(facts.attempts)
    if attempts < _NEVER or facts.successes or not facts.task.reward_known:
        return None
    distance = facts.task.distance(facts.practice['next_observation'])
    ends = [float(facts.task.distance(a['next_observation'][-1])) for a in facts.attempts]
    tolerance = facts.task.config.success.tolerance
    approached = 'was approached' if distance.min() < 3 * tolerance else 'was never approached'
    return Cause(
        'never_succeeds',
        'Practice has never reached success',
        [
            f'{facts.outcome}; they end {np.median(ends):.3g} away (median), tolerance '
            f'{tolerance:g}; success {approached}: nearest {distance.min():.3g}'
        ],
        'record more demonstrations near the success, lengthen phases.forward_limit, or begin with '
        'a larger tolerance',
    )
