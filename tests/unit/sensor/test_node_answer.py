"""Documents that a node is given, and what it answers: configuration on disk, filters, refusals."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.errors import CorruptData
from daemoneye.nodeconfig import MAX_BYTES, NodeConfig, NodePolicy
from daemoneye.podidentity import PodIdentity
from daemoneye_sensor import answers, filters
from daemoneye_sensor.configuration import Store, read
from daemoneye_sensor.enrich.selection import Selection

ON, OFF = {"enable_ebpf": True}, {"enable_ebpf": False}
POLICY = NodePolicy("p", "u", 3, kernel=ON)
CONFIG = NodeConfig((POLICY,), ON)


def test_the_last_good_configuration_outlives_the_process(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    assert store.load() is None
    configured = read(CONFIG.encode(), CONFIG.hash)
    store.save(configured)
    assert Store(tmp_path / "state").load() == configured
    store.save(read(NodeConfig().encode()))
    assert Store(tmp_path / "state").load() == read(NodeConfig().encode())
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["configuration.json"]
    store.remove()
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"{", CONFIG.encode()[:-4]])
def test_a_damaged_file_is_no_configuration(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "configuration.json").write_bytes(damage)
    assert Store(tmp_path).load() is None


def test_a_directory_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    Store(tmp_path / "state").save(read(CONFIG.encode()))
    assert stat.S_ISREG(os.stat(tmp_path / "state").st_mode)


def test_what_a_newer_operator_adds_is_kept_and_named_by_its_bytes() -> None:
    newer = json.dumps(json.loads(CONFIG.encode()) | {"from_the_future": 1}).encode()
    configured = read(newer)
    assert configured.config == CONFIG
    assert configured.hash != CONFIG.hash
    assert read(newer, configured.hash).data == newer


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{}", "not a node's configuration"),
        (b" " * (MAX_BYTES + 1), "at most 1048576 are read"),
        (NodeConfig(tuple(NodePolicy(f"p{n}", f"u{n}", 1) for n in range(65))).encode(), "65 policies; at most 64"),
        (b'{"policies":' + b"[" * 100_000, "nested too deep"),
    ],
)
def test_what_cannot_be_run_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(CorruptData, match=message):
        read(data)


@pytest.mark.parametrize(
    ("policy", "kernel"),
    [
        ({"network": {"enable_packet_capture": True, "max_packet_size": "whole"}}, {}),
        ({"network": {"enable_packet_capture": True, "max_packet_size": [96]}}, {}),
        ({"network": {"enable_packet_capture": True, "max_packet_size": float("inf")}}, {}),
        ({"network": ["enable_packet_capture"]}, {}),
        ({"kernel": None}, {}),
        ({"name": 7}, {}),
        ({"uid": ["u"]}, {}),
        ({"generation": "3"}, {}),
        ({}, {"enable_ebpf": True, "events": ["process_exec"]}),
        ({}, {"events": "all"}),
    ],
)
def test_a_newer_operators_words_that_mean_something_else_are_refused(
    tmp_path: Path, policy: dict[str, Any], kernel: dict[str, Any]
) -> None:
    value = json.loads(CONFIG.encode()) | {"kernel": kernel}
    value["policies"][0] |= policy
    data = json.dumps(value).encode()
    with pytest.raises(CorruptData, match=r"cannot be run by this release: (kernel|policy 'p'|policy 7): "):
        read(data)
    (tmp_path / "configuration.json").write_bytes(data)
    assert Store(tmp_path).load() is None


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
SETTINGS = ("enable_ebpf", "events", "enable_packet_capture", "capture_filter", "max_packet_size")
words = st.fixed_dictionaries({}, optional=dict.fromkeys(SETTINGS, anything))
odd_policies = st.fixed_dictionaries(
    {"name": st.just("p") | anything, "uid": st.just("u") | anything, "generation": st.just(1) | anything},
    optional={
        "kernel": words | anything,
        "network": words | anything,
        "host": anything,
        "pod_selector": anything | st.fixed_dictionaries({}, optional={"matchLabels": anything, "matchExpressions": anything}),
        "from_the_future": anything,
    },
)  # fmt: skip


@given(st.lists(odd_policies, max_size=2), words | anything, anything)
def test_what_is_read_can_be_run_whatever_it_says(policies: Any, kernel: Any, network: Any) -> None:
    data = json.dumps({"policies": policies, "kernel": kernel, "network": network}).encode()
    try:
        config = read(data).config
    except CorruptData:
        return
    selection = Selection(config)
    selection.of(PodIdentity("ns", "pod", "uid", labels={"a": "1"}))
    selection.names(selection.everyone)
    answers.events_of(config)
    asked = {place for policy in config.policies if (place := answers.filter_of(policy)) is not None}
    json.dumps(sorted(asked))
    answer = answers.answer(
        "h", config, programs=("", ""), capture=("", ""), filters=dict.fromkeys(asked, "no"), selectors=selection.broken
    )
    assert len(json.loads(json.dumps(answer.to_json()))["policies"]) == len(policies)


def test_another_documents_bytes_are_refused() -> None:
    with pytest.raises(CorruptData, match="other bytes than its name says"):
        read(CONFIG.encode(), NodeConfig().hash)


@given(st.binary(max_size=300))
def test_bytes_are_a_configuration_or_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptData):
        read(data)


def test_events_are_asked_for_by_policies_alone() -> None:
    assert answers.events_of(NodeConfig()) == ()
    assert answers.events_of(NodeConfig((), ON)) == ()
    assert "process_exec" in answers.events_of(CONFIG)
    assert answers.events_of(NodeConfig((NodePolicy("p", "u", 1, kernel=OFF),), OFF)) == ()


def answered(config: NodeConfig, **what: object) -> tuple[list[tuple[str, str]], bool, bool, str]:
    known: dict[str, object] = {"programs": ("", ""), "capture": ("", ""), "filters": {}, "selectors": {}} | what
    answer = answers.answer(config.hash, config, **known)  # type: ignore[arg-type]
    assert answer.hash == config.hash
    return [(p.state, p.reason) for p in answer.policies], answer.programs, answer.capture, answer.problem[0]


def test_each_policy_is_answered_by_what_it_asks_for() -> None:
    capturing = {"enable_packet_capture": True, "capture_filter": "bad", "max_packet_size": 96}
    config = NodeConfig(
        (
            POLICY,
            NodePolicy("quiet", "v", 1, kernel=OFF),
            NodePolicy("filter", "w", 1, kernel=OFF, network=capturing),
            NodePolicy("selector", "x", 1, kernel=OFF),
        )
    )
    active = ("Active", "")
    assert answered(config) == ([active] * 4, True, True, "")
    lacking = answers.of_sockets(["process_exec", "socket_open"], {"socket_recv": "no such tracepoint"})
    assert lacking[1] == "sockets are not seen in full: socket_recv cannot run (socket_recv: no such tracepoint)"
    assert answered(config, sockets=lacking) == ([active] * 4, True, True, "SocketsPartly"), "nobody is refused for it"
    assert (
        answers.of_sockets(["process_exec"], {"socket_recv": "no"})
        == answers.of_sockets(["socket_open"], {})
        == ("", "")
    )
    # Capturing is a matter of its own: the policy runs, and its condition says what is wrong.
    assert answered(config, capture=("NoSuchInterface", "no")) == ([active] * 4, True, False, "NoSuchInterface")
    states, programs, _, problem = answered(
        config, programs=("MissingBTF", "no"), filters={("bad", 96): "syntax error"}, selectors={"x": "Like"}
    )
    assert states == [("Refused", "MissingBTF"), active, ("Refused", "BadFilter"), ("Refused", "InvalidSpec")]
    assert (programs, problem) == (False, "MissingBTF")
    assert answered(CONFIG) == ([active], True, True, "")
    assert answered(NodeConfig()) == ([], True, True, "")


def test_filters_are_judged_by_libpcap() -> None:
    good, bad, empty = ("tcp port 443", 96), ("tcp prot 443", 1500), ("", 96)
    problems = filters.check([good, bad, empty, bad])
    assert set(problems) == {bad}
    assert "syntax error" in problems[bad]


def test_a_filter_that_takes_too_long_or_kills_the_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "TIMEOUT_S", 0.0001)
    assert "within" in filters.check([("tcp", 96)])["tcp", 96]
    monkeypatch.setattr(filters, "TIMEOUT_S", 5.0)
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert "did not survive" in filters.check([("tcp", 96)])["tcp", 96]
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert filters.check([("tcp", 96)]) == {}


@pytest.mark.parametrize("expression", ["(" * 4000, "tcp and " * 500, "\0", "host [::", "ä", "' ; rm -rf /"])
def test_a_hostile_filter_harms_nobody(expression: str) -> None:
    assert filters.check([(expression, 96)])[expression, 96]
