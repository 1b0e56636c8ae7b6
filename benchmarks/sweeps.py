"""A bench on two Ray nodes of this machine gives the same bytes as the local engine.

Meanwhile the worker of one seed is killed, then the driver; the same command goes on. Writes
benchmarks/results/sweeps.json. Needs the extra ``scale``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tests'))

from mbarl_ros.studies.seeds import read_evaluations, read_result  # noqa: E402
from support.brief_task import write_brief_task  # noqa: E402

RESULT = ROOT / 'benchmarks' / 'results' / 'sweeps.json'
AGENT = 'medal:name=small,sac.hidden=[16,16],sac.batch_size=16,updates_per_step=0.5'
SECONDS = {'wall_seconds', 'practice_seconds'}
EVALUATION = {'episodes': 10, 'horizon': 50, 'every': 100, 'budget': 500}
CORES = 2  # that each node offers, whatever the machine has
WORKER = 'mbarl_ros.studies.worker'


def main() -> None:
    """Run all and write the result; ends with an error where the bytes differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seeds', type=int, default=8)
    parser.add_argument('--budget', type=int, default=500, help='environment steps of a seed')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='mbarl-sweeps-') as folder:
        result = measure(Path(folder), options.seeds, options.budget)
    result['command'] = 'python ' + ' '.join(sys.argv)
    RESULT.write_text(json.dumps(result, indent=2) + '\n')
    print(json.dumps(result, indent=2))
    sys.exit(0 if result['equal'] else 1)


def measure(base: Path, seeds: int, budget: int) -> dict:
    """Both benches below ``base``, and what was done to the second."""
    task = write_brief_task(base / 'brief.yaml', EVALUATION)
    words = [sys.executable, '-m', 'mbarl_ros.cli', 'bench', '--task', str(task)]
    words += ['--agents', AGENT, '--seeds', str(seeds), '--budget', str(budget)]
    local, far = base / 'local', base / 'ray'
    result: dict = {'seeds': seeds, 'budget': budget, 'cores': os.cpu_count()}
    result['load_at_start'] = os.getloadavg()
    start = time.monotonic()
    subprocess.run([*words, '--out', str(local), '--jobs', str(2 * CORES)], check=True)
    result['local_seconds'] = round(time.monotonic() - start, 1)
    with TwoNodes() as address:
        words += ['--out', str(far), '--engine', 'ray', '--address', address, '--memory', '0.5']
        start = time.monotonic()
        result |= killed_run(words, far, base / 'first.log')
        with (base / 'second.log').open('w') as log:
            subprocess.run(words, check=True, stdout=log, stderr=subprocess.STDOUT)
        result['ray_seconds'] = round(time.monotonic() - start, 1)
        again = (base / 'second.log').read_text()
        result['skipped_after_the_restart'] = again.count('already finished')
    result['equal'] = contents(local) == contents(far)
    result['files_compared'] = len(contents(local))
    result['load_at_end'] = os.getloadavg()
    return result


class TwoNodes:
    """A Ray cluster of two nodes on this machine, each with :data:`CORES`; yields its address."""

    def __enter__(self) -> str:
        os.environ['RAY_USAGE_STATS_ENABLED'] = '0'
        os.environ['PYTHONPATH'] = str(ROOT)  # what the nodes run
        from ray.cluster_utils import Cluster

        node = {'num_cpus': CORES, 'object_store_memory': 100 * 2**20}
        self._cluster = Cluster(
            initialize_head=True, head_node_args={**node, 'include_dashboard': False}
        )
        self._cluster.add_node(**node)
        return self._cluster.address

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()


def killed_run(words: list[str], out: Path, path: Path) -> dict:
    """Start the bench; kill a worker, and when two seeds are finished the driver."""
    with path.open('w') as log:
        driver = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    wait_for(lambda: workers() and list(out.rglob('evaluations.jsonl')), driver)
    process = workers()[0]
    os.kill(parent(process), signal.SIGKILL)
    wait_for(lambda: finished(out) >= 2, driver)
    done = finished(out)
    driver.kill()
    driver.wait()
    start = time.monotonic()
    while workers() and time.monotonic() - start < 120:
        time.sleep(0.1)
    said = [line for line in path.read_text().splitlines() if 'runs again' in line]
    return {
        'worker_killed': said,
        'finished_when_the_driver_was_killed': done,
        'seconds_until_no_seed_ran': round(time.monotonic() - start, 1),
        'seeds_left': len(workers()),
    }


def wait_for(condition, driver: subprocess.Popen) -> None:
    """Wait until something holds while the driver runs."""
    while not condition():
        assert driver.poll() is None, 'the driver has ended'
        time.sleep(0.1)


def workers() -> list[int]:
    """Processes of seeds, below a folder of a job."""
    found = []
    for entry in Path('/proc').glob('[0-9]*'):
        try:
            command = (entry / 'cmdline').read_bytes().decode().split('\0')
            folder = os.readlink(entry / 'cwd')
        except OSError:
            continue
        if WORKER in command and '/mbarl-job-' in folder:
            found.append(int(entry.name))
    return found


def parent(process: int) -> int:
    """The process that started another."""
    return int(Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[1])


def finished(out: Path) -> int:
    """Number of finished seeds."""
    return sum(read_result(path.parent) is not None for path in out.rglob('agent.yaml'))


def contents(out: Path) -> dict[str, object]:
    """Evaluations without times, configuration and policies of each seed, by path below OUT."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob('seed_*/*')):
        name = str(path.relative_to(out))
        if path.name == 'evaluations.jsonl':
            lines = read_evaluations(path.parent)
            found[name] = [{k: line[k] for k in line if k not in SECONDS} for line in lines]
        elif path.suffix in ('.safetensors', '.yaml') or path.name == 'metrics.jsonl':
            found[name] = path.read_bytes()
    return found


if __name__ == '__main__':
    main()
