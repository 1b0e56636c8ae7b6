"""Builds packages of ROS messages that no wheel has, as colcon would: generated and compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

TF = {'TFMessage': 'geometry_msgs/TransformStamped[] transforms'}
_NEEDED = ('geometry_msgs', 'std_msgs', 'builtin_interfaces')
_SUPPORTS = ['rosidl_typesupport_fastrtps_c', 'rosidl_typesupport_introspection_c']
# rosidl_typesupport_c opens the libraries by their names, as which it finds those that are loaded.
_LOAD = """
import ctypes
import pathlib

for _library in sorted(pathlib.Path(__file__).parent.glob('lib*.so')):
    ctypes.CDLL(str(_library))
"""


def build(package: str, messages: Mapping[str, str], folder: Path) -> Path:
    """Build a package of messages (name -> definition) in a folder, which is to be on the path.

    The definitions may use geometry_msgs and std_msgs. Skips the test where there is no compiler,
    or where ROS 2 is not made of wheels.
    """
    prefix, headers = Path(sys.prefix), Path(sysconfig.get_paths()['include'])
    if not (prefix / 'include/rosidl_runtime_c').is_dir():
        pytest.skip('ROS 2 of this environment is not made of wheels')
    if shutil.which('g++') is None or not (headers / 'Python.h').exists():
        pytest.skip('there is no C++ compiler, or no Python.h')
    sources = _generate(package, messages, folder, prefix)
    installed = prefix / 'include'
    includes = [folder, headers, np.get_include(), installed, *installed.iterdir()]
    libraries = [
        *(
            f'{needed}__rosidl_{part.removeprefix("rosidl_")}'
            for needed in _NEEDED
            for part in ('generator_c', 'generator_py', 'typesupport_c', *_SUPPORTS)
        ),
        *('rosidl_runtime_c', 'rosidl_typesupport_c', *_SUPPORTS),
        *('rosidl_typesupport_fastrtps_cpp', 'fastcdr', 'rcutils'),
    ]
    objects = []
    for source in sources:
        objects.append(source.with_name(source.name + '.o'))
        compiler = 'g++' if source.suffix == '.cpp' else 'gcc'
        _run(compiler, '-fPIC', '-c', source, '-o', objects[-1], *(f'-I{i}' for i in includes))
    where = [f'-L{prefix / "lib"}', f'-Wl,-rpath,{prefix / "lib"}', '-Wl,--no-as-needed']
    links = [*where, *(f'-l{name}' for name in libraries)]
    every, other = (folder / package / f'lib{package}__{support}.so' for support in _SUPPORTS)
    module = folder / package / f'{package}_s__rosidl_typesupport_c.so'
    _run('g++', '-shared', '-o', every, f'-Wl,-soname,{every.name}', *objects, *links)
    for library in (other, module):
        _run(
            'g++',
            '-shared',
            '-o',
            library,
            f'-Wl,-soname,{library.name}',
            '-Wl,--no-as-needed',
            every,
        )
    return folder


def _generate(package: str, messages: Mapping[str, str], folder: Path, prefix: Path) -> list[Path]:
    """Python modules in the package, and the C and C++ sources of its type support."""
    os.environ.setdefault('AMENT_PREFIX_PATH', str(prefix))
    os.environ['PATH'] = f'{prefix / "bin"}:{os.environ["PATH"]}'  # where empy's command is
    from rosidl_adapter.cli import TranslateMsgToIDL
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_generator_type_description.cli import HashTypeDescription
    from rosidl_typesupport_c.cli import GenerateCTypesupport
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport
    from rosidl_typesupport_introspection_c.cli import GenerateIntrospectionCTypesupport

    given, out = folder / f'definitions/{package}', folder / package
    (given / 'msg').mkdir(parents=True)
    for name, text in messages.items():
        (given / f'msg/{name}.msg').write_text(text + '\n')
    files = [f'{given}:msg/{name}.msg' for name in messages]
    shared = [str(prefix / 'share' / name) for name in _NEEDED]
    # The package's own messages may be in its others.
    shared.append(str(out))
    idl = [str(path) for path in TranslateMsgToIDL('').translate(package, files, shared, out)]
    hashes = HashTypeDescription('').generate_type_hashes(package, idl, shared, out)
    GenerateC('').generate(package, idl, shared, out, type_description_files=hashes)
    python = GeneratePython('', typesupport_implementations=['rosidl_typesupport_c'])
    python.generate(package, idl, shared, out)
    GenerateFastRTPSCTypesupport('').generate(package, idl, shared, out)
    GenerateIntrospectionCTypesupport('').generate(package, idl, shared, out)
    support = GenerateCTypesupport('', typesupport_implementations=_SUPPORTS)
    support.generate(package, idl, shared, out)
    (out / '__init__.py').write_text(_LOAD)
    return [*out.rglob('*.c'), *out.rglob('*.cpp')]


def _run(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
