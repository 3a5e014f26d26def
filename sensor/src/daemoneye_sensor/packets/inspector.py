"""Blocks of packets become flows and the messages of DNS, TLS, HTTP and QUIC.

Responsible for the order of things, for what is remembered of a conversation and for how long; what a message says is
:mod:`daemoneye_sensor.l7`'s, which packets carry one :mod:`daemoneye_sensor.packets.selection`'s.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np

from daemoneye.events.codec import Section, rows_at
from daemoneye.events.quic_initial import QUIC_INITIAL
from daemoneye.events.sets import unique
from daemoneye_sensor.l7 import http, ja, quic, stratum, tls
from daemoneye_sensor.l7.errors import Malformed
from daemoneye_sensor.l7.tlsrecords import LONGEST
from daemoneye_sensor.packets import columns as c
from daemoneye_sensor.packets.columns import Packets
from daemoneye_sensor.packets.exchanges import Exchange
from daemoneye_sensor.packets.flows import SERVICES, SPOKEN, FlowTable, Placed
from daemoneye_sensor.packets.handshakes import Handshake, begins, hello_flags
from daemoneye_sensor.packets.oddities import UNKNOWN, Oddities
from daemoneye_sensor.packets.questions import WAIT_NS, Dialogue, Questions
from daemoneye_sensor.packets.rows import Ends, Rows, ends_of
from daemoneye_sensor.packets.selection import DNS_PORTS, SURE, alike, odd, select
from daemoneye_sensor.packets.stream import MAX_BYTES

MAX_OPEN: Final = 2048
"""Connections whose bytes are put together at once, and as many of QUIC: 128 KiB each at worst."""
_EARLY: Final = 16
"""Segments of a connection and block that are kept because what they go on may have been overtaken by them."""
_BEGINNING: Final = 8
"""Packets of a connection, of both directions, while it counts as just begun."""
_ODD: Final = 64
"""Packets of a block that are looked at for what is odd."""


class _Reader(Protocol):
    """Something that reads a TCP connection."""

    service: str
    done: bool
    incomplete: bool

    def add(self, rows: Rows, time: int, sequence: int, payload: bytes, *, out: bool, policy_set: int = 0) -> None: ...

    def end(self, rows: Rows) -> None: ...


@dataclass(slots=True)
class _Open:
    """A connection that is read.

    Attributes:
        time: When it was last.
        sure: Whether its first bytes were enough to tell what it speaks; if not, it is no fault that it speaks something else.
        begin: Sequence number of these.
        out: Who sent them.
    """

    reader: _Reader
    time: int
    sure: bool
    begin: int
    out: bool


class _Segment(NamedTuple):
    """A packet with payload as whoever reads its conversation is given it; of UDP the sequence means nothing."""

    time: int
    sequence: int
    payload: bytes
    out: bool
    policy_set: int


class _Spoken(NamedTuple):
    """What a packet says that its conversation speaks, empty where it does not; and whether that begins with a hello which was not seen (yet)."""

    service: str = ""
    unseen: bool = False


_NOTHING: Final = _Spoken()


class _Read(NamedTuple):
    """A connection that was read: what it spoke, and where and by whom that was begun."""

    service: str
    begin: int
    out: bool


@dataclass(slots=True)
class _Beginning:
    """A QUIC connection; `initials` is None from when its hello was told: what is sent again begins nothing."""

    initials: quic.Initials | None
    ends: Ends
    time: int
    policy_set: int


class Inspector:
    """One interface, or several that may show the same packets.

    Attributes:
        flows: Their conversations.
        malformed: Messages that could not be read, by protocol.
        incomplete: Handshakes whose hello began and was never whole.
        ja3: Whether JA3 is computed.
        oddities: Who is shown packets that nobody could read or knows.
    """

    def __init__(self, interface: str = "", wait_ns: int = WAIT_NS) -> None:
        """Connections that are silent for `wait_ns` are told as far as they came."""
        self.flows = FlowTable(interface)
        self._wait_ns = wait_ns
        self.malformed: Counter[str] = Counter()
        self.incomplete = 0
        self.ja3 = True
        self.oddities: Oddities | None = None
        self._odd: OrderedDict[int, None] = OrderedDict()
        self._rows = Rows()
        self._questions = Questions(self._rows)
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._read: OrderedDict[int, _Read] = OrderedDict()
        self._early: dict[int, list[_Segment]] = {}
        self._initials: OrderedDict[int, _Beginning] = OrderedDict()

    @property
    def answers(self) -> bool:
        """Whether the data of DNS answers is kept."""
        return self._questions.answers

    @answers.setter
    def answers(self, wanted: bool) -> None:
        self._questions.answers = wanted

    def inspect(self, packets: Packets) -> list[Section]:
        """A block of captured packets, in order of time, that nobody else counts: the rows that it makes."""
        sections = self.read(packets)
        return sections + self.turn(int(packets.time[-1])) if len(packets) else sections

    def count(self, packets: Packets) -> list[Section]:
        """What the kernel counted: the conversations that had to make room."""
        told = self.flows.add(packets)[1]
        return [told] if len(told.rows) else []

    def turn(self, now: int) -> list[Section]:
        """What is over, silent or due at this moment: to be asked when all that was counted before it is here."""
        self._expire(now)
        return [section for section in (*self._rows.take(), self.flows.due(now)) if len(section.rows)]

    def read(self, packets: Packets, askers: Callable[[int], int] | None = None) -> list[Section]:
        """A block of captured packets, in order of time: the rows of what they say.

        `askers` gives the set of policies that ask for what begins with a packet, by the filters that took it (`Packets.taken`); None: there are no
        policies.
        """
        placed, told = self.flows.add(packets)
        chosen = select(packets, placed, self._waiting(placed), self.flows.rows["service"] != 0)
        chosen = alike(packets, placed, chosen)
        slots = placed.slot[chosen]
        rows = rows_at(self.flows.rows, slots)
        # A SYN, which may have data (RFC 7413), counts as a byte before them.
        sequence = packets.sequence[chosen] + ((packets.tcp_flags[chosen] & c.SYN) != 0)
        begin = packets.payload[chosen]
        about = (
            slots,
            rows["flow"],
            placed.out[chosen],
            packets.time[chosen],
            sequence,
            packets.cut[chosen],
            begin,
            begin + packets.length[chosen],
        )
        sets = (
            [0] * len(chosen)
            if askers is None or packets.taken is None
            else [askers(mask) for mask in packets.taken[chosen].tolist()]
        )
        spoken: dict[int, _Spoken] = {}
        data = packets.data.data
        # Plain numbers and bytes from here on: one of numpy's costs as much as ten of these.
        for ends, policy_set, slot, flow, out, time, number, cut, start, stop in zip(
            ends_of(self.flows, rows), sets, *(column.tolist() for column in about), strict=True
        ):
            segment = _Segment(time, number, bytes(data[start:stop]), out, policy_set)
            said = self._look(ends, flow, segment, cut=cut)
            if said.service:
                spoken[slot] = said
        if spoken:
            self._note(spoken)
        if self.oddities is not None and self.oddities.wanted:
            self._unknown(packets, placed, askers, self.oddities)
        self._early.clear()
        return [section for section in (told, *self._rows.take()) if len(section.rows)]

    def end(self) -> list[Section]:
        """The capture is over: whatever is open is told as far as it came."""
        self._expire(1 << 63)
        self._questions.end()
        return [section for section in (*self._rows.take(), self.flows.end()) if len(section.rows)]

    def _waiting(self, placed: Placed) -> np.ndarray:
        """Which of a block's conversations somebody puts together bytes of, by slot."""
        waiting = np.zeros(len(self.flows.rows), bool)
        if self._open:
            slots = unique(placed.slot)
            flows = self.flows.rows["flow"][slots].tolist()
            waiting[slots] = [flow in self._open for flow in flows]
        return waiting

    def _note(self, spoken: dict[int, _Spoken]) -> None:
        """Note of conversations, by slot, what they speak; and where it is TLS or QUIC, whether the hello was seen that names the server."""
        slots = list(spoken)
        self.flows.rows["service"][slots] = [SERVICES.index(said.service) for said in spoken.values()]
        unseen = np.array([said.unseen for said in spoken.values()])
        self.flows.rows["flags"][slots] = self.flows.rows["flags"][slots] & ~SPOKEN | np.where(unseen, SPOKEN, 0)

    def _look(self, ends: Ends, flow: int, segment: _Segment, *, cut: bool) -> _Spoken:
        """One packet; what its conversation speaks, if it says so. Nothing that it says ends more than its own message."""
        time, _, payload, out, policy_set = segment
        what, unseen = "", False
        try:
            if ends.proto == c.TCP:
                return self._segment(ends, flow, segment)
            if ends.src_port in DNS_PORTS or ends.dst_port in DNS_PORTS:
                what = "dns"
                self._questions.add(flow, ends if out else ends.turned(), time, payload, cut=cut)
            elif out:  # the server's Initials answer these and are passed over
                what = "quic"
                unseen = self._initial(ends, flow, time, payload, policy_set)
        except Malformed:
            if (open_ := self._open.pop(flow, None)) is not None:
                what = open_.reader.service if open_.sure else ""
                open_.reader.end(self._rows)
                self._remember(flow, open_)
            if what:
                self.malformed[what] += 1
                if self.oddities is not None:
                    self.oddities.offer(f"malformed_{what}", ends, time, payload, out=out, policy_set=policy_set)
            return _NOTHING
        return _Spoken(what, unseen)

    def _unknown(
        self, packets: Packets, placed: Placed, askers: Callable[[int], int] | None, oddities: Oddities
    ) -> None:
        """Choose the first packets of connections to well-known ports that speak nothing that is known."""
        chosen = odd(packets, placed, self.flows.rows["service"] != 0)
        rows = rows_at(self.flows.rows, placed.slot[chosen])
        begun = np.flatnonzero(rows["src_packets"] + rows["dst_packets"] <= _BEGINNING)[:_ODD]
        chosen, rows = chosen[begun], rows[begun]
        for ends, flow, i in zip(ends_of(self.flows, rows), rows["flow"].tolist(), chosen.tolist(), strict=True):
            if flow in self._open or flow in self._read or flow in self._odd:
                continue
            self._odd[flow] = None
            if len(self._odd) > MAX_OPEN:
                self._odd.popitem(last=False)
            begin = int(packets.payload[i])
            payload = packets.data[begin : begin + int(packets.length[i])].tobytes()
            policy_set = 0 if askers is None or packets.taken is None else askers(int(packets.taken[i]))
            oddities.offer(UNKNOWN, ends, int(packets.time[i]), payload, out=bool(placed.out[i]), policy_set=policy_set)

    def _segment(self, ends: Ends, flow: int, segment: _Segment) -> _Spoken:
        _, sequence, payload, out, _ = segment
        open_ = self._open.get(flow)
        if open_ is not None and not open_.sure and out != open_.out and _begins(payload):
            open_ = None  # PostgreSQL's server says "S", as SUBSCRIBE does, and the client begins TLS
        segments = [segment]
        if open_ is None:
            if (read := self._read.get(flow)) is not None and _goes_on(read, sequence, out=out):
                return _NOTHING
            reader = self._reader(ends, flow, segment)
            if reader is None:
                early = self._early.setdefault(flow, [])
                early += segments[: _EARLY - len(early)]
                if tls.greets(payload):
                    return _Spoken("tls", unseen=True)
                return _Spoken("stratum" if stratum.looks_like(payload) else "")
            open_ = self._open[flow] = _Open(reader, segment.time, len(payload) >= SURE, sequence, out)
            if len(self._open) > MAX_OPEN:
                self._end(self._open.popitem(last=False)[1])
            segments += [
                one
                for one in self._early.pop(flow, ())
                if one.out == out and 0 < (one.sequence - sequence) % (1 << 32) < MAX_BYTES
            ]
        open_.time = segment.time
        self._open.move_to_end(flow)
        for time, place, data, side, policy_set in segments:
            open_.reader.add(self._rows, time, place, data, out=side, policy_set=policy_set)
        if open_.reader.done:
            self._open.pop(flow, None)
            self._remember(flow, open_)
        return _Spoken(open_.reader.service, open_.reader.incomplete) if open_.sure else _NOTHING

    def _reader(self, ends: Ends, flow: int, segment: _Segment) -> _Reader | None:
        """Whoever reads a connection that goes on with this segment; None if it begins nothing that is known."""
        time, _, payload, out, policy_set = segment
        if ends.dst_port in DNS_PORTS or ends.src_port in DNS_PORTS:
            return Dialogue(self._questions, flow, ends)
        sides = ends if out else ends.turned()
        if begins(payload):
            return Handshake(sides, time, client_out=out, ja3=self.ja3, policy_set=policy_set)
        return Exchange(sides, client_out=out) if http.looks_like_request(payload) else None

    def _remember(self, flow: int, open_: _Open) -> None:
        """What was read of a conversation is not to be read again."""
        self._read[flow] = _Read(open_.reader.service, open_.begin, open_.out)
        if len(self._read) > MAX_OPEN:
            self._read.popitem(last=False)

    def _initial(self, ends: Ends, flow: int, time: int, payload: bytes, policy_set: int) -> bool:
        """A datagram from the client with QUIC's long header; whether its hello is yet to come."""
        if flow not in self._initials:
            self._initials[flow] = _Beginning(quic.Initials(), ends, time, policy_set)
            if len(self._initials) > MAX_OPEN:
                self._give_up(self._initials.popitem(last=False)[1])
        began = self._initials[flow]
        if began.initials is None:
            return False
        hello = began.initials.add(payload)
        if hello is not None:
            self._rows.add(
                QUIC_INITIAL, began.ends, began.time, hello_flags(hello), sni=hello.sni, alpn=hello.alpn, ja4=ja.ja4(hello, "q"),
                version=began.initials.version, connection_id=began.initials.dcid.hex(), hello_bytes=hello.length,
                policy_set=began.policy_set,
            )  # fmt: skip
            began.initials = None
        return hello is None

    def _expire(self, now: int) -> None:
        """Give up what nothing was heard of for long."""
        self._questions.expire(now)
        # All are asked: within a block conversations are not looked at in order of time.
        for flow in [flow for flow, open_ in self._open.items() if now - open_.time >= self._wait_ns]:
            open_ = self._open.pop(flow)
            self._end(open_)
            self._remember(flow, open_)
        for flow in [flow for flow, began in self._initials.items() if now - began.time >= WAIT_NS]:
            self._give_up(self._initials.pop(flow))

    def _give_up(self, began: _Beginning) -> None:
        self.incomplete += began.initials is not None

    def _end(self, open_: _Open) -> None:
        open_.reader.end(self._rows)
        self.incomplete += open_.reader.incomplete and open_.sure


def _begins(payload: bytes) -> bool:
    """Whether these bytes are enough to tell that TLS or HTTP begins."""
    return len(payload) >= SURE and (begins(payload) or http.looks_like_request(payload))


def _goes_on(read: _Read, sequence: int, *, out: bool) -> bool:
    """Whether a segment belongs to what was read of its conversation: sent again, or what TLS encrypted, which may look like a hello by chance.

    Another connection of the same ports begins with numbers far from those.
    """
    if read.service != "tls":
        return sequence == read.begin
    return out != read.out or (sequence - read.begin) % (1 << 32) < LONGEST
