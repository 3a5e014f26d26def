"""The capture file of what was collected: packets as they were, their community ids, what was lost, and what it is about."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from scapy.utils import rdpcap

from daemoneye.evidence import Arm
from daemoneye_sensor.dissector import Dissector
from daemoneye_sensor.evidence import writing
from daemoneye_sensor.evidence.keeper import Collected
from daemoneye_sensor.evidence.seen import pack
from daemoneye_sensor.sources.capturefile import CaptureFile
from tests.support.shown import SECOND, Shown, shown, tcp
from tests.unit.sensor.evidence.test_keeper import ID, MIXED, A, B

OFFSET = 1_767_225_600 * SECOND


@pytest.fixture
async def dissector():
    made = Dissector()
    yield made
    await made.close()


def collected(*parts: Shown, complete: bool = True, dropped: int = 0) -> Collected:
    packed = [pack(part, range(len(part.begin))) for part in parts]  # type: ignore[arg-type]
    return Collected(
        Arm(ID, "n1", 10, 1 << 20), (), 0.0, 1 << 20, packed, frames=sum(len(part.begin) for part in parts), complete=complete,
        names={2: "eth0", 3: "veth9"}, dropped=Counter({2: dropped}),
    )  # fmt: skip


async def written(dissector: Dissector, one: Collected, path: Path) -> Path:
    path.write_bytes(b"".join([part async for part in writing.file_of(dissector, one, OFFSET)]))
    return path


async def test_packets_of_two_interfaces_with_ids_and_losses(dissector, tmp_path):
    one = collected(shown(MIXED), shown([tcp(A, 4711, B, 443, b"late")], at=100, ifindex=3), dropped=5, complete=False)
    path = await written(dissector, one, tmp_path / "out.pcapng")
    packets = rdpcap(str(path))
    assert [bytes(packet) for packet in packets] == [*map(bytes, MIXED), bytes(tcp(A, 4711, B, 443, b"late"))]
    ids = [packet.comments[0].decode() if packet.comments else "" for packet in packets]
    assert ids[0].startswith("community id 1:")
    assert [ids.index(text) for text in ids] == [0, 0, 2, 3, 4, 0, 0, 7, 8, 0], (
        "both directions, a VLAN and a tunnel are one"
    )
    assert ids[8] == "", "no IP"
    blocks = list(CaptureFile(path).blocks())
    assert [(block.interface, len(block.begin)) for block in blocks] == [("eth0", 9), ("veth9", 1)]
    assert blocks[0].time.tolist() == [OFFSET + n * SECOND for n in range(9)]
    assert (blocks[0].size - blocks[0].captured).tolist() == [7] * 9
    head = path.read_bytes()[:400]
    assert f"packets of finding {ID}, kept on node n1".encode() in head
    assert b"5 frames were lost by the capture meanwhile; it ends where its room was used up" in head
    assert writing.span(one, OFFSET) == (OFFSET, OFFSET + 100 * SECOND)


async def test_a_file_of_several_parts_is_one(dissector, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "PART_FRAMES", 4)
    monkeypatch.setattr(writing, "PART_BYTES", 2000)
    groups = [[tcp(A, 4711, B, 443, bytes(size))] * 3 for size in (1, 1, 900, 900, 3000, 1)]
    one = collected(*(shown(group, at=number) for number, group in enumerate(groups)))
    path = await written(dissector, one, tmp_path / "out.pcapng")
    assert [bytes(packet) for packet in rdpcap(str(path))] == [bytes(packet) for group in groups for packet in group]
    assert len(list(writing._slices(one.parts))) > 4
    assert dissector.started == 1


async def test_more_conversations_than_comments(dissector, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "MAX_COMMENTS", 3)
    many = shown([tcp(A, port, B, 443) for port in range(1, 11)])
    path = await written(dissector, collected(many), tmp_path / "out.pcapng")
    assert sum(bool(packet.comments) for packet in rdpcap(str(path))) == 3


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
async def test_tshark_reads_it(dissector, tmp_path):
    path = await written(dissector, collected(shown(MIXED)), tmp_path / "out.pcapng")
    done = subprocess.run(
        ["tshark", "-r", path, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.comment"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == len(MIXED)
    assert lines[0].startswith("eth0\tcommunity id 1:")
