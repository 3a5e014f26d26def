"""How a batch is best put into bytes: our shuffled columns against plain records, Arrow IPC and MessagePack, on what was really recorded.

Every candidate gets the same batches (events and their context) as the sensor makes them, and gives back columns: reading is measured up to
arrays that a detector works with. Bytes are an event row's share of the whole message body.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import pyarrow as pa
import zstandard

from daemoneye import envelope
from daemoneye.envelope import Batch, Envelope
from daemoneye.events import arrow
from daemoneye.events.codec import Section, decode_fixed, encode_fixed
from daemoneye.events.registry import KERNEL_EVENTS
from daemoneye_cli import configuration
from daemoneye_sensor.programs import BPFFS, RingSizes
from daemoneye_sensor.sources.ebpf import EbpfSource
from tests.bench.agents import summary
from tests.bench.tables import Outcome, Target
from tests.bench.workloads import Counts, build, workspace

CACHE: Final = Path.home() / ".cache" / "daemoneye-bench"
"""Where scripts/bench-setup.sh puts what only benches need."""
_FLUSH_S: Final = 0.25
_Sections = Sequence[Section]


class Candidate:
    """A way to write sections and to read them as columns."""

    def __init__(
        self, name: str, write: Callable[[_Sections], bytes], read: Callable[[bytes, _Sections], object], level: int
    ) -> None:
        self.name = name
        self._write, self._read = write, read
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        self._decompressor = zstandard.ZstdDecompressor()

    def encode(self, sections: _Sections) -> bytes:
        return self._compressor.compress(self._write(sections))

    def decode(self, data: bytes, like: _Sections) -> object:
        """Columns again; `like` stands for what a header would say (names and numbers of rows)."""
        return self._read(self._decompressor.decompress(data), like)


def run(*, rounds: int, scale: float) -> Outcome:
    """The bench."""
    columns = ("corpus", "encoding", "B/event", "encode µs/event", "decode to columns µs/event")
    outcome = Outcome("encodings", columns)
    ormsgpack = _ormsgpack()
    if ormsgpack is None:
        outcome.notes.append("ormsgpack is not installed (scripts/bench-setup.sh): left out")
    recorded = corpora(scale)
    for label, batches in recorded.items():
        events = sum(len(s.rows) for sections in batches for s in sections if not s.context)
        outcome.notes.append(
            f"{label}: {events:,} events in {len(batches)} batches, {events / max(len(batches), 1):,.0f} each"
        )
        outcome.data[label] = {"events": events, "batches": len(batches)}
        for candidate in candidates(ormsgpack):
            figures = _measure(candidate, batches, events, rounds)
            outcome.rows.append((label, candidate.name, *(figures[key] for key in ("bytes", "encode_us", "decode_us"))))
            outcome.data[label][candidate.name] = {key: summary(values) for key, values in figures.items()}
        to_arrow = [_to_arrow_us(batches, events) for _ in range(rounds)]
        outcome.rows.append((label, "(our columns, on to Arrow)", "", "", to_arrow))
    mixed = outcome.data["mixed"]
    ours = mixed["shuffled columns, zstd 1 (ours)"]["bytes"].get("median")
    outcome.notes.append(
        f"a mixed corpus takes {ours:.1f} bytes an event, whatever it is" if ours else "nothing was recorded"
    )
    smaller = {
        name: f["bytes"]["median"]
        for name, f in mixed.items()
        if isinstance(f, dict) and "zstd 1" in name and "ours" not in name
    }
    outcome.targets.append(
        Target(
            "ours against the smallest other at level 1, mixed",
            ours / min(smaller.values()) if ours else None,
            1.0,
            unit="×",
        )
    )
    return outcome


# ── candidates ──────────────────────────────────────────────────────────────────────────────────────────────────────


def candidates(ormsgpack: ModuleType | None) -> list[Candidate]:
    """All that are compared."""
    made = [
        Candidate("shuffled columns, zstd 1 (ours)", _shuffled, _unshuffled, 1),
        Candidate("shuffled columns, zstd 3", _shuffled, _unshuffled, 3),
        Candidate("structured records, zstd 1", _plain, _from_plain, 1),
        Candidate("Arrow IPC, zstd 1", _arrow, _from_arrow, 1),
    ]
    if ormsgpack is not None:
        made.append(
            Candidate(
                "ormsgpack tuples, zstd 1",
                lambda s: _tuples(ormsgpack, s),
                lambda d, s: _from_tuples(ormsgpack, d, s),
                1,
            )
        )
    return made


def _shuffled(sections: _Sections) -> bytes:
    return b"".join(part for s in sections for part in (encode_fixed(s.record, s.rows), s.heap.tobytes()))


def _unshuffled(data: bytes, like: _Sections) -> list[Section]:
    whole, at, made = np.frombuffer(data, np.uint8), 0, []
    for s in like:
        size = len(s.rows) * s.record.wire_dtype.itemsize
        rows = decode_fixed(s.record, whole[at : at + size], len(s.rows))
        made.append(Section(s.record, rows, whole[at + size : at + size + len(s.heap)]))
        at += size + len(s.heap)
    return made


def _plain(sections: _Sections) -> bytes:
    return b"".join(part for s in sections for part in (s.rows.tobytes(), s.heap.tobytes()))


def _from_plain(data: bytes, like: _Sections) -> list[Section]:
    whole, at, made = np.frombuffer(data, np.uint8), 0, []
    for s in like:
        size = len(s.rows) * s.record.dtype.itemsize
        made.append(
            Section(s.record, whole[at : at + size].view(s.record.dtype), whole[at + size : at + size + len(s.heap)])
        )
        at += size + len(s.heap)
    return made


_ABOUT: Final = Envelope("node", "boot", 0, "urgent", 0, 0, 1_700_000_000_000_000_000)


def _arrow(sections: _Sections) -> bytes:
    sink = pa.BufferOutputStream()
    for s in sections:
        made = arrow.to_arrow(Batch(_ABOUT, ()), s)
        bare = pa.schema(
            [pa.field(f.name, f.type, nullable=False) for f in made.schema]
        )  # the texts would be most of a small message
        with pa.ipc.new_stream(sink, bare) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(made.columns, schema=bare))
    return sink.getvalue().to_pybytes()


def _from_arrow(data: bytes, like: _Sections) -> list[pa.Table]:
    source = pa.BufferReader(data)
    return [pa.ipc.open_stream(source).read_all() for _ in like]


def _tuples(ormsgpack: ModuleType, sections: _Sections) -> bytes:
    packed = []
    for s in sections:
        strings = [s.values(f.name) for f in s.record.heap_fields]
        rows = s.rows.tolist()
        packed.append([(*row, *text) for row, *text in zip(rows, *strings, strict=True)] if strings else rows)
    return bytes(ormsgpack.packb(packed))


def _from_tuples(ormsgpack: ModuleType, data: bytes, like: _Sections) -> list[dict[str, Any]]:
    made = []
    for s, rows in zip(like, ormsgpack.unpackb(data), strict=True):
        names = s.rows.dtype.names or ()
        turned = list(zip(*rows, strict=True))
        columns: dict[str, Any] = {
            name: np.array(values, s.rows.dtype[name]) for name, values in zip(names, turned, strict=False)
        }
        columns |= {f.name: values for f, values in zip(s.record.heap_fields, turned[len(names) :], strict=False)}
        made.append(columns)
    return made


def _ormsgpack() -> ModuleType | None:
    if CACHE.is_dir() and str(CACHE) not in sys.path:
        sys.path.append(str(CACHE))
    try:
        return import_module("ormsgpack")
    except ImportError:
        return None


# ── measuring ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _measure(candidate: Candidate, batches: list[_Sections], events: int, rounds: int) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {"bytes": [], "encode_us": [], "decode_us": []}
    data = [candidate.encode(sections) for sections in batches]  # once before: caches and allocations
    figures["bytes"].append(sum(map(len, data)) / events)
    for _ in range(max(rounds, 1)):
        begin = time.process_time()
        for sections in batches:
            candidate.encode(sections)
        middle = time.process_time()
        for message, sections in zip(data, batches, strict=True):
            candidate.decode(message, sections)
        figures["encode_us"].append((middle - begin) / events * 1e6)
        figures["decode_us"].append((time.process_time() - middle) / events * 1e6)
    return figures


def _to_arrow_us(batches: list[_Sections], events: int) -> float:
    messages = [envelope.encode(_ABOUT, sections) for sections in batches]
    begin = time.process_time()
    for message in messages:
        batch = envelope.decode(message)
        for section in batch.sections:
            arrow.to_arrow(batch, section)
    return (time.process_time() - begin) / events * 1e6


# ── the corpora ─────────────────────────────────────────────────────────────────────────────────────────────────────


def corpora(scale: float) -> dict[str, list[_Sections]]:
    """Batches of the storm, of the storm with differing arguments, and of everyday commands, as the sensor makes them."""
    with workspace() as directory:
        workloads = build(directory, Counts.sized(scale))
        return {
            "storm": record(workloads["unthrottled"].run),
            "varied": record(workloads["varied"].run),
            "mixed": record(lambda: everyday(directory, max(int(30 * scale), 1))),
        }


def record(work: Callable[[], object]) -> list[_Sections]:
    """What the source gives while something works, looked at as often as the sensor does."""
    name = f"bench-{threading.get_native_id()}-{time.monotonic_ns()}"
    source = EbpfSource(
        bpf_dir=configuration.bpf_directory(), instance=name, sizes=RingSizes(), events=list(KERNEL_EVENTS)
    )
    taken: list[_Sections] = []

    def take() -> None:
        more = True
        while more and (drain := source.drain()) is not None:
            taken.append([Section(s.record, s.rows.copy(), s.heap.copy(), s.context) for s in drain.sections])
            source.commit(drain)
            more = drain.more

    try:
        source.open({}, None)
        take()
        taken.clear()
        working = threading.Thread(target=work)
        working.start()
        while working.is_alive():
            time.sleep(_FLUSH_S)
            take()
        working.join()
    finally:
        source.close(keep=False)
        shutil.rmtree(BPFFS / "daemoneye" / name, ignore_errors=True)
    return [sections for sections in taken if any(not s.context and len(s.rows) for s in sections)]


def everyday(directory: Path, times: int) -> None:
    """Everyday commands: a shell script, a small compilation, git, Python, find with -exec, pipes."""
    tree = directory / "everyday"
    tree.mkdir(exist_ok=True)
    script = f"""
        set -e; cd {tree}; export HOME={tree} GIT_CONFIG_NOSYSTEM=1
        git init -q . 2>/dev/null || true
        for i in 1 2 3 4; do
            printf 'int f%s(int x) {{ return x + %s; }}\\n' $i $i >part$i.c
            cc -O1 -c part$i.c -o part$i.o
        done
        ld -r part*.o -o whole.o; nm whole.o | sort | uniq -c | wc -l >count.txt
        git add -A . && git -c user.name=bench -c user.email=bench@localhost commit -qm "step $RANDOM" --allow-empty && git log --oneline | head -3 >/dev/null
        find . -name '*.c' -exec grep -l return {{}} \\; >/dev/null
        find /usr/bin -maxdepth 1 -name 'c*' | head -40 | xargs -n 8 ls -l >/dev/null
        {sys.executable} -I -c 'import json; print(json.dumps(list(range(20))))' >/dev/null
        ps aux | awk '{{print $1}}' | sort | uniq >/dev/null; df -h / >/dev/null; date +%s >stamp; id -u >/dev/null; uname -a >/dev/null
        tar cf all.tar *.c *.o; gzip -f all.tar; sha256sum all.tar.gz | cut -d' ' -f1 >sum; sed -i s/a/b/ sum; basename /usr/share/doc; dirname /usr/share/doc
    """
    for _ in range(times):
        subprocess.run(["bash", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
