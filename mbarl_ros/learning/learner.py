"""The learner: real transitions in, policies out. The agent preset chooses its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mbarl_ros.control.policy import policy_names
from mbarl_ros.learning.batch import joined
from mbarl_ros.learning.batches import BatchSampler
from mbarl_ros.learning.clones import Clones
from mbarl_ros.learning.holdout import PhaseHoldout, demonstration_holdout_mask
from mbarl_ros.learning.imagination import Imagination, rollout_states
from mbarl_ros.learning.objective import start_arrays
from mbarl_ros.learning.objectives import objectives
from mbarl_ros.learning.replay import Demonstrations, Replay
from mbarl_ros.learning.sac import Sac
from mbarl_ros.learning.state_arrays import Arrays
from mbarl_ros.learning.success import SuccessCritic
from mbarl_ros.learning.torch_setup import choose_device, set_up_torch
from mbarl_ros.learning.warm_start import WarmStart
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.transitions import (
    BACKWARD,
    FORWARD,
    PHASES,
    Transitions,
    human_forward_rows,
    select,
)
from mbarl_ros.task import Task

BLOCK = 64  # updates whose batches are drawn at once
PHASE_STARTS = 100  # latest starts of each phase that are kept for imagined rollouts
HUMAN_ROWS = 100_000  # room for what a person demonstrates while the robot practises


class Learner:
    """Trains both policies on the real stream of both phases, demonstrations and imagination.

    Deterministic on one thread: the same calls with the same seed give the same policies.
    """

    def __init__(
        self, task: Task, agent: AgentConfig, demonstrations: Mapping[str, np.ndarray], seed: int
    ) -> None:
        """New networks; ``demonstrations`` are transitions of whole demonstrations in order.

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
        self._device = device = choose_device(agent.device)
        self._objectives = objectives(task, agent, demonstrations, seed)
        task_range = (0.0, 1.0) if task.reward_known else (-np.inf, np.inf)
        ranges = [task_range, *(each.return_range for each in self._objectives.values())]
        return_range = np.array(ranges[: len(self.policies)])
        differences = task.pairwise_differences
        scale = agent.sac.scale(task.reward_known)
        sizes = task.observation_dim, task.action_dim
        self._clones = self._make_clones(demonstrations, seed)
        self.sac = Sac(
            agent.sac,
            self.policies,
            differences,
            sizes[1],
            return_range,
            seed,
            scale,
            self._clones,
            device,
        )
        self.success = SuccessCritic(agent.sac, differences, seed) if agent.switching else None
        self._replay = Replay(agent.replay_capacity, *sizes)
        self._lanes: dict[int, int] = {}  # of the replay, by robot
        self._phase_holdout = PhaseHoldout()
        self.environment_steps = 0  # real transitions added so far
        self._demonstrations = Demonstrations(rows + HUMAN_ROWS, *sizes)
        held_out = demonstration_holdout_mask(demonstrations, task.state_dim)
        self._demonstrations.add_demonstrations(demonstrations, held_out, task.state_dim)
        if agent.returns_to_starts:
            self._starts = start_arrays(task, demonstrations)
        self._phase_starts: list[list[np.ndarray]] = [[] for _ in self.policies]
        self._imagination = None
        if agent.model:
            self._imagination = Imagination(task, agent.model, len(self.policies), seed, device)
        self.batches = BatchSampler(
            task,
            agent,
            len(self.policies),
            self._replay,
            self._demonstrations,
            self._imagination,
            self._objectives,
            seed,
        )
        self._warm_start = (
            WarmStart(task, agent, agent.warm_start, seed) if agent.warm_start else None
        )
        self.updates = 0

    def _make_clones(self, demonstrations: Mapping[str, np.ndarray], seed: int) -> Clones | None:
        """Of the demonstrations, if the preset holds on to them; None: there are none."""
        settings, shown = self.agent.sac, np.unique(demonstrations['phase'])
        phases = [FORWARD] if self.agent.shared else [FORWARD, BACKWARD][: len(self.policies)]
        phases = [phase for phase in phases if phase in shown]
        if not settings.cloning_weight or FORWARD not in phases:
            return None
        steps = settings.cloning_steps
        hidden, device = settings.hidden, self._device
        return Clones(self.task, demonstrations, phases, hidden, steps, seed, device)

    def add(self, transitions: Transitions) -> None:
        """Append real transitions in order; no training. Also refills the replay on resume.

        What a person did in a forward phase joins the demonstrations, from which alone it is then
        drawn.
        """
        self.environment_steps += len(transitions['phase'])
        ended = (transitions['terminated'] | transitions['truncated']).astype(bool)
        robots = transitions.get('robot', np.zeros(len(ended), np.int64))
        held_out, begins = self._phase_holdout.mask(ended, robots)
        demonstrated = human_forward_rows(transitions)
        # Rows of several robots arrive mixed; each robot's form a lane.
        bounds = [0, *np.flatnonzero(np.diff(robots)) + 1, len(robots)]
        for part in map(slice, bounds[:-1], bounds[1:]):
            if part.stop:
                self._replay.add_steps(
                    select(transitions, part),
                    ended[part] & self.agent.resets,
                    held_out[part],
                    self.task.state_dim,
                    demonstrated[part],
                    self._lanes.setdefault(int(robots[part.start]), len(self._lanes)),
                )
        self._keep_phase_starts(select(transitions, begins))
        human = select({**transitions, 'held_out': held_out}, demonstrated)
        if len(human['phase']):
            held_out = human.pop('held_out')
            self._demonstrations.add_demonstrations(human, held_out, self.task.state_dim)
            if self._clones is not None:
                self._clones.add(human)

    def _keep_phase_starts(self, first: Transitions) -> None:
        """Keep the first observation of each phase, which imagined rollouts may start from.

        :param first: transitions with which phases begin
        """
        for phase, observation in zip(first['phase'], first['observation'], strict=True):
            if phase < len(self._phase_starts):
                starts = self._phase_starts[phase]
                starts.append(np.array(observation, np.float32))
                del starts[:-PHASE_STARTS]

    def set_classifier(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take a classifier message; rewards of the backward policy follow it at once."""
        for objective in self._objectives.values():
            objective.set_classifier(arrays)

    def train(self, updates: int) -> dict[str, float]:
        """Do ``updates`` gradient steps of both policies; mean metrics.

        Before them, when due, the model is fitted and practice imagined. Nothing happens while
        there is nothing to learn from.
        """
        if not len(self._replay) and not len(self._demonstrations):
            return {}
        return train_together(self.sac, [self], updates)[0]

    def prepare(self) -> dict[str, float]:
        """What comes before gradient steps of the policies: clones, objectives, imagination."""
        metrics = {}
        if self._clones is not None:
            self._clones.train()
        for objective in self._objectives.values():
            metrics |= objective.train(self._replay)
        if self._imagination is not None and len(self._replay):
            starts = [np.array(starts) for starts in self._phase_starts]
            metrics |= self._imagination.update(
                self.sac, self._replay, self._demonstrations, starts
            )
        return metrics

    def finish(self) -> dict[str, float]:
        """What follows gradient steps of the policies: imitation of the planner, when due."""
        if self._warm_start is None or not self._warm_start.due(self.environment_steps):
            return {}
        arrays = self.policy_arrays() | self._planning_arrays()
        return self._warm_start.imitate(self.sac, self._replay, arrays)

    def imagine(
        self, observation: np.ndarray, count: int, length: int
    ) -> dict[str, list[np.ndarray]]:
        """Policy -> states [steps, state_dim] of its imagined rollouts from an observation.

        Nothing that is learned or drawn later depends on it.

        :param count: rollouts of each policy; one that the model distrusts at once is left out
        :param length: most steps of one
        :returns: empty without a model, or before its first fit
        """
        if self._imagination is None or not self._imagination.ensemble.fits:
            return {}
        set_up_torch()
        fans = self._imagination.fan(self.sac, observation, count, length)
        return {
            policy: rollout_states(chains, self.task.state_dim)
            for policy, chains in zip(self.policies, fans, strict=True)
        }

    def policy_arrays(self) -> Arrays:
        """Arrays of the policy message: ``offset``, ``scale``, each policy and ``deployed``.

        And the arrays for phases (:func:`mbarl_ros.control.policy.phase_shapes`).
        """
        arrays = {'offset': self.task.offset.copy(), 'scale': self.task.scale.copy()}
        arrays |= self.sac.policy_arrays()
        for objective in self._objectives.values():
            arrays |= objective.policy_arrays(self.sac)
        if self.agent.returns_to_starts:
            arrays |= self._starts
        if self.success is not None:
            arrays |= self.success.policy_arrays()
        if self._plans:
            arrays |= self._planning_arrays()
        return arrays

    @property
    def _plans(self) -> bool:
        """Whether the planner acts now: there is a model, and no warm start has ended."""
        if self.agent.planner is None or not self._imagination.ensemble.fits:
            return False
        return self._warm_start is None or self._warm_start.planner_acts

    def _planning_arrays(self) -> Arrays:
        arrays = self._imagination.ensemble.policy_arrays()
        if self.agent.planner.terminal_value:
            arrays |= self.sac.critic_arrays()
        return arrays

    def state_dict(self) -> tuple[Arrays, dict[str, Any]]:
        """Arrays and JSON-able metadata for an exact resume; real rows come back by add()."""
        arrays = self.sac.state_arrays()
        meta: dict[str, Any] = {
            'spec': self.task.spec_hash(self.agent),
            'environment_steps': self.environment_steps,
            'updates': self.updates,
            'rng': self.batches.rng.bit_generator.state,
            'objectives': {},
        }
        for phase, objective in self._objectives.items():
            objective_arrays, meta['objectives'][PHASES[phase]] = objective.state_dict()
            arrays |= objective_arrays
        if self.success is not None:
            arrays |= self.success.state_arrays()
        if self._clones is not None:
            arrays |= self._clones.state_arrays()
        if self._imagination is not None:
            imagined, meta['imagination'] = self._imagination.state_dict()
            arrays |= imagined
        if self._warm_start is not None:
            warm_start, meta['warm_start'] = self._warm_start.state_dict()
            arrays |= warm_start
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
        self.sac.load_state_arrays(arrays)
        self.batches.rng.bit_generator.state = meta['rng']
        self.updates = meta['updates']
        for phase, objective in self._objectives.items():
            objective.load_state_dict(arrays, meta['objectives'][PHASES[phase]])
        if self.success is not None:
            self.success.load_state_arrays(arrays)
        if self._clones is not None:
            self._clones.load_state_arrays(arrays)
        if self._imagination is not None:
            self._imagination.load_state_dict(arrays, meta['imagination'])
        if self._warm_start is not None:
            self._warm_start.load_state_dict(arrays, meta['warm_start'])


def train_together(sac: Sac, learners: Sequence[Learner], updates: int) -> list[dict[str, float]]:
    """As :meth:`Learner.train`, of several learners whose policies are updated as one stack.

    :param sac: the learner's own, or that of all (:func:`mbarl_ros.learning.sac_stack.stacked`)
    """
    set_up_torch()
    before = [learner.prepare() for learner in learners]
    of_policies = _train_policies(sac, learners, updates)
    return [
        first | second | learner.finish()
        for first, second, learner in zip(before, of_policies, learners, strict=True)
    ]


def _train_policies(sac: Sac, learners: Sequence[Learner], updates: int) -> list[dict[str, float]]:
    """Gradient steps of the policies; mean metrics of each learner."""
    sums: dict[str, torch.Tensor] = {}
    done = 0
    while done < updates:
        blocks = [learner.batches.draw(min(BLOCK, updates - done)) for learner in learners]
        together = joined(blocks).to(sac.device)
        for number in range(len(together.reward)):
            metrics = sac.update(together[number])
            critics = [
                learner.success.update(block[number])['success']
                for learner, block in zip(learners, blocks, strict=True)
                if learner.success is not None
            ]
            if critics:
                metrics['success'] = torch.cat(critics)
            for name, value in metrics.items():
                sums[name] = sums[name] + value if name in sums else value
        done += len(together.reward)
    means = {name: (total / updates).tolist() for name, total in sums.items()}
    for learner in learners:
        learner.updates += updates
    count = len(learners[0].policies)
    return [
        {
            f'{policy}/{name}': values[first + number]
            for name, values in means.items()
            for number, policy in enumerate(learner.policies)
        }
        for first, learner in zip(range(0, count * len(learners), count), learners, strict=True)
    ]
