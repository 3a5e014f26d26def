"""QUIC's Initial packets: the RFCs' own, built ones in every order, and what is none."""

from __future__ import annotations

import contextlib
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_sensor.l7.errors import Malformed
from daemoneye_sensor.l7.ja import ja4
from daemoneye_sensor.l7.quic import PACKETS, PIECES, Initials, looks_like
from daemoneye_sensor.l7.tls import handshake
from daemoneye_sensor.l7.tlsrecords import LONGEST
from tests.support.handshakes import (
    VERSIONS,
    alpn,
    crypto,
    flight,
    initial,
    message,
    numbers,
    other_long,
    server_name,
    varint,
)

# RFC 9001 A.2 and RFC 9369 A.2: the same ClientHello in both versions.
FRAME = bytes.fromhex(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578"
    "616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e000500050100000000003300260024001d00209370b2c9caa47fba"
    "baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e0403050306030203080408050806002d00020101001c0002400100"
    "3900320408ffffffffffffffff05048000ffff07048000ffff0801100104800075300901100f088394c8f03e51570806048000ffff"
)
DCID = bytes.fromhex("8394c8f03e515708")
PUBLISHED = {
    1: ("c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11", "e221af44860018ab0856972e194cd934"),
    0x6B3343CF: (
        "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485",
        "a18b2faa745b6fe189cf772a9f84cbfc",
    ),
}
RETRY = bytes.fromhex("ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba")  # RFC 9001 A.4
SHORT = bytes.fromhex("4cfe4189655e5cd55c41f69080575d7999c25a5bfb")  # RFC 9001 A.5

# As browsers send it now: with a post-quantum key share it needs two packets.
HELLO = message(
    (0x1301, 0x1302, 0x1303),
    [
        server_name(b"quic.example"), alpn(b"h3"), numbers(43, (0x0304,), 1), numbers(13, (0x0403, 0x0804)), numbers(10, (0x11EC, 29)),
        (51, bytes(1300)), (57, bytes(60)),
    ],
)  # fmt: skip
WANTED = handshake(HELLO)
HALVES = (crypto(0, HELLO[:700]), crypto(700, HELLO[700:]))


def read(*datagrams: bytes) -> Initials:
    state = Initials()
    for datagram in datagrams:
        state.add(datagram)
    return state


@pytest.mark.parametrize(("version", "name"), [(1, "1"), (0x6B3343CF, "2")])
def test_packet_of_the_rfc(version, name):
    packet = initial(FRAME, DCID, 2, version)
    begin, tag = PUBLISHED[version]
    assert len(packet) == 1200
    assert packet.startswith(bytes.fromhex(begin))
    assert packet.endswith(bytes.fromhex(tag))
    state = Initials()
    hello = state.add(packet)
    assert hello is not None
    assert (hello.sni, hello.alpn, hello.version, hello.length) == ("example.com", ("alpn",), "1.3", 241)
    assert (state.version, state.dcid, state.hello) == (name, DCID, hello)
    assert looks_like(packet)


@pytest.mark.parametrize("version", VERSIONS)
def test_hello_in_one_packet(version):
    hello = handshake(flight("www.example.com", alpn=("h3",))[5:])
    data = flight("www.example.com", alpn=("h3",))[5:]
    state = read(initial(crypto(0, data), version=version))
    assert state.hello == handshake(data)
    assert hello is not None
    assert ja4(hello, "q").startswith("q13d")


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (0xFF000016, "draft-22"), (0xFF00001C, "draft-28"), (0xFF00001D, "draft-29"), (0xFF000022, "draft-34"), (0xFACEB002, "mvfst-27"),
    ],
)  # fmt: skip
def test_draft_has_its_name(version, name):
    packet = initial(crypto(0, HELLO[:100]), version=version)
    assert looks_like(packet)
    assert read(packet).version == name


@pytest.mark.parametrize(
    "behind",
    [bytes(30), b"\xc8" * 30, b"\xc0\xff\xff\xff\xff" + bytes(30), SHORT],
    ids=["zeros", "rubbish", "unknown", "short"],
)
def test_what_is_no_packet_behind_one_is_passed_over(behind):
    state = read(initial(HALVES[0]) + behind, initial(HALVES[1], number=1) + behind)
    assert state.hello == WANTED


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_hello_in_two_packets(order):
    state = Initials()
    assert state.add(initial(HALVES[order[0]], number=order[0])) is None
    assert (state.version, state.dcid) == ("1", b"8 bytes!")
    assert state.add(initial(HALVES[order[1]], number=order[1])) == WANTED


def test_packets_in_one_datagram():
    packets = [initial(HALVES[0], size=0), other_long(1), initial(HALVES[1], number=1, size=0), other_long(2), SHORT]
    assert read(b"".join(packets)).hello == WANTED


def test_packet_is_followed_by_zeros():
    assert read(initial(HALVES[0], size=0) + bytes(300), initial(HALVES[1], number=1)).hello == WANTED


def test_packets_of_other_connections_in_a_datagram_are_passed_over():
    state = read(initial(HALVES[0], size=0) + initial(HALVES[1], b"another!", size=0))
    assert state.hello is None
    assert state.add(initial(HALVES[1])) == WANTED


def test_retransmission_changes_nothing():
    first, second = initial(HALVES[0]), initial(HALVES[1], number=1)
    assert read(first, first, initial(HALVES[0], number=3), second).hello == WANTED


def test_complete_hello_stays():
    state = read(initial(HALVES[0] + HALVES[1], size=0))
    assert state.add(b"whatever") == state.add(initial(b"\x01")) == WANTED


NOISE = st.sampled_from(
    [
        b"",
        b"\0",
        b"\x01",
        bytes(7),
        b"\x02\x05\x00\x00\x05",
        b"\x02\x40\x64\x19\x01\x05\x02\x03",
        b"\x03\x05\x00\x00\x05\x01\x02\x03",
    ]
)


@given(st.data())
def test_pieces_in_any_order_overlapping_and_among_other_frames(data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(HELLO) - 1), max_size=30)))
    edges = [0, *cuts, len(HELLO)]
    pieces = [
        crypto(start, HELLO[start : end + data.draw(st.integers(0, 40))]) for start, end in itertools.pairwise(edges)
    ]
    pieces = data.draw(st.permutations(pieces))
    packets = data.draw(st.integers(1, 4))
    state = Initials()
    for number in range(packets):
        payload = b"".join(piece + data.draw(NOISE) for piece in pieces[number::packets])
        state.add(initial(payload or b"\x01", number=number, width=data.draw(st.integers(1, 4))))
    assert state.hello == WANTED


def test_frames_that_may_be_there():
    ack = b"\x02" + varint(9) + varint(0) + varint(1) + varint(2) + varint(1) + varint(1)
    assert read(initial(ack + b"\x01" + HALVES[0] + bytes(3)), initial(HALVES[1] + b"\x1c\x01\x00\x00")).hello == WANTED


def test_after_a_retry_the_keys_are_those_of_the_servers_id():
    state = read(initial(HALVES[0]), RETRY)
    assert state.dcid == b"8 bytes!"
    assert state.add(initial(HALVES[1], b"retried", token=b"token", number=1)) is None  # a new beginning
    assert state.dcid == b"retried"
    assert state.add(initial(HALVES[0], b"retried", token=b"token", number=2)) == WANTED


def test_after_the_servers_first_answer_the_id_changes_and_the_keys_do_not():
    state = read(initial(HALVES[0]), initial(HALVES[1], b"servers!", number=1, first_dcid=b"8 bytes!"))
    assert state.hello == WANTED
    assert state.dcid == b"8 bytes!"


def test_attempt_with_another_version_begins_anew():
    state = read(initial(HALVES[0]), initial(HALVES[0], b"new id", version=0x6B3343CF))
    assert (state.version, state.dcid) == ("2", b"new id")
    assert state.add(initial(HALVES[1], b"new id", version=0x6B3343CF, number=1)) == WANTED


@pytest.mark.parametrize("datagram", [RETRY, other_long(1), other_long(2)], ids=["retry", "0-rtt", "handshake"])
def test_other_packets_are_passed_over(datagram):
    state = read(initial(HALVES[0]), datagram, initial(HALVES[1], number=1))
    assert state.hello == WANTED
    assert Initials().add(datagram) is None
    assert not looks_like(datagram)


def test_forged_datagram_spoils_nothing():
    state = read(initial(HALVES[0]))
    damaged = bytearray(initial(HALVES[1], number=1))
    damaged[600] ^= 1
    with pytest.raises(Malformed, match="keys of connection ID 3820627974657321 do not open"):
        state.add(bytes(damaged))
    assert state.add(initial(HALVES[1], number=1)) == WANTED


def long_header(version: int, *rest: bytes) -> bytes:
    return b"\xc0" + version.to_bytes(4) + b"".join(rest)


BAD = {
    "does not begin with a long header": SHORT,
    "datagram of 3 bytes": b"\xc0\0\0",
    "Version Negotiation": long_header(0, b"\x08", bytes(8), b"\x00", b"\x00\x00\x00\x01"),
    "0x51303433": long_header(0x51303433, bytes(30)),
    "0x5a6a7a8a": long_header(0x5A6A7A8A, bytes(30)),
    "connection IDs": long_header(1, b"\x15", bytes(40)),
    "longer than 20 bytes or than": long_header(1, b"\x14", bytes(10)),
    "number at byte": long_header(1, b"\0\0\x40"),
    "says 19 bytes": long_header(1, b"\0\0\0\x13", bytes(19)),
    "says 1000 bytes": long_header(1, b"\0\0\0", varint(1000), bytes(100)),
    "of no bytes do not open": long_header(1, b"\0\0\0", varint(100), bytes(100)),
    "keys of connection ID 3820627974657321 do not open": initial(HALVES[0], side="server in"),
    "frame of type 0x08 at byte 1": initial(b"\x01\x08\x00"),
    "CRYPTO frame of 4000 bytes": initial(b"\x06\x00" + varint(4000)),
    "cut off": initial(b"\x01" * 3 + b"\x06", size=0),
    "message of type 2": initial(crypto(0, b"\x02\0\0\0")),
    "ALPN": initial(crypto(0, message(extensions=[(16, b"\0\x09")]))),
    f"more than {LONGEST} bytes is not read": initial(crypto(LONGEST, bytes(5))),
    f"more than {LONGEST} are not read": initial(crypto(0, b"\x01\x01\x00\x01")),
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_initial_packet_is_told(text):
    with pytest.raises(Malformed, match=text):
        Initials().add(BAD[text])


def test_number_of_packets_is_bounded():
    state = read(*(initial(b"\x01", number=number) for number in range(PACKETS)))
    with pytest.raises(Malformed, match=f"in {PACKETS} QUIC"):
        state.add(initial(b"\x01", number=PACKETS))


@pytest.mark.parametrize(("pieces", "length"), [(200, 1), (1, 1400)], ids=["many small ones", "long ones that overlap"])
def test_what_waits_is_bounded(pieces, length):
    places = itertools.count(2, 2)
    payloads = [b"".join(crypto(next(places), bytes(length)) for _ in range(pieces)) for _ in range(PACKETS)]
    state = Initials()
    with pytest.raises(Malformed, match="wait for what comes before"):
        read_all(state, payloads)
    assert len(state._ahead) <= PIECES + pieces
    assert sum(map(len, state._ahead.values())) <= LONGEST + 1400


def read_all(state: Initials, payloads: list[bytes]) -> None:
    for number, payload in enumerate(payloads):
        state.add(initial(payload, number=number))


def test_longest_hello_in_the_worst_order_costs_milliseconds():
    room = LONGEST - (len(message(extensions=[(21, b"")])) - 4)
    data = message(extensions=[(21, bytes(room))])
    starts = range(0, len(data), 1400)
    packets = [initial(crypto(at, data[at : at + 1400]), number=n, size=0) for n, at in enumerate(reversed(starts))]
    begin = time.process_time()
    state = read(*packets)
    assert time.process_time() - begin < 1.0
    assert state.hello == handshake(data)


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_malformed_at_worst(data):
    for begin in (b"", b"\xc0\0\0\0\x01", b"\xd0\x6b\x33\x43\xcf", b"\xe0\0\0\0\x01\x08"):
        looks_like(begin + data)
        looks_like((begin + data).ljust(1200, b"\0"))
        with contextlib.suppress(Malformed):
            Initials().add(begin + data)


@given(st.binary(min_size=1, max_size=60))
def test_arbitrary_frames_are_malformed_at_worst(payload):
    with contextlib.suppress(Malformed):
        Initials().add(initial(payload))


@given(st.integers(0, 1199), st.integers(0, 255))
def test_changed_byte_gives_malformed_or_nothing_wrong(at, value):
    packet = bytearray(initial(HALVES[0]))
    packet[at] = value
    state = Initials()
    with contextlib.suppress(Malformed):
        state.add(bytes(packet))
    assert state.hello is None


@given(st.integers(0, 1199))
def test_cut_datagram_is_malformed(cut):
    assert not looks_like(initial(FRAME)[:cut])
    if cut:
        with pytest.raises(Malformed):
            Initials().add(initial(FRAME)[:cut])
    else:
        assert Initials().add(b"") is None


VERSION_2 = b"\x6b\x33\x43\xcf"
NO_INITIAL = {
    "empty": b"",
    "short header": SHORT.ljust(1200),
    "retry": RETRY.ljust(1200),
    "0-rtt": other_long(1, content=bytes(1200)),
    "0-rtt of version 2": initial(FRAME).replace(b"\0\0\0\x01", VERSION_2, 1),
    "retry of version 1": initial(FRAME, version=0x6B3343CF).replace(VERSION_2, b"\0\0\0\x01", 1),
    "small": initial(FRAME, size=0),
    "Google's former QUIC": long_header(0x51303433, bytes(1200)),
}


@pytest.mark.parametrize("kind", NO_INITIAL)
def test_what_does_not_look_like_an_initial_packet(kind):
    assert not looks_like(NO_INITIAL[kind])
