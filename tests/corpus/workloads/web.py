"""A web server with a database: requests that start programs, health checks by shell, log rotation, dumps; now and then a deploy."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from tests.corpus.schedule import HOUR, MINUTE, Plan, Step, sh

WWW: Final = 33
STAND_INS: Final = (
    "/usr/sbin/nginx",
    "/usr/sbin/fcgiwrap",
    "/usr/sbin/crond",
    "/usr/bin/convert",
    "/usr/sbin/logrotate",
    "/usr/bin/healthd",
)
_SERVER: Final = """
import http.server, sqlite3, sys
db = sqlite3.connect("{db}", check_same_thread=False)
db.execute("create table if not exists hits (path text)")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        db.execute("insert into hits values (?)", (self.path,)); db.commit()
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok\\n")
    def log_message(self, *a): open("/var/log/{app}/access.log", "a").write(self.path + "\\n")
http.server.HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""


def plan(p: Plan) -> None:
    """Fill a plan."""
    rng = p.rng
    app = rng.choice(("shop", "wiki", "portal", "tickets", "blog", "forms"))
    root, port = f"/srv/{app}", rng.choice((8000, 8080, 8081, 5000))
    db = f"{root}/data/{app}.db"
    language = rng.choice(("perl", "sh", "python3"))
    p.daemon("web", rng.choice(("/usr/sbin/nginx", "/usr/sbin/fcgiwrap")), "-g", "daemon off;", uid=WWW)
    p.daemon("cron", "/usr/sbin/crond", "-n")
    p.daemon("health", "/usr/bin/healthd", f"--config=/etc/{app}/health.yaml", uid=1000)
    p.foothold("web", WWW, root)
    p.file(f"{root}/data/README", "database\n")
    p.file(f"/var/log/{app}/access.log", "GET /\n" * 50, 0o666)
    p.file(f"{root}/server.py", _SERVER.format(db=db, app=app, port=port))
    p.file(f"/etc/logrotate.d/{app}", f"/var/log/{app}/*.log {{ daily }}\n")
    if language == "perl":
        cgi = p.script(
            f"{root}/cgi/order.pl",
            'print "Content-Type: text/plain\\n\\n"; print scalar(localtime), "\\n";',
            interpreter="/usr/bin/perl",
        )
    elif language == "python3":
        cgi = p.script(
            f"{root}/cgi/order.py", "import sqlite3, sys", "print(sys.argv[1:])", interpreter="/usr/bin/python3"
        )
    else:
        cgi = p.script(
            f"{root}/cgi/order.sh", 'echo "Content-Type: text/plain"; echo; date -u +%s; basename "$1" | tr a-z A-Z'
        )
    check = f"curl -fsS -m 5 http://127.0.0.1:{port}/health{rng.choice(('', 'z', '?q=1'))}"
    style = rng.choice((f"{check} | grep -q ok", f"{check} >/dev/null || exit 1", f'test "$({check})" = ok'))
    p.add(1, lambda _: Step("cron", 0, ("/usr/bin/python3", f"{root}/server.py"), root, wait=False))
    p.every(rng.choice((10, 15)) * MINUTE, lambda _: sh("health", 1000, style))
    p.visits(
        rng.uniform(80, 180),
        lambda _: Step(
            "web", WWW, (cgi, f"id={rng.randrange(10**6)}", rng.choice(("new", "list", "pay"))), f"{root}/cgi"
        ),
    )
    p.visits(
        rng.uniform(20, 60),
        lambda _: sh(
            "web",
            WWW,
            f"convert /srv/{app}/up/{rng.randrange(10**8):08x}.jpg -resize {rng.choice((120, 640))} /tmp/t.png",
        ),
    )
    p.every(
        HOUR,
        lambda t: sh(
            "cron",
            0,
            f"cp {db} /var/backups-{app}.db && gzip -f /var/backups-{app}.db && mv /var/backups-{app}.db.gz /var/tmp/{app}-{t:%d%H}.gz",
        ),
    )
    p.every(
        rng.choice((30, 60)) * MINUTE,
        lambda _: sh("cron", 0, f"find {root}/sessions -type f -mmin +60 -delete 2>/dev/null; ls {root} | wc -l"),
    )
    p.daily(
        rng.uniform(0, 4),
        lambda _: [
            Step("cron", 0, ("/usr/sbin/logrotate", "/etc/logrotate.conf")),
            sh(
                "cron",
                0,
                f"gzip -c /var/log/{app}/access.log > /var/log/{app}/access.1.gz; : > /var/log/{app}/access.log",
            ),
        ],
    )
    p.daily(
        rng.uniform(4, 7),
        lambda t: sh(
            "cron",
            0,
            f"awk '{{ n[$1]++ }} END {{ for (k in n) print k, n[k] }}' /var/log/{app}/access.log | sort -rn | head -20 > /tmp/report-{t:%F}.txt",
        ),
    )

    def deploy(t: datetime) -> list[Step]:
        version = f"{rng.randrange(1, 5)}.{rng.randrange(30)}.{rng.randrange(9)}"
        return [
            sh(
                "cron",
                0,
                f"mkdir -p /srv/releases/{version}/cgi && cp -a {root}/cgi/. /srv/releases/{version}/cgi/ && cp {root}/server.py /srv/releases/{version}/",
            ),
            sh(
                "cron",
                0,
                f"tar -C /srv/releases -czf /var/tmp/{app}-{version}.tar.gz {version} && ln -sfn /srv/releases/{version} {root}/current",
            ),
            sh(
                "cron",
                0,
                f"chown -R www-data: /srv/releases/{version}; {check} >/dev/null; sqlite3 {db} 'select count(*) from hits'",
            ),
        ]

    p.rarely("deploy", 1.5, deploy)
    p.rarely(
        "database repair",
        0.5,
        lambda _: [
            sh("cron", 0, f"sqlite3 {db} 'pragma integrity_check'; sqlite3 {db} vacuum; ls -la {root}/data; df -h /srv")
        ],
    )
