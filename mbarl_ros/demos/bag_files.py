"""The files of a bag: MCAP or SQLite, several of them, compressed or not, with or without metadata.

``metadata.yaml`` is never read: it may be missing after a crash, and names nothing that the files
do not tell.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard

from mbarl_ros.demos.mcap_file import MAX_MESSAGE, McapFileError, Topic, is_torn, read_mcap
from mbarl_ros.demos.ros1_file import read_ros1
from mbarl_ros.demos.sqlite_file import log_beside, read_sqlite

MCAP, SQLITE, ROS1 = '.mcap', '.db3', '.bag'
READERS = {MCAP: read_mcap, SQLITE: read_sqlite, ROS1: read_ros1}
_COMPRESSED = ('.zstd', '.zst')
_ZSTD = b'\x28\xb5\x2f\xfd'  # no message in CDR begins like this


def is_bag_file(path: Path) -> bool:
    """Whether a file is named like one of a bag, compressed ones included."""
    suffixes = path.suffixes[-2:]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in READERS


def bag_files(source: Path, scratch: Path | None = None) -> list[Path]:
    """Files of a bag in the order of recording; only regular files in the folder itself.

    :param scratch: folder for what must be unpacked or copied to be read; None: nothing must
    :raises McapFileError: there is none, or one cannot be unpacked.
    """
    if source.is_file():
        files = [source]
    elif source.is_dir():
        files = [path for path in source.iterdir() if _is_regular(path) and is_bag_file(path)]
    else:
        raise McapFileError(f'{source}: no such bag')
    if not files:
        raise McapFileError(f'{source}: there is no .mcap file in it{_elsewhere(source)}')
    # A recorder that dies while it compresses a file leaves both; the compressed one is torn.
    names = {path.name for path in files}
    files = [path for path in files if path.suffix not in _COMPRESSED or path.stem not in names]
    files.sort(key=_natural_order)
    if scratch is None:
        return files
    return [_readable(path, scratch) for path in files]


def bag_messages(
    files: list[Path],
    wanted: Callable[[Topic], bool] = lambda _: True,
    *,
    torn: bool = False,
) -> Iterator[tuple[Topic, int, bytes]]:
    """Yield (topic, log time in ns, message as it is stored) of the files of a bag.

    :param wanted: selects the topics to yield
    :param torn: end an MCAP file at the first torn record instead of raising
    :raises McapFileError: damaged, empty, or not a bag.
    """
    for path in files:
        if path.suffix == MCAP:
            yield from read_mcap(path, wanted, torn=torn)
        elif path.suffix in READERS:
            yield from READERS[path.suffix](path, wanted)
        else:
            raise McapFileError(f'{path}: is no bag; name it *.mcap, *.db3 or *.bag if it is one')


def any_torn(files: list[Path]) -> bool:
    """Whether the recorder of a bag was killed, as far as its files tell."""
    return any(is_torn(path) for path in files)


def uncompressed(message: bytes) -> bytes:
    """A message that rosbag2 may have compressed by itself (``compression_mode: MESSAGE``).

    :raises McapFileError: damaged, or larger than ``MAX_MESSAGE``.
    """
    if message[:4] != _ZSTD:
        return message
    try:
        size = zstandard.get_frame_parameters(message).content_size
        if size > MAX_MESSAGE:  # also where the frame does not tell its size
            raise McapFileError(f'a message claims {size} bytes, more than {MAX_MESSAGE}')
        return zstandard.ZstdDecompressor().decompress(message)
    except zstandard.ZstdError as error:
        raise McapFileError(f'a compressed message is damaged ({error})') from error


def _readable(path: Path, scratch: Path) -> Path:
    """A file as it can be read without writing into the folder of the bag."""
    if path.suffix in _COMPRESSED:
        return _unpacked(path, scratch)
    log = log_beside(path)
    if not _is_regular(log):
        return path
    shutil.copyfile(log, scratch / log.name)
    return Path(shutil.copyfile(path, scratch / path.name))


def _unpacked(path: Path, scratch: Path) -> Path:
    """A compressed file (``compression_mode: FILE``), unpacked; a torn one as far as it goes."""
    target = scratch / path.stem
    decompressor = zstandard.ZstdDecompressor()
    try:
        with path.open('rb') as packed, target.open('wb') as file:
            shutil.copyfileobj(decompressor.stream_reader(packed, read_across_frames=True), file)
    except (zstandard.ZstdError, OSError) as error:
        raise McapFileError(f'{path}: cannot be unpacked by zstd ({error})') from error
    return target


def _is_regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _natural_order(path: Path) -> list[tuple[str, int]]:
    """Names with all their numbers: ``_2`` before ``_10``; later dates after earlier ones."""
    return [(text, int(number or 0)) for text, number in re.findall(r'(\D*)(\d*)', path.name)]


def _elsewhere(folder: Path) -> str:
    """Where the bags are, if the folder above them was given."""
    inner = sorted({path.parent.name for path in folder.glob('*/*') if is_bag_file(path)})
    return f'; give one of the bags in it: {", ".join(inner)}' if inner else ''
