"""What faults do to a robot and its data: stops, kills, steadiness, fuzz, a soak.

Everything is the tests' own measurement with larger numbers, on the simulated robot in real time
(the kills: in lockstep, against the simulator's own log). The parts are kept in one file.

    python tests/faults.py [stops] [kills] [steady] [fuzz] [arm] [soak] [table]
        [--trials 100] [--minutes 5] [--hours 2] [--output benchmarks/results/faults.json]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import support.soak
import support.steady
import support.stops
from support.arm_side import FuzzedArm
from support.kills import practise_and_kill
from support.robot_side import Fuzzed
from support.stops import driven_arm

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / 'tests'
RESULTS = ROOT / 'benchmarks' / 'results' / 'faults.json'

RATES = (20.0, 50.0, 100.0)  # Hz
QUIET = 0.01  # of the processor, taken by other machines
LEARNER_RESTART = 600.0  # s
FUZZ = ('test_safety.py', 'test_gate_process.py', 'test_hostile.py', 'test_profiles.py')


def stops(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds from each fault to the stop at the robot, and what a kill of the learner costs."""
    result: dict[str, Any] = {
        'trials': options.trials,
        'state_timeout': support.stops.STATE_TIMEOUT,
        'ms': {},
    }
    for fault in support.stops.FAULTS:
        with tempfile.TemporaryDirectory() as folder, driven_arm(Path(folder)) as arm:
            ms = 1e3 * np.array(support.stops.measure(arm, fault, options.trials))
        result['ms'][fault] = {
            'median': round(float(np.median(ms)), 1),
            'p99': round(float(np.percentile(ms, 99)), 1),
            'max': round(float(ms.max()), 1),
        }
        print(fault, result['ms'][fault], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        alive, killed = support.stops.kill_learner(Path(folder), options.trials)
    result['learner'] = {'alive': _summary(alive), 'killed': _summary(killed)}
    return result


def _summary(windows: list[Any]) -> dict[str, Any]:
    return {
        'windows': len(windows),
        'longest_gap_ms': round(1e3 * max(window.gap for window in windows), 1),
        'periods_missed': [window.missed for window in windows],
        'stolen_seconds': [round(window.stolen, 2) for window in windows],
    }


def kills(options: argparse.Namespace) -> dict[str, Any]:
    """``kill -9`` of learner and controller while they learn."""
    wanted = {'learner': options.trials, 'policy_controller': options.trials}
    with tempfile.TemporaryDirectory() as folder:
        return asdict(practise_and_kill(Path(folder), wanted, seed=0))


def steady(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Period errors of the control loop while the learner trains, beside a bare timer's."""
    result = []
    for rate in RATES:
        with tempfile.TemporaryDirectory() as folder:
            result.append(asdict(support.steady.measure(Path(folder), rate, 60 * options.minutes)))
        print(result[-1], flush=True)
    return result


def fuzz(_options: argparse.Namespace) -> dict[str, Any]:
    """A million commands through the gate's logic; tests of its process, profiles, hostility."""
    began = time.monotonic()
    fuzzed = Fuzzed(seed=1)
    fuzzed.run(1_000_000)
    assert not fuzzed.robot.violations, fuzzed.robot.violations
    logic = f'{fuzzed.robot.messages} messages, no violation, {dict(fuzzed.gate.counts)}'
    print(logic, flush=True)
    command = [sys.executable, '-m', 'pytest', '-q', *(str(TESTS / name) for name in FUZZ)]
    tests = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return {
        'logic': logic,
        'tests': tests.stdout.strip().splitlines()[-1],
        'seconds': round(time.monotonic() - began),
    }


def arm(_options: argparse.Namespace) -> dict[str, Any]:
    """10,000 fuzzed commands to the Panda in the hardware graph; the same without a gate."""
    result = {}
    for name, task, commands, gate in (
        ('panda_velocity', 'door_velocity', 10_000, True),
        ('panda_servo', 'push', 10_000, True),
        ('panda_velocity without gate', 'door_velocity', 1_000, False),
    ):
        with tempfile.TemporaryDirectory() as folder:
            fuzzed = FuzzedArm(Path(folder), task, gate=gate)
            judgement = fuzzed.run(commands)
        result[name] = {'fuzzed': commands, 'gate': fuzzed.counts, **judgement.to_json()}
        print(name, result[name], flush=True)
    return result


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Hours over a bad line, with the learner killed every ten minutes."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = 3600 * options.hours
        return asdict(support.soak.soak(Path(folder), seconds, min(LEARNER_RESTART, seconds / 4)))


def table(results: dict[str, Any]) -> str:
    """What the README shows."""
    rows = []
    if result := results.get('stops'):
        rows += [
            (f'{fault}: stop at the robot', f'median {ms["median"]:g}, p99 {ms["p99"]:g} ms')
            for fault, ms in result['ms'].items()
        ]
        for what, windows in result['learner'].items():
            missed = f'{sum(windows["periods_missed"])} periods missed'
            stolen = f'{sum(windows["stolen_seconds"]):.0f} s stolen by other machines'
            rows.append(
                (
                    f'control in {windows["windows"]} windows of 3 s, learner {what}',
                    f'{missed}, longest gap {windows["longest_gap_ms"]:g} ms ({stolen})',
                )
            )
    if result := results.get('kills'):
        what = ' and '.join(f'{count} of {name}' for name, count in result['kills'].items())
        counts = f'{result["executed"]} executed, {result["unexplained"]} lost'
        rows.append((f'kill -9: {what}', f'{counts}, {result["doubled"]} twice'))
    for result in results.get('steady', []):
        what = f'control at {result["rate"]:g} Hz for {result["seconds"] / 60:g} minutes'
        ours = f'p99 {_p99(result, "p99_ms")} (bare timer {_p99(result, "bare_p99_ms")})'
        rows.append((what, f'{ours}, {sum(result["stale_commands"])} stale commands'))
    if result := results.get('fuzz'):
        rows.append(('1,000,000 fuzzed commands through the gate', result['logic']))
    for name, robot in results.get('arm', {}).items():
        violations = sum(robot['violations'].values())
        held = (
            f'{violations} violations in {robot["commands"]} commands, {robot["reports"]} reports'
        )
        rows.append((f'{robot["fuzzed"]} fuzzed commands to {name}', held))
    if result := results.get('soak'):
        grown = max(result['growth'].values())
        what = f'{result["seconds"] / 3600:g} hours, 10 % of messages lost, 10 % 200 ms late'
        what += f', learner killed {result["learner_kills"]} times'
        held = f'{result["steps"]} steps, {result["unacknowledged"]} lost'
        rows.append((what, f'{held}; memory {100 * grown:+.1f} % at most'))
    lines = [f'| {what} | {held} |' for what, held in rows]
    return '\n'.join(['| fault | what happens |', '|---|---|', *lines])


def _p99(result: dict[str, Any], key: str) -> str:
    """Of windows of ten seconds: the median, and the worst in which the host took little."""
    quiet = [
        value
        for value, stolen in zip(result[key], result['stolen_seconds'], strict=True)
        if stolen < QUIET * 10.0 * os.cpu_count()
    ]
    middle, most = np.median(result[key]), max(quiet, default=math.nan)
    return f'{middle:.1f} ms, at most {most:.1f} in {len(quiet)} of {len(result[key])} windows'


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    'stops': stops,
    'kills': kills,
    'steady': steady,
    'fuzz': fuzz,
    'arm': arm,
    'soak': soak,
}


def main() -> None:
    """Run the parts that are named, or all of them, and keep their results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('parts', nargs='*', choices=[*PARTS, 'table'], default=[*PARTS, 'table'])
    parser.add_argument('--trials', type=int, default=100)
    parser.add_argument('--minutes', type=float, default=5.0)
    parser.add_argument('--hours', type=float, default=2.0)
    parser.add_argument('--output', type=Path, default=RESULTS)
    options = parser.parse_args()
    for name in options.parts:
        if name == 'table':
            continue
        result = PARTS[name](options)
        # Read again: another part may have finished meanwhile.
        results = json.loads(options.output.read_text()) if options.output.exists() else {}
        load = f'{os.getloadavg()[1]:.1f}'
        results[name] = result
        results.setdefault('machine', {})[name] = f'{os.cpu_count()} cores, load {load} at the end'
        options.output.write_text(json.dumps(results, indent=2) + '\n')
        print(json.dumps(result), flush=True)
    if 'table' in options.parts:
        print(table(json.loads(options.output.read_text())))


if __name__ == '__main__':
    main()
