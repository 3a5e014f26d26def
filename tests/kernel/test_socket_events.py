"""What the programs say of real sockets on the running kernel: whose, with whom, how much, and for how long."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemoneye_sensor import bpfsys, opensockets, programs
from daemoneye_sensor.programs import RingSizes
from tests.kernel.conftest import BPF, Kernel
from tests.support import talking

MIB = 1 << 20
TALKING = talking.__file__
EVENTS = ["process_exec", "process_fork", "process_exit", "socket_open", "socket_close"]


class Namespace:
    """A network namespace of this test and the processes in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._running: list[subprocess.Popen[str]] = []
        subprocess.run(["ip", "netns", "add", name], check=True)
        self.run("ip", "link", "set", "lo", "up")
        self.inode = os.stat(f"/run/netns/{name}").st_ino

    def run(self, *command: str) -> None:
        subprocess.run(["ip", "netns", "exec", self.name, *command], check=True)

    def start(self, *words: object) -> subprocess.Popen[str]:
        """A process that talks; it is gone with the namespace."""
        command = ["ip", "netns", "exec", self.name, sys.executable, TALKING, *map(str, words)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._running.append(process)
        return process

    def talk(self, *words: object) -> list[dict[str, Any]]:
        """What such a process says that ends by itself."""
        process = self.start(*words)
        out, _ = process.communicate()
        assert process.returncode == 0
        return [json.loads(line) for line in out.splitlines()]

    def remove(self) -> None:
        for process in self._running:
            subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=False)
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()
        subprocess.run(["ip", "netns", "del", self.name], check=True)


def heard(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line that a process says."""
    assert process.stdout
    return json.loads(process.stdout.readline())


@pytest.fixture(scope="module")
def networks() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces, joined by a cable: 10.213.0.1 and fd00:213::1, .2 and ::2."""
    made = [Namespace(f"de-test-{os.getpid()}-{side}") for side in "ab"]
    try:
        names = [f"de{os.getpid()}{side}" for side in "ab"]
        subprocess.run(["ip", "link", "add", names[0], "type", "veth", "peer", "name", names[1]], check=True)
        for at, (space, name) in enumerate(zip(made, names, strict=True), 1):
            subprocess.run(["ip", "link", "set", name, "netns", space.name], check=True)
            space.run("ip", "addr", "add", f"10.213.0.{at}/24", "dev", name)
            space.run("ip", "addr", "add", f"fd00:213::{at}/64", "dev", name, "nodad")
            space.run("ip", "link", "set", name, "up")
        yield made[0], made[1]
    finally:
        for space in made:
            space.remove()


def rows(kernel: Kernel, event: str, **wanted: Any) -> list[dict[str, Any]]:
    return [e for e in kernel.events if e["event"] == event and all(e.get(k) == v for k, v in wanted.items())]


def one(kernel: Kernel, event: str, **wanted: Any) -> dict[str, Any]:
    """The only event with these values, waited for."""
    kernel.wait(lambda _: bool(rows(kernel, event, **wanted)))
    (found,) = rows(kernel, event, **wanted)
    return found


PYTHON = os.path.realpath(sys.executable)


@pytest.mark.parametrize(
    ("listening", "address", "source"),
    [
        ("10.213.0.2", "10.213.0.2", "10.213.0.1"),
        ("fd00:213::2", "fd00:213::2", "fd00:213::1"),
        ("::", "10.213.0.2", "10.213.0.1"),
    ],
    ids=["ipv4", "ipv6", "ipv4-of-an-ipv6-socket"],
)
def test_a_connection_is_two_rows_on_either_side_with_its_process_and_its_bytes(
    kernel: Kernel, networks: tuple[Namespace, Namespace], listening: str, address: str, source: str
) -> None:
    here, there = networks
    serving = there.start("serve", listening, 7_000_001, 1)
    port = heard(serving)["port"]
    (said,) = here.talk("call", address, port, 123_457, 1)
    answered = heard(serving)
    assert (said["received"], answered["received"]) == (7_000_001, 123_457)

    ends = {"src_ip": source, "src_port": said["port"], "dst_ip": address, "dst_port": port, "proto": "tcp"}
    client, server = ({**ends, "netns": space.inode} for space in (here, there))
    for side, pid, direction in ((client, said["pid"], "outbound"), (server, answered["pid"], "inbound")):
        opened, closed = one(kernel, "socket_open", **side), one(kernel, "socket_close", **side)
        for row in (opened, closed):
            assert (row["pid"], row["direction"], row["attribution"]) == (pid, direction, "exact")
            assert row["exe"] == PYTHON
            assert row["argv"][1:3] == [TALKING, "serve" if direction == "inbound" else "call"]
            assert row["workload"].startswith("host/")
            assert row["family"] == (6 if ":" in (listening if direction == "inbound" else address) else 4)
            assert "mid_stream" not in row["flags"]
        assert opened["begin_time"] == closed["begin_time"] <= opened["time"] <= closed["time"]
        assert opened["community_id"] == closed["community_id"]
        assert (closed["src_bytes"], closed["dst_bytes"]) == (123_457, 7_000_001)
        assert (closed["established"], closed["ending"]) == (1, "closed")
        assert closed["src_calls"] >= 1
        assert closed["dst_calls"] >= 1
        assert closed["begin_time"] <= closed["last_time"] <= closed["time"]
        assert 0 < closed["rtt"] < 5_000_000
    assert not kernel.lost


def test_a_listener_is_told_when_it_begins_and_ends(kernel: Kernel, networks: tuple[Namespace, Namespace]) -> None:
    space = networks[0]
    serving = space.start("serve", "10.213.0.1", 1, 0)
    said = heard(serving)
    listener = {"netns": space.inode, "dst_ip": "10.213.0.1", "dst_port": said["port"], "direction": "listen"}
    opened = one(kernel, "socket_open", **listener)
    assert (opened["pid"], opened["backlog"], opened["attribution"]) == (said["pid"], 77, "exact")
    assert (opened["src_ip"], opened["src_port"]) == ("0.0.0.0", 0)
    assert not rows(kernel, "socket_close", **listener)
    serving.kill()
    closed = one(kernel, "socket_close", **listener)
    assert (closed["pid"], closed["ending"], closed["src_bytes"]) == (said["pid"], "closed", 0)
    assert closed["exe"] == PYTHON, "it ended before the row came, and is still known"


def test_a_refused_connection_is_one_row(kernel: Kernel, networks: tuple[Namespace, Namespace]) -> None:
    space = networks[0]
    process = space.start("call", "10.213.0.1", 9, 1, 1)
    assert process.wait() != 0
    closed = one(kernel, "socket_close", netns=space.inode, dst_port=9)
    assert (closed["pid"], closed["established"], closed["ending"]) == (process.pid, 0, "refused")
    assert (closed["src_ip"], closed["dst_ip"]) == ("10.213.0.1", "10.213.0.1")
    assert closed["src_port"] >= 1024
    assert closed["exe"] == PYTHON
    assert not rows(kernel, "socket_open", netns=space.inode, dst_port=9)


@pytest.mark.parametrize("address", ["10.213.0.2", "fd00:213::2"], ids=["ipv4", "ipv6"])
def test_udp_sockets_are_told_at_first_use_and_end_when_they_are_silent(
    kernel: Kernel, networks: tuple[Namespace, Namespace], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = networks
    echoing = there.start("echo", address, 50)
    port = heard(echoing)["port"]
    (said,) = here.talk("datagrams", address, port, 6)
    client = {"netns": here.inode, "src_port": said["port"], "dst_ip": address, "dst_port": port, "proto": "udp"}
    opened = one(kernel, "socket_open", **client)
    assert (opened["pid"], opened["direction"], opened["exe"]) == (said["pid"], "outbound", PYTHON)
    # It has no peer of its own: whoever likes may speak with it.
    server = {"netns": there.inode, "dst_ip": address, "dst_port": port, "proto": "udp"}
    listening = one(kernel, "socket_open", **server)
    assert (listening["pid"], listening["direction"], listening["src_port"]) == (echoing.pid, "listen", 0)
    assert listening["src_ip"] == ("::" if ":" in address else "0.0.0.0")

    monkeypatch.setattr(opensockets, "IDLE_NS", 0)
    assert kernel.source._sockets
    kernel.source._sockets._next = 0.0
    for side, pid in ((client, said["pid"]), (server, echoing.pid)):
        closed = one(kernel, "socket_close", **side)
        assert (closed["pid"], closed["exe"], closed["ending"]) == (pid, PYTHON, "idle")
        assert (closed["src_bytes"], closed["dst_bytes"]) == (600, 300)
        assert (closed["src_calls"], closed["dst_calls"]) == (7, 6), "an empty datagram is one, too"
        assert closed["begin_time"] <= closed["last_time"] <= closed["time"]


def test_a_udp_socket_with_another_peer_is_another(kernel: Kernel, networks: tuple[Namespace, Namespace]) -> None:
    space = networks[0]
    code = (
        "import socket\n"
        "s, *there = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(4))\n"
        "for port, other in enumerate(there, 5001): other.bind(('127.0.0.1', port))\n"
        "for port in (5001, 5002, 5002, 5003): s.connect(('127.0.0.1', port)); s.send(b'abcd')"
    )
    space.run(sys.executable, "-c", code)
    first, second = (
        one(kernel, "socket_close", netns=space.inode, dst_port=port, proto="udp") for port in (5001, 5002)
    )
    for closed, times in ((first, 1), (second, 2)):
        assert (closed["src_calls"], closed["src_bytes"], closed["ending"]) == (times, 4 * times, "closed")
    assert len(rows(kernel, "socket_open", netns=space.inode, src_port=first["src_port"])) == 3


def test_of_1000_connections_of_many_processes_each_has_its_own(
    kernel: Kernel, networks: tuple[Namespace, Namespace]
) -> None:
    here, there = networks
    serving = there.start("serve", "10.213.0.2", 11, 4)
    port = heard(serving)["port"]
    clients = [here.start("call", "10.213.0.2", port, 1000 + n, 100) for n in range(10)]
    said = []
    for client in clients:
        out, _ = client.communicate()
        said += [json.loads(line) for line in out.splitlines()]
    answered = [heard(serving) for _ in range(1000)]
    assert len(said) == 1000

    def here_and_there() -> list[dict[str, Any]]:
        return [e for e in rows(kernel, "socket_close", dst_port=port) if e["netns"] in {here.inode, there.inode}]

    kernel.wait(lambda _: len(here_and_there()) >= 2000)
    assert not kernel.lost
    closed = {(e["netns"], e["src_port"]): e for e in here_and_there()}
    opened = {(e["netns"], e["src_port"]): e for e in rows(kernel, "socket_open", dst_port=port) if e["src_port"]}
    assert len(closed) == len(opened) == 2000
    sizes = {client.pid: 1000 + n for n, client in enumerate(clients)}
    for line in said:
        for row in (opened[here.inode, line["port"]], closed[here.inode, line["port"]]):
            assert (row["pid"], row["direction"], row["exe"]) == (line["pid"], "outbound", PYTHON)
        assert (row["src_bytes"], row["dst_bytes"]) == (sizes[line["pid"]], 11)
    workers = {line["pid"] for line in answered}
    assert len(workers) > 1
    for line in answered:
        for row in (opened[there.inode, line["peer"]], closed[there.inode, line["peer"]]):
            assert (row["pid"], row["direction"], row["exe"]) == (line["pid"], "inbound", PYTHON)
        assert (row["src_bytes"], row["dst_bytes"]) == (line["received"], 11)


def test_a_connection_that_was_there_before_is_told_at_its_next_use(
    kernels: Callable[..., Kernel], networks: tuple[Namespace, Namespace]
) -> None:
    here, there = networks
    port = heard(there.start("serve", "10.213.0.2", 5, 1))["port"]
    holding = here.start("hold", "10.213.0.2", port)
    own = heard(holding)["port"]
    assert holding.stdin
    kernel = kernels("before", events=EVENTS).open()
    kernel.read()
    holding.stdin.write("\n")
    holding.stdin.flush()
    heard(holding)
    ends = {"netns": here.inode, "src_port": own, "dst_port": port}
    # Who opened it is not known any more: the lower port is taken for the server's.
    if own < port:
        ends = {"netns": here.inode, "src_port": port, "dst_port": own}
    opened = one(kernel, "socket_open", **ends)
    assert (opened["pid"], opened["flags"], opened["exe"]) == (holding.pid, ["mid_stream"], PYTHON)

    # The sensor's successor goes on with what the kernel knows.
    assert kernel.origin
    second = Kernel(kernel.instance, events=EVENTS)
    second.open({}, kernel.origin.epoch)
    try:
        holding.stdin.close()
        closed = one(second, "socket_close", **ends)
        assert (closed["pid"], closed["exe"], closed["flags"]) == (holding.pid, PYTHON, ["mid_stream"])
        assert {closed["src_bytes"], closed["dst_bytes"]} == {3, 5}
        assert not rows(second, "socket_open", **ends)
    finally:
        second.source.close(keep=True)


def test_what_nobody_followed_is_forgotten(
    kernels: Callable[..., Kernel], networks: tuple[Namespace, Namespace]
) -> None:
    here, there = networks
    port = heard(there.start("serve", "10.213.0.2", 5, 2))["port"]
    kernel = kernels("forgotten", events=EVENTS).open()
    holding = here.start("hold", "10.213.0.2", port)
    own = heard(holding)["port"]
    one(kernel, "socket_open", netns=here.inode, src_port=own)
    for lapse in (lambda: kernel.source._kernel.lease(0), lambda: kernel.source.want(["process_exec"])):
        lapse()
        here.talk("call", "10.213.0.2", port, 10, 1)
        kernel.source.want(["process_exec"])
        kernel.source.want(EVENTS)
        kernel.read()
        kernel.events.clear()
        _, known = bpfsys.lookup_batch(kernel.source._kernel.sockets, opensockets._ENTRY)
        assert holding.pid not in known["row"]["pid"]
        assert holding.stdin
        holding.stdin.write("\n")
        holding.stdin.flush()
        heard(holding)
        kernel.wait(lambda _: any(e["pid"] == holding.pid for e in rows(kernel, "socket_open", netns=here.inode)))
        (opened,) = [e for e in rows(kernel, "socket_open", netns=here.inode) if e["pid"] == holding.pid]
        assert opened["flags"] == ["mid_stream"]


def test_a_full_ring_is_counted_to_the_unit(
    kernels: Callable[..., Kernel], networks: tuple[Namespace, Namespace]
) -> None:
    here, there = networks
    events = ["socket_open", "socket_close"]
    small = kernels("small", sizes=RingSizes(socket_bytes=16_384), events=events).open()
    large = kernels("large", events=events).open()
    port = heard(there.start("serve", "10.213.0.2", 5, 1))["port"]
    for kernel in (small, large):
        kernel.read()
        kernel.source.want([])
        kernel.read()
        kernel.events.clear()
    # Others may talk on this machine at any moment: what the one ring counts stands between two brackets of the other.
    large.source.want(events)
    small.source.want(events)
    ring = large.source._kernel.rings["socket"]
    inner = ring.produced
    here.talk("call", "10.213.0.2", port, 10, 200)
    inner = (ring.produced - inner) // ring.stride
    small.source.want([])
    large.source.want([])
    outer = (ring.produced - ring.position) // ring.stride
    for kernel in (small, large):
        kernel.read()
    assert not large.lost
    (lost,) = small.lost
    assert (lost.stage, lost.ring, lost.lane) == ("ring", "socket", "bulk")
    assert len(small.events) == 16_384 // small.source._kernel.rings["socket"].stride
    assert inner <= len(small.events) + lost.count <= outer
    assert len([e for e in large.events if e.get("netns") in {here.inode, there.inode}]) == 800
    small.source.want(events)
    small.lost.clear()
    small.events.clear()
    here.talk("call", "10.213.0.2", port, 10, 3)
    small.wait(lambda _: len(rows(small, "socket_close", netns=here.inode)) == 3)
    assert not small.lost


@pytest.mark.parametrize(
    ("broken", "missing"),
    [
        ("tracepoint of sends", ["socket_send"]),
        ("tracepoint of states", ["socket_recv", "socket_send", "socket_state"]),
        ("source", ["socket_recv", "socket_send", "socket_state"]),
        ("verifier", ["socket_recv"]),
    ],
)
def test_processes_are_watched_whatever_is_wrong_with_sockets(
    kernels: Callable[..., Kernel], networks: tuple[Namespace, Namespace], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, broken: str, missing: list[str],
) -> None:  # fmt: skip
    bpf = tmp_path / "bpf"
    shutil.copytree(BPF, bpf)
    if broken.startswith("tracepoint"):
        name = {"tracepoint of sends": "socket_send", "tracepoint of states": "socket_state"}[broken]
        monkeypatch.setattr(programs, "SOCKET_PROGRAMS", {**programs.SOCKET_PROGRAMS, name: "no_such_tracepoint"})
    elif broken == "source":
        (bpf / "programs/socket_state.bpf.c").write_text("nonsense")
    else:
        source = bpf / "programs/socket_recv.bpf.c"
        source.write_text("int socket_recv(struct bpf_raw_tracepoint_args *ctx) { return ((int (*)(void))9999)(); }")
    kernel = kernels("broken", events=EVENTS)
    kernel.source._bpf_dir = bpf
    kernel.open()
    status = kernel.source.status()["sockets"]
    assert sorted(status["missing"]) == missing  # type: ignore[index]
    assert all(status["missing"].values())  # type: ignore[index]
    here, there = networks
    serving = there.start("serve", "10.213.0.2", 5, 1)
    said = heard(serving)
    (call,) = here.talk("call", "10.213.0.2", said["port"], 10, 1)
    kernel.wait(lambda _: bool(rows(kernel, "process_exit", pid=call["pid"])))
    if "socket_state" not in missing:
        closed = one(kernel, "socket_close", netns=here.inode, src_port=call["port"])
        assert (closed["pid"], closed["src_bytes"], closed["dst_bytes"]) == (call["pid"], 10, 5)
        assert closed["src_calls"] == (0 if "socket_send" in missing else 1)
        assert closed["dst_calls"] == 0 or "socket_recv" not in missing
    else:
        assert not rows(kernel, "socket_close")
