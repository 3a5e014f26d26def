"""What each process last said of itself on the broker, and how fast its counters move.

Responsible for listening, for bounding what a hostile process can put in, and for the difference of two heartbeats; not for
form (:mod:`daemoneye_cli.show.top`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from daemoneye import subjects
from daemoneye.errors import ConfigError

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

Process = tuple[str, str]
"""Who speaks: ``node`` or ``component``, and the plain name. A node may bear a component's name."""

BROKER: Final[Process] = ("component", "broker")
"""It sends no heartbeats; it says its version when somebody connects."""
SPEAKERS: Final = frozenset({"analytics", "operator", "identity"})
"""Components that send heartbeats; whoever else does is shown when it is heard of."""
MAX_BYTES: Final = 256 * 1024
"""Largest heartbeat that is read, as in the operator."""
MAX_PROCESSES: Final = 20_000
_WINDOW_S: Final = 30.0
"""Rates are means over about so long: long enough to be steady, short enough to be now."""
_SHORTEST_S: Final = 0.9
_SAMPLES: Final = 64
_TEXT: Final = 64
_GREATEST: Final = 1e300
_STAGES: Final = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters of one heartbeat; ``time`` in seconds since 1970 by the process's own clock, by ours where it has none."""

    time: float
    pid: int
    cpu_s: float | None
    wakeups: float | None
    events: float | None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process costs and does now. None: it was not heard of, or did not say, or not twice.

    Attributes:
        component: ``sensor``, ``analytics``, or what else it calls itself.
        name: The node's plain name; of a component that is no node's, its own.
        cpu_percent: Of one core.
        lost: Records lost since its start, by stage.
        unsent: Batches in the spool that the broker has not taken yet, ``unsent_bytes`` their size.
        age_s: Seconds since its last heartbeat.
        phases: The behavioural analyser's workloads by phase; None of who has none.
    """

    component: str
    name: str
    state: str | None = None
    version: str | None = None
    cpu_percent: float | None = None
    rss_bytes: int | None = None
    wakeups_per_second: float | None = None
    events_per_second: float | None = None
    lost: Mapping[str, int] | None = None
    unsent: int | None = None
    unsent_bytes: int | None = None
    age_s: float | None = None
    phases: Mapping[str, int] | None = None

    @property
    def lost_total(self) -> int | None:
        """Records lost at all stages."""
        return None if self.lost is None else sum(self.lost.values())


@dataclass
class Heard:
    """One process: its newest heartbeat, and samples of those before."""

    content: Mapping[str, Any]
    received: float
    size: int
    count: int = 0
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    @property
    def measured(self) -> bool:
        """Whether there are two heartbeats that can be compared."""
        return len(self.samples) > 1 and self.samples[-1].time - self.samples[0].time >= _SHORTEST_S

    def take(self, content: Mapping[str, Any], received: float, size: int) -> None:
        """Take its newest heartbeat."""
        sample = _sample(content, received)
        if self.samples and not _follows(self.samples[-1], sample):
            self.samples.clear()
        self.samples.append(sample)
        while len(self.samples) > 2 and sample.time - self.samples[1].time >= _WINDOW_S:
            self.samples.popleft()
        self.content, self.received, self.size = content, received, size
        self.count += 1

    def rate(self, counter: str) -> float | None:
        """Give a counter's growth per second."""
        if not self.measured:
            return None
        first, last = (getattr(sample, counter) for sample in (self.samples[0], self.samples[-1]))
        if first is None or last is None:
            return None
        return float((last - first) / (self.samples[-1].time - self.samples[0].time))


class Heartbeats:
    """Every process that was heard of since :meth:`listen`."""

    def __init__(self) -> None:
        self.processes: dict[Process, Heard] = {}
        self.unreadable = 0
        self._changed = asyncio.Event()

    async def listen(self, client: Client) -> None:
        """Hear everybody from now on, for as long as the connection lasts."""
        await client.subscribe(f"{subjects.PREFIX}.status.*", cb=self._message)
        await client.subscribe(f"{subjects.PREFIX}.component.*", cb=self._message)
        await client.flush()

    async def complete(self, expected: Iterable[Process], seconds: float, *, times: int) -> bool:
        """Wait until all of ``expected`` that speak did (once, or twice so that they can be measured); False if that took too long."""
        wanted = _speaking(expected)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not all(self._enough(process, times) for process in wanted):
                    self._changed.clear()
                    await self._changed.wait()
                return True
        return False

    def silent(self, expected: Iterable[Process]) -> list[Process]:
        """Give those of ``expected`` that speak and were not heard."""
        return [process for process in _speaking(expected) if process not in self.processes]

    def costs(self, expected: Iterable[Process] = ()) -> list[Cost]:
        """Give what everybody costs who was heard of, and an empty line for who was ``expected`` and was not."""
        now = time.time()
        silent = [_silent(process) for process in expected if process not in self.processes]
        return [_cost(process, heard, now) for process, heard in self.processes.items()] + silent

    def put(self, subject: str, data: bytes, received: float) -> bool:
        """Take one message; False if it is no heartbeat."""
        kind, _, token = subject.removeprefix(f"{subjects.PREFIX}.").partition(".")
        try:
            process = ("node" if kind == "status" else "component", subjects.unescape_node(token))
            content = json.loads(data) if len(data) <= MAX_BYTES else None
        except (ValueError, RecursionError, ConfigError):
            return False
        if not isinstance(content, dict):
            return False
        if process == analytics(0):
            process = analytics(_count(content.get("part")) or 0)
        heard = self.processes.get(process)
        if heard is None:
            if len(self.processes) >= MAX_PROCESSES:
                return False
            heard = self.processes[process] = Heard(content, received, len(data))
        heard.take(content, received, len(data))
        return True

    async def _message(self, message: Msg) -> None:
        if not self.put(message.subject, message.data, time.time()):
            self.unreadable += 1
        self._changed.set()

    def _enough(self, process: Process, times: int) -> bool:
        heard = self.processes.get(process)
        return heard is not None and (times < 2 or heard.measured)


def analytics(part: int) -> Process:
    """Analytics as it judges one part of the workloads; the first one bears the plain name."""
    return ("component", f"analytics-{part}" if part else "analytics")


def phases(content: Mapping[str, Any]) -> dict[str, int]:
    """Give the behavioural analyser's workloads by phase as analytics' heartbeat has them; empty where none are scored."""
    told = _mapping(_mapping(_mapping(content.get("detectors")).get("behavioral_anomaly")).get("phases"))
    return {
        str(phase)[:_TEXT]: count for phase, each in list(told.items())[:_STAGES] if (count := _count(each)) is not None
    }


def _speaking(processes: Iterable[Process]) -> list[Process]:
    return [(origin, name) for origin, name in processes if origin == "node" or name.partition("-")[0] in SPEAKERS]


def _sample(content: Mapping[str, Any], received: float) -> Sample:
    used = _mapping(content.get("self"))
    told = _number(content.get("time"))
    return Sample(
        received if told is None else told / 1e9,
        int(_number(content.get("pid")) or 0),
        _number(used.get("cpu_s")),
        _number(used.get("wakeups")),
        _number(content.get("events")),
    )


def _follows(before: Sample, after: Sample) -> bool:
    """Whether both are of one life of one process: its counters grow, and so does its clock."""
    grown = all(
        old is None or new is None or new >= old
        for old, new in ((before.cpu_s, after.cpu_s), (before.wakeups, after.wakeups), (before.events, after.events))
    )
    return before.pid == after.pid and after.time > before.time and grown


def _cost(process: Process, heard: Heard, now: float) -> Cost:
    origin, name = process
    content, used = heard.content, _mapping(heard.content.get("self"))
    spool = _mapping(content.get("spool"))
    cpu = heard.rate("cpu_s")
    lost = content.get("lost")
    return Cost(
        component="sensor" if origin == "node" else name,
        name=name,
        state=_text(content.get("state")),
        version=_text(content.get("version")),
        cpu_percent=None if cpu is None else 100 * cpu,
        rss_bytes=_count(used.get("rss_bytes")),
        wakeups_per_second=heard.rate("wakeups"),
        events_per_second=heard.rate("events"),
        lost=_losses(lost) if isinstance(lost, Mapping) else None,
        unsent=_count(spool.get("unsent")),
        unsent_bytes=_count(spool.get("unsent_bytes")),
        age_s=max(0.0, now - heard.received),
        phases=phases(content) or None if origin == "component" else None,
    )


def _silent(process: Process) -> Cost:
    origin, name = process
    return Cost("sensor" if origin == "node" else name, name)


def _losses(told: Mapping[str, Any]) -> dict[str, int]:
    counts = {str(stage)[:_TEXT]: _count(count) or 0 for stage, count in list(told.items())[:_STAGES]}
    return {stage: count for stage, count in counts.items() if count > 0}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -_GREATEST < value < _GREATEST else None  # neither NaN nor what no float holds


def _count(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _text(value: object) -> str | None:
    return value[:_TEXT] if isinstance(value, str) and value else None
