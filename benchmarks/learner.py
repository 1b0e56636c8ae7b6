"""Learner speed on one thread: our SAC beside that of stable-baselines3, and model rollouts.

    python -m pip install stable-baselines3 --no-deps && python -m pip install gymnasium cloudpickle
    python benchmarks/learner.py [--rounds 20]

Each side is a process of its own that does one block of work per request. The blocks alternate and
each ratio is of two neighbours, since the speed of a shared machine varies. Seconds are processor
time of the whole process: a hidden second thread would count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from mbarl_ros.learning.batch import Batch
from mbarl_ros.learning.dynamics import Ensemble
from mbarl_ros.learning.replay import Replay
from mbarl_ros.learning.sac import Sac
from mbarl_ros.learning.torch_setup import set_up_torch
from mbarl_ros.schema.agent import SacConfig
from mbarl_ros.schema.model import ModelConfig
from mbarl_ros.task import Task

OBSERVATION, ACTION, ROWS = 12, 3, 20_000
BATCH, HIDDEN = 256, [256, 256]
STATES = 10_000  # of one rollout step
PEER = 'stable_baselines3'
DIFFERENCES = [
    'ours normalises layers in the critics and keeps an average of the policy; '
    'stable-baselines3 does neither',
    'stable-baselines3 also computes critic gradients in the actor step, which nothing uses, has '
    'entropy in the target, logs its losses after each train(100) and draws one batch at a time; '
    'ours draws 50 at once, as the learner does',
    'ours has Fourier features off here; both have twin critics, learned temperature, Polyak '
    'targets after each update, Adam, float32 replay in NumPy and denormals flushed',
    'ours keeps freed memory in the process (mallopt); stable_baselines3_memory_kept has that, too',
]


def transitions(rows: int) -> dict[str, np.ndarray]:
    """Random rows: only the time of an update matters."""
    rng = np.random.default_rng(0)
    return {
        'observation': rng.uniform(-1, 1, (rows, OBSERVATION)).astype(np.float32),
        'next_observation': rng.uniform(-1, 1, (rows, OBSERVATION)).astype(np.float32),
        'action': rng.uniform(-1, 1, (rows, ACTION)).astype(np.float32),
        'reward': rng.uniform(0, 1, rows).astype(np.float32),
    }


def ours(config: SacConfig, policies: tuple[str, ...] = ('forward',)) -> Callable[[int], None]:
    """Updates of our SAC, each batch drawn from a replay as the learner does."""
    set_up_torch()
    bounds = np.array([(-np.inf, np.inf)] * len(policies))
    differences = np.zeros((0, OBSERVATION), np.float32)
    sac = Sac(config, policies, differences, ACTION, bounds, seed=0)
    replay = Replay(ROWS, OBSERVATION, ACTION)
    replay.add(transitions(ROWS))
    rng = np.random.default_rng(0)

    def work(updates: int) -> None:
        for _ in range(updates // 50):
            rows = replay.rows(replay.sample(rng, (50, len(policies), config.batch_size)))
            names = ('observation', 'action', 'next_observation', 'reward')
            tensors = {name: torch.from_numpy(rows[name]) for name in names}
            discount = (0.99 * (1.0 - rows['terminated'])).astype(np.float32)
            block = Batch(
                **tensors,
                discount=torch.from_numpy(discount),
                return_lower_bound=torch.full(discount.shape, -torch.inf),
            )
            for number in range(50):
                sac.update(block[number])

    return work


def peer() -> Callable[[int], None]:
    """``train()`` of stable-baselines3's SAC with a filled replay buffer."""
    import gymnasium
    from stable_baselines3 import SAC
    from stable_baselines3.common.logger import configure

    class Still(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (OBSERVATION,), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION,), np.float32)

    torch.set_flush_denormal(True)
    sac = SAC(
        'MlpPolicy',
        Still(),
        batch_size=BATCH,
        buffer_size=ROWS,
        policy_kwargs={'net_arch': HIDDEN},
        device='cpu',
        seed=0,
    )
    rows = transitions(ROWS)
    for row in range(ROWS):
        one = {name: array[row : row + 1] for name, array in rows.items()}
        sac.replay_buffer.add(
            one['observation'],
            one['next_observation'],
            one['action'],
            one['reward'],
            np.zeros(1),
            [{}],
        )
    sac.set_logger(configure(None, []))
    return lambda updates: sac.train(updates, BATCH)


def peer_memory_kept() -> Callable[[int], None]:
    """The same with our settings of the process."""
    set_up_torch()
    return peer()


def rollouts() -> Callable[[int], None]:
    """Steps of 10,000 states through an ensemble of 7 members of 4x200, 5 of them elites."""
    set_up_torch()
    config = ModelConfig(members=7, elites=5, hidden=[200] * 4)
    ensemble = Ensemble(Task.load('tabletop'), config, seed=0)
    generator = torch.Generator().manual_seed(0)
    state = 2.0 * torch.rand(STATES, 6, generator=generator) - 1.0
    action = 2.0 * torch.rand(STATES, 3, generator=generator) - 1.0

    def work(steps: int) -> None:
        for _ in range(steps // STATES):
            ensemble.step(state, action)

    return work


SAME_SIZE = SacConfig(hidden=HIDDEN, batch_size=BATCH, critics=2, fourier_features=0)
PRESET = 'ours_two_policies_128x128'
SIDES: dict[str, tuple[Callable[[], Callable[[int], None]], int]] = {
    PEER: (peer, 100),
    'ours': (lambda: ours(SAME_SIZE), 100),
    f'{PEER}_memory_kept': (peer_memory_kept, 100),
    PRESET: (lambda: ours(SacConfig(), ('forward', 'backward')), 100),
    'rollouts': (rollouts, 20 * STATES),
}


def serve(side: str) -> None:
    """One side: for each line a block of work, then its rate in units a second."""
    torch.set_num_threads(1)
    build, units = SIDES[side]
    work = build()
    work(units)
    for _ in sys.stdin:
        start = time.process_time()
        work(units)
        print(units / (time.process_time() - start), flush=True)


def measure(sides: list[str], rounds: int) -> dict[str, np.ndarray]:
    """Rates [rounds] of each side, one block each in turn."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, '--side', side],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in sides
    ]
    rates = np.zeros((rounds, len(sides)))
    try:
        for number in range(rounds):
            for column, process in enumerate(processes):
                process.stdin.write('block\n')
                process.stdin.flush()
                rates[number, column] = float(process.stdout.readline())
            line = ', '.join(f'{s} {r:.0f}' for s, r in zip(sides, rates[number], strict=True))
            print(f'round {number + 1}: {line}', file=sys.stderr, flush=True)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return dict(zip(sides, rates.T, strict=True))


def spread(values: np.ndarray, digits: int) -> dict[str, float]:
    """Median and the range from 10 to 90 %."""
    low, middle, high = np.percentile(values, [10, 50, 90])
    return {
        'median': round(float(middle), digits),
        'from_10_to_90_percent': [round(float(low), digits), round(float(high), digits)],
    }


def main() -> None:
    """Measure and print a table; with ``--output`` also write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--output', type=Path)
    parser.add_argument('--side', choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments.side)
        return
    if find_spec(PEER) is None:
        raise SystemExit(
            'learner: stable-baselines3 is missing; see the head of this file how to install it'
        )
    rates = measure(list(SIDES), arguments.rounds)
    ratios = {
        f'ours / {PEER}{suffix}': spread(rates['ours'] / rates[PEER + suffix], 2)
        for suffix in ('', '_memory_kept')
    }
    result = {
        'command': f'python benchmarks/learner.py --rounds {arguments.rounds}',
        'processor': processor(),
        'versions': {name: version(name) for name in ('torch', 'stable-baselines3')},
        'sizes': f'{HIDDEN}, batch {BATCH}, {OBSERVATION} observations, {ACTION} actions, 1 thread',
        'per_second_of_processor_time': {side: spread(rate, 0) for side, rate in rates.items()},
        'ratios_of_neighbouring_blocks': ratios,
        'differences': DIFFERENCES,
    }
    for name, value in (result['per_second_of_processor_time'] | ratios).items():
        low, high = value['from_10_to_90_percent']
        print(f'{name:48} {value["median"]:>10} ({low} to {high})')
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + '\n')


def processor() -> str:
    """Name of the processor, and how many of its cores there are."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        name = next(line.split(':')[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        name = platform.processor()
    return f'{name}, {os.cpu_count()} cores'


if __name__ == '__main__':
    main()
