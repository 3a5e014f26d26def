"""Policies that meet: each rule's laws, and who is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.nodeconfig import MAX_BYTES, MAX_POLICIES, NodeConfig
from daemoneye_operator.reconcile.merge import CONFLICT, TOO_MANY, cluster_conflicts, merge
from tests.unit.operator.factory import policy

PATHS = st.sampled_from([None, "/a.o", "/b.o"])
KERNEL = st.fixed_dictionaries(
    {
        "enableEbpf": st.booleans(),
        "ebpfProgramPath": PATHS,
        "enableEtw": st.booleans(),
        "etwSessionName": st.sampled_from(["DaemonEye", "x", "y"]),
    }
)
NETWORK = st.fixed_dictionaries(
    {
        "enablePacketCapture": st.booleans(),
        "captureInterface": st.sampled_from([None, "eth0", "eth1"]),
        "captureFilter": st.sampled_from(["", "tcp", "udp port 53"]),
        "maxPacketSize": st.integers(64, 65_535),
        "bufferSizeMb": st.integers(1, 4096),
    }
)
SPECS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"kernelMonitoring": KERNEL, "networkMonitoring": NETWORK}
)
POLICIES = st.lists(st.tuples(st.integers(0, 30), SPECS), max_size=8).map(
    lambda drawn: [policy(f"p{number}", created, **spec) for number, (created, spec) in enumerate(drawn)]
)


@given(POLICIES, st.randoms())
def test_order_does_not_matter(policies, random):
    shuffled = random.sample(policies, len(policies))
    assert merge(policies) == merge(shuffled)


@given(POLICIES)
def test_settings_merge_once_and_for_all(policies):
    effective = {one.uid for one in merge(policies).config.policies}
    kept = [one for one in policies if one.uid in effective]
    once, again = merge(policies).config, merge(kept)
    assert not again.refused
    assert again.config == once


@given(POLICIES)
def test_each_is_effective_or_refused(policies):
    merged = merge(policies)
    effective = [one.uid for one in merged.config.policies]
    assert sorted([*effective, *merged.refused]) == sorted(one.uid for one in policies)
    if policies:
        assert min(policies, key=lambda one: one.age).uid == effective[0]


@given(POLICIES)
def test_the_union_gives_each_what_it_asks_for(policies):
    config = merge(policies).config
    capturing = [one.network for one in config.policies if one.network["enable_packet_capture"]]
    for one in config.policies:
        assert config.kernel["enable_ebpf"] >= one.kernel["enable_ebpf"]
        if one.kernel["enable_ebpf"] and one.kernel["ebpf_program_path"]:
            assert config.kernel["ebpf_program_path"] == one.kernel["ebpf_program_path"]
    if config.policies:
        assert config.network["enable_packet_capture"] is bool(capturing)
        assert config.network["capture_filters"] == sorted({one["capture_filter"] for one in capturing})
        assert config.network["capture_interfaces"] == sorted({one["capture_interface"] or "" for one in capturing})
        assert config.network["max_packet_size"] == max((one["max_packet_size"] for one in capturing), default=1500)


@given(POLICIES, SPECS)
def test_cost_never_falls_with_one_more(policies, spec):
    before, after = merge(policies).config, merge([*policies, policy("young", 99, **spec)]).config
    if before.policies:
        assert after.network["enable_packet_capture"] >= before.network["enable_packet_capture"]
        assert set(after.network["capture_filters"]) >= set(before.network["capture_filters"])
        assert after.policies[: len(before.policies)] == before.policies


@given(POLICIES)
def test_the_document_survives_the_wire(policies):
    config = merge(policies).config
    assert NodeConfig.decode(config.encode()).hash == config.hash


def test_whoever_captures_nothing_widens_nothing():
    quiet = policy("quiet", networkMonitoring={"captureFilter": "tcp", "maxPacketSize": 9000})
    loud = policy("loud", networkMonitoring={"enablePacketCapture": True, "captureFilter": "udp"})
    assert merge([quiet, loud]).config.network["capture_filters"] == ["udp"]
    assert merge([quiet, loud]).config.network["max_packet_size"] == 1500


def test_xdp_counts_where_somebody_who_captures_wants_it():
    idle = policy("idle", networkMonitoring={"flowCounter": "Xdp"})
    plain = policy("plain", networkMonitoring={"enablePacketCapture": True, "flowCounter": "Socket"})
    asking = policy("asking", networkMonitoring={"enablePacketCapture": True, "flowCounter": "Xdp"})
    assert merge([idle, plain]).config.network["flow_counter"] == "Socket"
    merged = merge([idle, plain, asking])
    assert merged.config.network["flow_counter"] == "Xdp"
    assert not merged.refused


def test_sockets_are_told_where_somebody_who_watches_wants_them():
    off: dict[str, Any] = {"kernelMonitoring": {"enableEbpf": False}}
    quiet: dict[str, Any] = {"kernelMonitoring": {"enableSocketEvents": False}}
    for specs, told in (([off], False), ([quiet], False), ([off, quiet], False), ([quiet, {}], True)):
        config = merge([policy(f"p{n}", n, **spec) for n, spec in enumerate(specs)]).config
        assert config.kernel["enable_socket_events"] is told


def test_the_younger_of_two_that_contradict_is_refused():
    old = policy("old", 1, kernelMonitoring={"ebpfProgramPath": "/a.o"})
    young = policy("young", 2, kernelMonitoring={"ebpfProgramPath": "/b.o"})
    other = policy("other", 3, kernelMonitoring={"ebpfProgramPath": "/a.o"})
    merged = merge([young, other, old])
    assert [one.name for one in merged.config.policies] == ["old", "other"]
    refusal = merged.refused["uid-young"]
    assert refusal.reason == CONFLICT
    assert refusal.setting == "spec.kernelMonitoring.ebpfProgramPath"
    assert refusal.other == "old"
    assert "spec.kernelMonitoring.ebpfProgramPath is '/b.o', but the older policy old says '/a.o'" in refusal.message


def test_a_default_contradicts_nobody():
    named = policy("named", 1, kernelMonitoring={"enableEtw": True, "etwSessionName": "Mine"})
    merged = merge([named, policy("plain", 0, kernelMonitoring={"enableEtw": True, "etwSessionName": "DaemonEye"})])
    assert not merged.refused
    assert merged.config.kernel["etw_session_name"] == "Mine"


def test_the_65th_is_refused():
    merged = merge([policy(f"p{number:02}", number) for number in range(MAX_POLICIES + 1)])
    assert len(merged.config.policies) == MAX_POLICIES
    assert list(merged.refused) == ["uid-p64"]
    assert merged.refused["uid-p64"].reason == TOO_MANY
    assert "64 older policies" in merged.refused["uid-p64"].message


def test_one_that_is_refused_takes_nobodys_place():
    policies = [
        policy(f"p{number:02}", number, kernelMonitoring={"ebpfProgramPath": "/a.o"}) for number in range(MAX_POLICIES)
    ]
    clash = policy("clash", 10, kernelMonitoring={"ebpfProgramPath": "/b.o"})
    assert list(merge([clash, *policies]).refused) == ["uid-clash"]


@pytest.mark.parametrize(
    ("spec", "other", "path"),
    [
        ({"analytics": {"modelUpdateInterval": 60}}, {"analytics": {"modelUpdateInterval": 61}}, "spec.analytics.modelUpdateInterval"),
        (
            {"stixTaxii": {"enableIntegration": True, "taxiiEndpoint": "https://a", "collectionId": "x"}},
            {"stixTaxii": {"enableIntegration": True, "taxiiEndpoint": "https://b", "collectionId": "x"}},
            "spec.stixTaxii.taxiiEndpoint",
        ),
    ],
    ids=["analytics", "intelligence"],
)  # fmt: skip
def test_what_a_cluster_has_once_conflicts_wherever_the_policies_are(spec, other, path):
    refused = cluster_conflicts([policy("young", 2, **other), policy("old", 1, **spec)])
    assert list(refused) == ["uid-young"]
    assert refused["uid-young"].message.startswith(path)
    assert "nodeSelector" not in refused["uid-young"].message


def test_host_processes_belong_to_policies_without_selectors():
    plain, empty, chosen = merge(
        [
            policy("a", 0),
            policy("b", 1, selector={"podSelector": {}}),
            policy("c", 2, selector={"namespaceSelector": {"matchLabels": {"team": "x"}}}),
        ]
    ).config.policies
    assert plain.host
    assert plain.pod_selector is None
    assert not empty.host
    assert empty.pod_selector == {}
    assert not chosen.host
    assert chosen.namespace_selector == {"matchLabels": {"team": "x"}}


def test_nobody_asks_for_nothing():
    assert merge([]).config == NodeConfig()


def test_what_no_document_holds_is_refused():
    requirements = [
        {"key": "k", "operator": "In", "values": [f"{number:063}" for number in range(64)]} for _ in range(32)
    ]
    wide = [
        policy(f"p{number}", number, selector={"podSelector": {"matchExpressions": requirements}})
        for number in range(6)
    ]
    merged = merge([*wide, policy("small", 99)])
    assert len(merged.config.encode()) < MAX_BYTES
    assert list(merged.refused) == ["uid-p3", "uid-p4", "uid-p5"]
    assert "too long together" in merged.refused["uid-p3"].message
    assert "small" in {one.name for one in merged.config.policies}
