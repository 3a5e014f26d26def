"""A CI runner: clones, builds and tests small generated projects with git, make and gcc; now and then a build is looked at by hand."""
# ruff: noqa: E501 - command lines stand as they are typed

from __future__ import annotations

from datetime import datetime
from typing import Final

from tests.corpus.schedule import HOUR, MINUTE, Plan, Step, bash, session, sh

RUNNER: Final = 1003
STAND_INS: Final = (
    "/usr/bin/gitlab-runner",
    "/usr/bin/act_runner",
    "/usr/sbin/sshd",
    "/usr/bin/cppcheck",
    "/usr/bin/lcov",
    "/usr/bin/node_exporter",
    "/usr/bin/docker",
)
_WORDS: Final = (
    "queue",
    "parse",
    "table",
    "cache",
    "timer",
    "codec",
    "route",
    "audit",
    "index",
    "merge",
    "shape",
    "token",
)


def plan(p: Plan) -> None:
    """Fill a plan."""
    rng = p.rng
    runner = rng.choice(("/usr/bin/gitlab-runner", "/usr/bin/act_runner"))
    p.daemon("runner", runner, "run", "--working-directory", "/builds")
    p.daemon("sshd", "/usr/sbin/sshd", "-D")
    p.daemon("agent", "/usr/bin/node_exporter", "--collector.textfile")
    p.foothold("runner", RUNNER, "/tmp")
    projects = [f"{rng.choice(_WORDS)}{rng.choice(('d', 'ctl', '-lib', '-tools'))}{n}" for n in range(3)]
    p.script(
        "/usr/local/bin/newproject",
        "set -e; p=$1; shift; mkdir -p /srv/git/$p/src; cd /srv/git/$p; git init -q; git config user.name ci; git config user.email ci@example.org",
        'printf "CC ?= gcc\\nOBJS = $(patsubst %%.c,%%.o,$(wildcard src/*.c))\\nall: app\\napp: $(OBJS)\\n\\t$(CC) -o app $(OBJS)\\n%%.o: %%.c\\n\\t$(CC) -O1 -Wall -c -o $@ $<\\ntest: app\\n\\t./app && ./tests.sh\\nclean:\\n\\trm -f app $(OBJS)\\n" > Makefile',
        'printf "int main(void) { return 0; }\\n" > src/main.c; for f in "$@"; do printf "int f_%s(int a) { return a + 1; }\\n" $f > src/$f.c; done',
        'printf "#!/bin/sh\\nfor i in 1 2 3; do ./app || exit 1; done; ls src | wc -l\\n" > tests.sh; chmod +x tests.sh; git add -A; git commit -q -m first',
    )  # fmt: skip
    p.add(
        30,
        lambda _: [
            bash("runner", RUNNER, f"newproject {name} {' '.join(rng.sample(_WORDS, 2))}", "/tmp") for name in projects
        ],
    )
    p.add(1, lambda _: sh("runner", 0, f"mkdir -p /srv/git /builds; chown {RUNNER} /srv/git /builds"))
    cc = rng.choice(("gcc", "cc", "gcc -pipe"))
    names: dict[str, int] = dict.fromkeys(projects, 0)

    def build(_: datetime) -> list[Step]:
        project, job = rng.choice(projects), rng.randrange(10**5, 10**6)
        where = f"/builds/{project}-{job}"
        names[project] += 1
        fresh = f"{rng.choice(_WORDS)}_{rng.randrange(16**4):04x}"
        edit = f"cd /srv/git/{project} && echo 'int g_{fresh}(int a) {{ return a * {job % 97}; }}' > src/{rng.choice(_WORDS)}.c && git add -A && git commit -q -m 'change {names[project]}' || true"
        steps = [
            bash("runner", RUNNER, edit),
            bash(
                "runner",
                RUNNER,
                f"git clone -q --depth 1 file:///srv/git/{project} {where} && cd {where} && git rev-parse HEAD > .rev",
            ),
            bash("runner", RUNNER, f"cd {where} && make -s CC='{cc}' all && make -s test"),
        ]
        if rng.random() < 0.3:
            steps.append(
                bash(
                    "runner",
                    RUNNER,
                    f"cd {where} && strip app && tar -czf /tmp/{project}.tgz app && sha256sum /tmp/{project}.tgz && cppcheck -q src",
                )
            )
        return [*steps, sh("runner", RUNNER, f"rm -rf {where}")]

    p.visits(rng.uniform(8, 14), build, night=0.1)
    p.every(rng.choice((10, 15)) * MINUTE, lambda _: sh("agent", 1000, "df -P /builds | tail -1; ls /builds | wc -l"))
    p.every(
        rng.choice((1, 2)) * HOUR,
        lambda _: sh(
            "runner",
            RUNNER,
            "git --git-dir=/srv/git/" + rng.choice(projects) + "/.git fsck --no-dangling; du -s /builds",
        ),
    )
    p.daily(
        rng.uniform(1, 5),
        lambda _: [
            bash("runner", RUNNER, f"cd /srv/git/{x} && git gc -q && git log --oneline | head -3") for x in projects
        ],
    )
    p.rarely(
        "a build is debugged by hand",
        1,
        lambda _: session(
            "sshd",
            RUNNER,
            [
                f"cd /srv/git/{projects[0]}",
                "git log --oneline | head",
                "make clean; make",
                "gdb -batch -ex run ./app",
                "strings app | head -3",
                "ldd ./app",
                "objdump -d app | head -5",
                "git status",
                "make clean",
            ],
        ),
        pace=60,
    )
    p.rarely(
        "a new tool in the build",
        0.8,
        lambda _: [
            bash(
                "runner",
                RUNNER,
                f"cd /srv/git/{projects[1]} && cmake --version && python3 -c 'import json; print(json.dumps(1))' && xxd Makefile | head -3",
            )
        ],
    )
