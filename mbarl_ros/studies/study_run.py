"""``mbarl study``: runs the cells of a study that are not finished, and writes its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.files import lock_file
from mbarl_ros.storage.run_files import LOCK_FILE
from mbarl_ros.studies import cells
from mbarl_ros.studies.jobs import Engine, Job
from mbarl_ros.studies.pool import Pool
from mbarl_ros.studies.registry import load_study
from mbarl_ros.studies.study import Cell, Report
from mbarl_ros.studies.study_report import write_report
from mbarl_ros.view.progress import show_progress


class StudyRun:
    """A study, quick or full, and its folder ``OUT/NAME`` or ``OUT/NAME-quick``."""

    def __init__(self, name: str, out: Path | str, quick: bool) -> None:
        """Nothing is read or run yet.

        :param name: name or import path of the study
        :param out: folder of all studies
        :raises ConfigError: there is no such study, or a package is missing that it needs.
        """
        self.study, self.quick = load_study(name), quick
        study = self.study
        self.cells = study.cells(quick)
        self.command = f'mbarl study {name}' + ' --quick' * quick
        self.folder = Path(out) / (study.name + '-quick' * quick)
        if len({cell.name for cell in self.cells}) < len(self.cells):
            raise ValueError(f'study {study.name}: two cells have the same name')

    def run(self, engine: Engine) -> list[str]:
        """Run all cells that are not finished; returns a sentence about each that failed.

        :param engine: where they run
        :raises ConfigError: a cell was made with other settings, another process uses the folder,
            or the engine cannot run it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock_file(self.folder / LOCK_FILE, f'{self.folder}: another process uses it'):
            for cell in self.cells:
                cells.check_cell(self.folder, cell)
                for other in self.study.reuses:
                    source = self.folder.parent / (other + '-quick' * self.quick)
                    cells.reuse(source, self.folder, cell)
            waiting = [cell for cell in self.cells if cells.read_result(self.folder, cell) is None]
            return self._run_all(waiting, engine)

    def _run_all(self, waiting: Sequence[Cell], engine: Engine) -> list[str]:
        cell_of = {cell.name: cell for cell in waiting}
        jobs = [cells.cell_job(self.study, self.folder, cell) for cell in waiting]
        total, finished = len(self.cells), len(self.cells) - len(waiting)
        with show_progress(self.study.name, total, finished) as progress:

            def poll(running: Sequence[Job], ended: Sequence[Job]) -> None:
                for job in ended:
                    progress.ended(self._how_it_ended(job, cell_of[job.title]))
                shares = {
                    job.title: cells.read_progress(self.folder, cell_of[job.title])
                    for job in running
                    if job not in ended
                }
                progress.running(shares)

            failed, left_out = Pool(jobs, engine).run(poll)
        return [
            *(f'cell {job.title} failed: {job.failure}' for job in failed),
            *(f'cell {job.title} was left out: it needs a cell that failed' for job in left_out),
        ]

    def _how_it_ended(self, job: Job, cell: Cell) -> str:
        record = None if job.failed else cells.read_result(self.folder, cell)
        return f'{job.title} ' + (f'{record["seconds"]:.0f} s' if record else 'FAILED')

    def finished(self) -> dict[str, dict[str, Any]]:
        """Settings and content of ``result.json`` of each finished cell, by its name.

        :raises ConfigError: a cell was made with other settings.
        """
        records = {}
        for cell in self.cells:
            cells.check_cell(self.folder, cell)
            record = cells.read_result(self.folder, cell)
            if record is not None:
                records[cell.name] = {'settings': cell.settings, **record}
        return records

    def write_report(self) -> tuple[Report, list[Path]]:
        """Write report, results and figures of the finished cells; returns report and paths.

        :raises ConfigError: no cell is finished.
        """
        records = self.finished()
        if not records:
            raise ConfigError(f'{self.folder}: no finished cell in this folder; run {self.command}')
        missing = [cell.name for cell in self.cells if cell.name not in records]
        return write_report(self.study, records, missing, self.folder, self.quick, self.command)
