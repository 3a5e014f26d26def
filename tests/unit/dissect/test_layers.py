"""Dissection of whatever bytes: an answer within bounds, or an error that the process answers."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.tls.handshake import TLSClientHello
from scapy.layers.tls.record import TLS

from daemoneye_dissect import layers
from tests.support.dissecting import ether

SEEDS = [
    bytes(ether() / IP() / UDP(dport=53) / DNS(qd=DNSQR(qname="a.b.example"))),
    bytes(ether() / IP() / TCP(dport=443) / TLS(msg=[TLSClientHello()])),
    bytes(ether() / IPv6() / IPv6ExtHdrHopByHop() / TCP(dport=80) / b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    *(bytes(ether() / IP() / UDP(dport=port) / bytes(range(100))) for port in (67, 123, 161, 389, 500, 4789, 5353)),
    *(bytes(ether() / IP() / TCP(dport=port) / bytes(range(100))) for port in (22, 88, 139, 389, 445, 1812)),
]


@pytest.fixture(scope="module", autouse=True)
def protocols():
    layers.load()


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_frame_holds_the_answer_is_bounded(data):
    frame = bytearray(data.draw(st.sampled_from(SEEDS)))
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(frame) - 1), st.integers(0, 255)), max_size=12)
    ):
        frame[place] = value
    frame += data.draw(st.binary(max_size=300))
    link = data.draw(st.sampled_from([1, 1, 1, 101, 113, 7777]))
    with contextlib.suppress(Exception):  # the process answers that it cannot
        answer = layers.dissect(bytes(frame), link)
        assert len(json.dumps(answer)) < 1 << 20
        assert len(answer["layers"]) <= layers.MAX_LAYERS


def test_empty_lists_within_lists_have_a_price():
    teller = layers._Teller()
    deep: list = [[[[]] * 64] * 64] * 64
    assert len(json.dumps(layers._value(teller, deep, 0))) < 1 << 18
    assert teller.left <= 0
