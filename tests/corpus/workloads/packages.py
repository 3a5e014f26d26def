"""A host that is kept up to date: package lists, local packages built and installed with their scripts; now and then an upgrade is mended by hand."""
# ruff: noqa: E501 - command lines stand as they are typed

from __future__ import annotations

from datetime import datetime
from typing import Final

from tests.corpus.schedule import HOUR, MINUTE, Plan, Step, session, sh

STAND_INS: Final = (
    "/usr/sbin/cron",
    "/usr/bin/unattended-upgrade",
    "/usr/sbin/needrestart",
    "/usr/sbin/sshd",
    "/usr/bin/apt-check",
    "/usr/bin/deb-systemd-helper",
    "/usr/sbin/invoke-rc.d",
)


def plan(p: Plan) -> None:
    """Fill a plan."""
    rng = p.rng
    p.daemon("cron", "/usr/sbin/cron", "-f")
    p.daemon("upgrade", "/usr/bin/unattended-upgrade", "--daemon")
    p.daemon("sshd", "/usr/sbin/sshd", "-D")
    p.foothold("cron", 0, "/root")
    p.foothold("sshd", 1002, "/home/u1002")
    names = rng.sample(
        ("acme-agent", "libfoo2", "reportd", "acme-fonts", "colorize", "tzextra", "quotad", "acme-base"), 4
    )
    make = p.script(
        "/usr/local/bin/mkdeb",
        "set -e; name=$1; version=$2; d=$(mktemp -d /var/tmp/build.XXXXXX); mkdir -p $d/DEBIAN $d/usr/share/$name $d/etc/$name",
        'printf "Package: %s\\nVersion: %s\\nArchitecture: all\\nMaintainer: Ops <ops@example.org>\\nDescription: a package\\n" $name $version > $d/DEBIAN/control',
        'printf "#!/bin/sh\\nset -e\\nif [ \\"\\$1\\" = configure ]; then mkdir -p /var/lib/%s; chmod 755 /var/lib/%s; invoke-rc.d %s restart || true; fi\\n" $name $name $name > $d/DEBIAN/postinst',
        'printf "#!/bin/sh\\nset -e\\ndeb-systemd-helper was-enabled %s || true\\n" $name > $d/DEBIAN/prerm', "chmod 755 $d/DEBIAN/postinst $d/DEBIAN/prerm",
        "echo $version > $d/usr/share/$name/version; chmod 755 $d; dpkg-deb -Zgzip --build $d /var/cache/$name.deb; rm -rf $d",
    )  # fmt: skip
    versions = dict.fromkeys(names, 1)

    def upgrade(_: datetime) -> list[Step]:
        chosen = rng.sample(names, rng.randrange(1, 3))
        steps = [
            sh("upgrade", 0, "dpkg-query -W -f '${Package} ${Version}\\n' > /tmp/installed; wc -l < /tmp/installed")
        ]
        for name in chosen:
            versions[name] += 1
            steps += [
                sh("upgrade", 0, f"{make} {name} 1.{versions[name]}"),
                Step("upgrade", 0, ("/usr/bin/dpkg", "--force-confold", "-i", f"/var/cache/{name}.deb")),
            ]
        return [
            *steps,
            sh("upgrade", 0, "ldconfig; needrestart -b -r l"),
            sh("upgrade", 0, "dpkg --audit; rm -f /var/cache/*.deb"),
        ]

    p.add(60, lambda _: [sh("upgrade", 0, f"{make} {n} 1.1 && dpkg -i /var/cache/{n}.deb") for n in names])
    p.every(rng.choice((3, 4, 6)) * HOUR, upgrade)
    p.every(
        HOUR,
        lambda _: Step(
            "cron",
            0,
            (
                "/bin/sh",
                "-c",
                "test -x /usr/bin/apt-check && apt-check --human-readable; stat -c %Y /var/lib/dpkg/status",
            ),
        ),
    )
    p.every(
        rng.choice((10, 15)) * MINUTE,
        lambda _: sh("cron", 0, f"dpkg-query -s {rng.choice(names)} | grep -E '^(Status|Version)' | sha1sum"),
    )
    p.every(
        rng.choice((30, 60)) * MINUTE,
        lambda _: sh(
            "cron",
            0,
            rng.choice(
                (
                    "uptime > /var/log/uptime; who | wc -l",
                    "test -f /var/run/reboot-required && cat /var/run/reboot-required; uname -r",
                )
            ),
        ),
    )
    p.daily(
        rng.uniform(5, 7),
        lambda _: [
            sh("cron", 0, "dpkg --get-selections | sort | gzip > /var/backups.sel.gz"),
            sh("cron", 0, "dpkg -l | awk '/^ii/ {print $2}' | head -200 | xargs -n 50 echo | md5sum"),
            sh("cron", 0, f"dpkg -V {names[0]}; update-alternatives --get-selections | head"),
        ],
    )

    def mend(_: datetime) -> Step:
        name = rng.choice(names)
        return session(
            "sshd",
            0,
            [
                "dpkg -l | tail -5",
                f"dpkg -L {name}",
                f"dpkg -s {name} | head -3",
                "dpkg --configure -a",
                f"apt-cache policy {name} 2>/dev/null | head -3",
                "tail -n 20 /var/log/dpkg.log",
                f"ls -l /usr/share/{name}",
            ],
        )

    p.rarely("an upgrade is mended by hand", 1, mend, pace=40)
    p.rarely(
        "a package is removed",
        0.8,
        lambda _: [sh("upgrade", 0, f"dpkg -r {names[3]}; {make} {names[3]} 1.0 && dpkg -i /var/cache/{names[3]}.deb")],
    )
