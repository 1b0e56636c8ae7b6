"""Decoded demonstrations in the run folder, so that each bag is decoded once per run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mbarl_ros import __version__
from mbarl_ros.demos.metadata import folders
from mbarl_ros.storage.run_files import DEMONSTRATIONS_FILE
from mbarl_ros.storage.transitions import DTYPES, Transitions, shapes
from mbarl_ros.storage.wire import WireError, pack, require, unpack
from mbarl_ros.task import Task

_KIND = 'demonstrations'


def pack_decoded(transitions: Transitions, fingerprint: str, warnings: list[str]) -> bytes:
    """Content of ``DEMONSTRATIONS_FILE``."""
    return pack(transitions, {'fingerprint': fingerprint, 'warnings': warnings}, _KIND)


def read_decoded(run_dir: Path, folder: Path, task: Task) -> tuple[Transitions, list[str]] | None:
    """Decoded demonstrations of a run folder, and warnings about them.

    None where ``folder`` must be decoded.

    That is so if there are none, or if they are damaged or of other files, another task, robot or
    version.
    """
    path = run_dir / DEMONSTRATIONS_FILE
    try:
        data = path.read_bytes()
        transitions, meta = unpack(data, _KIND, max_bytes=len(data))
        require(transitions, shapes(task), _KIND)
    except (OSError, WireError):
        return None
    if any(transitions[name].dtype != dtype for name, dtype in DTYPES.items()):
        return None
    if meta.get('fingerprint') != fingerprint(folder, task):
        return None
    warnings = meta.get('warnings')
    return transitions, [str(text) for text in warnings] if isinstance(warnings, list) else []


def fingerprint(folder: Path, task: Task) -> str:
    """Hash of everything that decides on the transitions: files, task, robot and version."""
    config = task.config.model_dump(mode='json', exclude={'robot', 'demonstrations', 'evaluation'})
    spec = [__version__, config, task.robot.model_dump(mode='json')]
    digest = hashlib.sha256(json.dumps(spec).encode())
    for demonstration in folders(folder):
        for path in sorted(path for path in demonstration.rglob('*') if path.is_file()):
            with path.open('rb') as file:
                content = hashlib.file_digest(file, 'sha256').hexdigest()
            digest.update(f'{path.relative_to(folder)}\0{content}\0'.encode(errors='replace'))
    return digest.hexdigest()
