"""`/healthz` and `/readyz` over plain HTTP, for the kubelet and for `helm test`.

Responsible for answering two paths to whoever asks, within bounds; not for what being ready means. The standard library's server of
files would do more than is needed, and a web framework is not in every image.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

Answer = Callable[[], Mapping[str, Any]]
"""What is so now; the key `ok` decides between 200 and 503."""

_TIMEOUT_S: Final = 5.0
_LIMIT: Final = 8192
_TEXT: Final = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@asynccontextmanager
async def serving(port: int, *, alive: Answer, ready: Answer, host: str = "0.0.0.0") -> AsyncIterator[asyncio.Server]:
    """Answer while the context lasts; port 0 takes a free one."""
    paths = {"/healthz": alive, "/readyz": ready}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            async with asyncio.timeout(_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                method, path = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")[:2]
                writer.write(_response(method, path.partition("?")[0], paths))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, host, port, limit=_LIMIT)
    async with server:
        yield server


def _response(method: str, path: str, paths: Mapping[str, Answer]) -> bytes:
    body: Mapping[str, Any] = {}
    if path not in paths:
        status = 404
    elif method not in ("GET", "HEAD"):
        status = 405
    else:
        body = paths[path]()
        status = 200 if body.get("ok") else 503
    data = json.dumps(body).encode() + b"\n"
    head = f"HTTP/1.1 {status} {_TEXT[status]}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    return head.encode() + (b"" if method == "HEAD" else data)
