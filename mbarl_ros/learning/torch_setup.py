"""Process-wide torch settings that training speed depends on."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from mbarl_ros.schema.base import ConfigError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and numbers of malloc.h
MIB = 2**20


def set_up_torch() -> None:
    """Flush denormal numbers to zero in this thread and keep freed memory in this process.

    Adam's moments of idle units decay into denormals, which slow a processor several times. And
    where the C library returns each freed activation to the kernel, mapping it in again takes a
    sixth of an update and a third of a rollout.
    """
    torch.set_flush_denormal(True)
    _keep_freed_memory()


def choose_device(name: str) -> torch.device:
    """The device of a preset's key ``device``: ``auto`` is the GPU where there is one.

    :raises ConfigError: ``cuda`` where there is none.
    """
    there = torch.cuda.is_available()
    if name == 'cuda' and not there:
        raise ConfigError(
            "agent preset, key 'device': cuda, but torch finds no GPU (it may be the build for the "
            'processor); use auto or cpu, or install torch with CUDA'
        )
    return torch.device('cuda' if there and name != 'cpu' else 'cpu')


@cache
def _keep_freed_memory() -> None:
    """Raise two limits of glibc's malloc; other C libraries are left alone."""
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * MIB)
        mallopt(M_TRIM_THRESHOLD, 256 * MIB)


@contextmanager
def random_streams_kept(*generators: torch.Generator) -> Iterator[None]:
    """Draw numbers for something beside the training: it goes on as if none had been drawn."""
    states = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
