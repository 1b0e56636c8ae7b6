"""Report of a study: ``report.md`` for people, ``results.json`` for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mbarl_ros import __version__
from mbarl_ros.storage.files import write_file
from mbarl_ros.studies.study import Report, Study, Verdict

REPORT_FILE, RESULTS_FILE = 'report.md', 'results.json'


def write_report(
    study: Study,
    records: dict[str, dict[str, Any]],
    missing: Sequence[str],
    folder: Path,
    quick: bool,
    command: str,
) -> tuple[Report, list[Path]]:
    """Let the study judge its results; write report, results and figures; returns their paths.

    :param records: cell name -> ``settings``, ``result``, ``seconds``, ``version``
    :param missing: cells without a result
    """
    results = {
        name: {'settings': record['settings'], 'result': record['result']}
        for name, record in records.items()
    }
    report = study.report(results, folder, quick)
    seconds = sum(record['seconds'] for record in records.values())
    data = {
        'study': study.name,
        'quick': quick,
        'command': command,
        'version': __version__,
        'verdicts': [
            {'claim': each.claim, 'holds': each.holds, 'evidence': each.evidence}
            for each in report.verdicts
        ],
        'missing': list(missing),
        'seconds': round(seconds, 1),
    }
    text = markdown(study, report, missing, len(records), seconds, command)
    write_file(folder / RESULTS_FILE, _json(data, records).encode())
    write_file(folder / REPORT_FILE, text.encode())
    figures = [folder / name for name, _ in report.figures]
    return report, [folder / REPORT_FILE, folder / RESULTS_FILE, *figures]


def _json(data: dict[str, Any], records: dict[str, dict[str, Any]]) -> str:
    """The content of ``results.json``, with a line for each cell, which may have many numbers."""
    lines = [f'{json.dumps(name)}: {json.dumps(record)}' for name, record in records.items()]
    head = json.dumps(data, indent=1).removesuffix('\n}')
    return head + ',\n "cells": {\n  ' + ',\n  '.join(lines) + '\n }\n}\n'


def verdict_word(verdict: Verdict) -> str:
    """``holds``, ``does not hold``, or ``open`` where cells are missing."""
    return 'open' if verdict.holds is None else 'holds' if verdict.holds else 'does not hold'


def markdown(
    study: Study,
    report: Report,
    missing: Sequence[str],
    finished: int,
    seconds: float,
    command: str,
) -> str:
    """The text of ``report.md``."""
    verdicts = [
        (each.claim, f'**{verdict_word(each)}**', each.evidence) for each in report.verdicts
    ]
    parts = [f'# {study.title}', report.introduction.strip()]
    if missing:
        parts.append(
            f'**Incomplete**: {len(missing)} of {len(missing) + finished} cells are missing: '
            f'{", ".join(missing)}. The command below runs them.'
        )
    parts += ['## Verdicts', table(('claim', 'verdict', 'evidence'), verdicts)]
    if report.figures:
        parts.append('## Figures')
        parts += [f'![{caption}]({name})\n\n*{caption}*' for name, caption in report.figures]
    if report.tables:
        parts.append('## Tables')
        parts += [f'**{title}**\n\n{table(head, rows)}' for title, head, rows in report.tables]
    if report.notes:
        parts += ['## Notes', report.notes.strip()]
    parts += [
        '## How this was made',
        f'    {command}',
        f'mbarl_ros {__version__}; {finished} cells, {seconds / 60:.1f} minutes on one core. '
        'Settings and results of every cell are in `results.json`.',
    ]
    return '\n\n'.join(parts) + '\n'


def table(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    header = list(header)
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(str(cell) for cell in line)} |' for line in lines)
