"""Every preset practises, learns and resumes; each backward objective behaves as in its paper."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

from mbarl_ros.control.phases import Practice
from mbarl_ros.control.policy import (
    GOALS,
    MAX_CANDIDATES,
    check_policy,
    phase_shapes,
    policy_names,
    unpack_policy,
)
from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.learning.exploration import FIRST_DUAL, Exploration
from mbarl_ros.learning.learner import Learner
from mbarl_ros.learning.objectives import BACKWARD_OBJECTIVES, demonstrated_states, objectives
from mbarl_ros.learning.replay import Replay
from mbarl_ros.schema.agent import OBJECTIVES, AgentConfig, SacConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import available, load_agent
from mbarl_ros.storage.transitions import BACKWARD, EXPLORE, FORWARD, Transitions
from mbarl_ros.storage.wire import WireError, pack
from mbarl_ros.studies.direct import DirectRun
from mbarl_ros.task import Task

TASKS = {name: Task.load(name) for name in ('pointmass', 'tabletop')}
SAC = SacConfig(hidden=[32, 32], batch_size=32, cloning_steps=50)
UNCLONED = SAC.model_copy(update={'cloning_weight': 0.0})
NEEDS_GOALS = {'vaprl', 'risc'}
SUPPORTED = [
    (task, agent)
    for task in TASKS
    for agent in available('agents')
    if task == 'tabletop' or agent not in NEEDS_GOALS
]


@cache
def demonstrations(task: str) -> Transitions:
    return load_demonstrations(TASKS[task].config.demonstrations, TASKS[task])


def preset(name: str, **changes) -> AgentConfig:
    """A shipped preset with networks that are small enough for tests."""
    agent = load_agent(name)
    if agent.model:
        small = {'members': 3, 'elites': 2, 'hidden': [32], 'every': 100, 'max_gradient_steps': 20}
        changes['model'] = agent.model.model_copy(update=small)
    return agent.model_copy(update={'sac': SAC, 'updates_per_step': 0.1, **changes})


def practised(task: str, agent: AgentConfig, chunks: int) -> tuple[DirectRun, list[Transitions]]:
    run = DirectRun(TASKS[task], agent, demonstrations(task), seed=3)
    collected = []
    for _ in range(chunks):
        collected.append(run.collect())
        run.train(collected[-1])
    return run, collected


def learner(task: str, agent: AgentConfig) -> Learner:
    return Learner(TASKS[task], agent, demonstrations(task), seed=0)


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[n], second[n]) for n in first)


def joined(parts: list[Transitions]) -> Transitions:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# --- all of them -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(('task', 'name'), SUPPORTED)
def test_each_preset_learns_reproducibly_and_resumes_exactly(task: str, name: str) -> None:
    agent = preset(name)
    run, collected = practised(task, agent, 7)
    again, repeated = practised(task, agent, 7)
    assert same(joined(collected), joined(repeated))
    weights = run.learner.policy_arrays()
    assert same(weights, again.learner.policy_arrays())
    meta = dict.fromkeys(('version', 'environment_steps', 'applies_from', 'valid_until'), 0)
    data = pack(weights, {**meta, 'spec_hash': TASKS[task].spec_hash(agent)}, 'policy')
    assert same(unpack_policy(data, TASKS[task], agent)[0], weights)  # the robot takes them

    resumed = Learner(TASKS[task], agent, demonstrations(task), seed=99)
    resumed.add(joined(collected))
    resumed.load_state_dict(*run.learner.state_dict())
    next_chunk = run.collect()
    for part in (run.learner, resumed):
        part.add(next_chunk)
    assert run.learner.train(5) == resumed.train(5)
    assert same(run.learner.policy_arrays(), resumed.policy_arrays())
    assert not same(run.learner.policy_arrays(), weights)


@pytest.mark.parametrize('name', sorted(NEEDS_GOALS))
def test_a_shared_policy_is_refused_where_no_goal_tells_it_the_way(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}'.*'shared'.*'pointmass'.*fbrl"):
        learner('pointmass', preset(name))


@pytest.mark.parametrize(
    ('changes', 'key'),
    [
        ({'backward': 'sideways'}, 'known: none, classifier'),
        ({'shared': True}, 'shared'),
        ({'backward': 'curriculum', 'model': None}, 'shared'),
        ({'backward': 'initial_state', 'model': None, 'switching': {}}, 'switching'),
        ({'resets': True}, 'resets'),
        ({'backward': 'initial_state'}, 'model'),
    ],
)
def test_parts_that_do_not_fit_together_are_named(changes: dict, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        AgentConfig(name='mixed', **changes)


def test_each_backward_objective_of_the_schema_has_its_class() -> None:
    assert BACKWARD_OBJECTIVES.keys() == OBJECTIVES.keys()


def test_presets_differ_in_nothing_but_their_parts() -> None:
    """Same networks, demonstrations and updates-to-data ratio: what is compared is the method."""
    shared = [
        load_agent(name).model_dump(exclude={'name', 'description', 'backward', 'shared', 'resets',
                                             'switching', 'model', 'exploration', 'planner',
                                             'warm_start', 'end_near_starts'})
        for name in available('agents')
    ]  # fmt: skip
    assert all(settings == shared[0] for settings in shared)


# --- phases ----------------------------------------------------------------------------------


def practice(task: str, agent: AgentConfig) -> Practice:
    made = Practice(TASKS[task], agent, seed=0)
    made.set_policies(learner(task, agent).policy_arrays())
    return made


def step(made: Practice, state) -> dict:
    observation = made.observe(np.asarray(state))
    return made.record(observation, made.act(observation), np.asarray(state), 0.0)


def robot_state(task: str, state: np.ndarray) -> np.ndarray:
    """Robot state of a state part; tabletop lists the attached flag between gripper and mug."""
    return state if task == 'pointmass' else state[[0, 1, 4, 2, 3]]


@pytest.mark.parametrize('task', TASKS)
def test_fbrl_goes_back_to_an_initial_state_and_no_further(task: str) -> None:
    made = practice(task, preset('fbrl'))
    while made.phase == FORWARD:
        step(made, robot_state(task, TASKS[task].state_high))
    goal = made.goal
    away = robot_state(task, TASKS[task].state_high)
    assert not step(made, away)['terminated'] and made.phase == BACKWARD
    initial = demonstrated_states(TASKS[task], demonstrations(task), starts=True)
    assert len(initial) == (12 if task == 'tabletop' else 3)
    if task == 'tabletop':
        assert (initial == goal).all(1).any()
    back = initial[0] if goal is None else goal
    row = step(made, robot_state(task, back))
    assert row['terminated'] and not row['truncated'] and row['phase'] == BACKWARD
    assert made.phase == FORWARD and made.attempts == 1
    if task == 'tabletop':
        assert (TASKS[task].goals == made.goal).all(1).any()


@pytest.mark.parametrize(('name', 'early'), [('mbarl', True), ('medal', False)])
def test_the_backward_phase_ends_where_demonstrations_start_if_the_preset_says_so(
    name: str, early: bool
) -> None:
    made = practice('pointmass', preset(name))
    while made.phase == FORWARD:
        step(made, TASKS['pointmass'].state_high)
    start = demonstrated_states(TASKS['pointmass'], demonstrations('pointmass'), starts=True)[1]
    near = 0.05 * np.array([1, 0, 0, 0]) * TASKS['pointmass'].scale[:4]
    row = step(made, TASKS['pointmass'].state_high)
    assert made.phase == BACKWARD and not row['truncated']
    row = step(made, start + near)
    assert row['truncated'] == early and not row['terminated']
    assert made.phase == (FORWARD if early else BACKWARD)


def test_fbrl_gives_up_at_the_limit() -> None:
    made = practice('tabletop', preset('fbrl'))
    away = robot_state('tabletop', TASKS['tabletop'].state_high)
    rows = [step(made, away) for _ in range(400)]
    assert [n for n, row in enumerate(rows) if row['truncated']] == [199, 399]
    assert not any(row['terminated'] for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(('likely', 'length'), [(-1.0, 200), (0.02, 142), (0.5, 101), (7.0, 100)])
def test_risc_switches_as_often_as_its_critic_is_sure_but_not_at_once(
    likely: float, length: float
) -> None:
    made = practice('tabletop', preset('risc'))
    made._success_critic.output = lambda _: np.array([likely])
    lengths, last = [], 0
    away = robot_state('tabletop', TASKS['tabletop'].state_high)
    while len(lengths) < 40:
        if step(made, away)['truncated']:
            lengths.append(made.steps - last)
            last = made.steps
    assert min(lengths) >= 100 and max(lengths) <= 200
    # after 100 steps the chance of each step is `likely`, cut off by the limit
    assert np.mean(lengths) == pytest.approx(length, abs=15 if likely == 0.02 else 1)


def test_risc_tries_to_the_end_when_evaluated() -> None:
    agent = preset('risc')
    made = Practice(TASKS['tabletop'], agent, seed=0, evaluation=True)
    made.set_policies(learner('tabletop', agent).policy_arrays())
    away = robot_state('tabletop', TASKS['tabletop'].state_high)
    assert [step(made, away)['truncated'] for _ in range(200)] == [False] * 199 + [True]


@pytest.mark.parametrize(('name', 'resets'), [('oracle', True), ('mbpo', True), ('sac', False)])
def test_only_presets_that_say_so_are_reset_and_never_across_a_transition(
    name: str, resets: bool
) -> None:
    run, collected = practised('tabletop', preset(name), 9)
    rows = joined(collected)
    state, next_state = rows['observation'][:, :6], rows['next_observation'][:, :6]
    ends = np.flatnonzero(rows['truncated'] | rows['terminated'])
    continues = (state[1:] == next_state[:-1]).all(1)
    assert len(ends) == 2 and set(rows['phase']) == {FORWARD}
    if resets:
        assert set(np.flatnonzero(~continues)) == set(ends)
        assert (state[ends + 1] == state[0]).all()  # tabletop has one start
    else:
        assert continues.all()
    assert run.resets == (2 if resets else 0)


# --- objectives ------------------------------------------------------------------------------


def backward_goals(made: Learner, source: Replay) -> tuple[dict, np.ndarray]:
    """Rows drawn for the backward policy, and which of them have an initial state as the goal."""
    rows = made.batches.draw_rows(source, BACKWARD, (4, 100))
    initial = demonstrated_states(made.task, demonstrations('tabletop'), starts=True)
    goals = rows['next_observation'][..., made.task.state_dim :]
    assert (rows['observation'][..., made.task.state_dim :] == goals).all()
    return rows, (goals[..., None, :] == initial).all(-1).any(-1)


def test_fbrls_backward_policy_learns_to_reach_initial_states_and_in_hindsight_others() -> None:
    run, _ = practised('tabletop', preset('fbrl', hindsight_fraction=0.0), 3)
    made = run.learner
    for source in (made._replay, made._demonstrations):
        rows, initial = backward_goals(made, source)
        assert initial.all()
    reward, ends = made.batches.reward(BACKWARD, rows)  # some demonstrations arrive there
    assert (ends == made.task.success(rows['next_observation'])).all() and ends.any()
    assert (reward == ends).all()

    made.batches.agent = preset('fbrl', hindsight_fraction=0.9)
    for source in (made._replay, made._demonstrations):
        assert 0.02 < backward_goals(made, source)[1].mean() < 0.3


def test_a_shared_policy_is_shown_the_way_back_with_initial_states_as_goals() -> None:
    task = TASKS['tabletop']
    made = learner('tabletop', preset('risc', hindsight_fraction=0.0))
    rows = made.batches.draw_rows(made._demonstrations, FORWARD, (4, 100))
    goals = rows['observation'][..., task.state_dim :]
    of_task = (goals[..., None, :] == task.goals).all(-1).any(-1)
    assert (of_task == (rows['phase'] == FORWARD)).all()


def test_vaprls_goals_march_back_to_the_start_as_values_grow() -> None:
    task = TASKS['tabletop']
    made = learner('tabletop', preset('vaprl'))
    reach = {'now': 0.0}

    def value(scaled):
        """The task can be solved from where the mug is no further than this from its goal."""
        observation = scaled.numpy() * task.scale + task.offset
        mug = np.linalg.norm(observation[..., 2:4] - observation[..., 8:10], axis=-1)
        import torch

        return torch.from_numpy((mug <= reach['now']).astype(np.float32) - 1e-3 * mug)

    made.sac.value = value
    start = np.array([0.0, 0.0, 2.5, 0.0, -1.0, -1.0], np.float32)
    distances = []
    for reach['now'] in (0.0, 1.0, 2.0, 3.0, 4.0, 10.0):
        goals = made.policy_arrays()[GOALS]
        assert goals.shape == (1, 4, 6)
        distances.append(task.state_distance(goals[0], start))
        mug = np.linalg.norm(goals[0, :, 2:4] - task.goals[:, 2:4], axis=1)
        assert (mug <= max(reach['now'], 0.3)).all()  # none qualifies: the most valuable
    assert (np.diff(distances, axis=0) <= 1e-6).all()
    assert (distances[0] > 2.0).all() and (distances[-1] < 0.2).all()


@pytest.mark.slow
def test_r3ls_bonus_falls_where_it_has_been_and_stays_elsewhere() -> None:
    task = TASKS['pointmass']
    novelty = objectives(task, preset('r3l'), demonstrations('pointmass'), 0)[BACKWARD]
    rng = np.random.default_rng(0)
    here, there = (rng.normal((x, -1.0, 0, 0), 0.2, (400, 4)).astype(np.float32) for x in (-1, 1))
    replay = Replay(10_000, 4, 2)
    first = None
    for _ in range(10):
        replay.add({'next_observation': here, 'observation': here})
        novelty.train(replay)
        first = novelty.reward(here)[0].mean() if first is None else first
    bonus = [novelty.reward(states)[0].mean() for states in (here, there)]
    assert bonus[0] < 0.5 * first and bonus[0] < 0.5 * bonus[1]
    reward, ends = novelty.reward(np.stack([here, there]))
    assert reward.shape == (2, 400) and not ends.any()
    low, high = novelty.return_range
    assert low <= reward.min() and reward.max() / (1 - novelty.discount) <= high + 1e-5


def explored(places: np.ndarray) -> Transitions:
    """Steps of exploration to states of the point mass at rest at places [n, 2]."""
    states = np.pad(places, ((0, 0), (0, 2))).astype(np.float32)
    phase = np.full(len(states), EXPLORE, np.uint8)
    return {'observation': states, 'next_observation': states, 'phase': phase}


def exploration_fed_with(center: tuple[float, float], width: float) -> tuple[Exploration, dict]:
    """After 2,000 steps around one place, and the metrics of it."""
    made = Exploration(TASKS['pointmass'], preset('mbarl-explore'), demonstrations('pointmass'), 0)
    replay, rng = Replay(10_000, 4, 2), np.random.default_rng(0)
    for _ in range(40):
        replay.add(explored(rng.uniform(-width, width, (50, 2)) + center))
        metrics = made.train(replay)
    return made, metrics


@pytest.mark.slow
def test_exploration_is_rewarded_for_what_is_new() -> None:
    made, metrics = exploration_fed_with((-1.5, -1.5), 0.3)
    made.dual = 0.0
    old, new = explored(np.array([[-1.5, -1.5]])), explored(np.array([[1.5, 1.5]]))
    reward = [made.reward(rows['next_observation'])[0][0] for rows in (old, new)]
    assert reward[1] > reward[0]
    _, spread = exploration_fed_with((-1.5, -1.5), 1.5)
    assert spread['explore/entropy'] > metrics['explore/entropy'] + 1.0  # 2 entries, 5 x as wide


def test_exploration_far_from_demonstrations_is_called_back() -> None:
    """Demonstrations never see the upper right corner."""
    demonstrated = demonstrations('pointmass')
    start = demonstrated['observation'][demonstrated['phase'] == FORWARD][0, :2]
    far, metrics = exploration_fed_with((1.7, 1.7), 0.1)
    near, near_metrics = exploration_fed_with(tuple(start), 0.1)
    assert metrics['explore/kl'] > far.settings.epsilon > near_metrics['explore/kl']
    assert far.dual > FIRST_DUAL > near.dual
    far.dual = 20.0  # the constraint is all
    states = np.stack([explored(np.array([place]))['next_observation'][0]
                       for place in (start, (1.7, 1.0))])  # fmt: skip
    reward, ends = far.reward(states)
    assert reward[0] > reward[1] and not ends.any()


def test_exploration_resumes_exactly() -> None:
    made, _ = exploration_fed_with((0.0, -1.0), 0.5)
    again = Exploration(TASKS['pointmass'], preset('mbarl-explore'), demonstrations('pointmass'), 9)
    arrays, meta = made.state_dict()
    again.load_state_dict(arrays, json.loads(json.dumps(meta)))
    replay, rng = Replay(10_000, 4, 2), np.random.default_rng(0)
    replay.add(explored(rng.uniform(-1, 1, (made._taken + 50, 2))))
    assert made.train(replay) == again.train(replay)
    states = explored(rng.uniform(-1, 1, (20, 2)))['next_observation']
    np.testing.assert_array_equal(made.reward(states)[0], again.reward(states)[0])


def test_the_success_critic_knows_how_far_the_goal_is() -> None:
    torch = pytest.importorskip('torch')
    from mbarl_ros.learning.batch import Batch
    from mbarl_ros.learning.success import SuccessCritic

    critic = SuccessCritic(
        SAC.model_copy(update={'tau': 0.05}), np.zeros((0, 1), np.float32), seed=0
    )
    places = torch.linspace(-1, 1, 6)[None, :, None]  # five steps in a row to the goal
    unused = torch.zeros(1, 5)
    batch = Batch(
        observation=places[:, :-1],
        action=unused,
        next_observation=places[:, 1:],
        reward=torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]]),
        discount=torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.0]]),
        return_lower_bound=unused,
    )
    for _ in range(600):
        critic.update(batch)
    from mbarl_ros.control.policy import SUCCESS_CRITIC, Network

    unit = {'offset': np.zeros(1, np.float32), 'scale': np.ones(1, np.float32)}
    network = Network(critic.policy_arrays() | unit, SUCCESS_CRITIC)
    values = network.output(places[0, :-1].numpy())[:, 0]
    np.testing.assert_allclose(values, 0.5 ** np.arange(4, -1, -1), atol=0.06)


def test_truncation_as_termination_changes_the_discount_there_alone() -> None:
    run, collected = practised('pointmass', preset('medal', sac=UNCLONED), 4)
    made, rows = run.learner, joined(collected)
    rng = made.batches.rng.bit_generator.state
    through = made.batches.draw(8)
    made.batches.rng.bit_generator.state = rng
    made.batches.agent = preset('medal', sac=UNCLONED, bootstrap_truncation=False)
    stopped = made.batches.draw(8)

    assert rows['truncated'].sum() == 1
    last = rows['observation'][rows['truncated'] == 1][0]
    seen = through.observation.numpy() * made.task.scale + made.task.offset
    cut = np.isclose(seen, last, atol=1e-5).all(-1)
    assert cut.any()
    discount = through.discount.numpy()
    assert (discount[cut] > 0).all()
    np.testing.assert_array_equal(stopped.discount.numpy(), np.where(cut, 0.0, discount))


# --- policy messages -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'array', 'damage'),
    [
        ('fbrl', GOALS, lambda a: None),
        ('fbrl', GOALS, lambda a: a[:, :-1]),
        ('fbrl', GOALS, lambda a: a[:0]),
        ('fbrl', GOALS, lambda a: np.repeat(a, MAX_CANDIDATES, 0)),
        ('fbrl', GOALS, lambda a: a * np.nan),
        ('fbrl', GOALS, lambda a: a.astype(np.float64)),
        ('vaprl', GOALS, lambda a: a[..., :-1]),
        ('risc', 'success/0/weight', lambda a: None),
        ('risc', 'success/2/bias', lambda a: np.repeat(a, 2)),
        ('medal', GOALS, lambda a: np.zeros((1, 4, 6), np.float32)),
        ('fbrl', 'success/0/weight', lambda a: np.zeros((12, 32), np.float32)),
    ],
)
def test_a_policy_message_with_malformed_goals_or_critic_is_refused(
    name: str, array: str, damage
) -> None:
    task, agent = TASKS['tabletop'], preset(name)
    arrays = learner('tabletop', agent).policy_arrays()

    def check() -> None:
        check_policy(arrays, policy_names(agent), 12, 3, SAC.hidden, phase_shapes(task, agent))

    check()
    arrays[array] = damage(arrays.get(array))
    if arrays[array] is None:
        del arrays[array]
    with pytest.raises(WireError, match=array):
        check()
