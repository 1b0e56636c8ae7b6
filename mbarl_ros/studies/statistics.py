"""Statistics of paired comparisons over a few seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_EXACT_PAIRS = 16  # 2 ** 16 sign patterns are all tried
_DRAWS = 100_000


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float:
    """One-sided p-value that the mean of paired differences is above zero by chance.

    Paired permutation test (Fisher 1935): if the two members of each pair were exchangeable, each
    difference would have either sign equally often. The p-value is the share of sign patterns whose
    mean is at least the observed one, the observed pattern included: exact for up to 16 pairs, from
    100,000 random patterns beyond.
    """
    differences = np.asarray(differences, np.float64)
    pairs = len(differences)
    if pairs <= _EXACT_PAIRS:
        patterns = (np.arange(2**pairs)[:, None] >> np.arange(pairs)) & 1
        at_least = (1 - 2 * patterns) @ differences >= differences.sum() - 1e-9
        return float(at_least.mean())
    rng = np.random.default_rng(0)
    signs = 1 - 2 * rng.integers(2, size=(_DRAWS, pairs), dtype=np.int8)
    at_least = signs @ differences >= differences.sum() - 1e-9
    return float((at_least.sum() + 1) / (_DRAWS + 1))
