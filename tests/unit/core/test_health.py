"""/healthz and /readyz: answered, bounded, and never in the way."""

import asyncio
import json

import pytest

from daemoneye.health import serving


async def ask(port, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


@pytest.fixture
async def port():
    said = {"ok": True, "why": ""}

    def ready():
        return {"ok": False, "why": "no broker"}

    async with serving(0, alive=lambda: said, ready=ready, host="127.0.0.1") as server:
        yield server.sockets[0].getsockname()[1]


async def test_alive_and_not_ready(port):
    assert (await ask(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 200
    status, body = await ask(port, b"GET /readyz?verbose HTTP/1.1\r\n\r\n")
    assert status == 503
    assert json.loads(body) == {"ok": False, "why": "no broker"}


@pytest.mark.parametrize(
    ("request_line", "status"),
    [(b"GET /secret HTTP/1.1", 404), (b"POST /healthz HTTP/1.1", 405), (b"GET", 0), (b"\xff\xff / x", 404)],
)
async def test_what_is_not_asked_properly(port, request_line, status):
    assert (await ask(port, request_line + b"\r\n\r\n"))[0] == status


async def test_head_has_no_body(port):
    assert await ask(port, b"HEAD /healthz HTTP/1.1\r\n\r\n") == (200, b"")


async def test_a_head_without_end_is_cut_off_and_others_are_served(port):
    _, flood = await asyncio.open_connection("127.0.0.1", port)
    flood.write(b"GET /" + b"x" * 100_000)
    assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n"))[0] == 200
    flood.close()
