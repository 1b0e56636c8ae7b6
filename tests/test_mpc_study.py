"""``mbarl study mpc`` and ``mbmf``: curves and verdicts follow the numbers, and both run."""

import json

import numpy as np
import pytest

from mbarl_ros.cli.main import main
from mbarl_ros.studies.mbmf import Mbmf
from mbarl_ros.studies.mbmf_report import sooner
from mbarl_ros.studies.mpc import Mpc
from mbarl_ros.studies.mpc_curves import mean_curve, planned_curve, steps_to, trpo_curve
from mbarl_ros.studies.mpc_report import efficiency
from mbarl_ros.studies.mpc_settings import PURE, VARIANT_BASE, VARIANTS, variant


def line(last, high, points=50):
    """A curve that rises to ``high`` at its ``last`` step."""
    steps = np.linspace(last / points, last, points)
    return steps, steps * high / last


def test_curves_average_training_episodes_and_leave_out_random_ones():
    returns = [(1000 * (i + 1), float(i)) for i in range(40)]
    steps, means = trpo_curve(returns, 40_000)
    assert steps.tolist() == [20_000, 40_000] and means.tolist() == [9.5, 29.5]
    steps, means = planned_curve([(500, 99.0, False), (1500, 1.0, True), (2500, 3.0, True)])
    assert steps.tolist() == [1500, 2500] and means.tolist() == [1.0, 2.0]
    steps, means = mean_curve([line(100, 1.0), line(200, 4.0)])
    assert steps[-1] == 100 and means[-1] == pytest.approx(1.5)
    assert steps_to((steps, means), 2.0) == np.inf


@pytest.mark.parametrize(('last', 'holds'), [(90_000, True), (200_000, False)])
def test_ten_times_fewer_steps_are_counted_at_the_same_return(last, holds):
    trpo = [line(1_000_000, 100.0), line(1_000_000, 120.0)]
    verdict = efficiency('Swimmer-v5', [line(last, 110.0), line(last, 110.0)], trpo, 'TRPO')
    assert verdict.holds is holds
    assert '94) after' in verdict.evidence and 'times fewer' in verdict.evidence


def test_mpc_that_never_gets_there_is_said():
    verdict = efficiency('Swimmer-v5', [line(50_000, 30.0)], [line(1_000_000, 100.0)], 'TRPO')
    assert verdict.holds is False
    assert 'its best mean over seeds is 30 in 50,000 steps' in verdict.evidence


def test_the_steps_before_fine_tuning_count():
    scratch = [line(600_000, 300.0)]
    steps, returns = line(300_000, 600.0)
    assert sooner([(steps, returns)], scratch, 'TRPO').holds
    assert not sooner([(steps + 200_000, returns)], scratch, 'TRPO').holds


def test_variants_change_one_thing_and_random_shooting_has_as_many_rollouts():
    for path, values in VARIANTS.values():
        assert any(variant(VARIANT_BASE, path, value) == VARIANT_BASE for value in values)
    planner = variant(PURE, ('planner', 'method'), 'random_shooting')['planner']
    budget = PURE['planner']['candidates'] * PURE['planner']['iterations']
    assert planner['candidates'] * planner['iterations'] == budget


def test_both_studies_have_the_same_experts():
    mpc = {cell.name: cell.settings for cell in Mpc().cells(quick=False)}
    shared = [cell for cell in Mbmf().cells(quick=False) if cell.name in mpc]
    assert shared and all(mpc[cell.name] == cell.settings for cell in shared)


@pytest.mark.slow
def test_the_quick_studies_run_from_end_to_end_and_share_their_cells(tmp_path, capsys):
    common = ['--quick', '--jobs', '2', '--out', str(tmp_path)]
    assert main(['study', 'mpc', *common]) == 0
    assert main(['study', 'mbmf', *common]) == 0
    progress = capsys.readouterr().err
    assert 'mbmf 3/6' in progress and 'mbmf 1/6' not in progress  # two were finished
    for name, figures in (('mpc', ['returns', 'open_loop']), ('mbmf', ['fine_tuning'])):
        folder = tmp_path / f'{name}-quick'
        text = (folder / 'report.md').read_text()
        assert all(f'{figure}.png' in text and (folder / f'{figure}.png').exists()
                   for figure in figures)  # fmt: skip
        assert json.loads((folder / 'results.json').read_text())
