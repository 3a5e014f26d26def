"""Whose socket a conversation is: sockets that the kernel told of, joined to what packets show.

Responsible for finding the process of each side of a packet row, and for what can honestly be said of it; not for remembering sockets
(:mod:`daemoneye_sensor.enrich.sockets`), nor for images and identities (:mod:`daemoneye_sensor.enrich.explainer`).

A socket that names both ends is found by them (`tuple`). One that names only its own (UDP that never connected) is found by that, and where it
is bound to no address by those that other sockets of its network namespace have. What was translated on the way is found by the client's address
and port, which stay (`nat`). Whatever two network namespaces could claim is nobody's, unless the packets come from one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from daemoneye.events.base import derive
from daemoneye.events.codec import Section
from daemoneye.events.network import Attribution
from daemoneye.events.sockets import Direction
from daemoneye_sensor.enrich.sockets import PROCESS, UDP, Endpoints, Sockets

SLACK_NS: Final = 1_000_000_000
"""How much later than its first packet a socket may begin and fit as well as any: whoever sends UDP is told of after the packet, when it runs again, and
whom it wakes runs first."""
EARLY_NS: Final = 3_000_000_000
"""A conversation may begin so much earlier than the socket: an accepted one begins with the last packet of the handshake, a server's of UDP with
its first look at what waits."""
LATE_NS: Final = 5_000_000_000
"""It may go on so much longer: what is sent again, and what answers it."""
_AT_ONCE: Final = 4096
_MOST: Final = 64
"""Sockets that are compared for one side of a row; where more have one name, nobody is named."""
_NOBODY: Final = -1
_ANY: Final = 2


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked about: packet rows, arrays of shape (n,). `near` and `far` are the ends of whoever is looked for, and of the other."""

    near: Endpoints
    far: Endpoints
    conversation: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    proto: np.ndarray
    netns: int

    def turned(self) -> _Asked:
        """The same asked about the other side."""
        return replace(self, near=self.far, far=self.near)


class Owners:
    """Sockets of this node and their processes.

    Attributes:
        sockets: What is remembered of them.
    """

    def __init__(self) -> None:
        self.sockets = Sockets()

    def learn(self, sections: Sequence[Section]) -> None:
        """Take in rows of socket_open and socket_close; other sections are passed over. The same rows twice do no harm."""
        self.sockets.learn(sections)

    def settle(self, rows: np.ndarray) -> None:
        """Take in all sockets that the kernel has open: others that are remembered as open ended unseen."""
        self.sockets.settle(rows)

    def forget(self) -> None:
        """Know nothing any more."""
        self.sockets = Sockets()

    @property
    def uids(self) -> np.ndarray:
        """Keys of the processes whose sockets are remembered, ascending, u64."""
        return self.sockets.uids

    def attribute(self, section: Section, netns: int = 0) -> Section:
        """The section with the processes of both sides where they are known; one that has no columns for them as it is.

        Args:
            section: Rows about packets.
            netns: Network namespace (inode) of the interface that showed them; 0 if it is not known.
        """
        if "peer_pid" not in (section.rows.dtype.names or ()) or not len(section.rows) or not len(self.sockets):
            return section
        rows = section.rows.copy()
        for first in range(0, len(rows), _AT_ONCE):
            part = rows[first : first + _AT_ONCE]
            _fill(part, self.sockets.rows, *self._find(part, netns))
        derive(section.record, rows)
        return Section(section.record, rows, section.heap, section.context)

    def _find(self, rows: np.ndarray, netns: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """Slot and attribution of the source's socket, and of the destination's."""
        known = self.sockets
        source, destination = (known.endpoints(rows[f"{side}_ip"], rows[f"{side}_port"]) for side in ("src", "dst"))
        begin = rows["begin_time"] if "begin_time" in (rows.dtype.names or ()) else rows["time"]
        asked = _Asked(
            source, destination, known.conversations(source.both, destination.both, rows["proto"]), begin.astype(np.int64),
            rows["time"].astype(np.int64), rows["proto"], netns,
        )  # fmt: skip
        found = []
        for side, direction in ((asked, Direction.OUTBOUND), (asked.turned(), Direction.INBOUND)):
            slot, how = self._named(side), np.full(len(rows), int(Attribution.TUPLE))
            slot = np.where(slot == _NOBODY, self._bound(side, slot == _NOBODY), self._taken_over(side, slot))
            missing = slot == _NOBODY
            how[missing] = Attribution.NAT
            slot = np.where(missing, self._translated(asked, missing, direction), slot)
            how[slot == _NOBODY] = Attribution.NONE
            found.append((slot, how))
        return tuple(found)

    def _named(self, side: _Asked) -> np.ndarray:
        """Sockets that name both ends; of two of one namespace, one after the other, the one of that time."""
        at, slots = self.sockets.by_conversation.find(side.conversation, _MOST)
        mine = self.sockets.rows["own"][slots] == side.near.both[at]
        return self._choose(side, at[mine], slots[mine])

    def _bound(self, side: _Asked, which: np.ndarray) -> np.ndarray:
        """Sockets of UDP without a peer that have the near side of some rows."""
        at, slots = self._peerless(side, which)
        # The port of a client that is gone may be the next one's at once, before it is known to be silent. Servers may share theirs.
        return self._choose(side, at, slots, alone=self.sockets.rows["direction"][slots] != Direction.OUTBOUND)

    def _taken_over(self, side: _Asked, slot: np.ndarray) -> np.ndarray:
        """The sockets that were found by both ends, but for UDP where another client is meant.

        A port is one client's at a time: one which has it without a peer, and began nearer to the row, came before the one with a peer or after it.
        """
        at, slots = self._peerless(side, slot != _NOBODY)
        if not len(at):
            return slot
        other, named, begin = self.sockets.rows[slots], self.sockets.rows[slot[at]], side.begin[at]
        mine = (other["direction"] == Direction.OUTBOUND) & (other["netns"] == named["netns"])
        mine &= np.abs(begin - other["begin"]) < np.abs(begin - named["begin"])
        found = self._choose(side, at[mine], slots[mine])
        return np.where(found == _NOBODY, slot, found)

    def _peerless(self, side: _Asked, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of UDP, and a socket without a peer for each: those bound to the address of the near side, or to all addresses where it is local."""
        known = self.sockets
        which = np.flatnonzero(which & (side.proto == UDP))
        at, slots = known.by_own.find(side.near.both[which], _MOST)
        there, spaces = known.local.find(side.near.address[which], _MOST)
        keys = known.wild_keys(spaces, side.near.port[which][there])
        place, wild = known.by_own.find(keys, _MOST)
        there = there[place]
        suits = (known.rows["wild"][wild] == _ANY) | side.near.v4[which[there]]
        return which[np.concatenate([at, there[suits]])], np.concatenate([slots, wild[suits]])

    def _translated(self, asked: _Asked, which: np.ndarray, direction: Direction) -> np.ndarray:
        """Sockets of one side by the client's end, which stays: if it is the only one, names another server, and is not the one that this knows."""
        known = self.sockets
        which = np.flatnonzero(which & ~asked.near.loopback)
        at, slots = known.by_client.find(known.clients(asked.near.both[which], asked.proto[which]), _MOST)
        at, rows = which[at], known.rows[slots]
        server = rows["other" if direction == Direction.OUTBOUND else "own"]
        # A conversation of which both sides are known by its own name is another one, from the same port to somebody else.
        names = known.by_conversation.keys
        alone = (
            np.searchsorted(names, rows["conversation"], "right") - np.searchsorted(names, rows["conversation"]) == 1
        )
        mine = (rows["direction"] == direction) & (server != asked.far.both[at]) & alone
        at, slots = at[mine], slots[mine]
        return self._choose(asked, at, slots, alone=np.ones(len(at), bool))

    def _choose(self, side: _Asked, at: np.ndarray, slots: np.ndarray, alone: np.ndarray | None = None) -> np.ndarray:
        """The socket of each row out of candidates, int64, shape (n,); _NOBODY where there is none, or where two could claim it.

        Args:
            side: What is asked about.
            at: Row of each candidate.
            slots: Slot of each candidate.
            alone: Candidates that spoil one that is no better, if that is another process's.
        """
        out = np.full(len(side.begin), _NOBODY)
        if not len(at):
            return out
        rows = self.sockets.rows[slots]
        since = side.begin[at] - rows["begin"]
        late = np.maximum(side.end[at] - rows["end"], 0)
        # A namespace's own interface shows nobody else's loopback; of other addresses any interface may show any namespace's.
        foreign = (rows["netns"] != side.netns) & (side.netns != 0)
        keep = np.flatnonzero((since >= -EARLY_NS) & (late <= LATE_NS) & ~(foreign & side.near.loopback[at]))
        if not len(keep):
            return out
        off = np.maximum(-since - SLACK_NS, 0) + late
        # Of those that fit, one that began when the row did is meant rather than one that began before, or right after it from the same port.
        apart = np.abs(since)
        order = keep[np.lexsort((apart[keep], off[keep], rows["wild"][keep], foreign[keep], at[keep]))]
        at, slots, rows, off, foreign = at[order], slots[order], rows[order], off[order], foreign[order]
        first = np.flatnonzero(np.append(True, at[1:] != at[:-1]))
        best = np.repeat(first, np.diff(np.append(first, len(at))))
        rivals = (foreign == foreign[best]) & (rows["netns"] != rows["netns"][best])
        if alone is not None:
            equal = (foreign == foreign[best]) & (rows["wild"] == rows["wild"][best]) & (off == off[best])
            rivals |= equal & alone[order] & (rows["process_uid"] != rows["process_uid"][best])
        out[at[first]] = np.where(np.logical_or.reduceat(rivals, first), _NOBODY, slots[first])
        return out


def _fill(
    rows: np.ndarray,
    known: np.ndarray,
    source: tuple[np.ndarray, np.ndarray],
    destination: tuple[np.ndarray, np.ndarray],
) -> None:
    """Write what was found into packet rows, in place: the process is the source's where it is known, else the destination's."""
    outbound, inbound = source[0] != _NOBODY, destination[0] != _NOBODY
    slot, how = (np.where(outbound, *pair) for pair in zip(source, destination, strict=True))
    someone = np.flatnonzero(outbound | inbound)
    owners = known[slot[someone]]
    for name in PROCESS:
        rows[name][someone] = owners[name]
    rows["attribution"] = how
    rows["direction"] = np.select([outbound, inbound], [Direction.OUTBOUND, Direction.INBOUND], Direction.UNKNOWN)
    both = np.flatnonzero(outbound & inbound)
    peers = known[destination[0][both]]
    for name in ("pid", "start_time", "cgroup_id", "cgroup_v1_id"):
        rows[f"peer_{name}"][both] = peers[name]
    rows["peer_attribution"][both] = destination[1][both]
