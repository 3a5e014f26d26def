"""The community id is the one that every other tool computes."""

from __future__ import annotations

import itertools
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.events.community import community_id

BASELINE = [  # the specification's baseline: protocol, source, destination, ports (ICMP: type, counterpart or code), id by seed 0 and 1
    (58, "fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", (135, 136), "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=", "1:kHa1FhMYIT6Ym2Vm2AOtoOARDzY="),
    (58, "fe80::260:97ff:fe07:69ea", "fe80::200:86ff:fe05:80da", (136, 135), "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=", "1:kHa1FhMYIT6Ym2Vm2AOtoOARDzY="),
    (58, "fe80::260:97ff:fe07:69ea", "fe80::200:86ff:fe05:80da", (135, 136), "1:zavyT/cezQr1fmImYCwYnMXbgck=", "1:2hSqmsDZ2kdcY9kbiUzOEBic0iM="),
    (58, "fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", (136, 135), "1:zavyT/cezQr1fmImYCwYnMXbgck=", "1:2hSqmsDZ2kdcY9kbiUzOEBic0iM="),
    (58, "3ffe:501:1800:2345::2", "3ffe:507:0:1:200:86ff:fe05:80da", (3, 0), "1:2ObVBgIn28oZvibYZhZMBgh7WdQ=", "1:lVEtCZpYu84Xqaa++3lXFyuu2n4="),
    (58, "3ffe:501:410:0:2c0:dfff:fe47:33e", "3ffe:507:0:1:200:86ff:fe05:80da", (1, 4), "1:hLZd0XGWojozrvxqE0dWB1iM6R0=", "1:W8MHwXpWzpoSTD+cGcaJr4u0ys8="),
    (58, "3ffe:507:0:1:200:86ff:fe05:80da", "3ffe:501:0:1001::2", (128, 129), "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg=", "1:GfZxjAkDk2MkegpBYHV6tadtFXQ="),
    (58, "3ffe:501:0:1001::2", "3ffe:507:0:1:200:86ff:fe05:80da", (129, 128), "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg=", "1:GfZxjAkDk2MkegpBYHV6tadtFXQ="),
    (58, "fe80::200:86ff:fe05:80da", "ff02::2", (133, 134), "1:hO+sN4H+MG5MY/8hIrXPqc4ZQz0=", "1:L7Ka0ZMYu+J3bL4ulW2PrqyXNo8="),
    (58, "fe80::260:97ff:fe07:69ea", "ff02::1", (134, 133), "1:pkvHqCL88/tg1k4cPigmZXUtL00=", "1:K/ee5UCqAMAQXDorP5nSa2CGLjc="),
    (1, "192.168.0.89", "192.168.0.1", (8, 0), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=", "1:03g6IloqVBdcZlPyX8r0hgoE7kA="),
    (1, "192.168.0.1", "192.168.0.89", (0, 8), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=", "1:03g6IloqVBdcZlPyX8r0hgoE7kA="),
    (1, "10.0.0.1", "10.0.0.2", (11, 0), "1:YHxtAirCG//0OzkcVAukqKQN9xM=", "1:XjUibYHaafLQ3pxQeiMI8g25q20="),
    (6, "2001:470:e5bf:dead:4957:2174:e82c:4887", "2607:f8b0:400c:c03::1a", (63943, 25), "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=", "1:eJYTW6AOzFLlSUoESovMjnu7rMw="),
    (6, "2607:f8b0:400c:c03::1a", "2001:470:e5bf:dead:4957:2174:e82c:4887", (25, 63943), "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=", "1:eJYTW6AOzFLlSUoESovMjnu7rMw="),
    (132, "192.168.170.8", "192.168.170.56", (7, 7), "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs=", "1:5w3ZRjeKBzqT3zsaEECDGjUbYeg="),
    (132, "192.168.170.56", "192.168.170.8", (7, 7), "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs=", "1:5w3ZRjeKBzqT3zsaEECDGjUbYeg="),
    (6, "128.232.110.120", "66.35.250.204", (34855, 80), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=", "1:3V71V58M3Ksw/yuFALMcW0LAHvc="),
    (6, "66.35.250.204", "128.232.110.120", (80, 34855), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=", "1:3V71V58M3Ksw/yuFALMcW0LAHvc="),
    (17, "192.168.1.52", "8.8.8.8", (54585, 53), "1:d/FP5EW3wiY1vCndhwleRRKHowQ=", "1:Q9We8WO3piVF8yEQBNJF4uiSVrI="),
    (17, "8.8.8.8", "192.168.1.52", (53, 54585), "1:d/FP5EW3wiY1vCndhwleRRKHowQ=", "1:Q9We8WO3piVF8yEQBNJF4uiSVrI="),
    (46, "10.1.12.1", "10.1.12.2", (0, 0), "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw=", "1:rYir8gphR31noO9iDRQmF/BteEI="),
    (46, "10.1.12.2", "10.1.12.1", (0, 0), "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw=", "1:rYir8gphR31noO9iDRQmF/BteEI="),
]  # fmt: skip


def of(proto: int, source: str, destination: str, ports: tuple[int, int], seed: int = 0) -> str:
    return community_id(ip_address(source).packed, ip_address(destination).packed, *ports, proto, seed)


@pytest.mark.parametrize("row", BASELINE, ids=lambda row: f"{row[0]}-{row[1]}-{row[3][0]}")
def test_the_baseline_of_the_specification(row: tuple[int, str, str, tuple[int, int], str, str]) -> None:
    proto, source, destination, ports, seed0, seed1 = row
    assert of(proto, source, destination, ports) == seed0
    assert of(proto, source, destination, ports, 1) == seed1


def test_both_ways_of_an_echo_are_one_flow_and_the_code_says_nothing() -> None:
    request = of(1, "192.168.0.89", "192.168.0.1", (8, 0))
    assert request == of(1, "192.168.0.1", "192.168.0.89", (0, 0)) == of(1, "192.168.0.89", "192.168.0.1", (8, 8))


def test_icmp_without_an_answer_keeps_its_direction() -> None:
    there, back = of(1, "10.0.0.1", "10.0.0.2", (3, 1)), of(1, "10.0.0.2", "10.0.0.1", (3, 1))
    assert there != back
    assert there != of(1, "10.0.0.1", "10.0.0.2", (3, 3)), "the code counts"


def test_an_ipv4_mapped_address_is_the_ipv4_address() -> None:
    mapped = of(6, "::ffff:128.232.110.120", "::ffff:66.35.250.204", (34855, 80))
    assert mapped == "1:LQU9qZlK+B5F3KDmev6m5PMibrg="
    assert mapped == of(6, "::ffff:128.232.110.120", "66.35.250.204", (34855, 80))


def test_one_mapped_address_alone_stays_ipv6() -> None:
    assert of(6, "::1", "::ffff:10.0.0.1", (1, 2)) == of(6, "::ffff:10.0.0.1", "::1", (2, 1))


def test_protocols_without_ports_ignore_them() -> None:
    assert of(46, "10.1.12.1", "10.1.12.2", (1, 2)) == of(46, "10.1.12.2", "10.1.12.1", (0, 0))


@given(
    addresses=st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4))
    | st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
    ports=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    proto=st.sampled_from([6, 17, 132, 47]),
    seed=st.integers(0, 65535),
)
def test_the_direction_makes_no_difference(addresses, ports, proto, seed) -> None:
    source, destination = (address.packed for address in addresses)
    there = community_id(source, destination, ports[0], ports[1], proto, seed)
    assert there == community_id(destination, source, ports[1], ports[0], proto, seed)
    assert len(there) == 30


def test_equal_addresses_are_ordered_by_port() -> None:
    assert of(6, "127.0.0.1", "127.0.0.1", (40000, 80)) == of(6, "127.0.0.1", "127.0.0.1", (80, 40000))
    for first, second in itertools.pairwise(range(255, 259)):
        assert of(17, "::1", "::1", (first, second)) == of(17, "::1", "::1", (second, first))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((bytes(5), bytes(4), 1, 2, 6), "5 bytes"),
        ((bytes(4), bytes(16), 1, 2, 6), "one family"),
        ((bytes(4), bytes(4), 65536, 2, 6), "65536"),
        ((bytes(4), bytes(4), 1, 2, 256), "protocol 256"),
        ((bytes(4), bytes(4), 1, 2, 6, -1), "seed -1"),
    ],
    ids=["length", "families", "port", "protocol", "seed"],
)
def test_what_no_flow_has_is_refused_in_a_sentence(arguments, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        community_id(*arguments)
