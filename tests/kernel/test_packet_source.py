"""Live capture: what real programs say to each other in namespaces comes out of the source, once, with the right values.

A node (a namespace with a bridge) has two pods. Each packet between them crosses two of the node's interfaces, each packet between a pod and the
node two as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemoneye import envelope
from daemoneye.envelope import Envelope
from daemoneye.events.jsonform import events_json
from daemoneye.nodeconfig import NodeConfig, NodePolicy
from daemoneye_sensor.enrich.bundles import Bundles
from daemoneye_sensor.enrich.explainer import Explainer
from daemoneye_sensor.enrich.podrows import PodIdentities
from daemoneye_sensor.enrich.pods import Pods
from daemoneye_sensor.enrich.selection import Selection, captures
from daemoneye_sensor.packets import governor
from daemoneye_sensor.packets import links as links_module
from daemoneye_sensor.packets.capturing import Capture
from daemoneye_sensor.packets.links import Links
from daemoneye_sensor.sources.base import Drain, Lost, Origin
from daemoneye_sensor.sources.packets import PacketSource

REPOSITORY = Path(__file__).parents[2]
BPF = REPOSITORY / "bpf"
DEADLINE_S = 120.0
ASK, SERVE, NODE = "10.214.0.2", "10.214.0.3", "10.214.0.1"


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=120)


class Machine:
    """A node with pods, made of network namespaces."""

    def __init__(self) -> None:
        self._name = f"de-pkt-{os.getpid()}"
        self._processes: list[subprocess.Popen[str]] = []
        self._pods: list[str] = []
        run("ip", "netns", "add", self._name)
        self.ip("link", "add", "br0", "type", "bridge")
        self.ip("addr", "add", f"{NODE}/24", "dev", "br0")
        self.ip("link", "set", "br0", "up")
        self.ip("link", "set", "lo", "up")

    @property
    def netns(self) -> Path:
        return Path("/run/netns") / self._name

    def ip(self, *words: str) -> None:
        run("ip", "-n", self._name, *words)

    def pod(self, name: str, address: str) -> None:
        """A pod, and its veth of the same name on the bridge."""
        space = f"{self._name}-{name}"
        if space not in self._pods:
            run("ip", "netns", "add", space)
            self._pods.append(space)
        self.ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space)
        self.ip("link", "set", name, "master", "br0", "up")
        run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", space, "link", "set", "eth0", "up")

    def start(self, where: str, what: str, address: str) -> Service:
        """A program of tests/support/services.py in a pod, or on the node itself (an empty name)."""
        space = f"{self._name}-{where}" if where else self._name
        process = subprocess.Popen(
            ["ip", "netns", "exec", space, sys.executable, "-m", "tests.support.services", what, address],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
        )  # fmt: skip
        self._processes.append(process)
        return Service(process)

    def remove(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()
        for space in (*self._pods, self._name):
            run("ip", "netns", "del", space)


class Service:
    """A program that speaks JSON lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def heard(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the program ended"
        return dict(json.loads(line))

    def ask(self, what: str, **wanted: Any) -> int:
        """Have a client do something; the port that it used."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"what": what, **wanted}) + "\n")
        self._process.stdin.flush()
        return int(self.heard()["port"])


class Reader:
    """A source and what it gave, as a reader of the stream sees it."""

    def __init__(self, machine: Machine, **settings: Any) -> None:
        self.source = PacketSource(bpf_dir=BPF, capture=Capture(**settings), netns=machine.netns)
        self.origin: Origin = self.source.open({}, None)
        self.explain: Callable[[Drain], Drain] = lambda drain: drain
        self.events: list[dict[str, Any]] = []
        self.lost: list[Lost] = []

    def read(self) -> None:
        while (drained := self.source.drain()) is not None:
            drain = self.explain(drained)
            if drain.sections:
                about = Envelope(
                    "node",
                    self.origin.boot_id,
                    self.origin.epoch,
                    drain.lane,
                    0,
                    drain.rows,
                    self.origin.clock_offset_ns,
                )
                self.events += events_json(envelope.decode(envelope.encode(about, drain.sections)))
            self.source.commit(drained)
            if not drained.more:
                break
        self.lost += self.source.lost()

    def wait(self, done: Callable[[], Any]) -> Any:
        """Read until something is so."""
        deadline = time.monotonic() + DEADLINE_S
        while not (found := done()):
            assert time.monotonic() < deadline, (
                f"not seen within {DEADLINE_S} s: {self.events[-5:]}, {self.source.status()}"
            )
            self.read()
        return found

    def all(self, event: str, **wanted: Any) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event and all(e.get(k) == v for k, v in wanted.items())]

    def one(self, event: str, **wanted: Any) -> dict[str, Any]:
        """The only event with these values, waited for."""
        self.wait(lambda: self.all(event, **wanted))
        (found,) = self.all(event, **wanted)
        return found

    def finish(self) -> None:
        """The last look."""
        self.source.finish()
        self.read()


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    made = Machine()
    try:
        made.pod("vethask", ASK)
        made.pod("vethserve", SERVE)
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def ports(machine: Machine) -> dict[str, Any]:
    """What the servers of a pod say: their ports, and the certificate."""
    return machine.start("vethserve", "serve", SERVE).heard()


@pytest.fixture(scope="module")
def client(machine: Machine) -> Service:
    return machine.start("vethask", "ask", SERVE)


@pytest.fixture
def capture(machine: Machine) -> Iterator[Callable[..., Reader]]:
    made: list[Reader] = []

    def begin(**settings: Any) -> Reader:
        made.append(Reader(machine, **settings))
        return made[-1]

    yield begin
    for reader in made:
        reader.source.close(keep=False)


def test_what_pods_say_to_each_other_is_told_once_with_what_it_was(
    client: Service, ports: dict[str, Any], capture: Callable[..., Reader]
) -> None:
    reader = capture(interfaces=("auto", "br0"))
    assert reader.source.problem() == ("", "")
    asked = client.ask("dns", name="www.example.org")
    assert client.ask("dns", name="no.example.org")
    got = client.ask("http", port=ports["http"], target="/index?api_key=hunter2", host="shop.example")
    old = client.ask("tls", port=ports["old"], name="old.example")
    new = client.ask("tls", port=ports["new"], name="new.example")
    echoed = client.ask("echo", port=ports["echo"], times=37, size=100)
    ends = {"src_ip": ASK, "dst_ip": SERVE}

    query = reader.one("dns_query", query="www.example.org")
    assert {
        **ends,
        "src_port": asked,
        "dst_port": 53,
        "rcode": "NOERROR",
        "answers": ["192.0.2.7"],
        "ttls": [300],
    }.items() <= query.items()
    assert 0 < query["latency"] < 10**9
    assert reader.one("dns_query", query="no.example.org")["rcode"] == "NXDOMAIN"
    request = reader.one("http_request", src_port=got)
    said = {
        "method": "GET",
        "host": "shop.example",
        "uri": "/index?api_key=REDACTED",
        "status": 200,
        "user_agent": "tests/1",
    }
    assert {**ends, **said, "dst_port": ports["http"]}.items() <= request.items()
    hello = reader.one("tls_client_hello", src_port=old)
    assert {
        **ends,
        "sni": "old.example",
        "alpn": ["http/1.1"],
        "certificate_sha256": ports["certificate"],
    }.items() <= hello.items()
    assert reader.one("tls_client_hello", src_port=new)["flags"] == ["certificate_hidden"]

    for port in (got, old, new):
        flow = reader.one("packet_flow", src_port=port)
        assert {**ends, "state": "closed", "flags": []}.items() <= flow.items()
        assert flow["dst_bytes"] > 20_000 > flow["src_bytes"] > 0
        assert flow["time"] > flow["begin_time"]
    reader.finish()
    flow = reader.one("packet_flow", src_port=echoed)
    assert (flow["src_packets"], flow["src_bytes"], flow["dst_packets"], flow["dst_bytes"]) == (
        37,
        37 * 128,
        37,
        37 * 128,
    )
    assert {event["interface"] for event in reader.events if event["proto"] in ("tcp", "udp")} <= {
        "vethask",
        "vethserve",
    }
    status: Any = reader.source.status()
    assert status["shown_again"] >= 74, "the other pod's interface showed it as well"
    assert set(status["interfaces"]) == {"pods", "br0"}
    assert status["interfaces"]["pods"]["captured"] == 2
    assert [lost for lost in reader.lost if lost.stage == "capture"] == []
    names = [event["event"] for event in reader.events]
    assert (names.count("dns_query"), names.count("http_request"), names.count("tls_client_hello")) == (2, 1, 2)


def test_what_a_pod_says_to_the_node_is_told_once_although_veth_and_bridge_show_it(
    machine: Machine, capture: Callable[..., Reader]
) -> None:
    reader = capture(interfaces=("br0", "vethask"))
    ports = machine.start("", "serve", NODE).heard()
    pod = machine.start("vethask", "ask", NODE)
    pod.ask("dns", name="node.example.org", times=5)
    port = pod.ask("http", port=ports["http"], target="/", host="node.example")
    echoed = pod.ask("echo", port=ports["echo"], times=11, size=20)
    reader.one("http_request", src_port=port)
    reader.wait(lambda: len(reader.all("dns_query", query="node.example.org")) >= 5)
    reader.one("packet_flow", src_port=port, state="closed")
    reader.finish()
    assert len(reader.all("dns_query", query="node.example.org")) == 5
    flow = reader.one("packet_flow", src_port=echoed)
    assert (flow["src_packets"], flow["dst_packets"], flow["src_bytes"]) == (11, 11, 11 * 48)
    shown: Any = reader.source.status()["interfaces"]
    assert shown["vethask"]["packets"] >= 22
    assert shown["br0"]["packets"] >= 22


def test_a_filter_is_changed_while_conversations_go_on(
    client: Service, ports: dict[str, Any], capture: Callable[..., Reader]
) -> None:
    reader = capture(interfaces=("vethask",), filters=(f"tcp port {ports['old']}",))
    left_out = client.ask("http", port=ports["http"], target="/one", host="shop.example")
    client.ask("dns", name="always.example.org")
    reader.one("dns_query", query="always.example.org")
    reader.one("packet_flow", src_port=left_out)
    assert reader.all("http_request") == [], "what the filter leaves out is counted and not read"
    before = client.ask("echo", port=ports["echo"], times=3, size=10)
    reader.source.change(Capture(interfaces=("vethask",), filters=("udp", "tcp")))
    seen = client.ask("http", port=ports["http"], target="/two", host="shop.example")
    assert reader.one("http_request", src_port=seen)["uri"] == "/two"
    reader.finish()
    assert reader.one("packet_flow", src_port=before)["src_packets"] == 3, "what was known stays known"


def test_each_policy_gets_what_its_own_filter_took_and_its_switches_say(
    client: Service, ports: dict[str, Any], capture: Callable[..., Reader]
) -> None:
    capturing = {"enable_packet_capture": True}
    asks: dict[str, dict[str, Any]] = {
        "web": {"capture_filter": f"tcp dst port {ports['http']}", "enable_dns_events": False},
        "tls": {"capture_filter": f"tcp port {ports['old']} or tcp port {ports['new']}", "enable_flow_events": False},
        "old": {"capture_filter": f"tcp port {ports['old']}", "enable_flow_events": False, "enable_dns_events": False},
        "all": {},
        "processes": {"enable_packet_capture": False},
    }
    policies = tuple(NodePolicy(name, name, 1, network=capturing | asked) for name, asked in asks.items())
    filters = sorted({asked.get("capture_filter", "") for name, asked in asks.items() if name != "processes"})
    config = NodeConfig(policies, network=capturing | {"capture_filters": filters})
    made = Capture.from_config(config)
    assert made
    reader = capture(interfaces=("vethask",), filters=made.filters, policies=made.policies)
    packets = PodIdentities(Pods(), Bundles(None))
    packets.select(Selection(config, captures))
    reader.explain = Explainer(packets=packets).explain
    client.ask("dns", name="belongs.example.org")
    got = client.ask("http", port=ports["http"], target="/", host="shop.example")
    old = client.ask("tls", port=ports["old"], name="old.example")
    new = client.ask("tls", port=ports["new"], name="new.example")
    assert reader.one("dns_query", query="belongs.example.org")["policies"] == ["tls", "all"]
    request = reader.one("http_request", src_port=got)
    assert (request["status"], request["policies"]) == (200, ["web", "all"])
    assert reader.one("tls_client_hello", src_port=old)["policies"] == ["tls", "old", "all"]
    assert reader.one("tls_client_hello", src_port=new)["policies"] == ["tls", "all"]
    assert reader.one("packet_flow", src_port=new)["policies"] == ["web", "all"]
    without = Capture.from_config(
        replace(config, policies=policies[:3], network=capturing | {"capture_filters": filters[1:]})
    )
    assert without
    reader.source.change(replace(without, interfaces=("vethask",)))
    plain = client.ask("http", port=ports["http"], target="/", host="shop.example")
    assert reader.one("http_request", src_port=plain)["policies"] == ["web"]


def test_a_filter_that_does_not_compile_stops_nobody_else(client: Service, capture: Callable[..., Reader]) -> None:
    reader = capture(interfaces=("vethask",), filters=("tcp or", "udp"))
    reason, sentence = reader.source.problem()
    assert (reason, "'tcp or'" in sentence) == ("BadFilter", True)
    client.ask("dns", name="still.example.org")
    reader.one("dns_query", query="still.example.org")


def test_an_interface_that_vanishes_is_said_and_captured_again_when_it_returns(
    machine: Machine, capture: Callable[..., Reader]
) -> None:
    machine.pod("vethgone", "10.214.0.4")
    reader = capture(interfaces=("vethgone",))
    assert reader.source.problem() == ("", "")
    machine.ip("link", "del", "vethgone")
    reader.wait(lambda: reader.source.problem()[0] == "NoSuchInterface")
    machine.pod("vethgone", "10.214.0.4")
    reader.wait(lambda: reader.source.problem() == ("", ""))
    pod = machine.start("vethgone", "ask", SERVE)
    port = pod.ask("dns", name="back.example.org")
    assert reader.one("dns_query", query="back.example.org")["src_port"] == port


def test_a_pod_that_comes_later_is_captured(machine: Machine, capture: Callable[..., Reader]) -> None:
    reader = capture(interfaces=("vethl*", "br0"))
    machine.pod("vethlate", "10.214.0.5")
    reader.wait(lambda: "pods" in reader.source.status()["interfaces"])  # type: ignore[operator]
    machine.start("vethlate", "ask", SERVE).ask("dns", name="late.example.org")
    assert reader.one("dns_query", query="late.example.org")["interface"] == "vethlate"


def test_frames_that_find_no_room_are_counted_with_their_interface(
    client: Service, capture: Callable[..., Reader]
) -> None:
    reader = capture(interfaces=("vethask",), buffer_bytes=1 << 16)
    client.ask("dns", name="many.example.org", times=3000)  # and nobody reads
    reader.wait(lambda: reader.lost)
    (lost,) = [one for one in reader.lost if one.stage == "capture"]
    assert lost.reason == "frames: the ring of vethask had no room"
    assert lost.count > 1000
    reason, sentence = reader.source.problem()
    assert (reason, f"{lost.count} on vethask" in sentence) == ("CaptureDegraded", True)
    reader.finish()
    told = sum(1 for event in reader.all("dns_query") if "response_unseen" not in event["flags"])
    assert told + lost.count >= 3000, "nothing is missing that was not counted"
    counted = reader.all("packet_flow", dst_port=53)
    assert sum(flow["src_packets"] for flow in counted) == 3000, "conversations are counted whatever the ring holds"


def test_beyond_its_budget_it_counts_conversations_and_says_what_it_does_not_read(
    client: Service, ports: dict[str, Any], capture: Callable[..., Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(governor, "WINDOW_S", 1e-9)
    reader = capture(interfaces=("vethask",), cpu_percent=1e-9)
    reader.wait(lambda: reader.source.status()["governor"]["level"] == governor.Level.FLOWS_ONLY)  # type: ignore[index]
    assert reader.source.problem()[0] == "CaptureDegraded"
    client.ask("dns", name="unread.example.org", times=200)
    port = client.ask("http", port=ports["http"], target="/", host="shop.example")
    reader.one("packet_flow", src_port=port, state="closed")
    reader.finish()
    over = sum(lost.count for lost in reader.lost if "CPU budget" in lost.reason)
    assert over > 300, "questions, answers and a request"
    assert sum(flow["src_packets"] for flow in reader.all("packet_flow", dst_port=53)) == 200


def test_interfaces_are_read_in_the_namespace_that_is_meant(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_module, "ROUTES_S", 0.0)
    with contextlib.closing(Links(machine.netns)) as links:
        found = {link.name: link for link in links.read().links.values()}
        assert {"br0", "vethask", "vethserve", "lo"} <= set(found)
        assert (found["br0"].kind, found["vethask"].kind, found["vethask"].pod) == ("bridge", "veth", True)
        assert links.read().uplinks == ()
        links.changed()
        assert not links.changed()
        machine.ip("route", "add", "default", "via", ASK, "metric", "50")
        machine.ip("-6", "addr", "add", "fd00:214::1/64", "dev", "vethserve", "nodad")
        machine.ip("-6", "route", "add", "default", "via", "fd00:214::9", "dev", "vethserve", "metric", "10")
        assert links.changed()
        assert links.read().uplinks == (found["vethserve"].index, found["br0"].index)
        machine.ip("route", "del", "default")
        machine.ip("-6", "route", "del", "default")
        assert links.changed()
        assert links.read().uplinks == ()
