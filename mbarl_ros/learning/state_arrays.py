"""Training state <-> named NumPy arrays, so that a checkpoint resumes exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mbarl_ros.learning.networks import to_numpy

Arrays = dict[str, np.ndarray]


def tensor_arrays(prefix: str, tensors: Sequence[Tensor]) -> Arrays:
    """Copies of a list of tensors as ``prefix/0``, ``prefix/1``, ..."""
    return {f'{prefix}/{i}': to_numpy(tensor) for i, tensor in enumerate(tensors)}


def load_tensors(prefix: str, tensors: Sequence[Tensor], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of :func:`tensor_arrays` into tensors, in place.

    :raises ValueError: an array is missing or misshapen; the checkpoint is of another network.
    """
    with torch.no_grad():
        for i, tensor in enumerate(tensors):
            array = arrays.get(f'{prefix}/{i}')
            if array is None or tuple(array.shape) != tuple(tensor.shape):
                actual = 'nothing' if array is None else f'shape {tuple(array.shape)}'
                raise ValueError(
                    f"checkpoint: array '{prefix}/{i}' should have shape {tuple(tensor.shape)}, "
                    f'found {actual}; it was written with other agent or task settings'
                )
            tensor.copy_(torch.from_numpy(np.array(array)))


def group_arrays(prefix: str, groups: Mapping[str, Sequence[Tensor]]) -> Arrays:
    """Arrays ``prefix/NAME/0``, ... of several named lists of tensors."""
    parts = [tensor_arrays(f'{prefix}/{name}', tensors) for name, tensors in groups.items()]
    return {name: array for part in parts for name, array in part.items()}


def load_groups(
    prefix: str, groups: Mapping[str, Sequence[Tensor]], arrays: Mapping[str, np.ndarray]
) -> None:
    """Inverse of :func:`group_arrays`; raises as :func:`load_tensors`."""
    for name, tensors in groups.items():
        load_tensors(f'{prefix}/{name}', tensors, arrays)


def generator_arrays(prefix: str, generator: torch.Generator) -> Arrays:
    """The state of a torch generator as ``prefix/generator``."""
    return {f'{prefix}/generator': generator.get_state().numpy().copy()}


def load_generator(
    prefix: str, generator: torch.Generator, arrays: Mapping[str, np.ndarray]
) -> None:
    """Inverse of :func:`generator_arrays`."""
    generator.set_state(torch.from_numpy(np.array(arrays[f'{prefix}/generator'])))
