"""Training state <-> named NumPy arrays, so that a checkpoint resumes exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Arrays = dict[str, np.ndarray]


def fast_floats() -> None:
    """Flush denormal numbers to zero in this thread.

    Adam's moments of idle units decay into denormals, which slow a processor several times.
    """
    torch.set_flush_denormal(True)


def tensor_arrays(prefix: str, tensors: Sequence[Tensor]) -> Arrays:
    """Copies of a list of tensors as ``prefix/0``, ``prefix/1``, ..."""
    return {f'{prefix}/{i}': t.detach().numpy().copy() for i, t in enumerate(tensors)}


def load_tensors(prefix: str, tensors: Sequence[Tensor], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of :func:`tensor_arrays` into tensors, in place.

    :raises ValueError: an array is missing or misshapen; the checkpoint is of another network.
    """
    with torch.no_grad():
        for i, tensor in enumerate(tensors):
            array = arrays.get(f'{prefix}/{i}')
            if array is None or tuple(array.shape) != tuple(tensor.shape):
                found = 'nothing' if array is None else f'shape {tuple(array.shape)}'
                raise ValueError(
                    f"checkpoint: array '{prefix}/{i}' should have shape {tuple(tensor.shape)}, "
                    f'found {found}; it was written with other agent or task settings'
                )
            tensor.copy_(torch.from_numpy(np.array(array)))


def adam(parameters: Sequence[Tensor], learning_rate: float, **options: Any) -> torch.optim.Adam:
    """Fused Adam whose state exists from the start, so that it can be loaded at any time."""
    optimiser = torch.optim.Adam(list(parameters), lr=learning_rate, fused=True, **options)
    for parameter in parameters:
        optimiser.state[parameter] = {
            'step': torch.zeros(()),
            'exp_avg': torch.zeros_like(parameter),
            'exp_avg_sq': torch.zeros_like(parameter),
        }
    return optimiser


def adam_tensors(optimiser: torch.optim.Adam) -> list[Tensor]:
    """The moments and step counts of an optimiser, in a fixed order."""
    return [
        optimiser.state[parameter][key]
        for group in optimiser.param_groups
        for parameter in group['params']
        for key in ('step', 'exp_avg', 'exp_avg_sq')
    ]


def descend(optimiser: torch.optim.Adam, loss: Tensor) -> None:
    """One step on the optimiser's own parameters; gradients of anything else are not computed."""
    parameters = optimiser.param_groups[0]['params']
    for parameter in parameters:
        parameter.grad = None
    loss.backward(inputs=parameters)
    optimiser.step()


def generator_arrays(prefix: str, generator: torch.Generator) -> Arrays:
    """The state of a torch generator."""
    return {f'{prefix}/generator': generator.get_state().numpy().copy()}


def load_generator(
    prefix: str, generator: torch.Generator, arrays: Mapping[str, np.ndarray]
) -> None:
    """Inverse of :func:`generator_arrays`."""
    generator.set_state(torch.from_numpy(np.array(arrays[f'{prefix}/generator'])))
