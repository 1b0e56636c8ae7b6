"""The learned dynamics model and value as they run on the robot: NumPy, for planning.

The learner trains both in torch (:mod:`mbarl_ros.learning.dynamics`, :mod:`~.learning.sac`) and
sends them with the policy; planning needs only predicted means, no gradients.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np

from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.model import ModelConfig
from mbarl_ros.task import Task

NORM_EPSILON = 1e-5  # as torch.nn.LayerNorm
MODEL, CRITICS = 'model', 'critics'
_CHANGE_SCALE = f'{MODEL}/change_scale'
_REWARD_BINARY = f'{MODEL}/reward_binary'


class ModelLayout:
    """Which entries of a task's state the dynamics model sees and predicts.

    Entries that a task lists twice are modelled once. Where the task's reward is not a known
    function it is one more predicted entry, which starts from 0 and has no limits.

    ``index`` [modelled]: entries of the state that are modelled; ``expand`` [state_dim]: from these
    back to the state. ``binary``, ``low``, ``high`` [predicted]. ``offset``, ``scale`` [modelled].
    ``pairwise_differences`` [pairs, modelled]. ``sizes`` of the networks' layers: the outputs are
    the mean change of each predicted entry, or the logit of a binary one, then as many log
    variances, then as many logits of whether the entry moves at all.
    """

    def __init__(self, task: Task, config: ModelConfig) -> None:
        """Read the layout of a task."""
        columns = task.config.columns
        names = [column.name for column in columns]
        # `attached` of the tabletop is listed twice: model the first, copy it to the second
        self.index = np.array([i for i, name in enumerate(names) if names.index(name) == i])
        self.expand = np.array([list(self.index).index(names.index(name)) for name in names])
        self.models_reward = not task.reward_known
        reward = [math.inf] * self.models_reward
        self.binary = np.array([*task.binary[self.index], *[False] * self.models_reward])
        limited = np.array([columns[i].limited for i in self.index])
        low = np.where(limited, task.state_low[self.index], -math.inf)
        high = np.where(limited, task.state_high[self.index], math.inf)
        self.low = np.array([*low, *(-x for x in reward)], np.float32)
        self.high = np.array([*high, *reward], np.float32)
        self.offset, self.scale = task.offset[self.index], task.scale[self.index]
        self.pairwise_differences = task.state_pairwise_differences[:, self.index]
        self.features = sum(self.pairwise_differences.shape) * (1 + 2 * config.fourier_features)
        self.sizes = [self.features + task.action_dim, *config.hidden, 3 * len(self.binary)]


def fourier_features(inputs: np.ndarray, frequencies: int) -> np.ndarray:
    """As :func:`mbarl_ros.learning.networks.with_fourier_features`, in NumPy."""
    if not frequencies:
        return inputs
    angles = [np.float32(math.pi * 2.0**k) * inputs for k in range(frequencies)]
    return np.concatenate([inputs, *(f(x) for x in angles for f in (np.sin, np.cos))], -1)


def _layers(arrays: Mapping[str, np.ndarray], name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    layers: list[tuple[np.ndarray, np.ndarray]] = []
    while f'{name}/{len(layers)}/weight' in arrays:
        prefix = f'{name}/{len(layers)}'
        layers.append((arrays[f'{prefix}/weight'], arrays[f'{prefix}/bias']))
    return layers


class LearnedModel:
    """Mean prediction of the elites of a dynamics ensemble, from the arrays of a policy message."""

    def __init__(self, arrays: Mapping[str, np.ndarray], task: Task, config: ModelConfig) -> None:
        """Read ``model/LAYER/weight`` [elites, in, out], biases [elites, 1, out] and the scales."""
        self.layout = layout = ModelLayout(task, config)
        self._fourier_features = config.fourier_features
        *hidden, (weight, bias) = _layers(arrays, MODEL)
        outputs = len(layout.binary)
        needed = np.r_[:outputs, 2 * outputs : 3 * outputs]  # without variances
        self._hidden = hidden[1:]
        self._last = weight[..., needed], bias[..., needed]
        self.elites = len(weight)
        first, self._first_bias = hidden[0]
        self._state_weight, self._action_weight = np.split(first, [layout.features], axis=1)
        if not self._fourier_features:
            self._fold_normaliser()
        self._change_scale = arrays[_CHANGE_SCALE]
        self._binary = layout.binary.copy()
        if layout.models_reward:
            self._binary[-1] = arrays[_REWARD_BINARY][0] > 0
        self._binary_index = np.flatnonzero(self._binary[: len(layout.index)])
        self._low, self._high = (limit[: len(layout.index)] for limit in (layout.low, layout.high))
        self._whole = len(layout.index) == len(layout.expand)

    def _fold_normaliser(self) -> None:
        """Let the first layer take states in physical units: both maps are linear."""
        layout, weight = self.layout, self._state_weight
        entries = len(layout.index)
        weight = weight[:, :entries] + np.matmul(layout.pairwise_differences.T, weight[:, entries:])
        self._state_weight = weight / layout.scale[:, None]
        self._first_bias = self._first_bias - np.matmul(layout.offset, self._state_weight)[:, None]

    def step(self, state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Next states [elites, n, state_dim] in physical units, and rewards [elites, n].

        Row i of elite e is predicted by this elite. The reward is None where the task knows its
        reward function; a reward that is 0 or 1 is predicted by its probability.

        :param state: [elites, n, state_dim]
        :param action: [elites, n, action_dim] in [-1, 1]
        """
        known = state if self._whole else state[..., self.layout.index]
        x = np.matmul(self._state_inputs(known), self._state_weight)
        x += np.matmul(action, self._action_weight)
        x += self._first_bias
        _silu(x)
        for weight, bias in self._hidden:
            x = np.matmul(x, weight)
            x += bias
            _silu(x)
        output = np.matmul(x, self._last[0])
        output += self._last[1]
        output, moves = np.split(output, 2, axis=-1)
        output *= (moves > 0) | self._binary
        next_state = output[..., : known.shape[-1]] * self._change_scale[: known.shape[-1]]
        next_state += known
        np.clip(next_state, self._low, self._high, out=next_state)
        for entry in self._binary_index:
            high = output[..., entry] > 0
            next_state[..., entry] = np.where(high, self._high[entry], self._low[entry])
        whole = next_state if self._whole else next_state[..., self.layout.expand]
        return whole, self._reward(output) if self.layout.models_reward else None

    def _state_inputs(self, known: np.ndarray) -> np.ndarray:
        if not self._fourier_features:
            return known
        layout = self.layout
        scaled = (known - layout.offset) / layout.scale
        if len(layout.pairwise_differences):
            differences = np.matmul(scaled, layout.pairwise_differences.T)
            scaled = np.concatenate([scaled, differences], -1)
        return fourier_features(scaled, self._fourier_features)

    def _reward(self, output: np.ndarray) -> np.ndarray:
        if self._binary[-1]:
            return 0.5 * (1.0 + np.tanh(0.5 * output[..., -1]))  # the sigmoid, without overflow
        return output[..., -1] * self._change_scale[-1]


class LearnedValue:
    """Least critic's value of the mean action, from the arrays of a policy message."""

    def __init__(self, arrays: Mapping[str, np.ndarray], task: Task, agent: AgentConfig) -> None:
        """Read ``critics/LAYER/weight`` [critics, in, out] and biases [critics, 1, out]."""
        self._layers = _layers(arrays, CRITICS)
        self._offset, self._inverse_scale = task.offset, (1.0 / task.scale).astype(np.float32)
        self._pairwise_differences = task.pairwise_differences
        self._fourier_features = agent.sac.fourier_features
        self._reward_scale = agent.sac.scale(task.reward_known)

    def value(self, observation: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Values [n], in units of the reward, of actions [n, A] in observations [n, O]."""
        scaled = (observation - self._offset) * self._inverse_scale
        differences = np.matmul(scaled, self._pairwise_differences.T)
        inputs = np.concatenate([scaled, differences], -1)
        x = np.concatenate([fourier_features(inputs, self._fourier_features), action], -1)
        for weight, bias in self._layers[:-1]:
            z = np.matmul(x, weight)
            z += bias
            # Layers are centred, see mbarl_ros.learning.critic_mlp: no mean to subtract.
            power = np.einsum('...i,...i->...', z, z) / z.shape[-1]
            x = np.maximum(z, 0.0, out=z)
            x *= (1.0 / np.sqrt(power + NORM_EPSILON))[..., None]
        weight, bias = self._layers[-1]
        return (np.matmul(x, weight) + bias)[..., 0].min(0) / self._reward_scale


def _silu(x: np.ndarray) -> None:
    """``x * sigmoid(x)`` in place; an overflow of exp gives the right limit, 0."""
    with np.errstate(over='ignore'):
        denominator = np.exp(-x)
    denominator += 1.0
    x /= denominator


def has_model(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether a policy message carries the model that plans need."""
    return _CHANGE_SCALE in arrays


def model_shapes(task: Task, agent: AgentConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays that planning needs beside the policies.

    ``model/...`` of the elites, and ``critics/...`` where plans end in a learned value.
    """
    assert agent.model is not None and agent.planner is not None
    layout = ModelLayout(task, agent.model)
    shapes: dict[str, tuple[int, ...]] = {_CHANGE_SCALE: (len(layout.binary),)}
    if layout.models_reward:
        shapes[_REWARD_BINARY] = (1,)
    shapes |= _stack_shapes(MODEL, agent.model.elites, layout.sizes)
    if agent.planner.terminal_value:
        entries = sum(task.pairwise_differences.shape)
        features = entries * (1 + 2 * agent.sac.fourier_features)
        sizes = [features + task.action_dim, *agent.sac.hidden, 1]
        shapes |= _stack_shapes(CRITICS, agent.sac.critics, sizes)
    return shapes


def _stack_shapes(name: str, stack: int, sizes: list[int]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        shapes[f'{name}/{layer}/weight'] = (stack, rows, columns)
        shapes[f'{name}/{layer}/bias'] = (stack, 1, columns)
    return shapes
