"""Practice over a bad line goes on; tests/faults.py does it for two hours."""

import pytest

from support.graph import small_agent
from support.soak import soak

pytestmark = pytest.mark.together


def test_practice_over_a_bad_line_goes_on_and_loses_nothing(tmp_path):
    found = soak(tmp_path, 20.0, 8.0, agent=small_agent(tmp_path))
    print(found)
    assert found.learner_kills == 1 and found.updates > 0 and found.steps > 30, found
    assert found.unacknowledged == 0 and found.deactivations == 0 and found.stuck <= 15.0, found
