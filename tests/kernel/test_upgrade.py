"""A sensor after an upgrade: rings of another layout are read out where their records can be read, counted where not, and go.

The real kernel and a real spool. Another size of the rings gives another layout, as another release's programs do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemoneye import envelope
from daemoneye.envelope import Batch
from daemoneye.events.jsonform import events_json, losses_json
from daemoneye_sensor import compilechild, pinned, programs, settings
from daemoneye_sensor.pipeline import Pipeline
from daemoneye_sensor.programs import BPFFS, RingSizes
from daemoneye_sensor.sources.ebpf import EbpfSource
from daemoneye_sensor.spool import Spool
from tests.kernel.conftest import BPF
from tests.support import storm

MIB = 1 << 20
BEFORE = RingSizes(exec_bytes=4 * MIB, process_bytes=MIB, blob_bytes=MIB)
"""A second and more of a storm is in the ring while the next release compiles, however busy the machine is."""
AFTER = RingSizes(exec_bytes=2 * MIB, process_bytes=MIB, blob_bytes=MIB)


@pytest.fixture(scope="module")
def storming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return storm.build(tmp_path_factory.mktemp("storm"))


class Node:
    """One node's state directory and pins, and the sensor on it."""

    def __init__(self, directory: Path) -> None:
        self.instance = f"test-{os.getpid()}-upgrade"
        path = directory / "sensor.json"
        path.write_text(json.dumps({"node": "n", "state_dir": str(directory), "nats": {"url": "nats://127.0.0.1:1"}}))
        self.settings = settings.load(path)
        self._spool: Spool | None = None
        self.source: EbpfSource | None = None
        self.pipeline: Pipeline | None = None

    def start(self, sizes: RingSizes, *events: str) -> Pipeline:
        """A sensor of the release with these rings."""
        self._spool = Spool(self.settings.state_dir / "spool", max_bytes=64 * MIB)
        self.source = EbpfSource(
            bpf_dir=BPF, instance=self.instance, sizes=sizes, events=list(events or ("process_exec",))
        )
        self.pipeline = Pipeline(self.source, self._spool, self.settings)
        return self.pipeline

    def end(self) -> None:
        """It ends as a pod does that is replaced: what it has not looked at stays in the rings."""
        assert self.source
        assert self._spool
        self.source.close(keep=True)
        self._spool.close()
        self.source = self._spool = None

    @property
    def pins(self) -> list[str]:
        return [path.name for path in (BPFFS / "daemoneye" / self.instance).iterdir()]

    @property
    def pin(self) -> str:
        assert self.source
        return self.source._kernel.pin.name

    def batches(self, lane: str = "urgent") -> list[Batch]:
        assert self._spool
        return [envelope.decode(entry.payload) for entry in self._spool.entries() if entry.lane == lane]

    def losses(self) -> list[dict[str, Any]]:
        return [loss for batch in self.batches("loss") for loss in losses_json(batch)]

    def executions(self, program: Path) -> list[dict[str, Any]]:
        """Executions of the storm's children, each with its batch's epoch."""
        return [
            {**event, "epoch": batch.envelope.epoch}
            for batch in self.batches()
            for event in events_json(batch)
            if event["event"] == "process_exec" and event["argv"] == [str(program), "-"]
        ]

    def remove(self) -> None:
        if self.source is not None:
            self.end()
        shutil.rmtree(BPFFS / "daemoneye" / self.instance, ignore_errors=True)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.remove()


def run(program: Path, count: int) -> None:
    subprocess.run([program, str(count)], stdout=subprocess.DEVNULL, check=True)


def assert_unbroken(batches: list[Batch]) -> None:
    """Sequences of each epoch follow one another."""
    following: dict[int, int] = {}
    for about in (batch.envelope for batch in batches):
        assert about.first_sequence == following.get(about.epoch, 0)
        following[about.epoch] = about.next_sequence


def test_rings_of_another_layout_are_read_out_as_what_they_are(node: Node, storming: Path) -> None:
    pipeline = node.start(BEFORE)
    run(storming, 30)
    pipeline.turn()
    old = pipeline.origin.epoch
    run(storming, 20)  # nobody looks any more
    node.end()

    pipeline = node.start(AFTER)
    run(storming, 5)
    pipeline.turn()
    new = pipeline.origin.epoch
    assert new != old
    seen = node.executions(storming)
    assert [event["epoch"] for event in seen] == [old] * 50 + [new] * 5
    assert len({(event["pid"], event["start_time"]) for event in seen}) == 55
    assert all(event["workload"] for event in seen)
    assert_unbroken(node.batches())
    assert node.losses() == []
    assert node.pins == [node.pin]


def test_rings_that_do_not_say_their_form_have_that_of_the_release_before_they_did(node: Node, storming: Path) -> None:
    node.start(BEFORE)
    assert node.source
    node.source._kernel._control[pinned._CONTROL_RECORDS] = 0
    run(storming, 20)
    node.end()

    node.start(AFTER).turn()
    # When the records change, this release's constant stays: then they are counted, and this test expects that.
    alike = pinned.records_id() == pinned._FIRST_RECORDS
    assert len(node.executions(storming)) == (20 if alike else 0)
    counted = {loss["reason"] for loss in node.losses() if loss["stage"] == "ring"}
    assert counted == (set() if alike else {"layout changed by an upgrade"})
    assert node.pins == [node.pin]


def test_what_the_spool_has_is_not_read_out_again(node: Node, storming: Path) -> None:
    node.start(BEFORE)
    run(storming, 30)
    # The sensor dies after the spool has the batch and before the rings' positions moved.
    assert node.source
    node.source.commit = lambda drain: None  # type: ignore[method-assign]
    assert node.pipeline
    node.pipeline.turn()
    run(storming, 7)
    node.end()

    node.start(AFTER).turn()
    assert len(node.executions(storming)) == 37
    assert_unbroken(node.batches())


def test_a_sensor_that_dies_while_it_reads_them_out_has_a_successor(node: Node, storming: Path) -> None:
    old = node.start(BEFORE).origin.epoch
    run(storming, 30)
    node.end()

    pipeline = node.start(AFTER)
    assert pipeline.origin.epoch == old
    run(storming, 5)
    drain = pipeline._feeds[0].source.drain()
    assert drain
    assert drain.rows >= 30
    del drain  # its rows are the rings' memory
    node.end()  # it has looked, and nothing is in the spool

    pipeline = node.start(AFTER)
    assert pipeline._feeds[0].source.status()["taken_over"]
    run(storming, 2)
    pipeline.turn()
    assert [event["epoch"] for event in node.executions(storming)] == [old] * 30 + [pipeline.origin.epoch] * 7
    assert_unbroken(node.batches())
    assert node.losses() == []
    assert node.pins == [node.pin]


def test_records_that_cannot_be_read_are_counted(node: Node, storming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        for module in (pinned, programs):
            earlier.setattr(module, "records_id", lambda _=(): 1)  # a release whose records were others
        pipeline = node.start(BEFORE)
        old = pipeline.origin.epoch
        run(storming, 10)
        pipeline.turn()
        run(storming, 25)
        node.end()
    former = pinned.Pinned(BPFFS / "daemoneye" / node.instance / node.pins[0])
    former.want([])  # others execute something on this machine, too
    ring = former.rings["exec"]
    held = (ring.produced - ring.position) // (pinned._ring_dtypes()["exec"].itemsize + 8)
    assert held >= 26
    del ring
    former.close()

    pipeline = node.start(AFTER)
    run(storming, 5)
    pipeline.turn()
    (loss,) = [loss for loss in node.losses() if loss["stage"] == "ring"]
    assert (loss["ring"], loss["reason"]) == ("exec", "layout changed by an upgrade")
    assert held <= loss["count"] <= held + 20, (
        "others may execute something on this machine before the new programs run"
    )
    assert {event["epoch"] for event in node.executions(storming)} == {old, pipeline.origin.epoch}
    assert len(node.executions(storming)) == 15
    assert_unbroken(node.batches())
    node.end()

    node.start(AFTER).turn()
    assert len([loss for loss in node.losses() if loss["stage"] == "ring"]) == 1, "told once"
    assert node.pins == [node.pin]


def test_former_programs_outlast_the_longest_compile(
    node: Node, storming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.start(BEFORE)
    (pin,) = node.pins
    node.end()
    left: list[float] = []
    compiling = programs._compile

    def slowly(python: str, request: dict[str, object]) -> dict[str, str]:
        former = pinned.Pinned(BPFFS / "daemoneye" / node.instance / pin)
        left.append(int(former._control[pinned._CONTROL_LEASE]) / 1e9 - time.clock_gettime(time.CLOCK_BOOTTIME))
        former.close()
        return compiling(python, request)

    monkeypatch.setattr(programs, "_compile", slowly)
    node.start(AFTER)
    assert left[0] >= compilechild.TIMEOUT_S


def test_under_load_nothing_is_lost_that_is_not_counted(node: Node, storming: Path) -> None:
    total = 4000
    pipeline = node.start(BEFORE)
    with subprocess.Popen([storming, str(total), "1000"], stdout=subprocess.DEVNULL) as process:
        while len(node.executions(storming)) < 200:
            pipeline.turn()
        node.end()
        pipeline = node.start(AFTER)  # compiles for seconds
        while process.poll() is None:
            pipeline.turn()
            time.sleep(0.05)  # a sensor's own pace, and not a wait for something
        pipeline.turn()
    seen = node.executions(storming)
    lost = sum(loss["count"] for loss in node.losses())
    assert len({event["epoch"] for event in seen}) == 2
    # A record that the former program took before it fell silent may be taken by ours too, which is called right behind it.
    assert len(seen) - len({(event["pid"], event["start_time"]) for event in seen}) <= 1
    assert total - lost <= len(seen) <= total + 1
    assert lost <= 20
    assert_unbroken(node.batches())


def test_a_sensor_that_stood_still_before_its_first_look_reads_them_out_all_the_same(
    node: Node, storming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.start(BEFORE)
    run(storming, 12)
    node.end()
    pipeline = node.start(AFTER)
    moment = time.monotonic
    with monkeypatch.context() as later:  # it was suspended, or waited for a disk that writes an image
        later.setattr("daemoneye_sensor.sources.reading.time.monotonic", lambda: moment() + 60)
        pipeline.turn()
    assert len(node.executions(storming)) == 12
    assert [loss for loss in node.losses() if loss["stage"] == "ring"] == []
    assert node.pins == [node.pin]


@pytest.mark.parametrize("said", [pinned._FIRST_RECORDS, 0], ids=["the-last-release", "before-rings-said-it"])
def test_rings_of_the_release_before_sockets_are_read_out(node: Node, storming: Path, said: int) -> None:
    pipeline = node.start(BEFORE)
    run(storming, 30)
    pipeline.turn()
    assert node.source
    # Those pins had the other rings, whose records are the same, and said so by the form of the three of them.
    former = node.source._kernel
    assert pinned.records_id({"exec", "process", "blob"}) == pinned._FIRST_RECORDS
    former._control[pinned._CONTROL_RECORDS] = said
    old = pipeline.origin.epoch
    run(storming, 20)
    node.end()
    (pin,) = node.pins
    for name in (
        "socket_ring",
        "sockets",
        *(f"{what}_{p}" for p in programs.SOCKET_PROGRAMS for what in ("link", "prog")),
    ):
        (BPFFS / "daemoneye" / node.instance / pin / name).unlink(missing_ok=True)

    pipeline = node.start(AFTER)
    run(storming, 5)
    pipeline.turn()
    assert [event["epoch"] for event in node.executions(storming)] == [old] * 50 + [pipeline.origin.epoch] * 5
    assert_unbroken(node.batches())
    assert node.losses() == []
    assert node.pins == [node.pin]


def test_sockets_rows_of_another_layout_are_read_out_too(node: Node) -> None:
    pipeline = node.start(BEFORE, "process_exec", "process_exit", "socket_open", "socket_close")
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname()); "
        "c.send(b'abc'); s.accept()[0].recv(9); print(c.getsockname()[1])"
    )
    old = pipeline.origin.epoch
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    node.end()
    pipeline = node.start(AFTER, "process_exec")
    pipeline.turn()
    port = int(done.stdout)
    rows = [(b.envelope.epoch, e) for b in node.batches("bulk") for e in events_json(b) if e["src_port"] == port]
    assert {epoch for epoch, _ in rows} == {old}
    assert sorted((e["event"], e["direction"]) for _, e in rows) == [
        ("socket_close", "inbound"), ("socket_close", "outbound"), ("socket_open", "inbound"), ("socket_open", "outbound")
    ]  # fmt: skip
    assert {e["exe"] for _, e in rows} == {os.path.realpath(sys.executable)}
    assert node.losses() == []
    assert node.pins == [node.pin]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr("daemoneye_sensor.sources.reading._READ_OUT_S", 0.0)


def test_a_ring_that_does_not_end_is_counted_and_left(
    node: Node, storming: Path, impatient: Callable[[], None]
) -> None:
    pipeline = node.start(BEFORE)
    run(storming, 12)
    node.end()
    impatient()
    pipeline = node.start(AFTER)
    pipeline.turn()
    (loss,) = node.losses()
    assert loss["count"] >= 13
    assert node.executions(storming) == []
    assert node.pins == [node.pin]
