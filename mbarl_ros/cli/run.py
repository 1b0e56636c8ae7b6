"""How a command of ``mbarl`` ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.exit_codes import EXIT_INTERRUPTED, EXIT_USAGE


def run_command(
    command: Callable[[], int], *mistakes: type[Exception], interrupted: str = ''
) -> int:
    """Exit code of a command; a mistake of the user is one sentence.

    :param mistakes: exceptions beside ConfigError whose text is for the user
    :param interrupted: sentence for the user after Ctrl-C
    """
    try:
        return command()
    except KeyboardInterrupt:
        if interrupted:
            print(interrupted, file=sys.stderr)
        return EXIT_INTERRUPTED
    except (ConfigError, *mistakes) as error:
        print(f'error: {error}', file=sys.stderr)
        return EXIT_USAGE
