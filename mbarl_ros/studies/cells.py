"""The folder of a cell: its settings, its progress and its result; and the worker that fills it.

``python -m mbarl_ros.studies.cells JSON`` is the process of one cell.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mbarl_ros import __version__
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage import lifeline
from mbarl_ros.storage.files import write_file
from mbarl_ros.storage.run_files import RESULT_FILE, check_same, write_config
from mbarl_ros.studies.jobs import Job, Luggage
from mbarl_ros.studies.luggage import folder_files, named_files
from mbarl_ros.studies.registry import import_path, load_study
from mbarl_ros.studies.study import Cell, Study

CELLS_FOLDER = 'cells'
SETTINGS_FILE = 'settings.yaml'
LOG_FILE = 'cell.log'
PROGRESS_FILE = 'progress'
_PROGRESS_PERIOD = 0.5  # s


def cell_folder(folder: Path, name: str) -> Path:
    """Folder of a cell below the folder of its study."""
    return folder / CELLS_FOLDER / name


def check_cell(folder: Path, cell: Cell) -> None:
    """Refuse a cell whose folder was made with other settings.

    :raises ConfigError: names the folder, the first key that differs, and the remedy.
    """
    path = cell_folder(folder, cell.name)
    remedy = 'remove this folder or give another --out'
    check_same(path / SETTINGS_FILE, cell.settings, str(path), remedy, may_differ=())


def read_result(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """Content of ``result.json`` of a finished cell; None if it is not finished.

    :raises ConfigError: the file is damaged.
    """
    path = cell_folder(folder, cell.name) / RESULT_FILE
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise ConfigError(f'{path}: is damaged; remove it, and the cell runs again') from None


def reuse(source: Path, folder: Path, cell: Cell) -> None:
    """Copy a cell from the folder of another study, where it is finished with these settings."""
    found = cell_folder(source, cell.name)
    if read_result(source, cell) is None or read_result(folder, cell) is not None:
        return
    if yaml.safe_load((found / SETTINGS_FILE).read_text()) != cell.settings:
        return
    path = cell_folder(folder, cell.name)
    copy = path.with_name(f'.{path.name}.copy')
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(found, copy)
    shutil.rmtree(path, ignore_errors=True)
    copy.rename(path)  # whole or not at all


def read_progress(folder: Path, cell: Cell) -> float:
    """Finished share of a cell that runs, 0 to 1."""
    with contextlib.suppress(OSError, ValueError):
        return float((cell_folder(folder, cell.name) / PROGRESS_FILE).read_text())
    return 0.0


def cell_job(study: Study, folder: Path, cell: Cell) -> Job:
    """The process that runs a cell from its beginning; clears what an interrupted one left."""
    path = cell_folder(folder, cell.name)
    shutil.rmtree(path, ignore_errors=True)
    argument = {'study': import_path(study), 'settings': cell.settings, 'folder': str(path)}

    def pack() -> Luggage:
        there = f'{CELLS_FOLDER}/{cell.name}'
        files = named_files([argument['study'], cell.settings])
        for name in cell.after:
            files |= folder_files(cell_folder(folder, name), f'{CELLS_FOLDER}/{name}')
        return Luggage({**argument, 'folder': there}, files, there)

    return Job(
        title=cell.name,
        module=__name__,
        argument=argument,
        folder=path,
        log=path / LOG_FILE,
        pack=pack,
        after=cell.after,
    )


def run_cell(study: str, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a cell and write its result; returns the content of ``result.json``.

    :param study: its name or import path
    :raises ValueError: the result has a number that is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / SETTINGS_FILE, settings)
    start = time.monotonic()
    result = load_study(study).run(settings, folder, _Progress(folder / PROGRESS_FILE))
    check_finite(result, 'result')
    record = {
        'result': result,
        'seconds': round(time.monotonic() - start, 1),
        'version': __version__,
    }
    write_file(folder / RESULT_FILE, (json.dumps(record) + '\n').encode())
    return record


def check_finite(value: Any, key: str) -> None:
    """Refuse NaN and infinity anywhere in a result.

    :raises ValueError: names the first key with such a value.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            check_finite(inner, f'{key}.{name}')
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            check_finite(inner, f'{key}[{number}]')
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f'{key} is {value}')


class _Progress:
    """Writes the finished share to a file, at most twice a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = 0.0

    def __call__(self, share: float) -> None:
        if time.monotonic() >= self._next:
            self._path.write_text(f'{share:.4f}')
            self._next = time.monotonic() + _PROGRESS_PERIOD


def main() -> None:
    """Run the cell that the command line gives as JSON: the arguments of :func:`run_cell`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    lifeline.hold()
    np.seterr(over='ignore')
    argument = json.loads(sys.argv[1])
    run_cell(argument['study'], argument['settings'], Path(argument['folder']))


if __name__ == '__main__':
    main()
