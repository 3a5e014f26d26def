"""`daemoneye run --pcap`: packets that real programs sent, read back as what these programs did."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet
from scapy.utils import PcapNgWriter

from tests.support import captures, traffic
from tests.support.running import COMMAND, REPOSITORY, Run

pytestmark = pytest.mark.integration

FRAME = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
BELOW = FRAME / IP(src="10.0.0.1", dst="10.0.0.2")
QUESTION = BELOW / UDP(sport=4000, dport=53) / DNS(qd=DNSQR(qname="one.example"))


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("captured") / "traffic.pcap"
    done = subprocess.run(
        ["unshare", "-n", sys.executable, traffic.__file__, path],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return path, json.loads(done.stdout.splitlines()[-1])


def what(run: Run) -> list[str]:
    """Its events without where they were read."""
    return sorted(json.dumps({k: v for k, v in e.items() if k != "node"}, sort_keys=True) for e in run.of("event"))


def read(runs: Callable[..., Run], option: str, path: Path, status: int = 0) -> Run:
    run = runs(option, str(path), "--events")
    assert run.finish(180) == status, run.stderr()
    assert not run.stray
    return run


def test_what_programs_did_is_told(runs: Callable[..., Run], captured: tuple[Path, dict[str, Any]]) -> None:
    path, about = captured
    run = read(runs, "--pcap", path)
    requests = sorted(run.events("http_request"), key=lambda e: e["time"])
    assert [(e["method"], e["host"], e["uri"], e["status"], e["user_agent"]) for e in requests] == [
        ("GET", "shop.example", "/index?api_key=REDACTED", 200, "tests/1"),
        ("GET", "shop.example", "/missing", 404, "tests/1"),
    ]
    hellos = sorted(run.events("tls_client_hello"), key=lambda e: e["time"])
    assert [(e["dst_port"], e["sni"], e["alpn"], e["version"], e["server_version"]) for e in hellos] == [
        (about["old"], "shop.example", ["http/1.1"], "1.3", "1.2"),
        (about["new"], "shop.example", ["http/1.1"], "1.3", "1.3"),
        (about["new"], None, ["http/1.1"], "1.3", "1.3"),
    ]
    assert hellos[0]["certificate_sha256"] == about["certificate"]
    assert hellos[0]["certificate_subject"] == hellos[0]["certificate_issuer"] == "O=Shop,CN=shop.example"
    assert hellos[1]["certificate_sha256"] == ""
    assert [sorted(e["flags"]) for e in hellos] == [[], ["certificate_hidden"], ["certificate_hidden", "sni_absent"]]
    assert {e["ja4"][:4] for e in hellos} == {"t13d", "t13i"}
    names = {e["query"]: e for e in run.events("dns_query")}
    assert {name: (e["type"], e["rcode"], e["answers"], e["ttls"]) for name, e in names.items()} == {
        "www.example.org": ("A", "NOERROR", ["192.0.2.7"], [300]),
        "no.example.org": ("A", "NXDOMAIN", [], []),
    }
    flows = {e["dst_port"]: e for e in run.events("packet_flow")}
    assert {port: e["service"] for port, e in flows.items()} == {
        about["plain"]: "http",
        about["old"]: "tls",
        about["new"]: "tls",
        53: "dns",
    }
    assert flows[about["plain"]]["dst_bytes"] > 40_000
    assert flows[about["plain"]]["state"] == "closed"
    ids = {(e["src_port"], e["dst_port"]): e["community_id"] for e in run.of("event")}
    assert all(ids[e["src_port"], e["dst_port"]] == e["community_id"] for e in run.events("packet_flow"))
    assert "hunter2" not in json.dumps(run.lines)
    assert not run.of("loss")


def test_its_lines_can_be_replayed(
    runs: Callable[..., Run], captured: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    first = read(runs, "--pcap", captured[0])
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(f"{json.dumps(line)}\n" for line in first.lines))
    again = read(runs, "--replay", lines)
    assert what(again) == what(first)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"no capture at all, but bytes", "neither pcap nor pcapng"),
        (b"\xd4\xc3\xb2\xa1", "neither pcap nor pcapng"),
    ],
)
def test_what_is_no_capture_says_so(runs: Callable[..., Run], tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.pcap"
    path.write_bytes(content)
    run = read(runs, "--pcap", path, 1)
    assert message in run.stderr()
    assert str(path) in run.stderr()


@pytest.mark.parametrize(
    "packets", [[], [Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / ARP()]], ids=["none", "not IP"]
)
def test_a_file_that_says_nothing_is_no_failure(
    runs: Callable[..., Run], tmp_path: Path, packets: list[Packet]
) -> None:
    path = captures.write(tmp_path / "quiet.pcap", packets, linktype=1)
    run = read(runs, "--pcap", path)
    assert not run.of("event")
    assert not run.of("loss")


def test_a_file_that_breaks_off_gives_what_is_whole_and_then_says_so(runs: Callable[..., Run], tmp_path: Path) -> None:
    path = captures.write(tmp_path / "cut.pcap", [QUESTION.copy() for _ in range(3)])
    path.write_bytes(path.read_bytes()[:-5])
    run = read(runs, "--pcap", path, 1)
    assert [e["query"] for e in run.events("dns_query")] == ["one.example"]
    assert run.events("packet_flow")[0]["src_packets"] == 2
    assert "cut short" in run.stderr()
    lost = [(line["stage"], line["lane"], line["count"]) for line in run.of("loss")]
    assert lost == [("capture", "bulk", 1)], "of the lane of the events that are missing"


def test_pcapng_names_its_interfaces(runs: Callable[..., Run], tmp_path: Path) -> None:
    path = tmp_path / "two.pcapng"
    writer = PcapNgWriter(str(path))
    for name in ("eth0", "cni0", "eth0"):
        packet = QUESTION.copy()
        packet.sniffed_on = name
        packet.time = captures.START / captures.SECOND
        writer.write(packet)
    writer.close()
    run = read(runs, "--pcap", path)
    assert {e["interface"]: e["src_packets"] for e in run.events("packet_flow")} == {"eth0": 2, "cni0": 1}


def test_a_policys_filter_and_switches_mean_for_a_file_what_they_mean_live(
    runs: Callable[..., Run], captured: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, about = captured
    policy = tmp_path / "policy.json"
    network = {"captureFilter": f"tcp port {about['old']}", "enableFlowEvents": False}
    policy.write_text(
        json.dumps({"apiVersion": "daemoneye.io/v1alpha1", "kind": "DaemonEyePolicy", "metadata": {"name": "p"}, "spec": {"networkMonitoring": network}})
    )  # fmt: skip
    run = runs("--pcap", str(path), "--policy", str(policy), "--events")
    assert run.finish(180) == 0, run.stderr()
    assert {(e["event"], e["dst_port"]) for e in run.of("event")} == {
        ("tls_client_hello", about["old"]),
        ("dns_query", 53),
    }
    policy.write_text(policy.read_text().replace("tcp port", "tcp prot"))
    refused = runs("--pcap", str(path), "--policy", str(policy), "--events")
    assert refused.finish(180) == 2
    assert "syntax error" in refused.stderr()


def test_a_missing_file_is_wrong_usage(runs: Callable[..., Run], tmp_path: Path) -> None:
    run = read(runs, "--pcap", tmp_path / "nowhere", 2)
    assert "--pcap" in run.stderr()


def test_what_is_in_a_file_is_judged(runs: Callable[..., Run], tmp_path: Path) -> None:
    """A port scan, a request for credentials, sessions on many hosts, and beside them a client of many servers, which is nothing."""
    back = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01")
    packets: list[Packet] = []
    for port in range(1000, 1040):
        packets += [
            BELOW / TCP(sport=40_000, dport=port, flags="S"),
            back / IP(src="10.0.0.2", dst="10.0.0.1") / TCP(sport=port, dport=40_000, flags="RA"),
        ]
    for number in range(60):
        server = f"203.0.113.{number}"
        talk = captures.Connection(
            FRAME / IP(src="10.0.0.1", dst=server), back / IP(src=server, dst="10.0.0.1"), 41_000 + number, 443
        )
        packets += [*talk.begin(), *talk.end()]
    for number in range(30):
        server = f"10.0.7.{number}"
        talk = captures.Connection(
            FRAME / IP(src="10.0.0.3", dst=server), back / IP(src=server, dst="10.0.0.3"), 41_500 + number, 22
        )
        packets += [*talk.begin(), *talk.send(b"SSH-2.0-x\r\n", out=False), *talk.end()]
    cloud = "169.254.169.254"
    talk = captures.Connection(FRAME / IP(src="10.0.0.1", dst=cloud), back / IP(src=cloud, dst="10.0.0.1"), 42_000, 80)
    packets += [
        *talk.begin(),
        *talk.send(
            b"GET /latest/meta-data/iam/security-credentials/ HTTP/1.1\r\nHost: x\r\nUser-Agent: curl/8\r\n\r\n"
        ),
    ]
    packets += [*talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", out=False), *talk.end()]
    run = read(runs, "--pcap", captures.write(tmp_path / "attack.pcap", packets))
    found = {f["title"]: f for f in run.of("finding")}
    asked = found.pop("The cloud's metadata service was asked for credentials: 10.0.0.1")
    assert (asked["detector"], asked["severity"], len(run.of("finding"))) == ("cloud_metadata", "high", 3)
    assert {(f["detector"], f["severity"]) for f in found.values()} == {("network_scan", "medium")}
    assert set(found) == {"10.0.0.1 tries the ports of 10.0.0.2", "10.0.0.3 opens SSH (port 22) of many hosts"}
    assert asked["subject"]["dst_ip"] == cloud
    assert "curl/8" in asked["explanation"][1]
    assert all(f["explanation"] and f["techniques"] and f["time"].startswith("2026-01-01") for f in run.of("finding"))


def test_the_shipped_capture_gives_its_findings(tmp_path: Path) -> None:
    capture = REPOSITORY / "examples/one-machine/capture.pcap"
    done = subprocess.run(
        [COMMAND, "run", "--pcap", capture, "-o", "plain", "--state", tmp_path / "state"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    titles = [line.split(" ", 1)[1].split(" · ")[0] for line in done.stdout.splitlines() if line.startswith("2026-")]
    assert sorted(titles) == [
        "HIGH 10.244.1.17 mines for the pool 198.51.100.33:3333",
        "HIGH Data in DNS: 10.244.1.17 asks for ever new names below evil.example",
        "HIGH The cloud's metadata service was asked for credentials: 10.244.1.17",
        "MEDIUM 10.244.1.17 tries port 22 of many hosts",
        "MEDIUM 10.244.1.17 tries the ports of 10.244.2.8",
    ]
