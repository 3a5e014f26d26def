"""The source with XDP as its counter: another capture, an interface that returns, a process that is killed, a container's rights."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from daemoneye.events.packet_flow import PACKET_FLOW
from daemoneye_sensor.packets.capturing import Capture
from daemoneye_sensor.sources.packets import PacketSource
from tests.kernel.conftest import BPF, DEADLINE_S
from tests.kernel.test_xdp import ETHER, QUESTION, on
from tests.support.namespaces import joined, star
from tests.support.tapping import End, end_of, until

CONTAINER = ("bpf", "perfmon", "sys_ptrace", "net_raw", "sys_admin")
"""What a sensor's container may where packets are captured."""


@pytest.fixture
def cable() -> Iterator[tuple[End, End]]:
    with star(1) as (here, there):
        yield end_of(here), end_of(there)


class Source:
    """A source on one end of a cable, and the packets of its conversations."""

    def __init__(self, end: End, **settings: Any) -> None:
        self.end = end
        self.source = PacketSource(bpf_dir=BPF, capture=Capture(interfaces=(end.name,), **settings), netns=end.netns)
        self.source.open({}, None)
        self.rows: list[Any] = []

    def read(self) -> None:
        while (drain := self.source.drain()) is not None:
            self.rows += [row for one in drain.sections if one.record is PACKET_FLOW for row in one.rows]
            if not drain.more:
                break

    def counter(self) -> object:
        """Who counts, once the source has looked."""
        self.read()
        return self.source._interfaces().get(self.end.name, {}).get("counter")

    def counted(self, frames: int) -> bool:
        """Whether so many frames were counted since the start."""
        assert self.source._program
        return self.source._tally.with_those_of(self.source._program)["frames"] >= frames

    def end_and_count(self, *ports: int) -> int:
        self.source.finish()
        self.read()
        mine = [row for row in self.rows if (row["src_port"], row["dst_port"]) == ports]
        return sum(int(row["src_packets"]) for row in mine)


@pytest.fixture
def source(cable: tuple[End, End]) -> Iterator[Callable[..., Source]]:
    made: list[Source] = []

    def make(**settings: Any) -> Source:
        made.append(Source(cable[0], **settings))
        return made[-1]

    yield make
    for one in made:
        one.source.close(keep=False)


def test_another_capture_takes_over_and_no_packet_counts_twice(
    cable: tuple[End, End], source: Callable[..., Source]
) -> None:
    here, there = cable
    name = (here.name,)
    reading = source(xdp=True)
    question = bytes(ETHER / QUESTION)
    sent = 0
    for capture, counter in (
        (None, "xdp_generic"),
        (Capture(name, filters=("tcp port 80",), xdp=True), "xdp_generic"),
        (Capture(name, filters=("tcp port 80",)), "socket"),
        (Capture(name, xdp=True), "xdp_generic"),
    ):
        if capture:
            reading.source.change(capture)
        assert reading.counter() == counter
        assert bool(on(here)) == (counter != "socket")
        there.send(*[question] * 10)
        sent += 10
        until(partial(reading.counted, sent))
    assert reading.end_and_count(4000, 53) == sent
    reading.source.close(keep=False)
    assert on(here) == {}


def test_an_interface_that_goes_and_returns_is_counted_again(
    cable: tuple[End, End], source: Callable[..., Source]
) -> None:
    here, there = cable
    reading = source(xdp=True)
    assert reading.counter() == "xdp_generic"
    here.space.run("ip", "link", "del", here.name)
    until(lambda: reading.counter() is None)
    assert reading.source.problem()[0] == "NoSuchInterface"
    peer = ["type", "veth", "peer", "name", there.name, "netns", there.space.name]
    here.space.run("ip", "link", "add", here.name, *peer)
    for end in cable:
        end.space.run("ip", "link", "set", end.name, "up")
    joined(here.space, there.space)
    until(lambda: reading.counter() == "xdp_generic")
    assert on(here)["mode"] == 2
    there.send(bytes(ETHER / QUESTION))
    until(lambda: reading.source._program.flows().size)  # type: ignore[union-attr]


CAPTURING = """
import sys
from pathlib import Path
from daemoneye_sensor.packets.capturing import Capture
from daemoneye_sensor.sources.packets import PacketSource
netns = None if sys.argv[3] == "-" else Path(sys.argv[3])
source = PacketSource(bpf_dir=Path(sys.argv[1]), capture=Capture(interfaces=(sys.argv[2],), xdp=True), netns=netns)
source.open({}, None)
source.drain()
print(source.status()["interfaces"][sys.argv[2]]["counter"], *source.problem(), flush=True)
sys.stdin.read()
source.close(keep=False)
"""


@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_it_vanishes_with_the_process(cable: tuple[End, End], killed: bool) -> None:
    here = cable[0]
    command = [sys.executable, "-c", CAPTURING, str(BPF), here.name, str(here.netns)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().split() == ["xdp_generic"]
        assert on(here)["mode"] == 2
        if killed:
            process.send_signal(signal.SIGKILL)
        else:
            process.communicate()
        process.wait()
        until(lambda: not on(here))
    assert process.returncode == (-signal.SIGKILL if killed else 0)


@pytest.mark.parametrize(
    ("capabilities", "said"),
    [
        (CONTAINER, "xdp_generic"),
        (("bpf", "perfmon", "net_raw", "net_admin"), "xdp_generic"),
        (("bpf", "perfmon", "net_raw"), "socket XdpUnavailable XDP programs may not be loaded: give the sensor CAP_NET_ADMIN or CAP_SYS_ADMIN"),
    ],
    ids=["a sensor's container", "net_admin", "neither"],
)  # fmt: skip
def test_what_a_container_may_is_enough(cable: tuple[End, End], capabilities: Sequence[str], said: str) -> None:
    bounds = ",".join(("-all", *(f"+{name}" for name in capabilities)))
    command = ["ip", "netns", "exec", cable[0].space.name, "setpriv", f"--bounding-set={bounds}", "--inh-caps=-all"]
    command += [sys.executable, "-c", CAPTURING, str(BPF), cable[0].name, "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL, timeout=DEADLINE_S)  # fmt: skip
    assert done.stdout.startswith(said)
