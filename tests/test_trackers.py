"""Trackers: what is written offline, read back; the same run after a restart; servers that hang."""

import json
import signal
import socket
import struct
import time
from contextlib import contextmanager

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from mbarl_ros.bringup import graphs
from mbarl_ros.nodes.tracker import Tracker
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.run_files import EVALUATIONS_FILE, RESULT_FILE, TRACKER_FILE
from support.graph import TIMEOUT, Graph

pytestmark = pytest.mark.together

LINES = [
    {'environment_steps': 0, 'deployed_success': 0.25, 'task': 'pointmass', 'clone_success': None},
    {'environment_steps': 500, 'deployed_success': 0.75, 'task': 'pointmass', 'clone_success': 0.5},
]
PATIENCE = 3 * TIMEOUT  # the tracker gives way, so that on a busy machine its imports take minutes
DROP = ('WANDB_', 'MLFLOW_')


@contextmanager
def tracked(folder, library, **variables):
    """A graph of a tracker, a folder as a run leaves it, and a function that reports as learner."""
    pytest.importorskip(library)
    with Graph(folder, task='pointmass') as graph, socket.create_server(('', 0)) as proxy:
        for name in [name for name in graph.environment if name.startswith(DROP)]:
            del graph.environment[name]
        # Whatever the library would send to other machines arrives here.
        url = f'http://127.0.0.1:{proxy.getsockname()[1]}'
        proxies = dict.fromkeys(('HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY'), url)
        home = {'HOME': str(folder), 'NETRC': str(folder / 'netrc')}
        graph.environment.update(**proxies, **home, **variables)
        publisher = graph.node.create_publisher(DiagnosticArray, '/diagnostics', 10)

        def report(steps, **numbers):
            values = {'environment_steps': steps, 'spec_hash': '12345678', 'mode': '3', **numbers}
            status = DiagnosticStatus(name='learner', level=DiagnosticStatus.OK)
            status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
            publisher.publish(DiagnosticArray(status=[status]))

        yield graph, folder / 'run', report
        proxy.settimeout(0.1)
        with pytest.raises(TimeoutError):
            proxy.accept()


def log_run(graph, run, report, library, lines, steps):
    """Let the tracker log evaluations and a report, and stop it; the id of its run."""
    (run / EVALUATIONS_FILE).write_text(''.join(json.dumps(line) + '\n' for line in lines))
    (run / 'task.yaml').write_text('name: pointmass\n')
    (run / RESULT_FILE).write_text(json.dumps(lines[-1]))
    graph.start('tracker', library=library)

    def logged():
        report(steps, updates=2 * steps, model_error='nan')
        return graph.value('tracker', 'logged') >= 2 and not graph.value('tracker', 'waiting')

    graph.wait_for('tracker', logged, timeout=PATIENCE)
    assert graph.kill('tracker', signal.SIGINT) == 0
    return json.loads((run / TRACKER_FILE).read_text())['id']


def wandb_records(path):
    """Records of a file of W&B: a log of blocks as LevelDB has it."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b''
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from('<IHB', data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            yield Record.FromString(parts)
            parts = b''


def wandb_rows(run):
    """Logged rows, configuration and files of all offline runs in a run folder."""
    rows, config, files = [], {}, set()
    for path in sorted(run.glob('wandb/offline-run-*/*.wandb')):
        for record in wandb_records(path):
            rows.append(
                {
                    item.key or item.nested_key[0]: json.loads(item.value_json)
                    for item in record.history.item
                }
            )
            config.update({item.key: item.value_json for item in record.run.config.update})
            files |= {item.path for item in record.files.files}
    return [row for row in rows if row], config, files


def test_wandb_offline_holds_what_was_evaluated_and_a_restart_continues_it(tmp_path):
    with tracked(tmp_path, 'wandb') as (graph, run, report):
        first = log_run(graph, run, report, 'wandb', LINES[:1], 100)
        second = log_run(graph, run, report, 'wandb', LINES, 600)
    assert first == second
    rows, config, files = wandb_rows(run)
    evaluations = [row for row in rows if 'evaluation/deployed_success' in row]
    assert [
        (row['evaluation/environment_steps'], row['evaluation/deployed_success'])
        for row in evaluations
    ] == [(line['environment_steps'], line['deployed_success']) for line in LINES]
    reports = {row['_step']: row['learner/updates'] for row in rows if 'learner/updates' in row}
    assert reports[100] == 200 and reports[600] == 1200
    steps = [row['_step'] for row in rows]
    assert steps == sorted(steps)  # the server drops rows that run back
    assert not {'learner/spec_hash', 'learner/mode', 'learner/model_error'} & {*rows[0], *rows[-1]}
    assert json.loads(config['task']) == {'name': 'pointmass'}
    assert {RESULT_FILE, 'task.yaml'} <= files
    assert len(list(run.glob(f'wandb/offline-run-*-{first}'))) == 2


def test_mlflow_holds_what_was_evaluated_and_a_restart_continues_it(tmp_path, monkeypatch):
    with tracked(tmp_path, 'mlflow') as (graph, run, report):
        first = log_run(graph, run, report, 'mlflow', LINES[:1], 100)
        second = log_run(graph, run, report, 'mlflow', LINES, 600)
    assert first == second
    for name in ('MLFLOW_ALLOW_FILE_STORE', 'MLFLOW_DISABLE_TELEMETRY'):
        monkeypatch.setenv(name, 'true')
    from mlflow import MlflowClient

    client = MlflowClient((run / 'mlruns').as_uri())
    success = client.get_metric_history(first, 'evaluation/deployed_success')
    assert [(one.step, one.value) for one in success] == [
        (line['environment_steps'], line['deployed_success']) for line in LINES
    ]
    updates = client.get_metric_history(first, 'learner/updates')
    assert {(one.step, one.value) for one in updates} >= {(100, 200.0), (600, 1200.0)}
    stored = client.get_run(first)
    assert stored.info.status == 'FINISHED' and stored.data.tags['robot'] == 'pointmass'
    assert stored.data.params['task.name'] == 'pointmass'
    assert {file.path for file in client.list_artifacts(first)} >= {RESULT_FILE, 'task.yaml'}


def test_a_server_that_is_away_does_not_hold_up_the_end(tmp_path):
    with (
        socket.create_server(('127.0.0.1', 0)) as silent,  # takes calls, and never answers
        tracked(
            tmp_path,
            'mlflow',
            MLFLOW_TRACKING_URI=f'http://127.0.0.1:{silent.getsockname()[1]}',
            NO_PROXY='127.0.0.1',
        ) as (graph, _, report),
    ):
        graph.start('tracker', library='mlflow')
        graph.wait_for('tracker', lambda: 'tracker' in graph.statuses)
        silent.settimeout(PATIENCE)
        silent.accept()[0].settimeout(None)
        report(100)
        start = time.monotonic()
        assert graph.kill('tracker', signal.SIGINT) == 0
        assert time.monotonic() - start < 12
        assert 'mlflow is still busy' in (tmp_path / 'tracker.log').read_text()


def test_a_missing_package_is_said_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setattr('sys.path', [str(tmp_path)])
    monkeypatch.delitem(__import__('sys').modules, 'wandb', raising=False)
    (tmp_path / 'wandb').mkdir()  # as W&B leaves it; no package
    with pytest.raises(
        ConfigError, match=r"wandb is not installed; pip install 'mbarl_ros\[track\]'"
    ):
        graphs.plan('hardware', {'tracker': 'wandb'})


@pytest.mark.parametrize(
    'text',
    [
        '{"library": "wandb", "id"',
        '[]',
        '{"library": "wandb", "id": "abc", "place": "here", "step": "0", "evaluations": "some"}',
        '{"library": "wandb", "id": "abc", "place": "here", "step": "-1", "evaluations": "0"}',
        '{"library": "wandb", "id": null, "place": "here", "step": "0", "evaluations": "0"}',
        '{"library": "mlflow"}',
        10_000 * '[',
        'ÿ',
    ],
)
def test_a_damaged_tracker_json_is_named_and_kept(text, tmp_path, node):
    path = tmp_path / TRACKER_FILE
    path.write_bytes(text.encode('latin-1'))
    with pytest.raises(ConfigError, match=f'^{path}: is damaged; remove it: wandb begins a new'):
        node(Tracker, library='wandb', run_dir=tmp_path)
    assert path.read_bytes() == text.encode('latin-1')
