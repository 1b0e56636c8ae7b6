"""What the learner and the classifier of a run were when they were saved last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from mbarl_ros.learning import checkpoint
from mbarl_ros.reports.run_data import RunData
from mbarl_ros.schema.base import ConfigError

Result = TypeVar('Result')


def from_checkpoint(
    run: RunData, name: str, use: Callable[[Mapping[str, np.ndarray], dict[str, Any]], Result]
) -> Result:
    """What ``use`` makes of arrays and metadata of the newest intact checkpoint.

    :param name: ``learner`` or ``classifier``
    :raises ConfigError: there is none, or ``use`` finds that it is of another task or agent.
    """
    path = run.folder / 'checkpoint' / f'{name}.safetensors'
    try:
        return use(*checkpoint.load(path, lambda problem: None))
    except FileNotFoundError:
        raise ConfigError(f'{path}: there is no checkpoint of the {name} yet.') from None
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f'{path}: does not fit task and agent of the run: {error}') from None
