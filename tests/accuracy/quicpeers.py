"""A QUIC client and server of aioquic: `quicpeers.py serve PORT CERTIFICATE KEY [retry]`, `quicpeers.py connect HOST PORT RETRY_PORT`."""

from __future__ import annotations

import asyncio
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion

_BOTH: list[int] = [QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2]
_MANY = [f"protocol-{number:03d}" for number in range(150)]


async def _serve(port: int, certificate: str, key: str, *, retry: bool) -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3", *_MANY], supported_versions=_BOTH)
    configuration.load_cert_chain(certificate, key)
    await serve("::", port, configuration=configuration, retry=retry)
    await asyncio.Event().wait()


async def _talk(host: str, port: int, name: str | None, protocols: list[str] | None, version: int = _BOTH[0]) -> None:
    configuration = QuicConfiguration(alpn_protocols=protocols, server_name=name, supported_versions=_BOTH)
    configuration.original_version = version
    configuration.verify_mode = ssl.CERT_NONE
    async with connect(host, port, configuration=configuration, create_protocol=QuicConnectionProtocol) as client:
        await client.ping()


async def _connect(host: str, port: int, retry_port: int) -> None:
    await _talk(host, port, "quic.shop.example", ["h3"])
    await _talk(host, port, "second.shop.example", ["h3", "h3-29"], _BOTH[1])
    await _talk(host, port, "large.shop.example", ["h3", *_MANY])
    await _talk(host, port, "192.0.2.7", ["h3"])
    await _talk(host, retry_port, "retry.shop.example", ["h3"])


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(_serve(int(sys.argv[2]), sys.argv[3], sys.argv[4], retry=sys.argv[5:] == ["retry"]))
    else:
        asyncio.run(_connect(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
