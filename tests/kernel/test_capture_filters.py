"""Filters of the capture program: its own answers are libpcap's, and they decide what is inspected."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Dot1Q
from scapy.packet import Raw

from daemoneye.errors import ConfigError
from daemoneye_sensor import filters
from daemoneye_sensor.packets import compiling
from daemoneye_sensor.packets.capture import CaptureProgram
from tests.kernel.conftest import BPF
from tests.kernel.test_capture_program import DNS, ETHER, FRAMES, GET, KINDS, V4, exported, mutilated, segment
from tests.support.bpfoffline import EXPRESSIONS, offline
from tests.support.bpfrun import run


@pytest.fixture(scope="module")
def judges() -> Iterator[list[int]]:
    """Programs that answer with the mask of 32 filters each, made as the capture program is."""
    made = []
    for begin in range(0, len(EXPRESSIONS), 32):
        compiled = compiling.Filters.of([(expression, 96) for expression in EXPRESSIONS[begin : begin + 32]])
        header = compiling.text(BPF, compiled).partition("enum de_fate")[0]
        judge = """
            int judge(struct __sk_buff *skb)
            {
                return de_matched(skb, 0);
            }
        """
        made += compiling.load(header + judge, ["judge"], [], {"DE_MAX_FLOWS": 1}, "/usr/bin/python3")[0]
    yield made
    for fd in made:
        os.close(fd)


COMPILED = [made for _, made in filters.compiled([(expression, 96, filters.ETHERNET) for expression in EXPRESSIONS])]


def test_filters_in_the_kernel_match_what_libpcap_says(judges: list[int]) -> None:
    for frame in FRAMES:
        for length in (len(frame), len(frame) // 2, 20, 1):
            cut = frame[:length]
            masks = [run(fd, cut) for fd in judges]
            said = [offline(made, cut) for made in COMPILED]
            assert [bool(masks[i // 32] >> i % 32 & 1) for i in range(len(said))] == said


@settings(max_examples=200)
@given(mutilated() | st.binary(min_size=1, max_size=300))
def test_filters_in_the_kernel_match_any_frame_as_libpcap_does(judges: list[int], frame: bytes) -> None:
    masks = [run(fd, frame) for fd in judges]
    assert [bool(masks[i // 32] >> i % 32 & 1) for i in range(len(COMPILED))] == [offline(made, frame) for made in COMPILED]  # fmt: skip


def test_filters_decide_what_is_inspected_and_neither_flows_nor_dns() -> None:
    asked = [("tcp dst port 80", 96), ("tcp prot 80", 96), ("host 192.0.2.9 and tcp", 96), ("vlan 5", 96)]
    filtered = CaptureProgram.load(BPF, asked)
    try:
        assert list(filtered.problems) == [1]
        assert "syntax error" in filtered.problems[1]
        data = [
            segment(GET, sport=1000, dport=80),
            segment(GET, sport=1001, dport=81),
            bytes(ETHER / V4 / DNS),
            bytes(ETHER / Dot1Q(vlan=5) / IP(src="192.0.2.9", dst="192.0.2.8") / TCP(sport=1002, dport=80) / Raw(GET)),
        ]
        assert exported(filtered, data) == [True, False, True, True]
        assert filtered.counters()["filtered"] == 1
        assert sorted(filtered.flows()["src_port"].tolist()) == [1000, 1001, 1002, 4000]
    finally:
        filtered.close()


def test_an_empty_filter_admits_everything_and_a_bad_one_alone_nothing() -> None:
    for asked, wanted in (([("", 96), ("tcp dst port 1", 96)], True), ([("tcp prot 80", 96)], False)):
        made = CaptureProgram.load(BPF, asked)
        try:
            assert exported(made, [segment(GET, sport=1003), bytes(KINDS["vlan"])]) == [wanted, True]
            assert len(made.flows()) == 2
        finally:
            made.close()


def test_too_many_filters_are_refused_before_anything_is_compiled() -> None:
    with pytest.raises(ConfigError, match="at most 64"):
        CaptureProgram.load(BPF, [("tcp", 96)] * 65)
    hosts = " or ".join(f"host 10.0.0.{i}" for i in range(40))
    with pytest.raises(ConfigError, match="instructions together"):
        CaptureProgram.load(BPF, [(f"{hosts} or port {number}", 96) for number in range(1, 64)])
