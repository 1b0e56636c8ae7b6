"""The trials of ``mbarl tune`` as Optuna keeps them: in a journal file, a line for each event."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.studies.search_space import Dimension

JOURNAL_FILE = 'optuna.journal'
_STUDY = 'mbarl tune'
_RANDOM_TRIALS = 8  # before the sampler follows what was good
_UNPRUNED_TRIALS = 5


class Trials:
    """Asks Optuna for settings, tells it scores, and lets it prune. Goes on where it ended."""

    def __init__(self, folder: Path, space: Mapping[str, Dimension]) -> None:
        """Open the journal in ``folder``, which no other process uses.

        :raises ConfigError: Optuna is not installed.
        """
        self._optuna = optuna = _import_optuna()
        self._space = space
        for left in folder.glob(f'{JOURNAL_FILE}.lock*'):  # by a driver that was killed
            left.unlink()
        journal = optuna.storages.journal
        path = str(folder / JOURNAL_FILE)
        storage = optuna.storages.JournalStorage(
            journal.JournalFileBackend(path, lock_obj=journal.JournalFileOpenLock(path))
        )
        self._study = optuna.create_study(
            storage=storage,
            study_name=_STUDY,
            direction='maximize',
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED_TRIALS),
        )
        # A sampler that goes on must not draw again what it has drawn.
        self._study.sampler = optuna.samplers.TPESampler(
            seed=self.count, n_startup_trials=_RANDOM_TRIALS, constant_liar=True
        )

    @property
    def count(self) -> int:
        """Number of trials so far, those that run included."""
        return len(self._study.get_trials(deepcopy=False))

    def ask(self) -> int:
        """Number of a new trial."""
        distributions = {key: each.distribution() for key, each in self._space.items()}
        return self._study.ask(distributions).number

    @staticmethod
    def name(number: int) -> str:
        """Name of the settings of a trial."""
        return f'trial_{number:03}'

    @staticmethod
    def number(name: str) -> int:
        """The trial of a name."""
        return int(name.removeprefix('trial_'))

    def changes(self, number: int) -> dict[str, Any]:
        """Dotted key -> value of a trial."""
        drawn = self._frozen(number).params
        return {key: each.value(drawn[key]) for key, each in self._space.items()}

    def state(self, number: int) -> str:
        """RUNNING, COMPLETE, PRUNED or FAIL."""
        return self._frozen(number).state.name

    def score(self, number: int) -> float | None:
        """Score of a trial; of one that was pruned, as far as it came."""
        frozen = self._frozen(number)
        values = frozen.intermediate_values
        if frozen.value is not None:
            return frozen.value
        return values[max(values)] if values else None

    def rungs(self, number: int) -> int:
        """How many tenths of seeds a trial has come."""
        return len(self._frozen(number).intermediate_values)

    def running(self) -> list[int]:
        """Trials that were interrupted."""
        return [number for number in range(self.count) if self.state(number) == 'RUNNING']

    def best(self, count: int) -> list[int]:
        """The finished trials with the highest scores; settings that are equal count once."""
        finished = [n for n in range(self.count) if self.state(n) == 'COMPLETE']
        finished.sort(key=lambda number: -self._frozen(number).value)
        first: dict[str, int] = {}
        for number in finished:
            first.setdefault(str(self.changes(number)), number)
        return list(first.values())[:count]

    def is_hopeless(self, number: int, values: Sequence[float], judged: range) -> bool:
        """Whether Optuna prunes a trial that has reached these rungs.

        :param judged: rungs at which it may be pruned
        """
        known = len(self._frozen(number).intermediate_values)
        trial = self._optuna.trial.Trial(self._study, self._frozen(number)._trial_id)
        for step in range(known, len(values)):
            trial.report(values[step], step)
            if step in judged and trial.should_prune():
                return True
        return False

    def finish(self, number: int, score: float, values: Sequence[float]) -> None:
        """A trial has its score."""
        self.is_hopeless(number, values, range(0))  # notes the rungs
        self._study.tell(number, score)
        self._say(number, f'score {score:.3f}')

    def prune(self, number: int) -> None:
        """A trial was ended early."""
        self._study.tell(number, state=self._optuna.trial.TrialState.PRUNED)
        self._say(number, f'pruned at {self.score(number):.3f}, rung {self.rungs(number)}')

    def fail(self, number: int) -> None:
        """A seed of a trial failed by itself."""
        self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)

    def importance(self) -> dict[str, float]:
        """Share of each setting in what makes the good trials good (PED-ANOVA); empty: too few."""
        if len([n for n in range(self.count) if self.state(n) == 'COMPLETE']) < _UNPRUNED_TRIALS:
            return {}
        evaluator = self._optuna.importance.PedAnovaImportanceEvaluator()
        try:
            found = self._optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        except (RuntimeError, ValueError):  # all scores are equal
            return {}
        return {key: float(share) for key, share in found.items()}

    def _frozen(self, number: int) -> Any:
        return self._study.get_trials(deepcopy=False)[number]

    def _say(self, number: int, how: str) -> None:
        best = self.best(1)
        text = ', '.join(f'{key}={value}' for key, value in self.changes(number).items())
        lead = f'; best {self.score(best[0]):.3f} (trial {best[0]})' if best else ''
        print(f'trial {number}: {how}: {text}{lead}', flush=True)


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            f"mbarl tune: {error}; install the extra with pip install 'mbarl_ros[scale]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # The journal, the liar and PED-ANOVA are marked as experimental.
    warnings.filterwarnings('ignore', category=optuna.exceptions.ExperimentalWarning)
    return optuna
