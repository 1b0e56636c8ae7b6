"""Which transitions the dynamics model is validated on, and never trained on.

Neighbours in a stream are alike, so that whole blocks are held out, every tenth one. The decision
is made once, by where a transition first appears, and is kept with it: copies of it, such as a
person's steps among the demonstrations, are on the same side.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

BLOCK, BLOCKS = 10, 10  # of every ten blocks of ten transitions, one is held out


def holdout_mask(numbers: np.ndarray) -> np.ndarray:
    """Whether each transition is held out, bool [n], by its number in the stream."""
    return numbers // BLOCK % BLOCKS == BLOCKS - 1


def demonstration_holdout_mask(
    demonstrations: Mapping[str, np.ndarray], state_dim: int
) -> np.ndarray:
    """The same for demonstrations, bool [n].

    The reader repeats backward demonstrations for every goal; such copies differ in the goal only,
    which the model does not see, and are held out together.
    """
    steps = np.concatenate(
        [
            np.asarray(demonstrations['observation'])[:, :state_dim],
            np.asarray(demonstrations['action']),
            np.asarray(demonstrations['next_observation'])[:, :state_dim],
        ],
        axis=1,
    )
    if not len(steps):
        return np.zeros(0, bool)
    _, first, unique_number = np.unique(steps, axis=0, return_index=True, return_inverse=True)
    return holdout_mask(first[unique_number.reshape(-1)])
