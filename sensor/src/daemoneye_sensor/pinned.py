"""Rings and their control array as a sensor pinned them, this one or one before us, of whichever layout.

Responsible for what stands where in the control array, for what records the rings hold, and whether they are of this release's form; not for
the programs that write there (:mod:`daemoneye_sensor.programs`), nor for what of the rings was read and told (:mod:`daemoneye_sensor.sources.reading`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import numpy as np

from daemoneye.events.process_exec import PROCESS_EXEC
from daemoneye.events.registry import BY_RING, KERNEL_EVENTS, slot_size
from daemoneye.events.sockets import DropReason
from daemoneye_sensor import bpfsys
from daemoneye_sensor.blobs import BLOB
from daemoneye_sensor.rings import Ring

RINGS: Final = ("exec", "process", "blob", "socket")
"""In order of their counters' slots. Rings of other releases may lack the last ones."""
_OPAQUE: Final = np.dtype((np.void, 8))
_CONTROL_LEASE, _CONTROL_EVENTS, _CONTROL_LAPSED, _CONTROL_EPOCH, _CONTROL_RECORDS, _CONTROL_UNTOLD = range(6)
_CONTROL_DROPS, _CONTROL_READ, _CONTROL_PACKETS = 8, 24, 64
_SOCKET_EVENTS: Final = sum(1 << record.id for record in BY_RING["socket"])
_FIRST_RECORDS: Final = 0x798A32519A0D
"""The `records_id` of records whose rings do not say it: the release that did not yet write the slot had these."""


class Pinned:
    """Rings and their control array, as a sensor of whichever layout pinned them.

    Attributes:
        alike: Whether the records in the rings are those of this release; if not, they can be counted and no more.
    """

    def __init__(self, pin: Path) -> None:
        """Open what is pinned.

        Raises:
            OSError: Something is not there.
        """
        self.pin = pin
        control = bpfsys.obj_get(pin / "control")
        try:
            self._control_map = mmap.mmap(control, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(control)
        self._control = np.frombuffer(self._control_map, np.uint64)
        names = {path.name.removesuffix("_ring") for path in pin.glob("*_ring")}
        # A release that had not all of these rings may well have had their records.
        self.alike = (int(self._control[_CONTROL_RECORDS]) or _FIRST_RECORDS) == records_id(names)
        dtypes = _ring_dtypes(names) if self.alike else dict.fromkeys(names, _OPAQUE)
        self.rings = {name: Ring(bpfsys.obj_get(pin / f"{name}_ring"), dtype) for name, dtype in dtypes.items()}

    @property
    def epoch(self) -> int:
        """Identity of these rings."""
        return int(self._control[_CONTROL_EPOCH])

    @property
    def wanted(self) -> bool:
        """Whether the programs are switched to any events."""
        return bool(self._control[_CONTROL_EVENTS])

    @property
    def follows_sockets(self) -> bool:
        """Whether nothing happens to sockets that the programs do not see: somebody reads, and wants to know."""
        wanted = int(self._control[_CONTROL_EVENTS]) & _SOCKET_EVENTS
        return bool(wanted) and self.leased

    @property
    def leased(self) -> bool:
        """Whether somebody promised to read."""
        return int(self._control[_CONTROL_LEASE]) >= time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def want(self, events: list[str]) -> None:
        """Switch the programs to these events."""
        self._control[_CONTROL_EVENTS] = sum(1 << KERNEL_EVENTS[name].id for name in events)

    def lease(self, until_boot_ns: int) -> None:
        """Promise to read until then."""
        self._control[_CONTROL_LEASE] = until_boot_ns

    def forget_lapsed(self) -> None:
        """Begin to count what lapsed leases lose."""
        self._control[_CONTROL_LAPSED] = 0

    def dropped(self) -> dict[str, int]:
        """What was lost since the rings were made: records without room by ring, those of lapsed leases (`lease`), untold sockets (`table`)."""
        counts = {name: int(self._control[_CONTROL_DROPS + i]) for i, name in enumerate(RINGS)}
        counts["lease"], counts["table"] = int(self._control[_CONTROL_LAPSED]), int(self._control[_CONTROL_UNTOLD])
        return counts

    def packets_dropped(self) -> dict[str, int]:
        """Packets that the kernel dropped since the rings were made, by the words of DropReason."""
        return {reason.name.lower(): int(self._control[_CONTROL_PACKETS + reason]) for reason in list(DropReason)[1:]}

    def held(self) -> dict[str, int]:
        """Records of events that nobody has read, by ring; strings (`blob`) belong to one of them."""
        return {name: ring.held() for name, ring in self.rings.items() if name != "blob"}

    def advance(self, ring: str, position: int) -> None:
        """Consume a ring up to a position."""
        self.rings[ring].advance(position)
        self._control[_CONTROL_READ + RINGS.index(ring)] = self.rings[ring].position // self.rings[ring].stride

    def remove(self) -> None:
        """Unpin everything: with the last descriptor, the kernel drops programs and rings."""
        shutil.rmtree(self.pin, ignore_errors=True)
        with contextlib.suppress(OSError):  # others' pins may stand beside ours
            self.pin.parent.rmdir()
            self.pin.parent.parent.rmdir()

    def close(self) -> None:
        """Let go of the descriptors; what is pinned lives on."""
        for ring in self.rings.values():
            ring.close()
            os.close(ring.fd)
        del self._control
        self._control_map.close()


def records_id(rings: Collection[str] = RINGS) -> int:
    """Names the form of the records in these rings, 48 bits: what a reader must agree on with whoever wrote them. Never 0."""
    form = [
        [name, dtype.itemsize, [r.hash for r in BY_RING.get(name, ())]] for name, dtype in _ring_dtypes(rings).items()
    ]
    return int(hashlib.sha256(json.dumps([form, BLOB.descr]).encode()).hexdigest()[:12], 16) | 1


def _ring_dtypes(rings: Collection[str] = RINGS) -> dict[str, np.dtype[Any]]:
    """Records of those of our rings that are among these, in our order."""
    own = {"exec": PROCESS_EXEC.ring_dtype, "blob": BLOB}
    return {name: own.get(name) or np.dtype((np.void, slot_size(name))) for name in RINGS if name in rings}
