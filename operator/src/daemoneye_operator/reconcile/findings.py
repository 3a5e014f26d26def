"""Findings become Finding objects: few, however many there are.

Responsible for aggregation, for the bounds on number, age and rate of creation, and for when a pod gets an Event; not for an object's form
(:mod:`daemoneye_operator.reconcile.findingobject`) nor for writing it.

The caller adds what it reads from the stream, writes what `pending` and `deletions` say, reports with `stored` and `deleted` what it did, and
only then acknowledges the messages. A write that fails is simply pending still. Delivery is at least once: ids that were counted are remembered,
the newest `MEMORY` of them, and each object's last one in its status, which outlives the operator. So after a crash between a write and its
acknowledgement what was in flight, seconds of findings, may be counted twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from daemoneye.findings import Finding
from daemoneye.subjects import SEVERITIES
from daemoneye_operator.reconcile import clock
from daemoneye_operator.reconcile import event as events
from daemoneye_operator.reconcile.exception import Exceptions
from daemoneye_operator.reconcile.findingobject import Ref, build, reference, spec_of

MEMORY: Final = 65_536
EVENT_EVERY: Final = 300.0
"""Seconds between two Events of one Finding."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of Finding objects, see ``daemoneye_operator.settings.Findings``; age in seconds."""

    objects: int = 1000
    age: float = 604_800.0
    creations_per_minute: float = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a finding.

    Attributes:
        kind: `new` object, `repeated` one, `duplicate` that was counted before, `excepted` by a DetectionException, `limited` by the rate.
        ref: Its object; None when it is excepted or limited.
        time: When it happened, seconds since 1970, never later than now.
        spec: What its object's spec is or would be.
    """

    kind: Literal["new", "repeated", "duplicate", "excepted", "limited"]
    ref: Ref | None = None
    time: float = 0.0
    spec: Mapping[str, Any] = field(default_factory=dict)

    @property
    def counted(self) -> bool:
        """Whether it is one more in its policies' tally."""
        return self.kind in ("new", "repeated", "limited")


@dataclass(frozen=True, slots=True)
class Write:
    """What is to be written for one Finding, in this order.

    Attributes:
        ref: The object.
        replace: Delete it first: facts are immutable, and it became more severe.
        obj: Apply this; None when it is there already.
        status: Apply this as its status.
        event: Apply this Event; None when none is due.
        version: For `Aggregation.stored`.
    """

    ref: Ref
    replace: bool
    obj: dict[str, Any] | None
    status: dict[str, Any]
    event: dict[str, Any] | None
    version: int


@dataclass(slots=True)
class _Entry:
    ref: Ref
    spec: Mapping[str, Any]
    count: int
    first: float
    last: float
    last_id: str
    exists: bool = False
    replace: bool = False
    version: int = 0
    written: int = -1
    event: dict[str, Any] | None = None
    event_at: float = 0.0
    draft: dict[str, Any] | None = None


class Aggregation:
    """All Finding objects of the cluster, as they are and as they are to be."""

    def __init__(
        self, limits: Limits, release_namespace: str, *, labels: Mapping[str, str] | None = None, instance: str = ""
    ) -> None:
        """No objects yet; `labels` go onto each object, `instance` names the operator's pod in Events."""
        self._limits = limits
        self._namespace = release_namespace
        self._labels = {
            "app.kubernetes.io/part-of": "daemoneye",
            "app.kubernetes.io/managed-by": events.CONTROLLER,
            **(labels or {}),
        }
        self._instance = instance
        self._entries: dict[Ref, _Entry] = {}
        self._gone: set[Ref] = set()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._tokens = limits.creations_per_minute
        self._refilled: float | None = None
        self.suppressed = 0
        """Findings that became no object because too many new ones came at once."""

    def __len__(self) -> int:
        return len(self._entries)

    def seed(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Take over the objects that are there at the start."""
        for obj in objects:
            meta, status = obj["metadata"], obj.get("status") or {}
            ref = Ref(meta["namespace"], meta["name"])
            made = clock.seconds(meta.get("creationTimestamp") or "1970-01-01T00:00:00Z")
            first, last = (
                clock.seconds(status[name]) if status.get(name) else made for name in ("firstSeen", "lastSeen")
            )
            entry = _Entry(
                ref,
                obj["spec"],
                status.get("count", 0),
                first,
                last,
                status.get("lastFindingID", ""),
                exists=True,
                written=0,
            )
            self._entries[ref] = entry
            if entry.last_id:
                self._remember(entry.last_id)

    def namespace(self, finding: Finding) -> str:
        """Namespace of the object that this finding is counted into."""
        return reference(spec_of(finding), self._namespace).namespace

    def add(self, finding: Finding, exceptions: Exceptions, now: float) -> Outcome:
        """Count a finding; `now` in seconds since 1970."""
        if finding.id in self._seen:
            self._seen.move_to_end(finding.id)
            # Its object may still wait to be written: who acknowledges has to know which it is.
            return Outcome("duplicate", reference(spec_of(finding), self._namespace))
        self._remember(finding.id)
        spec = spec_of(finding)
        ref = reference(spec, self._namespace)
        time = _time(finding, now)
        if exceptions.suppress(ref.namespace, spec, now):
            return Outcome("excepted", None, time, spec)
        entry = self._entries.get(ref)
        if entry is not None:
            self._repeat(entry, finding.id, spec, time)
            return Outcome("repeated", ref, time, spec)
        if not self._token(now):
            self.suppressed += 1
            return Outcome("limited", None, time, spec)
        self._gone.discard(ref)
        self._entries[ref] = _Entry(ref, spec, 1, time, time, finding.id)
        self._evict(keep=ref)
        return Outcome("new", ref, time, spec)

    def pending(self, now: float) -> list[Write]:
        """What is to be written, in order of the objects' names."""
        dirty = (entry for entry in self._entries.values() if entry.version != entry.written)
        return [self._write(entry, now) for entry in sorted(dirty, key=lambda entry: entry.ref)]

    def stored(self, write: Write, now: float) -> None:
        """A write was done in whole."""
        entry = self._entries.get(write.ref)
        if entry is None:
            # Evicted while it was being written: what was just made is to go.
            self._gone.add(write.ref)
            return
        entry.exists, entry.written = True, write.version
        if write.obj is not None:
            entry.replace = entry.replace and entry.spec["severity"] != write.obj["spec"]["severity"]
        if write.event is not None:
            entry.event = {key: value for key, value in write.event.items() if key != "series"}
            entry.event_at, entry.draft = now, None

    def dirty(self) -> set[Ref]:
        """Objects that are not yet written as they are to be."""
        return {entry.ref for entry in self._entries.values() if entry.version != entry.written}

    def event_failed(self, write: Write, now: float) -> None:
        """The Event of a write was refused for good: it is not tried again before the next is due."""
        entry = self._entries.get(write.ref)
        if entry is not None:
            entry.draft, entry.event_at = None, now

    def deletions(self, now: float) -> list[Ref]:
        """Objects that are to be deleted: too many, or not seen for too long."""
        for ref in [ref for ref, entry in self._entries.items() if now - entry.last > self._limits.age]:
            self._drop(ref)
        return sorted(self._gone)

    def deleted(self, ref: Ref) -> None:
        """An object is gone, by our deletion, a user's or its namespace's; the next such finding makes it anew."""
        self._entries.pop(ref, None)
        self._gone.discard(ref)

    def vanished(self, ref: Ref) -> None:
        """The same, found out late: what was counted since the last write is a new object's."""
        entry = self._entries.get(ref)
        fresh = entry.version - max(entry.written, 0) if entry else 0
        if entry is not None and not entry.exists:
            return  # it is about to be made, and whoever tells us is late
        if entry is None or fresh <= 0:
            self.deleted(ref)
            return
        entry.count, entry.first, entry.exists, entry.replace = fresh, entry.last, False, False
        entry.event, entry.event_at, entry.draft = None, 0.0, None

    def _repeat(self, entry: _Entry, finding_id: str, spec: Mapping[str, Any], time: float) -> None:
        entry.count += 1
        entry.version += 1
        entry.first = min(entry.first, time)
        if time >= entry.last:
            entry.last, entry.last_id = time, finding_id
        if SEVERITIES.index(spec["severity"]) > SEVERITIES.index(entry.spec["severity"]):
            entry.spec, entry.replace = spec, entry.exists

    def _write(self, entry: _Entry, now: float) -> Write:
        status = {
            "count": entry.count,
            "firstSeen": clock.rfc3339(entry.first),
            "lastSeen": clock.rfc3339(entry.last),
            "lastFindingID": entry.last_id,
            "observedGeneration": 1,
        }
        obj = build(entry.ref, entry.spec, self._labels) if entry.replace or not entry.exists else None
        return Write(entry.ref, entry.replace, obj, status, self._event(entry, now), entry.version)

    def _event(self, entry: _Entry, now: float) -> dict[str, Any] | None:
        # An Event's name holds its time: one that may have been written must come again as it was.
        if entry.draft is None and (not entry.exists or entry.replace or now - entry.event_at >= EVENT_EVERY):
            if entry.event is None:
                entry.draft = events.event(entry.ref, entry.spec, self._instance, now)
            else:
                entry.draft = events.series(entry.event, entry.count, now)
        return entry.draft

    def _evict(self, keep: Ref) -> None:
        while len(self._entries) > self._limits.objects:
            oldest = min(
                (entry for ref, entry in self._entries.items() if ref != keep),
                key=lambda entry: (entry.last, entry.ref),
                default=None,
            )
            if oldest is None:
                return
            self._drop(oldest.ref)

    def _drop(self, ref: Ref) -> None:
        if self._entries.pop(ref).exists:
            self._gone.add(ref)

    def _remember(self, finding_id: str) -> None:
        self._seen[finding_id] = None
        if len(self._seen) > MEMORY:
            self._seen.popitem(last=False)

    def _token(self, now: float) -> bool:
        rate = self._limits.creations_per_minute
        if self._refilled is not None:
            self._tokens = min(rate, self._tokens + max(now - self._refilled, 0.0) * rate / 60)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _time(finding: Finding, now: float) -> float:
    """When it happened; a node whose clock is ahead must not make an object that never ages."""
    try:
        return min(clock.seconds(finding.time), now)
    except ValueError:
        return now
