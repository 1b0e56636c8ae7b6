"""Transitions: the one layout on the wire, in the log, in demonstrations and in the learner."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mbarl_ros.storage.wire import WireError, pack, require, unpack, whole_number
from mbarl_ros.task import Task

FORWARD, BACKWARD, EXPLORE = 0, 1, 2
PHASES = ('forward', 'backward', 'explore')
DIRECTIONS = PHASES[:2]  # of demonstrations
POLICY, HUMAN, DEMONSTRATION, SAFETY = 0, 1, 2, 3

Transitions = dict[str, np.ndarray]

MAX_ROWS = 1000  # of a message
# Rows on their way, unacknowledged: a learner that comes back after hours must not get them all in
# one breath.
WINDOW = 10 * MAX_ROWS
_HEADER_BYTES = 4096  # more than the names, shapes and metadata of a message take
_SESSION_CHARACTERS = 64

# The action is the executed one. `terminated` says that the phase reached its goal: forward the
# task's, backward the state that it was sent to, if to any. A phase that ends without that (its
# limit, an early switch) is `truncated`, and values bootstrap through it. A safety stop is neither:
# the phase goes on. `reward` is the task's, for the goal in the observation; what policies are
# rewarded for, and where that ends, is recomputed from rows.
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


def row_dtype(task: Task) -> np.dtype:
    """One transition as a packed record: how single ones are kept, in memory and on disk."""
    return np.dtype([(name, DTYPES[name], shape[1:]) for name, shape in shapes(task).items()])


def row_bytes(row: Mapping[str, Any], dtype: np.dtype) -> bytes:
    """A transition as :func:`row_dtype` lays it out."""
    return np.array(tuple(row[name] for name in DTYPES), dtype).tobytes()


def from_rows(rows: Iterable[bytes], dtype: np.dtype) -> Transitions:
    """Transitions of rows of :func:`row_bytes`."""
    records = np.frombuffer(b''.join(rows), dtype)
    return {name: records[name].copy() for name in DTYPES}


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

    :raises WireError: anything but at most ``MAX_ROWS`` finite rows of the task's layout; both
        spec hashes are named where they differ.
    """
    max_bytes = _HEADER_BYTES + MAX_ROWS * row_dtype(task).itemsize
    arrays, meta = unpack(data, 'transitions', max_bytes)
    if meta.get('spec_hash') != spec_hash:
        raise WireError(
            f"transitions of '{meta.get('spec_hash')}' refused: this side is '{spec_hash}'; "
            'start both sides with the same task and agent'
        )
    session, first = meta.get('session'), meta.get('first')
    if not isinstance(session, str) or not 0 < len(session) <= _SESSION_CHARACTERS:
        raise WireError('transitions: session is missing or too long')
    if not whole_number(first):
        raise WireError('transitions: first sequence number is missing or cannot be')
    require(arrays, shapes(task), 'transitions')
    for name, dtype in DTYPES.items():
        if arrays[name].dtype != dtype:
            raise WireError(
                f"transitions: array '{name}' is {arrays[name].dtype}, not {np.dtype(dtype)}"
            )
    if (rows := len(arrays['phase'])) > MAX_ROWS:
        raise WireError(f'transitions: {rows} rows, more than {MAX_ROWS}')
    _check_values(arrays)
    return arrays, session, first


def log_record(
    transitions: Transitions, task: Task, spec_hash: str, session: str, first: int
) -> bytes:
    """The same for a log: a line of JSON, then rows of :func:`row_dtype`.

    In a message of one row, names and shapes take ten times the room of the row.
    """
    rows = np.empty(len(transitions['phase']), row_dtype(task))
    for name in DTYPES:
        rows[name] = transitions[name]
    return json.dumps([spec_hash, session, first]).encode() + b'\n' + rows.tobytes()


def open_record(record: bytes, dtype: np.dtype, spec_hash: str) -> tuple[bytes, str, int]:
    """Parse a record of a log: (rows of ``dtype``, session, number of the first row in it).

    :raises WireError: it is none, damaged, or of another task or agent.
    """
    head, _, rows = record.partition(b'\n')
    try:
        found, session, first = json.loads(head)
    except (ValueError, TypeError):
        raise WireError('is no log of transitions, or one of another version') from None
    if found != spec_hash:
        raise WireError(f"is of '{found}', this run is '{spec_hash}'")
    if not isinstance(session, str) or not whole_number(first) or len(rows) % dtype.itemsize:
        raise WireError('is damaged: a record that cannot be')
    return rows, session, first


def from_log(rows: Iterable[bytes], task: Task) -> Transitions:
    """Transitions of rows of :func:`open_record`, checked like those of a message.

    :raises WireError: values that cannot be.
    """
    transitions = from_rows(rows, row_dtype(task))
    require(transitions, shapes(task), 'transitions')
    _check_values(transitions)
    return transitions


def _check_values(arrays: Transitions) -> None:
    if not len(arrays['phase']):
        return
    if arrays['phase'].max() > EXPLORE or arrays['source'].max() > SAFETY:
        raise WireError('transitions: unknown phase or source')
    if max(arrays['terminated'].max(), arrays['truncated'].max()) > 1:
        raise WireError('transitions: terminated and truncated must be 0 or 1')
    if np.abs(arrays['action']).max() > 1.0 + 1e-6:
        raise WireError('transitions: actions must be in [-1, 1]')


def pack_acknowledgement(session: str, stored: int, total: int) -> bytes:
    """Message that ``stored`` transitions of a session are on disk, ``total`` of all sessions."""
    return pack({}, {'session': session, 'stored': stored, 'total': total}, 'acknowledged')


def unpack_acknowledgement(data: bytes) -> tuple[str, int, int]:
    """Parse and check an acknowledgement: (session or '', transitions of it, of all sessions).

    :raises WireError: it cannot be.
    """
    _, meta = unpack(data, 'acknowledged', _HEADER_BYTES)
    session, stored, total = meta.get('session'), meta.get('stored'), meta.get('total')
    counts = whole_number(stored) and whole_number(total) and stored <= total
    if not counts or not isinstance(session, str) or len(session) > _SESSION_CHARACTERS:
        raise WireError(f'acknowledged: {stored} of {total} cannot be')
    return session, stored, total
