"""Reads untrusted HDF5: only numbers in the file itself, up to a size limit."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from mbarl_ros.demos.formats.common import MAX_BYTES, MAX_EPISODES, FormatError, plain

# The filters of HDF5 and h5py; any other one would be loaded from a plugin folder.
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_SZIP,
    h5py.h5z.FILTER_NBIT,
    h5py.h5z.FILTER_SCALEOFFSET,
    h5py.h5z.FILTER_LZF,
}
_MAX_ATTRIBUTE = 64 << 10
_KEY = re.compile(r'(?P<name>[^\[\]]+)(\[(?P<first>\d+)(?P<range>:(?P<end>\d+))?\])?')


def top_level(path: Path) -> list[str]:
    """Names in the root of a file."""
    with Reader(path) as reader:
        return reader.names(reader.root)


class Reader:
    """An HDF5 file, opened for reading.

    It refuses links, data outside the file, types other than numbers, and more than ``MAX_BYTES``
    in total, with a :class:`FormatError` before anything is read.
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        :raises FormatError: not an HDF5 file, or damaged.
        """
        self.path = path
        self._left = MAX_BYTES
        if not path.is_file():  # opening a pipe would block
            raise FormatError(f'{path}: no such file')
        try:
            self.root = h5py.File(path, 'r')
        except OSError as error:
            raise FormatError(f'{path}: cannot be opened as HDF5: {error}') from error

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.root.close()

    def location(self, group: h5py.Group, name: str) -> str:
        """File and place in it, for messages."""
        return f'{self.path}: {group.name.rstrip("/")}/{name}'

    def names(self, group: h5py.Group) -> list[str]:
        """Names in a group.

        :raises FormatError: too many.
        """
        if len(group) > MAX_EPISODES:
            raise FormatError(
                f'{self.path}: {group.name} holds {len(group)} entries, more than {MAX_EPISODES}'
            )
        return list(group)

    def group(self, parent: h5py.Group, name: str) -> h5py.Group:
        """Group in a group.

        :raises FormatError: there is none.
        """
        found = self._item(parent, name)
        if not isinstance(found, h5py.Group):
            raise FormatError(f'{self.location(parent, name)}: is not a group')
        return found

    def array(self, parent: h5py.Group, name: str) -> np.ndarray:
        """Numbers of a dataset.

        :raises FormatError: missing, not numbers, not in the file itself, or too large.
        """
        place = self.location(parent, name)
        found = self._item(parent, name)
        if not isinstance(found, h5py.Dataset):
            raise FormatError(f'{place}: is not an array')
        created = found.id.get_create_plist()
        if found.is_virtual or created.get_external_count():
            raise FormatError(f'{place}: has its data in another file, which is not read')
        if found.shape is None or found.dtype.kind not in 'fiub':
            raise FormatError(f'{place}: is {found.dtype}, not an array of numbers')
        for index in range(created.get_nfilters()):
            number = created.get_filter(index)[0]
            if number not in _FILTERS:
                raise FormatError(f'{place}: is compressed by filter {number}, which is unknown')
        size = math.prod(found.shape) * found.dtype.itemsize
        chunk = math.prod(found.chunks or ()) * found.dtype.itemsize
        if max(size, chunk) > self._left:
            raise FormatError(
                f'{place}: {found.dtype} {found.shape} needs {max(size, chunk)} bytes; of one file '
                f'{MAX_BYTES} are read at most'
            )
        self._left -= size
        return found[()]

    def concatenated(self, group: h5py.Group, keys: Sequence[str]) -> np.ndarray:
        """Columns [n, width] of arrays of a group, beside each other.

        :param keys: such as ``object``, ``object[2]``, ``object[0:3]`` or ``robot/position``
        :raises FormatError: not the name of an array of numbers, or it has not these columns.
        """
        parts = [self._columns(group, key) for key in keys]
        if len({len(part) for part in parts}) > 1:
            listed = ', '.join(f'{key} {len(part)}' for key, part in zip(keys, parts, strict=True))
            raise FormatError(f'{self.path}: {group.name}: keys differ in length: {listed}')
        return np.hstack(parts)

    def _columns(self, group: h5py.Group, key: str) -> np.ndarray:
        match = _KEY.fullmatch(key)
        if match is None:
            raise FormatError(
                f"{self.path}: key '{key}' is not like object, object[2] or object[0:3]"
            )
        *folders, name = match['name'].split('/')
        for folder in folders:
            group = self.group(group, folder)
        if not self.has(group, name):
            raise FormatError(
                f"{self.path}: {group.name}: has no key '{name}', but "
                f'{", ".join(self.names(group)[:20]) or "nothing"}'
            )
        rows = self.array(group, name)
        if rows.ndim == 1:
            rows = rows[:, None]
        if match['first'] is None:
            return rows
        first = int(match['first'])
        end = int(match['end']) if match['range'] else first + 1
        if rows.ndim != 2 or not first < end <= rows.shape[1]:
            raise FormatError(f"{self.path}: '{key}': {name} has shape {rows.shape}")
        return rows[:, first:end]

    def text(self, group: h5py.Group, name: str, default: str) -> str:
        """Text of an attribute, or the default if there is none.

        :raises FormatError: not a line of text.
        """
        if name not in group.attrs:
            return default
        place = f'{self.path}: {group.name}, attribute {name}'
        attribute = group.attrs.get_id(name)
        single = attribute.shape == () and attribute.get_storage_size() <= _MAX_ATTRIBUTE
        if not single or h5py.check_string_dtype(attribute.dtype) is None:
            raise FormatError(f'{place}: is not a line of text')
        text = group.attrs[name]
        return plain(place, text.decode() if isinstance(text, bytes) else text)

    def has(self, group: h5py.Group, name: str) -> bool:
        """Whether a group has an entry of that name; a dangling link counts, too."""
        return bool(group.id.links.exists(name.encode()))

    def is_group(self, parent: h5py.Group, name: str) -> bool:
        """Whether an entry is a group.

        :raises FormatError: there is none.
        """
        return isinstance(self._item(parent, name), h5py.Group)

    def _item(self, parent: h5py.Group, name: str) -> h5py.HLObject:
        # `in` and `get` of h5py follow links, even to other files.
        if not self.has(parent, name):
            raise FormatError(f'{self.location(parent, name)}: is missing')
        if parent.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise FormatError(f'{self.location(parent, name)}: is a link, which is not followed')
        return parent[name]
