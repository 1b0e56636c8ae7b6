"""Chooses the clock by which an imported bag is dated.

Stamps in headers are best: they say when something was measured. But a driver may leave them at 0,
count from its own start, or mix publishers whose clocks differ. Then the time of receipt, which the
recorder logged with one clock, is what remains.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import numpy as np

from mbarl_ros.demos.decode import typestore
from mbarl_ros.demos.mcap_file import Topic
from mbarl_ros.demos.metadata import HEADER, LOG
from mbarl_ros.schema.frames import TF_TYPE
from mbarl_ros.schema.robot import MAX_REORDERING

_ENCAPSULATION, _STAMP = 4, 8  # bytes at the beginning of a message in CDR, and of a stamp
_CDR_HEAD = _ENCAPSULATION + _STAMP
_COUNT = 4  # bytes of the length of a list, before the first transform of a TFMessage
_STILL = 1.0  # s in which a clock that is one must have advanced
_MAX_BACKWARD = 0.01  # share of messages; a clock that was reset once runs back once
_REMEDY = 'so all messages are dated by the log (time of receipt)'


class Stamps:
    """Header stamps and times of receipt of one topic's messages, gathered while they pass by."""

    def __init__(self, topic: Topic) -> None:
        """Look for a header, where messages have it: at their beginning.

        :raises DecodeError: the definition of the message type is not understood.
        """
        store = typestore({topic.type: topic.definition})
        _, fields = store.fielddefs.get(topic.type, ([], []))
        of_transforms = topic.type == TF_TYPE
        self._at = _ENCAPSULATION + (_COUNT if of_transforms else 0)
        self.has_header = of_transforms or (
            bool(fields) and fields[0][1][1] == 'std_msgs/msg/Header'
        )
        self._log = array('q')
        self._heads = bytearray()

    def add(self, log: int, message: bytes) -> None:
        """Note a message in CDR that was received at ``log`` ns."""
        if self._at + _STAMP > len(message) and self._at > _ENCAPSULATION:
            return  # no transforms
        self._log.append(log)
        if self.has_header:
            head = message[:_ENCAPSULATION] + message[self._at : self._at + _STAMP]
            self._heads += head.ljust(_CDR_HEAD, b'\0')

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Stamps and times of receipt [n], ns, in the order of receipt."""
        heads = np.frombuffer(bytes(self._heads), np.uint8).reshape(-1, _CDR_HEAD)
        stamps = np.zeros(len(heads), np.int64)
        for order, mine in (('<', heads[:, 1] == 1), ('>', heads[:, 1] == 0)):
            words = np.ascontiguousarray(heads[mine, 4:]).view(f'{order}i4').astype(np.int64)
            stamps[mine] = words[:, 0] * 1_000_000_000 + words[:, 1]
        log = np.array(self._log, np.int64)
        earliest = np.argsort(log, kind='stable')
        return stamps[earliest], log[earliest]


def choose_clock(topics: Mapping[str, Stamps]) -> tuple[str, str]:
    """Clock for a bag, and why it is not the one of the headers; an empty text where it is.

    :param topics: those that the robot profile needs, by their names in the bag
    """
    bare = [name for name, stamps in topics.items() if not stamps.has_header]
    if bare:
        return LOG, f'messages of {", ".join(bare)} come without a header, {_REMEDY}'
    dated = {name: stamps.arrays() for name, stamps in topics.items()}
    if all(log[-1] == log[0] for _, log in dated.values() if len(log)):
        return HEADER, ''  # a converter made this bag, and logged no times
    wrong = [f'of {name} {why}' for name, times in dated.items() if (why := _no_times(*times))]
    if wrong:
        return LOG, f'the header stamps {", ".join(wrong)}, {_REMEDY}'
    name, (stamps, log) = max(dated.items(), key=lambda item: len(item[1][0]))
    for other, times in dated.items():
        apart = _seconds_apart(stamps, log, *times)
        if apart > MAX_REORDERING:
            return LOG, (
                f'the header stamps of {name} and {other} are of two clocks, {apart:.3g} s apart, '
                f'{_REMEDY}'
            )
    return HEADER, ''


def _no_times(stamps: np.ndarray, log: np.ndarray) -> str:
    """Why stamps in the order of receipt cannot be times; an empty text if they can."""
    if not len(stamps):
        return ''
    steps, limit = np.diff(stamps), MAX_REORDERING * 1e9
    if log[-1] - log[0] > _STILL * 1e9 and not steps.any():
        return f'are all {stamps[0] * 1e-9:.9g}'
    zero = (stamps[1:] == 0) | (stamps[:-1] == 0)
    if (zero & (np.abs(steps) - np.diff(log) > limit)).any():
        return f'are 0 in {(stamps == 0).sum()} of {len(stamps)} messages'
    backward = (steps < -limit).sum()
    if backward > _MAX_BACKWARD * len(stamps) and backward > 1:
        return f'run back {backward} times, as if several publishers had clocks of their own'
    return ''


def _seconds_apart(
    stamps: np.ndarray, log: np.ndarray, other_stamps: np.ndarray, other_log: np.ndarray
) -> float:
    """How far another topic's stamps typically are from those received last before them.

    Their difference in times of receipt is no distance; nor is what a slow or fast simulated clock
    makes of it. The smaller of both judgements counts.
    """
    before = np.searchsorted(log, other_log, side='right') - 1
    known = before >= 0
    if not known.any():
        return 0.0
    before = before[known]
    difference = other_stamps[known] - stamps[before]
    waited = other_log[known] - log[before]
    apart = min(np.median(np.abs(difference)), np.median(np.abs(difference - waited)))
    return float(apart) * 1e-9
