"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_success(lines: Sequence[dict[str, Any]], target: float, path: Path) -> None:
    """Deployed success against environment steps, as PNG.

    :param lines: lines of ``evaluations.jsonl``
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    steps = [line['environment_steps'] for line in lines]
    success = [line['deployed_success'] for line in lines]
    last = lines[-1]
    figure, axes = pyplot.subplots(figsize=(7.5, 4.2), layout='constrained')
    axes.plot(
        steps,
        success,
        marker='o',
        markersize=3.5,
        linewidth=1.8,
        color='#1f5fa8',
        label=f'{last["agent"]}, deployed',
        zorder=3,
        clip_on=False,
    )
    axes.axhline(target, color='#888888', linewidth=1, linestyle=':', label=f'target {target:g}')
    clone = last.get('clone_success')
    if clone is not None:
        axes.axhline(
            clone,
            color='#c8553d',
            linewidth=1.4,
            linestyle='--',
            label=f'behaviour clone of the demonstrations ({clone:.2f})',
        )
    if last['environment_steps']:
        rate = last['robot_seconds'] / last['environment_steps'] / 60
        minutes = axes.secondary_xaxis(
            'top', functions=(lambda steps: steps * rate, lambda time: time / rate)
        )
        minutes.set_xlabel('robot time (minutes)', fontsize=9)
    axes.set(
        xlabel='environment steps',
        ylabel='success rate',
        ylim=(0, 1.02),
        xlim=(0, max(steps[-1], 1)),
    )
    axes.set_title(
        f'{last["task"]}, seed {last["seed"]}: success of the deployed policy, '
        f'{last["training_resets"]} resets in training',
        fontsize=10,
    )
    axes.grid(alpha=0.25)
    axes.legend(loc='lower right', fontsize=9, frameon=False)
    beside = path.with_name(f'.{path.name}.tmp')
    figure.savefig(beside, dpi=120, format='png')
    pyplot.close(figure)
    beside.replace(path)
