"""``mbarl study mbmf``: model-based control warm-starts model-free learning.

Nagabandi et al. (2018, sec. V, Figure 7): a policy imitates MPC by behaviour cloning and DAgger
(Ross et al. 2011); TRPO, or SAC, starts from this policy instead of from nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mbarl_ros.studies import mbmf_report
from mbarl_ros.studies.agent_run import load_planner, practise
from mbarl_ros.studies.mpc import Mpc, run_trpo
from mbarl_ros.studies.mpc_settings import REPEAT, SEEDS, SWIMMER, TASKS, TRPO, VALUE_CHANGES
from mbarl_ros.studies.planner_clone import PlannerClone
from mbarl_ros.studies.study import Cell, Report, Results, Study
from mbarl_ros.studies.trpo import make_trpo, train_trpo

DAGGER = {'rounds': 3, 'episodes': 2, 'expert_states': 4000, 'gradient_steps': 2000}
QUICK_DAGGER = {'rounds': 1, 'episodes': 1, 'expert_states': 100, 'gradient_steps': 100}
WARM_SHARE = 0.5  # of the steps of TRPO from scratch
SAC_DECISIONS = 16_000
# What the robot's preset mbmf does: the planner first, then its imitation, then SAC.
SAC_WARM = {
    'warm_start.planner_steps': 8000,
    'warm_start.rounds': 3,
    'warm_start.round_steps': 250,
    'warm_start.states': 4000,
    'warm_start.gradient_steps': 2000,
}
POLICY_FILE = 'policy.zip'


class Mbmf(Study):
    """Whether model-free learning gets there sooner from a policy that imitates MPC."""

    name = 'mbmf'
    title = 'Model-based control, then model-free fine-tuning'
    description = 'imitate the planner (cloning, DAgger), fine-tune with TRPO (Nagabandi, Fig. 7)'
    reuses = (Mpc.name,)

    def cells(self, quick: bool) -> list[Cell]:
        """For each seed MPC, its imitation, TRPO and SAC from there and from scratch."""
        mpc = {cell.name: cell for cell in Mpc().cells(quick)}
        return [
            cell
            for seed in range(1 if quick else SEEDS[SWIMMER])
            for cell in self._of_seed(mpc, seed, quick)
        ]

    def _of_seed(self, mpc: Mapping[str, Cell], seed: int, quick: bool) -> list[Cell]:
        expert, scratch = mpc[f'value_{SWIMMER}_{seed}'], mpc[f'trpo_{SWIMMER}_{seed}']
        shared = {'env': SWIMMER, 'seed': seed}
        clone = shared | {'kind': 'clone', 'expert': dict(expert.settings)} | DAGGER
        warm = shared | {'kind': 'warm', 'steps': round(WARM_SHARE * TRPO[SWIMMER]['steps'])}
        sac = shared | {'task': TASKS[SWIMMER], 'repeat': REPEAT, 'decisions': SAC_DECISIONS}
        changes = {k: v for k, v in VALUE_CHANGES.items() if not k.startswith(('model', 'planner'))}
        from_scratch = sac | {'kind': 'sac', 'preset': 'oracle', 'changes': changes}
        from_warm = sac | {'kind': 'sac_warm', 'preset': 'mbmf'}
        from_warm['changes'] = VALUE_CHANGES | SAC_WARM
        if quick:
            clone |= QUICK_DAGGER
            warm['steps'] = 4096
            from_scratch['decisions'] = from_warm['decisions'] = 350
            from_warm['changes'] |= {'warm_start.planner_steps': 300, 'warm_start.states': 100}
        return [
            expert,
            scratch,
            Cell(f'clone_{seed}', clone, (expert.name,)),
            Cell(f'warm_{seed}', warm, (f'clone_{seed}',)),
            Cell(f'sac_{seed}', from_scratch),
            Cell(f'sac_warm_{seed}', from_warm),
        ]

    def run(
        self,
        settings: Mapping[str, Any],
        folder: Path,
        report_progress: Callable[[float], None],
    ) -> dict[str, Any]:
        """One seed of one method."""
        kind, seed = settings['kind'], settings['seed']
        if kind == 'clone':
            expert = folder.parent / f'value_{settings["env"]}_{seed}'
            return imitate(settings, expert, folder, report_progress)
        if kind == 'warm':
            agent = make_trpo(settings['env'], seed)
            agent.set_parameters(str(folder.parent / f'clone_{seed}' / POLICY_FILE), device='cpu')
            return {'returns': train_trpo(agent, settings['steps'], report_progress)}
        if kind == 'trpo':
            return run_trpo(settings, folder, report_progress)
        return practise(settings, folder, report_progress)

    def report(self, results: Results, folder: Path, quick: bool) -> Report:
        """Figure 7 of the paper, and the verdicts."""
        return mbmf_report.report(results, folder)


def imitate(
    settings: Mapping[str, Any],
    expert: Path,
    folder: Path,
    report_progress: Callable[[float], None],
) -> dict[str, Any]:
    """Clone the planner into TRPO's policy network, then DAgger; the policy goes to ``folder``.

    Cloning learns from states that MPC visited. In each round of DAgger the policy acts, the
    planner labels the states that it visited, and the policy is fitted to all labels so far.

    :returns: ``round_returns``, of the policy after cloning and after each round, and
        ``dagger_steps``, the environment steps that DAgger took
    """
    planner, visited = load_planner(settings['expert'], expert)
    agent = make_trpo(settings['env'], settings['seed'])
    clone = PlannerClone(agent, planner, settings['seed'])
    clone.label(clone.choose(visited, settings['expert_states']))
    returns, steps, rounds = [], 0, settings['rounds']
    for number in range(rounds + 1):
        clone.fit(settings['gradient_steps'])
        episodes = [clone.episode() for _ in range(settings['episodes'])]
        returns.append(sum(total for _, total in episodes) / len(episodes))
        if number < rounds:
            for states, _ in episodes:
                steps += len(states)
                clone.label(states)
        report_progress((number + 1) / (rounds + 1))
    clone.prepare_fine_tuning()
    agent.save(folder / POLICY_FILE)
    return {'round_returns': returns, 'dagger_steps': steps}
