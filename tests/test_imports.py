"""Who may import what: the rooms of the design, held by walking the import graph."""

import ast
import importlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MESSAGES = {
    'action_msgs', 'builtin_interfaces', 'diagnostic_msgs', 'geometry_msgs', 'lifecycle_msgs',
    'nav_msgs', 'rcl_interfaces', 'rosgraph_msgs', 'sensor_msgs', 'std_msgs', 'std_srvs',
    'trajectory_msgs', 'visualization_msgs',
}  # fmt: skip
ROS = {'rclpy', *MESSAGES}
LAUNCH = {'launch', 'launch_ros'}


def modules() -> dict[str, Path]:
    """Every module of both packages."""
    found = {}
    for folder, package in (('mbarl_ros', 'mbarl_ros'), ('sim', 'mbarl_sim')):
        for path in (ROOT / folder).rglob('*.py'):
            parts = path.relative_to(ROOT / folder).with_suffix('').parts
            if parts[-1] == '__init__':
                parts = parts[:-1]
            found['.'.join((package, *parts))] = path
    return found


MODULES = modules()


parsed = cache(lambda path: ast.parse(path.read_text()))


def imports(path: Path, *, lazy: bool = True) -> Iterator[str]:
    """Names that a file imports; ``lazy``: also those inside functions."""
    tree = parsed(path)
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            assert node.module is not None
            yield node.module
            for alias in node.names:  # `from package import module`
                if f'{node.module}.{alias.name}' in MODULES:
                    yield f'{node.module}.{alias.name}'


@cache
def ours(name: str, **options: bool) -> set[str]:
    """Modules of ours that a module imports itself, with the packages that they lie in."""
    found = set()
    for imported in imports(MODULES[name], **options):
        parts = imported.split('.')
        prefixes = ('.'.join(parts[: end + 1]) for end in range(len(parts)))
        found |= {prefix for prefix in prefixes if prefix in MODULES}
    return found - {name}


@cache
def reach(name: str) -> set[str]:
    """Modules of ours that a module imports, directly or through others."""
    seen, todo = set(), [name]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo += ours(current)
    return seen


def foreign(name: str) -> set[str]:
    """Top-level packages from elsewhere that a module needs, directly or through others."""
    packages = {
        imported.partition('.')[0]
        for module in reach(name)
        for imported in imports(MODULES[module])
    }
    return packages - set(sys.stdlib_module_names) - {'mbarl_ros', 'mbarl_sim'}


def room(*prefixes: str) -> list[str]:
    """Modules in the rooms with these names."""
    return sorted(
        name
        for name in MODULES
        if any(name == prefix or name.startswith(f'{prefix}.') for prefix in prefixes)
    )


def test_every_module_is_seen():
    assert {'mbarl_ros.task', 'mbarl_ros.nodes.learner', 'mbarl_sim.robot_sim'} <= set(MODULES)


@pytest.mark.parametrize('name', room('mbarl_ros.control'))
def test_the_control_room_needs_numpy_and_the_schema_only(name):
    assert foreign(name) <= {'numpy', 'pydantic', 'yaml', 'safetensors'}


@pytest.mark.parametrize(
    'name',
    room(
        'mbarl_ros.task', 'mbarl_ros.config', 'mbarl_ros.wire', 'mbarl_ros.fields',
        'mbarl_ros.transitions', 'mbarl_ros.bringup', 'mbarl_ros.arguments',
    ),
)  # fmt: skip
def test_the_common_ground_is_light(name):
    assert foreign(name) <= {'numpy', 'pydantic', 'yaml', 'safetensors'}


@pytest.mark.parametrize('name', room('mbarl_ros.learning', 'mbarl_ros.studies'))
def test_learning_knows_no_ros(name):
    assert not foreign(name) & (ROS | LAUNCH)


@pytest.mark.parametrize('name', room('mbarl_ros.demos'))
def test_demonstrations_need_neither_ros_nor_torch(name):
    assert not foreign(name) & (ROS | LAUNCH | {'torch'})


def test_ros_is_for_nodes_only():
    nodes = {*room('mbarl_ros.nodes'), 'mbarl_sim.robot_sim', 'mbarl_sim.scripted_operator'}
    for name, path in MODULES.items():
        used = {imported.partition('.')[0] for imported in imports(path)}
        assert name in nodes or not used & ROS, f'{name} imports {used & ROS}'
        launches = name == 'mbarl_ros.bringup_launch'
        assert launches or not used & LAUNCH, f'{name} imports {used & LAUNCH}'


def test_nothing_imports_the_simulation_by_name():
    # A world is loaded by the import path that a task names, so that users plug in their own.
    for name in room('mbarl_ros'):
        assert not any(module.startswith('mbarl_sim') for module in ours(name)), name


@pytest.mark.parametrize('path', sorted((ROOT / 'benchmarks').glob('*.py')), ids=lambda p: p.stem)
def test_a_benchmark_imports_what_there_is(path):
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith('mbarl_'):
            module = importlib.import_module(node.module)
            assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]


def test_the_rooms_do_not_know_the_nodes():
    below = room(
        'mbarl_ros.control', 'mbarl_ros.learning', 'mbarl_ros.demos', 'mbarl_ros.task',
        'mbarl_ros.config', 'mbarl_ros.wire', 'mbarl_ros.bringup',
    )  # fmt: skip
    for name in below:
        assert not any(module.startswith('mbarl_ros.nodes') for module in reach(name)), name


def test_there_are_no_circles():
    for name in MODULES:
        direct = ours(name, lazy=False) - set(name.rsplit('.', 1)[:1])
        for other in direct:
            if not name.startswith(f'{other}.'):  # a package holds its modules
                assert name not in _reach_eagerly(other), f'{name} <-> {other}'


def _reach_eagerly(name: str) -> set[str]:
    seen, todo = set(), [name]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo += ours(current, lazy=False)
    return seen
