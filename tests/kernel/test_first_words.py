"""What the capture program exports of first words that nobody knows, at well-known ports, for scapy to take apart."""

from __future__ import annotations

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from daemoneye_sensor.packets.capture import CaptureProgram
from tests.kernel.conftest import BPF
from tests.support.bpfrun import run

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def segment(payload: bytes, *, sport: int, dport: int = 443, flags: str = "PA") -> bytes:
    ip = IP(src="192.0.2.1", dst="192.0.2.2")
    return bytes(ETHER / ip / TCP(sport=sport, dport=dport, seq=1, flags=flags) / Raw(payload))


def exported(program: CaptureProgram, frames: list[bytes]) -> list[bool]:
    return [run(program.fd, frame) > 0 for frame in frames]


def test_first_words_at_a_well_known_port_are_exported_where_somebody_wants_them() -> None:
    program = CaptureProgram.load(BPF, [])
    try:
        begun = [segment(b"", sport=4100, flags="S"), segment(b"", sport=4100, flags="A")]
        words, later = segment(b"SSH-2.0-OpenSSH\r\n", sport=4100), segment(b"what follows", sport=4100)
        assert exported(program, [*begun, words]) == [False] * 3
        program.set(odd=1)
        program._salt += 1
        program.flows()
        assert exported(program, [*begun, words]) == [False, False, True]
        assert exported(program, [later] * 3) == [False] * 3, "they are the first ones no more"
        others = [segment(b"", sport=4101, flags="S", dport=5432), segment(b"whatever", sport=4101, dport=5432)]
        assert exported(program, others) == [False, False]
        middle = segment(b"the middle of a record", sport=4102)
        assert exported(program, [middle]) == [False], "a connection whose beginning was not seen"
    finally:
        program.close()
