"""Checkpoints that survive a crash at any time: three are kept, the newest intact one is read."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage import wire
from mbarl_ros.storage.files import write_file

KIND = 'checkpoint'
KEPT = 3


class CheckpointError(ConfigError):
    """No checkpoint could be used; the message names each file and what is wrong with it."""


def files(path: Path) -> list[Path]:
    """Paths of the checkpoints, newest first."""
    return [path, *(path.with_name(f'{path.stem}.{age}{path.suffix}') for age in range(1, KEPT))]


def save(path: Path | str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint and rename the existing ones; the oldest is dropped.

    The new one is on disk under a temporary name before any of them is renamed.

    :raises OSError: disk full or read-only; the existing checkpoints stay.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = json.dumps(meta)
    data = wire.pack(arrays, {'state': state, 'crc': _checksum(arrays, state)}, KIND)
    write_file(path, data, before=lambda: _age(path))


def _age(path: Path) -> None:
    names = files(path)
    for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
        if newer.exists():
            os.replace(newer, older)


def load(
    path: Path | str,
    on_damage: Callable[[str], None],
    suits: Callable[[dict[str, Any]], bool] = lambda meta: True,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata of the newest checkpoint that is intact.

    :param on_damage: called with a message for each newer one that is skipped
    :param suits: whether a checkpoint with these metadata can be used
    :raises FileNotFoundError: there is no checkpoint.
    :raises CheckpointError: there are checkpoints, but none can be used.
    """
    problems = []
    for candidate in files(Path(path)):
        if not candidate.exists():
            continue
        try:
            arrays, meta = _read(candidate)
            if not suits(meta):
                raise wire.WireError('it is newer than the data beside it')
        except (wire.WireError, OSError) as error:
            problems.append(f'{candidate}: {error}')
            continue
        for problem in problems:
            on_damage(f'{problem}; going on with {candidate.name}')
        return arrays, meta
    if problems:
        raise CheckpointError(
            f'no usable checkpoint: {"; ".join(problems)}; remove these files to train '
            'from scratch on the recorded transitions'
        )
    raise FileNotFoundError(f'{path}: no checkpoint')


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    data = path.read_bytes()
    arrays, meta = wire.unpack(data, KIND, max_bytes=len(data))
    state = meta.get('state')
    if not isinstance(state, str) or meta.get('crc') != _checksum(arrays, state):
        raise wire.WireError('checksum differs')
    return arrays, json.loads(state)


def _checksum(arrays: Mapping[str, np.ndarray], state: str) -> int:
    total = zlib.crc32(state.encode())
    for name in sorted(arrays):
        total = zlib.crc32(name.encode(), total)
        total = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), total)
    return total
