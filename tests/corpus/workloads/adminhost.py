"""A jump host: people at interactive shells over ssh, and the few timers that every host has."""
# ruff: noqa: E501 - command lines stand as they are typed

from __future__ import annotations

from datetime import datetime
from typing import Final

from tests.corpus.schedule import MINUTE, Plan, Step, session, sh

STAND_INS: Final = (
    "/usr/sbin/sshd",
    "/usr/sbin/cron",
    "/usr/bin/systemctl",
    "/usr/bin/journalctl",
    "/usr/bin/kubectl",
    "/usr/bin/htop",
    "/usr/bin/mtr",
    "/usr/bin/sudo",
    "/usr/bin/scp",
)
_LOOK: Final = (
    "ls -la", "ls -lh /var/log", "ps aux | head -20", "df -h", "free -m", "uptime", "w", "tail -n 30 /var/log/app.log", "grep -i error /var/log/app.log | tail -5", "cat /etc/os-release",
    "systemctl status app", "journalctl -u app -n 50 --no-pager", "du -sh /srv/* 2>/dev/null", "ss -tln", "ip -br a", "cat notes.txt", "history | tail -5", "date", "wc -l /var/log/app.log", "which python3",
    "id", "hostname", "last -n 3", "lsblk", "env | sort | head", "stat /etc/hosts", "file /bin/ls", "find . -name '*.txt' -newer notes.txt", "man -w ls", "top -b -n 1 | head -12", "vmstat 1 1", "pstree | head", "dmesg | tail -1", "openssl version",
)  # fmt: skip
_DO: Final = (
    "sed -i s/a/b/ notes.txt", "vim -es -c q notes.txt", "echo todo >> notes.txt", "cp notes.txt notes.bak", "mkdir -p work; cd work", "cd ..", "tar czf work.tgz work", "ssh-keygen -q -t ed25519 -N '' -f /tmp/k$$; rm -f /tmp/k$$*",
    "sudo systemctl restart app", "git -C work init -q", "git -C work status", "chmod 640 notes.txt", "diff notes.txt notes.bak", "scp notes.txt web-1:/tmp/", "python3 -c 'print(2**10)'", "for h in web-1 web-2; do echo $h; done",
    "kubectl get pods -A", "kubectl logs deploy/app --tail=20", "curl -sI http://127.0.0.1/ | head -1", "xargs -n1 echo < notes.txt | head -2", "awk '{print $1}' notes.txt | sort | uniq -c", "rm -f work.tgz", "make -n 2>/dev/null", "base64 notes.txt | head -1", "sha256sum notes.txt",
)  # fmt: skip


def plan(p: Plan) -> None:
    """Fill a plan."""
    rng = p.rng
    p.daemon("sshd", "/usr/sbin/sshd", "-D")
    p.daemon("cron", "/usr/sbin/cron", "-f")
    people = rng.sample(range(1000, 1006), 3)
    habits = {uid: (rng.sample(_LOOK, 18), rng.sample(_DO, 10)) for uid in people}
    p.file("/var/log/app.log", "info started\nerror refused\n" * 40)
    for uid in people:
        p.file(f"/home/u{uid}/notes.txt", "a b c\n1 2 3\n", 0o666)
    p.foothold("sshd", people[0], f"/home/u{people[0]}")
    p.add(1, lambda _: sh("cron", 0, "; ".join(f"chown -R u{uid}: /home/u{uid}" for uid in people)))

    def visit(_: datetime) -> Step:
        uid = rng.choice(people)
        look, do = habits[uid]
        lines = [rng.choice(look) if rng.random() < 0.7 else rng.choice(do) for _ in range(rng.randrange(4, 16))]
        if rng.random() < 0.06:
            lines.insert(rng.randrange(len(lines)), rng.choice(_LOOK + _DO))
        return session("sshd", uid, lines)

    p.visits(rng.uniform(14, 22), visit, night=0.05, pace=60)
    p.every(
        rng.choice((10, 15)) * MINUTE,
        lambda _: sh("cron", 0, "command -v debian-sa1 > /dev/null && debian-sa1 1 1; date +%s > /run/alive"),
    )
    p.every(
        rng.choice((30, 60)) * MINUTE,
        lambda _: sh(
            "cron",
            0,
            "[ -x /usr/lib/php/sessionclean ] && /usr/lib/php/sessionclean; find /home -maxdepth 2 -name '*.bak' | wc -l",
        ),
    )
    p.daily(6.4, lambda _: sh("cron", 0, "test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.daily )"))
    strange = [
        "strace -c ls > /dev/null 2>&1",
        "gdb -batch -ex 'p 1'",
        "tcpdump --version",
        "ss -tanp | head",
        "cat /proc/1/status | head -5",
        "ls -l /proc/self/fd",
        "nsenter --help | head -1",
        "strings /bin/ls | head -2",
        "lsmod | head",
    ]
    p.rarely(
        "an incident is looked into",
        1,
        lambda _: session("sshd", 0, ["uptime", *rng.sample(strange, 6), "journalctl -n 100 --no-pager"]),
        pace=60,
    )
