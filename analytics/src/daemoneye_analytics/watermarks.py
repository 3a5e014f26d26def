"""How far each node's lanes have been processed, and which ranges never came.

Responsible for effect once (rows that were processed are skipped) and for noticing losses in the stream; telling others about them is
the consumer's affair. No I/O, no clock: times are given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from daemoneye.envelope import Envelope

MAX_KEYS: Final = 20_000
"""(node, epoch, lane) that are remembered; those used longest ago are forgotten."""
_MAX_RANGES: Final = 1_000
Key = tuple[str, int, str]
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Gap:
    """Sequences first ≤ s < end of a lane that never came, noticed at `noticed` (s); they lie between two boot times (ns)."""

    key: Key
    first: int
    end: int
    since: int
    until: int
    clock_offset_ns: int
    boot_id: str
    cluster: str
    noticed: float


@dataclass(slots=True)
class _Mark:
    next: int
    last_time: int


class Watermarks:
    """Next expected sequence of each (node, epoch, lane).

    Attributes:
        settled: Whether a lane that is new must begin at 0. A first start finds streams whose beginning expired long ago, which is no loss;
            later on a missing beginning is one.
    """

    def __init__(self) -> None:
        self.settled = False
        self._marks: dict[Key, _Mark] = {}
        self._gaps: list[Gap] = []
        self._explained: dict[Key, list[Range]] = {}

    def advance(self, envelope: Envelope, now: float) -> int:
        """Count a batch as processed; rows at its beginning that were processed before (all of them: skip it)."""
        key = (envelope.node, envelope.epoch, envelope.lane)
        mark = self._marks.pop(key, None)
        if mark is None:
            expected = 0 if self.settled else envelope.first_sequence
            mark = _Mark(expected, envelope.first_time)
        skip = min(max(mark.next - envelope.first_sequence, 0), envelope.rows)
        if envelope.first_sequence > mark.next and envelope.rows:
            self._miss(key, mark, envelope, now)
        if envelope.next_sequence > mark.next:
            mark.next = envelope.next_sequence
            mark.last_time = max(mark.last_time, envelope.last_time)
        self._marks[key] = mark  # at the end: the order of the dict is that of use
        while len(self._marks) > MAX_KEYS:
            forgotten = next(iter(self._marks))
            del self._marks[forgotten]
            self._explained.pop(forgotten, None)
        return skip

    def explain(self, node: str, epoch: int, lane: str, first: int, count: int) -> None:
        """A loss row says that sequences are gone: they are no news, whether they were missed already or will be."""
        key, lost = (node, epoch, lane), (first, first + count)
        gaps = []
        for gap in self._gaps:
            if gap.key == key:
                gaps += [_part(gap, *left) for left in _without((gap.first, gap.end), [lost])]
            else:
                gaps.append(gap)
        self._gaps = gaps
        mark = self._marks.get(key)
        if mark is None or lost[1] > mark.next:
            ranges = self._explained.setdefault(key, [])
            ranges.append(lost)
            del ranges[:-_MAX_RANGES]
            while len(self._explained) > MAX_KEYS:
                del self._explained[next(iter(self._explained))]

    def take_gaps(self, noticed_before: float) -> list[Gap]:
        """Gaps that no loss row explained in time; the caller answers for them from now on."""
        due = [gap for gap in self._gaps if gap.noticed <= noticed_before]
        self._gaps = [gap for gap in self._gaps if gap.noticed > noticed_before]
        return due

    def give_back(self, gap: Gap) -> None:
        """Keep a gap that could not be told for another time."""
        self._gaps.append(gap)
        del self._gaps[:-_MAX_RANGES]

    @property
    def nodes(self) -> set[str]:
        """Nodes of the lanes that are remembered."""
        return {node for node, _, _ in self._marks}

    def by_node(self) -> dict[str, dict[str, dict[str, int]]]:
        """{node: {epoch: {lane: next sequence}}}, as status messages carry it."""
        out: dict[str, dict[str, dict[str, int]]] = {}
        for (node, epoch, lane), mark in self._marks.items():
            out.setdefault(node, {}).setdefault(str(epoch), {})[lane] = mark.next
        return out

    def state(self) -> dict[str, Any]:
        """JSON for a checkpoint."""
        return {
            "settled": self.settled,
            "marks": [[*key, mark.next, mark.last_time] for key, mark in self._marks.items()],
            "explained": [[*key, ranges] for key, ranges in self._explained.items()],
            "gaps": [
                [*g.key, g.first, g.end, g.since, g.until, g.clock_offset_ns, g.boot_id, g.cluster] for g in self._gaps
            ],
        }

    @classmethod
    def restored(cls, state: dict[str, Any], now: float) -> Watermarks:
        """The inverse of `state`; gaps count as noticed now.

        Raises:
            ValueError: It is of another form.
        """
        out = cls()
        try:
            out.settled = bool(state["settled"])
            out._marks = {(str(n), int(e), str(lane)): _Mark(int(s), int(t)) for n, e, lane, s, t in state["marks"]}
            out._explained = {
                (str(n), int(e), str(lane)): [(int(a), int(b)) for a, b in ranges]
                for n, e, lane, ranges in state["explained"]
            }
            out._gaps = [
                Gap((str(n), int(e), str(lane)), int(a), int(b), int(s), int(u), int(o), str(boot), str(cluster), now)
                for n, e, lane, a, b, s, u, o, boot, cluster in state["gaps"]
            ]
        except (KeyError, TypeError) as error:
            msg = f"not watermarks: {error!r}"
            raise ValueError(msg) from error
        return out

    def _miss(self, key: Key, mark: _Mark, envelope: Envelope, now: float) -> None:
        explained = self._explained.pop(key, [])
        for first, end in _without((mark.next, envelope.first_sequence), explained):
            about = (envelope.clock_offset_ns, envelope.boot_id, envelope.cluster)
            self._gaps.append(Gap(key, first, end, mark.last_time, envelope.first_time, *about, now))
        del self._gaps[:-_MAX_RANGES]
        ahead = [r for r in explained if r[1] > envelope.first_sequence]
        if ahead:
            self._explained[key] = ahead


def _part(gap: Gap, first: int, end: int) -> Gap:
    return Gap(gap.key, first, end, gap.since, gap.until, gap.clock_offset_ns, gap.boot_id, gap.cluster, gap.noticed)


def _without(whole: Range, parts: list[Range]) -> Iterator[Range]:
    """What is left of a range when others are taken away, in order."""
    at, end = whole
    for first, last in sorted(parts):
        if first > at:
            yield at, min(first, end)
        at = max(at, last)
        if at >= end:
            return
    if at < end:
        yield at, end
