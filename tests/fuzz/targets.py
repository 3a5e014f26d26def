"""What is fuzzed: every decoder of bytes that somebody else chose, as a function of bytes that must not fail.

A target lets `Malformed`, or whatever else its decoder is documented to raise, pass; everything else that is raised is a finding, and so is a
result that is not as bounded as it says. Targets whose decoder takes more than bytes say in their docstring how these are laid out.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from daemoneye.errors import CorruptData
from daemoneye_sensor.l7 import der, dns, dnsdata, http, ja, quic, sslv2, stratum, tls
from daemoneye_sensor.l7.errors import Malformed
from daemoneye_sensor.l7.tlsrecords import LONGEST
from daemoneye_sensor.packets import cbpf, link
from daemoneye_sensor.packets import inspector as inspectors
from daemoneye_sensor.packets.columns import Fate, Packets
from daemoneye_sensor.packets.inspector import Inspector
from daemoneye_sensor.packets.layers import Decoder
from daemoneye_sensor.sources.capturefile import MAX_FRAME, CaptureFile
from tests.support.handshakes import initial

TARGETS: Final[dict[str, Callable[[bytes], None]]] = {}
LINKS: Final = (*sorted(link.KNOWN), 147)
"""Link types, and one that nobody knows."""
_START: Final = 1_767_225_600_000_000_000


def target(function: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Enter a function under its name."""
    TARGETS[function.__name__.removeprefix("fuzz_")] = function
    return function


def pieces(data: bytes, most: int = 64) -> Iterator[bytes]:
    """Pieces with two bytes of length before each; the last may be cut off."""
    at = 0
    while at + 2 <= len(data) and most:
        end = at + 2 + int.from_bytes(data[at : at + 2])
        yield data[at + 2 : end]
        at, most = end, most - 1


@target
def fuzz_dns(data: bytes) -> None:
    """A message, and the same bytes as a stream of TCP."""
    messages, consumed = dns.frames(data)
    assert consumed == sum(2 + len(message) for message in messages) <= len(data)
    for wire in (data, *messages[:8]):
        with contextlib.suppress(Malformed):
            read = dns.parse(wire)
            assert len(read.answers) == len(read.ttls) <= min(dns.ANSWERS, read.answer_count)
            assert all(len(answer) <= dnsdata.TEXT for answer in read.answers)
            assert len(read.query) <= 4 * 255
            if not read.partial:
                assert dns.parse(wire, whole=True) == read
            assert dns.parse(wire, answers=False) == read._replace(answers=(), ttls=())


def _hello(hello: tls.ClientHello | None, data: bytes) -> None:
    if hello is not None:
        assert hello.length <= len(data)
        assert len(ja.ja3(hello)) == 32
        assert len(ja.ja4(hello, "t")) == 36
        assert len(hello.sni) <= 4 * len(data)


@target
def fuzz_tls_client(data: bytes) -> None:
    """What a client sends first, in records and without."""
    tls.looks_like(data)
    sslv2.looks_like(data)
    for parse in (tls.client_hello, tls.handshake, sslv2.client_hello):
        with contextlib.suppress(Malformed):
            _hello(parse(data), data)


@target
def fuzz_tls_server(data: bytes) -> None:
    """What a server sends first."""
    tls.answers(data)
    with contextlib.suppress(Malformed):
        tls.server_hello(data)
    with contextlib.suppress(Malformed):
        answer = tls.server_certificates(data)
        if answer is not None:
            assert (answer.given == "sent") == bool(answer.sha256)


@target
def fuzz_der(data: bytes) -> None:
    """A certificate. Its text is some times as long as its bytes: every byte may become three characters, an unknown one hexadecimal."""
    assert sum(map(len, der.names(data))) <= 64 * len(data) + 64


@target
def fuzz_quic(data: bytes) -> None:
    """Datagrams as pieces. One that begins with 0 to 2 is what is sealed in an Initial packet of a version, so that frames are reached too."""
    initials = quic.Initials()
    for number, piece in enumerate(pieces(data)):
        datagram = piece
        if piece[:1] in (b"\0", b"\1", b"\2"):
            version = (1, 0x6B3343CF, 0xFF00001D)[piece[0]]
            datagram = initial(piece[1:], number=number, version=version)
        if datagram:
            quic.looks_like(datagram)
        with contextlib.suppress(Malformed):
            initials.add(datagram)
        held = len(initials._stream) + sum(map(len, initials._ahead.values()))
        assert held <= 2 * LONGEST + 4
        assert len(initials._ahead) <= quic.PIECES + len(datagram)
    if initials.hello is not None:
        _hello(initials.hello, data + bytes(2 * LONGEST))


@target
def fuzz_http(data: bytes) -> None:
    """A head of a request, with secrets and without, and of a response."""
    http.looks_like_request(data)
    http.looks_like_response(data)
    for redact in (True, False):
        with contextlib.suppress(Malformed):
            request = http.request(data, redact=redact)
            if request is not None:
                assert request.size <= len(data)
                assert len(request.uri) + len(request.host) + len(request.user_agent) <= 16 * len(data)
                assert set(request.oddities) <= set(http.ODDITIES)
    with contextlib.suppress(Malformed):
        response = http.response(data)
        assert response is None or (response.size <= len(data) and 100 <= response.status <= 999)


@target
def fuzz_stratum(data: bytes) -> None:
    """A call of a miner's."""
    assert stratum.looks_like(data) == stratum.looks_like(data[: stratum.HEAD])


def _columns(frames: list[bytes], kind: int, decoder: Decoder, time: int = _START) -> Packets:
    data = np.frombuffer(b"".join(frames) + bytes(8), np.uint8)
    captured = np.array([len(frame) for frame in frames], np.int64)
    begin = np.cumsum(captured) - captured
    moments = np.arange(time, time + len(frames), dtype=np.int64)
    # Nobody reads behind a frame: what follows it there is the next one's, and behind the last there is nothing.
    packets = decoder.decode(data[: int(captured.sum())], begin, captured, captured, moments, kind)
    _inside(packets, begin, begin + captured)
    return packets


def _inside(packets: Packets, begin: np.ndarray, end: np.ndarray) -> None:
    """Every payload lies within a frame."""
    filled = packets.length > 0
    at = packets.payload[filled]
    frame = np.searchsorted(begin, at, side="right") - 1
    assert (packets.length >= 0).all()
    assert (at + packets.length[filled] <= end[frame]).all()


@target
def fuzz_layers(data: bytes) -> None:
    """The first byte chooses the link type, the rest are frames as pieces."""
    decoder = Decoder()
    frames = list(pieces(data[1:], 256))
    packets = _columns(frames, LINKS[data[0] % len(LINKS)] if data else 1, decoder)
    passed = sum(count for fate, count in decoder.seen.passed.items() if fate is not Fate.PACKET)
    assert decoder.seen.frames == len(frames) == len(packets) + passed


@target
def fuzz_capturefile(data: bytes) -> None:
    """A file, and its frames' layers."""
    descriptor = os.memfd_create("fuzz")
    try:
        os.write(descriptor, data)
        with contextlib.suppress(CorruptData):
            _read_file(Path(f"/proc/self/fd/{descriptor}"), len(data))
    finally:
        os.close(descriptor)


def _read_file(path: Path, size: int) -> None:
    file = CaptureFile(path)
    decoders: dict[str, Decoder] = {}
    frames = 0
    try:
        for block in file.blocks():
            frames += len(block.begin)
            assert 16 * frames <= size
            assert (block.captured >= 0).all()
            assert (block.captured <= MAX_FRAME).all()
            assert (block.begin + block.captured <= size).all()
            assert (block.time >= 0).all()
            decoder = decoders.setdefault(block.interface, Decoder())
            decoder.decode(block.data, block.begin, block.captured, block.size, block.time, block.link)
            del block
    finally:
        file.close()


_PORTS: Final = (53, 443, 80, 5353)


@target
def fuzz_inspect(data: bytes) -> None:
    """Segments and datagrams of a few connections, as pieces: kind, two bytes of sequence, payload.

    Of the kind two bits choose the server's port, one the direction, one UDP, two TCP's flags and two the client. A kind of 255 ends the block
    that is inspected at once and lets eleven seconds go by.
    """
    inspector = Inspector()
    decoder = Decoder()
    frames: list[bytes] = []
    time = _START
    total = 0
    for piece in (*pieces(data, 1024), b"\xff"):
        if piece[:1] != b"\xff":
            frames += [_frame(piece)] if len(piece) >= 3 else []
            continue
        packets = _columns(frames, 101, decoder, time)
        total += len(packets)
        inspector.inspect(packets)
        frames, time = [], time + 11_000_000_000
        assert max(len(inspector._open), len(inspector._read)) <= inspectors.MAX_OPEN
        assert not inspector._early
    counted = inspector.flows.rows[inspector.flows.rows["used"]]
    assert int(counted["src_packets"].sum() + counted["dst_packets"].sum()) <= total
    inspector.end()
    assert not inspector._open
    assert not inspector._initials


def _frame(piece: bytes) -> bytes:
    kind, payload = piece[0], piece[3:]
    client, server = (4000 + (kind >> 6), 0x0A000001), (_PORTS[kind & 3], 0x0A000002)
    (sport, src), (dport, dst) = (client, server) if kind & 4 else (server, client)
    udp = kind & 8
    if udp:
        above = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0)
    else:
        flags = (0x18, 0x02, 0x12, 0x11)[kind >> 4 & 3]
        sequence = 0xFFFF_F000 + int.from_bytes(piece[1:3])  # around where they wrap
        above = struct.pack("!HHIIBBHHH", sport, dport, sequence % 2**32, 0, 0x50, flags, 0, 0, 0)
    size = min(20 + len(above) + len(payload), 0xFFFF)
    return struct.pack("!BBHIBBHII", 0x45, 0, size, 0, 64, 17 if udp else 6, 0, src, dst) + above + payload


@target
def fuzz_cbpf(data: bytes) -> None:
    """A filter of classic BPF and frames, as pieces: its instructions of eight bytes each, then what it looks at. libpcap runs it too."""
    first, *frames = list(pieces(data, 9)) or [b""]
    instructions = [struct.unpack_from("!HBBI", first, at) for at in range(0, len(first) - 7, 8)][:256]
    # Memory that was never written is the kernel's refusal and libpcap's garbage: here all of it is.
    whole = [(0x00, 0, 0, 0), *((0x02, 0, 0, word) for word in range(16)), *instructions]
    try:
        program = cbpf.Program.of(whole)
    except ValueError:
        return
    assert cbpf.to_c(program, "filter")
    data_, captured = np.frombuffer(b"".join(frames), np.uint8), np.array([len(frame) for frame in frames], np.int64)
    matched = cbpf.matches(program, data_, np.cumsum(captured) - captured, captured, captured + 7)
    if _comparable(whole):
        for frame, found in zip(frames, matched.tolist(), strict=True):
            assert found == _libpcap(whole, frame, len(frame) + 7), (whole, frame)


def _comparable(instructions: list[tuple[int, int, int, int]]) -> bool:
    """Whether libpcap gives every instruction the same meaning: it has no ancillary values, and shifts by 32 and more are C's."""
    return not any(
        (code & 7 == 0 and code & 0xE0 == 0x20 and k >= 0xFFFFF000) or (code & 0x0F == 0x04 and code & 0xF0 in (0x60, 0x70) and k > 31)
        for code, _, _, k in instructions
    )  # fmt: skip


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


@lru_cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libpcap.so.0.8")
    library.bpf_filter.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint)
    library.bpf_filter.restype = ctypes.c_uint
    return library


def _libpcap(instructions: list[tuple[int, int, int, int]], frame: bytes, size: int) -> bool:
    program = (_Instruction * len(instructions))(*(_Instruction(*one) for one in instructions))
    return _library().bpf_filter(ctypes.addressof(program), frame, size, len(frame)) != 0
