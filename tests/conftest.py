"""Which tests must not share the processor with others: those that start real nodes."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them; what is due in time, and who is heard when, depends on who else is running."""
    for item in items:
        if hasattr(item.module, 'Graph'):
            item.add_marker('alone')
