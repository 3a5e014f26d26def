"""XDP as the counter of what arrives: to the packet and the byte as the packet socket counts, and once; somebody else's program stays."""

from __future__ import annotations

import json
import operator
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from daemoneye_sensor import bpfsys
from daemoneye_sensor.packets.arrivals import RETRY_S, UNAVAILABLE, Arrivals
from daemoneye_sensor.packets.capture import CaptureProgram
from daemoneye_sensor.packets.links import Link
from daemoneye_sensor.packets.namespace import within
from daemoneye_sensor.packets.tap import Tap
from daemoneye_sensor.packets.taps import PODS, Captured
from tests.kernel.conftest import BPF
from tests.kernel.test_capture import tunnel
from tests.support.namespaces import star
from tests.support.tapping import End, bytes_of, end_of, pour, read, until

MIB = 1 << 20
HERE, THERE = "10.213.0.1", "10.213.0.2"
SEGMENTS_IN = 140
"""In struct tcp_info."""
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
QUESTION = IP(src=THERE, dst=HERE) / UDP(sport=4000, dport=53) / Raw(b"question")
NO_NATIVE_MTU = 9000
"""veth's driver runs XDP only on frames that fit into a page."""


@pytest.fixture
def cable() -> Iterator[tuple[End, End]]:
    with star(1) as (here, there):
        yield end_of(here), end_of(there)


@pytest.fixture(scope="module")
def programs() -> Iterator[tuple[CaptureProgram, CaptureProgram]]:
    """One with XDP and one without, to hold the first against."""
    made = CaptureProgram.load(BPF, [], xdp=True), CaptureProgram.load(BPF, [])
    assert made[0].xdp_problem == ""
    yield made
    for program in made:
        program.close()


class Both:
    """An interface that is counted twice: with XDP and without."""

    def __init__(
        self, end: End, programs: tuple[CaptureProgram, CaptureProgram], kind: str = "", group: str = ""
    ) -> None:
        self.end, self.programs = end, programs
        self.taps = [
            Tap(end.name, end.index, program, ring_bytes=4 * MIB, promiscuous=True, netns=end.netns)
            for program in programs
        ]
        self.captured = {end.index: Captured(self.taps[0], Link(end.index, end.name, kind), 0, group or end.name)}
        self.arrivals = Arrivals(end.netns)
        self._sums: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
        for program in programs:
            program.flows()
        self.before = [program.counters() for program in programs]

    def follow(self, now: float = 0.0) -> str:
        self.arrivals.follow(self.programs[0], self.captured, now)
        return self.arrivals.counter(self.end.index)

    def counted(self) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """Packets, bytes and flags by direction of a conversation, since the beginning.

        Without what the kernel itself says on a new link (neighbours, routers): it comes at any time, also while the counter changes.
        """
        for program, sums in zip(self.programs, self._sums, strict=True):
            for row in program.flows():
                if row["proto"] == socket.IPPROTO_ICMPV6:
                    continue
                key = tuple(row[name].item() for name in ("src_port", "dst_port", "vlan", "proto", "ifindex"))
                key = *key, row["src_ip"].tobytes(), row["dst_ip"].tobytes()
                packets, size, flags = sums.get(key, (0, 0, 0))
                sums[key] = packets + int(row["packets"]), size + int(row["bytes"]), flags | int(row["tcp_flags"])
        return self._sums

    def packets(self, *ports: int) -> int:
        """Packets of one direction of a conversation, once both counted the same."""
        until(lambda: operator.eq(*self.counted()))
        return sum(packets for key, (packets, _, _) in self._sums[0].items() if key[:2] == ports)

    def news(self) -> list[dict[str, int]]:
        """What else was counted, of both."""
        return [
            {name: count - before[name] for name, count in program.counters().items()}
            for program, before in zip(self.programs, self.before, strict=True)
        ]

    def close(self) -> None:
        self.arrivals.close()
        self.programs[0].leave_arrivals(())
        for tap in self.taps:
            tap.close()


@contextmanager
def counting(
    end: End, programs: tuple[CaptureProgram, CaptureProgram], kind: str = "", group: str = ""
) -> Iterator[Both]:
    made = Both(end, programs, kind, group)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def both(cable: tuple[End, End], programs: tuple[CaptureProgram, CaptureProgram]) -> Iterator[Both]:
    with counting(cable[0], programs) as made:
        yield made


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def on(end: End) -> dict[str, Any]:
    """The XDP program of an interface, as `ip link` shows it."""
    command = ["ip", "-n", end.space.name, "-d", "-j", "link", "show", end.name]
    shown = subprocess.run(command, capture_output=True, check=True).stdout
    return dict(json.loads(shown)[0].get("xdp", {}))


def transfer(sender: End, receiver: End, address: str) -> tuple[tuple[int, int], int]:
    """Eight MiB by TCP; both ports, and how many segments of the sender arrived, as the receiver's kernel counted them."""
    server = receiver.socket(lambda: socket.create_server((address, 0), family=family(address)))
    client = sender.socket(lambda: socket.socket(family(address)))
    with server, client:
        client.connect(server.getsockname()[:2])
        other, _ = server.accept()
        with other:
            pour(client, other, 8 * MIB)
            ports = client.getsockname()[1], server.getsockname()[1]
            client.shutdown(socket.SHUT_WR)
            assert other.recv(1) == b""
            (arrived,) = struct.unpack_from("I", other.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), SEGMENTS_IN)  # fmt: skip
        assert client.recv(1) == b""
    return ports, arrived + 1  # the last acknowledgement comes when there is no connection any more


@pytest.mark.parametrize(
    ("kind", "mtu", "mode"),
    [("", 1500, "xdp_native"), ("", NO_NATIVE_MTU, "xdp_generic"), ("veth", 1500, "xdp_generic")],
    ids=["native", "refused by the driver", "generic"],
)
@pytest.mark.parametrize("address", [HERE, "fd00:213:0::1"], ids=["ipv4", "ipv6"])
def test_what_arrives_is_counted_as_the_socket_counts_it(
    cable: tuple[End, End],
    programs: tuple[CaptureProgram, CaptureProgram],
    kind: str,
    mtu: int,
    mode: str,
    address: str,
) -> None:
    here, there = cable
    for end in cable:
        end.space.run("ip", "link", "set", end.name, "mtu", str(mtu))
    with counting(here, programs, kind) as both:
        assert both.follow() == mode
        assert on(here)["mode"] == {"xdp_native": 1, "xdp_generic": 2}[mode]
        ports, arrived = transfer(there, here, address)
        with there.socket(lambda: socket.socket(family(address), socket.SOCK_DGRAM)) as udp:
            udp.bind(("", 4001))
            for size in (0, 100, 1400, 20_000):  # the last one in fragments
                udp.sendto(bytes(size), (address, 4000))
        until(lambda: both.packets(*ports) == arrived)
        assert both.packets(4001, 4000) == 3 + -(-20_000 // (mtu - 48))
        assert [news["fragments"] for news in both.news()] == [0, 0]
        assert both.news()[0]["frames"] == both.news()[1]["frames"] > 0
        assert both.arrivals.problem() == ("", "")


@pytest.mark.parametrize("kind", ["", "veth"])
def test_a_full_frame_with_tags_is_one_packet(
    cable: tuple[End, End], programs: tuple[CaptureProgram, CaptureProgram], kind: str
) -> None:
    full = IP(src=THERE, dst=HERE) / TCP(sport=9, dport=80, flags="A") / Raw(bytes(1460))
    with counting(cable[0], programs, kind) as both:
        both.follow()
        cable[1].send(bytes(ETHER / full), bytes(ETHER / Dot1Q(vlan=5) / full))
        until(lambda: both.packets(9, 80) == 2)


def test_tags_in_the_frame_are_read_and_messages_are_exported_as_ever(cable: tuple[End, End], both: Both) -> None:
    assert both.follow() == "xdp_native"
    get = IP(src=THERE, dst=HERE) / TCP(sport=9, dport=80, flags="PA") / Raw(b"GET / HTTP/1.1\r\n\r\n")
    cable[1].send(bytes(ETHER / Dot1Q(vlan=5) / get), bytes(ETHER / get), bytes(ETHER / QUESTION))
    assert [len(read(tap, 3)) for tap in both.taps] == [3, 3]
    assert both.packets(9, 80) == 2
    assert {key[2] for key in both.counted()[0] if key[0] == 9} == {0, 5}
    assert both.news()[0]["exported"] == both.news()[1]["exported"] == 3


def test_packets_without_a_link_layer_are_counted(
    cable: tuple[End, End], programs: tuple[CaptureProgram, CaptureProgram]
) -> None:
    space = cable[0].space
    with within(cable[0].netns, lambda: tunnel("tun0")) as device:
        space.run("ip", "addr", "add", "10.77.0.1/24", "dev", "tun0")
        space.run("ip", "link", "set", "tun0", "up")
        with counting(end_of(space, "tun0"), programs) as both:
            assert both.follow() in ("xdp_native", "xdp_generic")
            device.write(bytes(IP(src="10.77.0.2", dst="10.77.0.1") / UDP(sport=5, dport=6) / Raw(bytes(100))))
            until(lambda: both.packets(5, 6) == 1)


def test_what_nobody_can_read_is_counted_once(cable: tuple[End, End], both: Both) -> None:
    both.follow()
    cut = bytes(ETHER / IP(src=THERE, dst=HERE) / TCP())[:40]
    later = bytes(ETHER / IP(src=THERE, dst=HERE, id=7, frag=100) / UDP() / Raw(bytes(64)))
    cable[1].send(cut, later, bytes(ETHER) + bytes(46), bytes(ETHER / IP(src=THERE, dst=HERE, ihl=3) / UDP()))
    until(lambda: both.news()[0]["malformed"])
    for name in ("frames", "short", "fragments", "malformed", "not_ip"):
        assert both.news()[0][name] == both.news()[1][name] > 0, name


def test_pods_that_nobody_named_are_left_to_the_socket(
    cable: tuple[End, End], programs: tuple[CaptureProgram, CaptureProgram]
) -> None:
    with counting(cable[0], programs, group=PODS) as both:
        assert both.follow() == "socket"
        assert on(cable[0]) == {}


def test_filters_still_decide_what_is_shown(
    cable: tuple[End, End], programs: tuple[CaptureProgram, CaptureProgram]
) -> None:
    filtered = CaptureProgram.load(BPF, [("tcp port 80", 96)], xdp=True)
    try:
        with counting(cable[0], (filtered, programs[1])) as both:
            both.follow()
            get = IP(src=THERE, dst=HERE) / TCP(sport=9, dport=80, flags="PA") / Raw(b"GET / HTTP/1.1\r\n\r\n")
            other = get.copy()
            other[TCP].dport = 81
            sent = [bytes(ETHER / get), bytes(ETHER / QUESTION)]
            cable[1].send(bytes(ETHER / other), *sent)
            assert [bytes_of(*one) for one in read(both.taps[0], 2)] == sent
            assert filtered.counters()["filtered"] == 1
            assert {80, 81, 53} <= set(filtered.flows()["dst_port"].tolist())
    finally:
        filtered.close()


# --- who else is there


def test_somebody_elses_program_stays_and_the_socket_counts(
    cable: tuple[End, End], both: Both, programs: tuple[CaptureProgram, CaptureProgram]
) -> None:
    here, there = cable
    other = CaptureProgram.load(BPF, [], xdp=True)
    for mode in (1 << 2, 1 << 1):
        fd = within(here.netns, partial(bpfsys.link_create, other.xdp[0], here.index, 37, mode))
        theirs = on(here)
        assert both.follow(1.0) == "socket"
        reason, words = both.arrivals.problem()
        assert reason == UNAVAILABLE
        assert f"another XDP program is on '{here.name}' already" in words
        assert on(here) == theirs
        there.send(bytes(ETHER / QUESTION))
        until(lambda: both.packets(4000, 53))
        os.close(fd)
        until(lambda: not on(here))
        assert both.follow(2.0) == "socket"  # not at once
        assert both.follow(2.0 + RETRY_S) == "xdp_native"
        assert both.arrivals.problem() == ("", "")
        both.arrivals.close()
        programs[0].leave_arrivals(())
    other.close()


def test_a_program_that_was_taken_off_is_put_on_again(cable: tuple[End, End], both: Both) -> None:
    both.follow()
    (link,) = both.arrivals._attached.values()
    bpfsys._bpf(34, struct.pack("=I", link.fd))  # BPF_LINK_DETACH, as an administrator may
    assert on(cable[0]) == {}
    assert both.follow() == "xdp_native"
    cable[1].send(bytes(ETHER / QUESTION))
    assert until(lambda: both.packets(4000, 53)) == 1


def test_a_kernel_that_takes_no_xdp_is_told_and_the_socket_counts(
    cable: tuple[End, End], tmp_path: Path, programs: tuple[CaptureProgram, CaptureProgram]
) -> None:
    shutil.copytree(BPF, tmp_path / "bpf")
    header = tmp_path / "bpf" / "include" / "packets.bpf.h"
    header.write_text(header.read_text().replace("bpf_xdp_load_bytes", "bpf_skb_load_bytes"))
    lacking = CaptureProgram.load(tmp_path / "bpf", [], xdp=True)
    try:
        with counting(cable[0], (lacking, programs[1])) as both:
            assert both.follow() == "socket"
            reason, words = both.arrivals.problem()
            assert reason == UNAVAILABLE
            assert "bpf_skb_load_bytes" in words  # the verifier's own
            cable[1].send(bytes(ETHER / QUESTION))
            assert until(lambda: both.packets(4000, 53)) == 1
    finally:
        lacking.close()
