"""Network interfaces and default routes of a network namespace, asked of the kernel by rtnetlink(7).

Not by /sys, which shows the namespace of whoever mounted it. Responsible for reading them and for noticing that something changed; which of them are
meant is :mod:`daemoneye_sensor.packets.interfaces`' question.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemoneye_sensor.errors import MISSING_FEATURE, ProgramError
from daemoneye_sensor.packets.namespace import within

# include/uapi/linux/netlink.h, rtnetlink.h, if_link.h
_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR, _DONE = 2, 3
_NEWLINK, _GETLINK, _NEWROUTE, _GETROUTE = 16, 18, 24, 26
_OF_ROUTES: Final = (_NEWROUTE, 25)
_REQUEST_DUMP: Final = 0x301
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_EXT_MASK, _IFLA_LINK_NETNSID = 3, 18, 29, 37
_IFLA_INFO_KIND: Final = 1
_SKIP_STATS: Final = 1 << 3
_RTA_OIF, _RTA_PRIORITY, _RTA_MULTIPATH = 4, 6, 9
_MAIN_TABLE: Final = 254
_UNICAST: Final = 1
_GROUPS: Final = 0x1 | 0x40 | 0x400
"""Links, routes of IPv4 and of IPv6."""
_NESTED: Final = 0x3FFF
_BUFFER: Final = 1 << 17
_UP: Final = 1
_PODS: Final = ("veth", "netkit")
_TIMEOUT_S: Final = 2.0
ROUTES_S: Final = 5.0
"""Routes are read no more often: a node that speaks BGP changes them all the time, and has many."""


@dataclass(frozen=True, slots=True)
class Link:
    """An interface.

    Attributes:
        index: Its number in its namespace.
        name: Its name now.
        kind: What made it (`veth`, `bridge`, `vxlan` …), empty for hardware and the loopback.
        up: Whether it is up.
        away: Whether its other end (a veth's) is in another network namespace.
    """

    index: int
    name: str
    kind: str = ""
    up: bool = True
    away: bool = False

    @property
    def pod(self) -> bool:
        """Whether it connects a container with the node."""
        return self.kind in _PODS and self.away


@dataclass(frozen=True, slots=True)
class Network:
    """What a namespace has: its interfaces by number, and which of them have default routes, the one that is preferred first."""

    links: dict[int, Link]
    uplinks: tuple[int, ...] = ()


class Links:
    """The interfaces of one namespace."""

    def __init__(self, netns: Path | None = None) -> None:
        """`netns` is the namespace as a file, None our own.

        Raises:
            ProgramError: There is no such namespace, or no right to look into it.
        """
        self._asking, self._hearing = _opened(netns)
        self._number = 0
        self._found: dict[int, int] = {}  # metric of the best default route, by interface
        self._routes_changed = True
        self._routes_read = float("-inf")

    def read(self) -> Network:
        """What there is now, as far as `changed` has heard.

        Raises:
            OSError: The kernel does not answer.
        """
        links = {link.index: link for body in self._dump(_GETLINK, _NEWLINK, _links_asked()) for link in [_link(body)]}
        if self._routes_due():
            self._routes_changed, self._routes_read = False, time.monotonic()
            found: dict[int, int] = {}
            for family in (socket.AF_INET, socket.AF_INET6):
                asked = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
                for body in self._dump(_GETROUTE, _NEWROUTE, asked):
                    for index, metric in _default_route(body):
                        found[index] = min(metric, found.get(index, metric))
            self._found = found
        uplinks = sorted((metric, index) for index, metric in self._found.items() if index in links)
        return Network(links, tuple(index for _, index in uplinks))

    def changed(self) -> bool:
        """Whether there is anything new to `read`; costs one system call when there is nothing."""
        heard = False
        while True:
            try:
                kind = int.from_bytes(self._hearing.recv(_BUFFER, socket.MSG_DONTWAIT)[4:6], sys.byteorder)
            except BlockingIOError:
                return heard or self._routes_due()
            except OSError:  # more happened than the socket holds
                self._routes_changed = True
                return True
            if kind in _OF_ROUTES:
                self._routes_changed = True
            else:
                heard = True

    def close(self) -> None:
        """Let go; may be called twice."""
        self._asking.close()
        self._hearing.close()

    def _routes_due(self) -> bool:
        return self._routes_changed and time.monotonic() - self._routes_read >= ROUTES_S

    def _dump(self, kind: int, answered: int, body: bytes) -> Iterator[bytes]:
        self._number += 1
        self._asking.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_DUMP, self._number, 0) + body)
        while True:
            data = self._asking.recv(_BUFFER)
            at = 0
            while at + _HEADER.size <= len(data):
                length, what, _, number, _ = _HEADER.unpack_from(data, at)
                if length < _HEADER.size:
                    break
                inside = data[at + _HEADER.size : at + length]
                at += length + 3 & ~3
                if number != self._number:  # what is left of a dump that nobody read to its end
                    continue
                if what == _DONE:
                    return
                if what == _ERROR:
                    code = -struct.unpack_from("=i", inside)[0]
                    raise OSError(code, os.strerror(code))
                if what == answered:
                    yield inside


def _opened(netns: Path | None) -> tuple[socket.socket, socket.socket]:
    """Two sockets of rtnetlink in a namespace: one to ask, one that hears of changes."""
    made: list[socket.socket] = []

    def make() -> None:
        for groups in (0, _GROUPS):
            one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
            made.append(one)
            one.bind((0, groups))
        made[0].settimeout(_TIMEOUT_S)

    try:
        within(netns, make)
    except OSError as error:
        for one in made:
            one.close()
        where = "this network namespace" if netns is None else f"the network namespace {netns}"
        raise ProgramError(
            f"interfaces of {where} cannot be read: {error.strerror}",
            fix="the sensor needs the node's process ids (hostPID) and CAP_SYS_ADMIN to look into its namespace",
            reason=MISSING_FEATURE,
        ) from error
    return made[0], made[1]


def _links_asked() -> bytes:
    return (
        _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _ATTRIBUTE.pack(8, _IFLA_EXT_MASK) + struct.pack("=I", _SKIP_STATS)
    )


def _attributes(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _NESTED, data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    name, kind, away = "", "", False
    for what, value in _attributes(body, _LINK.size):
        if what == _IFLA_IFNAME:
            name = value.rstrip(b"\0").decode("utf-8", "backslashreplace")
        elif what == _IFLA_LINK_NETNSID:
            away = True
        elif what == _IFLA_LINKINFO:
            inner = dict(_attributes(value, 0))
            kind = inner.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode("utf-8", "backslashreplace")
    return Link(index, name, kind, bool(flags & _UP), away)


def _default_route(body: bytes) -> Iterator[tuple[int, int]]:
    """Interface and metric of a default route of the main table; several where it has several ways."""
    _, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    if length or table != _MAIN_TABLE or kind != _UNICAST:
        return
    values = dict(_attributes(body, _ROUTE.size))
    with contextlib.suppress(struct.error):
        (metric,) = struct.unpack_from("=I", values.get(_RTA_PRIORITY, bytes(4)))
        if _RTA_OIF in values:
            yield struct.unpack_from("=I", values[_RTA_OIF])[0], metric
        ways, at = values.get(_RTA_MULTIPATH, b""), 0
        while at + 8 <= len(ways):  # struct rtnexthop: length, flags, hops, interface
            size, _, _, index = struct.unpack_from("=HBBi", ways, at)
            if size < 8:
                break
            yield index, metric
            at += size + 3 & ~3
