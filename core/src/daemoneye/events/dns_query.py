"""dns_query: a question to a name server and what came back (RFC 1035; over UDP, TCP and multicast)."""

from __future__ import annotations

from daemoneye.events.network import PACKET
from daemoneye.events.schema import Field, Record

DNS_QUERY = Record(
    id=17,
    name="dns_query",
    lane="bulk",
    ocsf_class=4003,
    ocsf_activity=1,
    doc="A DNS question with its answers; `time` is that of the question. Without a response within ten seconds the flag `response_unseen` is set.",
    fields=(
        *PACKET,
        Field(30, "latency", "u64", "From question to response, 0 where either was not seen.", unit="ns"),
        Field(31, "answers", "heap32", "Data of the answer records in presentation form, 64 at most.", ocsf="answers.rdata", text="argv"),
        Field(32, "ttls", "heap32", "Seconds that each of these may be kept.", unit="s", ocsf="answers.ttl", text="numbers"),
        Field(33, "transaction", "u16", "Id of the message.", ocsf="query.packet_uid"),
        Field(34, "answer_count", "u16", "Answer records that the response says it has.", unit="records"),
        Field(35, "query", "heap16", "Name that is asked for, without the final dot; `.` is the root.", ocsf="query.hostname", text="string"),
        Field(36, "type", "heap16", "Type of record that is asked for: IANA's name, or TYPE65280 where there is none.", ocsf="query.type", text="string"),
        Field(37, "rcode", "heap16", "Outcome: NOERROR, NXDOMAIN and so on; empty without a response.", ocsf="rcode", text="string"),
        Field(38, "interface", "heap16", "Interface on which it was seen; empty where a capture file names none.", text="string"),
        Field(39, "message_bytes", "u32", "Size of the response, of the question where there is none.", unit="bytes"),
    ),
)  # fmt: skip
