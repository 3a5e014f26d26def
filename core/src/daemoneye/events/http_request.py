"""http_request: a request of HTTP/1 in the clear and the status of its response (RFC 9112)."""

from __future__ import annotations

from daemoneye.events.network import PACKET
from daemoneye.events.schema import Field, Record

HTTP_REQUEST = Record(
    id=19,
    name="http_request",
    lane="bulk",
    ocsf_class=4002,
    ocsf_activity=0,
    doc="An HTTP/1 request; `time` is that of the request. Secrets in its URI are replaced by REDACTED, of its headers only those below are read.",
    fields=(
        *PACKET,
        Field(30, "latency", "u64", "From the request's head to the response's, 0 where that was not seen.", unit="ns"),
        Field(31, "request_bytes", "u32", "Bytes of its body as Content-Length says, 0 without.", unit="bytes", ocsf="http_request.body_length"),
        Field(32, "status", "u16", "Status code of the response, 0 where none was seen (flag `response_unseen`).", ocsf="http_response.code"),
        Field(33, "method", "heap16", "Method.", ocsf="http_request.http_method", text="string"),
        Field(34, "host", "heap16", "Host that it names.", ocsf="http_request.url.hostname", text="string"),
        Field(35, "uri", "heap16", "Target as it was sent: path and query.", ocsf="http_request.url.path", text="string"),
        Field(36, "user_agent", "heap16", "User-Agent.", ocsf="http_request.user_agent", text="string"),
        Field(37, "server", "heap16", "Server header of the response.", text="string"),
        Field(38, "content_type", "heap16", "Content-Type of the response.", text="string"),
        Field(40, "version", "heap16", "Version of HTTP: 1.1 or 1.0.", ocsf="http_request.version", text="string"),
        Field(41, "oddities", "heap16", "What is unusual about its head: bare_lf, duplicate_host and so on, mostly where parsers disagree.", text="argv"),
        Field(39, "interface", "heap16", "Interface on which it was seen; empty where a capture file names none.", text="string"),
    ),
)  # fmt: skip
