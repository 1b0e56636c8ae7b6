"""What demonstrations show as a set: copies, dead entries, and that they disagree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mbarl_ros.demos.episodes import DISCARDED, Episode
from mbarl_ros.demos.plausibility import entry_values, name_of, span
from mbarl_ros.schema.findings import INFO, WARNING, Finding
from mbarl_ros.task import Task

# Two states are nearly the same if their entries differ by less than this on average (root mean
# square), in units of the spread of each entry over all demonstrations.
_NEAR = 0.2
# Commands are opposite where they are more than 120 degrees apart, and those of one entry where
# their signs differ. Near zero noise decides: less than this share of a large one (the 90th
# percentile) does not count.
_OPPOSITE, _LEAST_COMMAND, _LEAST_ENTRY, _LARGE = -0.5, 0.5, 0.5, 0.9
# Share of near steps of others that one contradicts. Shipped ones do so by 0.07 at most (where a
# hand turns round), with noise as large as their commands by 0.24; any of them that is turned round
# does so by 0.83 and more, if it is near others at all. Signs of one entry differ by up to 0.6 with
# such noise, and by 0.86 and more where an axis is inverted. It takes so many pairs of near steps,
# with so many others, each of which counts for so many pairs at most: one wrong demonstration must
# not accuse the only one that is near it.
_SHARE, _ENTRY_SHARE, _LEAST_PAIRS, _LEAST_OTHERS, _MOST_PAIRS = 0.4, 0.75, 30, 3, 30
# Entries whose usual command is below this share of the greatest are not enlarged.
_LEAST_USUAL = 0.25
# Entries that hardly change are noise: a spread below this share of half the range is not enlarged.
_LEAST_SPREAD = 0.01
# Steps that are compared with one another: drawn evenly, so that time does not grow with the square
# of their number. Of each demonstration there must be enough to tell a share.
_QUERIES, _QUERIES_EACH, _REFERENCES, _BLOCK = 4_000, 20, 2_000, 500
_COMPARED = 1_000  # demonstrations, also drawn evenly
_NAMED = 5  # demonstrations that a sentence names, and copies that are told one by one
# Share of steps in common, to the last bit, that two recordings have only if they are one: else it
# is those in which the robot stood.
_SHARED = 0.8


def compare(episodes: Sequence[Episode], task: Task) -> list[Finding]:
    """Findings about demonstrations as a set, without those that were discarded."""
    kept = [episode for episode in episodes if episode.verdict != DISCARDED]
    if not kept:
        return []
    return [*_copies(kept), *_dead_entries(kept, task), *_disagreements(kept, task)]


def _copies(episodes: Sequence[Episode]) -> list[Finding]:
    """Demonstrations that repeat another one, whole or for the most part."""
    findings = []
    rows = [_hashes(episode) for episode in episodes]
    own = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    _, first, inverse = np.unique(np.concatenate(rows), return_index=True, return_inverse=True)
    originals = np.split(own[first][inverse], np.cumsum([len(row) for row in rows])[:-1])
    for number, (episode, origins) in enumerate(zip(episodes, originals, strict=True)):
        source, count = _most_frequent(origins[origins != number])
        # Of the shorter one: a part is a copy, too.
        share = count / min(len(origins), len(rows[source]))
        if share >= _SHARED:
            text = (
                f'{name_of(episode)} and {name_of(episodes[source])} have {count} steps in common '
                f'({share:.0%} of the shorter one): was it imported twice? Remove one of them'
            )
            findings.append(Finding(WARNING, text))
    if len(findings) > _NAMED:
        text = f'{len(findings)} demonstrations repeat another one in total'
        findings[_NAMED:] = [Finding(WARNING, text)]
    return findings


def _hashes(episode: Episode) -> np.ndarray:
    """A number [n] of each step, the same for steps with the same states and action."""
    states = episode.states
    rows = np.concatenate([states[:-1], episode.actions, states[1:]], 1, dtype=np.float32)
    factors = np.random.default_rng(0).integers(1, 2**63, rows.shape[1], np.uint64) | np.uint64(1)
    return (rows.view(np.uint32).astype(np.uint64) * factors).sum(1, dtype=np.uint64)


def _most_frequent(numbers: np.ndarray) -> tuple[int, int]:
    values, counts = np.unique(numbers, return_counts=True)
    return (int(values[counts.argmax()]), int(counts.max())) if len(values) else (0, 0)


def _dead_entries(episodes: Sequence[Episode], task: Task) -> list[Finding]:
    """Observation entries that never change, and a command that never does."""
    level = WARNING if len(episodes) > 1 else INFO  # one attempt may leave an object alone
    findings = []
    for entry, values in entry_values(episodes, task):
        low, high = span(values)
        if low == high:
            text = (
                f'{entry.name}: is always {low:g}; check that its sensor is on and its field '
                f"right, or take it out of key 'observation' of task {task.name}"
            )
            findings.append(Finding(level, text))
    actions = np.concatenate([episode.actions for episode in episodes])
    if (actions == actions[0]).all():
        text = 'the command never changes; check that the command topics are those that drive'
        findings.append(Finding(WARNING, f'{text} the robot'))
    return findings


def _disagreements(episodes: Sequence[Episode], task: Task) -> list[Finding]:
    """A finding for each direction (and goal) in which demonstrations contradict each other."""
    groups: dict[tuple[str, bytes], list[Episode]] = {}
    for episode in episodes:
        goal = episode.goal(task)
        key = episode.direction, b'' if goal is None else goal.tobytes()
        groups.setdefault(key, []).append(episode)
    return [text for group in groups.values() if len(group) > 1 for text in _opposite(group, task)]


def _opposite(group: list[Episode], task: Task) -> list[Finding]:
    """Contradictions of the whole command, else those of single entries."""
    group = [group[number] for number in _drawn(len(group), _COMPARED)]
    steps = [np.flatnonzero(episode.whole) for episode in group]
    owners = np.repeat(np.arange(len(group)), [len(rows) for rows in steps])
    if not len(owners):
        return []
    states = np.concatenate([e.states[:-1][rows] for e, rows in zip(group, steps, strict=True)])
    states = _spread(task.scaled(states))
    pushes = np.concatenate(
        [_pushes(episode, task)[rows] for episode, rows in zip(group, steps, strict=True)]
    )
    pushes, toggles = _usual(pushes, task)
    entries = range(pushes.shape[1])
    together = [column for column in entries if column not in toggles] or list(entries)
    directions = [_directions(pushes[:, together], _LEAST_COMMAND)]
    directions += [_directions(pushes[:, [column]], _LEAST_ENTRY) for column in entries]
    moving = np.any([direction.any(1) for direction in directions], 0)
    directions = [direction[moving] for direction in directions]
    whole, *single = _shares_opposite(states[moving], directions, owners[moving], len(group))
    if whole.max() >= _SHARE:
        return [_disagreement(group, whole, '')]
    return [
        _disagreement(group, shares, f' in {task.config.action[column].name}')
        for column, shares in enumerate(single)
        if shares.max() >= _ENTRY_SHARE
    ]


def _disagreement(group: list[Episode], shares: np.ndarray, where: str) -> Finding:
    # One that contradicts all others makes each of them contradict it, too, but in fewer steps.
    order = [i for i in np.argsort(-shares, kind='stable') if shares[i] >= 0.75 * shares.max()]
    names = ', '.join(f'{name_of(group[i])} ({shares[i]:.0%})' for i in order[:_NAMED])
    more = f' and {len(order) - _NAMED} others' if len(order) > _NAMED else ''
    text = (
        f'{group[0].direction} demonstrations disagree{where}: in nearly the same states, '
        f'{names}{more} act opposite to others (in so many of these states); '
        'look at them (`mbarl demos show`), remove the wrong ones, or add the entry to the '
        'observation that tells the cases apart'
    )
    return Finding(WARNING, text)


def _pushes(episode: Episode, task: Task) -> np.ndarray:
    """Where commands [n, action_dim] push: from the measured position, or from the stop command."""
    pushes = task.command(episode.actions)
    observed = {entry.name: (entry, values[0]) for entry, values in entry_values([episode], task)}
    for column, name in enumerate(task.robot.command_names):
        limit = task.robot.limits[name]
        if limit.measured in observed:
            entry, values = observed[limit.measured]
            pushes[:, column] -= values[:-1]
            if entry.angle:  # the short way round
                pushes[:, column] = (pushes[:, column] + np.pi) % (2 * np.pi) - np.pi
        elif limit.stop != 'hold':
            pushes[:, column] -= limit.stop
    return pushes


def _usual(pushes: np.ndarray, task: Task) -> tuple[np.ndarray, list[int]]:
    """Commands [n, action_dim] in multiples of the usual ones, and columns that only toggle.

    Those, such as a gripper, have neither a stop nor a measured position: they are open or closed.
    """
    toggles = []
    for column, name in enumerate(task.robot.command_names):
        limit = task.robot.limits[name]
        if limit.stop == 'hold' and limit.measured is None:
            pushes[:, column] -= pushes[:, column].mean()
            toggles.append(column)
    pushes = pushes / [(entry.high - entry.low) / 2 for entry in task.config.action]
    usual = np.sqrt((pushes**2).mean(0))
    return pushes / np.maximum(usual, max(_LEAST_USUAL * usual.max(), 1e-6)), toggles


def _spread(states: np.ndarray) -> np.ndarray:
    """States [n, D] whose squared distance is the mean square over entries that spread by 1."""
    spread = np.maximum(states.std(0), _LEAST_SPREAD)
    return (states / (spread * np.sqrt(states.shape[1]))).astype(np.float32)


def _directions(pushes: np.ndarray, least: float) -> np.ndarray:
    """Unit vectors [n, k] of commands; 0 for those below ``least`` times a large one."""
    sizes = np.linalg.norm(pushes, axis=1, keepdims=True)
    large = sizes > least * max(float(np.quantile(sizes, _LARGE)), 1e-3)
    return np.where(large, pushes / np.maximum(sizes, 1e-9), 0.0).astype(np.float32)


def _shares_opposite(
    states: np.ndarray, directions: list[np.ndarray], owners: np.ndarray, episodes: int
) -> list[np.ndarray]:
    """Share [episodes] of opposite commands among the near steps of others, each of equal weight.

    It is 0 for an episode that is near too few others.

    :param directions: of the whole command and of entries; shares are returned for each
    """
    queries = _drawn(len(owners), max(_QUERIES, _QUERIES_EACH * episodes))
    references = _drawn(len(owners), _REFERENCES)
    near_states, near_owners = states[references], owners[references]
    squares = (near_states**2).sum(1)
    near_pairs, opposite_pairs = np.zeros((2, len(directions), episodes**2), np.int32)
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        mine = states[block]
        distances = squares - 2 * mine @ near_states.T
        near = distances < _NEAR**2 - (mine**2).sum(1)[:, None]
        rows, columns = np.nonzero(near & (owners[block][:, None] != near_owners))
        pairs = owners[block][rows] * episodes + near_owners[columns]
        for index, direction in enumerate(directions):
            first, second = direction[block][rows], direction[references][columns]
            both = first.any(1) & second.any(1)
            opposite = (first * second).sum(1) < _OPPOSITE
            np.add.at(near_pairs[index], pairs[both], 1)
            np.add.at(opposite_pairs[index], pairs[opposite], 1)
    shape = len(directions), episodes, episodes
    counts, opposites = near_pairs.reshape(shape), opposite_pairs.reshape(shape)
    weights = np.minimum(counts, _MOST_PAIRS)
    enough = (counts > 0).sum(2) >= min(_LEAST_OTHERS, episodes - 1)
    enough &= weights.sum(2) >= _LEAST_PAIRS
    shares = (opposites * weights / np.maximum(counts, 1)).sum(2)
    return list(np.where(enough, shares / np.maximum(weights.sum(2), 1), 0.0))


def _drawn(number: int, most: int) -> np.ndarray:
    """Rows that are drawn evenly from ``number``, all if there are no more than ``most``."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).round().astype(int))
