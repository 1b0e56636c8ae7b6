"""The message of imagined rollouts: what the model foresees from a real state on, to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mbarl_ros.storage.wire import WireError, pack, require, unpack, whole_number
from mbarl_ros.task import Task

ROLLOUTS, STEPS = 8, 15
"""Rollouts of each policy in a message, and most steps of one."""
_POLICIES = 3  # at most: forward, backward, explore
_HEADER_BYTES = 4096  # upper bound for names, shapes and metadata


@dataclass(frozen=True, eq=False)
class Imagined:
    """Rollouts in the model, by policy, each as the states [steps, state_dim] after the start.

    ``start`` [observation_dim] is real; ``environment_steps``: how many the learner had trained on.
    """

    start: np.ndarray
    rollouts: Mapping[str, Sequence[np.ndarray]]
    environment_steps: int


def pack_imagined(imagined: Imagined, spec_hash: str) -> bytes:
    """Message of imagined rollouts, each of at least one step."""
    arrays = {'start': np.asarray(imagined.start, np.float32)}
    for policy, rollouts in imagined.rollouts.items():
        if not rollouts:
            continue  # the model distrusts each first step
        arrays[f'{policy}/states'] = np.concatenate(rollouts)
        arrays[f'{policy}/steps'] = np.array([len(states) for states in rollouts], np.int32)
    meta = {'spec_hash': spec_hash, 'environment_steps': imagined.environment_steps}
    return pack(arrays, meta, 'imagined')


def unpack_imagined(data: bytes, task: Task, spec_hash: str) -> Imagined:
    """Parse and check a message of imagined rollouts.

    :raises WireError: not such a message, or of another task or agent.
    """
    rows = _POLICIES * ROLLOUTS * (STEPS * task.state_dim + 1) + task.observation_dim
    arrays, meta = unpack(data, 'imagined', _HEADER_BYTES + 4 * rows)
    if meta.get('spec_hash') != spec_hash:
        raise WireError(f"imagined: is of '{meta.get('spec_hash')}', this side is '{spec_hash}'")
    if not whole_number(meta.get('environment_steps')):
        raise WireError('imagined: environment_steps must be a whole number')
    policies = [name.removesuffix('/states') for name in arrays if name.endswith('/states')]
    shapes: dict[str, tuple[int | None, ...]] = {'start': (task.observation_dim,)}
    for policy in policies:
        steps = arrays.get(f'{policy}/steps')
        if steps is None or steps.dtype != np.int32 or steps.ndim != 1 or (steps < 1).any():
            raise WireError(f"imagined: array '{policy}/steps' must be whole numbers above 0")
        shapes[f'{policy}/steps'] = (len(steps),)
        shapes[f'{policy}/states'] = (int(steps.sum()), task.state_dim)
    require(arrays, shapes, 'imagined')
    rollouts = {}
    for policy in policies:
        ends = np.cumsum(arrays[f'{policy}/steps'])
        rollouts[policy] = np.split(arrays[f'{policy}/states'], ends)[:-1]
    return Imagined(arrays['start'], rollouts, meta['environment_steps'])
