"""The shipped corpus: recordings with their labels, read and checked. What is made of them is the caller's affair.

A shipped recording has one batch a workload, which packs best; here they become the batches of one node, in order of time:
`python -m tests.corpus.corpus SPLIT FILE` writes them as a recording for `daemoneye run --replay FILE`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from daemoneye import envelope
from daemoneye.envelope import Batch
from daemoneye.events.ancestry import Images
from daemoneye.events.codec import Section, concatenate
from daemoneye_sensor.processes import context
from daemoneye_sensor.segment import Entry, read_recording, write_recording

DIRECTORY: Final = Path(__file__).parents[1] / "testdata" / "behaviour"
MANIFEST: Final = "MANIFEST.json"
_ROWS: Final = 2_048
"""Rows of a batch, of all its records."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One occurrence of a technique.

    Attributes:
        workload: Whose processes did it, as the sensor names it.
        begin_ns: Wall time of its begin, ns since 1970.
        end_ns: Wall time of its end. Between the two, everything of this workload is the attack's.
        executions: Rows of process_exec between.
        technique: Name of the technique in `tests.corpus.attacks`.
        attack: Its id in MITRE ATT&CK.
        held_out: It occurs in the test split alone.
    """

    workload: str
    begin_ns: int
    end_ns: int
    executions: int
    technique: str
    attack: str
    held_out: bool


@dataclass(frozen=True, slots=True)
class Rare:
    """A rare benign event: a deploy, somebody who mends things by hand. Fields as those of an attack."""

    workload: str
    begin_ns: int
    end_ns: int
    executions: int
    event: str


@dataclass(frozen=True, slots=True)
class Recording:
    """A split.

    Attributes:
        split: `dev` or `test`.
        path: The recording as it is shipped, one batch a workload and lane.
        node: Name of its node.
        begin_ns: Wall time at which it begins, ns since 1970.
        end_ns: Wall time at which it ends.
        workloads: Workloads and their kinds.
        attacks: What was done to them, by workload and time.
        rare: Rare benign events, likewise.
    """

    split: str
    path: Path
    node: str
    begin_ns: int
    end_ns: int
    workloads: dict[str, str]
    attacks: tuple[Attack, ...]
    rare: tuple[Rare, ...]

    @property
    def workload_days(self) -> float:
        """Workloads times days: what false alarms are counted by."""
        return len(self.workloads) * (self.end_ns - self.begin_ns) / 86_400e9

    def batches(self) -> Iterator[Batch]:
        """All rows in order of time, as batches like those of a sensor: lanes `urgent` (executions) and `bulk` (sockets), each with its context."""
        shipped = [envelope.decode(entry.payload) for entry in read_recording(self.path)]
        parts: dict[tuple[str, bool], list[Section]] = {}
        lanes: dict[str, str] = {}
        for batch in shipped:
            for section in batch.sections:
                parts.setdefault((section.record.name, section.context), []).append(section)
                if not section.context:
                    lanes[section.record.name] = batch.envelope.lane
        joined = {key: concatenate(sections) for key, sections in parts.items()}
        events = [s.take(np.argsort(s.rows["time"], kind="stable")) for s in joined.values() if not s.context]
        images = Images(concatenate([joined["process_exec", True], joined["process_exec", False]]))
        identities = joined["cgroup_identity", True]  # told once a lane: one is enough
        identities = identities.take(np.unique(identities.rows["cgroup_id"], return_index=True)[1])
        sequences = dict.fromkeys(lanes.values(), 0)
        moments = np.sort(np.concatenate([s.rows["time"] for s in events]))
        for start, stop in itertools.pairwise(np.unique([*moments[::_ROWS], moments[-1] + np.uint64(1)])):
            for lane, sequence in sequences.items():
                mine = [_between(s, start, stop) for s in events if lanes[s.record.name] == lane]
                mine = [s for s in mine if len(s.rows)]
                if not mine:
                    continue
                times = np.concatenate([s.rows["time"] for s in mine])
                whose = np.unique(np.concatenate([s.rows["cgroup_id"] for s in mine]))
                named = identities.take(np.isin(identities.rows["cgroup_id"], whose))
                about = dataclasses.replace(
                    shipped[0].envelope,
                    lane=lane,
                    first_sequence=sequence,
                    rows=len(times),
                    first_time=int(times.min()),
                    last_time=int(times.max()),
                    sections=(),
                )
                yield Batch(about, (*mine, context(images, mine), named))
                sequences[lane] = sequence + len(times)

    def write(self, path: Path) -> int:
        """Write them as a recording. Returns the number of batches."""
        return write_recording(path, (_entry(batch) for batch in self.batches()))


def _between(section: Section, start: np.uint64, stop: np.uint64) -> Section:
    return section.take(np.arange(*np.searchsorted(section.rows["time"], np.array([start, stop]))))


def _entry(batch: Batch) -> Entry:
    about = batch.envelope
    return Entry(
        about.lane, about.epoch, about.first_sequence, about.rows, envelope.encode(about, batch.sections), 0, 0
    )


def manifest(directory: Path = DIRECTORY) -> dict[str, dict[str, Any]]:
    """File name → SHA-256, size, and for a recording the rows of each record."""
    known: dict[str, dict[str, Any]] = json.loads((directory / MANIFEST).read_text())
    return known


def load(split: str, directory: Path = DIRECTORY) -> Recording:
    """A split, after its files were held against the manifest.

    Raises:
        ValueError: A file differs from the manifest, or the split is not in it: the corpus is frozen, and a figure measured on another one says nothing.
    """
    known = manifest(directory)
    for name in (f"{split}.segment", f"{split}.labels.json"):
        if name not in known:
            raise ValueError(
                f"{directory / MANIFEST} has no {name}; splits: {', '.join(sorted({each.split('.')[0] for each in known}))}"
            )
        if hashlib.sha256((directory / name).read_bytes()).hexdigest() != known[name]["sha256"]:
            raise ValueError(
                f"{directory / name} differs from {MANIFEST}: take both from the repository, or build both anew (tests/corpus/README.md)"
            )
    told = json.loads((directory / f"{split}.labels.json").read_text())
    return Recording(
        split, directory / f"{split}.segment", told["node"], told["begin_ns"], told["end_ns"], told["workloads"],
        tuple(Attack(**each) for each in told["attacks"]), tuple(Rare(**each) for each in told["rare_benign"]),
    )  # fmt: skip


def main() -> None:
    """Write a split in order of time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split")
    parser.add_argument("file", type=Path)
    parser.add_argument("--directory", type=Path, default=DIRECTORY)
    options = parser.parse_args()
    print(f"{load(options.split, options.directory).write(options.file)} batches")


if __name__ == "__main__":
    main()
