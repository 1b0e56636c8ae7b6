"""TensorBoard curves of a node in the run folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def open_board(folder: Path) -> Any:
    """A TensorBoard writer; that its thread dies of a disk is told by an OSError, no traceback.

    :raises OSError: it cannot be opened.
    """
    from torch.utils.tensorboard import SummaryWriter

    threading.excepthook = _report_of_thread
    return SummaryWriter(str(folder))


def _report_of_thread(failed: threading.ExceptHookArgs) -> None:
    of_a_writer = type(failed.thread).__module__.startswith('tensorboard')
    if not (of_a_writer and issubclass(failed.exc_type, OSError)):  # who writes next gets it
        threading.__excepthook__(failed)


class Curves:
    """Writes numbers over environment steps; on a disk that fails it ends, and the run goes on."""

    def __init__(self, run_dir: Path | None, node: str, report: Callable[[str], object]) -> None:
        """Open ``run_dir/tensorboard/NODE``; None: nothing is written.

        :param report: gets a sentence when no more can be written
        :raises OSError: it cannot be opened.
        """
        self._run_dir, self._node, self._report = run_dir, node, report
        self._board: Any = None
        if run_dir is not None:
            self._board = open_board(run_dir / 'tensorboard' / node)

    def write(self, values: Mapping[str, float], steps: int) -> None:
        """Add a point to each curve."""
        if self._board is None:
            return
        try:
            for name, value in values.items():
                self._board.add_scalar(f'{self._node}/{name}', value, steps)
        except OSError as error:
            self._board = None  # its thread has ended
            self._report(f'{self._run_dir}: no more curves in tensorboard/: {error}')

    def close(self) -> None:
        """Write what is left."""
        if self._board is not None:
            self._board.close()
