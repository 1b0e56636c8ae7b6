"""A tracker that loses its object, over real DDS: what practice does meanwhile, and records."""

import json
import time

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState

from mbarl_ros.nodes.support.doctor import Doctor
from mbarl_ros.nodes.support.robot_check import Listener
from mbarl_ros.schema.load import find
from mbarl_ros.task import Task
from mbarl_sim.tracker import Tracker
from support.graph import SIM, Graph
from support.run_data import spooled

PERIOD = 0.1  # s
OBJECT = slice(7, 10)  # its position in the observation of `push`


def losing(tmp_path, dropouts):
    """Path of the task `push` whose tracker loses the puck so often in a second."""
    raw = yaml.safe_load(find('tasks', 'push').read_text())
    raw['world_options'] = {'dropouts': dropouts}
    raw['phases'] = {'forward_limit': 1000, 'backward_limit': 1000}
    (tmp_path / 'losing.yaml').write_text(yaml.safe_dump(raw))
    return str(tmp_path / 'losing.yaml')


def happened(task, path):
    """What the world really did: stamp (periods) -> observation."""
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        round(step['stamp'] / (PERIOD * 1e9)): task.observation(np.array(step['state']))
        for step in steps
    }


def test_a_tracker_loses_its_object_as_often_and_as_long_as_it_says():
    rng, tracker = np.random.default_rng(0), Tracker(0.5, 10.0)
    seen = []
    for _ in range(20_000):
        tracker.step(rng)
        seen.append(tracker.sees)
    lost = ''.join('x ' if see else '_' for see in seen).split('x')
    lengths = [len(run.strip()) for run in lost if run.strip()]
    assert set(lengths) == {2, 3, 4, 5}  # 0.2 to 0.5 s
    assert len(lengths) == pytest.approx(0.5 * sum(seen) / 10, rel=0.1)


def test_the_world_itself_does_not_depend_on_what_the_tracker_sees():
    task, states = Task.load('push'), {}
    for dropouts in (0.0, 5.0):
        world = Task(task.config, task.robot)
        world.config = task.config.model_copy(update={'world_options': {'dropouts': dropouts}})
        world = world.load_world(seed=0)
        states[dropouts], unseen = [world.reset()], 0
        for _ in range(40):
            states[dropouts].append(world.step(np.array([0.1, 0.1, -0.1, 0.0])))
            unseen += bool(world.unseen)
        assert (unseen > 5) == (dropouts > 0)
        world.reset()
        assert world.unseen == ()
        world.close()
    assert np.array_equal(states[0.0], states[5.0])


@pytest.mark.together
def test_in_lockstep_practice_goes_on_and_no_step_has_an_old_pose(tmp_path):
    log = tmp_path / 'steps.jsonl'
    task_file = losing(tmp_path, dropouts=1.0)
    with Graph(tmp_path, task=task_file, agent='sac') as graph:
        graph.start('robot_sim', step_log=str(log))
        graph.start('safety_gate')
        graph.start('policy_controller', policy='random')
        graph.wait_for_steps(300)
        left_out = graph.value('policy_controller', 'steps_left_out')
        graph.kill('policy_controller', 2)
    task = Task.load(task_file)
    rows = spooled(tmp_path, task)
    truth = happened(task, log)
    stamps = np.round(rows['stamp'] / PERIOD).astype(int)
    assert len(rows) >= 300 and (np.diff(stamps) >= 1).all()
    for row, stamp in zip(rows, stamps, strict=True):
        if stamp + 1 in truth:  # the log has no state after its last step
            np.testing.assert_array_equal(row['observation'], truth[stamp])
            np.testing.assert_array_equal(row['next_observation'], truth[stamp + 1])
    gaps = np.diff(stamps)[np.diff(stamps) > 1]
    assert 10 < len(gaps) <= left_out
    assert gaps.min() == 4  # two blind steps, the one into them, the one out of them


@pytest.mark.paced
@pytest.mark.timing('states reach control within their period')
def test_in_real_time_practice_pauses_and_no_step_has_an_old_pose(tmp_path):
    log = tmp_path / 'steps.jsonl'
    task_file = losing(tmp_path, dropouts=1.0)
    parameters = {'task': task_file, 'agent': 'oracle', 'mode': 'realtime', 'use_sim_time': True}
    with Graph(tmp_path, **parameters) as graph:
        graph.start('robot_sim', step_log=str(log), use_sim_time=False)
        graph.start('safety_gate', use_sim_time=False)
        graph.start('policy_controller', policy='random')
        graph.wait_for_steps(60)
        graph.wait_for('stops', lambda: graph.value('safety_gate', 'stale state') >= 3)
        steps = graph.value('policy_controller', 'environment_steps')
        graph.wait_for_steps(int(steps) + 20)  # it goes on by itself after each of them
        assert graph.value('policy_controller', 'steps_left_out') > 5
        graph.kill('policy_controller', 2)
    task = Task.load(task_file)
    rows = spooled(tmp_path, task)
    truth = happened(task, log)
    for row, stamp in zip(rows, np.round(rows['stamp'] / PERIOD).astype(int), strict=True):
        if stamp + 1 in truth:  # the log has no state after its last step
            for key, at in (('observation', stamp), ('next_observation', stamp + 1)):
                # At most one period old, which is what control tolerates of any topic.
                poses = [truth[when][OBJECT] for when in (at, at - 1) if when in truth]
                assert any(np.array_equal(row[key][OBJECT], pose) for pose in poses), (key, at)


class Relay:
    """Passes the poses of the tracker on, while the test wants."""

    def __init__(self, graph):
        self.sees = True
        self._out = graph.node.create_publisher(PoseStamped, 'object_pose', 10)
        graph.node.create_subscription(PoseStamped, 'tracker', self._pass_on, 10)

    def _pass_on(self, message):
        if self.sees:
            self._out.publish(message)


@pytest.mark.paced
@pytest.mark.timing('the stop has 0.3 s, and time-outs are counted in seconds')
def test_where_the_tracker_never_sees_the_object_again_the_robot_waits_and_names_it(
    tmp_path, monkeypatch
):
    executed = []
    with Graph(tmp_path, task='push', agent='oracle', mode='realtime') as graph:
        relay = Relay(graph)
        graph.node.create_subscription(JointState, 'safety_gate/executed', executed.append, 10)
        graph.start('robot_sim', remap={'object_pose': 'tracker'})
        graph.start(*SIM[1:2])
        graph.start('policy_controller', policy='random')

        def stopped():
            return executed[-1].header.frame_id == 'stop'

        def says(node, words):
            return words in graph.statuses.get(node, {}).get('message', '')

        graph.wait_for_steps(20)
        relay.sees = False
        start = time.monotonic()
        graph.wait_for('stop', stopped)
        assert time.monotonic() - start < 0.3 + 0.3  # state_timeout, and until it arrives
        named = 'stale state: no message on object_pose'
        graph.wait_for('name', lambda: says('safety_gate', named))
        relay.sees = True  # it was away for about a second
        graph.wait_for('motion', lambda: not stopped())
        graph.wait_for_steps(int(graph.value('policy_controller', 'environment_steps')) + 10)

        relay.sees = False
        graph.wait_for('giving up', graph.gave_up)
        assert says('policy_controller', 'object_pose: no message received')
        executed.clear()
        graph.spin(0.5)
        assert not executed or stopped()
        monkeypatch.setenv('ROS_DOMAIN_ID', str(graph.domain))
        with Listener('doctor', '/') as listener:
            found = '\n'.join(map(str, Doctor(listener).examine(3.0)))
        assert 'object_pose: no message received' in found
        assert not graph.change('activate')
        relay.sees = True
        graph.wait_for('activation', lambda: graph.change('activate'))
        graph.wait_for_steps(int(graph.value('policy_controller', 'environment_steps')) + 10)
