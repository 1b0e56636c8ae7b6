"""Learning curves over the finished seeds of ``mbarl bench``, and the published curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.schema.load import config_dir
from mbarl_ros.studies.seeds import CLONE, read_evaluations, read_metrics, read_result

WINDOW = 5
"""Evaluations that smoothing averages over."""
LEVELS = (0.5, 0.9)
"""Success rates for which the environment steps are reported."""
WIDE_LEVELS = (0.8, 0.95)
FLOOR_FROM = 2000
"""Environment steps from which on practice is expected to have made nothing worse."""

MODEL_ERROR = 'model/error/'

Evaluations = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Curve:
    """Success rate or return over seeds: ``mean``, sample ``std`` [n] at environment ``steps`` [n].

    ``late_std``: sample standard deviation over seeds of the mean in the second half.
    """

    steps: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    seeds: int
    late_std: float = 0.0

    @property
    def late(self) -> tuple[int, float]:
        """Second half of the run: its first step, and the mean in it."""
        half = _second_half(self.steps)
        return int(self.steps[half][0]), float(self.mean[half].mean())

    def steps_to(self, level: float, *, smoothed: bool = True) -> int | None:
        """First step at which the (smoothed) mean is at least ``level``; None if there is none.

        The smoothing is that of the published figures: centred, over five evaluations, so that it
        includes the next two.
        """
        mean = smooth(self.mean) if smoothed else self.mean
        reached = np.flatnonzero(mean >= level - 1e-9)
        return int(self.steps[reached[0]]) if len(reached) else None

    def to_json(self) -> dict[str, list]:
        """The curve as JSON values."""
        return {
            'steps': self.steps.tolist(),
            'mean': np.round(self.mean, 4).tolist(),
            'std': np.round(self.std, 4).tolist(),
        }


@dataclass(frozen=True)
class Floor:
    """Least success after :data:`FLOOR_FROM` steps, less that of the clones of the demonstrations.

    ``mean``: of the mean over seeds; ``worst``: of any seed, less that of its own clone.
    """

    mean: float
    worst: float


@dataclass(frozen=True)
class AgentResult:
    """Finished seeds of one agent; ``wide`` is None if the task has no wide starts.

    ``returns`` are those of the deployed policy, None if the reward is the success. ``seconds``:
    mean processor time of practice and training per seed. ``practice``: sum of the rewards of
    practice up to a step (EARL's continuing evaluation, Sharma et al. 2022), None without practice.
    ``floor`` is None where there are no clones to compare with. ``model_error``: state entry -> the
    share of its change that the last model does not predict, mean over seeds.
    """

    name: str
    seeds: list[int]
    deployed: Curve
    wide: Curve | None
    seconds: float
    returns: Curve | None = None
    practice: Curve | None = None
    floor: Floor | None = None
    model_error: dict[str, float] = field(default_factory=dict)

    @property
    def practises(self) -> bool:
        """Whether the agent took any environment steps; ``bc`` does not."""
        return bool(self.deployed.steps[-1])


def _second_half(steps: np.ndarray) -> np.ndarray:
    return steps >= steps[-1] / 2


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average over ``WINDOW`` values [n]; over fewer at the ends."""
    width = min(WINDOW, len(values) - 1 + len(values) % 2)
    ones = np.ones(width)
    return np.convolve(values, ones, 'same') / np.convolve(np.ones(len(values)), ones, 'same')


def curve(seeds: Sequence[Evaluations], key: str) -> Curve | None:
    """Curve of ``key`` over the evaluations of several seeds, at the steps that all seeds have."""
    values = [
        {line['environment_steps']: line[key] for line in lines if line.get(key) is not None}
        for lines in seeds
    ]
    steps = sorted(set.intersection(*(set(seed) for seed in values)))
    if not steps:
        return None
    table = np.array([[seed[step] for step in steps] for seed in values])
    spread = table.std(0, ddof=1) if len(table) > 1 else np.zeros(len(steps))
    late = table[:, _second_half(np.array(steps))].mean(1)
    late_spread = float(late.std(ddof=1)) if len(table) > 1 else 0.0
    return Curve(np.array(steps), table.mean(0), spread, len(table), late_spread)


def collect(folder: Path) -> tuple[list[AgentResult], list[str]]:
    """Agents in the folder OUT/TASK, the fastest first, and names of its unfinished seeds.

    Those that are equally fast are ordered by their return.
    """
    agents, unfinished = [], []
    finished = {path: _finished(path, unfinished) for path in sorted(folder.iterdir())}
    clones = {seed: lines for seed, (lines, _) in finished.get(folder / CLONE, {}).items()}
    for path, of_seed in finished.items():
        if not of_seed:
            continue
        seeds = sorted(of_seed)
        lines = [of_seed[seed][0] for seed in seeds]
        agents.append(
            AgentResult(
                lines[0][0]['agent'],
                seeds,
                curve(lines, 'deployed_success'),
                curve(lines, 'wide_success'),
                float(np.mean([of_seed[seed][1] for seed in seeds])),
                curve(lines, 'deployed_return'),
                curve(lines, 'practice_reward'),
                floor(dict(zip(seeds, lines, strict=True)), clones),
                _model_error([path / f'seed_{seed}' for seed in seeds]),
            )
        )
    return sorted(agents, key=_rank), unfinished


def _finished(path: Path, unfinished: list[str]) -> dict[int, tuple[Evaluations, float]]:
    """Evaluations and processor time of an agent's finished seeds; the others' names are added."""
    of_seed = {}
    for folder in sorted(path.glob('seed_*')):
        result = read_result(folder)
        if result is None:
            unfinished.append(f'{path.name} {folder.name}')
        else:
            of_seed[result['seed']] = read_evaluations(folder), result['practice_seconds']
    return of_seed


def _model_error(folders: Sequence[Path]) -> dict[str, float]:
    """Mean over seeds of the last ``model/error`` metric of each entry."""
    last = [(read_metrics(folder) or [{}])[-1] for folder in folders]
    names = [key for key in last[0] if key.startswith(MODEL_ERROR)]
    return {
        key.removeprefix(MODEL_ERROR): float(np.mean([metrics[key] for metrics in last]))
        for key in names
        if all(key in metrics for metrics in last)
    }


def floor(seeds: Mapping[int, Evaluations], clones: Mapping[int, Evaluations]) -> Floor | None:
    """How far practice fell below the clones of the same seeds, at worst; None: nothing to tell."""
    seeds = {seed: lines for seed, lines in seeds.items() if seed in clones}
    clone = {seed: clones[seed][0]['deployed_success'] for seed in seeds}
    above: dict[int, list[float]] = {}
    for seed, lines in seeds.items():
        for line in lines:
            if line['environment_steps'] >= FLOOR_FROM:
                success = line['deployed_success'] - clone[seed]
                above.setdefault(line['environment_steps'], []).append(success)
    everywhere = [values for values in above.values() if len(values) == len(seeds)]
    if not everywhere:
        return None
    return Floor(min(map(np.mean, everywhere)), min(map(min, above.values())))


def can_succeed(agents: Sequence[AgentResult]) -> bool:
    """Whether success says anything: some agent had some, or there are no returns instead."""
    return any(agent.returns is None or agent.deployed.mean.any() for agent in agents)


def _rank(agent: AgentResult) -> tuple[Any, ...]:
    reached = (agent.deployed.steps_to(level) or np.inf for level in reversed(LEVELS))
    late_return = agent.returns.late[1] if agent.returns else 0.0
    return (not agent.practises, *reached, -late_return, agent.name)


def published(task: str) -> dict[str, Curve]:
    """Published curves of a task (``benchmarks/published``), by method."""
    curves = {}
    for path in (config_dir().parent / 'benchmarks' / 'published').glob(f'*_{task}.json'):
        for name, method in json.loads(path.read_text())['methods'].items():
            arrays = (np.array(method[key]) for key in ('steps', 'mean', 'std'))
            curves[name] = Curve(*arrays, method['seeds'])
    return curves
