"""What a node's addresses are called: by the answers of DNS that its workloads got, and by what a connection asked its server for.

Responsible for the names of other sides, from rows of packets; where nobody captures them there are none. A name is looked at once for each distinct
one, everything else is whole columns. Who answers its own questions, or lies to a server, can give any address any name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from daemoneye.events.addresses import packed
from daemoneye.events.flags import Flag
from daemoneye.events.sets import isin, unique
from daemoneye.events.sockets import Direction
from daemoneye_analytics.behaviour.executions import contexts, whose
from daemoneye_analytics.behaviour.networks import INSIDE, OUTSIDE, network, networks
from daemoneye_analytics.conversations import halves
from daemoneye_analytics.detectors.names import registered
from daemoneye_analytics.frame import Frame, Texts, combine, text_hash

LIFE_NS: Final = 3600 * 1_000_000_000
"""A name holds for an hour after it was told last: clients keep answers longer than these say, and connect again without a question."""
ADDRESSES: Final = 16_384
CONNECTIONS: Final = 8_192
"""Names of addresses and of connections that a node keeps; those told longest ago go first."""
_LATE_NS: Final = 10_000_000_000
"""Rows may be so much older than others that came before."""
_NEVER: Final = -(1 << 62)
_EVER: Final = 1 << 62
_NODE: Final = 1
"""What stands for a workload where the whole node is meant."""
_ROW: Final = np.dtype([("key", "<u8"), ("time", "<i8"), ("other", "<i8"), ("name", "<u8")])
_DISTINCT: Final = 65_536
_LONGEST: Final = 253
# Names of hosts: others stand in no sentence.
_HOST: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_ADDRESSES: Final = frozenset(("A", "AAAA"))
_ASKED: Final = (("tls_client_hello", "sni"), ("quic_initial", "sni"), ("http_request", "host"))


class Book:
    """Which name each key had when; 32 bytes a name, so many and as many of the newest batch at most."""

    def __init__(self, most: int) -> None:
        self._most = most
        # By key and time. `other` is when the key was last told another name.
        self._rows = np.zeros(0, _ROW)

    def __len__(self) -> int:
        return len(self._rows)

    def tell(self, key: np.ndarray, time: np.ndarray, name: np.ndarray, since: int) -> None:
        """Names from a moment on: u64, int64 (ns), u64; shape (n,), in any order. Of what was before `since`, ns, nobody asks any more."""
        if not len(key):
            return
        told = np.zeros(len(key), _ROW)
        told["key"], told["time"], told["other"], told["name"] = key, time, _NEVER, name
        rows = np.concatenate((self._kept(since, int(time.max())), self._newest(told)))
        rows = rows[np.lexsort((rows["time"], rows["key"]))]
        head, other = np.ones(len(rows), bool), np.zeros(len(rows), bool)
        head[1:] = rows["key"][1:] != rows["key"][:-1]
        other[1:] = ~head[1:] & (rows["name"][1:] != rows["name"][:-1])
        former, changed = rows["other"].copy(), np.flatnonzero(other)
        former[changed] = np.maximum(former[changed], rows["time"][changed - 1])
        place = np.maximum.accumulate(np.where(head | (former > _NEVER), np.arange(len(rows)), 0))
        rows["other"] = former[place]
        self._rows = rows

    def ask(self, key: np.ndarray, time: np.ndarray, *, sole: bool = False) -> np.ndarray:
        """The name that each key was told last before a moment, u64, shape (n,); 0 where there is none, or it is too old.

        Args:
            key: u64, shape (n,).
            time: ns, int64, shape (n,).
            sole: Not where it was told another one, too, as late as would hold.
        """
        out = np.zeros(len(key), np.uint64)
        rows = self._rows[isin(self._rows["key"], key)]
        n = len(rows)
        if not n:
            return out
        every = np.arange(n + len(key))
        order = np.lexsort((every >= n, np.concatenate((rows["time"], time)), np.concatenate((rows["key"], key))))
        last = np.maximum.accumulate(np.where(order < n, every, -1))
        asks = np.flatnonzero((order >= n) & (last >= 0))
        row, asked = rows[order[last[asks]]], order[asks] - n
        fits = (row["key"] == key[asked]) & (time[asked] - row["time"] <= LIFE_NS)
        if sole:
            fits &= time[asked] - row["other"] > LIFE_NS
        out[asked[fits]] = row["name"][fits]
        return out

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"rows": self._newest(self._rows).copy()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: It is of another form.
        """
        rows = state.get("rows")
        if not isinstance(rows, np.ndarray) or rows.dtype != _ROW or rows.ndim != 1:
            raise ValueError("not names that were kept")
        self._rows = self._newest(rows).copy()

    def _kept(self, since: int, now: int) -> np.ndarray:
        """What holds at some moment from `since` on; of a clock that went back what it told is forgotten, too."""
        rows, since = self._rows, since - _LATE_NS
        until = np.full(len(rows), _EVER)
        until[:-1] = np.where(rows["key"][1:] == rows["key"][:-1], rows["time"][1:], _EVER)
        return self._newest(
            rows[(until >= since) & (rows["time"] >= since - LIFE_NS) & (rows["time"] <= now + LIFE_NS)]
        )

    def _newest(self, rows: np.ndarray) -> np.ndarray:
        """Those that were told last, in their order."""
        return rows[np.sort(np.argsort(rows["time"], kind="stable")[-self._most :])] if len(rows) > self._most else rows


class Directory:
    """The names on one node."""

    def __init__(self) -> None:
        self._addresses, self._connections = Book(ADDRESSES), Book(CONNECTIONS)

    def __len__(self) -> int:
        return len(self._addresses) + len(self._connections)

    def hear(self, frame: Frame, since: int) -> list[str]:
        """Learn what a batch says; the names that it says. Of what was before `since`, ns, nobody asks any more."""
        said = self._answers(frame, since)
        for record, field in _ASKED:
            said += self._asked(frame, record, field, since)
        return said

    def names(self, rows: np.ndarray, workload: np.ndarray, time: np.ndarray) -> np.ndarray:
        """`text_hash` of what the other side of each of n sockets that connected is called, u64; 0 where that is not known.

        What this very connection asked for, else what the workload resolved to the address last, else what anybody on the node did, if all agree.

        Args:
            rows: With the columns of `daemoneye.events.sockets.SOCKET`.
            workload: As connections have it, u64, shape (n,).
            time: Wall time, ns, int64, shape (n,).
        """
        if not len(self) or not len(rows):
            return np.zeros(len(rows), np.uint64)
        hi, lo = halves(rows["dst_ip"])
        name = self._connections.ask(_ends(rows), time)
        for key, sole in ((combine(workload, hi, lo), False), (combine(_NODE, hi, lo), True)):
            name = np.where(name != 0, name, self._addresses.ask(key, time, sole=sole))
        return name

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"addresses": self._addresses.state()["rows"], "connections": self._connections.state()["rows"]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: It is of another form.
        """
        self._addresses.restore({"rows": state.get("addresses")})
        self._connections.restore({"rows": state.get("connections")})

    def _answers(self, frame: Frame, since: int) -> list[str]:
        every = frame.rows("dns_query")
        if not len(every):
            return []
        answers, at = frame.items("dns_query", "answers")
        hi, lo, kind = (column[answers.codes] for column in _columns(answers.values))
        asked = frame.texts("dns_query", "type").where(_ADDRESSES.__contains__)
        fits = np.flatnonzero(asked[at] & ((kind == INSIDE) | (kind == OUTSIDE)))
        at, hi, lo, inside = at[fits], hi[fits], lo[fits], kind[fits] == INSIDE
        queries = frame.texts("dns_query", "query")
        names, said = _said(Texts(queries.values, queries.codes[at]), inside, known=False)
        rows = every.take(at)
        levels = contexts(frame, frame.identity_of(rows), rows)
        workload, time = whose(levels), frame.batch.wall_ns(rows["time"])
        own = (rows["direction"] == Direction.OUTBOUND) & (workload != 0) & (names != 0)
        theirs = names != 0
        self._addresses.tell(
            np.concatenate((combine(_NODE, hi, lo)[theirs], combine(workload, hi, lo)[own])),
            np.concatenate((time[theirs], time[own])),
            np.concatenate((names[theirs], names[own])),
            since,
        )
        return said

    def _asked(self, frame: Frame, record: str, field: str, since: int) -> list[str]:
        rows = frame.rows(record)
        if not len(rows):
            return []
        kind, _ = networks(np.column_stack(halves(rows["dst_ip"])))
        names, said = _said(frame.texts(record, field), kind == INSIDE, known=True)
        # With an encrypted hello the name in the clear is the provider's.
        own = (names != 0) & (rows["flags"] & np.uint32(Flag.ECH) == 0)
        self._connections.tell(_ends(rows[own]), frame.batch.wall_ns(rows["time"])[own], names[own], since)
        return said


def called(name: str, *, inside: bool) -> str:
    """What of a name is counted: of one outside the domain that somebody registered, of one inside, or below no suffix that is known, all; empty for none."""
    name = _plain(name)
    if not _HOST.fullmatch(name) or len(name) > _LONGEST:
        return ""
    return name if inside else registered(name) or name


def _plain(name: str) -> str:
    """Without the port that requests of HTTP may name."""
    return name.partition(":")[0].rstrip(".").lower()


def _said(texts: Texts, inside: np.ndarray, *, known: bool) -> tuple[np.ndarray, list[str]]:
    """`text_hash` of the name of each of n rows, u64, and the names; with `known` only of those below a suffix that is known."""
    used = unique(texts.codes * 2 + inside)
    values = [texts.values[code // 2] for code in used.tolist()]
    names = [
        "" if known and not registered(_plain(value)) else called(value, inside=bool(code % 2))
        for value, code in zip(values, used.tolist(), strict=True)
    ]
    hashes = np.fromiter(map(text_hash, names), np.uint64, len(names))
    return hashes[np.searchsorted(used, texts.codes * 2 + inside)] if len(used) else hashes, [
        *dict.fromkeys(filter(None, names))
    ]


def _columns(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each text's address as two numbers, u64, and the class of it, float64; zeros for what is none."""
    read = [_address(text) for text in texts]
    numbers = np.array([(hi, lo) for hi, lo, _ in read], np.uint64).reshape(-1, 2)
    return numbers[:, 0], numbers[:, 1], np.array([kind for _, _, kind in read], np.float64)


@lru_cache(maxsize=_DISTINCT)
def _address(text: str) -> tuple[int, int, float]:
    try:
        address = packed(text)
    except ValueError:
        return 0, 0, 0.0
    hi, lo = int.from_bytes(address[:8]), int.from_bytes(address[8:])
    return hi, lo, network(hi, lo)[0]


def _ends(rows: np.ndarray) -> np.ndarray:
    """Whose connection each row is of, u64: both addresses, both ports, and the protocol."""
    return combine(*halves(rows["src_ip"]), *halves(rows["dst_ip"]), rows["src_port"], rows["dst_port"], rows["proto"])
