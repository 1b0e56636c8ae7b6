"""The policy as it runs on the robot: a tanh-Gaussian MLP in NumPy.

For 256x256 one action takes about 9 us in NumPy and 90 us in torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mbarl_ros.control.model import has_model, model_shapes
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.transitions import BACKWARD, EXPLORE, FORWARD, PHASES
from mbarl_ros.storage.wire import WireError, check_floats, pack, require, unpack, whole_number
from mbarl_ros.task import Task

LOG_STD_BOUNDS = (-10.0, 2.0)
DEPLOYED = 'deployed'
SUCCESS_CRITIC = 'success'
GOALS = 'backward_goals'
STARTS, START_DISTANCE = 'starts/state', 'starts/distance'
MAX_CANDIDATES = 64
_MAX_HEADER_BYTES = 16384  # of a policy message; names, shapes and metadata take about 2000


def policy_names(agent: AgentConfig) -> tuple[str, ...]:
    """Policies of a policy message: one for each phase or one for all, and the deployed one."""
    own = [PHASES[phase] for phase in phases(agent) if phase == FORWARD or not agent.shared]
    return (*own, DEPLOYED)


def phases(agent: AgentConfig) -> tuple[int, ...]:
    """Phases of an agent's practice, in their order."""
    backward = () if agent.backward == 'none' else (BACKWARD,)
    return (FORWARD, *backward, *((EXPLORE,) if agent.exploration else ()))


class Network:
    """A ReLU MLP of an observation, from the arrays of a policy message."""

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str) -> None:
        """Read the layers ``NAME/0/weight``, ``NAME/0/bias``, ... and ``offset``, ``scale``."""
        self._offset = arrays['offset'].astype(np.float32)
        self._inverse_scale = (1.0 / arrays['scale']).astype(np.float32)
        self._layers: list[tuple[np.ndarray, np.ndarray]] = []
        while f'{name}/{len(self._layers)}/weight' in arrays:
            prefix = f'{name}/{len(self._layers)}'
            self._layers.append((arrays[f'{prefix}/weight'], arrays[f'{prefix}/bias']))

    def output(self, observation: np.ndarray) -> np.ndarray:
        """Last layer [..., outputs] for observations [..., O]."""
        x = (observation - self._offset) * self._inverse_scale
        for weight, bias in self._layers[:-1]:
            x = np.maximum(x @ weight + bias, 0.0)
        weight, bias = self._layers[-1]
        return x @ weight + bias


class Policy(Network):
    """``tanh(mean(s) + exp(log_std(s)) * noise)`` with a ReLU MLP for mean and log_std."""

    def _head(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, log_std = np.split(self.output(observation), 2, axis=-1)
        return mean, log_std

    def begin(self, problems: int, *, reseed: bool = False) -> None:
        """New episodes begin, ``problems`` side by side; ``reseed``: with the same random numbers.

        Only a planner keeps something from step to step.
        """

    def keep(self, mask: np.ndarray) -> None:
        """Only the episodes of ``mask``, bool [problems], go on."""

    def mean_action(self, observation: np.ndarray) -> np.ndarray:
        """Deterministic action [..., A] in [-1, 1] for observations [..., O]."""
        return np.tanh(self._head(observation)[0])

    def sample(self, observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Stochastic action [..., A] for standard normal ``noise`` [..., A]."""
        mean, log_std = self._head(observation)
        return np.tanh(mean + np.exp(np.clip(log_std, *LOG_STD_BOUNDS)) * noise)


def policy_shapes(
    names: tuple[str, ...], observation_dim: int, action_dim: int, hidden: list[int]
) -> dict[str, tuple[int, ...]]:
    """Shape of each array of a policy message with the policies ``names``."""
    shapes: dict[str, tuple[int, ...]] = {'offset': (observation_dim,), 'scale': (observation_dim,)}
    for name in names:
        shapes |= _layer_shapes(name, [observation_dim, *hidden, 2 * action_dim])
    return shapes


def phase_shapes(
    task: Task, agent: AgentConfig, *, planning: bool = False
) -> dict[str, tuple[int | None, ...]]:
    """Shape of the arrays that a policy message has for phases, beside the policies.

    ``backward_goals`` [candidates, goals, state_dim]: states to go back to before the next attempt
    at each of the task's goals (1 where it has none). ``starts/state`` [n, state_dim], scaled: in
    which demonstrations start; a backward phase ends within ``starts/distance`` [1] of one.
    ``success``: network of RISC's critic.

    :param planning: with the arrays that planning needs (:func:`~.model.model_shapes`)
    """
    shapes: dict[str, tuple[int | None, ...]] = {}
    if planning:
        shapes |= model_shapes(task, agent)
    if agent.reaches:
        shapes[GOALS] = (None, max(len(task.goals), 1), task.state_dim)
    if agent.returns_to_starts:
        shapes |= {STARTS: (None, task.state_dim), START_DISTANCE: (1,)}
    if agent.switching:
        shapes |= _layer_shapes(SUCCESS_CRITIC, [task.observation_dim, *agent.sac.hidden, 1])
    return shapes


def _layer_shapes(name: str, sizes: list[int]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        shapes[f'{name}/{layer}/weight'] = (rows, columns)
        shapes[f'{name}/{layer}/bias'] = (columns,)
    return shapes


def check_policy(
    arrays: Mapping[str, np.ndarray],
    names: tuple[str, ...],
    observation_dim: int,
    action_dim: int,
    hidden: list[int],
    phase_arrays: Mapping[str, tuple[int | None, ...]] | None = None,
) -> None:
    """Refuse weights of another layout or type, or with values that are not finite.

    :param phase_arrays: shapes of :func:`phase_shapes`
    :raises WireError: naming the array at fault.
    """
    shapes = policy_shapes(names, observation_dim, action_dim, hidden)
    require(arrays, {**shapes, **(phase_arrays or {})}, 'policy')
    for name in {GOALS, STARTS} & arrays.keys():
        if not 1 <= len(arrays[name]) <= MAX_CANDIDATES:
            raise WireError(
                f"policy: array '{name}' has {len(arrays[name])} candidates, not 1 to "
                f'{MAX_CANDIDATES}'
            )
    check_floats(arrays, 'policy')


def pack_policy(
    arrays: Mapping[str, np.ndarray],
    task: Task,
    agent: AgentConfig,
    steps: int,
    applies_from: int,
) -> bytes:
    """Policy message of weights trained on ``steps`` transitions; :func:`unpack_policy` reads it.

    :param applies_from: number of transitions from which on a lockstep run acts with it
    """
    meta = {
        'spec_hash': task.spec_hash(agent),
        'version': steps,
        'environment_steps': steps,
        'applies_from': applies_from,
        'valid_until': steps + 2 * agent.chunk,
    }
    return pack(arrays, meta, 'policy')


def unpack_policy(
    data: bytes, task: Task, agent: AgentConfig
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Parse and check a policy message: arrays, and its whole-number metadata.

    The metadata are ``version``, ``environment_steps``, ``applies_from`` and ``valid_until``.

    :raises WireError: anything but weights for this task and agent.
    """
    names = policy_names(agent)
    phase_arrays = phase_shapes(task, agent, planning=agent.planner is not None)
    sizes = (task.observation_dim, task.action_dim, agent.sac.hidden)
    shapes = {**policy_shapes(names, *sizes), **phase_arrays}.values()
    entries = sum(math.prod(n or MAX_CANDIDATES for n in shape) for shape in shapes)
    arrays, meta = unpack(data, 'policy', max_bytes=_MAX_HEADER_BYTES + 4 * entries)
    spec = task.spec_hash(agent)
    if meta.get('spec_hash') != spec:
        raise WireError(f"policy is for '{meta.get('spec_hash')}', this side is '{spec}'")
    # A preset that plans has no model before its first fit, and none after a warm start.
    planning = agent.planner is not None and has_model(arrays)
    check_policy(arrays, names, *sizes, phase_shapes(task, agent, planning=planning))
    keys = ('version', 'environment_steps', 'applies_from', 'valid_until')
    numbers = {key: value for key in keys if whole_number(value := meta.get(key))}
    if len(numbers) < len(keys):
        given = {key: meta.get(key) for key in keys}
        raise WireError(f'policy: {", ".join(keys)} must be whole numbers, got {given}')
    version, steps, applies_from, valid_until = numbers.values()
    horizon = version + 2 * agent.chunk
    if valid_until > horizon and not (valid_until - version) % 2:
        raise WireError(
            f"policy is of an agent with key 'chunk' {(valid_until - version) // 2}, this side has "
            f'{agent.chunk}'
        )
    if steps != version or applies_from > horizon or not version <= valid_until <= horizon:
        raise WireError(f'policy: {numbers} contradict each other')
    return arrays, numbers


def read_policy(
    path: str | Path, task: Task, agent: AgentConfig
) -> tuple[dict[str, np.ndarray], int]:
    """Weights of a policy file, and the environment steps after which they were trained.

    :raises ConfigError: it cannot be read, or is not for this task and agent.
    """
    try:
        arrays, numbers = unpack_policy(Path(path).expanduser().read_bytes(), task, agent)
        return arrays, numbers['environment_steps']
    except (OSError, WireError) as error:
        raise ConfigError(f"parameter 'policy': {path}: {error}") from error
