"""MEDAL's state classifier: demonstration states against states of the backward phases.

Sharma et al. 2022, "A State-Distribution Matching Approach to Non-Episodic Reinforcement
Learning": the backward policy maximises -log(1 - C(s')), C is trained by cross-entropy on
inputs and labels mixed by mixup. Unlike in the paper, half of the negatives are drawn anywhere in
the range of the observation, so that C is low where nobody has been: a policy that practises in a
model would find such places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mbarl_ros.learning.networks import layer_arrays, mlp, stacked_mlp
from mbarl_ros.learning.optimiser import Adam
from mbarl_ros.learning.replay import Replay
from mbarl_ros.learning.state_arrays import (
    Arrays,
    generator_arrays,
    load_generator,
    load_tensors,
    tensor_arrays,
)
from mbarl_ros.learning.torch_setup import set_up_torch
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.storage.transitions import BACKWARD, FORWARD, human_forward_rows, select
from mbarl_ros.storage.wire import WireError, check_floats, pack, require, unpack, whole_number
from mbarl_ros.task import Task

# The reward -log(1 - C) is unbounded; it is capped at 5, which is C = 0.993. Its value at C = 0.5
# is subtracted: the best policy stays the same (a backward return never ends), but values need
# not first climb from 0 to there while those of unvisited states lag behind.
MIN_REWARD = -math.log(2.0)
MAX_REWARD = 5.0 + MIN_REWARD
_MAX_HEADER_BYTES = 4096  # of a classifier message; names, shapes and metadata take about 500


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
    arrays, meta = unpack(data, 'classifier', max_bytes=_MAX_HEADER_BYTES + 4 * entries)
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


def classifier_loss(logit: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of C with (mixed) labels, a scalar (Sharma et al. 2022)."""
    return functional.binary_cross_entropy_with_logits(logit, target)


def mixup(inputs: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Inputs [n, entries] and labels [n] mixed with those of random partners (Zhang et al. 2018).

    Shares are uniform, which is Beta(1, 1).
    """
    partner = torch.from_numpy(rng.permutation(len(inputs)))
    share = torch.from_numpy(rng.random((len(inputs), 1)).astype(np.float32))
    mixed = torch.lerp(inputs[partner], inputs, share)
    return mixed, torch.lerp(labels[partner], labels, share[:, 0])


class ClassifierTrainer:
    """Trains C on demonstrated and visited states, for the node and for studies without ROS."""

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
        self._free = np.flatnonzero(~task.binary)  # entries of the state that may be drawn
        sizes = [task.observation_dim, self.config.hidden, 1]
        self._parameters = stacked_mlp(1, sizes, self._generator)
        self._optimiser = Adam(self._parameters, self.config.learning_rate)
        self.steps = 0

    def add(self, transitions: Mapping[str, np.ndarray]) -> None:
        """Add transitions: backward steps are negatives, a person's forward steps positives."""
        backward = np.asarray(transitions['phase']) == BACKWARD
        demonstrated = select(transitions, human_forward_rows(transitions))['next_observation']
        if len(demonstrated):
            self._positives = torch.cat([self._positives, self._inputs(demonstrated)])
        if backward.any():
            self._visited.add({name: array[backward] for name, array in transitions.items()})

    def train(self, steps: int) -> dict[str, float]:
        """Do ``steps`` gradient steps, none before there are negatives; mean metrics."""
        set_up_torch()
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

    def _train_step(self) -> tuple[Tensor, Tensor]:
        half = self.config.batch_size
        positives = self._positives[self._rng.integers(len(self._positives), size=half)]
        rows = self._visited.rows(self._visited.sample(self._rng, (half,)))
        negatives = self._inputs(rows['next_observation'])
        anywhere = self._rng.uniform(-1.0, 1.0, (half // 2, len(self._free)))
        negatives[: half // 2, self._free] = torch.from_numpy(anywhere.astype(np.float32))
        inputs = torch.cat([positives, negatives])
        labels = torch.cat([torch.ones(half), torch.zeros(half)])
        mixed, target = mixup(inputs, labels, self._rng)
        logit = mlp(self._parameters, mixed[None])[0, :, 0]
        loss = classifier_loss(logit, target)
        self._optimiser.minimise(loss)
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

    def _inputs(self, observation: np.ndarray) -> Tensor:
        scaled = self._task.scaled(np.asarray(observation, np.float32))
        return torch.from_numpy(scaled)
