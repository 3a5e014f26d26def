"""Writes the golden batches of this release: `.venv/bin/python scripts/golden_batches.py`.

One `<record>.batch` for each record that there is, and `urgent.batch` with all of one lane's together, as a sensor would send it; beside each
a `.json` with what stands in it. Every field has a value that only it has, the smallest and the greatest of its type included. The files of a
release that CHANGELOG.md names are never written again: tests/contract/test_golden.py has every later release read them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from daemoneye import envelope
from daemoneye.envelope import Batch, Envelope
from daemoneye.events.codec import Section, section_of
from daemoneye.events.registry import RECORDS
from daemoneye.events.schema import Field, Record

ROOT: Final = Path(__file__).parents[1]
GOLDEN: Final = ROOT / "tests" / "testdata" / "golden"
_ROWS: Final = 4
_SHOWN: Final = 200


def described(batch: Batch) -> dict[str, Any]:
    """All that a reader gets from a batch, as JSON. Bytes are text of Latin-1, which has a sign for each; many are a digest."""
    about = batch.envelope
    sections = [
        {
            "record": section.record.name,
            "context": section.context,
            "columns": {field.name: _values(section, field) for field in section.record.fields},
        }
        for section in batch.sections
    ]
    names = (
        "node",
        "cluster",
        "boot_id",
        "epoch",
        "lane",
        "first_sequence",
        "rows",
        "clock_offset_ns",
        "first_time",
        "last_time",
        "source",
    )
    return {
        "envelope": {name: getattr(about, name) for name in names} | {"positions": dict(about.positions)},
        "sections": sections,
    }


def _values(section: Section, field: Field) -> list[Any]:
    raw = section.values(field.name) if field.heap else section.rows[field.name].tolist()
    return [_text(value) if isinstance(value, bytes) else value for value in raw]


def _text(value: bytes) -> str:
    whole = value.decode("latin-1")
    return whole if len(value) <= _SHOWN else f"{len(value)} bytes, SHA-256 {hashlib.sha256(value).hexdigest()}"


def _section(record: Record) -> Section:
    """Rows of a record: all smallest, all greatest, and two of values that nobody else has."""
    values: dict[str, object] = {}
    for field in record.fields:
        seed = zlib.crc32(f"{record.name}.{field.name}".encode())
        if field.text == "numbers":
            values[field.name] = [b"", b"0\0", b"%d\0%d\0" % (seed, seed + 1), b"4294967295\0" * 64]
        elif field.type == "ip":
            some = [hashlib.sha256(b"%d %d" % (seed, i)).digest()[:16] for i in range(2)]
            values[field.name] = np.array([bytes(16), b"\xff" * 16, *some], "V16")
        elif field.heap:
            words = b"%s.%s\0caf\xe9 \xff\0" % (record.name.encode(), field.name.encode())
            values[field.name] = [b"", words, b"\n", words * (4000 if field.type == "heap32" else 20)]
        elif field.type == "char16":
            values[field.name] = [b"", b"0123456789abcdef", b"\xff\xfe", field.name.encode()[:16]]
        else:
            limits = np.iinfo(np.dtype(field.column_type[0]))
            some = [(seed * (i + 1)) % (int(limits.max) + 1) for i in range(2)]
            values[field.name] = np.array([limits.min, limits.max, *some], field.column_type[0])
    return section_of(record, values, _ROWS, context=record.lane == "context")


def _batch(lane: str, sections: Sequence[Section]) -> bytes:
    about = Envelope(
        node="node-1.example", cluster="7d8a2f0e-4a3f-4a52-9a0b-5b4f3c6d2e1f", boot_id="0b2f7c1e-8d52-4c8e-9d0f-3f0e6a7b8c9d",
        epoch=(1 << 48) - 1, lane=lane, first_sequence=1 << 40, rows=0, clock_offset_ns=1_790_000_000_123_456_789,
        first_time=1, last_time=(1 << 62) - 1, positions={"exec": 520, "process": 1 << 40, "blob": 0, "told:ring/exec": 3},
    )  # fmt: skip
    return envelope.encode(about, sections)


def batches() -> dict[str, bytes]:
    """Every golden batch of this release, by name."""
    sections = {record: _section(record) for record in RECORDS}
    context = [section for record, section in sections.items() if record.lane == "context"]
    made = {}
    for record, section in sections.items():
        made[record.name] = _batch("urgent" if record.lane == "context" else record.lane, [section])
    for lane in dict.fromkeys(record.lane for record in RECORDS if record.lane not in {"context", "loss"}):
        made[lane] = _batch(lane, [*(s for record, s in sections.items() if record.lane == lane), *context])
    return made


def main() -> int:
    """Write the files; exit status 1 when this version was released."""
    version = importlib.metadata.version("daemoneye")
    if f"## {version}" in (ROOT / "CHANGELOG.md").read_text().replace("[", "").replace("]", ""):
        sys.stderr.write(f"{version} was released: its golden batches stay as they are\n")
        return 1
    directory = GOLDEN / version
    directory.mkdir(parents=True, exist_ok=True)
    for old in [*directory.glob("*.batch"), *directory.glob("*.json")]:
        old.unlink()
    for name, data in batches().items():
        (directory / f"{name}.batch").write_bytes(data)
        (directory / f"{name}.json").write_text(json.dumps(described(envelope.decode(data)), indent=1) + "\n")
    descriptors = {record.hash: record.descriptor() for record in RECORDS}
    (directory / "schemas.json").write_text(json.dumps(descriptors, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
