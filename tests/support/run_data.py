"""What a run has left on disk."""

import json
from pathlib import Path

import numpy as np

from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.record_log import read_records
from mbarl_ros.storage.run_files import TRANSITIONS_FILE
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.storage.transitions import from_rows, row_dtype
from mbarl_ros.task import Task


def stored(folder: Path, agent: str, task: str = 'pointmass') -> dict[str, np.ndarray]:
    """Transitions that the learner has on disk; asserts that none is missing or doubled."""
    loaded = Task.load(task)
    tracker = SequenceTracker()
    path = folder / 'run' / TRANSITIONS_FILE
    rows = tracker.load_log(path, loaded, loaded.spec_hash(load_agent(agent)))
    assert rows['sequence'].tolist() == list(range(tracker.total))
    return rows


def kept(folder: Path, agent: str, task: str = 'pointmass') -> dict[str, np.ndarray]:
    """Those of :func:`stored`, then those that only the spool of the controller has.

    When a graph ends, the learner may be gone before it has the last transitions; it gets them when
    the run is resumed.
    """
    loaded = Task.load(task)
    tracker = SequenceTracker()
    path = folder / 'run' / TRANSITIONS_FILE
    parts = [tracker.load_log(path, loaded, loaded.spec_hash(load_agent(agent)))]
    for segment in sorted((folder / 'run' / 'spool').glob('*.log')):
        header, *records = read_records(segment)
        meta = json.loads(header)
        rows = from_rows(records, row_dtype(loaded))
        new = tracker.new_rows(rows, meta['session'], meta['first'])
        assert new is not None, f'{segment}: transitions before {meta["first"]} are lost'
        tracker.record_received(meta['session'], len(new['sequence']))
        parts.append(new)
    rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    assert rows['sequence'].tolist() == list(range(tracker.total))
    return rows


def assert_continuous(rows: dict[str, np.ndarray]) -> None:
    """Assert that each transition starts where the one before it ended: none was lost."""
    dim = Task.load('pointmass').state_dim
    assert (rows['observation'][1:, :dim] == rows['next_observation'][:-1, :dim]).all()


def spooled(folder: Path, task: Task) -> np.ndarray:
    """Rows that a controller without a learner has left in the run folder; one segment only."""
    (path,) = (folder / 'run' / 'spool').iterdir()
    _, *rows = read_records(path)
    return np.frombuffer(b''.join(rows), row_dtype(task))
