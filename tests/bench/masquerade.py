"""Schonlau's masquerade data through the analyser: commands of 35 users, of whom five have blocks of 100 commands that are another's.

Read where it is present and never copied: `analytics/masquerade.tar.xz` below the directory that DAEMONEYE_TESTDATA names. A user is a workload, a command
a program without arguments, a block ten minutes: the analyser's windows are the blocks.
"""

from __future__ import annotations

import csv
import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from daemoneye.envelope import Batch, Envelope
from daemoneye.events.base import derive
from daemoneye.events.codec import section_of
from daemoneye.events.registry import BY_NAME
from daemoneye_analytics.behaviour.detector import BehavioralAnomaly
from daemoneye_analytics.frame import Frame
from tests.bench.judged import Watched
from tests.bench.ranking import auroc, average_precision, recall
from tests.bench.tables import Outcome

VARIABLE: Final = "DAEMONEYE_TESTDATA"
_ARCHIVE: Final = Path("analytics/masquerade.tar.xz")
_DEFAULT: Final = Path(__file__).resolve().parents[3] / "shared" / "testdata"
_BLOCKS: Final = 150
_BLOCK: Final = 100
_LEARNED: Final = 50
"""Blocks that are the users' own by the data's making; the others are judged."""
_SECOND: Final = 1_000_000_000
_PACE_S: Final = 5.9
_BEGIN_S: Final = 1_699_999_800
"""A multiple of 600: each block lies in one span of the analyser's."""


def run() -> Outcome:
    """The bench; a table without rows where the data is not there."""
    outcome = Outcome(
        "masquerade: windows of 100 commands", ("", "AUROC", "average precision", "recall at 1.0%", "recall at 5.0%")
    )
    path = Path(os.environ.get(VARIABLE, _DEFAULT)) / _ARCHIVE
    if not path.exists():
        outcome.notes = [f"not measured: there is no {_ARCHIVE} below the directory that {VARIABLE} names"]
        return outcome
    users, labels = read(path)
    watched = Watched(BehavioralAnomaly.declaration.resolve({}))
    for batch in batches(users):
        watched.process(Frame(batch))
    windows = {name: [w for w in watched.closed if w.workload == f"host/cgroup/{name}"] for name in labels}
    judged = [(w, labels[name][at]) for name, mine in windows.items() for at, w in enumerate(mine) if at >= _LEARNED]
    other = np.array([label for _, label in judged])
    p = {"aggregate": np.array([w.p for w, _ in judged])}
    p |= {f"  {model} alone": np.array([w.models[model] for w, _ in judged]) for model in judged[0][0].models}
    for name, value in p.items():
        score = np.where(np.isnan(value), 0.0, -np.log10(np.where(np.isnan(value), 1.0, value)))
        row = (
            auroc(other, score),
            average_precision(other, score),
            *(recall(score[other], score[~other], share) for share in (0.01, 0.05)),
        )
        outcome.rows.append((name, *(f"{each:.3f}" for each in row)))
        outcome.data[name.strip()] = row
    outcome.notes = [
        f"{len(judged)} blocks of {len(labels)} users, {other.sum()} of them another's; {len(users)} users are watched",
        f"calibrated: {np.mean(~np.isnan(p['aggregate'])):.1%}; users' own blocks with p ≤ 0.01: {np.mean(p['aggregate'][~other] <= 0.01):.3f}",
    ]
    return outcome


def read(path: Path) -> tuple[dict[str, list[bytes]], dict[str, np.ndarray]]:
    """Commands of each user, and which blocks of the labelled ones are another's, bool, shape (150,)."""
    users: dict[str, list[bytes]] = {}
    labels: dict[str, np.ndarray] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            held = archive.extractfile(member)
            if held is None:
                continue
            if member.name.endswith("labels.csv"):
                for name, *row in list(csv.reader(io.StringIO(held.read().decode())))[1:]:
                    labels[name] = np.array([cell == "1" for cell in row])
            else:
                users[Path(member.name).name] = held.read().split(b"\n")[: _BLOCKS * _BLOCK]
    return dict(sorted(users.items())), labels


def batches(users: Mapping[str, list[bytes]]) -> Iterator[Batch]:
    """A batch for each block of all users: they type in turns, one command in `_PACE_S` seconds."""
    n = len(users)
    cgroups = np.arange(n) + 10
    whose = section_of(
        BY_NAME["cgroup_identity"],
        {"cgroup_id": cgroups, "state": np.full(n, 2), "workload": [f"host/cgroup/{name}".encode() for name in users]}, n, context=True,
    )  # fmt: skip
    for block in range(_BLOCKS):
        place = np.repeat(np.arange(_BLOCK), n)
        rows = len(place)
        time = ((block * 600 + 1 + place * _PACE_S) * _SECOND).astype(np.uint64)
        names = [b"/usr/bin/" + users[user][block * _BLOCK + at] for at in range(_BLOCK) for user in users]
        section = section_of(
            BY_NAME["process_exec"],
            {
                "time": time, "start_time": time, "event": 1, "pid": 1000 + block * rows + np.arange(rows), "ppid": 1, "cgroup_id": np.tile(cgroups, _BLOCK),
                "exe": names, "filename": names, "argv": [name + b"\0" for name in names],
            }, rows,
        )  # fmt: skip
        derive(section.record, section.rows)
        about = Envelope(
            node="users", boot_id="masquerade", epoch=1, lane="urgent", first_sequence=block * rows, rows=rows,
            clock_offset_ns=_BEGIN_S * _SECOND, first_time=int(time[0]), last_time=int(time[-1]),
        )  # fmt: skip
        yield Batch(about, (section, whose))
