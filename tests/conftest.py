"""Which tests must not share the processor with others: those that start real nodes.

What is right at any speed, as practice in lockstep is, may be marked ``together`` all the same, and
what leaves the processor to others most of the time ``paced``. A test that fails while the host
held this machine up has found out nothing: it is done again, up to five times in all, and the
output says so. What is wrong stays wrong.
"""

from collections.abc import Callable, Generator

import pytest

from support.host_stalls import Witness

ATTEMPTS = 5


class Host:
    """What the host did to a test, by a witness whom the first one calls in."""

    def __init__(self) -> None:
        self.witness: Witness | None = None

    def held_up(self) -> float:
        """Longest time (s) in the test that runs, or ran last."""
        return self.witness.held_up() if self.witness else 0.0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        self.witness = self.witness or Witness()
        self.witness.begin()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator:
        report = yield
        if report.failed and (late := self.held_up()):
            report.sections.append(('host', f'held this machine up for {late:.3f} s'))
        return report

    def pytest_unconfigure(self) -> None:
        if self.witness:
            self.witness.close()


HOST = Host()


@pytest.fixture
def held_up() -> Callable[[], float]:
    """Longest time (s) that the host has held this machine up in this test; 0 if it has not."""
    return HOST.held_up


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(HOST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them; what is due in time, and who is heard when, depends on who else is running."""
    for item in items:
        marked = any(map(item.get_closest_marker, ('together', 'paced')))
        if hasattr(item.module, 'Graph') and not marked:
            item.add_marker('alone')
        item.add_marker(pytest.mark.flaky(reruns=ATTEMPTS - 1, condition=HOST.held_up))
