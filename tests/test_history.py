"""The history of a run: sampled diagnostics that survive crashes, kept short."""

import itertools

from mbarl_ros.storage.history import PERIOD, HistoryWriter, read_history

STATUS = {'learner': {'level': '0', 'updates': '20'}}


def test_lines_become_rarer_so_that_a_day_stays_small(tmp_path):
    writer = HistoryWriter(tmp_path, now=0.0)
    for second in range(24 * 3600):
        writer.add(float(second), 1e9 + second, STATUS)
    samples = read_history(tmp_path)
    assert 1000 < len(samples) < 4000
    gaps = [b.time - a.time for a, b in itertools.pairwise(samples)]
    assert gaps[0] == PERIOD and gaps[-1] > 100 and samples[0].status == STATUS


def test_the_last_line_is_written_although_it_is_not_due(tmp_path):
    writer = HistoryWriter(tmp_path, now=0.0)
    writer.add(0.0, 5.0, STATUS)
    writer.add(0.5, 5.5, STATUS)
    writer.add(0.6, 5.6, {**STATUS, 'safety_gate': {'level': '2'}}, last=True)
    assert [sample.time for sample in read_history(tmp_path)] == [5.0, 5.6]


def test_a_torn_line_costs_only_itself(tmp_path):
    writer = HistoryWriter(tmp_path, now=0.0)
    writer.add(0.0, 1.0, STATUS)
    with writer.path.open('ab') as file:
        file.write(b'{"time": 2.0, "sta')
    HistoryWriter(tmp_path, now=0.0).add(0.0, 3.0, STATUS)
    assert [sample.time for sample in read_history(tmp_path)] == [1.0, 3.0]


def test_a_run_without_history_has_none(tmp_path):
    assert read_history(tmp_path) == []
