"""Checkpoints that survive a crash at any moment: two are kept, the newest whole one is read."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros import wire

KIND = 'checkpoint'


class CheckpointError(RuntimeError):
    """No checkpoint could be read; the message names the files and what was wrong with each."""


def previous(path: Path) -> Path:
    """Where the checkpoint before the newest one lies."""
    return path.with_name(f'{path.stem}.previous{path.suffix}')


def save(path: Path | str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically; the one that was there becomes the previous one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = wire.pack(arrays, {'state': dict(meta), 'crc': _checksum(arrays)}, KIND)
    if path.exists():
        os.replace(path, previous(path))
    wire.write_file(path, data)


def load(path: Path | str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata of the newest checkpoint that is whole.

    :raises FileNotFoundError: there is none at all.
    :raises CheckpointError: there are, but none of them is whole.
    """
    path = Path(path)
    problems = []
    for candidate in (path, previous(path)):
        if not candidate.exists():
            continue
        data = candidate.read_bytes()
        try:
            arrays, meta = wire.unpack(data, KIND, max_bytes=len(data))
        except wire.WireError as error:
            problems.append(f'{candidate}: {error}')
            continue
        if meta['crc'] != _checksum(arrays):
            problems.append(f'{candidate}: checksum differs')
            continue
        return arrays, meta['state']
    if problems:
        raise CheckpointError(
            f'no whole checkpoint: {"; ".join(problems)}; remove the files to start afresh'
        )
    raise FileNotFoundError(f'{path}: no checkpoint')


def _checksum(arrays: Mapping[str, np.ndarray]) -> int:
    total = 0
    for name in sorted(arrays):
        total = zlib.crc32(name.encode(), total)
        total = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), total)
    return total
