"""Evidence about what commands do: order, sign, delay, no effect at all."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from mbarl_ros.reports.facts import SEEN, Cause, Driven, Facts
from mbarl_ros.reports.responses import Responses

_CLEARER = 4.0  # times as much of the change that the new action must explain, to replace the old
_MARGIN = 0.1  # share of the change that the later command must explain beyond the earlier one
_HIDDEN = 2  # steps of delay that are a hidden state also where demonstrations have them
_LEAST_DELAY = 0.1  # s, below which nobody can tell a delay from a slow drive
_NO_EFFECT = 0.12  # correlation, below which a command moves nothing
_SURE = 0.4  # correlation, from which on one entry is enough
_CERTAIN = 0.8  # correlation that contact with walls and objects does not bring about
_ENOUGH = 200  # steps


def action_order(facts: Facts) -> Cause | None:
    """Commands that move in practice what other commands moved in demonstrations."""
    for practised in facts.practised:
        moved: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for one in facts.driven:
            action = _mover(practised, one)
            if action is not None:
                moved[one.action][action].append(one.entry)
        changed = {
            before: next(iter(now))
            for before, now in moved.items()
            if len(now) == 1 and before not in now
        }
        swapped = _swapped_sensors(facts, practised)
        one_to_one = len(set(changed.values())) == len(changed)
        sure = any(_replaced(facts, practised, before, now) for before, now in changed.items())
        if one_to_one and (len(changed) >= 2 or sure):
            return _order_cause(facts, practised, changed, moved)
        if len(swapped) >= 2:
            return _sensor_cause(facts, practised, swapped)
    return None


def _mover(practised: Responses, one: Driven) -> int | None:
    """Action that moves an entry in practice: the demonstrated one unless another is clearer."""
    strongest = practised.strongest[one.entry]
    best = int(strongest.argmax())
    if strongest[best] < SEEN:
        return None
    own = strongest[one.action]
    return best if strongest[best] ** 2 > _CLEARER * own**2 else one.action


def _replaced(facts: Facts, practised: Responses, before: int, now: int) -> bool:
    """Whether an entry that ``before`` moved itself follows ``now`` alone."""
    return any(
        facts.direct(one)
        and practised.strongest[one.entry, now] > _SURE
        and practised.strongest[one.entry, before] < _NO_EFFECT
        for one in facts.driven
        if one.action == before
    )


def _swapped_sensors(facts: Facts, practised: Responses) -> dict[int, int]:
    """Entries that move in practice with other commands, each with another one."""
    found = {}
    for one in facts.driven:
        action = _mover(practised, one)
        if action is not None and action != one.action:
            found[one.entry] = action
    return found if len(set(found.values())) == len(found) else {}


def _order_cause(
    facts: Facts,
    practised: Responses,
    changed: dict[int, int],
    moved: dict[int, dict[int, list[int]]],
) -> Cause:
    evidence = []
    for before, now in changed.items():
        entry = moved[before][now][0]
        evidence.append(
            f'{facts.names[entry]} follows {facts.actions[now]} in practice (partial correlation '
            f'{practised.strongest[entry, now]:.2f}; {facts.actions[before]} '
            f'{practised.strongest[entry, before]:.2f}, {practised.steps} steps), but '
            f'{facts.actions[before]} in the demonstrations '
            f'({facts.demonstrated_responses.strongest[entry, before]:.2f})'
        )
    names = ', '.join(facts.actions[before] for before in changed)
    return Cause(
        'action_order',
        f'Commands are in another order than in the demonstrations: {names}',
        evidence,
        "compare the order of 'command' in the robot profile, and of joints on its topic, with "
        'what the controller expects (`ros2 param get`, `mbarl robot check`); or record the '
        'demonstrations again with the present profile',
    )


def _sensor_cause(facts: Facts, practised: Responses, swapped: dict[int, int]) -> Cause:
    evidence = [
        f'{facts.names[entry]} follows {facts.actions[action]} in practice (partial correlation '
        f'{practised.strongest[entry, action]:.2f}, {practised.steps} steps), but another command '
        'in the demonstrations'
        for entry, action in swapped.items()
    ]
    names = ', '.join(facts.names[entry] for entry in swapped)
    return Cause(
        'action_order',
        f'Measurements are in another order than in the demonstrations: {names}',
        evidence,
        "compare the fields of 'state' in the robot profile with the order on the topic "
        '(`ros2 topic echo`); name joints by name[...] instead of by number',
    )


def wrong_sign(facts: Facts) -> Cause | None:
    """Commands that move entries in practice the other way than in demonstrations, or declared."""
    for practised in facts.practised:
        flipped: dict[int, list[Driven]] = defaultdict(list)
        kept: dict[int, list[Driven]] = defaultdict(list)
        for one in facts.driven:
            value = _signed(practised, one.entry, one.action)
            if abs(value) >= SEEN:
                (flipped if value * one.correlation < 0 else kept)[one.action].append(one)
        flipped = {
            action: entries
            for action, entries in flipped.items()
            if len(entries) > len(kept[action]) or _names_sensor(practised, entries, kept[action])
        }
        if flipped:
            return _sign_cause(facts, practised, flipped, kept)
    return _declared_sign(facts)


def _names_sensor(practised: Responses, flipped: list[Driven], kept: list[Driven]) -> bool:
    """Whether entries that one command moves disagree so clearly that a sensor must be at fault.

    In practice, too: a robot that bounces off a wall has a velocity against its command.
    """
    seen = min(abs(_signed(practised, one.entry, one.action)) for one in flipped)
    return min(seen, *(abs(one.correlation) for one in [*flipped, *kept])) >= _CERTAIN


def _signed(practised: Responses, entry: int, action: int) -> float:
    """Signed correlation at the lag where it is greatest."""
    values = practised.correlation[:, entry, action]
    return float(values[abs(values).argmax()])


def _sign_cause(
    facts: Facts,
    practised: Responses,
    flipped: dict[int, list[Driven]],
    kept: dict[int, list[Driven]],
) -> Cause:
    evidence, names = [], []
    for action, entries in flipped.items():
        sensors = ', '.join(facts.names[one.entry] for one in entries)
        sensor = bool(kept[action])
        names.append(sensors if sensor else facts.actions[action])
        for one in entries:
            evidence.append(
                f'{facts.actions[action]} and the change of {facts.names[one.entry]} have a '
                f'partial correlation of {_signed(practised, one.entry, action):+.2f} in practice '
                f'({practised.steps} steps) and of {one.correlation:+.2f} in the demonstrations '
                f'({facts.demonstrated_responses.steps} steps)'
            )
        if sensor:
            others = ', '.join(facts.names[one.entry] for one in kept[action])
            evidence.append(
                f'{others} still follow it, so that the sensor of {sensors} is at fault'
            )
    return Cause(
        'wrong_sign',
        f'Wrong sign: {", ".join(names)} moves the other way than in the demonstrations',
        evidence,
        'correct the sign (`scale: {NAME: -1}` in the robot profile, or at the driver); if the '
        'demonstrations were recorded with the wrong one, record them again',
    )


def _declared_sign(facts: Facts) -> Cause | None:
    """Commands that move the entry that ``limits`` names the other way, in all the data."""
    evidence, names = [], []
    shown = [(facts.demonstrated_responses, 'the demonstrations')]
    shown += [(practised, 'practice') for practised in facts.practised[-1:]]
    for action, name in enumerate(facts.actions):
        limit = facts.task.robot.limits[name]
        moves = limit.moves or limit.measured
        if moves not in facts.names:
            continue
        entry = facts.names.index(moves)
        values = [(_signed(each, entry, action), each.steps, where) for each, where in shown]
        if all(value <= -SEEN for value, _, _ in values):
            names.append(name)
            key = 'moves' if limit.moves else 'measured'
            said = ', '.join(f'{v:+.2f} in {where} ({n} steps)' for v, n, where in values)
            evidence.append(
                f'limits.{name}.{key} says that it drives {moves}, but a positive command makes '
                f'{moves} fall: partial correlation {said}'
            )
    if not names:
        return None
    return Cause(
        'wrong_sign',
        f'Wrong sign: {", ".join(names)} moves the other way than the robot profile says',
        [
            *evidence,
            'demonstrations and practice agree, so that policies can learn it; the '
            'workspace limits of the gate cannot work',
        ],
        'correct the sign in the robot profile (`scale: {NAME: -1}`) and record again',
    )


def delay(facts: Facts) -> Cause | None:
    """Effects of commands that come later than in demonstrations, or later than a step."""
    for practised in facts.practised:
        late = {one: _delay(facts, practised, one) for one in facts.driven}
        known = {one: lags for one, lags in late.items() if lags is not None}
        changed = {one: lags for one, lags in known.items() if lags[0] != lags[1]}
        if changed and len(changed) > 0.5 * len(known):
            return _delay_cause(facts, practised, changed, everything=True)
        for entries in [*_topics(facts, list(known)), *_by_action(list(known))]:
            if all(one in changed and facts.direct(one) for one in entries):
                some = {one: changed[one] for one in entries}
                return _delay_cause(facts, practised, some, everything=False)
    return _shared_delay(facts)


def _by_action(driven: list[Driven]) -> list[list[Driven]]:
    """Driven entries by the command that moves them."""
    actions = {one.action for one in driven}
    return [[one for one in driven if one.action == action] for action in actions]


def _topics(facts: Facts, driven: list[Driven]) -> list[list[Driven]]:
    """Driven entries by the topic that measures them."""
    grouped: dict[str, list[Driven]] = defaultdict(list)
    for one in driven:
        name = facts.columns[one.entry].name
        for topic in facts.task.robot.state:
            if name in topic.fields:
                grouped[topic.topic or str(topic.tf)].append(one)
    return list(grouped.values())


def _delay(facts: Facts, practised: Responses, one: Driven) -> tuple[int, int] | None:
    """Lags in practice and in demonstrations; None: it does not show."""
    lag, action, value = practised.main(one.entry)
    if abs(value) < SEEN or action != one.action:
        return None
    seen = practised.correlation[:, one.entry, action] ** 2
    shown = facts.demonstrated_responses.correlation[:, one.entry, one.action] ** 2
    if shown[lag] >= shown[one.lag] - 0.005 or seen[lag] < seen[one.lag] + _MARGIN:
        return one.lag, one.lag  # demonstrations or practice cannot tell the two apart
    return lag, one.lag


def _delay_cause(
    facts: Facts, practised: Responses, changed: dict[Driven, tuple[int, int]], *, everything: bool
) -> Cause | None:
    extra = median(now - before for now, before in changed.values())
    if abs(extra) * facts.period < _LEAST_DELAY / 2:
        return None
    evidence = [
        f'{facts.names[one.entry]} follows {facts.actions[practised.main(one.entry)[1]]} best '
        f'{facts.milliseconds(now)} after the command in practice (partial correlation '
        f'{practised.strongest[one.entry].max():.2f}, {practised.steps} steps), in the '
        f'demonstrations {facts.milliseconds(before)} after it ({abs(one.correlation):.2f})'
        for one, (now, before) in changed.items()
    ]
    names = ', '.join(facts.names[one.entry] for one in changed)
    what = 'Commands act' if everything else f'What commands do shows in {names}'
    if extra > 0:
        title = f'{what} {facts.milliseconds(extra)} later than in the demonstrations'
    else:
        title = f'{what} {facts.milliseconds(-extra)} later in the demonstrations than in practice'
    return Cause(
        'delay',
        title,
        evidence,
        'find the delay (`mbarl doctor`, `ros2 topic delay`: network, filter, buffer of the '
        'driver) and remove it; if it belongs to the robot, record demonstrations with it and put '
        'what is under way into the observation (the commanded pose or velocity)',
    )


def _shared_delay(facts: Facts) -> Cause | None:
    """A dead time that demonstrations have, too."""
    for practised in facts.practised[-1:]:
        late = {}
        for one in facts.driven:
            lag, action, value = practised.main(one.entry)
            seen = practised.correlation[:, one.entry, action] ** 2
            if abs(value) < SEEN or action != one.action or min(lag, one.lag) < _HIDDEN:
                continue
            if seen[0] < 0.3 * seen[lag]:
                late[one] = lag, one.lag
        seen_at_all = [o for o in facts.driven if practised.strongest[o.entry].max() >= SEEN]
        if late and len(late) > 0.5 * len(seen_at_all):
            lag = median(now for now, _ in late.values())
            if lag * facts.period < _LEAST_DELAY:
                continue
            evidence = [
                f'{facts.names[one.entry]} follows {facts.actions[one.action]} best '
                f'{facts.milliseconds(now)} after the command in practice, {facts.milliseconds(b)} '
                'after it in the demonstrations'
                for one, (now, b) in late.items()
            ]
            return Cause(
                'delay',
                f'Commands act only after {facts.milliseconds(lag)}, in the demonstrations as well',
                [
                    *evidence,
                    'the state does not tell what is still under way, so that no model '
                    'can predict the next one',
                ],
                'remove the delay (network, filter, buffer of the driver), or put what is under '
                'way into the observation (the commanded pose or velocity)',
            )
    return None


def no_effect(facts: Facts) -> Cause | None:
    """Commands that vary and move none of the entries that they moved in demonstrations."""
    for practised in facts.practised[:1]:
        if practised.steps < _ENOUGH:
            continue
        evidence, names = [], []
        for action, name in enumerate(facts.actions):
            entries = [o.entry for o in facts.driven if o.action == action and facts.direct(o)]
            if not entries or not facts.varies(action, len(facts.recent['action'])):
                continue
            spread = facts.recent['action'][:, action].std()
            greatest = practised.strongest[entries, action].max()
            if greatest < _NO_EFFECT:
                names.append(name)
                moved = ', '.join(dict.fromkeys(facts.names[entry] for entry in entries))
                evidence.append(
                    f'{name} varies (standard deviation {spread:.2f} of half its range) and does '
                    f'not move what it moves in the demonstrations, {moved}: partial correlation '
                    f'at most {greatest:.2f} over {practised.steps} steps'
                )
        if names:
            return Cause(
                'no_effect',
                f'Commands without effect: {", ".join(names)}',
                evidence,
                'check that the controller of the robot is active and listens to this topic '
                '(`mbarl doctor`, `mbarl robot check`), and that nothing blocks the robot',
            )
    return None
