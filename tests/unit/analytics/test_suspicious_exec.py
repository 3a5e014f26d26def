"""suspicious_exec: every rule with what it must find and what it must leave alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from daemoneye.errors import ConfigError
from daemoneye.events.flags import Flag
from daemoneye_analytics import registry
from daemoneye_analytics.detectors.suspicious_exec import SuspiciousExec
from daemoneye_analytics.frame import Frame
from tests.unit.analytics import factory
from tests.unit.analytics.factory import INIT, Exec

CONTAINER = {1: b"a" * 64}
NGINX = Exec(exe=b"/usr/sbin/nginx", pid=200, start=2, time=3)
BASH = Exec(exe=b"/usr/bin/bash", pid=300, start=4, time=5, ppid=200, pstart=2)
GUNICORN = Exec(
    exe=b"/usr/bin/python3.11",
    pid=200,
    start=2,
    time=3,
    flags=Flag.SCRIPT,
    more={"filename": b"/usr/local/bin/gunicorn"},
)


def found(*rows, parameters=None, **batch):
    detector = SuspiciousExec(SuspiciousExec.declaration.resolve(parameters or {}))
    return detector.process(Frame(factory.batch(rows, **batch)))


def keys(findings):
    return [f.key.split(":")[0] for f in findings]


POSITIVE: dict[str, tuple[str, str, str, Exec, dict[str, Any]]] = {
    "memfd": ("memfd", "high", "T1620", Exec(exe=b"/memfd:x", flags=Flag.MEMFD), {}),
    "memfd and deleted": ("memfd", "high", "T1620", Exec(exe=b"/memfd:x", flags=Flag.MEMFD | Flag.EXE_DELETED), {}),
    "memfd snapshot": ("memfd", "high", "T1620", Exec(exe=b"/memfd:x", flags=Flag.MEMFD | Flag.SNAPSHOT), {}),
    "runc's name without a runtime": ("memfd", "high", "T1620", Exec(exe=b"/memfd:runc_cloned:/proc/self/exe", flags=Flag.MEMFD), {}),
    "runc": (
        "memfd", "informational", "T1620",
        Exec(exe=b"/memfd:runc_cloned:/proc/self/exe", flags=Flag.MEMFD, ppid=50, pstart=1, argv=(b"runc", b"init")),
        {"context": (INIT, Exec(exe=b"/usr/bin/runc", pid=50, start=1, time=2))},
    ),
    "deleted": ("deleted-executable", "medium", "T1070.004", Exec(exe=b"/opt/x", flags=Flag.EXE_DELETED), {}),
    "deleted from tmp": (
        "deleted-executable+exec-from-writable-directory", "high", "T1070.004", Exec(exe=b"/tmp/x", flags=Flag.EXE_DELETED), {},
    ),
    "drift": ("writable-layer", "medium", "T1105", Exec(flags=Flag.WRITABLE_LAYER), {"containers": CONTAINER}),
    "web shell": (
        "shell-below-service", "high", "T1059.004", Exec(exe=b"/bin/sh", pid=5, ppid=200, pstart=2), {"context": (INIT, NGINX)},
    ),
    "shell two levels down": (
        "shell-below-service", "high", "T1059.004",
        Exec(exe=b"/bin/dash", pid=5, ppid=300, pstart=4), {"context": (INIT, NGINX, Exec(exe=b"/usr/bin/perl", pid=300, start=4, time=5, ppid=200, pstart=2))},
    ),
    "php-fpm with a version": (
        "shell-below-service", "high", "T1505.003", Exec(exe=b"/bin/sh", pid=5, ppid=200, pstart=2),
        {"context": (Exec(exe=b"/usr/sbin/php-fpm8.2", pid=200, start=2, time=3),)},
    ),
    "script service": (
        "shell-below-service", "high", "T1059.004", Exec(exe=b"/bin/sh", pid=5, ppid=200, pstart=2), {"context": (INIT, GUNICORN)},
    ),
    "capabilities": ("privilege-gain", "medium", "T1548.001", Exec(exe=b"/opt/tool", flags=Flag.CAPS_GAINED), {}),
    "setuid": ("privilege-gain", "medium", "T1548.001", Exec(exe=b"/usr/local/bin/sudo", flags=Flag.SETUID, uid=1000, euid=0), {}),
    "setuid owned by a user": (
        "privilege-gain", "medium", "T1548.001", Exec(exe=b"/usr/bin/sudo", flags=Flag.SETUID, more={"exe_uid": 1000}), {},
    ),
    "tmp": ("exec-from-writable-directory", "low", "T1059", Exec(exe=b"/tmp/x"), {}),
    "shm": ("exec-from-writable-directory", "medium", "T1059", Exec(exe=b"/dev/shm/x"), {}),
    "script in tmp": (
        "exec-from-writable-directory", "low", "T1036.005",
        Exec(exe=b"/usr/bin/dash", flags=Flag.SCRIPT, more={"filename": b"/var/tmp/a.sh"}), {},
    ),
    "kernel thread": ("kernel-name", "high", "T1036.004", Exec(exe=b"/opt/miner", argv=(b"[kworker/0:1]",)), {}),
    "kworker": ("kernel-name", "high", "T1036.004", Exec(exe=b"/opt/miner", argv=(b"kworker/u8:2", b"-o")), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", POSITIVE)
def test_finds(case):
    key, severity, technique, row, batch = POSITIVE[case]
    (finding,) = found(row, **batch)
    assert keys([finding]) == [key]
    assert finding.severity == severity
    assert technique in {t.id for t in finding.techniques}
    assert finding.attack_version == "18.1"
    assert all(s.endswith(".") for s in finding.explanation)
    assert finding.subject.pid == row.pid
    assert finding.subject.workload == "host/systemd/web.service"
    assert finding.process_tree[-1].exe == row.exe.decode()


NEGATIVE: dict[str, tuple[Exec, dict[str, Any]]] = {
    "plain": (Exec(), {}),
    "shell below a shell": (Exec(exe=b"/bin/sh", ppid=300, pstart=4), {"context": (INIT, Exec(exe=b"/usr/bin/bash", pid=300, start=4, time=5))}),
    "program below a service": (Exec(exe=b"/usr/bin/id", ppid=200, pstart=2), {"context": (INIT, NGINX)}),
    "service below a shell": (Exec(exe=b"/usr/sbin/nginx", ppid=300, pstart=4), {"context": (INIT, Exec(exe=b"/bin/sh", pid=300, start=4, time=5))}),
    "name of a service within another": (
        Exec(exe=b"/bin/sh", ppid=200, pstart=2), {"context": (Exec(exe=b"/usr/bin/nginx-ls", pid=200, start=2, time=3),)}
    ),
    "directory of a service's name": (
        Exec(exe=b"/bin/sh", ppid=200, pstart=2), {"context": (Exec(exe=b"/opt/nginx/tool", pid=200, start=2, time=3),)}
    ),
    "writable layer of the host": (Exec(flags=Flag.WRITABLE_LAYER), {}),
    "sudo": (Exec(exe=b"/usr/bin/sudo", flags=Flag.SETUID | Flag.CAPS_GAINED, uid=1000, euid=0), {}),
    "dbus helper": (Exec(exe=b"/usr/lib/dbus-1.0/dbus-daemon-launch-helper", flags=Flag.SETUID), {}),
    "deleted before the sensor": (Exec(exe=b"/usr/sbin/cron", flags=Flag.EXE_DELETED | Flag.SNAPSHOT), {}),
    "path that begins alike": (Exec(exe=b"/tmpfs/x"), {}),
    "test": (Exec(exe=b"/usr/bin/[", argv=(b"[", b"a", b"]")), {}),
    "tmp as an argument": (Exec(exe=b"/usr/bin/cat", argv=(b"cat", b"/tmp/x")), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", NEGATIVE)
def test_leaves_alone(case):
    row, batch = NEGATIVE[case]
    assert found(row, **batch) == []


def test_ancestors_alone_are_never_told():
    assert found(context=(INIT, Exec(exe=b"/memfd:x", flags=Flag.MEMFD))) == []


def test_service_beyond_the_depth():
    chain = [NGINX]
    for level in range(4):
        chain.append(
            Exec(
                exe=b"/usr/bin/perl",
                pid=300 + level,
                start=4 + level,
                time=4.5 + level,
                ppid=chain[-1].pid,
                pstart=chain[-1].start,
            )
        )
    shell = Exec(exe=b"/bin/sh", ppid=chain[-1].pid, pstart=chain[-1].start, time=30)
    assert found(shell, context=chain) == []
    assert keys(found(shell, context=chain, parameters={"depth": 5})) == ["shell-below-service"]


def test_rules_of_one_execution_make_one_finding():
    shell = Exec(
        exe=b"/tmp/sh",
        ppid=200,
        pstart=2,
        flags=Flag.CAPS_GAINED,
        argv=(b"[kthreadd]",),
        more={"tty": 0x8801, "cap_permitted": 3},
    )
    (finding,) = found(shell, context=(INIT, NGINX))
    assert finding.key.startswith("exec-from-writable-directory+kernel-name+privilege-gain+shell-below-service:")
    assert finding.severity == "high"
    assert {"T1059.004", "T1036.004", "T1548.001", "T1059"} <= {t.id for t in finding.techniques}
    text = " ".join(finding.explanation)
    assert "terminal" in text
    assert "/usr/sbin/nginx (pid 200)" in text
    assert "0x3" in text


def test_parents_within_the_batch_count_too():
    nginx = Exec(exe=b"/usr/sbin/nginx", pid=200, start=2, time=10)
    (finding,) = found(nginx, Exec(exe=b"/bin/sh", pid=5, ppid=200, pstart=2, time=11))
    assert [p.exe for p in finding.process_tree] == ["/usr/lib/systemd/systemd", "/usr/sbin/nginx", "/bin/sh"]
    assert finding.events[0].sequence == 1


def test_a_database_gets_no_web_shell():
    (finding,) = found(
        Exec(exe=b"/bin/sh", ppid=200, pstart=2),
        context=(Exec(exe=b"/usr/lib/postgresql/15/bin/postgres", pid=200, start=2, time=3),),
    )
    assert "T1505.003" not in {t.id for t in finding.techniques}


@pytest.mark.parametrize(
    ("row", "batch", "reason"),
    [
        (Exec(exe=b"", flags=Flag.MEMFD | Flag.STRINGS_TRUNCATED), {}, "lost on their way"),
        (Exec(exe=b"/memfd:x", flags=Flag.MEMFD | Flag.ARGV_TRUNCATED), {}, "longer than"),
        (Exec(exe=b"/memfd:x", flags=Flag.MEMFD, ppid=999), {}, "parent"),
        (Exec(exe=b"/memfd:x", flags=Flag.MEMFD, cgroup=99), {}, "workload"),
    ],
    ids=["strings", "argv", "parent", "identity"],
)
def test_doubts_lower_the_confidence_and_are_said(row, batch, reason):
    (sure,) = found(Exec(exe=b"/memfd:x", flags=Flag.MEMFD))
    (doubtful,) = found(row, **batch)
    assert doubtful.confidence < sure.confidence
    assert any(reason in r for r in doubtful.confidence_reasons)
    assert sure.confidence_reasons == ()


def test_hostile_strings():
    evil = b"/tmp/\x1b]0;owned\x07\xff\n\xe2\x80\xae"
    (finding,) = found(
        Exec(exe=evil, argv=(evil, b"\0" * 3, b"x" * 100_000), flags=Flag.MEMFD), workloads={1: b"host/\xff\x1b[2J"}
    )
    assert "\\xff" in finding.subject.exe
    assert b"\x1b" not in finding.encode()
    assert len(finding.encode()) <= 16 * 1024


def test_repetitions_are_told_a_few_times_an_hour():
    def rows(begin, count, step=1.0):
        return [
            Exec(exe=b"/tmp/x", pid=10 + i, start=begin + i * step, time=begin + i * step + 0.5) for i in range(count)
        ]

    one = SuspiciousExec(SuspiciousExec.declaration.resolve({"repeats": 3}))
    other = SuspiciousExec(SuspiciousExec.declaration.resolve({"repeats": 3}))
    first = one.process(Frame(factory.batch(rows(10, 50))))
    assert [f.subject.pid for f in first] == [10, 11, 12]
    assert one.status()["suppressed"] == 47
    # How the events were cut into batches does not matter, nor a restart between them.
    split = [f for row in rows(10, 50)[:30] for f in other.process(Frame(factory.batch([row])))]
    restored = SuspiciousExec(SuspiciousExec.declaration.resolve({"repeats": 3}))
    restored.restore(other.state())
    split += restored.process(Frame(factory.batch(rows(10, 50)[30:])))
    assert [f.id for f in split] == [f.id for f in first]
    assert {k: list(np.atleast_1d(v)) for k, v in restored.state().items()} == {
        k: list(np.atleast_1d(v)) for k, v in one.state().items()
    }
    # Another program, workload or rule is something else; an hour later it is told again, with what was left out.
    assert (
        len(
            one.process(
                Frame(
                    factory.batch([Exec(exe=b"/tmp/y", time=90), Exec(exe=b"/tmp/x", time=91, flags=Flag.EXE_DELETED)])
                )
            )
        )
        == 2
    )
    later = one.process(Frame(factory.batch(rows(3700, 1))))
    assert later[0].explanation[-1] == "The same happened 47 more times since it was last told."


def test_state_of_another_form_is_refused():
    detector = SuspiciousExec(SuspiciousExec.declaration.resolve({}))
    state = detector.state()
    for wrong in (
        {},
        {**state, "format": 2},
        {k: v for k, v in state.items() if k != "start"},
        {**state, "count": np.zeros(3)},
    ):
        with pytest.raises(ValueError):
            detector.restore(wrong)


def test_parameters():
    assert keys(found(Exec(exe=b"/bin/sh", ppid=1), parameters={"services": ["systemd"]})) == ["shell-below-service"]
    assert keys(found(Exec(exe=b"/scratch/x"), parameters={"directories": ["/scratch"]})) == [
        "exec-from-writable-directory"
    ]
    assert found(Exec(exe=b"/tmp/x"), parameters={"exclude": ["exec-from-writable-directory"]}) == []
    for wrong in ({"nope": 1}, {"depth": "4"}, {"depth": True}, {"depth": 0}, {"services": "nginx"}, {"services": [1]}):
        with pytest.raises(ConfigError):
            registry.build([{"name": "suspicious_exec", "parameters": wrong}])
