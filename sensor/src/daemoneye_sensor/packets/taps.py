"""The interfaces that are captured now: opened as they come, let go as they vanish, each with its part of the buffer.

Responsible for that, for what they counted and lost and for what is wrong with them; not for what their frames say.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from daemoneye_sensor.errors import ProgramError
from daemoneye_sensor.packets.capture import CaptureProgram
from daemoneye_sensor.packets.capturing import Capture
from daemoneye_sensor.packets.frames import Frames
from daemoneye_sensor.packets.interfaces import MOST, Chosen, absent, choose
from daemoneye_sensor.packets.links import Link, Links
from daemoneye_sensor.packets.tap import Tap

LOOK_S: Final = 60.0
"""Interfaces are looked at when the kernel says that something changed, and so often in any case."""
RETRY_S: Final = 5.0
"""An interface that could not be opened is tried again so often."""
PODS: Final = "pods"
"""In whose name interfaces of pods that a pattern or `auto` found are counted together: they come and go, and are many."""
NO_INTERFACE: Final = "NoSuchInterface"
NOT_PERMITTED: Final = "CaptureNotPermitted"
DEGRADED: Final = "CaptureDegraded"
_LEAST: Final = 1 << 16
_SHARE: Final = 64
"""A ring of an interface that a pattern found takes so much of what is left of the buffer."""
_COUNTED: Final = ("exported", "drops", "freezes")

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Captured:
    """An interface that is captured.

    Attributes:
        tap: Its ring.
        link: What it is.
        number: Its number in the table of conversations.
        group: In whose name it is counted: its own, or `PODS` where it was not named.
        told: What its ring's statistics were when they were last added to the totals.
    """

    tap: Tap
    link: Link
    number: int
    group: str
    told: tuple[int, int, int] = (0, 0, 0)


class Taps:
    """The taps of one capture and program.

    Attributes:
        captured: What is captured, by index of the interface.
        rest: Frames of taps that were let go and nobody has read yet.
        totals: What was counted, by name of the interface or `PODS`: packets, bytes, exported, drops, freezes, cut.
    """

    def __init__(
        self,
        capture: Capture,
        program: CaptureProgram,
        netns: Path | None,
        number: Callable[[Link], int],
        totals: dict[str, Counter[str]],
    ) -> None:
        """`number` gives an interface its number, `totals` are those of the source so far. Nothing is opened before `look`.

        Raises:
            ProgramError: The network namespace cannot be looked into.
        """
        self.captured: dict[int, Captured] = {}
        self.rest: list[Frames] = []
        self.totals = totals
        self._capture = capture
        self._program = program
        self._netns = netns
        self._number = number
        self._links = Links(netns)
        self._chosen = Chosen(())
        self._failed: dict[str, ProgramError] = {}
        self._looked = float("-inf")
        self._stale = True
        self._turn = 0

    def look(self, now: float) -> list[int]:
        """See which interfaces there are, when it is time (`now`, s): open what came; the numbers of those that went."""
        changed = self._links.changed()  # asked always: what is not read piles up
        pause = RETRY_S if self._failed else LOOK_S
        if not (changed or self._stale or now - self._looked >= pause):
            return []
        self._stale, self._looked = False, now
        try:
            network = self._links.read()
        except OSError as error:
            _log.warning("interfaces cannot be read: %s", error)
            return []
        former, chosen = self._chosen, choose(self._capture.interfaces, network)
        self._chosen = chosen
        for setting in chosen.missing:
            if setting not in former.missing:
                _log.warning("%s", _awaited(setting))
        if chosen.left_out and not former.left_out:
            _log.warning("%s", _too_many(chosen.left_out))
        wanted = {link.index: link for link in (*chosen.named, *chosen.others)}
        gone = [i for i, captured in self.captured.items() if i not in wanted or not captured.tap.alive]
        numbers = [self._let_go(index) for index in gone]
        names = {link.name for link in wanted.values()}
        self._failed = {name: error for name, error in self._failed.items() if name in names}
        for index, link in wanted.items():
            if index in gone:  # another one of the same index: when what the former showed was told
                self._stale = True
            elif index in self.captured:
                self.captured[index].link = link
            else:
                self._open(link, named=link in chosen.named)
        return numbers

    def read(self, most: int) -> tuple[list[Frames], bool]:
        """Frames that are ready, about `most` of them, and whether there may be more. Another tap is the first each time."""
        shown, self.rest = self.rest, []
        left = most - sum(len(frames.time) for frames in shown)
        taps = list(self.captured.values())
        self._turn = (self._turn + 1) % max(len(taps), 1)
        for captured in taps[self._turn :] + taps[: self._turn]:
            for frames in self._blocks(captured):
                shown.append(frames)
                left -= len(frames.time)
                if left <= 0:
                    return shown, True
        return shown, False

    def filling(self) -> bool:
        """Whether a ring is to be read before its time."""
        return any(captured.tap.filling() for captured in self.captured.values())

    def numbers(self) -> dict[int, int]:
        """Number of each interface by its index."""
        return {index: captured.number for index, captured in self.captured.items()}

    def account(self) -> None:
        """Add what the rings' statistics say to the totals."""
        for captured in self.captured.values():
            self._account(captured)

    def status(self) -> dict[str, dict[str, Any]]:
        """What each interface showed, by name, those of pods together; and what is wrong with those that are not captured.

        May be asked while another thread changes the capture, as `problem` may.
        """
        told: dict[str, dict[str, Any]] = {}
        for captured in list(self.captured.values()):
            one = told.setdefault(
                captured.group, {"captured": 0, "state": "down", "ring_bytes": 0, **self.totals.get(captured.group, {})}
            )
            one["captured"] += 1
            one["ring_bytes"] += captured.tap.ring_bytes
            if captured.link.up:
                one["state"] = "up"
        named = {link.name for link in self._chosen.named}
        for name, error in list(self._failed.items()):
            told.setdefault(name if name in named else PODS, {"captured": 0, "state": "failed", "error": str(error)})
        return told

    def problem(self) -> tuple[str, str]:
        """Reason and sentence why not all interfaces that are meant are captured; both empty when they are."""
        for error in list(self._failed.values()):
            return NOT_PERMITTED if isinstance(error.__cause__, PermissionError) else error.reason, str(error)
        if self._chosen.missing:
            return NO_INTERFACE, _awaited(self._chosen.missing[0])
        if self._chosen.left_out:
            return DEGRADED, _too_many(self._chosen.left_out)
        return "", ""

    def close(self) -> list[int]:
        """End; what the rings held is in `rest`. The numbers of what was captured."""
        numbers = [self._let_go(index) for index in list(self.captured)]
        self._links.close()
        return numbers

    def _open(self, link: Link, *, named: bool) -> None:
        left = self._capture.buffer_bytes - sum(captured.tap.ring_bytes for captured in self.captured.values())
        if named:
            part = self._capture.buffer_bytes // (2 if self._chosen.open_ended else 1)
            size = min(part // (len(self._chosen.named) + len(self._chosen.missing)), left)
        else:
            size = max(left // _SHARE, _LEAST)
        try:
            if left < _LEAST and self.captured:
                msg = f"packets of {link.name!r} cannot be captured: other interfaces' rings fill the buffer"
                raise ProgramError(msg, fix="make bufferSizeMb larger, or name fewer interfaces", reason=DEGRADED)
            size = max(size, _LEAST)
            promiscuous = self._capture.promiscuous
            tap = Tap(link.name, link.index, self._program, ring_bytes=size, promiscuous=promiscuous, netns=self._netns)
        except ProgramError as error:
            if link.name not in self._failed:
                _log.warning("%s", error)
            self._failed[link.name] = error
            return
        self._failed.pop(link.name, None)
        group = PODS if link.pod and not named else link.name
        self.captured[link.index] = Captured(tap, link, self._number(link), group)
        _log.info("capturing on %s", link.name)

    def _let_go(self, index: int) -> int:
        captured = self.captured.pop(index)
        self.rest += self._blocks(captured)
        self._account(captured)
        captured.tap.close()
        _log.info("no longer capturing on %s", captured.link.name)
        return captured.number

    def _blocks(self, captured: Captured) -> Iterator[Frames]:
        """What its ring has ready; what was cut of it is counted."""
        for frames in captured.tap.blocks():
            if cut := np.count_nonzero(frames.captured < frames.size):
                self.totals.setdefault(captured.group, Counter())["cut"] += int(cut)
            yield frames

    def _account(self, captured: Captured) -> None:
        now = captured.tap.statistics()
        news = {name: new - old for name, new, old in zip(_COUNTED, now, captured.told, strict=True)}
        captured.told = now
        self.totals.setdefault(captured.group, Counter()).update(news)


def _awaited(setting: str) -> str:
    return f"{absent(setting)}: it is captured when it comes"


def _too_many(left_out: int) -> str:
    return f"{left_out} more interfaces are meant than the {MOST} that are captured at once: name fewer"
