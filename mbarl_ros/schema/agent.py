"""Schema of agent presets."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mbarl_ros.schema.base import Strict
from mbarl_ros.schema.model import ModelConfig, PlannerConfig, WarmStartConfig

SUCCESS_REWARD_SCALE = 10.0


class SacConfig(Strict):
    """Soft actor-critic (Haarnoja et al. 2018): the networks and optimisers of each policy."""

    OLD_KEYS: ClassVar = {
        'batch': "is now called 'batch_size'",
        'frequencies': "is now called 'fourier_features'",
        'value_scale': "is now called 'reward_scale'",
        'temperature_rate': "is now called 'temperature_learning_rate'",
        'precision': 'was removed; delete it, all products are float32',
        'cloning_phases': 'was removed; delete it, cloning no longer fades by the clock',
    }

    hidden: list[int] = Field(
        default=[128, 128], min_length=1, description='Units in each hidden layer.'
    )
    critics: int = Field(
        default=2,
        ge=2,
        description='Number of critics. The value is the least of two, drawn anew for each step '
        'where there are more.',
    )
    learning_rate: float = Field(
        default=1e-3, gt=0, description='Learning rate of actor and critics (Adam).'
    )
    batch_size: int = Field(
        default=128, gt=0, description='Transitions in one gradient step of one policy.'
    )
    reward_scale: float | None = Field(
        default=None,
        gt=0,
        description='Critics see rewards times this factor; null: 10 where the reward is 1 on '
        'success (as in MEDAL), 1 where it comes by topic.',
    )
    discount: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description='Discount of the forward policy per step; null: 1 - 2 / `forward_limit` of '
        'the task.',
    )
    backward_discount: float = Field(
        default=0.99, gt=0, lt=1, description='Discount of the backward policy per step.'
    )
    fourier_features: int = Field(
        default=3,
        ge=0,
        description='Frequencies of the Fourier features that critics see beside the '
        'observation; 0: none.',
    )
    tau: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description='Share by which target critics follow the critics in each gradient step.',
    )
    deployed_tau: float = Field(
        default=0.003,
        gt=0,
        le=1,
        description='Share by which the deployed policy, an average over time, follows the actor '
        'in each gradient step.',
    )
    initial_temperature: float = Field(
        default=0.01, gt=0, description='Entropy temperature at the start of the run.'
    )
    temperature_learning_rate: float = Field(
        default=1e-3, gt=0, description='Learning rate of the temperature (Adam).'
    )
    target_entropy: float = Field(
        default=0.0,
        description='Policy entropy that the temperature aims at, in nats per action entry.',
    )
    cloning_weight: float = Field(
        default=10.0,
        ge=0,
        description='Weight of the pull of each policy towards the clone of its '
        'demonstrations, where the clone is certain and the critics do not prefer the policy; 0: '
        'none.',
    )
    cloning_steps: int = Field(
        default=4000,
        gt=0,
        description='Most gradient steps of the clone before practice begins; it takes 10 for each '
        'demonstrated step, if that is less.',
    )
    cloning_width: float = Field(
        default=0.02,
        gt=0,
        description='Difference in return between clone and policy over which that preference '
        'counts.',
    )

    def scale(self, reward_known: bool) -> float:
        """``reward_scale``, or its default for a reward that is 1 on success, or for another."""
        return self.reward_scale or (SUCCESS_REWARD_SCALE if reward_known else 1.0)


class ClassifierConfig(Strict):
    """State classifier of MEDAL (Sharma et al. 2022): demonstrated against visited states."""

    OLD_KEYS: ClassVar = {'batch': "is now called 'batch_size'"}

    hidden: int = Field(default=128, gt=0, description='Units in the hidden layer.')
    learning_rate: float = Field(default=3e-4, gt=0, description='Learning rate (Adam).')
    batch_size: int = Field(
        default=400,
        gt=0,
        description='Demonstrated states in one gradient step, and as many visited ones.',
    )
    every: int = Field(default=1, gt=0, description='Environment steps between two gradient steps.')


class NoveltyConfig(Strict):
    """Random network distillation (Burda et al. 2018), the novelty reward of R3L."""

    OLD_KEYS: ClassVar = {'batch': "is now called 'batch_size'"}

    hidden: int = Field(default=128, gt=0, description='Units in each hidden layer.')
    learning_rate: float = Field(default=1e-3, gt=0, description='Learning rate (Adam).')
    batch_size: int = Field(default=256, gt=0, description='States in one gradient step.')
    every: int = Field(
        default=10, gt=0, description='Environment steps between two gradient steps.'
    )


class SwitchingConfig(Strict):
    """Phase switching of RISC (Patil et al. 2024).

    After n steps a phase ends with probability F(s, g) * (1 - decay ** n), where F is the success
    critic.
    """

    minimum_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description='A phase does not end before this share of its step limit.',
    )
    decay: float = Field(
        default=0.9,
        ge=0,
        lt=1,
        description='Base of the term that keeps short phases from ending; 0: no such term.',
    )


class ExplorationConfig(Strict):
    """Decoupled exploration: a third policy and phase that covers states near demonstrated ones.

    See :mod:`mbarl_ros.learning.exploration`.
    """

    OLD_KEYS: ClassVar = {'batch': "is now called 'batch_size'"}

    epsilon: float = Field(
        default=4.5,
        gt=0,
        description='Bound on the KL divergence of explored from demonstrated states, in nats.',
    )
    width: float = Field(
        default=0.2,
        gt=0,
        description='Standard deviation of the noise that blurs both sets of states, in half '
        'ranges of an observation entry.',
    )
    dual_rate: float = Field(
        default=0.2, gt=0, description='Step size of dual ascent on the multiplier of the bound.'
    )
    neighbours: int = Field(
        default=4,
        gt=1,
        description='Nearest particles whose distance to a state estimates its density.',
    )
    particles: int = Field(
        default=500, gt=0, description='Sample of visited states that stands for all of them.'
    )
    hidden: int = Field(
        default=64, gt=0, description='Units in each hidden layer of the density ratio classifier.'
    )
    learning_rate: float = Field(
        default=1e-3, gt=0, description='Learning rate of the density ratio classifier (Adam).'
    )
    batch_size: int = Field(
        default=256,
        gt=0,
        description='Demonstrated states in one gradient step, and as many explored ones.',
    )
    every: int = Field(default=2, gt=0, description='Environment steps between two gradient steps.')


# Backward objectives, and whether each sets goals for the backward phase to reach. Their classes
# are in mbarl_ros.learning.objectives; this table is here because the robot's side has no torch.
OBJECTIVES = {'classifier': False, 'initial_state': True, 'novelty': False, 'curriculum': True}


class AgentConfig(Strict):
    """An agent preset: the parts of the learner and their settings.

    All keys but `name` have a default. A key that is absent keeps it; for the parts `switching`
    and `exploration` that means: no such part.
    """

    OLD_KEYS: ClassVar = {
        'solvable': "is now called 'value_threshold'",
        'replay': "is now called 'replay_capacity'",
        'exploration_noise': 'was removed; delete it, exploration noise is always pink',
    }

    name: str = Field(description='Name of the preset, shown in results and spec hashes.')
    description: str = Field(default='', description='One line for people.')
    backward: str = Field(
        default='classifier',
        description='Objective of the backward policy: `classifier` (match demonstrated states, '
        'MEDAL), `initial_state` (reach a state in which a demonstration starts, FBRL), `novelty` '
        '(R3L), `curriculum` (VaPRL), or `none` (no backward phase).',
    )
    end_near_starts: bool = Field(
        default=False,
        description='A backward phase ends as soon as the state is as near to one in which a '
        'demonstration starts as such states are to one another, unless it has goals of its own; '
        'false: at its step limit.',
    )
    shared: bool = Field(
        default=False,
        description='One goal-conditioned policy for both phases in place of one for each.',
    )
    resets: bool = Field(
        default=False,
        description='Reset the simulated world after each forward phase (episodic baselines).',
    )
    switching: SwitchingConfig | None = Field(
        default=None, description='Learned phase switching; null: phases end by success or limit.'
    )
    sac: SacConfig = Field(default=SacConfig(), description='Soft actor-critic.')
    classifier: ClassifierConfig = Field(
        default=ClassifierConfig(),
        description='State classifier; used with `backward: classifier`.',
    )
    novelty: NoveltyConfig = Field(
        default=NoveltyConfig(),
        description='Random network distillation; used with `backward: novelty`.',
    )
    exploration: ExplorationConfig | None = Field(
        default=None, description='Third policy that explores; null: none.'
    )
    value_threshold: float = Field(
        default=0.1,
        description='With `backward: curriculum`: a goal from whose state the forward policy has '
        'at least this value counts as within reach.',
    )
    model: ModelConfig | None = Field(
        default=ModelConfig(), description='Dynamics model and its rollouts; null: model-free.'
    )
    planner: PlannerConfig | None = Field(
        default=None,
        description='Planning with the model in forward phases; null: the forward policy acts.',
    )
    warm_start: WarmStartConfig | None = Field(
        default=None,
        description='The planner acts at first only, and the forward policy learns from it; null: '
        'the planner acts all the time.',
    )
    bootstrap_truncation: bool = Field(
        default=True,
        description='Bootstrap values through phase limits and switches; false: they end the '
        'return (an ablation).',
    )
    updates_per_step: float = Field(
        default=2.0, gt=0, description='Gradient steps of each policy per environment step.'
    )
    demonstration_fraction: float = Field(
        default=0.4, ge=0, lt=1, description='Share of demonstrations in each batch of SAC.'
    )
    hindsight_fraction: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description='Share of transitions, imagined ones too, whose goal is replaced by a later '
        'state (hindsight relabelling); only in tasks with goals.',
    )
    chunk: int = Field(
        default=50,
        gt=0,
        description='Environment steps that the learner trains on at once (real time: at least '
        'this many); it publishes a policy after each chunk.',
    )
    device: Literal['auto', 'cpu', 'cuda'] = Field(
        default='auto',
        description='Where policies, critics and model are trained: `cuda` is a GPU, `auto` is a '
        'GPU where there is one. The robot never needs one.',
    )
    replay_capacity: int = Field(
        default=1_000_000, gt=0, description='Real transitions kept in the replay buffer.'
    )

    @property
    def reaches(self) -> bool:
        """Whether the backward phase has goals to reach."""
        return self.backward != 'none' and OBJECTIVES[self.backward]

    @property
    def returns_to_starts(self) -> bool:
        """Whether there is a backward phase that ends near where demonstrations start."""
        return self.end_near_starts and self.backward != 'none' and not self.reaches

    @property
    def needs_demonstrations(self) -> bool:
        """Whether there is no practice without demonstrations: they say what backward means."""
        by_example = self.exploration is not None or self.returns_to_starts
        return self.backward not in ('none', 'novelty') or by_example

    def forward_discount(self, limit: int) -> float:
        """Discount of the forward policy in a task with this ``forward_limit``."""
        return self.sac.discount or 1.0 - 2.0 / limit

    # Both count from the start of the run, so that what is no whole step is made up for later.

    def updates_due(self, steps: int, new: int) -> int:
        """Updates of the policies for the ``new`` steps that made the run ``steps`` long."""
        per_step = self.updates_per_step
        return math.floor(per_step * steps) - math.floor(per_step * (steps - new))

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
        if self.planner:
            self._check_planning(self.planner)
        elif self.warm_start:
            raise ValueError('warm_start: imitates the planner; set planner')
        if self.model and self.reaches:
            raise ValueError(f"model: set it to null with 'backward: {self.backward}'")
        return self

    def _check_planning(self, planner: PlannerConfig) -> None:
        if self.model is None:
            raise ValueError('planner: plans with the model; do not set model to null')
        if planner.candidates % self.model.elites:
            raise ValueError(
                f'planner.candidates ({planner.candidates}) must be a multiple of '
                f'model.elites ({self.model.elites})'
            )
        if self.warm_start and self.warm_start.planner_steps <= self.model.every:
            raise ValueError(
                f'warm_start.planner_steps ({self.warm_start.planner_steps}) must be more than '
                f'model.every ({self.model.every}): there is no model to plan with before'
            )

    @model_validator(mode='after')
    def _fractions(self) -> AgentConfig:
        share = self.demonstration_fraction + (self.model.fraction if self.model else 0.0)
        if share >= 1:
            raise ValueError(
                f'demonstration_fraction + model.fraction is {share:g}; leave room for real data'
            )
        return self
