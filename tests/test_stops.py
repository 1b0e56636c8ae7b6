"""Faults stop the robot in time; tests/faults.py has 100 trials of each."""

from pathlib import Path

import pytest

from mbarl_ros.nodes.support.transport import without_shared_memory
from mbarl_ros.schema.environment import DISCOVERY_RANGE
from support.graph import Graph
from support.stops import FAULTS, kill_learner, measure

TRIALS = 5
IN_TIME = 0.1  # s


@pytest.mark.parametrize('fault', FAULTS)
def test_the_stop_is_at_the_robot_within_100_ms_of(tmp_path, fault):
    after = measure(tmp_path, fault, TRIALS)
    print([round(1e3 * value) for value in after])
    # One of five is granted to the scheduler of a busy machine.
    assert sorted(after)[-2] <= IN_TIME and min(after) > 0.0


def test_the_robot_goes_on_when_the_learner_is_killed(tmp_path):
    alive, killed = kill_learner(tmp_path, 2)
    print(alive, killed)
    # One of two is granted to the scheduler of a busy machine.
    assert min(window.missed for window in killed) == 0, (alive, killed)
    assert min(window.gap for window in killed) < IN_TIME, (alive, killed)


def test_no_node_uses_shared_memory_unless_a_person_says_so(tmp_path):
    """Through it, one in thirty kills of a neighbour held up the gate for a second."""
    assert without_shared_memory({}) == {'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4'}
    assert not without_shared_memory({'FASTDDS_BUILTIN_TRANSPORTS': 'DEFAULT'})
    assert not without_shared_memory({'FASTRTPS_DEFAULT_PROFILES_FILE': '/my.xml'})
    assert not without_shared_memory(
        {DISCOVERY_RANGE: 'LOCALHOST', 'RMW_IMPLEMENTATION': 'rmw_zenoh_cpp'}
    )
    assert not without_shared_memory({DISCOVERY_RANGE: 'LOCALHOST', 'ROS_STATIC_PEERS': '10.0.0.2'})
    with Graph(tmp_path, task='pointmass') as graph:
        graph.start('safety_gate')
        graph.wait_for('gate', lambda: graph.statuses.get('safety_gate'))
        mapped = Path(f'/proc/{graph.processes["safety_gate"].pid}/maps').read_text()
    assert 'libfast' in mapped and '/dev/shm/fast' not in mapped
