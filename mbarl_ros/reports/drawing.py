"""Figures of a report: SVG that takes the colour of the text around it, in light and in dark."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mbarl_ros.reports.page import Html

FORWARD, BACKWARD, EXPLORE = '#2f7fd1', '#d9663f', '#8a63c9'
PHASE_COLOURS = (FORWARD, BACKWARD, EXPLORE)
SERIES = (
    '#2f7fd1', '#d9663f', '#2f9f6b', '#8a63c9', '#c0972b', '#d0568f', '#2a9fb0', '#8a7a5c',
)  # fmt: skip
GREY = '#8a939b'
_INK = '#123457'  # stands for the colour of the text; no figure draws in it
_SETTINGS = {
    'svg.fonttype': 'none',
    'text.parse_math': False,  # a name may hold a dollar sign
    'font.family': 'sans-serif',
    'font.sans-serif': ['Liberation Sans', 'DejaVu Sans'],
    'font.size': 10.5,
    'text.color': _INK,
    'axes.labelcolor': _INK,
    'axes.edgecolor': _INK,
    'xtick.color': _INK,
    'ytick.color': _INK,
    'axes.titlesize': 10.5,
    'axes.titlelocation': 'left',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.color': GREY,
    'grid.alpha': 0.3,
    'legend.frameon': False,
    'legend.fontsize': 9.5,
    'figure.facecolor': 'none',
    'axes.facecolor': 'none',
    'savefig.facecolor': 'none',
    'savefig.dpi': 110,
}


def svg(
    draw: Callable[[Any], None],
    *,
    rows: int = 1,
    columns: int = 1,
    height: float = 3.2,
    ratios: Sequence[float] | None = None,
    share_x: bool = False,
) -> Html:
    """A figure as inline SVG.

    :param draw: gets the axes, [rows, columns], and draws into them
    :param height: in; the width is always 10 in
    :param ratios: heights of the rows
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    with matplotlib.rc_context(_SETTINGS):
        shape, _axes = pyplot.subplots(
            rows,
            columns,
            figsize=(10, height),
            layout='constrained',
            squeeze=False,
            sharex=share_x,
            height_ratios=ratios,
        )
        try:
            draw(_axes)
            data = io.StringIO()
            shape.savefig(data, format='svg', metadata={'Date': None, 'Creator': None})
        finally:
            pyplot.close(shape)
    text = data.getvalue()
    return Html(text[text.index('<svg') :].replace(_INK, 'currentColor'))


def band(
    axes: Any, x: np.ndarray, middle: np.ndarray, low: np.ndarray, high: np.ndarray, **style: Any
) -> None:
    """A line within its interval."""
    axes.fill_between(x, low, high, color=style['color'], alpha=0.2, linewidth=0)
    axes.plot(x, middle, linewidth=1.8, **style)


def legend(axes: Any) -> None:
    """A legend above the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        place = {'loc': 'lower right', 'bbox_to_anchor': (1.0, 1.0), 'borderaxespad': 0.2}
        axes.legend(handles, labels, ncols=min(len(labels), 6), **place)


def rate_axis(axes: Any, label: str) -> None:
    """The y axis of a success rate."""
    axes.set(ylabel=label, ylim=(-0.02, 1.03))


def hide_unused(grid: np.ndarray, used: int) -> None:
    """Hide the axes of a grid beyond the first ``used``."""
    for axes in grid.flat[used:]:
        axes.set_visible(False)
