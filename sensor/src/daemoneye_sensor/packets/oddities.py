"""Packets that no parser could read or knows, for scapy to take apart: chosen here, within a budget, and told as rows of `packet_anomaly`.

Responsible for which ports speak what, for how many are kept, and for the rows; `daemoneye_sensor.evidence.dissecting` asks scapy. That is given the
payload behind headers of IP and of TCP or UDP that are made up of the two ends: it finds protocols by ports, and neither tunnels nor options reach it.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from daemoneye.events.addresses import MAPPED
from daemoneye.events.codec import Section
from daemoneye.events.packet_anomaly import PACKET_ANOMALY
from daemoneye_sensor.packets.columns import TCP
from daemoneye_sensor.packets.rows import Ends, Rows

RAW_IP: Final = 101
"""Link type of what scapy is given."""
EXPECTED: Final = {22: "ssh", 80: "http", 443: "tls"}
"""Well-known ports of TCP whose clients begin with something that is told by its first bytes."""
UNKNOWN: Final = "unknown_protocol"
MAX_WAITING: Final = 32
MAX_PAYLOAD: Final = 4096
_MAX_SUMMARY: Final = 600
_SHOWN: Final = 32
# What scapy calls bytes of which it says nothing; whatever comes to TLS's port and is no TLS is the last one.
_NAMELESS: Final = frozenset({"Raw", "Padding", "Encrypted Content"})
_MADE_UP: Final = frozenset({"IP", "IPv6", "TCP", "UDP"})


class Oddity(NamedTuple):
    """A packet that was chosen; its ends are those of its conversation, `out` says that whoever opened that sent it."""

    reason: str
    ends: Ends
    out: bool
    time: int
    payload: bytes
    policy_set: int = 0

    def packet(self) -> bytes:
        """What scapy is given: an IP packet."""
        ends = self.ends if self.out else self.ends.turned()
        four = ends.src_ip.startswith(MAPPED) and ends.dst_ip.startswith(MAPPED)
        ports = struct.pack(">HH", ends.src_port, ends.dst_port)
        if ends.proto == TCP:
            body = ports + struct.pack(">IIBBHHH", 0, 0, 5 << 4, 0x18, 0xFFFF, 0, 0) + self.payload
        else:
            body = ports + struct.pack(">HH", 8 + len(self.payload), 0) + self.payload
        if four:
            head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, ends.proto, 0)
            return head + ends.src_ip[12:] + ends.dst_ip[12:] + body
        return struct.pack(">IHBB", 6 << 28, len(body), ends.proto, 64) + ends.src_ip + ends.dst_ip + body


class Oddities:
    """Those of one node; chosen where packets are read, taken apart elsewhere, told where packets are read.

    Attributes:
        wanted: Whether any are chosen.
        woken: Called when there is one more.
        chosen: How many were chosen.
        skipped: How many were not, for too many came.
    """

    def __init__(self, *, rate: float = 20.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`rate`: how many a second; as many may come at once."""
        self.wanted = False
        self.woken: Callable[[], object] = lambda: None
        self.chosen = self.skipped = 0
        self._rate = self._left = rate
        self._clock = clock
        self._filled = clock()
        self._waiting: deque[Oddity] = deque()
        self._told: deque[tuple[Oddity, Sequence[Mapping[str, Any]]]] = deque(maxlen=MAX_WAITING)

    def offer(self, reason: str, ends: Ends, time: int, payload: bytes, *, out: bool, policy_set: int = 0) -> None:
        """A packet that is odd; it is taken if there is room for it."""
        if not self.wanted or not payload:
            return
        now = self._clock()
        self._left = min(self._rate, self._left + (now - self._filled) * self._rate)
        self._filled = now
        if self._left < 1 or len(self._waiting) >= MAX_WAITING:
            self.skipped += 1
            return
        self._left -= 1
        self.chosen += 1
        self._waiting.append(Oddity(reason, ends, out, time, payload[:MAX_PAYLOAD], policy_set))
        self.woken()

    def take(self) -> Oddity | None:
        """The next one that is to be taken apart."""
        return self._waiting.popleft() if self._waiting else None

    def tell(self, oddity: Oddity, layers: Sequence[Mapping[str, Any]]) -> None:
        """What scapy says of one: layers with names and fields, outermost first; none if it says nothing."""
        self._told.append((oddity, layers))

    def rows(self) -> list[Section]:
        """Those that scapy answered since the last time."""
        rows = Rows()
        while self._told:
            oddity, layers = self._told.popleft()
            names = [str(layer.get("name", "")) for layer in layers]
            inner = names[2:]  # the headers that were made up say nothing
            expected = EXPECTED.get(oddity.ends.dst_port, "") if oddity.reason == UNKNOWN else ""
            rows.add(
                PACKET_ANOMALY, oddity.ends, oddity.time, 0, payload_bytes=len(oddity.payload), reason=oddity.reason, expected=expected,
                layers=inner, summary=summary(layers, oddity.payload), policy_set=oddity.policy_set,
            )  # fmt: skip
        return rows.take()


def summary(layers: Sequence[Mapping[str, Any]], payload: bytes) -> str:
    """The innermost layer that has a name and fields of its own, and how the payload begins where something in it is known to nobody."""
    named = [layer for layer in layers if layer.get("name") not in _MADE_UP | _NAMELESS and layer.get("fields")]
    told = [
        f"{layer['name']}: " + ", ".join(f"{name}={value}" for name, value in layer["fields"].items())
        for layer in named[-1:]
    ]
    if not named or any(layer.get("name") in _NAMELESS for layer in layers):
        told.insert(0, f"begins with {payload[:_SHOWN].decode('ascii', 'backslashreplace')}")
    return "; ".join(told)[:_MAX_SUMMARY]
