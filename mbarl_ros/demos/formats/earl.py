"""Reads demonstrations of EARL (Sharma et al. 2022), which are pickled arrays.

A pickle is a program. Here it can call only the stand-ins below for NumPy's reconstruction of an
array, which check their arguments and copy plain bytes. NumPy itself is never called with arguments
from the file, and any other name is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mbarl_ros.demos.episodes import SUCCEEDED, UNKNOWN, Episode
from mbarl_ros.demos.formats.common import (
    MAX_BYTES,
    MAX_EPISODES,
    FormatError,
    Reading,
    read_episode,
)
from mbarl_ros.task import Task

_KEYS = ('observations', 'actions', 'rewards', 'terminals', 'next_observations')
_PLAIN = re.compile(r'b1|[iu][1248]|f[248]')
_BACKWARD = re.compile(r'reverse|backward')


def read(source: Path, task: Task, direction: str | None, reading: Reading) -> list[Episode]:
    """Episodes of a file like EARL's ``demo_data.pkl``.

    An episode ends at ``terminals``, and where the next observation differs from the observation of
    the next row. The direction is backward if the name of file or folder contains reverse or
    backward. The verdict is success if the last reward is positive, as in all files of EARL.
    """
    arrays = load_arrays(source)
    n = _check(source, arrays)
    after, before = arrays['next_observations'], arrays['observations']
    ends = arrays['terminals'].reshape(n) != 0
    ends[-1] = True
    ends[:-1] |= (after[:-1] != before[1:]).any(1)
    bounds = [0, *(np.flatnonzero(ends) + 1)]
    if len(bounds) > MAX_EPISODES:
        raise FormatError(f'{source}: {len(bounds)} episodes in {n} rows; nothing continues')
    named = _BACKWARD.search('/'.join(source.absolute().parts[-2:]).lower())
    episodes = []
    for index, (first, end) in enumerate(pairwise(bounds)):
        place = f'{source}: rows {first} to {end - 1}'
        episodes.append(
            read_episode(
                task,
                place,
                np.concatenate([before[first:end], after[end - 1 : end]]),
                arrays['actions'][first:end],
                reading,
                direction=direction or ('backward' if named else 'forward'),
                verdict=SUCCEEDED if arrays['rewards'].reshape(n)[end - 1] > 0 else UNKNOWN,
                operator='EARL',
                name=f'{source.stem}_{index}',
                origin={'format': 'earl', 'file': source.name, 'episode': index},
            )
        )
    return episodes


def load_arrays(source: Path) -> dict[str, np.ndarray]:
    """Arrays of a pickled dictionary, by name; other content is ignored.

    :raises FormatError: damaged, not a dictionary, or it needs anything but arrays.
    """
    size = source.stat().st_size
    if size > MAX_BYTES:
        raise FormatError(f'{source}: {size} bytes; at most {MAX_BYTES} are read')
    try:
        found = _Unpickler(io.BytesIO(source.read_bytes())).load()
    except _RefusedError as error:
        raise FormatError(f'{source}: refused: {error}; only arrays are read') from None
    except Exception as error:  # damaged files make pickle raise any exception
        raise FormatError(f'{source}: is damaged or no pickle of arrays: {error!r:.200}') from error
    if type(found) is not dict:
        raise FormatError(f'{source}: holds {type(found).__name__}, not a dictionary of arrays')
    return {
        name: array.value
        for name, array in found.items()
        if type(name) is str and type(array) is _Array and array.value is not None
    }


def _check(source: Path, arrays: dict[str, np.ndarray]) -> int:
    """Number of rows."""
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise FormatError(f'{source}: array {", ".join(missing)} is missing')
    shape = arrays['observations'].shape
    n = shape[0] if len(shape) == 2 else 0
    if not n:
        raise FormatError(f"{source}: array 'observations' has shape {shape}, not rows of numbers")
    for key in _KEYS[1:]:
        found = arrays[key].shape
        if key == 'next_observations':
            fits = found == shape
        else:
            fits = found[:1] == (n,) and (key == 'actions' or math.prod(found) == n)
        if not fits:
            raise FormatError(
                f"{source}: array '{key}' has shape {found}, which does not fit {n} observations"
            )
    return n


class _RefusedError(Exception):
    """A pickle uses a name or state that is not allowed."""


class _StandIn:
    """Stand-in for a name in a pickle, without state that the pickle could change."""

    __slots__ = ()

    def __setstate__(self, state: object) -> NoReturn:
        raise _RefusedError('it sets the state of something that is not an array')


class _Array(_StandIn):
    """An array under construction: None until its state is set."""

    __slots__ = ('value',)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        if self.value is not None or type(state) is not tuple or len(state) != 5:
            raise _RefusedError('the state of an array is not that of NumPy')
        version, shape, dtype, fortran, data = state
        if version != 1 or type(fortran) is not bool:
            raise _RefusedError('the state of an array is of another version')
        self.value = _array(data, dtype, shape, 'F' if fortran else 'C')


class _Dtype(_StandIn):
    """A dtype under construction: its state sets the byte order."""

    __slots__ = ('code', 'order')

    def __init__(self, code: str) -> None:
        self.code, self.order = code, '|' if code[1:] == '1' else '='

    def __setstate__(self, state: object) -> None:
        # (3, byte order, subtype, names, fields, item size, alignment, flags)
        if type(state) is not tuple or len(state) != 8 or state[2:5] != (None, None, None):
            raise _RefusedError(f"the state of the type '{self.code}' is not a plain one")
        if state[1] not in ('<', '>', '=', '|'):
            raise _RefusedError(f"the byte order of the type '{self.code}' is unknown")
        self.order = state[1]


class _MakeDtype(_StandIn):
    """``numpy.dtype``."""

    __slots__ = ()

    def __call__(self, code: object = None, align: object = False, copy: object = False) -> _Dtype:
        if type(code) is not str or not _PLAIN.fullmatch(code):
            what = repr(code[:50]) if type(code) is str else type(code).__name__
            raise _RefusedError(f'an array of type {what}, which is not plain numbers')
        return _Dtype(code)


class _MakeArray(_StandIn):
    """``numpy.core.multiarray._reconstruct``: an empty array; its state follows."""

    __slots__ = ()

    def __call__(self, kind: object, shape: object, code: object) -> _Array:
        if type(kind) is not _Ndarray:
            raise _RefusedError('it makes something that is not an array')
        return _Array()


class _FromBuffer(_StandIn):
    """``numpy.core.numeric._frombuffer``: an array in pickle protocol 5."""

    __slots__ = ()

    def __call__(self, data: object, dtype: object, shape: object, order: object) -> _Array:
        made = _Array()
        made.value = _array(data, dtype, shape, order)
        return made


class _Ndarray(_StandIn):
    """``numpy.ndarray``, as the first argument of ``_reconstruct``."""

    __slots__ = ()


class _Encode(_StandIn):
    """``_codecs.encode``: bytes in pickle protocols 0 to 2."""

    __slots__ = ()

    def __call__(self, text: object, encoding: object) -> bytes:
        if type(text) is not str or encoding != 'latin1':
            raise _RefusedError('it encodes something that is not bytes')
        return text.encode('latin1')


class _NoBytes(_StandIn):
    """``bytes``: empty bytes in pickle protocols 0 to 2."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b''


def _array(data: object, dtype: object, shape: object, order: object) -> np.ndarray:
    if type(dtype) is not _Dtype or type(data) not in (bytes, bytearray):
        raise _RefusedError('an array that is not made of bytes')
    if type(shape) is not tuple or not all(type(n) is int and 0 <= n <= MAX_BYTES for n in shape):
        raise _RefusedError('an array whose shape is not whole numbers')
    kind = np.dtype(dtype.code).newbyteorder(dtype.order)
    if order not in ('C', 'F') or len(shape) > 8:
        raise _RefusedError('an array of a layout that is unknown')
    if math.prod(shape) * kind.itemsize != len(data):
        raise _RefusedError(f'an array of shape {shape} and type {kind} in {len(data)} bytes')
    array = np.frombuffer(bytes(data), kind).reshape(shape, order=order)
    return array.astype(kind.newbyteorder('='))


_NAMES: dict[tuple[str, str], Any] = {
    ('numpy', 'ndarray'): _Ndarray(),
    ('numpy', 'dtype'): _MakeDtype(),
    ('numpy.core.multiarray', '_reconstruct'): _MakeArray(),
    ('numpy._core.multiarray', '_reconstruct'): _MakeArray(),
    ('numpy.core.numeric', '_frombuffer'): _FromBuffer(),
    ('numpy._core.numeric', '_frombuffer'): _FromBuffer(),
    ('_codecs', 'encode'): _Encode(),
    ('__builtin__', 'bytes'): _NoBytes(),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Stand-in for a name that NumPy uses in pickled arrays."""
        if (module, name) not in _NAMES:
            raise _RefusedError(f'it wants to load {module}.{name}'[:200])
        return _NAMES[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse references to objects outside the pickle."""
        raise _RefusedError('it wants to load an object from elsewhere (persistent id)')
