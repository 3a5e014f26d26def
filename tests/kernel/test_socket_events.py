"""What the programs say of real sockets on the running kernel: whose, with whom, how much, and for how long."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from daemoneye_sensor import opensockets
from daemoneye_sensor.loader.btf import Btf
from daemoneye_sensor.programs import RingSizes
from tests.kernel.conftest import Kernel, look_again, one, receiver, rows
from tests.support.namespaces import TALKING, Namespace, heard, star

EVENTS = ["process_exec", "process_fork", "process_exit", "socket_open", "socket_close"]
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
            attribution = receiver(kernel) if direction == "inbound" else "exact"
            assert (row["pid"], row["direction"], row["attribution"]) == (pid, direction, attribution)
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
    look_again(kernel)
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


def test_of_10000_mixed_connections_over_three_namespaces_each_has_its_own(kernels: Callable[..., Kernel]) -> None:
    # A reader that makes JSON of each row is slower than sixteen clients: the ring holds them all.
    kernel = kernels("many", sizes=RingSizes(socket_bytes=16 << 20), events=EVENTS).open()
    with star(2) as (middle, left, right):
        ways = ((middle, left, "10.213.0.2"), (middle, right, "fd00:213:1::2"), (left, middle, "fd00:213::1"), (right, middle, "10.213.1.1"))  # fmt: skip
        servers = [there.start("serve", address, 11, 3) for _, there, address in ways]
        ports = [heard(server)["port"] for server in servers]
        calls = [
            [here.start("call", address, port, 1000 + 10 * way + n, 600) for n in range(4)]
            for way, ((here, _, address), port) in enumerate(zip(ways, ports, strict=True))
        ]
        echoing = middle.start("echo", "10.213.0.1", 50)
        asking = left.start("datagrams", "10.213.0.1", heard(echoing)["port"], 1, 400)
        everyone = [asking, *itertools.chain(*calls)]
        kernel.wait(lambda _: all(process.poll() is not None for process in everyone))
        assert not kernel.lost

        who: dict[
            tuple[int, str, int, int], tuple[int, str, int]
        ] = {}  # an end → its process, its direction and what the client sent
        for (here, there, _), port, server, clients in zip(ways, ports, servers, calls, strict=True):
            for client in clients:
                assert client.stdout
                for said in map(json.loads, client.stdout):
                    who[here.inode, "tcp", said["port"], port] = (said["pid"], "outbound", said["sent"])
            for answered in (heard(server) for _ in range(2400)):
                who[there.inode, "tcp", answered["peer"], port] = (answered["pid"], "inbound", answered["received"])
        assert len(who) == 2 * 9600

        def ends(event: str) -> dict[tuple[int, str, int, int], dict[str, Any]]:
            mine = [e for e in rows(kernel, event) if e["dst_port"] in ports and e["direction"] != "listen"]
            found = {(e["netns"], e["proto"], e["src_port"], e["dst_port"]): e for e in mine}
            assert len(found) == len(mine), "one row each"
            return found

        kernel.wait(lambda _: len(ends("socket_close")) >= len(who))
        opened, closed = ends("socket_open"), ends("socket_close")
        receiving = receiver(kernel)
        assert opened.keys() == closed.keys() == who.keys()
        for end, (pid, direction, sent) in who.items():
            attribution = receiving if direction == "inbound" else "exact"
            for row in (opened[end], closed[end]):
                assert (row["pid"], row["direction"]) == (pid, direction)
                assert (row["exe"], row["attribution"]) == (PYTHON, attribution)
            assert (row["src_bytes"], row["dst_bytes"], row["ending"], row["flags"]) == (sent, 11, "closed", [])
        assert asking.stdout
        asked = sorted((said["port"], said["pid"]) for said in map(json.loads, asking.stdout))
        told = rows(kernel, "socket_open", netns=left.inode, proto="udp", direction="outbound")
        assert len(asked) == 400
        assert sorted((e["src_port"], e["pid"]) for e in told) == asked
        assert not kernel.lost


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


def test_dropped_packets_are_counted_for_their_socket_and_the_node(
    kernel: Kernel, networks: tuple[Namespace, Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = networks[0]
    code = (
        "import socket\n"
        "full, here = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))\n"
        "full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096); full.bind(('127.0.0.1', 0))\n"
        "here.connect(full.getsockname()); here.send(b'told'); full.recv(9)\n"
        "for _ in range(200): here.send(bytes(1000))\n"
        "full.setblocking(False); got = 0\n"
        "try:\n"
        "    while full.recv(2000): got += 1\n"
        "except BlockingIOError: print(full.getsockname()[1], 200 - got)"
    )
    kernel.read()  # the tests before it had kernels of their own: this one's lease may have lapsed
    before = kernel.source.status()["sockets"]["packets_dropped"]["receive_buffer"]  # type: ignore[index]
    command = ["ip", "netns", "exec", space.name, sys.executable, "-c", code]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.split()
    port, dropped = map(int, said)
    assert dropped > 100
    monkeypatch.setattr(opensockets, "IDLE_NS", 0)
    look_again(kernel)
    ends = {"netns": space.inode, "proto": "udp", "dst_port": port}
    closed = one(kernel, "socket_close", **ends, direction="listen")
    whose = Btf.running().has("trace_event_raw_kfree_skb", "rx_sk")  # else they count for the node alone
    assert (closed["drops"], closed["drop_reason"]) == ((dropped, "receive_buffer") if whose else (0, "none"))
    sender = one(kernel, "socket_close", **ends, direction="outbound")
    assert (sender["drops"], sender["drop_reason"]) == (0, "none")
    after = kernel.source.status()["sockets"]["packets_dropped"]["receive_buffer"]  # type: ignore[index]
    assert after >= before + dropped
