"""One batch, prepared once for all detectors.

Responsible for the joins that every detector needs (workload, parent, ancestors) and for the rows as polars tables, all
lazily and by whole columns. What a row means is a detector's affair; how a row is told to a person is
`daemoneye_analytics.evidence`'s.

Masks and joins are numpy; texts repeat a lot, so that whatever is asked of a text is answered once for each distinct one
(`Texts`). The polars tables are made when somebody asks for them; a row that became a finding is read alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple, cast

import numpy as np
import polars as pl

from daemoneye.envelope import Batch, Envelope
from daemoneye.escape import decode
from daemoneye.events.ancestry import MAX_DEPTH, Images, identity_rows
from daemoneye.events.arrow import to_arrow
from daemoneye.events.base import splitmix64
from daemoneye.events.codec import Section
from daemoneye.events.flags import Flag
from daemoneye.events.registry import EVENTS
from daemoneye.events.sockets import Direction
from daemoneye_analytics.pods import Pods
from daemoneye_analytics.share import WHOLE, Share

_NO_SPANS: Final = np.zeros((0, 2), np.int64)
_DISTINCT: Final = 65_536
_JOINED: Final = ("sequence", "image", "parent_image")


class Identity(NamedTuple):
    """Whose a cgroup is; `state` is 0 unknown, 1 partial, 2 resolved."""

    workload: str = ""
    container_id: str = ""
    pod_uid: str = ""
    state: int = 0


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of n texts as codes of distinct ones.

    Attributes:
        values: The distinct texts.
        codes: Position of each row's text in `values`, int64, shape (n,).
    """

    values: list[str]
    codes: np.ndarray

    def where(self, predicate: Callable[[str], bool]) -> np.ndarray:
        """Which rows' texts a predicate holds for, bool, shape (n,)."""
        return np.fromiter(map(predicate, self.values), bool, len(self.values))[self.codes]

    def hashes(self) -> np.ndarray:
        """`text_hash` of each row's text, u64, shape (n,)."""
        return np.fromiter(map(text_hash, self.values), np.uint64, len(self.values))[self.codes]


class Frame:
    """The rows of a batch that are new, and what explains them.

    Attributes:
        batch: The decoded batch.
        skip: Event rows at its beginning that were processed before; they explain others but are not looked at again.
        loss_spans: Spans of wall time (ns) in which rows of this node were lost, int64, shape (k, 2).
        share: Whose rows are looked at; the others explain them.
        flagged: Keys of processes in which detectors found something so far; those that run later read it.

    A row's sequence is the batch's first one plus its position among the event rows, sections in order of the body.
    Below, m is the number of process images in the batch and n that of its new executions.
    """

    def __init__(
        self, batch: Batch, *, skip: int = 0, loss_spans: np.ndarray = _NO_SPANS, share: Share = WHOLE
    ) -> None:
        self.batch = batch
        self.skip = skip
        self.loss_spans = loss_spans
        self.share = share
        self._news: dict[str, np.ndarray] = {}
        self.flagged: list[int] = []

    @property
    def envelope(self) -> Envelope:
        """The batch's envelope."""
        return self.batch.envelope

    # ── images: ancestors and executions ────────────────────────────────────────────────────────────────────────────

    @cached_property
    def images(self) -> Images:
        """Every process image that the batch carries, those of skipped rows included."""
        nothing = Section(EVENTS["process_exec"], np.zeros(0, EVENTS["process_exec"].dtype), np.zeros(0, np.uint8))
        return Images.of_batch(self.batch) or Images(nothing)

    @cached_property
    def context(self) -> int:
        """How many of the images are ancestors alone; they come first."""
        section = self.batch.section("process_exec", context=True)
        return len(section.rows) if section else 0

    @cached_property
    def exe(self) -> Texts:
        """Executable of each image, m rows; empty where it was lost."""
        column = to_arrow(self.batch, self.images.section, ("exe",)).column(0).dictionary_encode()
        return Texts(column.dictionary.to_pylist(), column.indices.to_numpy().astype(np.int64))

    @cached_property
    def ancestors(self) -> np.ndarray:
        """Rows of each image's ancestors in `images`, nearest first, int64, shape (m, 8); -1 from where they are unknown."""
        rows = self.images.section.rows
        if not len(rows):
            return np.zeros((0, MAX_DEPTH), np.int64)
        return self.images.ancestors(rows["parent_uid"], rows["time"])

    @cached_property
    def identity(self) -> np.ndarray:
        """Position of each image's cgroup in `identities`, int64, shape (m,)."""
        return self.identity_of(self.images.section.rows)

    @cached_property
    def identities(self) -> list[Identity]:
        """The batch's cgroups, and at the end the unknown one."""
        section = self.batch.section("cgroup_identity", context=True)
        if section is None:
            return [Identity()]
        texts = ([decode(v) for v in section.values(name)] for name in ("workload", "container_id", "pod_uid"))
        states = np.minimum(section.rows["state"], 2).tolist()
        return [*map(Identity, *texts, states), Identity()]

    @cached_property
    def workload_hashes(self) -> np.ndarray:
        """`text_hash` of the workload of each of `identities`, u64."""
        return np.fromiter((text_hash(i.workload) for i in self.identities), np.uint64, len(self.identities))

    def fitting(self, patterns: Sequence[str]) -> np.ndarray:
        """Which of `identities` have a workload that fits one of some patterns with * and ?, bool."""
        return np.array([_fits(i.workload, tuple(patterns)) for i in self.identities])

    @cached_property
    def pods(self) -> Pods:
        """What Kubernetes knows of the batch's cgroups; nothing on one machine."""
        return Pods(self.batch)

    def membership(self, images: np.ndarray) -> np.ndarray:
        """Hash of the set of policies that each of some images belongs to, u64; 0 where there are none."""
        sets = [text_hash("\0".join(sorted(names))) for names in self.pods.policies]
        return np.array([*sets, 0], np.uint64)[self.pods.rows(self.images.section.rows[images])]

    # ── new executions, in order of time ────────────────────────────────────────────────────────────────────────────

    @cached_property
    def exec_image(self) -> np.ndarray:
        """Row of each new execution in `images`, int64, shape (n,)."""
        section = self.batch.section("process_exec")
        return self._new(section) + self.context if section else np.zeros(0, np.int64)

    @cached_property
    def exec_sequence(self) -> np.ndarray:
        """Place of the new executions in the node's lane, u64, shape (n,)."""
        return self.sequence("process_exec")

    @cached_property
    def exec_rows(self) -> np.ndarray:
        """Fixed columns of the new executions, structured array, shape (n,)."""
        return self.images.section.rows.take(self.exec_image)

    @cached_property
    def exec_time(self) -> np.ndarray:
        """Wall time of the new executions in ns since 1970, int64, shape (n,)."""
        return self.batch.wall_ns(self.exec_rows["time"])

    def has(self, flags: Flag) -> np.ndarray:
        """Which new executions carry one of some flags, bool, shape (n,)."""
        return (self._flags & np.uint32(flags)) != 0

    @cached_property
    def _flags(self) -> np.ndarray:
        return np.ascontiguousarray(self.exec_rows["flags"])

    def exec_starts_with(self, field: str, prefix: bytes) -> np.ndarray:
        """Which new executions have a heap field that begins with some bytes, bool, shape (n,)."""
        begin, length = (column[self.exec_image] for column in self._columns(field))
        out = length >= len(prefix)
        for at, byte in enumerate(prefix):
            out[out] = self.images.section.heap[begin[out] + at] == byte
        return out

    def exec_text(self, field: str, row: int) -> str:
        """One heap field of one new execution."""
        begin, length = (int(column[self.exec_image[row]]) for column in self._columns(field))
        return decode(self.images.section.heap[begin : begin + length].tobytes())

    def exec_row(self, row: int) -> dict[str, Any]:
        """One new execution by column name: `row("process_exec", row)`."""
        return self.row("process_exec", row)

    # ── any kind of event ───────────────────────────────────────────────────────────────────────────────────────────

    def table(self, record: str) -> pl.DataFrame:
        """New rows of one kind of event in order of time; without columns where the batch has none.

        Columns: the declared fields (times as UTC, ns; argv as list of strings), `sequence` (u64), `image` and
        `parent_image` (rows in `images` of what the process and its parent ran, -1 unknown), `workload`, `container_id`,
        `pod_uid` and `identity` (0 unknown, 1 partial, 2 resolved). Rows about packets have `peer_image` and `peer_workload`, too: what the process
        of the other side ran, and where.
        """
        section = self.batch.section(record)
        if section is None:
            return pl.DataFrame()
        taken, joined = self._explained(section, slice(None))
        known = pl.DataFrame(self.identities, schema=["workload", "container_id", "pod_uid", "identity"], orient="row")
        more = []
        if "peer_image" in joined:
            more = [
                pl.Series("peer_image", joined["peer_image"]),
                known["workload"][joined["peer_identity"]].alias("peer_workload"),
            ]
        return cast("pl.DataFrame", pl.from_arrow(to_arrow(self.batch, taken))).with_columns(
            *(pl.Series(name, joined[name]) for name in _JOINED), *known[joined["identity"]].get_columns(), *more
        )

    def rows(self, record: str) -> np.ndarray:
        """Fixed columns of the new rows of one kind of event, structured array, in the order of `table(record)`; empty where the batch has none."""
        if record not in self._fixed:
            section = self.batch.section(record)
            empty = np.zeros(0, EVENTS[record].dtype)
            self._fixed[record] = section.rows[self._new(section)] if section else empty
        return self._fixed[record]

    def texts(self, record: str, field: str) -> Texts:
        """One text of the new rows of one kind of event, in the same order."""
        section = self.batch.section(record)
        if section is None:
            return Texts([], np.zeros(0, np.int64))
        column = to_arrow(self.batch, section.take(self._new(section)), (field,)).column(0).dictionary_encode()
        return Texts(column.dictionary.to_pylist(), column.indices.to_numpy().astype(np.int64))

    def items(self, record: str, field: str) -> tuple[Texts, np.ndarray]:
        """The entries of a list of the new rows of one kind of event, one row's after another's, and which row each is of, int64."""
        section = self.batch.section(record)
        if section is None:
            return Texts([], np.zeros(0, np.int64)), np.zeros(0, np.int64)
        lists = to_arrow(self.batch, section.take(self._new(section)), (field,)).column(0)
        flat = lists.flatten().dictionary_encode()
        row = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy())
        return Texts(flat.dictionary.to_pylist(), flat.indices.to_numpy().astype(np.int64)), row

    def row(self, record: str, index: int) -> dict[str, Any]:
        """One new row by column name, without its moments: Python's own cannot hold nanoseconds and need a time zone database."""
        section = self.batch.section(record)
        if section is None:
            msg = f"the batch has no rows of {record}"
            raise IndexError(msg)
        if (record, index) not in self._told:
            taken, joined = self._explained(section, slice(index, index + 1))
            names = tuple(field.name for field in section.record.fields if not field.moment)
            (told,) = to_arrow(self.batch, taken, names).to_pylist()
            who = self.identities[int(joined["identity"][0])]
            told |= {name: int(joined[name][0]) for name in _JOINED}
            told |= {
                "workload": who.workload,
                "container_id": who.container_id,
                "pod_uid": who.pod_uid,
                "identity": who.state,
            }
            if "peer_image" in joined:
                peer = self.identities[int(joined["peer_identity"][0])]
                told |= {"peer_image": int(joined["peer_image"][0]), "peer_workload": peer.workload}
            self._told[record, index] = told
        return dict(self._told[record, index])

    @property
    def size(self) -> int:
        """New rows of all kinds of events that this release knows."""
        return sum(len(self._new(s)) for s in self.batch.sections if not s.context and s.record.name in EVENTS)

    def wall(self, record: str, index: int, column: str = "time") -> int:
        """A moment of one new row in ns since 1970."""
        return int(self.batch.wall_ns(self.rows(record)[column][index : index + 1])[0])

    def openers(self, record: str) -> np.ndarray:
        """`text_hash` of the workload that opened the conversation of each new row about packets, u64; 0 where it is unknown."""
        rows = self.rows(record)
        return np.where(
            rows["direction"] == Direction.INBOUND, np.uint64(0), self.workload_hashes[self.identity_of(rows)]
        )

    @cached_property
    def _fixed(self) -> dict[str, np.ndarray]:
        return {}

    @cached_property
    def _told(self) -> dict[tuple[str, int], dict[str, Any]]:
        return {}

    def _explained(self, section: Section, at: slice) -> tuple[Section, dict[str, np.ndarray]]:
        """Some of a section's new rows, and what `table` has beside their own columns; identities are positions in `identities`."""
        new = self._new(section)[at]
        taken = section.take(new)
        rows = taken.rows
        if section.record.name == "process_exec":
            image = self.exec_image[at]
            parent = self.ancestors[image, 0]
        else:
            image, parent = (self.images.find(rows[key], rows["time"]) for key in ("process_uid", "parent_uid"))
        joined = {
            "sequence": self._sequence(section, new),
            "image": image,
            "parent_image": parent,
            "identity": self.identity_of(rows),
        }
        if "peer_pid" in (rows.dtype.names or ()):
            joined["peer_image"] = self.images.find(rows["peer_uid"], rows["time"])
            joined["peer_identity"] = self.identity_of(rows, "peer_")
        return taken, joined

    def _new(self, section: Section) -> np.ndarray:
        """Rows of a section that were not processed before and are of the share, in order of time."""
        if section.record.name in self._news:
            return self._news[section.record.name]
        first = max(0, self.skip - self._position(section))
        time = section.rows["time"][first:]
        new = np.arange(first, len(section.rows))
        if bool((time[1:] < time[:-1]).any()):
            new = new[np.argsort(time, kind="stable")]
        if not self.share.whole:
            new = new[self.share.workloads(self.workload_hashes[self.identity_of(section.rows[new])])]
        self._news[section.record.name] = new
        return new

    def sequence(self, record: str) -> np.ndarray:
        """Place of the new rows of one kind of event in the node's lane, in the order of `rows(record)`, u64."""
        section = self.batch.section(record)
        if section is None:
            return np.zeros(0, np.uint64)
        return self._sequence(section, self._new(section))

    def _sequence(self, section: Section, rows: np.ndarray) -> np.ndarray:
        return (self._position(section) + rows).astype(np.uint64) + np.uint64(self.envelope.first_sequence)

    def _position(self, section: Section) -> int:
        """Event rows before a section."""
        before = 0
        for other in self.batch.sections:
            if other is section:
                break
            before += 0 if other.context else len(other.rows)
        return before

    def _columns(self, field: str) -> tuple[np.ndarray, np.ndarray]:
        if field not in self._heap:
            self._heap[field] = self.images.section.column(field)
        return self._heap[field]

    @cached_property
    def _heap(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {}

    def identity_of(self, rows: np.ndarray, side: str = "") -> np.ndarray:
        """Position of the cgroup of each of n rows in `identities`, int64; `side` is that of `cgroup_pairs`."""
        index = identity_rows(self.batch, rows, side=side)
        return np.where(index < 0, len(self.identities) - 1, index)


@lru_cache(maxsize=_DISTINCT)
def _fits(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


@lru_cache(maxsize=_DISTINCT)
def text_hash(text: str) -> int:
    """Hash of a text that stays the same for ever, for it is stored: 8 bytes of BLAKE2b, 0 for the empty text.

    Nobody can within reason make a program's path collide with a learned one, as would be easy for the hashes of tables.
    """
    if not text:
        return 0
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def combine(*parts: np.ndarray | int) -> np.ndarray:
    """One hash of several u64 arrays of one shape (or scalars), u64; their order matters."""
    out = np.zeros(1, np.uint64)
    for part in parts:
        out = splitmix64(out ^ np.asarray(part, np.uint64))
    return out
