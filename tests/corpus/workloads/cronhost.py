"""A host whose work is cron's: backups by tar, rotation, sweeps by find, checks of certificates; now and then a job is new."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Final

from tests.corpus.schedule import HOUR, MINUTE, Plan, Step, session, sh

STAND_INS: Final = ("/usr/sbin/cron", "/usr/sbin/logrotate", "/usr/bin/rsync", "/usr/sbin/sshd", "/usr/sbin/anacron")


def plan(p: Plan) -> None:
    """Fill a plan."""
    rng = p.rng
    p.daemon("cron", "/usr/sbin/cron", "-f")
    p.daemon("sshd", "/usr/sbin/sshd", "-D")
    p.foothold("cron", 1001, "/home/u1001")
    p.foothold("sshd", 1001, "/home/u1001")
    folders = rng.sample(("projects", "finance", "photos", "mirror", "exports", "scans"), 3)
    for folder in folders:
        for n in range(rng.randrange(6, 20)):
            p.file(
                f"/srv/{folder}/{rng.randrange(16**6):06x}.{rng.choice(('txt', 'csv', 'md'))}",
                f"line {n}\n" * rng.randrange(5, 200),
            )
    archive = p.script(
        "/usr/local/bin/backup.sh",
        'name=$(basename "$1"); stamp=$2', "mkdir -p /var/backups",
        f'tar -C /srv -c{rng.choice("zJ")}f "/var/backups/$name-$stamp.tar" "$name"', 'sha256sum "/var/backups/$name-$stamp.tar" >> /var/backups/SUMS',
        "ls -t /var/backups/$name-* | tail -n +4 | xargs -r rm -f",
    )  # fmt: skip
    sweep = p.script(
        "/etc/cron.daily/sweep",
        "for d in /tmp /var/tmp; do find $d -xdev -type f -mtime +7 -print | wc -l; done",
        "date +%s > /var/lib/sweep",
    )
    stats = p.script(
        "/usr/local/bin/sa1",
        "cat /proc/loadavg >> /var/log/sa.log",
        rng.choice(
            (
                "df -P | awk 'NR>1 {print $5}' >> /var/log/sa.log",
                "free -m | tail -1 >> /var/log/sa.log",
                "vmstat | tail -1 >> /var/log/sa.log",
            )
        ),
    )

    def backup(t: datetime, folder: str) -> Step:
        return sh("cron", 0, f"{archive} /srv/{folder} {t:%F-%H}")

    for folder in folders:
        p.every(rng.choice((2, 4, 6)) * HOUR, partial(backup, folder=folder))
    p.every(rng.choice((10, 15)) * MINUTE, lambda _: sh("cron", 0, f"command -v sa1 > /dev/null && {stats}"))
    p.every(HOUR, lambda _: sh("cron", 0, "cd / && run-parts --report /etc/cron.hourly"))
    p.every(
        rng.choice((30, 60)) * MINUTE,
        lambda _: sh(
            "cron",
            1001,
            rng.choice(("rsync -a /srv/mirror/ /var/cache/mirror/", "test -e /tmp/lock || ls /srv | sort > /tmp/list")),
        ),
    )
    p.every(
        rng.choice((40, 60)) * MINUTE,
        lambda _: sh("cron", 1001, f"grep -c line /srv/{rng.choice(folders)}/* | cut -d: -f2 | sort -n | tail -1"),
    )
    p.daily(
        rng.uniform(6, 7),
        lambda _: [
            sh("cron", 0, sweep),
            Step("cron", 0, ("/usr/sbin/logrotate", "/etc/logrotate.conf")),
            sh("cron", 0, "find /var/log -name '*.log' -size +1M -exec gzip {} +"),
        ],
    )
    p.daily(
        rng.uniform(2, 5),
        lambda _: sh(
            "cron",
            0,
            "openssl version; find /etc/ssl -name '*.pem' 2>/dev/null | head -20 | while read f; do openssl x509 -noout -enddate -in $f; done",
        ),
    )
    p.daily(
        rng.uniform(0, 2),
        lambda t: sh(
            "cron",
            0,
            f"find /srv -type f -printf '%s %p\\n' | sort -rn | head -50 > /var/log/largest-{t:%F}; md5sum /var/log/largest-{t:%F}",
        ),
    )

    new = p.script(
        "/usr/local/bin/inventory",
        "hostname; uname -r; dpkg-query -W | wc -l",
        "ip -br address; lsblk 2>/dev/null | head -5; date",
    )
    begin = rng.uniform(0.8, 2.5) * 24 * HOUR
    p.add(
        begin - 300,
        lambda _: session(
            "sshd",
            0,
            [
                "cat /etc/crontab",
                "vi -es -c wq /etc/cron.d/inventory",
                f"ls -l {new}",
                new,
                "run-parts --test /etc/cron.daily",
            ],
        ),
        rare="a new cron job",
        pace=40,
    )
    for turn in range(40):
        p.add(begin + turn * 3 * HOUR, lambda _: sh("cron", 0, new))

    def full(_: datetime) -> Step:
        return session(
            "sshd",
            0,
            [
                "df -h",
                "du -xsh /var/* 2>/dev/null | sort -h | tail",
                "ls -laS /var/log | head",
                "find / -xdev -size +50M 2>/dev/null | head -3",
                "rm -f /var/tmp/*.old",
                "df -h /",
            ],
        )

    p.rarely("a full disk", 0.7, full, pace=40)
