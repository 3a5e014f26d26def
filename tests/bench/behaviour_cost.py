"""What the behavioural analyser costs: executions a second of one core through features and scoring, its share at 5,000 events/s, and its memory.

CPU time of the process, threads that train included, not wall time. The rows are the corpus' own, laid out anew in time: recorded, they are so sparse
that every tick holds a handful. Memory is measured in a process of its own, in which 5,000 workloads have open windows at once.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from daemoneye import envelope
from daemoneye.envelope import Batch
from daemoneye.events.codec import Section, concatenate, section_of
from daemoneye.events.registry import BY_NAME
from daemoneye_analytics import registry
from daemoneye_analytics.behaviour.detector import BehavioralAnomaly
from daemoneye_analytics.behaviour.node import TICK_NS
from daemoneye_analytics.frame import Frame
from tests.bench import machine
from tests.bench.tables import Outcome, Target
from tests.corpus import corpus

_RATE: Final = 5_000
_WORKLOADS: Final = 5_000
_ROUNDS: Final = 4
_EACH: Final = 25
"""Executions of each workload in ten minutes, when memory is measured."""
_SPAN_NS: Final = 600_000_000_000
_THROUGHPUT: Final = 150_000
_SHARE: Final = 0.05
_RSS: Final = 600.0


def run() -> Outcome:
    """The bench."""
    logging.getLogger("daemoneye_analytics").setLevel(logging.ERROR)
    outcome = Outcome("cost of the analyser", ("", "executions/s of a core", "µs an execution", "of a core at 5,000/s"))
    recorded = [batch for batch in corpus.load("dev").batches() if batch.envelope.lane == "urgent"]
    detector = BehavioralAnomaly(BehavioralAnomaly.declaration.resolve({}))
    measured = {"as recorded: a handful a tick": _cost(recorded, _analyser(detector))}
    clock = itertools.count(int(recorded[-1].envelope.last_time) + TICK_NS, 0)
    streams: dict[str, Callable[[], Sequence[Batch]]] = {
        "a batch of 2,048 rows a tick of 10 s": lambda: laid(recorded, 2_048 * 10**9 / TICK_NS, next(clock)),
        f"{_RATE:,} rows/s": lambda: laid(recorded, _RATE, next(clock)),
        f"{_RATE:,} rows/s, the same rows again and again": lambda: laid(
            [recorded[len(recorded) // 2]] * len(recorded), _RATE, next(clock)
        ),
    }
    for name, stream in streams.items():
        batches = stream()
        measured[name] = _cost(batches, _analyser(detector))
        clock = itertools.count(int(batches[-1].envelope.last_time) + TICK_NS, 0)
    others = [
        each(each.declaration.resolve({}))
        for name, each in registry.available().items()
        if name != BehavioralAnomaly.declaration.name
    ]
    messages = [envelope.encode(b.envelope, b.sections) for b in laid(recorded, _RATE, next(clock))]

    def whole(message: bytes) -> None:
        frame = Frame(envelope.decode(message))
        for each in (detector, *others):
            each.process(frame)
        detector.scores.clear()

    measured[f"{_RATE:,} rows/s, decoded, through every detector"] = _cost(
        messages, whole, rows=sum(b.envelope.rows for b in recorded)
    )
    for name, rate in measured.items():
        outcome.rows.append((name, f"{rate:,.0f}", f"{1e6 / rate:.1f}", f"{_RATE / rate:.1%}"))
    rss = json.loads(
        subprocess.run(
            [sys.executable, "-m", "tests.bench.behaviour_cost"], check=True, capture_output=True, text=True
        ).stdout
    )
    outcome.data = {"rates": measured, "memory": rss}
    memory = (
        f"{rss['rss_mb']:.0f} MB resident, {rss['peak_mb']:.0f} MB at most, {rss['imported_mb']:.0f} MB of it libraries"
    )
    outcome.notes = [
        f"{rss['workloads']:,} workloads, each with {_EACH} executions in ten minutes, {_ROUNDS} times: {memory}; {rss['items']:,} things counted",
        f"executions/s of a core meanwhile: {rss['rate']:,.0f}",
    ]
    outcome.targets = [
        Target("executions/s of a core", measured[f"{_RATE:,} rows/s"], _THROUGHPUT, at_least=True),
        Target(
            "of a core at 5,000 events/s",
            _RATE / measured[f"{_RATE:,} rows/s, decoded, through every detector"],
            _SHARE,
        ),
        Target("resident memory at 5,000 workloads", rss["peak_mb"], _RSS, unit=" MB"),
    ]
    return outcome


def _analyser(detector: BehavioralAnomaly) -> Callable[[Batch], None]:
    def look(batch: Batch) -> None:
        detector.process(Frame(batch))
        detector.scores.clear()

    return look


def _cost(given: Sequence[Any], work: Callable[[Any], None], *, rows: int = 0) -> float:
    """Rows a CPU second."""
    rows = rows or sum(batch.envelope.rows for batch in given)
    begun = time.process_time()
    for each in given:
        work(each)
    return rows / (time.process_time() - begun)


def laid(batches: Sequence[Batch], rate: float, begin: int) -> list[Batch]:
    """The batches' rows one after another at so many a second, from `begin` (ns of the boot-time clock) on; context stays."""
    out = []
    for batch in batches:
        (section,) = (s for s in batch.sections if not s.context)
        out.append(_at(batch, section, begin, int(len(section.rows) / rate * 1e9)))
        begin = out[-1].envelope.last_time + 1
    return out


def _at(batch: Batch, section: Section, begin: int, length: int) -> Batch:
    """A batch with these events, evenly over `length` ns from `begin`."""
    rows = section.rows.copy()
    rows["time"] = begin + np.linspace(0, length, len(rows)).astype(np.int64)
    about = dataclasses.replace(
        batch.envelope, rows=len(rows), first_time=int(rows["time"][0]), last_time=int(rows["time"][-1])
    )
    return Batch(about, (dataclasses.replace(section, rows=rows), *(s for s in batch.sections if s.context)))


def crowd() -> Iterator[Batch]:
    """Batches of `_WORKLOADS` workloads: each is one of the corpus under another name, and all have windows open at once."""
    shipped = [batch for batch in corpus.load("dev").batches() if batch.envelope.lane == "urgent"]
    parts = {
        key: [s for b in shipped if (s := b.section(*key[:1], context=key[1]))]
        for key in (("process_exec", False), ("process_exec", True))
    }
    events, ancestors = (concatenate(sections) for sections in parts.values())
    # An ancestor is told in every batch below it: once is enough.
    ancestors = ancestors.take(np.unique(ancestors.rows[["process_uid", "time"]], return_index=True)[1])
    known = concatenate([s for b in shipped if (s := b.section("cgroup_identity", context=True))])
    known = known.take(np.unique(known.rows["cgroup_id"], return_index=True)[1])
    names = known.values("workload")
    about = shipped[0].envelope
    begin = (
        -(-int(shipped[-1].envelope.last_time + about.clock_offset_ns) // _SPAN_NS) * _SPAN_NS - about.clock_offset_ns
    )
    del shipped
    copies = -(-_WORKLOADS // len(names))
    order = np.argsort(events.rows["cgroup_id"], kind="stable")
    rank = np.empty(len(order), np.int64)
    ids = events.rows["cgroup_id"][order]
    rank[order] = np.arange(len(order)) - np.searchsorted(ids, ids)
    for number in range(_ROUNDS):
        mine = events.take(rank // _EACH == number)
        for copy in range(copies):
            named = section_of(
                BY_NAME["cgroup_identity"],
                {"cgroup_id": known.rows["cgroup_id"], "state": known.rows["state"], "workload": [b"%s-%d" % (name, copy) for name in names]},
                len(names), context=True,
            )  # fmt: skip
            start = begin + number * _SPAN_NS + copy * (_SPAN_NS // copies)
            yield _at(Batch(about, (ancestors, named)), mine, start, _SPAN_NS // copies - 1)


def memory() -> dict[str, Any]:
    """Resident megabytes of this process with `_WORKLOADS` workloads."""
    from pyod.models.iforest import IForest  # noqa: F401 - what a model imports when it is fitted counts before it, too

    logging.getLogger("daemoneye_analytics").setLevel(logging.ERROR)
    detector = BehavioralAnomaly(BehavioralAnomaly.declaration.resolve({}))
    pid = os.getpid()
    imported = machine.usage([pid]).rss
    batches = crowd()
    batch: Batch | None = next(batches)
    own = machine.usage([pid]).rss - imported  # the bench's rows are no part of the analyser
    rows, begun = 0, time.process_time()
    while batch is not None:
        _analyser(detector)(batch)
        rows += batch.envelope.rows
        batch = next(batches, None)
    return {
        "workloads": detector.status()["workloads"],
        "items": detector.status()["items"],
        "imported_mb": imported / 1e6,
        "rss_mb": (machine.usage([pid]).rss - own) / 1e6,
        "peak_mb": (machine.peak_rss(pid) - own) / 1e6,
        "rate": rows / (time.process_time() - begun),
    }


if __name__ == "__main__":
    print(json.dumps(memory()))
