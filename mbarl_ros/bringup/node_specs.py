"""The nodes of a graph as data, and what describes them: for one robot or several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mbarl_ros.bringup import hosts
from mbarl_ros.bringup.arguments import CAMERA, Value
from mbarl_ros.bringup.fleet import robot_seed, shared_remappings, watched_remappings
from mbarl_ros.schema.executables import NODES
from mbarl_ros.schema.exit_codes import EXIT_BUDGET, EXIT_SUCCESS
from mbarl_ros.storage.run_files import ROBOTS_FOLDER


@dataclass(frozen=True)
class NodeSpec:
    """One process of a graph.

    ``required``: its exit ends the run. ``respawn``: it is started again after it dies, with a
    delay of ``respawn_delay`` seconds. ``optional``: the run goes on without it. ``robot``: the one
    of a fleet to which it belongs.
    """

    executable: str
    name: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    namespace: str = ''
    remappings: tuple[tuple[str, str], ...] = ()
    required: bool = False
    respawn: bool = False
    respawn_delay: float = 1.0
    optional: bool = False
    robot: str = ''

    @property
    def label(self) -> str:
        """Name in the run: that of the node, in a fleet after its robot: ``robot_1/robot_sim``."""
        return f'{self.robot}/{self.name}'.lstrip('/')

    def completes(self, code: int) -> bool:
        """Whether the run is done where this node has exited with ``code``."""
        return self.required and code in (EXIT_SUCCESS, EXIT_BUDGET)


class NodeBuilder:
    """Describes nodes: the common parameters, and those of each node.

    ``robot``: of a fleet; its nodes have a namespace, a folder and random streams of their own.
    """

    def __init__(
        self,
        values: Mapping[str, Value],
        robot: str = '',
        remappings: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.values, self.robot, self.remappings = values, robot, remappings
        self.namespace = f'{str(values["namespace"]).strip("/")}/{robot}'.strip('/')
        self.common = {
            'task': values['task'],
            'robot': values['robot'],
            'agent': values['agent'],
            'seed': values['seed'],
            'run_dir': values['run_dir'],
            'mode': values.get('mode', 'realtime'),
        }
        if robot:
            self.common['seed'] = robot_seed(int(values['seed']), robot)
            self.common['run_dir'] = str(Path(str(values['run_dir'])) / ROBOTS_FOLDER / robot)

    def node(
        self, name: str, *, required: bool = False, respawn: bool = False, **own: Value
    ) -> NodeSpec:
        """A node with the common parameters and its ``own``; ``respawn`` if the user has it."""
        assert name in NODES
        return NodeSpec(
            executable=name,
            name=name,
            parameters={**self.common, **own},
            namespace=self.namespace,
            remappings=self.remappings,
            required=required,
            respawn=respawn and bool(self.values.get('use_respawn', False)),
            robot=self.robot,
        )

    def robot_sim(self, *, respawn: bool = False, **own: Value) -> NodeSpec:
        """The simulated robot, with its pace where it has one, its camera and its frames."""
        names = ('real_time_factor', *(argument.name for argument in CAMERA))
        chosen = {name: self.values[name] for name in names if name in self.values}
        frames = {'frames': True} if self.values.get('visualizer') else {}
        return self.node('robot_sim', respawn=respawn, **chosen, **frames, **own)

    def gate(self, simulated: bool) -> NodeSpec:
        """The safety gate; its time-outs depend on the real-time factor of a simulation."""
        if not simulated:
            return self.node('safety_gate', **self.of_fleet(), **self.sim_time(simulated))
        factor = self.values['real_time_factor']
        respawn = bool(self.robot)
        return self.node('safety_gate', respawn=respawn, real_time_factor=factor, **self.of_fleet())

    def of_fleet(self) -> dict[str, Value]:
        """Parameter ``fleet`` of a node of one robot of several."""
        return {'fleet': True} if self.robot else {}

    def of_robots(self) -> dict[str, Value]:
        """Parameter ``fleet`` of a node that several robots share."""
        return {'fleet': True} if is_fleet(self.values) and not self.robot else {}

    def sim_time(self, simulated: bool) -> dict[str, Value]:
        """Parameter ``use_sim_time``; in lockstep the nodes use header stamps instead of /clock."""
        requested = simulated or self.values.get('use_sim_time')
        follows_clock = requested and self.common['mode'] == 'realtime'
        return {'use_sim_time': True} if follows_clock else {}

    def monitor(self, **own: Value) -> NodeSpec:
        """The monitor; with ``follows_end`` its exit ends the run."""
        return NodeSpec(
            executable='monitor',
            name='monitor',
            parameters={
                'format': 'lines',
                'period': 10.0,
                'run_dir': self.values['run_dir'],
                **own,
            },
            namespace=self.namespace,
            required='follows_end' in own,
            respawn=True,
            optional=True,
        )

    def watchers(self, simulated: bool) -> list[NodeSpec]:
        """Nodes that watch the run, on request; the run goes on without them."""
        values, time, nodes = self.values, self.sim_time(simulated), []
        if values.get('visualizer'):
            demos = values.get('demos', '')
            nodes.append(self.node('visualizer', demonstrations=demos, **time))
        if values.get('record_run'):
            camera = bool(values.get('camera', False))
            nodes.append(self.node('run_recorder', camera=camera, **time))
        if values.get('tracker', 'none') != 'none':
            library = values['tracker']
            nodes.append(self.node('tracker', library=library, **self.of_robots()))
        return [replace(node, respawn=True, optional=True) for node in nodes]


def is_fleet(values: Mapping[str, Value]) -> bool:
    """Whether several robots share the learner: graph ``fleet``, or ``fleet:=true``."""
    return 'robots' in values or bool(values.get('fleet'))


def builders(values: Mapping[str, Value]) -> tuple[list[NodeBuilder], NodeBuilder]:
    """Builders of each robot that is started here, and of what the robots share.

    Without a fleet that is the same one. With ``fleet:=true`` the namespace is that of the robot;
    at ``host:=learner`` no robot is started, and it is the one above.
    """
    if not is_fleet(values):
        build = NodeBuilder(values)
        return [build], build
    namespace = str(values['namespace']).strip('/')
    robots = [f'robot_{number}' for number in range(1, int(values.get('robots', 0)) + 1)]
    if not robots and values['host'] != hosts.LEARNER:
        namespace, _, robot = namespace.rpartition('/')
        robots = [robot]
    shared = {**values, 'namespace': namespace}
    remappings = shared_remappings(namespace)
    return [NodeBuilder(shared, robot, remappings) for robot in robots], NodeBuilder(shared)


def watcher(values: Mapping[str, Value]) -> NodeBuilder:
    """Builder of the nodes that watch: beside the learner, or beside a robot that is alone here."""
    _, shared = builders(values)
    if not is_fleet(values) or values.get('host') != hosts.ROBOT:
        return shared
    remappings = watched_remappings(shared.namespace)
    return NodeBuilder({**values, 'fleet': False}, remappings=remappings)
