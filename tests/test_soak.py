"""Practice over a bad line goes on; tests/faults.py does it for two hours."""

import pytest

from support.graph import small_agent
from support.soak import soak

pytestmark = [pytest.mark.graph, pytest.mark.together]


def test_practice_over_a_bad_line_goes_on_and_loses_nothing(tmp_path):
    result = soak(tmp_path, 20.0, 8.0, agent=small_agent(tmp_path))
    print(result)
    assert result.learner_kills == 1 and result.updates > 0 and result.steps > 30, result
    assert result.unacknowledged == 0 and result.deactivations == 0 and result.stuck <= 15.0, result
