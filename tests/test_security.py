"""The SROS2 policy against what the running nodes open, over real DDS."""

from xml.etree import ElementTree

import pytest

from mbarl_ros.bringup.sros2 import OPERATOR, sros2_policy
from mbarl_ros.schema.load import load_robot
from mbarl_ros.storage.web_address import keep_address
from support.graph import Graph, small_agent
from support.marker_picture import MarkerView

pytestmark = pytest.mark.together

RUNNING = (
    'safety_gate', 'policy_controller', 'learner', 'state_classifier', 'demo_recorder',
    'visualizer',
    'run_recorder', 'tracker',
)  # fmt: skip
PAGE = 'web_page'


def allowed(node, robot='pointmass'):
    """(verb, absolute name) of all that the policy allows a node."""
    root = ElementTree.fromstring(sros2_policy(load_robot(robot)).encode())
    profile = root.find(f"enclaves/enclave[@path='/mbarl/{node}']/profiles/profile")
    return {
        (verb, (entry.text.replace('~', node)).removeprefix('/'))
        for group in profile
        for verb in group.attrib
        for entry in group
    }


def opened(test, node):
    """(verb, name) of all that a running node has opened."""
    return {
        (verb, name.removeprefix('/'))
        for verb, names in (
            ('publish', test.get_publisher_names_and_types_by_node(node, '/')),
            ('subscribe', test.get_subscriber_names_and_types_by_node(node, '/')),
            ('reply', test.get_service_names_and_types_by_node(node, '/')),
            ('request', test.get_client_names_and_types_by_node(node, '/')),
        )
        for name, _ in names
    }


def test_a_person_may_drive_activate_stop_and_release_and_nothing_that_a_node_says():
    may = allowed(OPERATOR, 'arm_position')
    for verb, name in (
        ('publish', 'leader/joint_states'),
        ('publish', 'leader/deadman'),
        ('publish', 'safety_gate/estop'),
        ('request', 'safety_gate/release'),
        ('request', 'policy_controller/change_state'),
        ('request', 'demo_recorder/set_parameters'),
        ('subscribe', 'diagnostics'),
        ('subscribe', 'safety_gate/clipped'),
    ):
        assert (verb, name) in may
    published = {name for node in RUNNING for verb, name in allowed(node) if verb == 'publish'}
    common = {'rosout', 'parameter_events', 'diagnostics'}
    assert {name for verb, name in may if verb == 'publish'} & published <= common


def test_each_node_opens_what_its_policy_allows_and_nothing_else(tmp_path):
    agent = small_agent(tmp_path)
    with Graph(tmp_path, task='pointmass', agent=agent, mode='realtime') as graph:
        graph.start('safety_gate', 'learner', 'state_classifier', 'run_recorder', 'tracker')
        graph.start('policy_controller', autostart=False)
        graph.start('demo_recorder', demonstrations=str(tmp_path / 'demos'))
        MarkerView(graph.node)  # for which the visualizer opens the rest
        graph.start('visualizer')
        graph.wait_for('nodes', lambda: set(RUNNING) <= set(graph.statuses))
        assert graph.change('configure')
        for node in RUNNING:
            wanted = allowed(node) - {('subscribe', 'clock')}  # only where simulated time is used
            graph.wait_for(node, lambda: opened(graph.node, node) == wanted)  # noqa: B023
        keep_address(tmp_path / 'run')
        graph.start(PAGE, control=True)
        graph.wait_for('the page', lambda: PAGE in graph.statuses)
        seen = {('subscribe', 'clock'), ('subscribe', 'camera/image_raw')}  # while somebody looks
        graph.wait_for(PAGE, lambda: opened(graph.node, PAGE) == allowed(PAGE) - seen)
