"""What the kernel tells of processes and sockets, as configurations ask for it: programs are loaded, switched and left.

Responsible for when an :class:`~daemoneye_sensor.sources.ebpf.EbpfSource` is there, and for trying again what could not be loaded; not for
events. Nothing that goes wrong here ends anything else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from daemoneye.errors import DaemonEyeError
from daemoneye_sensor import programs
from daemoneye_sensor.enrich.explainer import Explainer
from daemoneye_sensor.enrich.podrows import PodIdentities
from daemoneye_sensor.errors import BAD_PROGRAM
from daemoneye_sensor.feed import Feed
from daemoneye_sensor.losses import Losses
from daemoneye_sensor.pipeline import Pipeline
from daemoneye_sensor.settings import Settings
from daemoneye_sensor.sources.ebpf import EbpfSource
from daemoneye_sensor.spool import Spool

RETRY_S: Final = 60.0
"""Seconds after which programs that could not be loaded are tried again; a new configuration tries at once."""
_NOTHING: Final = ("", "")

_log = logging.getLogger(__name__)


class Observer:
    """The kernel programs of one node. Everything here belongs to the pipeline's event loop; only opening happens in a thread.

    Attributes:
        events: Names of the events that are asked for.
        problem: Reason and sentence why programs do not run; both empty when they do, or nobody asks for them.
    """

    def __init__(
        self,
        settings: Settings,
        losses: Losses,
        explainer: Explainer,
        identities: PodIdentities,
        on_durable: Callable[[float], None],
    ) -> None:
        """`identities` are the explainer's; :class:`~daemoneye_sensor.feed.Feed` says what `on_durable` is told."""
        self.events: tuple[str, ...] = ()
        self.problem = _NOTHING
        self._settings = settings
        self._losses = losses
        self._explainer = explainer
        self._identities = identities
        self._on_durable = on_durable
        self._source: EbpfSource | None = None
        self._retry_at = 0.0

    @property
    def loaded(self) -> bool:
        """Whether the programs that are asked for are loaded; true when none is."""
        return not self.events or self._source is not None

    @property
    def missing(self) -> dict[str, str]:
        """Programs about sockets that do not run, with the reason."""
        return self._source.missing if self._source is not None else {}

    @property
    def retry_in(self) -> float | None:
        """Seconds until `bring` is worth another call; None when nothing is to be tried again."""
        return max(self._retry_at - time.monotonic(), 0.0) if self.problem[0] else None

    def want(self, events: tuple[str, ...]) -> None:
        """Other events from this moment on; programs that are not there yet are loaded by `bring`."""
        self.events = events
        if self._source is not None:
            self._source.want(events)
        if not events:
            self.problem = _NOTHING

    async def bring(self, spool: Callable[[], Spool], flowing: Callable[[], Pipeline], *, news: bool) -> None:
        """Have the programs run if events are asked for and it is time to try: at `news`, or a while after the last failure.

        `spool` opens the node's spool, `flowing` gives the pipeline; both make them where there is none yet.
        """
        if self.loaded or not (news or time.monotonic() >= self._retry_at):
            return
        settings, storing = self._settings, spool()
        source = EbpfSource(
            bpf_dir=settings.bpf_dir, instance=settings.instance, sizes=settings.rings, events=list(self.events), explainer=self._explainer
        )  # fmt: skip
        try:
            # Compiling takes seconds; heartbeats and the spool's batches go on meanwhile.
            feed = await asyncio.to_thread(Feed, source, storing, settings, self._losses, self._on_durable)
        except (DaemonEyeError, OSError) as error:
            source.close(keep=True)
            self.problem = (str(getattr(error, "reason", BAD_PROGRAM)), str(error))
            self._retry_at = time.monotonic() + RETRY_S
            _log.error("%s; trying again in %g s", error, RETRY_S)
            return
        self.problem = _NOTHING
        self._source = source
        self._identities.waits = True
        self._identities.prefetch()
        flowing().add(feed, first=True)

    def leave(self) -> None:
        """Programs and everything that this instance pinned go, now."""
        self.close(keep=False)
        programs.remove_pins(self._settings.instance)

    def close(self, *, keep: bool) -> None:
        """Let go; without `keep` the programs are removed from the kernel. The pipeline has ended."""
        if self._source is not None:
            self._source.close(keep=keep)
        self._source = None
