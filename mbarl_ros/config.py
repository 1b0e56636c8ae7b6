"""Typed, validated schema of the robot, task and agent YAML files.

Every node loads its configuration through :func:`load_robot`, :func:`load_task` and
:func:`load_agent`; a mistake is one sentence that names the file and the key, raised as
:class:`ConfigError` before anything starts.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from mbarl_ros.robot_config import (
    ConfigError,
    RobotConfig,
    Strict,
    check_known,
    check_unique,
)

# --- task ------------------------------------------------------------------------------------


class Entry(Strict):
    """One entry of the observation or action vector and the range that is scaled to [-1, 1].

    ``binary`` says that the entry takes only the values ``low`` and ``high`` (a contact, a grasp).
    Entries with the same ``axis`` are positions along one line in one frame: networks also see
    their differences (where the gripper is, seen from the mug), the goal's included.
    """

    name: str
    low: float
    high: float
    binary: bool = False
    axis: str | None = None

    @model_validator(mode='after')
    def _ordered(self) -> Entry:
        if not self.low < self.high:
            raise ValueError(f'{self.name}: low ({self.low}) must be less than high ({self.high})')
        return self


class Success(Strict):
    """Success: the Euclidean distance of ``entries`` to ``target`` is at most ``tolerance``.

    Without ``target`` the distance is taken to the goal part of the observation.
    """

    entries: list[str] = Field(min_length=1)
    target: list[float] | None = None
    tolerance: float = Field(gt=0)


class Phases(Strict):
    """Step limits of the forward and the backward phase."""

    forward_limit: int = Field(gt=0)
    backward_limit: int = Field(gt=0)


class Wide(Strict):
    """Evaluation from starts all over the place, every so many environment steps.

    Observation entries in ``ranges`` start uniformly in them, all others as the world places them.
    """

    episodes: int = Field(gt=0)
    every: int = Field(gt=0)
    ranges: dict[str, tuple[float, float]] = Field(min_length=1)

    @field_validator('ranges')
    @classmethod
    def _ordered(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in ranges.items():
            if not low < high:
                raise ValueError(f'{name}: low ({low}) must be less than high ({high})')
        return ranges


class Evaluation(Strict):
    """The deployed protocol and the end of a run; ``every`` and ``budget`` in environment steps."""

    episodes: int = Field(default=50, gt=0)
    horizon: int = Field(gt=0)
    every: int = Field(gt=0)
    target: float = Field(default=0.9, gt=0, le=1)
    budget: int = Field(gt=0)
    wide: Wide | None = None


class TaskConfig(Strict):
    """A task: observation and action layout, goals, reward and success, phase limits."""

    name: str
    description: str = ''
    robot: str
    world: str | None = Field(default=None, pattern=r'^[\w.]+:\w+$')
    observation: list[Entry] = Field(min_length=1)
    action: list[Entry] = Field(min_length=1)
    goals: list[list[float]] = Field(default=[])
    success: Success
    reward: Literal['success'] | str = Field(default='success', pattern=r'^(success|topic:.+)$')
    phases: Phases
    evaluation: Evaluation
    demonstrations: str | None = None

    @model_validator(mode='after')
    def _consistent(self) -> TaskConfig:
        names = [entry.name for entry in self.observation]
        check_unique('action', [entry.name for entry in self.action])
        check_known('success.entries', self.success.entries, 'observation', names)
        if self.success.target is None and not self.goals:
            raise ValueError('success.target: is needed where the task has no goals')
        if self.success.target is not None and len(self.success.target) != len(
            self.success.entries
        ):
            raise ValueError('success.target: needs one number for each of success.entries')
        if self.evaluation.wide:
            check_known('evaluation.wide.ranges', self.evaluation.wide.ranges, 'observation', names)
        for goal in self.goals:
            if len(goal) != len(self.observation):
                raise ValueError(
                    f'goals: each needs {len(self.observation)} numbers (one for each '
                    f'observation entry), got {len(goal)}'
                )
        return self


# --- agent -----------------------------------------------------------------------------------


class SacConfig(Strict):
    """Soft actor-critic (Haarnoja et al. 2018), both policies."""

    hidden: list[int] = Field(default=[128, 128], min_length=1)
    critics: int = Field(default=2, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    batch: int = Field(default=128, gt=0)
    value_scale: float = Field(
        default=10.0, gt=0, description='critics see rewards times this, as in MEDAL'
    )
    precision: Literal['float32', 'bfloat16', 'auto'] = Field(
        default='float32',
        description='of products; auto: bfloat16 where the processor has AMX',
    )
    discount: float | None = Field(
        default=None, gt=0, lt=1, description="forward; null: 1 - 2 / the task's forward_limit"
    )
    backward_discount: float = Field(default=0.99, gt=0, lt=1)
    frequencies: int = Field(
        default=3, ge=0, description='Fourier features of the observation for the critics'
    )
    tau: float = Field(default=0.01, gt=0, le=1)
    deployed_tau: float = Field(
        default=0.003, gt=0, le=1, description='averaging of the deployed policy'
    )
    initial_temperature: float = Field(default=0.01, gt=0)
    temperature_rate: float = Field(default=1e-3, gt=0)
    target_entropy: float = Field(default=0.0, description='nats for each action entry')
    cloning_weight: float = Field(
        default=1.0, ge=0, description='behaviour cloning on the demonstration part of the batch'
    )
    cloning_phases: int | None = Field(
        default=None, gt=0, description='it fades to zero in so many forward_limits; null: never'
    )


class ClassifierConfig(Strict):
    """MEDAL's state classifier (Sharma et al. 2022)."""

    hidden: int = Field(default=128, gt=0)
    learning_rate: float = Field(default=3e-4, gt=0)
    batch: int = Field(default=400, gt=0, description='positives; as many negatives')
    every: int = Field(default=10, gt=0, description='environment steps per gradient step')


StartKind = Literal['replay', 'demonstrations', 'phase_starts', 'range']


class ModelConfig(Strict):
    """Dynamics ensemble and hallucinated practice (Janner et al. 2019)."""

    members: int = Field(default=5, gt=0)
    elites: int = Field(default=3, gt=0)
    hidden: list[int] = Field(default=[128, 128], min_length=1)
    frequencies: int = Field(default=3, ge=0, description='Fourier features of the state')
    learning_rate: float = Field(default=2e-3, gt=0)
    batch: int = Field(default=128, gt=0)
    every: int = Field(default=250, gt=0, description='environment steps between fits')
    max_gradient_steps: int = Field(default=300, gt=0, description='cap on one fit')
    patience: int = Field(default=50, gt=0, description='gradient steps between held-out checks')
    rollouts: int = Field(
        default=2, gt=0, description='start states per environment step and policy'
    )
    length: int = Field(default=50, gt=0, description='steps of one hallucinated rollout')
    start_weights: dict[StartKind, float] = Field(
        default={'replay': 0.3, 'demonstrations': 0.2, 'phase_starts': 0.1, 'range': 0.4},
        description='range: anywhere within the observation range, else as a demonstration starts',
    )
    fraction: float = Field(default=0.3, ge=0, lt=1, description='share of each batch')
    buffer: int = Field(default=200_000, gt=0, description='model transitions kept per policy')

    @field_validator('start_weights')
    @classmethod
    def _positive(cls, weights: dict[str, float]) -> dict[str, float]:
        if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise ValueError('needs weights >= 0 with a positive sum')
        return weights

    @model_validator(mode='after')
    def _elites(self) -> ModelConfig:
        if self.elites > self.members:
            raise ValueError(f'elites ({self.elites}) cannot exceed members ({self.members})')
        return self


class NoveltyConfig(Strict):
    """Random network distillation (Burda et al. 2018) of R3L's perturbation controller."""

    hidden: int = Field(default=128, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    batch: int = Field(default=256, gt=0)
    every: int = Field(default=10, gt=0, description='environment steps per gradient step')


class SwitchingConfig(Strict):
    """RISC's switch: a phase of n steps ends with probability F(s, g) * (1 - decay ** n)."""

    minimum_share: float = Field(
        default=0.5, ge=0, le=1, description="not before this share of the phase's limit"
    )
    decay: float = Field(default=0.9, ge=0, lt=1)


# Backward objectives: class in mbarl_ros.learning.objectives, and whether it sets goals that the
# backward phase is to reach. Said here, since the robot's side needs it and has no torch.
OBJECTIVES = {
    'classifier': ('DemonstrationMatching', False),
    'initial_state': ('InitialState', True),
    'novelty': ('Novelty', False),
    'curriculum': ('Curriculum', True),
}


class AgentConfig(Strict):
    """A preset: which parts the learner is composed of, and their settings."""

    name: str
    description: str = ''
    backward: str = Field(default='classifier', description="one of OBJECTIVES, or 'none'")
    shared: bool = Field(default=False, description='one policy that is told its goal, both phases')
    resets: bool = Field(
        default=False, description='the simulated world is reset after each attempt'
    )
    switching: SwitchingConfig | None = None
    sac: SacConfig = SacConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    novelty: NoveltyConfig = NoveltyConfig()
    solvable: float = Field(
        default=0.1, description='curriculum: value from which on a goal counts as in reach'
    )
    model: ModelConfig | None = ModelConfig()
    bootstrap_truncation: bool = Field(
        default=True, description='false: a phase limit or switch ends the return (an ablation)'
    )
    updates_per_step: float = Field(default=2.0, gt=0)
    demonstration_fraction: float = Field(default=0.4, ge=0, lt=1)
    hindsight_fraction: float = Field(
        default=0.5, ge=0, lt=1, description='share of real samples relabelled with later states'
    )
    exploration_noise: Literal['white', 'pink'] = 'pink'
    chunk: int = Field(default=50, gt=0, description='lockstep: steps between policy updates')
    replay: int = Field(default=1_000_000, gt=0)

    @property
    def reaches(self) -> bool:
        """Whether the backward phase has goals to reach."""
        return self.backward != 'none' and OBJECTIVES[self.backward][1]

    @field_validator('backward')
    @classmethod
    def _known(cls, backward: str) -> str:
        if backward not in ('none', *OBJECTIVES):
            raise ValueError(f"'{backward}' is unknown; known: none, {', '.join(OBJECTIVES)}")
        return backward

    @model_validator(mode='after')
    def _fits(self) -> AgentConfig:
        if self.shared and not self.reaches:
            raise ValueError(f"shared: needs backward goals; 'backward: {self.backward}' sets none")
        if self.backward == 'curriculum' and not self.shared:
            raise ValueError("shared: 'backward: curriculum' asks one policy for both phases; true")
        if self.switching and not self.shared:
            raise ValueError("switching: needs 'shared: true'")
        if self.resets and self.backward != 'none':
            raise ValueError("resets: leaves nothing to do backward; set 'backward: none'")
        if self.model and self.reaches:
            raise ValueError(f"model: set it to null with 'backward: {self.backward}'")
        return self

    @model_validator(mode='after')
    def _fractions(self) -> AgentConfig:
        share = self.demonstration_fraction + (self.model.fraction if self.model else 0.0)
        if share >= 1:
            raise ValueError(
                f'demonstration_fraction + model.fraction is {share:g}; leave room for real data'
            )
        return self


# --- loading ---------------------------------------------------------------------------------

Config = TypeVar('Config', bound=Strict)


def config_dir() -> Path:
    """Folder of the shipped YAML: MBARL_CONFIG_DIR, the source tree or the installed share/."""
    override = os.environ.get('MBARL_CONFIG_DIR')
    if override:
        return Path(override)
    here = Path(__file__).resolve().parent
    candidates = [
        here.parent / 'config',
        *(parent / 'share' / 'mbarl_ros' / 'config' for parent in here.parents),
    ]
    for candidate in candidates:
        if (candidate / 'tasks').is_dir():
            return candidate
    raise ConfigError(
        f'config/ of mbarl_ros not found beside {here}; reinstall the package or set '
        'MBARL_CONFIG_DIR'
    )


def available(kind: str) -> list[str]:
    """Names of the shipped files of one kind: ``robots``, ``tasks`` or ``agents``."""
    return sorted(path.stem for path in (config_dir() / kind).glob('*.yaml'))


def find(kind: str, name: str) -> Path:
    """Path of a shipped file by name, or of a user's own file by path."""
    path = Path(name).expanduser()
    if path.suffix in ('.yaml', '.yml'):
        if not path.is_file():
            raise ConfigError(f'{path}: no such file')
        return path
    path = config_dir() / kind / f'{name}.yaml'
    if not path.is_file():
        raise ConfigError(
            f"unknown {kind[:-1]} '{name}'; known: {', '.join(available(kind))} "
            f'(or give the path of a .yaml file)'
        )
    return path


def load_robot(name: str) -> RobotConfig:
    """Load a robot profile by name or path."""
    return _load(RobotConfig, find('robots', name))


def load_task(name: str) -> TaskConfig:
    """Load a task by name or path; ``demonstrations`` becomes an absolute path."""
    path = find('tasks', name)
    task = _load(TaskConfig, path)
    if task.demonstrations is None:
        return task
    return task.model_copy(
        update={'demonstrations': str((path.parent / task.demonstrations).resolve())}
    )


def load_agent(name: str) -> AgentConfig:
    """Load an agent preset by name or path."""
    return _load(AgentConfig, find('agents', name))


def override(config: Config, changes: Mapping[str, Any], what: str) -> Config:
    """Copy of a configuration with keys, dotted like ``sac.batch``, set to other values.

    :raises ConfigError: ``what``, the key and what is wrong with it.
    """
    raw = config.model_dump()
    for key, value in changes.items():
        *path, last = key.split('.')
        inner = raw
        for name in path:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{what}: key '{key}': '{name}' is {inner!r} and has no keys")
        inner[last] = value
    try:
        return type(config).model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f'{what}: {_sentence(error)}') from None


def load_world(task: TaskConfig, **options: Any) -> Any:
    """Construct the world that a task names by import path (``package.module:Class``)."""
    if task.world is None:
        raise ConfigError(f"task '{task.name}': key 'world' is not set; it cannot be simulated")
    module, _, name = task.world.partition(':')
    try:
        return getattr(importlib.import_module(module), name)(**options)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"task '{task.name}': key 'world': cannot import {task.world} ({error}); "
            "install the extra with pip install 'mbarl_ros[sim]' or correct the path"
        ) from error


def _load(model: type[Config], path: Path) -> Config:
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f'{path}: cannot be read as YAML: {error}') from error
    if not isinstance(raw, dict):
        raise ConfigError(f'{path}: must hold keys and values, got {type(raw).__name__}')
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f'{path}: {_sentence(error)}') from None


def _sentence(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        key = '.'.join(str(part) for part in item['loc'])
        message = item['msg'].removeprefix('Value error, ')
        if item['type'] == 'extra_forbidden':
            message = 'unknown key'
        elif item['type'] == 'missing':
            message = 'is missing'
        parts.append(f"key '{key}': {message}" if key else message)
    return '; '.join(parts)
