"""A controller whose policy stands still in each backward phase."""

import sys

if 'policy_controller' in sys.orig_argv:
    from mbarl_ros.control.phases import Practice
    from mbarl_ros.storage.transitions import BACKWARD

    _act = Practice.act

    def _idle(self, observation):
        action = _act(self, observation)
        return 0 * action if self.phase == BACKWARD else action

    Practice.act = _idle
