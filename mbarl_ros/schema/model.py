"""Schema of the dynamics model and its uses: imagined practice, planning, a warm start."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mbarl_ros.schema.base import Strict

StartKind = Literal['replay', 'demonstrations', 'phase_starts', 'range']
DEMONSTRATED_STARTS = ('demonstrations', 'range')  # binary entries are as in a demonstration


class ModelConfig(Strict):
    """Ensemble dynamics model and its rollouts (MBPO, Janner et al. 2019), for both policies."""

    OLD_KEYS: ClassVar = {
        'batch': "is now called 'batch_size'",
        'frequencies': "is now called 'fourier_features'",
        'patience': "is now called 'holdout_interval'",
        'length': "is now called 'rollout_length'",
        'buffer': "is now called 'buffer_capacity'",
    }

    members: int = Field(default=5, gt=0, description='Networks in the ensemble.')
    elites: int = Field(
        default=3, gt=0, description='Members with the least held-out error; only they predict.'
    )
    hidden: list[int] = Field(
        default=[128, 128], min_length=1, description='Units in each hidden layer of a member.'
    )
    fourier_features: int = Field(
        default=3,
        ge=0,
        description='Frequencies of the Fourier features of the state; 0: none.',
    )
    learning_rate: float = Field(default=2e-3, gt=0, description='Learning rate (Adam).')
    batch_size: int = Field(
        default=128, gt=0, description='Transitions in one gradient step of one member.'
    )
    every: int = Field(default=250, gt=0, description='Environment steps between two fits.')
    max_gradient_steps: int = Field(
        default=300, gt=0, description='Largest number of gradient steps in one fit.'
    )
    holdout_interval: int = Field(
        default=50,
        gt=0,
        description='Gradient steps between two evaluations on held-out data; a fit ends early '
        'when they show no improvement.',
    )
    rollouts: int = Field(
        default=2, gt=0, description='Rollouts started per environment step, for each policy.'
    )
    rollout_length: int = Field(
        default=50,
        gt=0,
        description='Most steps of one rollout; it ends where its members disagree.',
    )
    start_weights: dict[StartKind, float] = Field(
        default={'replay': 0.3, 'demonstrations': 0.2, 'phase_starts': 0.1, 'range': 0.4},
        description='Where rollouts start, by relative weight: in states of the `replay` buffer, '
        'of the `demonstrations`, in `phase_starts`, or anywhere in the `range` of the '
        'observation (binary entries as where a demonstration starts, and entries that follow '
        'from the others as they do).',
    )
    fraction: float = Field(
        default=0.3, ge=0, lt=1, description='Share of model transitions in each batch of SAC.'
    )
    buffer_capacity: int = Field(
        default=200_000, gt=0, description='Model transitions kept for each policy.'
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


class PlannerConfig(Strict):
    """Model-predictive control with the learned model, in forward phases.

    See :mod:`mbarl_ros.control.planning`.
    """

    method: Literal['random_shooting', 'cem', 'mppi'] = Field(
        default='cem',
        description='How action sequences are searched: `random_shooting` (Nagabandi et al. 2018), '
        '`cem` (cross-entropy method) or `mppi` (path integral).',
    )
    horizon: int = Field(default=12, gt=0, description='Control steps that a plan looks ahead.')
    candidates: int = Field(
        default=120,
        gt=0,
        description='Action sequences in one iteration; a multiple of `model.elites`.',
    )
    iterations: int = Field(
        default=2, gt=0, description='Refinements of a plan; 1 with `random_shooting`.'
    )
    elites: int = Field(
        default=12, gt=1, description='With `cem`: best sequences that the next ones are like.'
    )
    temperature: float = Field(
        default=0.1,
        gt=0,
        description='With `mppi`: temperature of the weights, in standard deviations of the score.',
    )
    noise: float = Field(
        default=0.5,
        gt=0,
        description='Standard deviation of the first action sequences around the last plan.',
    )
    noise_exponent: float = Field(
        default=1.0,
        ge=0,
        description='The noise has power 1 / f ** `noise_exponent` (Pinneri et al. 2020): 0 is '
        'white, 1 pink, 2 red.',
    )
    policy_share: float = Field(
        default=0.25,
        ge=0,
        lt=1,
        description='Share of the first candidates that the learned policy proposes.',
    )
    objective: Literal['reward', 'distance'] = Field(
        default='reward',
        description='What a plan adds up: the `reward`, or minus the `distance` to success (for '
        'sparse rewards, where nothing is in the way).',
    )
    terminal_value: bool = Field(
        default=True,
        description='Whether the learned value of its last state is added to the score of a plan.',
    )
    discount: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description='Discount per planned step; null: that of the forward policy.',
    )

    @model_validator(mode='after')
    def _consistent(self) -> PlannerConfig:
        if self.method == 'random_shooting' and self.iterations != 1:
            raise ValueError('iterations: random_shooting has nothing to refine; set it to 1')
        if self.method == 'cem' and self.elites >= self.candidates:
            raise ValueError(
                f'elites ({self.elites}) must be fewer than candidates ({self.candidates})'
            )
        return self


class WarmStartConfig(Strict):
    """Warm start of the forward policy by imitating the planner (Nagabandi et al. 2018, Mb-Mf).

    The planner practises first; the policy clones it, then practises itself, and the planner labels
    the states that it visited (DAgger, Ross et al. 2011). After that the planner is switched off.
    """

    planner_steps: int = Field(
        default=1000, gt=0, description='Environment steps practised with the planner.'
    )
    rounds: int = Field(
        default=3, ge=0, description='Rounds of DAgger after behaviour cloning; 0: cloning only.'
    )
    round_steps: int = Field(
        default=250, gt=0, description='Environment steps practised by the policy in a round.'
    )
    states: int = Field(
        default=2000, gt=0, description='Visited states that the planner labels in each round.'
    )
    gradient_steps: int = Field(
        default=1000, gt=0, description='Gradient steps of each regression on the labels.'
    )
