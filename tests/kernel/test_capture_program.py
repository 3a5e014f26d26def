"""The capture program, frame by frame: what it counts and exports is what user space makes of the same frame."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib.geneve import GENEVE
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting
from scapy.layers.ipsec import AH
from scapy.layers.l2 import GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from daemoneye_sensor import bpfsys
from daemoneye_sensor.errors import ProgramError
from daemoneye_sensor.packets.capture import CaptureProgram
from daemoneye_sensor.packets.columns import Fate, Packets
from daemoneye_sensor.packets.flows import FlowTable
from daemoneye_sensor.packets.layers import Decoder
from daemoneye_sensor.packets.selection import select
from tests.kernel.conftest import BPF
from tests.support import captures
from tests.support.bpfoffline import frames
from tests.support.bpfrun import run
from tests.support.handshakes import message_2

FRAMES = frames()
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4, V6 = IP(src="192.0.2.1", dst="192.0.2.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)
GET = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"
INITIAL = b"\xc3\0\0\0\1" + bytes(1195)


@pytest.fixture(scope="module")
def program() -> Iterator[CaptureProgram]:
    made = CaptureProgram.load(BPF, [])
    yield made
    made.close()


@pytest.fixture(autouse=True)
def settled(request: pytest.FixtureRequest) -> None:
    """Each test begins with nothing counted, nothing followed and the settings of the beginning."""
    if "program" in request.fixturenames:
        program = request.getfixturevalue("program")
        program.flows()
        program._salt += 1  # with other hashes no conversation is known
        program.set(flows=1, dns=1, tls=1, http=1, quic=1, json=1, follow=32, snaplen=65_535, budget=0)


def segment(payload: bytes, *, sport: int, dport: int = 443, back: bool = False, flags: str = "PA") -> bytes:
    """A TCP segment of a conversation, one way or back."""
    ip = IP(src=V4.dst, dst=V4.src) if back else V4
    src, dst = (dport, sport) if back else (sport, dport)
    return bytes(ETHER / ip / TCP(sport=src, dport=dst, seq=1, flags=flags) / Raw(payload))


def exported(program: CaptureProgram, data: Sequence[bytes]) -> list[bool]:
    return [run(program.fd, frame) > 0 for frame in data]


# --- what is counted


def rows_of(packets: Packets) -> list[tuple[int, ...]]:
    """What the kernel should have counted of packets that user space read, each by itself."""
    names = ("src_hi", "src_lo", "dst_hi", "dst_lo", "src_port", "dst_port", "vlan", "proto", "tcp_flags")
    return [tuple(int(getattr(packets, name)[i]) for name in names) for i in range(len(packets))]


def counted(program: CaptureProgram) -> list[tuple[int, ...]]:
    made = []
    for row in program.flows():
        halves = [int.from_bytes(row[name].tobytes()[at : at + 8]) for name in ("src_ip", "dst_ip") for at in (0, 8)]
        made.append((*halves, *(int(row[name]) for name in ("src_port", "dst_port", "vlan", "proto", "tcp_flags"))))
    return made


def check(program: CaptureProgram, frame: bytes, *, fresh: bool = True) -> Packets:
    """Both read a frame alike; what user space makes of it. `fresh`: its conversation has not used up what it may have on suspicion."""
    packets = captures.decode([frame])
    before = program.counters()
    wanted = run(program.fd, frame) > 0
    flows = program.flows()
    if len(packets):
        # A frame that is shorter than its packet says is cut for user space, and a lie for the kernel.
        there = len(frame) - int(packets.payload[0])
        size = int(flows["bytes"][0])
        assert size == packets.wire[0] or (packets.cut[0] and size < packets.wire[0] and size >= there)
    after = program.counters()
    told = {name: after[name] - before[name] for name in ("not_ip", "short", "malformed", "fragments")}
    assert len(flows) == len(packets), (told, frame.hex())
    assert sum(told.values()) == 1 - len(packets)
    table = FlowTable()
    placed, _ = table.add(packets)
    nobody = np.zeros(len(table.rows), bool)
    chosen = bool(len(select(packets, placed, nobody, nobody)))
    assert wanted == chosen or (chosen and not fresh)
    return packets


DNS = UDP(sport=4000, dport=53) / Raw(b"question")
KINDS = {
    "vlan": ETHER / Dot1Q(vlan=5) / V4 / DNS,
    "qinq": ETHER / Dot1AD(vlan=7) / Dot1Q(vlan=5) / V4 / DNS,
    "three tags": ETHER / Dot1AD(vlan=7) / Dot1Q(vlan=6) / Dot1Q(vlan=5) / V4 / DNS,
    "pppoe": ETHER / PPPoE(sessionid=3) / PPP(proto=0x21) / V4 / DNS,
    "pppoe of ipv6": ETHER / PPPoE(sessionid=3) / PPP(proto=0x57) / V6 / DNS,
    "mpls": ETHER / MPLS(label=3, s=0) / MPLS(label=4, s=1) / V4 / DNS,
    "extension headers": ETHER / V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / IPv6ExtHdrDestOpt() / DNS,
    "authentication header": ETHER / V6 / AH(nh=17, payloadlen=4, icv=bytes(12)) / DNS,
    "first fragment": ETHER / V6 / IPv6ExtHdrFragment(offset=0, m=1, id=9) / DNS,
    "vxlan": ETHER / V4 / UDP(sport=9, dport=4789) / VXLAN(vni=3) / ETHER / Dot1Q(vlan=5) / V6 / DNS,
    "flannel's vxlan": ETHER / V6 / UDP(sport=9, dport=8472) / VXLAN(vni=3) / ETHER / V4 / DNS,
    "vxlan without a network": ETHER / V4 / UDP(sport=9, dport=4789) / Raw(bytes(60)),
    "geneve": ETHER / V4 / UDP(sport=9, dport=6081) / GENEVE(vni=3) / ETHER / V4 / DNS,
    "geneve of ip": ETHER / V4 / UDP(sport=9, dport=6081) / GENEVE(vni=3, proto=0x800) / V4 / DNS,
    "gre": ETHER / V4 / GRE(chksum_present=1, key_present=1, seqnum_present=1) / V4 / DNS,
    "gre of ethernet": ETHER / V4 / GRE() / ETHER / V6 / DNS,
    "ipip": ETHER / V4 / V4 / DNS,
    "6in4": ETHER / V4 / V6 / DNS,
    "three tunnels": ETHER / V4 / UDP(sport=9, dport=4789) / VXLAN(vni=3) / ETHER / V6 / GRE() / V4 / V4 / DNS,
    "four tunnels": ETHER / V4 / V4 / V4 / V4 / V4 / DNS,
    "arp in vxlan": ETHER / V4 / UDP(dport=4789) / VXLAN(vni=3) / Ether(type=0x806) / Raw(bytes(28)),
    "no length": ETHER / IP(src="192.0.2.1", dst="192.0.2.2", len=0) / TCP(dport=443) / Raw(HELLO),
    "padded": ETHER / V4 / TCP(flags="A") / Raw(b"") / Raw(b""),
    "quic": ETHER / V4 / UDP(sport=9, dport=443) / Raw(INITIAL),
    **{
        f"quic {version:x}": ETHER / V4 / UDP(sport=9, dport=443) / Raw(b"\xc3" + version.to_bytes(4) + bytes(1195))
        for version in (0xFF000015, 0xFF000016, 0xFF000022, 0xFF000023, 0xFACEB001, 0xFACEB002, 0xFACEB003, 0xFACEB00E)
    },
    "hello of ssl 2's form": ETHER / V4 / TCP(sport=9, dport=443, flags="PA") / Raw(message_2()),
    "hello of ssl 2": ETHER / V4 / TCP(sport=9, dport=443, flags="PA") / Raw(message_2(version=2)),
    "quic's short header": ETHER / V4 / UDP(sport=9, dport=443) / Raw(b"\x43" + bytes(1199)),
    "quic that negotiates": ETHER / V4 / UDP(sport=9, dport=443) / Raw(b"\xc3\0\0\0\0" + bytes(1195)),
    "stratum": ETHER / V4 / TCP(dport=3333) / Raw(b'{"id":1,"method":"mining.subscribe"}'),
    "other json": ETHER / V4 / TCP(dport=3333) / Raw(b'{"zebra":1}'),
    "a letter": ETHER / V4 / TCP(dport=80) / Raw(b"G"),
    "dns over tcp": ETHER / V4 / TCP(dport=53) / Raw(b"\0\x10" + bytes(16)),
    "mdns": ETHER / V6 / UDP(sport=5353, dport=5353) / Raw(bytes(20)),
    "no header length": ETHER / IP(src="192.0.2.1", dst="192.0.2.2", ihl=4) / Raw(bytes(40)),
    "tcp without a header": ETHER / V4 / TCP(dataofs=3) / Raw(bytes(10)),
    "half a udp header": ETHER / IP(src="192.0.2.1", dst="192.0.2.2", proto=17) / Raw(b"abc"),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_read_as_user_space_reads_them(program: CaptureProgram, name: str) -> None:
    frame = bytes(KINDS[name]) + (bytes(20) if name == "padded" else b"")
    packets = check(program, frame)
    run(program.fd, frame)
    assert counted(program) == rows_of(packets)


def test_frames_without_a_link_layer_are_read_too(program: CaptureProgram) -> None:
    for packet in (V4 / DNS, V6 / TCP(dport=80) / Raw(GET), Raw(b"\x77" + bytes(40))):
        packets = captures.decode([bytes(packet)], link=101)
        assert (run(program.raw_fd, bytes(packet)) > 0) == bool(len(packets))
        assert counted(program) == rows_of(packets)


@st.composite
def mutilated(draw: st.DrawFn) -> bytes:
    """A frame with some other bytes, cut or lengthened."""
    whole = [*FRAMES, *(bytes(kind) for kind in KINDS.values())]
    frame = bytearray(draw(st.sampled_from(whole)))
    for place, value in draw(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=4)):
        frame[place % len(frame)] = value
    return bytes(frame[: draw(st.integers(15, max(len(frame), 15)))]) + draw(st.binary(max_size=20))


@settings(max_examples=200)
@given(mutilated())
def test_any_frame_is_read_as_user_space_reads_it(program: CaptureProgram, frame: bytes) -> None:
    decoder = Decoder()
    captures.decode([frame], decoder=decoder)
    program.set(follow=0)
    if not decoder.seen.passed[Fate.FRAGMENT]:
        check(program, frame, fresh=False)


def test_later_fragments_belong_to_the_conversation_of_the_first(program: CaptureProgram) -> None:
    first, *others = fragment(ETHER / V4 / UDP(sport=1111, dport=2222) / Raw(bytes(3000)), fragsize=800)
    parts = ((0, UDP(sport=5, dport=6) / Raw(bytes(8))), (2, Raw(bytes(16))))
    v6 = [ETHER / V6 / IPv6ExtHdrFragment(offset=at, m=1, id=7, nh=17) / part for at, part in parts]
    for packet in (first, *others, *v6):
        run(program.fd, bytes(packet))
    flows = program.flows()
    (row,) = flows[flows["src_port"] == 1111]
    assert (row["packets"], row["bytes"]) == (4, 3000 + 8 + 4 * 20)
    (row,) = flows[flows["src_port"] == 5]
    assert row["packets"] == 2
    before = program.counters()["fragments"]
    lone = fragment(ETHER / V4 / UDP() / Raw(bytes(3000)), fragsize=800)[1]
    lone[IP].id = 4711
    run(program.fd, bytes(lone))
    assert program.counters()["fragments"] == before + 1
    assert not len(program.flows())


def test_a_super_frame_counts_as_its_segments_and_keeps_as_many_times_the_snapshot(program: CaptureProgram) -> None:
    program.set(snaplen=200)
    frame = segment(HELLO + bytes(2800), sport=700)
    assert run(program.fd, frame) == 14 + 200, "what is before the packet is none of it"
    assert run(program.fd, frame, segments=3, segment=1100) == 14 + 600
    (row,) = program.flows()
    assert row["packets"] == 1 + 3
    assert row["bytes"] == 2 * (len(frame) - 14) + 2 * 40  # two more headers
    assert run(program.fd, frame, segment=1100) == 14 + 600  # of a guest that does not say how many segments it means
    assert program.flows()["packets"] == 3


@pytest.mark.parametrize(
    "before", [ETHER, ETHER / Dot1Q(vlan=5), ETHER / V4 / UDP(dport=4789) / VXLAN(vni=7) / ETHER], ids=["plain", "tagged", "in a tunnel"]
)  # fmt: skip
def test_a_packet_of_the_size_that_is_kept_is_kept_whole(program: CaptureProgram, before: Packet) -> None:
    """A hello in two segments: the first fills the MTU, and its last bytes are as good as the others."""
    program.set(snaplen=1500)
    packet = V4 / TCP(sport=705, dport=443, flags="PA") / Raw((HELLO + bytes(1460))[:1460])
    assert len(packet) == 1500
    frame = bytes(before / packet)
    assert run(program.fd, frame) >= len(frame)
    program.set(snaplen=1499)
    assert run(program.fd, frame) == len(frame) - 1


def test_flags_and_times_of_a_flow(program: CaptureProgram) -> None:
    begin = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for flags in ("S", "A", "FA"):
        run(program.fd, segment(b"", sport=701, flags=flags))
    (row,) = program.flows()
    assert row["tcp_flags"] == 0x13
    assert begin < row["first"] < row["last"] < time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert not len(program.flows())


def test_flows_are_taken_one_by_one_where_the_kernel_knows_no_batches(
    program: CaptureProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise OSError(524, "not supported")

    monkeypatch.setattr(bpfsys, "_batches", unknown)
    for port in (11, 12, 12):
        run(program.fd, segment(b"", sport=port))
    flows = program.flows()
    assert sorted(zip(flows["src_port"].tolist(), flows["packets"].tolist(), strict=True)) == [(11, 1), (12, 2)]
    assert not len(program.flows())


def test_what_finds_no_room_is_counted() -> None:
    small = CaptureProgram.load(BPF, [], max_flows=4)
    try:
        for port in range(10):
            run(small.fd, segment(b"", sport=port + 1))
        assert len(small.flows()) == 4
        assert small.counters()["map_full"] == 6
        run(small.fd, segment(b"", sport=1))
        assert len(small.flows()) == 1
    finally:
        small.close()


# --- what is exported


def test_what_follows_a_beginning_is_exported_in_both_directions(program: CaptureProgram) -> None:
    program.set(follow=5)
    data = [
        segment(b"x" * 100, sport=800),
        segment(HELLO, sport=800),
        segment(b"", sport=800, back=True, flags="A"),
        *(segment(b"y" * 100, sport=800, back=True) for _ in range(3)),
        *(segment(b"z" * 100, sport=800) for _ in range(3)),
        segment(b"w" * 100, sport=801),
    ]
    assert exported(program, data) == [False, True, False, True, True, True, True, True, False, False]
    assert exported(program, [segment(GET, sport=800), data[0]]) == [True, True]
    # However long either side said nothing that counts.
    quiet = [segment(b"y" * 100, sport=805, back=True), segment(b"x" * 100, sport=805)] * 2
    assert exported(program, [*quiet, segment(HELLO, sport=805), *quiet]) == [False] * 4 + [True] * 5
    # The rest of a super-frame is not cut off, but used up.
    super_frames = [run(program.fd, data[0], segments=3) > 0 for _ in range(3)]
    assert super_frames == [True, True, False]


def test_segments_that_are_too_short_to_tell_are_exported_a_few_times(program: CaptureProgram) -> None:
    program.set(follow=1)
    assert exported(program, [segment(b"G", sport=802), segment(b"ET / HTTP/1.1", sport=802)]) == [True, True]
    program.set(follow=0)
    assert exported(program, [segment(b"k", sport=803)] * 12) == [True] * 8 + [False] * 4
    # The ports are used again.
    assert exported(program, [segment(b"", sport=803, flags="S"), segment(b"k", sport=803)]) == [False, True]
    calls = [segment(b'{"id":1,"method":"mining.submit"}', sport=804)] * 12
    assert exported(program, calls) == [True] * 8 + [False] * 4


@pytest.mark.parametrize(
    ("switch", "name"),
    [("dns", "vlan"), ("dns", "dns over tcp"), ("quic", "quic"), ("json", "stratum"), ("tls", "no length")],
)
def test_switches_take_effect_at_once(program: CaptureProgram, switch: str, name: str) -> None:
    frame = bytes(KINDS[name])
    program.set(follow=0)
    assert run(program.fd, frame)
    program.set(**{switch: 0})
    assert not run(program.fd, frame)
    assert len(program.flows())
    program.set(flows=0)
    run(program.fd, frame)
    assert not len(program.flows())


def test_the_budget_of_a_processor_is_kept_and_what_is_over_it_counted(program: CaptureProgram) -> None:
    os.sched_setaffinity(0, cpus := {min(before := os.sched_getaffinity(0))})
    try:
        program.set(budget=5)
        counters = program.counters()
        wanted = exported(program, [bytes(KINDS["vlan"])] * 400)
        over = program.counters()["over_budget"] - counters["over_budget"]
        # The second may have ended meanwhile.
        assert wanted[:5] == [True] * 5
        assert sum(wanted) + over == 400
        assert 5 <= sum(wanted) <= 15
    finally:
        os.sched_setaffinity(0, before)
        assert cpus


def test_armed_conversations_and_hosts_are_exported_whole(program: CaptureProgram) -> None:
    src, dst = (b"\0" * 10 + b"\xff\xff" + socket.inet_aton(str(address)) for address in (V4.src, V4.dst))
    there, back, other = segment(b"", sport=900), segment(b"", sport=900, back=True), segment(b"", sport=901)
    program.set(flows=1, dns=0, tls=0, http=0, quic=0, json=0, snaplen=64, budget=1)
    assert exported(program, [there, back, other]) == [False] * 3
    program.arm(dst, 443, src, 900, 6)
    assert exported(program, [there, back, other]) == [True, True, False]
    program.disarm(src, 900, dst, 443, 6)
    program.disarm(src, 900, dst, 443, 6)
    assert exported(program, [there, back, other]) == [False] * 3
    program.arm_host(socket.inet_pton(socket.AF_INET6, "2001:db8::2"))
    v6 = bytes(ETHER / V6 / TCP(flags="A"))
    assert exported(program, [there, v6]) == [False, True]
    assert run(program.fd, v6) > 1 << 17  # whatever snapshots say
    lone = bytes(ETHER / V6 / IPv6ExtHdrFragment(offset=9, id=4711, nh=17) / Raw(bytes(8)))
    assert exported(program, [lone]) == [True]
    program.disarm_host(socket.inet_pton(socket.AF_INET6, "2001:db8::2"))
    assert exported(program, [v6]) == [False]
    for number in range(1024):
        program.arm_host(number.to_bytes(16))
    with pytest.raises(ProgramError, match="1,024"):
        program.arm_host(b"\xff" * 16)
    for number in range(1024):
        program.disarm_host(number.to_bytes(16))
    assert exported(program, [v6]) == [False]


@pytest.mark.parametrize("wrong", [{"budgets": 1}, {"flows": 2}, {"snaplen": 0}, {"follow": -1}])
def test_settings_that_are_none_are_refused(program: CaptureProgram, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="no setting"):
        program.set(**wrong)


def test_what_cannot_be_loaded_says_why(tmp_path: object) -> None:
    with pytest.raises(ProgramError, match="sources are missing"):
        CaptureProgram.load(BPF.parent / "nowhere", [])
    with pytest.raises(ProgramError, match="is missing: BCC"):
        CaptureProgram.load(BPF, [], python="/nowhere/python3")
    with pytest.raises(ProgramError, match="ended with status"):
        CaptureProgram.load(BPF, [], python="/bin/false")
