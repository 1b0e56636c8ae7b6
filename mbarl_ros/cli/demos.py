"""``mbarl demos``: list, check, show, replay, convert and import demonstrations."""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from mbarl_ros.cli.demos_report import print_list, print_report, print_set, print_table
from mbarl_ros.cli.run import run_command
from mbarl_ros.demos.episodes import SUCCEEDED, VERDICTS, Episode
from mbarl_ros.demos.metadata import (
    CLOCKS,
    METADATA_FILE,
    DemonstrationError,
    folders,
    task_and_robot,
)
from mbarl_ros.demos.reader import check_demonstration, read_episode
from mbarl_ros.demos.recording import recover
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.exit_codes import EXIT_FAILURE
from mbarl_ros.schema.load import recording_folder
from mbarl_ros.storage.transitions import DIRECTIONS
from mbarl_ros.task import Task
from mbarl_ros.view.plots import DemonstrationPlot

# Demonstrations with which imported ones are compared, the newest: a loop of imports stays fast.
_COMPARED = 50


def main(arguments: list[str]) -> int:
    """Run a sub-command; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: options.run(options), DemonstrationError, OSError)


def _parser() -> argparse.ArgumentParser:
    demos = argparse.ArgumentParser(
        prog='mbarl demos',
        description='List, check, plot, replay, convert and import demonstrations. PATH is a '
        "demonstration or a folder of them; default: the task's own folder (--task).",
    )
    actions = demos.add_subparsers(dest='action', required=True, metavar='ACTION')

    def action(name: str, about: str, run: Callable[[argparse.Namespace], int]):
        parser = actions.add_parser(name, help=about, description=f'{about}.')
        parser.set_defaults(run=run)
        parser.add_argument('--task', default='', help='name or .yaml; default: as recorded')
        parser.add_argument('--robot', default='', help='name or .yaml; default: as recorded')
        return parser

    def with_path(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parser.add_argument('path', nargs='?', default='', metavar='PATH')
        return parser

    with_path(action('list', 'List demonstrations with length, verdict and success', _list))
    about = (
        'Report gaps, clock jumps, missing topics and NaN with their times, commands and states '
        'out of range or too fast, copies, and demonstrations that disagree'
    )
    with_path(action('check', about, _check))
    show = with_path(action('show', 'Plot states, actions and rewards against time', _show))
    show.add_argument('--output', metavar='PNG', help='file; default: plot in the terminal')
    replay = with_path(
        action('replay', 'Replay in simulation through the safety gate; report deviations', _replay)
    )
    replay.add_argument(
        '--tolerance',
        type=float,
        default=0.01,
        help='largest accepted deviation, as a share of the range of an entry (default 0.01)',
    )
    convert = with_path(action('convert', 'Export to another format', _convert))
    convert.add_argument('--to', required=True, help='minari, robomimic or lerobot')
    convert.add_argument('--output', required=True, metavar='PATH', help='must not exist yet')
    add = action('import', 'Add demonstrations of another format to a folder', _import)
    add.add_argument(
        'source',
        metavar='SOURCE',
        help='bag (folder, .mcap, .db3 or .bag), .hdf5, folder of Minari or LeRobot, or .pkl',
    )
    add.add_argument(
        '--into',
        default='',
        metavar='FOLDER',
        help="default: the task's own, or my_demos/TASK where it has none or one that comes with "
        'the package',
    )
    add.add_argument(
        '--format', default=None, help='bag, minari, robomimic, lerobot or earl; default: detected'
    )
    add.add_argument('--direction', choices=DIRECTIONS, default=None, help='default: as recorded')
    add.add_argument('--verdict', choices=VERDICTS, default=None, help='default: as recorded')
    _add_reading(add)
    return demos


def _add_reading(add: argparse.ArgumentParser) -> None:
    """Arguments that say how to read a source of another format."""
    add.add_argument(
        '--topic',
        action='append',
        default=[],
        type=_pair,
        metavar='PROFILE:=BAG',
        help='bag: topic of the robot profile and its name in the bag; repeat for more; default: '
        'the same name, or the only one that ends in it',
    )
    add.add_argument(
        '--clock',
        choices=CLOCKS,
        default='',
        help='bag: date messages by their header or by the log, which is when they were received; '
        'default: header where it holds times',
    )
    add.add_argument(
        '--key',
        default='',
        metavar='A,B[0:3],...',
        help="robomimic, Minari: observation keys that are the task's observation together",
    )
    add.add_argument(
        '--map',
        action='append',
        default=[],
        type=_pair,
        metavar='NAME:=ENTRY',
        help='LeRobot: NAME of the dataset is ENTRY of the task (action.ENTRY: only of its '
        'action); repeat for more; default: equal names',
    )
    add.add_argument(
        '--scale',
        action='append',
        default=[],
        type=_factor,
        metavar='ENTRY:=FACTOR',
        help='LeRobot: multiply an entry, 0.0174533 for degrees to radians; repeat for more',
    )
    add.add_argument('--clip', action='store_true', help='clip actions to their range')


def _pair(text: str) -> tuple[str, str]:
    """``A:=B`` as two texts."""
    first, sign, second = text.rpartition(':=')
    if not (sign and first.strip() and second.strip()):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form A:=B")
    return first.strip(), second.strip()


def _factor(text: str) -> tuple[str, float]:
    """``ENTRY:=FACTOR`` as a text and a number."""
    entry, number = _pair(text)
    try:
        factor = float(number)
    except ValueError:
        factor = 0.0
    if factor == 0.0 or not math.isfinite(factor):
        raise argparse.ArgumentTypeError(f"'{text}': '{number}' is not a factor other than 0")
    return entry, factor


def _once(argument: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Entry -> what is said about it.

    :raises ConfigError: something is said twice about an entry.
    """
    for entry, count in Counter(entry for entry, _ in pairs).items():
        if count > 1:
            raise ConfigError(f"{argument}: '{entry}' is given {count} times; leave one")
    return dict(pairs)


def _folder(options: argparse.Namespace) -> Path:
    """PATH, or the folder of --task."""
    if not options.path:
        if not options.task:
            raise ConfigError('give a folder of demonstrations, or --task NAME for its own folder')
        task = Task.load(options.task, options.robot or None)
        if not task.config.demonstrations:
            raise ConfigError(f"task '{task.name}': key 'demonstrations' is not set; give a folder")
        options.path = task.config.demonstrations
    return Path(options.path).expanduser()


def selected(options: argparse.Namespace) -> tuple[Task, list[Path]]:
    """The demonstrations of ``path``, and their task.

    Fills in ``task`` and ``robot`` of the options as recorded.

    :raises ConfigError: the task cannot be used.
    :raises DemonstrationError: there are none, or none of them tells its task.
    """
    path = _folder(options)
    paths = [path] if (path / METADATA_FILE).exists() else folders(path)
    if not paths:
        raise DemonstrationError(f'{path}: there are no demonstrations in it')
    if not options.task:
        options.task, robot = _recorded_task(paths)
        options.robot = options.robot or robot
    return Task.load(options.task, options.robot or None), paths


def _recorded_task(paths: list[Path]) -> tuple[str, str]:
    """Task and robot of the first demonstration whose metadata can be read."""
    first_error: DemonstrationError | None = None
    for path in paths:
        try:
            return task_and_robot(path)
        except DemonstrationError as error:
            first_error = first_error or error
    assert first_error is not None
    raise first_error


def _list(options: argparse.Namespace) -> int:
    task, paths = selected(options)
    print_list(paths, task)
    return 0


def _check(options: argparse.Namespace) -> int:
    path = _folder(options)
    if path.is_dir() and not (path / METADATA_FILE).exists():
        for sentence in recover(path):
            print(sentence)
    task, paths = selected(options)
    episodes = []
    for path in paths:
        episode, findings = check_demonstration(path, task)
        print_report(path.name, episode, findings)
        episodes += [episode] if episode else []
    print_set(episodes, task)
    failed = len(paths) - len(episodes)
    print(f'{len(paths)} checked, {failed} cannot be used')
    return EXIT_FAILURE if failed else 0


def _show(options: argparse.Namespace) -> int:
    from mbarl_ros.view.plots import demonstration_lines, plot_demonstrations

    task, paths = selected(options)
    plots = [_plot(read_episode(path, task), task) for path in paths]
    if options.output:
        plot_demonstrations(task.name, plots, Path(options.output))
        print(f'{options.output}: {len(plots)} demonstrations')
        return 0
    for plot in plots:
        print('\n'.join(demonstration_lines(plot)))
    return 0


def _plot(episode: Episode, task: Task) -> DemonstrationPlot:
    from mbarl_ros.view.plots import DemonstrationPlot

    seconds = episode.stamps[-1] - episode.stamps[0]
    title = (
        f'{episode.name}: {episode.direction}, {len(episode.actions)} steps, {seconds:.1f} s, '
        f'verdict {episode.verdict}'
    )
    success = episode.is_forward and episode.reached(task)
    return DemonstrationPlot(episode.direction, title, episode.signals(task), success)


def _replay(options: argparse.Namespace) -> int:
    from mbarl_ros.bringup.up import up
    from mbarl_ros.demos.replay import REPLAY_FILE

    _, paths = selected(options)
    path = paths[0] if len(paths) == 1 else paths[0].parent
    with tempfile.TemporaryDirectory(prefix='mbarl-replay-') as run_dir:
        given = {
            'demo': str(path),
            'task': options.task,
            'robot': options.robot,
            'run_dir': run_dir,
            'tolerance': str(options.tolerance),
            'view': 'none',
            'log_level': 'error',
        }
        code = up('replay', given)
        result = Path(run_dir) / REPLAY_FILE
        if not result.exists():
            print('error: the replay ended early; see above', file=sys.stderr)
            return EXIT_FAILURE
        replays = json.loads(result.read_text())['replays']
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ('demonstration', 'steps', 'success', 'deviation', 'of', 'at', 'clipped'):
        left = name in ('demonstration', 'of')
        table.add_column(name, justify='left' if left else 'right')
    for replay in replays:
        table.add_row(
            replay['name'],
            str(replay['steps']),
            {True: 'yes', False: 'no', None: '-'}[replay['success']],
            f'{replay["deviation"]:.2%}',
            replay['entry'],
            f'{replay["at"]:.1f} s',
            str(replay['commands_changed_by_gate']),
        )
    print_table(table)
    print(
        'deviation: the largest one, as a share of the range of the entry; tolerance '
        f'{options.tolerance:.1%}: {"met" if code == 0 else "NOT met"}'
    )
    return code


def _convert(options: argparse.Namespace) -> int:
    from mbarl_ros.demos.formats import FormatError, export_episodes

    task, paths = selected(options)
    episodes = [read_episode(path, task) for path in paths]
    kept = [episode for episode in episodes if episode.verdict != 'discarded']
    try:
        notes = export_episodes(options.to, kept, task, Path(options.output).expanduser())
    except FormatError as error:
        raise DemonstrationError(str(error)) from error
    steps = sum(int(episode.whole.sum()) for episode in kept)
    successes = sum(episode.verdict == SUCCEEDED for episode in kept)
    print(
        f'{options.output}: {len(kept)} demonstrations ({successes} with verdict {SUCCEEDED}), '
        f'{steps} steps'
    )
    for note in notes:
        print(note)
    return 0


def _import(options: argparse.Namespace) -> int:
    from mbarl_ros.demos.formats import FormatError, Options, Reading
    from mbarl_ros.demos.importing import import_demonstrations

    if not options.task:
        raise ConfigError('--task is needed: the task of these demonstrations')
    task = Task.load(options.task, options.robot or None)
    folder = recording_folder(task.config, options.into)
    reading = Reading(
        Options(
            keys=[key.strip() for key in options.key.split(',') if key.strip()],
            mapping=_once('--map', [(entry, name) for name, entry in options.map]),
            scales=_once('--scale', options.scale),
            clip=options.clip,
            topics=_once('--topic', options.topic),
            clock=options.clock,
        )
    )
    try:
        made = import_demonstrations(
            Path(options.source).expanduser(),
            options.task,
            options.robot,
            folder,
            kind=options.format,
            direction=options.direction,
            verdict=options.verdict,
            reading=reading,
        )
    except FormatError as error:
        raise DemonstrationError(str(error)) from error
    for note in reading.notes:
        print(f'{options.source}: {note}')
    episodes = []
    for path in made:
        episode, findings = check_demonstration(path, task)
        print_report(str(path), episode, findings)
        episodes += [episode] if episode else []
    failed = len(made) - len(episodes)
    others = [path for path in folders(folder) if path not in made]
    others.sort(key=lambda path: path.stat().st_mtime)
    print_set([*_readable(others[-_COMPARED:], task), *episodes], task)
    return EXIT_FAILURE if failed else 0


def _readable(paths: list[Path], task: Task) -> list[Episode]:
    """Demonstrations that can be used; what is wrong with others says `mbarl demos check`."""
    episodes = []
    for path in paths:
        with suppress(DemonstrationError):
            episodes.append(read_episode(path, task))
    return episodes
