"""Runs on two hosts: ``mbarl up`` on each, what they report, and what became of the transitions."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbarl_ros.nodes.support.scheduling import CONTROLLER_PRIORITY
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.history import Sample, read_history
from mbarl_ros.storage.run_files import TRANSITIONS_FILE
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.task import Task
from support.steady import BARE
from support.two_hosts import LEARNER, ROBOT, TwoHosts

MBARL = (sys.executable, '-m', 'mbarl_ros.cli')
_FIRST = ('chrt', '--fifo')  # a robot's driver has a computer that nobody else keeps busy


class Stored(NamedTuple):
    """Transitions on the learner's disk, and how many are missing between their stamps."""

    rows: int
    gaps: int


class HostRun:
    """One run, with a folder for each side."""

    def __init__(self, hosts: TwoHosts, folder: Path, graph: str = 'sim', **given: str) -> None:
        """``given``: arguments of both sides."""
        self._hosts, self.folder, self._graph = hosts, folder, graph
        self._given = {'task': 'pointmass', 'view': 'lines', **given}
        self.sides: dict[str, subprocess.Popen] = {}
        self._old: dict[str, int] = {}  # samples of a side from before its last start

    def start(self, side: str, environment: dict[str, str] | None = None, **own: str) -> None:
        """Start a side, with arguments of its ``own``; again after its end: it resumes."""
        self._old[side] = len(self.history(side))
        given = {**self._given, 'host': side, 'run_dir': str(self.run_dir(side)), **own}
        words = [f'{name}:={text}' for name, text in given.items()]
        command = [*MBARL, 'up', self._graph, *words]
        self.sides[side] = self._hosts.start(side, command, f'{side}.log', **(environment or {}))

    def start_robot(self, environment: dict[str, str] | None = None) -> None:
        """Start a robot whose stamps are by its system clock, for the graph ``hardware``."""
        command = [*_FIRST, '35', *MBARL, 'node', 'robot_sim', '--ros-args']
        for word in ('task:=pointmass', 'mode:=realtime', 'publish_clock:=false'):
            command += ['-p', word]
        own = {'ROS_DOMAIN_ID': '0', **(environment or {})}
        self._hosts.start(ROBOT, command, 'driver.log', **own)

    def start_bare_timer(self, rate: float) -> Path:
        """Start a timer that does nothing else, with the priority of the controller.

        :returns: its file of JSON lines
        """
        command = [*_FIRST, str(CONTROLLER_PRIORITY), sys.executable, '-c', BARE, str(rate)]
        self._hosts.start(ROBOT, command, 'bare.jsonl', ROS_DOMAIN_ID='9')
        return self.folder / 'bare.jsonl'

    def run_dir(self, side: str) -> Path:
        """The run folder of a side."""
        return self.folder / side

    def kill_side(self, side: str) -> None:
        """``kill -9`` ``mbarl up`` of a side; its nodes end with it."""
        process = self.sides[side]
        process.kill()
        process.wait()
        folder = self.run_dir(side) / 'params'
        wait_for(lambda: not _processes_with(f'{folder}/'), f'the end of the nodes of {side}', 60)

    def history(self, side: str = ROBOT) -> list[Sample]:
        """What a side's monitor has kept."""
        return read_history(self.run_dir(side))

    def value(self, node: str, key: str, side: str = ROBOT) -> float:
        """The latest number that a node reported since that side was started; -1: none yet."""
        history = self.history(side)[self._old[side] :]
        text = history[-1].status.get(node, {}).get(key, '') if history else ''
        return float(text or -1.0)

    def missed_by_the_classifier(self) -> int:
        """Transitions that the classifier had to leave out."""
        log = self.run_dir(LEARNER) / 'log' / 'state_classifier.log'
        text = log.read_text() if log.exists() else ''
        return sum(map(int, re.findall(r'(\d+) transitions missed', text)))

    def stored(self) -> Stored:
        """The transitions on the learner's disk."""
        task = Task.load('pointmass')
        agent = self._given.get('agent', 'mbarl')
        log = self.run_dir(LEARNER) / TRANSITIONS_FILE
        rows = SequenceTracker().load_log(log, task, task.spec_hash(load_agent(agent)))
        periods = np.round(np.diff(rows['stamp']) * task.robot.control_rate)
        return Stored(len(rows['stamp']), int(np.maximum(periods - 1, 0).sum()))


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 120.0) -> Any:
    """Wait until the condition holds; its value.

    :raises AssertionError: time-out.
    """
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f'{what}: not within {timeout:g} s'
        time.sleep(0.25)
    return value


def bare_values(path: Path) -> list[dict[str, float]]:
    """Lines of a bare timer."""
    lines = [line for line in path.read_text().splitlines() if line.startswith('{')]
    return [{key: float(text) for key, text in json.loads(line).items()} for line in lines]


def new_folder(path: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _processes_with(text: str) -> list[int]:
    """Processes that have ``text`` in their command line."""
    found = []
    for process in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):  # it has just ended
            if text.encode() in (process / 'cmdline').read_bytes():
                found.append(int(process.name))
    return found
