"""Sorts the tests by what they need of the machine, and repeats timing tests after host stalls.

``graph`` marks each test of a module that starts nodes: it imports ``Graph`` or has the mark. Of
these, ``together`` tests pass at any speed, ``paced`` tests mostly wait, and all others run
``alone``.

A ``timing`` test asserts when something happens. If it fails and the host stalled the machine
meanwhile (:mod:`support.host_stalls`), it is repeated, up to five attempts in all; the report names
the stall. No other test is ever repeated.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from support.host_stalls import HostStallMonitor

ATTEMPTS = 5


class HostStalls:
    """Watches the host during each timing test."""

    def __init__(self) -> None:
        self.monitor: HostStallMonitor | None = None

    def longest(self) -> float:
        """Longest stall (s) in the timing test that runs, or ran last."""
        return self.monitor.longest_stall() if self.monitor else 0.0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if item.get_closest_marker('timing'):
            self.monitor = self.monitor or HostStallMonitor()
            self.monitor.restart()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator:
        report = yield
        if report.failed and item.get_closest_marker('timing') and (stall := self.longest()):
            report.sections.append(('host', f'stalled this machine for {stall:.3f} s'))
        return report

    def pytest_unconfigure(self) -> None:
        if self.monitor:
            self.monitor.close()


STALLS = HostStalls()


def pytest_configure(config: pytest.Config) -> None:
    """Watch the host."""
    config.pluginmanager.register(STALLS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the markers that follow from others."""
    for item in items:
        if hasattr(item.module, 'Graph') or item.get_closest_marker('graph'):
            item.add_marker('graph')
            if not any(map(item.get_closest_marker, ('together', 'paced'))):
                item.add_marker('alone')
        if timing := item.get_closest_marker('timing'):
            assert timing.args, f"{item.nodeid}: timing needs a reason: timing('a stop within ...')"
            item.add_marker(pytest.mark.flaky(reruns=ATTEMPTS - 1, condition=STALLS.longest))


@pytest.fixture
def node(monkeypatch):
    """Makes nodes in this process, in a ROS domain of their own, with parameters."""
    import rclpy
    import torch

    from mbarl_ros.bringup.domain import take_domain

    made, locks = [], []

    def make(kind, **parameters):
        if not locks:
            monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
            domain, lock = take_domain({}, '')
            locks.append(lock)
            monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
        if rclpy.ok():
            rclpy.shutdown()
        settings = [word for item in parameters.items() for word in ('-p', '{}:={}'.format(*item))]
        rclpy.init(args=['--ros-args', *settings])
        made.append(kind())
        return made[-1]

    threads = torch.get_num_threads()
    yield make
    torch.set_num_threads(threads)
    for one in made:
        one.destroy_node()
    rclpy.try_shutdown()
    for lock in locks:
        lock.close()
