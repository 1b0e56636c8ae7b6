"""``mbarl demos``: list, check, show, replay, convert and import demonstrations."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from mbarl_ros.demos.episodes import SUCCEEDED, VERDICTS, Episode
from mbarl_ros.demos.metadata import METADATA_FILE, DemonstrationError, folders, read_metadata
from mbarl_ros.demos.reader import check_demonstration, read_episode
from mbarl_ros.demos.recording import recover, unfinished
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.exit_codes import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE
from mbarl_ros.schema.findings import Finding
from mbarl_ros.storage.transitions import DIRECTIONS
from mbarl_ros.task import Task
from mbarl_ros.view.plots import DemonstrationPlot


def main(arguments: list[str]) -> int:
    """Run a sub-command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (ConfigError, DemonstrationError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return EXIT_USAGE


def _parser() -> argparse.ArgumentParser:
    demos = argparse.ArgumentParser(
        prog='mbarl demos',
        description='Demonstrations. PATH is one of them or a folder of them; left out, the '
        "folder of the task's own (--task).",
    )
    actions = demos.add_subparsers(dest='action', required=True, metavar='ACTION')

    def action(name: str, about: str, run: Callable[[argparse.Namespace], int]):
        parser = actions.add_parser(name, help=about, description=f'{about}.')
        parser.set_defaults(run=run)
        parser.add_argument('--task', default='', help='name or .yaml; default: the one recorded')
        parser.add_argument('--robot', default='', help="robot profile; default: the task's own")
        return parser

    def with_path(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parser.add_argument('path', nargs='?', default='', metavar='PATH')
        return parser

    with_path(action('list', 'List demonstrations with length, verdict and success', _list))
    with_path(
        action('check', 'Report gaps, jumps, missing topics and NaN with their times', _check)
    )
    show = with_path(action('show', 'Plot states, actions and rewards against time', _show))
    show.add_argument('--output', metavar='PNG', help='a picture; default: in the terminal')
    replay = with_path(
        action('replay', 'Replay through the gate on the simulation; report the deviation', _replay)
    )
    replay.add_argument(
        '--tolerance', type=float, default=0.01, help='accepted share of the range (default 0.01)'
    )
    convert = with_path(action('convert', 'Export to another format', _convert))
    convert.add_argument('--to', required=True, help='minari, robomimic or lerobot')
    convert.add_argument('--output', required=True, metavar='PATH', help='must not exist yet')
    bring = action('import', 'Add demonstrations from another format to a folder', _import)
    bring.add_argument('source', metavar='SOURCE', help='bag, .mcap, .hdf5, Minari folder or .pkl')
    bring.add_argument('--into', default='', metavar='FOLDER', help="default: the task's own")
    bring.add_argument(
        '--format', default=None, help='bag, minari, robomimic or earl; default: seen'
    )
    bring.add_argument('--direction', choices=DIRECTIONS, default=None, help='default: as recorded')
    bring.add_argument('--verdict', choices=VERDICTS, default=None, help='default: as recorded')
    return demos


def _folder(options: argparse.Namespace) -> Path:
    """The folder that PATH or --task means."""
    if not options.path:
        if not options.task:
            raise ConfigError('give a folder of demonstrations, or --task for its own folder')
        task = Task.load(options.task, options.robot or None)
        if not task.config.demonstrations:
            raise ConfigError(f"task '{task.name}': key 'demonstrations' is not set; give a folder")
        options.path = task.config.demonstrations
    return Path(options.path).expanduser()


def _found(options: argparse.Namespace) -> tuple[Task, list[Path]]:
    """The task and the demonstrations that PATH and --task mean."""
    path = _folder(options)
    found = [path] if (path / METADATA_FILE).exists() else folders(path)
    if not found:
        raise DemonstrationError(f'{path}: there are no demonstrations in it')
    return _task(options, found), found


def _task(options: argparse.Namespace, found: list[Path]) -> Task:
    name = options.task
    for path in found:
        if name:
            break
        try:
            name = read_metadata(path).task
        except DemonstrationError:
            continue
    if not name:
        raise ConfigError('no demonstration says what task it is of; give --task')
    return Task.load(name, options.robot or None)


def _list(options: argparse.Namespace) -> int:
    task, found = _found(options)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ('demonstration', 'verdict', 'reached', 'steps', 'left out', 'seconds', 'by', ''):
        right = name in ('steps', 'left out', 'seconds')
        table.add_column(name, justify='right' if right else 'left')
    used = 0
    for path in found:
        episode, findings = check_demonstration(path, task)
        word = ', '.join(
            f'{count} {level}{"s" if count > 1 else ""}'
            for level in ('error', 'warning', 'note')
            if (count := sum(finding.level == level for finding in findings))
        )
        if episode is None:
            table.add_row(path.name, '', '', '', '', '', '', word)
            continue
        used += episode.succeeded(task)
        forward = episode.direction == 'forward'
        table.add_row(
            path.name,
            episode.verdict,
            ('yes' if episode.reached(task) else 'no') if forward else '',
            str(len(episode.actions)),
            str((~episode.whole).sum() or ''),
            f'{episode.stamps[-1] - episode.stamps[0]:.1f}',
            episode.operator,
            word,
        )
    Console().print(table)
    print(f'{used} of {len(found)} are learned from (task {task.name})')
    left = unfinished(found[0].parent)
    if left:
        print(
            f'{left} recordings are going on or were interrupted; `mbarl demos check` finishes '
            'the latter'
        )
    return 0


def _check(options: argparse.Namespace) -> int:
    path = _folder(options)
    if path.is_dir() and not (path / METADATA_FILE).exists():
        for sentence in recover(path):
            print(sentence)
    task, found = _found(options)
    failed = 0
    for path in found:
        episode, findings = check_demonstration(path, task)
        failed += episode is None
        _report(path.name, episode, findings)
    print(f'{len(found)} checked, {failed} cannot be used')
    return EXIT_FAILURE if failed else 0


def _report(name: str, episode: Episode | None, findings: list[Finding]) -> None:
    steps = 'cannot be used' if episode is None else f'{len(episode.actions)} steps'
    print(f'{name}: {steps}')
    for finding in findings:
        print(f'  {finding.level}: {finding}')


def _show(options: argparse.Namespace) -> int:
    task, found = _found(options)
    episodes = [read_episode(path, task) for path in found]
    from mbarl_ros.view.plots import demonstration_lines, plot_demonstrations

    shown = [_plot(episode, task) for episode in episodes]
    if options.output:
        plot_demonstrations(task.name, shown, Path(options.output))
        print(f'{options.output}: {len(shown)} demonstrations')
        return 0
    for demonstration in shown:
        print('\n'.join(demonstration_lines(demonstration)))
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

    task, found = _found(options)
    path = found[0] if len(found) == 1 else found[0].parent
    with tempfile.TemporaryDirectory(prefix='mbarl-replay-') as run_dir:
        given = {
            'demo': str(path),
            'task': options.task or task.name,
            'robot': options.robot,
            'run_dir': run_dir,
            'tolerance': str(options.tolerance),
            'view': 'none',
            'log_level': 'error',
        }
        code = up('replay', given)
        result = Path(run_dir) / REPLAY_FILE
        if not result.exists():
            print('error: the replay did not come to its end; see above', file=sys.stderr)
            return EXIT_FAILURE
        replays = json.loads(result.read_text())['replays']
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ('demonstration', 'steps', 'success', 'deviation', 'of', 'at', 'clipped'):
        left = name in ('demonstration', 'of')
        table.add_column(name, justify='left' if left else 'right', no_wrap=True)
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
    Console().print(table)
    print(
        f'deviation: largest, as a share of the range of the entry; {options.tolerance:.1%} is '
        f'accepted: {"all well" if code == 0 else "NOT met"}'
    )
    return code


def _convert(options: argparse.Namespace) -> int:
    from mbarl_ros.demos.formats import FormatError, export_episodes

    task, found = _found(options)
    episodes = [read_episode(path, task) for path in found]
    kept = [episode for episode in episodes if episode.verdict != 'discarded']
    try:
        export_episodes(options.to, kept, task, Path(options.output).expanduser())
    except FormatError as error:
        raise DemonstrationError(str(error)) from error
    steps = sum(len(episode.actions) for episode in kept)
    judged = sum(episode.verdict == SUCCEEDED for episode in kept)
    print(
        f'{options.output}: {len(kept)} demonstrations ({judged} judged a success), {steps} steps'
    )
    return 0


def _import(options: argparse.Namespace) -> int:
    from mbarl_ros.demos.formats import FormatError
    from mbarl_ros.demos.importing import import_demonstrations

    if not options.task:
        raise ConfigError('--task is needed: what task are they demonstrations of?')
    task = Task.load(options.task, options.robot or None)
    folder = options.into or task.config.demonstrations
    if not folder:
        raise ConfigError(f"task '{task.name}': key 'demonstrations' is not set; give --into")
    try:
        made = import_demonstrations(
            Path(options.source).expanduser(),
            options.task,
            options.robot,
            Path(folder).expanduser(),
            kind=options.format,
            direction=options.direction,
            verdict=options.verdict,
        )
    except FormatError as error:
        raise DemonstrationError(str(error)) from error
    failed = 0
    for path in made:
        episode, findings = check_demonstration(path, task)
        failed += episode is None
        _report(str(path), episode, findings)
    return EXIT_FAILURE if failed else 0
