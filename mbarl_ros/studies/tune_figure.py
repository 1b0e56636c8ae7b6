"""Figure of ``mbarl tune``: scores of the trials, by setting, and on fresh seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.view.plots import save_figure

_STATES = {'COMPLETE': ('#1f5fa8', 'o', 'finished'), 'PRUNED': ('#c8553d', 'x', 'pruned')}
_MOST_SETTINGS = 3
_LOG_RATIO = 30.0  # of the largest value to the smallest, from which on an axis is logarithmic


def plot_tune(data: dict[str, Any], path: Path) -> None:
    """Draw the numbers of the report as PNG.

    :param data: content of ``tune.json``
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    keys = sorted(data['plan']['search'], key=lambda key: -data['importance'].get(key, 0.0))[
        :_MOST_SETTINGS
    ]
    count = 2 + len(keys)
    figure, grid = pyplot.subplots(
        1, count, figsize=(4.2 * count, 4.4), layout='constrained', squeeze=False
    )
    axes = list(grid[0])
    _draw_trials(axes[0], data)
    for panel, key in zip(axes[1:-1], keys, strict=True):
        _draw_setting(panel, data, key)
    _draw_finals(axes[-1], data)
    tasks = ', '.join(Path(task).stem for task in data['plan']['tasks'])
    figure.suptitle(f'Tuning {data["preset"]} on {tasks}')
    save_figure(figure, path)


def _scored(data: dict[str, Any], state: str) -> list[dict[str, Any]]:
    trials = data['trials']
    return [t for t in trials if t['state'] == state and t['score'] is not None]


def _draw_trials(axes: Any, data: dict[str, Any]) -> None:
    for state, (colour, marker, label) in _STATES.items():
        found = _scored(data, state)
        numbers, scores = [t['number'] for t in found], [t['score'] for t in found]
        axes.plot(numbers, scores, marker, color=colour, label=label)
        if state == 'COMPLETE' and scores:
            axes.step(numbers, np.maximum.accumulate(scores), where='post', color=colour, alpha=0.5)
    for default in (final for final in data['finals'] if not final['changes']):
        axes.axhline(default['search'], color='#6b6b6b', ls='--', label='preset as it is')
    axes.set(title='Search', xlabel='trial', ylabel='score')
    axes.legend(frameon=False, loc='upper center', bbox_to_anchor=(0.5, -0.16), ncols=3)
    axes.grid(alpha=0.3)


def _draw_setting(axes: Any, data: dict[str, Any], key: str) -> None:
    values = [trial['changes'][key] for trial in data['trials']]
    numbers = all(isinstance(value, int | float) for value in values)
    names = sorted({str(value) for value in values})
    for state, (colour, marker, _) in _STATES.items():
        found = _scored(data, state)
        given = [trial['changes'][key] for trial in found]
        places = given if numbers else [names.index(str(value)) for value in given]
        axes.plot(places, [trial['score'] for trial in found], marker, color=colour)
    if not numbers:
        axes.set_xticks(range(len(names)), names, rotation=30)
    elif min(values) > 0 and max(values) / min(values) > _LOG_RATIO:
        axes.set_xscale('log')
    share = data['importance'].get(key)
    axes.set(title='' if share is None else f'importance {share:.2f}', xlabel=key)
    axes.grid(alpha=0.3)


def _draw_finals(axes: Any, data: dict[str, Any]) -> None:
    finals = data['finals'][::-1]
    for row, final in enumerate(finals):
        colour = '#1f5fa8' if final['name'] == data['best'] else '#6b6b6b'
        axes.plot(final['interval'], [row, row], color=colour, lw=2)
        axes.plot([final['fresh']], [row], 'o', color=colour)
        seeds = np.mean(list(final['seeds'].values()), axis=0)
        axes.plot(seeds, np.full(len(seeds), row + 0.18), '|', color=colour, alpha=0.6)
    axes.set_yticks(range(len(finals)), [final['name'] for final in finals])
    axes.set(title='Fresh seeds, 95 % interval', xlabel='score', ylim=(-0.5, len(finals) - 0.3))
    axes.grid(axis='x', alpha=0.3)
