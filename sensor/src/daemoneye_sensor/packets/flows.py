"""Conversations: packets are counted by the pair of endpoints, a block at a time.

A conversation is named by a 64-bit hash of both endpoints, protocol and VLAN, the same for both directions, with a salt of this process: nobody
who chooses addresses can make two conversations one. The table is columns; a block costs a sort and a few sums, and Python once for each
conversation that the block has packets of.

Live, the kernel counts: rows of a block then stand for many packets of one direction (whose flags are or-ed, so that who opened is told by whose
came first), and captured packets count for nothing and only begin conversations, of which is settled later who opened them. A packet that several
interfaces show (a pod's veth, the bridge, the uplink) counts once: each direction of a conversation belongs to the interface that showed it first.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

import numpy as np

from daemoneye.events.base import splitmix64
from daemoneye.events.codec import Section, concatenate, rows_at, section_of
from daemoneye.events.flags import Flag
from daemoneye.events.packet_flow import PACKET_FLOW
from daemoneye.events.sets import unique
from daemoneye_sensor.packets import columns as c
from daemoneye_sensor.packets.columns import Packets, any_of
from daemoneye_sensor.packets.opening import oriented, turned_from

MAX_FLOWS: Final = 65_536
"""Conversations at once; when there are more, those that were silent longest are told and forgotten."""
IDLE_NS: Final = 120_000_000_000
ACTIVE_NS: Final = 60_000_000_000
"""A conversation that goes on, which has had packets in the second half of it, is told so often."""
_LINGER_NS: Final = 2_000_000_000
"""Closed conversations still get their last acknowledgements."""
_SWEEP_NS: Final = 1_000_000_000
_SILENT_NS: Final = 1_000_000_000
"""A direction goes over to an interface that shows so much later packets than its own: packets take another way now."""
_NOBODY: Final = 0xFFFF
SPOKEN: Final = np.uint32(Flag.SNI_UNSEEN)
"""What the table's owner says of a conversation."""

_ROW: Final = np.dtype([
    ("flow", "u8"), ("src_hi", "u8"), ("src_lo", "u8"), ("dst_hi", "u8"), ("dst_lo", "u8"), ("src_port", "u2"), ("dst_port", "u2"),
    ("vlan", "u2"), ("proto", "u1"), ("service", "u1"), ("src_tcp_flags", "u1"), ("dst_tcp_flags", "u1"), ("flags", "u4"),
    ("begin", "u8"), ("last", "u8"), ("told", "u8"), ("src_packets", "u8"), ("src_bytes", "u8"), ("dst_packets", "u8"), ("dst_bytes", "u8"),
    ("src_last", "u8"), ("dst_last", "u8"), ("src_interface", "u2"), ("dst_interface", "u2"), ("guessed", "?"), ("turned", "?"), ("used", "?"),
])  # fmt: skip
_OPAQUE: Final = np.dtype((np.void, _ROW.itemsize))
SERVICES: Final = ("", "dns", "tls", "http", "quic", "stratum")


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the packets of a block belong; arrays of shape (n,).

    Attributes:
        slot: Row of the conversation in the table.
        out: Whether the sender is the table's source: it opened the conversation, as far as is known.
        again: Whether another interface showed the same packet: it is not to be looked at.
    """

    slot: np.ndarray
    out: np.ndarray
    again: np.ndarray


class FlowTable:
    """The conversations of one interface, or of several that may show the same packets.

    Attributes:
        rows: The table, structured array; a slot is valid while `used`.
        names: Names of the interfaces by number.
        evicted: Conversations that were told early for want of room.
        again: Packets that another interface had shown already.
    """

    def __init__(self, interface: str = "") -> None:
        """`interface` is the name of number 0."""
        self.rows = np.zeros(1024, _ROW)
        self.names = {0: interface.encode()}
        self.evicted = 0
        self.again = 0
        self._salt = np.uint64(secrets.randbits(64))
        self._slots: dict[int, int] = {}
        self._free = list(range(len(self.rows) - 1, -1, -1))
        self._now = self._swept = 0

    def add(self, packets: Packets) -> tuple[Placed, Section]:
        """Count a block of packets, which is in order of time; where each belongs, and the conversations that had to make room for others.

        Rows of a block are either captured packets or counts of the kernel.
        """
        told = [self._make_room(len(packets))]
        forward, src_port, dst_port = oriented(packets)
        keys = self._keys(packets, src_port, dst_port)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(keys) else np.zeros(0, np.int64)
        first = order[starts]
        told.append(self._reopened(packets, keys))
        slots = np.fromiter((self._slots.get(key, -1) for key in keys[first].tolist()), np.int64, len(first))
        fresh = np.flatnonzero(slots < 0)
        group = np.zeros(len(keys), np.int64)
        group[order] = np.repeat(np.arange(len(first)), np.diff(np.append(starts, len(keys))))
        turned, flags = turned_from(packets, first, group, forward, src_port, dst_port)
        slots[fresh] = self._open(packets, keys, first[fresh], src_port, dst_port, turned[fresh], flags[fresh])
        slot = slots[group]
        out = self._sent_by_opener(packets, slot, src_port)
        self._settle(packets, slots, first, out, turned, flags)
        again = self._shown_again(packets, slots, group, out)
        self._count(packets, slots, group, out, again)
        if len(packets):
            self._now = max(self._now, int(packets.last.max()))
        return Placed(slot, out, again), _joined(told)

    def join(self, name: str) -> int:
        """A number for one more interface."""
        number = next(i for i in range(_NOBODY) if i not in self.names)
        self.names[number] = name.encode()
        return number

    def leave(self, interface: int) -> Section:
        """An interface is captured no more: tell what only it showed; of the rest others take over."""
        rows = self.rows
        mine = rows["used"] & ((rows["src_interface"] == interface) | (rows["dst_interface"] == interface))
        for side in _SIDES:
            rows[f"{side}_interface"][mine & (rows[f"{side}_interface"] == interface)] = _NOBODY
        alone = mine & (rows["src_interface"] == _NOBODY) & (rows["dst_interface"] == _NOBODY)
        rows["src_interface"][alone] = interface  # whose name the row is to have
        told = self._tell(np.flatnonzero(alone), b"end")
        self.names.pop(interface, None)
        return told

    def end(self) -> Section:
        """Tell all that are left: the capture is over."""
        return self._tell(np.flatnonzero(self.rows["used"]), b"end")

    def shown_by(self, rows: np.ndarray) -> list[bytes]:
        """Name of the interface that shows each of these rows of the table."""
        number = np.where(rows["src_interface"] == _NOBODY, rows["dst_interface"], rows["src_interface"])
        return [self.names.get(i, b"") for i in number.tolist()]

    def __len__(self) -> int:
        """Conversations that are known."""
        return len(self._slots)

    # --- which conversation

    def _keys(self, packets: Packets, src_port: np.ndarray, dst_port: np.ndarray) -> np.ndarray:
        # Both sides at once: of few packets it is the number of steps that costs.
        hi, lo = np.stack([packets.src_hi, packets.dst_hi]), np.stack([packets.src_lo, packets.dst_lo])
        ports = np.stack([src_port, dst_port]).astype(np.uint64)
        sides = splitmix64(splitmix64(splitmix64(hi ^ self._salt) ^ lo) ^ ports)
        about = packets.proto.astype(np.uint64) << np.uint64(16) | packets.vlan.astype(np.uint64)
        # Either order of the sides gives the same: the smaller goes first.
        return splitmix64(splitmix64(np.minimum(*sides) ^ about) ^ np.maximum(*sides))

    def _sent_by_opener(self, packets: Packets, slot: np.ndarray, src_port: np.ndarray) -> np.ndarray:
        # By columns: whole rows are ten times as many bytes.
        opener, port = self.rows["src_lo"][slot], self.rows["src_port"][slot]
        return (packets.src_lo == opener) & (packets.src_hi == self.rows["src_hi"][slot]) & (src_port == port)

    def _open(
        self,
        packets: Packets,
        keys: np.ndarray,
        at: np.ndarray,
        src_port: np.ndarray,
        dst_port: np.ndarray,
        turned: np.ndarray,
        flags: np.ndarray,
    ) -> np.ndarray:
        """New rows for the conversations whose first packets these are; whether the receiver of each opened it, and the row's flags."""
        if not len(at):
            return at
        slots = np.array([self._free.pop() for _ in at])
        self._slots.update(zip(keys[at].tolist(), slots.tolist(), strict=True))
        rows = np.zeros(len(at), _ROW)
        for mine, theirs in (("src", "dst"), ("dst", "src")):
            for half in ("hi", "lo"):
                a, b = getattr(packets, f"{mine}_{half}")[at], getattr(packets, f"{theirs}_{half}")[at]
                rows[f"{mine}_{half}"] = np.where(turned, b, a)
        rows["src_port"] = np.where(turned, dst_port[at], src_port[at])
        # The key has types of ICMP on both sides; people are told type and code.
        icmp = any_of(packets.proto[at], (c.ICMP, c.ICMPV6))
        rows["dst_port"] = np.select([icmp, turned], [packets.dst_port[at], src_port[at]], dst_port[at])
        rows["flow"], rows["proto"], rows["vlan"], rows["flags"] = keys[at], packets.proto[at], packets.vlan[at], flags
        rows["begin"] = rows["told"] = rows["last"] = packets.time[at]
        rows["src_interface"] = rows["dst_interface"] = packets.interface[at] if len(self.names) == 1 else _NOBODY
        rows["guessed"] = packets.count[at] == 0
        rows["used"] = True
        self._put(slots, rows)
        return slots

    def _settle(
        self,
        packets: Packets,
        slots: np.ndarray,
        first: np.ndarray,
        out: np.ndarray,
        turned: np.ndarray,
        flags: np.ndarray,
    ) -> None:
        """The kernel's first counts of conversations that began with a captured packet: now it is known who opened them, and when."""
        now = np.flatnonzero((packets.count[first] > 0) & self.rows["guessed"][slots])
        at, mine = first[now], slots[now]
        # The table's sides stay, for readers hold by them: they are turned when they are told.
        self.rows["turned"][mine] = out[at] == turned[now]
        self.rows["flags"][mine] = self.rows["flags"][mine] & SPOKEN | flags[now]
        self.rows["begin"][mine] = np.minimum(self.rows["begin"][mine], packets.time[at])
        self.rows["guessed"][mine] = False

    def _shown_again(self, packets: Packets, slots: np.ndarray, group: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Whether each packet was shown by another interface than its direction's own; those that nobody has get theirs."""
        again = np.zeros(len(packets), bool)
        if len(self.names) == 1:
            return again
        for side, mask in zip(_SIDES, (out, ~out), strict=True):
            at = np.flatnonzero(mask)
            of, interface = group[at], packets.interface[at]
            owner = self.rows[f"{side}_interface"][slots]
            lone = owner[of] == _NOBODY
            owner[of[lone][::-1]] = interface[lone][::-1]  # the first of them is written last
            foreign = interface != owner[of]
            latest = self.rows[f"{side}_last"][slots]
            np.maximum.at(latest, of[~foreign], packets.last[at[~foreign]])
            late = foreign & (packets.count[at] > 0) & (packets.time[at] > latest[of] + np.uint64(_SILENT_NS))
            owner[of[late][::-1]] = interface[late][::-1]
            self.rows[f"{side}_interface"][slots] = owner
            again[at] = foreign & (interface != owner[of])
        self.again += int(np.maximum(packets.count[again], 0).sum())
        return again

    # --- counting

    def _count(
        self, packets: Packets, slots: np.ndarray, group: np.ndarray, out: np.ndarray, again: np.ndarray
    ) -> None:
        if not len(slots):
            return
        rows = rows_at(self.rows, slots)
        for side, way in zip(_SIDES, (out, ~out), strict=True):
            seen = way & ~again
            latest = np.zeros(len(slots), np.uint64)
            np.maximum.at(latest, group[seen], packets.last[seen])
            rows[f"{side}_last"] = np.maximum(rows[f"{side}_last"], latest)
            mask = seen & (packets.count > 0)
            if not mask.any():
                continue
            mine = group[mask]
            rows[f"{side}_packets"] += np.bincount(mine, packets.count[mask], len(slots)).astype(np.uint64)
            rows[f"{side}_bytes"] += np.bincount(mine, packets.wire[mask], len(slots)).astype(np.uint64)
            for bit in range(8):
                set_ = mine[packets.tcp_flags[mask] >> bit & 1 == 1]
                if len(set_):
                    rows[f"{side}_tcp_flags"][unique(set_)] |= np.uint8(1 << bit)
        rows["last"] = np.maximum(rows["last"], np.maximum(rows["src_last"], rows["dst_last"]))
        self._put(slots, rows)

    def _put(self, slots: np.ndarray, rows: np.ndarray) -> None:
        self.rows.view(_OPAQUE)[slots] = rows.view(_OPAQUE)  # as bytes: see `rows_at`

    # --- telling

    def _reopened(self, packets: Packets, keys: np.ndarray) -> Section:
        """Tell conversations that were closed and whose ports are used anew."""
        syn, ack = packets.tcp_flags & c.SYN != 0, packets.tcp_flags & c.ACK != 0
        opening = np.flatnonzero((packets.proto == c.TCP) & syn & (~ack | (packets.count > 1)))
        known = [slot for key in unique(keys[opening]).tolist() if (slot := self._slots.get(key, -1)) >= 0]
        if not known:
            return _nothing()
        slots = np.array(known, np.int64)
        return self._tell(slots[_state(rows_at(self.rows, slots)) != _ACTIVE], b"")

    def due(self, now: int = 0) -> Section:
        """Tell the conversations that are over, silent or due: to be asked after a block, when it is known what they speak; `now` where a clock runs."""
        self._now = max(self._now, now)
        if self._now - self._swept < _SWEEP_NS:
            return _nothing()
        self._swept = self._now
        used = np.flatnonzero(self.rows["used"])
        rows = rows_at(self.rows, used)
        silent = np.uint64(self._now) - np.minimum(rows["last"], np.uint64(self._now))
        over = (_state(rows) != _ACTIVE) & (silent >= _LINGER_NS)
        idle = ~over & (silent >= IDLE_NS)
        news = rows["src_packets"] + rows["dst_packets"] > 0
        age = np.uint64(self._now) - np.minimum(rows["told"], np.uint64(self._now))
        active = ~over & news & (age >= ACTIVE_NS) & (silent < ACTIVE_NS // 2)
        return _joined(
            [self._tell(used[over], b""), self._tell(used[idle], b"idle"), self._tell(used[active], b"active")]
        )

    def _make_room(self, packets: int) -> Section:
        """Room for as many conversations as a block of packets may begin."""
        while len(self._free) < packets and len(self.rows) < MAX_FLOWS + packets:
            size = len(self.rows)
            self.rows = np.concatenate([self.rows, np.zeros(size, _ROW)])
            self._free[:0] = range(2 * size - 1, size - 1, -1)
        missing = max(packets - len(self._free), len(self._slots) - MAX_FLOWS)
        if missing <= 0:
            return _nothing()
        used = np.flatnonzero(self.rows["used"])
        oldest = used[np.argsort(self.rows["last"][used], kind="stable")[:missing]]
        self.evicted += len(oldest)
        return self._tell(oldest, b"evicted")

    def _tell(self, slots: np.ndarray, state: bytes) -> Section:
        """Rows of these conversations; all but active ones are forgotten, active ones count anew. Without a state it is theirs."""
        if not len(slots):
            return _nothing()
        slots = slots[np.argsort(self.rows["last"][slots], kind="stable")]
        rows = rows_at(self.rows, slots)
        turned = np.flatnonzero(rows["turned"])
        for mine, theirs in _TURNED:
            rows[mine][turned], rows[theirs][turned] = rows[theirs][turned], rows[mine][turned]
        states = _state(rows).tolist()
        names = (
            [state if state and own == _ACTIVE else own for own in states]
            if state != b"active"
            else [state] * len(rows)
        )
        values: dict[str, object] = {
            "time": rows["last"], "event": PACKET_FLOW.id, "flags": rows["flags"], **endpoints(rows), "begin_time": rows["begin"],
            **{name: rows[name] for name in _COUNTED}, "src_tcp_flags": rows["src_tcp_flags"], "dst_tcp_flags": rows["dst_tcp_flags"],
            "state": names, "interface": self.shown_by(rows), "service": [SERVICES[i].encode() for i in rows["service"].tolist()],
        }  # fmt: skip
        section = section_of(PACKET_FLOW, values, len(rows))
        if state == b"active":
            for name in _COUNTED:
                self.rows[name][slots] = 0
            self.rows["told"][slots] = self._now
        else:
            self.rows["used"][slots] = False
            self._free += slots.tolist()
            for key in rows["flow"].tolist():
                self._slots.pop(key, None)
        return section


_SIDES: Final = ("src", "dst")
_COUNTED: Final = ("src_packets", "src_bytes", "dst_packets", "dst_bytes")
_TURNED: Final = tuple(
    (f"src_{what}", f"dst_{what}") for what in ("hi", "lo", "port", "tcp_flags", "packets", "bytes", "interface")
)
_ACTIVE: Final = b"active"


def endpoints(rows: np.ndarray) -> dict[str, object]:
    """Columns of `daemoneye.events.network` for rows of the table."""
    return {
        "src_ip": _addresses(rows["src_hi"], rows["src_lo"]), "dst_ip": _addresses(rows["dst_hi"], rows["dst_lo"]),
        "src_port": rows["src_port"], "dst_port": rows["dst_port"], "proto": rows["proto"], "vlan": rows["vlan"],
    }  # fmt: skip


def _addresses(hi: np.ndarray, lo: np.ndarray) -> np.ndarray:
    both = np.stack([hi, lo], axis=1).astype(">u8")
    return np.ascontiguousarray(both).view("V16").reshape(-1)


def _state(rows: np.ndarray) -> np.ndarray:
    """`closed` or `reset` where that is so, else `active`; bytes of shape (n,)."""
    src, dst = rows["src_tcp_flags"], rows["dst_tcp_flags"]
    return np.select([(src | dst) & c.RST != 0, src & dst & c.FIN != 0], [b"reset", b"closed"], _ACTIVE)


def _nothing() -> Section:
    return Section(PACKET_FLOW, np.zeros(0, PACKET_FLOW.dtype), np.zeros(0, np.uint8))


def _joined(sections: list[Section]) -> Section:
    filled = [section for section in sections if len(section.rows)]
    return concatenate(filled) if filled else _nothing()
