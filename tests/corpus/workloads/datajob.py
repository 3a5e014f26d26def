"""A data pipeline: Python jobs that fetch, clean and sum small tables, shell around them; now and then a backfill."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Final

from tests.corpus.outside import NEIGHBOUR
from tests.corpus.schedule import HOUR, MINUTE, Plan, Step, bash, session, sh

ETL: Final = 1004
STAND_INS: Final = (
    "/usr/bin/airflow",
    "/usr/bin/luigid",
    "/usr/bin/dagster-daemon",
    "/usr/sbin/sshd",
    "/usr/bin/aws",
    "/usr/bin/gsutil",
)
_EXTRACT: Final = """import csv, random, sys
random.seed(int(sys.argv[2]))
with open(sys.argv[1], "w") as f:
    w = csv.writer(f)
    for n in range(int(sys.argv[3])):
        w.writerow([n, random.choice("abcdef"), random.randrange(1000)])
"""
_SUMS: Final = """import collections, csv, json, sys
sums = collections.Counter()
for n, key, value in csv.reader(open(sys.argv[1])):
    sums[key] += int(value)
json.dump(sums, open(sys.argv[2], "w"))
"""


def plan(p: Plan) -> None:
    """Fill a plan."""
    rng = p.rng
    scheduler = rng.choice(
        (("/usr/bin/airflow", "scheduler"), ("/usr/bin/luigid", "--background"), ("/usr/bin/dagster-daemon", "run"))
    )
    p.daemon("scheduler", *scheduler, uid=ETL)
    p.daemon("sshd", "/usr/sbin/sshd", "-D")
    p.foothold("scheduler", ETL, "/home/u1004")
    p.file("/opt/etl/extract.py", _EXTRACT)
    p.file("/opt/etl/sums.py", _SUMS)
    upload = rng.choice(("aws s3 cp", "gsutil -q cp"))
    tables = rng.sample(("orders", "clicks", "stock", "tickets", "sensors", "prices"), 3)
    compress = rng.choice(("gzip -f", "xz -0 -f", "bzip2 -f"))

    def load(t: datetime, table: str) -> list[Step]:
        stem = f"/tmp/{table}-{t:%Y%m%d%H%M}"
        steps = [
            Step(
                "scheduler",
                ETL,
                (
                    "/usr/bin/python3",
                    "/opt/etl/extract.py",
                    f"{stem}.csv",
                    str(rng.randrange(10**6)),
                    str(rng.randrange(200, 3000)),
                ),
                "/opt/etl",
            ),
            bash("scheduler", ETL, f"sort -t, -k2 {stem}.csv | uniq | awk -F, '$3 > 10' > {stem}.clean"),
            Step(
                "scheduler", ETL, ("/usr/bin/python3", "/opt/etl/sums.py", f"{stem}.clean", f"{stem}.json"), "/opt/etl"
            ),
        ]
        if rng.random() < 0.5:
            steps.append(
                sh(
                    "scheduler",
                    ETL,
                    f"split -l 500 {stem}.clean {stem}.part. && wc -l {stem}.part.* | tail -1; rm -f {stem}.part.*",
                )
            )
        return [
            *steps,
            sh(
                "scheduler",
                ETL,
                f"{compress} {stem}.csv && {upload} {stem}.json s3://example/{table}/ ; rm -f {stem}.*",
            ),
        ]

    for table in tables:
        p.every(rng.choice((1, 2, 3)) * HOUR, partial(load, table=table), jitter=20)
    p.every(
        rng.choice((10, 15)) * MINUTE,
        lambda _: sh(
            "scheduler",
            ETL,
            rng.choice(("test -d /opt/etl && ls /tmp | grep -c csv", "pgrep -c python3; cat /proc/loadavg")),
        ),
    )
    p.every(
        HOUR,
        lambda _: sh(
            "scheduler",
            ETL,
            f"curl -fsS http://{NEIGHBOUR}:8080/export/{rng.choice(tables)} -o /tmp/in.csv && wc -l /tmp/in.csv",
        ),
    )
    p.daily(
        rng.uniform(1, 4),
        lambda t: [
            bash(
                "scheduler",
                ETL,
                f"for x in {' '.join(tables)}; do seq 1 2000 | shuf | sort -n | sha1sum; done; python3 -m json.tool /opt/etl/none.json",
            ),
            sh("scheduler", ETL, f"tar -C /opt -czf /tmp/etl-{t:%F}.tgz etl && rm /tmp/etl-{t:%F}.tgz"),
        ],
    )
    p.every(
        6 * HOUR,
        lambda _: sh(
            "scheduler",
            ETL,
            "sqlite3 /tmp/meta.db 'create table if not exists runs (at text); insert into runs values (datetime()); select count(*) from runs'",
        ),
    )

    def backfill(t: datetime) -> list[Step]:
        return [step for _ in range(6) for step in load(t, rng.choice(tables))]

    p.rarely("a backfill", 1, backfill)
    lines = [
        "cd /opt/etl",
        "python3 -c 'import csv; print(csv)'",
        "head -3 sums.py",
        "python3 -i -c 'x = 1' < /dev/null",
        "ls -la /tmp | head",
        "seq 5 | python3 sums.py /dev/stdin /tmp/x.json",
        "less -F sums.py | cat",
        "tail -3 extract.py",
    ]
    p.rarely("an analyst tries things by hand", 1.2, lambda _: session("sshd", ETL, lines), pace=60)
