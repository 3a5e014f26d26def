"""Events and findings of the network as lines for people."""

from __future__ import annotations

from daemoneye_cli.show import text

ENDS = {
    "time": "T",
    "src_ip": "10.0.0.1",
    "src_port": 4000,
    "dst_ip": "fd00::2",
    "dst_port": 443,
    "proto": "tcp",
    "community_id": "1:x",
}
COUNTS = {"src_packets": 2, "dst_packets": 3, "src_bytes": 100, "dst_bytes": 4000}
FLOW = {"event": "packet_flow", **ENDS, **COUNTS, "service": "tls", "state": "closed"}


def test_a_flow_in_one_line() -> None:
    assert (
        text.event(FLOW)
        == "T packet_flow tcp 10.0.0.1:4000 → [fd00::2]:443 · service tls state closed · 2/3 packets · 100/4000 bytes"
    )


def test_what_comes_from_the_network_is_escaped() -> None:
    line = text.event(
        {**FLOW, "event": "http_request", "method": "GET", "host": "\x1b[31mevil", "uri": "/\n", "status": 200}
    )
    assert "\x1b" not in line
    assert "\n" not in line
    assert "host" in line


def test_answers_and_a_process_are_told() -> None:
    line = text.event(
        {
            **ENDS,
            "event": "dns_query",
            "query": "a.example",
            "type": "A",
            "answers": ["192.0.2.1"],
            "pid": 7,
            "exe": "/bin/dig",
        }
    )
    assert line.endswith("query a.example type A · 192.0.2.1 · 7 /bin/dig")


def test_both_sides_processes_are_told_with_their_pods() -> None:
    dig = {"pid": 7, "exe": "/bin/dig", "namespace": "shop", "pod": "till-1"}
    dns = {"pid": 8, "exe": "/coredns", "namespace": "kube-system", "pod": "core\x1bdns"}
    about = {**ENDS, "event": "dns_query", "query": "a.example", "type": "A"}
    line = text.event({**about, **dig, "direction": "outbound", "peer": dns})
    assert line.endswith(
        "query a.example type A · 7 /bin/dig in shop/till-1 · to 8 /coredns in kube-system/core\\x1bdns"
    )
    assert text.event({**about, **dig, "direction": "inbound"}).endswith("type A · to 7 /bin/dig in shop/till-1")


def test_a_socket_in_one_line() -> None:
    about = {"event": "socket_close", "direction": "outbound", "ending": "reset", "src_bytes": 1, "dst_bytes": 2}
    line = text.event({**ENDS, **about, "pid": 7, "exe": "/bin/nc"})
    assert (
        line
        == "T socket_close tcp 10.0.0.1:4000 → [fd00::2]:443 · direction outbound ending reset · 1/2 bytes · 7 /bin/nc"
    )


def test_a_finding_without_a_process_names_both_ends() -> None:
    about = {
        "workload": "",
        "node": "n",
        "pid": 0,
        "exe": "",
        **{k: FLOW[k] for k in ("src_ip", "src_port", "dst_ip", "dst_port", "proto")},
    }
    assert text.subject({"subject": about}) == "n: 10.0.0.1:4000 → [fd00::2]:443 tcp"
