"""Figures of study ``dyna-maze``; each function returns file name and caption."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from mbarl_ros.studies.dyna_q import COLUMNS, MAZES, MOVES, ROWS, Maze
from mbarl_ros.view.plots import save_figure

matplotlib.use('Agg')
from matplotlib import pyplot

_COLOURS = {0: '#c8553d', 5: '#c99a2e', 50: '#1f5fa8'}
_AGENTS = {'dyna-q': ('Dyna-Q', '#c8553d'), 'dyna-q-plus': ('Dyna-Q+', '#1f5fa8')}
Runs = Mapping[str, np.ndarray]


def mazes(folder: Path) -> tuple[str, str]:
    """The three mazes."""
    titles = {
        'dyna': 'Dyna maze',
        'blocking': 'blocking maze (step 1,000)',
        'shortcut': 'shortcut maze (step 3,000)',
    }
    figure, grid = pyplot.subplots(1, 3, figsize=(11, 3), layout='constrained')
    for axes, (name, maze) in zip(grid, MAZES.items(), strict=True):
        _draw_maze(axes, maze)
        axes.set_title(titles[name], fontsize=10, loc='left')
    save_figure(figure, folder / 'mazes.png')
    return (
        'mazes.png',
        'The mazes. Dark: wall. In two of them the wall moves at the given step: hatched squares '
        'are closed from then on, dotted ones open.',
    )


def learning(folder: Path, learned: Mapping[int, Runs], optimum: int) -> tuple[str, str]:
    """Steps per episode (their Figure 8.2) and the greedy path."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout='constrained')
    for n, runs in learned.items():
        for axes, values in ((left, runs['steps']), (right, runs['paths'])):
            episodes = np.arange(1, values.shape[1] + 1)
            mean = values.mean(0)
            error = values.std(0, ddof=1) / len(values) ** 0.5
            chosen = slice(1, None) if axes is left else slice(None)
            low, high = (mean - error)[chosen], (mean + error)[chosen]
            axes.fill_between(
                episodes[chosen], low, high, color=_COLOURS[n], alpha=0.15, linewidth=0
            )
            axes.plot(
                episodes[chosen], mean[chosen], color=_COLOURS[n], linewidth=1.8, label=f'n = {n}'
            )
    left.set(ylabel='real steps per episode', ylim=(0, 820))
    left.set_title('steps per episode, from the second on', fontsize=10, loc='left')
    right.set(ylabel='steps of the greedy path', ylim=(0, 205))
    right.set_title('path by the learned values, no random actions', fontsize=10, loc='left')
    for axes in (left, right):
        axes.axhline(
            optimum, color='#888888', linewidth=1, linestyle=':', label=f'optimum {optimum}'
        )
        axes.set(xlabel='episode', xlim=(1, None))
        axes.grid(alpha=0.25)
    left.legend(fontsize=9, frameon=False, title='planning steps', title_fontsize=9)
    save_figure(figure, folder / 'learning.png')
    return (
        'learning.png',
        'Dyna maze, means over runs in a band of one standard error (Figure 8.2 of the book). The '
        'first episode is the same search for all; what differs is what is learned from it.',
    )


def knowledge(folder: Path, learned: Mapping[int, Runs]) -> tuple[str, str]:
    """What one run of each agent knows after two episodes (their Figure 8.3)."""
    figure, grid = pyplot.subplots(
        1, len(learned), figsize=(11 * len(learned) / 3, 3), layout='constrained', squeeze=False
    )
    for axes, (n, runs) in zip(grid[0], learned.items(), strict=True):
        _draw_maze(axes, MAZES['dyna'])
        for state, action in enumerate(runs['preferred'][0]):
            row, column = divmod(state, COLUMNS)
            if action >= 0 and (row, column) != MAZES['dyna'].start:
                down, right = MOVES[action]
                axes.annotate(
                    '',
                    xy=(column + 0.32 * right, row + 0.32 * down),
                    xytext=(column - 0.32 * right, row - 0.32 * down),
                    arrowprops={'arrowstyle': '->', 'color': _COLOURS[n], 'linewidth': 1.4},
                )
        axes.set_title(f'n = {n}', fontsize=10, loc='left')
    save_figure(figure, folder / 'knowledge.png')
    return (
        'knowledge.png',
        'What the first run of each agent knows after two episodes (Figure 8.3 of the book): the '
        'best action of each square that has a value. Without planning, each episode carries the '
        'news of the goal back by one square; planning carries it through the whole maze.',
    )


def changing(folder: Path, changed: Mapping[str, Runs], period: int) -> tuple[str, str]:
    """Cumulative reward where the maze changes (their Figures 8.4 and 8.5)."""
    figure, grid = pyplot.subplots(1, 2, figsize=(11, 4.2), layout='constrained')
    for axes, maze in zip(grid, ('blocking', 'shortcut'), strict=True):
        for agent, (label, colour) in _AGENTS.items():
            if f'{maze}_{agent}' not in changed:
                continue
            curve = changed[f'{maze}_{agent}']['curve']
            steps = period * np.arange(1, curve.shape[1] + 1)
            mean, deviation = curve.mean(0), curve.std(0, ddof=1)
            low, high = mean - deviation, mean + deviation
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(steps, mean, color=colour, linewidth=1.8, label=label)
        axes.axvline(MAZES[maze].change, color='#888888', linewidth=1, linestyle=':')
        axes.set(xlabel='real steps', ylabel='goals reached so far', xlim=(0, None), ylim=(0, None))
        axes.set_title(f'{maze} maze', fontsize=10, loc='left')
        axes.grid(alpha=0.25)
    grid[0].legend(fontsize=9, frameon=False, loc='upper left')
    save_figure(figure, folder / 'changing.png')
    return (
        'changing.png',
        'Mazes that change at the dotted line: means over runs in a band of one standard deviation '
        '(Figures 8.4 and 8.5 of the book). A steeper line is a shorter way.',
    )


def _draw_maze(axes: Any, maze: Maze) -> None:
    for row in range(ROWS):
        for column in range(COLUMNS):
            square = (row, column)
            now, later = square in maze.walls, square in maze.walls_at(maze.change or 0)
            style = {
                (True, True): {'facecolor': '#566073'},
                (True, False): {'facecolor': '#c9ced8', 'hatch': '....'},
                (False, True): {'facecolor': 'white', 'hatch': '////'},
                (False, False): {'facecolor': 'white'},
            }[now, later]
            place = (column - 0.5, row - 0.5)
            axes.add_patch(
                pyplot.Rectangle(place, 1, 1, edgecolor='#9aa3b2', linewidth=0.6, **style)
            )
    for letter, (row, column) in (('S', maze.start), ('G', maze.goal)):
        axes.text(column, row, letter, ha='center', va='center', fontsize=12, fontweight='bold')
    axes.set(xlim=(-0.55, COLUMNS - 0.45), ylim=(ROWS - 0.45, -0.55), aspect='equal')
    axes.axis('off')
