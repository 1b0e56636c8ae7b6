"""Demonstrations in other formats: Minari, robomimic, LeRobot, EARL.

Files are untrusted: no code in them is run, no name in them becomes a path, and sizes are limited.
They can still crash a reader that is written in C; :mod:`mbarl_ros.demos.importing` therefore reads
them in a process of its own.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType

from mbarl_ros.demos.episodes import Episode
from mbarl_ros.demos.formats.common import FormatError, Options, Reading, check_downloaded
from mbarl_ros.demos.formats.pieces import cut_at_gaps
from mbarl_ros.task import Task

__all__ = ['BAG', 'EXPORTERS', 'IMPORTERS', 'FormatError', 'Options', 'Reading', 'check_options']
__all__ += ['detect', 'export_episodes', 'read_episodes']

BAG = 'bag'
_HDF5 = b'\x89HDF\r\n\x1a\n'
_BAGS = (b'\x89MCAP0\r\n', b'SQLite format 3', b'#ROSBAG V')
_ZSTD = b'\x28\xb5\x2f\xfd'


def _module(kind: str) -> ModuleType:
    return import_module(f'mbarl_ros.demos.formats.{kind}')


EXPORTERS: dict[str, Callable[[list[Episode], Task, Path], None]] = {
    'minari': lambda *given: _module('minari').write(*given),
    'robomimic': lambda *given: _module('robomimic').write(*given),
    'lerobot': lambda *given: _module('lerobot').write(*given),
}
IMPORTERS: dict[str, Callable[[Path, Task, str | None, Reading], list[Episode]]] = {
    'minari': lambda *given: _module('minari').read(*given),
    'robomimic': lambda *given: _module('robomimic').read(*given),
    'lerobot': lambda *given: _module('lerobot_import').read(*given),
    'earl': lambda *given: _module('earl').read(*given),
}
_OPTIONS = {
    BAG: ('topics', 'clock'),
    'minari': ('keys', 'clip'),
    'robomimic': ('keys', 'clip'),
    'lerobot': ('mapping', 'scales', 'clip'),
    'earl': ('clip',),
}
_ARGUMENTS = {
    'keys': '--key',
    'mapping': '--map',
    'scales': '--scale',
    'clip': '--clip',
    'topics': '--topic',
    'clock': '--clock',
}


def export_episodes(kind: str, episodes: list[Episode], task: Task, target: Path) -> list[str]:
    """Write episodes to a new file or folder; a failure leaves none behind.

    They are cut where messages were lost: readers of these formats take each step for one period.

    :param kind: one of ``EXPORTERS``
    :param target: must not exist, or be an empty folder
    :returns: sentences for the user
    :raises FormatError: unknown kind, existing target, no episode, or a missing library.
    """
    write = _known(EXPORTERS, kind, 'exported to')
    target = target.absolute()  # Minari looks for its folder from elsewhere
    if not episodes:
        raise FormatError(f'{target}: there is no demonstration to write')
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FormatError(f'{target}: exists already; remove it or give another name')
    pieces, notes = cut_at_gaps(episodes, task)
    if not pieces:
        raise FormatError(f'{target}: nothing to write: no step is without lost messages')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f'.{target.name}.', dir=target.parent))
    except OSError as error:
        raise FormatError(f'{target}: cannot be written: {error}') from error
    try:
        write(pieces, task, beside / target.name)
        if target.is_dir():
            target.rmdir()
        (beside / target.name).rename(target)
    except ModuleNotFoundError as error:
        raise _missing(kind, error) from error
    except FormatError:
        raise
    except (OSError, ValueError) as error:
        raise FormatError(f'{target}: cannot be written: {error}') from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return notes


def check_options(kind: str, options: Options) -> None:
    """Refuse options that a format does not have.

    :raises FormatError: there is one; the message names it.
    """
    known = _OPTIONS.get(kind, ())
    for name, argument in _ARGUMENTS.items():
        if getattr(options, name) and name not in known:
            possible = ', '.join(_ARGUMENTS[each] for each in known) or 'none of these options'
            raise FormatError(f"{argument} does not apply to format '{kind}', which has {possible}")


def read_episodes(
    kind: str,
    source: Path,
    task: Task,
    *,
    direction: str | None = None,
    reading: Reading | None = None,
) -> list[Episode]:
    """Episodes of a file or folder of another format.

    :param kind: one of ``IMPORTERS``
    :param direction: forward or backward; None: as in the file
    :param reading: what the user says about the source; gets the notes for the user
    :raises FormatError: not complete and finite episodes that fit the task.
    """
    read = _known(IMPORTERS, kind, 'imported from')
    reading = reading or Reading()
    check_options(kind, reading.options)
    try:
        episodes = read(source, task, direction, reading)
    except FormatError:
        raise
    except ModuleNotFoundError as error:
        raise _missing(kind, error) from error
    except Exception as error:  # damaged files make the libraries raise any exception
        text = ' '.join(str(error).split())[:300] or type(error).__name__
        raise FormatError(f'{source}: cannot be read as {kind}: {text}') from error
    if not episodes:
        raise FormatError(f'{source}: there is no episode in it')
    by_scale = 'if the unit differs, give --scale ENTRY:=FACTOR (degrees: 0.0174533)'
    in_file = 'scale them in the file'
    reading.finish(source, by_scale if 'scales' in _OPTIONS[kind] else in_file)
    return episodes


def detect(source: Path) -> str:
    """Format of a file or folder, by its content: ``bag`` or one of ``IMPORTERS``.

    :raises FormatError: an unknown format.
    """
    if source.is_dir():
        return _detect_folder(source)
    if not source.is_file():
        raise FormatError(f'{source}: no such file or folder')
    with source.open('rb') as file:
        head = file.read(16)
    if head.startswith(_HDF5):
        return _detect_hdf5(source)
    if head.startswith(_BAGS) or (head.startswith(_ZSTD) and _has_bag_file([source])):
        return BAG
    if (head[:1] == b'\x80' and head[1:2] <= b'\x05') or source.suffix in ('.pkl', '.pickle'):
        return 'earl'
    check_downloaded(source)
    raise _unknown(source)


def _detect_folder(source: Path) -> str:
    if (source / 'meta' / 'info.json').exists():
        return 'lerobot'
    if (source / 'metadata.yaml').exists() or _has_bag_file(source.iterdir()):
        return BAG
    if any((source / name).exists() for name in ('data/metadata.json', 'metadata.json')):
        return 'minari'
    if _has_bag_file(source.glob('*/*')):
        return BAG  # which says that one of them is to be given
    raise _unknown(source)


def _has_bag_file(paths: Iterable[Path]) -> bool:
    from mbarl_ros.demos.bag_files import is_bag_file  # imports rosbags, which takes time

    return any(map(is_bag_file, paths))


def _detect_hdf5(source: Path) -> str:
    try:
        from mbarl_ros.demos.formats.hdf5 import top_level

        names = top_level(source)
    except ModuleNotFoundError as error:
        raise _missing('hdf5', error) from error
    if 'data' in names:
        return 'robomimic'
    if 'episode_0' in names:
        raise FormatError(f'{source}: is the data of a Minari dataset; give its folder')
    raise _unknown(source)


def _known(known: dict, kind: str, verb: str) -> Callable:
    if kind not in known:
        raise FormatError(f"'{kind}' cannot be {verb}; what can: {', '.join(known)}")
    return known[kind]


def _unknown(source: Path) -> FormatError:
    return FormatError(
        f'{source}: is nothing that can be imported; what can: a bag (MCAP, SQLite, ROS 1), '
        f'{", ".join(IMPORTERS)}'
    )


def _missing(kind: str, error: ModuleNotFoundError) -> FormatError:
    return FormatError(
        f"format '{kind}' needs the package {error.name}, which is not installed; "
        "pip install 'mbarl_ros[formats]'"
    )
