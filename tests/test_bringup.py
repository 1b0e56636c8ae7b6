"""The graphs: their nodes and parameters, error messages for wrong arguments, run folders."""

import shutil
from pathlib import Path

import pytest
import yaml

from mbarl_ros.bringup import graphs
from mbarl_ros.bringup.arguments import GRAPHS
from mbarl_ros.bringup.domain import take_domain
from mbarl_ros.bringup.run_folder import RunEnd, RunFolder
from mbarl_ros.bringup.up import how_to_drive
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import config_dir, load_agent, load_robot, load_task
from mbarl_ros.storage.run_files import POLICY_FILE


def nodes(graph, **given):
    return {spec.name: spec for spec in graphs.plan(graph, given).nodes}


def run_folder(path: Path) -> Path:
    """A run folder as a run leaves it."""
    path.mkdir()
    for name, config in (
        ('task', load_task('pointmass')), ('robot', load_robot('pointmass')),
        ('agent', load_agent('mbarl')),
    ):  # fmt: skip
        (path / f'{name}.yaml').write_text(yaml.safe_dump(config.model_dump(mode='json')))
    (path / POLICY_FILE).write_bytes(b'weights')
    return path


def test_sim_has_every_node_as_a_process_of_its_own():
    graph = nodes('sim')
    assert set(graph) == {
        'robot_sim', 'safety_gate', 'policy_controller', 'learner', 'state_classifier',
        'policy_evaluator', 'monitor',
    }  # fmt: skip
    assert [spec.name for spec in graph.values() if spec.required] == ['policy_evaluator']
    assert {spec.name for spec in graph.values() if spec.respawn} == {
        'policy_controller', 'learner', 'state_classifier', 'monitor',
    }  # fmt: skip
    for spec in graph.values():
        if spec.name != 'monitor':
            assert spec.parameters['task'] == 'pointmass'
            assert spec.parameters['mode'] == 'lockstep'
            assert Path(spec.parameters['run_dir']).is_absolute()
            assert 'use_sim_time' not in spec.parameters


@pytest.mark.parametrize('graph', ['sim', 'hardware', 'record'])
def test_markers_are_published_where_they_are_asked_for(graph, tmp_path):
    given = {'demos': str(tmp_path)} if graph == 'record' else {}
    assert 'visualizer' not in nodes(graph, **given)
    asked = nodes(graph, visualizer='true', **given)
    assert asked['visualizer'].optional and asked['visualizer'].respawn
    if graph != 'hardware':
        assert asked['robot_sim'].parameters['frames'] is True
        assert 'frames' not in nodes(graph, **given)['robot_sim'].parameters


def test_the_tasks_budget_and_target_can_be_overridden():
    evaluation = load_task('pointmass').evaluation
    assert graphs.plan('sim', {}).run_end == (evaluation.budget, evaluation.target)
    plan = graphs.plan('sim', {'steps': '700', 'target': '0.5'})
    assert plan.run_end == (700, 0.5)
    (evaluator,) = [spec.parameters for spec in plan.nodes if spec.name == 'policy_evaluator']
    assert plan.task.run_end(evaluator['budget'], evaluator['target']) == plan.run_end
    assert graphs.plan('hardware', {}).run_end == (0, 0.0)


def test_parameters_have_the_types_that_the_nodes_declare():
    parameters = nodes('sim', seed='7', real_time_factor='2')['robot_sim'].parameters
    assert parameters['seed'] == 7 and type(parameters['seed']) is int
    assert type(parameters['real_time_factor']) is float
    assert nodes('sim', autostart='false')['policy_controller'].parameters['autostart'] is False


def test_realtime_simulation_follows_the_clock_where_it_matters():
    graph = nodes('sim', mode='realtime')
    assert graph['policy_controller'].parameters['use_sim_time'] is True
    assert 'use_sim_time' not in graph['safety_gate'].parameters


def test_hardware_has_no_simulation_and_does_not_move_by_itself():
    graph = nodes('hardware')
    assert not {'robot_sim', 'policy_evaluator'} & set(graph)
    assert graph['policy_controller'].parameters['autostart'] is False
    assert graph['policy_controller'].parameters['mode'] == 'realtime'
    assert graph['policy_controller'].respawn  # to hand over what it has; a person activates it
    assert not nodes('hardware', autostart='true')['policy_controller'].respawn
    assert 'use_sim_time' not in graph['policy_controller'].parameters
    assert not graphs.plan('hardware', {}).private_domain


def test_hardware_may_be_a_simulator_that_keeps_its_own_time():
    graph = nodes('hardware', use_sim_time='true')
    for name in ('policy_controller', 'safety_gate'):
        assert graph[name].parameters['use_sim_time'] is True
    graph = nodes('record', simulated='false', operator='none', use_sim_time='true')
    assert graph['demo_recorder'].parameters['use_sim_time'] is True


def test_watchers_run_on_request_only_and_never_end_a_run(tmp_path):
    pytest.importorskip('mlflow')
    policy = str(run_folder(tmp_path / 'run'))
    for graph, given, tracker in (
        ('sim', {}, {'tracker': 'mlflow'}),
        ('hardware', {}, {'tracker': 'mlflow'}),
        ('evaluate', {'policy': policy}, {}),
    ):
        asked = nodes(graph, record_run='true', **given, **tracker)
        added = set(asked) - set(nodes(graph, **given))
        assert added == {'run_recorder', *tracker}
        assert all(asked[name].respawn and asked[name].optional for name in added)
    assert nodes('fleet', tracker='mlflow')['tracker'].parameters['fleet']  # sees its robots
    assert nodes('sim', record_run='true', camera='true')['run_recorder'].parameters['camera']


def test_record_drives_through_the_teleop_topics(tmp_path):
    graph = nodes('record', demos=str(tmp_path / 'new'))
    assert set(graph) == {
        'robot_sim', 'safety_gate', 'demo_recorder', 'scripted_operator', 'monitor',
    }  # fmt: skip
    assert graph['demo_recorder'].parameters['demonstrations'] == str(tmp_path / 'new')
    by_hand = nodes('record', operator='none')
    assert 'scripted_operator' not in by_hand
    assert by_hand['robot_sim'].parameters['mode'] == 'realtime'
    plan = graphs.plan('record', {'operator': 'none'})
    assert how_to_drive(plan, 7).endswith('mbarl teleop --task pointmass --domain 7')
    # Keys have no positions.
    plan = graphs.plan('record', {'operator': 'none', 'task': 'arm_position'})
    assert how_to_drive(plan, 7) == (
        'drive by leader/joint_states (while leader/deadman is pressed)'
    )


def test_record_adds_nothing_to_the_demonstrations_that_come_with_the_package(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shipped = config_dir().parent / 'demos' / 'pointmass'
    raw = load_task('pointmass').model_dump(mode='json')

    def folder(given='', task='pointmass', **key):
        if key:
            task = 'own.yaml'
            Path(task).write_text(yaml.safe_dump({**raw, 'name': 'own', **key}))
        return graphs.plan('record', {'task': task, 'demos': given}).arguments['demos']

    assert folder() == str(tmp_path / 'my_demos' / 'pointmass')
    assert folder('there') == str(tmp_path / 'there')
    assert folder(demonstrations='mine') == str(tmp_path / 'mine')
    for own in (None, str(shipped)):
        assert folder(demonstrations=own) == str(tmp_path / 'my_demos' / 'own')
    (tmp_path / 'link').symlink_to(shipped)
    for given in (str(shipped), 'link'):
        with pytest.raises(ConfigError, match='come with the package are not added to; give anot'):
            folder(given)
    with pytest.raises(ConfigError, match=r'mobile_base`, and give demos:=my_demos/mobile_base$'):
        graphs.plan('sim', {'task': 'mobile_base'})


def test_record_may_begin_each_demonstration_at_a_wide_start():
    graph = nodes('record', task='push', wide_starts='true')
    for name in ('robot_sim', 'scripted_operator'):
        assert graph[name].parameters['wide_starts'] is True
        assert nodes('record')[name].parameters['wide_starts'] is False


def test_evaluate_takes_policy_and_configuration_from_a_run_folder(tmp_path):
    folder = run_folder(tmp_path / 'run')
    controller = nodes('evaluate', policy=str(folder), episodes='7')['policy_controller']
    assert controller.required
    assert controller.parameters['policy'] == str(folder / POLICY_FILE)
    assert controller.parameters['task'] == str(folder / 'task.yaml')
    assert controller.parameters['robot'] == str(folder / 'robot.yaml')
    assert controller.parameters['episodes'] == 7
    assert controller.parameters['autostart'] is True


@pytest.mark.parametrize(('given', 'moves'), [('auto', False), ('false', False), ('true', True)])
def test_a_real_robot_is_evaluated_only_once_a_person_says_so(tmp_path, given, moves):
    folder = run_folder(tmp_path / 'run')
    graph = nodes('evaluate', policy=str(folder), simulated='false', autostart=given)
    assert graph['policy_controller'].parameters['autostart'] is moves


def test_namespace_and_respawn_reach_every_node():
    graph = nodes('sim', namespace='/robot1', use_respawn='false')
    assert {spec.namespace for spec in graph.values()} == {'robot1'}
    assert not graph['learner'].respawn


def test_without_a_classifier_there_is_no_classifier_node(tmp_path):
    agent = tmp_path / 'forward.yaml'
    agent.write_text('name: forward\nbackward: none\n')
    assert 'state_classifier' not in nodes('sim', agent=str(agent))


def test_own_files_may_be_given_by_relative_path(tmp_path, monkeypatch):
    shutil.copy(config_dir() / 'agents' / 'mbarl.yaml', tmp_path / 'mine.yaml')
    monkeypatch.chdir(tmp_path)
    assert nodes('sim', agent='mine.yaml')['learner'].parameters['agent'] == str(
        tmp_path / 'mine.yaml'
    )


@pytest.mark.parametrize(
    ('graph', 'given', 'message'),
    [
        ('simm', {}, "unknown graph 'simm'; known: sim, hardware, record, evaluate"),
        ('sim', {'taks': 'x'}, "unknown argument 'taks' of graph 'sim'; known: task, agent"),
        ('sim', {'task': 'nope'}, "unknown task 'nope'; known: arm_position, "),
        ('sim', {'robot': 'nope'}, "unknown robot 'nope'; known: arm_position, "),
        ('sim', {'agent': 'nope'}, "unknown agent 'nope'; known: "),
        ('sim', {'robot': 'tabletop'}, "robot 'tabletop' has no 'x'"),
        ('sim', {'task': 'gone.yaml'}, 'gone.yaml: no such file'),
        ('sim', {'seed': 'one'}, "argument 'seed' must be a whole number, got 'one'"),
        ('sim', {'seed': '-1'}, "argument 'seed' must be 0 or more"),
        ('sim', {'target': '90'}, "argument 'target' must be a rate from 0 to 1"),
        ('sim', {'target': 'nan'}, "argument 'target' must be"),
        ('sim', {'real_time_factor': '0'}, "argument 'real_time_factor' must be greater than 0"),
        ('sim', {'mode': 'fast'}, "argument 'mode' must be one of lockstep, realtime, got 'fast'"),
        ('sim', {'autostart': 'yes'}, "argument 'autostart' must be true or false, got 'yes'"),
        ('sim', {'real_time_factor': 'nan'}, "argument 'real_time_factor' must be greater than 0"),
        ('fleet', {'real_time_factor': 'inf'}, 'must be greater than 0 and finite, got inf'),
        ('fleet', {'seed': '1' + 30 * '0'}, 'must be at most 9223372036854775807'),
        ('sim', {'namespace': 'my robot'}, "argument 'namespace' must be a ROS name"),
        ('fleet', {'namespace': 'läb'}, "argument 'namespace' must be a ROS name"),
        ('sim', {'demos': '/nowhere'}, '/nowhere: no such folder of demonstrations; record some'),
        ('record', {'simulated': 'false'}, 'operator:=scripted drives the simulated robot only'),
        (
            'record',
            {'simulated': 'false', 'operator': 'none', 'wide_starts': 'true'},
            'wide_starts:=true: only a simulated robot can be reset',
        ),
        ('record', {'operator': 'none', 'mode': 'lockstep'}, 'a person cannot wait for a step'),
        ('evaluate', {}, "argument 'policy' is required"),
        ('evaluate', {'policy': '/nowhere'}, '/nowhere: no such file'),
    ],
)
def test_a_wrong_word_is_answered_with_one_sentence(graph, given, message):
    with pytest.raises(ConfigError) as caught:
        graphs.plan(graph, given)
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


def test_an_empty_folder_of_demonstrations_is_named(tmp_path):
    with pytest.raises(ConfigError, match='no demonstration in this folder'):
        graphs.plan('sim', {'demos': str(tmp_path)})


def test_a_task_without_a_world_cannot_be_simulated(tmp_path):
    raw = yaml.safe_load((config_dir() / 'tasks' / 'pointmass.yaml').read_text())
    path = tmp_path / 'mine.yaml'
    for world, message in (
        (None, "key 'world' is not set"),
        ('no.such:World', 'no module no.such; install'),
    ):
        path.write_text(yaml.safe_dump({**raw, 'world': world}))
        with pytest.raises(ConfigError, match=message):
            graphs.plan('sim', {'task': str(path)})


def test_every_argument_is_described():
    for about, arguments in GRAPHS.values():
        assert about
        names = [argument.name for argument in arguments]
        assert len(names) == len(set(names))
        assert all(argument.description for argument in arguments)


# --- run folder ------------------------------------------------------------------------------


def plan_in(folder: Path, **given: str) -> graphs.Plan:
    return graphs.plan('sim', {'run_dir': str(folder), **given})


def test_a_run_folder_holds_the_configuration_as_used(tmp_path):
    run = RunFolder(plan_in(tmp_path / 'run'))
    assert not run.resumed
    assert load_task(str(tmp_path / 'run/task.yaml')) == load_task('pointmass')
    assert load_robot(str(tmp_path / 'run/robot.yaml')) == load_robot('pointmass')
    assert load_agent(str(tmp_path / 'run/agent.yaml')) == load_agent('mbarl')
    run.close()


def test_two_runs_in_one_folder_are_refused(tmp_path):
    first = RunFolder(plan_in(tmp_path / 'run'))
    with pytest.raises(ConfigError, match='another run uses it'):
        RunFolder(plan_in(tmp_path / 'run'))
    first.close()
    again = RunFolder(plan_in(tmp_path / 'run', steps='9'))
    assert again.resumed
    again.close()


def test_a_run_is_not_resumed_with_another_configuration(tmp_path):
    RunFolder(plan_in(tmp_path / 'run')).close()
    with pytest.raises(ConfigError, match="was made with seed '0', not '1'"):
        RunFolder(plan_in(tmp_path / 'run', seed='1'))
    with pytest.raises(ConfigError, match="task.yaml, key 'name' 'pointmass' in place of 'tab"):
        RunFolder(plan_in(tmp_path / 'run', task='tabletop'))
    agent = tmp_path / 'mbarl.yaml'
    agent.write_text(yaml.safe_dump({'name': 'mbarl', 'updates_per_step': 7.5}))
    with pytest.raises(ConfigError, match=r"agent.yaml, key '"):
        RunFolder(plan_in(tmp_path / 'run', agent=str(agent)))


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').write_text('')
    with pytest.raises(
        ConfigError, match=r'neither empty nor a run folder \(it contains thesis.tex\)'
    ):
        RunFolder(plan_in(tmp_path))


def end_of_launch(folder, graph, *exits, stopping=False, by_evaluator=''):
    """``result.json`` of a run whose nodes exit in this order: names and codes."""
    plan = graphs.plan(graph, {'run_dir': str(folder)})
    run, specs = RunFolder(plan), {spec.name: spec for spec in plan.nodes}
    end = RunEnd(plan, run)
    for name, code in exits:
        if name == 'policy_evaluator' and by_evaluator:
            (folder / 'result.json').write_text(f'{{"reason": "{by_evaluator}"}}')
        end.exited(specs[name], code, stopping)
    run.close()
    return run.result()


def test_ros2_launch_says_in_the_result_which_node_failed(tmp_path):
    others = ('policy_evaluator', 130), ('safety_gate', 0)
    result = end_of_launch(
        tmp_path / 'killed', 'sim', ('robot_sim', -9), *others, by_evaluator='interrupted'
    )
    assert result['reason'] == 'failed' and result['error'] == 'robot_sim was killed by SIGKILL'
    result = end_of_launch(tmp_path / 'code', 'hardware', ('safety_gate', 1))
    assert result['error'] == 'safety_gate ended with exit code 1'
    evaluator, gate = ('policy_evaluator', 3), ('safety_gate', 0)
    result = end_of_launch(tmp_path / 'budget', 'sim', evaluator, gate, by_evaluator='budget')
    assert result == {'reason': 'budget'}
    order = gate, ('policy_evaluator', 130)
    stopped = {'stopping': True, 'by_evaluator': 'interrupted'}
    assert end_of_launch(tmp_path / 'ctrl-c', 'sim', *order, **stopped)['reason'] == 'interrupted'
    assert end_of_launch(tmp_path / 'other', 'record', ('safety_gate', 1)) is None


@pytest.mark.parametrize('text', ['[]', '{"graph":', 10_000 * '['])
def test_damaged_arguments_of_a_run_are_named(text, tmp_path):
    RunFolder(plan_in(tmp_path / 'run')).close()
    (tmp_path / 'run' / 'arguments.json').write_text(text)
    with pytest.raises(ConfigError, match=r'arguments.json: is damaged; give a new run_dir'):
        RunFolder(plan_in(tmp_path / 'run'))


def test_an_interrupted_run_has_a_result_all_the_same(tmp_path):
    run = RunFolder(plan_in(tmp_path / 'run', seed='3'))
    run.write_interrupted_result()
    assert run.result()['reason'] == 'interrupted'
    assert run.result()['seed'] == 3
    (run.path / 'result.json').unlink()
    # A torn last line, as a kill leaves it, costs only itself.
    (run.path / 'evaluations.jsonl').write_text('{"environment_steps": 500}\n{"environm')
    run.write_interrupted_result()
    assert run.result()['environment_steps'] == 500
    run.close()


@pytest.mark.parametrize(
    ('graph', 'given', 'words'),
    [
        ('hardware', {'agent': 'oracle'}, ["agent 'oracle'", "key 'resets'", 'resets: false']),
        ('sim', {'agent': 'risc'}, ["agent 'risc'", "'pointmass' has no goals", 'fbrl']),
    ],
)
def test_a_preset_that_cannot_work_here_is_refused_before_anything_starts(graph, given, words):
    with pytest.raises(ConfigError) as error:
        graphs.plan(graph, given)
    assert all(word in str(error.value) for word in words)


def test_a_run_in_the_namespace_of_a_robot_of_a_fleet_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    own = {'ROS_DOMAIN_ID': '77'}
    _, robot = take_domain(own, 'robot_2')
    fleet = graphs.plan('fleet', {'robots': '2'}).namespaces
    with pytest.raises(ConfigError, match="another mbarl run uses .* namespace '/robot_2'"):
        take_domain(own, *fleet)
    robot.close()
    domain, lock = take_domain({}, *fleet)  # what it has locked before is free again
    for plan in (
        graphs.plan('sim', {'namespace': 'robot_1'}),
        graphs.plan('hardware', {'fleet': 'true', 'namespace': 'robot_3'}),  # a second learner
    ):
        with pytest.raises(ConfigError, match='another mbarl run uses'):
            take_domain({'ROS_DOMAIN_ID': str(domain)}, *plan.namespaces)
    third = graphs.plan(
        'hardware', {'fleet': 'true', 'namespace': 'robot_3', 'host': 'robot'}
    ).namespaces
    take_domain({'ROS_DOMAIN_ID': str(domain)}, *third)[1].close()
    lock.close()
