"""Malformed demonstrations, by name: files that are nothing, and pickles."""

import io
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.task import Task


@dataclass(frozen=True)
class Good:
    """What is spoiled: whole files of each format, and a file that only hostile code makes."""

    task: Task
    arrays: dict[str, np.ndarray]
    hdf5: Path
    minari: Path
    lerobot: Path
    recorded: Path
    imported: Path
    canary: Path


Build = Callable[[Path, Good], Path]
IMPORTS: dict[str, Build] = {}
"""Builders of what must not be imported: (empty folder, good) -> source."""
FOLDERS: dict[str, Build] = {}
"""Builders of demonstrations that must not be read: (empty folder, good) -> the folder."""
FRACTIONS = [round(0.04 * i, 2) for i in range(25)]


def written(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def cut(data: bytes, fraction: float) -> bytes:
    return data[: int(len(data) * fraction)]


# --- no format at all ------------------------------------------------------------------------


def _zip(folder, good):
    held = io.BytesIO()
    with zipfile.ZipFile(held, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('../../evil', bytes(10_000_000))
    return written(folder, 'x.zip', held.getvalue())


def _made(kind):
    def build(folder, good):
        (folder / 'x').mkdir()
        for name, data in kind.items():
            (folder / 'x' / name).parent.mkdir(exist_ok=True, parents=True)
            (folder / 'x' / name).write_bytes(data)
        return folder / 'x'

    return build


IMPORTS |= {
    'nothing/missing': lambda folder, good: folder / 'x',
    'nothing/device': lambda folder, good: Path('/dev/zero'),
    'nothing/empty file': lambda folder, good: written(folder, 'x', b''),
    'nothing/text': lambda folder, good: written(folder, 'x.txt', b'state,action\n1,2\n'),
    'nothing/random': lambda folder, good: written(folder, 'x', random.Random(0).randbytes(9999)),
    'nothing/zip': _zip,
    'nothing/empty folder': _made({}),
    'nothing/folder of text': _made({'a.txt': b'x'}),
    'nothing/lerobot': _made({'meta/info.json': b'{}'}),
    'nothing/empty pickle': lambda folder, good: written(folder, 'x.pkl', b''),
    'nothing/empty hdf5': lambda folder, good: written(folder, 'x.hdf5', b'\x89HDF\r\n\x1a\n'),
    'nothing/empty mcap': lambda folder, good: written(folder, 'x.mcap', b''),
    'nothing/hdf5 as pickle': lambda folder, good: written(
        folder, 'x.pkl', b'\x80\x04' + good.hdf5.read_bytes()
    ),
}

# --- pickles ---------------------------------------------------------------------------------

_GLOBALS = """os system|posix system|nt system|subprocess Popen|subprocess call|subprocess getoutput
    builtins eval|builtins exec|builtins getattr|builtins __import__|builtins open|__builtin__ eval
    __builtin__ getattr|__builtin__ file|importlib import_module|runpy run_path|pty spawn
    operator attrgetter|operator methodcaller|functools partial|functools reduce|types CodeType
    types FunctionType|marshal loads|pickle loads|_pickle loads|shutil rmtree|os _exit|sys exit
    ctypes CDLL|timeit timeit|code interact|webbrowser open|socket socket|pathlib Path
    numpy load|numpy fromfile|numpy memmap|numpy core|numpy.ctypeslib load_library
    numpy.testing._private.utils runstring|numpy.core.multiarray scalar|numpy.core.multiarray
    numpy._core.multiarray fromstring|numpy.core.multiarray _reconstruct.__call__|torch load
    torch._utils _rebuild_tensor|copyreg _reconstructor|copy_reg _reconstructor|_codecs decode
    codecs open|mbarl_ros.demos.formats.earl _Unpickler|mbarl_ros.demos.formats.earl np.load
    collections OrderedDict|builtins object|builtins bytearray""".replace('\n', '|').split('|')


def _pickled(change, hostile: bool = False) -> Build:
    """The good arrays after a change in place, or what the change returns instead."""

    def build(folder, good):
        arrays = {name: array.copy() for name, array in good.arrays.items()}
        made = change(arrays, good) if hostile else change(arrays)
        return written(folder, 'x.pkl', pickle.dumps(arrays if made is None else made))

    return build


def _program(make: Callable[[bytes], bytes]) -> Build:
    """A pickle made of opcodes; it is given a shell command that makes the canary."""
    return lambda folder, good: written(folder, 'x.pkl', make(f'touch {good.canary}'.encode()))


class Reduced:
    """Pickles as a call of anything, with any state."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def _array(shape: Any, dtype: Any, data: Any, version: Any = 1, fortran: Any = False) -> Reduced:
    state = (version, shape, dtype, fortran, data)
    return Reduced(np._core.multiarray._reconstruct, (np.ndarray, (0,), b'b'), state)


def _dtype(code: Any, *state: Any) -> Reduced:
    return Reduced(np.dtype, (code, False, True), state or (3, '<', None, None, None, -1, -1, 0))


def _evil(good):
    return Reduced(os.system, (f'touch {good.canary}',))


def _program_of(name: str) -> Build:
    module, _, attribute = name.strip().partition(' ')
    return _program(lambda command: f'c{module}\n{attribute}\n(V'.encode() + command + b'\ntR.')


for name in _GLOBALS:
    if name.strip():
        IMPORTS[f'pickle/global {name.strip()}'] = _program_of(name)


def _text(value: bytes) -> bytes:
    return b'X' + struct.pack('<I', len(value)) + value


PROGRAMS = {
    'stack global': lambda c: b'\x80\x04\x8c\x05posix\x8c\x06system\x93' + _text(c) + b'\x85R.',
    'inst': lambda c: b'(V' + c + b'\niposix\nsystem\n.',
    'obj': lambda c: b'(cposix\nsystem\nV' + c + b'\no.',
    'newobj': lambda c: b'\x80\x02csubprocess\nPopen\n(V' + c + b'\nt\x81.',
    'newobj_ex': lambda c: b'\x80\x04csubprocess\nPopen\n' + _text(c) + b'\x85}\x92.',
    'build by setstate': lambda c: (
        b'\x80\x02cnumpy\ndtype\n}X\x0c\x00\x00\x00__setstate__cposix\nsystem\nsb'
        + _text(c) + b'b.'
    ),
    'build on a name': lambda c: b'\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00xK\x01sb.',
    'build slots of a name': lambda c: (
        b'\x80\x02cnumpy.core.multiarray\n_reconstruct\n'
        b'N}X\x08\x00\x00\x00__call__cnumpy\ndtype\ns\x86b.'
    ),
    'newobj of a name': lambda c: b'\x80\x02cnumpy\ndtype\n)\x81.',
    'call of ndarray': lambda c: b'\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.',
    'ext1': lambda c: b'\x80\x02\x82\x01.',
    'ext2': lambda c: b'\x80\x02\x83\x01\x01.',
    'ext4': lambda c: b'\x80\x02\x84\x01\x01\x01\x01.',
    'persistent id': lambda c: b'Pposix.system\n.',
    'binary persistent id': lambda c: b'\x80\x02' + _text(c) + b'Q.',
    'after the end of a frame': lambda c: b'\x80\x04\x95' + b'\xff' * 8 + b'}.',
    'a name with a path': lambda c: b'\x80\x04\x8c\x05numpy\x8c\x0eos.path.expand\x93.',
    'a call of a dictionary': lambda c: b'\x80\x02})R.',
    'state of a dictionary': lambda c: b'\x80\x02}}X\x01\x00\x00\x00xK\x01sb.',
    'memo of 2^31': lambda c: b'\x80\x02}r\xff\xff\xff\x7f.',
    'bytes of 2^60': lambda c: b'\x80\x04\x8e' + struct.pack('<Q', 1 << 60) + b'.',
    'text of 2^31': lambda c: b'\x80\x02X\xff\xff\xff\x7fabc.',
    'bytearray of 2^62': lambda c: b'\x80\x05\x96' + struct.pack('<Q', 1 << 62) + b'.',
    'negative long': lambda c: b'\x80\x02\x8b\xff\xff\xff\xff.',
    'huge number': lambda c: b'I' + b'9' * 100_000 + b'\n.',
    'buffer from elsewhere': lambda c: b'\x80\x05\x97.',
    'deep': lambda c: b'\x80\x02' + b']' * 200_000 + b'a' * 199_999 + b'.',
    'deep tuple as key': lambda c: b'\x80\x02})' + b'\x85' * 500_000 + b'Ns.',
    'doubling lists': lambda c: b'\x80\x02]' + b'(q\x00h\x00h\x00h\x00h\x00l' * 60 + b'.',
    'no stop': lambda c: b'\x80\x02}',
    'unknown opcode': lambda c: b'\x80\x02\xff.',
    'protocol 200': lambda c: b'\x80\xc8}.',
    'empty stack': lambda c: b'\x80\x02.',
    'encode to hex': lambda c: b'\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aU\x03hex\x86R.',
    'bytes of 2^30': lambda c: b'\x80\x02c__builtin__\nbytes\nJ\x00\x00\x00\x40\x85R.',
}  # fmt: skip
IMPORTS |= {f'pickle/{name}': _program(make) for name, make in PROGRAMS.items()}


def _nested(place: str):
    def change(arrays, good):
        evil = _evil(good)
        if place == 'array of objects':
            holder = np.empty(2, object)
            holder[0] = evil
            arrays['observations'] = holder
        elif place == 'shape':
            arrays['actions'] = _array((evil, 3), np.dtype('f4'), b'')
        elif place == 'data':
            arrays['actions'] = _array((1,), np.dtype('f4'), evil)
        elif place == 'type':
            arrays['actions'] = _array((1,), _dtype(evil), b'1234')
        elif place == 'other key':
            arrays['infos'] = [{'a': (evil,)}]
        elif place == 'key':
            return {(1, evil): 0, **arrays}
        elif place == 'after the arrays':
            return Reduced(dict, (list(arrays.items()), evil))
        return None

    return change


for place in ('array of objects', 'shape', 'data', 'type', 'other key', 'key', 'after the arrays'):
    IMPORTS[f'pickle/code in {place}'] = _pickled(_nested(place), hostile=True)

_F4 = np.dtype('f4')
ARRAYS = {
    'object type': lambda a: a.update(actions=_array((1,), _dtype('O'), b'12345678')),
    'void type': lambda a: a.update(actions=_array((1,), _dtype('V8'), b'12345678')),
    'text type': lambda a: a.update(actions=np.array(['a', 'b'])),
    'bytes type': lambda a: a.update(actions=np.array([b'a', b'b'])),
    'time type': lambda a: a.update(actions=np.array(['2026-01-01'], 'M8[s]')),
    'complex type': lambda a: a.update(actions=a['actions'].astype('c8')),
    'long double type': lambda a: a.update(actions=a['actions'].astype('f16')),
    'record type': lambda a: a.update(actions=np.zeros(2, [('a', 'f4'), ('b', 'O')])),
    'type with fields': lambda a: a.update(
        actions=_array((1,), _dtype('f4', 3, '<', None, ('a',), {'a': (_F4, 0)}, 4, 1, 0), b'1234')
    ),
    'type of another order': lambda a: a.update(
        actions=_array((1,), _dtype('f4', 3, 'x', None, None, None, -1, -1, 0), b'1234')
    ),
    'type by number': lambda a: a.update(actions=_array((1,), _dtype(4), b'1234')),
    'shape too large': lambda a: a.update(actions=_array((10**12, 3), _F4, b'1234')),
    'shape overflows': lambda a: a.update(actions=_array((2**32, 2**32), _F4, b'')),
    'shape negative': lambda a: a.update(actions=_array((-1, -4), _F4, b'1234')),
    'shape of floats': lambda a: a.update(actions=_array((1.0,), _F4, b'1234')),
    'shape of truth': lambda a: a.update(actions=_array((True,), _F4, b'1234')),
    'shape is a list': lambda a: a.update(actions=_array([1], _F4, b'1234')),
    'shape of 40 axes': lambda a: a.update(actions=_array((1,) * 40, _F4, b'1234')),
    'too few bytes': lambda a: a.update(actions=_array((9, 3), _F4, b'1234')),
    'data is text': lambda a: a.update(actions=_array((1,), _F4, '1234')),
    'data is a list': lambda a: a.update(actions=_array((1,), _F4, [1.0])),
    'version 0': lambda a: a.update(actions=_array((1,), _F4, b'1234', 0)),
    'order is a number': lambda a: a.update(actions=_array((1,), _F4, b'1234', 1, 7)),
    'an array of another class': lambda a: a.update(
        actions=Reduced(np._core.multiarray._reconstruct, (dict, (0,), b'b'))
    ),
    'no state': lambda a: a.update(
        actions=Reduced(np._core.multiarray._reconstruct, (np.ndarray, (0,), b'b'))
    ),
    'a list': lambda a: list(a.values()),
    'an array': lambda a: a['actions'],
    'a number': lambda a: 3,
    'lists for arrays': lambda a: a.update(actions=a['actions'].tolist()),
    'no rows': lambda a: {name: array[:0] for name, array in a.items()},
    'fewer actions': lambda a: a.update(actions=a['actions'][:-1]),
    'fewer next observations': lambda a: a.update(next_observations=a['next_observations'][1:]),
    'narrow observations': lambda a: [
        a.update({key: a[key][:, :5]}) for key in ('observations', 'next_observations')
    ] and None,
    'flat observations': lambda a: a.update(observations=a['observations'].ravel()),
    'two rewards a row': lambda a: a.update(rewards=np.hstack([a['rewards'], a['rewards']])),
    'observations of integers': lambda a: [
        a.update({key: a[key].astype(int)}) for key in ('observations', 'next_observations')
    ] and None,
    'wide actions': lambda a: a.update(actions=np.hstack([a['actions'], a['actions']])),
    'NaN': lambda a: a['observations'].__setitem__((7, 1), np.nan),
    'infinite': lambda a: a['actions'].__setitem__((7, 1), np.inf),
    'beyond float32': lambda a: a.update(
        observations=a['observations'].astype(float) * 1e300,
        next_observations=a['next_observations'].astype(float) * 1e300,
    ),
    'actions beyond 1': lambda a: a['actions'].__setitem__((7, 1), 1.5),
}  # fmt: skip
IMPORTS |= {f'arrays/{name}': _pickled(change) for name, change in ARRAYS.items()}
for key in ('observations', 'actions', 'rewards', 'terminals', 'next_observations'):
    IMPORTS[f'arrays/no {key}'] = _pickled(lambda a, key=key: {k: a[k] for k in a if k != key})
for fraction in FRACTIONS:
    IMPORTS[f'pickle/cut at {fraction}'] = lambda folder, good, fraction=fraction: written(
        folder, 'x.pkl', cut(pickle.dumps(good.arrays), fraction)
    )
