"""A robot that checks what the gate sends, by its own arithmetic, and commands to fuzz the gate."""

from __future__ import annotations

import math
import random
from collections import Counter

import yaml

from mbarl_ros.control.safety import SafetyGate
from mbarl_ros.schema.robot import RobotConfig

# A base by velocity, an arm by position, a gripper by effort, in one message.
PROFILE = yaml.safe_load("""
name: fuzzed
control_rate: 20.0
state:
  - topic: robot_state
    type: sensor_msgs/msg/JointState
    fields: {x: "position[x]", y: "position[y]", arm: "position[arm]", load: "effort[arm]"}
command:
  - topic: robot_command
    type: std_msgs/msg/Float64MultiArray
    fields: {vx: "data[0]", vy: "data[1]", varm: "data[2]", grip: "data[3]"}
teleop:
  - topic: stick
    type: sensor_msgs/msg/JointState
    fields: {vx: "velocity[0]", vy: "velocity[1]", varm: "position[0]", grip: "effort[0]"}
    latch: [grip]
limits:
  vx: {low: -1.0, high: 1.0, rate: 4.0, rate_change: 80.0, moves: x}
  vy: {low: -0.5, high: 1.0, rate: 8.0, moves: y}
  varm:
    {low: -1.5, high: 1.5, rate: 0.8, rate_change: 6.0, stop: hold, measured: arm,
     tracking_error: 0.2}
  grip: {low: -0.2, high: 0.2, stop: hold}
workspace: {x: [-1.0, 1.0], y: [-2.0, 0.5], arm: [-1.0, 1.2], load: [0.0, 5.0]}
command_timeout: 0.3
state_timeout: 0.3
teleop_timeout: 0.3
""")
ROBOT = RobotConfig(**PROFILE)
LOW, HIGH = (-1.0, -0.5, -1.0, -0.2), (1.0, 1.0, 1.2, 0.2)  # the arm's by the workspace
RATE, RATE_CHANGE, TRACKING_ERROR = (4.0, 8.0, 0.8), (80.0, None, 6.0), 0.2
BOX = ((-1.0, 1.0), (-2.0, 0.5))
PERIOD, TIMEOUT = 0.05, 0.3
ROUNDING = 1e-8


class RobotSide:
    """Executes commands at once, as no real robot does, and counts violations of limits.

    A change faster than ``rate`` is allowed in a stop only: zero velocity, gripper unchanged, arm
    at its measured position, if that is within the tracking error or was not measured for a while.
    """

    def __init__(self, jitter: float = 0.0, delay: float = 0.0) -> None:
        """``jitter``: error of message times (s); ``delay``: longest transmission time (s)."""
        self.jitter, self.delay = jitter, delay
        self.position = [0.0, 0.0]
        self.arm = self.reported = 0.3
        self.was_silent = True
        self.command: list[float] | None = None
        self.time = self.reported_at = 0.0
        self.slopes = [0.0] * 3
        self.violations: Counter[str] = Counter()
        self.messages = self.stops = 0

    def state(self, now: float, lie: float = 0.0) -> list[float]:
        """The measured state, reported at ``now``; the arm's position is wrong by ``lie``."""
        if now - self.reported_at > TIMEOUT - self.delay - self.jitter:
            self.was_silent = True
        if self.was_silent:
            lie = 0.0  # the gate must believe the first report
        self.reported_at, self.reported = now, self.arm + lie
        return [*self.position, self.reported, 1.0]

    def push(self, distance: float) -> None:
        """Somebody pushes the arm."""
        self.arm = min(max(self.arm + distance, -1.0), 1.2)

    def advance(self, seconds: float) -> None:
        """Move on with the current command."""
        if self.command is None:
            return
        for i in range(2):
            self.position[i] += self.command[i] * seconds
            self._check(f'box {i}', BOX[i][0], self.position[i], BOX[i][1])
        gap = self.command[2] - self.arm
        self.arm += math.copysign(min(abs(gap) * 0.5, 1.0 * seconds), gap)

    def receive(self, values: list[float], now: float, stop: bool | None = None) -> None:
        """Check a message, then execute it. ``stop=None``: infer from it whether it is a stop."""
        self.messages += 1
        if len(values) != 4 or not all(map(math.isfinite, values)):
            self.violations['malformed'] += 1
            return
        before = self.command if self.command is not None else [0.0, 0.0, self.arm, 0.0]
        for i in (0, 1, 3):
            self._check(f'bounds {i}', LOW[i], values[i], HIGH[i])
        # A position outside, because it was measured there, comes back in.
        outside = (before[2], self.reported)
        self._check('bounds 2', min(LOW[2], *outside), values[2], max(HIGH[2], *outside))
        for i in range(2):  # its position if nothing is received until the time-out
            ahead = self.position[i] + values[i] * TIMEOUT
            self._check(f'ahead {i}', BOX[i][0], ahead, BOX[i][1], self.delay)
        looks_like_stop = values[0] == values[1] == 0.0 and values[3] == before[3]
        if stop and not looks_like_stop:
            self.violations['stop'] += 1
        stop = looks_like_stop if stop is None else stop
        self.stops += stop
        if not stop:
            self._check('blind', -math.inf, now - self.reported_at, TIMEOUT, self.delay)
        within = abs(values[2] - self.reported) <= TRACKING_ERROR + self.delay + ROUNDING
        if not stop:
            # It moves towards its command also between a report and the next command.
            low, high = (
                sorted((self.reported, self.arm)) if self.delay else (self.reported, self.reported)
            )
            self._check(
                'tracking_error', low - TRACKING_ERROR, values[2], high + TRACKING_ERROR, self.delay
            )
        elif not (within and self.was_silent):
            self._check(
                'thrown',
                before[2] - TRACKING_ERROR,
                values[2],
                before[2] + TRACKING_ERROR,
                self.delay,
            )
        self.was_silent = False
        elapsed = now - self.time if self.command is not None else PERIOD
        paused, elapsed = elapsed > 2 * PERIOD, min(elapsed, 2 * PERIOD)
        for i in range(3):
            self._check_change(i, values[i] - before[i], elapsed, paused, stop)
        self.command, self.time = list(values), now

    def _check_change(self, i: int, step: float, elapsed: float, paused: bool, stop: bool) -> None:
        before = 0.0 if paused else self.slopes[i]
        self.slopes[i] = 0.0 if stop else step / elapsed if elapsed else before
        if stop:
            return
        allowed = RATE[i] * (elapsed + self.jitter)
        self._check(f'rate {i}', -allowed, step, allowed)
        if RATE_CHANGE[i] and elapsed and not self.jitter:
            allowed = RATE_CHANGE[i] * elapsed + 1e-6 + ROUNDING / elapsed
            self._check(f'rate change {i}', -allowed, self.slopes[i] - before, allowed)

    def _check(self, what: str, low: float, value: float, high: float, slack: float = 0.0) -> None:
        if not low - ROUNDING - slack <= value <= high + ROUNDING + slack:
            self.violations[what] += 1


class Fuzz:
    """Commands of a hostile, a broken or a learning source."""

    KINDS = ('wild', 'wild', 'wander', 'wander', 'wander', 'oscillate', 'huge', 'bad', 'size')

    def __init__(self, chance: random.Random, size: int = 4, longest: int = 200) -> None:
        """``chance``: a seeded stream; ``size`` of a command; ``longest`` run of one kind."""
        self.random, self._size, self._longest = chance, size, longest
        self._kind, self._remaining = 'wander', 0
        self._wander = [0.0] * size
        self._sign = 1.0

    def command(self) -> list[float]:
        """The next command. Kinds come in runs, so that good commands can move the robot."""
        chance = self.random
        if self._remaining <= 0:
            self._kind = chance.choice(self.KINDS)
            self._remaining = chance.randint(
                1, 9 if self._kind in ('bad', 'size') else self._longest
            )
        self._remaining -= 1
        kind = self._kind
        if kind == 'wander':
            if chance.random() < 0.05:
                self._wander[chance.randrange(self._size)] = chance.uniform(-1.5, 1.5)
            return list(self._wander)
        if kind == 'oscillate':
            self._sign = -self._sign
            return [self._sign] * self._size
        if kind == 'wild':
            return [chance.uniform(-3.0, 3.0) for _ in range(self._size)]
        if kind == 'huge':
            extremes = (1e308, -1e308, 1e-308, 1e9, -5e-324)
            return [chance.choice(extremes) for _ in range(self._size)]
        if kind == 'size':
            return [0.1] * chance.choice((0, 1, self._size - 1, self._size + 1, 50))
        values = [0.1, 0.2, *[0.0] * (self._size - 2)]
        values[chance.randrange(self._size)] = chance.choice((math.nan, math.inf, -math.inf))
        return values


class Fuzzed:
    """The gate's logic between a :class:`Fuzz` and a :class:`RobotSide`, on a clock of its own.

    Commands come in bursts, late, with stamps of the past and of the future, by turns from the
    policy and from teleop; states stay away or lie, the arm is pushed, e-stops are latched and
    released.
    """

    def __init__(self, seed: int) -> None:
        """Nothing has moved."""
        self.chance = random.Random(seed)
        self.gate = SafetyGate(ROBOT, lockstep=False)
        self.robot = RobotSide()
        self._source = Fuzz(self.chance)
        self._who = 'policy'
        self.now, self._tick, self._silent_until = 10.0, 10.0, 0.0

    def run(self, commands: int) -> None:
        """Fuzz with so many commands."""
        chance = self.chance
        for _ in range(commands):
            longest = chance.choices((0.001, 0.03, 0.12, 0.8), (700, 270, 25, 5))[0]
            self._pass(chance.random() * longest)
            if chance.random() < 0.01:
                self._who = chance.choice(('policy', 'policy', 'teleop'))
            stamp = int(self.now * 1e9)
            if chance.random() < 0.03:
                stamp += int(chance.uniform(-2e9, 2e9))
            command = self._source.command()
            self._deliver(self.gate.request(self._who, command, self.now, stamp))
            if chance.random() < 1e-4:
                self._deliver(self.gate.engage_estop('test', self.now))
                self._pass(0.1)
                self.gate.release(self.now)

    def _pass(self, seconds: float) -> None:
        end = self.now + seconds
        while self._tick <= end:
            self._advance(self._tick)
            self._tick += 0.02
            if self.chance.random() < 0.01:
                self._silent_until = self.now + self.chance.uniform(0.0, 0.5)
            if self.now >= self._silent_until:
                if self.chance.random() < 0.001:
                    self.robot.push(self.chance.uniform(-0.4, 0.4))
                lie = self.chance.uniform(-3.0, 3.0) if self.chance.random() < 0.002 else 0.0
                state = self.robot.state(self.now, lie)
                self.gate.receive_state(state, self.now, stamp=int(self.now * 1e9))
            self._deliver(self.gate.tick(self.now))
        self._advance(end)

    def _advance(self, now: float) -> None:
        self.robot.advance(now - self.now)
        self.now = now

    def _deliver(self, decision) -> None:
        if decision is not None:
            self.robot.receive(decision.values.tolist(), self.now, decision.source == 'stop')
