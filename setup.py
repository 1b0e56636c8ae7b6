"""Package ``mbarl_ros`` (and ``mbarl_sim``, which lives in sim/)."""

import re
import runpy
from pathlib import Path

from setuptools import find_packages, setup

NAME = 'mbarl_ros'
ROOT = Path(__file__).resolve().parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / NAME / '__init__.py').read_text()).group(1)
NODES = runpy.run_path(str(ROOT / NAME / 'schema' / 'executables.py'))['NODES']


def tree(folder: str, *suffixes: str) -> list[tuple[str, list[str]]]:
    """data_files entries that keep the sub-folders of a folder."""
    files: dict[str, list[str]] = {}
    for path in sorted((ROOT / folder).rglob('*')):
        if path.is_file() and path.suffix in suffixes:
            relative = path.relative_to(ROOT)
            files.setdefault(f'share/{NAME}/{relative.parent}', []).append(str(relative))
    return sorted(files.items())


setup(
    name=NAME,
    version=VERSION,
    description='Model-Based Autonomous Reinforcement Learning on ROS 2',
    author='mbarl_ros maintainers',
    maintainer='mbarl_ros maintainers',
    maintainer_email='mbarl_ros@example.org',
    license='Apache-2.0',
    packages=[
        *find_packages(include=[NAME, f'{NAME}.*']),
        'mbarl_sim',
        *(f'mbarl_sim.{package}' for package in find_packages('sim')),
    ],
    package_dir={'mbarl_sim': 'sim'},
    package_data={NAME: ['view/web/*']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        *tree('launch', '.py'),
        *tree('config', '.yaml', '.xml', '.rviz', '.json'),
        *tree('benchmarks/published', '.json'),
        *tree('demos', '.mcap', '.yaml', '.json', '.md'),
    ],
    zip_safe=False,
    python_requires='>=3.11',
    install_requires=[
        'setuptools',
        'lz4',
        'matplotlib',
        'mcap',
        'numpy',
        'pillow>=10.1',
        'pydantic>=2',
        'pyyaml',
        'rich',
        'rosbags',
        'safetensors',
        'tensorboard',
        'torch',
        'zstandard',
    ],
    extras_require={
        # ROS 2 from PyPI, for machines without an installed one. One of the two.
        'ros': [
            'ros-jazzy-rclpy[fastrtps]',
            *(
                ROS_MESSAGES := [
                    'ros-action-msgs',
                    'ros-diagnostic-msgs',
                    'ros-geometry-msgs',
                    'ros-lifecycle-msgs',
                    'ros-nav-msgs',
                    'ros-rcl-interfaces',
                    'ros-rosgraph-msgs',
                    'ros-sensor-msgs',
                    'ros-std-msgs',
                    'ros-std-srvs',
                    'ros-trajectory-msgs',
                    'ros-visualization-msgs',
                ]
            ),
        ],
        'ros-kilted': ['ros-kilted-rclpy[fastrtps]', *ROS_MESSAGES],
        'sim': ['gymnasium', 'pybullet'],
        # With mujoco 3.16 the Fetch environments of gymnasium-robotics 1.4.2 cannot be made.
        'studies': [
            'gymnasium-robotics',
            'gymnasium[mujoco]',
            'mujoco<3.11',
            'panda-gym',
            'sb3-contrib',
            'scipy',
        ],
        'formats': ['h5py', 'minari', 'pyarrow'],
        'scale': ['optuna', 'ray'],
        'track': ['mlflow-skinny', 'wandb'],
        'video': ['av'],
        'web': ['aiohttp'],
        'dev': [
            'catkin_pkg',
            'foxglove-sdk',
            'hypothesis',
            'mypy',
            'pytest',
            'pytest-rerunfailures',
            'pytest-xdist',
            'ros-test-msgs',
            'ruff',
            'types-PyYAML',
        ],
        'docs': ['mkdocs-material'],
    },
    entry_points={
        'mbarl_ros.task_sources': ['gymnasium = mbarl_sim.gymnasium_task:describe'],
        'console_scripts': [
            'mbarl = mbarl_ros.cli.main:main',
            *(f'{name} = {entry}' for name, entry in NODES.items()),
        ],
    },
)
