"""Evidence of a real interface: what the program shows anyway is looked back on, and armed conversations and hosts come whole."""

from __future__ import annotations

from pathlib import Path

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import rdpcap

from daemoneye.events.addresses import packed
from daemoneye.evidence import Arm, Conversation
from daemoneye_sensor import procfs
from daemoneye_sensor.dissector import Dissector
from daemoneye_sensor.evidence import writing
from daemoneye_sensor.evidence.keeper import LOOK_BACK_BYTES, Keeper
from daemoneye_sensor.evidence.matching import pairs
from daemoneye_sensor.packets.capture import CaptureProgram
from daemoneye_sensor.packets.tap import Tap
from tests.kernel.conftest import BPF
from tests.support.namespaces import star
from tests.support.tapping import end_of, until

HERE, THERE = "10.213.0.1", "10.213.0.2"
ID = "0123456789abcdef" * 2
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def frame(port: int, text: bytes, source: str = HERE) -> bytes:
    return bytes(ETHER / IP(src=source, dst=THERE) / UDP(sport=4000, dport=port) / text)


async def test_what_was_shown_before_and_all_of_it_afterwards(tmp_path: Path) -> None:
    with star(1) as (here, _):
        end = end_of(here)
        program = CaptureProgram.load(BPF, [])
        tap = Tap(end.name, end.index, program, ring_bytes=1 << 20, promiscuous=True, netns=end.netns)
        kept, scapy = Keeper(), Dissector()
        kept.enable(on=True)
        kept.follow(program)
        seen = 0

        def looked(count: int) -> bool:
            nonlocal seen
            shown = list(tap.blocks())
            seen += sum(len(frames.begin) for frames in shown)
            kept.look(shown, {end.index: end.name}, {end.index: tap.statistics()[1]})
            return seen >= count

        try:
            # A question is shown anyway; of other conversations nothing that no parser wants.
            end.send(frame(53, b"before"), frame(7777, b"not shown"))
            until(lambda: looked(1))
            conversation = Conversation(HERE, THERE, 4000, 7777, "udp")
            request = Arm(ID, "n1", 600, 1 << 20, (conversation, Conversation(HERE, THERE, 4000, 53, "udp")))
            assert kept.arm(request, pairs(request.conversations, [packed("10.213.0.77")])) == ""
            end.send(
                frame(7777, b"one"),
                frame(7778, b"another's"),
                frame(7778, b"the host's", "10.213.0.77"),
                frame(7777, b"two"),
            )
            until(lambda: looked(4))
            (one,) = kept._requests.values()
            one.until = 0
            assert kept.due() == [one]
            end.send(frame(7777, b"too late"), frame(53, b"last"))
            until(lambda: looked(5))
            path = tmp_path / "out.pcapng"
            path.write_bytes(b"".join([part async for part in writing.file_of(scapy, one, procfs.clock_offset_ns())]))
        finally:
            await scapy.close()
            tap.close()
            program.close()
        assert [bytes(packet.payload.payload.payload) for packet in rdpcap(str(path))] == [
            b"before",
            b"one",
            b"the host's",
            b"two",
        ]
        assert one.names == {end.index: end.name}


def test_a_look_at_more_than_the_look_back_leaves_most_of_it(tmp_path: Path) -> None:
    sent = 2 * LOOK_BACK_BYTES // 1400
    with star(1) as (here, _):
        end = end_of(here)
        program = CaptureProgram.load(BPF, [])
        tap = Tap(end.name, end.index, program, ring_bytes=4 * LOOK_BACK_BYTES, promiscuous=True, netns=end.netns)
        kept = Keeper()
        kept.enable(on=True)
        try:
            end.send(*[frame(53, bytes(1400))] * sent)
            until(lambda: tap.statistics()[0] >= sent)
            # What a second of 16 MB/s leaves in the ring is one look.
            kept.look(list(tap.blocks()), {end.index: end.name}, {})
            assert tap.statistics()[1] == 0
            assert 3 / 4 * LOOK_BACK_BYTES < kept.bytes <= LOOK_BACK_BYTES
        finally:
            tap.close()
            program.close()
