"""What a kernel would count and show of packets that scapy made: for tests without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scapy.packet import Packet

from daemoneye_sensor.packets.capture import FLOW
from daemoneye_sensor.packets.columns import Packets
from daemoneye_sensor.packets.frames import Frames
from tests.support.captures import START, decoded


def counted(packets: Sequence[Packet], times: Sequence[int] | None = None, ifindex: int = 1) -> np.ndarray:
    """Rows of `FLOW` for packets of one interface."""
    return flows_of(decoded(packets, times=times), ifindex)


def flows_of(packets: Packets, ifindex: int = 1) -> np.ndarray:
    """The same for packets that are columns already."""
    found: dict[tuple[Any, ...], np.ndarray] = {}
    for i in range(len(packets)):
        src, dst = (
            (int(hi[i]) << 64 | int(lo[i])).to_bytes(16)
            for hi, lo in ((packets.src_hi, packets.src_lo), (packets.dst_hi, packets.dst_lo))
        )
        key = (
            src,
            dst,
            int(packets.src_port[i]),
            int(packets.dst_port[i]),
            int(packets.vlan[i]),
            int(packets.proto[i]),
        )
        if key not in found:
            row = np.zeros(1, FLOW)
            row["src_ip"], row["dst_ip"] = np.frombuffer(src, np.uint8), np.frombuffer(dst, np.uint8)
            row["src_port"], row["dst_port"], row["vlan"], row["proto"] = key[2:]
            row["first"], row["ifindex"] = packets.time[i], ifindex
            found[key] = row
        row = found[key]
        row["packets"] += 1
        row["bytes"] += np.uint64(packets.wire[i])
        row["last"] = packets.time[i]
        row["tcp_flags"] |= packets.tcp_flags[i]
    return np.concatenate([np.zeros(0, FLOW), *found.values()])


def frames(packets: Sequence[Packet], times: Sequence[int] | None = None, ifindex: int = 1, link: int = 1) -> Frames:
    """Frames of one interface, as a tap hands them over."""
    raw = [bytes(packet) for packet in packets]
    lengths = np.array([len(one) for one in raw], np.int64)
    moments = times if times is not None else [START + i * 1_000_000 for i in range(len(raw))]
    return Frames(
        data=np.frombuffer(b"".join(raw) + bytes(16), np.uint8), begin=np.cumsum(lengths) - lengths, captured=lengths, size=lengths,
        time=np.array(moments, np.uint64), vlan=np.zeros(len(raw), np.uint16), kind=np.zeros(len(raw), np.uint8), link=link, ifindex=ifindex,
    )  # fmt: skip
