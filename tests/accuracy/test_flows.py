"""Conversations: packets, bytes and times against tshark's reading of every packet and against its own statistic."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tests.accuracy.tshark import conversations, epoch, fields

PORTS = ["tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport"]
# Of each field the first value: what an ICMP error quotes comes behind its own header.
FIRST = ("-E", "occurrence=f", "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE")
PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "ipv6-icmp": 58, "icmpv6": 58}

Side = tuple[str, int]


def test_every_packet_is_counted_where_it_belongs(ours: dict[str, list[dict[str, Any]]], wire: Path) -> None:
    names = [
        "frame.time_epoch",
        "ip.src",
        "ip.dst",
        "ip.len",
        "ip.id",
        "ip.proto",
        "ip.frag_offset",
        "ipv6.src",
        "ipv6.dst",
        "ipv6.plen",
        "ipv6.nxt",
        "ipv6.hopopts.nxt",
    ]
    packets: Counter[tuple[int, Side, Side]] = Counter()
    size: Counter[tuple[int, Side, Side]] = Counter()
    times: dict[frozenset[Any], list[int]] = {}
    first_fragments: dict[tuple[str, str, str], tuple[int, int]] = {}
    fragments = 0
    for packet in fields(wire, "ip || ipv6", [*names, *PORTS, "icmp.type"], *FIRST):
        value = {name: found[0] for name, found in packet.items() if found}
        src, dst = (value["ip.src"], value["ip.dst"]) if "ip.src" in value else (value["ipv6.src"], value["ipv6.dst"])
        proto = int(value.get("ip.proto") or value.get("ipv6.hopopts.nxt") or value["ipv6.nxt"])
        length = int(value["ip.len"]) if "ip.len" in value else int(value["ipv6.plen"]) + 40
        ports = (0, 0)
        if proto in {6, 17}:  # an ICMP error's are those of what it quotes
            name = "tcp" if proto == 6 else "udp"
            datagram = src, dst, value.get("ip.id", "")
            if f"{name}.srcport" in value:
                ports = first_fragments[datagram] = int(value[f"{name}.srcport"]), int(value[f"{name}.dstport"])
            else:  # a later fragment has no header of its own: it belongs to its datagram's conversation
                ports = first_fragments[datagram]
                fragments += 1
        key = proto, (src, ports[0]), (dst, ports[1])
        packets[key] += 1
        size[key] += length
        times.setdefault(frozenset(key), []).append(epoch(value["frame.time_epoch"]))
    assert fragments
    mine: Counter[tuple[int, Side, Side]] = Counter()
    bytes_: Counter[tuple[int, Side, Side]] = Counter()
    for event in ours["packet_flow"]:
        proto = PROTOCOLS[event["proto"]]
        ports = (event["src_port"], event["dst_port"]) if proto in {6, 17} else (0, 0)
        out = proto, (event["src_ip"], ports[0]), (event["dst_ip"], ports[1])
        back = proto, out[2], out[1]
        for key, name in ((out, "src"), (back, "dst")):
            mine[key] += event[f"{name}_packets"]
            bytes_[key] += event[f"{name}_bytes"]
        if proto in {6, 17}:
            seen = times[frozenset(out)]
            assert (event["begin_time"], event["time"]) == (min(seen), max(seen)), event
    assert +mine == packets
    assert +bytes_ == size


def test_its_own_statistic_agrees(ours: dict[str, list[dict[str, Any]]], wire: Path) -> None:
    """Packets only: bytes are rounded there, and a datagram in fragments counts as one."""
    for proto in ("tcp", "udp"):
        theirs = conversations(wire, proto)
        assert len(theirs) > 20
        mine: dict[tuple[str, str], tuple[int, int]] = {}
        for event in ours["packet_flow"]:
            if event["proto"] == proto:
                src, dst = f"{event['src_ip']}:{event['src_port']}", f"{event['dst_ip']}:{event['dst_port']}"
                mine[src, dst] = event["src_packets"], event["dst_packets"]
        for (left, right), counts in theirs.items():
            found = mine[left, right] if (left, right) in mine else mine[right, left][::-1]
            if proto == "tcp" or sum(found) == sum(counts):
                assert found == counts, (left, right)
        assert set(map(frozenset, mine)) == set(map(frozenset, theirs))


def test_what_was_spoken_is_recognised(ours: dict[str, list[dict[str, Any]]]) -> None:
    for service, event in (
        ("dns", "dns_query"),
        ("tls", "tls_client_hello"),
        ("http", "http_request"),
        ("quic", "quic_initial"),
    ):
        spoken = {(e["src_ip"], e["src_port"], e["dst_ip"], e["dst_port"]) for e in ours[event]}
        flows = {
            (e["src_ip"], e["src_port"], e["dst_ip"], e["dst_port"])
            for e in ours["packet_flow"]
            if e["service"] == service
        }
        assert flows == spoken, service


def test_nothing_was_lost(lines: list[dict[str, Any]]) -> None:
    assert [line for line in lines if line["kind"] == "loss"] == []
