"""The whole agent in one process, without ROS: the same parts and lockstep as in the graph."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from mbarl_ros.control.phases import Practice
from mbarl_ros.learning.classifier import ClassifierTrainer
from mbarl_ros.learning.learner import Learner
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.storage.transitions import Transitions, stack
from mbarl_ros.studies.evaluators import Evaluation, Evaluators
from mbarl_ros.task import Task


class DirectRun:
    """Practice, classifier and learner in lockstep.

    Chunk c is collected with the policy that was trained on the chunks up to c - 2. In the graph
    this lets collecting and training overlap; this loop gives the same numbers.
    """

    def __init__(
        self, task: Task, agent: AgentConfig, demonstrations: Transitions, seed: int
    ) -> None:
        """Build the parts and reset the world.

        It is reset again only where the preset says so, or where it has ended.
        """
        self.task, self.agent = task, agent
        self.world = task.load_world(seed=seed)
        self.practice = Practice(task, agent, seed)
        self.learner = Learner(task, agent, demonstrations, seed)
        self.classifier = (
            ClassifierTrainer(task, agent, demonstrations, seed)
            if agent.backward == 'classifier'
            else None
        )
        self._state = self.world.reset()
        self.resets = 0
        self.reward = 0.0  # sum over all steps of practice
        self._weights = [self.learner.policy_arrays()] * 2

    def collect(self) -> Transitions:
        """Practise for one chunk of environment steps; returns its transitions."""
        self.practice.set_policies(self._weights.pop(0))
        rows = []
        for _ in range(self.agent.chunk):
            observation = self.practice.observe(self._state)
            action = self.practice.act(observation)
            self._state = self.world.step(self.task.command(action))
            stamp = self.practice.steps / self.world.control_rate
            rows.append(self.practice.record(observation, action, self._state, stamp))
            if self.practice.reset_due:
                self._state = self.world.reset()
                self.practice.reset_due = False
                self.resets += 1
        transitions = stack(rows, self.task)
        self.reward += float(transitions['reward'].sum())
        return transitions

    def train(self, transitions: Transitions) -> dict[str, float]:
        """Train on one more chunk; returns metrics. The new policy acts in the chunk after next."""
        metrics = {}
        steps = self.learner.environment_steps + len(transitions['sequence'])
        if self.classifier is not None:
            self.classifier.add(transitions)
            metrics = self.classifier.train(self.agent.classifier_steps_due(steps))
            self.learner.set_classifier(self.classifier.arrays())
        self.learner.add(transitions)
        metrics |= self.learner.train(self.agent.updates_due(steps))
        self._weights.append(self.learner.policy_arrays())
        return metrics


class Evaluated(NamedTuple):
    """What ``evaluations.jsonl`` says about one evaluation, and the policy that it was of.

    ``record``: ``step``, ``outcome`` of the deployed policy, ``wide`` (its success rate from the
    wide starts, None where that was not due), ``seconds`` (processor time of practice and training)
    and the counts of practice.
    """

    record: dict[str, Any]
    arrays: dict[str, np.ndarray]


def run(direct: DirectRun, budget: int, evaluators: Evaluators) -> Iterator[Evaluated]:
    """Practise for ``budget`` environment steps; yields the evaluations, in order.

    The first is before training, the last at the end. Practice goes on while they are under way.
    """
    config = direct.task.config.evaluation
    seconds, metrics, next_evaluation, next_wide = 0.0, {}, 0, 0
    under_way: deque[tuple[Evaluated, Evaluation]] = deque()
    while True:
        steps = direct.practice.steps
        last = steps >= budget
        if steps >= next_evaluation or last:
            wide = config.wide is not None and (steps >= next_wide or last)
            arrays = direct.learner.policy_arrays()
            counts = {
                'step': steps,
                'seconds': seconds,
                'attempts': direct.practice.attempts,
                'practice_successes': direct.practice.successes,
                'training_resets': direct.resets,
                'practice_reward': direct.reward,
                'metrics': metrics,
            }
            evaluation = evaluators.submit(arrays, wide=wide)
            under_way.append((Evaluated(counts, arrays), evaluation))
            next_evaluation += config.every
            next_wide += config.wide.every if wide else 0
        while under_way and (last or under_way[0][1].done()):
            (counts, arrays), evaluation = under_way.popleft()
            outcome, success = evaluation.results()
            yield Evaluated(counts | {'outcome': outcome, 'wide': success}, arrays)
        if last:
            return
        start = time.process_time()
        metrics = metrics | direct.train(direct.collect())
        seconds += time.process_time() - start
