"""How well the state classifier tells demonstrated states from those of practice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mbarl_ros.learning.classifier import ClassifierTrainer, logits
from mbarl_ros.reports.run_data import RunData
from mbarl_ros.reports.saved_state import from_checkpoint
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.transitions import BACKWARD, FORWARD

DEMONSTRATED = 'demonstrations'
FORWARD_STATES = 'forward phases'
EARLY, LATE = 'backward phases, first third', 'backward phases, last third'


def scores(run: RunData) -> Mapping[str, np.ndarray]:
    """Scores in [0, 1] of the states of demonstrations and practice, by where they are from.

    The classifier is that of the last checkpoint.

    :raises ConfigError: there is none; says why.
    """
    arrays = _arrays(run)
    rows, demonstrations = run.transitions, run.demonstrations
    backward = np.flatnonzero(rows['phase'] == BACKWARD)
    third = len(backward) // 3
    states = {
        DEMONSTRATED: demonstrations['next_observation'][demonstrations['phase'] == FORWARD],
        FORWARD_STATES: rows['next_observation'][rows['phase'] == FORWARD],
        EARLY: rows['next_observation'][backward[:third]],
        LATE: rows['next_observation'][backward[len(backward) - third :]],
    }
    # A sigmoid without overflow.
    return {
        name: 0.5 * (1.0 + np.tanh(0.5 * logits(arrays, each)))
        for name, each in states.items()
        if len(each)
    }


def _arrays(run: RunData) -> Mapping[str, np.ndarray]:
    if run.agent.backward != 'classifier':
        raise ConfigError(
            f"Agent '{run.agent.name}' trains no state classifier (its backward objective is "
            f"'{run.agent.backward}')."
        )

    def use(arrays: Mapping[str, np.ndarray], meta: dict[str, Any]) -> Mapping[str, np.ndarray]:
        trainer = ClassifierTrainer(run.task, run.agent, run.demonstrations, seed=0)
        trainer.load_state_dict(arrays, meta)
        return trainer.arrays()

    return from_checkpoint(run, 'classifier', use)
