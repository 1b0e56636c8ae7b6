"""Parts of the learner: dynamics, classifier, cloning, replay and checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from mbarl_ros.control.policy import Policy
from mbarl_ros.learning import checkpoint
from mbarl_ros.learning.batch import Batch
from mbarl_ros.learning.classifier import MAX_REWARD, ClassifierTrainer, backward_reward, logits
from mbarl_ros.learning.critic_mlp import (
    CriticTape,
    action_gradient,
    centre,
    feature_sums,
    parameter_gradients,
    values,
)
from mbarl_ros.learning.dynamics import Ensemble
from mbarl_ros.learning.imagination import MAX_SURPRISE
from mbarl_ros.learning.imitation import clone
from mbarl_ros.learning.networks import (
    Activation,
    Tape,
    mlp,
    mlp_gradients,
    squashed_gaussian,
    stacked_mlp,
)
from mbarl_ros.learning.relations import Relations
from mbarl_ros.learning.replay import Demonstrations, Replay
from mbarl_ros.learning.sac import Sac
from mbarl_ros.schema.agent import AgentConfig, SacConfig
from mbarl_ros.schema.model import ModelConfig
from mbarl_ros.task import Task


def pushed(task: Task, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Tabletop-like system: gripper moves with the action, a closed gripper holds."""
    rng = np.random.default_rng(seed)
    state = rng.uniform(-2, 2, (rows, 6)).astype(np.float32)
    state[:, 4:] = -1.0
    action = rng.uniform(-1, 1, (rows, 3)).astype(np.float32)
    next_state = state.copy()
    next_state[:, :2] += 0.2 * action[:, :2]
    next_state[:, 4:] = np.where(action[:, 2:] > 0, 0.0, -1.0)
    goal = np.tile(task.goals[0], (rows, 1))
    return {
        'observation': np.concatenate([state, goal], 1),
        'action': action,
        'next_observation': np.concatenate([next_state, goal], 1),
    }


@pytest.mark.slow
def test_the_ensemble_learns_a_system_and_its_held_out_error_falls() -> None:
    task = Task.load('tabletop')
    ensemble = Ensemble(task, ModelConfig(hidden=[64, 64], learning_rate=3e-3), seed=0)
    train, held_out = pushed(task, 1000, 0), pushed(task, 200, 1)
    first = ensemble.fit(train, held_out, 10)
    last = ensemble.fit(train, held_out, 400)
    for name in ('gripper_x', 'gripper_y', 'attached'):
        assert last[f'model/error/{name}'] < min(0.1, first[f'model/error/{name}'])

    state = torch.from_numpy(held_out['observation'][:198, :6])
    action = torch.from_numpy(held_out['action'][:198])
    next_state, reward, _ = ensemble.step(state, action)
    next_state = next_state.numpy()
    assert not reward.any()  # the task knows its reward function, nothing is to be learned
    expected = held_out['next_observation'][:198, :6]
    assert np.abs(next_state - expected)[:, :2].mean() < 0.03
    assert (next_state[:, 4] == next_state[:, 5]).all()  # one fact, listed twice
    assert set(np.unique(next_state[:, 4])) <= {-1.0, 0.0}
    assert (next_state[:, 4] == expected[:, 4]).mean() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize('sparse', [True, False])
def test_a_reward_that_is_not_known_is_learned(sparse: bool) -> None:
    task = Task.load('pointmass')
    task = Task(task.config.model_copy(update={'reward': 'topic:/reward'}), task.robot)
    rng = np.random.default_rng(0)

    def drawn(rows: int) -> dict[str, np.ndarray]:
        state = rng.uniform(-1, 1, (rows, 4)).astype(np.float32)
        action = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
        next_state = state + np.pad(0.1 * action, ((0, 0), (0, 2)))
        reward = (next_state[:, 0] > 0.3).astype(np.float32) if sparse else 3 * next_state[:, 0]
        return {
            'observation': state,
            'action': action,
            'next_observation': next_state,
            'reward': reward.astype(np.float32),
        }

    ensemble = Ensemble(task, ModelConfig(hidden=[64, 64]), seed=0)
    metrics = ensemble.fit(drawn(2000), drawn(200), 400)
    assert metrics['model/error/reward'] < 0.2
    new = drawn(300)
    state, action = torch.from_numpy(new['observation']), torch.from_numpy(new['action'])
    reward = ensemble.step(state, action).reward
    if sparse:
        assert set(reward.tolist()) <= {0.0, 1.0}
        assert (reward.numpy() == new['reward']).mean() > 0.9
    else:
        assert np.abs(reward.numpy() - new['reward']).mean() < 0.5

    again = Ensemble(task, ModelConfig(hidden=[64, 64]), seed=1)
    again.load_state_arrays(ensemble.state_arrays())
    np.testing.assert_array_equal(again.step(state, action)[1], ensemble.step(state, action)[1])


def double(parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    return [parameter.detach().double().requires_grad_() for parameter in parameters]


@pytest.mark.parametrize('activation', ['relu', 'silu'])
def test_a_stacked_network_is_that_of_torch_nn(activation: Activation) -> None:
    parameters = double(stacked_mlp(2, [5, 16, 3], torch.Generator().manual_seed(0)))
    inputs = torch.randn(2, 7, 5, dtype=torch.float64)
    outputs = mlp(parameters, inputs, activation)
    with torch.no_grad():
        torch.testing.assert_close(mlp(parameters, inputs, activation), outputs)
    for index in range(2):
        weights = [parameter[index] for parameter in parameters]
        hidden = getattr(functional, activation)(inputs[index] @ weights[0] + weights[1])
        torch.testing.assert_close(outputs[index], hidden @ weights[2] + weights[3])


def agree(gradients: Sequence[torch.Tensor], by_autograd: Sequence[torch.Tensor]) -> None:
    torch.testing.assert_close(list(gradients), list(by_autograd), rtol=1e-9, atol=1e-12)


def test_the_critics_hand_written_gradients_agree_with_autograd() -> None:
    """Of parameters and action, where two critics share each group of inputs."""
    generator = torch.Generator().manual_seed(0)
    parameters = double(stacked_mlp(4, [7, 16, 16, 1], generator))
    with torch.no_grad():
        centre(parameters)
    features = torch.randn(2, 9, 5, generator=generator, dtype=torch.float64)
    action = torch.randn(4, 9, 2, generator=generator, dtype=torch.float64)
    action = action[::2].repeat_interleave(2, 0).requires_grad_()

    x = torch.cat([features.repeat_interleave(2, 0), action], -1)
    for number in range(0, 4, 2):
        x = torch.baddbmm(parameters[number + 1], x, parameters[number])
        x = functional.relu(functional.layer_norm(x, x.shape[-1:]))
    expected = torch.baddbmm(parameters[5], x, parameters[4])[..., 0]
    direction = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    *of_parameters, of_action = torch.autograd.grad(
        (expected * direction).sum(), [*parameters, action]
    )
    with torch.no_grad():
        tape, each = CriticTape(), action[::2]
        outputs = values(parameters, feature_sums(parameters, features), each, tape)
        torch.testing.assert_close(outputs, expected)
        agree(parameter_gradients(parameters, tape, features, each, direction), of_parameters)
        agree([action_gradient(parameters, tape, direction, 2)], [of_action])


@pytest.mark.parametrize('activation', ['relu', 'silu'])
@pytest.mark.parametrize('outputs', [3, 40])  # products with few columns are done transposed
def test_a_networks_hand_written_gradients_agree_with_autograd(
    activation: Activation, outputs: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = double(stacked_mlp(2, [5, 16, 16, outputs], generator))
    inputs = torch.randn(2, 9, 5, generator=generator, dtype=torch.float64)
    direction = torch.randn(2, 9, outputs, generator=generator, dtype=torch.float64)
    expected = mlp(parameters, inputs, activation)
    by_autograd = torch.autograd.grad((expected * direction).sum(), parameters)
    with torch.no_grad():
        tape = Tape()
        torch.testing.assert_close(mlp(parameters, inputs, activation, tape), expected)
        agree(mlp_gradients(parameters, tape, direction, activation), by_autograd)


def test_the_gradient_of_sampled_actions_agrees_with_autograd() -> None:
    """Also where the standard deviation is at one of its limits."""
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(2, 50, 6, generator=generator).mul_(5.0).double().requires_grad_()
    sample = squashed_gaussian(output, generator)
    of_action = torch.randn(2, 50, 3, generator=generator).double()
    of_log_prob = torch.randn(2, 50, generator=generator).double()
    loss = (sample.action * of_action).sum() + (sample.log_prob * of_log_prob).sum()
    by_autograd = torch.autograd.grad(loss, [output])
    with torch.no_grad():
        gradient = sample.gradient(of_action, of_log_prob[..., None])
        # torch's softplus is linear above 20
        torch.testing.assert_close(gradient, by_autograd[0], rtol=1e-6, atol=1e-6)


def test_the_ensembles_hand_written_gradient_is_that_of_its_likelihood() -> None:
    task = Task.load('tabletop')  # changes and flags
    ensemble = Ensemble(task, ModelConfig(hidden=[16, 16]), seed=0)
    members, width = ensemble.config.members, ensemble._parameters[0].shape[1]
    inputs = torch.randn(members, 20, width)
    target = torch.where(ensemble._binary, torch.rand(members, 20, 1) > 0.5, torch.randn(5) + 3.0)
    rests = torch.rand(target.shape) < 0.3
    target = torch.where(rests & ~ensemble._binary, torch.tensor(0.0), target)
    mean, log_variance, moves = ensemble._predict(ensemble._parameters, inputs)
    weight = log_variance.detach().exp()  # of beta-NLL
    change = weight * ((mean - target).square() * (-log_variance).exp() + log_variance)
    cross_entropy = functools.partial(functional.binary_cross_entropy_with_logits, reduction='none')
    change = change * ~rests + cross_entropy(moves, (~rests).float())
    flag = cross_entropy(mean, target.clamp(0, 1))
    likelihood = torch.where(ensemble._binary, flag, change).sum(-1).mean(-1).sum()
    by_autograd = torch.autograd.grad(likelihood, ensemble._parameters)
    torch.testing.assert_close(
        ensemble._gradients(inputs, target), list(by_autograd), rtol=1e-3, atol=1e-6
    )


def test_the_classifier_tells_demonstrations_from_what_the_backward_policy_visits() -> None:
    task = Task.load('pointmass')
    rng = np.random.default_rng(0)

    def rows(centre: float, phase: int) -> dict[str, np.ndarray]:
        states = rng.normal(centre, 0.2, (300, 4)).astype(np.float32)
        return {
            'observation': states,
            'next_observation': states,
            'action': np.zeros((300, 2), np.float32),
            'phase': np.full(300, phase, np.uint8),
            'source': np.zeros(300, np.uint8),
        }

    demonstrated = rows(-1.0, 0)
    trainer = ClassifierTrainer(task, AgentConfig(name='medal'), demonstrated, 0)
    assert trainer.train(5) == {}  # nothing visited yet, nothing to learn
    trainer.add(rows(-1.0, 0))  # forward phases are no negatives
    assert trainer.train(5) == {}
    trainer.add(rows(1.0, 1))
    metrics = trainer.train(300)
    assert metrics['classifier/accuracy'] > 0.8
    near, far = logits(trainer.arrays(), np.array([[-1.0] * 4, [1.0] * 4]))
    assert near > 1.0 > -1.0 > far
    reward = backward_reward(np.array([near, far, 100.0]))
    assert reward[0] > 0 > reward[1] and reward[2] == MAX_REWARD


def test_a_clone_imitates_the_forward_demonstrations_only() -> None:
    task = Task.load('pointmass')
    rng = np.random.default_rng(0)
    observation = rng.uniform(-1, 1, (600, 4)).astype(np.float32)
    action = np.clip(0.8 * observation[:, :2], -0.7, 0.7)
    phase = (np.arange(600) >= 400).astype(np.uint8)
    action[phase == 1] *= -1  # would spoil the clone
    ended = np.arange(600) % 100 == 99
    anywhere = rng.uniform(-1, 1, (600, 4)).astype(np.float32)
    rows = {'observation': observation, 'action': action, 'next_observation': anywhere}
    rows |= {'phase': phase, 'truncated': ended, 'terminated': 0 * ended}
    arrays = clone(task, rows, 0, (64,), steps=800)
    cloned = Policy(arrays, 'deployed').mean_action(observation[:400])
    assert np.abs(cloned - action[:400]).mean() < 0.05
    with pytest.raises(ValueError, match='forward demonstration'):
        clone(task, {**rows, 'phase': phase * 0 + 1}, 0)


def test_a_full_replay_forgets_the_oldest_and_looks_ahead_in_order() -> None:
    replay = Replay(capacity=10, observation_dim=1, action_dim=1)
    for first in range(0, 26, 4):
        steps = np.arange(first, first + 4, dtype=np.float32)[:, None]
        replay.add({'observation': steps, 'next_observation': steps + 1, 'action': steps * 0})
    assert len(replay) == 10 and replay.total == 28
    np.testing.assert_array_equal(replay.held()['observation'][:, 0], np.arange(18, 28))
    rng = np.random.default_rng(0)
    order = replay.sample(rng, (500,))
    later, delay = replay.later(order, rng, mean_delay=3.0)
    now = replay.rows(order)['next_observation'][:, 0]
    np.testing.assert_array_equal(later[:, 0] - now, delay)
    assert (delay >= 0).all() and (delay > 0).any() and later.max() == 28


def test_later_states_are_of_the_same_chain_also_where_the_ring_has_wrapped() -> None:
    replay = Replay(capacity=50, observation_dim=1, action_dim=1)
    rng = np.random.default_rng(0)
    chain = 0
    for rows in (7, 1, 20, 13, 31, 80, 9):  # added in pieces, chains end anywhere or stay open
        ends = rng.random(rows) < 0.1
        chains = chain + np.append(0, np.cumsum(ends)[:-1])
        chain = int(chains[-1] + ends[-1])
        labels = chains[:, None].astype(np.float32)
        replay.add({'observation': labels, 'next_observation': labels, 'action': labels}, ends)
        held = replay.held()['observation'][:, 0]
        order = replay.sample(rng, (2000,))
        later, delay = replay.later(order, rng, mean_delay=20.0)
        np.testing.assert_array_equal(later[:, 0], held[order])
        np.testing.assert_array_equal(held[order + delay], held[order])
        at = np.arange(len(held))
        last = np.array([np.flatnonzero(held == label)[-1] for label in held])
        np.testing.assert_array_equal(replay.steps_to_end(at), last - at)


def test_lanes_of_robots_look_along_their_own_chains_also_where_the_ring_has_wrapped() -> None:
    replay = Replay(capacity=50, observation_dim=2, action_dim=1)
    rng = np.random.default_rng(1)
    chains, positions = [0, 0, 0], [0, 0, 0]
    for _ in range(60):  # lane, chain and position are in the rows
        lane, rows = int(rng.integers(3)), int(rng.integers(1, 8))
        ends = rng.random(rows) < 0.15
        chain = chains[lane] + np.append(0, np.cumsum(ends)[:-1])
        position = positions[lane] + np.arange(rows)
        chains[lane], positions[lane] = int(chain[-1] + ends[-1]), positions[lane] + rows
        labels = np.stack([10 * chain + lane, position], -1).astype(np.float32)
        replay.add({'observation': labels, 'next_observation': labels}, ends, lane=lane)
        held = replay.held()['observation']
        order = replay.sample(rng, (300,))
        later, delay = replay.later(order, rng, mean_delay=6.0)
        np.testing.assert_array_equal(later[:, 0], held[order, 0])
        np.testing.assert_array_equal(later[:, 1] - held[order, 1], delay)
        last = {label: held[held[:, 0] == label, 1].max() for label in held[:, 0]}
        following = [last[label] - position for label, position in held]
        np.testing.assert_array_equal(replay.steps_to_end(np.arange(len(held))), following)


def test_steps_join_the_chain_of_their_robot_only_where_they_go_on_from_it() -> None:
    replay = Replay(capacity=8, observation_dim=1, action_dim=1)

    def add(lane: int, *path: float) -> None:
        states = np.array(path, np.float32)[:, None]
        rows = {'observation': states[:-1], 'next_observation': states[1:]}
        no = np.zeros(len(path) - 1, bool)
        replay.add_steps(rows, no, no, state_dim=1, lane=lane)

    add(0, 0, 1, 2)
    add(1, 5, 6)
    add(0, 2, 3)
    add(1, 9, 8)  # somebody moved it
    np.testing.assert_array_equal(replay.steps_to_end(np.arange(5)), [2, 1, 0, 0, 0])
    add(0, *range(3, 9))  # now the ring has wrapped
    np.testing.assert_array_equal(replay.steps_to_end(np.arange(8)), [0, 5, 0, 4, 3, 2, 1, 0])


def test_demonstrations_tell_where_they_begin() -> None:
    states = np.arange(12, dtype=np.float32)[:, None]
    ends = np.isin(np.arange(11), [3, 4, 10])
    rows = {'observation': states[:-1], 'next_observation': states[1:], 'phase': ends * 0}
    demonstrations = Demonstrations(20, 1, 1)
    rows |= {'terminated': ends, 'truncated': ends}
    demonstrations.add_demonstrations(rows, np.zeros(11, bool), state_dim=1)
    np.testing.assert_array_equal(demonstrations.first(), [0, 4, 5])


@pytest.mark.slow
def test_what_was_attained_bounds_the_value_from_below() -> None:
    config = SacConfig(hidden=[32, 32], fourier_features=0)
    differences = np.zeros((0, 2), np.float32)
    sac = Sac(config, ('forward',), differences, 1, np.array([[0.0, 1.0]]), seed=0)
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        observation=2 * torch.rand(1, 64, 2, generator=generator) - 1,
        next_observation=2 * torch.rand(1, 64, 2, generator=generator) - 1,
        action=2 * torch.rand(1, 64, 1, generator=generator) - 1,
        reward=torch.zeros(1, 64),  # by itself a value of 0
        discount=torch.full((1, 64), 0.5),
        return_lower_bound=torch.full((1, 64), 0.8),
    )
    for _ in range(1000):
        sac.update(batch)
    assert 0.7 < float(sac.value(batch.observation).mean()) < 0.9


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / 'run' / 'checkpoint.safetensors'
    messages: list[str] = []
    with pytest.raises(FileNotFoundError):
        checkpoint.load(path, messages.append)
    for step in range(5):
        arrays = {'weights': np.full(1000, step, np.float32)}
        checkpoint.save(path, arrays, {'step': step, 'rng': {'state': 2**100}})
    newest, older, oldest = checkpoint.files(path)
    assert sorted(path.parent.iterdir()) == sorted([newest, older, oldest])
    arrays, meta = checkpoint.load(path, messages.append)
    assert meta == {'step': 4, 'rng': {'state': 2**100}} and arrays['weights'][0] == 4
    assert checkpoint.load(path, messages.append, lambda meta: meta['step'] < 4)[1]['step'] == 3
    assert 'newer than the data' in messages.pop() and not messages

    whole = newest.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],  # torn
        whole[:-5] + b'\x01' + whole[-4:],  # a flipped byte of the weights
        whole.replace(b'step', b'stop'),  # or of the counters
        b'',
    ):
        newest.write_bytes(damaged)
        assert checkpoint.load(path, messages.append)[1]['step'] == 3
        assert str(newest) in messages[-1] and older.name in messages[-1]
    newest.unlink()  # killed between two renames
    assert checkpoint.load(path, messages.append)[1]['step'] == 3
    older.write_bytes(b'')
    assert checkpoint.load(path, messages.append)[1]['step'] == 2
    oldest.write_bytes(b'')
    with pytest.raises(checkpoint.CheckpointError, match=oldest.name):
        checkpoint.load(path, messages.append)


def contact(rows: int, seed: int) -> dict[str, np.ndarray]:
    """A handle on an arc that moves with the action, beside an entry that is only noise."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-1.0, 1.0, rows)
    action = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    moved = np.clip(angle + 0.1 * action[:, 0], -1.0, 1.0)
    noise = rng.uniform(-0.5, 0.5, (2, rows))

    def state(angle: np.ndarray, noise: np.ndarray) -> np.ndarray:
        arc = [np.cos(angle), np.sin(angle), noise, 0 * angle]
        return np.stack(arc, 1).astype(np.float32)

    return {
        'observation': state(angle, noise[0]),
        'action': action,
        'next_observation': state(moved, noise[1]),
        'reward': np.zeros(rows, np.float32),
    }


@pytest.mark.slow
def test_an_entry_that_is_only_noise_does_not_distrust_the_model_of_the_others() -> None:
    task = Task.load('pointmass')
    ensemble = Ensemble(task, ModelConfig(hidden=[64, 64], fourier_features=0), seed=0)
    for _ in range(3):
        metrics = ensemble.fit(contact(1000, 0), contact(300, 1), 300)
    assert metrics['model/error/vx'] > 0.5 > 0.1 > metrics['model/error/x']  # noise, and the arc

    def trusted(rows: dict[str, np.ndarray], shift: float) -> float:
        observation = torch.from_numpy(rows['observation'] + np.float32(shift))
        surprise = ensemble.step(observation, torch.from_numpy(rows['action'])).surprise
        return float((surprise <= MAX_SURPRISE).float().mean())

    assert trusted(contact(1000, 2), 0.0) > 0.97
    assert trusted(contact(1000, 2), 3.0) < 0.3  # where nobody has been


def touched(rows: int, seed: int) -> dict[str, np.ndarray]:
    """A hand (x) that moves with the action, and takes an object (y) along where it is near."""
    rng = np.random.default_rng(seed)
    state = rng.uniform(-1.5, 1.5, (rows, 4)).astype(np.float32)
    state[:, 2:] = 0.0
    action = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    next_state = state.copy()
    next_state[:, 0] += 0.2 * action[:, 0]
    near = np.abs(state[:, 0] - state[:, 1]) < 0.3
    next_state[near, 1] += 0.2 * action[near, 0]
    reward = np.zeros(rows, np.float32)
    return {
        'observation': state, 'action': action, 'next_observation': next_state, 'reward': reward
    }  # fmt: skip


@pytest.mark.slow
def test_what_is_not_touched_rests_through_a_long_rollout() -> None:
    task = Task.load('pointmass')
    ensemble = Ensemble(task, ModelConfig(hidden=[64, 64], fourier_features=0), seed=0)
    for _ in range(3):
        ensemble.fit(touched(2000, 0), touched(300, 1), 300)
    rows = touched(300, 2)
    away = np.abs(rows['observation'][:, 0] - rows['observation'][:, 1]) > 0.6
    start = state = torch.from_numpy(rows['observation'][away])
    for _ in range(50):
        state = ensemble.step(state, torch.zeros(len(state), 2)).state
    assert float((state[:, 1] == start[:, 1]).float().mean()) > 0.95
    near = torch.zeros(100, 4)
    moved = ensemble.step(near, torch.ones(100, 2)).state[:, 1]
    assert float(moved.mean()) == pytest.approx(0.2, abs=0.03)


@pytest.mark.slow
def test_an_entry_that_rests_in_the_held_out_rows_does_not_end_the_fit_of_the_others() -> None:
    """As a gripper that only practice opens: its error there says nothing about the others."""
    task = Task.load('pointmass')
    ensemble = Ensemble(task, ModelConfig(hidden=[64, 64], fourier_features=0), seed=0)
    train, held_out = contact(1000, 0), contact(300, 1)
    train['next_observation'][:, 3] = np.random.default_rng(2).uniform(-0.5, 0.5, 1000)
    for _ in range(4):
        metrics = ensemble.fit(train, held_out, 300)
    assert metrics['model/error/x'] < 0.1 and metrics['model/error/y'] < 0.1


@pytest.mark.slow
def test_states_that_are_drawn_are_possible_as_far_as_their_entries_follow_from_each_other() -> (
    None
):
    task = Task.load('pointmass')
    relations = Relations(task, seed=0)
    rng = np.random.default_rng(2)
    anywhere = rng.uniform(-0.9, 0.9, (1000, 4)).astype(np.float32)
    assert (relations.complete(anywhere) == anywhere).all()  # nothing is known yet
    for _ in range(15):
        relations.fit(contact(2000, 0), contact(300, 1))
    drawn = relations.complete(anywhere)
    on_arc = [np.abs(np.hypot(*rows[:, :2].T) - 1) < 0.05 for rows in (anywhere, drawn)]
    assert on_arc[0].mean() < 0.2 and on_arc[1].mean() > 0.95
    assert np.ptp(drawn[:, 1]) > 1.5  # all along the arc
    assert (drawn[:, 2] == anywhere[:, 2]).all()  # noise follows from nothing


@pytest.mark.slow
def test_a_fit_keeps_the_weights_that_were_best_on_held_out_data() -> None:
    task = Task.load('pointmass')
    ensemble = Ensemble(task, ModelConfig(hidden=[64, 64]), seed=0)
    ensemble.fit(contact(1000, 0), contact(300, 1), 300)
    before = float(ensemble.error.mean())
    wrong = contact(1000, 4)
    wrong['action'] *= -1  # a fit to these makes it worse
    ensemble.fit(wrong, contact(300, 1), 100)
    assert float(ensemble.error.mean()) <= before * 1.01
