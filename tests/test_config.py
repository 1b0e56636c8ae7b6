"""Configuration mistakes are one sentence that names file and key."""

import pytest
import yaml
from pydantic import BaseModel

from mbarl_ros.schema import agent, robot, task
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import available, find, load_agent, load_robot, load_task, override
from mbarl_ros.task import Task


@pytest.mark.parametrize('name', available('tasks'))
def test_every_shipped_task_loads_with_every_agent(name):
    task = Task.load(name)
    hashes = {task.spec_hash(load_agent(agent)) for agent in available('agents')}
    assert len(hashes) == len(available('agents'))


@pytest.mark.parametrize(
    ('load', 'kind'), [(load_task, 'tasks'), (load_agent, 'agents'), (load_robot, 'robots')]
)
def test_an_unknown_name_lists_the_known_ones(load, kind):
    with pytest.raises(ConfigError) as error:
        load('nonsense')
    for name in available(kind):
        assert name in str(error.value)


def changed(tmp_path, kind, name, change):
    raw = yaml.safe_load(find(kind, name).read_text())
    change(raw)
    path = tmp_path / f'{name}.yaml'
    path.write_text(yaml.safe_dump(raw))
    return str(path)


@pytest.mark.parametrize(
    ('change', 'key'),
    [
        (lambda raw: raw.update(colour='red'), 'colour'),
        (lambda raw: raw.pop('success'), 'success'),
        (lambda raw: raw['success'].update(tolerance='wide'), 'success.tolerance'),
        (lambda raw: raw['success'].update(target=[1.0]), 'success.target'),
        (lambda raw: raw['success'].update(entries=['z'], target=[1.0]), 'success.entries'),
        (lambda raw: raw['observation'][0].update(low=5.0), 'low'),
        (lambda raw: raw['phases'].update(forward_limit=0), 'phases.forward_limit'),
        (lambda raw: raw.update(goals=[[0.0]]), 'goals'),
        (lambda raw: raw.update(world='no colon'), 'world'),
        (lambda raw: raw['success'].update(tolerance=float('nan')), 'success.tolerance'),
    ],
)
def test_a_mistake_in_a_task_names_file_and_key(tmp_path, change, key):
    path = changed(tmp_path, 'tasks', 'pointmass', change)
    with pytest.raises(ConfigError) as error:
        load_task(path)
    assert path in str(error.value) and key in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('change', 'key'),
    [
        (lambda raw: raw['limits'].pop('vx'), 'limits'),
        (lambda raw: raw['limits'].update(vz={'low': 0, 'high': 1}), 'limits'),
        (lambda raw: raw['state'][0].update(type='Odometry'), 'state.0.type'),
        (lambda raw: raw.update(control_rate=0), 'control_rate'),
        (
            lambda raw: raw['limits'].update(vx={'low': 0, 'high': 1}),
            "'limits.vx': stop: give hold",
        ),
        (
            lambda raw: raw['limits']['vx'].update(
                moves=None, stop='hold', measured='x', tracking_error=1, rate=None
            ),
            "'limits.vx': measured: needs rate",
        ),
        (lambda raw: raw.update(workspace={'height': [0, 1]}), 'workspace'),
        (lambda raw: raw.update(command_timeout=0.1), 'command_timeout'),
        (
            lambda raw: raw['teleop'][0].update(topic='/cmd_vel'),
            "command: topic 'cmd_vel' is also one of teleop: the safety gate would listen",
        ),
        (
            lambda raw: raw['state'].append({**raw['state'][0], 'fields': {'z': 'pose.pose.x'}}),
            'state: names used twice: odom',
        ),
    ],
)
def test_a_mistake_in_a_robot_names_file_and_key(tmp_path, change, key):
    path = changed(tmp_path, 'robots', 'pointmass', change)
    with pytest.raises(ConfigError) as error:
        load_robot(path)
    assert path in str(error.value) and key in str(error.value)


@pytest.mark.parametrize(
    'given', ['nav_msgs/Odometry', 'nav_msgs.msg.Odometry', 'nav_msgs::msg::Odometry', 'Odometry']
)
@pytest.mark.parametrize('key', ['state', 'command', 'teleop', 'deadman'])
def test_a_type_of_another_form_is_answered_with_the_right_one(tmp_path, key, given):
    def change(raw):
        if key == 'deadman':
            raw['teleop'][0]['deadman'] = {'topic': 'd', 'type': given, 'field': 'data'}
        else:
            raw[key][0]['type'] = given

    path = changed(tmp_path, 'robots', 'pointmass', change)
    with pytest.raises(ConfigError) as error:
        load_robot(path)
    said = str(error.value)
    assert path in said and f"'{given}'" in said and '^' not in said and key in said
    assert ('nav_msgs/msg/Odometry' in said) == (given != 'Odometry') and 'package/msg/Name' in said


@pytest.mark.parametrize(
    ('key', 'form'), [('world', 'package.module:Class'), ('reward', 'success or topic:NAME')]
)
def test_no_other_text_is_answered_with_a_pattern_either(tmp_path, key, form):
    path = changed(tmp_path, 'tasks', 'pointmass', lambda raw: raw.update({key: 'no form'}))
    with pytest.raises(ConfigError) as error:
        load_task(path)
    assert form in str(error.value) and '^' not in str(error.value)


@pytest.mark.parametrize(
    ('kind', 'limits', 'more', 'words'),
    [
        ('UInt16', {'low': -1, 'high': 1, 'stop': 0}, {'offset': 3.0, 'scale': 0.002}, 'limits.a.'),
        ('Int8', {'low': -0.6, 'high': 0.6, 'stop': 0}, {}, "'limits.a.low': -0.6 becomes -1"),
        ('Bool', {'low': -0.1, 'high': 0.3, 'stop': 0.1}, {}, "'limits.a.stop': 0.1 becomes"),
        ('Int8', {'low': -100, 'high': 100, 'stop': 0}, {}, ''),
        ('UInt16', {'low': -1, 'high': 1, 'stop': 0}, {'offset': -3.0, 'scale': 0.002}, ''),
        ('Bool', {'low': 0, 'high': 0.04, 'stop': 'hold'}, {}, ''),
        ('Byte', {'low': 0, 'high': 200, 'stop': 0}, {}, ''),
        ('ByteMultiArray', {'low': 0, 'high': 200, 'stop': 0}, {}, ''),
    ],
)
def test_limits_that_a_field_cannot_hold_are_refused(tmp_path, kind, limits, more, words):
    """Rounding and saturation would send something else, a stop too."""
    path = 'data[0]' if kind.endswith('Array') else 'data'
    raw = yaml.safe_load(find('robots', 'pointmass').read_text())
    entry = {'topic': 'a', 'type': f'std_msgs/msg/{kind}', 'fields': {'a': path}}
    entry |= {key: {'a': value} for key, value in more.items()}
    raw |= {'command': [entry], 'limits': {'a': limits}, 'teleop': [], 'workspace': {}}
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(raw))
    if not words:
        load_robot(str(tmp_path / 'mine.yaml'))
        return
    with pytest.raises(ConfigError) as error:
        load_robot(str(tmp_path / 'mine.yaml'))
    assert words in str(error.value)


COMMANDS = {
    'position': ('sensor_msgs/msg/JointState', {'vx': 'position[a]', 'vy': 'velocity[b]'}),
    'first': ('std_msgs/msg/Float64MultiArray', {'vx': 'data[1]', 'vy': 'data[2]'}),
    'middle': ('std_msgs/msg/Float64MultiArray', {'vx': 'data[0]', 'vy': 'data[2]'}),
    'twice': ('std_msgs/msg/Float64MultiArray', {'vx': 'data[0]', 'vy': 'data[0]'}),
    'whole': ('std_msgs/msg/Float64MultiArray', {'vx': 'data[1]', 'vy': 'data[0]'}),
}


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        ('position', 'velocity[a] has no entry'),
        ('first', 'data[0] has no entry'),
        ('middle', 'data[1] has no entry'),
        ('twice', 'names used twice: data[0]'),
        ('whole', ''),
    ],
)
def test_a_command_with_a_gap_that_would_be_sent_as_0_is_refused(tmp_path, kind, words):
    message, fields = COMMANDS[kind]
    command = [{'topic': 'command', 'type': message, 'fields': fields}]
    path = changed(tmp_path, 'robots', 'pointmass', lambda raw: raw.update(command=command))
    if not words:
        assert load_robot(path).command_names == ('vx', 'vy')
        return
    with pytest.raises(ConfigError) as error:
        load_robot(path)
    assert words in str(error.value) and path in str(error.value)


def test_a_task_that_does_not_fit_its_robot_is_refused(tmp_path):
    path = changed(
        tmp_path, 'tasks', 'pointmass', lambda raw: raw['observation'][0].update(name='height')
    )
    with pytest.raises(ConfigError, match='height|success'):
        Task.load(path)


def test_goals_that_do_not_tell_what_success_is_are_no_goals_for_hindsight():
    task = Task.load('tabletop')
    success = task.config.success.model_copy(
        update={'target': [0.0] * len(task.config.success.entries)}
    )
    same = Task(task.config.model_copy(update={'success': success}), task.robot)
    with pytest.raises(ConfigError, match="key 'success.target'"):
        same.check_agent(load_agent('mbarl'))
    plain = {'model': None, 'hindsight_fraction': 0.0, 'shared': False}
    same.check_agent(load_agent('mbarl').model_copy(update=plain))


def test_files_that_are_missing_or_no_yaml_are_named(tmp_path):
    with pytest.raises(ConfigError, match='no such file'):
        load_task(str(tmp_path / 'absent.yaml'))
    broken = tmp_path / 'broken.yaml'
    broken.write_text('a: [')
    with pytest.raises(ConfigError, match='broken.yaml'):
        load_task(str(broken))


@pytest.mark.parametrize('load', [load_task, load_agent, load_robot])
@pytest.mark.parametrize('text', ['', '# a comment only\n', '- a\n- b\n', '3\n', 'words\n'])
def test_a_file_without_keys_is_one_sentence_that_names_it(tmp_path, load, text):
    path = tmp_path / 'mine.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(str(path))
    assert f'{path}: is' in str(error.value) and 'keys name' in str(error.value)
    assert '\n' not in str(error.value) and 'NoneType' not in str(error.value)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'sac': {'batch': 64}}, "key 'sac.batch' is now called 'batch_size'"),
        ({'model': {'length': 5}}, "key 'model.length' is now called 'rollout_length'"),
        ({'solvable': 0.2}, "key 'solvable' is now called 'value_threshold'"),
        ({'exploration_noise': 'pink'}, "key 'exploration_noise' was removed; delete it"),
        ({'sac': {'precision': 'auto'}}, "key 'sac.precision' was removed; delete it"),
    ],
)
def test_an_old_key_of_an_agent_names_the_new_one(tmp_path, change, words):
    path = changed(tmp_path, 'agents', 'medal', lambda raw: raw.update(change))
    with pytest.raises(ConfigError) as error:
        load_agent(path)
    assert str(error.value).startswith(f'{path}: {words}')


def test_an_old_key_of_a_robot_names_the_new_one(tmp_path):
    def change(raw):
        raw['limits']['elbow']['lead'] = raw['limits']['elbow'].pop('tracking_error')

    path = changed(tmp_path, 'robots', 'arm_position', change)
    with pytest.raises(ConfigError) as error:
        load_robot(path)
    assert str(error.value) == f"{path}: key 'limits.elbow.lead' is now called 'tracking_error'"


def test_an_old_key_on_the_command_line_names_the_new_one():
    with pytest.raises(ConfigError, match="key 'sac.batch' is now called 'batch_size'"):
        override(load_agent('medal'), {'sac.batch': 64}, "agent 'medal:sac.batch=64'")


def sections(module):
    return [
        section
        for section in vars(module).values()
        if isinstance(section, type)
        and issubclass(section, BaseModel)
        and section.__module__ == module.__name__
    ]


@pytest.mark.parametrize('section', [*sections(robot), *sections(task), *sections(agent)])
def test_every_key_has_a_description_for_the_reference(section):
    assert section.__doc__
    for key, field in section.model_fields.items():
        assert field.description and field.description.endswith('.'), key


def own_task_and_robot(folder, robot_key):
    """A task and a robot profile of a user, in one folder."""
    (folder / 'robot.yaml').write_text(find('robots', 'pointmass').read_text())
    return changed(folder, 'tasks', 'pointmass', lambda raw: raw.update(robot=robot_key))


@pytest.mark.parametrize('key', ['robot.yaml', './robot.yaml', '../mine/robot.yaml'])
def test_the_robot_of_a_task_is_relative_to_the_task_file(tmp_path, monkeypatch, key):
    mine, elsewhere = tmp_path / 'mine', tmp_path / 'elsewhere'
    mine.mkdir(), elsewhere.mkdir()
    path = own_task_and_robot(mine, key)
    monkeypatch.chdir(elsewhere)
    assert Task.load(path).robot.name == 'pointmass'
    assert load_task(path).robot == str(mine / 'robot.yaml')


def test_the_robot_of_a_task_by_name_is_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'tabletop').write_text('not a robot profile')
    assert load_task('tabletop').robot == 'tabletop'
