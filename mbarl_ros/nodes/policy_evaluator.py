"""The policy evaluator: runs the deployed protocol on a world of its own, in simulation."""

from __future__ import annotations

import json
import queue
import threading
import time
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSProfile
from std_msgs.msg import Float64, UInt8MultiArray, UInt32

from mbarl_ros import __version__
from mbarl_ros.control.policy import DEPLOYED, Policy, unpack_policy
from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.learning.evaluation import evaluate, evaluation_line
from mbarl_ros.nodes.support.runtime import LATCHED, RELIABLE, BaseNode, main_exit, message_bytes
from mbarl_ros.schema import topics
from mbarl_ros.schema.load import load_world
from mbarl_ros.storage import wire
from mbarl_ros.storage.files import unwritable, write_file
from mbarl_ros.storage.run_files import (
    EVALUATIONS_FILE,
    RESULT_FILE,
    TRANSITIONS_FILE,
    read_json_lines,
)

TARGET_REACHED, BUDGET, INTERRUPTED = 'target_reached', 'budget', 'interrupted'
EXIT_CODES = {TARGET_REACHED: 0, BUDGET: 3}


class PolicyEvaluator(BaseNode):
    """Evaluates each policy that is due, ends the run at its target or budget.

    Training never sees this world. A target counts as reached only if the policy also succeeds
    on as many further starts: the line in ``evaluations.jsonl`` then pools both.
    """

    def __init__(self) -> None:
        """Continue an existing ``evaluations.jsonl`` of the run folder."""
        super().__init__('policy_evaluator')
        self.setup(
            {
                'demonstrations': ('', "Folder of demonstrations; empty: the task's own"),
                'budget': (0, "Environment steps at which the run ends; 0: the task's"),
                'target': (0.0, "Deployed success that ends the run; 0: the task's"),
            }
        )
        evaluation = self.task.config.evaluation
        self._budget = self.value('budget') or evaluation.budget
        self._target = self.value('target') or evaluation.target
        self._lines: list[dict[str, Any]] = []
        self._trouble = ''  # with the disk; what could not be written is in _lines
        self._clone_success: float | None = None
        self._earlier_resets = 0
        self._start = time.monotonic()
        self._resume()
        self._resets = self._earlier_resets
        self._queued = self._lines[-1]['environment_steps'] if self._lines else -1
        self._due: queue.SimpleQueue = queue.SimpleQueue()
        self._success = self.create_publisher(
            Float64, topics.private(topics.DEPLOYED_SUCCESS), RELIABLE
        )
        self.create_subscription(
            UInt8MultiArray,
            topics.POLICY,
            self._on_policy,
            QoSProfile(depth=20, durability=LATCHED.durability),
        )
        self.create_subscription(UInt32, topics.SIM_RESETS, self._on_resets, LATCHED)
        threading.Thread(target=self._work, name='evaluation', daemon=True).start()

    def _resume(self) -> None:
        """Read the lines of an interrupted run; the next writing leaves out a torn last one."""
        if self.run_dir is None:
            return
        self._lines = read_json_lines(self._file(EVALUATIONS_FILE))
        if self._lines:
            self._start -= self._lines[-1]['wall_seconds']
            self._earlier_resets = self._lines[-1]['training_resets']
        log = self._file(TRANSITIONS_FILE)
        if log.exists() and log.stat().st_size:
            self._earlier_resets += 1  # a resumed simulation is placed anew

    def _file(self, name: str) -> Path:
        return self.run_dir / name

    def _on_resets(self, message: UInt32) -> None:
        self._resets = self._earlier_resets + message.data

    def _on_policy(self, message: UInt8MultiArray) -> None:
        try:
            arrays, meta = unpack_policy(message_bytes(message), self.task, self.agent)
        except wire.WireError as error:
            self.refuse(error, topics.POLICY)
            return
        steps = meta['environment_steps']
        every = self.task.config.evaluation.every
        if steps // every > self._queued // every or steps >= self._budget > self._queued:
            self._queued = steps
            self._due.put((steps, arrays))

    # --- evaluation thread -------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._world = load_world(self.task.config, seed=self.seed)
            self._evaluate_clone()
            while not self.finished:
                steps, arrays = self._due.get()
                self._evaluate(steps, Policy(arrays, DEPLOYED))
        except BaseException as error:
            self.get_logger().fatal(f'evaluation stopped: {error!r}')
            self.exit_code, self.finished = 1, True
            raise

    def _evaluate_clone(self) -> None:
        """The floor: what the demonstrations alone are worth, without practice."""
        import torch

        from mbarl_ros.learning.imitation import clone

        torch.set_num_threads(1)
        if not (self.value('demonstrations') or self.task.config.demonstrations):
            return
        demonstrations = load_demonstrations(
            self.demonstrations_folder(), self.task, run_dir=self.run_dir
        )
        policy = Policy(clone(self.task, demonstrations, self.seed), DEPLOYED)
        episodes = self.task.config.evaluation.episodes
        self._clone_success = evaluate(self.task, self._world, policy, episodes)
        self.get_logger().info(
            f'behaviour clone of the demonstrations: success {self._clone_success:.2f} '
            f'over {episodes} starts'
        )

    def _evaluate(self, steps: int, policy: Policy) -> None:
        episodes = self.task.config.evaluation.episodes
        success = evaluate(self.task, self._world, policy, episodes)
        confirmed = False
        if success >= self._target:
            more = evaluate(self.task, self._world, policy, episodes, start=episodes)
            success, episodes = (success + more) / 2, 2 * episodes
            confirmed = success >= self._target
        line = evaluation_line(
            self.task,
            self.agent.name,
            self.seed,
            steps,
            success,
            episodes=episodes,
            training_resets=self._resets,
            wall_seconds=round(time.monotonic() - self._start, 1),
            clone_success=self._clone_success,
        )
        self._lines.append(line)
        self._success.publish(Float64(data=success))
        self.get_logger().info(
            f'step {steps}: deployed success {success:.2f} over {episodes} starts'
        )
        if self._write_lines():
            self._draw(line)
        if confirmed:
            self._end(TARGET_REACHED)
        elif steps >= self._budget:
            self._end(BUDGET)

    def _write_lines(self) -> bool:
        """Whether all lines are on disk; those that a full disk refused are written with the next.

        All of them at once, since there are few, and so none is torn.
        """
        text = ''.join(json.dumps(line) + '\n' for line in self._lines)
        self._trouble = self._write(EVALUATIONS_FILE, text)
        return not self._trouble

    def _write(self, name: str, text: str) -> str:
        """Write a file of the run folder; why that was not possible, or nothing."""
        if self.run_dir is None:
            return ''
        path = self._file(name)
        try:
            write_file(path, text.encode())
        except OSError as error:
            trouble = str(unwritable(path, error))
            self.get_logger().error(trouble)
            return trouble
        return ''

    def _draw(self, line: dict[str, Any]) -> None:
        if self.run_dir is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        from mbarl_ros.view.plots import plot_success

        try:
            with SummaryWriter(str(self._file('tensorboard') / 'evaluator')) as board:
                board.add_scalar(
                    'deployed_success', line['deployed_success'], line['environment_steps']
                )
            plot_success(self._lines, self._target, self._file('success.png'))
        except OSError as error:  # pictures are not worth the run
            self.get_logger().warning(f'success.png or tensorboard/ left out this time: {error}')

    def _end(self, reason: str) -> None:
        self._write_result(reason)
        self.exit_code = EXIT_CODES.get(reason, 0)
        self.finished = True

    def _write_result(self, reason: str) -> None:
        if self._trouble:
            self._write_lines()
        last = self._lines[-1] if self._lines else {'deployed_success': None}
        result = {**last, 'reason': reason, 'version': __version__}
        self._write(RESULT_FILE, json.dumps(result, indent=2) + '\n')

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Latest and best deployed success, beside the clone's."""
        values: dict[str, Any] = {
            'evaluations': len(self._lines),
            'target': self._target,
            'budget': self._budget,
        }
        if self._clone_success is not None:
            values['clone_success'] = f'{self._clone_success:.2f}'
        if not self._lines:
            return DiagnosticStatus.WARN, 'no policy evaluated yet', values
        values['deployed_success'] = f'{self._lines[-1]["deployed_success"]:.2f}'
        values['best'] = f'{max(line["deployed_success"] for line in self._lines):.2f}'
        level = DiagnosticStatus.ERROR if self._trouble else DiagnosticStatus.OK
        return level, self._trouble, values

    def close(self) -> None:
        """An interrupted run says so in its result."""
        if not self.finished:
            self.exit_code = 130
            self._write_result(INTERRUPTED)
        self.finished = True


def main() -> None:
    """Entry point of the node."""
    main_exit(PolicyEvaluator)


if __name__ == '__main__':
    main()
