"""A graph on two hosts: network namespaces with a line of 5 ms and 1 % loss between them.

    python benchmarks/hosts.py [learn bandwidth cut unplug server restart messages]

``learn``: the point mass learns in lockstep. ``bandwidth``: the same preset in real time. ``cut``,
``unplug``: in real time the line is cut for a minute, or the robot's interface is down; ``server``:
the same with a discovery server and without multicast. ``restart``: the learner's side is killed,
and the robot's while the line is cut. ``messages``: a policy's bytes over the line. Needs root.
Writes ``benchmarks/results/hosts.json`` and ``hosts.md``; what is not measured keeps its last
result.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / 'tests'))

from mbarl_ros.bringup import hosts
from mbarl_ros.schema.environment import DISCOVERY_SERVER, TRANSPORTS
from support.graph import small_agent
from support.host_runs import HostRun, bare_values, new_folder, wait_for
from support.two_hosts import ADDRESSES, LEARNER, ROBOT, ROOT, TwoHosts, obstacle

RESULTS = Path(__file__).parent / 'results'
DELAY, LOSS = 0.005, 0.01
CUT = 60.0  # s
RATE = 10.0  # Hz, control
HOUR = 3600
PORT = 11811  # of the discovery server
POLICY_BYTES = 214_028  # of the preset mbarl on the point mass
CONTROLLER = 'policy_controller'


def learn(two: TwoHosts, folder: Path) -> dict[str, Any]:
    """Lockstep until the target; both sides end by themselves."""
    run = HostRun(two, folder)
    began, before = time.monotonic(), two.line()['bytes']
    for side in (ROBOT, LEARNER):
        run.start(side)
    wait_for(lambda: run.value(CONTROLLER, 'environment_steps') > 0, 'the first step', 900)
    learning = time.monotonic()
    codes = {side: run.sides[side].wait(2400) for side in (LEARNER, ROBOT)}
    seconds = time.monotonic() - learning
    result = json.loads((run.run_dir(LEARNER) / 'result.json').read_text())
    trips = [
        float(sample.status[CONTROLLER]['round_trip_ms'])
        for sample in run.history()
        if 'round_trip_ms' in sample.status.get(CONTROLLER, {})
    ]
    wire = [after - first for first, after in zip(before, two.line()['bytes'], strict=True)]
    return {
        'exit_codes': codes,
        'deployed_success': result['deployed_success'],
        'environment_steps': result['environment_steps'],
        'seconds_to_first_step': round(learning - began, 1),
        'seconds': round(seconds, 1),
        'round_trip_ms': statistics.median(trips),
        'wire_kilobytes': [round(count / 1000) for count in wire],
    }


def cut(
    two: TwoHosts, folder: Path, unplugged: bool = False, server: bool = False
) -> dict[str, Any]:
    """Real time, with and without the line; the clocks of the learner's host are an hour off."""
    run = _practise(two, folder, server)
    bare = run.start_bare_timer(RATE)
    rates = _rates(two, run, 30.0)
    steps, at = run.value(CONTROLLER, 'environment_steps'), time.time()
    bare_before = len(bare_values(bare))
    two.unplug(ROBOT) if unplugged else two.line(cut=True)
    time.sleep(CUT)
    most = run.value(CONTROLLER, 'unacknowledged')
    two.plug(ROBOT) if unplugged else two.line(cut=False)
    back = time.monotonic()
    wait_for(lambda: run.value(CONTROLLER, 'unacknowledged') < 0.1 * most, 'the rest', 300)
    drained = time.monotonic() - back
    time.sleep(12.0)  # until the last ten seconds have nothing of the cut
    timing = [
        sample.status[CONTROLLER]
        for sample in run.history()
        if sample.time > at and 'period_error_max_ms' in sample.status.get(CONTROLLER, {})
    ]
    missed = [int(values['missed_periods']) for values in timing]
    others = bare_values(bare)[bare_before:]
    stored = run.stored()
    return {
        'seconds': CUT,
        'steps_meanwhile': int(run.value(CONTROLLER, 'environment_steps') - steps),
        'most_unacknowledged': int(most),
        'drained_after_s': round(drained, 1),
        'missed_periods': missed[-1] - missed[0],
        'p99_ms': max(float(values['period_error_p99_ms']) for values in timing),
        'largest_ms': max(float(values['period_error_max_ms']) for values in timing),
        'bare_missed_periods': int(others[-1]['missed_periods'] - others[0]['missed_periods']),
        'bare_p99_ms': max(line['period_error_p99_ms'] for line in others),
        'bare_largest_ms': max(line['period_error_max_ms'] for line in others),
        'stored': stored.rows,
        'gaps': stored.gaps,
        'classifier_missed': run.missed_by_the_classifier(),
        'before': rates,
    }


def bandwidth(two: TwoHosts, folder: Path) -> dict[str, Any]:
    """Real time with the preset ``mbarl``: policies of 214 kB."""
    return _rates(two, _practise(two, folder, agent='mbarl'), 60.0)


def restart(two: TwoHosts, folder: Path) -> dict[str, Any]:
    """``kill -9`` of a whole side: the learner's, then the robot's while the line is cut."""
    run = _practise(two, folder)
    run.kill_side(LEARNER)
    stored, killed = run.stored().rows, time.monotonic()
    run.start(LEARNER)
    wait_for(lambda: run.stored().rows > stored, 'the learner to resume', 600)
    learner_after = time.monotonic() - killed
    run.kill_side(ROBOT)
    two.line(cut=True)
    known = run.value(CONTROLLER, 'environment_steps', LEARNER)
    restarted = time.monotonic()
    run.start(ROBOT, autostart='true')
    wait_for(lambda: run.value(CONTROLLER, 'unacknowledged') > 50, 'practice without a line', 300)
    robot_after = time.monotonic() - restarted
    spooled = run.value(CONTROLLER, 'unacknowledged')
    two.line(cut=False)
    wait_for(lambda: run.stored().rows > known + spooled, 'the learner to have all', 300)
    return {
        'learner_resumed_after_s': round(learner_after, 1),
        'robot_50_steps_without_line_after_s': round(robot_after, 1),
        'stored': run.stored().rows,
        'known_before': int(known),
        'practised_without_line': int(spooled),
    }


def messages(two: TwoHosts, folder: Path) -> dict[str, Any]:
    """Policies over the line, in packets of 64 kB and in ours."""
    script = str(ROOT / 'tests' / 'support' / 'big_messages.py')
    ours = {side: hosts.network({'host': side}, {}) for side in (ROBOT, LEARNER)}
    results = {}
    for name, settings in (
        ('packets of 64 kB', {side: {TRANSPORTS: 'UDPv4'} for side in ours}),
        ('packets of 1,380 bytes', ours),
    ):
        answering = two.start(
            ROBOT, [sys.executable, script, 'answer'], 'answer.log', **settings[ROBOT]
        )
        before = two.line()['bytes'][1]
        words = ['send', str(POLICY_BYTES), '0.5', '60']
        log = f'{len(results)}.json'
        sending = two.start(LEARNER, [sys.executable, script, *words], log, **settings[LEARNER])
        sending.wait(300)
        answering.kill()
        measured = json.loads((folder / log).read_text())
        seconds = measured['seconds']
        results[name] = {
            'sent': measured['sent'],
            'arrived': len(seconds),
            'median_ms': round(1e3 * statistics.median(seconds), 1),
            'largest_ms': round(1e3 * seconds[-1], 1),
            'wire_per_payload': round(
                (two.line()['bytes'][1] - before) / (POLICY_BYTES * measured['sent']), 2
            ),
        }
    return results


def _practise(two: TwoHosts, folder: Path, server: bool = False, agent: str = '') -> HostRun:
    """A robot that practises in real time.

    :param agent: preset; empty: one with small networks, whose learner keeps up on a busy machine
    :param server: find each other by a discovery server; no multicast passes the line
    """
    two.line(multicast=not server)
    here = {'discovery': f'serve:{PORT}'} if server else {}
    there = {'discovery': f'{ADDRESSES[ROBOT]}:{PORT}'} if server else {}
    run = HostRun(two, folder, 'hardware', agent=agent or small_agent(folder))
    two.shift_clocks(LEARNER, HOUR)
    run.start_robot(here and {DISCOVERY_SERVER: f'127.0.0.1:{PORT}'})
    run.start(ROBOT, autostart='true', **here)
    run.start(LEARNER, **there)
    wait_for(lambda: run.value(CONTROLLER, 'policy_version') > 0, 'a policy', 900)
    return run


def _rates(two: TwoHosts, run: HostRun, seconds: float) -> dict[str, Any]:
    """Bytes per second: of our messages, and of frames on the line with all that is around them."""
    before, began = two.line(), time.monotonic()
    time.sleep(seconds)
    after, passed = two.line(), time.monotonic() - began
    return {
        'transitions': run.value(CONTROLLER, 'sent_bytes_per_second'),
        'policies_and_acknowledgements': run.value(CONTROLLER, 'received_bytes_per_second'),
        'round_trip_ms': run.value(CONTROLLER, 'round_trip_ms'),
        **{
            f'line_{name}_per_second': [
                round((last - first) / passed)
                for first, last in zip(before[name], after[name], strict=True)
            ]
            for name in ('bytes', 'frames')
        },
    }


PARTS: dict[str, Callable[[TwoHosts, Path], dict[str, Any]]] = {
    'learn': learn,
    'bandwidth': bandwidth,
    'cut': cut,
    'unplug': lambda two, folder: cut(two, folder, unplugged=True),
    'server': lambda two, folder: cut(two, folder, server=True),
    'restart': restart,
    'messages': messages,
}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown: a list of figures for each part."""
    lines = [
        '# A graph on two hosts',
        '',
        f'`python benchmarks/hosts.py`, two cores, a line of {1e3 * DELAY:g} ms each way and '
        f'{100 * LOSS:g} % loss.',
    ]
    for part, figures in results.items():
        lines += ['', f'## {part}', '', '| | |', '| --- | --- |']
        lines += [f'| {name.replace("_", " ")} | {text} |' for name, text in _flat(figures)]
    return '\n'.join(lines) + '\n'


def _flat(figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and texts, those of groups and directions one by one."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from ((f'{name}: {inner}', text) for inner, text in _flat(value))
        elif isinstance(value, list):
            yield name, f'{value[0]} to the learner, {value[1]} to the robot'
        else:
            yield name, str(value)


def main() -> None:
    """Measure what is asked for, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('parts', nargs='*', choices=[[], *PARTS], help='default: all')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the hosts and their processes end first
    if problem := obstacle():
        raise SystemExit(f'error: {problem}')
    path = RESULTS / 'hosts.json'
    results = json.loads(path.read_text()) if path.exists() else {}
    for part in parser.parse_args().parts or PARTS:
        with tempfile.TemporaryDirectory() as name:
            folder = new_folder(Path(name) / part)
            with TwoHosts(folder) as two:
                two.line(delay=DELAY, loss=LOSS)
                results[part] = {**PARTS[part](two, folder), 'load': round(os.getloadavg()[0], 1)}
        print(part, json.dumps(results[part]), flush=True)
        path.write_text(json.dumps(results, indent=2) + '\n')
        (RESULTS / 'hosts.md').write_text(table(results))


if __name__ == '__main__':
    main()
