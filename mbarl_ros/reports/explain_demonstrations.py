"""Evidence about demonstrations: they disagree, belong to another task, clip, or are too few."""

from __future__ import annotations

import numpy as np

from mbarl_ros.demos.comparison import compare
from mbarl_ros.demos.episodes import SUCCEEDED, Episode
from mbarl_ros.demos.metadata import DemonstrationError, folders
from mbarl_ros.demos.plausibility import examine
from mbarl_ros.demos.reader import read_episode
from mbarl_ros.reports.facts import CLEAR, RIVAL, Cause, Facts
from mbarl_ros.reports.responses import FEWEST, responses
from mbarl_ros.schema.findings import WARNING
from mbarl_ros.storage.transitions import DIRECTIONS, Transitions

_MINORITY = 0.1  # share of demonstrations, from which on those that differ are not one slip
_CERTAIN = 0.85  # correlation in practice: an object may be pushed from either side
_UNEXPLAINED = 0.25  # correlation of commands with motion, below which they do not belong together
_FEW = 2  # forward demonstrations
_ENDS = 0.5  # share of forward demonstrations that must end in success
_STOPS_SHORT = 0.25  # of the way to success that is left where a demonstration only stops short
_EDGE = 0.06  # of half its range: how near to its end a target is hardly ever reached
_APPROACHED, _NEAR_STEPS = 0.15, 30  # of the entries' half ranges; steps


def demonstrations_disagree(facts: Facts) -> Cause | None:
    """Demonstrations that act oppositely in near states, or whose commands do not fit the motion.

    Several ways to do a task are no disagreement: what counts is that the commands are opposite in
    the same places, or that they go with opposite motions.
    """
    evidence = [
        str(finding)
        for finding in compare(
            [_episode(facts, n) for n in range(len(facts.demonstrations))], facts.task
        )
        if finding.level == WARNING and 'disagree' in str(finding)
    ]
    evidence += opposite_motion(facts) or _unexplained_motion(facts)
    if not evidence:
        return None
    return Cause(
        'demonstrations_disagree',
        'Demonstrations contradict each other',
        evidence,
        'look at them (`mbarl demos check`, `mbarl demos show`), remove the wrong ones, or add to '
        'the observation what tells the cases apart',
    )


def _episode(facts: Facts, number: int) -> Episode:
    """A demonstration as an episode, as far as its transitions tell."""
    rows = facts.demonstrations[number]
    last = rows['next_observation'][-1:, : facts.dim]
    return Episode(
        states=np.concatenate([rows['observation'][:, : facts.dim], last]),
        actions=rows['action'],
        stamps=np.append(rows['stamp'], rows['stamp'][-1] + facts.period),
        whole=np.ones(len(rows['action']), bool),
        direction=DIRECTIONS[int(rows['phase'][0])],
        verdict=SUCCEEDED,
        name=f'demonstration {number + 1}',
    )


def opposite_motion(facts: Facts) -> list[str]:
    """Entries that follow a command in some demonstrations and run against it in others.

    Practice says which command moves an entry; in one demonstration, several may look alike.
    """
    each = [responses(part, facts.dim) for part in facts.demonstrations]
    known = [shown.correlation for shown in each if shown.steps >= FEWEST]
    evidence = []
    for entry in range(facts.dim) if facts.practised and len(known) >= 2 else ():
        _, action, value = facts.practised[-1].main(entry)
        if abs(value) < _CERTAIN or facts.practised[-1].rival(entry) > RIVAL * abs(value):
            continue
        signed = [
            float(one[np.abs(one[:, entry, action]).argmax(), entry, action]) for one in known
        ]
        signed = [each for each in signed if abs(each) >= CLEAR]
        against = sum(each < 0 for each in signed)
        with_it = len(signed) - against
        if min(against, with_it) >= max(_MINORITY * len(signed), 1):
            evidence.append(
                f'{facts.names[entry]} follows {facts.actions[action]} in {with_it} demonstrations '
                f'and moves against it in {against} (partial correlations from {min(signed):+.2f} '
                f'to {max(signed):+.2f})'
            )
    return evidence


def _unexplained_motion(facts: Facts) -> list[str]:
    """Entries that commands move in practice, while demonstrated commands explain nothing."""
    shown, evidence = facts.demonstrated_responses, []
    if shown.steps < 2 * FEWEST or not facts.practised:
        return evidence
    practised = facts.practised[-1]
    for entry in range(facts.dim):
        _, action, value = practised.main(entry)
        varied = facts.demonstrated['action'][:, action].std() > 0.1
        moved = np.ptp(facts.demonstrated_states[:, entry]) > 0.1 * facts.half[entry]
        if abs(value) >= CLEAR and varied and moved and shown.strongest[entry].max() < _UNEXPLAINED:
            evidence.append(
                f'{facts.names[entry]} follows {facts.actions[action]} in practice (partial '
                f'correlation {abs(value):.2f}), but no command in the demonstrations (at most '
                f'{shown.strongest[entry].max():.2f}, {shown.steps} steps): their commands do not '
                'belong to their motion'
            )
    return evidence


def other_demonstrations(facts: Facts) -> Cause | None:
    """Demonstrations that end elsewhere than where the task calls it a success."""
    ends = _ends(facts)
    if ends is None or unreachable_reason(facts):
        return None
    evidence = [ends, *_starts(facts)]
    evidence.append(
        'or the success region is not where it should be: it has not been entered yet'
        if not facts.successes
        else f'practice has entered the success region ({facts.outcome}), it can be reached'
    )
    return Cause(
        'other_demonstrations',
        'The demonstrations are of another task: they do not end in success',
        evidence,
        f"give the folder of this task's demonstrations (`demos:=`), record new ones (`mbarl up "
        f"record task:={facts.task.name}`), or correct key 'success' of the task",
    )


def success_unreachable(facts: Facts) -> Cause | None:
    """Success that neither demonstrations nor practice reach."""
    if _ends(facts) is None and facts.forward:
        return None
    reason = unreachable_reason(facts)
    if not reason:
        return None
    nearest = facts.task.distance(facts.practice['next_observation']).min()
    return Cause(
        'success_unreachable',
        'Success is out of reach',
        [
            reason,
            *filter(None, [_ends(facts)]),
            f'practice came as near as {nearest:.4g}, tolerance '
            f'{facts.task.config.success.tolerance:g} ({facts.outcome})',
        ],
        "correct 'success' of the task (target, tolerance: not below the noise of its sensor or a "
        'step of the robot), or clear the way there',
    )


def _left(facts: Facts, rows: Transitions) -> tuple[float, float, float]:
    """Distance to success at the start, at the nearest and at the end of an episode."""
    distance = facts.task.distance(
        np.concatenate([rows['observation'][:1], rows['next_observation']])
    )
    return float(distance[0]), float(distance.min()), float(distance[-1])


def _ends(facts: Facts) -> str | None:
    """How far from success forward demonstrations end; None where enough of them end in it."""
    if not facts.forward or not facts.task.reward_known:
        return None
    tolerance = facts.task.config.success.tolerance
    left = np.array([_left(facts, part) for part in facts.forward])
    reached = int((left[:, 2] <= tolerance).sum())
    if reached >= _ENDS * len(left):
        return None
    return (
        f'{reached} of {len(left)} forward demonstrations end in success; the others end '
        f'{np.median(left[left[:, 2] > tolerance, 2]):.3g} away from it (median; nearest '
        f'{left[:, 1].min():.3g}), tolerance {tolerance:g}'
    )


def _starts(facts: Facts) -> list[str]:
    """Where the run and the demonstrations start, if that differs."""
    if not facts.steps:
        return []
    starts = np.array([part['observation'][0, : facts.dim] for part in facts.forward])
    away = np.abs(starts - facts.practice['observation'][0, : facts.dim]).min(0) / facts.half
    entry = int(away.argmax())
    if away[entry] < 0.5:
        return []
    return [
        f'they start elsewhere, too: {facts.names[entry]} from {starts[:, entry].min():.3g} to '
        f'{starts[:, entry].max():.3g}, the run at {facts.practice["observation"][0, entry]:.3g}'
    ]


def unreachable_reason(facts: Facts) -> str:
    """What shows that success cannot be reached, as a sentence; empty: nothing does."""
    if facts.successes or not facts.steps or not facts.task.reward_known:
        return ''
    task, tolerance = facts.task, facts.task.config.success.tolerance
    distance = task.distance(facts.practice['next_observation'])
    if (distance <= tolerance).any():
        return ''
    left = np.array([_left(facts, part) for part in facts.forward]).reshape(-1, 3)
    # Where they end: those of another task may pass by.
    if len(left) and np.median(left[:, 2] / np.maximum(left[:, 0], 1e-9)) < _STOPS_SHORT:
        return (
            f'the tolerance is too small: demonstrations bring the distance from '
            f'{np.median(left[:, 0]):.3g} to {np.median(left[:, 2]):.3g} (medians), not to '
            f'{tolerance:g}'
        )
    indices = task.success_index
    reach = np.sqrt((facts.half[indices] ** 2).mean()) * _APPROACHED
    near = int((distance < tolerance + reach).sum())
    if near >= _NEAR_STEPS:
        return (
            f'practice was near it in {near} steps (within {tolerance + reach:.3g}) and never '
            'inside: something keeps the robot out'
        )
    return _at_edge(facts, indices)


def _at_edge(facts: Facts, indices: list[int]) -> str:
    """Whether the target lies where nothing has been, at the end of the range or beyond walls."""
    target = facts.task.target(facts.practice['observation'][-1])
    states = np.concatenate([facts.states(facts.practice), facts.demonstrated_states])
    for entry, wanted in zip(indices, target, strict=True):
        values = states[:, entry]
        low, high = facts.task.state_low[entry], facts.task.state_high[entry]
        outer = min(wanted - low, high - wanted) < _EDGE * facts.half[entry]
        away = max(values.min() - wanted, wanted - values.max())
        if outer and away > 0:
            return (
                f'{facts.names[entry]} of the target is {wanted:.3g}, at the end of its range '
                f'({low:g} to {high:g}); it has never been beyond {values.min():.3g} to '
                f'{values.max():.3g}'
            )
    return ''


def demonstrations_clipped(facts: Facts) -> Cause | None:
    """Recorded commands beyond the range of the task or the limits, which were cut off."""
    episodes = []
    for folder in folders(facts.run.folder / 'demonstrations'):
        try:
            episodes.append(read_episode(folder, facts.task))
        except DemonstrationError:
            continue
    if not episodes:
        return None
    evidence = [
        str(finding) for finding in examine(episodes, facts.task) if 'clipped' in str(finding)
    ]
    if not evidence:
        return None
    return Cause(
        'demonstrations_clipped',
        'Demonstrated commands are clipped at their limits',
        evidence,
        'drive within the range (`action` of the task, `limits` of the robot profile), or widen it',
    )


def few_demonstrations(facts: Facts) -> Cause | None:
    """Fewer demonstrations than show what varies."""
    number = len(facts.forward)
    if not facts.run.agent.needs_demonstrations or number >= _FEW:
        return None
    steps = sum(len(part['action']) for part in facts.forward)
    return Cause(
        'few_demonstrations',
        'Too few demonstrations',
        [
            f'forward demonstrations: {number}, {steps} steps ({steps * facts.period:.0f} s); '
            f'{facts.outcome}'
        ],
        f'record more (`mbarl up record task:={facts.task.name}`), from different starts',
    )
