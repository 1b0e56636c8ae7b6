"""Process priorities in real time: the gate first, then the controller, training nodes last."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# SCHED_FIFO, of 99. Below ros2_control's 50: where driver and controller share a computer, the
# driver comes first.
GATE_PRIORITY, CONTROLLER_PRIORITY = 40, 30
_NICE = 10  # of 19; about a tenth of the processor under full load


def real_time(priority: int) -> bool:
    """Request real-time scheduling of this process; whether the system has granted it.

    Linux grants it by the limit ``rtprio``, see limits.conf(5). All threads get it, since the node
    depends on those of the middleware. New threads inherit it.
    """
    if not hasattr(os, 'sched_setscheduler'):
        return False  # not Linux
    try:
        for thread in Path('/proc/self/task').iterdir():
            with contextlib.suppress(ProcessLookupError):  # one that has just ended
                os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, os.sched_param(priority))
    except PermissionError:
        return False
    return True


def give_way() -> None:
    """Lower the priority of this process below those that control a robot; for training nodes.

    Linux weighs threads within a session by their niceness, and sessions by that of their
    autogroup; ``mbarl up`` starts each node in a session of its own.
    """
    os.nice(_NICE)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # some kernels have no autogroups
            Path('/proc/self/autogroup').write_text(str(_NICE))
