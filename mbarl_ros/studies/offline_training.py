"""Parts of the offline study: uniform data, a model of them, a policy of imagined practice only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mbarl_ros.control.policy import DEPLOYED, Policy
from mbarl_ros.learning.batch import Batch
from mbarl_ros.learning.dynamics import Ensemble
from mbarl_ros.learning.evaluation import attempts
from mbarl_ros.learning.holdout import block_holdout_mask
from mbarl_ros.learning.imagination import rollout
from mbarl_ros.learning.replay import Replay
from mbarl_ros.learning.sac import Sac
from mbarl_ros.schema.agent import SacConfig
from mbarl_ros.schema.model import ModelConfig
from mbarl_ros.storage.transitions import PHASES
from mbarl_ros.task import Task

Rows = dict[str, np.ndarray]

# What the reward knows about the room (m): the wall along y = 0 and where the disc's centre can
# pass it, beside the task's goal.
GATE = (0.85, 1.15)
WALL_DISTANCE = 0.2  # of the centre from y = 0 where the disc touches the wall
# Progress counts up to what the disc can drive in a step, so that a model that lets it jump through
# the wall does not pay.
MAX_PROGRESS = 0.15
WAY = 5.0  # m, about the longest way: the progress over it is worth as much as success


def way_to_goal(task: Task, observation: np.ndarray) -> np.ndarray:
    """Length (m) [...] of the shortest way through the gap to the goal's centre.

    The wall is taken as thin: from below it, the way is a straight line where that leads through
    the gap, else it bends at the nearer end of the gap.
    """
    goal = np.array(task.config.success.target)
    x, y = observation[..., 0], observation[..., 1]
    below = np.maximum(-y, 0.0)
    # where the straight line crosses y = 0
    crossing = x + (goal[0] - x) * below / (below + goal[1])
    gate = np.clip(crossing, *GATE)
    through = np.hypot(x - gate, below) + np.hypot(gate - goal[0], goal[1])
    return np.where(y < 0, through, np.hypot(x - goal[0], y - goal[1]))


def dense_reward(task: Task, observation: np.ndarray, next_observation: np.ndarray) -> np.ndarray:
    """Reward, float32 [...]: progress on the way to the goal, in units of ``WAY``, plus success."""
    progress = way_to_goal(task, observation) - way_to_goal(task, next_observation)
    progress = np.clip(progress, -MAX_PROGRESS, MAX_PROGRESS) / WAY
    return (progress + task.success(next_observation)).astype(np.float32)


RETURN_RANGE = np.array([[-1.0, 2.0]])


def uniform_transitions(task: Task, world: Any, count: int, rng: np.random.Generator) -> Rows:
    """Single steps from uniformly drawn states with uniformly drawn actions.

    The first ``n`` of a longer sample are those of a shorter one. States in which the world refuses
    to be are drawn again.
    """
    low, high = task.state_low, task.state_high
    rows: dict[str, list[np.ndarray]] = {'observation': [], 'action': [], 'next_observation': []}
    while len(rows['action']) < count:
        state, action = rng.uniform(low, high), rng.uniform(-1.0, 1.0, task.action_dim)
        try:
            before = task.observation(world.set_state(state))
        except ValueError:
            continue
        rows['observation'].append(before)
        rows['action'].append(action.astype(np.float32))
        rows['next_observation'].append(task.observation(world.step(task.command(action))))
    return {name: np.array(values) for name, values in rows.items()}


def fit_model(task: Task, config: ModelConfig, rows: Rows, seed: int) -> Ensemble:
    """Model of these transitions; a tenth of them decides when to stop, as on the robot."""
    ensemble = Ensemble(task, config, seed)
    held_out = block_holdout_mask(np.arange(len(rows['action'])))
    train, validation = (
        {name: values[mask] for name, values in rows.items()} for mask in (~held_out, held_out)
    )
    ensemble.fit(train, validation, config.max_gradient_steps)
    return ensemble


def one_step_error(task: Task, ensemble: Ensemble, rows: Rows) -> np.ndarray:
    """Distance (m) [n] of the model's sampled next position from the true one."""
    count = len(rows['action']) // len(ensemble.elites) * len(ensemble.elites)
    state, action = (torch.from_numpy(rows[key][:count]) for key in ('observation', 'action'))
    predicted = ensemble.step(state, action)[0].numpy()
    return task.state_distance(predicted, rows['next_observation'][:count])


def open_loop_error(
    task: Task, ensemble: Ensemble, demonstrations: Mapping[str, np.ndarray], steps: int
) -> np.ndarray:
    """Mean distance (m) [steps] from a demonstration, when its actions are replayed in the model.

    Over all forward demonstrations and all states in them with ``steps`` steps to go.
    """
    episode_ends = np.flatnonzero(demonstrations['truncated'] | demonstrations['terminated'])
    starts, first = [], 0
    for end in episode_ends:
        if demonstrations['phase'][end] == 0:
            starts.append(np.arange(first, max(first, end + 2 - steps)))
        first = end + 1
    index = np.concatenate(starts)
    index = np.tile(index, len(ensemble.elites))
    state = demonstrations['observation'][index, : task.state_dim]
    errors = []
    for step in range(steps):
        action = torch.from_numpy(demonstrations['action'][index + step])
        state = ensemble.step(torch.from_numpy(state), action)[0].numpy()
        true = demonstrations['next_observation'][index + step, : task.state_dim]
        errors.append(task.state_distance(state, true).mean())
    return np.array(errors)


@dataclass(frozen=True)
class Training:
    """How a policy is trained on imagined practice only."""

    sac: SacConfig
    discount: float
    rollout_length: int
    iterations: int
    transitions: int  # imagined in each iteration, whatever the rollout length
    updates: int  # gradient steps in each iteration
    kept_iterations: int  # whose transitions are drawn from


def train_policy(
    task: Task,
    ensemble: Ensemble,
    starts: np.ndarray,
    training: Training,
    seed: int,
    report_progress: Callable[[float], None] = lambda share: None,
) -> tuple[Policy, np.ndarray]:
    """Soft actor-critic on rollouts in the model from states ``starts`` [n, state_dim].

    Alternates between rollouts of the present policy and gradient steps on the latest rollouts. It
    never sees a real transition.

    :returns: the deployed policy, and all imagined positions [n, 2]
    """
    rng = np.random.default_rng([seed, 3])
    sac = Sac(
        training.sac, PHASES[:1], task.pairwise_differences, task.action_dim, RETURN_RANGE, seed
    )
    capacity = training.kept_iterations * training.transitions
    buffer = Replay(capacity, task.observation_dim, task.action_dim)
    elites = len(ensemble.elites)
    count = -(-training.transitions // (training.rollout_length * elites)) * elites
    visited = []
    for iteration in range(training.iterations):
        drawn = starts[rng.integers(len(starts), size=count)][None]
        ((rows, ends),) = rollout(task, ensemble, sac, drawn, training.rollout_length)
        buffer.add(rows, ends)
        visited.append(rows['next_observation'][:, :2])
        order = buffer.sample(rng, (training.updates, training.sac.batch_size))
        batches = _batches(task, buffer.rows(order), training.discount)
        for number in range(training.updates):
            sac.update(batches[number])
        report_progress((iteration + 1) / training.iterations)
    arrays = {'offset': task.offset, 'scale': task.scale, **sac.policy_arrays()}
    return Policy(arrays, DEPLOYED), np.concatenate(visited)


def _batches(task: Task, rows: Rows, discount: float) -> Batch:
    """Batches [updates, 1, batch, ...]; a rollout's last value is bootstrapped unless it ends."""
    reward = dense_reward(task, rows['observation'], rows['next_observation'])
    fields = {
        'observation': task.scaled(rows['observation']),
        'action': rows['action'],
        'next_observation': task.scaled(rows['next_observation']),
        'reward': reward,
        'discount': (discount * (rows['terminated'] == 0)).astype(np.float32),
        'return_lower_bound': np.full(reward.shape, -np.inf, np.float32),
    }
    return Batch(**{name: torch.from_numpy(value[:, None]) for name, value in fields.items()})


def success_from_corner(task: Task, world: Any, policy: Policy, episodes: int) -> float:
    """Deployed success from training starts ``world.reset()``, within the task's horizon."""
    reached = []
    for number in range(episodes):
        succeeded, _ = attempts(task, [world], policy, world.reset()[None], np.array([number]))
        reached.append(succeeded[0])
    return float(np.mean(reached))


def at_the_wall(observation: np.ndarray) -> np.ndarray:
    """Whether the disc is so near to the dividing wall that one step may touch it, bool [...]."""
    return np.abs(observation[..., 1]) < WALL_DISTANCE + MAX_PROGRESS


def wall_leak(task: Task, ensemble: Ensemble, rng: np.random.Generator) -> float:
    """Share of rollouts that pass through the closed wall in the model, 0 in truth.

    Discs in front of the wall, left of the gap, push against it for two seconds.
    """
    count = 200 * len(ensemble.elites)
    state = np.zeros((count, task.state_dim), np.float32)
    state[:, 0] = rng.uniform(task.state_low[0] + 0.2, GATE[0] - 0.3, count)
    state[:, 1] = -WALL_DISTANCE - 0.05
    push = torch.tensor([0.0, 1.0]).expand(count, -1)
    for _ in range(20):
        state = ensemble.step(torch.from_numpy(state), push)[0].numpy()
    return float((state[:, 1] > WALL_DISTANCE).mean())
