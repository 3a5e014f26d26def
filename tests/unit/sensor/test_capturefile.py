"""Capture files: both forms, byte orders and resolutions, and what no bytes whatever can do to whoever reads them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from daemoneye.errors import CorruptData
from daemoneye_sensor.packets.capturing import Capture
from daemoneye_sensor.sources import capturefile
from daemoneye_sensor.sources.capturefile import CaptureFile
from daemoneye_sensor.sources.pcap import PcapSource

FRAME = bytes(range(60))


def pcap(order: str, magic: int, *frames: tuple[int, int, bytes], link: int = 1) -> bytes:
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65_535, link)
    return head + b"".join(struct.pack(f"{order}IIII", s, f, len(raw), len(raw) + 5) + raw for s, f, raw in frames)


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack(f"{order}II", kind, len(body) + 12) + body + struct.pack(f"{order}I", len(body) + 12)


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)


def interface(order: str, *options: bytes, link: int = 1) -> bytes:
    return block(order, 1, struct.pack(f"{order}HHI", link, 0, 0) + b"".join(options) + option(order, 0, b""))


def packet(order: str, number: int, moment: int, raw: bytes = FRAME) -> bytes:
    return block(
        order, 6, struct.pack(f"{order}IIIII", number, moment >> 32, moment & 0xFFFFFFFF, len(raw), len(raw)) + raw
    )


def read(path: Path, data: bytes) -> list[dict[str, Any]]:
    """All frames."""
    path.write_bytes(data)
    file, out = CaptureFile(path), []
    for found in file.blocks():
        for i in range(len(found.begin)):
            raw = found.data[found.begin[i] : found.begin[i] + found.captured[i]].tobytes()
            out.append(
                {
                    "raw": raw,
                    "size": int(found.size[i]),
                    "time": int(found.time[i]),
                    "link": found.link,
                    "interface": found.interface,
                }
            )
    return out


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "unit"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)], ids=["microseconds", "nanoseconds"])
def test_pcap(tmp_path: Path, order: str, magic: int, unit: int) -> None:
    found = read(tmp_path / "f", pcap(order, magic, (7, 5, FRAME), (8, 6, b"x"), link=101))
    assert found == [
        {"raw": FRAME, "size": 65, "time": 7_000_000_000 + 5 * unit, "link": 101, "interface": ""},
        {"raw": b"x", "size": 6, "time": 8_000_000_000 + 6 * unit, "link": 101, "interface": ""},
    ]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_with_interfaces_and_resolutions(tmp_path: Path, order: str) -> None:
    data = section(order) + interface(order, option(order, 2, b"eth0"), option(order, 9, b"\x09"))
    data += interface(
        order,
        option(order, 2, b"cni0"),
        option(order, 9, b"\x8a"),
        option(order, 14, struct.pack(f"{order}q", 100)),
        link=113,
    )
    data += interface(order) + block(order, 0x0BAD, b"unknown blocks are passed over")
    data += (
        packet(order, 0, 5)
        + packet(order, 1, 1024)
        + packet(order, 2, 9)
        + block(order, 3, struct.pack(f"{order}I", 60) + FRAME)
    )
    found = read(tmp_path / "f", data)
    assert [(f["interface"], f["time"], f["link"]) for f in found] == [
        ("eth0", 5, 1),
        ("eth0", 0, 1),
        ("cni0", 101_000_000_000, 113),
        ("", 9_000, 1),
    ]
    assert all(f["raw"] == FRAME for f in found)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_obsolete_block_of_packets(tmp_path: Path, order: str) -> None:
    old = block(order, 2, struct.pack(f"{order}HHIIII", 1, 7, 0, 9, len(FRAME), 70) + FRAME)
    data = section(order) + interface(order) + interface(order, option(order, 2, b"eth1")) + old
    assert read(tmp_path / "f", data) == [{"raw": FRAME, "size": 70, "time": 9_000, "link": 1, "interface": "eth1"}]


def test_a_second_section_has_its_own_interfaces(tmp_path: Path) -> None:
    one = section("<") + interface("<", option("<", 2, b"a")) + packet("<", 0, 1)
    two = section(">") + interface(">", option(">", 2, b"b")) + packet(">", 0, 2)
    assert [f["interface"] for f in read(tmp_path / "f", one + two)] == ["a", "b"]


GOOD = section("<") + interface("<") + packet("<", 0, 1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (GOOD + packet("<", 1, 1), "names an interface that was not described"),
        (GOOD + packet("<", 0, 1 << 63), "contradicts itself"),
        (GOOD + struct.pack("<IIII", 6, 13, 0, 0), "no sensible length"),
        (GOOD + packet("<", 0, 1)[:-6], "cut short"),
        (GOOD + b"ab", "cut short"),
        (GOOD + interface("<") * capturefile.MAX_INTERFACES, "more than 256 interfaces"),
        (GOOD + packet("<", 0, 1, bytes(capturefile.MAX_FRAME + 4)), "contradicts itself"),
        (
            pcap("<", 0xA1B2C3D4, (1, 1, FRAME)) + struct.pack("<IIII", 1, 1, 1 << 30, 1 << 30),
            "says that it has 1073741824 bytes",
        ),
        (pcap("<", 0xA1B2C3D4, (1, 1, FRAME), (1, 1, FRAME))[:-1], "a frame is cut short"),
        (pcap("<", 0xA1B2C3D4, (1, 1, FRAME)) + b"ten bytes.", "a frame's header is cut short"),
    ],
)
def test_what_is_broken_is_said_with_its_place_after_what_is_whole(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    blocks = CaptureFile(path).blocks()
    assert len(next(blocks).begin) == 1
    with pytest.raises(CorruptData, match=words) as caught:
        next(blocks)
    assert "at byte" in str(caught.value)


BELOW = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="10.0.0.1", dst="10.0.0.2")
BACK = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01") / IP(src="10.0.0.2", dst="10.0.0.1")
WEB = BELOW / TCP(sport=4000, dport=80, flags="PA") / Raw(b"GET / HTTP/1.1\r\n\r\n")
NAME = BELOW / UDP(sport=4000, dport=53) / DNS(qd=DNSQR(qname="one.example"))


@pytest.mark.parametrize(
    ("capture", "events"),
    [
        (None, ["dns_query", "http_request", "packet_flow"]),
        (Capture(filters=("tcp port 80",)), ["dns_query", "http_request", "packet_flow"]),
        (Capture(filters=("tcp port 443",)), ["dns_query", "packet_flow"]),
        (Capture(filters=("tcp port 443", "host 10.0.0.2"), flows=False), ["dns_query", "http_request"]),
        (Capture(dns=False), ["http_request", "packet_flow"]),
        (Capture(filters=("tcp port 443",), flows=False, dns=False), []),
    ],
)
@pytest.mark.parametrize("link", [1, 101, 113])
def test_filters_and_switches_mean_for_a_file_what_they_mean_live(
    tmp_path: Path, capture: Capture | None, events: list[str], link: int
) -> None:
    path = tmp_path / "f"
    head = {1: b"", 101: b"", 113: bytes.fromhex("0000000100060200000000010000") + b"\x08\x00"}[link]
    frames = [head + bytes(frame if link == 1 else frame[IP]) for frame in (WEB, NAME)]
    path.write_bytes(pcap("<", 0xA1B2C3D4, *((i, 0, frame) for i, frame in enumerate(frames)), link=link))
    source = PcapSource(path, capture)
    source.open({}, None)
    made = set()
    while not source.finished:
        drain = source.drain()
        made |= {section.record.name for section in drain.sections} if drain else set()
    assert (sorted(made), source.status()["error"]) == (events, "")
    source.close(keep=False)


def test_a_filter_that_a_files_link_layer_cannot_have_is_said(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(pcap("<", 0xA1B2C3D4, (0, 0, bytes(WEB[IP])), link=101))
    source = PcapSource(path, Capture(filters=("ether host 02:00:00:00:00:01",)))
    source.open({}, None)
    while not source.finished:
        source.drain()
    assert "captureFilter 'ether host 02:00:00:00:00:01' takes nothing of link type 101" in str(
        source.status()["error"]
    )
    source.close(keep=False)


def flows(path: Path) -> list[tuple[int, int, str]]:
    """Packets each way and state of the conversations of a file, in order of their ends."""
    source = PcapSource(path)
    told: list[tuple[int, int, int, str]] = []
    source.open({}, None)
    while not source.finished:
        drain = source.drain()
        for section in drain.sections if drain else ():
            if section.record.name == "packet_flow":
                states = [state.decode() for state in section.values("state")]
                told += zip(
                    *(section.rows[name].tolist() for name in ("time", "src_packets", "dst_packets")),
                    states,
                    strict=True,
                )
    source.close(keep=False)
    return [one[1:] for one in sorted(told)]


def test_ports_that_are_used_again_are_another_conversation(tmp_path: Path) -> None:
    path = tmp_path / "f"
    refused = [(True, "S"), (False, "RA")]
    closed = [(True, "S"), (False, "SA"), (True, "FA"), (False, "FA"), (True, "A")]
    client, server = BELOW / TCP(sport=4000, dport=80), BACK / TCP(sport=80, dport=4000)
    frames = []
    for out, flags in [*refused, *refused, *closed, (True, "S")]:
        sent = (client if out else server).copy()
        sent[TCP].flags = flags
        frames.append((0, 0, bytes(sent)))
    path.write_bytes(pcap("<", 0xA1B2C3D4, *frames))
    assert sorted(flows(path)) == [(1, 0, "end"), (1, 1, "reset"), (1, 1, "reset"), (3, 2, "closed")]


def test_interfaces_that_take_turns_are_read_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "f"
    named = [interface("<", option("<", 2, name)) for name in (b"a", b"b")]
    path.write_bytes(section("<") + b"".join(named) + (packet("<", 0, 1) + packet("<", 1, 1)) * 100)
    assert [(len(one.begin), one.interface) for one in CaptureFile(path).blocks()] == [(100, "a"), (100, "b")]


def test_ever_new_interfaces_are_read_like_one(tmp_path: Path) -> None:
    path = tmp_path / "f"
    one = lambda i: section("<") + interface("<", option("<", 2, b"v%d" % i)) + packet("<", 0, i, bytes(WEB))  # noqa: E731
    path.write_bytes(b"".join(map(one, range(2 * capturefile.MAX_INTERFACES))))
    assert len(flows(path)) == capturefile.MAX_INTERFACES + 1


def test_a_link_type_that_nobody_knows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(pcap("<", 0xA1B2C3D4, (0, 0, FRAME), (1, 0, FRAME), link=105))
    source = PcapSource(path)
    source.open({}, None)
    while not source.finished:
        source.drain()
    assert [(lost.count, lost.reason) for lost in source.lost()] == [(2, "frames: a link type that is not known (105)")]
    assert source.lost() == []
    source.close(keep=False)


def test_a_file_that_is_compressed_says_so(tmp_path: Path) -> None:
    path = tmp_path / "f.pcap.gz"
    path.write_bytes(gzip.compress(GOOD))
    with pytest.raises(CorruptData, match="compressed by gzip: unpack it first"):
        CaptureFile(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_ends_the_reading_and_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from([GOOD * 2, pcap(">", 0xA1B23C4D, (1, 1, FRAME), (2, 2, FRAME))])))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(4, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "f"
    path.write_bytes(bytes(raw[: data.draw(st.integers(24, len(raw)))]))
    source = PcapSource(path)
    source.open({}, None)
    for _ in range(1000):
        if source.finished:
            break
        source.drain()
    assert source.finished
    source.close(keep=False)
