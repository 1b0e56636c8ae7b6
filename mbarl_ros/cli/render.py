"""``mbarl render``: policies and demonstrations as GIF, MP4 and PNG files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mbarl_ros.bringup.arguments import Value
from mbarl_ros.bringup.sources import resolve_policy
from mbarl_ros.cli.demos import selected
from mbarl_ros.cli.run import run_command
from mbarl_ros.control.policy import read_policy
from mbarl_ros.demos.metadata import METADATA_FILE, DemonstrationError, folders, read_metadata
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.run_files import POLICY_FILE, kept_policies
from mbarl_ros.storage.transitions import DIRECTIONS
from mbarl_ros.task import Task

if TYPE_CHECKING:
    from mbarl_ros.studies.clips import DemonstrationClips, PolicyClips

FRAME_RATE = 12.5  # Hz, at most
PAUSE = 1.2  # s, for which the end of an episode is shown
_EPILOG = """\
A SOURCE is a run folder, the folder of a seed of `mbarl bench`, a policy file, a demonstration or a
folder of demonstrations. Each makes a panel; several are shown side by side. A green frame is a
success, a red one none. No display is needed.

  mbarl render runs/mine --output mine.gif --episodes 0,1,2
  mbarl render runs/mine --steps 0,1000,4000 --output progress.mp4
  mbarl render demos/push runs/mine --output both.gif --speed 2
  mbarl render runs/mine --wide --episodes 7 --frames frames
"""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _render(options), DemonstrationError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mbarl render',
        description='Film policies and demonstrations in their simulated world.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('sources', nargs='+', type=_path, metavar='SOURCE', help='see below')
    add('--output', type=_path, metavar='FILE', help='.gif, or .mp4 (needs the extra video)')
    add('--frames', type=_path, metavar='FOLDER', help='write each frame as PNG')
    add('--overwrite', action='store_true', help='replace files that exist')
    add(
        '--episodes',
        type=_numbers,
        default='0',
        help='numbers of the evaluation starts, or of the demonstrations of the phase, in the '
        'order of `mbarl demos list`: 0,1,2 (default: 0)',
    )
    add('--wide', action='store_true', help='policies start from the wide starts of the task')
    add(
        '--phase',
        choices=DIRECTIONS,
        default=DIRECTIONS[0],
        help='backward: how the policy undoes its attempt, or backward demonstrations '
        '(default: forward)',
    )
    add(
        '--steps',
        metavar='STEPS',
        help='a panel for each policy that a run has kept after so many environment steps: '
        '0,1000,4000 or all (default: the last policy)',
    )
    add('--speed', type=_positive, default=1.0, help='times the speed of the robot (default: 1)')
    add('--width', type=_pixels, default=320, help='pixels of a panel (default: 320)')
    add('--height', type=_pixels, default=240, help='pixels of a panel (default: 240)')
    add('--task', default='', help='name or .yaml; default: as in the source')
    add('--agent', default='', help='name or .yaml; default: as in the source')
    add('--robot', default='', help='name or .yaml; default: as in the source')
    return parser


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _numbers(text: str) -> list[int]:
    words = text.split(',')
    if not all(map(str.isdecimal, words)):
        raise argparse.ArgumentTypeError(f'{text}: give numbers like 0,1,2')
    return [int(word) for word in words]


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} is not above 0')
    return number


def _pixels(text: str) -> int:
    number = int(text)
    if not 16 <= number <= 4096:
        raise argparse.ArgumentTypeError(f'{text} is not between 16 and 4096')
    return number


def _render(options: argparse.Namespace) -> int:
    from mbarl_ros.studies.clips import Shot
    from mbarl_ros.view.film import check_output, frames, write_film

    check_output(options.output, options.frames, overwrite=options.overwrite)
    films = [film for source in options.sources for film in _films(source, options)]
    rates = {film.task.robot.control_rate for film in films}
    if len(rates) > 1:
        raise ConfigError('the sources have different control rates; film them one by one')
    rate = rates.pop() * options.speed  # steps in a second of the film
    every = max(round(rate / FRAME_RATE), 1)
    shot = Shot(options.width, options.height, every)

    def episodes():
        for episode in options.episodes:
            clips = [film.clip(episode, shot) for film in films]
            for clip in clips:
                print(f'{clip.title}: {clip.texts[-1]}', flush=True)
            yield clips

    seconds = every / rate
    film = frames(episodes(), pause=round(PAUSE / seconds))
    write_film(film, seconds, options.output, options.frames)
    for source in films:
        source.close()
    if options.output:
        print(f'{options.output}: {options.output.stat().st_size / 1e6:.2f} MB')
    if options.frames:
        print(f'{options.frames}: {len(list(options.frames.glob("frame_*.png")))} frames')
    return 0


def _films(
    source: Path, options: argparse.Namespace
) -> list[PolicyClips] | list[DemonstrationClips]:
    """What makes the clips of a source: one for each panel.

    :raises ConfigError: it is neither a policy nor a demonstration.
    """
    from mbarl_ros.studies.clips import DemonstrationClips

    if not source.exists():
        raise ConfigError(f'{source}: no such file or folder')
    if source.is_file() or (source / POLICY_FILE).exists():
        return _policies(source, options)
    if not any((path / METADATA_FILE).exists() for path in (source, *folders(source))):
        raise ConfigError(
            f'{source}: there is no {POLICY_FILE} in it, which a run writes after its first policy '
            'update, and no demonstration'
        )
    if options.wide or options.steps:
        raise ConfigError(f'{source}: --wide and --steps are for policies only')
    given = argparse.Namespace(path=str(source), task=options.task, robot=options.robot)
    task, paths = selected(given)
    if paths != [source]:
        paths = [path for path in paths if read_metadata(path).direction == options.phase]
    return [DemonstrationClips(task, paths, f'{options.phase} demonstration of {source}')]


def _policies(source: Path, options: argparse.Namespace) -> list[PolicyClips]:
    from mbarl_ros.studies.clips import PolicyClips

    values: dict[str, Value] = {
        'policy': str(source),
        'task': options.task,
        'agent': options.agent,
        'robot': options.robot,
    }
    resolve_policy(values)
    task = Task.load(str(values['task']), str(values['robot']) or None)
    agent = load_agent(str(values['agent']))
    paths = [Path(str(values['policy']))]
    if options.steps:
        kept = kept_policies(paths[0].parent) | {read_policy(paths[0], task, agent)[1]: paths[0]}
        paths = [kept[steps] for steps in _chosen(options.steps, list(kept), source)]
    backward = options.phase == DIRECTIONS[1]
    return [PolicyClips(task, agent, path, wide=options.wide, backward=backward) for path in paths]


def _chosen(text: str, kept: list[int], source: Path) -> list[int]:
    """Numbers of steps that --steps names.

    :raises ConfigError: it is no list of numbers, or there is no such policy.
    """
    if text == 'all':
        return sorted(kept)
    try:
        wanted = _numbers(text)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f'--steps {error}') from None
    for steps in wanted:
        if steps not in kept:
            raise ConfigError(
                f'{source}: has no policy of {steps} steps; it has those of '
                f'{", ".join(map(str, sorted(kept)))}'
            )
    return wanted
