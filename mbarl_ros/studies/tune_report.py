"""Report of ``mbarl tune``: the best settings as a preset, how sure they are, every trial."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from mbarl_ros.schema.load import override
from mbarl_ros.storage.files import write_file
from mbarl_ros.studies.seeds import load_variant
from mbarl_ros.studies.tune import DEFAULT, Final, Finals, Plan
from mbarl_ros.studies.tune_figure import plot_tune
from mbarl_ros.studies.tune_scores import difference, interquartile_mean, interval, total_score
from mbarl_ros.studies.tune_trials import Trials

_SURE = 0.05  # p-value
PRESET_FILE, TEXT_FILE, DATA_FILE, FIGURE_FILE = 'best.yaml', 'tune.md', 'tune.json', 'tune.png'


def write_report(plan: Plan, trials: Trials, finals: Finals) -> tuple[str, list[Path]]:
    """Write preset, report, numbers and figure; returns the verdict and the paths.

    There is no preset where no settings finished their fresh seeds.
    """
    data = _data(plan, trials, finals)
    preset = _preset(plan, finals.finished[0]) if finals.finished else ''
    best, *paths = [plan.out / name for name in (PRESET_FILE, TEXT_FILE, DATA_FILE, FIGURE_FILE)]
    write_file(paths[0], _text(plan, data, preset).encode())
    write_file(paths[1], (json.dumps(data, indent=2) + '\n').encode())
    plot_tune(data, paths[2])
    if not preset:
        best.unlink(missing_ok=True)  # of an earlier search
        return data['verdict'], paths
    write_file(best, preset.encode())
    return data['verdict'], [best, *paths]


def _preset(plan: Plan, best: Final) -> str:
    """The best settings as a preset file; keys that have their defaults are left out."""
    agent = load_variant(plan.preset)
    changes = {'name': f'{agent.name}-tuned', **best.changes}
    raw = override(agent, changes, 'best').model_dump(mode='json', exclude_defaults=True)
    text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
    return (
        '# Agent preset of mbarl_ros (not a ROS parameter file). Absent keys have their defaults.\n'
        f'# Found by mbarl tune, {best.name}: {plan.preset} on {_tasks(plan)}.\n{text}'
    )


def _data(plan: Plan, trials: Trials, finals: Finals) -> dict[str, Any]:
    best = next(iter(finals.finished), None)
    differences = {
        other.name: asdict(difference(best.fresh, other.fresh)) for other in finals.finished[1:]
    }
    return {
        'plan': {**plan.config(), 'fresh_seeds': plan.fresh_seeds, 'trials': trials.count},
        'preset': load_variant(plan.preset).name,
        'best': best.name if best else None,
        'verdict': _verdict(finals, differences, plan),
        'differences': differences,
        'finals': [
            {
                'name': final.name,
                'changes': final.changes,
                'fresh': total_score(final.fresh),
                'interval': interval(final.fresh),
                'search': total_score(final.search),
                'worst_task': _worst_task(final),
                'seeds': {Path(task).stem: list(scores) for task, scores in final.fresh.items()},
            }
            for final in finals.finished
        ],
        'failures': finals.failures,
        'importance': trials.importance(),
        'trials': [
            {
                'number': number,
                'state': trials.state(number),
                'score': trials.score(number),
                'rungs': trials.rungs(number),
                'changes': trials.changes(number),
            }
            for number in range(trials.count)
        ],
    }


def _tasks(plan: Plan) -> str:
    return ', '.join(Path(task).stem for task in plan.tasks)


def _worst_task(final: Final) -> str:
    return Path(min(final.fresh, key=lambda task: interquartile_mean(final.fresh[task]))).stem


def _verdict(finals: Finals, differences: dict[str, Any], plan: Plan) -> str:
    if not finals.finished:
        return 'No settings finished all fresh seeds; the scores of the search favour the lucky.'
    best = finals.finished[0]
    if best.name == DEFAULT:
        finished = ' that finished' if finals.failures else ''
        return f'No setting{finished} beats {plan.preset} as it is on fresh seeds.'
    settings = ', '.join(f'{key}={value}' for key, value in best.changes.items())
    if DEFAULT not in differences:
        return (
            f'{settings}: the best that finished on {plan.fresh} fresh seeds, not compared with '
            f'{plan.preset} as it is, which failed.'
        )
    found = differences[DEFAULT]
    sure = 'better' if found['low'] > 0 and found['p'] < _SURE else 'not surely better'
    return (
        f'{settings}: {sure} than {plan.preset} as it is on {plan.fresh} fresh seeds, by '
        f'{_difference(found)}.'
    )


def _difference(found: dict[str, float]) -> str:
    return (
        f'{found["mean"]:+.3f} (95 % interval {found["low"]:+.3f} to {found["high"]:+.3f}, '
        f'p = {found["p"]:.3f})'
    )


def _text(plan: Plan, data: dict[str, Any], preset: str) -> str:
    keys = list(plan.space)
    finals = [
        [
            final['name'],
            *(_value(final['changes'].get(key)) for key in keys),
            f'{final["fresh"]:.3f} ({final["interval"][0]:.3f} to {final["interval"][1]:.3f})',
            f'{final["search"]:.3f}',
            final['worst_task'],
            'best' if final['name'] == data['best'] else _less(data, final['name']),
        ]
        for final in data['finals']
    ]
    trials = [
        [
            str(trial['number']),
            *(_value(trial['changes'][key]) for key in keys),
            '-' if trial['score'] is None else f'{trial["score"]:.3f}',
            trial['state'].lower(),
            str(trial['rungs']),
        ]
        for trial in data['trials']
    ]
    budget = plan.budget or "the task's"
    importance = [[key, f'{share:.2f}'] for key, share in data['importance'].items()]
    parts = [
        f'# Tuning {data["preset"]}\n\n{data["verdict"]}\n',
        f'`{plan.preset}` on {_tasks(plan)}. Trials: {len(trials)}; seeds of each: '
        f'{", ".join(map(str, plan.seeds))}; environment steps of a seed: {budget}.\n',
        f'![Trials, settings, fresh seeds]({FIGURE_FILE})\n',
        *([f'## Best settings\n\n`{PRESET_FILE}`:\n\n```\n{preset}```\n'] if preset else []),
        '## On fresh seeds\n',
        *_failures(data['failures']),
        f'Seeds {plan.fresh_seeds[0]} to {plan.fresh_seeds[-1]}, which the search has not seen, so '
        'that luck in the search does not count. Intervals: percentile bootstrap over seeds. '
        'Only the choice among these few settings still favours the best a little.\n',
        _table(
            ['settings', *keys, 'score', 'in the search', 'worst task', 'best less this'], finals
        ),
        '## Which setting matters\n',
        _table(['setting', 'importance'], importance)
        if importance
        else 'Too few finished trials, or all scores are equal.\n',
        '## All trials\n',
        _table(['trial', *keys, 'score', 'state', 'rungs'], trials),
        _FOOTNOTE,
    ]
    return '\n'.join(parts)


_FOOTNOTE = (
    'Score of a seed: mean deployed success over the steps of practice, relative to the behaviour '
    'clone of the same demonstrations: 0 is the clone, 1 is always successful, -1 never. Score of '
    'settings: half the interquartile mean over all tasks and seeds, half that of the worst task. '
    'A trial is judged ten times a seed (rungs) and pruned where its best rung so far is below the '
    'median of finished trials; its score is then that of its last rung.\n'
)


def _failures(failures: Sequence[str]) -> list[str]:
    if not failures:
        return []
    lines = ''.join(f'- {failure}\n' for failure in failures)
    return [
        f'Settings with a seed that failed are left out; the same command runs it again:\n\n{lines}'
    ]


def _less(data: dict[str, Any], name: str) -> str:
    return _difference(data['differences'][name])


def _value(value: Any) -> str:
    return 'as it is' if value is None else str(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ['---'] * len(header), *rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)
