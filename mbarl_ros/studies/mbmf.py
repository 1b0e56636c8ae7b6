"""``mbarl study mbmf``: model-based control warm-starts model-free learning.

Nagabandi et al. (2018, sec. V, Figure 7): a policy imitates MPC by behaviour cloning and DAgger
(Ross et al. 2011); TRPO, or SAC, starts from this policy instead of from nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbarl_ros.learning.imitation import regress
from mbarl_ros.studies import mbmf_report
from mbarl_ros.studies.model_predictive import ModelPredictiveControl
from mbarl_ros.studies.mpc import SEEDS, SWIMMER, TRPO_STEPS, Mpc, env_name
from mbarl_ros.studies.study import Cell, Report, Results, Study
from mbarl_ros.studies.trpo import make_trpo, train_trpo

DAGGER = {'rounds': 3, 'episodes': 2, 'expert_states': 4000, 'gradient_steps': 2000}
WARM_STD = 0.3  # of the cloned policy's actions, as TRPO starts with them
POLICY_FILE = 'policy.zip'


class Mbmf(Study):
    """Whether model-free learning gets there sooner from a policy that imitates MPC."""

    name = 'mbmf'
    title = 'Model-based control, then model-free fine-tuning'
    description = 'imitate the planner (cloning, DAgger), fine-tune with TRPO (Nagabandi, Fig. 7)'
    shares_cells_with = (Mpc.name,)

    def cells(self, quick: bool) -> list[Cell]:
        """For each seed MPC, its imitation, TRPO from there and TRPO from scratch."""
        env = env_name(SWIMMER['task'])
        mpc = {cell.name: cell for cell in Mpc().cells(quick)}
        cells = []
        for seed in range(1 if quick else SEEDS):
            expert, scratch = mpc[f'mpc_{env}_{seed}'], mpc[f'trpo_{env}_{seed}']
            dagger = DAGGER | ({'rounds': 1, 'expert_states': 200} if quick else {})
            clone = {'kind': 'clone', 'seed': seed, 'env': env, **dagger}
            clone |= {'expert': dict(expert.settings)}
            warm = {'kind': 'warm', 'seed': seed, 'env': env}
            warm |= {'steps': 4096 if quick else TRPO_STEPS // 2}
            cells += [
                expert,
                scratch,
                Cell(f'clone_{env}_{seed}', clone, (expert.name,)),
                Cell(f'warm_{env}_{seed}', warm, (f'clone_{env}_{seed}',)),
            ]
        return cells

    def run(
        self,
        settings: Mapping[str, Any],
        folder: Path,
        report_progress: Callable[[float], None],
    ) -> dict[str, Any]:
        """MPC and TRPO as in study ``mpc``; ``clone`` imitates MPC, ``warm`` goes on with TRPO."""
        seed = settings['seed']
        if settings['kind'] == 'clone':
            expert = folder.parent / f'mpc_{settings["env"]}_{seed}'
            return imitate(settings, expert, folder, report_progress)
        if settings['kind'] == 'warm':
            clone = folder.parent / f'clone_{settings["env"]}_{seed}' / POLICY_FILE
            agent = make_trpo(settings['env'], seed)
            agent.set_parameters(str(clone), device='cpu')
            return {'returns': train_trpo(agent, settings['steps'], report_progress)}
        return Mpc().run(settings, folder, report_progress)

    def report(self, results: Results, folder: Path, quick: bool) -> Report:
        """Figure 7 of the paper, and the verdict."""
        return mbmf_report.report(results, folder)


def imitate(
    settings: Mapping[str, Any],
    expert: Path,
    folder: Path,
    report_progress: Callable[[float], None],
) -> dict[str, Any]:
    """Clone the planner into TRPO's policy network, then DAgger; the policy goes to ``folder``.

    Round 0 clones states that MPC visited. In each further round the policy acts, the planner
    labels the states that it visited, and the policy is fitted to all labels so far. Each round
    counts the environment steps of the policy.
    """
    control = ModelPredictiveControl(settings['expert'], settings['seed'])
    control.load(expert)
    agent = make_trpo(settings['env'], settings['seed'])
    policy = CloneOfPlanner(agent, control, settings['seed'])
    rng = np.random.default_rng([settings['seed'], 12])
    visited = control.rows.held()['observation'][control.random_rows :]
    count = min(settings['expert_states'], len(visited))
    states = visited[rng.choice(len(visited), count, replace=False)]
    labels = label(control, states)
    rounds, steps = [], 0
    for number in range(settings['rounds'] + 1):
        error = policy.fit(states, labels, settings['gradient_steps'])
        episodes = [policy.episode() for _ in range(settings['episodes'])]
        rounds.append(float(np.mean([total for _, total in episodes])))
        report_progress((number + 1) / (settings['rounds'] + 1))
        if number < settings['rounds']:
            new = np.concatenate([rows for rows, _ in episodes])
            steps += len(new)
            states = np.concatenate([states, new])
            labels = np.concatenate([labels, label(control, new)])
    policy.set_deviation(WARM_STD)
    agent.save(folder / POLICY_FILE)
    return {'round_returns': rounds, 'dagger_steps': steps, 'error': error}


def label(control: ModelPredictiveControl, states: np.ndarray, problems: int = 100) -> np.ndarray:
    """The planner's actions [n, A] in observations [n, O], each from a plan of its own."""
    parts = []
    for rows in np.split(states, range(problems, len(states), problems)):
        control.planner.forget(len(rows))
        for _ in range(2):  # the second plan starts from the first
            actions = control.planner.plan(rows)
        parts.append(actions)
    return np.concatenate(parts)


class CloneOfPlanner:
    """TRPO's policy network, fitted to the planner's actions and run in the planner's world."""

    def __init__(self, agent: Any, control: ModelPredictiveControl, seed: int) -> None:
        """Take the network of a TRPO agent."""
        self._network, self._control = agent.policy, control
        self._entries = agent.observation_space.shape[0]  # the task's observation has more
        self._generator = torch.Generator().manual_seed(seed)

    def mean(self, observation: torch.Tensor) -> torch.Tensor:
        """Mean action [n, A] of the environment's observations [n, entries]."""
        latent = self._network.mlp_extractor.forward_actor(observation)
        return self._network.action_net(latent)

    def fit(self, states: np.ndarray, labels: np.ndarray, steps: int) -> float:
        """Regression on all labels; the held-out squared error."""
        parameters = [
            *self._network.mlp_extractor.policy_net.parameters(),
            *self._network.action_net.parameters(),
        ]
        inputs = torch.from_numpy(states[:, : self._entries])
        return regress(
            self.mean, parameters, inputs, torch.from_numpy(labels), self._generator, steps
        )

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Mean action [A] in [-1, 1] for a task observation [O]."""
        with torch.no_grad():
            action = self.mean(torch.from_numpy(observation[None, : self._entries]))[0]
        return action.clamp(-1, 1).numpy()

    def episode(self) -> tuple[np.ndarray, float]:
        """Observations of one episode of the policy, and its return."""
        rows, total = self._control.rollout(self._control.settings['episode'], self.act)
        return rows['observation'], total

    def set_deviation(self, deviation: float) -> None:
        """Standard deviation of the actions with which TRPO starts."""
        with torch.no_grad():
            self._network.log_std.fill_(float(np.log(deviation)))
