"""A node ends when the process that started it is gone, however that happened.

The starter holds the writing end of a pipe that is never written: ``mbarl up`` a plain one, that
its nodes inherit, ``ros2 launch`` a named one in the run folder. When it dies, even by ``kill -9``,
the kernel closes that end and each node reads end-of-file. A signal on the parent's death
(``PR_SET_PDEATHSIG``) would be either SIGKILL, after which a robot goes on moving, or one that a
stuck node ignores; here a node first gets the chance to stop the robot.
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
    """In a node's process: end with the process that started it, if it gave us a lifeline."""
    text = os.environ.pop(VARIABLE, '')
    if not text:
        return
    try:
        if text.isdigit():
            descriptor = int(text)
            os.set_inheritable(descriptor, False)
        else:
            # Not blocking, since without a writer the opening would wait for one.
            descriptor = os.open(text, os.O_RDONLY | os.O_NONBLOCK)
            os.set_blocking(descriptor, True)
    except OSError:
        return  # not our pipe: somebody passed the variable on
    threading.Thread(target=_wait, args=(descriptor, grace), name='lifeline', daemon=True).start()


def offer(path: Path) -> int:
    """In the starter: make a named lifeline; it holds as long as the returned descriptor."""
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
    faulthandler.dump_traceback_later(3 * grace, exit=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        os.kill(os.getpid(), number)
        time.sleep(grace)
