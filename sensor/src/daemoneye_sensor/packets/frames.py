"""Frames as they come from an interface: columns over one copy of what the kernel's ring held."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Frames:
    """n frames of one interface in order of arrival; every attribute but `data`, `link` and `ifindex` is an array of shape (n,).

    Frames are as they were on the wire: a VLAN tag that the kernel had taken out stands in its place again.

    Attributes:
        data: Bytes that the offsets below point into (uint8). It is nobody else's, and may be kept.
        begin: Where each frame begins in it (int64).
        captured: Bytes of it that are there (int64).
        size: Bytes that it had, the tag included (int64). Of a super-frame (GSO, GRO) those of all its segments.
        time: Its moment, CLOCK_BOOTTIME ns (u64).
        vlan: VLAN id of the tag that the kernel had taken out, 0 where there was none (u16). `data` has it as well.
        ifindex: Index of the interface.
        kind: Packet type: 0 to this host, 1 broadcast, 2 multicast, 3 to another host, 4 outgoing (u8).
        link: Link type (:mod:`daemoneye_sensor.packets.link`): 1 Ethernet, 101 IP packets and nothing else.
    """

    data: np.ndarray
    begin: np.ndarray
    captured: np.ndarray
    size: np.ndarray
    time: np.ndarray
    vlan: np.ndarray
    kind: np.ndarray
    link: int
    ifindex: int
