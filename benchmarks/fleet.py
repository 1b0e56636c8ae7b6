"""Several robots with one learner: time to the target, data rate, what kills lose, control periods.

    python benchmarks/fleet.py learn --robots 1 4 --seeds 0 1 2
    python benchmarks/fleet.py kills --robots 16 --minutes 10
    python benchmarks/fleet.py rates --robots 1 4 16 --seconds 60

``learn`` runs ``mbarl up fleet`` to the target. ``kills`` and ``rates`` run controllers, learner
and classifier with stand-ins for worlds and gates (``fleet_stand_ins.py``). ``kills`` ends
controllers and learner by SIGKILL at random and compares what the robots executed, as their spools
and their messages tell, with the log of the learner. ``rates`` measures bytes and control periods
beside bare timers. Each writes ``results/fleet_NAME.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from fleet_stand_ins import TASK, Fleet, running

from mbarl_ros.storage.record_log import read_records
from mbarl_ros.storage.run_files import TRANSITIONS_FILE
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.storage.spool import SPOOL_FOLDER
from mbarl_ros.storage.transitions import row_dtype, unpack_log_record
from mbarl_ros.task import Task

RESULTS = Path(__file__).parent / 'results'
RESPAWN_AFTER = 1.0  # s, as `mbarl up` does


def machine() -> dict[str, Any]:
    """What else the machine is doing."""
    return {'cores': os.cpu_count(), 'load_average': [round(load, 1) for load in os.getloadavg()]}


def write(name: str, result: dict[str, Any]) -> None:
    """Write a result with the command that made it."""
    result = {'command': ' '.join(['python', 'benchmarks/fleet.py', *sys.argv[1:]]), **result}
    path = RESULTS / f'fleet_{name}.json'
    path.write_text(json.dumps(result, indent=1) + '\n')
    print(f'wrote {path}')


# --- time to the target --------------------------------------------------------------------------


def learn(arguments: argparse.Namespace) -> None:
    """Run fleets of several sizes to the target, one after the other."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            for robots in arguments.robots:
                before = machine()
                path = Path(folder) / f'{robots}-{seed}'
                words = {
                    'robots': robots,
                    'task': TASK,
                    'seed': seed,
                    'target': arguments.target,
                    'steps': arguments.steps,
                    'real_time_factor': arguments.factor,
                    'run_dir': path,
                    'view': 'lines',
                }
                command = [sys.executable, '-m', 'mbarl_ros.cli', 'up', 'fleet']
                command += [f'{name}:={value}' for name, value in words.items()]
                code = subprocess.run(command, check=False).returncode
                run = outcome(path, arguments.factor) | {'exit_code': code, 'machine': before}
                runs.append({'robots': robots, 'seed': seed, **run})
                print(runs[-1], flush=True)
    write('learn', {'task': TASK, 'target': arguments.target, 'runs': runs})


def outcome(path: Path, factor: float) -> dict[str, Any]:
    """Steps and time of practice until the policy that ended the run, and the time until its end.

    ``practice_seconds`` counts from the first step of the fleet, by the robots' clocks.
    """
    result = json.loads((path / 'result.json').read_text())
    steps = result.get('environment_steps') or 0
    task = Task.load(TASK)
    rows = SequenceTracker().load_log(path / TRANSITIONS_FILE, task, _spec(path))
    stamps = rows['stamp'][:steps] / factor
    return {
        'deployed_success': result['deployed_success'],
        'environment_steps': steps,
        'practice_seconds': round(float(np.ptp(stamps)), 1) if len(stamps) else None,
        'wall_seconds': result.get('wall_seconds'),
        'robot_steps': np.unique(rows['robot'][:steps], return_counts=True)[1].tolist(),
    }


def _spec(path: Path) -> str:
    """Spec hash that the log of a run was written with."""
    first = next(iter(read_records(path / TRANSITIONS_FILE)))
    return str(json.loads(first.partition(b'\n')[0])[1])


# --- kills -------------------------------------------------------------------------------------


def kills(arguments: argparse.Namespace) -> None:
    """Kill controllers and learner at random, then look for every step in the learner's log."""
    rng = random.Random(arguments.seed)
    before = machine()
    executed: Counter[str] = Counter()  # session -> steps, as the spool of a killed robot tells
    killed: Counter[str] = Counter()
    with running(arguments.robots) as fleet:
        end = time.monotonic() + 60.0 * arguments.minutes
        while time.monotonic() < end:
            time.sleep(rng.uniform(0.0, 2.0 * arguments.pause))
            robot = rng.choice(fleet.robots)
            label = 'learner' if rng.random() < arguments.share else f'{robot}/policy_controller'
            fleet.kill(label)
            killed['learner' if label == 'learner' else 'controllers'] += 1
            if label != 'learner':
                keep_highest(executed, fleet.executed(robot))
            time.sleep(RESPAWN_AFTER)
            fleet.start(label)
        settle(fleet)
        fleet.stop()
        for robot in fleet.robots:
            keep_highest(executed, fleet.executed(robot))
        result = compare(fleet, executed, fleet.stand_ins.sent)
    write(
        'kills',
        {
            'robots': arguments.robots,
            'minutes': arguments.minutes,
            'kills': dict(killed),
            **result,
            'machine': {'before': before, 'after': machine()},
        },
    )
    print(json.dumps(result, indent=1))


def keep_highest(counts: Counter[str], found: dict[str, int]) -> None:
    """Note the highest count of each session."""
    for session, steps in found.items():
        counts[session] = max(counts[session], steps)


def settle(fleet: Fleet) -> None:
    """Let the learner catch up: no step waits for acknowledgement longer than a moment."""
    end = time.monotonic() + 120.0
    while time.monotonic() < end:
        time.sleep(1.0)
        waiting = [
            int(fleet.stand_ins.status[f'/{robot}/policy_controller']['unacknowledged'])
            for robot in fleet.robots
        ]
        if max(waiting) < 20:
            return


def compare(
    fleet: Fleet, executed: Counter[str], sent: dict[str, set[int]]
) -> dict[str, int | float]:
    """The log of the learner against what the robots executed and sent.

    What is in a spool at the end is not lost: it goes out at the next start.
    """
    path, dtype = fleet.run_dir / TRANSITIONS_FILE, row_dtype(fleet.task)
    stored: Counter[tuple[str, int]] = Counter()
    for record in read_records(path):
        part, session, first = unpack_log_record(record, dtype, fleet.spec_hash)
        stored.update((session, first + row) for row in range(len(part) // dtype.itemsize))
    waiting = set()
    for robot in fleet.robots:
        for file in (fleet.run_dir / 'robots' / robot / SPOOL_FOLDER).glob('*.log'):
            header, *rows = list(read_records(file)) or [b'']
            meta = json.loads(header) if header else {'session': '', 'first': 0}
            waiting |= {(meta['session'], meta['first'] + row) for row in range(len(rows))}
    wanted = {(session, number) for session, steps in executed.items() for number in range(steps)}
    wanted |= {(session, number) for session, numbers in sent.items() for number in numbers}
    rows = SequenceTracker().load_log(path, fleet.task, fleet.spec_hash)
    return {
        'sessions': len({session for session, _ in wanted}),
        'executed': len(wanted),
        'stored': len(stored),
        'stored_twice': sum(count > 1 for count in stored.values()),
        'lost': len(wanted - set(stored) - waiting),
        'in_spools_at_the_end': len(waiting - set(stored)),
        'robots_in_the_log': len(np.unique(rows['robot'])),
    }


# --- rates and control periods ------------------------------------------------------------------


def rates(arguments: argparse.Namespace) -> None:
    """Bytes and control periods with more and more robots, beside as many bare timers."""
    runs = []
    for robots in arguments.robots:
        before = machine()
        with running(robots) as fleet:
            timers = subprocess.Popen(
                [sys.executable, __file__, 'timers', str(robots), str(arguments.seconds)],
                stdout=subprocess.PIPE,
            )
            sent, messages = fleet.stand_ins.bytes.total(), fleet.stand_ins.messages.total()
            first = int(fleet.stand_ins.status['learner']['environment_steps'])
            executed = fleet.stand_ins.steps()
            start = time.monotonic()
            bare = json.loads(timers.communicate()[0])
            seconds = time.monotonic() - start
            status = dict(fleet.stand_ins.status)
            own = [status[f'/{robot}/policy_controller'] for robot in fleet.robots]
            steps = int(status['learner']['environment_steps']) - first
            runs.append(
                {
                    'robots': robots,
                    'seconds': round(seconds, 1),
                    'transition_bytes_per_second': round(
                        (fleet.stand_ins.bytes.total() - sent) / seconds
                    ),
                    'transition_messages_per_second': round(
                        (fleet.stand_ins.messages.total() - messages) / seconds, 1
                    ),
                    'steps_sent_per_second': round(
                        (fleet.stand_ins.steps() - executed) / seconds, 1
                    ),
                    'steps_trained_per_second': round(steps / seconds, 1),
                    'learner_lag_steps': int(status['learner']['lag_steps']),
                    'period_error_p99_ms': [float(one['period_error_p99_ms']) for one in own],
                    'missed_periods': sum(int(one['missed_periods']) for one in own),
                    'bare_timers': bare,
                    'policy_bytes': policy_bytes(fleet),
                    'machine': {'before': before, 'after': machine()},
                }
            )
        print(json.dumps(runs[-1]), flush=True)
    write('rates', {'task': TASK, 'runs': runs})


def policy_bytes(fleet: Fleet) -> int | None:
    """Size of a policy message, which every robot receives after each chunk of the learner."""
    path = fleet.run_dir / 'policy.safetensors'
    return path.stat().st_size if path.exists() else None


def timers(count: int, seconds: float) -> None:
    """Threads that wake up at 10 Hz and do nothing; prints the p99 of their period errors (ms)."""
    errors: list[list[float]] = [[] for _ in range(count)]

    def tick(own: list[float]) -> None:
        period, last = 0.1, time.monotonic()
        due, end = last, last + seconds
        while last < end:
            due += period
            time.sleep(max(due - time.monotonic(), 0.0))
            now = time.monotonic()
            own.append(1e3 * abs(now - last - period))
            last = now

    threads = [threading.Thread(target=tick, args=(own,)) for own in errors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({'period_error_p99_ms': [round(np.percentile(own, 99), 2) for own in errors]}))


def main() -> None:
    """Parse the command line."""
    if sys.argv[1:2] == ['timers']:
        timers(int(sys.argv[2]), float(sys.argv[3]))
        return
    about = re.split(r'\n\n', __doc__ or '')[0]
    parser = argparse.ArgumentParser(description=about)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser('learn')
    one.set_defaults(run=learn)
    one.add_argument('--robots', type=int, nargs='+', default=[1, 4])
    one.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    one.add_argument('--target', type=float, default=0.9)
    one.add_argument('--steps', type=int, default=0, help="budget; 0: the task's")
    one.add_argument('--factor', type=float, default=1.0, help='real_time_factor')
    two = commands.add_parser('kills')
    two.set_defaults(run=kills)
    two.add_argument('--robots', type=int, default=16)
    two.add_argument('--minutes', type=float, default=10.0)
    two.add_argument('--pause', type=float, default=4.0, help='mean s between two kills')
    two.add_argument('--share', type=float, default=0.15, help='of the learner in the kills')
    two.add_argument('--seed', type=int, default=0)
    three = commands.add_parser('rates')
    three.set_defaults(run=rates)
    three.add_argument('--robots', type=int, nargs='+', default=[1, 4, 16])
    three.add_argument('--seconds', type=float, default=60.0)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == '__main__':
    main()
