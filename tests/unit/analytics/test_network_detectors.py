"""cloud_metadata, network_scan and dns_tunnel on rows of the network, and on what looks alike and is harmless."""

from __future__ import annotations

import random

import pytest

from daemoneye.errors import ConfigError
from daemoneye.findings import Finding
from daemoneye_analytics.detectors import names
from daemoneye_analytics.detectors.beacon import Beacon
from daemoneye_analytics.detectors.cloud_metadata import CloudMetadata
from daemoneye_analytics.detectors.dns_tunnel import DnsTunnel
from daemoneye_analytics.detectors.network_scan import NetworkScan
from tests.unit.analytics.factory import SECOND, Exec, cgroups, execs
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

# ── cloud_metadata ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("uri", "severity"),
    [
        ("/latest/meta-data/iam/security-credentials/role", "high"),
        ("/computeMetadata/v1/instance/service-accounts/default/token", "high"),
        ("/metadata/identity/oauth2/token?resource=x", "high"),
        ("/latest/meta-data/instance-id", "medium"),
    ],
)
def test_what_is_asked_makes_the_severity(uri: str, severity: str) -> None:
    (found,) = judged(made(CloudMetadata), [request(uri)], record="http_request")
    assert (found.severity, found.techniques[0].id) == (severity, "T1552.005")
    assert (found.subject.src_ip, found.subject.dst_ip, found.subject.dst_port, found.subject.proto) == (
        "10.0.0.5",
        "169.254.169.254",
        80,
        "tcp",
    )
    assert found.subject.pid == 0
    assert uri in found.explanation[1]
    assert "curl/8" in found.explanation[1]
    assert found.events[0].event == "http_request"


def test_a_connection_without_a_request_is_low_and_one_of_http_is_told_by_its_requests() -> None:
    (found,) = judged(
        made(CloudMetadata), [flow("10.0.0.5", "fd00:ec2::254".replace("::", "::"), 443, src_ip="fd00::1")]
    )
    assert (found.severity, found.subject.dst_ip) == ("low", "fd00:ec2::254")
    assert judged(made(CloudMetadata), [flow("10.0.0.5", "169.254.169.254", 80, service=b"http")]) == []


def test_the_process_is_named_where_it_is_known() -> None:
    shell = Exec(exe=b"/usr/bin/curl", pid=77, start=3.0, time=9.0, cgroup=5)
    row = {
        **request("/latest/user-data", at=10.0),
        "pid": 77,
        "start_time": 3 * SECOND,
        "cgroup_id": 5,
        "attribution": 3,
    }
    sections = (section("http_request", [row]), execs([shell], context=True), cgroups({5: b"shop/Deployment/web/app"}))
    (found,) = made(CloudMetadata).process(frame(*sections))
    assert (found.subject.exe, found.subject.pid, found.subject.workload) == (
        "/usr/bin/curl",
        77,
        "shop/Deployment/web/app",
    )
    assert "shop/Deployment/web/app (10.0.0.5)" in found.title


def test_the_other_sides_process_is_not_taken_for_the_one_that_asks() -> None:
    server = Exec(exe=b"/usr/bin/proxy", pid=77, start=3.0, time=9.0, cgroup=5)
    row = {
        **request("/latest/user-data", "10.0.0.3", host=b"169.254.169.254", at=10.0),
        "pid": 77,
        "start_time": 3 * SECOND,
        "cgroup_id": 5,
        "direction": 2,
    }
    sections = (
        section("http_request", [row]),
        execs([server], context=True),
        cgroups({5: b"shop/Deployment/proxy/app"}),
    )
    (found,) = made(CloudMetadata).process(frame(*sections))
    assert found.title == "The cloud's metadata service was asked for credentials: 10.0.0.5"
    assert found.key == "credentials:10.0.0.5"
    assert found.confidence_reasons == (
        "The process is the other side's: of who opened the conversation only the address is known.",
    )


def test_other_link_local_addresses_and_excluded_sources_are_no_concern() -> None:
    harmless = [
        flow("10.0.0.5", "169.254.20.10", 53),
        flow("10.0.0.5", "169.254.169.253", 53),
        flow("10.0.0.5", "10.169.254.169", 80),
    ]
    assert judged(made(CloudMetadata), harmless) == []
    asked = [request("/latest/meta-data/", src="10.1.2.3"), request("/latest/meta-data/", src="10.0.0.5")]
    found = judged(made(CloudMetadata, exclude_sources=["10.1.0.0/16"]), asked, record="http_request")
    assert [f.subject.src_ip for f in found] == ["10.0.0.5"]
    with pytest.raises(ConfigError, match=r"cloud_metadata\.exclude_sources"):
        made(CloudMetadata, exclude_sources=["10.1.0.0/99"])


def test_an_sdk_that_asks_every_minute_is_told_a_few_times_an_hour() -> None:
    rows = [request("/latest/meta-data/iam/security-credentials/role", at=60.0 * i) for i in range(120)]
    found = judged(made(CloudMetadata), rows, 7, "http_request")
    assert len(found) == 6
    assert "57 times more" in found[3].explanation[-1]


# ── network_scan ────────────────────────────────────────────────────────────────────────────────────────────────────

REFUSED = RST | ACK
PORTS = [flow("10.0.0.9", "10.0.0.1", 1000 + i, i / 100, answer=REFUSED) for i in range(100)]
SWEEP = [flow("10.0.0.9", f"10.0.1.{i}", 22, i / 10, answer=0) for i in range(60)]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_ports_of_one_host_and_one_port_of_many_hosts(size: int) -> None:
    (found,) = judged(made(NetworkScan), PORTS, size)
    assert (found.techniques[0].id, found.severity) == ("T1046", "medium")
    assert found.title == "10.0.0.9 tries the ports of 10.0.0.1"
    assert found.explanation[0].startswith(
        "10.0.0.9 tried 20 tcp ports of 10.0.0.1 within 60 s that stayed shut: 1000, 1001,"
    )
    (found,) = judged(made(NetworkScan), SWEEP, size)
    assert [t.id for t in found.techniques] == ["T1018", "T1046"]
    assert found.explanation[0].startswith("10.0.0.9 tried tcp port 22 of 20 hosts within 60 s")


def test_batches_have_no_say() -> None:
    rows = sorted(
        [*PORTS, *SWEEP, *(flow("10.0.0.8", "10.0.0.1", 2000 + i, i / 2, answer=0) for i in range(80))],
        key=lambda r: r["time"],
    )
    ids = [{f.id for f in judged(made(NetworkScan), rows, size)} for size in (1, 13, 1000)]
    assert ids[0] == ids[1] == ids[2]
    assert len(ids[0]) == 3


@pytest.mark.parametrize(
    "rows",
    [
        [flow("10.0.0.9", f"203.0.113.{i}", 443, i / 100) for i in range(200)],
        [flow("10.0.0.9", f"10.2.{i // 200}.{i % 200}", 9100, i / 10) for i in range(400)],
        [flow("10.0.0.9", "10.0.0.1", 5432, i / 10, answer=REFUSED) for i in range(300)],
        [flow("10.0.0.9", "10.0.0.1", 1000 + i, 5.0 * i, answer=REFUSED) for i in range(60)],
        [flow(f"10.0.0.{i}", "10.0.0.1", 1000 + i, i / 10, answer=REFUSED) for i in range(60)],
        [flow("10.0.0.9", "10.0.0.1", 1000 + i, i / 100, answer=REFUSED, proto=1) for i in range(60)],
    ],
    ids=[
        "a client of many servers",
        "a scraper of many targets",
        "one service that is down",
        "slowly",
        "many clients of one host",
        "no ports",
    ],
)
def test_what_looks_alike_and_is_harmless(rows: Rows) -> None:
    assert judged(made(NetworkScan), rows) == []


def test_a_reset_of_a_conversation_that_was_open_is_no_refusal() -> None:
    assert (
        judged(made(NetworkScan), [flow("10.0.0.9", "10.0.0.1", 1000 + i, answer=SYN | ACK | RST) for i in range(60)])
        == []
    )


def test_a_scan_of_udp_is_one_too() -> None:
    (found,) = judged(
        made(NetworkScan), [flow("10.0.0.9", "10.0.0.1", 1000 + i, answer=0, proto=17) for i in range(60)]
    )
    assert "udp ports" in found.explanation[0]


def test_a_batch_of_many_windows_is_judged_window_by_window() -> None:
    rows = [{**row, "time": row["time"] + 600.0 * hour} for hour in range(12) for row in PORTS]
    found = judged(made(NetworkScan, findings_per_hour=100), rows)
    assert len(found) == 12
    assert all("20 tcp ports of 10.0.0.1 within 60 s that stayed shut: 1000, 1001," in f.explanation[0] for f in found)


def test_state_goes_on_in_the_middle_of_a_window() -> None:
    first, second = made(NetworkScan), made(NetworkScan)
    assert judged(first, PORTS[:15]) == []
    second.restore(first.state())
    assert [f.id for f in judged(second, PORTS[15:])] == [f.id for f in judged(made(NetworkScan), PORTS)]
    with pytest.raises(ValueError, match="format"):
        second.restore({"format": 99})


def test_memory_is_bounded() -> None:
    detector = made(NetworkScan, max_doors=1000, ports=100_000, hosts=100_000)
    judged(detector, [flow("10.0.0.9", f"10.{i % 200}.0.1", 1 + i // 200, answer=0) for i in range(5000)], 500)
    assert (detector.status()["doors"], detector.status()["dropped"]) == (2000, 8000), "of each kind"


def test_findings_without_a_process_survive_their_way() -> None:
    (found,) = judged(made(NetworkScan), PORTS)
    again = Finding.decode(found.encode())
    assert again == found
    assert "src_ip" in found.to_json()["subject"]


# ── dns_tunnel ──────────────────────────────────────────────────────────────────────────────────────────────────────


TAILS = ("corp.example", "internal")
TUNNEL = [question(f"{drawn(i, 50)}.{drawn(-i, 40)}.t.evil.example", i / 2) for i in range(200)]
GENERATED = [question(f"{drawn(i, 14)}.com", i, "NXDOMAIN") for i in range(100)]


@pytest.mark.parametrize("size", [1, 9, 1000])
def test_names_that_carry_data(size: int) -> None:
    (found,) = judged(made(DnsTunnel), TUNNEL, size, "dns_query")
    assert [t.id for t in found.techniques] == ["T1071.004", "T1572", "T1048"]
    assert (found.severity, found.title) == ("high", "Data in DNS: 10.0.0.5 asks for ever new names below evil.example")
    assert found.explanation[0].startswith("10.0.0.5 asked for 60 different names below evil.example within 300 s")
    assert "bits by its entropy" in found.explanation[1]
    assert found.subject.dst_port == 53


@pytest.mark.parametrize("size", [1, 9, 1000])
def test_names_that_were_drawn(size: int) -> None:
    (found,) = judged(made(DnsTunnel), GENERATED, size, "dns_query")
    assert ([t.id for t in found.techniques], found.severity) == (["T1568.002"], "medium")
    assert found.explanation[0].startswith("10.0.0.5 asked for 25 domains within 300 s that do not exist")


@pytest.mark.parametrize(
    "rows",
    [
        [question(f"{drawn(i % 30, 40)}.cdn.example", i / 10) for i in range(3000)],
        [question(f"img{i}.shop.example", i / 10) for i in range(1000)],
        [question(f"{i % 256}.{i // 256}.0.10.in-addr.arpa", i / 10) for i in range(1000)],
        [question(f"{i}.2.0.192.zen.spamhaus.org", i / 10, "NXDOMAIN") for i in range(256)],
        [question(f"service-{i % 40}.shop.svc.cluster.local.{tail}", i / 10, "NXDOMAIN") for i in range(400) for tail in TAILS],
        [question(f"{drawn(i, 45)}.{drawn(i, 10)}.example", i) for i in range(200)],
        [question(f"{word}{i}.example", i, "NXDOMAIN") for i, word in enumerate(["mail", "www", "api"] * 30)],
        [question(f"{drawn(i, 14)}.com", i) for i in range(200)],
        [question(f"{drawn(i, 50)}.t.evil.example", 10.0 * i) for i in range(200)],
    ],
    ids=[
        "a network of caches", "many plain names", "reverse lookups", "a block list", "a search list", "many domains once", "typing errors",
        "drawn names that exist", "slowly",
    ],
)  # fmt: skip
def test_names_that_are_harmless(rows: Rows) -> None:
    assert judged(made(DnsTunnel), rows, record="dns_query") == []


def test_a_domain_below_a_public_suffix_is_the_one_that_somebody_registered() -> None:
    assert names.read("a.b.shop.co.uk").domain == "shop.co.uk"
    assert names.read("co.uk").domain == ""
    assert names.read("Www.Example.ORG.").domain == "example.org"
    assert names.read("").domain == ""


def test_state_of_names_goes_on() -> None:
    first, second = made(DnsTunnel), made(DnsTunnel)
    assert judged(first, TUNNEL[:40], record="dns_query") == []
    second.restore(first.state())
    assert [f.id for f in judged(second, TUNNEL[40:], record="dns_query")] == [
        f.id for f in judged(made(DnsTunnel), TUNNEL, record="dns_query")
    ]


def test_a_domain_of_ones_own_can_be_left_out() -> None:
    assert judged(made(DnsTunnel, exclude_domains=["t.evil.example"]), TUNNEL, record="dns_query") == []


# ── beacon ──────────────────────────────────────────────────────────────────────────────────────────────────────────

PUBLIC = "93.184.216.34"


def jittered(share: float, count: int = 40, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [60 * (1 + chance.uniform(-share, share)) for _ in range(count)]


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    "gaps", [[60.0] * 30, jittered(0.1), [60.0, 60.0, 240.0] * 12], ids=["exact", "jitter", "missed beats"]
)
def test_what_comes_back_like_clockwork(gaps: list[float], size: int) -> None:
    found = judged(made(Beacon), beats(PUBLIC, gaps), size)
    assert [f.severity for f in found] == ["low"] * len(found)
    assert found[0].title == f"10.0.0.5 speaks to {PUBLIC}:443 like clockwork"
    assert found[0].techniques[0].id == "T1071.001"
    assert "12 times in a row" in found[0].explanation[0]
    assert {f.id for f in found} == {f.id for f in judged(made(Beacon), beats(PUBLIC, gaps), 3)}


@pytest.mark.parametrize(
    "rows",
    [
        beats("10.9.9.9", [15.0] * 100, 9100),
        beats(PUBLIC, [64.0] * 50, 123, proto=17),
        beats(PUBLIC, jittered(0.9)),
        beats(PUBLIC, [0.2] * 100),
        beats(PUBLIC, [60.0] * 10),
        [row for i in range(20) for row in beats(f"93.184.216.{i}", [60.0] * 5)],
    ],
    ids=["a scraper inside", "a clock", "a person", "pieces of one", "too few", "many hosts"],
)
def test_what_is_regular_and_harmless_or_not_regular(rows: Rows) -> None:
    assert judged(made(Beacon), sorted(rows, key=lambda row: row["time"])) == []


def test_destinations_inside_are_judged_if_asked_for() -> None:
    (found, *_) = judged(made(Beacon, private_destinations=True), beats("10.9.9.9", [15.0] * 20, 9100))
    assert "every 15.0 s" in found.explanation[0]


def test_a_series_goes_on_and_room_is_bounded() -> None:
    rows = beats(PUBLIC, [60.0] * 30)
    first, second = made(Beacon), made(Beacon)
    assert judged(first, rows[:11]) == []
    second.restore(first.state())
    assert [f.id for f in judged(second, rows[11:])] == [f.id for f in judged(made(Beacon), rows)]
    small = made(Beacon, max_conversations=1000)
    judged(
        small,
        [
            flow("10.0.0.5", f"93.184.{i // 250}.{1 + i % 250}", 443, float(i), begin_time=i * SECOND, state=b"closed")
            for i in range(3000)
        ],
        300,
    )
    assert small.status()["conversations"] <= 1000
    assert small.status()["dropped"] == 2000
