"""One direction of a TCP connection, as far as a parser needs it: the beginning of a message, whatever order its segments came in."""

from __future__ import annotations

from typing import Final

MAX_BYTES: Final = 32_768
"""Bytes without a gap, and as many that wait for what is before them."""
MAX_SEGMENTS: Final = 64
MAX_READ: Final = 64 * MAX_BYTES
"""Bytes that are read in vain, as a message is read again with each of its segments. A hello of 2,000 bytes may come byte by byte; one of 24,000
in records of one byte cost ten seconds of a core."""
_HALF: Final = 1 << 31
_WHOLE: Final = 1 << 32


class Stream:
    """Bytes from one sequence number on.

    Attributes:
        data: What is there without a gap.
        full: Whether nothing more is taken: there is no room, or what is there was read too often without being a message.
        next: Sequence number that follows them.
    """

    def __init__(self, sequence: int) -> None:
        """Begin at this sequence number."""
        self.data = b""
        self.full = False
        self.next = sequence
        self._later: dict[int, bytes] = {}
        self._waiting = 0
        self._read = 0

    def add(self, sequence: int, payload: bytes) -> bool:
        """Take a segment; whether `data` grew. What was there already is passed over, what comes too early is kept for later."""
        ahead = (sequence - self.next) % _WHOLE
        if ahead >= _HALF:
            payload = payload[_WHOLE - ahead :]
            ahead = 0
        if not payload or self.full:
            return False
        if ahead:
            known = self._later.get(sequence, b"")
            self._waiting += max(len(payload) - len(known), 0)
            if len(self._later) >= MAX_SEGMENTS or ahead > MAX_BYTES or self._waiting > MAX_BYTES:
                self.full = True
            else:
                self._later[sequence] = max(payload, known, key=len)
            return False
        self._append(payload)
        while self._later:
            ready = [start for start in self._later if (start - self.next) % _WHOLE >= _HALF or start == self.next]
            if not ready:
                break
            for start in sorted(ready, key=lambda start: (start - self.next) % _WHOLE):
                late = self._later.pop(start)
                self._waiting -= len(late)
                self._append(late[(self.next - start) % _WHOLE :])
        self._read += len(self.data)
        self.full |= self._read > MAX_READ
        return True

    def drop(self, count: int) -> None:
        """Forget the first bytes of `data`: they are a message that was read."""
        if count:
            self.data = self.data[count:]
            self._read = 0

    def _append(self, payload: bytes) -> None:
        if len(self.data) + len(payload) > MAX_BYTES:
            self.full = True
            payload = payload[: MAX_BYTES - len(self.data)]
        self.data += payload
        self.next = (self.next + len(payload)) % _WHOLE
