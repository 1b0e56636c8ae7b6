"""The policy evaluator: measures the deployed success of policies in a world of its own."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.duration import Duration
from std_msgs.msg import Float64, UInt8MultiArray, UInt32

from mbarl_ros import __version__
from mbarl_ros.control.planning_policy import Actor, deployed_policy
from mbarl_ros.control.policy import DEPLOYED, Policy, unpack_policy
from mbarl_ros.learning.evaluation import evaluate, evaluation_line, pool
from mbarl_ros.nodes.support.curves import open_board
from mbarl_ros.nodes.support.demonstrations import demonstrations_folder, load_demonstrations
from mbarl_ros.nodes.support.fleet import SHARED, Robots
from mbarl_ros.nodes.support.qos import LATCHED, RELIABLE, latched
from mbarl_ros.nodes.support.runtime import BaseNode, main_exit, message_bytes
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError, SimulatorError
from mbarl_ros.schema.exit_codes import (
    BUDGET,
    EXIT_FAILURE,
    INTERRUPTED,
    RUN_ENDS,
    TARGET_REACHED,
)
from mbarl_ros.storage import wire
from mbarl_ros.storage.files import unwritable, write_file
from mbarl_ros.storage.robot_numbers import RobotNumbers
from mbarl_ros.storage.run_files import (
    EVALUATIONS_FILE,
    KEPT_POLICY_FILE,
    RESULT_FILE,
    ROBOTS_FILE,
    TRANSITIONS_FILE,
    keeps_policy,
    read_json_lines,
)

_LINE_KEYS = {'environment_steps', 'wall_seconds', 'training_resets', 'deployed_success'}
_FAREWELL = 2.0  # s that the last diagnostics may take to the robot's side
_POLICIES_KEPT = 20  # of the learner; an evaluation may take longer than training a chunk


class PolicyEvaluator(BaseNode):
    """Evaluates a policy every ``evaluation.every`` steps; ends the run at its target or budget.

    Subscribes to ``learner/policy`` and ``robot_sim/resets``. Publishes ``~/deployed_success``
    (Float64). Parameters: ``demonstrations``, ``budget``, ``target``, ``fleet`` (resets are
    those of all robots in the namespaces below). Writes into ``run_dir``:
    ``evaluations.jsonl`` (a line for each evaluation), ``success.png``, TensorBoard curves, some
    of the policies (``policy_STEPS.safetensors``) and ``result.json``. Its exit code says why the
    run ended: see :mod:`mbarl_ros.schema.exit_codes`.

    Training never sees the world that it evaluates in. A target counts as reached only if the
    policy also reaches it on as many further starts: the line in ``evaluations.jsonl`` then pools
    both. Evaluations run in a thread of their own.
    """

    _ended = ''  # why the run is over

    def __init__(self) -> None:
        """Continue an existing ``evaluations.jsonl`` of the run folder.

        :raises ConfigError: it cannot be read.
        """
        super().__init__('policy_evaluator')
        self.setup(
            {
                'demonstrations': ('', "Folder of demonstrations; empty: the task's own"),
                'budget': (0, "Environment steps at which the run ends; 0: the task's"),
                'target': (0.0, "Deployed success that ends the run; 0: the task's"),
                **SHARED,
            }
        )
        self._budget, self._target = self.task.config.run_end(
            self.value('budget'), self.value('target')
        )
        self._lines: list[dict[str, Any]] = []
        self._disk_problem = ''  # lines that could not be written stay in _lines
        self._clone_success: float | None = None
        self._earlier_resets = 0
        self._practised: set[str] = set()  # robots, in the run that is resumed
        self._board: Any = None  # TensorBoard writer, open from the first evaluation on
        self._board_lock = threading.Lock()
        self._start = time.monotonic()
        self._resume()
        self._resets: dict[str, int] = {}  # in this run, by robot
        self._queued = self._lines[-1]['environment_steps'] if self._lines else -1
        self._due: queue.SimpleQueue = queue.SimpleQueue()
        self._success = self.create_publisher(
            Float64, topics.private(topics.DEPLOYED_SUCCESS), RELIABLE
        )
        self.create_subscription(
            UInt8MultiArray,
            topics.POLICY,
            self._on_policy,
            latched(depth=_POLICIES_KEPT),
        )
        self._robots = Robots(self, topics.SIM_RESETS, self._connect)
        threading.Thread(target=self._work, name='evaluation', daemon=True).start()

    def _resume(self) -> None:
        """Read the lines of an interrupted run; the next writing leaves out a torn last one."""
        if self.run_dir is None:
            return
        self._lines = read_json_lines(self._file(EVALUATIONS_FILE), _LINE_KEYS)
        if self._lines:
            self._start -= self._lines[-1]['wall_seconds']
            self._earlier_resets = self._lines[-1]['training_resets']
        log = self._file(TRANSITIONS_FILE)
        if log.exists() and log.stat().st_size:
            self._practised = {'', *RobotNumbers(self._file(ROBOTS_FILE)).names}

    def _file(self, name: str) -> Path:
        return self.run_dir / name

    def _connect(self, robot: str) -> None:
        # Each process of a world that was practised in before starts it anew.
        counted, latest = int(robot in self._practised), -1

        def receive(message: UInt32) -> None:
            nonlocal counted, latest
            if message.data <= latest:  # of a new process
                counted += latest + 1
            latest = message.data
            self._resets[robot] = counted + latest

        topic = topics.of_robot(robot, topics.SIM_RESETS)
        self.create_subscription(UInt32, topic, receive, LATCHED)

    def _on_policy(self, message: UInt8MultiArray) -> None:
        data = message_bytes(message)
        try:
            arrays, meta = unpack_policy(data, self.task, self.agent)
        except wire.WireError as error:
            self.refuse(error, topics.POLICY)
            return
        steps = meta['environment_steps']
        every = self.task.config.evaluation.every
        if steps // every > self._queued // every or steps >= self._budget > self._queued:
            self._queued = steps
            self._due.put((steps, arrays, data))

    # --- evaluation thread -------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._world = self.task.load_world(seed=self.seed)
            self._evaluate_clone()
            while not self.finished:
                steps, arrays, data = self._due.get()
                if keeps_policy(len(self._lines)):
                    self._write(KEPT_POLICY_FILE.format(steps), data)
                policy = deployed_policy(arrays, DEPLOYED, self.task, self.agent, self.seed)
                self._evaluate(steps, policy)
        except (ConfigError, SimulatorError) as error:
            self._fail(str(error))
        except BaseException as error:
            self._fail(repr(error))
            raise

    def _fail(self, reason: str) -> None:
        self.get_logger().fatal(f'evaluation stopped: {reason}')
        self.exit_code, self.finished = EXIT_FAILURE, True

    def _evaluate_clone(self) -> None:
        """Success of behaviour cloning: what the demonstrations are worth without practice."""
        import torch

        from mbarl_ros.learning.imitation import clone

        torch.set_num_threads(1)
        if not (self.value('demonstrations') or self.task.config.demonstrations):
            return
        demonstrations = load_demonstrations(demonstrations_folder(self), self.task, self.run_dir)
        policy = Policy(clone(self.task, demonstrations, self.seed), DEPLOYED)
        episodes = self.task.config.evaluation.episodes
        self._clone_success = evaluate(self.task, self._world, policy, episodes).success
        self.get_logger().info(
            f'behaviour clone of the demonstrations: success {self._clone_success:.2f} '
            f'over {episodes} starts'
        )

    def _evaluate(self, steps: int, policy: Actor) -> None:
        episodes = self.task.config.evaluation.episodes
        outcome = evaluate(self.task, self._world, policy, episodes)
        confirmed = False
        if outcome.success >= self._target:
            more = evaluate(self.task, self._world, policy, episodes, start=episodes)
            outcome, episodes = pool(outcome, more), 2 * episodes
            confirmed = outcome.success >= self._target
        line = evaluation_line(
            self.task,
            self.agent.name,
            self.seed,
            steps,
            outcome,
            episodes=episodes,
            training_resets=self._earlier_resets + sum([*self._resets.values()]),
            wall_seconds=round(time.monotonic() - self._start, 1),
            clone_success=self._clone_success,
        )
        self._lines.append(line)
        self._success.publish(Float64(data=outcome.success))
        total = outcome.deployed_return
        self.get_logger().info(
            f'step {steps}: deployed success {outcome.success:.2f} over {episodes} starts'
            + ('' if total is None else f', return {total:.2f}')
        )
        if self._write_lines():
            self._write_curves(line)
        if confirmed:
            self._end(TARGET_REACHED)
        elif steps >= self._budget:
            successes = any(line['deployed_success'] for line in self._lines)
            if self.task.reward_known and not successes:
                self.get_logger().warning(
                    "no evaluation has seen a single success: can the target (key 'success' of "
                    'the task) be reached, within the horizon (evaluation.horizon)?'
                )
            self._end(BUDGET)

    def _write_lines(self) -> bool:
        """Write all lines at once, so that none is torn; False: the disk refused them.

        They are written again with the next one.
        """
        text = ''.join(json.dumps(line) + '\n' for line in self._lines)
        self._disk_problem = self._write(EVALUATIONS_FILE, text.encode())
        return not self._disk_problem

    def _write(self, name: str, data: bytes) -> str:
        """Write a file of the run folder; why that was not possible, empty: it was."""
        if self.run_dir is None:
            return ''
        path = self._file(name)
        try:
            write_file(path, data)
        except OSError as error:
            problem = str(unwritable(path, error))
            self.get_logger().error(problem)
            return problem
        return ''

    def _write_curves(self, line: dict[str, Any]) -> None:
        if self.run_dir is None:
            return
        from mbarl_ros.view.plots import plot_success

        try:
            self._write_board(line)
            plot_success(self._lines, self._target, self._file('success.png'))
        except OSError as error:  # the run goes on without pictures
            self.get_logger().warning(f'success.png or tensorboard/ left out this time: {error}')

    def _write_board(self, line: dict[str, Any]) -> None:
        with self._board_lock:
            try:
                if self._board is None:
                    self._board = open_board(self._file('tensorboard') / 'evaluator')
                for key in ('deployed_success', 'deployed_return'):
                    if line[key] is not None:
                        self._board.add_scalar(key, line[key], line['environment_steps'])
                self._board.flush()
            except OSError:
                self._board = None  # its thread has ended
                raise

    def _close_board(self) -> None:
        with self._board_lock, contextlib.suppress(OSError):
            if self._board is not None:
                self._board.close()

    def _end(self, reason: str) -> None:
        self._write_result(reason)
        self._ended = reason
        self.exit_code = RUN_ENDS[reason]
        self.finished = True

    def _write_result(self, reason: str) -> None:
        if self._disk_problem:
            self._write_lines()
        last = self._lines[-1] if self._lines else {'deployed_success': None}
        result = {**last, 'reason': reason, 'version': __version__}
        self._write(RESULT_FILE, (json.dumps(result, indent=2) + '\n').encode())

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Latest and best deployed success, and that of behaviour cloning."""
        values: dict[str, Any] = {
            'evaluations': len(self._lines),
            'target': self._target,
            'budget': self._budget,
        }
        if self._ended:
            values['ended'] = self._ended
        if self._clone_success is not None:
            values['clone_success'] = f'{self._clone_success:.2f}'
        if not self._lines:
            return DiagnosticStatus.WARN, 'no policy evaluated yet', values
        values['deployed_success'] = f'{self._lines[-1]["deployed_success"]:.2f}'
        values['best'] = f'{max(line["deployed_success"] for line in self._lines):.2f}'
        level = DiagnosticStatus.ERROR if self._disk_problem else DiagnosticStatus.OK
        return level, self._disk_problem, values

    def close(self) -> None:
        """Write the result of an interrupted run; tell the robot's side of an end; close curves."""
        if not self.finished:
            self._end(INTERRUPTED)
        elif self._ended:
            self.publish_diagnostics()
            self._diagnostics.wait_for_all_acked(Duration(seconds=_FAREWELL))
        self._close_board()


def main() -> None:
    """Entry point of the node."""
    main_exit(PolicyEvaluator)


if __name__ == '__main__':
    main()
