"""The discovery server of Fast DDS, for a graph on two hosts where there is no multicast."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from mbarl_ros.schema.environment import DISCOVERY_SERVER
from mbarl_ros.schema.exit_codes import EXIT_INTERRUPTED, EXIT_USAGE
from mbarl_ros.storage import lifeline

_PROGRAM = 'fast-discovery-server'
_DEATH_SIGNAL = 1  # prctl(2): PR_SET_PDEATHSIG


def main() -> int:
    """Run the server at the port that ``ROS_DISCOVERY_SERVER`` names, on all interfaces.

    It is no ROS node: it takes no parameters, and has no topics.
    """
    lifeline.hold()
    port = os.environ.get(DISCOVERY_SERVER, '').rpartition(':')[2]
    # A virtual environment that is not activated is not in PATH.
    program = shutil.which(_PROGRAM) or shutil.which(_PROGRAM, path=Path(sys.executable).parent)
    if not port.isdecimal() or program is None:
        missing = f'no program {_PROGRAM}; install Fast DDS' if port else f'set {DISCOVERY_SERVER}'
        print(f'error: discovery_server: {missing}', file=sys.stderr)
        return EXIT_USAGE
    # The wheels have the libraries beside the programs, where the loader does not look.
    libraries = [str(Path(program).parent.parent / 'lib'), os.environ.get('LD_LIBRARY_PATH', '')]
    environment = {**os.environ, 'LD_LIBRARY_PATH': ':'.join(filter(None, libraries))}
    del environment[DISCOVERY_SERVER]  # a server is no client
    command = [program, '-i', '0', '-l', '0.0.0.0', '-p', port]
    # In this process group, so that whoever kills the group kills both.
    # It ends with this process also after `kill -9`: the next one needs its port.
    prctl = ctypes.CDLL(None).prctl
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: prctl(_DEATH_SIGNAL, signal.SIGTERM),
    ) as server:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: server.terminate())
        code = server.wait()
    return EXIT_INTERRUPTED if code < 0 else code
