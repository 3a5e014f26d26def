"""What the source `packets` counted and lost since its start, over all programs and interfaces that it had.

Responsible for the numbers, their words, and whether what is lost is bearable. All of it is stage `capture`: frames and what they carry are no events
yet.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

from daemoneye_sensor.packets.capture import CaptureProgram
from daemoneye_sensor.packets.columns import REASONS, Fate, Seen
from daemoneye_sensor.packets.inspector import Inspector
from daemoneye_sensor.sources.base import Lost

_DEGRADED_S: Final = 60.0
_BEARABLE: Final = 0.01
"""Share of the frames that were to be read which may be lost before capture counts as degraded."""

# Why something is lost, by kind. The first five are the program's own counters.
_LOSSES: Final = {
    "map_full": "packets of conversations for which the kernel's table had no room",
    "over_budget": "packets that were not looked at: the CPU budget is used up",
    "fragments": "later fragments: they count for no conversation",
    "short": f"frames: {REASONS[Fate.SHORT]}",
    "malformed": f"frames: {REASONS[Fate.MALFORMED]}",
    "fragment": f"frames: {REASONS[Fate.FRAGMENT]}",
    "link": f"frames: {REASONS[Fate.LINK]}",
    "incomplete": "handshakes whose beginning is not whole",
}
FAULTS: Final = (*_LOSSES, "dns", "http", "quic", "tls")
"""Kinds of what is lost beside what the rings had no room for: of frames, and of messages by protocol."""
_COUNTED: Final = ("map_full", "over_budget", "fragments", "short", "malformed")
_READABLE: Final = frozenset(_COUNTED[:3])
"""Kinds that say nothing of what was sent."""


class Tally:
    """The numbers of one source; `account` brings them up to date, and all but that may be asked by another thread.

    Attributes:
        counters: The kernel's, of all programs that were.
        totals: What each interface showed and lost, by name, those of pods together: packets, bytes, exported, drops, freezes.
    """

    def __init__(self, seen: Seen, inspector: Inspector) -> None:
        """Of frames that become of them what `seen` says, and are read by an inspector."""
        self.counters: Counter[str] = Counter()
        self.totals: dict[str, Counter[str]] = {}
        self._seen = seen
        self._inspector = inspector
        self._former: Counter[str] = Counter()  # of programs that are no more
        self._judged = 0, 0
        self._degraded_until = float("-inf")
        self._told: Counter[str] = Counter()

    def account(self, now: float, program: CaptureProgram) -> None:
        """Read the counters; whether too much was lost since the last time (`now`, s of the monotonic clock)."""
        self.counters = self.with_those_of(program)
        lost = self.dropped + self.counters["map_full"]
        exported = self.counters["exported"]
        if lost - self._judged[0] > _BEARABLE * max(exported - self._judged[1], 1):
            self._degraded_until = now + _DEGRADED_S
        self._judged = lost, exported

    def leave(self, program: CaptureProgram) -> None:
        """A program ends: what it counted stays."""
        self._former = self.with_those_of(program)

    def with_those_of(self, program: CaptureProgram) -> Counter[str]:
        """The kernel's counters now, this program's among them."""
        return self._former + Counter(program.counters())

    @property
    def dropped(self) -> int:
        """Frames for which the rings had no room."""
        return sum(total["drops"] for total in list(self.totals.values()))

    @property
    def malformed(self) -> int:
        """Frames and messages that cannot be read."""
        return sum(count for kind, count in self.faults().items() if kind not in _READABLE)

    def faults(self) -> Counter[str]:
        """How much was lost since the start beside what the rings had no room for: by kind, messages by protocol."""
        faults = Counter({kind: self.counters[kind] for kind in _COUNTED})
        seen = self._seen.passed.items()
        faults.update({fate.name.lower(): count for fate, count in seen if fate is not Fate.NOT_IP})
        faults.update(self._inspector.malformed)
        faults["incomplete"] += self._inspector.incomplete
        return faults

    def news(self) -> list[Lost]:
        """What was lost since the last time that this was asked."""
        now: Counter[str] = Counter()
        for kind, count in self.faults().items():
            now[_LOSSES.get(kind, f"{kind}: messages that are malformed")] += count
        for interface, total in list(self.totals.items()):
            now[f"frames: the ring of {interface} had no room"] += total["drops"]
        told, self._told = self._told, now
        return [Lost("capture", "", count - told[why], why, "bulk") for why, count in now.items() if count > told[why]]

    def problem(self) -> str:
        """What is lost, as a sentence, while it is more than is bearable; else empty."""
        if time.monotonic() >= self._degraded_until:
            return ""
        drops = ", ".join(
            f"{total['drops']} on {name}" for name, total in sorted(self.totals.items()) if total["drops"]
        )
        lost = f"packets are lost before they are read ({drops or 'no room in the table of conversations'})"
        return f"{lost}: make bufferSizeMb larger, or capture less"
