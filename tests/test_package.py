"""What is installed: metadata, entry points, data files, launch files, pinned versions."""

import ast
import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

import mbarl_ros
from mbarl_ros.bringup.arguments import GRAPHS
from mbarl_ros.schema.executables import NODES
from mbarl_ros.schema.load import available, load_robot

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(
    path.relative_to(ROOT)
    for pattern in ('launch/*.launch.py', 'config/*/*.*', 'demos/**/*.*', 'package.xml')
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
def requirements():
    """Requirements in setup.py: extra -> list; '' holds those of every installation."""
    with pytest.MonkeyPatch.context() as patch:
        arguments = {}
        patch.setattr('setuptools.setup', lambda **given: arguments.update(given))
        patch.chdir(ROOT)
        runpy.run_path(str(ROOT / 'setup.py'))
    return {'': arguments['install_requires'], **arguments['extras_require']}


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


def test_package_xml_has_authors_and_a_url(manifest):
    assert manifest.authors and manifest.urls
    assert manifest.maintainers[0].email


@cache
def imported() -> frozenset[str]:
    """Packages that mbarl_ros and mbarl_sim import, lazily or not."""
    names = set()
    for path in [*(ROOT / 'mbarl_ros').rglob('*.py'), *(ROOT / 'sim').rglob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(str(node.module))
    return frozenset(name.partition('.')[0] for name in names)


def messages_of_profiles() -> set[str]:
    """Message packages of the shipped robot profiles, which are imported by name."""
    profiles = (load_robot(name) for name in available('robots'))
    return {
        topic.type.partition('/')[0]
        for robot in profiles
        for topic in (*robot.state, *robot.command, *robot.teleop)
    }


def used() -> set[str]:
    return {*imported(), *messages_of_profiles()}


def is_ros(name: str) -> bool:
    return name.endswith(('_msgs', '_srvs', '_interfaces')) or name in ('rclpy', 'launch_ros')


def test_package_xml_declares_the_ros_packages_that_are_used_and_no_others(manifest):
    declared = {depend.name for depend in manifest.exec_depends}
    assert {name for name in used() if is_ros(name)} <= declared
    python = {'python3-pil': 'PIL', 'python3-yaml': 'yaml'}
    ros2launch = {'ros2launch'}  # the command `ros2 launch`
    for name in declared - ros2launch:
        assert python.get(name, name.removeprefix('python3-')) in used(), f'{name} is not used'


def test_setup_py_declares_the_ros_packages_that_are_used_and_no_others(requirements):
    for extra in ('ros', 'ros-kilted'):
        (rclpy, *messages) = requirements[extra]
        assert rclpy.endswith('rclpy[fastrtps]')
        names = {name.removeprefix('ros-').replace('-', '_') for name in messages}
        assert names == {name for name in used() if is_ros(name)} - {'rclpy', 'launch_ros'}


def test_package_xml_says_what_is_installed_with_pip(manifest, requirements):
    (comment,) = re.findall(r'with pip, not with rosdep: (.*?)\.', package_xml(), re.DOTALL)
    rosdep = {depend.name.removeprefix('python3-') for depend in manifest.exec_depends}
    needed = {distribution(name) for name in (*requirements[''], *requirements['sim'])}
    assert set(re.split(r',\s+', comment)) == needed - rosdep - {'pillow', 'pyyaml', 'setuptools'}


def package_xml() -> str:
    return (ROOT / 'package.xml').read_text()


def test_the_changelog_has_the_version_of_the_package():
    text = (ROOT / 'CHANGELOG.rst').read_text()
    title, *_ = text.splitlines()[1:]
    assert title == 'Changelog for package mbarl_ros'
    versions = re.findall(r'^(\S+)\n-+$', text, re.MULTILINE)
    assert versions[0] == 'Forthcoming' and versions[1] == mbarl_ros.__version__


LAUNCH = {
    'launch/__init__.py': 'class LaunchDescription(list):\n    pass\n',
    'launch/actions.py': 'def DeclareLaunchArgument(name, **options):\n    return name, options\n'
    'def OpaqueFunction(**options):\n    return options\n'
    'LogInfo = RegisterEventHandler = SetEnvironmentVariable = Shutdown = None\n',
    'launch/event_handlers.py': 'OnProcessExit = None\n',
    'launch_ros/__init__.py': '',
    'launch_ros/actions.py': 'Node = None\n',
    'launch_ros/parameter_descriptions.py': 'ParameterValue = None\n',
}
READ = """
import runpy, sys
for path in sys.argv[1:]:
    description = runpy.run_path(path)['generate_launch_description']()
    names = [name for name, options in description[:-1] if options['description']]
    assert len(names) == len(description) - 1 >= 8, path
"""


@pytest.mark.parametrize('folder', [ROOT, ROOT / 'launch'])
def test_launch_files_import_ros2_launch_and_not_our_own_folders(tmp_path, folder):
    for name, text in LAUNCH.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    # The folder that the command is given in comes first, as for `python -c`.
    search_path = os.pathsep.join(map(str, (ROOT, tmp_path)))
    files = map(str, (ROOT / 'launch').glob('*.launch.py'))
    subprocess.run(
        [sys.executable, '-c', READ, *files],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': search_path},
        check=True,
    )


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


def test_the_wheel_has_the_files_of_the_page(installed):
    files = [path.relative_to(ROOT) for path in (ROOT / 'mbarl_ros/view/web').iterdir()]
    assert len(files) >= 4
    for path in files:
        assert (installed / 'site' / path).read_bytes() == (ROOT / path).read_bytes()


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


def test_constraints_pin_every_dependency(requirements):
    pins = {}
    for line in (ROOT / 'constraints.txt').read_text().splitlines():
        if '==' in line and not line.startswith('#'):
            name, _, version = line.partition('==')
            pins[_normal(name)] = version
    assert pins['torch'] == '2.13.0'
    assert pins['pybullet'] == '3.2.7'
    everything = {name for extra in requirements.values() for name in extra}
    assert len(everything) > 15
    for requirement in everything:
        name = distribution(requirement)
        if 'kilted' not in name and name != 'setuptools':
            assert name in pins, f'{requirement} is not pinned'


def distribution(requirement: str) -> str:
    """Normalised name of the distribution that a requirement names."""
    return _normal(re.match(r'[\w.-]+', requirement).group())


def _normal(name: str) -> str:
    return re.sub(r'[-_.]+', '-', name).lower()
