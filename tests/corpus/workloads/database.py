"""A database server: archiving of logs by shell, dumps, vacuum, checks of replicas; now and then a restore is tried."""
# ruff: noqa: E501 - command lines stand as they are typed

from __future__ import annotations

from datetime import datetime
from typing import Final

from tests.corpus.schedule import HOUR, MINUTE, Plan, Step, session, sh

DBA: Final = 1002
STAND_INS: Final = (
    "/usr/lib/postgresql/16/bin/postgres",
    "/usr/sbin/mysqld",
    "/usr/bin/pg_dump",
    "/usr/bin/pg_isready",
    "/usr/bin/pgbackrest",
    "/usr/bin/mysqldump",
    "/usr/bin/vacuumdb",
    "/usr/sbin/cron",
    "/usr/sbin/sshd",
    "/usr/bin/mysqladmin",
)


def plan(p: Plan) -> None:
    """Fill a plan."""
    rng = p.rng
    mine = rng.random() < 0.5
    server = (
        ("/usr/sbin/mysqld", "--user=mysql") if mine else ("/usr/lib/postgresql/16/bin/postgres", "-D", "/srv/pgdata")
    )
    p.daemon("db", *server, uid=DBA)
    p.daemon("cron", "/usr/sbin/cron", "-f")
    p.daemon("sshd", "/usr/sbin/sshd", "-D")
    p.foothold("db", DBA, "/srv")
    p.file("/srv/pgdata/PG_VERSION", "16\n")
    p.add(
        1,
        lambda _: sh(
            "cron",
            0,
            f"mkdir -p /srv/archive /srv/pgdata/pg_wal; chown -R {DBA} /srv; sqlite3 /srv/main.db 'create table t (a, b)'; chown {DBA} /srv/main.db",
        ),
    )
    segment = [0]
    keep = rng.choice(
        (
            "gzip < %p > /srv/archive/%f.gz",
            "test ! -f /srv/archive/%f && cp %p /srv/archive/%f",
            "pgbackrest --stanza=main archive-push %p",
        )
    )

    def archive(_: datetime) -> Step:
        segment[0] += 1
        name = f"{1:08X}{0:08X}{segment[0]:08X}"
        return sh("db", DBA, keep.replace("%p", f"pg_wal/{name}").replace("%f", name), "/srv/pgdata")

    p.visits(rng.uniform(60, 120), archive, night=0.4)
    ping = (
        rng.choice(("mysqladmin ping -s", "mysqladmin status | cut -d' ' -f3"))
        if mine
        else rng.choice(("pg_isready -q -d main", "pg_isready -t 3 | grep -q accepting"))
    )
    p.every(rng.choice((10, 15)) * MINUTE, lambda _: sh("cron", DBA, ping))
    p.visits(
        rng.uniform(30, 60),
        lambda _: sh(
            "cron",
            DBA,
            f"sqlite3 /srv/main.db 'insert into t values ({rng.randrange(999)}, {rng.randrange(999)})' && sqlite3 -csv /srv/main.db 'select count(*), sum(b) from t'",
        ),
    )
    p.every(
        rng.choice((4, 6, 8)) * HOUR,
        lambda t: sh(
            "cron",
            DBA,
            f"sqlite3 /srv/main.db .dump | gzip > /srv/archive/dump-{t:%d%H}.sql.gz && ls -l /srv/archive | tail -3; {'mysqldump --all-databases' if mine else 'pg_dump -Fc main'} | cat > /dev/null",
        ),
    )
    p.every(
        HOUR, lambda _: sh("cron", DBA, "find /srv/archive -type f -mmin +2000 -delete; du -sk /srv/archive | cut -f1")
    )
    p.daily(
        rng.uniform(1, 5),
        lambda _: [
            sh("cron", DBA, "vacuumdb -az 2>&1 | tail -1; sqlite3 /srv/main.db 'vacuum; analyze'"),
            sh("cron", 0, "gzip -9c /var/log/db.log > /var/log/db.log.1.gz; : > /var/log/db.log"),
        ],
    )
    p.every(
        rng.choice((30, 60)) * MINUTE,
        lambda _: sh(
            "cron",
            DBA,
            rng.choice(
                ("ps -o rss= -C postgres | awk '{s+=$1} END {print s}'", "stat -c %s /srv/main.db; date -u +%FT%T")
            ),
        ),
    )
    p.rarely(
        "a restore is tried",
        0.8,
        lambda _: session(
            "sshd",
            DBA,
            [
                "ls -lt /srv/archive | head",
                "mkdir -p /tmp/restore",
                "gunzip -c /srv/archive/dump-*.gz | head -100 > /tmp/restore/x.sql",
                "sqlite3 /tmp/restore/x.db < /tmp/restore/x.sql",
                "sqlite3 /tmp/restore/x.db .tables",
                "rm -r /tmp/restore",
            ],
            "/srv",
        ),
        pace=60,
    )
    p.rarely(
        "a slow query is looked into",
        1,
        lambda _: session(
            "sshd",
            DBA,
            [
                "top -b -n 1 | head",
                "vmstat 1 1",
                "sqlite3 /srv/main.db 'explain query plan select * from t where a = 1'",
                "tail -20 /var/log/db.log",
                "free -m",
                "cat /proc/meminfo | head -3",
                "sqlite3 /srv/main.db 'create index if not exists i on t (a)'",
            ],
            "/srv",
        ),
        pace=60,
    )
