"""The ``mbarl`` command and what a person sees of a run."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from mbarl_ros.bringup.arguments import GRAPHS
from mbarl_ros.cli.main import main
from mbarl_ros.view import screens, status
from mbarl_ros.view.summary import summary

STATUS = {
    'policy_controller': {
        'level': '0', 'message': '', 'phase': 'backward', 'environment_steps': '12340',
        'robot_seconds': '1234.0', 'attempts': '90', 'successes': '55', 'policy_version': '7',
    },
    'learner': {
        'level': '0', 'message': '', 'updates_per_second': '81.7', 'lag_steps': '50',
        'model/error/x': '0.01', 'model/error/vy': '0.25',
    },
    'policy_evaluator': {
        'level': '0', 'message': '', 'deployed_success': '0.84', 'clone_success': '0.42',
        'evaluations': '3',
    },
    'safety_gate': {'level': '2', 'message': 'estop', 'state': 'estop', 'clipped': '4'},
}  # fmt: skip


def run_info(tmp_path, **options):
    return status.RunInfo(
        'sim', 'pointmass', 'mbarl', 0, tmp_path, budget=20000, target=0.9, **options
    )


def test_help_explains_the_graphs_and_their_arguments(capsys):
    assert main(['up', '--help']) == 0
    out = capsys.readouterr().out
    assert all(graph in out for graph in GRAPHS)
    for graph, (_, arguments) in GRAPHS.items():
        for flag in ('--help', '--show-args'):
            assert main(['up', graph, flag]) == 0
            out = capsys.readouterr().out
            assert all(argument.name in out for argument in arguments)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['up', 'simm'], "error: unknown graph 'simm'; known: sim, hardware, record, evaluate"),
        (['up', 'sim', 'task:=nope'], "error: unknown task 'nope'; known: arm_position, "),
        (['up', 'sim', 'task=nope'], "error: 'task=nope' is not an argument; write it as key:=v"),
        (['node', 'nope'], "error: unknown node 'nope'; known: policy_controller, safety_gate"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(capsys, words, message):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count('\n') == 1


def test_up_without_a_graph_says_what_there_is(capsys):
    assert main(['up']) == 2
    assert 'graphs:' in capsys.readouterr().out


def test_a_missing_message_package_is_named(capsys, tmp_path, monkeypatch):
    from mbarl_ros.schema.load import config_dir

    text = (config_dir() / 'robots/pointmass.yaml').read_text()
    robot = tmp_path / 'odd.yaml'
    robot.write_text(text.replace('nav_msgs/msg/Odometry', 'odd_msgs/msg/Odometry'))
    monkeypatch.chdir(tmp_path)
    assert main(['up', 'sim', f'robot:={robot}']) == 2
    assert "topic 'odom': message package odd_msgs is not installed" in capsys.readouterr().err
    assert not (tmp_path / 'runs').exists()


def test_demonstrations_of_another_task_are_refused_before_any_node_starts(capsys, tmp_path):
    from mbarl_ros.schema.load import load_task

    demos = load_task('tabletop').demonstrations
    assert main(['up', 'sim', f'demos:={demos}', f'run_dir:={tmp_path}/run']) == 2
    error = capsys.readouterr().err
    assert "task 'tabletop', not of 'pointmass'" in error
    assert not (tmp_path / 'run').exists()


def test_a_status_line_has_the_news_and_the_trouble():
    line = status.status_line(STATUS)
    for part in (
        'phase backward', 'steps 12,340', 'robot 20 min 34 s', 'successes 55/90',
        'deployed 0.84 (clone 0.42)', 'updates/s 82', 'model error 0.25 (vy)', 'lag 50',
        'safety_gate: estop',
    ):  # fmt: skip
        assert part in line
    assert 'score -' in line


def test_what_is_not_known_yet_is_a_dash():
    assert status.status_line({}).count('-') >= 8
    assert status.value({'a': {'x': 'nan'}}, 'a', 'x', '.2f') == '-'


def test_the_panel_shows_the_run(tmp_path, capsys):
    console = Console(width=100, force_terminal=False)
    screen = screens.LiveScreen(run_info(tmp_path), console)
    screen.line('monitor', json.dumps(STATUS))
    console.print(screen.panel())
    out = capsys.readouterr().out
    for part in (
        'sim: pointmass, mbarl, seed 0', 'backward phase', '12,340 of 20,000 steps',
        'target 0.90', 'clone of the demonstrations 0.42', 'safety_gate: estop',
    ):  # fmt: skip
        assert part in out


def test_the_panel_survives_whatever_is_reported(tmp_path):
    console = Console(width=100, file=io.StringIO())
    screen = screens.LiveScreen(run_info(tmp_path), console)
    for text in ('inf', '-inf', 'nan', '1e308', '', '[/x]', '[red'):
        keys = ('phase', 'robot_seconds', 'environment_steps', 'attempts')
        screen.status = {'policy_controller': dict.fromkeys(keys, text)}
        console.print(screen.panel())
        assert status.status_line(screen.status)
    assert '[/x] phase' in console.file.getvalue()


def test_node_output_is_prefixed(tmp_path, capsys):
    screen = screens.screen('lines', run_info(tmp_path))
    screen.line('learner', 'hello')
    screen.line('monitor', json.dumps(STATUS))
    assert capsys.readouterr().out == '[learner] hello\n'
    assert screen.status == STATUS


def test_the_summary_says_why_it_ended_and_how_to_go_on(tmp_path):
    (tmp_path / 'success.png').write_bytes(b'')
    (tmp_path / 'result.json').write_text('{}')
    result = {
        'deployed_success': 0.5, 'clone_success': 0.4, 'episodes': 50, 'environment_steps': 20000,
        'robot_seconds': 2000.0, 'training_resets': 0,
    }  # fmt: skip
    given = {'task': 'pointmass', 'steps': '20000', 'run_dir': 'my runs/x'}
    text = summary(run_info(tmp_path), result, 3, 300.0, given)
    assert 'step budget used up after 5 min 00 s' in text
    assert '0.50 over 50 evaluation starts (target 0.90)' in text
    assert 'clone of the demos  0.40' in text
    assert 'success.png' in text and 'result.json' in text
    resume = "continue with: mbarl up sim task:=pointmass steps:={} 'run_dir:=my runs/x'"
    assert resume.format(40000) in text
    assert resume.format(20000) in summary(run_info(tmp_path), result, 130, 1.0, given)
    assert 'continue with' not in summary(run_info(tmp_path), result, 0, 1.0, given)
    # A learner that lags is resumed with more steps than it was trained on.
    for code, stored, more in (
        (3, 20_030, 40_000),
        (3, 52_000, 80_000),
        (130, 19_000, 20_000),
        (130, 20_000, 40_000),
        (130, 52_000, 80_000),
    ):
        assert resume.format(more) in summary(run_info(tmp_path), result, code, 1.0, given, stored)


@pytest.mark.slow
def test_ctrl_c_soon_after_the_start_leaves_a_run_that_can_be_resumed(tmp_path):
    run = tmp_path / 'run'
    words = ['up', 'sim', 'task:=pointmass', f'run_dir:={run}', 'view:=lines']
    with subprocess.Popen(
        [sys.executable, '-m', 'mbarl_ros.cli', *words], stdout=subprocess.PIPE, text=True,
        env={name: value for name, value in os.environ.items() if name != 'ROS_DOMAIN_ID'},
    ) as process:  # fmt: skip
        for line in process.stdout:
            if 'ROS_DOMAIN_ID=' in line:
                break
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130, out
    assert 'run ended: interrupted' in out
    assert 'Traceback' not in out
    assert json.loads((run / 'result.json').read_text())['reason'] == 'interrupted'
    from mbarl_ros.bringup import graphs
    from mbarl_ros.bringup.run_folder import RunFolder

    again = RunFolder(graphs.plan('sim', {'run_dir': str(run)}))
    assert again.resumed
    again.close()
