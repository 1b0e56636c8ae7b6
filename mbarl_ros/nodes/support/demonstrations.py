"""Demonstrations for a node: what is wrong with them becomes the one sentence it ends with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mbarl_ros.demos import reader, replay
from mbarl_ros.demos.metadata import DemonstrationError
from mbarl_ros.nodes.support.runtime import NodeMixin
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.transitions import Transitions, stack
from mbarl_ros.task import Task


def demonstrations_folder(node: NodeMixin) -> Path | None:
    """Parameter ``demonstrations`` of ``node``, else its task's own folder.

    None: there is neither, and the agent does without.

    :raises ConfigError: there is neither.
    """
    folder = node.value('demonstrations') or node.task.config.demonstrations
    if not folder and not node.agent.needs_demonstrations:
        return None
    if not folder:
        raise ConfigError(
            f"task '{node.task.name}': key 'demonstrations' is not set; set it, or give node "
            f"'{node.get_name()}' the parameter demonstrations"
        )
    return Path(folder).expanduser()


def load_demonstrations(
    folder: Path | None,
    task: Task,
    run_dir: Path | None,
    warn: Callable[[str], object] | None = None,
) -> Transitions:
    """Transitions of all successful demonstrations in ``folder``; None: no rows.

    :param run_dir: run folder, which may hold them decoded
    :param warn: is called with each warning about them
    :raises ConfigError: there is none, or one is damaged or of another task.
    """
    if folder is None:
        return stack([], task)
    with _as_config_error():
        return reader.load_demonstrations(folder, task, run_dir=run_dir, warn=warn)


def keep_demonstrations(folder: Path, run_dir: Path) -> None:
    """Copy the demonstrations used into the run folder, unless it has them.

    :raises OSError: they cannot be read or written.
    """
    if (run_dir / 'demonstrations').exists():
        return
    beside = run_dir / '.demonstrations.tmp'
    shutil.rmtree(beside, ignore_errors=True)
    try:
        shutil.copytree(folder, beside)
    except shutil.Error as error:  # it lists each file, with the same reason
        raise OSError(error.args[0][0][2]) from None
    beside.rename(run_dir / 'demonstrations')


def load_replays(path: Path, task: Task) -> list[replay.Replay]:
    """Replays of one demonstration or of all in a folder.

    :raises ConfigError: there is none, or one cannot be read.
    """
    with _as_config_error():
        return replay.load_replays(path, task)


@contextmanager
def _as_config_error() -> Iterator[None]:
    try:
        yield
    except DemonstrationError as error:
        raise ConfigError(str(error)) from error
