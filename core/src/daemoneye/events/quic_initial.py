"""quic_initial: a client began QUIC; its ClientHello lies in Initial packets that anybody can decrypt (RFC 9001, 5.2)."""

from __future__ import annotations

from daemoneye.events.network import PACKET
from daemoneye.events.schema import Field, Record

QUIC_INITIAL = Record(
    id=20,
    name="quic_initial",
    lane="bulk",
    ocsf_class=4001,
    ocsf_activity=1,
    doc="The ClientHello of a QUIC connection, put together from the client's Initial packets.",
    fields=(
        *PACKET,
        Field(30, "sni", "heap16", "Server name that the client asks for; with flag `sni_absent` there is none.", ocsf="tls.sni", text="string"),
        Field(31, "alpn", "heap16", "Application protocols that it offers.", ocsf="tls.alpn", text="argv"),
        Field(32, "version", "heap16", "Version of QUIC: 1, 2, or the number in hex.", text="string"),
        Field(33, "ja4", "heap16", "JA4 fingerprint.", ocsf="tls.ja4_fingerprint_list", text="string"),
        Field(34, "connection_id", "heap16", "Destination connection id of the first Initial, in hex.", text="string"),
        Field(35, "interface", "heap16", "Interface on which it was seen; empty where a capture file names none.", text="string"),
        Field(36, "hello_bytes", "u32", "Size of the ClientHello.", unit="bytes"),
    ),
)  # fmt: skip
