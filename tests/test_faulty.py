"""A world that lies: lost and late commands, a sensor that drifts."""

import numpy as np
import pytest

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.task import Task

PUSH_RIGHT = np.array([0.2, 0.0, -1.0])


def world(**options):
    task = Task.load('tabletop')
    options = {'world': task.config.world, **options}
    config = task.config.model_copy(
        update={'world': 'mbarl_sim.faulty:Faulty', 'world_options': options}
    )
    return Task(config, task.robot).load_world(seed=0)


def test_without_a_fault_it_is_the_world():
    faulty, plain = world(), Task.load('tabletop').load_world(seed=0)
    assert (faulty.reset() == plain.reset()).all()
    for _ in range(5):
        assert (faulty.step(PUSH_RIGHT) == plain.step(PUSH_RIGHT)).all()


def test_a_delayed_command_is_executed_later_and_a_reset_forgets_it():
    faulty = world(delay=0.2)
    start = faulty.reset()
    assert (faulty.step(PUSH_RIGHT) == start).all()
    assert (faulty.step(np.zeros(3)) == start).all()
    assert faulty.step(np.zeros(3))[0] == pytest.approx(start[0] + 0.2)
    faulty.step(PUSH_RIGHT)
    assert (faulty.reset() == start).all()
    assert (faulty.step(np.zeros(3)) == start).all()


def test_a_slip_leaves_out_a_share_of_the_commands():
    faulty = world(slip=0.25)
    x = [faulty.reset()[0]]
    for number in range(800):
        x.append(faulty.step(PUSH_RIGHT if number % 2 else -PUSH_RIGHT)[0])
    moved = (np.diff(x) != 0).mean()
    assert 0.70 < moved < 0.80


def test_a_drift_stays_within_its_bounds_and_changes_nothing_but_its_entry():
    faulty, plain = world(drift={'mug_x': 0.3}), Task.load('tabletop').load_world(seed=0)
    faulty.reset(), plain.reset()
    off = np.array([faulty.step(PUSH_RIGHT) - plain.step(PUSH_RIGHT) for _ in range(500)])
    entry = list(plain.state_names).index('mug_x')
    assert np.abs(off[:, entry]).max() <= 0.3 and np.ptp(off[:, entry]) > 0.2
    assert (np.delete(off, entry, axis=1) == 0).all()


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'slip': 1.5}, 'slip must be from 0'),
        ({'delay': 0.05}, 'whole control steps of 0.1 s'),
        ({'drift': {'mug': 0.1}}, 'unknown state entries: mug'),
    ],
)
def test_a_fault_that_cannot_be_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        world(**options)
