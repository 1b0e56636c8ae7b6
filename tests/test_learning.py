"""The learner from outside: reproducible, resumable, correct about truncation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mbarl_ros.control.policy import Policy, check_policy, policy_names
from mbarl_ros.learning.classifier import ClassifierTrainer
from mbarl_ros.learning.learner import Learner
from mbarl_ros.schema.agent import AgentConfig, SacConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.model import ModelConfig
from mbarl_ros.storage.transitions import HUMAN, POLICY
from mbarl_ros.task import Task

SMALL = AgentConfig(
    name='small',
    sac=SacConfig(hidden=[32, 32], batch_size=32, cloning_steps=400),
    model=ModelConfig(
        members=3,
        elites=2,
        hidden=[32],
        every=50,
        max_gradient_steps=40,
        rollouts=2,
        buffer_capacity=500,
    ),
    hindsight_fraction=0.3,
)


def stream(task: Task, rows: int, seed: int, phase: int | None = None) -> dict[str, np.ndarray]:
    """A random walk through the task's state space as transitions."""
    rng = np.random.default_rng(seed)
    low, high = np.tile(task.offset - task.scale, (rows, 1)), task.offset + task.scale
    observation = rng.uniform(low, high).astype(np.float32)
    action = rng.uniform(-1, 1, (rows, task.action_dim)).astype(np.float32)
    next_observation = observation.copy()
    next_observation[:, : task.action_dim] += 0.1 * action
    phases = np.arange(rows) // 10 % 2 if phase is None else np.full(rows, phase)
    return {
        'observation': observation,
        'action': action,
        'next_observation': next_observation,
        'reward': task.reward(next_observation),
        'terminated': np.zeros(rows, np.uint8),
        'truncated': (np.arange(rows) % 10 == 9).astype(np.uint8),
        'phase': phases.astype(np.uint8),
        # now and then, in forward phases, a person drives
        'source': np.where(np.arange(rows) // 10 % 4 == 2, HUMAN, POLICY).astype(np.uint8),
    }


def practised(task: Task, seed: int, chunks: int) -> tuple[Learner, ClassifierTrainer]:
    demonstrations = stream(task, 60, seed=100, phase=0)
    learner = Learner(task, SMALL, demonstrations, seed)
    classifier = ClassifierTrainer(task, SMALL, demonstrations, seed)
    for chunk in range(chunks):
        practise(learner, classifier, chunk)
    return learner, classifier


def practise(learner: Learner, classifier: ClassifierTrainer, chunk: int) -> dict[str, float]:
    rows = stream(learner.task, 50, seed=chunk)
    classifier.add(rows)
    classifier.train(5)
    learner.set_classifier(classifier.arrays())
    learner.add(rows)
    return learner.train(10)


@pytest.fixture(params=['pointmass', 'tabletop'])
def task(request: pytest.FixtureRequest) -> Task:
    return Task.load(request.param)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_policies_and_another_seed_does_not(task: Task) -> None:
    first, again, other = (practised(task, seed, 3)[0].policy_arrays() for seed in (0, 0, 1))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first['forward/0/weight'], other['forward/0/weight'])


@pytest.mark.slow
def test_a_resumed_learner_continues_as_if_never_stopped(task: Task) -> None:
    learner, classifier = practised(task, 0, 3)
    arrays, meta = learner.state_dict()
    classifier_arrays, classifier_meta = classifier.state_dict()

    demonstrations = stream(task, 60, seed=100, phase=0)
    resumed = Learner(task, SMALL, demonstrations, seed=77)
    resumed.load_state_dict(arrays, meta)
    resumed_classifier = ClassifierTrainer(task, SMALL, demonstrations, seed=77)
    resumed_classifier.load_state_dict(classifier_arrays, classifier_meta)
    for chunk in range(3):
        resumed.add(stream(task, 50, seed=chunk))
        resumed_classifier.add(stream(task, 50, seed=chunk))
    assert resumed.environment_steps == meta['environment_steps'] == 150

    for chunk in range(3, 5):
        metrics = practise(resumed, resumed_classifier, chunk)
        assert metrics == practise(learner, classifier, chunk)
    expected, actual = learner.policy_arrays(), resumed.policy_arrays()
    assert all(np.array_equal(expected[name], actual[name]) for name in expected)


@pytest.mark.slow
def test_what_is_imagined_to_be_looked_at_changes_nothing_that_is_learned(task: Task) -> None:
    learner, classifier = practised(task, 0, 2)
    unseen, same = practised(task, 0, 2)
    start = stream(task, 1, seed=9)['observation'][0]
    for chunk in (2, 3):
        fans = learner.imagine(start, count=4, length=5)
        assert set(fans) == {'forward', 'backward'}
        assert sum(map(len, fans.values())) and all(
            0 < len(states) <= 5 and states.shape[1] == task.state_dim
            for rollouts in fans.values()
            for states in rollouts
        )
        practise(learner, classifier, chunk)
        practise(unseen, same, chunk)
    (seen, seen_meta), (expected, meta) = learner.state_dict(), unseen.state_dict()
    assert seen_meta == meta
    assert all(np.array_equal(seen[name], expected[name]) for name in expected)


def test_what_a_person_does_in_forward_phases_is_imitated(task: Task) -> None:
    errors = {}
    for source in (POLICY, HUMAN):
        driven = stream(task, 200, seed=3, phase=0)
        driven |= {'source': np.full(200, source, np.uint8)}
        driven['action'][:] = np.resize([0.9, -0.9], task.action_dim)  # what no demonstration does
        learner = Learner(task, SMALL, stream(task, 60, seed=100, phase=0), seed=0)
        learner.add(driven)
        learner.train(150)
        action = Policy(learner.policy_arrays(), 'forward').mean_action(driven['observation'])
        errors[source] = np.abs(action - driven['action']).mean()
    assert errors[HUMAN] < 0.7 * errors[POLICY], errors


def test_what_comes_after_a_gap_was_not_reached_from_before_it() -> None:
    """A person moved the world, or let go and took over again; hindsight must not bridge that."""
    task = Task.load('tabletop')
    learner = Learner(task, SMALL, stream(task, 60, seed=100, phase=0), seed=0)

    def walk(rows: int, seed: int, start: np.ndarray | None = None) -> dict[str, np.ndarray]:
        made = stream(task, rows, seed, phase=1)
        made['observation'][1:] = made['next_observation'][:-1]
        if start is not None:
            made['observation'][0] = start
        return made

    def steps_to_end() -> list[int]:
        return learner._replay.steps_to_end(np.arange(len(learner._replay))).tolist()

    first = walk(4, 1)
    learner.add(first)
    learner.add(walk(3, 2, start=first['next_observation'][-1]))
    assert steps_to_end() == [6, 5, 4, 3, 2, 1, 0]
    learner.add(walk(2, 3))  # begins elsewhere
    assert steps_to_end() == [6, 5, 4, 3, 2, 1, 0, 1, 0]
    torn = walk(4, 4)
    torn['observation'][2] += 0.1
    learner.add(torn)
    assert steps_to_end() == [6, 5, 4, 3, 2, 1, 0, 1, 0, 1, 0, 1, 0]


def test_a_model_that_could_not_be_validated_says_so() -> None:
    """The first phases hold none out, so that its error is unknown."""
    task = Task.load('pointmass')
    learner = Learner(task, SMALL, stream(task, 20, seed=100, phase=0), seed=0)
    metrics = learner._imagination.ensemble.fit(
        stream(task, 50, seed=0), {k: v[:0] for k, v in stream(task, 10, seed=0).items()}, 10
    )
    assert {metrics[name] for name in metrics if name.startswith('model/error/')} == {1.0}


def test_a_model_whose_prediction_is_not_a_number_imagines_nothing() -> None:
    task = Task.load('pointmass')
    learner = Learner(task, SMALL, stream(task, 60, seed=100, phase=0), seed=0)
    learner.add(stream(task, 50, seed=0))
    learner.train(1)
    imagination = learner._imagination
    assert len(imagination.buffers[0])
    imagination.ensemble._elite_parameters[-1][..., 0] = np.nan
    for buffer in imagination.buffers:
        buffer.clear()
    learner.add(stream(task, 10, seed=1))
    assert learner.train(1)['model/length'] == 0.0
    assert not len(imagination.buffers[0]) and imagination.fraction == 0.0


def test_what_an_earlier_model_imagined_is_forgotten_with_it() -> None:
    task = Task.load('pointmass')
    learner = Learner(task, SMALL, stream(task, 60, seed=100, phase=0), seed=0)
    seen: list[np.ndarray] = []
    for chunk in range(3):
        learner.add(stream(task, 50, seed=chunk))  # as many as there are between two fits
        learner.train(1)
        seen.append(learner._imagination.buffers[0].held()['next_observation'])
    for earlier, later in itertools.pairwise(seen):
        assert len(later) and not {row.tobytes() for row in earlier} & {r.tobytes() for r in later}


def test_imagined_success_and_practised_luck_are_no_lower_bound_of_the_value() -> None:
    """A demonstration's is. Else a lucky step would count as one that can be repeated at will."""
    task = Task.load('tabletop')
    agent = SMALL.model_copy(update={'hindsight_fraction': 0.9})
    learner = Learner(task, agent, stream(task, 60, seed=100, phase=0), seed=0)
    learner.add(stream(task, 100, seed=0))
    learner.train(1)
    bounds = {
        name: learner.batches.draw_rows(source, 0, (4, 64))['return_lower_bound']
        for name, source in (
            ('practised', learner._replay),
            ('imagined', learner._imagination.buffers[0]),
            ('demonstrated', learner._demonstrations),
        )
    }
    assert (bounds['practised'] == -np.inf).all() and (bounds['imagined'] == -np.inf).all()
    assert 0.5 < np.isfinite(bounds['demonstrated']).mean() < 1.0


def test_success_does_not_end_a_return_whose_reward_comes_by_topic() -> None:
    """Hovering beside the goal would bring its reward for ever, and arriving only once."""
    task = Task.load('arm_position')
    rows = stream(task, 60, seed=0, phase=0)
    rows |= {'terminated': np.ones(60, np.uint8), 'reward': np.full(60, 0.5, np.float32)}
    learner = Learner(task, SMALL, stream(task, 60, seed=100, phase=0), seed=0)
    reward, ends = learner.batches.reward(0, rows)
    assert (reward == 0.5).all() and not ends.any()


def test_what_a_person_drove_is_drawn_as_a_demonstration_and_not_once_more_as_practice() -> None:
    task = Task.load('pointmass')
    learner = Learner(task, SMALL, stream(task, 60, seed=100, phase=0), seed=0)
    rows = stream(task, 200, seed=0)
    learner.add(rows)
    human = (rows['source'] == HUMAN) & (rows['phase'] == 0)
    drawn = learner._replay.sample(np.random.default_rng(0), (5000,), recent=50)
    assert human.any() and not np.isin(drawn, np.flatnonzero(human)).any()
    assert len(np.unique(drawn)) > 0.9 * (~human).sum()
    assert len(learner._demonstrations) == 60 + human.sum()


@pytest.mark.parametrize('source', [POLICY, HUMAN])
def test_the_model_is_never_trained_on_a_step_that_it_is_validated_on(
    source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a demonstration is repeated for another goal, a person's steps become
    demonstrations, and the replay is full.
    """
    task = Task.load('tabletop')
    demonstrations = stream(task, 100, seed=100, phase=1)
    repeated = {name: array[30:].copy() for name, array in demonstrations.items()}
    for name in ('observation', 'next_observation'):
        repeated[name][:, task.state_dim :] = task.goals[0]
    demonstrations = {
        name: np.concatenate([array, repeated[name]]) for name, array in demonstrations.items()
    }
    agent = SMALL.model_copy(update={'replay_capacity': 170})
    learner = Learner(task, agent, demonstrations, seed=0)
    fit = learner._imagination.ensemble.fit
    trained, validated = set(), set()

    def steps(rows: dict[str, np.ndarray]) -> set[bytes]:
        state = rows['observation'][:, : task.state_dim]
        return {step.tobytes() for step in np.concatenate([state, rows['action']], axis=1)}

    def recorded_fit(train, held_out, count):
        trained.update(steps(train))
        validated.update(steps(held_out))
        return fit(train, held_out, count)

    monkeypatch.setattr(learner._imagination.ensemble, 'fit', recorded_fit)
    for chunk in range(8):
        rows = stream(task, 50, seed=chunk, phase=0)
        learner.add(rows | {'source': np.full(50, source, np.uint8)})
        learner.train(1)
    assert len(validated) == 10 + 40 and len(trained) == 90 + 360
    assert not trained & validated


def test_a_checkpoint_of_another_task_is_refused_by_name() -> None:
    arrays, meta = practised(Task.load('pointmass'), 0, 1)[0].state_dict()
    task = Task.load('tabletop')
    with pytest.raises(ValueError, match=r'pointmass/small.*tabletop/small'):
        Learner(task, SMALL, stream(task, 60, 0), 0).load_state_dict(arrays, meta)


def test_policy_arrays_pass_the_robots_check_and_act_as_the_learner_does(task: Task) -> None:
    torch = pytest.importorskip('torch')
    from mbarl_ros.learning.networks import mlp, with_pairwise_differences

    learner, _ = practised(task, 0, 2)
    arrays = learner.policy_arrays()
    names = policy_names(SMALL)
    check_policy(arrays, names, task.observation_dim, task.action_dim, SMALL.sac.hidden)
    observation = stream(task, 20, seed=5)['observation']
    scaled = torch.from_numpy((observation - task.offset) / task.scale)
    inputs = with_pairwise_differences(scaled, torch.from_numpy(task.pairwise_differences))
    for index, name in enumerate(('forward', 'backward')):
        stacked = inputs.expand(2, -1, -1)
        mean = mlp(learner.sac.actor, stacked)[index, :, : task.action_dim].tanh()
        action = Policy(arrays, name).mean_action(observation)
        np.testing.assert_allclose(action, mean.detach().numpy(), atol=1e-5)


def test_backward_none_trains_a_single_policy() -> None:
    task = Task.load('pointmass')
    agent = SMALL.model_copy(update={'backward': 'none', 'model': None})
    learner = Learner(task, agent, stream(task, 60, 0), 0)
    learner.add(stream(task, 50, 1))
    metrics = learner.train(3)
    assert 'forward/value' in metrics and 'backward/value' not in metrics
    assert {name.split('/')[0] for name in learner.policy_arrays()} == {
        'offset',
        'scale',
        'forward',
        'deployed',
    }


@pytest.mark.slow
@pytest.mark.parametrize('where', ['truncated', 'terminated'])
def test_values_bootstrap_through_truncation_and_stop_at_success(where: str) -> None:
    """Two states: `near` leads to the goal, `far` leads to `near` and is cut off there."""
    task = Task.load('pointmass')
    far, near = np.array([1.5, 1.0, 0, 0]), np.array([0.5, 1.0, 0, 0])
    goal = np.array([*task.config.success.target, 0, 0])
    rows = 40
    observation = np.stack([far, near] * (rows // 2)).astype(np.float32)
    next_observation = np.stack([near, goal] * (rows // 2)).astype(np.float32)
    action = np.zeros((rows, 2), np.float32)
    flags = np.zeros(rows, np.uint8)
    data = {
        'observation': observation,
        'action': action,
        'next_observation': next_observation,
        'reward': task.reward(next_observation),
        'terminated': flags,
        'truncated': flags.copy(),
        'phase': flags,
        'source': flags * 0,
    }
    data[where] = (np.arange(rows) % 2 == (0 if where == 'truncated' else 1)).astype(np.uint8)
    agent = AgentConfig(
        name='value',
        backward='none',
        model=None,
        sac=SacConfig(hidden=[32], batch_size=32, tau=0.05, learning_rate=3e-3, discount=0.9),
    )
    learner = Learner(task, agent, data, 0)
    learner.add(data)
    learner.train(400)
    values = _values(learner, np.stack([far, near]))
    # from `near` success is certain; `far` keeps the discounted value although it was cut off
    assert values[1] == pytest.approx(1.0, abs=0.15)
    assert values[0] == pytest.approx(0.9 * values[1], abs=0.25)
    assert values[0] > 0.5


def _values(learner: Learner, observation: np.ndarray) -> np.ndarray:
    import torch

    sac = learner.sac
    scaled = learner.task.scaled(observation).astype(np.float32)
    action = torch.zeros(1, len(observation), learner.task.action_dim)
    return sac.action_values(torch.from_numpy(scaled)[None], action)[0, 0].numpy()


def test_a_success_never_ends_the_backward_policys_return() -> None:
    task = Task.load('pointmass')
    learner, _ = practised(task, 0, 1)
    goal = np.array([*task.config.success.target, 0, 0], np.float32).reshape(1, 1, 4)
    _, forward = learner.batches.reward(0, {'next_observation': goal})
    reward, backward = learner.batches.reward(1, {'next_observation': goal})
    assert forward.all() and not backward.any()
    assert np.isfinite(reward).all()


def test_presets_that_need_a_known_reward_or_demonstrations_say_so() -> None:
    task = Task.load('pointmass')
    empty = stream(task, 0, 0)
    with pytest.raises(ConfigError, match='learns from demonstrations'):
        Learner(task, SMALL, empty, 0)
    goals = Task.load('tabletop')
    unknown = Task(goals.config.model_copy(update={'reward': 'topic:/reward'}), goals.robot)
    with pytest.raises(ConfigError, match='the reward must be known'):
        Learner(unknown, SMALL, stream(goals, 10, 0), 0)
