"""What a record is: its fields, and every layout that follows from them.

One declaration (`Record`) gives the C struct of the kernel side, the numpy dtypes of the ring and of the wire, the Arrow
schema and the reference table. This module holds the declaration and the numpy side; `daemoneye.codegen` writes the files and
`daemoneye.events.arrow` makes Arrow of it. It does not know which records exist: `daemoneye.events.registry` does.

A record is **fixed columns and a heap**: every string is declared as a heap field, whose length is a fixed column
(`<name>_len`) and whose bytes stand in the row's heap region, in order of declaration.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

Lane = Literal["urgent", "bulk", "rollup", "loss", "context"]
"""Which queue a record travels in. `context` rows travel with the batch that refers to them."""

_TYPES: dict[str, tuple[str, int, str]] = {
    # declared type: (numpy, bytes, C)
    "u8": ("u1", 1, "__u8"),
    "u16": ("<u2", 2, "__u16"),
    "u32": ("<u4", 4, "__u32"),
    "i32": ("<i4", 4, "__s32"),
    "u64": ("<u8", 8, "__u64"),
    "i64": ("<i8", 8, "__s64"),
    "char16": ("S16", 16, "char"),
    "ip": ("V16", 16, "__u8"),
}
_BYTES = ("char16", "ip")
_LENGTH_TYPES = {"heap16": "u16", "heap32": "u32"}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record.

    Attributes:
        id: Append-only number within the record; never reused, its meaning and unit never change.
        name: Column name, `snake_case`.
        type: `u8 u16 u32 i32 u64 i64 char16`, `ip` (16 bytes, IPv4 as ::ffff:a.b.c.d), or `heap16`/`heap32` for bytes in the heap whose length
            is a u16/u32 column.
        doc: One sentence for people.
        unit: Unit of the value, empty for identifiers.
        ocsf: Path of the field in OCSF (schema.ocsf.io), empty where OCSF has none.
        delta: Values rise slowly from row to row, so that the wire form stores differences.
        key_of: (pid column, start column) of the process whose folded key this is: every reader computes it, so it is not on the wire.
        text: `string` (a path, a name), `argv` (NUL-terminated strings), `numbers` (the same, whole numbers in decimal); empty for numbers.
    """

    id: int
    name: str
    type: str
    doc: str
    unit: str = ""
    ocsf: str = ""
    delta: bool = False
    key_of: tuple[str, str] | None = None
    text: str = ""

    @property
    def heap(self) -> bool:
        """Whether the bytes stand in the heap."""
        return self.type in _LENGTH_TYPES

    @property
    def moment(self) -> bool:
        """Whether it is a point of the row's clock and not a span: named `time`, `since` or `…_time`, in ns."""
        return self.unit == "ns" and (self.name in {"time", "since"} or self.name.endswith("_time"))

    @property
    def array(self) -> bool:
        """Whether the column is an array of bytes in C."""
        return self.type in _BYTES

    @property
    def derived(self) -> bool:
        """Whether readers compute the column, so that it does not travel."""
        return self.key_of is not None

    @property
    def column(self) -> str:
        """Name of the fixed column: the field's own, or that of its length."""
        return f"{self.name}_len" if self.heap else self.name

    @property
    def column_type(self) -> tuple[str, int, str]:
        """(numpy type, bytes, C type) of the fixed column."""
        return _TYPES[_LENGTH_TYPES.get(self.type, self.type)]


@dataclass(frozen=True, eq=False)
class Record:
    """A declared kind of row.

    Attributes:
        id: Append-only number of the record, stored in the `event` column of kernel events.
        name: `<object>_<verb>` for events.
        lane: Lane in which its rows travel.
        doc: One paragraph for people.
        fields: In order of the struct; a declaration that would need padding is refused.
        inline_heap: Bytes of heap region at the end of the kernel's fixed-size record (0: the record has no kernel form with a heap).
        tracepoint: Raw tracepoint whose program (bpf/programs/<name>.bpf.c) writes it; empty for rows that no program writes.
        ring: Ring that it is written to. Records with an inline heap have a ring of their own.
        ocsf_class: OCSF class uid, 0 where there is none.
        ocsf_activity: OCSF activity id.

    Raises:
        ValueError: A field is out of alignment, or an id or name is used twice.
    """

    id: int
    name: str
    lane: Lane
    doc: str
    fields: tuple[Field, ...]
    inline_heap: int = 0
    tracepoint: str = ""
    ring: str = ""
    ocsf_class: int = 0
    ocsf_activity: int = 0

    def __post_init__(self) -> None:
        """Refuse what C would have to pad, and duplicate ids or names."""
        offset = 0
        for field in self.fields:
            size = field.column_type[1]
            align = 1 if field.type in _BYTES else size
            if offset % align:
                msg = f"{self.name}.{field.name}: offset {offset} is not a multiple of {align}; order fields so that C needs no padding"
                raise ValueError(msg)
            offset += size
        if offset % 8:
            msg = f"{self.name}: size {offset} is not a multiple of 8; add or widen a field"
            raise ValueError(msg)
        for what in ("id", "name"):
            values = [getattr(field, what) for field in self.fields]
            if len(set(values)) != len(values):
                msg = f"{self.name}: a field {what} is used twice"
                raise ValueError(msg)

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """Fixed columns without padding: shape of a decoded row."""
        return np.dtype([(f.column, f.column_type[0]) for f in self.fields])

    @cached_property
    def wire_dtype(self) -> np.dtype[np.void]:
        """Fixed columns that travel: without the derived ones."""
        return np.dtype([(f.column, f.column_type[0]) for f in self.fields if not f.derived])

    @cached_property
    def ring_dtype(self) -> np.dtype[np.void]:
        """The kernel's record: fixed columns, then `heap` of `inline_heap` bytes."""
        if not self.inline_heap:
            return self.dtype
        return np.dtype([*self.dtype.descr, ("heap", "u1", (self.inline_heap,))])

    @cached_property
    def heap_fields(self) -> tuple[Field, ...]:
        """The fields whose bytes stand in the heap, in order."""
        return tuple(f for f in self.fields if f.heap)

    @property
    def in_kernel(self) -> bool:
        """Whether a program in the kernel writes it."""
        return bool(self.ring)

    @cached_property
    def of_network(self) -> bool:
        """Whether its rows are about what crossed the network: they name two endpoints, and a process only where one is known."""
        return any(f.type == "ip" for f in self.fields)

    @cached_property
    def explained_keys(self) -> tuple[str, ...]:
        """Columns with keys of processes whose image a reader wants to see beside the row.

        A row that brings an image, or a child that runs its parent's, needs the parent's; others need their own and those that they name.
        """
        keys = {f.name for f in self.fields if f.key_of}
        if any(f.name == "exe" for f in self.fields) or self.name == "process_fork":
            return ("parent_uid",)
        return tuple(sorted(keys - {"parent_uid"}))

    @cached_property
    def hash(self) -> str:
        """First 16 hex digits of SHA-256 over the canonical descriptor: the schema's name on the wire."""
        canonical = json.dumps(self.descriptor(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def descriptor(self) -> dict[str, Any]:
        """What a reader needs to decode the wire form: ids, names, types and transforms, not the texts."""
        return {
            "id": self.id,
            "name": self.name,
            "lane": self.lane,
            "fields": [
                {
                    "id": f.id,
                    "name": f.name,
                    "type": f.type,
                    "delta": f.delta,
                    "key_of": f.key_of and list(f.key_of),
                    "text": f.text,
                }
                for f in self.fields
            ],
        }

    @classmethod
    def from_descriptor(cls, descriptor: dict[str, Any]) -> Record:
        """The record that an archived descriptor names; texts are empty.

        Raises:
            ValueError: The descriptor is not of this form.
        """
        try:
            return cls(
                id=int(descriptor["id"]),
                name=str(descriptor["name"]),
                lane=descriptor["lane"],
                doc="",
                fields=tuple(
                    Field(doc="", **{**f, "key_of": f["key_of"] and tuple(f["key_of"])}) for f in descriptor["fields"]
                ),
            )
        except (KeyError, TypeError) as error:
            msg = f"not a schema descriptor: {error}"
            raise ValueError(msg) from error

    def heap_lengths(self, rows: np.ndarray) -> np.ndarray:
        """Bytes of each row's heap region, shape (n,), int64."""
        total = np.zeros(len(rows), np.int64)
        for field in self.heap_fields:
            total += rows[field.column]
        return total
