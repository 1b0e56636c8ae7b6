"""Malformed demonstrations, by name: robomimic's HDF5 and datasets of Minari."""

import json
import os
import shutil
import zlib

import h5py
import numpy as np

from support.malformed import FRACTIONS, IMPORTS, cut, written

# --- robomimic -------------------------------------------------------------------------------

DEMO = 'data/demo_0'


def _spoiled(change):
    """The good HDF5 file after a change."""

    def build(folder, good):
        path = folder / 'x.hdf5'
        shutil.copy(good.hdf5, path)
        with h5py.File(path, 'a') as file:
            change(file, good, folder)
        return path

    return build


def _put(name, make, **options):
    """Replace a dataset by what is made of its values."""

    def change(file, good, folder):
        values = file[name][()]
        del file[name]
        file.create_dataset(name, data=make(values), **options)

    return _spoiled(change)


def _shaped(name, shape, **options):
    """Replace a dataset by one that is declared only: it needs no space in the file."""

    def change(file, good, folder):
        del file[name]
        file.create_dataset(name, shape, **{'dtype': 'f4', **options})

    return _spoiled(change)


def _moved(place, link):
    """What a link leads to is whole: only the link is wrong."""

    def change(file, good, folder):
        if link == 'soft':
            file.move(place, '/elsewhere')
            file[place] = h5py.SoftLink('/elsewhere')
        else:
            del file[place]
            path = {'external': str(good.hdf5), 'passwd': '/etc/passwd'}[link]
            file[place] = h5py.ExternalLink(path, f'/{place}')

    return _spoiled(change)


def _bomb(file, good, folder):
    """10^10 zeros in one chunk that claims to be the actions: as many equal pieces of deflate."""
    n = len(file[f'{DEMO}/actions'])
    del file[f'{DEMO}/actions']
    made = file.create_dataset(f'{DEMO}/actions', (n, 3), 'f4', chunks=(n, 3), compression=9)
    packer = zlib.compressobj(9)
    head = packer.compress(bytes(10**7)) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(10**7)) + packer.flush(zlib.Z_FULL_FLUSH)
    made.id.write_direct_chunk((0, 0), head + piece * 999)


def _external(file, good, folder):
    n = len(file[f'{DEMO}/actions'])
    del file[f'{DEMO}/actions']
    file.create_dataset(f'{DEMO}/actions', (n, 3), 'f4', external=[('/etc/passwd', 0, 12 * n)])


def _virtual(file, good, folder):
    shape = file[f'{DEMO}/actions'].shape
    del file[f'{DEMO}/actions']
    held = h5py.VirtualLayout(shape, 'f4')
    held[:] = h5py.VirtualSource(str(good.hdf5), f'{DEMO}/actions', shape)
    file.create_virtual_dataset(f'{DEMO}/actions', held)


def _many_large(file, good, folder):
    demo = file[DEMO]
    for name in ('obs/flat', 'next_obs/flat', 'stamps', 'whole', 'actions'):
        del demo[name]
        demo.create_dataset(name, (5_000_000, 12), 'f4', chunks=(10_000, 12))


def _unknown_filter(file, good, folder):
    n = len(file[f'{DEMO}/actions'])
    del file[f'{DEMO}/actions']
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((n, 3))
    created.set_filter(32_700, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((n, 3))
    name = f'{DEMO}/actions'.encode()
    h5py.h5d.create(file.id, name, h5py.h5t.IEEE_F32LE, space, created)


def _attribute(name, value):
    return _spoiled(lambda file, good, folder: file[DEMO].attrs.__setitem__(name, value))


def _named(name):
    return _spoiled(lambda file, good, folder: file.move(DEMO, f'data/{name}'))


def _set(name, index, value):
    return _spoiled(lambda file, good, folder: file[name].__setitem__(index, value))


def _without(name):
    return _spoiled(lambda file, good, folder: file.__delitem__(name))


def _emptied(name):
    def change(file, good, folder):
        del file[name]
        file.create_group(name)

    return _spoiled(change)


PLACES = ('', '/obs', '/obs/flat', '/next_obs', '/next_obs/flat', '/actions', '/stamps', '/whole')
for place in PLACES:
    for link in ('soft', 'external', 'passwd'):
        IMPORTS[f'robomimic/{link} link for demo_0{place}'] = _moved(f'{DEMO}{place}', link)
for name in ('data', f'{DEMO}/obs', f'{DEMO}/obs/flat', f'{DEMO}/actions'):
    IMPORTS[f'robomimic/no {name}'] = _without(name)
for name in (f'{DEMO}/actions', f'{DEMO}/obs/flat', f'{DEMO}/whole'):
    IMPORTS[f'robomimic/group for {name}'] = _emptied(name)
for name in ('..', 'demo_', 'demo_-1', 'demo_1x', 'evil', 'demo_..', 'demo_0 ', '\u202edemo_0'):
    IMPORTS[f'robomimic/demonstration {name!r}'] = _named(name)
for text in ('../../etc/cron.d/evil', '/etc/passwd', '.hidden', '..\\a'):
    IMPORTS[f'robomimic/name is path {text}'] = _attribute('name', text)
for number, text in enumerate(('a\nb', 'a\x1b[2J', 'x' * 9999)):
    for name in ('name', 'operator', 'verdict'):
        IMPORTS[f'robomimic/{name} is no line {number}'] = _attribute(name, text)
for name in ('name', 'operator', 'direction', 'verdict'):
    IMPORTS[f'robomimic/{name} is a number'] = _attribute(name, 3)
    IMPORTS[f'robomimic/{name} is an array'] = _attribute(name, np.zeros(99))
    IMPORTS[f'robomimic/{name} is bytes'] = _attribute(name, np.bytes_(b'\xff\xfe'))
IMPORTS |= {
    'robomimic/direction unknown': _attribute('direction', 'sideways'),
    'robomimic/verdict unknown': _attribute('verdict', 'maybe'),
    'robomimic/bomb in a chunk': _spoiled(_bomb),
    'robomimic/external storage': _spoiled(_external),
    'robomimic/virtual': _spoiled(_virtual),
    'robomimic/many large': _spoiled(_many_large),
    'robomimic/unknown filter': _spoiled(_unknown_filter),
    'robomimic/10^10 zeros': _shaped(
        f'{DEMO}/actions', (10**10 // 3, 3), chunks=(65_536, 3), compression=9
    ),
    'robomimic/2^62 rows': _shaped(f'{DEMO}/actions', (2**61, 2**40), chunks=(9, 9)),
    'robomimic/huge chunk': _shaped(
        f'{DEMO}/actions', (9, 3), chunks=(10**8, 3), maxshape=(None, 3), compression=9
    ),
    'robomimic/objects': _put(
        f'{DEMO}/actions', lambda a: [b'x'] * len(a), dtype=h5py.string_dtype()
    ),
    'robomimic/ragged': _shaped(f'{DEMO}/actions', (9,), dtype=h5py.vlen_dtype('f4')),
    'robomimic/references': _shaped(f'{DEMO}/actions', (9,), dtype=h5py.ref_dtype),
    'robomimic/records': _shaped(f'{DEMO}/actions', (9,), dtype=[('a', 'f4'), ('b', 'f4')]),
    'robomimic/texts': _put(f'{DEMO}/actions', lambda a: np.full(a.shape, b'x')),
    'robomimic/complex': _put(f'{DEMO}/actions', lambda a: a.astype('c8')),
    'robomimic/integers': _put(f'{DEMO}/obs/flat', lambda a: a.astype(int)),
    'robomimic/truth': _put(f'{DEMO}/actions', lambda a: a > 0),
    'robomimic/nothing in it': _put(f'{DEMO}/actions', lambda a: h5py.Empty('f4')),
    'robomimic/a single number': _put(f'{DEMO}/actions', lambda a: 1.0),
    'robomimic/flat': _put(f'{DEMO}/actions', lambda a: a.ravel()),
    'robomimic/three axes': _put(f'{DEMO}/actions', lambda a: a[None]),
    'robomimic/no rows': _put(f'{DEMO}/actions', lambda a: a[:0]),
    'robomimic/one row too few': _put(f'{DEMO}/actions', lambda a: a[1:]),
    'robomimic/wide actions': _put(f'{DEMO}/actions', lambda a: np.hstack([a, a])),
    'robomimic/narrow observations': _put(f'{DEMO}/obs/flat', lambda a: a[:, :5]),
    'robomimic/does not continue': _set(f'{DEMO}/next_obs/flat', (3, 0), 1.25),
    'robomimic/NaN': _set(f'{DEMO}/obs/flat', (0, 0), np.nan),
    'robomimic/infinite': _set(f'{DEMO}/actions', (3, 0), -np.inf),
    'robomimic/beyond 1': _set(f'{DEMO}/actions', (3, 0), 1.01),
    'robomimic/stamps not finite': _set(f'{DEMO}/stamps', 3, np.nan),
    'robomimic/stamps of integers': _put(f'{DEMO}/stamps', lambda a: a.astype(int)),
    'robomimic/fewer stamps': _put(f'{DEMO}/stamps', lambda a: a[1:]),
    'robomimic/whole of numbers': _put(f'{DEMO}/whole', lambda a: a.astype('f4')),
    'robomimic/fewer whole': _put(f'{DEMO}/whole', lambda a: a[1:]),
    'robomimic/no key of our width': _spoiled(
        lambda file, good, folder: file.move(f'{DEMO}/obs/flat', f'{DEMO}/next_obs/x')
    ),
    'robomimic/group is a cycle': _spoiled(
        lambda file, good, folder: (
            [file.__delitem__(f'{DEMO}/obs')] and file[DEMO].__setitem__('obs', file['data'])
        )
    ),
    'robomimic/too many': _spoiled(
        lambda file, good, folder: [file.create_group(f'data/demo_{i}') for i in range(2, 10_100)]
    ),
}
for fraction in FRACTIONS[1:]:
    IMPORTS[f'robomimic/cut at {fraction}'] = lambda folder, good, fraction=fraction: written(
        folder, 'x.hdf5', cut(good.hdf5.read_bytes(), fraction)
    )

# --- Minari ----------------------------------------------------------------------------------


def _dataset(change=None, **metadata):
    """The good dataset after a change of a file or of its metadata (None: without the key)."""

    def build(folder, good):
        made = folder / 'x-v0'
        shutil.copytree(good.minari, made)
        path = made / 'data' / 'metadata.json'
        values = {**json.loads(path.read_text()), **metadata}
        path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
        if change is not None:
            change(made / 'data')
        return made

    return build


def _replace(name, data):
    return _dataset(lambda folder: (folder / name).write_bytes(data))


def _hdf5(change):
    def spoil(folder):
        with h5py.File(folder / 'main_data.hdf5', 'a') as file:
            change(file['episode_0'])

    return _dataset(spoil)


def _minari_link(group):
    group.move('actions', 'elsewhere')
    group['actions'] = h5py.SoftLink('/episode_0/elsewhere')


def _dictionary(group):
    group.move('observations', 'elsewhere')
    group.create_group('observations')['achieved'] = group['elsewhere'][()]


IMPORTS |= {
    'minari/no metadata': _dataset(lambda folder: (folder / 'metadata.json').write_text('')),
    'minari/metadata not JSON': _replace('metadata.json', b'{"data_format": '),
    'minari/metadata not text': _replace('metadata.json', b'\xff\xfe\x00'),
    'minari/metadata a list': _replace('metadata.json', b'[]'),
    'minari/metadata deep': _replace('metadata.json', b'[' * 500_000),
    'minari/metadata large': _replace('metadata.json', b' ' * 2_000_000),
    'minari/format unknown': _dataset(data_format='arrow'),
    'minari/format missing': _dataset(data_format=None),
    'minari/format a list': _dataset(data_format=['hdf5']),
    'minari/count missing': _dataset(total_episodes=None),
    'minari/count negative': _dataset(total_episodes=-1),
    'minari/count 0': _dataset(total_episodes=0),
    'minari/count text': _dataset(total_episodes='2'),
    'minari/count true': _dataset(total_episodes=True),
    'minari/count 10^7': _dataset(total_episodes=10**7),
    'minari/count one less': _dataset(total_episodes=1),
    'minari/id a path': _dataset(dataset_id='../../../etc/cron.d-v0'),
    'minari/id absolute': _dataset(dataset_id='/etc/passwd-v0'),
    'minari/id a number': _dataset(dataset_id=3),
    'minari/id without version': _dataset(dataset_id='demos'),
    'minari/no data': _dataset(lambda folder: (folder / 'main_data.hdf5').unlink()),
    'minari/data a folder': _dataset(
        lambda folder: [(folder / 'main_data.hdf5').unlink(), (folder / 'main_data.hdf5').mkdir()]
    ),
    'minari/data passwd': _dataset(
        lambda folder: [
            (folder / 'main_data.hdf5').unlink(),
            (folder / 'main_data.hdf5').symlink_to('/etc/passwd'),
        ]
    ),
    'minari/data a pipe': _dataset(
        lambda folder: [
            (folder / 'main_data.hdf5').unlink(),
            os.mkfifo(folder / 'main_data.hdf5'),
        ]
    ),
    'minari/metadata a pipe': _dataset(
        lambda folder: [(folder / 'metadata.json').unlink(), os.mkfifo(folder / 'metadata.json')]
    ),
    'minari/metadata endless': _dataset(
        lambda folder: [
            (folder / 'metadata.json').unlink(),
            (folder / 'metadata.json').symlink_to('/dev/zero'),
        ]
    ),
    'minari/episode renamed': _hdf5(lambda group: group.file.move('episode_0', '..')),
    'minari/link': _hdf5(_minari_link),
    'minari/dictionary without observation': _hdf5(_dictionary),
    'minari/no actions': _hdf5(lambda group: group.__delitem__('actions')),
    'minari/no observations': _hdf5(lambda group: group.__delitem__('observations')),
    'minari/NaN': _hdf5(lambda group: group['observations'].__setitem__((4, 2), np.nan)),
    'minari/beyond 1': _hdf5(lambda group: group['actions'].__setitem__((4, 2), -2.0)),
    'minari/name a path': _hdf5(lambda group: group.attrs.__setitem__('name', '../x')),
    'minari/direction': _hdf5(lambda group: group.attrs.__setitem__('direction', 'up')),
    'minari/one action less': _hdf5(
        lambda group: group['actions'].resize(len(group['actions']) - 1, 0)
    ),
    'minari/10^12 rows': _hdf5(lambda group: group['actions'].resize(10**12, 0)),
}
for fraction in FRACTIONS[1::2]:
    IMPORTS[f'minari/cut at {fraction}'] = _dataset(
        lambda folder, fraction=fraction: (folder / 'main_data.hdf5').write_bytes(
            cut((folder / 'main_data.hdf5').read_bytes(), fraction)
        )
    )
