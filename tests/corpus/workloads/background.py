"""What happens now and then on any host, beside its work: the benign novelty that an analyser has to live with."""
# ruff: noqa: E501 - command lines stand as they are typed

from __future__ import annotations

from typing import Final

from tests.corpus.schedule import Plan, sh

A_DAY: Final = 1.5
STAND_INS: Final = (
    "/usr/bin/systemd-tmpfiles",
    "/usr/sbin/fstrim",
    "/usr/bin/logger",
    "/usr/bin/timedatectl",
    "/usr/sbin/chronyc",
    "/usr/bin/fwupdmgr",
    "/usr/sbin/e2scrub_all",
    "/usr/bin/updatedb",
    "/usr/sbin/needrestart",
    "/usr/bin/mandb",
)
_COMMANDS: Final = (
    "systemd-tmpfiles --clean", "fstrim --listed-in /etc/fstab --verbose --quiet-unsupported", "logger -t host alive", "timedatectl show | grep -q yes", "chronyc tracking | grep Leap", "fwupdmgr refresh", "e2scrub_all -C -r", "updatedb", "mandb --quiet",
    "ldconfig -p | wc -l", "getent hosts localhost", "sync", "find /var/tmp -mtime +30 -delete", "cat /proc/meminfo | grep -i huge", "test -x /usr/sbin/anacron || run-parts /etc/cron.daily", "sysctl -n vm.swappiness", "python3 -c 'import ssl; print(ssl.OPENSSL_VERSION)'",
    "tar -czf /var/tmp/etc.tgz /etc 2>/dev/null", "perl -e 'print time'", "md5sum /etc/passwd", "stat -f /", "mkdir -p /var/lib/state; touch /var/lib/state/stamp", "awk -F: '$3 >= 1000 {print $1}' /etc/passwd | wc -l", "gzip -t /var/tmp/etc.tgz", "bash -c 'ulimit -n'", "ss -s | wc -l",
    "ip route show default | wc -l", "nproc; getconf PAGESIZE", "ps -eo rss= | sort -n | tail -1", "sed -n 1p /etc/os-release", "od -An -N4 -tu4 /dev/urandom", "xargs --version | head -1", "openssl rand -hex 8 > /var/tmp/nonce", "curl --version | head -1", "ls -R /etc | wc -l", "diff /etc/passwd /etc/passwd- | wc -l",
)  # fmt: skip


def plan(p: Plan) -> None:
    """Add it to a plan that has its daemons."""
    root = next(daemon.name for daemon in p.daemons if not daemon.uid)
    p.visits(A_DAY, lambda _: sh(root, 0, p.rng.choice(_COMMANDS)), night=0.8)
