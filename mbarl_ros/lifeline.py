"""A node ends when the supervisor that started it is gone, however that happened.

The supervisor holds the writing end of a pipe that is never written. When it dies, even by
``kill -9``, the kernel closes that end and each node reads end-of-file. A signal on the parent's
death (``PR_SET_PDEATHSIG``) would be either SIGKILL, after which a robot goes on moving, or one
that a stuck node ignores; here a node first gets the chance to stop the robot.
"""

from __future__ import annotations

import os
import signal
import threading
import time

VARIABLE = 'MBARL_LIFELINE'
GRACE = 5.0


def hold(grace: float = GRACE) -> None:
    """In a node's process: end with the supervisor, if there is one."""
    text = os.environ.pop(VARIABLE, '')
    if text.isdigit():
        descriptor = int(text)
        os.set_inheritable(descriptor, False)
        threading.Thread(
            target=_wait, args=(descriptor, grace), name='lifeline', daemon=True
        ).start()


def _wait(descriptor: int, grace: float) -> None:
    try:
        while os.read(descriptor, 1):
            pass
    except OSError:
        return  # not our pipe: somebody passed the variable on
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        os.kill(os.getpid(), number)
        time.sleep(grace)
