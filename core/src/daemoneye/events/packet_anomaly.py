"""packet_anomaly: a packet that no parser could read or knows, taken apart by scapy. Only where a policy allows evidence."""

from __future__ import annotations

from daemoneye.events.network import PACKET
from daemoneye.events.schema import Field, Record

PACKET_ANOMALY = Record(
    id=21,
    name="packet_anomaly",
    lane="bulk",
    ocsf_class=4001,
    ocsf_activity=99,
    doc=(
        "A packet whose payload is malformed, or that begins a connection to a well-known port with something else, as scapy reads it. It holds parts of "
        "the packet: only where a policy allows evidence, and at most 20 a second of a node."
    ),
    fields=(
        *PACKET,
        Field(30, "payload_bytes", "u32", "Captured bytes of its payload, 4096 at most.", unit="bytes"),
        Field(31, "summary", "heap32", "How the payload begins where scapy does not know all of it; its innermost layer that scapy knows.", text="string"),
        Field(32, "reason", "heap16", "Why: malformed_dns, malformed_http, malformed_quic, malformed_tls, unknown_protocol.", text="string"),
        Field(33, "expected", "heap16", "With unknown_protocol what is spoken at its port: http, ssh, tls.", text="string"),
        Field(34, "layers", "heap16", "Names of the layers that scapy finds behind TCP or UDP, 30 at most.", text="argv"),
        Field(35, "interface", "heap16", "Interface on which it was seen.", text="string"),
    ),
)  # fmt: skip
