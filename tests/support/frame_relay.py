"""A bad line between two network interfaces: Ethernet frames arrive late, or never.

    python tests/support/frame_relay.py LEFT RIGHT

Where a kernel has no netem, this stands in for it. A line of JSON on standard input sets ``delay``
(s, one way), ``loss`` (share of frames), ``cut`` (true: nothing passes) or ``multicast`` (false: no
IPv4 multicast passes). Each line is answered by the frames and bytes that were forwarded so far,
from left to right and from right to left.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import select
import socket
import sys
import time

_EVERY_PROTOCOL, _ADD_MEMBERSHIP, _PROMISCUOUS, _SOL_PACKET = 0x0003, 1, 1, 263
_MULTICAST = b'\x01\x00\x5e'
_LARGEST = 65600  # bytes of a frame, with headers
_BUFFER = 8 << 20  # bytes of a socket: bursts wait here, they are not lost


class Line:
    """Both directions of the line: 0 is left to right."""

    def __init__(self, names: list[str]) -> None:
        self.trouble = {'delay': 0.0, 'loss': 0.0, 'cut': False, 'multicast': True}
        self.frames, self.bytes = [0, 0], [0, 0]
        self._ends = [_open(name) for name in names]
        self._due: list[tuple[float, int, int, bytes]] = []
        self._number = itertools.count()
        self._chance = random.Random(0)

    def run(self) -> None:
        """Forward until standard input ends."""
        while True:
            wait = max(self._due[0][0] - time.monotonic(), 0.0) if self._due else None
            ready, _, _ = select.select([*self._ends, sys.stdin], [], [], wait)
            for direction, end in enumerate(self._ends):
                if end in ready:
                    self._receive(direction)
            self._forward()
            if sys.stdin in ready:
                text = sys.stdin.readline()
                if not text:
                    return
                self.trouble.update(json.loads(text))
                print(json.dumps({'frames': self.frames, 'bytes': self.bytes}), flush=True)

    def _receive(self, direction: int) -> None:
        while True:
            try:
                frame, (_, _, kind, *_) = self._ends[direction].recvfrom(_LARGEST)
            except BlockingIOError:
                return
            except OSError:  # the interface is down
                return
            lost = self._chance.random() < self.trouble['loss'] or self.trouble['cut']
            lost |= frame.startswith(_MULTICAST) and not self.trouble['multicast']
            if kind != socket.PACKET_OUTGOING and not lost:
                due = time.monotonic() + self.trouble['delay']
                heapq.heappush(self._due, (due, next(self._number), direction, frame))

    def _forward(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            _, _, direction, frame = heapq.heappop(self._due)
            try:
                self._ends[1 - direction].send(frame)
            except OSError:  # the interface is down, or its queue is full
                continue
            self.frames[direction] += 1
            self.bytes[direction] += len(frame)


def _open(name: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL))
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        end.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    end.bind((name, 0))
    index = socket.if_nametoindex(name).to_bytes(4, sys.byteorder)
    member = index + _PROMISCUOUS.to_bytes(2, sys.byteorder) + bytes(10)
    end.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, member)
    end.setblocking(False)
    return end


if __name__ == '__main__':
    Line(sys.argv[1:3]).run()
