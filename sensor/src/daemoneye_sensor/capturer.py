"""The capture of packets as configurations ask for it: begun, changed and ended beside whatever else the sensor watches.

Responsible for when a :class:`~daemoneye_sensor.sources.packets.PacketSource` is there, and for trying again what could not be opened; not for
packets. Nothing that goes wrong here ends anything else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from daemoneye.errors import DaemonEyeError
from daemoneye_sensor.enrich.explainer import Explainer
from daemoneye_sensor.errors import BAD_PROGRAM
from daemoneye_sensor.feed import Feed
from daemoneye_sensor.losses import Losses
from daemoneye_sensor.packets.capturing import Capture
from daemoneye_sensor.packets.live import Watcher
from daemoneye_sensor.packets.namespace import of_node
from daemoneye_sensor.packets.oddities import Oddities
from daemoneye_sensor.pipeline import Pipeline
from daemoneye_sensor.settings import Settings
from daemoneye_sensor.sources.packets import PacketSource

RETRY_S: Final = 60.0
"""Seconds after which a capture that could not be opened is tried again; another capture is tried at once."""
NOT_PERMITTED: Final = "CaptureNotPermitted"
_NODES: Final = Path("/proc/1/ns/net")
"""What the operator writes for the node's network namespace."""
_NOTHING: Final = ("", "")
_FORBIDDEN: Final = (
    NOT_PERMITTED,
    "sensors of this installation may not capture packets: set sensor.packetCapture of the chart, or turn enablePacketCapture off",
)

_log = logging.getLogger(__name__)


class Capturer:
    """The capture of one node. Everything here belongs to the pipeline's event loop; only opening happens in a thread."""

    def __init__(
        self,
        settings: Settings,
        losses: Losses,
        explainer: Explainer,
        watcher: Watcher | None = None,
        oddities: Oddities | None = None,
    ) -> None:
        """`explainer` adds to what is captured what is known of processes and pods; `watcher` is shown the frames, too, `oddities` what nobody could read."""
        self._watcher = watcher
        self._oddities = oddities
        self._explainer = explainer
        self._settings = settings
        self._losses = losses
        self._source: PacketSource | None = None
        self._feed: Feed | None = None
        self._pipeline: Pipeline | None = None
        self._wanted: Capture | None = None
        self._trouble = _NOTHING
        self._retry_at = 0.0

    @property
    def problem(self) -> tuple[str, str]:
        """Reason and sentence why packets are not captured as asked; both empty when they are, or nobody asks."""
        if self._trouble[0] or self._source is None or self._feed is None:
            return self._trouble
        return self._source.problem()

    @property
    def retry_in(self) -> float | None:
        """Seconds until `bring` is worth another call; None when nothing is to be tried again."""
        if self._wanted is None or self._trouble in (_FORBIDDEN, _NOTHING):
            return None
        return max(self._retry_at - time.monotonic(), 0.0)

    async def bring(self, wanted: Capture | None, flowing: Callable[[], Pipeline]) -> None:
        """Bring the capture to what is wanted; None ends it. `flowing` gives the pipeline, and makes it where there is none yet."""
        news, self._wanted = wanted != self._wanted, wanted
        if wanted is None:
            self.end()
            self._trouble = _NOTHING
        elif not self._settings.packet_capture:
            self._trouble = _FORBIDDEN
        elif self._trouble[0] and not news and time.monotonic() < self._retry_at:
            return
        elif self._feed is None or self._source is None:
            await self._open(wanted, flowing())
        elif wanted != self._source.capture:
            await self._change(self._source, self._feed, wanted, flowing())
        else:
            self._trouble = _NOTHING

    def end(self) -> None:
        """Stop capturing, after a last look that tells what is not told yet."""
        if self._source is not None:
            self._source.finish()
            if self._feed is not None and self._pipeline is not None:
                self._pipeline.remove(self._feed)
            self._source.close(keep=False)
        self._source = self._feed = self._pipeline = None

    async def _open(self, wanted: Capture, pipeline: Pipeline) -> None:
        settings = self._settings
        netns = of_node() if settings.capture_netns == _NODES else settings.capture_netns
        source = PacketSource(
            bpf_dir=settings.bpf_dir, capture=wanted, netns=netns, watcher=self._watcher, oddities=self._oddities
        )  # fmt: skip
        try:
            # Compiling takes seconds; everything else goes on meanwhile.
            feed = await asyncio.to_thread(
                Feed, source, pipeline.spool, settings, self._losses,  # a conversation's row is as old as its last packet: no delay to measure
                explain=lambda drain: self._explainer.explain(drain, source.netns),
            )  # fmt: skip
        except (DaemonEyeError, OSError) as error:
            source.close(keep=False)
            self._failed(error)
            return
        self._trouble = _NOTHING
        self._source, self._feed, self._pipeline = source, feed, pipeline
        pipeline.add(feed)
        meant = ", ".join(name or "the interface of the default route" for name in wanted.interfaces)
        _log.info("the capture of %s is set up", meant)

    async def _change(self, source: PacketSource, feed: Feed, wanted: Capture, pipeline: Pipeline) -> None:
        """Another capture on the same source, which nobody may look at meanwhile; what comes waits in its rings."""
        pipeline.remove(feed)
        try:
            await asyncio.to_thread(source.change, wanted)
            self._trouble = _NOTHING
        except (DaemonEyeError, OSError) as error:
            self._failed(error)
        pipeline.add(feed)

    def _failed(self, error: Exception) -> None:
        self._trouble = (str(getattr(error, "reason", BAD_PROGRAM)), str(error))
        self._retry_at = time.monotonic() + RETRY_S
        _log.error("packets are not captured as asked: %s", error)
