"""Seeds that are trained as one stack: each learns what it would learn alone."""

import numpy as np
import pytest

from mbarl_ros.cli.main import main
from mbarl_ros.learning.learner import train_together
from mbarl_ros.learning.sac_stack import stacked
from mbarl_ros.studies.direct import DirectRun
from mbarl_ros.studies.seeds import SeedRun, read_evaluations
from mbarl_ros.studies.worker import run_seed, run_seeds
from mbarl_sim.pointmass import PointMass
from support.brief_task import write_brief_task

SMALL = 'mbarl:name=small,sac.hidden=[32,32],model.hidden=[32,32],model.every=100,chunk=25'


def runs(agent, seeds, task='pointmass'):
    task, agent, demonstrations = SeedRun('', task, agent, 0, 0).load()
    return [DirectRun(task, agent, demonstrations, seed) for seed in seeds]


def states(run):
    arrays, _ = run.learner.state_dict()
    return {name: array for name, array in arrays.items() if name.startswith('sac/')}


@pytest.mark.parametrize('changes', ['', ',sac.critics=3', ',sac.cloning_weight=0'])
def test_a_seed_in_a_stack_takes_the_steps_that_it_takes_alone(changes):
    # pointmass has forward demonstrations only: one of the two policies has a clone
    together = runs(SMALL + changes, (0, 1, 2))
    sac = stacked([run.learner.sac for run in together])
    before = [states(run) for run in together]
    received = [run.receive(run.collect()) for run in together]
    train_together(sac, [run.learner for run in together], received[0][1])
    for run, alone, start in zip(together, runs(SMALL + changes, (0, 1, 2)), before, strict=True):
        alone.learner.train(alone.receive(alone.collect())[1])
        changed = 0
        for name, array in states(alone).items():
            np.testing.assert_allclose(states(run)[name], array, rtol=1e-3, atol=1e-4, err_msg=name)
            changed += not np.array_equal(array, start[name])
        assert changed > 10


def test_seeds_of_a_stack_go_on_alone_from_their_checkpoints():
    together = runs(SMALL, (0, 1))
    sac = stacked([run.learner.sac for run in together])
    for _ in range(2):
        received = [run.receive(run.collect()) for run in together]
        train_together(sac, [run.learner for run in together], received[0][1])
        for run in together:
            run.keep_policy()
    arrays, meta = together[1].learner.state_dict()
    (resumed,) = runs(SMALL, (1,))
    for _ in range(2):
        resumed.learner.add(resumed.collect())
    resumed.learner.load_state_dict(arrays, meta)
    rows = together[1].collect()
    for run in (resumed, together[1]):
        run.learner.add(rows)
    received = together[0].receive(together[0].collect())
    train_together(sac, [run.learner for run in together], received[1])
    resumed.learner.train(received[1])
    for name, array in states(resumed).items():
        np.testing.assert_allclose(states(together[1])[name], array, rtol=1e-3, atol=1e-4)


def test_bench_stacks_seeds_in_one_process_and_finishes_each(tmp_path, capsys):
    words = ['bench', '--task', 'pointmass', '--agents', f'{SMALL}', '--seeds', '3', '--stack', '2']
    words += ['--budget', '100', '--every', '50', '--out', str(tmp_path)]
    assert main(words) == 0
    folders = sorted((tmp_path / 'pointmass' / 'small').glob('seed_*'))
    assert [folder.name for folder in folders] == ['seed_0', 'seed_1', 'seed_2']
    for folder in folders:
        assert [line['environment_steps'] for line in read_evaluations(folder)] == [0, 50, 100]
        assert (folder / 'result.json').exists() and (folder / 'policy.safetensors').exists()
    assert [bool((folder / 'bench.log').exists()) for folder in folders] == [True, False, True]
    assert 'seed 1: 100 steps' in capsys.readouterr().out
    assert main(words) == 0
    assert capsys.readouterr().out.count('already finished') == 3


def test_a_stack_that_fails_names_all_its_seeds(tmp_path, capsys):
    taken = tmp_path / 'pointmass' / 'small' / 'seed_1' / 'metrics.jsonl'
    taken.mkdir(parents=True)  # where a file has to go
    words = ['bench', '--task', 'pointmass', '--agents', SMALL, '--seeds', '2', '--stack', '2']
    assert main([*words, '--budget', '50', '--every', '50', '--out', str(tmp_path)]) == 1
    assert 'small seed 0, seed 1 failed: ' in capsys.readouterr().err


def test_presets_that_plan_and_ray_are_refused(tmp_path, capsys):
    words = ['bench', '--task', 'pointmass', '--stack', '2', '--out', str(tmp_path)]
    assert main([*words, '--agents', 'mpc']) == 2
    assert "--stack: agent 'mpc' plans" in capsys.readouterr().err
    assert main([*words, '--agents', 'mbarl', '--engine', 'ray']) == 2
    assert 'leave out --engine ray' in capsys.readouterr().err


class Windy(PointMass):
    """A drift that each seed has for itself, also in evaluations."""

    def __init__(self, *, seed=0):
        self._drift = np.random.default_rng(seed).uniform(-1, 1, 2)
        super().__init__(seed=seed)

    def step(self, command):
        return super().step(np.asarray(command) + self._drift)


def test_seeds_of_a_stack_are_evaluated_in_their_own_worlds(tmp_path):
    evaluation = {'episodes': 20, 'horizon': 40, 'every': 25, 'budget': 25}
    task = write_brief_task(tmp_path / 'task.yaml', evaluation)
    task.write_text(task.read_text().replace('mbarl_sim.pointmass:PointMass', f'{__name__}:Windy'))
    task, agent, demonstrations = SeedRun('', str(task), SMALL, 0, 0).load()
    alone, together = ({seed: tmp_path / name / str(seed) for seed in (0, 1)} for name in 'at')
    for seed, folder in alone.items():
        run_seed(task, agent, demonstrations, seed, 25, folder)
    run_seeds(task, agent, demonstrations, together, 25)
    found = [[read_evaluations(each[seed])[0]['deployed_success'] for seed in (0, 1)]
             for each in (alone, together)]  # fmt: skip
    assert found[0] == found[1] and found[0][0] != found[0][1]
