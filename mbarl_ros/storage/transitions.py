"""Transitions: one layout on the wire, in the log, in demonstrations and in the learner."""

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

MAX_ROWS = 1000  # of one message
# Most rows that are sent ahead of their acknowledgement: a learner that returns after hours must
# not receive the whole backlog at once.
WINDOW = 10 * MAX_ROWS
_HEADER_BYTES = 4096  # upper bound for the names, shapes and metadata of a message
_SESSION_CHARACTERS = 64
_LOG_VERSION = 2

# `action` is the executed one. `terminated`: the phase reached its goal (forward, that of the task;
# backward, the state that it was to reach, if any), or the world has ended. `truncated`: the phase
# ended without that, at its step limit or because it gave way to the next; values bootstrap through
# it. A safety stop is neither: the phase goes on. `reward` is that of the task, for the goal in the
# observation; the rewards of other objectives are recomputed from these rows. `robot`: its number
# in a fleet, which the learner writes; 0 where there is one robot, and in demonstrations.
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
    'robot': np.uint16,
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
    """Structured dtype of one transition, the layout of single ones in memory and on disk."""
    return np.dtype([(name, DTYPES[name], shape[1:]) for name, shape in shapes(task).items()])


def row_bytes(row: Mapping[str, Any], dtype: np.dtype) -> bytes:
    """One transition as bytes of :func:`row_dtype`."""
    return np.array(tuple(row[name] for name in DTYPES), dtype).tobytes()


def from_rows(rows: Iterable[bytes], dtype: np.dtype) -> Transitions:
    """Transitions from rows of :func:`row_bytes`."""
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


def human_forward_rows(transitions: Mapping[str, np.ndarray]) -> np.ndarray:
    """Where a person drove in a forward phase, bool [n]; such steps count as demonstrations."""
    source, phase = np.asarray(transitions['source']), np.asarray(transitions['phase'])
    return (source == HUMAN) & (phase == FORWARD)


def pack_transitions(transitions: Transitions, spec_hash: str, session: str, first: int) -> bytes:
    """Message of transitions ``first``, ``first + 1``, ... of a controller session."""
    meta = {'spec_hash': spec_hash, 'session': session, 'first': first}
    return pack(transitions, meta, 'transitions')


def unpack_transitions(data: bytes, task: Task, spec_hash: str) -> tuple[Transitions, str, int]:
    """Parse and check a message: (transitions, session, first sequence number in the session).

    :raises WireError: not a message of at most ``MAX_ROWS`` finite rows of the task's layout; names
        both spec hashes where they differ.
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
        raise WireError('transitions: first sequence number is missing or invalid')
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


def pack_log_record(
    transitions: Transitions, task: Task, spec_hash: str, session: str, first: int
) -> bytes:
    """Record of the transition log: a line of JSON, then rows of :func:`row_dtype`.

    More compact than a message, where names and shapes take ten times the space of one row.
    """
    rows = np.empty(len(transitions['phase']), row_dtype(task))
    for name in DTYPES:
        rows[name] = transitions[name]
    head = [_LOG_VERSION, spec_hash, session, first]
    return json.dumps(head).encode() + b'\n' + rows.tobytes()


def unpack_log_record(record: bytes, dtype: np.dtype, spec_hash: str) -> tuple[bytes, str, int]:
    """Parse a record of the log: (rows of ``dtype``, session, number of the first row in it).

    :raises WireError: not such a record, damaged, or of another task or agent.
    """
    head, _, rows = record.partition(b'\n')
    try:
        version, recorded_hash, session, first = json.loads(head)
    except (ValueError, TypeError):
        version = None
    if version != _LOG_VERSION:
        raise WireError('is not a transition log of this version')
    if recorded_hash != spec_hash:
        raise WireError(f"is of '{recorded_hash}', this run is '{spec_hash}'")
    if not isinstance(session, str) or not whole_number(first) or len(rows) % dtype.itemsize:
        raise WireError('is damaged: a record with an invalid session, number or length')
    return rows, session, first


def unpack_log_rows(rows: Iterable[bytes], task: Task) -> Transitions:
    """Transitions from rows of :func:`unpack_log_record`, checked like those of a message.

    :raises WireError: a value that is not finite or out of range.
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
    """Message: ``stored`` transitions of a session are on disk, ``total`` of all sessions."""
    return pack({}, {'session': session, 'stored': stored, 'total': total}, 'acknowledged')


def unpack_acknowledgement(data: bytes) -> tuple[str, int, int]:
    """Parse and check an acknowledgement: (session, or '', its transitions, those of all sessions).

    :raises WireError: not an acknowledgement, or with invalid counts.
    """
    _, meta = unpack(data, 'acknowledged', _HEADER_BYTES)
    session, stored, total = meta.get('session'), meta.get('stored'), meta.get('total')
    if not whole_number(stored) or not whole_number(total) or stored > total:
        raise WireError(f'acknowledged: {stored} of {total} is invalid')
    if not isinstance(session, str) or len(session) > _SESSION_CHARACTERS:
        raise WireError('acknowledged: session is missing or too long')
    return session, stored, total
