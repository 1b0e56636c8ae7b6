"""Study ``dyna-maze``: planning with a learned model, on the mazes of Sutton and Barto.

The algorithm is in :mod:`mbarl_ros.studies.dyna_q`; this file repeats it and judges the results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.studies import dyna_figures
from mbarl_ros.studies.dyna_q import (
    LONGEST_PATH,
    MAZES,
    DynaQ,
    cumulative_reward,
    learn_maze,
)
from mbarl_ros.studies.statistics import sign_flip_p
from mbarl_ros.studies.study import Cell, Report, Results, Study, Verdict

PLANNING_STEPS = (0, 5, 50)
OPTIMUM = 14  # steps of the shortest path through the Dyna maze
SHORTCUT = 10  # steps of the shortest path once the shortcut is open
CURVE_PERIOD = 50  # real steps between two points of a curve
KAPPA = 1e-3
CHANGING = {'blocking': 3000, 'shortcut': 6000}  # maze -> real steps
AGENTS = {'dyna-q': 0.0, 'dyna-q-plus': KAPPA}

_INTRODUCTION = """\
An agent has to find its way from S to G in a maze that it does not know (reward 1 at the goal,
else 0). **Q-learning** corrects one value after each real step. **Dyna-Q** also remembers what
every step led to, its *model*, and after each real step repeats `n` remembered ones in imagination.
Real steps are what a robot has little of, so the question is how many of them the imagined ones
save. This is the smallest instance of the idea that mbarl_ros scales up: there the memory becomes a
neural network that predicts the dynamics, and the table of values becomes soft actor-critic.

**Dyna-Q+** adds a bonus for actions that have not been tried for long, `kappa * sqrt(time since)`,
because a model can be out of date: in two more mazes a wall moves while the agent is at work, which
nobody tells it.

Source: R. S. Sutton and A. G. Barto, *Reinforcement Learning*, 2nd edition, sections 8.2 and 8.3.
The code to read is `mbarl_ros/studies/dyna_q.py`."""


class DynaMaze(Study):
    """Dyna-Q with 0, 5 and 50 planning steps; Dyna-Q and Dyna-Q+ where the maze changes."""

    name = 'dyna-maze'
    title = 'Dyna-Q: planning with a model saves real steps'
    description = 'Tabular Dyna-Q on the mazes of Sutton and Barto: what planning saves'

    def cells(self, quick: bool) -> list[Cell]:
        """One cell for each maze and agent, with all its runs."""
        runs = 5 if quick else 30
        common = {'gamma': 0.95, 'epsilon': 0.1}
        changing = [
            Cell(
                f'{maze}_{agent}',
                {
                    'maze': maze,
                    'planning_steps': 50,
                    'runs': runs,
                    'steps': steps,
                    'alpha': 0.5,
                    'kappa': kappa,
                    **common,
                },
            )
            for maze, steps in reversed(CHANGING.items())
            for agent, kappa in reversed(AGENTS.items())
        ]
        return changing + [
            Cell(
                f'dyna_n{n}',
                {
                    'maze': 'dyna',
                    'planning_steps': n,
                    'runs': runs,
                    'episodes': 50,
                    'alpha': 0.1,
                    'kappa': 0.0,
                    **common,
                },
            )
            for n in PLANNING_STEPS
        ]

    def run(
        self,
        settings: Mapping[str, Any],
        folder: Path,
        report_progress: Callable[[float], None],
    ) -> dict[str, Any]:
        """All runs of one agent in one maze; seed r for run r."""
        runs = []
        for seed in range(settings['runs']):
            agent = DynaQ(
                MAZES[settings['maze']],
                settings['planning_steps'],
                seed,
                **{name: settings[name] for name in ('alpha', 'gamma', 'epsilon', 'kappa')},
            )
            runs.append(
                _episodes(agent, settings) if 'episodes' in settings else _steps(agent, settings)
            )
            report_progress((seed + 1) / settings['runs'])
        return {name: [run[name] for run in runs] for name in runs[0]}

    def report(self, results: Results, folder: Path, quick: bool) -> Report:
        """Figures like 8.2 to 8.5 of the book, and a verdict on each of its claims."""
        found = {name: _arrays(each['result']) for name, each in results.items()}
        figures = [dyna_figures.mazes(folder)]
        if learned := {n: found[f'dyna_n{n}'] for n in PLANNING_STEPS if f'dyna_n{n}' in found}:
            figures += [dyna_figures.learning(folder, learned, OPTIMUM)]
            figures += [dyna_figures.knowledge(folder, learned)]
        changed = {name: found[name] for name in found if not name.startswith('dyna_n')}
        if changed:
            figures += [dyna_figures.changing(folder, changed, CURVE_PERIOD)]
        return Report(
            introduction=_INTRODUCTION,
            verdicts=[
                *_learning_verdicts(learned),
                _shortcut_verdict(changed),
                _blocking_verdict(changed),
            ],
            figures=figures,
            tables=[_learning_table(learned)] if learned else [],
            notes=_NOTES,
        )


_NOTES = f"""\
* Step size 0.1, discount 0.95 and 10 % random actions as in the book's Figure 8.2. The book does
  not give the settings of Figures 8.4 and 8.5; here step size 0.5, n = 50 and kappa {KAPPA:g}.
* Ties between actions are broken at random. Run r has seed r.
* *Greedy path*: steps from S to G by the learned values without random actions, at most
  {LONGEST_PATH}. Steps per episode include the random actions: an agent that knows the shortest
  path still takes 15.9 steps on average.
* Why planning does not always end on the shortest path: values start at zero, so an action that was
  never tried looks worse than any known way to the goal. An agent whose first episode found the way
  round the top (16 steps) and never saw the better one keeps to it until a random action helps; the
  more it plans, the sooner it commits itself. Dyna-Q+ exists for the same reason."""


def _episodes(agent: DynaQ, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Steps and greedy path of each episode, and the actions preferred after the second one."""
    second, preferred = 2, []
    steps, paths = learn_maze(agent, second)
    for values in agent.q:
        preferred.append(values.index(max(values)) if any(values) else -1)
    more_steps, more_paths = learn_maze(agent, settings['episodes'] - second)
    return {'steps': steps + more_steps, 'paths': paths + more_paths, 'preferred': preferred}


def _steps(agent: DynaQ, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Cumulative reward every ``CURVE_PERIOD`` real steps, and the greedy path at the end."""
    reward = cumulative_reward(agent, settings['steps'])
    curve = [int(value) for value in reward[CURVE_PERIOD - 1 :: CURVE_PERIOD]]
    return {'curve': curve, 'path': agent.greedy_path()}


def _arrays(result: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in result.items()}


def _spread(values: np.ndarray) -> str:
    """Mean and standard error over runs."""
    return f'{values.mean():.1f} ± {values.std(ddof=1) / len(values) ** 0.5:.1f}'


def first_within(paths: np.ndarray, limit: float) -> int | None:
    """First episode (from 1) after which the mean over runs of [runs, episodes] is in the limit."""
    reached = np.flatnonzero(paths.mean(0) <= limit)
    return int(reached[0]) + 1 if len(reached) else None


def _learning_verdicts(learned: Mapping[int, Mapping[str, np.ndarray]]) -> list[Verdict]:
    claims = (
        'With n = 50 the greedy path is within one step of the 14-step optimum by episode 5',
        'Without planning (n = 0) it needs more than 20 episodes for that',
        'The more planning, the fewer real steps, as in Figure 8.2',
    )
    if len(learned) < len(PLANNING_STEPS):
        return [Verdict(claim, None, 'cells are missing') for claim in claims]
    plain, much = learned[0], learned[50]
    after_five = much['paths'][:, 4]
    early = {n: each['steps'][:, 1:20].sum(1) for n, each in learned.items()}
    p_values = [sign_flip_p(early[0] - early[5]), sign_flip_p(early[5] - early[50])]
    first = first_within(plain['paths'], OPTIMUM + 1)
    return [
        Verdict(
            claims[0],
            bool(after_five.mean() <= OPTIMUM + 1),
            f'greedy path after episode 5: {_spread(after_five)} steps (mean and standard error '
            f'over {len(after_five)} runs), median {np.median(after_five):g}; '
            f'{(after_five == OPTIMUM).mean():.0%} of the runs have 14 steps, '
            f'{(after_five == 16).mean():.0%} have the way round the top with 16; steps in episode '
            f'5, random actions included: {_spread(much["steps"][:, 4])} (optimum: 15.9)',
        ),
        Verdict(
            claims[1],
            first is None or first > 20,
            f'mean greedy path after episode 20: {plain["paths"][:, 19].mean():.1f} steps; at most '
            + (
                f'15 for the first time after episode {first}'
                if first
                else '15 in no episode up to 50'
            ),
        ),
        Verdict(
            claims[2],
            max(p_values) < 0.05,
            'real steps in episodes 2 to 20: '
            + ', '.join(f'{_spread(steps)} with n = {n}' for n, steps in early.items())
            + f'; paired over runs, sign-flip p = {p_values[0]:.2g} and {p_values[1]:.2g}',
        ),
    ]


def _shortcut_verdict(changed: Mapping[str, Mapping[str, np.ndarray]]) -> Verdict:
    claim = 'Dyna-Q+ finds the shortcut, Dyna-Q does not'
    if not {'shortcut_dyna-q', 'shortcut_dyna-q-plus'} <= changed.keys():
        return Verdict(claim, None, 'cells are missing')
    plain, plus = (changed[f'shortcut_{agent}']['path'] <= SHORTCUT for agent in AGENTS)
    return Verdict(
        claim,
        bool(plus.mean() > 0.9 and plain.mean() < 0.1),
        f'the greedy path at the end takes the shortcut ({SHORTCUT} steps, not 16) in '
        f'{plus.sum()} of {len(plus)} runs of Dyna-Q+ and {plain.sum()} of {len(plain)} of Dyna-Q',
    )


def _blocking_verdict(changed: Mapping[str, Mapping[str, np.ndarray]]) -> Verdict:
    claim = 'When its way is blocked, Dyna-Q+ finds the other one sooner'
    if not {'blocking_dyna-q', 'blocking_dyna-q-plus'} <= changed.keys():
        return Verdict(claim, None, 'cells are missing')
    change = MAZES['blocking'].change // CURVE_PERIOD - 1
    curves = (changed[f'blocking_{agent}']['curve'] for agent in AGENTS)
    plain, plus = (curve[:, -1] - curve[:, change] for curve in curves)
    p = sign_flip_p(plus - plain)
    return Verdict(
        claim,
        p < 0.05,
        f'goals in the 2,000 steps after the wall has moved: {_spread(plus)} with Dyna-Q+, '
        f'{_spread(plain)} with Dyna-Q; paired over runs, sign-flip p = {p:.2g}',
    )


def _learning_table(
    learned: Mapping[int, Mapping[str, np.ndarray]],
) -> tuple[str, tuple[str, ...], list[list[Any]]]:
    episodes = (2, 5, 20, 50)
    header = (
        'n',
        *(f'steps in episode {episode}' for episode in episodes),
        *(f'greedy path after {episode}' for episode in episodes),
    )
    rows = []
    for n, each in learned.items():
        columns = [each[name].mean(0)[np.array(episodes) - 1] for name in ('steps', 'paths')]
        rows.append([n, *(f'{value:.1f}' for value in np.concatenate(columns))])
    return 'Dyna maze, means over runs', header, rows
