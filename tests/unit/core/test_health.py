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


@pytest.fixture
async def metered():
    pages = {"page": b"daemoneye_build_info 1\n"}

    def page():
        if pages["page"] is None:
            raise RuntimeError("a counter is broken")
        return pages["page"]

    async with serving(0, alive=lambda: {"ok": True}, ready=lambda: {"ok": True}, metrics=page, host="127.0.0.1") as it:
        yield it.sockets[0].getsockname()[1], pages


async def test_metrics_are_text_that_prometheus_knows(metered):
    port, _ = metered
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nAccept: */*\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert b"Content-Type: text/plain; version=0.0.4" in head
    assert body == b"daemoneye_build_info 1\n"


async def test_without_metrics_there_is_no_such_page(port):
    assert (await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n"))[0] == 404


async def test_a_page_that_cannot_be_made_ends_neither_the_process_nor_the_other_pages(metered):
    port, pages = metered
    pages["page"] = None
    assert (await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n"))[0] == 500
    assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n"))[0] == 200


async def test_who_does_not_read_is_let_go_and_costs_nothing_after_that(metered, monkeypatch):
    monkeypatch.setattr("daemoneye.health._TIMEOUT_S", 0.2)
    port, pages = metered
    pages["page"] = b"#" * (32 << 20)  # more than any socket buffers
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        async with asyncio.timeout(60):
            # Not a byte is taken before the server has given up: asyncio reads on by itself only up to its limit.
            await reader.readexactly(64 << 20)
    writer.close()
    monkeypatch.undo()  # whoever asks now is not held to so little
    assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n"))[0] == 200


async def test_many_who_say_nothing_keep_nobody_out(metered, monkeypatch):
    monkeypatch.setattr("daemoneye.health._TIMEOUT_S", 3.0)
    port, _ = metered
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
    assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n"))[0] == 200, "the kubelet would end the process"
    async with asyncio.timeout(60):
        ends = await asyncio.gather(*(reader.read() for reader, _ in silent), return_exceptions=True)
    assert len(ends) == 40
    for _, writer in silent:
        writer.close()
    assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n"))[0] == 200
