"""Training state <-> named NumPy arrays, so that a checkpoint resumes exactly."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and numbers of malloc.h
MIB = 2**20

Arrays = dict[str, np.ndarray]


def fast_floats() -> None:
    """Flush denormal numbers to zero in this thread, and keep freed memory in this process.

    Adam's moments of idle units decay into denormals, which slow a processor several times. And
    where the C library hands each freed activation back to the kernel, mapping it in again takes
    a sixth of an update and a third of a rollout.
    """
    torch.set_flush_denormal(True)
    _keep_freed_memory()


@cache
def _keep_freed_memory() -> None:
    """Raise two limits of glibc's malloc; elsewhere do nothing."""
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * MIB)
        mallopt(M_TRIM_THRESHOLD, 256 * MIB)


def multiplies_bfloat16() -> bool:
    """Whether this processor has matrix instructions for bfloat16 (Intel AMX); without them it
    is slower than float32.
    """
    try:
        return 'amx_bf16' in Path('/proc/cpuinfo').read_text()
    except OSError:
        return False


def tensor_arrays(prefix: str, tensors: Sequence[Tensor]) -> Arrays:
    """Copies of a list of tensors as ``prefix/0``, ``prefix/1``, ..."""
    return {f'{prefix}/{i}': t.detach().numpy().copy() for i, t in enumerate(tensors)}


def group_arrays(prefix: str, groups: Mapping[str, Sequence[Tensor]]) -> Arrays:
    """Arrays of several lists of tensors, by the lists' names."""
    parts = [tensor_arrays(f'{prefix}/{name}', tensors) for name, tensors in groups.items()]
    return {name: array for part in parts for name, array in part.items()}


def load_groups(
    prefix: str, groups: Mapping[str, Sequence[Tensor]], arrays: Mapping[str, np.ndarray]
) -> None:
    """Inverse of :func:`group_arrays`."""
    for name, tensors in groups.items():
        load_tensors(f'{prefix}/{name}', tensors, arrays)


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


class Adam:
    """Adam (Kingma and Ba 2015) as one fused kernel for all parameters.

    ``torch.optim.Adam`` calls the same kernel, but its bookkeeping takes as long as the kernel on
    networks as small as these.
    """

    def __init__(
        self, parameters: Sequence[Tensor], learning_rate: float, weight_decay: float = 0.0
    ) -> None:
        """Moments exist from the start, so that they can be loaded at any time."""
        self.parameters = list(parameters)
        self._averages = [torch.zeros_like(p) for p in self.parameters]
        self._squares = [torch.zeros_like(p) for p in self.parameters]
        self._count = torch.zeros(())
        self._counts = [self._count] * len(self.parameters)
        self._rates = {'lr': learning_rate, 'weight_decay': weight_decay}

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters; ``gradients`` in their order, float32."""
        self._count += 1
        torch._fused_adam_(
            self.parameters,
            list(gradients),
            self._averages,
            self._squares,
            [],
            self._counts,
            **self._rates,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    def tensors(self) -> list[Tensor]:
        """The step count and moments, in a fixed order."""
        moments = zip(self._averages, self._squares, strict=True)
        return [tensor for pair in moments for tensor in (self._count, *pair)]


def descend(optimiser: Adam, loss: Tensor) -> None:
    """One step on the optimiser's own parameters; gradients of anything else are not computed."""
    optimiser.step(torch.autograd.grad(loss, optimiser.parameters))


def generator_arrays(prefix: str, generator: torch.Generator) -> Arrays:
    """The state of a torch generator."""
    return {f'{prefix}/generator': generator.get_state().numpy().copy()}


def load_generator(
    prefix: str, generator: torch.Generator, arrays: Mapping[str, np.ndarray]
) -> None:
    """Inverse of :func:`generator_arrays`."""
    generator.set_state(torch.from_numpy(np.array(arrays[f'{prefix}/generator'])))
