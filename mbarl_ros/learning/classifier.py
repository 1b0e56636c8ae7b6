"""MEDAL's state classifier: demonstration states against states of the backward phases.

Sharma et al. 2022, "A State-Distribution Matching Approach to Non-Episodic Reinforcement
Learning": the backward policy maximises -log(1 - C(s')), C is trained by cross-entropy on
inputs and labels mixed by mixup.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from mbarl_ros.learning.networks import layer_arrays, mlp, stacked_mlp
from mbarl_ros.learning.replay import Replay
from mbarl_ros.learning.state import (
    Adam,
    Arrays,
    descend,
    fast_floats,
    generator_arrays,
    load_generator,
    load_tensors,
    tensor_arrays,
)
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.storage.transitions import BACKWARD, FORWARD, human_forward_steps
from mbarl_ros.storage.wire import WireError, check_floats, pack, require, unpack, whole_number
from mbarl_ros.task import Task

# A reward of -log(1 - C) is unbounded where C is sure; C = 0.993 is sure enough. Its value at
# C = 0.5 is subtracted: the best policy stays the same (a backward return never ends), but values
# need not first climb from 0 to there while states that were not visited lag behind.
MIN_REWARD = -math.log(2.0)
MAX_REWARD = 5.0 + MIN_REWARD
_HEADER_BYTES = 4096  # more than the names, shapes and metadata of a classifier message take


def pack_classifier(arrays: Mapping[str, np.ndarray], spec_hash: str, steps: int) -> bytes:
    """Classifier message of weights trained on ``steps`` transitions."""
    return pack(arrays, {'spec_hash': spec_hash, 'environment_steps': steps}, 'classifier')


def unpack_classifier(data: bytes, task: Task, agent: AgentConfig) -> tuple[Arrays, int]:
    """Parse and check a classifier message: arrays, and on how many transitions it was trained.

    :raises WireError: anything but weights for this task and agent.
    """
    width, hidden = task.observation_dim, agent.classifier.hidden
    shapes = {
        'offset': (width,),
        'scale': (width,),
        '0/weight': (width, hidden),
        '0/bias': (hidden,),
        '1/weight': (hidden, 1),
        '1/bias': (1,),
    }
    entries = sum(math.prod(shape) for shape in shapes.values())
    arrays, meta = unpack(data, 'classifier', max_bytes=_HEADER_BYTES + 4 * entries)
    spec = task.spec_hash(agent)
    if meta.get('spec_hash') != spec:
        raise WireError(f"classifier is for '{meta.get('spec_hash')}', this side is '{spec}'")
    require(arrays, shapes, 'classifier')
    check_floats(arrays, 'classifier')
    if not whole_number(meta.get('environment_steps')):
        raise WireError('classifier: environment_steps must be a whole number')
    return arrays, meta['environment_steps']


def logits(arrays: Mapping[str, np.ndarray], observation: np.ndarray) -> np.ndarray:
    """Logit of C [...] for observations [..., observation_dim], from a classifier message."""
    x = (np.asarray(observation, np.float32) - arrays['offset']) / arrays['scale']
    hidden = np.maximum(x @ arrays['0/weight'] + arrays['0/bias'], 0.0)
    return (hidden @ arrays['1/weight'] + arrays['1/bias'])[..., 0]


def backward_reward(logit: np.ndarray) -> np.ndarray:
    """-log(1 - C) + log(1/2), float32, capped at :data:`MAX_REWARD`, from logits of C."""
    return np.minimum(np.logaddexp(0.0, logit) + MIN_REWARD, MAX_REWARD).astype(np.float32)


class ClassifierTrainer:
    """Trains C on everything it is given; the node and the direct loop both use it."""

    def __init__(
        self, task: Task, agent: AgentConfig, demonstrations: Mapping[str, np.ndarray], seed: int
    ) -> None:
        """Positives are the states of the forward demonstrations.

        :raises ValueError: there is no forward demonstration.
        """
        self.config = agent.classifier
        forward = np.asarray(demonstrations['phase']) == FORWARD
        if not forward.any():
            raise ValueError(
                f"task '{task.name}': the classifier needs at least one forward demonstration"
            )
        self._task = task
        self._positives = self._inputs(demonstrations['next_observation'][forward])
        self._visited = Replay(agent.replay_capacity, task.observation_dim, task.action_dim)
        self._generator = torch.Generator().manual_seed(seed)
        self._rng = np.random.default_rng([seed, 3])
        sizes = [task.observation_dim, self.config.hidden, 1]
        self._parameters = stacked_mlp(1, sizes, self._generator)
        self._optimiser = Adam(self._parameters, self.config.learning_rate)
        self.steps = 0

    def add(self, transitions: Mapping[str, np.ndarray]) -> None:
        """Add transitions: backward phases are negatives, a person's forward steps positives."""
        backward = np.asarray(transitions['phase']) == BACKWARD
        shown = human_forward_steps(transitions)['next_observation']
        if len(shown):
            self._positives = torch.cat([self._positives, self._inputs(shown)])
        if backward.any():
            self._visited.add({name: array[backward] for name, array in transitions.items()})

    def train(self, steps: int) -> dict[str, float]:
        """Do ``steps`` gradient steps; without negatives there is nothing to learn yet."""
        fast_floats()
        losses, correct = [], []
        for _ in range(steps if len(self._visited) else 0):
            loss, accuracy = self._train_step()
            losses.append(loss)
            correct.append(accuracy)
        self.steps += len(losses)
        if not losses:
            return {}
        return {
            'classifier/loss': float(torch.stack(losses).mean()),
            'classifier/accuracy': float(torch.stack(correct).mean()),
        }

    def _train_step(self) -> tuple[torch.Tensor, torch.Tensor]:
        half = self.config.batch_size
        positives = self._positives[self._rng.integers(len(self._positives), size=half)]
        rows = self._visited.rows(self._visited.sample(self._rng, (half,)))
        inputs = torch.cat([positives, self._inputs(rows['next_observation'])])
        labels = torch.cat([torch.ones(half), torch.zeros(half)])
        partner = torch.from_numpy(self._rng.permutation(2 * half))
        share = torch.from_numpy(self._rng.random((2 * half, 1)).astype(np.float32))  # Beta(1, 1)
        mixed = torch.lerp(inputs[partner], inputs, share)
        target = torch.lerp(labels[partner], labels, share[:, 0])
        logit = mlp(self._parameters, mixed[None])[0, :, 0]
        loss = functional.binary_cross_entropy_with_logits(logit, target)
        descend(self._optimiser, loss)
        accuracy = ((logit.detach() > 0) == (target > 0.5)).float().mean()
        return loss.detach(), accuracy

    def arrays(self) -> Arrays:
        """The classifier message: two layers, ``offset`` and ``scale``."""
        network = {
            name.removeprefix('classifier/'): array
            for name, array in layer_arrays(self._parameters, 0, 'classifier').items()
        }
        return {**network, 'offset': self._task.offset, 'scale': self._task.scale}

    def state_dict(self) -> tuple[Arrays, dict[str, Any]]:
        """Arrays and JSON-able metadata for an exact resume; the negatives come back by add()."""
        arrays = generator_arrays('classifier', self._generator)
        arrays |= tensor_arrays('classifier/network', self._parameters)
        arrays |= tensor_arrays('classifier/adam', self._optimiser.tensors())
        return arrays, {'rng': self._rng.bit_generator.state, 'steps': self.steps}

    def load_state_dict(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        load_tensors('classifier/network', self._parameters, arrays)
        load_tensors('classifier/adam', self._optimiser.tensors(), arrays)
        load_generator('classifier', self._generator, arrays)
        self._rng.bit_generator.state = meta['rng']
        self.steps = meta['steps']

    def _inputs(self, observation: np.ndarray) -> torch.Tensor:
        scaled = self._task.scaled(np.asarray(observation, np.float32))
        return torch.from_numpy(scaled)
