"""HTTP/1: every request and its response against tshark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.accuracy.tshark import Fields, endpoints, ends, epoch, fields

REQUEST = [
    "frame.time_epoch", "http.request.method", "http.host", "http.request.uri", "http.request.version", "http.user_agent",
    "http.content_length_header", "tcp.segment.count",
]  # fmt: skip
RESPONSE = ["frame.time_epoch", "http.response.code", "http.server", "http.content_type", "tcp.segment.count"]


def one(values: list[str]) -> str:
    return values[0] if values else ""


def ascii_only(text: str) -> str:
    """Text as tshark 4.0 shows it: a sign of replacement for every byte that is not ASCII."""
    return "".join(chr(byte) if byte < 128 else "\ufffd" for byte in text.encode()) if "\ufffd" not in text else text


def expected(request: Fields, response: Fields) -> dict[str, Any]:
    uri, host = one(request["http.request.uri"]), one(request["http.host"])
    if "://" in uri:  # a proxy is asked with the whole URI; ours is split into host and target (RFC 9112 3.2.2)
        host, _, rest = uri.partition("://")[2].partition("/")
        uri = f"/{rest}"
    # Secrets are taken out on purpose.
    uri = uri.replace("token=hunter2", "token=REDACTED").replace("api_key=abc", "api_key=REDACTED")
    return {
        "method": one(request["http.request.method"]),
        "host": host,
        "uri": uri,
        "version": one(request["http.request.version"]).removeprefix("HTTP/"),
        "user_agent": ascii_only(one(request["http.user_agent"])),
        "request_bytes": int(one(request["http.content_length_header"]) or 0),
        "status": int(one(response["http.response.code"])),
        "server": one(response["http.server"]),
        "content_type": one(response["http.content_type"]),
    }


def test_every_request_and_its_response(ours: dict[str, list[dict[str, Any]]], wire: Path) -> None:
    requests: dict[tuple[str, int], list[Fields]] = {}
    for packet in fields(wire, "tcp && http.request", [*ends("tcp"), *REQUEST]):
        requests.setdefault(endpoints(packet, "tcp")[:2], []).append(packet)
    responses: dict[tuple[str, int], list[Fields]] = {}
    for packet in fields(wire, "tcp && http.response.code >= 200", [*ends("tcp"), *RESPONSE]):
        responses.setdefault(endpoints(packet, "tcp")[2:], []).append(packet)
    told: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for event in ours["http_request"]:
        told.setdefault((event["src_ip"], event["src_port"]), []).append(event)
    assert {client: len(events) for client, events in told.items()} == {
        client: len(sent) for client, sent in requests.items()
    }
    compared = 0
    for client, events in told.items():
        for event, request, response in zip(events, requests[client], responses[client], strict=True):
            wanted = expected(request, response)
            assert {
                name: ascii_only(event[name]) if isinstance(event[name], str) else event[name] for name in wanted
            } == wanted
            compared += 1
            if not request["tcp.segment.count"]:  # else tshark tells the time of the last segment
                assert event["time"] == epoch(request["frame.time_epoch"][0])
    assert compared > 20
    assert {event["status"] for events in told.values() for event in events} == {200, 204, 207, 302, 404, 413}
    assert {event["version"] for events in told.values() for event in events} == {"1.0", "1.1"}
    assert "Old Browser/4.0 (compatible; ünï)" in {event["user_agent"] for event in ours["http_request"]}
    assert max(map(len, told.values())) == 3  # one after another on a connection


def test_secrets_are_nowhere(lines: list[dict[str, Any]]) -> None:
    assert "hunter2" not in str(lines)
