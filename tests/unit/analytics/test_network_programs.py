"""mining_pool and tls_without_name: what is spoken, and by whom; and what looks alike and is harmless."""

from __future__ import annotations

from typing import Any

import pytest

from daemoneye.errors import ConfigError
from daemoneye.findings import Finding, Process
from daemoneye_analytics.detectors.mining_pool import MiningPool
from daemoneye_analytics.detectors.tls_without_name import TlsWithoutName
from tests.unit.analytics.factory import SECOND, Exec, cgroups, execs
from tests.unit.analytics.netrows import flow, frame, judged, made, section

# ── mining_pool ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1, 1000])
def test_who_speaks_stratum_mines(size: int) -> None:
    rows = [flow("10.0.0.5", "203.0.113.9", 3333, 60.0 * i, service=b"stratum", state=b"active") for i in range(90)]
    found = judged(made(MiningPool), rows, size)
    assert [(f.severity, f.techniques[0].id, f.title) for f in found] == [
        ("high", "T1496", "10.0.0.5 mines for the pool 203.0.113.9:3333")
    ] * 2
    assert "59 times more" in found[1].explanation[-1]


@pytest.mark.parametrize("service", [b"", b"http", b"tls"])
def test_other_conversations_with_that_port_are_no_mining(service: bytes) -> None:
    assert judged(made(MiningPool), [flow("10.0.0.5", "203.0.113.9", 3333, service=service)]) == []


def test_whoever_mines_on_purpose_is_left_alone() -> None:
    rows = [flow(src, "203.0.113.9", 3333, service=b"stratum") for src in ("10.0.0.5", "10.1.0.5")]
    assert [f.subject.src_ip for f in judged(made(MiningPool, exclude_sources=["10.1.0.0/16"]), rows)] == ["10.0.0.5"]
    with pytest.raises(ConfigError, match=r"mining_pool\.exclude_sources"):
        made(MiningPool, exclude_sources=["x"])


# ── tls_without_name ────────────────────────────────────────────────────────────────────────────────────────────────

ABSENT, ECH = 1 << 15, 1 << 17
SHIM = Exec(exe=b"/usr/bin/containerd-shim-runc-v2", pid=10, start=1, time=1, cgroup=1)
OUTSIDE, POD = 1, 5


def below(*chain: tuple[str, float] | tuple[str, float, int]) -> list[Exec]:
    """Processes of a pod, each started by the one before it, the first one by the runtime: executable, start in seconds, terminal."""
    made_, parent = [SHIM], SHIM
    for number, (exe, start, *tty) in enumerate(chain):
        process = Exec(
            exe=exe.encode(),
            pid=100 + number,
            start=start,
            time=start,
            ppid=parent.pid,
            pstart=parent.start,
            cgroup=POD,
            more={"tty": tty[0] if tty else 0},
        )
        made_.append(process)
        parent = process
    return made_


def hello(
    process: Exec, dst: str = "203.0.113.9", port: int = 443, at: float = 1000.0, flags: int = ABSENT, **more: Any
) -> dict[str, Any]:
    return {
        "src_ip": "10.0.0.5", "dst_ip": dst, "dst_port": port, "time": at, "flags": flags, "pid": process.pid, "start_time": int(process.start * SECOND),
        "cgroup_id": process.cgroup, "ja4": b"t13i1715h1_x_y", "direction": 1, **more,
    }  # fmt: skip


def told(chain: list[Exec], record: str = "tls_client_hello", **more: Any) -> list[Finding]:
    """What is found in a hello by the last of some processes."""
    known = cgroups({OUTSIDE: b"host/systemd/containerd.service", POD: b"shop/Deployment/web/app"})
    row = section(record, [hello(chain[-1], **more)])
    return made(TlsWithoutName).process(frame(row, execs(chain, context=True), known))


JAVA = ("/opt/java/bin/java", 10.0)
INJECTED = below(JAVA, ("/bin/sh", 900.0), ("/usr/bin/curl", 901.0))


@pytest.mark.parametrize(
    "chain",
    [
        INJECTED,
        below(JAVA, ("/bin/bash", 900.0)),
        below(JAVA, ("/bin/sh", 900.0), ("/tmp/implant", 901.0)),
        below(JAVA, ("/bin/sh", 900.0), ("/usr/bin/timeout", 901.0), ("/usr/bin/python3.12", 901.0)),
        below(JAVA, ("/bin/sh", 900.0), ("/bin/sh", 901.0), ("/bin/busybox", 902.0)),
        below(("/bin/sh", 900.0, 34816), ("/usr/bin/curl", 901.0, 34816)),
        below(("/usr/bin/tini", 9.0), ("/bin/sh", 9.0), JAVA, ("/bin/sh", 900.0), ("/usr/bin/wget", 901.0)),
    ],
    ids=["curl", "a shell", "an implant", "a tool by way of another", "busybox", "somebody at a terminal", "below an entry point"],
)  # fmt: skip
def test_a_shells_program_that_speaks_to_a_bare_address(chain: list[Exec]) -> None:
    (found,) = told(chain)
    exe = chain[-1].exe.decode()
    assert (found.severity, [t.id for t in found.techniques]) == ("medium", ["T1071.001", "T1573"])
    assert found.title == f"{exe} speaks TLS with a bare address: 203.0.113.9:443"
    assert found.explanation[0].startswith(
        f"{exe} (pid {chain[-1].pid}) began TLS with 203.0.113.9:443 and named no server"
    )
    assert found.subject.workload == "shop/Deployment/web/app"
    assert [p.exe for p in found.process_tree] == [p.exe.decode() for p in chain], "to the subject"
    assert found.process_tree[-1] == Process(chain[-1].pid, exe, found.subject.argv)
    assert found.subject.argv == tuple(part.decode() for part in chain[-1].argv or (chain[-1].exe,))


REPLACED = [*below(JAVA), Exec(exe=b"/usr/bin/curl", pid=101, start=900, time=900.2, ppid=100, pstart=10, cgroup=POD)]
SHELL = Exec(exe=b"/usr/bin/dash", pid=101, start=900, time=900.1, ppid=100, pstart=10, cgroup=POD)


def test_a_shell_that_became_its_last_command_was_one() -> None:
    """`sh -c curl …`: one process, which executes a shell and then curl."""
    detector, known = made(TlsWithoutName), cgroups({POD: b"shop/Deployment/web/app"})
    row = frame(section("tls_client_hello", [hello(REPLACED[-1])]), execs(REPLACED, context=True), known)
    assert detector.process(row) == []
    assert detector.process(frame(execs([SHELL]), execs(REPLACED[:2], context=True), known)) == []
    again = made(TlsWithoutName)
    again.restore(detector.state())
    (found,) = again.process(row)
    assert found.title == "/usr/bin/curl speaks TLS with a bare address: 203.0.113.9:443"
    assert found.explanation[1] == "It is a shell, or what a shell made of itself."


def test_a_main_program_that_a_shell_became_is_none() -> None:
    main = below(("/usr/sbin/nginx", 9.0))
    was = Exec(exe=b"/bin/sh", pid=100, start=9, time=8, ppid=SHIM.pid, pstart=SHIM.start, cgroup=POD)
    detector, known = made(TlsWithoutName), cgroups({POD: b"shop/Deployment/web/app"})
    assert detector.process(frame(execs([was]), execs([SHIM], context=True), known)) == []
    assert (
        detector.process(frame(section("tls_client_hello", [hello(main[-1])]), execs(main, context=True), known)) == []
    )


def test_quic_alike() -> None:
    (found,) = told(INJECTED, "quic_initial")
    assert "speaks QUIC" in found.title


@pytest.mark.parametrize(
    "chain",
    [
        below(JAVA),
        below(("/bin/sh", 9.0), JAVA),
        below(("/usr/bin/tini", 9.0), ("/bin/sh", 9.0), JAVA),
        below(("/bin/sh", 9.0), ("/usr/bin/python3", 9.5), ("/usr/bin/python3", 500.0)),
        below(("/usr/local/bin/node", 9.0), ("/bin/sh", 10.0), ("/usr/local/bin/node", 10.0)),
        below(("/bin/sh", 900.0), ("/usr/bin/curl", 901.0)),
        below(JAVA, ("/usr/bin/curl", 900.0)),
        below(JAVA, ("/bin/sh", 900.0), ("/usr/bin/timeout", 901.0), ("/opt/app/check", 901.0)),
        INJECTED[1:],
    ],
    ids=[
        "the main program", "by an entry point", "by an init", "its children", "npm start", "a probe", "no shell", "no tool and no child",
        "it is not known what the workload began with",
    ],
)  # fmt: skip
def test_a_workloads_own_programs_may_dial_an_address(chain: list[Exec]) -> None:
    assert told(chain) == []


@pytest.mark.parametrize(
    "more",
    [
        {"dst": "127.0.0.1"}, {"dst": "::1"}, {"dst": "10.96.0.1"}, {"dst": "10.0.0.2", "port": 6443}, {"dst": "172.20.0.1"}, {"dst": "34.118.224.1"},
        {"dst": "fd00::1"}, {"flags": 0}, {"flags": ABSENT | ECH}, {"pid": 0, "start_time": 0}, {"direction": 2},
    ],
    ids=[
        "itself", "itself by IPv6", "the API server's Service", "the API server", "a Service", "a Service of GKE", "inside by IPv6", "a name",
        "an encrypted name", "no process", "the server's process",
    ],
)  # fmt: skip
def test_hellos_that_are_harmless(more: dict[str, Any]) -> None:
    assert told(INJECTED, **more) == []


def test_addresses_can_be_left_out() -> None:
    known = cgroups({POD: b"shop/Deployment/web/app"})
    rows = section("tls_client_hello", [hello(INJECTED[-1], dst=dst) for dst in ("198.51.100.1", "203.0.113.9")])
    found = made(TlsWithoutName, exclude_destinations=["198.51.100.0/24"]).process(
        frame(rows, execs(INJECTED, context=True), known)
    )
    assert [f.subject.dst_ip for f in found] == ["203.0.113.9"]
