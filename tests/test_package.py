"""What is installed: metadata, entry points, data files, launch files, pinned versions."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mbarl_ros
from mbarl_ros.bringup.arguments import GRAPHS
from mbarl_ros.schema.executables import NODES

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(
    path.relative_to(ROOT)
    for pattern in ('launch/*.launch.py', 'config/**/*.yaml', 'demos/**/*.*', 'package.xml')
    for path in ROOT.glob(pattern)
    if not any(part.startswith('.') for part in path.relative_to(ROOT).parts)
)


@pytest.fixture(scope='module')
def manifest():
    catkin_pkg = pytest.importorskip('catkin_pkg.package')
    warnings: list[str] = []
    package = catkin_pkg.parse_package(str(ROOT / 'package.xml'), warnings=warnings)
    assert warnings == []
    return package


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """The package installed from a wheel, as a user without the source tree has it."""
    folder = tmp_path_factory.mktemp('installed')
    source = folder / 'source'
    ignore = shutil.ignore_patterns('.*', 'runs', 'build', 'install', 'log', '*.egg-info')
    shutil.copytree(ROOT, source, ignore=ignore)
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--quiet']
    build = [*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', str(folder), str(source)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob('*.whl')
    prefix = folder / 'prefix'
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(prefix / 'site')
    data = prefix / 'site' / f'mbarl_ros-{mbarl_ros.__version__}.data' / 'data'
    shutil.move(data / 'share', prefix / 'share')
    return prefix


def test_package_xml_is_valid_and_agrees_with_the_version(manifest):
    manifest.validate()
    assert manifest.package_format == 3
    assert (manifest.name, manifest.version) == ('mbarl_ros', mbarl_ros.__version__)
    assert manifest.get_build_type() == 'ament_python'
    assert [str(name) for name in manifest.licenses] == ['Apache-2.0']
    assert 'Apache License' in (ROOT / 'LICENSE').read_text()


def test_package_xml_names_every_ros_package_that_is_imported(manifest):
    depends = {depend.name for depend in manifest.exec_depends}
    files = [*(ROOT / 'mbarl_ros').rglob('*.py'), *(ROOT / 'sim').rglob('*.py')]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                top = node.module.partition('.')[0]
                if top.endswith(('_msgs', '_srvs', '_interfaces')) or top in ('rclpy', 'launch'):
                    assert top in depends, f'{path} imports {top}'


@pytest.mark.parametrize('name', NODES)
def test_each_node_is_importable(name):
    module, _, function = NODES[name].partition(':')
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.slow
def test_the_wheel_has_an_executable_for_each_node(installed):
    (entry_points,) = (installed / 'site').glob('*.dist-info/entry_points.txt')
    lines = entry_points.read_text().splitlines()
    assert 'mbarl = mbarl_ros.cli.main:main' in lines
    for name, entry in NODES.items():
        assert f'{name} = {entry}' in lines


def test_the_wheel_has_every_launch_configuration_and_demonstration_file(installed):
    share = installed / 'share'
    assert (share / 'ament_index/resource_index/packages/mbarl_ros').is_file()
    assert len(SHIPPED) > 10
    for path in SHIPPED:
        assert (share / 'mbarl_ros' / path).read_bytes() == (ROOT / path).read_bytes()


def test_the_wheel_has_the_simulation_with_its_assets(installed):
    for path in (ROOT / 'sim').rglob('*'):
        if path.is_file() and '__pycache__' not in path.parts:
            assert (installed / 'site/mbarl_sim' / path.relative_to(ROOT / 'sim')).is_file()


def test_an_installed_package_finds_its_configuration_and_demonstrations(installed):
    program = (
        'import sys; sys.path.insert(0, sys.argv[1]); import mbarl_ros; print(mbarl_ros.__file__);'
        'from mbarl_ros.bringup import graphs; plan = graphs.plan("sim", {});'
        'print(plan.arguments["demos"])'
    )
    done = subprocess.run(
        [sys.executable, '-c', program, str(installed / 'site')],
        capture_output=True, text=True, cwd=installed,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    module, demos = done.stdout.split()
    assert module.startswith(str(installed))
    assert Path(demos) == installed / 'share/mbarl_ros/demos/pointmass'


def test_each_graph_has_a_launch_file():
    launched = set()
    for path in (ROOT / 'launch').glob('*.launch.py'):
        launched |= set(re.findall(r"launch_description\('(\w+)'\)", path.read_text()))
    assert launched == set(GRAPHS)


@pytest.mark.parametrize('path', sorted((ROOT / 'launch').glob('*.launch.py')))
def test_launch_files_describe_every_argument(path):
    pytest.importorskip('launch_ros', reason='the ros2 launch packages are not on PyPI')
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    description = get_launch_description_from_python_launch_file(str(path))
    arguments = description.get_launch_arguments()
    assert len(arguments) >= 8
    for argument in arguments:
        assert argument.description and argument.description != 'no description given'


def test_constraints_pin_every_dependency():
    pins = {}
    for line in (ROOT / 'constraints.txt').read_text().splitlines():
        if '==' in line and not line.startswith('#'):
            name, _, version = line.partition('==')
            pins[_normal(name)] = version
    assert pins['torch'] == '2.13.0'
    assert pins['pybullet'] == '3.2.7'
    from importlib.metadata import requires

    wanted = requires('mbarl_ros') or []
    assert len(wanted) > 15
    for requirement in wanted:
        name = _normal(re.match(r'[\w.-]+', requirement).group())
        if 'kilted' not in requirement and name != 'setuptools':
            assert name in pins, f'{requirement} is not pinned'


def _normal(name: str) -> str:
    return re.sub(r'[-_.]+', '-', name).lower()
