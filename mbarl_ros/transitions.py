"""Transitions: the one layout on the wire, in the log, in demonstrations and in the learner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mbarl_ros.task import Task
from mbarl_ros.wire import WireError, pack, require, unpack

FORWARD, BACKWARD, EXPLORE = 0, 1, 2
PHASES = ('forward', 'backward', 'explore')
DIRECTIONS = PHASES[:2]  # of demonstrations
POLICY, HUMAN, DEMONSTRATION, SAFETY = 0, 1, 2, 3

Transitions = dict[str, np.ndarray]

# The action is the executed one. `terminated` says that the phase reached its goal: forward the
# task's, backward the state that it was sent to, if to any. A phase switch, a time limit or a
# safety stop is `truncated`, and values bootstrap through it. `reward` is the task's, for the goal
# in the observation; what policies are rewarded for, and where that ends, is recomputed from rows.
DTYPES = {
    'observation': np.float32,
    'action': np.float32,
    'next_observation': np.float32,
    'reward': np.float32,
    'terminated': np.uint8,
    'truncated': np.uint8,
    'phase': np.uint8,
    'source': np.uint8,
    'stamp': np.float64,
    'sequence': np.int64,
}


def shapes(task: Task) -> dict[str, tuple[int | None, ...]]:
    """Shape of each array; ``None`` is the number of transitions."""
    wide = {
        'observation': task.observation_dim,
        'action': task.action_dim,
        'next_observation': task.observation_dim,
    }
    return {name: (None, wide[name]) if name in wide else (None,) for name in DTYPES}


def stack(rows: Iterable[Mapping[str, Any]], task: Task) -> Transitions:
    """Arrays from single transitions; an empty iterable gives arrays of length 0."""
    rows = list(rows)
    out = {}
    for name, shape in shapes(task).items():
        values = np.array([row[name] for row in rows], DTYPES[name])
        out[name] = values.reshape(len(rows), *shape[1:])
    return out


def concatenate(parts: list[Transitions]) -> Transitions:
    """Transitions one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in DTYPES}


def select(transitions: Transitions, index: Any) -> Transitions:
    """Rows of transitions by slice, mask or index array."""
    return {name: array[index] for name, array in transitions.items()}


def shown_by_hand(transitions: Mapping[str, np.ndarray]) -> Transitions:
    """Rows of forward phases in which a person drove: they are demonstrations as well."""
    by_hand = (transitions['source'] == HUMAN) & (transitions['phase'] == FORWARD)
    return {name: np.asarray(array)[by_hand] for name, array in transitions.items()}


def pack_transitions(transitions: Transitions, spec_hash: str, session: str, first: int) -> bytes:
    """Message of contiguous transitions ``first``, ``first + 1``, ... of a controller session."""
    meta = {'spec_hash': spec_hash, 'session': session, 'first': first}
    return pack(transitions, meta, 'transitions')


def unpack_transitions(data: bytes, task: Task, spec_hash: str) -> tuple[Transitions, str, int]:
    """Parse and check a message: (transitions, session, first sequence number in the session).

    :raises WireError: anything but finite arrays of the task's layout; both spec hashes are named
        where they differ.
    """
    arrays, meta = unpack(data, 'transitions')
    if meta.get('spec_hash') != spec_hash:
        raise WireError(
            f"transitions of '{meta.get('spec_hash')}' refused: this side is '{spec_hash}'; "
            'start both sides with the same task and agent'
        )
    session, first = meta.get('session'), meta.get('first')
    if not isinstance(session, str) or not isinstance(first, int) or first < 0:
        raise WireError('transitions: session or first sequence number is missing')
    require(arrays, shapes(task), 'transitions')
    for name, dtype in DTYPES.items():
        if arrays[name].dtype != dtype:
            raise WireError(
                f"transitions: array '{name}' is {arrays[name].dtype}, not {np.dtype(dtype)}"
            )
    if len(arrays['phase']) and (arrays['phase'].max() > EXPLORE or arrays['source'].max() > 3):
        raise WireError('transitions: unknown phase or source')
    if len(arrays['action']) and np.abs(arrays['action']).max() > 1.0 + 1e-6:
        raise WireError('transitions: actions must be in [-1, 1]')
    return arrays, session, first
