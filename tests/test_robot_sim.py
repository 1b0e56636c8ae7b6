"""The simulated robot in real time, on a computer that does not always let it run."""

import random
import signal
from itertools import pairwise

import numpy as np
import pytest
from nav_msgs.msg import Odometry

from mbarl_ros.schema.message_fields import stamp_ns
from mbarl_sim.robot_sim import Pace
from support.graph import Graph

PERIOD = 0.1  # s


def stepped(stalls, seconds=20.0, period=PERIOD, late=0.0):
    """Times of steps. ``stalls``: (start, length) in s; ``late``: how late its timer may be (s)."""
    pace, rng, now, steps = Pace(period), random.Random(0), 0.0, []
    ticks = iter(np.arange(0.0, seconds, pace.tick).tolist())
    for due in ticks:
        now = max(now, due + rng.uniform(0.0, late))
        for begin, length in stalls:
            if begin <= now < begin + length:
                now = begin + length
        while due + pace.tick < now:  # as the timer leaves out what it missed
            due = next(ticks)
        if pace.due(now):
            steps.append(now)
        pace.worked(now)
    return np.array(steps)


@pytest.mark.together
@pytest.mark.parametrize('period', [0.01, 0.02, 0.05, 0.1, 0.25])
def test_without_stalls_the_simulation_keeps_its_rate(period):
    steps = stepped([], period=period, late=0.3 * Pace(period).tick)
    assert abs(len(steps) - 20.0 / period) <= 1
    assert np.abs(np.diff(steps) - period).max() < 0.31 * Pace(period).tick


@pytest.mark.together
def test_the_simulation_does_not_make_up_for_stalls():
    for begin in np.arange(1.0, 1.1, 0.003):
        for length in np.arange(0.05, 0.5, 0.007):
            steps = stepped([(begin, length)], 3.0)
            assert np.diff(steps).min() > 0.75 * PERIOD, (begin, length)
            assert np.diff(steps).max() < length + 1.5 * PERIOD, (begin, length)


@pytest.mark.together
def test_a_world_that_is_slower_than_life_steps_as_fast_as_it_can():
    pace, now, steps = Pace(PERIOD), 0.0, 0
    while now < 20.0:
        if pace.due(now):
            steps += 1
            now += 0.15
        pace.worked(now)
        now += pace.tick
    assert steps > 100


@pytest.mark.paced
@pytest.mark.timing('gaps between states are measured')
def test_a_simulation_that_was_suspended_gives_commands_the_time_to_come(tmp_path):
    """Two steps one upon the other: the second would be made with the command before the last."""
    stamps, rng = [], random.Random(0)
    with Graph(tmp_path, task='pointmass', mode='realtime') as graph:
        graph.node.create_subscription(
            Odometry, 'odom', lambda message: stamps.append(stamp_ns(message) * 1e-9), 100
        )
        graph.start('robot_sim')
        graph.wait_for('states', lambda: len(stamps) > 10)
        robot = graph.processes['robot_sim']
        for _ in range(12):
            robot.send_signal(signal.SIGSTOP)
            graph.spin(rng.uniform(0.05, 0.3))
            robot.send_signal(signal.SIGCONT)
            graph.spin(rng.uniform(0.1, 0.3))
    gaps = [after - before for before, after in pairwise(stamps)]
    assert max(gaps) > 0.25  # it was suspended
    assert min(gaps) > 0.5 * PERIOD
