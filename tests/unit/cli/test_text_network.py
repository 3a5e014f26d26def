"""Events and findings of the network as lines for people."""

from __future__ import annotations

from daemoneye_cli.show import text

FLOW = {
    "event": "packet_flow", "time": "T", "src_ip": "10.0.0.1", "src_port": 4000, "dst_ip": "fd00::2", "dst_port": 443, "proto": "tcp",
    "community_id": "1:x", "src_packets": 2, "dst_packets": 3, "src_bytes": 100, "dst_bytes": 4000, "service": "tls", "state": "closed",
}  # fmt: skip


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
            **FLOW,
            "event": "dns_query",
            "query": "a.example",
            "type": "A",
            "answers": ["192.0.2.1"],
            "pid": 7,
            "exe": "/bin/dig",
        }
    )
    assert line.endswith("query a.example type A · 192.0.2.1 · 7 /bin/dig")


def test_a_finding_without_a_process_names_both_ends() -> None:
    about = {
        "workload": "",
        "node": "n",
        "pid": 0,
        "exe": "",
        **{k: FLOW[k] for k in ("src_ip", "src_port", "dst_ip", "dst_port", "proto")},
    }
    assert text.subject({"subject": about}) == "n: 10.0.0.1:4000 → [fd00::2]:443 tcp"
