"""Counting of what arrives at interfaces by XDP, where a capture asks for that: attached, moved to another program, let go.

A program is attached by a link of this process, and is off again with it: nothing can be left over. Whoever has a program on an interface already
keeps it: the packet socket counts there, as it does without XDP.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from daemoneye_sensor import bpfsys
from daemoneye_sensor.packets.capture import CaptureProgram
from daemoneye_sensor.packets.namespace import within
from daemoneye_sensor.packets.taps import PODS, Captured

RETRY_S: Final = 60.0
"""An interface that could not be had is tried again so often."""
UNAVAILABLE: Final = "XdpUnavailable"
_BPF_XDP: Final = 37
_MODES: Final = {"xdp_native": 1 << 2, "xdp_generic": 1 << 1}
"""XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE: by the driver, or by the kernel where a driver would hand over a packet."""
SOCKET: Final = "socket"
COUNTERS: Final = (SOCKET, *_MODES)
"""Who may count what arrives at an interface."""
_HALVED: Final = "veth"
"""Whose driver takes no super-frames beside XDP, so that whoever sends through it needs twice the time: generic mode disturbs nobody there."""
_ETHERNET: Final = 1
_FORBIDDEN: Final = re.compile("not permitted|super-user")
"""The kernel's words, and BCC's."""
_BUSY: Final = frozenset({errno.EBUSY, errno.EEXIST})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Attached:
    fd: int
    mode: str
    link: int

    @property
    def there(self) -> bool:
        """Whether its interface is still there."""
        return bpfsys.fdinfo(self.fd).get("ifindex", "0") != "0"


class Arrivals:
    """The XDP programs of one capture."""

    def __init__(self, netns: Path | None) -> None:
        """`netns` is the network namespace of the interfaces; None: our own. Nothing is attached yet."""
        self._netns = netns
        self._attached: dict[int, _Attached] = {}
        self._refused: dict[int, tuple[str, float]] = {}
        self._problem = ""

    def follow(self, program: CaptureProgram, captured: Mapping[int, Captured], now: float) -> None:
        """Be on these interfaces and no others (`now`, s). Those that cannot be had are left to the packet socket, and tried again.

        Interfaces of pods that nobody named are left to it, too: they come and go, and are many.
        """
        taps = {index: one for index, one in captured.items() if one.group != PODS}
        gone = [i for i, one in self._attached.items() if i not in taps or not one.there]
        for index in gone:
            os.close(self._attached.pop(index).fd)
        self._refused = {i: refused for i, refused in self._refused.items() if i in taps}
        self._problem = self._without(program) if taps else ""
        news = bool(gone)
        for index, one in taps.items() if not self._problem else ():
            if index not in self._attached and now >= self._refused.get(index, ("", 0.0))[1]:
                news |= self._attach(program, one, now)
        if news:
            program.leave_arrivals(self._attached)

    def move(self, program: CaptureProgram) -> None:
        """Have another program, which counts already, go on in the place of the former one."""
        for index, one in list(self._attached.items()):
            try:
                bpfsys.link_update(one.fd, _of(program, one.link))
            except (OSError, IndexError):  # its interface is gone, or the kernel takes none: `follow` will see
                os.close(self._attached.pop(index).fd)
        program.leave_arrivals(self._attached)

    def close(self) -> None:
        """Be nowhere any more."""
        for one in self._attached.values():
            os.close(one.fd)
        self._attached.clear()
        self._refused.clear()
        self._problem = ""

    def counter(self, index: int) -> str:
        """Who counts what arrives at an interface: one of `COUNTERS`."""
        one = self._attached.get(index)
        return one.mode if one else SOCKET

    def problem(self) -> tuple[str, str]:
        """Reason and sentence why XDP does not count where it was to; both empty when it does."""
        words = self._problem or next((words for words, _ in list(self._refused.values())), "")
        return (UNAVAILABLE, f"{words}: the packet socket counts there, and nothing is lost") if words else ("", "")

    def _without(self, program: CaptureProgram) -> str:
        if program.xdp:
            return ""
        if _FORBIDDEN.search(program.xdp_problem):
            return "XDP programs may not be loaded: give the sensor CAP_NET_ADMIN or CAP_SYS_ADMIN"
        return f"the kernel does not take the XDP program ({program.xdp_problem or 'it was not loaded'})"

    def _attach(self, program: CaptureProgram, captured: Captured, now: float) -> bool:
        """Whether it is done; `_refused` says why not."""
        tap, words = captured.tap, ""
        for mode, flag in reversed(_MODES.items()) if captured.link.kind == _HALVED else _MODES.items():
            try:
                attach = partial(bpfsys.link_create, _of(program, tap.link), tap.ifindex, _BPF_XDP, flag)
                fd = within(self._netns, attach)
            except OSError as error:
                if error.errno == errno.ENODEV:  # it went meanwhile
                    return False
                if error.errno in _BUSY:
                    words = f"another XDP program is on {tap.interface!r} already, which stays (see `ip link show {tap.interface}`)"
                    break
                words = f"XDP is refused on {tap.interface!r}, by the driver and in generic mode: {error.strerror}"
                continue
            self._attached[tap.ifindex] = _Attached(fd, mode, tap.link)
            self._refused.pop(tap.ifindex, None)
            _log.info("what arrives at %s is counted by XDP (%s)", tap.interface, mode)
            return True
        if tap.ifindex not in self._refused:
            _log.warning("%s: its packet socket counts", words)
        self._refused[tap.ifindex] = words, now + RETRY_S
        return False


def _of(program: CaptureProgram, link: int) -> int:
    return program.xdp[0 if link == _ETHERNET else 1]
