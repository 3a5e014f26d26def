"""Rows of the network as JSON and back, as Arrow, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from daemoneye import envelope
from daemoneye.envelope import Batch, Envelope
from daemoneye.events import jsonread
from daemoneye.events.addresses import packed, protocol_name, protocol_number, text
from daemoneye.events.arrow import to_arrow
from daemoneye.events.base import derive
from daemoneye.events.cgroup_identity import CGROUP_IDENTITY
from daemoneye.events.codec import Section, section_of
from daemoneye.events.dns_query import DNS_QUERY
from daemoneye.events.flags import Flag
from daemoneye.events.jsonform import events_json
from daemoneye.events.pod_identity import POD_IDENTITY
from daemoneye.events.policy_set import set_number, sets_section
from daemoneye.events.process_exec import PROCESS_EXEC
from daemoneye.events.registry import EVENTS
from daemoneye.events.tls_client_hello import TLS_CLIENT_HELLO

SIDES = {
    "src_ip": np.array([packed("10.0.0.1"), packed("2001:db8::1")], "V16"), "dst_ip": np.array([packed("10.0.0.2"), packed("2001:db8::2")], "V16"),
    "src_port": [4000, 4001], "dst_port": [53, 853], "proto": [17, 6], "time": [1_000, 2_000],
}  # fmt: skip


def batch(record: Any, **values: Any) -> Batch:
    section = section_of(record, {"event": record.id, **SIDES, **values}, 2)
    about = Envelope("node", "boot", 1, "bulk", 0, 2, 1_767_225_600_000_000_000, positions={})
    return envelope.decode(envelope.encode(about, [section]))


DNS = {
    "query": [b"a.example", b"."],
    "answers": [b"192.0.2.1\x00192.0.2.2\0", b""],
    "ttls": [b"60\00061\0", b""],
    "type": [b"A", b"NS"],
}


def test_json_names_addresses_protocols_and_lists() -> None:
    first, second = events_json(batch(DNS_QUERY, **DNS))
    assert (first["src_ip"], first["dst_port"], first["proto"], first["attribution"]) == ("10.0.0.1", 53, "udp", "none")
    assert (first["answers"], first["ttls"]) == (["192.0.2.1", "192.0.2.2"], [60, 61])
    assert (second["src_ip"], second["proto"], second["answers"]) == ("2001:db8::1", "tcp", [])
    assert second["community_id"].startswith("1:")
    assert "pid" not in first


def test_a_row_with_a_process_names_it() -> None:
    first, second = events_json(batch(DNS_QUERY, **DNS, pid=[7, 0], start_time=[5, 0], attribution=[3, 0]))
    assert (first["pid"], first["attribution"]) == (7, "exact")
    assert {"process_uid", "parent", "cgroup"} <= set(first)
    assert "pid" not in second


def test_a_name_that_is_not_known_is_null() -> None:
    first, second = events_json(batch(TLS_CLIENT_HELLO, sni=[b"", b"x.example"], flags=[int(Flag.SNI_ABSENT), 0]))
    assert (first["sni"], first["flags"]) == (None, ["sni_absent"])
    assert second["sni"] == "x.example"


@pytest.mark.parametrize("record", [r for r in EVENTS.values() if r.of_network], ids=lambda r: r.name)
def test_lines_can_be_read_back(record: Any) -> None:
    known = DNS if record is DNS_QUERY else {}
    made = list(events_json(batch(record, **known, flags=[int(Flag.PARTIAL), 0])))
    rows = [jsonread.parse_line(json.dumps(row).encode()) for row in made]
    sections, _, _ = jsonread.sections_of([row for row in rows if row])
    about = Envelope("node", "boot", 1, "bulk", 0, 2, 1_767_225_600_000_000_000, positions={})
    assert list(events_json(Batch(about, tuple(sections)))) == made


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("src_ip", "10.0.0", "10.0.0"),
        ("proto", "carrier-pigeon", "is no IP protocol"),
        ("proto", 256, "is no IP protocol"),
        ("attribution", "sure", "is none of none, nat, tuple, exact"),
        ("src_port", 65_536, "is not a whole number from 0 to 65535"),
    ],
)
def test_what_is_wrong_is_said(field: str, value: object, message: str) -> None:
    (row, _) = events_json(batch(DNS_QUERY, **DNS))
    with pytest.raises(ValueError, match=message):
        jsonread.parse_line(json.dumps({**row, field: value}).encode())


def test_what_a_hostile_sensor_writes_does_not_stop_a_reader() -> None:
    first, _ = events_json(batch(DNS_QUERY, ttls=[b"sixty\000-1\0007\0", b""], attribution=[200, 0], proto=[255, 0]))
    assert (first["ttls"], first["attribution"], first["proto"]) == ([None, None, 7], "200", "255")


def test_arrow_has_addresses_as_bytes_and_numbers_as_texts() -> None:
    made = batch(DNS_QUERY, **DNS)
    table = to_arrow(made, made.sections[0])
    assert table.column("src_ip").type == pa.binary(16)
    assert table.column("src_ip").to_pylist() == [packed("10.0.0.1"), packed("2001:db8::1")]
    assert table.column("ttls").to_pylist() == [["60", "61"], []]
    assert str(table.column("time")[0]) == "2026-01-01 00:00:00.000001+00:00"


def test_addresses_and_protocols_have_one_text() -> None:
    for address in ("0.0.0.0", "255.255.255.255", "::", "2001:db8::ff", "64:ff9b::1"):
        assert text(packed(address)) == address
    assert protocol_name(6) == "tcp"
    assert (protocol_number("tcp"), protocol_number("99"), protocol_number(99)) == (6, 99, 99)


def test_both_sides_processes_are_told_and_read_back() -> None:
    images = section_of(
        PROCESS_EXEC,
        {"time": [5, 6], "pid": [7, 8], "start_time": [5, 6], "ppid": [1, 1], "exe": [b"/usr/bin/dig", b"/coredns"], "argv": [b"dig\0x\0", b"/coredns\0"],
         "uid": [1000, 0], "cgroup_id": [30, 40]}, 2, context=True,
    )  # fmt: skip
    derive(PROCESS_EXEC, images.rows)
    identities = section_of(
        CGROUP_IDENTITY, {"cgroup_id": [30, 40], "state": [2, 2], "path": [b"/a", b"/b"], "container_id": [b"", b"c" * 64], "pod_uid": [b"", b"p"],
        "runtime": [b"", b""], "path_v1": [b"", b""], "workload": [b"host/systemd/a.service", b"dns/Deployment/coredns/main"]}, 2, context=True,
    )  # fmt: skip
    pods = section_of(
        POD_IDENTITY, {"cgroup_id": [40], "namespace": [b"kube-system"], "pod": [b"coredns-1"], "labels": [b"k8s-app=kube-dns\0"]}, 1, context=True
    )  # fmt: skip
    rows = section_of(
        DNS_QUERY, {"event": DNS_QUERY.id, **SIDES, **DNS, "pid": [7, 8], "start_time": [5, 6], "uid": [1000, 0], "ppid": [1, 1],
         "cgroup_id": [30, 40], "attribution": [2, 2],
        "direction": [1, 2], "peer_pid": [8, 0], "peer_start_time": [6, 0], "peer_cgroup_id": [40, 0], "peer_attribution": [1, 0]}, 2,
    )  # fmt: skip
    about = Envelope("node", "boot", 1, "bulk", 0, 2, 1_767_225_600_000_000_000, positions={})

    def told(*sections: Section) -> list[dict[str, Any]]:
        return list(events_json(envelope.decode(envelope.encode(about, sections))))

    first, second = told(rows, images, identities, pods)
    assert (first["direction"], first["exe"], first["attribution"]) == ("outbound", "/usr/bin/dig", "tuple")
    peer = first["peer"]
    assert (peer["pid"], peer["exe"], peer["argv"], peer["attribution"]) == (8, "/coredns", ["/coredns"], "nat")
    assert (peer["namespace"], peer["pod"], peer["labels"]) == ("kube-system", "coredns-1", {"k8s-app": "kube-dns"})
    assert peer["workload"] == "dns/Deployment/coredns/main"
    assert not [name for name in first if name.startswith("peer_")]
    assert (second["direction"], second["exe"], second["pod"]) == ("inbound", "/coredns", "coredns-1")
    assert "peer" not in second

    read = [row for line in (first, second) if (row := jsonread.parse_line(json.dumps(line).encode()))]
    sections, context, known = jsonread.sections_of(read)
    again = told(*sections, Section(context.record, context.rows, context.heap, context=True), known, pods)
    assert again == [first, second]


def test_the_policies_of_a_row_are_named_with_and_without_a_process() -> None:
    names = b"web\0all\0"
    number = set_number(names)
    values = {
        "pid": [7, 0],
        "start_time": [5, 0],
        "cgroup_id": [30, 0],
        "policy_set": np.array([number] * 2, np.uint64),
    }
    rows = section_of(DNS_QUERY, {"event": DNS_QUERY.id, **SIDES, **DNS, **values}, 2)
    pods = section_of(
        POD_IDENTITY, {"cgroup_id": [30], "policies": [b"web\0all\0other\0"], "pod": [b"p"]}, 1, context=True
    )
    about = Envelope("node", "boot", 1, "bulk", 0, 2, 0, positions={})
    sections = (rows, pods, sets_section({number: names}))
    first, second = events_json(envelope.decode(envelope.encode(about, sections)))
    assert (first["pod"], first["policies"], second["policies"]) == ("p", ["web", "all"], ["web", "all"])
    assert "policy_set" not in first
    alone, _ = events_json(batch(DNS_QUERY, **DNS))
    assert "policies" not in alone, "one machine has none"


def test_without_a_process_there_is_no_direction() -> None:
    first, _ = events_json(batch(DNS_QUERY, **DNS))
    assert not {"direction", "peer", "peer_attribution"} & set(first)
