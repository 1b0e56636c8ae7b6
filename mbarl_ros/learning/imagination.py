"""Imagined practice: short rollouts of both policies in the learned model (MBPO, MBARL)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from mbarl_ros.learning.dynamics import Ensemble
from mbarl_ros.learning.networks import CPU
from mbarl_ros.learning.relations import Relations
from mbarl_ros.learning.replay import Replay
from mbarl_ros.learning.sac import Sac
from mbarl_ros.learning.state_arrays import Arrays
from mbarl_ros.learning.torch_setup import random_streams_kept
from mbarl_ros.schema.model import ModelConfig
from mbarl_ros.storage.transitions import FORWARD
from mbarl_ros.task import Task

FIT_ROWS, HELD_OUT_ROWS = 50_000, 2_000  # most that one fit uses
STEP = ('observation', 'action', 'next_observation', 'reward', 'terminated')
IMAGINED = (*STEP, 'steps_to_end')
MAX_SURPRISE = 2.0  # of a step that is kept; 1 is rare where the robot has been


class Imagination:
    """The dynamics model, when to fit it, and a ring of imagined transitions for each policy."""

    def __init__(
        self,
        task: Task,
        config: ModelConfig,
        policies: int,
        seed: int,
        device: torch.device = CPU,
    ) -> None:
        """Nothing is imagined before the first fit."""
        self.task, self.config = task, config
        self.ensemble = Ensemble(task, config, seed, device)
        self.relations = Relations(task, seed)
        self.buffers = [
            Replay(config.buffer_capacity, task.observation_dim, task.action_dim)
            for _ in range(policies)
        ]
        self.fitted_at = self.rolled_at = 0
        self._rng = np.random.default_rng([seed, 5])

    @property
    def fraction(self) -> float:
        """Imagined share of a batch: as configured, 0 before anything has been imagined."""
        return self.config.fraction if min(len(buffer) for buffer in self.buffers) else 0.0

    def update(
        self,
        sac: Sac,
        replay: Replay,
        demonstrations: Replay,
        phase_starts: Sequence[np.ndarray],
    ) -> dict[str, float]:
        """Fit the model when due, then do ``rollouts`` rollouts per new real step; metrics."""
        metrics = {}
        if replay.total - self.fitted_at >= self.config.every:
            metrics = self._fit(replay, demonstrations)
            self.fitted_at = replay.total
            for buffer in self.buffers:  # what an earlier model imagined is no evidence now
                buffer.clear()
            self.rolled_at = replay.total - self.config.every
        if self.ensemble.fits and replay.total > self.rolled_at:
            count = (replay.total - self.rolled_at) * self.config.rollouts
            # After a backlog: no more than the buffers hold.
            count = min(count, max(self.config.buffer_capacity // self.config.rollout_length, 1))
            starts = self._starts(replay, demonstrations, phase_starts, count)
            metrics['model/length'] = self._rollout(sac, starts)
        self.rolled_at = replay.total
        metrics['model/fraction'] = self.fraction
        return metrics

    def _fit(self, replay: Replay, demonstrations: Replay) -> dict[str, float]:
        train, held_out = [], []
        for source in (replay, demonstrations):
            mask = source.held_out()
            train.append(source.rows(self._at_most(FIT_ROWS, np.flatnonzero(~mask))))
            held_out.append(source.rows(self._at_most(HELD_OUT_ROWS, np.flatnonzero(mask))))
        rows = _concatenate(train), _concatenate(held_out)
        self.relations.fit(*rows)
        metrics = self.ensemble.fit(*rows, self.config.max_gradient_steps)
        return metrics | {'model/dependent_entries': float(len(self.relations.tight))}

    def _at_most(self, limit: int, order: np.ndarray) -> np.ndarray:
        return order if len(order) <= limit else self._rng.choice(order, limit, replace=False)

    def _starts(
        self,
        replay: Replay,
        demonstrations: Replay,
        phase_starts: Sequence[np.ndarray],
        count: int,
    ) -> np.ndarray:
        """Start observations [policies, count, observation_dim]."""
        weights = self.config.start_weights
        starts = []
        for phase in range(len(self.buffers)):
            kinds = list(weights)
            shares = np.array([weights[kind] for kind in kinds])
            drawn = self._rng.multinomial(count, shares / shares.sum())
            parts = []
            for kind, number in zip(kinds, drawn, strict=True):
                parts.append(self._start(kind, number, replay, demonstrations, phase_starts[phase]))
            starts.append(np.concatenate(parts))
        stacked = np.stack(starts)
        if self.task.goal_conditioned:
            stacked = self.task.with_goal(stacked, self._goals(stacked.shape[:2]))
        return stacked

    def _start(
        self,
        kind: str,
        number: int,
        replay: Replay,
        demonstrations: Replay,
        phase_starts: np.ndarray,
    ) -> np.ndarray:
        """Start observations [number, observation_dim] of one kind."""
        if kind == 'phase_starts' and len(phase_starts):
            return phase_starts[self._rng.integers(len(phase_starts), size=number)]
        if kind == 'range':
            first = demonstrations.first()
            rows = demonstrations.rows(self._rng.choice(first, number))['observation']
            low, high, free = self.task.state_low, self.task.state_high, ~self.task.binary
            anywhere = self._rng.uniform(low[free], high[free], (number, free.sum()))
            rows[:, np.flatnonzero(free)] = anywhere
            dim = self.task.state_dim
            rows[:, :dim] = self.task.possible(self.relations.complete(rows[:, :dim]))
            return rows
        source = demonstrations if kind == 'demonstrations' else replay
        return source.rows(source.sample(self._rng, (number,)))['observation']

    def _goals(self, shape: tuple[int, ...]) -> np.ndarray:
        """Goals [*shape, state_dim], drawn from the task's."""
        return self.task.goals[self._rng.integers(len(self.task.goals), size=shape)]

    def _rollout(self, sac: Sac, observation: np.ndarray) -> float:
        """Roll out both policies and keep the imagined transitions; mean length of a rollout."""
        length = self.config.rollout_length
        chains = rollout(
            self.task, self.ensemble, sac, observation, length, self._goals, MAX_SURPRISE
        )
        for buffer, (rows, ends) in zip(self.buffers, chains, strict=True):
            buffer.add(rows, ends)
        return sum(len(ends) for _, ends in chains) / np.prod(observation.shape[:2])

    def fan(self, sac: Sac, observation: np.ndarray, count: int, length: int) -> list[Chains]:
        """Rollouts of each policy from one observation [observation_dim], to be looked at.

        They end as those for training do, and leave model, buffers and random streams alone.

        :param count: rollouts of each policy
        :param length: most steps of one
        """
        shape = len(self.buffers), count
        goal = observation[self.task.state_dim :]
        with random_streams_kept(sac.generator, self.ensemble.generator):
            return rollout(
                self.task,
                self.ensemble,
                sac,
                np.broadcast_to(observation, (*shape, len(observation))).copy(),
                length,
                lambda drawn: np.broadcast_to(goal, (*drawn, len(goal))),
                MAX_SURPRISE,
            )

    def state_dict(self) -> tuple[Arrays, dict]:
        """Arrays and metadata for an exact resume, imagined rows included."""
        arrays = self.ensemble.state_arrays() | self.relations.state_arrays()
        for phase, buffer in enumerate(self.buffers):
            held = buffer.held()
            for name in IMAGINED:
                arrays[f'imagined/{phase}/{name}'] = held[name]
        return arrays, {
            'rng': self._rng.bit_generator.state,
            'fitted_at': self.fitted_at,
            'rolled_at': self.rolled_at,
            'totals': [buffer.total for buffer in self.buffers],
        }

    def load_state_dict(self, arrays: Mapping[str, np.ndarray], meta: Mapping) -> None:
        """Inverse of :meth:`state_dict`."""
        self.ensemble.load_state_arrays(arrays)
        self.relations.load_state_arrays(arrays)
        for phase, (buffer, total) in enumerate(zip(self.buffers, meta['totals'], strict=True)):
            rows = {name: arrays[f'imagined/{phase}/{name}'] for name in IMAGINED}
            buffer.restore(rows, total)
        self._rng.bit_generator.state = meta['rng']
        self.fitted_at, self.rolled_at = meta['fitted_at'], meta['rolled_at']


Chains = tuple[dict[str, np.ndarray], np.ndarray]
"""Transitions of rollouts, rollout after rollout, and which of them is the last of one."""


def rollout(
    task: Task,
    ensemble: Ensemble,
    sac: Sac,
    observation: np.ndarray,
    length: int,
    draw_goals: Callable[[tuple[int, ...]], np.ndarray] | None = None,
    max_surprise: float = np.inf,
) -> list[Chains]:
    """Roll out each policy in the model for ``length`` steps.

    A forward rollout that succeeds goes on to another goal or, without goals, ends. Where the world
    ends, each does. And each ends before a step that surprises the model: on which its members
    disagree more than on real ones (MACURA, Frauenknecht et al. 2024).

    :param observation: starts [policies, n, observation_dim]
    :param max_surprise: of a step that is kept, see :class:`~.dynamics.Prediction`
    :param draw_goals: goals [*shape, state_dim] of a shape; only for tasks with goals
    :returns: for each policy the imagined transitions (fields ``STEP``), rollout after rollout, and
        where these chains end, for :meth:`Replay.add`
    """
    alive = np.ones(observation.shape[:2], bool)
    steps, alive_at_step = [], []
    for _ in range(length):
        step = imagined_step(task, ensemble, sac, observation)
        alive &= step.pop('surprise') <= max_surprise
        steps.append(step)
        alive_at_step.append(alive.copy())
        observation, success = step['next_observation'], step['terminated'][FORWARD]
        if task.goal_conditioned:
            observation = observation.copy()
            goals = draw_goals((int(success.sum()),))
            observation[FORWARD, success, task.state_dim :] = goals
        else:
            alive[FORWARD] &= ~success
        alive &= ~task.ended(observation)
    # [policies, n, length, ...]: the steps of a rollout are neighbours in the buffer
    rows = {name: np.stack([step[name] for step in steps], 2) for name in STEP}
    kept = np.stack(alive_at_step, 2)
    ends = kept & ~np.concatenate([kept[..., 1:], np.zeros_like(kept[..., :1])], -1)
    return [
        (
            {name: array[phase][kept[phase]] for name, array in rows.items()},
            ends[phase][kept[phase]],
        )
        for phase in range(len(observation))
    ]


def rollout_states(chains: Chains, state_dim: int) -> list[np.ndarray]:
    """States [steps, state_dim] that each rollout passes after its start."""
    rows, ends = chains
    states = rows['next_observation'][:, :state_dim]
    return np.split(states, np.flatnonzero(ends) + 1)[:-1]


def imagined_step(
    task: Task, ensemble: Ensemble, sac: Sac, observation: np.ndarray
) -> dict[str, np.ndarray]:
    """One imagined transition of each policy from observations [policies, n, observation_dim].

    With the ``surprise`` of the model.
    """
    action = sac.act(torch.from_numpy(task.scaled(observation)))
    state = torch.from_numpy(observation[..., : task.state_dim])
    predicted = ensemble.step(state.flatten(0, 1), action.flatten(0, 1))
    next_observation = task.following(observation, predicted.state.view(state.shape).numpy())
    shape = observation.shape[:2]
    return {
        'observation': observation,
        'action': action.numpy(),
        'next_observation': next_observation,
        'reward': predicted.reward.view(shape).numpy(),
        'surprise': predicted.surprise.view(shape).numpy(),
        'terminated': task.success(next_observation),
    }


def _concatenate(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
