"""Every record there is. Nobody lists them: each module `daemoneye.events.<object>_<verb>` declares one, and is found by its name's underscore.

Ids and names are append-only; a duplicate stops the first process that imports this.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Final

import daemoneye.events
from daemoneye.events.former import FORMER
from daemoneye.events.loss import LOSS
from daemoneye.events.schema import Record


def _declared() -> list[Record]:
    found = [LOSS]
    for module in pkgutil.iter_modules(daemoneye.events.__path__):
        if "_" in module.name:
            declared = vars(importlib.import_module(f"daemoneye.events.{module.name}"))
            found += [value for value in declared.values() if isinstance(value, Record)]
    return sorted(found, key=lambda record: record.id)


RECORDS: Final[tuple[Record, ...]] = tuple(_declared())
EVENTS: Final[dict[str, Record]] = {r.name: r for r in RECORDS if r.lane in {"urgent", "bulk", "rollup"}}
KERNEL_EVENTS: Final[dict[str, Record]] = {name: r for name, r in EVENTS.items() if r.in_kernel}
"""Those that a program in the kernel writes: what can be asked of the source `ebpf`."""
BY_NAME: Final[dict[str, Record]] = {r.name: r for r in RECORDS}
BY_ID: Final[dict[int, Record]] = {r.id: r for r in RECORDS}
BY_HASH: Final[dict[str, Record]] = {r.hash: r for r in RECORDS}
READABLE: Final[dict[str, Record]] = {**FORMER, **BY_HASH}
"""Schemas that a reader knows: today's, and those that the records had before."""
BY_RING: Final[dict[str, tuple[Record, ...]]] = {
    ring: tuple(r for r in RECORDS if r.ring == ring) for ring in dict.fromkeys(r.ring for r in RECORDS if r.ring)
}
"""Records that share a ring; its slots have the size of the largest."""

if len(BY_ID) != len(RECORDS) or len(BY_NAME) != len(RECORDS):
    raise ValueError("two records share an id or a name")


def slot_size(ring: str) -> int:
    """Bytes of a ring's records."""
    return max(record.ring_dtype.itemsize for record in BY_RING[ring])
