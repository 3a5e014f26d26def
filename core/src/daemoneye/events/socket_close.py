"""socket_close: a socket ended, with what went through it (raw tracepoints, bpf/programs/socket_state.bpf.c)."""

from __future__ import annotations

from daemoneye.events.schema import Field, Record
from daemoneye.events.sockets import SOCKET

SOCKET_CLOSE = Record(
    id=11,
    name="socket_close",
    lane="bulk",
    ring="socket",
    ocsf_class=4001,
    ocsf_activity=2,
    doc=(
        "A TCP connection or a listening socket ended, an attempt to connect failed (`established` 0), or a UDP socket fell silent. It lasted from "
        "`begin_time` to `time`. It belongs to the `socket_open` of the same netns, endpoints and begin_time."
    ),
    fields=(
        *SOCKET,
        Field(40, "established", "u8", "1 if the connection came about (TCP), 0 otherwise."),
        Field(41, "ending", "u8", "Why it ended: 0 unknown, 1 closed, 2 aborted, 3 reset, 4 refused, 5 timeout, 6 unreachable, 7 idle."),
        Field(42, "src_bytes", "u64", "Payload of the side that opened it.", unit="bytes", ocsf="traffic.bytes_out"),
        Field(43, "dst_bytes", "u64", "Payload of the other side.", unit="bytes", ocsf="traffic.bytes_in"),
        Field(44, "last_time", "u64", "Last call that sent or received; begin_time if there was none.", unit="ns"),
        Field(45, "src_calls", "u32", "Calls of this process that moved payload of the side that opened it.", unit="calls"),
        Field(46, "dst_calls", "u32", "The same of the other side's payload.", unit="calls"),
        Field(47, "retransmits", "u32", "TCP segments that this side sent again.", unit="packets"),
        Field(48, "rtt", "u32", "Smoothed round-trip time of TCP at the end, 0 where it was not measured.", unit="us"),
        Field(49, "drops", "u32", "Packets of this socket that the kernel dropped, as far as it knew whose they were.", unit="packets"),
        Field(50, "drop_reason", "u32", "Why the last of them was dropped: 0 none, 1 other, 4 receive_buffer; docs/network.md lists all."),
    ),
)  # fmt: skip
