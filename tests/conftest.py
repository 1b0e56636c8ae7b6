"""Which tests must not share the processor with others: those that start real nodes.

What is right at any speed, as practice in lockstep is, may be marked ``together`` all the same.
"""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them; what is due in time, and who is heard when, depends on who else is running."""
    for item in items:
        if hasattr(item.module, 'Graph') and not item.get_closest_marker('together'):
            item.add_marker('alone')
