"""Nothing is lost that is not counted: storms, full rings, restarts, silence without a reader."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemoneye_sensor import bpfsys, compilechild, programs
from daemoneye_sensor.errors import ProgramError
from daemoneye_sensor.programs import RingSizes
from daemoneye_sensor.sources.ebpf import EbpfSource
from tests.kernel.conftest import BPF, Kernel
from tests.support import storm

MIB = 1 << 20
AGAIN = 50
"""Times that something is tried in a ring so small that what others execute on this machine at the same moment may fill it."""


@pytest.fixture(scope="module")
def storming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return storm.build(tmp_path_factory.mktemp("storm"))


def of(kernel: Kernel, program: Path) -> list[dict[str, Any]]:
    return [e for e in kernel.events if e["event"] == "process_exec" and e["argv"] == [str(program), "-"]]


def test_10000_executions_without_a_loss(kernels: Callable[..., Kernel], storming: Path) -> None:
    kernel = kernels("storm").open()
    with subprocess.Popen([storming, "10000"], stdout=subprocess.DEVNULL) as process:
        kernel.wait(lambda events: any(e["event"] == "process_exit" and e["pid"] == process.pid for e in events))
    seen = of(kernel, storming)
    assert len(seen) == 10_000
    assert len({(e["pid"], e["start_time"]) for e in seen}) == 10_000
    assert not kernel.lost
    assert {e["parent"]["pid"] for e in seen} == {process.pid}


@pytest.fixture
def bpf_stats() -> Iterator[None]:
    """The kernel counts every run of every program meanwhile (kernel.bpf_stats_enabled, Documentation/bpf)."""
    switch = Path("/proc/sys/kernel/bpf_stats_enabled")
    before = switch.read_text()
    switch.write_text("1")
    yield
    switch.write_text(before)


def test_full_rings_are_counted_to_the_unit(kernels: Callable[..., Kernel], storming: Path, bpf_stats: None) -> None:
    kernel = kernels(
        "overflow", sizes=RingSizes(exec_bytes=4096 * 4, process_bytes=MIB, blob_bytes=MIB), events=["process_exec"]
    ).open()
    programs_ = kernel.source._kernel
    programs_.want([])
    kernel.read()
    kernel.events.clear()

    def runs() -> int:
        return int(bpfsys.fdinfo(programs_._programs["process_exec"])["run_cnt"])

    # Others may execute something on this machine at any moment: the counts stand between two brackets, which are equal when nobody does.
    outer = runs()
    programs_.want(["process_exec"])
    inner = runs()
    subprocess.run([storming, "500"], stdout=subprocess.DEVNULL, check=True)  # nobody reads meanwhile
    inner = runs() - inner
    programs_.want([])
    outer = runs() - outer
    kernel.read()
    lost = sum(loss.count for loss in kernel.lost if loss.ring == "exec")
    ring = programs_.rings["exec"]
    assert 0 < len(kernel.events) <= ring.size // ring.stride
    assert inner >= 501
    assert inner <= len(kernel.events) + lost <= outer
    programs_.want(["process_exec"])

    def goes_on() -> bool:
        kernel.read()
        kernel.lost.clear()
        kernel.events.clear()
        subprocess.run([storming, "10"], stdout=subprocess.DEVNULL, check=True)
        kernel.read()
        return len(of(kernel, storming)) == 10 and not kernel.lost

    assert any(goes_on() for _ in range(AGAIN)), "the ring goes on after an overflow"


def test_a_killed_readers_ring_is_taken_over_and_each_record_seen_once(
    kernels: Callable[..., Kernel], storming: Path
) -> None:
    first = kernels("takeover").open()
    first.read()
    subprocess.run([storming, "50"], stdout=subprocess.DEVNULL, check=True)
    first.read()
    assert len(of(first, storming)) == 50
    # The reader dies after the spool has a batch and before the ring's position moved: the successor is told what the batch covers.
    subprocess.run([storming, "30"], stdout=subprocess.DEVNULL, check=True)
    drain = first.source.drain()
    assert drain
    covered = dict(drain.positions)
    subprocess.run([storming, "20"], stdout=subprocess.DEVNULL, check=True)
    assert first.origin

    second = Kernel(first.instance)
    second.open(covered, first.origin.epoch)
    try:
        assert second.source.status()["taken_over"]
        assert second.origin
        assert second.origin.epoch == first.origin.epoch
        subprocess.run([storming, "5"], stdout=subprocess.DEVNULL, check=True)
        second.wait(lambda _: len(of(second, storming)) >= 25)
        second.read()
        assert len(of(second, storming)) == 25
        assert not second.lost
        assert all(e["workload"] for e in of(second, storming)), "cgroups are announced again to a new reader"
    finally:
        second.source.close(keep=True)


def test_programs_fall_silent_without_a_reader_and_say_so(kernels: Callable[..., Kernel], storming: Path) -> None:
    kernel = kernels("lease").open()
    kernel.read()
    kernel.source._kernel.lease(0)
    kernel.events.clear()
    subprocess.run([storming, "20"], stdout=subprocess.DEVNULL, check=True)
    assert kernel.source._kernel.rings["exec"].produced == kernel.source._kernel.rings["exec"].position
    kernel.read()
    lapsed = [loss for loss in kernel.lost if loss.stage == "lease"]
    assert sum(loss.count for loss in lapsed) >= 20
    subprocess.run([storming, "3"], stdout=subprocess.DEVNULL, check=True)
    kernel.read()
    assert len(of(kernel, storming)) == 3


def test_a_ring_that_fills_wakes_its_reader(kernels: Callable[..., Kernel], storming: Path) -> None:
    import select

    kernel = kernels("wake", sizes=RingSizes(exec_bytes=64 * 1024, process_bytes=MIB, blob_bytes=MIB)).open()
    kernel.read()
    fd = kernel.source.wake_fd()
    assert fd is not None

    def sleeps() -> bool:
        kernel.read()
        subprocess.run([storming, "20"], stdout=subprocess.DEVNULL, check=True)
        return not select.select([fd], [], [], 0.05)[0]

    assert any(sleeps() for _ in range(AGAIN)), "a few records wake nobody"
    subprocess.run([storming, "60"], stdout=subprocess.DEVNULL, check=True)
    assert select.select([fd], [], [], 60)[0]
    kernel.read()
    assert not select.select([fd], [], [], 0)[0]


def test_switching_an_event_off_takes_effect_at_once(kernels: Callable[..., Kernel], storming: Path) -> None:
    kernel = kernels("switch").open()
    kernel.source._kernel.want(["process_exit"])
    kernel.read()
    kernel.events.clear()
    subprocess.run([storming, "5"], stdout=subprocess.DEVNULL, check=True)
    kernel.read()
    assert {e["event"] for e in kernel.events} == {"process_exit"}


def test_closing_leaves_nothing_in_the_kernel(kernels: Callable[..., Kernel]) -> None:
    kernel = kernels("clean").open()
    home = programs.BPFFS / "daemoneye" / kernel.instance
    assert home.is_dir()
    kernel.source.close(keep=False)
    assert not home.exists()


@pytest.mark.parametrize(
    ("broken", "expected", "reason"),
    [
        ("python", "python3-bpfcc", "BadProgram"),
        ("sources", "program sources are missing", "BadProgram"),
        ("syntax", "cannot be loaded", "BadProgram"),
        ("helper", "cannot be loaded.*9999", "MissingKernelFeature"),
        ("member", "no member de_nothing", "MissingKernelFeature"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, broken: str, expected: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bpf = tmp_path / "bpf"
    subprocess.run(["cp", "-r", BPF, bpf], check=True)
    python = "/usr/bin/python3"
    if broken == "python":
        python = str(tmp_path / "python3")
    elif broken == "sources":
        (bpf / "programs" / "process_fork.bpf.c").unlink()
    elif broken == "member":  # as if this kernel's task_struct were another
        loader = tmp_path / "loader"
        subprocess.run(["cp", "-r", compilechild._LOADERS, loader], check=True)
        offsets = (loader / "offsets.py").read_text()
        assert '"start_boottime|real_start_time"' in offsets
        (loader / "offsets.py").write_text(offsets.replace('"start_boottime|real_start_time"', '"de_nothing"'))
        monkeypatch.setattr(compilechild, "_LOADERS", loader)
    else:
        what = "nonsense" if broken == "syntax" else "((int (*)(void))9999)()"
        (bpf / "programs" / "process_fork.bpf.c").write_text(
            f"int process_fork(struct bpf_raw_tracepoint_args *ctx) {{ return {what}; }}"
        )
    instance = f"test-{os.getpid()}-missing"
    with pytest.raises(ProgramError, match=expected) as error:
        programs.load(bpf, instance, RingSizes(), python=python)
    assert error.value.reason == reason
    home = programs.BPFFS / "daemoneye" / instance
    assert not home.is_dir() or not list(home.iterdir())
    if home.is_dir():
        home.rmdir()


def test_a_second_source_of_another_instance_sees_the_same(kernels: Callable[..., Kernel], storming: Path) -> None:
    one, two = kernels("one").open(), kernels("two").open()
    subprocess.run([storming, "5"], stdout=subprocess.DEVNULL, check=True)
    for kernel in (one, two):
        kernel.read()
        assert len(of(kernel, storming)) == 5
    assert isinstance(one.source, EbpfSource)


def test_strings_that_arrive_before_their_row_wait_for_it(
    kernels: Callable[..., Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = kernels("strings").open()
    kernel.read()
    ring = kernel.source._kernel.rings["exec"]
    # What a look sees when an execution comes in between: its strings, and not its row.
    seen = ring.position
    subprocess.run(["/bin/true", "x" * 5000], check=True)
    with monkeypatch.context() as early:
        early.setattr(type(ring), "produced", property(lambda self: seen if self is ring else int(self._producer[0])))
        drain = kernel.source.drain()
    assert drain
    assert "process_exec" not in {s.record.name for s in drain.sections if not s.context}
    kernel.source.commit(drain)
    kernel.read()
    assert len([e for e in kernel.execs(filename="/bin/true") if e["argv"] == ["/bin/true", "x" * 5000]]) == 1
    assert not kernel.lost
    kernel.read()
    blob = kernel.source._kernel.rings["blob"]
    assert blob.position == blob.produced, "nothing is held for ever"


def test_a_successor_does_not_tell_the_kernels_losses_again(kernels: Callable[..., Kernel], storming: Path) -> None:
    first = kernels(
        "told", sizes=RingSizes(exec_bytes=4096 * 4, process_bytes=MIB, blob_bytes=MIB), events=["process_exec"]
    ).open()
    first.read()
    subprocess.run([storming, "5000"], stdout=subprocess.DEVNULL, check=True)
    first.read()
    told = sum(loss.count for loss in first.lost)
    assert told >= 2500
    subprocess.run([storming, "3"], stdout=subprocess.DEVNULL, check=True)
    first.read()
    assert first.origin
    newest = first.batches[-1].envelope.positions  # all that is left when the spool forgot the loss batch

    second = Kernel(first.instance, sizes=RingSizes(exec_bytes=4096 * 4, process_bytes=MIB, blob_bytes=MIB))
    second.open(dict(newest), first.origin.epoch)
    try:
        assert second.source.status()["taken_over"]
        second.read()
        # Others on this machine may fill so small a ring at any moment, but not with what was told before.
        assert sum(loss.count for loss in second.lost) < told / 2
    finally:
        second.source.close(keep=True)


def test_a_container_on_cgroup_v2_sees_the_hosts_paths() -> None:
    code = (
        "from daemoneye_sensor.procfs import enter_host_cgroups; from pathlib import Path; "
        "paths = lambda: Path('/proc/self/cgroup').read_text(); "
        "print(paths(), enter_host_cgroups(), paths(), sep='|')"
    )
    own = Path("/proc/self/cgroup").read_text()
    done = subprocess.run(
        ["unshare", "--cgroup", sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    inside, entered, after = done.stdout.strip("\n").split("|")
    assert inside.strip() != own.strip()
    assert entered == "True"
    assert after.strip() == own.strip()
