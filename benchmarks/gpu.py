"""Agent updates per second: seeds as one stack beside as many processes, on the CPU or a GPU.

    python benchmarks/gpu.py [--stack 1 8 32] [--device auto] [--processes 8]

An agent update is one gradient step of both policies of one seed, with its batch: drawn from
practice, imagination and demonstrations on the host, as in `mbarl bench`. Model fits and rollouts
are left out. Processes run at the same time on the same cores; each has one thread. The result goes
to benchmarks/results/gpu.json with the machine it was measured on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from mbarl_ros.learning.learner import Learner, _train_policies
from mbarl_ros.learning.sac_stack import stacked
from mbarl_ros.schema.load import override
from mbarl_ros.studies.direct import DirectRun
from mbarl_ros.studies.seeds import SeedRun

RESULT = Path(__file__).parent / 'results' / 'gpu.json'
CHUNKS = 12  # of practice before the clock starts, enough for a first model
UPDATES = 100  # of one timing


def learners(task_name: str, device: str, seeds: int) -> list[Learner]:
    """Learners of several seeds that have practised and imagined a little."""
    task, agent, demonstrations = SeedRun('', task_name, 'mbarl', 0, 0).load()
    agent = override(agent, {'device': device}, 'benchmark')
    made = []
    for seed in range(seeds):
        run = DirectRun(task, agent, demonstrations, seed)
        for _ in range(CHUNKS):
            run.receive(run.collect())
            run.keep_policy()
        run.learner.prepare()
        made.append(run.learner)
    return made


def rate(task_name: str, device: str, seeds: int, seconds: float) -> float:
    """Agent updates per second of ``seeds`` as one stack, for about ``seconds``."""
    together = learners(task_name, device, seeds)
    sac = stacked([learner.sac for learner in together]) if seeds > 1 else together[0].sac
    _train_policies(sac, together, UPDATES)
    updates, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        _train_policies(sac, together, UPDATES)
        if sac.device.type == 'cuda':
            torch.cuda.synchronize()
        updates += UPDATES
    return updates * seeds / (time.perf_counter() - start)


def separate(task: str, device: str, processes: int, seconds: float) -> float:
    """Sum of the rates of ``processes`` that run at the same time, each with one seed."""
    command = [sys.executable, __file__, '--worker', '--task', task, '--device', device]
    command += ['--seconds', str(seconds)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    running = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(processes)
    ]
    for process in running:  # all are ready before any begins
        assert process.stdout.readline().strip().endswith('ready'), process.args
    for process in running:
        process.stdin.write('go\n')
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in running)


def worker(task: str, device: str, seconds: float) -> None:
    """One of the processes of :func:`separate`."""
    (learner,) = learners(task, device, 1)
    print('ready', flush=True)
    sys.stdin.readline()
    updates, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        _train_policies(learner.sac, [learner], UPDATES)
        updates += UPDATES
    print(updates / (time.perf_counter() - start))


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--task', default='pointmass')
    parser.add_argument('--device', default='auto', choices=('auto', 'cpu', 'cuda'))
    parser.add_argument('--stack', type=int, nargs='+', default=[1, 8])
    parser.add_argument('--threads', type=int, nargs='+', default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument('--processes', type=int, default=8)
    parser.add_argument('--seconds', type=float, default=20.0)
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.worker:
        worker(options.task, options.device, options.seconds)
        return
    rows = []
    for threads in sorted(set(options.threads)):
        torch.set_num_threads(threads)
        for seeds in options.stack:
            value = rate(options.task, options.device, seeds, options.seconds)
            rows.append({'stack': seeds, 'threads': threads, 'updates_per_second': round(value, 1)})
            print(rows[-1], flush=True)
    if options.processes:
        value = separate(options.task, options.device, options.processes, options.seconds)
        rows.append({'processes': options.processes, 'updates_per_second': round(value, 1)})
        print(rows[-1], flush=True)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ''
    record = {
        'command': 'python benchmarks/gpu.py ' + ' '.join(sys.argv[1:]),
        'task': options.task,
        'device': options.device,
        'gpu': gpu,
        'cores': len(os.sched_getaffinity(0)),
        'processor': platform.processor() or platform.machine(),
        'torch': torch.__version__,
        'rows': rows,
    }
    RESULT.write_text(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
    main()
