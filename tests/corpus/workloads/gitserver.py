"""A git server: pushes and fetches with hooks, mirrors, garbage collection; now and then a repository is mended by hand."""
# ruff: noqa: E501 - command lines stand as they are typed

from __future__ import annotations

from datetime import datetime
from typing import Final

from tests.corpus.schedule import HOUR, MINUTE, Plan, Step, session, sh

GIT: Final = 1001
STAND_INS: Final = ("/usr/sbin/sshd", "/usr/sbin/cron", "/usr/bin/gitea", "/usr/bin/cgit", "/usr/sbin/sendmail")


def plan(p: Plan) -> None:
    """Fill a plan."""
    rng = p.rng
    front = p.daemon("front", *rng.choice((("/usr/sbin/sshd", "-D"), ("/usr/bin/gitea", "web"))))
    p.daemon("cron", "/usr/sbin/cron", "-f")
    p.foothold(front, GIT, "/srv/git")
    names = [f"{rng.choice(('infra', 'site', 'tool', 'docs', 'game'))}-{n}" for n in range(3)]
    check = p.script(
        "/usr/local/bin/check-push",
        "while read old new ref; do",
        '  git rev-list --count "$new" > /dev/null; echo "$ref" | grep -q refs/heads/ || exit 1',
        rng.choice(('  git log -1 --format=%ae "$new" | cut -d@ -f2', '  git diff-tree --name-only -r "$new" | wc -l')),
        "done",
    )
    tell = p.script(
        "/usr/local/bin/tell-push",
        'while read old new ref; do git log --oneline -3 "$new" | sendmail -t team; done',
        rng.choice(("true", "git update-server-info")),
    )
    first = "; ".join(
        f"git init -q --bare {n}.git && ln -sf {check} {n}.git/hooks/pre-receive && ln -sf {tell} {n}.git/hooks/post-receive && git clone -q {n}.git /tmp/w-{n}"
        for n in names
    )
    p.add(1, lambda _: sh("cron", 0, f"mkdir -p /srv/git; chown {GIT} /srv/git"))
    p.add(
        5,
        lambda _: sh(
            front,
            GIT,
            f"git config --global user.email a@example.org; git config --global user.name a; {first}",
            "/srv/git",
        ),
    )

    def push(_: datetime) -> list[Step]:
        name = rng.choice(names)
        return [
            sh(
                front,
                GIT,
                f"echo {rng.randrange(10**9)} >> f{rng.randrange(9)} && git add -A && git commit -q -m 'change {rng.randrange(10**4)}' && git push -q origin HEAD",
                f"/tmp/w-{name}",
            )
        ]

    def fetch(_: datetime) -> Step:
        name = rng.choice(names)
        return Step(
            front,
            GIT,
            ("/bin/sh", "-c", f"git-upload-pack --advertise-refs /srv/git/{name}.git > /dev/null"),
            "/srv/git",
        )

    p.visits(rng.uniform(9, 18), push)
    p.visits(rng.uniform(50, 90), fetch, night=0.4)
    p.every(
        rng.choice((10, 15)) * MINUTE,
        lambda _: sh("cron", GIT, f"git --git-dir=/srv/git/{rng.choice(names)}.git count-objects -v | head -1"),
    )
    p.every(
        rng.choice((2, 3)) * HOUR,
        lambda _: sh("cron", GIT, "for r in /srv/git/*.git; do git -C $r gc --auto -q; done; du -s /srv/git"),
    )
    p.daily(
        rng.uniform(0, 5),
        lambda t: [
            sh(
                "cron",
                GIT,
                f"for r in /srv/git/*.git; do git -C $r fsck --no-dangling; git -C $r bundle create -q /tmp/$(basename $r)-{t:%d}.bundle --all; done; rm -f /tmp/*.bundle",
            ),
            sh("cron", 0, "tar -czf /tmp/git.tgz /srv/git && sha1sum /tmp/git.tgz; rm -f /tmp/git.tgz"),
        ],
    )
    p.rarely(
        "a repository is mended by hand",
        1,
        lambda _: session(
            "cron",
            GIT,
            [
                f"cd /srv/git/{names[0]}.git",
                "git reflog | head -3",
                "git fsck --full",
                "git repack -adq",
                "git branch -a",
                "ls -la objects | head",
                "git cat-file -p HEAD | head -2",
                "git prune --expire now",
            ],
            "/srv/git",
        ),
        pace=60,
    )
    p.rarely(
        "a repository is added",
        0.7,
        lambda _: [
            sh(
                "cron",
                GIT,
                f"git init -q --bare new-{rng.randrange(99)}.git; chmod -R g+rX .; find . -maxdepth 1 -name '*.git' | sort",
                "/srv/git",
            )
        ],
    )
