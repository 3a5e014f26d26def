"""Which interfaces a capture's settings mean, and what a capture is out of a node's configuration."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from daemoneye.api.v1alpha1.policy import NetworkMonitoring
from daemoneye.nodeconfig import NodeConfig, NodePolicy
from daemoneye_sensor.packets.capturing import Asking, Capture
from daemoneye_sensor.packets.interfaces import MOST, absent, choose
from daemoneye_sensor.packets.links import Link, Network

NODE = (
    Link(1, "lo"), Link(2, "eth0"), Link(3, "wlan0"), Link(4, "cni0", "bridge"), Link(5, "veth11", "veth", away=True),
    Link(6, "veth12", "veth", away=True), Link(7, "inner0", "veth"), Link(8, "vxlan.1", "vxlan"), Link(9, "lxc1", "netkit", away=True),
)  # fmt: skip


def network(*uplinks: int, links: Sequence[Link] = NODE) -> Network:
    return Network({link.index: link for link in links}, uplinks)


@pytest.mark.parametrize(
    ("settings", "named", "others"),
    [
        (("",), ["eth0"], []),
        (("wlan0",), ["wlan0"], []),
        (("lo", ""), ["lo", "eth0"], []),
        (("veth*",), [], ["veth11", "veth12"]),
        (("veth1[2-9]", "eth?"), [], ["eth0", "veth12"]),
        (("auto",), ["eth0", "wlan0"], ["veth11", "veth12", "lxc1"]),
        (("auto", "cni0", "veth*"), ["eth0", "wlan0", "cni0"], ["veth11", "veth12", "lxc1"]),
        (("*", "eth0"), ["eth0"], ["lo", "wlan0", "cni0", "veth11", "veth12", "inner0", "vxlan.1", "lxc1"]),
    ],
)
def test_names_patterns_and_auto(settings: tuple[str, ...], named: list[str], others: list[str]) -> None:
    chosen = choose(settings, network(2, 3))
    assert [link.name for link in chosen.named] == named
    assert [link.name for link in chosen.others] == others
    assert (chosen.missing, chosen.left_out) == ((), 0)


def test_the_preferred_default_route_counts() -> None:
    assert [link.name for link in choose(("",), network(3, 2)).named] == ["wlan0"]


@pytest.mark.parametrize(
    ("settings", "uplinks", "missing", "said"),
    [
        (("eth9",), (2,), ("eth9",), "there is no interface 'eth9'"),
        (("eth9", "eth0"), (2,), ("eth9",), "there is no interface 'eth9'"),
        (("",), (), ("",), "there is no default route whose interface could be captured"),
        (("ens*",), (2,), ("ens*",), "no interface is called like 'ens*'"),
    ],
)
def test_what_is_not_there_is_said(
    settings: tuple[str, ...], uplinks: tuple[int, ...], missing: tuple[str, ...], said: str
) -> None:
    chosen = choose(settings, network(*uplinks))
    assert chosen.missing == missing
    assert absent(missing[0]) == said


def test_a_pattern_may_wait_for_its_first_pod_beside_others() -> None:
    assert choose(("cali*", "eth0"), network(2)).missing == ()
    assert choose(("auto",), network()).missing == (), "pods are there, though no default route is"
    assert choose(("auto",), network(links=NODE[:2])).missing == ("auto",)


def test_there_is_a_most() -> None:
    many = [Link(2, "eth0"), *(Link(10 + i, f"veth{i}", "veth", away=True) for i in range(300))]
    chosen = choose(("auto",), network(2, links=many))
    assert (len(chosen.named), len(chosen.others), chosen.left_out) == (1, MOST - 1, 45)
    assert chosen.named[0].name == "eth0"


def test_a_capture_out_of_a_merged_section() -> None:
    merged = {
        "enable_packet_capture": True, "capture_interfaces": ["", "veth*"], "capture_filters": ["udp", "tcp port 80"], "max_packet_size": 9000,
        "buffer_size_mb": 8, "promiscuous": True, "enable_flow_events": True, "enable_dns_events": False, "capture_cpu_percent": 5,
        "flow_counter": "Xdp",
    }  # fmt: skip
    assert Capture.from_network(merged) == Capture(
        ("", "veth*"), ("tcp port 80", "udp"), 9000, 8 << 20, promiscuous=True, dns=False, cpu_percent=5.0, xdp=True
    )


def test_a_capture_of_a_policy_and_of_an_older_operator() -> None:
    policy = NetworkMonitoring.model_validate({"enablePacketCapture": True, "captureInterface": "auto"})
    assert Capture.from_network(policy.model_dump(mode="json")) == Capture(interfaces=("auto",))
    assert Capture.from_network({"enable_packet_capture": True}) == Capture()
    assert Capture.from_network({"enable_packet_capture": False, "capture_interfaces": ["eth0"]}) is None
    assert Capture.from_network({}) is None


@pytest.mark.parametrize(
    "broken", [{"capture_interfaces": "eth0"}, {"capture_filters": [3]}, {"max_packet_size": "much"}]
)
def test_a_capture_that_means_nothing(broken: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Capture.from_network({"enable_packet_capture": True, **broken})


def test_who_asks_for_a_capture_and_for_what() -> None:
    on = {"enable_packet_capture": True}
    policies = (
        NodePolicy("all", "1", 1, network=on),
        NodePolicy("quiet", "2", 1),
        NodePolicy("web", "3", 1, network=on | {"capture_filter": "tcp port 80", "enable_flow_events": False, "enable_dns_events": False}),
    )  # fmt: skip
    made = Capture.from_config(NodeConfig(policies, network=on | {"capture_filters": ["", "tcp port 80"]}))
    web = Asking("web", "tcp port 80", flows=False, dns=False)
    assert made == Capture(filters=("", "tcp port 80"), policies=(Asking("all", ""), web))
    assert made.without({"tcp port 80"}) == Capture(policies=(Asking("all", ""),)), "who is refused asks for nothing"
    assert Capture.from_config(NodeConfig(policies[1:2])) is None


def test_filters_that_do_not_compile_are_left_out() -> None:
    capture = Capture(filters=("bad", "udp"))
    assert capture.without({"bad"}) == Capture(filters=("udp",))
    assert capture.without({"bad", "udp"}) is None
    assert capture.without(()) == capture
