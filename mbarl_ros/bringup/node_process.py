"""Command line, environment and end of a node's process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from mbarl_ros.bringup.node_specs import NodeSpec
from mbarl_ros.bringup.sros2 import enclave
from mbarl_ros.schema.environment import DISCOVERY_RANGE
from mbarl_ros.storage.files import unwritable


def node_command(spec: NodeSpec, params_dir: Path, log_level: str) -> list[str]:
    """Argument vector of a node; writes its parameter file, with typed values, to ``params_dir``.

    :raises ConfigError: the parameter file cannot be written.
    """
    params = params_dir / f'{spec.label}.yaml'
    # '/**/' matches in any namespace; a bare name would match in the root only.
    values = {f'/**/{spec.name}': {'ros__parameters': dict(spec.parameters)}}
    try:
        params.parent.mkdir(parents=True, exist_ok=True)
        params.write_text(yaml.safe_dump(values, sort_keys=False))
    except OSError as error:
        raise unwritable(params, error) from None
    command = [
        sys.executable,
        '-u',
        '-m',
        'mbarl_ros.cli',
        'node',
        spec.executable,
        '--ros-args',
        '-r',
        f'__node:={spec.name}',
        '--params-file',
        str(params),
        '--log-level',
        log_level,
        # The supervisor logs the node's output. rclpy's own log file would keep the node from
        # starting on a read-only disk.
        '--disable-external-lib-logs',
        '--enclave',
        enclave(spec.name, spec.namespace),
    ]
    if spec.namespace:
        command += ['-r', f'__ns:=/{spec.namespace}']
    for source, target in spec.remappings:
        command += ['-r', f'{source}:={target}']
    return command


def node_environment(
    environ: Mapping[str, str], domain: int, log_dir: Path, network: Mapping[str, str]
) -> dict[str, str]:
    """Environment of the nodes, in ``domain``: of this machine only, unless ``network`` says more.

    :param environ: environment of the ``mbarl`` command; wins over the defaults
    :param network: of :func:`mbarl_ros.bringup.hosts.network`
    """
    defaults = default_environment(log_dir, private=True)
    defaults['RCUTILS_CONSOLE_OUTPUT_FORMAT'] = '{severity} {message}'
    return {**defaults, **environ, **network, 'ROS_DOMAIN_ID': str(domain)}


def default_environment(log_dir: Path, *, private: bool) -> dict[str, str]:
    """Variables that the nodes need where the user has not set them.

    :param private: limit discovery to this machine
    """
    defaults = {
        # Seven processes with a thread per core would compete for the cores.
        'OMP_NUM_THREADS': '1',
        'PYTHONUNBUFFERED': '1',
        'ROS_LOG_DIR': str(log_dir / 'ros'),
    }
    if private:
        defaults[DISCOVERY_RANGE] = 'LOCALHOST'
    return defaults


def describe_exit(label: str, code: int) -> str:
    """How a node ended; ``code``: its exit code, or the negative number of the signal."""
    if code >= 0:
        return f'{label} ended with exit code {code}'
    text = f'{label} was killed by {signal.Signals(-code).name}'
    if label.rpartition('/')[2] == 'safety_gate':
        text += ' and sent no stop command: see that the robot stands still'
    return text
