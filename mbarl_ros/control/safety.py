"""The safety gate's logic: every command to the robot passes through here.

Pure and clockless: the node passes in the time of a steady clock, so that tests can drive it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mbarl_ros.control.limits import EntryLimiter
from mbarl_ros.schema.robot import RobotConfig

POLICY_SOURCE, TELEOP_SOURCE, STOP_SOURCE = 'policy', 'teleop', 'stop'
RESTATED = 1.0  # s for which a stop is said again: one message may get lost on its way
REACTION = 0.1  # s after a time-out within which the stop is at the robot
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Decision:
    """What goes to the robot: values in the profile's order, who asked, and why it differs.

    ``source`` is ``policy``, ``teleop`` or ``stop``; ``reason`` is empty for a command that
    passed unchanged. ``clipped`` says by how much (asked minus executed) each entry was, and
    ``asked_by`` whose command it was taken off. A ``restated`` stop is one that is in force
    already. A value is NaN where nothing is known of a position that is to be held, and nobody has
    asked for it: nothing may be sent then.
    """

    values: np.ndarray
    source: str
    reason: str = ''
    clipped: dict[str, float] = field(default_factory=dict)
    asked_by: str = ''
    restated: bool = False


class SafetyGate:
    """Limits, stale stops, e-stop and priority of teleop over policy for one robot.

    ``rate`` and ``rate_change`` hold from command to command, whoever sends it, also from the stop
    to the first command after it. A stop itself is abrupt: velocities become 0, positions are held
    where they are measured, or where they were commanded if that is not within the lead. Where only
    a stop can keep a hard limit, it is made.

    In lockstep the simulated world stands still between commands, so nothing can go stale.
    """

    def __init__(self, robot: RobotConfig, lockstep: bool, time_factor: float = 1.0) -> None:
        """Start not commanding; the first command is limited against the stop command.

        :param time_factor: robot seconds in a second (simulation faster or slower than life)
        """
        self.robot = robot
        self._names = robot.command_names
        self._period = 1.0 / robot.control_rate
        self._lockstep = lockstep
        self._time_factor = time_factor
        horizon = (robot.command_timeout + REACTION) * time_factor
        limits = [robot.limits[name] for name in self._names]
        placed_by = [limit.moves or limit.measured for limit in limits]
        unmeasured = {
            name
            for name, limit in zip(self._names, limits, strict=True)
            if limit.stop == 'hold' and not limit.measured
        }
        # A gripper may hold something: where nothing measures it and its message has nothing else,
        # it gets none until somebody asks for it. A world in lockstep starts at rest.
        left_alone = {
            name
            for topic in robot.command
            for name in topic.fields
            if not lockstep and unmeasured.issuperset(topic.fields)
        }
        self._stops_at_start = unmeasured == left_alone
        self._entries = [
            EntryLimiter(
                limit,
                robot.workspace.get(position or ''),
                self._period if lockstep else horizon,
                unknown=name in left_alone,
            )
            for name, limit, position in zip(self._names, limits, placed_by, strict=True)
        ]
        self._placed = [
            (entry, robot.state_names.index(position))
            for entry, position in zip(self._entries, placed_by, strict=True)
            if position
        ]
        # What no command entry is known to move can only be watched.
        self._watched = [
            (robot.state_names.index(name), name, low, high)
            for name, (low, high) in robot.workspace.items()
            if name not in placed_by
        ]
        self._last_time: float | None = None
        self._last_source = STOP_SOURCE
        self._last_teleop = -math.inf
        self._restate_until = -math.inf
        self._state: list[float] | None = None
        self._state_time = self._observed = self._advanced = -math.inf
        self._stamp = self._answered = 0
        self._estop_heard: float | None = None
        self._estop_pressed = False
        self.estop = ''
        self.counts: Counter[str] = Counter()
        self.state = 'waiting for state'

    # --- inputs ------------------------------------------------------------------------------

    def observe(
        self, state: Sequence[float], now: float, since: float | None = None, stamp: int = 0
    ) -> None:
        """Take note of a measured state (profile's order).

        :param since: time at which its oldest part was received; None: ``now``
        :param stamp: ns on the robot's clock, 0 for none
        """
        values = [float(value) for value in state]
        if not all(map(math.isfinite, values)):
            return
        if self._state is None and self._stops_at_start:
            # Of a gate that was killed, a velocity may still be in force.
            self._restate_until = now + RESTATED
        anew = self._lockstep or not self.fresh(now)
        elapsed = self._granted(now - self._observed)
        self._state, self._state_time = values, now if since is None else since
        self._stamp, self._observed = stamp, now
        for entry, index in self._placed:
            entry.observe(values[index])
            if not self._moving:
                entry.settle(elapsed, anew)
        self._advanced = self._state_time
        self._advance(now)
        if self.state in ('waiting for state', 'stale state'):
            self.state = 'ok'

    def fresh(self, now: float) -> bool:
        """Whether a state was measured within the state time-out."""
        return self._state is not None and now - self._state_time <= self.robot.state_timeout

    def request(
        self, source: str, values: Sequence[float], now: float, stamp: int = 0
    ) -> Decision | None:
        """Decide on a command; None where it is to be ignored.

        That is where another source has priority, or a policy's command comes too late or out of
        order; ``stamp`` (ns, 0 for none) is that of the state which it answers. A refused command
        becomes the stop command, so that whatever was wrong, the robot stops. In lockstep a command
        that overtook the first state is ignored, too: the world stands still, and whoever asked
        will ask again.
        """
        if self._lockstep and self._state is None:
            return None
        if source == TELEOP_SOURCE:
            self._last_teleop = now
        elif now - self._last_teleop < self.robot.teleop_timeout:
            self.counts[f'{source} outranked'] += 1
            return None
        elif self._late(stamp):
            self.counts[f'{source} late'] += 1
            return None
        reason = self._refusal(source, values, now)
        if reason:
            self.counts[f'{source} refused'] += 1
            return self.stop(reason, now)
        return self._limited(source, values, now)

    def lose_policy(self, why: str, now: float) -> Decision | None:
        """Who commands for the policy is ``gone`` or ``inactive``: a stop, if the robot obeyed."""
        if self._lockstep or self._last_source != POLICY_SOURCE:
            return None
        self.counts[f'policy {why}'] += 1
        return self.stop(f'policy controller {why}', now)

    def hear_estop(self, pressed: bool, now: float) -> Decision | None:
        """What the e-stop topic says; pressed it latches the e-stop."""
        self._estop_pressed, self._estop_heard = pressed, now
        return self.engage_estop('topic', now) if pressed else None

    def engage_estop(self, reason: str, now: float) -> Decision:
        """Latch the e-stop: only :meth:`release` lets commands through again."""
        self.estop = reason
        return self.stop('e-stop', now)

    def release(self, now: float) -> str:
        """Release the e-stop; why not, where its cause is still there."""
        if self._estop_pressed:
            return 'the e-stop topic still says true: it must say false first'
        if self._estop_silent(now):
            return 'the e-stop topic is silent'
        self.estop = ''
        self.state = 'ok' if self._state is not None else 'waiting for state'
        return ''

    def tick(self, now: float) -> Decision | None:
        """Watchdog, called often: the stop command where one is due now."""
        if self._lockstep:
            return None
        if self.estop:
            return self.stop(self.state, now)
        if self._estop_heard is not None and self._estop_silent(now):
            return self.engage_estop('silence of its topic', now)
        if not self._moving:
            if now >= self._restate_until:
                return None
            self._last_time = now
            return Decision(self._values(), STOP_SOURCE, self.state, restated=True)
        stale = self._stale(now)
        if not stale:
            return None
        self.counts[stale] += 1
        return self.stop(stale, now)

    def stop(self, reason: str, now: float) -> Decision:
        """Stop command: zero or hold, as the profile says for each entry."""
        self.state = 'e-stop' if self.estop else reason  # nothing else may hide that
        if self._moving:
            self._advance(now)
            # A stale position would pull the robot back to where it was.
            measured = self.fresh(now) or (self._lockstep and self._state is not None)
            for entry in self._entries:
                if self._lockstep:  # a simulated world may have been reset
                    entry.settle(0.0, anew=True)
                entry.stop(measured)
            self._restate_until = now + RESTATED
        self._last_time, self._last_source = now, STOP_SOURCE
        return Decision(self._values(), STOP_SOURCE, reason)

    def sent(self, now: float) -> None:
        """What was decided is on its way: from now on counts what the next change is granted.

        Whatever held it up after the decision, no two messages leave closer than they may.
        """
        self._last_time = now

    # --- outputs -----------------------------------------------------------------------------

    @property
    def rest(self) -> np.ndarray:
        """What an entry gets for which nobody asks anything [C]: its stop, or what it has.

        NaN, nothing at all, for one that nobody knows about.
        """
        values = self._values()
        for i, name in enumerate(self._names):
            if (stop := self.robot.limits[name].stop) != 'hold':
                values[i] = stop
        return values

    def assumed(self, values: np.ndarray) -> np.ndarray:
        """``values`` [C] of a decision, with a guess where nothing was sent: that it is at rest.

        An action has no gaps. NaN stays where a position is measured, but has not been yet.
        """
        guess = np.array([entry.value for entry in self._entries])
        return np.where(np.isnan(values), guess, values)

    @property
    def clipped(self) -> int:
        """Commands that were changed."""
        return self._count('clipped')

    @property
    def refused(self) -> int:
        """Commands that became a stop."""
        return self._count('refused')

    def _count(self, what: str) -> int:
        return sum(count for key, count in self.counts.items() if key.endswith(what))

    # --- inside ------------------------------------------------------------------------------

    def _stale(self, now: float) -> str:
        if not self.fresh(now):
            return 'stale state'
        silent = self._last_time is not None and now - self._last_time > self._patience
        return 'stale command' if silent else ''

    @property
    def _moving(self) -> bool:
        return self._last_source != STOP_SOURCE

    @property
    def _patience(self) -> float:
        """Silence (s) after which the robot is stopped; a lost joystick is a released one."""
        if self._last_source == TELEOP_SOURCE:
            return min(self.robot.command_timeout, self.robot.teleop_timeout)
        return self.robot.command_timeout

    def _values(self) -> np.ndarray:
        values = [entry.value for entry in self._entries]
        unknown = [entry.unknown for entry in self._entries]
        return np.where(unknown, math.nan, values)

    def _advance(self, now: float) -> None:
        """Reckon positions on from the last state, with the command that was in force."""
        if not self._lockstep and now > self._advanced > -math.inf:
            for entry, _ in self._placed:
                entry.advance((now - self._advanced) * self._time_factor)
            self._advanced = now

    def _estop_silent(self, now: float) -> bool:
        limit = self.robot.estop_timeout
        if limit is None or self._lockstep:
            return False
        return self._estop_heard is None or now - self._estop_heard > limit

    def _late(self, stamp: int) -> bool:
        """Whether a command answers a state long past, one to come, or an earlier one than before.

        Both stamps are the robot's, so that no two clocks are compared.
        """
        if self._lockstep or not stamp:
            return False
        window = self.robot.command_timeout * self._time_factor * 1e9
        if abs(stamp - self._stamp) > window or stamp < self._answered <= self._stamp:
            return True
        # A stamp of the future must not make all that follow look late.
        self._answered = min(stamp, self._stamp)
        return False

    def _refusal(self, source: str, command: Sequence[float], now: float) -> str:
        if self.estop:
            return 'e-stop'
        if self.robot.estop_timeout and self._estop_heard is None and not self._lockstep:
            return 'waiting for the e-stop topic'
        if len(command) != len(self._names):
            return f'wrong size: {len(command)}, not {len(self._names)}'
        # A person need not know where a gripper is.
        if not all(
            math.isfinite(value)
            or (source == TELEOP_SOURCE and entry.unknown and math.isnan(value))
            for value, entry in zip(command, self._entries, strict=True)
        ):
            return 'not finite'
        if self._state is None:
            return 'waiting for state'
        if not self._lockstep and not self.fresh(now):
            return 'stale state'
        if source == POLICY_SOURCE:
            for index, name, low, high in self._watched:
                if not low <= self._state[index] <= high:
                    return f'{name} outside the workspace'
        return ''

    def _limited(self, source: str, command: Sequence[float], now: float) -> Decision:
        elapsed, paused = self._elapsed(now)
        self._advance(now)
        if not self._moving and not self._lockstep and now >= self._restate_until:
            for entry in self._entries:
                entry.start()
        values = []
        for name, entry, asked in zip(self._names, self._entries, command, strict=True):
            value = asked if math.isnan(asked) else entry.limit(asked, elapsed, paused)
            if value is None:
                self.counts[f'{source} refused'] += 1
                return self._stopped(source, name, command, now)
            values.append(value)
        clipped = {}
        for name, entry, asked, value in zip(
            self._names, self._entries, command, values, strict=True
        ):
            if not math.isnan(value):
                entry.accept(value, elapsed)
            if abs(asked - value) > _ROUNDING:
                clipped[name] = asked - value
        self._last_time, self._last_source, self.state = now, source, 'ok'
        self.counts[f'{source} clipped' if clipped else f'{source} passed'] += 1
        reason = f'clipped {", ".join(clipped)}' if clipped else ''
        return Decision(np.array(values), source, reason, clipped, source)

    def _stopped(self, source: str, name: str, command: Sequence[float], now: float) -> Decision:
        decision = self.stop(f'{name}: only a stop keeps it within its bounds', now)
        excess = (np.asarray(command, float) - decision.values).tolist()
        clipped = {
            name: by
            for name, by in zip(self._names, excess, strict=True)
            if abs(by) > _ROUNDING  # not so for NaN
        }
        return replace(decision, clipped=clipped, asked_by=source)

    def _elapsed(self, now: float) -> tuple[float, bool]:
        """Robot seconds of change that a command is granted, and whether a pause was longer."""
        if self._lockstep or self._last_time is None:
            return self._period, False
        elapsed = now - self._last_time
        return self._granted(elapsed), elapsed * self._time_factor > 2 * self._period

    def _granted(self, elapsed: float) -> float:
        """Robot seconds of change; a pause must not buy a jump: at most two periods' worth."""
        return min(max(elapsed, 0.0) * self._time_factor, 2 * self._period)
