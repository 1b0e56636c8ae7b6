"""``python -m mbarl_ros`` is ``mbarl``."""

import sys

from mbarl_ros.cli import main

if __name__ == '__main__':
    sys.exit(main())
