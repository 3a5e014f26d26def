"""A pod's addresses, from what the kernel says of its network namespace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemoneye.events.addresses import packed
from daemoneye_sensor.evidence.addresses import of_namespace, of_pod

UID = "0a1b2c3d-0000-4000-8000-123456789abc"
FIB = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
Local:
  +-- 0.0.0.0/0 3 0 5
     +-- 10.244.0.0/24 2 0 2
        |-- 10.244.0.0
           /24 link UNICAST
        |-- 10.244.0.17
           /32 host LOCAL
        |-- 10.244.0.255
           /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
"""
SIX = "fe800000000000000000000000000001 02 40 20 80 eth0\n20010db8000000000000000000000017 02 40 00 80 eth0\n00000000000000000000000000000001 01 80 10 80 lo\n"


def process(proc: Path, pid: int, cgroup: str, namespace: str) -> None:
    """A process as /proc has it."""
    folder = proc / str(pid)
    (folder / "net").mkdir(parents=True)
    (folder / "ns").mkdir()
    (folder / "cgroup").write_text(cgroup)
    (proc / namespace).touch()
    (folder / "ns/net").symlink_to(proc / namespace)
    (folder / "net/fib_trie").write_text(FIB)
    (folder / "net/if_inet6").write_text(SIX)


@pytest.mark.parametrize("name", [f"pod{UID}", f"kubepods-pod{UID.replace('-', '_')}.slice"])
def test_of_a_pod(tmp_path, name):
    process(tmp_path, 1, "0::/init.scope", "node")
    process(tmp_path, 40, "0::/kubepods/pod0a1b2c3d-other/x", "other")
    process(tmp_path, 41, f"0::/kubepods/{name}/container", "pod")
    (tmp_path / "42").mkdir()  # one that ends just now
    (tmp_path / "self").mkdir()
    assert of_pod(UID, tmp_path) == tuple(sorted((packed("10.244.0.17"), packed("2001:db8::17"))))
    assert of_pod("nothing", tmp_path) == ()


def test_a_pod_on_the_nodes_network_has_none_of_its_own(tmp_path):
    process(tmp_path, 1, "0::/init.scope", "node")
    process(tmp_path, 41, f"0::/kubepods/pod{UID}/container", "node")
    assert of_pod(UID, tmp_path) == ()


@pytest.mark.parametrize("uid", ["", "x", "../../etc", "a" * 100, "\n" * 20])
def test_what_is_no_uid_is_nobodys(tmp_path, uid):
    assert of_pod(uid, tmp_path) == ()


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """A process in a network namespace of its own, with addresses."""
    if os.geteuid():
        pytest.skip("needs root")
    commands = "ip link set lo up; ip address add 10.99.0.5/24 dev lo; ip address add 2001:db8:99::5/64 dev lo; echo ready; exec sleep 60"
    with subprocess.Popen(["unshare", "--net", "sh", "-c", commands], stdout=subprocess.PIPE) as sleeper:
        assert sleeper.stdout
        sleeper.stdout.readline()
        yield sleeper.pid
        sleeper.kill()


def test_of_a_real_namespace(elsewhere):
    found = of_namespace(Path(f"/proc/{elsewhere}"))
    assert set(found) == {packed("10.99.0.5"), packed("2001:db8:99::5")}
