"""Rows of network events, gathered until somebody takes them as sections.

A row is kept as it was given and becomes bytes with all others of its column: what is done once a row in Python is what costs here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np

from daemoneye.events.codec import Section, section_of
from daemoneye.events.schema import Field, Record
from daemoneye_sensor.packets import flows

_SIDES: Final = itemgetter(1, 0, 3, 2, 4, 5, 6)


class Ends(NamedTuple):
    """Two endpoints as a row names them; addresses are 16 bytes, `interface` is the name of the one that shows them."""

    src_ip: bytes
    dst_ip: bytes
    src_port: int
    dst_port: int
    proto: int
    vlan: int
    interface: bytes = b""

    def turned(self) -> Ends:
        """The same seen from the other side."""
        return Ends._make(_SIDES(self))


def ends_of(table: flows.FlowTable, rows: np.ndarray) -> list[Ends]:
    """The endpoints of rows of a table."""
    columns = {**flows.endpoints(rows), "interface": table.shown_by(rows)}
    return list(map(Ends._make, zip(*(_listed(columns[name]) for name in Ends._fields), strict=True)))


def _listed(column: object) -> list[Any]:
    return column if isinstance(column, list) else np.asarray(column).tolist()


class Rows:
    """Rows by record. A value that is not given is 0 or empty."""

    def __init__(self) -> None:
        self._rows: defaultdict[Record, list[tuple[int, int, Ends, dict[str, Any]]]] = defaultdict(list)

    def add(self, record: Record, ends: Ends, time: int, flags: int, **values: Any) -> None:
        """A row; texts may be str or bytes, lists of texts or numbers are given as such."""
        self._rows[record].append((time, flags, ends, values))

    def take(self) -> list[Section]:
        """What was added since the last time, in order of time."""
        sections = []
        for record, rows in self._rows.items():
            rows.sort(key=itemgetter(0))
            times, flags, ends, given = zip(*rows, strict=True)
            sides = dict(zip(Ends._fields, zip(*ends, strict=True), strict=True))
            values: dict[str, object] = {"event": record.id, "time": times, "flags": flags}
            told = {name for one in given for name in one}  # of a record's fields most are filled in by others
            for field in record.fields:
                if field.name in sides:
                    column = sides[field.name]
                    values[field.name] = np.frombuffer(b"".join(column), "V16") if field.type == "ip" else column
                elif field.name in told:
                    values[field.name] = _column(field, given)
            sections.append(section_of(record, values, len(rows)))
        self._rows.clear()
        return sections


def _column(field: Field, given: Sequence[dict[str, Any]]) -> Sequence[Any]:
    """One field of every row."""
    name = field.name
    if not field.heap:
        return [values.get(name, 0) for values in given]
    if field.text in ("argv", "numbers"):
        return [_list(values[name]) if values.get(name) else b"" for values in given]
    return [
        text if isinstance(text := values.get(name, b""), bytes) else text.encode("utf-8", "surrogateescape")
        for values in given
    ]


def _list(items: Sequence[object]) -> bytes:
    r"""Items one after another, each with a NUL behind it."""
    return ("".join([f"{str(item).replace(chr(0), '')}\0" for item in items])).encode("utf-8", "surrogateescape")
