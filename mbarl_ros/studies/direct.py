"""The whole agent in one process, without ROS: same parts and same lockstep as the graph.

``python -m mbarl_ros.studies.direct --task pointmass --agent mbarl --seed 0 --budget 20000``
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbarl_ros.config import AgentConfig, load_agent, load_world
from mbarl_ros.control.policy import DEPLOYED, Policy
from mbarl_ros.control.practice import Practice
from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.evaluation import evaluate
from mbarl_ros.learning.classifier import ClassifierTrainer
from mbarl_ros.learning.cloning import clone
from mbarl_ros.learning.learner import Learner
from mbarl_ros.task import Task
from mbarl_ros.transitions import Transitions, stack


class DirectRun:
    """Practice, classifier and learner in lockstep.

    Chunk c is collected with the policy that was trained on chunks up to c - 2: in the graph
    collecting overlaps with training, and this loop gives the same numbers.
    """

    def __init__(
        self, task: Task, agent: AgentConfig, demonstrations: Transitions, seed: int
    ) -> None:
        """Build the world, which is placed once here, and again only where the preset says so."""
        self.task, self.agent = task, agent
        self.world = load_world(task.config, seed=seed)
        self.practice = Practice(task, agent, seed)
        self.learner = Learner(task, agent, demonstrations, seed)
        self.classifier = (
            ClassifierTrainer(task, agent, demonstrations, seed)
            if agent.backward == 'classifier'
            else None
        )
        self._state = self.world.reset()
        self.resets = 0
        self._weights = [self.learner.policy_arrays()] * 2

    def collect(self) -> Transitions:
        """Act for one chunk of real steps."""
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
        return stack(rows, self.task)

    def train(self, transitions: Transitions) -> dict[str, float]:
        """Train on one more chunk; the new weights act from the chunk after next."""
        metrics = {}
        if self.classifier is not None:
            self.classifier.add(transitions)
            steps = self.agent.chunk // self.agent.classifier.every
            metrics = self.classifier.train(steps)
            self.learner.set_classifier(self.classifier.arrays())
        self.learner.add(transitions)
        updates = round(self.agent.updates_per_step * self.agent.chunk)
        metrics |= self.learner.train(updates)
        self._weights.append(self.learner.policy_arrays())
        return metrics


def run(
    task: Task, agent: AgentConfig, demonstrations: Transitions, seed: int, budget: int
) -> Iterator[dict[str, Any]]:
    """Practise for ``budget`` steps; yields one record per evaluation, the first before training.

    ``seconds`` is the time spent on practice and training, without the evaluations.
    """
    direct = DirectRun(task, agent, demonstrations, seed)
    world = load_world(task.config, seed=seed)
    config = task.config.evaluation
    seconds, metrics, due = 0.0, {}, 0
    while True:
        if direct.practice.steps >= due:
            policy = Policy(direct.learner.policy_arrays(), DEPLOYED)
            yield {
                'step': direct.practice.steps,
                'success': evaluate(task, world, policy, config.episodes),
                'seconds': seconds,
                'attempts': direct.practice.attempts,
                'practice_successes': direct.practice.successes,
                'training_resets': direct.resets,
                **metrics,
            }
            due += config.every
        if direct.practice.steps >= budget:
            return
        begun = time.perf_counter()
        metrics = metrics | direct.train(direct.collect())
        seconds += time.perf_counter() - begun


def main(arguments: list[str] | None = None) -> None:
    """Run one seed and print a line per evaluation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--task', default='pointmass')
    parser.add_argument('--agent', default='mbarl')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--budget', type=int, help="environment steps (the task's own if absent)")
    parser.add_argument('--run-dir', type=Path, help='folder for evaluations.jsonl')
    parser.add_argument('--clone', action='store_true', help='also evaluate behaviour cloning')
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    task, agent = Task.load(options.task), load_agent(options.agent)
    if task.config.demonstrations is None:
        parser.error(f"task '{task.name}': key 'demonstrations' is not set")
    demonstrations = load_demonstrations(task.config.demonstrations, task)
    if options.clone:
        floor = Policy(clone(task, demonstrations, options.seed), DEPLOYED)
        world = load_world(task.config, seed=options.seed)
        print(f'clone {evaluate(task, world, floor, task.config.evaluation.episodes):.2f}')
    budget = options.budget or task.config.evaluation.budget
    for record in run(task, agent, demonstrations, options.seed, budget):
        shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()}
        print(json.dumps(shown), flush=True)
        if options.run_dir:
            options.run_dir.mkdir(parents=True, exist_ok=True)
            with (options.run_dir / 'evaluations.jsonl').open('a') as file:
                file.write(json.dumps(record) + '\n')


if __name__ == '__main__':
    np.seterr(over='ignore')
    main()
