"""From sources to spool: looks at all of them on one timer, and tells the publisher when there are new batches.

What happens to one source's rows is :mod:`daemoneye_sensor.feed`'s. Feeds come and go while the pipeline turns; they take their turns in the
order in which they came, so that what one learns (whose a socket is) is known when the next one asks; those that ask have looked before.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

from daemoneye.subjects import LANES
from daemoneye_sensor.feed import LOSS, Feed
from daemoneye_sensor.losses import Losses
from daemoneye_sensor.publisher import Publisher
from daemoneye_sensor.settings import Settings
from daemoneye_sensor.sources.base import Origin, Source
from daemoneye_sensor.spool import Spool

_BUSY_ROWS: Final = 256
"""Rows of a turn from which on the next one waits twice as long: a batch costs about 4 ms whatever is in it, so fewer of them carry a load
for less, and a ring that is half full wakes us anyway."""


class Pipeline:
    """The sources of one node, one spool.

    Attributes:
        spool: Where all of it goes.
        losses: What is lost, and told in lane `loss`.
        running: Whether it turns by itself.
        turned: Moment (monotonic, s) of the last turn.
    """

    def __init__(
        self,
        source: Source | None,
        spool: Spool,
        settings: Settings,
        losses: Losses | None = None,
        on_durable: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Begin with one source (:class:`~daemoneye_sensor.feed.Feed` says what it raises), or none: others come by `add`.

        `losses` outlives the pipeline where others count there, too.
        """
        self.losses = Losses() if losses is None else losses
        self.running = False
        self.turned = time.monotonic()
        self.spool = spool
        self._settings = settings
        self._feeds: list[Feed] = []
        self._gone = dict.fromkeys(LANES, 0)  # rows of feeds that were taken away
        self._gone_lost = 0
        self._publisher: Publisher | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        if source is not None:
            self.add(Feed(source, spool, settings, self.losses, on_durable))

    @property
    def rows(self) -> dict[str, int]:
        """Rows that were spooled since the start, by lane."""
        return {lane: self._gone[lane] + sum(feed.rows[lane] for feed in self._feeds) for lane in LANES}

    @property
    def events(self) -> int:
        """Event rows that were spooled since the start: all but those that tell losses."""
        return sum(count for lane, count in self.rows.items() if lane != LOSS)

    @property
    def origin(self) -> Origin:
        """Where the rows of the first source come from."""
        return self._feeds[0].origin

    def add(self, feed: Feed, *, first: bool = False) -> None:
        """One more source, from the next turn on; it comes after the others, or before them."""
        self._feeds.insert(0 if first else len(self._feeds), feed)
        fd = feed.source.wake_fd()
        if fd is not None and self.running:
            asyncio.get_running_loop().add_reader(fd, self._wake.set)
        self._wake.set()

    def remove(self, feed: Feed) -> None:
        """Take a last look at a source and let it go; whoever made it closes it, or adds its feed again later."""
        if feed not in self._feeds:
            return
        fd = feed.source.wake_fd()
        if fd is not None and self.running:
            asyncio.get_running_loop().remove_reader(fd)
        feed.look()
        appended = feed.turn()
        self._feeds.remove(feed)
        for lane, count in feed.rows.items():
            self._gone[lane] += count
        self._gone_lost += feed.lost_rows
        feed.rows, feed.lost_rows = dict.fromkeys(LANES, 0), 0
        if appended and self._publisher:
            self._publisher.notify()

    def attach(self, publisher: Publisher) -> None:
        """The publisher that is told of new batches."""
        self._publisher = publisher

    async def run(self) -> None:
        """Turn until told to stop or all sources are finished; a last turn then takes what is left."""
        loop = asyncio.get_running_loop()
        for feed in self._feeds:
            if (fd := feed.source.wake_fd()) is not None:
                loop.add_reader(fd, self._wake.set)
        self.running = True
        try:
            while not self._stopping:
                self._wake.clear()
                before = self.events
                self.turn()
                if self._feeds and all(feed.source.finished for feed in self._feeds):
                    break
                busy = self.events - before >= _BUSY_ROWS
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.flush_interval_s * (2 if busy else 1)):
                        await self._wake.wait()
        finally:
            self.running = False
            for feed in self._feeds:
                if (fd := feed.source.wake_fd()) is not None:
                    loop.remove_reader(fd)
        self.turn()

    def wake(self) -> None:
        """Have the next turn at once."""
        self._wake.set()

    def stop(self) -> None:
        """Have `run` end after a last turn."""
        self._stopping = True
        self._wake.set()

    def turn(self) -> None:
        """Everything that the sources have now, into the spool."""
        for feed in self._feeds:
            feed.look()
        appended = [feed.turn() for feed in self._feeds]
        if any(appended) and self._publisher:
            self._publisher.notify()
        self.turned = time.monotonic()

    def follow_clock(self) -> None:
        """Take a step of the wall clock over."""
        for feed in self._feeds:
            feed.follow_clock()

    def next_sequences(self) -> dict[str, int]:
        """Next sequence of each lane of the first source."""
        return self._feeds[0].next_sequences() if self._feeds else {}

    def status(self) -> dict[str, Any]:
        """Counters for the heartbeat. `source` is the first one, `sources` are all by name."""
        first = self._feeds[0] if self._feeds else None
        sources = {feed.source.name: feed.status() for feed in self._feeds}
        lost = self._gone_lost + sum(feed.lost_rows for feed in self._feeds)
        return {
            "node": first.origin.node if first and first.origin.node else self._settings.node,
            "events": self.events,
            "sequences": self.next_sequences(),
            "epoch": first.origin.epoch if first else 0,
            "boot_id": first.origin.boot_id if first else "",
            "source": sources[first.source.name] if first else {"name": self._settings.source},
            "sources": sources,
            "spool": spool_status(self.spool, lost),
        }


def spool_status(spool: Spool | None, lost_rows: int) -> dict[str, int]:
    """A spool's part of the heartbeat; zeros where there is none."""
    if spool is None:
        return dict.fromkeys(("bytes", "unsent", "unsent_bytes", "lost_rows", "quarantined"), 0)
    return {
        "bytes": spool.bytes_used,
        "unsent": spool.entries_unsent,
        "unsent_bytes": spool.bytes_unsent,
        "lost_rows": lost_rows,
        "quarantined": spool.quarantined,
    }
