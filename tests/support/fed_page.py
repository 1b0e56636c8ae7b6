"""A process that serves the page and feeds it with a made-up run, as fast as it is told.

Reads numbers from standard input: feeds updates up to that one, then prints its memory in KiB.
"""

import sys
import time
from pathlib import Path

from mbarl_ros.nodes.support.web_server import WebServer
from mbarl_ros.storage.web_address import read_address
from mbarl_ros.view.page import WEB_FILES, Page
from mbarl_ros.view.status import RunInfo


def status(second):
    """What the nodes report in a second of the run."""
    phase = ('forward', 'backward')[second % 2]
    return {
        'policy_controller': {
            'phase': phase, 'environment_steps': str(50 * second), 'attempts': str(second // 2),
            'successes': str(second // 3), 'lifecycle': 'active', 'level': '0',
        },
        'learner': {
            'updates_per_second': str(80 + second % 9), 'forward/value': str(second / 3600),
            'backward/value': '0.2', 'model/error/vx': str(1 / (1 + second)),
            'level': str(second % 3 > 1), 'message': f'late by {second}',
        },
        'state_classifier': {'score': str((second % 100) / 100)},
        'safety_gate': {'state': 'ok', 'level': '0'},
    }  # fmt: skip


def memory():
    """Resident memory of this process, KiB."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith('VmRSS')))


def main(run_dir):
    """Serve the page of ``run_dir``."""
    page = Page(RunInfo('sim', 'pointmass', 'mbarl', 0, run_dir, budget=200_000, target=0.9), ())
    server = WebServer(read_address(run_dir), WEB_FILES, page.everything)
    server.start()
    second = 0
    for line in sys.stdin:
        while second < int(line):
            second += 1
            page.receive_status(status(second), 1e9 + second)
            page.receive_line(1e9 + second, 'warning', 'learner', f'{second} ' * 30)
            if server.watched:
                server.publish(*page.update())
            time.sleep(0.001)
        print(memory(), flush=True)
    server.close()


if __name__ == '__main__':
    main(Path(sys.argv[1]))
