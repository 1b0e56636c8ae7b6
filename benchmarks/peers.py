"""Our presets beside SAC + HER of stable-baselines3, on the ground of others.

On panda-gym's and Gymnasium-Robotics' goal environments, with the same scripted demonstrations, the
same number of environment steps, and the same evaluation: the share of the same starts from which
the deterministic policy reaches the goal at any step of an episode.

    pip install 'mbarl_ros[sim,studies]'
    python benchmarks/peers.py [--seeds 2] [--steps 3000] [--jobs 1]

Ours run in ``mbarl bench``. Finished seeds are not run again: the same command continues, and a
larger ``--seeds`` adds to what there is.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from peers_experts import EXPERTS

from mbarl_ros.demos.episodes import SUCCEEDED, episode
from mbarl_ros.demos.imported import save_episode
from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.storage.run_files import EVALUATIONS_FILE
from mbarl_ros.storage.transitions import Transitions
from mbarl_ros.studies.bench import run_seeds
from mbarl_ros.studies.local_engine import LocalEngine
from mbarl_ros.studies.seeds import SeedRun, append_line, read_result, write_result
from mbarl_ros.studies.summary import AgentResult, collect
from mbarl_ros.task import Task

ENVIRONMENTS = tuple(EXPERTS)
AGENTS = ('mbpo', 'oracle', 'bc')
PEER = 'sac+her'
EPISODES, EVERY = 50, 1000  # of an evaluation; steps between two
RESULTS = Path(__file__).parent / 'results'
# Those that the zoo of stable-baselines3 found for FetchPush, but networks and batches that a CPU
# can train. As many transitions are replayed for each step as by our presets: 256.
SETTINGS = {
    'learning_rate': 1e-3,
    'gamma': 0.95,
    'tau': 0.05,
    'batch_size': 256,
    'train_freq': 1,
    'gradient_steps': 1,
    'buffer_size': 100_000,
    'policy_kwargs': {'net_arch': [256, 256]},
    'replay_buffer_kwargs': {'n_sampled_goal': 4, 'goal_selection_strategy': 'future'},
}


def task_file(out: Path, environment: str) -> Path:
    """The generated task with our evaluation, as a file."""
    config = Task.load(f'gymnasium:{environment}').config.model_dump(mode='json')
    config['evaluation'] |= {'episodes': EPISODES, 'every': EVERY}
    path = out / 'tasks' / f'{environment}.yaml'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def gymnasium_env(task: Task) -> Any:
    """The environment itself, with its own time limit, as stable-baselines3 practises in it."""
    import gymnasium

    return gymnasium.make(task.config.world_options['env'])


class Dictionaries:
    """Observations of a task with the goal in its state, as the dictionaries of Gymnasium."""

    def __init__(self, task: Task) -> None:
        """Read the layout of the task."""
        names = [entry.name for entry in task.config.observation]
        success = task.config.success
        self._columns = {
            'observation': [i for i, name in enumerate(names) if name.startswith('observation_')],
            'achieved_goal': [names.index(name) for name in success.entries],
            'desired_goal': [names.index(name) for name in success.goal_entries],
        }

    def __call__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Dictionary of observations [..., O]."""
        return {key: rows[..., columns] for key, columns in self._columns.items()}


def demonstrate(task: Task, folder: Path, count: int) -> dict[str, Any]:
    """Record ``count`` successes of the expert, from the starts of a training world; its record.

    Starts at the goal show nothing and are left out.
    """
    expert, dictionary = EXPERTS[task.name], Dictionaries(task)
    world, limit = task.load_world(seed=10_000), task.config.phases.forward_limit
    attempts = recorded = 0
    shutil.rmtree(folder, ignore_errors=True)
    while recorded < count:
        states, commands = [world.reset()], []
        if task.success(task.observation(states[0])):
            continue
        while len(commands) < limit and not task.success(task.observation(states[-1])):
            commands.append(expert(dictionary(task.observation(states[-1]).astype(float))))
            states.append(world.step(commands[-1]))
        attempts += 1
        if not task.success(task.observation(states[-1])):
            continue
        path = folder / f'forward_{recorded:03d}'
        path.mkdir(parents=True)
        stamps = np.arange(len(states)) / world.control_rate
        about = {
            'verdict': SUCCEEDED,
            'operator': 'script',
            'origin': {'file': Path(__file__).name},
        }
        rows = np.array(states), np.array(commands), stamps
        save_episode(path, episode(task, *rows, 'forward', **about), task)
        recorded += 1
    record = {'attempts': attempts, 'demonstrations': recorded}
    (folder.parent / f'{folder.name}.json').write_text(json.dumps(record))
    return record


class Deployed:
    """The deterministic policy of a model; has the interface of our policies."""

    def __init__(self, model: Any, dictionaries: Dictionaries) -> None:
        self._model, self._dictionaries = model, dictionaries

    def begin(self, problems: int, *, reseed: bool = False) -> None:
        """Nothing to begin: it remembers nothing."""

    def keep(self, mask: np.ndarray) -> None:
        """Nothing to keep."""

    def mean_action(self, observation: np.ndarray) -> np.ndarray:
        """Actions [n, A] of observations [n, O]."""
        return self._model.predict(self._dictionaries(observation), deterministic=True)[0]


def fill(buffer: Any, rows: Transitions, task: Task, dictionaries: Dictionaries) -> None:
    """Put demonstrated transitions into a HerReplayBuffer: rewards 0 at the goal, else -1."""
    ends = rows['terminated'] | rows['truncated']
    for row in range(len(ends)):
        observation, following = (
            dictionaries(rows[name][row : row + 1]) for name in ('observation', 'next_observation')
        )
        ended = bool(task.ended(rows['next_observation'][row]))
        buffer.add(
            observation,
            following,
            rows['action'][row : row + 1],
            rows['reward'][row : row + 1] - 1.0,
            ends[row : row + 1].astype(bool),
            [{'TimeLimit.truncated': bool(ends[row]) and not ended}],
        )


def practise_peer(task_path: Path, demonstrations: Path, out: Path, seed: int, steps: int) -> None:
    """One seed of SAC + HER; its folder is like that of a seed of ``mbarl bench``."""
    import torch
    from stable_baselines3 import SAC, HerReplayBuffer

    from mbarl_ros.learning.evaluation import evaluate, evaluation_line

    torch.set_num_threads(1)
    task = Task.load(str(task_path))
    folder = out / task.name / PEER / f'seed_{seed}'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    world, dictionaries = task.load_world(seed=seed), Dictionaries(task)
    env = gymnasium_env(task)
    model = SAC('MultiInputPolicy', env, seed=seed, replay_buffer_class=HerReplayBuffer, **SETTINGS)
    fill(model.replay_buffer, load_demonstrations(demonstrations, task), task, dictionaries)
    start, seconds = time.monotonic(), 0.0
    for done in range(0, steps + 1, EVERY):
        if done:
            begin = time.process_time()
            model.learn(EVERY, reset_num_timesteps=False)
            seconds += time.process_time() - begin
        outcome = evaluate(task, world, Deployed(model, dictionaries), EPISODES)
        line = evaluation_line(
            task,
            PEER,
            seed,
            done,
            outcome,
            practice_seconds=round(seconds, 1),
            wall_seconds=round(time.monotonic() - start, 1),
        )
        append_line(folder / EVALUATIONS_FILE, line)
        print(
            f'{task.name} {PEER} seed {seed}: {done} steps, deployed {outcome.success:.2f}',
            flush=True,
        )
    write_result(folder)


def finished_peer(out: Path, environment: str, seed: int, steps: int) -> bool:
    """Whether a seed of SAC + HER has practised that long."""
    result = read_result(out / environment / PEER / f'seed_{seed}')
    return result is not None and result['environment_steps'] >= steps


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Record demonstrations and run all seeds that are not finished; records of the experts."""
    experts, runs, peers = {}, [], []
    for environment in options.environments:
        path = task_file(options.out, environment)
        demonstrations = options.out / 'demonstrations' / environment
        record = demonstrations.with_suffix('.json')
        if not record.exists():
            demonstrate(Task.load(str(path)), demonstrations, options.demonstrations)
        experts[environment] = json.loads(record.read_text())
        if experts[environment]['demonstrations'] != options.demonstrations:
            raise SystemExit(f'{record}: has another number of demonstrations; give another --out')
        runs += [
            SeedRun(str(options.out), str(path), agent, 0, options.steps, str(demonstrations))
            for agent in options.agents
        ]
        peers.append((environment, path, demonstrations))
    for seed in range(options.seeds):
        if failures := run_seeds(runs, [seed], LocalEngine(options.jobs), 1):
            raise SystemExit('\n'.join(failures))
        with ProcessPoolExecutor(options.jobs, get_context('spawn')) as pool:
            waiting = [
                pool.submit(practise_peer, path, demonstrations, options.out, seed, options.steps)
                for environment, path, demonstrations in peers
                if not finished_peer(options.out, environment, seed, options.steps)
            ]
            for future in waiting:
                future.result()
    return experts


def figures(folder: Path, agent: AgentResult) -> dict[str, Any]:
    """What the report says of an agent: success at the end and on the way, steps, time."""
    name = agent.name
    finals = [read_result(folder / name / f'seed_{seed}') for seed in agent.seeds]
    success = [final['deployed_success'] for final in finals]
    return {
        'steps': finals[0]['environment_steps'],
        'success': round(float(np.mean(success)), 3),
        'std': round(float(np.std(success, ddof=1)), 3) if len(success) > 1 else 0.0,
        'seeds': success,
        'practice_seconds': round(agent.seconds, 1),
        'wall_seconds': round(float(np.mean([final['wall_seconds'] for final in finals])), 1),
        'curve': agent.deployed.to_json(),
    }


def draw(path: Path, results: dict[str, list[AgentResult]]) -> None:
    """Success over environment steps, a panel for each environment."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    colours = {'mbpo': '#2f9fa8', 'oracle': '#7d5a3c', PEER: '#c2274b'}
    figure, grid = pyplot.subplots(
        1, len(results), figsize=(4.4 * len(results), 3.9), layout='constrained', squeeze=False
    )
    for axes, (environment, agents) in zip(grid[0], results.items(), strict=True):
        for agent in agents:
            curve, colour = agent.deployed, colours.get(agent.name, '#555555')
            if not agent.practises:
                axes.axhline(curve.mean[-1], color=colour, ls='--', lw=1.4, label=agent.name)
                continue
            axes.plot(
                curve.steps, curve.mean, color=colour, lw=2, marker='o', ms=3, label=agent.name
            )
            low, high = curve.mean - curve.std, curve.mean + curve.std
            axes.fill_between(curve.steps, low.clip(0), high.clip(max=1), color=colour, alpha=0.15)
        axes.set(title=environment, xlabel='environment steps', ylim=(0, 1.02))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, frameon=False, loc='best')
    grid[0, 0].set_ylabel('success')
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run what is not finished; write ``peers.json`` and ``peers.png``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--environments', nargs='+', default=ENVIRONMENTS, choices=ENVIRONMENTS)
    parser.add_argument('--agents', nargs='+', default=AGENTS, help='presets of ours, and bc')
    parser.add_argument('--seeds', type=int, default=2)
    parser.add_argument('--steps', type=int, default=3_000, help='a multiple of 1000')
    parser.add_argument('--demonstrations', type=int, default=20, help='of each environment')
    parser.add_argument('--jobs', type=int, default=1, help='processes at a time')
    parser.add_argument('--out', type=Path, default=Path('runs/peers'))
    parser.add_argument('--output', type=Path, default=RESULTS)
    options = parser.parse_args()
    experts = run(options)
    results = {name: collect(options.out / name)[0] for name in options.environments}
    report = {
        'command': shlex.join(['python', 'benchmarks/peers.py', *sys.argv[1:]]),
        'demonstrations': options.demonstrations,
        'versions': {
            package: version(package)
            for package in ('gymnasium', 'gymnasium-robotics', 'panda-gym', 'stable-baselines3')
        },
        'evaluation': {'episodes': EPISODES, 'success': 'the goal is reached at any step'},
        PEER: SETTINGS,
        'environments': {
            name: {
                'expert': experts[name],
                'agents': {agent.name: figures(options.out / name, agent) for agent in agents},
            }
            for name, agents in results.items()
        },
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / 'peers.json').write_text(json.dumps(report, indent=2) + '\n')
    draw(options.output / 'peers.png', results)
    for name, agents in results.items():
        for agent in agents:
            row = report['environments'][name]['agents'][agent.name]
            print(
                f'{name} {agent.name}: {row["success"]:.2f} +- {row["std"]:.2f} after '
                f'{row["steps"]} steps, {row["practice_seconds"]:.0f} s'
            )


if __name__ == '__main__':
    main()
