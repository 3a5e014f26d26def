"""What a packet costs on its way from a capture to events, beside scapy, tcpdump and tshark, on the same bytes and one core.

The mix is that of docs/benchmarks.md: bulk over TCP with a few per cent of packets that a parser must see. Every parser's cache is given names of
its own, so that it is not the same question again and again.
"""

from __future__ import annotations

import random
import resource
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import PcapReader, RawPcapReader

from daemoneye_sensor.sources.pcap import PcapSource
from tests.bench import parsers
from tests.bench.tables import Outcome
from tests.bench.workloads import workspace
from tests.support.handshakes import flight

_PACKETS: Final = 400_000
_SCAPY: Final = 12_000
"""Packets of the file that scapy reads: it would take minutes for all."""
_START: Final = 1_767_225_600
_TOOLS: Final = {
    "tcpdump": ("tcpdump", "-nn", "-w", "/dev/null"),
    "tshark": (
        "tshark", "-n", "-T", "fields", "-e", "dns.qry.name", "-e", "tls.handshake.extensions_server_name", "-e", "http.host", "-e", "http.request.uri",
    ),
}  # fmt: skip
_NAMES: Final = {
    "ours": "source pcap: flows and events",
    "scapy": "scapy PcapReader, dissected",
    "raw": "scapy RawPcapReader, bytes only",
    "tcpdump": "tcpdump, copied to /dev/null",
    "tshark": "tshark, four fields of DNS, TLS and HTTP",
}


def run(*, rounds: int, scale: float) -> Outcome:
    """The bench."""
    outcome = Outcome("packets", ("path", "of them to parsers", "packets/s of a core", "µs a packet", "beside scapy"))
    wanted, dissected = max(int(_PACKETS * scale), 20_000), max(int(_SCAPY * scale), 1_000)
    with workspace() as directory:
        for share in (0.0, 0.01, 0.055):
            path = directory / f"mix-{share}.pcap"
            written = write(path, wanted, share)
            ours = [written / _cpu(_ours, path) for _ in range(rounds)]
            theirs = [dissected / _cpu(partial(_scapy, count=dissected), path) for _ in range(rounds)]
            raw = [written / _cpu(_raw, path) for _ in range(rounds)]
            base = sorted(theirs)[len(theirs) // 2]
            figures = {"ours": ours, "scapy": theirs, "raw": raw}
            for tool, command in _TOOLS.items():
                if shutil.which(tool):
                    figures[tool] = [_rate(command, path, written) for _ in range(rounds)]
            for key, rates in figures.items():
                name = _NAMES[key]
                outcome.rows.append(
                    (name, f"{share:.1%}", rates, [1e6 / rate for rate in rates], [rate / base for rate in rates])
                )
            outcome.data[f"share {share}"] = figures
    outcome.notes += [f"{tool} is not installed and was not measured" for tool in _TOOLS if not shutil.which(tool)]
    outcome.more.append(parsers.table(rounds=rounds, scale=scale))
    outcome.data["parsers"] = outcome.more[-1].data
    return outcome


def _rate(command: tuple[str, ...], path: Path, packets: int) -> float:
    """Packets a CPU second of a program that reads the file, its start included: a second of tshark's, some milliseconds of tcpdump's."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "-r", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return packets / (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def _cpu(work: Callable[[Path], Any], path: Path) -> float:
    """CPU seconds of this process that it takes."""
    begin = time.process_time()
    work(path)
    return time.process_time() - begin


def _ours(path: Path) -> int:
    source = PcapSource(path)
    source.open({}, None)
    rows = 0
    while not source.finished:
        drain = source.drain()
        rows += drain.rows if drain else 0
    source.close(keep=False)
    return rows


def _scapy(path: Path, count: int) -> None:
    with PcapReader(str(path)) as reader:
        for number, _ in enumerate(reader):
            if number == count:
                break


def _raw(path: Path) -> None:
    with RawPcapReader(str(path)) as reader:
        for _ in reader:
            pass


def write(path: Path, count: int, share: float) -> int:
    """A file of so many packets: 500 connections of bulk, and `share` of the packets with something to read."""
    chance = random.Random(5)
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    bulk = [
        bytes(
            ether
            / IP(src=f"10.0.{i % 250}.1", dst=f"10.1.{i % 250}.2")
            / TCP(sport=20_000 + i, dport=443, flags="A", seq=1)
            / Raw(bytes(1400))
        )
        for i in range(500)
    ]
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 17, 1))
        for number in range(count):
            frame = _readable(ether, number, chance) if chance.random() < share else bulk[chance.randrange(500)]
            micros = number * 10
            file.write(
                struct.pack("<IIII", _START + micros // 1_000_000, micros % 1_000_000, len(frame), len(frame)) + frame
            )
    return count


def _readable(ether: Ether, number: int, chance: random.Random) -> bytes:
    """A DNS question or answer, a ClientHello, a request or its response."""
    below, back = ether / IP(src="10.2.0.1", dst="10.2.0.2"), ether / IP(src="10.2.0.2", dst="10.2.0.1")
    port, name = 1024 + number % 60_000, f"host-{number}.example.org"
    kind = chance.randrange(10)
    if kind < 6:
        question = DNS(id=number % 65_536, rd=1, qd=DNSQR(qname=name))
        if kind % 2:
            answer = DNS(
                id=number % 65_536, qr=1, qd=DNSQR(qname=name), an=[DNSRR(rrname=name, ttl=60, rdata="192.0.2.1")]
            )
            return bytes(back / UDP(sport=53, dport=port) / answer)
        return bytes(below / UDP(sport=port, dport=53) / question)
    if kind < 8:
        return bytes(below / TCP(sport=port, dport=443, flags="PA", seq=1) / Raw(flight(name)))
    head = f"GET /{number} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: bench\r\n\r\n".encode()
    return bytes(below / TCP(sport=port, dport=80, flags="PA", seq=1) / Raw(head))
