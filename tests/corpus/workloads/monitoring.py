"""A monitoring agent: plugins by shell and Python, all day the same; now and then a plugin is new."""
# ruff: noqa: E501 - command lines stand as they are typed

from __future__ import annotations

from typing import Final

from tests.corpus.outside import NEIGHBOUR
from tests.corpus.schedule import HOUR, MINUTE, Plan, Step, session, sh

MONITOR: Final = 1005
STAND_INS: Final = (
    "/usr/sbin/zabbix_agentd",
    "/usr/sbin/nrpe",
    "/usr/bin/telegraf",
    "/usr/sbin/sshd",
    "/usr/bin/sensors",
    "/usr/sbin/smartctl",
    "/usr/bin/check_mk_agent",
)


def plan(p: Plan) -> None:
    """Fill a plan."""
    rng = p.rng
    agent = rng.choice(
        (
            ("/usr/sbin/zabbix_agentd", "-f"),
            ("/usr/sbin/nrpe", "-c", "/etc/nrpe.cfg", "-f"),
            ("/usr/bin/telegraf", "--config", "/etc/telegraf.conf"),
        )
    )
    p.daemon("agent", *agent, uid=MONITOR)
    p.daemon("root-agent", "/usr/bin/check_mk_agent")
    p.daemon("sshd", "/usr/sbin/sshd", "-D")
    p.foothold("agent", MONITOR)
    p.foothold("root-agent", 0)
    load = p.script(
        "/usr/lib/plugins/check_load",
        "read a b c rest < /proc/loadavg",
        'expr "$a" : "[0-9.]*" > /dev/null && echo "OK $a"',
    )
    disk = p.script("/usr/lib/plugins/check_disk", "df -P \"$1\" | tail -1 | awk '{ print $5 }' | tr -d %")
    mem = p.script(
        "/usr/lib/plugins/check_mem.py",
        "for line in open('/proc/meminfo'):",
        "    if line.startswith('MemAvail'): print(line.split()[1])",
        interpreter="/usr/bin/python3",
    )
    procs = "ps -eo stat,comm | grep -c '^Z' || true"
    checks = rng.sample(
        (
            f"{load} -w 5 -c 10", f"{disk} /", f"{mem}", procs, "ss -s | head -2", "cat /proc/net/dev | wc -l", "netstat -s | grep -i retrans", "uptime | sed 's/.*load/load/'", "free -m | awk 'NR==2 {print $4}'", "ls /var/spool | wc -l",
            "stat -c %Y /etc/passwd", "grep -c processor /proc/cpuinfo", "pgrep -c sshd", "cat /proc/sys/fs/file-nr | cut -f1", "sensors -u", "who | wc -l", "date +%s", "ip -s link show lo | tail -1", "test -e /run/nologin || echo ok",
        ), 7,
    )  # fmt: skip
    for check in checks:
        p.every(rng.choice((20, 30, 60)) * MINUTE, sh("agent", MONITOR, check))
    p.every(
        rng.choice((30, 60)) * MINUTE,
        lambda _: [
            Step("root-agent", 0, ("/usr/sbin/smartctl", "-A", "/dev/vda")),
            sh("root-agent", 0, "find /var/log -name '*.log' -mmin -5 | wc -l"),
        ],
    )
    p.every(
        rng.choice((15, 30)) * MINUTE,
        lambda _: sh(
            "agent", MONITOR, f"cat /proc/loadavg | curl -s -X POST --data-binary @- http://{NEIGHBOUR}/metrics"
        ),
    )
    p.every(HOUR, lambda _: sh("root-agent", 0, "dpkg-query -W | wc -l; sha1sum /etc/passwd | cut -c1-8"))
    p.daily(
        rng.uniform(0, 23),
        lambda t: sh(
            "root-agent", 0, f"tar -czf /tmp/conf-{t:%F}.tgz /etc/hosts /etc/passwd 2>/dev/null; rm -f /tmp/conf-*"
        ),
    )
    fresh = p.script(
        "/usr/lib/plugins/check_certs",
        "for f in /etc/ssl/*.pem; do openssl x509 -checkend 86400 -noout -in $f; done; openssl version | cut -d' ' -f2",
    )
    begin = rng.uniform(0.7, 2.2) * 24 * HOUR
    p.add(
        begin - 200,
        lambda _: session(
            "sshd", 0, ["vim -es -c q /etc/agent.conf", f"bash -n {fresh}", fresh, "echo $?", "kill -0 1"]
        ),
        rare="a new plugin",
        pace=40,
    )
    for turn in range(200):
        p.add(begin + turn * HOUR, lambda _: sh("agent", MONITOR, fresh))
    p.rarely(
        "an agent is debugged by hand",
        0.8,
        lambda _: session(
            "sshd",
            0,
            [
                "ps -ef | grep agent",
                f"sudo -u monitor {load}; {load}",
                "bash -x " + load,
                "ss -tlnp",
                "tail -5 /var/log/agent.log",
                "strace -V | head -1",
            ],
        ),
        pace=60,
    )
