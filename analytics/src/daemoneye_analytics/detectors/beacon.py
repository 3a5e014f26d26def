"""beacon: a conversation with a host outside that comes back like clockwork."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np

from daemoneye.events.base import splitmix64
from daemoneye.findings import Finding, Technique
from daemoneye_analytics.conversations import endpoint, halves, is_inside, who
from daemoneye_analytics.detectors.base import Parameter, detector
from daemoneye_analytics.detectors.distinct import group_starts
from daemoneye_analytics.detectors.parts import Part
from daemoneye_analytics.detectors.teller import SECOND, Teller, hourly
from daemoneye_analytics.evidence import Verdict
from daemoneye_analytics.frame import Frame

_PROTOCOL: Final = Technique("T1071", "Application Layer Protocol")
_WEB: Final = Technique("T1071.001", "Web Protocols")
_TCP, _UDP = 6, 17
# One row a conversation that began: `count` is its number among those of its key.
_BEGUN: Final = np.dtype([("key", "<u8"), ("begin", "<i8"), ("count", "<i8")])


class _Series:
    """The newest beginnings of each key, and how many there were.

    Attributes:
        dropped: Keys that were forgotten for want of room.
    """

    def __init__(self, length: int, capacity: int) -> None:
        self.dropped = 0
        self._length = length
        self._capacity = capacity
        self._kept = np.zeros(0, _BEGUN)

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, key: np.ndarray, begin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Beginnings in the order in which they were told (u64, i64; shape (n,)).

        Returns:
            Rows at which a series is to be judged, ascending, shape (m,), and the newest beginnings of their key up to each, ascending, shape
            (m, length). A series is judged when it is long enough, and again when half of it is new.
        """
        before = len(self._kept)
        rows = np.concatenate([self._kept, np.zeros(len(key), _BEGUN)])
        rows["key"][before:], rows["begin"][before:] = key, begin
        order = np.argsort(rows["key"], kind="stable")  # known ones first, and each in its turn
        ordered = rows[order]
        start = group_starts(ordered, "key")
        known = ordered["count"][start]  # of the group's first row: 0 where nothing was known
        ordered["count"] = np.where(known > 0, known, 1) + np.arange(len(ordered)) - start
        length, count = self._length, ordered["count"]
        due = np.flatnonzero((order >= before) & (count >= length) & ((count - length) % max(length // 2, 1) == 0))
        windows = np.sort(ordered["begin"][due[:, None] + np.arange(1 - length, 1)], axis=1)
        self._keep(ordered)
        at = order[due] - before
        turn = np.argsort(at)
        return at[turn], windows[turn]

    def state(self) -> dict[str, Any]:
        """Arrays and counters for a checkpoint."""
        return {**{name: self._kept[name].copy() for name in _BEGUN.names or ()}, "dropped": self.dropped}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        kept = np.zeros(len(state["key"]), _BEGUN)
        for name in _BEGUN.names or ():
            kept[name] = state[name]
        self._kept, self.dropped = kept, int(state["dropped"])

    def _keep(self, ordered: np.ndarray) -> None:
        """The newest of each key; of all keys those that were seen last."""
        last = np.append(ordered["key"][1:] != ordered["key"][:-1], True)[: len(ordered)]
        ends = np.flatnonzero(last)
        sizes = np.diff(np.append(-1, ends))
        behind = np.repeat(ends, sizes) - np.arange(len(ordered))
        keep = behind < self._length
        if int(keep.sum()) > self._capacity:
            newest = np.repeat(ordered["begin"][ends], sizes)
            oldest_first = np.argsort(newest[ends], kind="stable")
            room = np.cumsum(np.minimum(sizes, self._length)[oldest_first[::-1]]) <= self._capacity
            stays = np.zeros(len(ends), bool)
            stays[oldest_first[::-1][room]] = True
            self.dropped += int((~stays).sum())
            keep &= np.repeat(stays, sizes)
        self._kept = ordered[keep]


@detector(
    name="beacon",
    version=2,
    title="A conversation comes back like clockwork",
    severity="low",
    techniques=(_PROTOCOL, _WEB),
    parameters=(
        Parameter(
            "conversations",
            12,
            "conversations of one source with one port of one host that are judged together",
            minimum=4,
        ),
        Parameter(
            "jitter",
            0.12,
            "middle deviation of the intervals from their median, as a share of it, up to which they count as regular",
            minimum=0.001,
        ),
        Parameter(
            "least_seconds",
            5.0,
            "median interval from which on it is told: what is quicker is one conversation in pieces",
            minimum=0.1,
        ),
        Parameter(
            "private_destinations",
            False,
            "judge destinations in private networks, too: health checks and scrapers of metrics are regular",
        ),
        Parameter(
            "exclude_ports",
            ("123", "5353"),
            "ports of the other side that are left out: time and name services are regular by design",
        ),
        Parameter(
            "max_conversations",
            131_072,
            "beginnings remembered, 24 bytes each; keys that were silent longest go first",
            minimum=1_000,
        ),
        hourly("source and target"),
    ),
)
class Beacon(Teller):
    """Judges when the conversations of a source with one port of a host outside began: the median interval, and how far the intervals lie from it.

    Malware asks its server for orders again and again; so do update checks, telemetry and chats, which is why severity is `low`: it is a reason to look who
    talks to whom, not a verdict. Deviations are those from the median (MAD), so that a missed beat or two do not hide the rest; half of the width of an
    even jitter. Twelve conversations with a deviation of up to 0.12 are as many as a jitter of 20 % passes nine times out of ten, and conversations at
    random moments once in 1,300. Outside is every address but private, shared, local and reserved ones, addresses for documentation included. Jitter of
    more than a quarter, a connection that stays open, and beacons by way of many hosts are not seen. Costs a sort of the conversations that ended.
    """

    _again: ClassVar[str] = "The hour before it was judged so {} times more."

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__(parameters)
        self._series = _Series(parameters["conversations"], parameters["max_conversations"])
        self._left_out = np.array(
            [int(port) for port in parameters["exclude_ports"] if str(port).isdecimal()], np.uint16
        )

    def process(self, frame: Frame) -> list[Finding]:
        """See `Detector`."""
        rows = frame.rows("packet_flow")
        if not len(rows):
            return []
        over = ~frame.texts("packet_flow", "state").where(lambda state: state == "active")
        at = np.flatnonzero(over & self._judged(rows))
        mine = rows[at]
        if not len(mine):
            return []
        key = np.zeros(len(mine), np.uint64)
        for column in (
            *halves(mine["src_ip"]),
            *halves(mine["dst_ip"]),
            mine["dst_port"].astype(np.uint64),
            mine["proto"].astype(np.uint64),
        ):
            key = splitmix64(key ^ column)
        due, begins = self._series.add(key, frame.batch.wall_ns(mine["begin_time"]))
        gaps = np.diff(begins, axis=1) / SECOND
        median = np.median(gaps, axis=1) if len(gaps) else np.zeros(0)
        spread = np.median(np.abs(gaps - median[:, None]), axis=1) if len(gaps) else np.zeros(0)
        regular = np.flatnonzero((median >= self._p["least_seconds"]) & (spread <= self._p["jitter"] * median))
        found = [self._judge(frame, int(at[due[i]]), float(median[i]), float(spread[i])) for i in regular.tolist()]
        return [one for one in found if one is not None]

    def status(self) -> dict[str, Any]:
        """See `Detector`."""
        return {**super().status(), "conversations": len(self._series), "dropped": self._series.dropped}

    @property
    def _parts(self) -> dict[str, Part]:
        return {**super()._parts, "series": self._series}

    def _judged(self, rows: np.ndarray) -> np.ndarray:
        """Rows of TCP and UDP to where a beacon would go, bool, shape (n,)."""
        wanted = ((rows["proto"] == _TCP) | (rows["proto"] == _UDP)) & (rows["src_packets"] > 0)
        for port in self._left_out.tolist():
            wanted &= rows["dst_port"] != port
        if not self._p["private_destinations"]:
            wanted[wanted] = [not is_inside(address) for address in rows["dst_ip"][wanted].tolist()]
        return wanted

    def _judge(self, frame: Frame, index: int, median: float, spread: float) -> Finding | None:
        row = frame.row("packet_flow", index)
        source, target, times = who(row), endpoint(bytes(row["dst_ip"]), row["dst_port"]), self._p["conversations"]
        web = row["service"] in ("http", "tls", "quic")
        return self._tell(frame, "packet_flow", index, Verdict(
            key=f"beacon:{source} {target}", severity="low", title=f"{source} speaks to {target} like clockwork",
            techniques=(_WEB,) if web else (_PROTOCOL,), confidence=round(0.5 + 0.3 * (1 - spread / max(self._p["jitter"] * median, 1e-9)), 2),
            explanation=(
                f"{source} spoke to {target} every {median:.1f} s, {times} times in a row; half of the intervals within {spread:.2f} s of it.",
                "People and most programs are not that regular; malware that asks its server for orders is, and so are update checks and telemetry.",
            ),
        ))  # fmt: skip
