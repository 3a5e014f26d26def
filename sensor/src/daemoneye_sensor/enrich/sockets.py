"""The sockets of a node as far as packets may still ask for them: open ones, and those that ended within the last minute.

Responsible for keeping them within a bound, and for finding them by what packets show of them; not for which of them is meant
(:mod:`daemoneye_sensor.enrich.owners`). Addresses and ports are 64-bit hashes with a salt of this process: nobody who chooses them can make two the
same. The table is columns with indexes beside it; nothing here runs Python per row.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from daemoneye.events.addresses import protocol_number
from daemoneye.events.base import BASE, splitmix64
from daemoneye.events.codec import Section, starts
from daemoneye.events.flags import Flag
from daemoneye.events.sets import isin, unique
from daemoneye.events.sockets import Direction

MAX_SOCKETS: Final = 65_536
"""When there are more, those that ended first go, and then the oldest."""
KEPT_NS: Final = 60_000_000_000
"""How long a socket is remembered after its end, by the rows' clock: rows about its packets are told when their conversation is over."""
UDP: Final = protocol_number("udp")
PROCESS: Final = (
    "process_uid", "pid", "tid", "start_time", "parent_uid", "parent_start_time", "ppid", "uid", "cgroup_id", "cgroup_v1_id",
)  # fmt: skip
"""Columns that say whose a socket is."""
_SWEEP_NS: Final = 5_000_000_000
OPEN: Final = (1 << 62) - 1
"""End of a socket that is open."""
_ROW: Final = np.dtype([
    ("own", "u8"), ("other", "u8"), ("conversation", "u8"), ("socket", "u8"), ("address", "u8"), ("begin", "i8"), ("newest", "i8"), ("end", "i8"),
    ("netns", "u4"), ("port", "u2"), ("proto", "u1"), ("direction", "u1"), ("wild", "u1"), ("peerless", "?"), ("single", "?"), ("used", "?"),
    *((field.name, field.column_type[0]) for field in BASE if field.name in PROCESS),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses with ports, arrays of shape (n,).

    Attributes:
        both: Hash of address and port.
        address: Hash of the address alone.
        port: The port.
        v4: Whether it is one of IPv4.
        loopback: Whether it never leaves its namespace.
        wild: 0 an address, 1 all of IPv4, 2 all there are.
        single: Whether it is one interface's: no group, no broadcast.
    """

    both: np.ndarray
    address: np.ndarray
    port: np.ndarray
    v4: np.ndarray
    loopback: np.ndarray
    wild: np.ndarray
    single: np.ndarray


class Index:
    """Values by key, in order of the key; a key may have several.

    Attributes:
        keys: u64, ascending.
        values: int64, beside them.
    """

    def __init__(self) -> None:
        self.keys = np.zeros(0, np.uint64)
        self.values = np.zeros(0, np.int64)

    def add(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Enter pairs."""
        order = np.argsort(keys, kind="stable")
        at = np.searchsorted(self.keys, keys[order])
        self.keys = np.insert(self.keys, at, keys[order])
        self.values = np.insert(self.values, at, values[order])

    def keep(self, which: np.ndarray) -> None:
        """Drop all others; bool, one for each pair."""
        self.keys, self.values = self.keys[which], self.values[which]

    def find(self, keys: np.ndarray, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Every pair of a position in `keys` and a value that its key has; none of a key that has more than `most`."""
        left = np.searchsorted(self.keys, keys, "left")
        count = np.searchsorted(self.keys, keys, "right") - left
        if most is not None:
            count[count > most] = 0
        at = np.repeat(np.arange(len(keys)), count)
        return at, self.values[np.arange(len(at)) + np.repeat(left - starts(count), count)]


class Sockets:
    """What is remembered.

    Attributes:
        rows: The table, structured array; a slot is valid while `used`. Times are int64; `end` of what is open is far away.
        by_conversation: Slots by the hash of both ends.
        by_client: Slots by the end of whoever opened it.
        by_own: Slots of UDP sockets without a peer by their own end, or by `wild_keys`.
        local: Network namespaces by hashes of the addresses that they are known to have.
        evicted: Sockets forgotten for want of room.
    """

    def __init__(self) -> None:
        self.rows = np.zeros(1024, _ROW)
        self.by_conversation, self.by_client, self.by_own, self.local = (Index() for _ in range(4))
        self.evicted = 0
        self._by_socket = Index()
        self._salt = np.uint64(secrets.randbits(64))
        self._now = self._swept = 0

    def __len__(self) -> int:
        """Sockets."""
        return len(self._by_socket.keys)

    @property
    def uids(self) -> np.ndarray:
        """Keys of their processes, ascending, u64."""
        return unique(self.rows["process_uid"][self.rows["used"]])

    # ── names of things ─────────────────────────────────────────────────────────────────────────────────────────────

    def endpoints(self, addresses: np.ndarray, ports: np.ndarray) -> Endpoints:
        """Addresses of 16 bytes and their ports, taken apart."""
        raw = np.ascontiguousarray(addresses).view(np.uint8).reshape(-1, 16)
        high, low = np.ascontiguousarray(raw).view("<u8").reshape(-1, 2).astype(np.uint64).T
        v4 = (high == 0) & (raw[:, 8:12] == (0, 0, 0xFF, 0xFF)).all(axis=1)
        nothing = (high == 0) & (low == 0)
        first = np.where(v4, raw[:, 12], raw[:, 0])
        wild = np.select([nothing, v4 & (raw[:, 12:] == 0).all(axis=1)], [2, 1], 0)
        loopback = np.where(v4, first == 127, (high == 0) & (raw[:, 8:] == (0,) * 7 + (1,)).all(axis=1))
        address = splitmix64(splitmix64(high ^ self._salt) ^ low)
        both = splitmix64(address ^ ports.astype(np.uint64))
        single = (wild == 0) & np.where(v4, first < 224, first != 0xFF)
        return Endpoints(both, address, ports, v4, loopback, wild, single)

    def conversations(self, one: np.ndarray, other: np.ndarray, proto: np.ndarray) -> np.ndarray:
        """Names of conversations by hashes of both ends, u64: the same whichever comes first."""
        return splitmix64(splitmix64(np.minimum(one, other) ^ proto.astype(np.uint64)) ^ np.maximum(one, other))

    def clients(self, ends: np.ndarray, proto: np.ndarray) -> np.ndarray:
        """Keys of `by_client` by hashes of the client's end, u64."""
        return splitmix64(ends ^ splitmix64(proto.astype(np.uint64)))

    def wild_keys(self, netns: np.ndarray, ports: np.ndarray) -> np.ndarray:
        """Keys of `by_own` for sockets that are bound to a port of all addresses of a network namespace, u64."""
        return splitmix64(netns.astype(np.uint64) << np.uint64(16) ^ ports.astype(np.uint64) ^ self._salt)

    # ── learning ────────────────────────────────────────────────────────────────────────────────────────────────────

    def learn(self, sections: Sequence[Section]) -> None:
        """Take in rows of socket_open and socket_close."""
        for section in sections:
            if section.record.name in {"socket_open", "socket_close"} and len(section.rows):
                self._take(self._of_rows(section.rows, ended=section.record.name == "socket_close"))
        if self._now - self._swept >= _SWEEP_NS:
            self._sweep()

    def settle(self, rows: np.ndarray) -> None:
        """Take in all open sockets, as rows of socket_close: what else is open here ended unseen, at some time before now."""
        # A connection that is coming about has no ports yet.
        usable = (rows["established"] == 1) | (rows["proto"] == UDP) | (rows["direction"] == Direction.LISTEN)
        known = self._of_rows(rows[usable], ended=False)
        ours = np.flatnonzero(self.rows["used"] & (self.rows["end"] == OPEN))
        self.rows["end"][ours[~isin(self.rows["socket"][ours], known["socket"])]] = self._now
        self._take(known)
        self.rows["end"][self._by_socket.find(known["socket"])[1]] = OPEN
        self._sweep()

    def _of_rows(self, rows: np.ndarray, *, ended: bool) -> np.ndarray:
        """Rows of one of the two events as rows of the table: those with a process and a port."""
        rows = rows[rows["pid"] != 0]
        if len(rows):
            self._now = max(self._now, int(rows["time"].max()))
        out = np.zeros(len(rows), _ROW)
        for name in ("netns", "proto", "direction", *PROCESS):
            out[name] = rows[name]
        outbound = rows["direction"] == Direction.OUTBOUND
        sides = [self.endpoints(rows[f"{side}_ip"], rows[f"{side}_port"]) for side in ("src", "dst")]
        own, other = (
            {name: np.where(outbound, getattr(a, name), getattr(b, name)) for name in Endpoints.__slots__}
            for a, b in (sides, sides[::-1])
        )
        for name in ("address", "port", "wild", "single"):
            out[name] = own[name]
        out["own"], out["other"] = own["both"], other["both"]
        out["peerless"] = other["port"] == 0
        out["conversation"] = self.conversations(out["own"], out["other"], out["proto"])
        # One process with one 5-tuple: that it closed it and took it up again makes no difference to whose it is.
        out["socket"] = splitmix64(
            splitmix64(out["conversation"] ^ splitmix64(out["own"] ^ out["netns"])) ^ out["process_uid"]
        )
        out["newest"] = rows["begin_time"]
        # When something began that was there before us, nobody knows.
        out["begin"] = np.where(rows["flags"] & np.uint32(Flag.MID_STREAM) != 0, 0, rows["begin_time"])
        out["end"] = rows["time"] if ended else OPEN
        return out[out["port"] != 0]

    def _take(self, fresh: np.ndarray) -> None:
        """Enter rows, several of one socket included: the one that began last says whether it is open; of two that began together, the end does."""
        if not len(fresh):
            return
        fresh = fresh[np.lexsort((-fresh["end"], fresh["newest"], fresh["socket"]))]
        first = np.flatnonzero(np.append(True, fresh["socket"][1:] != fresh["socket"][:-1]))
        merged = fresh[np.append(first[1:], len(fresh)) - 1]
        merged["begin"] = np.minimum.reduceat(fresh["begin"], first)
        at, slots = self._by_socket.find(merged["socket"])
        known, news = self.rows[slots], merged[at]
        together = np.minimum(known["end"], news["end"])
        known["end"] = np.select(
            [news["newest"] == known["newest"], news["newest"] > known["newest"]], [together, news["end"]], known["end"]
        )
        known["newest"] = np.maximum(known["newest"], news["newest"])
        known["begin"] = np.minimum(known["begin"], news["begin"])
        self.rows[slots] = known
        new = np.ones(len(merged), bool)
        new[at] = False
        self._enter(merged[new])

    def _enter(self, rows: np.ndarray) -> None:
        """Sockets that are not known yet."""
        rows = rows[np.argsort(rows["end"], kind="stable")][-MAX_SOCKETS:]
        if not len(rows):
            return
        slots = self._room(len(rows))
        rows["used"] = True
        self.rows[slots] = rows
        self._by_socket.add(rows["socket"], slots)
        self._learn_addresses(rows)
        bound = rows["peerless"] & (rows["proto"] == UDP)
        own = np.where(rows["wild"] == 0, rows["own"], self.wild_keys(rows["netns"], rows["port"]))
        self.by_own.add(own[bound], slots[bound])
        rows, slots = rows[~rows["peerless"]], slots[~rows["peerless"]]
        self.by_conversation.add(rows["conversation"], slots)
        client = np.where(rows["direction"] == Direction.OUTBOUND, rows["own"], rows["other"])
        self.by_client.add(self.clients(client, rows["proto"]), slots)

    def _learn_addresses(self, rows: np.ndarray) -> None:
        """Whoever has a socket with an address has the address."""
        rows = rows[rows["single"]]
        at, spaces = self.local.find(rows["address"])
        known = np.zeros(len(rows), bool)
        known[at[spaces == rows["netns"][at]]] = True
        fresh = rows[~known]
        order = np.lexsort((fresh["netns"], fresh["address"]))
        address, netns = fresh["address"][order], fresh["netns"][order].astype(np.int64)
        first = np.ones(len(fresh), bool)
        first[1:] = (address[1:] != address[:-1]) | (netns[1:] != netns[:-1])
        self.local.add(address[first], netns[first])

    # ── forgetting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _room(self, n: int) -> np.ndarray:
        """So many free slots."""
        used = self.rows["used"]
        missing = len(self) + n - MAX_SOCKETS
        if missing > 0:
            # More at once than are needed: to make room costs a look at all of them.
            index = np.flatnonzero(used)
            order = np.lexsort((self.rows["newest"][index], self.rows["end"][index]))
            gone = index[order[: max(missing, MAX_SOCKETS // 16)]]
            self.evicted += len(gone)
            self._drop(gone)
        while len(self.rows) < len(self) + n:
            self.rows = np.concatenate([self.rows, np.zeros(len(self.rows), _ROW)])
        return np.flatnonzero(~self.rows["used"])[:n]

    def _sweep(self) -> None:
        """Forget what ended long ago, and which addresses only that had."""
        self._swept = self._now
        self._drop(np.flatnonzero(self.rows["used"] & (self.rows["end"] < self._now - KEPT_NS)))
        self.local = Index()
        self._learn_addresses(self.rows[self.rows["used"]])

    def _drop(self, slots: np.ndarray) -> None:
        if not len(slots):
            return
        self.rows["used"][slots] = False
        for index in (self.by_conversation, self.by_client, self.by_own, self._by_socket):
            index.keep(self.rows["used"][index.values])
