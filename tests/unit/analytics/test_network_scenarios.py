"""What networks are full of and detectors of the network must not take for an attack, and attacks that look like what networks are full of."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest

from daemoneye.errors import ConfigError
from daemoneye_analytics.detectors import names
from daemoneye_analytics.detectors.beacon import Beacon
from daemoneye_analytics.detectors.cloud_metadata import CloudMetadata
from daemoneye_analytics.detectors.dns_tunnel import DnsTunnel
from daemoneye_analytics.detectors.network_scan import NetworkScan
from tests.unit.analytics.factory import SECOND, cgroups
from tests.unit.analytics.netrows import (
    ACK,
    RST,
    SYN,
    Rows,
    beats,
    drawn,
    flow,
    frame,
    judged,
    made,
    question,
    request,
    section,
)

HOSTS = [f"10.0.{i // 250}.{i % 250 + 1}" for i in range(400)]
MID_STREAM = 1 << 20

# ── network_scan: what stays shut ───────────────────────────────────────────────────────────────────────────────────


def silent(dst: str, port: int, at: float, **more: Any) -> dict[str, Any]:
    return flow("10.0.0.9", dst, port, at, answer=0, **more)


ONE_SIDED = [silent(host, 443, i / 100, src_tcp_flags=SYN | ACK) for i, host in enumerate(HOSTS[:200])]
LATE = [
    flow("10.0.0.9", host, 443, i / 100, answer=RST | ACK, src_tcp_flags=ACK, flags=MID_STREAM)
    for i, host in enumerate(HOSTS[:80])
]
UPS = [flow("10.0.0.9", host, 9100, i / 10) for i, host in enumerate(HOSTS[:200])]
DOWNS = [silent(host, 9100, 60 + 15 * t + i / 100) for t in range(5) for i, host in enumerate(HOSTS[:200])]
RESOLVER = [silent(host, 53, 3 + i / 100, proto=17, src_tcp_flags=0) for i, host in enumerate(HOSTS[:200])]


@pytest.mark.parametrize(
    "rows",
    [
        ONE_SIDED,
        [*ONE_SIDED, *RESOLVER],
        [silent("198.51.100.7", 33_434 + i, i / 10, proto=17, src_tcp_flags=0) for i in range(90)],
        [silent("198.51.100.7", 44_444 + i, i / 10, proto=17, src_tcp_flags=0) for i in range(30)],
        [silent(host, 9100, 15 * t + i / 100) for t in range(20) for i, host in enumerate(HOSTS[:30])],
        [*UPS, *DOWNS],
        [silent(f"239.0.0.{i}", 1900, i / 10, proto=17, src_tcp_flags=0) for i in range(200)],
        [silent(f"ff02::{i:x}", 5353, i / 10, proto=17, src_tcp_flags=0, src_ip="fe80::9") for i in range(200)],
        LATE,
        [silent("10.0.0.1", 10_000 + i, i, proto=17, src_tcp_flags=0, src_packets=3000) for i in range(40)],
    ],
    ids=[
        "one direction only", "one direction only, and a resolver", "traceroute", "tracepath", "dead targets", "targets that die together", "multicast",
        "multicast of IPv6", "resets of what was there before", "streams of media",
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [7, 10_000])
def test_shut_doors_that_are_harmless(rows: Rows, size: int) -> None:
    assert judged(made(NetworkScan), rows, size) == []


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([silent(host, 8080, i / 10) for i, host in enumerate(HOSTS[:250])], "port 8080 of 60 hosts"),
        ([silent(host, 445, i / 10) for i, host in enumerate(HOSTS[:30])], "port 445 of 20 hosts"),
        ([flow("10.0.0.9", host, 22, i / 10, answer=RST | ACK) for i, host in enumerate(HOSTS[:30])], "port 22 of 20 hosts"),
        ([silent("10.0.0.1", 1 + i, i / 10, src_tcp_flags=1) for i in range(30)], "20 tcp ports of 10.0.0.1"),
        ([flow("10.0.0.9", "10.0.0.1", 1 + i, i / 10, answer=RST, src_tcp_flags=ACK, src_packets=1, flags=MID_STREAM) for i in range(30)],
         "20 tcp ports of 10.0.0.1"),
        ([*ONE_SIDED, *(flow("10.0.0.8", "10.0.0.1", 1 + i, 9 + i / 9, answer=0, proto=17) for i in range(30))], "20 udp ports of 10.0.0.1"),
    ],
    ids=["a sweep", "a sweep of SMB", "refused", "by FIN", "by ACK", "somebody else's direction is there"],
)  # fmt: skip
@pytest.mark.parametrize("size", [7, 10_000])
def test_shut_doors_that_somebody_tries(rows: Rows, says: str, size: int) -> None:
    (found,) = judged(made(NetworkScan), rows, size)
    assert says in found.explanation[0]


# ── network_scan: lateral movement ──────────────────────────────────────────────────────────────────────────────────

FAN_OUT = [flow("10.0.0.9", host, 22, i / 10) for i, host in enumerate(HOSTS[:120])]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_one_source_opens_a_port_of_administrators_on_many_hosts(size: int) -> None:
    (found,) = judged(made(NetworkScan), FAN_OUT, size)
    assert (found.severity, [t.id for t in found.techniques]) == ("medium", ["T1021.004"])
    assert found.title == "10.0.0.9 opens SSH (port 22) of many hosts"
    assert found.explanation[0].startswith(
        "10.0.0.9 opened tcp port 22 (SSH) of 20 hosts within 60 s that it had not opened before; 10.0.0.20 was the last."
    )


@pytest.mark.parametrize(
    ("port", "technique"),
    [(3389, "T1021.001"), (445, "T1021.002"), (5985, "T1021.006"), (2375, "T1021"), (6443, "T1021")],
)
def test_each_port_of_administrators_names_its_technique(port: int, technique: str) -> None:
    (found,) = judged(made(NetworkScan), [{**row, "dst_port": port} for row in FAN_OUT])
    assert [t.id for t in found.techniques] == [technique]


def test_a_workload_that_does_so_every_hour_is_told_once_wherever_its_pods_run() -> None:
    names_ = cgroups({5: b"ops/CronJob/inventory", 6: b"ops/CronJob/inventory", 7: b"shop/Deployment/web/app"})
    detector = made(NetworkScan)

    def run(at: float, src: str, cgroup: int) -> list[str]:
        rows = [{**row, "src_ip": src, "cgroup_id": cgroup, "time": at + row["time"]} for row in FAN_OUT]
        return [f.title for f in detector.process(frame(section("packet_flow", rows), names_))]

    assert run(0, "10.1.0.1", 5) == ["ops/CronJob/inventory (10.1.0.1) opens SSH (port 22) of many hosts"]
    assert [run(3600.0 * hour, f"10.1.0.{hour}", 6) for hour in range(2, 9)] == [[]] * 7
    assert run(90_000, "10.1.0.1", 7) == ["shop/Deployment/web/app (10.1.0.1) opens SSH (port 22) of many hosts"]


KUBELETS = [{**row, "dst_port": 10_250} for row in FAN_OUT]


def test_the_kubelets_clients_are_learned_before_others_are_told() -> None:
    """The API server, metrics-server and Prometheus speak to every kubelet: that is no news when analytics begins."""
    detector = made(NetworkScan)
    assert judged(detector, KUBELETS) == []
    later = [{**row, "src_ip": src, "time": 4000 + row["time"]} for src in ("10.0.0.9", "10.7.7.7") for row in KUBELETS]
    (found,) = judged(detector, later)
    assert found.title == "10.7.7.7 opens the kubelet (port 10250) of many hosts"


@pytest.mark.parametrize(
    "rows",
    [
        [flow("10.0.0.9", host, 22, i / 10) for i, host in enumerate(HOSTS[:15])],
        [flow("10.0.0.9", host, 22, 60.0 * i) for i, host in enumerate(HOSTS[:120])],
        [flow(f"10.9.0.{i}", "10.0.0.1", 22, i / 10) for i in range(120)],
        [flow("10.0.0.9", host, 443, i / 10) for i, host in enumerate(HOSTS)],
        [flow("10.0.0.9", host, 22, i / 10, flags=MID_STREAM, answer=ACK) for i, host in enumerate(HOSTS[:120])],
    ],
    ids=["a person", "slowly", "many clients of one host", "a proxy", "sessions that were there before"],
)
def test_sessions_that_are_harmless(rows: Rows) -> None:
    assert judged(made(NetworkScan), rows) == []


# ── network_scan: the same by sockets ───────────────────────────────────────────────────────────────────────────────

OUTBOUND, INBOUND = 1, 2
ABORTED, REFUSED, TIMEOUT = 2, 4, 5


def socket(dst: str, port: int, at: float, **more: Any) -> dict[str, Any]:
    return {
        "src_ip": "10.0.0.9",
        "dst_ip": dst,
        "dst_port": port,
        "time": at,
        "direction": OUTBOUND,
        "pid": 7,
        "start_time": 1,
        **more,
    }


def test_sockets_of_a_process_are_judged_alike() -> None:
    tried = [socket("10.0.0.1", 1 + i, i / 10, ending=REFUSED if i % 2 else TIMEOUT) for i in range(30)]
    (found,) = judged(made(NetworkScan), tried, record="socket_close")
    assert (found.title, found.subject.pid, found.events[0].event) == (
        "10.0.0.9 tries the ports of 10.0.0.1",
        7,
        "socket_close",
    )
    (found,) = judged(
        made(NetworkScan), [socket(host, 22, i / 10) for i, host in enumerate(HOSTS[:30])], record="socket_open"
    )
    assert found.title == "10.0.0.9 opens SSH (port 22) of many hosts"


@pytest.mark.parametrize(
    "more",
    [
        {"ending": ABORTED},
        {"ending": REFUSED, "established": 1},
        {"ending": REFUSED, "proto": 17},
        {"ending": REFUSED, "direction": INBOUND},
    ],
)
def test_sockets_that_say_nothing_of_a_scan(more: dict[str, Any]) -> None:
    """The slower of two addresses is given up; others came about, have no doors, or are the other side's."""
    assert (
        judged(
            made(NetworkScan),
            [socket(host, 443, i / 10, **more) for i, host in enumerate(HOSTS)],
            record="socket_close",
        )
        == []
    )


def test_what_opened_by_packets_is_known_by_sockets() -> None:
    detector = made(NetworkScan)
    judged(detector, UPS)
    assert (
        judged(
            detector,
            [socket(host, 9100, 90 + i / 10, ending=TIMEOUT) for i, host in enumerate(HOSTS[:200])],
            record="socket_close",
        )
        == []
    )


SWEEP = [silent(host, 23, 400 + i / 10) for i, host in enumerate(HOSTS)]


def test_excluded_sources_may_do_as_they_like() -> None:
    assert judged(made(NetworkScan, exclude_sources=["10.0.0.9/32"]), [*FAN_OUT, *DOWNS, *SWEEP]) == []
    with pytest.raises(ConfigError, match=r"network_scan\.exclude_sources: '10.0.0.9/99'"):
        made(NetworkScan, exclude_sources=["10.0.0.9/99"])


# ── dns_tunnel ──────────────────────────────────────────────────────────────────────────────────────────────────────

HASHES = [hashlib.md5(b"%d" % i).hexdigest() for i in range(300)]
ADDRESSES = ("A", "AAAA", "HTTPS")
SERVICES = [f"{name}-{i}" for name in ("checkout", "cart", "payments-backend", "inventory") for i in range(40)]
PODS = [f"{drawn(i, 9)}-{drawn(-i, 5)}" for i in range(200)]
WORDS = [
    "facebook", "wikipedia", "mail-gateway", "northwind", "blue-ocean-travel", "gardencenter", "smithandsons", "bakery", "handball",
]  # fmt: skip
ABROAD = [
    "donaudampfschiff", "rechtsanwaltskanzlei", "przedsiebiorstwo", "zhongguohangkong", "szczecinek", "microsoft365", "xn--mnchen-3ya",
    "vlaamsebelastingdienst",
]  # fmt: skip
REGION = "eu-central-1.k8s.corp.example.com"
SEARCHED = ("shop.svc.corp-k8s.example", "corp.example.com")


@pytest.mark.parametrize(
    "rows",
    [
        [question(f"{name}.cdn.example.net", i / 3, kind=kind) for i, name in enumerate(HASHES) for kind in ADDRESSES],
        [question(f"{name}.cdn.example.net.{tail}", i / 3, "NXDOMAIN", kind=kind) for i, name in enumerate(HASHES) for tail in SEARCHED for kind in ADDRESSES],
        [question(f"{drawn(i, 52)}.ipfs.example.com", i / 3, kind="A") for i in range(600)],
        [question(f"{service}.{stage}.corp.example.com", i / 2, kind="A") for i, service in enumerate(SERVICES) for stage in ("dev", "prod")],
        [question(f"payments-backend-of-the-shop-{pod}.payments-and-invoices-production.{REGION}", i / 2, kind="A") for i, pod in enumerate(PODS)],
        [question(f"backend-{pod}.payments.corp.example.com", i / 2, "NXDOMAIN", kind="A") for i, pod in enumerate(PODS)],
        [question(f"{a}-{b}.com", i, "NXDOMAIN", kind="A") for i, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)],
        [question(f"{word}{i}.de", i, "NXDOMAIN", kind="A") for i in range(12) for word in ABROAD],
        [question(f"{name}.example.net", i / 3, "", kind="A") for i, name in enumerate(HASHES)],
    ],
    ids=[
        "hashed names", "hashed names by a search list", "names of IPFS", "names of services", "long names of pods", "names of pods that are gone",
        "names of people that do not exist", "names of people abroad", "answers that were not seen",
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [7, 10_000])
def test_names_that_people_and_programs_chose(rows: Rows, size: int) -> None:
    assert judged(made(DnsTunnel), sorted(rows, key=lambda row: row["time"]), size, "dns_query") == []


@pytest.mark.parametrize(
    "rows",
    [
        [question(f"{drawn(i, 57)}.{drawn(-i, 39)}.example.com", i / 2, kind="A") for i in range(250)],
        [question(f"{name}.t.example.com", i / 2) for i, name in enumerate(HASHES)],
        [question(f"{name}.example.com", i / 2, "NXDOMAIN", kind="A") for i, name in enumerate(HASHES)],
        [question(f"{hashlib.sha512(b'%d' % i).hexdigest()[:60]}.example.com", i / 2, kind="NULL") for i in range(100)],
    ],
    ids=["whole names, answered by addresses", "small pieces in TXT", "small pieces that do not exist", "NULL"],
)
def test_names_that_carry_what_only_a_tunnel_does(rows: Rows) -> None:
    (found,) = judged(made(DnsTunnel), rows, record="dns_query")
    assert (found.severity, found.techniques[0].id) == ("high", "T1071.004")
    assert "asked for 60 different names below example.com" in found.explanation[0]


def test_surprise_tells_what_was_drawn_from_what_people_chose() -> None:
    chance = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    drawn_ = [names.surprise("".join(chance.choices(letters, k=12))) for _ in range(500)]
    chosen = [names.surprise(f"{a}{b}") for a in WORDS for b in WORDS]
    assert sum(value >= 5.2 for value in drawn_) > 450
    assert max(chosen) < 4.9
    assert names.surprise("") == 0


# ── cloud_metadata ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "host",
    [
        "2852039166", "0xA9FEA9FE", "0xa9.0xfe.0xa9.0xfe", "0251.0376.0251.0376", "169.254.43518", "169.16689662", "169.254.169.254:80", "2852039166:80",
        "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]:80", "[fd00:ec2::254]", "metadata.google.internal", "METADATA.google.internal.:80", "metadata.goog",
        "instance-data.ec2.internal", "169.254.169.254.nip.io", "169-254-169-254.sslip.io", "100.100.100.200",
    ],
)  # fmt: skip
def test_a_request_by_way_of_a_proxy_is_known_by_its_host(host: str) -> None:
    asked = request("/latest/user-data", "10.0.0.3", dst_port=3128, host=host.encode())
    (found,) = judged(made(CloudMetadata), [asked], record="http_request")
    assert (found.severity, found.subject.dst_ip, found.subject.dst_port) == ("high", "10.0.0.3", 3128)
    assert found.explanation[0].startswith(f"10.0.0.5 asked 10.0.0.3:3128 for {host}: the ")


@pytest.mark.parametrize(
    "host",
    [
        "", "shop.example", "2852039165", "0xA9FEA9", "999999999999", "169.254.169.254.example", "[::1]", "[", "metadata", "1.2.3.4.5", "0x", "08",
    ],
)  # fmt: skip
def test_other_hosts_are_no_concern(host: str) -> None:
    assert (
        judged(
            made(CloudMetadata), [request("/latest/user-data", "10.0.0.3", host=host.encode())], record="http_request"
        )
        == []
    )


# ── beacon ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "dst", ["203.0.113.7", "198.51.100.2", "192.0.2.1", "2001:db8::7", "93.184.216.34", "64:ff9b::5db8:d822"]
)
def test_beacons_to_any_address_that_is_not_of_the_own_network(dst: str) -> None:
    assert judged(made(Beacon), beats(dst, [60.0] * 40))[0].title.endswith("like clockwork")


@pytest.mark.parametrize(
    "dst",
    [
        "10.1.2.3",
        "100.64.0.1",
        "172.20.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "fd00::7",
        "fe80::7",
        "240.240.0.1",
        "34.118.224.1",
    ],
)
def test_beats_inside_are_probes_and_scrapes(dst: str) -> None:
    assert judged(made(Beacon), beats(dst, [60.0] * 40)) == []


def test_people_are_not_regular() -> None:
    """Of conversations at random moments one judgement in 1,300 passes: a few hundred people and hosts are seldom told."""
    chance, rows = random.Random(7), []
    for pair in range(300):
        at = 1000.0
        for _ in range(40):
            at += chance.expovariate(1 / 60)
            rows.append(
                flow(
                    f"10.0.1.{pair % 250}",
                    f"203.0.113.{pair % 200}",
                    1000 + pair,
                    at,
                    begin_time=int(at * SECOND),
                    state=b"closed",
                )
            )
    assert len(judged(made(Beacon), sorted(rows, key=lambda row: row["time"]))) <= 3
