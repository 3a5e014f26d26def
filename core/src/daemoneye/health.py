"""`/healthz`, `/readyz` and `/metrics` over plain HTTP, for the kubelet, `helm test` and Prometheus.

Responsible for answering three paths to whoever asks, within bounds; not for what being ready means nor for what is counted. The standard
library's server of files would do more than is needed, and a web framework is not in every image.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

Answer = Callable[[], Mapping[str, Any]]
"""What is so now; the key `ok` decides between 200 and 503."""

Page = Callable[[], bytes]
"""The text of /metrics."""

_TIMEOUT_S: Final = 5.0
_LIMIT: Final = 8192
_AT_ONCE: Final = 32
"""Connections; when there are that many, the oldest makes room, so that slow readers cost a bounded amount of memory. Whoever asks at once is answered
at once, as the kubelet: a crowd that says nothing must not look like a process that does not answer."""
_TEXT: Final = {
    200: "OK",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_JSON: Final = "application/json"
_METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"

_log = logging.getLogger(__name__)


@asynccontextmanager
async def serving(
    port: int, *, alive: Answer, ready: Answer, metrics: Page | None = None, host: str = "0.0.0.0"
) -> AsyncIterator[asyncio.Server]:
    """Answer while the context lasts; port 0 takes a free one.

    Raises:
        OSError: The port is taken.
    """
    answers = {"/healthz": alive, "/readyz": ready}
    open_now: dict[asyncio.StreamWriter, None] = {}  # oldest first

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(open_now) >= _AT_ONCE:
            oldest = next(iter(open_now))
            del open_now[oldest]
            oldest.transport.abort()
        open_now[writer] = None
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                method, path = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")[:2]
                writer.write(_response(method, path.partition("?")[0], answers, metrics))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()  # what it has not read is not kept for it
        finally:
            open_now.pop(writer, None)

    server = await asyncio.start_server(answer, host, port, limit=_LIMIT)
    async with server:
        yield server


def _response(method: str, path: str, answers: Mapping[str, Answer], metrics: Page | None) -> bytes:
    status, kind, data = 404, _JSON, b"{}\n"
    known = path in answers or (path == "/metrics" and metrics is not None)
    if known and method not in ("GET", "HEAD"):
        status = 405
    elif known:
        try:
            if path in answers:
                body = answers[path]()
                status, data = (200 if body.get("ok") else 503), json.dumps(body).encode() + b"\n"
            elif metrics is not None:
                status, kind, data = 200, _METRICS, metrics()
        except Exception:  # noqa: BLE001 - a page that cannot be made must end neither the process nor the other pages
            _log.exception("%s cannot be answered", path)
            status, kind, data = 500, _JSON, b"{}\n"
    head = f"HTTP/1.1 {status} {_TEXT[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    return head.encode() + (b"" if method == "HEAD" else data)
