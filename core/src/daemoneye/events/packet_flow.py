"""packet_flow: a conversation between two endpoints, counted packet by packet (the packet plane, or a capture file)."""

from __future__ import annotations

from daemoneye.events.network import PACKET
from daemoneye.events.schema import Field, Record

PACKET_FLOW = Record(
    id=16,
    name="packet_flow",
    lane="bulk",
    ocsf_class=4001,
    ocsf_activity=6,
    doc=(
        "Packets and bytes of one conversation, each way, since its last such row. Bytes are those of IP packets, headers included. "
        "`time` is its last packet."
    ),
    fields=(
        *PACKET,
        Field(30, "begin_time", "u64", "First packet of the conversation, by the row's clock.", unit="ns", ocsf="start_time"),
        Field(31, "src_packets", "u64", "Packets of the side that opened it.", unit="packets", ocsf="traffic.packets_out"),
        Field(32, "src_bytes", "u64", "Bytes of the side that opened it.", unit="bytes", ocsf="traffic.bytes_out"),
        Field(33, "dst_packets", "u64", "Packets of the other side.", unit="packets", ocsf="traffic.packets_in"),
        Field(34, "dst_bytes", "u64", "Bytes of the other side.", unit="bytes", ocsf="traffic.bytes_in"),
        Field(35, "src_tcp_flags", "u8", "TCP flags (RFC 9293) of all packets of the side that opened it, or-ed.", ocsf="connection_info.tcp_flags"),
        Field(36, "dst_tcp_flags", "u8", "The same of the other side."),
        Field(37, "state", "heap16", "active, closed (FIN both ways), reset, idle, evicted (no room), or end (of the capture).", text="string"),
        Field(38, "interface", "heap16", "Interface on which it was seen; empty where a capture file names none.", text="string"),
        Field(39, "service", "heap16", "Recognised protocol: dns, tls, http, quic, stratum; empty: none.", ocsf="connection_info.protocol_name", text="string"),
    ),
)  # fmt: skip
