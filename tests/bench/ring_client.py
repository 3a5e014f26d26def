"""The sensor's process on rings in shared memory: `python -m tests.bench.ring_client EXEC PROCESS BLOB WAKE --config FILE` (descriptors).

Everything but the rings' filling is the sensor's own: `EbpfSource` drains them, the table explains, pipeline, spool and publisher do their work.
"""

from __future__ import annotations

import os
import secrets
import select
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, cast

import numpy as np

from daemoneye.events.process_fork import PROCESS_FORK
from daemoneye_sensor import main, procfs
from daemoneye_sensor.enrich.explainer import Explainer
from daemoneye_sensor.programs import Programs, RingSizes
from daemoneye_sensor.settings import Settings
from daemoneye_sensor.sources.base import Origin, Source
from daemoneye_sensor.sources.ebpf import EbpfSource
from daemoneye_sensor.sources.reading import Reading
from tests.bench.fakering import DROPPED, DTYPES, FakeRing


class FakePrograms:
    """What `EbpfSource` asks of the kernel side."""

    taken_over = False
    alike = True
    wanted = True
    leased = True
    follows_sockets = False
    missing: ClassVar[dict[str, str]] = {}
    instead: ClassVar[list[str]] = []

    def __init__(self, fds: list[int]) -> None:
        self.epoch = secrets.randbits(48)
        self.rings = {name: FakeRing(fd, DTYPES[name]) for name, fd in zip(DTYPES, fds, strict=True)}

    def lease(self, until_boot_ns: int) -> None:
        """Nothing lapses."""

    def want(self, events: list[str]) -> None:
        """Everything comes."""

    def dropped(self) -> dict[str, int]:
        """The producer's counter."""
        return {"exec": int(self.rings["exec"].control[DROPPED]), "process": 0, "blob": 0, "lease": 0}

    def advance(self, ring: str, position: int) -> None:
        """Give space back."""
        self.rings[ring].advance(position)

    def running(self) -> np.ndarray:
        """No process runs."""
        return np.zeros(0, PROCESS_FORK.dtype)

    def missed(self) -> int:
        """No program runs."""
        return 0

    def packets_dropped(self) -> dict[str, int]:
        """No packet is looked at."""
        return {}

    def remove(self) -> None:
        """Nothing is pinned."""

    def close(self) -> None:
        """The process ends anyway."""


class SyntheticSource(EbpfSource):
    """The source `ebpf` with these rings."""

    def __init__(self, fds: list[int], wake: int) -> None:
        super().__init__(bpf_dir=Path(), instance="", sizes=RingSizes(), events=[])
        self._fds, self._wake = fds, wake

    def open(self, resume: Mapping[str, int], epoch: int | None) -> Origin:
        """Take the rings that we were given."""
        self._programs = cast("Programs", FakePrograms(self._fds))
        self._readings.append(Reading(self._programs, {}))
        self._epoll.register(self._wake, select.EPOLLIN | select.EPOLLET)
        return Origin("", procfs.boot_id(), self._programs.epoch, procfs.clock_offset_ns())


def run(arguments: list[str]) -> int:
    """The sensor's main with this source."""
    *fds, wake = (int(word) for word in arguments[:4])
    os.set_blocking(wake, False)

    def make_source(settings: Settings, explainer: Explainer) -> Source:
        return SyntheticSource(fds, wake)

    main.make_source = make_source
    return main.main(arguments[4:])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
