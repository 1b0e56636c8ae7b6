"""`mbarl explain` names what was planted, first, and nothing where nothing was."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mbarl_ros.reports.explain import explain
from mbarl_ros.storage.history import Sample
from mbarl_ros.storage.transitions import HUMAN, SAFETY, select
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
