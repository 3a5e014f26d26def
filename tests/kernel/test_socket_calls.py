"""Sockets on kernels that have no tracepoints for sends and receives: by the system calls, held against the tracepoints on the same traffic."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from daemoneye_sensor import opensockets, programs
from tests.kernel.conftest import Kernel, look_again, one, rows
from tests.support.namespaces import Namespace, heard

EVENTS = ["process_exec", "process_fork", "process_exit", "socket_open", "socket_close"]
_OWN = {
    "cpu",
    "time",
    "attribution",
    "begin_time",
    "last_time",
    "rtt",
    "start_time",
    "parent",
    "ancestors",
    "parent_start_time",
    "boot_time",
}
"""What two sources cannot agree on: their own moments and clocks, and how they found the process."""

CALLS = """
import ctypes, os, socket, tempfile
here, there = socket.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)
here.bind(("127.0.0.1", 0)); there.bind(("127.0.0.1", 0))
here.connect(there.getsockname()); there.connect(here.getsockname())
here.send(b"a"); there.recv(9, socket.MSG_PEEK); there.recv(9)
here.send(b""); there.recvfrom(9)
here.sendmsg([b"ab", b"c"]); there.recvmsg(9)
os.write(here.fileno(), b"four"); os.read(there.fileno(), 0); os.read(there.fileno(), 9)
os.writev(here.fileno(), [b"fi", b"ve!"]); os.readv(there.fileno(), [bytearray(2), bytearray(9)])
here.send(b"cut short"); there.recv(3)

class Message(ctypes.Structure):
    _fields_ = [(n, ctypes.c_size_t) for n in ("name", "size", "parts", "count", "control", "length", "flags", "moved")]
class Part(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("size", ctypes.c_size_t)]
libc, room = ctypes.CDLL(None, use_errno=True), [ctypes.create_string_buffer(64) for _ in range(3)]
for socket_, call, sizes in ((here, libc.sendmmsg, (10, 20, 30)), (there, libc.recvmmsg, (64, 64, 64))):
    parts = (Part * 3)(*(Part(ctypes.addressof(r), size) for r, size in zip(room, sizes)))
    messages = (Message * 3)(*(Message(parts=ctypes.addressof(parts) + 16 * n, count=1) for n in range(3)))
    assert call(socket_.fileno(), messages, 3, 0, None) == 3
there.setblocking(False)
try: there.recv(9)
except BlockingIOError: pass
print(here.getsockname()[1], there.getsockname()[1], flush=True)
"""


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Kernel, Kernel]]:
    """A source by the tracepoints, and one by the system calls."""
    points, calls = (Kernel(f"test-{os.getpid()}-{name}", events=EVENTS) for name in ("points", "calls"))
    try:
        with pytest.MonkeyPatch.context() as patch:
            lacking = dict.fromkeys(("socket_send", "socket_recv"), "no_such_tracepoint")
            patch.setattr(programs, "SOCKET_PROGRAMS", {**programs.SOCKET_PROGRAMS, **lacking})
            calls.open()
        yield points.open(), calls
    finally:
        for kernel in (points, calls):
            kernel.source.close(keep=False)
            programs.remove_pins(kernel.instance)


def _said(space: Namespace, code: str) -> list[int]:
    """The numbers that a program says which runs there."""
    command = ["ip", "netns", "exec", space.name, sys.executable, "-c", code]
    return [int(word) for word in subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.split()]


def _alike(both: tuple[Kernel, Kernel], event: str, **wanted: Any) -> dict[str, Any]:
    """The row that both have: the same in every column but those that are their own."""
    first, second = (one(kernel, event, **wanted) for kernel in both)
    assert {k: v for k, v in first.items() if k not in _OWN} == {k: v for k, v in second.items() if k not in _OWN}
    return second


def test_a_source_says_by_what_it_looks(both: tuple[Kernel, Kernel]) -> None:
    points, calls = (kernel.source.status()["sockets"] for kernel in both)
    assert (points["missing"], points["instead"]) == ({}, [])  # type: ignore[index]
    assert (calls["missing"], calls["instead"]) == ({}, ["socket_calls"])  # type: ignore[index]


@pytest.mark.parametrize("address", ["10.213.0.2", "fd00:213::2"], ids=["ipv4", "ipv6"])
def test_tcp_has_the_same_rows(
    both: tuple[Kernel, Kernel], networks: tuple[Namespace, Namespace], address: str
) -> None:
    here, there = networks
    serving = there.start("serve", address, 700_001, 1)
    port = heard(serving)["port"]
    (said,) = here.talk("call", address, port, 123_457, 1)
    for space, pid in ((here, said["pid"]), (there, heard(serving)["pid"])):
        ends = {"netns": space.inode, "src_port": said["port"], "dst_port": port}
        opened, closed = (_alike(both, event, **ends) for event in ("socket_open", "socket_close"))
        assert opened["pid"] == closed["pid"] == pid
        assert (closed["src_bytes"], closed["dst_bytes"]) == (123_457, 700_001)
        assert opened["attribution"] == closed["attribution"] == ("exact" if space is here else "descriptor")
        assert closed["src_calls"] >= 1
        assert closed["dst_calls"] >= 1


def test_udp_by_every_call_has_the_same_rows(
    both: tuple[Kernel, Kernel], networks: tuple[Namespace, Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = networks[0]
    first, second = _said(space, CALLS)
    monkeypatch.setattr(opensockets, "IDLE_NS", 0)
    for kernel in both:
        look_again(kernel)
    for direction in ("outbound", "inbound"):
        ends = {"netns": space.inode, "proto": "udp", "src_port": first, "dst_port": second, "direction": direction}
        opened, closed = (_alike(both, event, **ends) for event in ("socket_open", "socket_close"))
        assert opened["attribution"] == closed["attribution"] == "descriptor"
        sent, received = 1 + 0 + 3 + 4 + 5 + 9 + 60, 1 + 0 + 3 + 4 + 5 + 3 + 60
        assert (closed["src_bytes"], closed["src_calls"]) == (sent if direction == "outbound" else received, 9)


def test_what_splice_and_sendfile_move_has_its_owner(
    both: tuple[Kernel, Kernel], networks: tuple[Namespace, Namespace]
) -> None:
    space = networks[0]
    code = (
        "import os, socket, tempfile\n"
        "server = socket.create_server(('127.0.0.1', 0)); client = socket.create_connection(server.getsockname())\n"
        "other = server.accept()[0]; out, into = os.pipe()\n"
        "with tempfile.TemporaryFile() as f:\n"
        "    f.write(bytes(5000)); f.flush(); os.sendfile(other.fileno(), f.fileno(), 0, 5000)\n"
        "assert os.splice(client.fileno(), into, 5000) > 0\n"
        "print(client.getsockname()[1], flush=True)\n"
    )
    (port,) = _said(space, code)
    calls = both[1]
    inbound = one(calls, "socket_close", netns=space.inode, src_port=port, direction="inbound")
    outbound = one(calls, "socket_close", netns=space.inode, src_port=port, direction="outbound")
    assert inbound["exe"] == outbound["exe"] == os.path.realpath(sys.executable)
    assert inbound["pid"] == outbound["pid"]
    assert (inbound["attribution"], outbound["attribution"]) == ("descriptor", "exact")
    assert inbound["dst_bytes"] == 5000
    assert inbound["dst_calls"] >= 1
    assert outbound["dst_calls"] == 1
    assert rows(calls, "socket_open", netns=space.inode, src_port=port, direction="inbound")
