"""The Panda in the hardware graph, fuzzed: the profile's limits hold at its joints.

10,000 commands for each profile: python tests/faults.py arm.
"""

import pytest

from support.arm_side import FuzzedArm

pytestmark = [pytest.mark.graph, pytest.mark.alone, pytest.mark.slow]
JOINTS = [f'joint{number}' for number in range(1, 8)]
HAND = ['hand_x', 'hand_y', 'hand_z']


@pytest.mark.timing('a report tells of the commands that came in the period before it')
@pytest.mark.parametrize(
    ('task', 'entries', 'far'),
    [('door_velocity', JOINTS, 0.3), ('push', HAND, 0.1)],  # far: rad or m that each must move
)
def test_fuzzed_commands_break_no_limit_at_the_joints(tmp_path, task, entries, far):
    arm = FuzzedArm(tmp_path, task, seed=1)
    judgement = arm.run(500)
    print(judgement, arm.counts)
    assert not judgement.violations
    assert set(judgement.moved) == set(entries) and min(judgement.moved.values()) > far
    assert arm.counts['policy clipped'] > 200 and arm.counts['policy refused'] > 10
    assert judgement.commands > 500 and judgement.reports > 100 and judgement.stops > 10


def test_without_the_gate_the_same_commands_break_every_limit(tmp_path):
    """Otherwise the test above would prove nothing."""
    judgement = FuzzedArm(tmp_path, 'door_velocity', seed=1, gate=False).run(500)
    print(judgement)
    assert set(judgement.violations) >= {
        'not finite', 'range', 'rate', 'too fast at a bound', 'position', 'speed', 'acceleration'
    }  # fmt: skip
