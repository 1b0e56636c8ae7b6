"""The whole agent in one process, without ROS: the same parts and lockstep as in the graph."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mbarl_ros.control.phases import Practice
from mbarl_ros.learning.classifier import ClassifierTrainer
from mbarl_ros.learning.learner import Learner, train_together
from mbarl_ros.learning.sac_stack import stacked
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
        self.task, self.agent, self.seed = task, agent, seed
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
        metrics, updates = self.receive(transitions)
        metrics |= self.learner.train(updates)
        self.keep_policy()
        return metrics

    def receive(self, transitions: Transitions) -> tuple[dict[str, float], int]:
        """Give a chunk to classifier and learner; metrics, and how many updates are due for it."""
        metrics = {}
        steps = self.learner.environment_steps + len(transitions['sequence'])
        if self.classifier is not None:
            self.classifier.add(transitions)
            metrics = self.classifier.train(self.agent.classifier_steps_due(steps))
            self.learner.set_classifier(self.classifier.arrays())
        self.learner.add(transitions)
        return metrics, self.agent.updates_due(steps, len(transitions['sequence']))

    def keep_policy(self) -> None:
        """Keep the present policy for the chunk after next."""
        self._weights.append(self.learner.policy_arrays())


class Evaluated(NamedTuple):
    """What ``evaluations.jsonl`` says about one evaluation, and the policy that it was of.

    ``record``: ``step``, ``outcome`` of the deployed policy, ``wide`` (its success rate from the
    wide starts, None where that was not due), ``seconds`` (processor time of practice and training)
    and the counts of practice.
    """

    record: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Schedule:
    """The evaluations of one run: before training, at the times of the task, and at the end."""

    def __init__(self, direct: DirectRun, budget: int, evaluators: Evaluators) -> None:
        """For ``budget`` environment steps of practice."""
        self._direct, self._budget, self._evaluators = direct, budget, evaluators
        self._next = self._next_wide = 0
        self._under_way: deque[tuple[Evaluated, Evaluation]] = deque()

    @property
    def over(self) -> bool:
        """Whether the run has come to its end."""
        return self._direct.practice.steps >= self._budget

    def due(self, seconds: float, metrics: Mapping[str, float]) -> Iterator[Evaluated]:
        """Begin the evaluation that is due now; yields, in order, those that are finished.

        At the end of the run it waits for all. Practice goes on while they are under way.

        :param seconds: processor time of practice and training so far
        :param metrics: latest of the learner
        """
        direct, config = self._direct, self._direct.task.config.evaluation
        steps = direct.practice.steps
        if steps >= self._next or self.over:
            wide = config.wide is not None and (steps >= self._next_wide or self.over)
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
            evaluation = self._evaluators.submit(arrays, seed=direct.seed, wide=wide)
            self._under_way.append((Evaluated(counts, arrays), evaluation))
            self._next += config.every
            self._next_wide += config.wide.every if wide else 0
        while self._under_way and (self.over or self._under_way[0][1].done()):
            (counts, arrays), evaluation = self._under_way.popleft()
            outcome, success = evaluation.results()
            yield Evaluated(counts | {'outcome': outcome, 'wide': success}, arrays)


def run(direct: DirectRun, budget: int, evaluators: Evaluators) -> Iterator[Evaluated]:
    """Practise for ``budget`` environment steps; yields the evaluations, in order."""
    schedule = Schedule(direct, budget, evaluators)
    seconds, metrics = 0.0, {}
    while True:
        yield from schedule.due(seconds, metrics)
        if schedule.over:
            return
        start = time.process_time()
        metrics = metrics | direct.train(direct.collect())
        seconds += time.process_time() - start


def run_stacked(
    runs: Sequence[DirectRun], budget: int, evaluators: Evaluators
) -> Iterator[tuple[int, Evaluated]]:
    """Practise for ``budget`` steps in each of several seeds, whose policies are trained as one.

    Each seed has its own world, data, model and random numbers; the gradient steps of all policies
    are one stack (:mod:`mbarl_ros.learning.sac_stack`). Only rounding differs from runs alone.

    :param runs: of the same task and preset, new ones
    :returns: number of a run, and its evaluation; processor times are shares of the whole
    """
    schedules = [Schedule(direct, budget, evaluators) for direct in runs]
    learners = [direct.learner for direct in runs]
    sac, seconds = stacked([learner.sac for learner in learners]), 0.0
    metrics: list[dict[str, float]] = [{} for _ in runs]
    while True:
        for number, schedule in enumerate(schedules):
            evaluations = schedule.due(seconds / len(runs), metrics[number])
            yield from ((number, evaluated) for evaluated in evaluations)
        if schedules[0].over:
            return
        start = time.process_time()
        received = [direct.receive(direct.collect()) for direct in runs]
        parts = train_together(sac, learners, received[0][1])
        for number, ((of_classifier, _), of_learner) in enumerate(
            zip(received, parts, strict=True)
        ):
            metrics[number] = metrics[number] | of_classifier | of_learner
            runs[number].keep_policy()
        seconds += time.process_time() - start
