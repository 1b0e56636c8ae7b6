"""The policy that acts in forward phases: the learned one, or a planner that it advises."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

import numpy as np

from mbarl_ros.control.model import LearnedModel, LearnedValue, has_model
from mbarl_ros.control.planning import PLANNERS, Rollouts
from mbarl_ros.control.policy import Policy
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.task import Task

_TIMES_KEPT = 1000  # latest planning times
_LABELS = 100  # observations that are labelled at once


class PlanningPolicy:
    """Plans with the learned model; has the interface of :class:`~.policy.Policy`.

    ``seconds``: time for one plan; infinite where nobody waits. Before :meth:`load` it cannot act.
    """

    def __init__(self, task: Task, agent: AgentConfig, seed: int) -> None:
        """Make the planner of a preset."""
        assert agent.planner is not None and agent.model is not None
        self._task, self._agent = task, agent
        self._config, self._model_config = agent.planner, agent.model
        self.seconds = np.inf
        make = PLANNERS[self._config.method]
        self.planner = make(self._config, task.action_dim, seed)
        self._times: deque[float] = deque(maxlen=_TIMES_KEPT)

    @property
    def observation_dim(self) -> int:
        """Entries of the observations that it plans from."""
        return self._task.observation_dim

    def load(self, arrays: Mapping[str, np.ndarray], name: str) -> None:
        """Plan with new weights from now on; policy ``name`` proposes candidates."""
        limit = self._task.config.phases.forward_limit
        discount = self._config.discount or self._agent.forward_discount(limit)
        value = None
        if self._config.terminal_value:
            value = LearnedValue(arrays, self._task, self._agent)
        self.planner.rollouts = Rollouts(
            self._task,
            self._config,
            LearnedModel(arrays, self._task, self._model_config),
            discount,
            Policy(arrays, name),
            value,
        )

    def begin(self, problems: int, *, reseed: bool = False) -> None:
        """As :meth:`.policy.Policy.begin`."""
        self.planner.forget(problems, reseed=reseed)

    def keep(self, mask: np.ndarray) -> None:
        """As :meth:`.policy.Policy.keep`."""
        self.planner.keep(mask)

    def mean_action(self, observation: np.ndarray) -> np.ndarray:
        """First action of the plan [..., A] for observations [..., O] of the problems begun."""
        start = time.monotonic()
        rows = observation.reshape(-1, observation.shape[-1])
        action = self.planner.plan(rows, self.seconds)
        self._times.append(time.monotonic() - start)
        return action.reshape(*observation.shape[:-1], -1)

    def sample(self, observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """As :meth:`mean_action`: the search is random enough."""
        return self.mean_action(observation)

    def label(self, observation: np.ndarray, plans: int = 1) -> np.ndarray:
        """Actions [n, A] in observations [n, O], each from a plan of its own (DAgger's expert).

        :param plans: for one action; each starts from the last one
        """
        labels = []
        for rows in np.split(observation, range(_LABELS, len(observation), _LABELS)):
            self.begin(len(rows))
            for _ in range(plans):
                action = self.mean_action(rows)
            labels.append(action)
        return np.concatenate(labels)

    def values(self) -> dict[str, str]:
        """Values for /diagnostics: planning time, and plans for which there was too little."""
        planner = self.planner
        late = np.percentile(self._times, 99) if self._times else 0.0
        return {
            'planning_ms_p99': f'{1e3 * late:.1f}',
            'plans': str(planner.plans),
            'plans_cut_short': str(planner.cut_short),
            'plans_continued': str(planner.continued),
        }


Actor = Policy | PlanningPolicy


def deployed_policy(
    arrays: Mapping[str, np.ndarray], name: str, task: Task, agent: AgentConfig, seed: int
) -> Actor:
    """The policy of a policy message as it is deployed: planning, where it carries a model."""
    if not has_model(arrays):
        return Policy(arrays, name)
    policy = PlanningPolicy(task, agent, seed)
    policy.load(arrays, name)
    return policy
