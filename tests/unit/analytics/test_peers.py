"""Findings about rows that know both sides' processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from polars import selectors

from daemoneye.envelope import Batch
from daemoneye.events.addresses import packed
from daemoneye.events.base import derive
from daemoneye.events.codec import Section, section_of
from daemoneye.events.policy_set import set_number, sets_section
from daemoneye.events.registry import BY_NAME
from daemoneye.events.sockets import Direction
from daemoneye.findings import Finding
from daemoneye_analytics import conversations
from daemoneye_analytics.detectors.base import Declaration
from daemoneye_analytics.evidence import Verdict
from daemoneye_analytics.frame import Frame
from tests.unit.analytics import factory
from tests.unit.analytics.factory import CHECKOUT, SECOND, WORKLOAD, Exec

CLIENT = Exec(exe=b"/usr/bin/dig", pid=20, start=2, time=3, cgroup=1)
SERVER = Exec(exe=b"/coredns", pid=30, start=2, time=3, cgroup=2)
PODS: dict[int, dict[str, Any]] = {
    0: {"policies": ("capturing",)},
    1: CHECKOUT,
    2: {
        "namespace": "kube-system", "pod": "coredns-1", "container": "coredns", "owner_kind": "Deployment", "owner_name": "coredns",
        "policies": ("everywhere", "names"),
    },
}  # fmt: skip
VERDICT = Verdict("key", "low", "title", (), ["One."], 0.9)


def batch(*more: Section, **columns: object) -> Batch:
    record = BY_NAME["dns_query"]
    row: dict[str, object] = {
        "time": 5 * SECOND, "event": record.id, "src_ip": packed("10.0.0.1"), "dst_ip": packed("10.0.0.2"), "src_port": 40_000, "dst_port": 53, "proto": 17,
        "pid": 20, "start_time": 2 * SECOND, "cgroup_id": 1, "direction": Direction.OUTBOUND, "attribution": 2, "query": b"a.example",
    }  # fmt: skip
    rows = section_of(record, {name: [value] for name, value in {**row, **columns}.items()}, 1)
    derive(record, rows.rows)
    workloads = {0: b"", 1: WORKLOAD, 2: b"kube-system/Deployment/coredns/coredns"}
    return factory.batch(
        [], context=[factory.INIT, CLIENT, SERVER], workloads=workloads, sections=[rows, factory.pods(PODS), *more]
    )


def finding(made: Batch) -> Finding:
    return conversations.finding(Frame(made), "dns_query", 0, Declaration("d", 1, "", "", "low", ()), VERDICT)


PEER = {"peer_pid": 30, "peer_start_time": 2 * SECOND, "peer_cgroup_id": 2, "peer_attribution": 2}


def test_a_finding_says_who_is_on_the_other_side() -> None:
    found = finding(batch(**PEER))
    assert (found.subject.pod, found.subject.exe, found.subject.pid) == ("checkout-7d9f", "/usr/bin/dig", 20)
    assert found.explanation == (
        "One.",
        "The other side is /coredns (pid 30) in container coredns of pod kube-system/coredns-1 (Deployment coredns).",
    )
    assert found.policies == ("everywhere", "shop", "names"), "of both sides, each once"


def test_a_process_that_was_spoken_to_is_not_taken_for_the_one_that_spoke() -> None:
    found = finding(batch(pid=30, cgroup_id=2, direction=Direction.INBOUND))
    assert (found.subject.pod, found.policies) == ("coredns-1", ("everywhere", "names"))
    assert (
        found.explanation[-1]
        == "The process is the one that was spoken to; who opened the conversation is not on this node."
    )


def test_a_row_without_a_process_belongs_to_whoever_captures() -> None:
    found = finding(batch(pid=0, start_time=0, cgroup_id=0, direction=0, attribution=0))
    assert (found.policies, found.explanation, found.subject.pod) == (("capturing",), ("One.",), "")


def test_a_row_that_names_its_policies_belongs_to_these_and_not_to_all_of_its_pods() -> None:
    names = b"shop\0names\0"
    sets = sets_section({set_number(names): names, 7: b"somebody\0"})
    assert finding(batch(sets, **PEER, policy_set=set_number(names))).policies == ("shop", "names")
    nobody = {"pid": 0, "start_time": 0, "cgroup_id": 0, "direction": 0, "attribution": 0}
    assert finding(batch(sets, **nobody, policy_set=7)).policies == ("somebody",)
    assert finding(batch(sets, **nobody, policy_set=8)).policies == ("capturing",), "a set that the batch does not name"


def test_the_table_has_what_the_other_side_runs() -> None:
    table = Frame(batch(**PEER)).table("dns_query")
    assert table["peer_workload"].to_list() == ["kube-system/Deployment/coredns/coredns"]
    frame = Frame(batch(**PEER))
    assert frame.exe.values[frame.exe.codes[int(table["peer_image"][0])]] == "/coredns"
    assert Frame(batch()).table("dns_query")["peer_image"].to_list() == [-1]
    assert np.all(Frame(batch()).rows("dns_query")["peer_pid"] == 0)


def test_a_row_read_alone_is_the_tables() -> None:
    for frame in (Frame(batch(**PEER)), Frame(batch())):
        table = frame.table("dns_query").drop(selectors.temporal())
        assert frame.row("dns_query", 0) == table.row(0, named=True)
    with pytest.raises(IndexError, match="no rows of process_fork"):
        frame.row("process_fork", 0)
