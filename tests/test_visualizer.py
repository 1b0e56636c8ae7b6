"""The visualizer over DDS: what is drawn of a run, numbers to plot, and the layouts of viewers."""

import json
import re

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, UInt8MultiArray
from visualization_msgs.msg import Marker

from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.learning.classifier import logits, unpack_classifier
from mbarl_ros.nodes.support.runtime import message_bytes
from mbarl_ros.nodes.support.statuses import StatusListener
from mbarl_ros.schema import topics
from mbarl_ros.schema.load import config_dir, find, load_agent, load_task
from mbarl_ros.schema.task import TaskConfig
from mbarl_ros.task import Task
from mbarl_ros.view.measures import MEASURES, SuccessRate
from mbarl_ros.view.scene import BALL, DISC, POINTS, TEXT, Scene, score_colours
from support.graph import LEARNING, Graph, small_agent
from support.marker_picture import MarkerView
from support.run_data import stored

GOAL, TOLERANCE = (-0.9, 0.8), 0.25
LATCHED = QoSProfile(depth=50, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LOOKED_AT = {'/odom', '/learner/imagined', '/state_classifier/classifier'}


class Viewer:
    """RViz and a plotter at once; also notes where the robot was and the classifier's weights."""

    def __init__(self, graph):
        self.view, self.numbers, self.states, self.weights = MarkerView(graph.node), {}, [], []
        create = graph.node.create_subscription
        for topic in MEASURES:
            create(Float64, topic, lambda m, topic=topic: self.numbers.update({topic: m.data}), 10)
        create(JointState, topics.SHOWN_STATE, self.states.append, 100)
        create(UInt8MultiArray, topics.CLASSIFIER, self.weights.append, LATCHED)

    def sees_all(self):
        drawn = {name for name, _ in self.view.markers}
        wanted = {'path/forward', 'path/backward', 'imagined/forward', 'imagined/backward', 'text'}
        coloured = len(np.unique(self.view.colours('demonstrations'), axis=0)) if drawn else 0
        return wanted <= drawn and coloured > 3 and set(self.numbers) == set(MEASURES)


@pytest.fixture(scope='module')
def watched(tmp_path_factory):
    """A viewer that has watched practice; what the visualizer heard before; topics and types."""
    folder = tmp_path_factory.mktemp('watched')
    model = {'members': 3, 'elites': 2, 'hidden': [32, 32], 'every': 100}
    agent = small_agent(folder, model=model, updates_per_step=0.1)
    raw = yaml.safe_load(find('tasks', 'pointmass').read_text())
    raw['demonstrations'] = Task.load('pointmass').config.demonstrations
    raw['phases'] = {'forward_limit': 30, 'backward_limit': 30}
    (folder / 'short.yaml').write_text(yaml.safe_dump(raw))
    with Graph(folder, task=str(folder / 'short.yaml'), agent=agent) as graph:
        graph.start('visualizer', *LEARNING[1:])
        graph.start('robot_sim', frames=True, camera=True)
        graph.wait_for_steps(50)
        names = graph.node.get_subscriber_names_and_types_by_node('visualizer', '/')
        before = {name for name, _ in names}
        viewer = Viewer(graph)
        graph.wait_for('all there is to see', viewer.sees_all)
        names = graph.node.get_subscriber_names_and_types_by_node('visualizer', '/')
        viewer.heard = before, {name for name, _ in names}
        viewer.topics = dict(graph.node.get_topic_names_and_types())
        viewer.agent, viewer.graph, viewer.folder = agent, graph, folder
        yield viewer


def test_the_goal_is_where_the_task_has_it_in_the_workspace(watched, tmp_path):
    goal = watched.view.markers['goal', 0]
    np.testing.assert_allclose(watched.view.points('goal')[0, :2], GOAL)
    assert goal.type == Marker.CYLINDER and goal.header.frame_id == 'world'
    assert goal.scale.x == goal.scale.y == 2 * TOLERANCE
    corners = watched.view.points('workspace')
    assert (corners.min(0) == [-2, -2, 0]).all() and (corners.max(0) == [2, 2, 0]).all()

    names = ('workspace', 'goal')
    seen = watched.view.draw(tmp_path / 'markers.png', names=names).astype(int)
    green = seen[..., 1] - np.maximum(seen[..., 0], seen[..., 2]) > 50
    rows, columns = np.nonzero(green)
    grey = (abs(seen - 146).max(-1) < 30) & (np.ptp(seen, axis=-1) < 4)
    edges = [np.flatnonzero(grey.sum(axis) > 300) for axis in (1, 0)]  # of the workspace
    (top, bottom), (left, right) = ((edge.min(), edge.max()) for edge in edges)
    across = 4 * (np.median(columns) - left) / (right - left) - 2
    up = 2 - 4 * (np.median(rows) - top) / (bottom - top)
    np.testing.assert_allclose([across, up], GOAL, atol=0.1)


def test_both_policies_rollouts_fan_out_from_one_state_in_which_the_robot_was(watched):
    fans = [watched.view.points(f'imagined/{policy}') for policy in ('forward', 'backward')]
    starts = [fan[0] for fan in fans]
    np.testing.assert_array_equal(starts[0], starts[1])
    been = np.concatenate(
        [watched.view.points(f'path/{phase}') for phase in ('forward', 'backward')]
    )
    been = np.concatenate([been, [[*m.position[:2], 0.0] for m in watched.states]])
    assert np.linalg.norm(been - starts[0], axis=1).min() < 1e-6
    for fan in fans:
        firsts = fan[::2][(fan[::2] == starts[0]).all(1)]
        assert len(firsts)  # where the model is sure enough to go on, several begin there
        steps = np.linalg.norm(fan[1::2] - fan[::2], axis=1)
        assert 0 < steps.max() < 0.5  # m in 0.1 s; the model may be wrong, the drawing not


def test_demonstrated_states_have_the_colours_of_their_scores(watched):
    task, agent = Task.load('pointmass'), load_agent(watched.agent)
    rows = load_demonstrations(task.config.demonstrations, task)['observation']
    np.testing.assert_allclose(watched.view.points('demonstrations')[:, :2], rows[:, :2])
    colours = watched.view.colours('demonstrations')
    scores = [
        1 / (1 + np.exp(-logits(unpack_classifier(message_bytes(m), task, agent)[0], rows)))
        for m in watched.weights
    ]
    assert any(np.allclose(colours, score_colours(each), atol=1e-5) for each in scores)


def test_numbers_can_be_plotted_and_states_have_names(watched):
    assert 0 <= watched.numbers[topics.SUCCESS_RATE] <= 1
    assert (
        watched.numbers[topics.UPDATES_PER_SECOND] > 0 and watched.numbers[topics.MODEL_ERROR] > 0
    )
    state = watched.states[-1]
    assert list(state.name) == ['x', 'y', 'vx', 'vy']
    assert abs(np.array(state.position[:2])).max() <= 2
    text = watched.view.markers['text', 0].text
    assert re.match(r'(forward|backward)\npractice: \d+ of the last \d+ attempts', text)


def test_nothing_is_listened_to_for_nobody(watched):
    before, after = watched.heard
    assert not before & LOOKED_AT and LOOKED_AT <= after


def test_a_run_that_is_watched_is_the_same_run(watched, tmp_path):
    task, steps = str(watched.folder / 'short.yaml'), 300  # the model imagines from step 100 on
    with Graph(tmp_path, task=task, agent=watched.agent) as graph:
        graph.start(*LEARNING)
        for one in (graph, watched.graph):
            one.wait_for(
                'steps', lambda one=one: one.value('learner', 'environment_steps') >= steps
            )
    seen, unseen = (stored(each, watched.agent, task) for each in (watched.folder, tmp_path))
    for name in unseen:
        np.testing.assert_array_equal(seen[name][:steps], unseen[name][:steps], err_msg=name)


def test_what_strangers_report_ends_no_node_and_reaches_no_terminal(watched):
    graph = watched.graph
    listener = StatusListener(graph.node)
    strange = graph.node.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, 10)
    for text in ('inf', '-inf', 'nan', '1e308', '', '\x1b[2J'):
        keys = ('attempts', 'successes', 'robot_seconds', 'environment_steps')
        values = [KeyValue(key=key, value=text) for key in keys]
        values.append(KeyValue(key='\x1b', value='x' * 100_000))
        for name in ('policy_controller', 'learner'):
            strange.publish(DiagnosticArray(status=[DiagnosticStatus(name=name, values=values)]))
    graph.wait_for('the report', lambda: '?' in listener.status.get('learner', {}))
    assert all(
        text.isprintable() and len(text) <= 2000
        for node in listener.status.values()
        for text in (*node, *node.values())
    )
    watched.numbers.clear()
    graph.wait_for('numbers again', lambda: topics.SUCCESS_RATE in watched.numbers)


# --- layouts of viewers --------------------------------------------------------------------------


def layout_topics(found):
    """Topics that an RViz or Foxglove layout names: whole texts that look like one."""
    if isinstance(found, dict):
        yield from (key for key in found if key.startswith('/'))
    if isinstance(found, dict | list):
        for value in found.values() if isinstance(found, dict) else found:
            yield from layout_topics(value)
    elif isinstance(found, str) and re.match(r'/[a-z_]+(/|$)', found):
        yield re.match(r'[\w/]+', found)[0]


def test_the_layouts_name_only_topics_of_the_graph(watched):
    rviz = yaml.safe_load((config_dir() / 'rviz' / 'mbarl.rviz').read_text())
    foxglove = json.loads((config_dir() / 'foxglove' / 'mbarl.json').read_text())
    # The evaluator is not among these nodes, and only the Panda has a description.
    there = {*watched.topics, f'/{topics.DEPLOYED_SUCCESS}', f'/{topics.ROBOT_DESCRIPTION}'}
    for layout, expected in ((rviz, 4), (foxglove, 10)):
        named = set(layout_topics(layout))
        assert named <= there and len(named) >= expected
    kinds = {
        display['Topic']['Value']: display['Class'].rpartition('/')[2]
        for display in rviz['Visualization Manager']['Displays']
        if 'Topic' in display
    }
    for topic, kind in kinds.items():
        assert watched.topics[topic][0].endswith(f'/{kind}')


def test_the_foxglove_layout_has_the_panels_and_keys_that_foxglove_knows():
    layouts = pytest.importorskip('foxglove.layouts')
    layout = json.loads((config_dir() / 'foxglove' / 'mbarl.json').read_text())
    known = {
        '3D': layouts.ThreeDeeConfig,
        'DiagnosticSummary': layouts.DiagnosticsSummaryConfig,
        'Image': layouts.ImageConfig,
        'Plot': layouts.PlotConfig,
        'StateTransitions': layouts.StateTransitionsConfig,
    }
    for name, config in layout['configById'].items():
        panel = known[name.partition('!')[0]]
        assert set(config) - {'foxglovePanelTitle'} <= set(panel()._to_dict()), name
        for series in config.get('paths', ()):
            assert set(series) <= set(layouts.PlotSeries()._to_dict())

    def panels(part):
        return [part] if isinstance(part, str) else panels(part['first']) + panels(part['second'])

    assert sorted(panels(layout['layout'])) == sorted(layout['configById'])
    assert {'globalVariables', 'userNodes', 'playbackConfig'} <= set(layout)


# --- without a graph -----------------------------------------------------------------------------


def scene_of(name, **changes):
    task = load_task(name)
    config = TaskConfig.model_validate({**task.model_dump(), **changes})
    return Scene(config, {}), config


def test_a_goal_in_space_is_a_ball_and_each_point_of_a_task_has_its_own_names():
    scene, task = scene_of('peg')
    states = np.tile(np.arange(task_width(task), dtype=float), (3, 1))
    shapes = {shape.namespace: shape for shape in scene.static(states, None)}
    assert shapes['goal/object'].kind == BALL and 'goal/hand' not in shapes
    np.testing.assert_allclose(shapes['goal/object'].points, [[0.54, 0.06, 0.01]])
    assert shapes['goal/object'].size == (0.016,) * 3
    assert shapes['goal/object'].frame == 'panda_link0'
    assert shapes['demonstrations/object'].kind == POINTS
    np.testing.assert_array_equal(shapes['demonstrations/object'].points, [[7, 8, 9]] * 3)
    np.testing.assert_array_equal(shapes['demonstrations/hand'].points, [[0, 1, 2]] * 3)


def task_width(task):
    return len(task.columns)


def test_points_without_a_name_of_their_own_do_not_replace_each_other():
    scene, task = scene_of('pointmass', show=[{'x': 'x', 'y': 'y'}, {'x': 'vx', 'y': 'vy'}])
    states = np.zeros((3, task_width(task)))
    shapes = scene.static(states, None) + scene.moving(states, ['forward'] * 3, {}, '')
    assert len({(shape.namespace, shape.number) for shape in shapes}) == len(shapes)
    assert {'robot/point_1', 'robot/point_2'} <= {shape.namespace for shape in shapes}


def test_all_goals_are_drawn_and_the_path_is_cut_where_the_phase_changes():
    scene, task = scene_of('tabletop')
    goals = [s for s in scene.static(np.zeros((0, 6)), None) if s.namespace == 'goal/mug']
    assert [s.number for s in goals] == [0, 1, 2, 3] and {s.kind for s in goals} == {DISC}
    np.testing.assert_allclose(
        np.concatenate([s.points for s in goals])[:, :2], np.array(task.goals)[:, 2:4]
    )
    states = np.zeros((4, 6))
    states[:, 2] = [0, 1, 2, 3]
    phases = ['forward', 'forward', 'backward', 'backward']
    shapes = {s.namespace: s for s in scene.moving(states, phases, {}, 'now')}
    assert shapes['path/forward/mug'].points[:, 0].tolist() == [0, 1]
    assert shapes['path/backward/mug'].points[:, 0].tolist() == [2, 3]
    assert not len(shapes['imagined/forward/mug'].points)
    assert shapes['robot/mug'].points.tolist() == [[3, 0, 0]]
    assert (shapes['text'].kind, shapes['text'].text) == (TEXT, 'now')


def test_without_the_key_the_success_entries_on_axes_are_shown():
    (point,) = scene_of('peg', show=[])[0].points
    assert (point.x, point.y, point.z, point.frame) == ('object_x', 'object_y', 'object_z', 'world')
    assert scene_of('arm_velocity')[0].points == []


@pytest.mark.parametrize(
    ('show', 'words'),
    [
        ({'x': 'mug_x', 'y': 'mugy'}, ['show: mugy not in observation', 'mug_y']),
        ({'x': 'mug_x'}, ['show', 'y']),
        ([{'x': 'mug_x', 'y': 'mug_y'}] * 4, ['show', 'at most 3']),
    ],
)
def test_a_point_that_cannot_be_shown_is_refused_by_name(show, words):
    with pytest.raises(ValueError) as error:
        scene_of('tabletop', show=show)
    assert all(word in str(error.value) for word in words)


def test_an_angle_is_no_position():
    task = load_task('tabletop').model_dump()
    task['observation'] = [
        *task['observation'], {'name': 'turn', 'low': -3.0, 'high': 3.0, 'angle': True},
    ]  # fmt: skip
    task['goals'] = [[*goal, 0.0] for goal in task['goals']]
    with pytest.raises(ValueError, match='show: turn is an angle'):
        TaskConfig.model_validate({**task, 'show': {'x': 'turn', 'y': 'mug_y'}})


def test_the_success_rate_is_of_the_last_attempts():
    rate = SuccessRate()
    for attempts in range(1, 41):
        rate.add(attempts, max(attempts - 30, 0))  # the last ten succeed
    assert rate.counted == (10, 20)
    rate.add(1, 1)  # a restarted controller
    assert rate.counted == (1, 1)
