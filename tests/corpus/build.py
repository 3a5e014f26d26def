"""A recording out of what `tests.corpus.record` left: `python -m tests.corpus.build DIRECTORY OUT SPLIT`.

Takes the rows of the corpus' own cgroups from the sensor's spool, lays them out on the timetable, and writes `OUT/SPLIT.segment` (a recording, one
workload after another: see `tests.corpus.corpus`), `OUT/SPLIT.labels.json` (attacks, rare benign events, workloads) and its lines of
`OUT/MANIFEST.json`.

On the timetable: a row's moment becomes that of its job's timetable plus its distance from the job's begin, times the job's pace (1 but for
people at a keyboard). Everything else of a row stays as the sensor wrote it, but for the names of node and boot, v1 cgroups and the parent of a
machine's first process, which are the recording machine's affair.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import zstandard

from daemoneye import envelope
from daemoneye.envelope import Batch, Envelope
from daemoneye.events.base import derive
from daemoneye.events.cgroup_identity import CGROUP_IDENTITY
from daemoneye.events.codec import Section, concatenate, section_of
from daemoneye_sensor.processes import ProcessTable, context
from daemoneye_sensor.segment import Entry, read_recording, write_recording
from tests.corpus import attacks, catalogue
from tests.corpus.machine import SLICE
from tests.corpus.schedule import BEGIN

SHIPPED: Final = {"process_exec": "urgent", "socket_open": "bulk", "socket_close": "bulk"}
"""Events of the recording and their lanes. Forks and ends of processes serve to find parents, and are left out."""
NODE: Final = "corpus"
BOOT_NS: Final = 3_600 * 10**9
"""The recording begins an hour after its boot."""
GRAIN_NS: Final = 1 << 14
"""Moments are told to 16 µs: the bits below are a third of a recording's bytes."""
_BOOT_ID: Final = "00000000-0000-4000-8000-c0a9b5e00000"
_LEVEL: Final = 19


class Timetable:
    """Moments of one workload as they were recorded → as the timetable has them, both ns of the boot-time clock."""

    def __init__(self, jobs: Sequence[dict[str, Any]]) -> None:
        """Of its lines in `jobs.jsonl`, in order."""
        self.begin = np.array([job["begin"] for job in jobs], np.int64)
        self.pace = np.array([int(job["pace"]) for job in jobs], np.int64)
        length = np.array([job["end"] - job["begin"] for job in jobs], np.int64)
        self._length = length
        due = np.array([BOOT_NS + int(job["at"] * 1e9) for job in jobs], np.int64)
        self.at = due.copy()
        for n in range(1, len(jobs)):  # a job waits for the one before
            self.at[n] = max(due[n], self.at[n - 1] + length[n - 1] * self.pace[n - 1] + 10**6)
        self.at -= self.at % GRAIN_NS
        self.end = self.at + length * self.pace
        self._next = np.append(self.at[1:] - 1, np.iinfo(np.int64).max)

    def moments(self, ns: np.ndarray) -> np.ndarray:
        """u64 (n,) → u64 (n,); the order stays. What came between two jobs follows the former; 0 (no moment) stays 0."""
        past = ns.astype(np.int64)
        job = np.searchsorted(self.begin, past, "right") - 1
        first = np.maximum(job, 0)
        since = past - self.begin[first]
        length = self._length[first]
        paced = np.where(since <= length, since * self.pace[first], length * self.pace[first] + since - length)
        mapped = np.minimum(np.where(job < 0, self.at[0] + since, self.at[first] + paced), self._next[first])
        return np.where(ns == 0, 0, mapped // GRAIN_NS * GRAIN_NS).astype(np.uint64)


def spooled(state: Path) -> Iterator[Batch]:
    """Batches of a run's spool, in order."""
    for path in sorted(state.glob("sensor/**/*.segment")):
        for entry in read_recording(path):
            yield envelope.decode(entry.payload)


def own_rows(batches: Iterable[Batch], names: Collection[str]) -> tuple[dict[str, Section], dict[int, str]]:
    """Event rows of the named workloads by record, and the workloads by v2 cgroup id.

    Raises:
        ValueError: The sensor lost something: the recording has to be made again.
    """
    parts: dict[str, list[Section]] = {}
    workloads: dict[int, str] = {}
    for batch in batches:
        identities = batch.section("cgroup_identity", context=True)
        if batch.envelope.lane == "loss" and batch.envelope.rows:
            raise ValueError("the sensor lost rows while it recorded")
        if identities is not None:
            told = (workload.decode() for workload in identities.values("workload"))
            workloads |= {
                number: workload
                for number, workload in zip(identities.rows["cgroup_id"].tolist(), told, strict=True)
                if workload in names
            }
        for section in batch.sections:
            if not section.context and "cgroup_id" in (section.rows.dtype.names or ()):
                parts.setdefault(section.record.name, []).append(section)
    known = np.array(sorted(workloads), np.uint64)
    kept = {}
    for name, sections in parts.items():
        whole = concatenate(sections)
        kept[name] = whole.take(np.isin(whole.rows["cgroup_id"], known))
    return kept, workloads


def laid_out(
    sections: dict[str, Section], workloads: dict[int, str], tables: dict[str, Timetable]
) -> dict[str, Section]:
    """The rows on the timetable, in its order."""
    first = _first_processes(sections["process_exec"])
    made = {}
    for name, section in sections.items():
        rows = section.rows.copy()
        for number, workload in workloads.items():
            mine = rows["cgroup_id"] == number
            for field in section.record.fields:
                if field.moment:
                    rows[field.name][mine] = tables[workload].moments(rows[field.name][mine])
        rows["cgroup_v1_id"] = 0
        if "parent_start_time" in (rows.dtype.names or ()):
            outside = np.isin(section.rows["process_uid"], first)
            for column in ("ppid", "parent_start_time"):
                rows[column][outside] = 0
        derive(section.record, rows)
        made[name] = dataclasses.replace(section, rows=rows).take(np.argsort(rows["time"], kind="stable"))
    return made


def _first_processes(executed: Section) -> np.ndarray:
    return np.unique(executed.rows["process_uid"][executed.rows["ns_pid"] == 1])


def packed(sections: dict[str, Section], workloads: dict[int, str]) -> Iterator[Entry]:
    """One batch a workload and lane, context included: in order of time its rows compress a third better than among those of all others."""
    sequences: dict[str, int] = {}
    for number in sorted(workloads):
        happened = [section.take(section.rows["cgroup_id"] == number) for section in sections.values()]
        images = ProcessTable().merge(happened)
        for lane in dict.fromkeys(SHIPPED.values()):
            mine = [s for s in happened if SHIPPED.get(s.record.name) == lane and len(s.rows)]
            if mine:
                sequence, count = sequences.get(lane, 0), sum(len(s.rows) for s in mine)
                about = Envelope(NODE, _BOOT_ID, 1, lane, sequence, count, _wall_ns() - BOOT_NS)
                payload = _compressed(about, [*mine, context(images, mine), _identity(number, workloads[number])])
                yield Entry(lane, 1, sequence, count, payload, 0, 0)
                sequences[lane] = sequence + count


def _wall_ns() -> int:
    return int(BEGIN.timestamp()) * 10**9


def _identity(number: int, workload: str) -> Section:
    path = f"/{SLICE}/{workload.removeprefix('host/systemd/')}"
    values = {"cgroup_id": [number], "state": 2, "workload": [workload.encode()], "path": [path.encode()]}
    return section_of(CGROUP_IDENTITY, values, 1, context=True)


def _compressed(about: Envelope, sections: Sequence[Section]) -> bytes:
    """A batch, its body compressed at leisure: the sensor has other things to do, this lies in a repository."""
    payload = envelope.encode(about, sections)
    at = payload.index(zstandard.FRAME_HEADER)
    body = zstandard.ZstdDecompressor().decompress(payload[at:])
    slow = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, write_content_size=True)
    return payload[:at] + slow.compress(body)


def labels(
    split: str,
    jobs: dict[str, list[dict[str, Any]]],
    tables: dict[str, Timetable],
    rows: dict[str, Section],
    workloads: dict[int, str],
) -> dict[str, Any]:
    """What happened, in words and wall time: attacks and rare benign events with workload, begin and end in ns since 1970, and the executions between."""
    offset = _wall_ns() - BOOT_NS
    executed = rows["process_exec"]
    cgroups = {workload: number for number, workload in workloads.items()}
    attacked, rare = [], []
    for workload, lines in sorted(jobs.items()):
        table = tables[workload]
        times = executed.rows["time"][executed.rows["cgroup_id"] == cgroups[workload]].astype(np.int64)
        for n, line in enumerate(lines):
            begin, end = int(table.at[n]), int(table.end[n])
            about = {
                "workload": workload,
                "begin_ns": begin + offset,
                "end_ns": end + offset,
                "executions": int(((times >= begin) & (times <= end)).sum()),
            }
            if line["technique"]:
                technique = attacks.TECHNIQUES[line["technique"]]
                attacked.append(
                    {
                        **about,
                        "technique": line["technique"],
                        "attack": technique.attack,
                        "held_out": technique.held_out,
                    }
                )
            elif line["rare"]:
                rare.append({**about, "event": line["rare"]})
    kinds = {workload: workload.removeprefix("host/systemd/").rsplit("-", 1)[0] for workload in sorted(jobs)}
    return {
        "split": split,
        "node": NODE,
        "begin_ns": _wall_ns(),
        "end_ns": offset + max(int(rows[name].rows["time"].max()) for name in SHIPPED),
        "workloads": kinds,
        "attacks": attacked,
        "rare_benign": rare,
    }


def main() -> None:
    """Build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("split", choices=catalogue.SPLITS)
    options = parser.parse_args()
    jobs: dict[str, list[dict[str, Any]]] = {}
    for line in (options.directory / "jobs.jsonl").read_text().splitlines():
        job = json.loads(line)
        jobs.setdefault(f"host/systemd/{job['workload']}.service", []).append(job)
    tables = {workload: Timetable(lines) for workload, lines in jobs.items()}
    kept, workloads = own_rows(spooled(options.directory / "state"), tables.keys())
    rows = laid_out(kept, workloads, tables)
    options.out.mkdir(parents=True, exist_ok=True)
    recording, described = (options.out / f"{options.split}.{end}" for end in ("segment", "labels.json"))
    write_recording(recording, packed(rows, workloads))
    told = labels(options.split, jobs, tables, rows, workloads)
    described.write_text(json.dumps(told, indent=1) + "\n")
    manifest = options.out / "MANIFEST.json"
    known = json.loads(manifest.read_text()) if manifest.exists() else {}
    for path in (recording, described):
        known[path.name] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    known[recording.name]["rows"] = {name: len(rows[name].rows) for name in SHIPPED}
    manifest.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
    print(
        json.dumps(known[recording.name]),
        {name: len(s.rows) for name, s in kept.items()},
        len(told["attacks"]),
        "attacks",
        len(told["rare_benign"]),
        "rare",
    )


if __name__ == "__main__":
    main()
