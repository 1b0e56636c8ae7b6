"""Who gets the processor in real time: the gate, then the controller, and last who trains."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# SCHED_FIFO, of 99. Below ros2_control's 50: where driver and controller share a computer, the
# driver comes first.
GATE_PRIORITY, CONTROLLER_PRIORITY = 40, 30
_NICE = 10  # of 19; a tenth of the processor where others want all of it


def real_time(priority: int) -> bool:
    """Ask for real-time scheduling of this process; whether the system has granted it.

    Linux grants it to who may (``rtprio``, limits.conf(5)). All threads get it: what the
    middleware's have not yet received cannot be acted on. Threads to come inherit it.
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
    """Leave the processor to whoever controls a robot in real time; for processes that train.

    Linux weighs threads within a session by their niceness, and sessions by that of their
    autogroup; ``mbarl up`` starts each node in a session of its own.
    """
    os.nice(_NICE)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # there are kernels without
            Path('/proc/self/autogroup').write_text(str(_NICE))
