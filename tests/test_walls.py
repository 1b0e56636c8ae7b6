"""The walls between the rooms: every import is walked, lazy and TYPE_CHECKING ones included.

``python tests/test_walls.py`` prints what is counted here.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Room -> rooms that it may import. Arrows point down this list.
ROOMS = {
    'cli': (
        'bringup',
        'reports',
        'studies',
        'nodes',
        'control',
        'demos',
        'view',
        'storage',
        'task',
        'schema',
    ),
    'bringup': ('demos', 'view', 'storage', 'task', 'schema'),
    'reports': ('studies', 'learning', 'control', 'demos', 'view', 'storage', 'task', 'schema'),
    'studies': ('learning', 'control', 'demos', 'view', 'storage', 'task', 'schema'),
    'nodes': ('learning', 'control', 'demos', 'view', 'storage', 'task', 'schema'),
    'learning': ('control', 'storage', 'task', 'schema'),
    'control': ('storage', 'task', 'schema'),
    'demos': ('storage', 'task', 'schema'),
    'view': ('storage', 'schema'),
    'storage': ('task', 'schema'),
    'task': ('schema',),
    'schema': (),
}
# Packages from elsewhere that a room may import, beside the standard library.
MESSAGES = {
    'action_msgs', 'builtin_interfaces', 'diagnostic_msgs', 'geometry_msgs', 'lifecycle_msgs',
    'nav_msgs', 'rcl_interfaces', 'rosgraph_msgs', 'sensor_msgs', 'std_msgs', 'std_srvs',
    'tf2_msgs', 'trajectory_msgs', 'visualization_msgs',
}  # fmt: skip
ROS = {'rclpy', *MESSAGES}
FORMATS = {'gymnasium', 'h5py', 'lz4', 'mcap', 'minari', 'pyarrow', 'rosbags', 'zstandard'}
FOREIGN = {
    'cli': {'rich'},
    'bringup': {'yaml', 'launch', 'launch_ros'},
    'studies': {
        'numpy',
        'torch',
        'yaml',
        'matplotlib',
        'rich',
        'gymnasium',
        'optuna',
        'ray',
        'sb3_contrib',
        'stable_baselines3',
    },
    'reports': {'numpy', 'torch', 'matplotlib', 'yaml'},
    'nodes': {'numpy', 'torch', 'aiohttp', 'mlflow', 'wandb', *ROS},
    'learning': {'numpy', 'torch'},
    'control': {'numpy'},
    'demos': {'numpy', *FORMATS},
    'view': {'numpy', 'matplotlib', 'rich', 'PIL', 'av'},
    'storage': {'numpy', 'safetensors', 'yaml'},
    'task': {'numpy'},
    'schema': {'numpy', 'pydantic', 'yaml'},
}
SIM_NODES = (
    'mbarl_sim.robot_sim',
    'mbarl_sim.request_servers',
    'mbarl_sim.scripted_operator',
    'mbarl_sim.camera',
    'mbarl_sim.frames',
)


@dataclass(frozen=True)
class Arrow:
    """One import of one of our files by another."""

    source: str
    target: str
    where: str  # file:line: the line itself


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


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(name, file:line: text) of all that a file imports, wherever in it."""
    lines = path.read_text().splitlines()
    for node in ast.walk(ast.parse('\n'.join(lines))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            line = lines[node.lineno - 1].strip()
            where = f'{path.relative_to(ROOT)}:{node.lineno}: {line}'
        if isinstance(node, ast.Import):
            yield from ((alias.name, where) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'relative import: {where}'
            for alias in node.names:
                whole = f'{node.module}.{alias.name}'  # `from package import module`
                yield (whole if whole in MODULES else node.module), where


@cache
def arrows() -> tuple[Arrow, ...]:
    """All imports between our own files, one for each pair."""
    found = {}
    for name, path in MODULES.items():
        for target, where in imports(path):
            if target in MODULES and target not in (name, 'mbarl_ros'):
                found.setdefault((name, target), Arrow(name, target, where))
    return tuple(found.values())


def room(module: str) -> str:
    """The room that a module lies in; empty for the package itself."""
    parts = module.split('.')
    return parts[1] if parts[0] == 'mbarl_ros' and len(parts) > 1 else ''


def upward(found: tuple[Arrow, ...]) -> list[Arrow]:
    """Arrows between rooms that the list above does not allow."""
    return [
        arrow
        for arrow in found
        if (here := room(arrow.source)) and (there := room(arrow.target)) != here
        if there not in ROOMS[here]
    ]


def circles(found: tuple[Arrow, ...]) -> list[list[Arrow]]:
    """Circles of files, each as the arrows that close it."""
    after: dict[str, list[Arrow]] = {}
    for arrow in found:
        after.setdefault(arrow.source, []).append(arrow)
    closed, done = [], set()

    def walk(name: str, way: list[Arrow]) -> None:
        names = [arrow.source for arrow in way]
        if name in names:
            closed.append(way[names.index(name) :])
        elif name not in done:
            for arrow in after.get(name, []):
                walk(arrow.target, [*way, arrow])
            done.add(name)

    for name in sorted(after):
        walk(name, [])
    return closed


def floors(found: tuple[Arrow, ...]) -> int:
    """Files on the longest way down; only where there are no circles."""
    below: dict[str, set[str]] = {}
    for arrow in found:
        below.setdefault(arrow.source, set()).add(arrow.target)

    @cache
    def depth(name: str) -> int:
        return 1 + max((depth(target) for target in below.get(name, ())), default=0)

    return max(map(depth, MODULES))


def told(found: list[Arrow]) -> str:
    return '\n' + '\n'.join(arrow.where for arrow in found)


def test_the_package_shows_the_rooms_and_nothing_else():
    shown = {
        path.stem if path.suffix == '.py' else path.name
        for path in (ROOT / 'mbarl_ros').iterdir()
        if not path.name.startswith('__')
    }
    assert shown == set(ROOMS)


def test_arrows_between_rooms_point_down():
    found = upward(arrows())
    assert not found, told(found)


def test_there_are_no_circles_between_files():
    found = circles(arrows())
    assert not found, told([arrow for circle in found for arrow in circle])


def test_walls_see_lazy_and_type_checking_imports_and_name_the_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], 'ROOT', tmp_path)
    path = tmp_path / 'bad.py'
    path.write_text(
        'from typing import TYPE_CHECKING\n'
        'if TYPE_CHECKING:\n    from mbarl_ros.nodes import learner\n'
        'def late():\n    from mbarl_ros.bringup import graphs\n'
    )
    found = dict(imports(path))
    assert found['mbarl_ros.nodes.learner'] == 'bad.py:3: from mbarl_ros.nodes import learner'
    assert found['mbarl_ros.bringup.graphs'].startswith('bad.py:5: ')
    up = Arrow('mbarl_ros.control.policy', 'mbarl_ros.nodes.learner', 'bad.py:3')
    down = Arrow('mbarl_ros.nodes.learner', 'mbarl_ros.control.policy', 'bad.py:4')
    assert upward((up, down)) == [up] and circles((up, down)) == [[up, down]]


@pytest.mark.parametrize('name', ROOMS)
def test_a_room_needs_no_other_packages(name):
    allowed = set(sys.stdlib_module_names) | {'mbarl_ros', 'mbarl_sim'} | FOREIGN[name]
    strange = [
        where
        for module, path in MODULES.items()
        if room(module) == name
        for imported, where in imports(path)
        if imported.partition('.')[0] not in allowed
    ]
    assert not strange, '\n' + '\n'.join(strange)


def test_launch_is_imported_in_one_file():
    users = {
        module
        for module, path in MODULES.items()
        for imported, _ in imports(path)
        if imported.partition('.')[0] in ('launch', 'launch_ros')
    }
    assert users == {'mbarl_ros.bringup.launch'}


def test_nothing_imports_the_simulation_by_name():
    # A world is loaded by the import path that a task names, so that users plug in their own.
    found = [arrow for arrow in arrows() if room(arrow.source) and not room(arrow.target)]
    assert not found, told(found)


def test_worlds_know_no_ros():
    for module, path in MODULES.items():
        if module.startswith('mbarl_sim') and module not in SIM_NODES:
            used = {(i.partition('.')[0], where) for i, where in imports(path)}
            assert not [where for package, where in used if package in ROS]
    found = [
        arrow
        for arrow in arrows()
        if arrow.source.startswith('mbarl_sim') and arrow.source not in SIM_NODES
        if room(arrow.target) in ('nodes', 'bringup', 'cli', 'studies', 'view')
    ]
    assert not found, told(found)


@pytest.mark.parametrize('path', sorted((ROOT / 'benchmarks').glob('*.py')), ids=lambda p: p.stem)
def test_a_benchmark_imports_what_there_is(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith('mbarl_'):
            module = __import__(node.module, fromlist=['x'])
            names = [alias.name for alias in node.names]
            there = [
                name
                for name in names
                if hasattr(module, name) or f'{node.module}.{name}' in MODULES
            ]
            assert there == names


if __name__ == '__main__':
    lines = sum(len(path.read_text().splitlines()) for path in MODULES.values())
    looped = circles(arrows())
    print(
        f'{len(ROOMS)} rooms, {len(MODULES)} files, {lines} lines, {len(arrows())} arrows, '
        f'{len(upward(arrows()))} upward, {len(looped)} circles, '
        f'{"-" if looped else floors(arrows())} floors'
    )
