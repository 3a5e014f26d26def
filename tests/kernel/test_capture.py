"""Taps of real interfaces: what passes is counted to the packet and the byte, what a parser is to see arrives whole, and nothing is left behind."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from daemoneye_sensor import bpfsys
from daemoneye_sensor.errors import ProgramError
from daemoneye_sensor.packets.capture import CaptureProgram
from daemoneye_sensor.packets.namespace import within
from daemoneye_sensor.packets.tap import Tap
from tests.kernel.conftest import BPF
from tests.support.namespaces import joined, star
from tests.support.tapping import End, between, bytes_of, end_of, pour, read, until

MIB = 1 << 20
HERE, THERE = "10.213.0.1", "10.213.0.2"
TCP_INFO_SEGMENTS, TCP_INFO_BYTES = 136, 200
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
QUESTION = UDP(sport=4000, dport=53) / Raw(b"question")


@pytest.fixture
def cable() -> Iterator[tuple[End, End]]:
    """Two namespaces, joined by a cable: HERE and THERE."""
    with star(1) as (here, there):
        yield end_of(here), end_of(there)


@pytest.fixture(scope="module")
def loaded() -> Iterator[CaptureProgram]:
    made = CaptureProgram.load(BPF, [])
    yield made
    made.close()


@pytest.fixture
def program(loaded: CaptureProgram) -> CaptureProgram:
    loaded.set(flows=1, dns=1, tls=1, http=1, quic=1, json=1, follow=32, snaplen=65_535, budget=0)
    loaded.flows()
    return loaded


@pytest.fixture
def tap(program: CaptureProgram, cable: tuple[End, End]) -> Iterator[Callable[..., Tap]]:
    """Taps of the first end, closed after the test."""
    made: list[Tap] = []

    def make(end: End | None = None, **options: Any) -> Tap:
        at = end or cable[0]
        made.append(Tap(at.name, at.index, program, netns=at.netns, **{"ring_bytes": 4 * MIB, "promiscuous": True, **options}))  # fmt: skip
        return made[-1]

    yield make
    for one in made:
        one.close()


# --- what is counted


@pytest.mark.parametrize("address", [THERE, "fd00:213:0::2"], ids=["ipv4", "ipv6"])
def test_a_transfer_in_super_frames_is_counted_as_the_kernel_itself_counts_it(
    program: CaptureProgram, cable: tuple[End, End], tap: Callable[..., Tap], address: str
) -> None:
    here, there = cable
    family, header = (socket.AF_INET6, 72) if ":" in address else (socket.AF_INET, 52)
    tap()
    server = there.socket(lambda: socket.create_server((address, 0), family=family))
    client = here.socket(lambda: socket.socket(family))
    with server, client:
        client.connect(server.getsockname()[:2])
        other, _ = server.accept()
        with other:
            pour(client, other, 8 * MIB)
        ports = client.getsockname()[1], server.getsockname()[1]
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        sums = np.zeros(2, np.int64)

        def counted() -> bool:
            """Until the last acknowledgements have passed."""
            flows = program.flows()
            for i, pair in enumerate((ports, ports[::-1])):
                mine = between(flows, *pair)
                sums[i] += mine["packets"].sum().astype(np.int64)
                sent[i] += int(mine["bytes"].sum())
            said[:] = struct.unpack_from("II", client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), TCP_INFO_SEGMENTS)  # fmt: skip
            return said == sums.tolist()

        sent, said = [0, 0], [0, 0]
        until(counted)
        payload, _ = struct.unpack_from("QQ", client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), TCP_INFO_BYTES)  # fmt: skip
    # Besides payload and headers with a time stamp there are only the options of SYN and of lost segments.
    assert payload >= 8 * MIB
    assert 8 <= sent[0] - payload - header * said[0] < 4096
    assert said[0] > 8 * MIB / 1500


def test_a_pair_of_flows_has_flags_times_and_the_interface(
    program: CaptureProgram, cable: tuple[End, End], tap: Callable[..., Tap]
) -> None:
    here, there = cable
    tap()
    begin = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with there.socket(lambda: socket.create_server((THERE, 0))) as server:
        with here.socket(socket.socket) as client:
            client.connect(server.getsockname())
            own, port = client.getsockname()[1], server.getsockname()[1]
        flows = program.flows()
    for pair in ((own, port), (port, own)):
        (row,) = between(flows, *pair)
        assert row["ifindex"] == here.index
        assert row["tcp_flags"] & 2
        assert begin <= row["first"] <= row["last"] <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        assert socket.inet_ntop(socket.AF_INET6, row["src_ip"].tobytes()) in {f"::ffff:{HERE}", f"::ffff:{THERE}"}


def test_the_loopback_shows_a_packet_once(program: CaptureProgram, cable: tuple[End, End], tap: Callable[..., Tap]) -> None:  # fmt: skip
    loopback = end_of(cable[0].space, "lo")
    shown = tap(loopback)
    with loopback.socket(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
        udp.sendto(b"question", ("127.0.0.1", 53))
        port = udp.getsockname()[1]
    assert len(read(shown, 1)) == 1
    assert between(program.flows(), port, 53)["packets"].tolist() == [1]


# --- what is exported


def test_messages_arrive_whole_and_nothing_else_does(
    program: CaptureProgram, cable: tuple[End, End], tap: Callable[..., Tap]
) -> None:
    shown = tap()
    hello = b"\x16\x03\x01\x02\x00" + bytes(range(256)) * 2
    sent = [
        bytes(ETHER / IP(src=THERE, dst=HERE) / packet)
        for packet in (
            TCP(sport=1, dport=443, flags="S"),
            TCP(sport=1, dport=443, flags="PA") / Raw(hello),
            TCP(sport=1, dport=443, flags="PA") / Raw(b"goes on"),
            TCP(sport=2, dport=443, flags="PA") / Raw(b"bulk" * 300),
            QUESTION,
            UDP(sport=1, dport=2) / Raw(bytes(1300)),
            TCP(sport=3, dport=8080, flags="PA") / Raw(b"POST /x HTTP/1.1\r\n\r\n"),
        )
    ]
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    cable[1].send(*sent)
    found = read(shown, 4)
    assert [bytes_of(*one) for one in found] == [sent[1], sent[2], sent[4], sent[6]]
    for frames, i in found:
        assert (frames.link, frames.ifindex, frames.size[i]) == (1, cable[0].index, len(bytes_of(frames, i)))
        assert before - 1_000_000 < frames.time[i] <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert shown.statistics() == (4, 0, 0)
    ports = {(int(row["src_port"]), int(row["dst_port"])) for row in program.flows()}
    assert ports >= {(1, 443), (2, 443), (4000, 53), (1, 2), (3, 8080)}


def test_a_snapshot_is_kept_of_each_packet(program: CaptureProgram, cable: tuple[End, End], tap: Callable[..., Tap]) -> None:  # fmt: skip
    program.set(snaplen=96)
    shown = tap()
    frame = bytes(ETHER / IP(src=THERE, dst=HERE) / QUESTION / Raw(b"x" * 500))
    cable[1].send(frame)
    ((frames, i),) = read(shown, 1)
    assert bytes_of(frames, i) == frame[: 14 + 96]
    assert frames.size[i] == len(frame)


def test_tags_stand_in_the_frame_again_and_filters_see_them(cable: tuple[End, End]) -> None:
    here, there = cable
    filtered = CaptureProgram.load(
        BPF, [("vlan 5 and tcp port 80", 96), ("vlan 7 and vlan 5", 96), ("tcp port 80", 96)]
    )
    shown = Tap(here.name, here.index, filtered, ring_bytes=MIB, promiscuous=True, netns=here.netns)
    try:
        get = IP(src=THERE, dst=HERE) / TCP(sport=9, dport=80, flags="PA") / Raw(b"GET / HTTP/1.1\r\n\r\n")
        sent = [
            bytes(ETHER / Dot1Q(vlan=5, prio=3) / get),
            bytes(ETHER / Dot1AD(vlan=7) / Dot1Q(vlan=5) / get),
            bytes(ETHER / Dot1Q(vlan=5) / IP(src=THERE, dst=HERE) / QUESTION),
            bytes(ETHER / get),
        ]
        # None of them takes these, though each sees something of what it wants.
        others = [bytes(ETHER / Dot1Q(vlan=6) / get), bytes(ETHER / Dot1Q(vlan=5) / Dot1Q(vlan=7) / get)]
        there.send(*others, *sent)
        found = read(shown, 4)
        assert [bytes_of(*one) for one in found] == sent
        assert [int(frames.vlan[i]) for frames, i in found] == [5, 7, 5, 0]
        masks = [
            int(filtered.filters.masks(f.link, f.data, f.begin, f.captured, f.size, kind=f.kind, ifindex=f.ifindex)[i])
            for f, i in found
        ]
        assert masks == [1, 2, 0, 4]
        assert filtered.counters()["filtered"] == len(others)
    finally:
        shown.close()
        filtered.close()


def test_an_interface_without_a_link_layer_is_captured_too(
    program: CaptureProgram, cable: tuple[End, End], tap: Callable[..., Tap]
) -> None:
    space = cable[0].space
    with within(cable[0].netns, lambda: tunnel("tun0")):
        space.run("ip", "addr", "add", "10.77.0.1/24", "dev", "tun0")
        space.run("ip", "link", "set", "tun0", "up")
        shown = tap(end_of(space, "tun0"))
        assert shown.link == 101
        with cable[0].socket(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
            udp.sendto(b"question", ("10.77.0.2", 53))
            port = udp.getsockname()[1]
        ((frames, i),) = read(shown, 1)
        assert frames.kind[i] == 4
        assert bytes_of(frames, i)[-8:] == b"question"
        assert IP(bytes_of(frames, i)).dst == "10.77.0.2"
        assert len(between(program.flows(), port, 53)) == 1


def tunnel(name: str) -> io.FileIO:
    """A tun device of the current namespace, which goes with its descriptor."""
    made = io.FileIO("/dev/net/tun", "r+")
    fcntl.ioctl(made, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1001))  # TUNSETIFF: IFF_TUN, IFF_NO_PI
    return made


# --- what is lost


def test_what_a_full_ring_drops_is_counted(program: CaptureProgram, cable: tuple[End, End], tap: Callable[..., Tap]) -> None:  # fmt: skip
    shown = tap(ring_bytes=64 << 10)
    before = program.counters()["exported"]
    frame = bytes(ETHER / IP(src=THERE, dst=HERE) / QUESTION / Raw(bytes(1000)))
    cable[1].send(*[frame] * 1000)
    until(lambda: program.counters()["exported"] - before >= 1000)
    assert shown.filling()
    exported, drops, freezes = shown.statistics()
    assert exported == 1000
    assert 900 < drops < 1000
    assert freezes
    frames = list(shown.blocks())
    assert not shown.filling()
    assert sum(len(one.begin) for one in frames) <= 1000 - drops
    assert all(bytes_of(one, i) == frame for one in frames for i in range(len(one.begin)))
    cable[1].send(frame)
    # There is room again; what still lies in the open block comes, too.
    read(shown, 1001 - drops - sum(len(one.begin) for one in frames))
    assert shown.statistics() == (1001, drops, freezes)
    assert between(program.flows(), 4000, 53)["packets"].sum() == 1001


def test_an_interface_that_goes_down_comes_back_and_one_that_vanishes_is_gone(
    cable: tuple[End, End], tap: Callable[..., Tap]
) -> None:
    here, there = cable
    shown = tap()
    frame = bytes(ETHER / IP(src=THERE, dst=HERE) / QUESTION)
    here.space.run("ip", "link", "set", here.name, "down")
    assert alive(shown)
    assert list(shown.blocks()) == []
    here.space.run("ip", "link", "set", here.name, "up")
    joined(here.space, there.space)
    there.send(frame)
    assert bytes_of(*read(shown, 1)[0]) == frame
    here.space.run("ip", "link", "del", here.name)
    assert not alive(shown)
    assert list(shown.blocks()) == []
    assert shown.statistics() == (1, 0, 0)
    shown.close()
    shown.close()
    assert not alive(shown)
    assert shown.statistics() == (1, 0, 0)


def alive(tap: Tap) -> bool:
    return tap.alive


# --- bad input


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "nowhere0"}, "no such interface"),
        ({"index": 4711}, "another interface now"),
        ({"netns": Path("/run/netns/de-nowhere")}, "de-nowhere cannot be entered"),
        ({"netns": Path("/dev/null")}, "/dev/null cannot be entered"),
        ({"ring_bytes": 1 << 40}, "does not fit into memory"),
    ],
)
def test_what_cannot_be_captured_is_one_clear_error(
    program: CaptureProgram, cable: tuple[End, End], wrong: dict[str, Any], said: str
) -> None:
    here = cable[0]
    options: dict[str, Any] = {"netns": here.netns, "ring_bytes": MIB, "promiscuous": True, **wrong}
    name, index = options.pop("name", here.name), options.pop("index", here.index)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ProgramError, match=said):
        Tap(name, index, program, **options)
    assert os.listdir("/proc/self/fd") == before


def test_who_may_not_capture_is_told_so(program: CaptureProgram) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(ProgramError, match="not permitted"):
            Tap("lo", 1, program, ring_bytes=MIB, promiscuous=False)
        with pytest.raises(ProgramError, match="needs root"):
            CaptureProgram.load(BPF, [])
    finally:
        os.seteuid(0)


# --- nothing is left


def promiscuity(end: End) -> int:
    listed = subprocess.run(["ip", "-n", end.space.name, "-d", "-j", "link", "show", end.name], capture_output=True, check=True).stdout  # fmt: skip
    return int(json.loads(listed)[0]["promiscuity"])


def exists(program_id: int) -> bool:
    try:
        os.close(bpfsys._bpf(13, struct.pack("=III", program_id, 0, 0)))  # BPF_PROG_GET_FD_BY_ID
    except FileNotFoundError:
        return False
    return True


CAPTURING = """
import sys
from pathlib import Path
from daemoneye_sensor import bpfsys
from daemoneye_sensor.packets.capture import CaptureProgram
from daemoneye_sensor.packets.tap import Tap
program = CaptureProgram.load(Path(sys.argv[1]), [("tcp", 96)])
tap = Tap(sys.argv[2], int(sys.argv[3]), program, ring_bytes=1 << 20, promiscuous=True, netns=Path(sys.argv[4]))
print(bpfsys.fdinfo(program.fd)["prog_id"], bpfsys.fdinfo(program.raw_fd)["prog_id"], flush=True)
for line in sys.stdin:
    tap.close()
    program.close()
    print("closed", flush=True)
"""


@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_nothing_is_left_of_a_capture(cable: tuple[End, End], killed: bool) -> None:
    here = cable[0]
    pins = sorted(Path("/sys/fs/bpf").rglob("*capture*"))
    command = [sys.executable, "-c", CAPTURING, str(BPF), here.name, str(here.index), str(here.netns)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        ids = [int(word) for word in process.stdout.readline().split()]
        assert all(map(exists, ids))
        assert promiscuity(here) == 1
        if killed:
            process.send_signal(signal.SIGKILL)
            process.wait()
        else:
            process.stdin.write("close\n")
            process.stdin.flush()
            assert process.stdout.readline() == "closed\n"
        until(lambda: not any(map(exists, ids)))
        assert promiscuity(here) == 0
        process.stdin.close()
    assert sorted(Path("/sys/fs/bpf").rglob("*capture*")) == pins
