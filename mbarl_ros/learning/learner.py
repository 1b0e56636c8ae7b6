"""The learner: real transitions in, policies out. Composed of parts as the agent preset says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mbarl_ros.control.policy import policy_names
from mbarl_ros.learning.imagination import Imagination
from mbarl_ros.learning.objectives import objectives
from mbarl_ros.learning.replay import Replay
from mbarl_ros.learning.sac import Sac
from mbarl_ros.learning.state import Arrays, fast_floats
from mbarl_ros.learning.success import SuccessCritic
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.transitions import BACKWARD, FORWARD, PHASES, human_forward_steps
from mbarl_ros.task import Task

BLOCK = 64  # updates whose batches are drawn at once
RECENT = 2000  # half of the real rows are that new: what goes wrong now is corrected soon
PHASE_STARTS = 100  # latest starts of each phase that are kept for imagined rollouts
HUMAN_ROWS = 100_000  # room for what a person shows while the robot practises
HINDSIGHT_DELAY = 4  # mean delay of a hindsight goal: a phase limit divided by this


class Learner:
    """Trains both policies on the real stream of both phases, demonstrations and imagination.

    Deterministic on one thread: the same calls with the same seed give the same policies.
    """

    def __init__(
        self, task: Task, agent: AgentConfig, demonstrations: Mapping[str, np.ndarray], seed: int
    ) -> None:
        """Fresh networks; ``demonstrations`` are transitions of whole demonstrations in order.

        :raises ConfigError: the preset needs goals, a known reward or demonstrations.
        """
        task.check_agent(agent)
        rows = len(demonstrations['observation'])
        if rows == 0 and (agent.demonstration_fraction or agent.backward == 'classifier'):
            raise ConfigError(
                f"agent '{agent.name}' learns from demonstrations; task '{task.name}' has none"
            )
        self.task, self.agent = task, agent
        self.policies = policy_names(agent)[:-1]
        self._objectives = objectives(task, agent, demonstrations, seed)
        task_range = (0.0, 1.0) if task.reward_known else (-np.inf, np.inf)
        ranges = [task_range, *(objective.bounds for objective in self._objectives.values())]
        bounds = np.array(ranges[: len(self.policies)])
        self._sac = Sac(agent.sac, self.policies, task.relations, task.action_dim, bounds, seed)
        self._success = SuccessCritic(agent.sac, task.relations, seed) if agent.switching else None
        self._replay = Replay(agent.replay_capacity, task.observation_dim, task.action_dim)
        self._demonstrations = Replay(rows + HUMAN_ROWS, task.observation_dim, task.action_dim)
        self._show(demonstrations)
        self._phase_starts: list[list[np.ndarray]] = [[] for _ in self.policies]
        self._phase_ended = True
        self._imagination = (
            Imagination(task, agent.model, len(self.policies), seed) if agent.model else None
        )
        limit = task.config.phases.forward_limit
        fade = agent.sac.cloning_phases
        self._cloning_steps = fade * limit if fade else np.inf
        self._limits = task.config.phases.limits
        forward_discount = agent.sac.discount or 1.0 - 2.0 / limit
        own = {phase: objective.discount for phase, objective in self._objectives.items()}
        self._discounts = {FORWARD: forward_discount, **own}
        self._rng = np.random.default_rng([seed, 1])
        self.updates = 0

    @property
    def environment_steps(self) -> int:
        """Real transitions added so far."""
        return self._replay.total

    def add(self, transitions: Mapping[str, np.ndarray]) -> None:
        """Append real transitions in order; no training. Also refills the replay on resume.

        What a person did in a forward phase joins the demonstrations.
        """
        ended = np.asarray(transitions['truncated']) | np.asarray(transitions['terminated'])
        self._append(self._replay, transitions, ended.astype(bool) & self.agent.resets)
        for row, phase in enumerate(transitions['phase']):
            if self._phase_ended and phase < len(self._phase_starts):
                starts = self._phase_starts[phase]
                starts.append(np.array(transitions['observation'][row], np.float32))
                del starts[:-PHASE_STARTS]
            self._phase_ended = bool(ended[row])

        shown = human_forward_steps(transitions)
        if len(shown['phase']):
            self._show(shown)

    def _show(self, demonstrations: Mapping[str, np.ndarray]) -> None:
        """Add demonstrations, by which direction they are drawn; a full buffer takes no more."""
        room = self._demonstrations.capacity - len(self._demonstrations)
        rows = {name: array[:room] for name, array in demonstrations.items()}
        ended = np.asarray(rows['truncated'], bool) | np.asarray(rows['terminated'], bool)
        self._append(self._demonstrations, rows, ended)
        phase = self._demonstrations.held()['phase']
        self._directions = [np.flatnonzero(phase == p) for p in np.unique(phase)]

    def _append(self, buffer: Replay, rows: Mapping[str, np.ndarray], ended: np.ndarray) -> None:
        """Add rows; chains end where ``ended``, and where a row begins elsewhere than one ended.

        Between the two somebody moved the robot or its world, or steps are missing, as where a
        person let go: what came later was not reached from there.
        """
        if not len(ended):
            return
        begun, reached = (
            np.asarray(rows[name], np.float32)[:, : self.task.state_dim]
            for name in ('observation', 'next_observation')
        )
        if len(buffer):
            before = buffer.rows(np.array([len(buffer) - 1]))['next_observation'][0]
            if (before[: self.task.state_dim] != begun[0]).any():
                buffer.close_chain()
        ends = ended.copy()
        ends[:-1] |= (reached[:-1] != begun[1:]).any(axis=-1)
        buffer.add(rows, ends if ends.any() else None)

    def set_classifier(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take a classifier message; rewards of the backward policy follow it at once."""
        for objective in self._objectives.values():
            objective.set_classifier(arrays)

    def train(self, updates: int) -> dict[str, float]:
        """Do ``updates`` gradient steps of both policies; mean metrics.

        Before them, when due, the model is fitted and practice imagined.
        """
        fast_floats()
        metrics = {}
        for objective in self._objectives.values():
            metrics |= objective.train(self._replay)
        if self._imagination is not None and len(self._replay):
            starts = [np.array(starts) for starts in self._phase_starts]
            metrics |= self._imagination.update(
                self._sac, self._replay, self._demonstrations, starts
            )
        sums: dict[str, torch.Tensor] = {}
        done = 0
        while done < updates:
            block = min(BLOCK, updates - done)
            batches = self._batches(block)
            for number in range(block):
                batch = {name: tensor[number] for name, tensor in batches.items()}
                found = self._sac.update(batch)
                if self._success is not None:
                    found |= self._success.update(batch)
                for name, value in found.items():
                    sums[name] = sums[name] + value if name in sums else value
            done += block
        self.updates += updates
        for name, total in sums.items():
            for policy, value in zip(self.policies, (total / updates).tolist(), strict=True):
                metrics[f'{policy}/{name}'] = value
        return metrics

    def _batches(self, updates: int) -> dict[str, torch.Tensor]:
        parts = [self._policy_batches(phase, updates) for phase in range(len(self.policies))]
        return {
            name: torch.from_numpy(np.stack([part[name] for part in parts], axis=1))
            for name in parts[0]
        }

    def _policy_batches(self, phase: int, updates: int) -> dict[str, np.ndarray]:
        """Batches [updates, batch, ...] of one policy: demonstrations, then real, then imagined."""
        batch = self.agent.sac.batch_size
        imagined = round(batch * (self._imagination.fraction if self._imagination else 0.0))
        shown = round(batch * self.agent.demonstration_fraction)
        if not len(self._replay):
            shown = batch - imagined
        parts = []
        for source, rows in (
            (self._demonstrations, shown),
            (self._replay, batch - shown - imagined),
        ):
            if rows:
                parts.append(self._drawn(source, phase, (updates, rows)))
        if imagined and self._imagination:
            parts.append(self._drawn(self._imagination.buffers[phase], phase, (updates, imagined)))
        rows = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
        reward, ends = self._reward(phase, rows)
        if not self.agent.bootstrap_truncation:
            ends = ends | rows['truncated'].astype(bool)
        clone = np.zeros((updates, shown), np.float32)
        if shown and phase == FORWARD:
            left = max(0.0, 1.0 - self.environment_steps / self._cloning_steps)
            clone[:] = left * (parts[0]['phase'] == FORWARD)
        return {
            'observation': self.task.scaled(rows['observation']),
            'next_observation': self.task.scaled(rows['next_observation']),
            'action': rows['action'],
            'reward': reward,
            'bound': rows['bound'],
            'discount': (self._discounts[phase] * ~ends).astype(np.float32),
            'clone': clone,
        }

    def _reward(self, phase: int, rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Reward as of now and whether the return ends; it never ends at a truncation."""
        following = rows['next_observation']
        if phase in self._objectives:
            return self._objectives[phase].reward(following)
        if not self.task.reward_known:
            ends = (rows['terminated'] > 0) & (rows['phase'] == FORWARD)
            return rows['reward'], ends
        success = self.task.success(following)
        return success.astype(np.float32), success

    def _drawn(self, source: Replay, phase: int, shape: tuple[int, int]) -> dict[str, np.ndarray]:
        """Rows of a stream; where there are goals, real rows get task goals and later states.

        ``bound``: the return that was attained from there, for the goal that the row now has.
        """
        if source is self._demonstrations:
            order = self._shown(shape)
        else:
            order = source.sample(self._rng, shape, RECENT if source is self._replay else None)
        rows = source.rows(order)
        rows['bound'] = np.full(shape, -np.inf, np.float32)
        if self.task.goal_conditioned:
            self._aim(rows, np.ones(shape, bool), self._goals(source, phase, rows))
        reaches = phase == FORWARD or (phase == BACKWARD and self.agent.reaches)
        if not reaches or not self.task.reward_known:
            return rows
        if source is self._demonstrations and (phase == FORWARD or self.task.goal_conditioned):
            left = source.left(order)
            end = source.rows(order + left)['next_observation']
            end[..., self.task.state_dim :] = rows['observation'][..., self.task.state_dim :]
            attained = self.task.success(end)
            rows['bound'][attained] = self._discounts[phase] ** left[attained]
        if self.task.goal_conditioned and self.agent.hindsight_fraction > 0:
            later, delay = source.later(order, self._rng, self._limits[phase] / HINDSIGHT_DELAY)
            relabelled = self._rng.random(shape) < self.agent.hindsight_fraction
            # what was shown for the demonstrated goal is shown for a state on its way, too
            self._aim(rows, relabelled, later[relabelled, : self.task.state_dim])
            rows['bound'][relabelled] = self._discounts[phase] ** delay[relabelled]
        return rows

    def _goals(self, source: Replay, phase: int, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """Goals [..., state_dim] for drawn rows: their own, the task's or the objective's."""
        shape = rows['phase'].shape
        goals = rows['observation'][..., self.task.state_dim :]
        # A reward that was measured is that of the goal which there was.
        if source is self._replay and self.task.reward_known:
            goals = self.task.goals[self._rng.integers(len(self.task.goals), size=shape)]
        back = self._objectives.get(BACKWARD)
        own = None if back is None else back.goals
        if own is not None and (phase == BACKWARD or self.agent.shared):
            backward = (rows['phase'] == BACKWARD) | (phase == BACKWARD)
            drawn = own[self._rng.integers(len(own), size=shape)]
            goals = np.where(backward[..., None], drawn, goals)
        return goals

    def _aim(self, rows: Mapping[str, np.ndarray], which: np.ndarray, goals: np.ndarray) -> None:
        for name in ('observation', 'next_observation'):
            rows[name][which, self.task.state_dim :] = goals.reshape(-1, self.task.state_dim)

    def _shown(self, shape: tuple[int, int]) -> np.ndarray:
        """Demonstrated rows, as many of one direction as of the other: there are several times
        more backward rows where the reader relabels them for every goal.
        """
        drawn = [rows[self._rng.integers(len(rows), size=shape)] for rows in self._directions]
        return np.stack(drawn)[self._rng.integers(len(drawn), size=shape), *np.indices(shape)]

    def policy_arrays(self) -> Arrays:
        """The policy message: ``offset``, ``scale``, each policy, ``deployed``, and what is said
        of phases (:func:`mbarl_ros.control.policy.phase_shapes`).
        """
        return {
            'offset': self.task.offset.copy(),
            'scale': self.task.scale.copy(),
            **self._sac.policy_arrays(),
            **{
                name: array
                for objective in self._objectives.values()
                for name, array in objective.policy_arrays(self._sac).items()
            },
            **(self._success.policy_arrays() if self._success else {}),
        }

    def state_dict(self) -> tuple[Arrays, dict[str, Any]]:
        """Arrays and JSON-able metadata for an exact resume; real rows come back by add()."""
        arrays = self._sac.state_arrays()
        meta: dict[str, Any] = {
            'spec': self.task.spec_hash(self.agent),
            'environment_steps': self.environment_steps,
            'updates': self.updates,
            'rng': self._rng.bit_generator.state,
        }
        meta['objectives'] = {}
        for phase, objective in self._objectives.items():
            own, meta['objectives'][PHASES[phase]] = objective.state_dict()
            arrays |= own
        if self._success is not None:
            arrays |= self._success.state_arrays()
        if self._imagination is not None:
            imagined, meta['imagination'] = self._imagination.state_dict()
            arrays |= imagined
        return arrays, meta

    def load_state_dict(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`, into a learner of the same task and preset.

        The caller also adds the first ``meta['environment_steps']`` logged transitions.

        :raises ValueError: the state is of another task, preset or network.
        """
        spec = self.task.spec_hash(self.agent)
        if meta['spec'] != spec:
            raise ValueError(
                f"checkpoint is of '{meta['spec']}', this run is '{spec}'; use the settings that "
                'it was written with or another run folder'
            )
        if (self._imagination is None) != ('imagination' not in meta):
            raise ValueError("checkpoint and preset disagree on 'model'")
        self._sac.load_state_arrays(arrays)
        self._rng.bit_generator.state = meta['rng']
        self.updates = meta['updates']
        for phase, objective in self._objectives.items():
            objective.load_state_dict(arrays, meta['objectives'][PHASES[phase]])
        if self._success is not None:
            self._success.load_state_arrays(arrays)
        if self._imagination is not None:
            self._imagination.load_state_dict(arrays, meta['imagination'])
