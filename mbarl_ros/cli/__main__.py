"""``python -m mbarl_ros.cli`` is ``mbarl``."""

import sys

from mbarl_ros.cli.main import main

if __name__ == '__main__':
    sys.exit(main())
