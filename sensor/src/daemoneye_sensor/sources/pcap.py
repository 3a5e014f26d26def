"""The source `pcap`: a capture file instead of an interface, through the same filters and the same inspection as live packets."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from daemoneye.errors import CorruptData
from daemoneye.events.codec import Section
from daemoneye.events.dns_query import DNS_QUERY
from daemoneye.events.packet_flow import PACKET_FLOW
from daemoneye_sensor.packets import link as links
from daemoneye_sensor.packets.capturing import Capture
from daemoneye_sensor.packets.columns import REASONS, Fate, Packets
from daemoneye_sensor.packets.compiling import Filters
from daemoneye_sensor.packets.inspector import Inspector
from daemoneye_sensor.packets.layers import Decoder
from daemoneye_sensor.packets.opening import reused
from daemoneye_sensor.sources.base import Drain, Lost, Origin
from daemoneye_sensor.sources.capturefile import MAX_INTERFACES, Block, CaptureFile

_ROWS: Final = 16_384
"""Rows of one batch."""
_WAIT_NS: Final = 60_000_000_000
"""A response may be so late: nobody waits for what a file says, as people do live."""
_REUSED: Final = 64
"""Connections of a block whose ports are used again and that are told as two; of more, some are told as one."""
BOOT: Final = "capture"
"""Boot id of the rows: their clock is the wall's, and they name no process."""


class PcapSource:
    """A capture file, read from beginning to end."""

    name = "pcap"
    patient = True

    def __init__(self, path: Path, capture: Capture | None = None) -> None:
        """Nothing is read before `open`. Of a capture its filters and its switches count; None: everything is read."""
        self._path = path
        self._capture = capture
        self._filters: dict[int, Filters] = {}
        self._unfit = ""
        self._unwanted = (
            ()
            if capture is None
            else tuple(
                record for record, wanted in ((PACKET_FLOW, capture.flows), (DNS_QUERY, capture.dns)) if not wanted
            )
        )
        self._file: CaptureFile | None = None
        self._drains: Iterator[Drain] | None = None
        self._decoder = Decoder()
        self._unknown: Counter[int] = Counter()
        self._inspectors: dict[str, Inspector] = {}
        self._rows = 0
        self._trouble = ""
        self._finished = False
        self._told: Counter[str] = Counter()

    def open(self, resume: Mapping[str, int], epoch: int | None) -> Origin:  # noqa: ARG002 - each run is one of its own
        """Open the file.

        Raises:
            CorruptData: It cannot be read or is no capture file.
        """
        self._file = CaptureFile(self._path)
        self._drains = self._read(self._file)
        return Origin("", BOOT, secrets.randbits(48), 0)

    def wake_fd(self) -> int | None:
        """A file is always ready."""
        return None

    def drain(self) -> Drain | None:
        """The rows that the next frames make."""
        if self._drains is None or self._finished:
            return None
        drain = next(self._drains, None)
        if drain is None:
            self._finished = True
            return None
        self._rows += drain.rows
        return drain

    def commit(self, drain: Drain) -> None:
        """A file keeps what was read."""

    def lost(self) -> list[Lost]:
        """Frames and messages that could not be read, and where the file breaks off."""
        now = self._faults()
        losses = [
            Lost("capture", "", count - self._told[why], why, "bulk")
            for why, count in now.items()
            if count > self._told[why]
        ]
        self._told = now
        return losses

    def positions(self) -> dict[str, int]:
        """None."""
        return {}

    def status(self) -> dict[str, object]:
        """Counters, and why the reading ended early if it did."""
        return {
            "records": {"pcap": self._rows},
            "frames": self._decoder.seen.frames,
            "not_ip": self._decoder.seen.passed[Fate.NOT_IP],
            "malformed": sum(self._faults().values()),
            "error": self._trouble or self._unfit,
        }

    @property
    def finished(self) -> bool:
        """Whether all was read."""
        return self._finished

    def close(self, *, keep: bool) -> None:  # noqa: ARG002 - nothing to take over
        """Close the file."""
        self._drains = None
        if self._file is not None:
            self._file.close()

    def _faults(self) -> Counter[str]:
        """How often what could not be read, in words."""
        seen = self._decoder.seen.passed
        told = (Fate.NOT_IP, Fate.LINK)  # the first is no fault, the second is said by number
        faults = Counter({f"frames: {REASONS[fate]}": n for fate, n in seen.items() if fate not in told})
        faults += Counter({f"frames: {REASONS[Fate.LINK]} ({link})": n for link, n in self._unknown.items()})
        for inspector in self._inspectors.values():
            faults += Counter(
                {f"{protocol}: messages that are malformed": n for protocol, n in inspector.malformed.items()}
            )
            faults += Counter({"handshakes whose beginning is not whole": inspector.incomplete})
        if self._trouble:
            faults["the rest of the file"] = 1
        return faults

    def _read(self, file: CaptureFile) -> Iterator[Drain]:
        try:
            for block in file.blocks():
                yield from _drains(self._rows_of(block))
        except CorruptData as error:
            self._trouble = str(error)
        for inspector in self._inspectors.values():
            yield from _drains([one for one in inspector.end() if one.record not in self._unwanted])

    def _rows_of(self, block: Block) -> list[Section]:
        order = np.arange(len(block.time))
        if bool((block.time[1:] < block.time[:-1]).any()):
            order = np.argsort(block.time, kind="stable")
        if block.link not in links.KNOWN:
            self._unknown[block.link] += len(order)
        places = block.begin[order], block.captured[order], block.size[order]
        packets = self._decoder.decode(
            block.data, *places, block.time[order], block.link, taken=self._taken(block, *places)
        )
        inspector = self._inspector(block.interface)
        sections = []
        for first, stop in _turns(packets):
            sections += inspector.inspect(packets.part(first, stop))
        return [section for section in sections if section.record not in self._unwanted]

    def _inspector(self, interface: str) -> Inspector:
        """Whoever reads an interface; those of a file that has ever new ones are read like one."""
        if interface not in self._inspectors and len(self._inspectors) >= MAX_INTERFACES:
            interface = ""
        if interface not in self._inspectors:
            self._inspectors[interface] = Inspector(interface, _WAIT_NS)
        return self._inspectors[interface]

    def _taken(self, block: Block, begin: np.ndarray, captured: np.ndarray, size: np.ndarray) -> np.ndarray | None:
        """Which of the capture's filters take each frame of a block."""
        if self._capture is None or block.link not in links.KNOWN:
            return None
        filters = self._filters.get(block.link)
        if filters is None:
            asked = [(expression, self._capture.snaplen) for expression in self._capture.filters]
            filters = self._filters[block.link] = Filters.of(asked, (block.link,))
            for number, words in filters.problems.items():
                self._unfit = (
                    f"captureFilter {self._capture.filters[number]!r} takes nothing of link type {block.link}: {words}"
                )
        return filters.masks(block.link, block.data, begin, captured, size)


def _turns(packets: Packets) -> Iterator[tuple[int, int]]:
    """From where to where packets in order of time are looked at at once: a connection that is over is told before its ports are used again."""
    bounds = [0, *reused(packets)[:_REUSED].tolist(), len(packets)]
    return pairwise(bounds) if len(packets) else iter(())


def _drains(sections: list[Section]) -> Iterator[Drain]:
    """The sections in batches of a bearable size."""
    for section in sections:
        for first in range(0, len(section.rows), _ROWS):
            part = section.take(np.arange(first, min(first + _ROWS, len(section.rows))))
            yield Drain("bulk", (part,), rows=len(part.rows), more=True)
