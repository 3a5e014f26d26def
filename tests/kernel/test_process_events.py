"""What the programs say of real processes on the running kernel."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import Kernel

TRUE = Path("/bin/true").resolve()


def run(*argv: str, **options: object) -> int:
    """Run to the end; returns the pid."""
    process = subprocess.Popen(argv, **options)  # type: ignore[call-overload]
    process.wait()
    return int(process.pid)


def test_23_known_executions_give_exactly_23_records(kernel: Kernel, tmp_path: Path) -> None:
    kernel.read()
    expected = {
        run("/bin/true", f"argument {i}", "", "ünïcode", cwd=tmp_path): [f"argument {i}", "", "ünïcode"]
        for i in range(23)
    }
    kernel.wait(lambda events: {e["pid"] for e in events if e["event"] == "process_exit"} >= set(expected))

    seen = [e for e in kernel.execs() if e["pid"] in expected]
    assert len(seen) == 23
    for event in seen:
        assert event["argv"] == ["/bin/true", *expected[event["pid"]]]
        assert event["exe"] == str(TRUE)
        assert event["filename"] == "/bin/true"
        assert event["cwd"] == str(tmp_path)
        assert event["ppid"] == os.getpid()
        assert event["parent"]["pid"] == os.getpid()
        assert event["parent"]["exe"] == os.readlink("/proc/self/exe")
        assert event["parent"]["argv"] == Path("/proc/self/cmdline").read_bytes()[:512].decode().removesuffix(
            "\0"
        ).split("\0")
        assert event["argc"] == 4
        assert not event["argv_truncated"]
        assert (event["uid"], event["gid"], event["euid"]) == (os.getuid(), os.getgid(), os.geteuid())
        assert event["comm"] == "true"
    own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    assert {e["cgroup"] for e in seen} <= {path for _, controllers, path in own if controllers in {"", "memory"}}
    assert all(e["workload"].startswith("host/") for e in seen)


def test_namespaces_capabilities_and_login_are_those_of_proc(kernel: Kernel) -> None:
    pid = run("/bin/true")
    event = kernel.exec_of(pid)
    for name in ("mnt", "pid", "net", "user", "uts", "ipc", "cgroup"):
        assert event[f"{name}_ns"] == os.stat(f"/proc/self/ns/{name}").st_ino
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    assert event["cap_effective"] == int(status["CapEff"], 16)
    assert event["cap_permitted"] == int(status["CapPrm"], 16)
    assert event["loginuid"] == int(Path("/proc/self/loginuid").read_text())
    stat = TRUE.stat()
    assert (event["exe_inode"], event["exe_mode"], event["exe_nlink"]) == (stat.st_ino, stat.st_mode, stat.st_nlink)


def test_argv_of_40_kb_is_cut_and_its_length_known(kernel: Kernel) -> None:
    argv = ["/bin/true", *("x" * 4000 for _ in range(10))]
    event = kernel.exec_of(run(*argv))
    assert event["argv_truncated"]
    assert event["argv_length"] == sum(len(a) + 1 for a in argv)
    assert event["argc"] == 11
    kept = "\0".join(event["argv"])
    assert "\0".join(argv).startswith(kept)
    assert len(kept) == 16384


@pytest.mark.parametrize("size", [100, 250, 288, 300, 991, 992, 993, 5000, 16_000])
def test_argv_around_every_boundary_is_whole(kernel: Kernel, size: int) -> None:
    argument = "".join(chr(97 + i % 26) for i in range(size))
    event = kernel.exec_of(run("/bin/true", argument, "end"))
    assert event["argv"] == ["/bin/true", argument, "end"]
    assert event["exe"] == str(TRUE)


def test_hostile_argv_stays_what_it_is(kernel: Kernel) -> None:
    event = kernel.exec_of(run("/bin/true", "\x1b]0;owned\x07", b"\xff\xfe".decode(errors="surrogateescape"), "a\nb"))
    assert event["argv"][1:] == ["\x1b]0;owned\x07", r"\xff\xfe", "a\nb"]


def test_fork_exit_and_status(kernel: Kernel) -> None:
    pid = run("/bin/sh", "-c", "exit 7")
    kernel.exec_of(pid)
    kernel.wait(lambda events: any(e["event"] == "process_exit" and e["pid"] == pid for e in events))
    forked = next(e for e in kernel.events if e["event"] == "process_fork" and e["pid"] == pid)
    ended = next(e for e in kernel.events if e["event"] == "process_exit" and e["pid"] == pid)
    executed = kernel.exec_of(pid)
    assert (ended["exit_code"], ended["exit_signal"]) == (7, 0)
    assert forked["start_time"] == executed["start_time"] == ended["start_time"]
    assert forked["process_uid"] == executed["process_uid"]
    assert forked["time"] <= executed["time"] <= ended["time"]
    assert ended["exe"] == executed["exe"]


def test_signal_names_sender_and_target(kernel: Kernel) -> None:
    target = subprocess.Popen(["/bin/sleep", "60"])
    kernel.exec_of(target.pid)
    os.kill(target.pid, signal.SIGKILL)
    target.wait()
    kernel.wait(lambda events: any(e["event"] == "process_exit" and e["pid"] == target.pid for e in events))
    sent = next(e for e in kernel.events if e["event"] == "process_signal" and e["target_pid"] == target.pid)
    assert (sent["pid"], sent["signal"], sent["code"], sent["result"]) == (os.getpid(), signal.SIGKILL, 0, 0)
    ended = next(e for e in kernel.events if e["event"] == "process_exit" and e["pid"] == target.pid)
    assert ended["exit_signal"] == signal.SIGKILL


def test_threads_are_no_processes(kernel: Kernel) -> None:
    pid = run(
        sys.executable,
        "-c",
        "import threading; t = [threading.Thread(target=int) for _ in range(5)]; [x.start() for x in t]; [x.join() for x in t]",
    )
    kernel.wait(lambda events: any(e["event"] == "process_exit" and e["pid"] == pid for e in events))
    assert not [e for e in kernel.events if e["event"] == "process_fork" and e["ppid"] == pid]
    assert len([e for e in kernel.events if e["event"] == "process_exit" and e["pid"] == pid]) == 1


def test_script_names_its_interpreter(kernel: Kernel, tmp_path: Path) -> None:
    script = tmp_path / "job"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    event = kernel.exec_of(run("./job", "one", cwd=tmp_path))
    assert "script" in event["flags"]
    assert event["filename"] == "./job"
    assert event["interpreter"] == "/bin/sh"
    assert event["exe"] == str(Path("/bin/sh").resolve())
    assert event["argv"] == ["/bin/sh", "./job", "one"]


def test_memfd_and_deleted_executables_are_told(kernel: Kernel, tmp_path: Path) -> None:
    fd = os.memfd_create("payload", 0)
    os.write(fd, TRUE.read_bytes())
    event = kernel.exec_of(run(f"/proc/{os.getpid()}/fd/{fd}", "--hidden"))
    os.close(fd)
    assert {"memfd", "exe_deleted"} <= set(event["flags"])
    assert event["exe"] == "/memfd:payload"

    copy = tmp_path / "gone"
    shutil.copy(TRUE, copy)
    held = os.open(copy, os.O_RDONLY)
    copy.unlink()
    event = kernel.exec_of(run(f"/proc/{os.getpid()}/fd/{held}"))
    os.close(held)
    assert "exe_deleted" in event["flags"]
    assert "memfd" not in event["flags"]
    assert event["exe"] == str(copy)
    assert event["exe_nlink"] == 0


def test_setuid_execution_is_told(kernel: Kernel, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if str(parent).startswith("/tmp/") and parent.stat().st_uid == os.getuid():
            parent.chmod(0o755)
    program = tmp_path / "su"
    shutil.copy(TRUE, program)
    program.chmod(0o4755)
    event = kernel.exec_of(run(str(program), user=65534, group=65534, extra_groups=[]))
    assert (event["uid"], event["euid"]) == (65534, 0)
    assert "setuid" in event["flags"]
    plain = kernel.exec_of(run("/bin/true", user=65534, group=65534, extra_groups=[]))
    assert "setuid" not in plain["flags"]
    assert "caps_gained" not in plain["flags"]


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """An overlay mount whose lower layer holds `true`."""
    # Overlay's upper layer cannot lie on another overlay: a tmpfs of our own serves everywhere.
    subprocess.run(["mount", "-t", "tmpfs", "daemoneye-test", tmp_path], check=True)
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    shutil.copy(TRUE, tmp_path / "lower" / "image-true")
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    subprocess.run(["mount", "-t", "overlay", "daemoneye-test", "-o", options, tmp_path / "merged"], check=True)
    yield tmp_path / "merged"
    subprocess.run(["umount", tmp_path / "merged"], check=True)
    subprocess.run(["umount", tmp_path], check=True)


def test_writable_layer_is_told_from_the_image(kernel: Kernel, overlay: Path) -> None:
    assert "writable_layer" not in kernel.exec_of(run(str(overlay / "image-true")))["flags"]
    shutil.copy(TRUE, overlay / "dropped")
    event = kernel.exec_of(run(str(overlay / "dropped")))
    assert "writable_layer" in event["flags"]
    assert event["exe"] == str(overlay / "dropped")


def test_pid_namespace_gives_both_pids(kernel: Kernel) -> None:
    # unshare forks; its child is pid 1 of the new namespace.
    parent = run("unshare", "--pid", "--fork", "--mount-proc", "/bin/true", "in-a-namespace")
    kernel.wait(lambda _: any("in-a-namespace" in e["argv"] and e["ppid"] == parent for e in kernel.execs()))
    event = next(e for e in kernel.execs() if "in-a-namespace" in e["argv"] and e["ppid"] == parent)
    assert event["ns_pid"] == 1
    assert event["pid"] > 1
    assert event["pid_ns"] != os.stat("/proc/self/ns/pid").st_ino


def test_deep_directory_and_chroot(kernel: Kernel, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*(f"level{i}" for i in range(20)))
    deep.mkdir(parents=True)
    assert kernel.exec_of(run("/bin/true", cwd=deep))["cwd"] == str(deep)
    deeper = deep.joinpath(*("d" for _ in range(40)))
    deeper.mkdir(parents=True)
    event = kernel.exec_of(run("/bin/true", cwd=deeper))
    assert "path_truncated" in event["flags"]
    assert str(deeper).endswith(event["cwd"])


def test_ancestry_goes_through_forks_without_execution(kernel: Kernel) -> None:
    run("/bin/sh", "-c", "( ( /bin/true nested; : ) ; : ); :")
    kernel.wait(lambda _: any("nested" in e["argv"] for e in kernel.execs(exe=str(TRUE))))
    event = next(e for e in kernel.execs(exe=str(TRUE)) if "nested" in e["argv"])
    shell = str(Path("/bin/sh").resolve())
    chain = [event["parent"], *event["ancestors"]]
    assert [image["exe"] for image in chain[:3]] == [shell, shell, shell]
    assert len({image["pid"] for image in chain[:3]}) == 3
    assert chain[3]["pid"] == os.getpid()


def test_process_key_in_c_and_numpy_is_one(kernel: Kernel) -> None:
    kernel.exec_of(run("/bin/true"))
    # The wire does not carry keys: what readers compute must be what the kernel wrote, which the ring still shows.
    from daemoneye.events.base import process_uid

    subprocess.run(["/bin/true"], check=True)
    rows = kernel.source._kernel.rings["exec"].read(100).records
    assert len(rows)
    assert (rows["process_uid"] == process_uid(rows["pid"], rows["start_time"])).all()
    assert (rows["parent_uid"] == process_uid(rows["ppid"], rows["parent_start_time"])).all()


def test_cgroup_that_is_gone_still_has_its_path(kernel: Kernel) -> None:
    hierarchy = next(
        Path(line.split()[1])
        for line in Path("/proc/mounts").read_text().splitlines()
        if line.split()[2] in {"cgroup", "cgroup2"}
        and ("memory" in line.split()[3].split(",") or line.split()[2] == "cgroup2")
    )
    name = "cri-containerd-" + "ab" * 32 + ".scope"
    pod = hierarchy / "kubepods.slice" / "kubepods-pod0a1b2c3d_0000_4000_8000_0123456789ab.slice"
    (pod / name).mkdir(parents=True)
    try:
        pid = run("/bin/sh", "-c", f"echo $$ > {pod / name}/cgroup.procs; exec /bin/true in-a-pod")
        kernel.wait(lambda _: any("in-a-pod" in e["argv"] for e in kernel.execs(pid=pid, exe=str(TRUE))))
    finally:
        (pod / name).rmdir()
        pod.rmdir()
        pod.parent.rmdir()
    event = next(e for e in kernel.execs(pid=pid, exe=str(TRUE)) if "in-a-pod" in e["argv"])
    assert event["container_id"] == "ab" * 32
    assert event["pod_uid"] == "0a1b2c3d-0000-4000-8000-0123456789ab"
    assert event["identity"] == "partial"
    assert event["cgroup"].endswith(name)
