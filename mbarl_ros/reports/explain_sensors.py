"""Evidence about what is measured: frozen entries, other units, values out of their range."""

from __future__ import annotations

import numpy as np

from mbarl_ros.reports.facts import SEEN, Cause, Facts
from mbarl_ros.reports.responses import responses
from mbarl_ros.schema.plausible import unit_question

_FROZEN_STEPS = 100  # steps at the end of a run for which an entry must not have changed
_FROZEN_SHARE = 0.25  # or this share of the run, if that is more
_VARIED = 0.02  # of half its range, by which it varied in demonstrations
_STILL = 1e-6  # of half its range
# Noise around one value: a change is undone by the next one (autocorrelation of changes -0.5).
_NOISE_STEPS, _DEAF, _JITTER = 200, 0.2, -0.35
_TOGETHER, _SIBLING_STEPS = 0.3, 30
_END = 0.01  # of half its range
_NEAR, _NEAR_STEPS = 0.25, 15
_GAIN, _SURE = 3.0, 0.6  # times the demonstrated response; correlation
_BEYOND = 1.5  # times the range or what demonstrations visited
_UNITS = {
    180 / np.pi: 'degrees, not radians',
    1000.0: 'millimetres, not metres',
    100.0: 'centimetres or percent',
}
_TYPICAL = 0.25  # relative error of a factor that still counts as one of those
_OUT_OF_RANGE, _SLACK = 0.1, 0.05  # share of states; of half the range


def frozen_sensor(facts: Facts) -> Cause | None:
    """Entries that stand still in practice, although they should move."""
    evidence, names = [], []
    driven = {one.entry: one.action for one in facts.driven if facts.direct(one)}
    for entry in range(facts.dim):
        steps = _still_steps(facts, entry)
        least = max(_FROZEN_STEPS, _FROZEN_SHARE * facts.steps)
        demonstrated = np.ptp(facts.demonstrated_states[:, entry]) if facts.demonstrations else 0.0
        if steps < least or demonstrated < _VARIED * facts.half[entry] or _is_goal(facts, entry):
            continue
        if _at_end(facts, entry):
            continue
        why = ''
        if entry in driven:
            why = _command_varies(facts, driven[entry], steps)
        else:
            why = _moved_together(facts, entry, steps) or _moved_nearby(facts, entry, steps)
        if why:
            names.append(facts.names[entry])
            value = facts.practice['next_observation'][-1, entry]
            evidence.append(
                f'{facts.names[entry]} is {value:.4g} in each of the last {steps} steps '
                f'({steps * facts.period:.0f} s), but spans {demonstrated:.3g} in the '
                f'demonstrations; {why}'
            )
    found = [*_only_noise(facts, names), *_frozen_in_demonstrations(facts)]
    names += [name for name, _ in found]
    evidence += [text for _, text in found]
    if not names:
        return None
    return Cause(
        'frozen_sensor',
        f'Sensor without change: {", ".join(dict.fromkeys(names))}',
        evidence,
        'check that its driver runs and its topic carries new values (`ros2 topic echo`), and that '
        "its field in 'state' of the robot profile is right; then go on in a new run. An object "
        'that nothing grips or touches stands still, too: look at the gripper',
    )


def _is_goal(facts: Facts, entry: int) -> bool:
    return facts.task.goal_in_state and entry in facts.task.goal_index


def _at_end(facts: Facts, entry: int) -> bool:
    """Whether an entry is last at an end of its range, where a robot or an object may well stay."""
    column = facts.columns[entry]
    if column.binary:
        return False
    value = float(facts.practice['next_observation'][-1, entry])
    ends = np.array([column.low, column.high, *facts.task.robot.workspace.get(column.name, ())])
    return bool(np.abs(value - ends).min() < _END * facts.half[entry])


def _still_steps(facts: Facts, entry: int) -> int:
    """Steps at the end of the run in which an entry did not change."""
    values = facts.practice['next_observation'][:, entry].astype(float)
    if not len(values):
        return 0
    moved = np.flatnonzero(np.abs(values - values[-1]) > _STILL * facts.half[entry])
    return len(values) - 1 - (int(moved[-1]) if len(moved) else -1)


def _command_varies(facts: Facts, action: int, steps: int) -> str:
    commands = facts.practice['action'][-steps:, action]
    if not facts.varies(action, steps):
        return ''
    return (
        f'{facts.actions[action]}, which moves it in the demonstrations, varies meanwhile '
        f'(standard deviation {commands.std():.2f} of half its range)'
    )


def _moved_together(facts: Facts, entry: int, steps: int) -> str:
    """Whether another value of the same sensor moves, and both did in demonstrations."""
    siblings = next(
        (t.fields for t in facts.task.robot.state if facts.names[entry] in t.fields), {}
    )
    shown = _changes(facts, facts.demonstrated)
    seen = _changes(facts, facts.practice)[-steps:]
    for name in siblings:
        if name == facts.names[entry] or name not in facts.names:
            continue
        other = facts.names.index(name)
        both = shown[shown[:, other]][:, entry]
        moved = int(seen[:, other].sum())
        if len(both) >= _SIBLING_STEPS <= moved and both.mean() >= _TOGETHER:
            return (
                f'{name}, of the same sensor, changed in {moved} of these steps; in the '
                f'demonstrations {facts.names[entry]} changed in {both.mean():.0%} of such steps'
            )
    return ''


def _changes(facts: Facts, rows: dict[str, np.ndarray]) -> np.ndarray:
    """Whether each entry changes by more than noise in each step, bool [n, state_dim]."""
    change = rows['next_observation'][:, : facts.dim] - rows['observation'][:, : facts.dim]
    return np.abs(change) > 1e-3 * facts.half


def _moved_nearby(facts: Facts, entry: int, steps: int) -> str:
    """Whether it moved in demonstrated steps that are almost the same, action included."""
    shown, seen = facts.demonstrated, facts.practice
    spread = np.maximum(facts.demonstrated_states.std(0), _VARIED * facts.half)

    def point(rows: dict[str, np.ndarray]) -> np.ndarray:
        return np.column_stack([rows['observation'][:, : facts.dim] / spread, rows['action']])

    mine = point({key: array[-steps:] for key, array in seen.items()})[-1500:]
    others, moved = point(shown), _changes(facts, shown)[:, entry]
    if len(others) < 3 or not moved.any():
        return ''
    count = 0
    for row in mine:
        distance = np.sqrt(((others - row) ** 2).mean(1))
        nearest = np.argpartition(distance, 2)[:3]
        count += bool(distance[nearest].max() < _NEAR and moved[nearest].all())
    if count < _NEAR_STEPS:
        return ''
    return f'in {count} of these steps demonstrations in almost the same state changed it'


def _only_noise(facts: Facts, known: list[str]) -> list[tuple[str, str]]:
    """Entries that show noise around one value, while their command drives both ways."""
    steps = int(max(_NOISE_STEPS, _FROZEN_SHARE * facts.steps))
    if facts.steps < steps:
        return []
    rows = {key: array[-steps:] for key, array in facts.practice.items()}
    seen, found = responses(rows, facts.dim), []
    change = rows['next_observation'][:, : facts.dim] - rows['observation'][:, : facts.dim]
    for one in facts.driven if seen.steps >= _NOISE_STEPS / 2 else ():
        name, value = facts.names[one.entry], seen.strongest[one.entry].max()
        if name in known or not facts.direct(one) or not facts.varies(one.action, steps):
            continue
        first, second = change[:-1, one.entry], change[1:, one.entry]
        jitter = (first * second).mean() / max(float(change[:, one.entry].var()), 1e-12)
        if value < _DEAF and jitter < _JITTER:
            values = rows['next_observation'][:, one.entry]
            text = (
                f'{name} does not follow {facts.actions[one.action]} nor others in the last '
                f'{steps} steps ({steps * facts.period:.0f} s; partial correlation {value:.2f}, '
                f'{abs(one.correlation):.2f} in the demonstrations): it is noise of '
                f'{values.std():.3g} (standard deviation) around {values.mean():.4g}'
            )
            found.append((name, text))
    return found


def _frozen_in_demonstrations(facts: Facts) -> list[tuple[str, str]]:
    """Entries that commands clearly move in practice, and that no demonstration changed."""
    if not facts.demonstrations or not facts.practised:
        return []
    found, practised = [], facts.practised[-1]
    for entry in range(facts.dim):
        _, action, value = practised.main(entry)
        still = np.ptp(facts.demonstrated_states[:, entry]) <= _STILL * facts.half[entry]
        varied = facts.demonstrated['action'][:, action].std() > 0.2
        if still and varied and abs(value) > _SURE:
            text = (
                f'{facts.names[entry]} never changes in the demonstrations, although '
                f'{facts.actions[action]} does; in practice it follows that (partial correlation '
                f'{abs(value):.2f}); record them again'
            )
            found.append((f'{facts.names[entry]} in the demonstrations', text))
    return found


def units(facts: Facts) -> Cause | None:
    """Entries whose numbers are in another unit than in demonstrations, or than the range."""
    evidence, names = [], []
    for entry, name in enumerate(facts.names):
        text = _by_values(facts, entry) or _by_response(facts, entry)
        if text:
            names.append(name)
            evidence.append(text)
    for name, text in [*_fast_angles(facts), *_commands(facts), *_in_all_data(facts)]:
        if not any(name in known for known in names):
            names.append(name)
            evidence.append(text)
    if not names:
        return None
    return Cause(
        'units',
        f'Other units: {", ".join(dict.fromkeys(names))}',
        evidence,
        'convert them to the unit of the task (`scale: {NAME: 0.0174533}` in the robot profile '
        'makes radians of degrees, 0.001 metres of millimetres); if the demonstrations have the '
        'wrong unit, record them again',
    )


def _factor(ratio: float) -> str:
    """Which unit a factor is typical of, in words."""
    size = max(ratio, 1 / ratio)
    for factor, what in _UNITS.items():
        if abs(size / factor - 1) < _TYPICAL:
            return f'a factor of {ratio:.3g}, as between two units ({what})'
    return f'a factor of {ratio:.3g}'


def _by_response(facts: Facts, entry: int) -> str:
    """From how far commands move an entry, where its values also leave or hardly fill the range."""
    one = next((one for one in facts.driven if one.entry == entry), None)
    if one is None or not facts.direct(one):
        return ''
    gain = facts.demonstrated_responses.gain[one.lag, entry, one.action]
    shown = facts.demonstrated_states[:, entry]
    low, high = facts.task.state_low[entry], facts.task.state_high[entry]
    for practised in facts.practised:
        lag, action, value = practised.main(entry)
        if abs(value) < SEEN or not gain:
            continue
        ratio = abs(practised.gain[lag, entry, action] / gain)
        rows = facts.recent if practised is facts.practised[0] else facts.practice
        seen = np.quantile(facts.states(rows)[:, entry], (0.01, 0.99))
        widest = max(np.ptp(shown), high - low)
        greater = ratio > _GAIN and np.ptp(seen) > _BEYOND * widest
        smaller = (
            ratio < 1 / _GAIN and abs(value) > _SURE and np.ptp(shown) > _BEYOND * (high - low)
        ) or (
            ratio < 1 / (2 * _GAIN)
            and abs(value) > _SURE
            and np.abs(seen).max() < np.abs(shown).max() / _GAIN
        )
        if greater or smaller:
            return (
                f'a step of {facts.names[entry]} for the same command is {ratio:.3g} times that in '
                f'the demonstrations ({_factor(ratio)}); it goes from {seen[0]:.4g} to '
                f'{seen[1]:.4g} in practice, from {shown.min():.4g} to {shown.max():.4g} in the '
                f'demonstrations (range {low:g} to {high:g})'
            )
    return ''


def _by_values(facts: Facts, entry: int) -> str:
    """From values that fit into the range only when they are converted."""
    column = facts.columns[entry]
    if column.binary or not facts.demonstrations or not facts.steps:
        return ''
    low, high = float(column.low), float(column.high)
    slack = 0.1 * (high - low)
    parts = [
        (facts.states(facts.recent)[:, entry], facts.demonstrated_states[:, entry], 'practice'),
        (
            facts.demonstrated_states[:, entry],
            facts.states(facts.practice)[:, entry],
            'the demonstrations',
        ),
    ]
    for values, others, where in parts:
        inside = ((others >= low - slack) & (others <= high + slack)).mean()
        outside = ((values < low - slack) | (values > high + slack)).mean()
        if inside < 0.9 or outside < 0.5:
            continue
        for factor in _UNITS:
            for ratio in (factor, 1 / factor):
                converted = values / ratio
                fits = (converted >= low - slack) & (converted <= high + slack)
                if fits.mean() < 0.9:
                    continue
                wide = np.ptp(converted) <= 1.2 * (high - low)
                # What is small enough fits any range that holds 0.
                wide = wide and np.abs(converted).max() > 0.1 * max(abs(low), abs(high))
                near = abs(np.median(converted) - np.median(others)) <= np.ptp(others) + slack
                if wide and near:
                    return (
                        f'{facts.names[entry]}: {outside:.0%} of the values in {where} lie outside '
                        f'{low:g} to {high:g} (median {np.median(values):.4g}); divided by '
                        f'{ratio:.4g} they fit ({_factor(ratio)})'
                    )
    return ''


def _fast_angles(facts: Facts) -> list[tuple[str, str]]:
    """Angles whose steps are many times those of demonstrations: sines of degrees say nothing."""
    found = []
    if not facts.demonstrations or facts.steps < 100:
        return found

    def steps(rows: dict[str, np.ndarray]) -> np.ndarray:
        first = facts.task.to_entries(rows['observation'][:, : facts.dim])
        last = facts.task.to_entries(rows['next_observation'][:, : facts.dim])
        return np.abs((last - first + np.pi) % (2 * np.pi) - np.pi)

    shown, seen = steps(facts.demonstrated), steps(facts.recent)
    for column, entry in enumerate(facts.task.config.observation):
        if not entry.angle:
            continue
        usual, now = (np.quantile(each[:, column], 0.9) for each in (shown, seen))
        ratio = now / max(usual, 1e-4)
        if max(ratio, 1 / max(ratio, 1e-9)) > 6 and max(now, usual) > 0.5:
            text = (
                f'{entry.name} turns by up to {now:.2f} rad in a step in practice, by '
                f'{usual:.2f} rad in the demonstrations (90th percentiles): are degrees read as '
                'radians?'
            )
            found.append((entry.name, text))
    return found


def _commands(facts: Facts) -> list[tuple[str, str]]:
    """Commands whose effects on all their entries differ from demonstrations by one factor."""
    found = []
    for action, name in enumerate(facts.actions):
        mine = [one for one in facts.driven if one.action == action and facts.direct(one)]
        if not mine or not facts.practised:
            continue
        practised = facts.practised[0]
        ratios = []
        for one in mine:
            lag, mover, value = practised.main(one.entry)
            gain = facts.demonstrated_responses.gain[one.lag, one.entry, action]
            if mover == action and abs(value) >= _SURE and gain:
                ratios.append(abs(practised.gain[lag, one.entry, action] / gain))
        if len(ratios) < len(mine):
            continue
        if max(ratios) < 1 / (2 * _GAIN) or min(ratios) > 2 * _GAIN:
            ratio = float(np.median(ratios))
            text = (
                f'{name} moves {", ".join(facts.names[o.entry] for o in mine)} {ratio:.3g} times '
                f'as far as in the demonstrations ({_factor(ratio)}, {practised.steps} steps)'
            )
            found.append((f'command {name}', text))
    return found


def _in_all_data(facts: Facts) -> list[tuple[str, str]]:
    """Entries that have another unit than their range in demonstrations and practice."""
    found = []
    if not facts.steps:
        return found
    states = facts.states(facts.practice)
    for entry, column in enumerate(facts.columns):
        if column.binary or '(' in column.name:  # the sine of an angle has no unit
            continue
        questions = []
        for values in (states, facts.demonstrated_states):
            if len(values):
                span = tuple(np.quantile(values[:, entry], (0.02, 0.98)))
                questions.append(unit_question(span, column.low, column.high))
        middle = np.median(states[:, entry])
        inside = column.low <= middle <= column.high
        if questions and all(questions) and not inside:
            seen = np.quantile(states[:, entry], (0.02, 0.98))
            text = (
                f'{column.name} goes from {seen[0]:.4g} to {seen[1]:.4g}, its range is '
                f'{column.low:g} to {column.high:g}: {questions[0]}'
            )
            found.append((column.name, text))
    return found


def out_of_range(facts: Facts) -> Cause | None:
    """States outside of the range of the task, which networks and model see badly."""
    evidence, names = [], []
    for values, where in (
        (facts.states(facts.practice), 'practice'),
        (facts.demonstrated_states, 'the demonstrations'),
    ):
        for entry, column in enumerate(facts.columns):
            if not len(values) or not column.limited or '(' in column.name:
                continue
            slack = _SLACK * facts.half[entry]
            beyond = np.maximum(column.low - values[:, entry], values[:, entry] - column.high)
            share = (beyond > slack).mean()
            if share > _OUT_OF_RANGE:
                names.append(column.name)
                evidence.append(
                    f'{column.name}: {share:.0%} of the states in {where} lie outside '
                    f'{column.low:g} to {column.high:g}, by up to {beyond.max():.3g}'
                )
    if not names:
        return None
    return Cause(
        'out_of_range',
        f'Observation out of its range: {", ".join(dict.fromkeys(names))}',
        evidence,
        "widen the range in 'observation' of the task to what the robot visits, or keep the robot "
        "inside ('workspace' of the robot profile)",
    )
