"""Numbers of the robots of a fleet, by which its transitions tell them apart."""

from __future__ import annotations

import json
from pathlib import Path

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.files import write_file

MAX_ROBOTS = 65_535  # what the column `robot` of a transition can hold


class RobotNumbers:
    """Robot name -> number, from 1 in the order in which robots came; kept in a JSON file.

    The only robot of a run has the name '' and the number 0.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the file, if there is one; None: numbers are not kept.

        :raises ConfigError: it is damaged.
        :raises OSError: it cannot be read.
        """
        self._path = path
        self.names: dict[str, int] = {}
        if path is None or not path.exists():
            return
        try:
            names = json.loads(path.read_text())
            numbers = sorted(names.values())
        except (ValueError, AttributeError, TypeError):
            numbers = [None]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ConfigError(
                f'{path}: is damaged: each robot needs a number of its own, from 1; correct it, or '
                'use another run_dir'
            )
        self.names = names

    def number(self, name: str) -> int:
        """Number of a robot; a new one is on disk before it is returned.

        :raises OSError: the file cannot be written, or there are too many robots.
        """
        if not name:
            return 0
        if name not in self.names:
            number = len(self.names) + 1
            if number > MAX_ROBOTS:
                raise OSError(f'more than {MAX_ROBOTS} robots')
            names = {**self.names, name: number}
            if self._path is not None:
                write_file(self._path, (json.dumps(names, indent=2) + '\n').encode())
            self.names = names
        return self.names[name]

    def name(self, number: int) -> str:
        """Name of the robot with a number; 0: ''."""
        return next((name for name, own in self.names.items() if own == number), '')
