"""Questions that a YAML file leaves open: its comments ``# TODO: ...``."""

from __future__ import annotations

import re
from pathlib import Path

from mbarl_ros.schema.findings import WARNING, Finding

_TODO = re.compile(r'#\s*TODO:\s*(.+)')


def open_questions(path: Path) -> list[Finding]:
    """A warning for each comment ``# TODO: ...`` of a file, with its line."""
    lines = path.read_text().splitlines()
    return [
        Finding(WARNING, f'{path.name}:{number}: TODO: {match[1].strip()}')
        for number, line in enumerate(lines, 1)
        if (match := _TODO.search(line))
    ]
