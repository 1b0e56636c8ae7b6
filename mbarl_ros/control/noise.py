"""Temporally correlated noise, for exploration and for planning."""

from __future__ import annotations

import numpy as np


def coloured_noise(
    rng: np.random.Generator, rows: int, steps: int, exponent: float = 1.0
) -> np.ndarray:
    """Gaussian noise [rows, steps] with power 1/f**exponent and unit variance, float32.

    0 is white noise, 1 pink (Eberhard et al. 2023), 2 red. Power is finite at frequency 0, where
    it counts as that of 1/steps.
    """
    frequency = np.maximum(np.fft.rfftfreq(steps), 1.0 / steps)
    shape = (rows, len(frequency))
    spectrum = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    amplitude = np.sqrt(frequency) ** exponent
    signal = np.fft.irfft(spectrum / amplitude, steps)
    # Normalise by the expected, not the drawn, deviation: the mean of a row stays random.
    power = 2 * np.sum(amplitude[1:] ** -2.0) + amplitude[0] ** -2.0
    expected = np.sqrt(2 * power) / steps
    return (signal / expected).astype(np.float32)


class PinkNoise:
    """Noise with power 1/f and unit variance, a vector at a time.

    Covers more ground than white noise of the same size. Drawn in blocks of ``horizon`` steps.
    """

    def __init__(self, dim: int, rng: np.random.Generator, horizon: int) -> None:
        """Noise of ``dim`` entries a step, correlated over at most ``horizon`` steps."""
        self._dim, self._rng, self._horizon = dim, rng, max(int(horizon), 2)
        self._block = np.zeros((0, dim), np.float32)
        self._next = 0

    def sample(self) -> np.ndarray:
        """Next noise vector [dim]."""
        if self._next == len(self._block):
            self._block = coloured_noise(self._rng, self._dim, self._horizon).T
            self._next = 0
        noise = self._block[self._next]
        self._next += 1
        return noise
