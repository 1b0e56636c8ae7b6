"""`mbarl explain` names what was planted, first, and nothing where nothing was."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mbarl_ros.reports.explain import explain
from mbarl_ros.schema.field_maps import ActionCommand
from mbarl_ros.storage.history import Sample, read_history
from mbarl_ros.storage.transitions import FORWARD, HUMAN, SAFETY, select
from mbarl_ros.task import Task
from support.sabotage import (
    backwards_as_forward,
    environment,
    negated,
    stand_in_run,
    write_plan,
)

ROOT = Path(__file__).parent.parent


def nothing(plan):
    """Leave it healthy."""


def world(**options):
    return lambda plan: plan.world.update(options)


def demonstrations(edit):
    return lambda plan: setattr(plan, 'edit', edit)


def no_backward(plan):
    plan.agent.update(backward='none', end_near_starts=False)


FAULTS = {
    'wrong_sign': world(negate=['dy']),
    'action_order': world(order=['dy', 'dx', 'grasp']),
    'frozen_sensor': world(frozen=['gripper_x']),
    'delay': world(delay=3),
    'units': world(units={'gripper_x': 57.2958}),
    'demonstrations_disagree': demonstrations(lambda episodes, task: negated(episodes)),
    'other_demonstrations': demonstrations(backwards_as_forward),
    'no_backward': no_backward,
    'workspace': lambda plan: plan.robot.update(workspace={'gripper_x': [-1.2, 1.2]}),
    'success_unreachable': lambda plan: plan.task['success'].update(tolerance=1e-4),
}


def named(run):
    return [cause.name for cause in explain(run)]


@pytest.fixture(scope='module')
def healthy(tmp_path_factory):
    return stand_in_run(tmp_path_factory.mktemp('healthy') / 'run', 'tabletop', nothing)


def test_nothing_is_named_in_a_healthy_run_however_short(healthy):
    assert named(healthy) == []
    for steps in (0, 1, 60, 400):
        assert named(replace(healthy, transitions=select(healthy.transitions, slice(steps)))) == []


@pytest.mark.parametrize('fault', FAULTS)
def test_a_planted_fault_comes_first(fault, tmp_path):
    run = stand_in_run(tmp_path / 'run', 'tabletop', FAULTS[fault])
    first = explain(run)[0]
    assert first.name == fault
    assert first.remedy and any(any(map(str.isdigit, text)) for text in first.evidence)


@pytest.mark.parametrize(('source', 'expected'), [(HUMAN, 'human_drives'), (SAFETY, 'gate_stops')])
def test_steps_that_the_policy_did_not_drive_are_told(healthy, source, expected):
    rows = dict(healthy.transitions)
    rows['source'] = np.where(np.arange(len(rows['source'])) % 2, source, rows['source'])
    assert expected in named(replace(healthy, transitions=rows.copy()))


def test_a_fault_of_one_robot_of_several_is_told_with_its_name(healthy):
    """The gate stands in for a tenth of the fleet's steps: all of them are of one robot of four."""
    rows = {key: np.concatenate([value] * 4) for key, value in healthy.transitions.items()}
    steps = len(healthy.transitions['source'])
    rows['robot'] = np.repeat(np.arange(1, 5, dtype=np.uint16), steps)
    last = np.flatnonzero(rows['robot'] == 4)[::3]
    rows['source'][last] = SAFETY
    names = {f'arm_{letter}': number for number, letter in enumerate('abcd', 1)}
    late = {'missed_periods': '900', 'period_error_p99_ms': '41.5'}
    history = [Sample(float(n), {'arm_b/policy_controller': late}) for n in range(5)]
    fleet = replace(healthy, transitions=rows, robots=names, history=history)
    causes = {cause.name: cause for cause in explain(fleet)}
    assert causes['gate_stops'].title.startswith('arm_d: ')
    assert causes['periods_missed'].title.startswith('arm_b: ')
    assert causes.keys() == {'gate_stops', 'periods_missed'}


def test_late_control_and_a_learner_behind_are_read_from_the_history(healthy):
    status = {
        'policy_controller': {'missed_periods': '300', 'period_error_p99_ms': '41.5'},
        'learner': {'lag_steps': '5000', 'updates_per_step': '0.1'},
    }
    history = [Sample(float(n), status) for n in range(30)]
    causes = {cause.name: cause for cause in explain(replace(healthy, history=history))}
    assert causes.keys() == {'periods_missed', 'learner_behind'}
    assert '300' in causes['periods_missed'].evidence[0]


def test_a_gripper_that_aborts_every_goal_is_named_first(healthy):
    robot = healthy.task.robot
    arm = robot.command[0].model_copy(update={'fields': {'dx': 'data[0]', 'dy': 'data[1]'}})
    grip = {'action': 'grip', 'type': 'test_msgs/action/NestedMessage', 'at_stop': 'keep'}
    gripper = ActionCommand(**grip, fields={'grasp': 'nested_field.float64_value'})
    robot = robot.model_copy(update={'command': [arm, gripper]})
    run = replace(healthy, task=Task(healthy.task.config, robot))

    def causes(faults):
        gate = [{"action 'grip'": 'the goal was aborted', 'failed_requests': '7'}] * faults
        gate += [{"action 'grip'": '', 'failed_requests': '7'}] * (20 - faults)
        history = [Sample(float(n), {'safety_gate': each}) for n, each in enumerate(gate)]
        return explain(replace(run, history=history))

    first, *others = causes(15)
    assert first.name == 'failed_requests' and "action 'grip'" in first.title and not others
    assert 'the goal was aborted (last of 15 in 20' in first.evidence[0]
    assert first.evidence[1].startswith('7 goals and calls failed')
    assert causes(2) == []


def test_a_policy_below_its_clone_is_told_only_late_and_clearly(healthy):
    def evaluations(steps, success):
        line = {'episodes': 50, 'deployed_success': success, 'clone_success': 0.6}
        return [line | {'environment_steps': steps + n} for n in range(3)]

    assert named(replace(healthy, evaluations=evaluations(5000, 0.2))) == ['below_clone']
    assert named(replace(healthy, evaluations=evaluations(1000, 0.2))) == []
    assert named(replace(healthy, evaluations=evaluations(5000, 0.55))) == []


@pytest.mark.graph
@pytest.mark.slow
@pytest.mark.parametrize(
    ('change', 'expected'),
    [(nothing, []), (world(negate=['vy']), ['wrong_sign']), (world(delay=3), ['delay'])],
)
def test_the_command_names_the_fault_of_a_real_run(change, expected, tmp_path):
    def quick(plan):
        change(plan)
        plan.agent.update(updates_per_step=0.2, model=None)
        plan.task['evaluation'].update(every=10_000, episodes=1)

    arguments, plan = write_plan(tmp_path / 'files', 'pointmass', quick)
    mbarl = [sys.executable, '-m', 'mbarl_ros.cli']
    run = tmp_path / 'run'
    subprocess.run(
        [*mbarl, 'up', 'sim', *arguments, 'steps:=400', f'run_dir:={run}', 'view:=lines'],
        env=environment(plan, ROOT),
        check=False,
        timeout=300,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    explained = subprocess.run(
        [*mbarl, 'explain', str(run), '--json'],
        env=environment(plan, ROOT),
        check=True,
        capture_output=True,
        text=True,
    )
    assert [cause['name'] for cause in json.loads(explained.stdout)][:1] == expected


def test_a_folder_that_is_no_run_is_refused_in_a_sentence(tmp_path):
    command = [sys.executable, '-m', 'mbarl_ros.cli', 'explain', str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and 'is no run folder' in done.stderr
    assert 'Traceback' not in done.stderr


def edited(run, change):
    """A run with other transitions; ``change`` gets the states before and after each step."""
    rows = {key: array.copy() for key, array in run.transitions.items()}
    change(rows['observation'], rows['next_observation'], rows)
    return replace(run, transitions=rows)


def column(run, name):
    return [each.name for each in run.task.config.columns].index(name)


def test_noise_around_one_value_is_a_sensor_without_change(healthy):
    entry, rng = column(healthy, 'gripper_x'), np.random.default_rng(0)

    def freeze(before, after, rows):
        noise = 0.3 + 0.003 * rng.standard_normal(len(before) + 1)
        before[:, entry], after[:, entry] = noise[:-1], noise[1:]

    cause = explain(edited(healthy, freeze))[0]
    assert cause.name == 'frozen_sensor' and 'gripper_x' in cause.title


def test_a_robot_that_rests_at_the_end_of_its_range_has_no_frozen_sensor(healthy):
    entry, steps = column(healthy, 'gripper_y'), 600
    low = healthy.task.config.columns[entry].low

    def rest(before, after, rows):
        before[-steps:, entry] = after[-steps:, entry] = low
        rows['action'][-steps:, 1] = -np.abs(rows['action'][-steps:, 1])

    assert 'frozen_sensor' not in named(edited(healthy, rest))


def test_the_baseline_without_backward_policy_is_meant_to_have_none(healthy):
    def forward_only(before, after, rows):
        rows['phase'][:] = FORWARD

    run = edited(healthy, forward_only)
    agent = run.agent.model_copy(update={'backward': 'none', 'end_near_starts': False})
    assert named(replace(run, agent=agent))[:1] == ['no_backward']
    assert named(replace(run, agent=agent.model_copy(update={'name': 'sac'}))) == []


def test_only_what_stops_where_demonstrations_went_on_is_a_wall(tmp_path):
    run = stand_in_run(tmp_path / 'run', 'pointmass', nothing, 800)
    x, y = column(run, 'x'), column(run, 'y')
    shown = run.demonstrations['observation'][:, [x, y]]
    place = shown[np.abs(shown[:, y] + 1.0).argmin()]

    def stopped(x_there):
        def change(before, after, rows):
            before[:, x] = after[:, x] = x_there
            before[:, y] = after[:, y] = place[1] - 0.05
            before[:, 2:4] = after[:, 2:4] = 0.0
            before[:-1:50, y] -= 0.1
            rows['action'][:, 1] = 0.6

        return edited(run, change)

    assert 'workspace' in named(stopped(place[0]))
    assert 'workspace' not in named(stopped(1.9))


def test_damaged_lines_of_history_and_evaluations_are_passed_over(healthy, tmp_path):
    (tmp_path / 'history.jsonl').write_text('{"time": 3, "status": {"learner": 5}}\n')
    assert read_history(tmp_path) == []
    lines = [{'environment_steps': 5000 + n, 'clone_success': 0.9} for n in range(3)]
    assert named(replace(healthy, evaluations=lines)) == []
