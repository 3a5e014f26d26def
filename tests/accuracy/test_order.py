"""The same capture in a worse state: segments swapped or sent twice, one side missing, frames cut. What can be told is told as before."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import RawPcapReader

from daemoneye import envelope
from daemoneye.envelope import Envelope
from daemoneye.events.jsonform import events_json
from daemoneye_sensor.sources.pcap import PcapSource
from tests.accuracy import world

Frame = tuple[int, bytes]
WHAT = ("dns_query", "tls_client_hello", "http_request", "quic_initial")
ORDER = ("event", "proto", "src_ip", "src_port", "dst_ip", "dst_port", "transaction", "uri")
OF_CLIENT = (
    "event",
    "src_ip",
    "src_port",
    "dst_port",
    "sni",
    "alpn",
    "ja3",
    "ja4",
    "hello_bytes",
    "method",
    "host",
    "uri",
    "user_agent",
    "type",
)
OF_TIME = ("time", "latency", "boot_time", "node")


def frames_of(path: Path) -> list[Frame]:
    """(microseconds, frame) of a file of tcpdump."""
    with RawPcapReader(str(path)) as reader:
        return [(about.sec * 1_000_000 + about.usec, raw) for raw, about in reader]


def write(path: Path, frames: Sequence[Frame], snap: int = 1 << 18) -> Path:
    """A file of them, of each at most so many bytes."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, snap, 1))
        for time, raw in frames:
            kept = raw[:snap]
            file.write(struct.pack("<IIII", time // 1_000_000, time % 1_000_000, len(kept), len(raw)) + kept)
    return path


def events(path: Path, names: Sequence[str] = WHAT, *, whole: bool = True) -> list[dict[str, Any]]:
    """What the source makes of a file, but for when it was; of a whole one nothing is lost."""
    source = PcapSource(path)
    origin = source.open({}, None)
    found: list[dict[str, Any]] = []
    while not source.finished:
        if (drain := source.drain()) is not None:
            about = Envelope("n", origin.boot_id, origin.epoch, drain.lane, 0, drain.rows, 0, positions={})
            found += events_json(envelope.decode(envelope.encode(about, drain.sections)))
    source.close(keep=False)
    lost = source.lost()
    assert not (whole and lost), lost
    told = [{k: v for k, v in row.items() if k not in OF_TIME} for row in found if row["event"] in names]
    return sorted(told, key=lambda row: [str(row.get(name, "")) for name in ORDER])


def sender(raw: bytes) -> tuple[bytes, bytes] | None:
    """(addresses and ports of a TCP segment with data, of the same in the other direction); None for anything else."""
    kind = raw[12:14]
    if kind == b"\x08\x00" and raw[23] == 6:
        addresses, tcp, end = (raw[26:30], raw[30:34]), 34, 14 + int.from_bytes(raw[16:18])
    elif kind == b"\x86\xdd" and raw[20] == 6:
        addresses, tcp, end = (raw[22:38], raw[38:54]), 54, len(raw)
    else:
        return None
    if tcp + (raw[tcp + 12] >> 4) * 4 >= end:
        return None
    ports = raw[tcp : tcp + 2], raw[tcp + 2 : tcp + 4]
    return addresses[0] + ports[0] + addresses[1] + ports[1], addresses[1] + ports[1] + addresses[0] + ports[0]


def swapped(frames: Sequence[Frame]) -> list[Frame]:
    """Each two segments that one side sent without an answer between them change their places; the moments stay."""
    raws = [raw for _, raw in frames]
    last: dict[bytes, int] = {}
    for at, raw in enumerate(raws):
        if (side := sender(raw)) is None:
            continue
        last.pop(side[1], None)
        if (before := last.pop(side[0], None)) is None:
            last[side[0]] = at
        else:
            raws[before], raws[at] = raws[at], raws[before]
    assert raws != [raw for _, raw in frames]
    return [(time, raw) for (time, _), raw in zip(frames, raws, strict=True)]


def twice(frames: Sequence[Frame]) -> list[Frame]:
    """Every segment again behind the next two frames, as after a timeout."""
    again = [(frames[min(at + 2, len(frames) - 1)][0], raw) for at, (_, raw) in enumerate(frames) if sender(raw)]
    return sorted([*frames, *again], key=lambda frame: frame[0])


@pytest.mark.parametrize("change", [swapped, twice])
def test_it_says_the_same(wire: Path, tmp_path: Path, change: Callable[[Sequence[Frame]], list[Frame]]) -> None:
    frames = frames_of(wire)
    as_it_was = events(wire)
    assert len(as_it_was) > 90
    assert events(write(tmp_path / "changed.pcap", change(frames))) == as_it_was


def test_one_side_alone_says_what_it_can(wire: Path, tmp_path: Path) -> None:
    clients = (socket.inet_aton(world.CLIENT), socket.inet_pton(socket.AF_INET6, world.CLIENT6))
    frames = [frame for frame in frames_of(wire) if frame[1][26:30] == clients[0] or frame[1][22:38] == clients[1]]

    def told(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: row[name] for name in OF_CLIENT if name in row} for row in rows]

    alone = events(write(tmp_path / "alone.pcap", frames))
    assert told(alone) == told(events(wire))
    assert all("response_unseen" in row["flags"] for row in alone if row["event"] != "quic_initial")


def test_frames_that_were_cut_count_like_whole_ones(wire: Path, tmp_path: Path) -> None:
    frames = frames_of(wire)
    cut = events(write(tmp_path / "cut.pcap", frames, 96), ("packet_flow",), whole=False)
    counted = ("src_packets", "src_bytes", "dst_packets", "dst_bytes", "src_tcp_flags", "dst_tcp_flags", "state")
    ends = ("proto", "src_ip", "src_port", "dst_ip", "dst_port")
    assert [[row[name] for name in (*ends, *counted)] for row in cut] == [
        [row[name] for name in (*ends, *counted)] for row in events(wire, ("packet_flow",))
    ]
