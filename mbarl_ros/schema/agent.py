"""Schema of agent presets."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mbarl_ros.schema.base import Strict


class SacConfig(Strict):
    """Soft actor-critic (Haarnoja et al. 2018), both policies."""

    OLD_KEYS: ClassVar = {
        'batch': "is now called 'batch_size'",
        'frequencies': "is now called 'fourier_features'",
        'value_scale': "is now called 'reward_scale'",
        'temperature_rate': "is now called 'temperature_learning_rate'",
        'precision': 'was removed: products are float32',
    }

    hidden: list[int] = Field(default=[128, 128], min_length=1)
    critics: int = Field(default=2, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    batch_size: int = Field(default=128, gt=0)
    reward_scale: float = Field(
        default=10.0, gt=0, description='critics see rewards times this, as in MEDAL'
    )
    discount: float | None = Field(
        default=None, gt=0, lt=1, description="forward; null: 1 - 2 / the task's forward_limit"
    )
    backward_discount: float = Field(default=0.99, gt=0, lt=1)
    fourier_features: int = Field(
        default=3, ge=0, description='Fourier features of the observation for the critics'
    )
    tau: float = Field(default=0.01, gt=0, le=1)
    deployed_tau: float = Field(
        default=0.003, gt=0, le=1, description='averaging of the deployed policy'
    )
    initial_temperature: float = Field(default=0.01, gt=0)
    temperature_learning_rate: float = Field(default=1e-3, gt=0)
    target_entropy: float = Field(default=0.0, description='nats for each action entry')
    cloning_weight: float = Field(
        default=1.0, ge=0, description='behaviour cloning on the demonstration part of the batch'
    )
    cloning_phases: int | None = Field(
        default=50, gt=0, description='it fades to zero in so many forward_limits; null: never'
    )


class ClassifierConfig(Strict):
    """MEDAL's state classifier (Sharma et al. 2022)."""

    OLD_KEYS: ClassVar = {'batch': "is now called 'batch_size'"}

    hidden: int = Field(default=128, gt=0)
    learning_rate: float = Field(default=3e-4, gt=0)
    batch_size: int = Field(default=400, gt=0, description='positives; as many negatives')
    every: int = Field(default=10, gt=0, description='environment steps per gradient step')


StartKind = Literal['replay', 'demonstrations', 'phase_starts', 'range']


class ModelConfig(Strict):
    """Dynamics ensemble and hallucinated practice (Janner et al. 2019)."""

    OLD_KEYS: ClassVar = {
        'batch': "is now called 'batch_size'",
        'frequencies': "is now called 'fourier_features'",
        'patience': "is now called 'holdout_interval'",
        'length': "is now called 'rollout_length'",
        'buffer': "is now called 'buffer_capacity'",
    }

    members: int = Field(default=5, gt=0)
    elites: int = Field(default=3, gt=0)
    hidden: list[int] = Field(default=[128, 128], min_length=1)
    fourier_features: int = Field(default=3, ge=0, description='Fourier features of the state')
    learning_rate: float = Field(default=2e-3, gt=0)
    batch_size: int = Field(default=128, gt=0)
    every: int = Field(default=250, gt=0, description='environment steps between fits')
    max_gradient_steps: int = Field(default=300, gt=0, description='cap on one fit')
    holdout_interval: int = Field(
        default=50, gt=0, description='gradient steps between held-out checks'
    )
    rollouts: int = Field(
        default=2, gt=0, description='start states per environment step and policy'
    )
    rollout_length: int = Field(default=50, gt=0, description='steps of one hallucinated rollout')
    start_weights: dict[StartKind, float] = Field(
        default={'replay': 0.3, 'demonstrations': 0.2, 'phase_starts': 0.1, 'range': 0.4},
        description='range: anywhere within the observation range, else as a demonstration starts',
    )
    fraction: float = Field(default=0.3, ge=0, lt=1, description='share of each batch')
    buffer_capacity: int = Field(
        default=200_000, gt=0, description='model transitions kept per policy'
    )

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

    OLD_KEYS: ClassVar = {'batch': "is now called 'batch_size'"}

    hidden: int = Field(default=128, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    batch_size: int = Field(default=256, gt=0)
    every: int = Field(default=10, gt=0, description='environment steps per gradient step')


class SwitchingConfig(Strict):
    """RISC's switch: a phase of n steps ends with probability F(s, g) * (1 - decay ** n)."""

    minimum_share: float = Field(
        default=0.5, ge=0, le=1, description="not before this share of the phase's limit"
    )
    decay: float = Field(default=0.9, ge=0, lt=1)


class ExplorationConfig(Strict):
    """Decoupled exploration: a third policy and phase, see :mod:`~.learning.exploration`."""

    OLD_KEYS: ClassVar = {'batch': "is now called 'batch_size'"}

    epsilon: float = Field(default=4.5, gt=0, description='bound on KL(rho_exp || rho*), nats')
    width: float = Field(
        default=0.2, gt=0, description='of the blur of states, in half ranges of their entries'
    )
    dual_rate: float = Field(default=0.2, gt=0, description='dual ascent, each chunk')
    neighbours: int = Field(default=4, gt=1, description='of a state among the particles')
    particles: int = Field(default=500, gt=0, description='visited states that stand for all')
    hidden: int = Field(default=64, gt=0, description='of the density ratio classifier')
    learning_rate: float = Field(default=1e-3, gt=0)
    batch_size: int = Field(default=256, gt=0)
    every: int = Field(default=2, gt=0, description='environment steps per gradient step')


# Backward objectives, and whether each sets goals for the backward phase to reach. Their classes
# are in mbarl_ros.learning.objectives; this table is here because the robot's side has no torch.
OBJECTIVES = {'classifier': False, 'initial_state': True, 'novelty': False, 'curriculum': True}


class AgentConfig(Strict):
    """A preset: which parts the learner is composed of, and their settings."""

    OLD_KEYS: ClassVar = {
        'solvable': "is now called 'value_threshold'",
        'replay': "is now called 'replay_capacity'",
        'exploration_noise': 'was removed: noise is pink',
    }

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
    exploration: ExplorationConfig | None = None
    value_threshold: float = Field(
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
    chunk: int = Field(default=50, gt=0, description='lockstep: steps between policy updates')
    replay_capacity: int = Field(default=1_000_000, gt=0)

    @property
    def reaches(self) -> bool:
        """Whether the backward phase has goals to reach."""
        return self.backward != 'none' and OBJECTIVES[self.backward]

    # Both count from the start of the run, so that what is no whole step is made up for later.

    def updates_due(self, steps: int) -> int:
        """Updates of the policies for the chunk that made the run ``steps`` long."""
        per_step = self.updates_per_step
        return math.floor(per_step * steps) - math.floor(per_step * (steps - self.chunk))

    def classifier_steps_due(self, steps: int) -> int:
        """Gradient steps of the classifier for the chunk that made the run ``steps`` long."""
        every = self.classifier.every
        return steps // every - (steps - self.chunk) // every

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
        if self.exploration and (self.shared or self.backward == 'none'):
            raise ValueError('exploration: needs a backward policy of its own')
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
