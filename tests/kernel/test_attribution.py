"""Whose packets are: real processes talk in three namespaces, a fourth shows their frames, and every conversation finds both its processes."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from daemoneye import envelope
from daemoneye.envelope import Envelope
from daemoneye.events.jsonform import events_json
from daemoneye_sensor import procfs
from daemoneye_sensor.packets.capturing import Capture
from daemoneye_sensor.sources.base import Source
from daemoneye_sensor.sources.packets import PacketSource
from daemoneye_sensor.sources.pcap import PcapSource
from tests.kernel.conftest import BPF, DEADLINE_S, Kernel
from tests.kernel.test_socket_events import PYTHON
from tests.support.namespaces import Namespace, heard

EVENTS: Final = ["process_exec", "process_fork", "process_exit", "socket_open", "socket_close"]
ROUNDS: Final = 3
TIMES: Final = 40
CLONE_NEWNET: Final = 0x40000000
ETH_P_ALL: Final = 3
SO_RCVBUFFORCE: Final = 33
SO_TIMESTAMPNS: Final = 35


class Frames:
    """Everything that crosses an interface of a namespace, as a capture file whose clock is the kernel's boot-time clock."""

    def __init__(self, space: Namespace, interface: str) -> None:
        self._space, self._interface = space, interface
        self._frames: list[bytes] = []
        self._stop, self._stopping = os.pipe()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._listening.wait(30)

    def _run(self) -> None:
        with open(f"/run/netns/{self._space.name}") as file:  # of this thread alone
            assert not ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET)
        offset = procfs.clock_offset_ns()
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as tap:
            tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 128 << 20)
            tap.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            tap.bind((self._interface, ETH_P_ALL))
            self._listening.set()
            ended = False
            while not ended:
                ready, _, _ = select.select([tap.fileno(), self._stop], [], [])
                ended = self._stop in ready
                with contextlib.suppress(BlockingIOError):
                    while True:
                        frame, extra, _, _ = tap.recvmsg(65_536, 64, socket.MSG_DONTWAIT)
                        (moment,) = (struct.unpack("qq", data) for _, kind, data in extra if kind == SO_TIMESTAMPNS)
                        at = divmod(moment[0] * 10**9 + moment[1] - offset, 10**9)
                        self._frames.append(struct.pack("<IIII", *at, len(frame), len(frame)) + frame)

    def write(self, path: Path) -> None:
        """End, and write the file."""
        os.close(self._stopping)
        self._thread.join()
        os.close(self._stop)
        path.write_bytes(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65_536, 1) + b"".join(self._frames))


@pytest.fixture
def spaces() -> Iterator[tuple[Namespace, ...]]:
    """Three namespaces, 10.214.0.1 and fd00:214::1 to .3 and ::3, on the bridge `de` of a fourth, which comes last."""
    made: list[Namespace] = []
    try:
        made += [Namespace(f"de-whose-{os.getpid()}-{side}") for side in "abcm"]
        middle = made[3]
        middle.run("ip", "link", "add", "de", "type", "bridge")
        middle.run("ip", "link", "set", "de", "promisc", "on", "up")
        for at, space in enumerate(made[:3], 1):
            subprocess.run(
                ["ip", "link", "add", f"de{at}", "netns", middle.name, "type", "veth", "peer", "name", "eth0", "netns", space.name], check=True
            )  # fmt: skip
            middle.run("ip", "link", "set", f"de{at}", "master", "de", "up")
            space.run("ip", "addr", "add", f"10.214.0.{at}/24", "dev", "eth0")
            space.run("ip", "addr", "add", f"fd00:214::{at}/64", "dev", "eth0", "nodad")
            space.run("ip", "link", "set", "eth0", "up")
        yield tuple(made)
    finally:
        for space in made:
            space.remove()


Key = tuple[str, int, str, int, str]
"""Both ends of a conversation, and its protocol."""


class Talk:
    """Who said what to whom: the processes' own words."""

    def __init__(self, spaces: tuple[Namespace, ...]) -> None:
        self._spaces = spaces[:3]
        self.clients: defaultdict[Key, set[int]] = defaultdict(set)
        self.servers: dict[Key | tuple[str, int], int] = {}
        self._listening: list[tuple[str, int, str, subprocess.Popen[str]]] = []
        for at, space in enumerate(self._spaces, 1):
            for address, wild in ((f"10.214.0.{at}", "0.0.0.0"), (f"fd00:214::{at}", "::")):
                for proto, *words in (
                    ("tcp", "serve", address, 10, 3),
                    ("udp", "echo", address, 10),
                    ("udp", "echo", wild, 10),
                ):
                    process = space.start(*words)
                    said = heard(process)
                    self._listening.append((address, said["port"], proto, process))
                    if proto == "udp":
                        self.servers[address, said["port"]] = said["pid"]

    def round(self) -> None:
        """Every namespace asks every server of the others, all at once."""
        running = []
        for at, space in enumerate(self._spaces, 1):
            for address, port, proto, _ in self._listening:
                own = f"fd00:214::{at}" if ":" in address else f"10.214.0.{at}"
                if own != address:
                    asking = [("call", address, port, 10, TIMES)]
                    if proto == "udp":
                        asking = [("ask", address, port, TIMES // 2, loose) for loose in (0, 1)]
                    running += [(own, address, port, proto, space.start(*words)) for words in asking]
        for own, address, port, proto, process in running:
            out, _ = process.communicate()
            assert process.returncode == 0
            for line in map(json.loads, out.splitlines()):
                self.clients[own, line["port"], address, port, proto].add(line["pid"])
        for address, port, proto, process in self._listening:
            for _ in range(2 * TIMES if proto == "tcp" else 0):
                line = heard(process)
                self.servers[line["address"], line["peer"], address, port, proto] = line["pid"]


def test_every_conversation_finds_both_its_processes(
    kernels: Callable[..., Kernel], spaces: tuple[Namespace, ...], tmp_path: Path
) -> None:
    kernel = kernels("whose", events=EVENTS).open()
    talk = Talk(spaces)
    seen = shared = 0
    for number in range(ROUNDS):
        frames = Frames(spaces[3], "de")
        talk.round()
        look(kernel)
        assert not kernel.source.lost()
        frames.write(tmp_path / f"{number}.pcap")
        for event in explained(kernel, tmp_path / f"{number}.pcap", spaces[3].inode):
            key = event["src_ip"], event["src_port"], event["dst_ip"], event["dst_port"], event["proto"]
            if event["event"] != "packet_flow" or key not in talk.clients:
                continue
            clients = talk.clients[key]
            if (
                len(clients) > 1
            ):  # one process after the other from one port: to whoever sees packets alone, one conversation
                shared += 1
                continue
            seen += 1
            assert (event["direction"], event["pid"], event["attribution"], event["exe"]) == (
                "outbound",
                *clients,
                "tuple",
                PYTHON,
            ), event
            server = talk.servers[key if event["proto"] == "tcp" else key[2:4]]
            peer = event["peer"]
            assert (peer["pid"], peer["attribution"], peer["exe"]) == (server, "tuple", PYTHON), event
    assert seen >= 0.97 * ROUNDS * 36 * TIMES
    assert shared < 0.01 * seen


@pytest.mark.parametrize("port", [pytest.param(0, id="ports by chance"), pytest.param(40_000, id="one port for all")])
def test_a_message_has_its_processes_when_it_is_told(
    kernels: Callable[..., Kernel], spaces: tuple[Namespace, ...], port: int
) -> None:
    """Rows are told once. Processes that did not exist at the last look, and that are gone by now, ask for a name and a page; one after the other from
    one port of UDP, every other one connected."""
    kernel = kernels("told", events=EVENTS).open()
    here, there, _, middle = spaces
    servers = {name: there.start(name, "10.214.0.2") for name in ("names", "web")}
    said = {name: heard(process) for name, process in servers.items()}
    source = PacketSource(
        bpf_dir=BPF, capture=Capture(interfaces=("de",), cpu_percent=100.0, buffer_bytes=8 << 20), netns=Path(f"/run/netns/{middle.name}")
    )  # fmt: skip
    source.open({}, None)
    try:
        visiting = here.start("visit", "10.214.0.2", said["web"]["port"], TIMES, port)
        told: dict[tuple[str, str], dict[str, Any]] = {}
        deadline = time.monotonic() + DEADLINE_S
        while len(told) < 2 * TIMES:
            assert time.monotonic() < deadline, f"{len(told)} of {2 * TIMES} messages"
            for event in rows_of(kernel, source, middle.inode):
                name = event.get("query", event.get("host", ""))
                if name.endswith(".example"):
                    told[event["event"], name] = event
        visitors = [heard(visiting)["pid"] for _ in range(TIMES)]
        for kind, server in (("dns_query", "names"), ("http_request", "web")):
            for pid in visitors:
                event = told[kind, f"p{pid}.example"]
                peer = event["peer"]
                assert (event["direction"], event["pid"], event["attribution"], event["exe"]) == (
                    "outbound",
                    pid,
                    "tuple",
                    PYTHON,
                ), event
                assert (peer["pid"], peer["attribution"], peer["exe"]) == (said[server]["pid"], "tuple", PYTHON), event
    finally:
        source.close(keep=False)


def explained(kernel: Kernel, file: Path, netns: int) -> Iterator[dict[str, Any]]:
    """The rows of a capture file with the processes that the kernel's source knows."""
    source = PcapSource(file)
    source.open({}, None)
    return rows_of(kernel, source, netns)


def rows_of(kernel: Kernel, source: Source, netns: int) -> Iterator[dict[str, Any]]:
    """All that a source has, explained by what the kernel has told since."""
    assert kernel.origin
    drains = list(iter(source.drain, None))
    look(kernel)
    for drained in drains:
        drain = kernel.source._explainer.explain(drained, netns)
        about = Envelope("n", kernel.origin.boot_id, 1, drain.lane, 0, drain.rows, kernel.origin.clock_offset_ns)
        yield from events_json(envelope.decode(envelope.encode(about, drain.sections)))


def look(kernel: Kernel) -> None:
    """Take what the kernel has told, as a turn of the pipeline does."""
    while (drain := kernel.source.drain()) is not None:
        kernel.source.commit(drain)
        if not drain.more:
            break
