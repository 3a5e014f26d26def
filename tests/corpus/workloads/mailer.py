"""A mail spooler: delivery agents, a filter in Perl, queue runs, greylisting by shell; now and then the queue is flushed by hand."""
# ruff: noqa: E501 - command lines stand as they are typed

from __future__ import annotations

from datetime import datetime
from typing import Final

from tests.corpus.schedule import HOUR, MINUTE, Plan, Step, session, sh

MAIL: Final = 8
STAND_INS: Final = ("/usr/lib/postfix/sbin/master", "/usr/lib/postfix/sbin/smtpd", "/usr/lib/postfix/sbin/cleanup", "/usr/lib/postfix/sbin/local", "/usr/lib/postfix/sbin/smtp", "/usr/lib/postfix/sbin/bounce", "/usr/lib/postfix/sbin/qmgr",
    "/usr/sbin/postqueue", "/usr/sbin/sendmail", "/usr/sbin/cron", "/usr/sbin/sshd", "/usr/bin/procmail", "/usr/bin/clamdscan", "/usr/sbin/exim4", "/usr/bin/mailq", "/usr/sbin/postsuper")  # fmt: skip
_FILTER: Final = "my $n = 0; while (<STDIN>) { $n++ if /viagra|lottery|urgent/i } exit($n > 3);"


def plan(p: Plan) -> None:
    """Fill a plan."""
    rng = p.rng
    p.daemon("master", "/usr/lib/postfix/sbin/master", "-w")
    p.daemon("cron", "/usr/sbin/cron", "-f")
    p.daemon("sshd", "/usr/sbin/sshd", "-D")
    p.foothold("master", MAIL, "/var/spool")
    check = p.script("/usr/local/bin/spamcheck", _FILTER, interpreter="/usr/bin/perl")
    deliver = p.script(
        "/usr/local/bin/deliver",
        "umask 077; cat > /dev/null",
        'd=/var/mail/$(echo "$1" | tr A-Z a-z); mkdir -p $d/new; date +%s > $d/new/$$; ls $d/new | wc -l > $d/count',
    )
    sbin = "/usr/lib/postfix/sbin"
    local = rng.choice(("/usr/bin/procmail", deliver))
    scan = rng.random() < 0.6
    users = [f"{rng.choice(('ann', 'bob', 'eve', 'kim', 'lee', 'max', 'zoe'))}{n}" for n in range(8)]

    def receive(_: datetime) -> list[Step]:
        who, message = rng.choice(users), f"{rng.randrange(16**10):010X}"
        p_uid = MAIL
        steps = [
            Step("master", p_uid, (f"{sbin}/smtpd", "-n", "smtp", "-t", "inet", "-u")),
            Step("master", p_uid, (f"{sbin}/cleanup", "-z", "-t", "unix", "-u")),
            sh(
                "master",
                p_uid,
                f"printf 'Subject: {rng.choice(('hello', 'urgent', 'invoice'))}\\n' | {check} && {local} {who}",
            ),
        ]
        if scan:
            steps.insert(2, Step("master", p_uid, ("/usr/bin/clamdscan", "--fdpass", f"/var/spool/q/{message}")))
        if rng.random() < 0.2:
            steps.append(Step("master", p_uid, (f"{sbin}/smtp", "-n", "relay", "-t", "unix")))
        if rng.random() < 0.05:
            steps.append(Step("master", p_uid, (f"{sbin}/bounce", "-z", "-t", "unix")))
        return steps

    p.visits(rng.uniform(40, 75), receive, night=0.3)
    p.every(rng.choice((10, 15)) * MINUTE, lambda _: sh("cron", MAIL, "postqueue -p | tail -1 | awk '{print $5}'"))
    p.every(
        rng.choice((30, 60)) * MINUTE,
        lambda _: sh("cron", 0, "find /var/mail -name count -mmin +30 | wc -l; du -s /var/mail | cut -f1"),
    )
    p.daily(
        rng.uniform(2, 5),
        lambda t: [
            sh("cron", 0, f"tar -czf /var/backups-mail-{t:%F}.tgz /var/mail; rm -f /var/backups-mail-*"),
            sh("cron", 0, "for u in /var/mail/*; do ls $u/new | wc -l; done | sort -n | tail -1 | sendmail -t root"),
        ],
    )
    p.every(
        4 * HOUR,
        lambda _: sh("cron", 0, "grep -c refused /var/log/mail.log; sort -u /etc/aliases 2>/dev/null | md5sum"),
    )
    p.rarely(
        "the queue is flushed by hand",
        1.2,
        lambda _: session(
            "sshd",
            0,
            [
                "mailq | tail",
                "postqueue -p | head",
                "grep -i defer /var/log/mail.log | tail -3",
                "postsuper -d ALL deferred",
                "postqueue -f",
                "openssl version",
                "ss -tn | head -4",
            ],
        ),
        pace=50,
    )
    p.rarely(
        "aliases change",
        0.8,
        lambda _: session(
            "sshd",
            0,
            [
                "vim -es -c q /etc/aliases",
                "echo 'ops: ann' >> /etc/aliases",
                "newaliases",
                "cat /etc/aliases",
                "echo hi | sendmail ops",
            ],
        ),
        pace=50,
    )
