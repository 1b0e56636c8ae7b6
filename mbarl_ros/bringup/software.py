"""What a run is made with: versions, machine and revision of the code."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from mbarl_ros import __version__

_PACKAGES = ('torch', 'numpy', 'rclpy')
_TIMEOUT = 5.0  # s


def software() -> dict[str, str]:
    """Name -> version or description, for the run folder; what is not known is left out."""
    known = {
        'mbarl_ros': __version__,
        'git revision': _revision(Path(__file__).parents[2]),
        'Python': platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        'ROS distribution': os.environ.get('ROS_DISTRO', ''),
        'system': platform.platform(),
        'host': f'{platform.node()}, {os.cpu_count()} cores',
    }
    return {name: text for name, text in known.items() if text}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # ROS of a Linux package has no metadata
        return ''


def _revision(checkout: Path) -> str:
    """Commit of a checkout, ``-dirty`` if files differ from it; empty where it is none."""
    if not (checkout / '.git').exists():
        return ''
    command = ['git', '-C', str(checkout), 'describe', '--always', '--abbrev=12', '--exclude=*']
    try:
        done = subprocess.run(
            [*command, '--dirty'], capture_output=True, text=True, timeout=_TIMEOUT
        )
    except (OSError, subprocess.SubprocessError):
        return ''
    return done.stdout.strip()
