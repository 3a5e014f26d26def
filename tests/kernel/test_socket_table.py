"""The kernel's table of open sockets: what it loses when it is full, when a sensor dies, when nobody looks, and when something of it is missing."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daemoneye_sensor import bpfsys, opensockets, programs
from daemoneye_sensor.programs import RingSizes
from tests.kernel.conftest import BPF, Kernel, look_again, one, rows
from tests.support.namespaces import Namespace, heard

EVENTS = ["process_exec", "process_fork", "process_exit", "socket_open", "socket_close"]
PYTHON = os.path.realpath(sys.executable)


def test_a_sensor_that_dies_before_its_silent_sockets_are_safe_has_a_successor_that_tells_them(
    kernels: Callable[..., Kernel], networks: tuple[Namespace, Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = networks[0]
    first = kernels("dies", events=EVENTS).open()
    port = heard(space.start("echo", "10.213.0.1", 50))["port"]
    (said,) = space.talk("datagrams", "10.213.0.1", port, 3)
    mine = {"netns": space.inode, "src_port": said["port"], "proto": "udp"}
    one(first, "socket_open", **mine)
    monkeypatch.setattr(opensockets, "IDLE_NS", 0)
    look_again(first)
    while (drain := first.source.drain()) is not None:
        if any(s.record.name == "socket_close" and said["port"] in s.rows["src_port"] for s in drain.sections):
            break  # it never reaches the spool
        first.source.commit(drain)
    assert drain is not None
    assert first.origin
    second = Kernel(first.instance, events=EVENTS)
    second.open({}, first.origin.epoch)
    try:
        closed = one(second, "socket_close", **mine)
        assert (closed["pid"], closed["ending"]) == (said["pid"], "idle")
        assert (closed["src_bytes"], closed["dst_bytes"]) == (300, 150)
        look_again(second)
        second.read()
        assert len(rows(second, "socket_close", **mine)) == 1, "it is forgotten now"
    finally:
        second.source.close(keep=True)


def test_a_silent_socket_that_speaks_before_it_is_forgotten_goes_on(
    kernels: Callable[..., Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = kernels("speaks", events=EVENTS).open()
    with socket.socket(type=socket.SOCK_DGRAM) as there, socket.socket(type=socket.SOCK_DGRAM) as here:
        there.bind(("127.0.0.1", 0))
        here.connect(there.getsockname())
        here.send(b"abc")
        mine = {"src_port": here.getsockname()[1], "dst_port": there.getsockname()[1]}
        one(kernel, "socket_open", **mine)
        monkeypatch.setattr(opensockets, "IDLE_NS", 0)
        sockets = look_again(kernel)
        forget = sockets.forget
        monkeypatch.setattr(sockets, "forget", lambda: (len(sockets.ended) and here.send(b"de"), forget()))
        kernel.wait(lambda _: bool(rows(kernel, "socket_close", **mine)))
        monkeypatch.setattr(sockets, "forget", forget)
        look_again(kernel)
        kernel.wait(lambda _: len(rows(kernel, "socket_close", **mine)) > 1)
        early, late = rows(kernel, "socket_close", **mine)
        assert early["begin_time"] == late["begin_time"]
        assert (early["src_calls"], early["src_bytes"]) == (1, 3)
        assert (late["src_calls"], late["src_bytes"]) == (2, 5)
        assert len(rows(kernel, "socket_open", **mine)) == 1


def test_a_full_table_of_open_sockets_counts_each_that_it_has_no_room_for(
    kernels: Callable[..., Kernel],
    networks: tuple[Namespace, Namespace],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, there = networks
    bpf = tmp_path / "bpf"
    shutil.copytree(BPF, bpf)
    common = bpf / "include/common.bpf.h"
    common.write_text(common.read_text().replace("#define DE_SOCKETS 65536", "#define DE_SOCKETS 100"))
    port = heard(there.start("serve", "10.213.0.2", 5, 1))["port"]
    kernel = kernels("full", events=EVENTS)
    kernel.source._bpf_dir = bpf
    kernel.open()

    def untold() -> int:
        return kernel.source._kernel.dropped()["table"]

    with contextlib.ExitStack() as stack:
        mine = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(500)]
        for udp in mine:
            udp.bind(("127.0.0.1", 0))
        for udp in mine:
            udp.sendto(b"a", mine[0].getsockname())
        first = untold()
        assert 400 <= first < 800
        for _ in range(20):
            for udp in mine:
                udp.sendto(b"a", mine[0].getsockname())
        assert untold() < first + 400, "10,000 uses of sockets that were counted before"
        before = untold()
        here.talk("call", "10.213.0.2", port, 10, 50)
        assert untold() >= before + 100, "each has two ends"
        kernel.read()
        assert {(lost.stage, lost.ring, lost.lane) for lost in kernel.lost} == {("table", "", "bulk")}
        assert sum(lost.count for lost in kernel.lost) <= untold()
        assert not rows(kernel, "socket_close", dst_port=port)
    # There is room again when those that have it are forgotten.
    monkeypatch.setattr(opensockets, "IDLE_NS", 0)
    look_again(kernel)
    kernel.wait(lambda _: any(e["pid"] == os.getpid() for e in rows(kernel, "socket_close", ending="idle")))
    (said,) = here.talk("call", "10.213.0.2", port, 10, 1)
    closed = one(kernel, "socket_close", netns=here.inode, src_port=said["port"], dst_port=port)
    assert (closed["pid"], closed["src_bytes"]) == (said["pid"], 10)


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
        kernel.lost.clear()  # others may have filled the small one already
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


def test_an_end_that_was_missed_is_told_when_the_socket_goes(
    kernels: Callable[..., Kernel], networks: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    here, there = networks
    bpf = tmp_path / "bpf"
    shutil.copytree(BPF, bpf)
    source = bpf / "programs/socket_state.bpf.c"
    # A program does not run within itself: so it is if it was just running when the end came.
    source.write_text(
        source.read_text().replace("if (state == DE_TCP_CLOSE) {", "if (state == DE_TCP_CLOSE) { return 0;")
    )
    kernel = kernels("missed", events=EVENTS)
    kernel.source._bpf_dir = bpf
    kernel.open()
    serving = there.start("serve", "10.213.0.2", 5, 1)
    port = heard(serving)["port"]
    (said,) = here.talk("call", "10.213.0.2", port, 10, 1)
    pids = {here.inode: said["pid"], there.inode: heard(serving)["pid"]}
    for netns, pid in pids.items():
        closed = one(kernel, "socket_close", netns=netns, src_port=said["port"], dst_port=port)
        assert (closed["pid"], closed["ending"], closed["src_bytes"], closed["dst_bytes"]) == (pid, "closed", 10, 5)


@pytest.mark.parametrize(
    ("broken", "missing"),
    [
        ("tracepoint of sends", []),
        ("tracepoints of sends and calls", ["socket_calls", "socket_send"]),
        ("tracepoints of sends, receives and calls", ["socket_calls", "socket_recv", "socket_send"]),
        ("tracepoint of states", sorted(programs.SOCKET_PROGRAMS)),
        ("source", sorted(programs.SOCKET_PROGRAMS)),
        ("verifier", []),
    ],
)
def test_processes_are_watched_whatever_is_wrong_with_sockets(
    kernels: Callable[..., Kernel], networks: tuple[Namespace, Namespace], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, broken: str, missing: list[str],
) -> None:  # fmt: skip
    bpf = tmp_path / "bpf"
    shutil.copytree(BPF, bpf)
    if broken.startswith("tracepoint"):
        absent = {
            "tracepoint of sends": ("socket_send",),
            "tracepoints of sends and calls": ("socket_send", "socket_calls"),
            "tracepoints of sends, receives and calls": ("socket_send", "socket_recv", "socket_calls"),
            "tracepoint of states": ("socket_state",),
        }[broken]
        lacking = dict.fromkeys(absent, "no_such_tracepoint")
        monkeypatch.setattr(programs, "SOCKET_PROGRAMS", {**programs.SOCKET_PROGRAMS, **lacking})
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
    assert status["instead"] == ([] if missing else ["socket_calls"])  # type: ignore[index]
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
        # Without any of the three whoever accepted it is not known, and that is said; all else is.
        both = {"netns": there.inode, "src_port": call["port"]}
        accepted, ended = one(kernel, "socket_open", **both), one(kernel, "socket_close", **both)
        assert (ended["direction"], ended["established"], ended["src_bytes"], ended["dst_bytes"]) == (
            "inbound",
            1,
            10,
            5,
        )
        assert ended["ending"] == "closed"
        for row in (accepted, ended):
            assert row["attribution"] == ("none" if "socket_recv" in missing else "exact" if missing else "descriptor")
            assert ("pid" in row) == ("socket_recv" not in missing)
    else:
        assert not rows(kernel, "socket_close")
