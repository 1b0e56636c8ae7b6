"""Several robots with one learner: time to the target, data rate, what kills lose, control periods.

    python benchmarks/fleet.py learn --robots 1 4 --seeds 0 1 2
    python benchmarks/fleet.py kills --robots 16 --minutes 10
    python benchmarks/fleet.py rates --robots 1 4 16 --seconds 60

``learn`` runs ``mbarl up fleet`` to the target. ``kills`` and ``rates`` run real controllers, learner
and classifier; worlds and gates of all robots are stand-ins in this process, since so many real ones
need more cores than most machines have. ``kills`` ends controllers and learner by SIGKILL at random
and compares what the robots executed, as their spools and their messages tell, with the log of the
learner. ``rates`` measures bytes and control periods beside bare timers. Each writes
``results/fleet_NAME.json``.
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
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.bringup import graphs
from mbarl_ros.bringup.domain import take_domain
from mbarl_ros.bringup.node_process import node_command, node_environment
from mbarl_ros.bringup.run_folder import RunFolder
from mbarl_ros.schema.message_fields import TopicCodec, set_stamp
from mbarl_ros.storage.record_log import read_records
from mbarl_ros.storage.run_files import TRANSITIONS_FILE
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.storage.spool import SPOOL_FOLDER
from mbarl_ros.storage.transitions import row_dtype, unpack_log_record, unpack_transitions
from mbarl_ros.task import Task

RESULTS = Path(__file__).parent / 'results'
TASK = 'pointmass'
RESPAWN_AFTER = 1.0  # s, as `mbarl up` does
STAND_INS = ('robot_sim', 'safety_gate')
NEITHER = ('policy_evaluator', 'monitor')


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
    spec = json.loads(json.dumps(_spec(path)))
    rows = SequenceTracker().load_log(path / TRANSITIONS_FILE, task, spec)
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


# --- worlds and gates of all robots in one process ---------------------------------------------------


class StandIns:
    """Worlds and gates of a fleet in one node, and a count of what its controllers send.

    A command is executed as it is. The stamp of an executed command is that of the latest state.
    """

    def __init__(self, task: Task, robots: list[str], spec_hash: str, domain: int) -> None:
        """Build the worlds and connect them."""
        import rclpy
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node
        from sensor_msgs.msg import JointState
        from std_msgs.msg import String, UInt8MultiArray

        from mbarl_ros.nodes.support.qos import KEEP_ALL, LATCHED, RELIABLE, RELIABLE_STEPS
        from mbarl_ros.nodes.support.runtime import message_class

        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node('stand_ins', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._task, self._spec = task, spec_hash
        self.sent: dict[str, set[int]] = defaultdict(set)  # numbers of each session
        self.bytes: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()
        self.status: dict[str, dict[str, str]] = {}
        self._state_type = message_class(task.robot.state[0].type)
        self._codec = TopicCodec(task.robot.state[0])
        self._robots = {}
        create = self.node.create_publisher
        for number, name in enumerate(robots):
            world = task.load_world(seed=number)
            self._robots[name] = {
                'world': world,
                'command': np.zeros(task.action_dim),
                'state': world.reset(),
                'stamp': 0,
                'states': create(self._state_type, f'{name}/odom', RELIABLE_STEPS),
                'executed': create(JointState, f'{name}/safety_gate/executed', RELIABLE_STEPS),
                'gate': create(String, f'{name}/safety_gate/state', LATCHED),
            }
            self.node.create_subscription(
                JointState,
                f'{name}/policy_controller/command',
                partial(self._on_command, name),
                RELIABLE,
            )
            self.node.create_subscription(
                UInt8MultiArray,
                f'{name}/policy_controller/transitions',
                partial(self._on_transitions, name),
                KEEP_ALL,
            )
        self._listen_to_diagnostics()
        self.node.create_timer(1.0 / task.robot.control_rate, self._step)
        self.node.create_timer(1.0, self._say_ok)
        self._stopping = False
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _listen_to_diagnostics(self) -> None:
        from diagnostic_msgs.msg import DiagnosticArray

        def receive(message: DiagnosticArray) -> None:
            for status in message.status:
                self.status[status.name] = {item.key: item.value for item in status.values}

        self.node.create_subscription(DiagnosticArray, '/diagnostics', receive, 100)

    def close(self) -> None:
        """Stop all robots."""
        import rclpy

        self._stopping = True
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _spin(self) -> None:
        while not self._stopping:
            self._executor.spin_once(timeout_sec=0.1)

    def _step(self) -> None:
        for robot in self._robots.values():
            robot['state'] = robot['world'].step(robot['command'])
            robot['stamp'] = time.time_ns()
            message = self._state_type()
            self._codec.encode(message, robot['state'].tolist())
            set_stamp(message, robot['stamp'])
            robot['states'].publish(message)

    def _say_ok(self) -> None:
        from std_msgs.msg import String

        for robot in self._robots.values():
            robot['gate'].publish(String(data='ok'))

    def _on_command(self, name: str, message: Any) -> None:
        robot = self._robots[name]
        if message.header.frame_id != 'policy':
            return
        robot['command'] = np.array(message.position)
        set_stamp(message, robot['stamp'])
        robot['executed'].publish(message)

    def _on_transitions(self, name: str, message: Any) -> None:
        data = bytes(message.data)
        rows, session, first = unpack_transitions(data, self._task, self._spec)
        self.bytes[name] += len(data)
        self.messages[name] += 1
        self.sent[session] |= set(range(first, first + len(rows['phase'])))


class Fleet:
    """Real controllers, learner and classifier of a fleet as processes that can be killed."""

    def __init__(self, folder: Path, robots: int) -> None:
        """Start them, with :class:`StandIns` for the rest."""
        given = {'robots': str(robots), 'task': TASK, 'run_dir': str(folder / 'run')}
        plan = graphs.plan('fleet', given)
        self.run_dir, self.task = plan.run_dir, Task(plan.task, plan.robot)
        self.spec_hash = self.task.spec_hash(plan.agent)
        self._run_folder = RunFolder(plan)
        self.domain, self._lock = take_domain({}, '')
        self._environment = node_environment(os.environ, self.domain, self.run_dir / 'log')
        self.robots = [f'robot_{number + 1}' for number in range(robots)]
        self.stand_ins = StandIns(self.task, self.robots, self.spec_hash, self.domain)
        self.commands: dict[str, list[str]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for spec in plan.nodes:
            if spec.name in (*STAND_INS, *NEITHER):
                continue
            own = {k: v for k, v in spec.parameters.items() if k != 'use_sim_time'}
            spec = replace(spec, parameters=own, remappings=spec.remappings[:2])
            self.commands[spec.label] = node_command(spec, self.run_dir / 'params', 'info')
            self.start(spec.label)

    def start(self, label: str) -> None:
        """Start a node, or start it again."""
        with (self.run_dir / 'log' / f'{label.replace("/", ".")}.log').open('ab') as log:
            self.processes[label] = subprocess.Popen(
                self.commands[label],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    def kill(self, label: str) -> None:
        """SIGKILL, and the end of the process."""
        self.processes[label].kill()
        self.processes[label].wait()

    def wait_until_all_practise(self, timeout: float) -> None:
        """Wait until the learner has stored steps of every robot."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            learner = self.stand_ins.status.get('learner', {})
            if all(int(learner.get(f'steps of {robot}', 0)) > 10 for robot in self.robots):
                return
            time.sleep(0.2)
        raise SystemExit(f'not all of {len(self.robots)} robots practise after {timeout:.0f} s')

    def close(self) -> None:
        """Stop robots, then controllers, then the learner."""
        self.stand_ins.close()
        order = sorted(self.processes, key=lambda label: '/' not in label)
        for label in order:
            self.processes[label].send_signal(2)
            if '/' not in label:
                self.processes[label].wait(60)
        for process in self.processes.values():
            process.wait(60)
        self._run_folder.close()
        self._lock.close()

    def executed(self, robot: str) -> dict[str, int]:
        """Steps that a robot has executed in each session of which its spool has files."""
        ends: Counter[str] = Counter()
        for path in (self.run_dir / 'robots' / robot / SPOOL_FOLDER).glob('*.log'):
            header, *rows = list(read_records(path)) or [b'']
            if header:
                meta = json.loads(header)
                ends[meta['session']] = max(ends[meta['session']], meta['first'] + len(rows))
        return dict(ends)


@contextmanager
def running(robots: int) -> Iterator[Fleet]:
    """A fleet that practises."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        fleet = Fleet(Path(folder), robots)
        stack.callback(fleet.close)
        fleet.wait_until_all_practise(120.0 + 20.0 * robots)
        yield fleet


# --- kills -------------------------------------------------------------------------------------------


def kills(arguments: argparse.Namespace) -> None:
    """Kill controllers and learner at random, then look for every step in the learner's log."""
    rng = random.Random(arguments.seed)
    before = machine()
    executed: Counter[str] = Counter()  # session -> steps, as the spool of a killed robot tells
    killed: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), arguments.robots)
        fleet.wait_until_all_practise(120.0 + 20.0 * arguments.robots)
        end = time.monotonic() + 60.0 * arguments.minutes
        while time.monotonic() < end:
            time.sleep(rng.uniform(0.0, 2.0 * arguments.pause))
            robot = rng.choice(fleet.robots)
            label = 'learner' if rng.random() < arguments.share else f'{robot}/policy_controller'
            fleet.kill(label)
            killed['learner' if label == 'learner' else 'controllers'] += 1
            if label != 'learner':
                for session, steps in fleet.executed(robot).items():
                    executed[session] = max(executed[session], steps)
            time.sleep(RESPAWN_AFTER)
            fleet.start(label)
        settle(fleet)
        fleet.close()
        sent = fleet.stand_ins.sent
        for robot in fleet.robots:
            for session, steps in fleet.executed(robot).items():
                executed[session] = max(executed[session], steps)
        result = compare(fleet, executed, sent)
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


def settle(fleet: Fleet) -> None:
    """Let the learner catch up: no step waits for acknowledgement longer than a moment."""
    end = time.monotonic() + 120.0
    while time.monotonic() < end:
        time.sleep(1.0)
        waiting = [
            int(fleet.stand_ins.status.get(f'/{robot}/policy_controller', {}).get(key, 1))
            for robot in fleet.robots
            for key in ('unacknowledged',)
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


# --- rates and control periods -----------------------------------------------------------------------


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
