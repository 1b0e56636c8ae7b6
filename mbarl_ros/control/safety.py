"""The logic of the safety gate: every command to the robot passes through it.

No ROS and no clock: the node passes in the time of a steady clock (s), and tests pass in their own.
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
_STOP_REPEATED_FOR = 1.0  # s; a single stop message may get lost
_REACTION_TIME = 0.1  # s from a time-out until the stop has reached the robot
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Decision:
    """What the gate sends to the robot.

    ``values`` [C] are in the order of the profile. An unknown value is NaN: a position that was not
    measured yet, or a gripper that nothing measures and that got no command yet. An unknown
    value must not be sent. ``source`` is ``policy``, ``teleop`` or ``stop``; ``reason`` is empty
    for a command that passed unchanged. ``clipped`` is requested minus executed for each entry that
    was changed, and ``requested_by`` the source of that request. A ``repeated`` stop is already in
    force and is sent again in case the first message got lost.
    """

    values: np.ndarray
    source: str
    reason: str = ''
    clipped: dict[str, float] = field(default_factory=dict)
    requested_by: str = ''
    repeated: bool = False


class SafetyGate:
    """Limits, time-outs, latched e-stop and priority of teleoperation over the policy.

    ``rate`` and ``rate_change`` limit each command against the one before it, also across a change
    of source and after a stop. A stop itself is abrupt: velocities become 0, positions are held
    where they are measured, or where they were commanded if the measurement is further away than
    the tracking error. If only a stop keeps a hard limit, the gate stops.

    In lockstep the simulated world stands still between commands, so there are no time-outs.
    """

    def __init__(self, robot: RobotConfig, lockstep: bool, time_factor: float = 1.0) -> None:
        """Start in the stopped state; the first command is limited against the stop command.

        :param time_factor: robot seconds per second (other than 1 only in simulation)
        """
        self.robot = robot
        self._names = robot.command_names
        self._period = 1.0 / robot.control_rate
        self._lockstep = lockstep
        self._time_factor = time_factor
        horizon = (robot.command_timeout + _REACTION_TIME) * time_factor
        limits = [robot.limits[name] for name in self._names]
        positions = [limit.moves or limit.measured for limit in limits]
        unmeasured = {
            name
            for name, limit in zip(self._names, limits, strict=True)
            if limit.stop == 'hold' and not limit.measured
        }
        # An unmeasured gripper may hold an object. If its topic carries nothing else, it gets no
        # message until a source commands it. A world in lockstep starts at rest.
        unknown = {
            name
            for topic in robot.command
            for name in topic.fields
            if not lockstep and unmeasured.issuperset(topic.fields)
        }
        self._stops_at_start = unmeasured == unknown
        self._entries = [
            EntryLimiter(
                limit,
                robot.workspace.get(position or ''),
                self._period if lockstep else horizon,
                unknown=name in unknown,
            )
            for name, limit, position in zip(self._names, limits, positions, strict=True)
        ]
        self._measured_entries = [
            (entry, robot.state_names.index(position))
            for entry, position in zip(self._entries, positions, strict=True)
            if position
        ]
        # The gate knows no command that moves these, so it can only check the measured state.
        self._checked_states = [
            (robot.state_names.index(name), name, low, high)
            for name, (low, high) in robot.workspace.items()
            if name not in positions
        ]
        self._last_time: float | None = None
        self._last_source = STOP_SOURCE
        self._last_teleop = -math.inf
        self._repeat_stop_until = -math.inf
        self._state: list[float] | None = None
        self._state_time = self._state_received = self._extrapolated_to = -math.inf
        self._state_stamp = self._last_command_stamp = 0
        self._estop_received: float | None = None
        self._estop_pressed = False
        self.estop = ''
        self.counts: Counter[str] = Counter()
        self.state = 'waiting for state'

    # --- inputs ------------------------------------------------------------------------------

    def receive_state(
        self, state: Sequence[float], now: float, since: float | None = None, stamp: int = 0
    ) -> None:
        """Store a measured state (in the order of the profile); ignore one that is not finite.

        :param since: time at which its oldest part was received; None: ``now``
        :param stamp: ns on the robot's clock, 0 for none
        """
        values = [float(value) for value in state]
        if not all(map(math.isfinite, values)):
            return
        if self._state is None and self._stops_at_start:
            # A gate that was killed may have left a velocity in force.
            self._repeat_stop_until = now + _STOP_REPEATED_FOR
        after_gap = self._lockstep or not self.state_is_fresh(now)
        elapsed = self._granted_time(now - self._state_received)
        self._state, self._state_time = values, now if since is None else since
        self._state_stamp, self._state_received = stamp, now
        for entry, index in self._measured_entries:
            entry.receive_position(values[index])
            if not self._moving:
                entry.follow_measured(elapsed, after_gap)
        self._extrapolated_to = self._state_time
        self._extrapolate(now)
        whole = self._lockstep or self.state_is_fresh(now)
        if whole and self.state in ('waiting for state', 'stale state'):
            self.state = 'ok'

    def state_is_fresh(self, now: float) -> bool:
        """Whether the last state is younger than the state time-out."""
        return self._state is not None and now - self._state_time <= self.robot.state_timeout

    def request(
        self, source: str, values: Sequence[float], now: float, stamp: int = 0
    ) -> Decision | None:
        """Decide on a command; None means that the gate ignores it.

        The gate ignores a policy's command while teleoperation has priority, and one that is late
        or out of order. It ignores any command before the first state of a lockstep world, which
        repeats its state until it gets an answer. It refuses a command that is malformed or comes
        at the wrong time, and stops the robot instead.

        :param stamp: stamp in ns of the state that the command answers; 0 for none
        """
        if self._lockstep and self._state is None:
            return None
        if source == TELEOP_SOURCE:
            self._last_teleop = now
        elif now - self._last_teleop < self.robot.teleop_timeout:
            self.counts[f'{source} overridden'] += 1
            return None
        elif self._is_late(stamp):
            self.counts[f'{source} late'] += 1
            return None
        reason = self._refusal(source, values, now)
        if reason:
            self.counts[f'{source} refused'] += 1
            return self.stop(reason, now)
        return self._limited(source, values, now)

    def stop_policy(self, reason: str, now: float) -> Decision | None:
        """The policy controller is ``gone`` or ``inactive``: stop if its command is in force."""
        if self._lockstep or self._last_source != POLICY_SOURCE:
            return None
        self.counts[f'policy {reason}'] += 1
        return self.stop(f'policy controller {reason}', now)

    def receive_estop(self, pressed: bool, now: float) -> Decision | None:
        """Receive a message of the e-stop topic; ``pressed`` latches the e-stop."""
        self._estop_pressed, self._estop_received = pressed, now
        return self.engage_estop('topic', now) if pressed else None

    def engage_estop(self, reason: str, now: float) -> Decision:
        """Latch the e-stop: no command passes until :meth:`release`."""
        self.estop = reason
        return self.stop('e-stop', now)

    def release(self, now: float) -> str:
        """Release the e-stop, unless its cause persists; why not, or an empty string."""
        if self._estop_pressed:
            return 'the e-stop topic still publishes true: it must publish false first'
        if self._estop_timed_out(now):
            return 'the e-stop topic is silent'
        self.estop = ''
        self.state = 'ok' if self._state is not None else 'waiting for state'
        return ''

    def tick(self, now: float) -> Decision | None:
        """Check the time-outs; call this often. Returns a stop when one is due now."""
        if self._lockstep:
            return None
        if self.estop:
            return self.stop(self.state, now)
        if self._estop_received is not None and self._estop_timed_out(now):
            return self.engage_estop('silence of its topic', now)
        if not self._moving:
            if now >= self._repeat_stop_until:
                return None
            self._last_time = now
            return Decision(self._values(), STOP_SOURCE, self.state, repeated=True)
        stale = self._stale_input(now)
        if not stale:
            return None
        self.counts[stale] += 1
        return self.stop(stale, now)

    def stop(self, reason: str, now: float) -> Decision:
        """Stop the robot: 0 or hold position, as the profile says for each entry."""
        self.state = 'e-stop' if self.estop else reason  # no other reason hides an e-stop
        if self._moving:
            self._extrapolate(now)
            # A stale position would pull the robot back to where it was.
            measured = self.state_is_fresh(now) or (self._lockstep and self._state is not None)
            for entry in self._entries:
                if self._lockstep:  # a simulated world may have been reset
                    entry.follow_measured(0.0, after_gap=True)
                entry.stop(measured)
            self._repeat_stop_until = now + _STOP_REPEATED_FOR
        self._last_time, self._last_source = now, STOP_SOURCE
        return Decision(self._values(), STOP_SOURCE, reason)

    def mark_sent(self, now: float) -> None:
        """The last decision was sent at ``now``: the rate limit of the next command counts from it.

        A delay between decision and sending must not let two messages follow closer than the rate
        limit allows.
        """
        self._last_time = now

    # --- outputs -----------------------------------------------------------------------------

    @property
    def idle_command(self) -> np.ndarray:
        """Value of each entry [C] that a teleop command leaves out: its stop value, or no change.

        NaN (send nothing) for an entry whose value is unknown.
        """
        values = self._values()
        for i, name in enumerate(self._names):
            if (stop := self.robot.limits[name].stop) != 'hold':
                values[i] = stop
        return values

    def fill_unknown(self, values: np.ndarray) -> np.ndarray:
        """``values`` [C] of a decision with the initial value where nothing was sent.

        A recorded action has no gaps. NaN stays for a position that has yet to be measured.
        """
        last = np.array([entry.value for entry in self._entries])
        return np.where(np.isnan(values), last, values)

    @property
    def clipped(self) -> int:
        """How many commands were changed."""
        return self._count('clipped')

    @property
    def refused(self) -> int:
        """How many commands were replaced by a stop."""
        return self._count('refused')

    def _count(self, outcome: str) -> int:
        return sum(count for key, count in self.counts.items() if key.endswith(outcome))

    # --- time-outs ---------------------------------------------------------------------------

    def _stale_input(self, now: float) -> str:
        if not self.state_is_fresh(now):
            return 'stale state'
        silent = self._last_time is not None and now - self._last_time > self._command_timeout
        return 'stale command' if silent else ''

    @property
    def _moving(self) -> bool:
        return self._last_source != STOP_SOURCE

    @property
    def _command_timeout(self) -> float:
        """Time-out (s) of the command in force; a silent joystick counts as released."""
        if self._last_source == TELEOP_SOURCE:
            return min(self.robot.command_timeout, self.robot.teleop_timeout)
        return self.robot.command_timeout

    def _estop_timed_out(self, now: float) -> bool:
        limit = self.robot.estop_timeout
        if limit is None or self._lockstep:
            return False
        return self._estop_received is None or now - self._estop_received > limit

    def _is_late(self, stamp: int) -> bool:
        """Whether a command answers a state that is too old, in the future, or out of order.

        Both stamps come from the robot's clock, so no two clocks are compared.
        """
        if self._lockstep or not stamp:
            return False
        window = self.robot.command_timeout * self._time_factor * 1e9
        if abs(stamp - self._state_stamp) > window:
            return True
        if stamp < self._last_command_stamp <= self._state_stamp:
            return True
        # A stamp from the future must not make the following commands look late.
        self._last_command_stamp = min(stamp, self._state_stamp)
        return False

    # --- commands ----------------------------------------------------------------------------

    def _values(self) -> np.ndarray:
        values = [entry.value for entry in self._entries]
        unknown = [entry.unknown for entry in self._entries]
        return np.where(unknown, math.nan, values)

    def _extrapolate(self, now: float) -> None:
        """Move the positions on from the last state, with the command that was in force."""
        if not self._lockstep and now > self._extrapolated_to > -math.inf:
            for entry, _ in self._measured_entries:
                entry.extrapolate((now - self._extrapolated_to) * self._time_factor)
            self._extrapolated_to = now

    def _refusal(self, source: str, command: Sequence[float], now: float) -> str:
        """Why a command is replaced by a stop; empty: it is not."""
        if self.estop:
            return 'e-stop'
        if self.robot.estop_timeout and self._estop_received is None and not self._lockstep:
            return 'waiting for the e-stop topic'
        if len(command) != len(self._names):
            return f'wrong size: {len(command)}, not {len(self._names)}'
        # A person may drive without knowing where the gripper is: NaN leaves it alone.
        if not all(
            math.isfinite(value)
            or (source == TELEOP_SOURCE and entry.unknown and math.isnan(value))
            for value, entry in zip(command, self._entries, strict=True)
        ):
            return 'not finite'
        if self._state is None:
            return 'waiting for state'
        if not self._lockstep and not self.state_is_fresh(now):
            return 'stale state'
        if source == POLICY_SOURCE:
            for index, name, low, high in self._checked_states:
                if not low <= self._state[index] <= high:
                    return f'{name} outside the workspace'
        return ''

    def _limited(self, source: str, command: Sequence[float], now: float) -> Decision:
        """The command within all limits, or a stop if nothing else keeps the hard ones."""
        elapsed, paused = self._time_since_last_command(now)
        self._extrapolate(now)
        if not self._moving and not self._lockstep and now >= self._repeat_stop_until:
            for entry in self._entries:
                entry.start_from_measured()
        values = []
        for name, entry, requested in zip(self._names, self._entries, command, strict=True):
            nan = math.isnan(requested)
            value = requested if nan else entry.limit(requested, elapsed, paused)
            if value is None:
                self.counts[f'{source} refused'] += 1
                self.counts[f'refused entry {name}'] += 1
                return self._stop_at_bound(source, name, command, now)
            values.append(value)
        clipped = {}
        for name, entry, requested, value in zip(
            self._names, self._entries, command, values, strict=True
        ):
            if not math.isnan(value):
                entry.accept(value, elapsed)
            if abs(requested - value) > _ROUNDING:
                clipped[name] = requested - value
                self.counts[f'clipped entry {name}'] += 1
        self._last_time, self._last_source, self.state = now, source, 'ok'
        self.counts[f'{source} clipped' if clipped else f'{source} passed'] += 1
        reason = f'clipped {", ".join(clipped)}' if clipped else ''
        return Decision(np.array(values), source, reason, clipped, source)

    def _stop_at_bound(
        self, source: str, name: str, command: Sequence[float], now: float
    ) -> Decision:
        """Stop because no value of entry ``name`` within its rates keeps its hard limits."""
        decision = self.stop(f'{name}: only a stop keeps it within its bounds', now)
        excess = (np.asarray(command, float) - decision.values).tolist()
        clipped = {
            name: by
            for name, by in zip(self._names, excess, strict=True)
            if abs(by) > _ROUNDING  # False for NaN
        }
        return replace(decision, clipped=clipped, requested_by=source)

    def _time_since_last_command(self, now: float) -> tuple[float, bool]:
        """Robot seconds over which the next command may change, and whether more have passed."""
        if self._lockstep or self._last_time is None:
            return self._period, False
        elapsed = now - self._last_time
        return self._granted_time(elapsed), elapsed * self._time_factor > 2 * self._period

    def _granted_time(self, elapsed: float) -> float:
        """``elapsed`` in robot seconds, at most two periods: a pause must not allow a jump."""
        return min(max(elapsed, 0.0) * self._time_factor, 2 * self._period)
