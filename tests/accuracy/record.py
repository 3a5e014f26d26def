"""What crosses a wire between real clients and servers: `unshare -n python -m tests.accuracy.record DIRECTORY`.

tcpdump writes DIRECTORY/wire.pcap; DIRECTORY/dig.txt is what dig itself read in the answers.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.accuracy.browsers import browse
from tests.accuracy.world import (
    ANONYMOUS,
    CHAIN,
    DNSMASQ,
    HERE,
    HTTP,
    OLD,
    QUIC,
    QUIC_RETRY,
    RETRY,
    SERVER,
    SHARED,
    TLS,
    WEB,
    World,
    certificates,
    dns,
    http,
    tls,
)


def main(directory: Path) -> None:
    """Start the servers, let the clients work, keep what crossed the wire."""
    world = World(directory)
    try:
        certificates(world)
        (directory / "body.txt").write_text("y" * 30_000)
        (directory / "web.yml").write_text(
            "tls_server_config: {cert_file: leaf.crt, key_file: leaf.key, min_version: TLS12}\n"
        )
        (directory / "prometheus.yml").write_text("{}\n")
        python = (sys.executable, "-I")
        world.server("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=",
                     "--edns-packet-max=4096", *DNSMASQ, port=53)  # fmt: skip
        world.server(*python, str(HERE / "pages.py"), str(HTTP), port=HTTP)
        for port, options in {
            **{port: (f"-tls{version.replace('.', '_')}".removesuffix("_0"), "-cert", "server.crt", "-key", "server.key", "-alpn", "http/1.1")
               for version, port in TLS.items()},
            CHAIN: ("-cert", "leaf.crt", "-key", "leaf.key", "-cert_chain", "chain.crt", "-alpn", "h2"),
            ANONYMOUS: ("-nocert", "-tls1_2"), SHARED: ("-nocert", "-tls1_2", "-psk", "0102030405060708"),
            RETRY: ("-cert", "leaf.crt", "-key", "leaf.key", "-groups", "P-384"),
        }.items():  # fmt: skip
            cipher = {ANONYMOUS: "aNULL:@SECLEVEL=0", SHARED: "PSK"}.get(port, OLD)
            world.server("openssl", "s_server", "-accept", str(port), "-cipher", cipher, "-quiet", *options, port=port)
        world.server(
            "prometheus",
            "--config.file=prometheus.yml",
            "--web.config.file=web.yml",
            "--storage.tsdb.path=data",
            port=WEB,
        )
        peers = (*python, str(HERE / "quicpeers.py"))
        world.server(*peers, "serve", str(QUIC), "leaf.crt", "leaf.key", port=QUIC)
        world.server(*peers, "serve", str(QUIC_RETRY), "leaf.crt", "leaf.key", "retry", port=QUIC_RETRY)
        with world.captured():
            dns(world)
            http(world)
            tls(world)
            world.run(*peers, "connect", SERVER, str(QUIC), str(QUIC_RETRY))
            browse(world)
    finally:
        world.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
