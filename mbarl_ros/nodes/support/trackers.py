"""Runs of Weights & Biases and of MLflow, written through their own libraries.

Each raises whatever its library raises. Nothing is sent where the user has configured no account
and no server; the libraries' own usage statistics and error reports are off.
"""

from __future__ import annotations

import netrc
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

PROJECT = 'mbarl_ros'
_WANDB_HOST = 'https://api.wandb.ai'
_EVALUATION = 'evaluation'
_UNNAMEABLE = re.compile(r'[^\w\-. /]')  # in names of MLflow
_BATCH = 100  # parameters that MLflow takes at once
_LONGEST = 500  # characters of a parameter that every server of MLflow takes


@dataclass(frozen=True)
class RunFacts:
    """What a tracker says of a run: folder, tags and configuration."""

    folder: Path
    tags: Mapping[str, str]
    config: Mapping[str, Any]


class TrackedRun(Protocol):
    """A run of a tracker. ``id`` and ``step`` continue it; ``place`` says where it is written.

    ``step``: least step that the library takes next.
    """

    id: str
    place: str
    step: int

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log numbers of the diagnostics after ``step`` environment steps."""

    def log_evaluation(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log an evaluation of the policy after ``step`` environment steps, maybe long ago."""

    def finish(self, files: list[Path]) -> None:
        """Add files and end the run."""


class WandbRun:
    """A run of Weights & Biases: offline in ``run_dir/wandb`` unless there is an API key."""

    def __init__(self, facts: RunFacts, known: Mapping[str, str]) -> None:
        """Begin a run, or continue the ``known`` one."""
        os.environ.setdefault('WANDB_ERROR_REPORTING', 'false')
        os.environ.setdefault('WANDB_SILENT', 'true')  # what it says to people at a terminal
        import wandb

        self.id = known.get('id') or uuid.uuid4().hex[:8]
        mode = os.environ.get('WANDB_MODE') or ('online' if _wandb_key() else 'offline')
        self._run = wandb.init(
            project=os.environ.get('WANDB_PROJECT', PROJECT),
            name=facts.folder.name,
            id=self.id,
            resume='allow',
            mode=mode,
            dir=facts.folder,
            tags=sorted(set(facts.tags.values())),
            config=dict(facts.config),
            settings=wandb.Settings(
                console='off',
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
            ),
        )
        self._run.define_metric(f'{_EVALUATION}/*', step_metric=f'{_EVALUATION}/environment_steps')
        self._folder, self.step = facts.folder, int(known.get('step', 0))
        self.place = f'{facts.folder / "wandb"} (offline)' if mode != 'online' else self._run.url

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """See :class:`TrackedRun`; W&B refuses steps that run back."""
        self.step = max(step, self.step)
        self._run.log(dict(numbers), step=self.step)

    def log_evaluation(self, step: int, numbers: Mapping[str, float]) -> None:
        """See :class:`TrackedRun`; the step is a metric, since the run is further by now."""
        named = {f'{_EVALUATION}/{name}': value for name, value in numbers.items()}
        self.log(self.step, {**named, f'{_EVALUATION}/environment_steps': step})
        # Rows of one step are merged: the next evaluation must not replace this one.
        self.step += 1

    def finish(self, files: list[Path]) -> None:
        """See :class:`TrackedRun`."""
        for path in files:
            self._run.save(str(path), base_path=str(self._folder), policy='now')
        self._run.finish()


class MlflowRun:
    """A run of MLflow: in ``run_dir/mlruns`` unless ``MLFLOW_TRACKING_URI`` is set."""

    def __init__(self, facts: RunFacts, known: Mapping[str, str]) -> None:
        """Begin a run, or continue the ``known`` one of the same place."""
        # Files need no database package; the library calls them outdated and refuses otherwise.
        for name in ('MLFLOW_DISABLE_TELEMETRY', 'DO_NOT_TRACK', 'MLFLOW_ALLOW_FILE_STORE'):
            os.environ.setdefault(name, 'true')
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self.step = Metric, 0  # MLflow takes steps in any order
        self.place = os.environ.get('MLFLOW_TRACKING_URI') or (facts.folder / 'mlruns').as_uri()
        self._client = MlflowClient(self.place)
        if known.get('id') and known.get('place') == self.place:
            self.id = known['id']
            self._client.update_run(self.id, status='RUNNING')
            return
        name = os.environ.get('MLFLOW_EXPERIMENT_NAME', PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run = self._client.create_run(number, run_name=facts.folder.name, tags=dict(facts.tags))
        self.id = run.info.run_id
        params = [
            Param(_UNNAMEABLE.sub('_', key), text[:_LONGEST]) for key, text in _flat(facts.config)
        ]
        for start in range(0, len(params), _BATCH):
            self._client.log_batch(self.id, params=params[start : start + _BATCH])

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """See :class:`TrackedRun`."""
        now = time.time_ns() // 1_000_000
        metrics = [
            self._metric(_UNNAMEABLE.sub('_', name), value, now, step)
            for name, value in numbers.items()
        ]
        self._client.log_batch(self.id, metrics=metrics)

    def log_evaluation(self, step: int, numbers: Mapping[str, float]) -> None:
        """See :class:`TrackedRun`."""
        self.log(step, {f'{_EVALUATION}/{name}': value for name, value in numbers.items()})

    def finish(self, files: list[Path]) -> None:
        """See :class:`TrackedRun`."""
        for path in files:
            self._client.log_artifact(self.id, str(path))
        self._client.set_terminated(self.id)


LIBRARIES: dict[str, type[WandbRun] | type[MlflowRun]] = {'wandb': WandbRun, 'mlflow': MlflowRun}


def _wandb_key() -> bool:
    """Whether the user has configured an account, as ``wandb login`` does."""
    if os.environ.get('WANDB_API_KEY') or os.environ.get('WANDB_IDENTITY_TOKEN_FILE'):
        return True
    host = urlsplit(os.environ.get('WANDB_BASE_URL', _WANDB_HOST)).hostname or ''
    try:
        return netrc.netrc(os.environ.get('NETRC')).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _flat(config: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, str]]:
    """Leaves of a configuration: dotted key and text."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', str(value)
