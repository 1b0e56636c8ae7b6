"""``mbarl bench``: agents x tasks x seeds without ROS, in parallel, and what came of it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mbarl_ros import lifeline
from mbarl_ros.config import ConfigError
from mbarl_ros.demos.note import DemonstrationError
from mbarl_ros.studies import seeds
from mbarl_ros.studies.seeds import Seed

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
POLL = 0.2  # s

_EPILOG = """\
An agent is the name or path of a preset, or such a one with settings changed, as
PRESET:key=value,key=value with dotted keys and YAML values (key name: what to call it); `bc` is the
behaviour clone of the demonstrations. Names may be put together with commas, an agent with settings
is a word of its own:

  mbarl bench --agents mbarl,medal,bc 'mbarl:name=no model,model=null' mbarl:sac.cloning_weight=0

Each seed is kept in OUT/TASK/AGENT/seed_S: configuration as used, evaluations.jsonl and the policy,
as in the folder of `mbarl up sim` (try it with `mbarl up evaluate policy:=FOLDER`), metrics.jsonl
and the log. Finished seeds are not run again, interrupted ones start over; all are deterministic.
At the end OUT/TASK gets curves.png, table.md and table.json.
"""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code: 0 if every seed came to its end."""
    options = _parser().parse_args(arguments)
    try:
        if options.report:
            if not _report(Path(options.report)):
                raise ConfigError(f'{options.report}: there is no finished seed of a bench in it')
            return 0
        return _bench(options)
    except KeyboardInterrupt:
        print('interrupted; the same command goes on from here', file=sys.stderr)
        return EXIT_INTERRUPTED
    except (ConfigError, DemonstrationError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return EXIT_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mbarl bench',
        description='Agents x tasks x seeds, without ROS, in parallel processes of one thread '
        'each: the same learner and phases as on the robot.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--task', nargs='+', default=['tabletop'], help='names or .yaml (default: tabletop)'
    )
    parser.add_argument('--agents', nargs='+', default=['mbarl,bc'], metavar='AGENT', help='below')
    parser.add_argument(
        '--seeds', type=_seeds, default='5', help='how many, or which: 2,7 (default: 5, 0 to 4)'
    )
    parser.add_argument('--budget', type=_positive, help="environment steps; default: the task's")
    parser.add_argument('--out', default='runs/bench', help='folder (default: runs/bench)')
    parser.add_argument(
        '--jobs', type=_positive, help='processes at a time; default: the number of cores'
    )
    parser.add_argument(
        '--demonstrations', default='', metavar='FOLDER', help="default: the task's own"
    )
    parser.add_argument(
        '--demonstrations-per-goal',
        type=_positive,
        metavar='N',
        help='use only the first N forward ones of each goal and none backward; the agent is then '
        'called AGENT+demos=N',
    )
    parser.add_argument('--report', metavar='OUT', help='only write tables and pictures anew')
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{text} is not positive')
    return number


def _seeds(text: str) -> list[int]:
    words = [word.strip() for word in text.split(',') if word.strip()]
    numbers = sorted({int(word) for word in words}) if all(map(str.isdecimal, words)) else []
    chosen = numbers if ',' in text else [seed for count in numbers for seed in range(count)]
    if not chosen:
        raise argparse.ArgumentTypeError(
            f'{text}: give a number of seeds, or seeds like 2,7; seed 0 alone is 0,'
        )
    return chosen


def _agents(words: list[str]) -> list[str]:
    split = [[word] if ':' in word else word.split(',') for word in words]
    return list(dict.fromkeys(agent for part in split for agent in part if agent))


# --- the seeds -----------------------------------------------------------------------------------


@dataclass
class _Run:
    """A seed on its way: its process, folder, and how many of its lines have been shown."""

    title: str
    job: Seed
    folder: Path
    shown: int = field(default=0, init=False)
    process: subprocess.Popen | None = field(default=None, init=False)


def _bench(options: argparse.Namespace) -> int:
    waiting = [
        run
        for task in options.task
        for text in _agents(options.agents)
        for run in _unfinished(options, task, text)
    ]
    # all agents of a seed before the next one: something to compare, soon
    waiting.sort(key=lambda run: run.job.seed)
    failed = _run_all(waiting, options.jobs or len(os.sched_getaffinity(0)))
    for run in failed:
        print(f'error: {run.title} failed: {_last_words(run)}', file=sys.stderr)
    _report(Path(options.out))
    return EXIT_FAILURE if failed else 0


def _unfinished(options: argparse.Namespace, task_name: str, text: str) -> list[_Run]:
    """Seeds of an agent that have to be run; their folders are checked."""
    job = Seed(
        out=options.out,
        task=task_name,
        agent=text,
        seed=0,
        budget=0,
        demonstrations=options.demonstrations,
        per_goal=options.demonstrations_per_goal,
    )
    task, agent, demonstrations = job.load()
    budget = options.budget or task.config.evaluation.budget
    runs = []
    for seed in options.seeds:
        folder = seeds.seed_folder(job.out, task, agent, seed)
        seeds.check_folder(folder, seeds.configurations(task, agent, demonstrations, seed))
        title = f'{task.name} {agent.name} seed {seed}'
        if seeds.finished(folder, agent, budget):
            print(f'{title}: finished before')
        else:
            runs.append(_Run(title, replace(job, seed=seed, budget=budget), folder))
    return runs


def _run_all(waiting: list[_Run], jobs: int) -> list[_Run]:
    """Run them, so many at a time; those that failed. None outlives this process."""
    read_end, write_end = os.pipe()
    going: list[_Run] = []
    failed = []
    try:
        while waiting or going:
            while waiting and len(going) < jobs:
                run = waiting.pop(0)
                run.process = _start(run, read_end)
                going.append(run)
            time.sleep(POLL)
            for run in going:
                _show(run)
            ended = [run for run in going if run.process.poll() is not None]
            going = [run for run in going if run not in ended]
            failed += [run for run in ended if run.process.returncode]
    finally:
        for run in going:
            run.process.kill()
            run.process.wait()
        os.close(read_end)
        os.close(write_end)
    return failed


def _start(run: _Run, read_end: int) -> subprocess.Popen:
    run.folder.mkdir(parents=True, exist_ok=True)
    run.shown = len(seeds.read_lines(run.folder))
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', lifeline.VARIABLE: str(read_end)}
    with (run.folder / seeds.LOG_FILE).open('w') as log:
        return subprocess.Popen(
            [sys.executable, '-m', 'mbarl_ros.studies.bench', json.dumps(asdict(run.job))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(read_end,),
        )


def _show(run: _Run) -> None:
    """Print the evaluations of a seed that are new."""
    lines = seeds.read_lines(run.folder)
    if len(lines) < run.shown:  # it has started over
        run.shown = 0
    for line in lines[run.shown :]:
        wide = line['wide_success']
        print(
            f'{run.title}: {line["environment_steps"]} steps, '
            f'deployed {line["deployed_success"]:.2f}'
            + ('' if wide is None else f', wide {wide:.3f}')
            + f', {line["wall_seconds"]:.0f} s',
            flush=True,
        )
    run.shown = len(lines)


def _last_words(run: _Run) -> str:
    log = run.folder / seeds.LOG_FILE
    words = ''
    with contextlib.suppress(OSError):
        words = log.read_text(errors='replace').strip().rpartition('\n')[2]
    return f'{words or f"exit code {run.process.returncode}"}; see {log}'


def _report(out: Path) -> list[Path]:
    from mbarl_ros.studies.report import write_report

    written = write_report(out)
    for path in written:
        print(path)
    return written
