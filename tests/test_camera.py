"""The simulated camera: over DDS as a driver's, from the world that the robot is in."""

import numpy as np
import pybullet
import pytest
from geometry_msgs.msg import Twist
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image

from mbarl_ros.bringup import graphs
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.message_fields import stamp_ns
from mbarl_ros.task import Task
from mbarl_sim.worlds import connect, picture
from support.graph import Graph
from support.user_worlds import task_with

PERIOD = 100_000_000  # ns, of the point mass
SIZE = {'camera_width': 160, 'camera_height': 120}


class Viewer:
    """Subscribes as viewers do, reliable or best effort, and steps the world by commands."""

    def __init__(self, graph):
        self.graph, self.images, self.infos = graph, [], []
        self.commands = graph.node.create_publisher(Twist, 'cmd_vel', 10)

    def look(self):
        create = self.graph.node.create_subscription
        create(Image, 'camera/image_raw', self.images.append, 10)
        create(CameraInfo, 'camera/camera_info', self.infos.append, qos_profile_sensor_data)

    def step(self, times, vx=0.8):
        """One command is one step in lockstep."""
        before = self.graph.value('robot_sim', 'steps', 0.0)
        self.graph.wait_for('robot', lambda: self.commands.get_subscription_count())
        self.graph.spin(0.5)  # the robot's side of the match, without which a command is lost
        for _ in range(times):
            message = Twist()
            message.linear.x = vx
            self.commands.publish(message)
            self.graph.spin(0.1)
        self.graph.wait_for(
            'the steps', lambda: self.graph.value('robot_sim', 'steps') >= before + times
        )


@pytest.mark.together
def test_pictures_show_the_world_of_the_robot_and_come_with_their_calibration(tmp_path):
    with Graph(tmp_path, task='pointmass') as graph:
        viewer = Viewer(graph)
        viewer.look()
        graph.start('robot_sim', camera=True, **SIZE)
        graph.wait_for('the first picture', lambda: viewer.images and viewer.infos)
        viewer.step(4)
        graph.wait_for('pictures', lambda: len(viewer.images) >= 5 and len(viewer.infos) >= 5)
    world = Task.load('pointmass').load_world(seed=0)
    world.reset()
    for number, (image, info) in enumerate(zip(viewer.images, viewer.infos, strict=True)):
        expected = world.render(160, 120)
        seen = np.frombuffer(image.data, np.uint8).reshape(120, image.step)[:, : 3 * 160]
        np.testing.assert_array_equal(seen.reshape(120, 160, 3), expected)
        assert (image.encoding, image.header.frame_id) == ('rgb8', 'camera_optical_frame')
        assert stamp_ns(image) == stamp_ns(info) == number * PERIOD
        assert info.header.frame_id == image.header.frame_id
        assert (info.width, info.height) == (image.width, image.height) == (160, 120)
        matrix = expected.camera.intrinsics(160, 120)
        np.testing.assert_allclose(np.reshape(info.k, (3, 3)), matrix)
        np.testing.assert_allclose(np.reshape(info.p, (3, 4)), np.eye(3, 4) @ matrix_4(matrix))
        assert info.distortion_model == 'plumb_bob' and list(info.d) == [0.0] * 5
        world.step(np.array([0.8, 0.0]))


def matrix_4(matrix):
    whole = np.eye(4)
    whole[:3, :3] = matrix
    return whole


@pytest.mark.together
def test_nothing_is_rendered_while_nobody_looks(tmp_path):
    log = tmp_path / 'pictures'
    task = task_with(tmp_path, 'CountedRoom', log=str(log))
    with Graph(tmp_path, task=str(task)) as graph:
        viewer = Viewer(graph)
        graph.start('robot_sim', camera=True, **SIZE)
        viewer.step(5)
        assert log.read_bytes() == b'.'  # at the start, to see that there is a picture
        viewer.look()
        graph.wait_for('a picture', lambda: viewer.images)
        graph.spin(1.2)  # the world stands still, and its state is published again and again
        assert len(viewer.images) == 1
        viewer.step(3)
        graph.wait_for('more pictures', lambda: len(viewer.images) == 4)
        assert len(log.read_bytes()) == 5


@pytest.mark.together
def test_the_rate_is_that_of_simulated_time(tmp_path):
    with Graph(tmp_path, task='pointmass') as graph:
        viewer = Viewer(graph)
        viewer.look()
        graph.start('robot_sim', camera=True, camera_rate=4.0, **SIZE)
        graph.wait_for('the first picture', lambda: viewer.images)
        viewer.step(10)
        graph.wait_for('pictures', lambda: len(viewer.images) >= 5)
    # Every 0.25 s, each at the first step from then on.
    assert [stamp_ns(image) // PERIOD for image in viewer.images] == [0, 3, 5, 8, 10]


@pytest.mark.together
def test_without_the_parameter_there_is_no_camera(tmp_path):
    with Graph(tmp_path, task='pointmass') as graph:
        graph.start('robot_sim')
        graph.wait_for('robot', lambda: 'robot_sim' in graph.statuses)
        names = [name for name, _ in graph.node.get_topic_names_and_types()]
        assert '/odom' in names and not [name for name in names if 'camera' in name]


@pytest.mark.together
@pytest.mark.parametrize(
    ('parameters', 'word'),
    [
        ({'camera_rate': 0.0}, 'camera_rate'),
        ({'camera_width': 0}, 'camera_width'),
        ({'camera_height': 10_000}, 'camera_height'),
        ({'task': 'Blind'}, 'makes no pictures'),
    ],
)
def test_a_camera_that_cannot_be_is_refused(tmp_path, parameters, word):
    if parameters.get('task') == 'Blind':
        parameters = {'task': str(task_with(tmp_path, 'Blind'))}
    with Graph(tmp_path, task='pointmass') as graph:
        graph.start('robot_sim', camera=True, **parameters)
        process = graph.processes['robot_sim']
        with pytest.raises(AssertionError, match=word):
            graph.wait_for('the end', lambda: False, 30)
        assert process.returncode == 2


@pytest.mark.together
def test_a_launched_graph_hands_the_arguments_to_the_simulated_robot(tmp_path):
    given = {'camera': 'true', 'camera_rate': '2', 'camera_width': '64', 'camera_height': '48'}
    for graph in ('sim', 'record'):
        specs = graphs.plan(
            graph, {**given, 'demos': str(tmp_path)} if graph == 'record' else given
        )
        (robot,) = [spec.parameters for spec in specs.nodes if spec.name == 'robot_sim']
        assert robot['camera'] is True and robot['camera_rate'] == 2.0
        assert (robot['camera_width'], robot['camera_height']) == (64, 48)
    with pytest.raises(ConfigError, match='camera'):
        graphs.plan('record', {'camera': 'true', 'simulated': 'false', 'operator': 'none'})


@pytest.mark.together
@pytest.mark.parametrize('size', [(320, 240), (301, 401)])
def test_the_calibration_says_where_things_are_in_the_picture(size):
    client, rng = connect(10.0, 1), np.random.default_rng(0)
    ball = pybullet.createVisualShape(
        pybullet.GEOM_SPHERE, radius=0.02, rgbaColor=(1, 0, 0, 1), physicsClientId=client
    )
    for _ in range(5):
        place = np.array([0.42, 0.0, 0.12]) + rng.uniform(-0.2, 0.2, 3)
        body = pybullet.createMultiBody(0, -1, ball, place, physicsClientId=client)
        image = picture(client, (1.35, -0.75, 0.75), 32, *size, at=(0.42, 0, 0.12), up=(0, 0, 1))
        rows, columns = np.nonzero(image[..., 0].astype(int) - image[..., 1] > 40)
        column, row = image.camera.project(place, *size)
        assert abs(columns.mean() - column) < 0.25 and abs(rows.mean() - row) < 0.25
        pybullet.removeBody(body, physicsClientId=client)
    pybullet.disconnect(client)
