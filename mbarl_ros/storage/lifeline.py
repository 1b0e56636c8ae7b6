"""A lifeline ends a node when the process that started it dies, even by ``kill -9``.

The starter holds the write end of a pipe and never writes to it: ``mbarl up`` an anonymous pipe
that its nodes inherit, ``ros2 launch`` a named pipe in the run folder. When the starter dies, the
kernel closes the write end, and each node reads end-of-file. The node then gets SIGINT, and so a
chance to stop the robot, then SIGTERM and SIGKILL. The parent-death signal of Linux
(``PR_SET_PDEATHSIG``) is a single signal: SIGKILL would leave the robot moving, and a stuck node
ignores any other.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from pathlib import Path

VARIABLE = 'MBARL_LIFELINE'
GRACE = 5.0


def hold(grace: float = GRACE) -> None:
    """In a node: end when the starter dies, if it offered a lifeline in the environment.

    :param grace: seconds between SIGINT, SIGTERM and SIGKILL
    """
    text = os.environ.pop(VARIABLE, '')
    if not text:
        return
    try:
        if text.isdigit():
            descriptor = int(text)
            os.set_inheritable(descriptor, False)
        else:
            # Non-blocking, because a blocking open waits for a writer.
            descriptor = os.open(text, os.O_RDONLY | os.O_NONBLOCK)
            os.set_blocking(descriptor, True)
    except OSError:
        return  # the variable was inherited, and its pipe is gone
    threading.Thread(target=_wait, args=(descriptor, grace), name='lifeline', daemon=True).start()


def offer(path: Path) -> int:
    """In the starter: make a named pipe; nodes run as long as the returned descriptor is open."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return os.open(path, os.O_RDWR)


def _wait(descriptor: int, grace: float) -> None:
    try:
        while os.read(descriptor, 1):
            pass
    except OSError:
        return
    # This thread cannot run while another holds the interpreter, as a middleware does that hangs in
    # its shutdown. The timer of faulthandler is a C thread: it ends the process in any case.
    faulthandler.dump_traceback_later(3 * grace, file=2, exit=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        os.kill(os.getpid(), number)
        time.sleep(grace)
