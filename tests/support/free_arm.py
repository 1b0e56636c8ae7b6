"""The Panda alone, without walls or things to touch: only the safety gate keeps it in bounds."""

from __future__ import annotations

import numpy as np

from mbarl_sim.manipulation import Manipulation

OBJECT = np.array([0.5, 0.0, 1.5, 0.0, 0.0, 0.0, 1.0])  # what a tracker sees, out of reach
HAND = np.array([0.5, 0.0, 0.25])  # m


class FreeArm(Manipulation):
    """Joints and hand go where they are told, up to the limits of the drives."""

    hand_box = np.array([[-9.0] * 3, [9.0] * 3])

    def _build(self) -> None:
        """Nothing but the arm."""

    def _start(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return HAND, OBJECT

    def _wide_start(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return HAND, OBJECT

    def _pose(self) -> np.ndarray:
        return OBJECT

    def _put(self, pose: np.ndarray) -> None:
        """It stays where it is."""
