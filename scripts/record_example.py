"""Makes examples/one-machine/recording.jsonl: a real run of this sensor over a small staged break-in.

Run as root, by hand, when the events' schema changes: `.venv/bin/python scripts/record_example.py`. The processes are real; what is staged is
who they are: a copy of the shell, installed as /opt/nginx/sbin/nginx in a mount namespace of its own and put into a cgroup
/system.slice/nginx.service, starts a shell, which drops and deletes a program and runs code from memory under a kernel thread's name.
Afterwards only events of that process tree are kept, and ancestry above the staged nginx is cut away (it would show the machine that recorded).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
TARGET = REPOSITORY / "examples" / "one-machine" / "recording.jsonl"
UNIT = "system.slice/nginx.service"
BREAK_IN = """\
id > /dev/null
uname -a > /dev/null
cp /bin/true /dev/shm/.cache && /dev/shm/.cache --probe
exec 9< /dev/shm/.cache; rm /dev/shm/.cache; /proc/self/fd/9 --persist; exec 9<&-
/usr/bin/python3 -c 'import os; f = os.memfd_create("stage2"); os.write(f, open("/bin/true", "rb").read()); os.execve(f, ["[kworker/0:1]"], {})'
"""
STAGE = """\
mount -t tmpfs none /opt && mkdir -p /opt/nginx/sbin && cp "$(readlink -f /bin/sh)" /opt/nginx/sbin/nginx && cd / &&
exec /opt/nginx/sbin/nginx -c 'sh -c "$BREAK_IN"; :' nginx
"""


def cgroups() -> list[Path]:
    """The unit's directory in the v2 hierarchy and in the v1 one of the memory controller, where there are."""
    found = []
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
            found.append(Path(where) / UNIT)
    return found


def break_in() -> int:
    """Stage it; returns the pid of the staged nginx."""
    places = cgroups()
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    join = "".join(f"echo $$ > {place}/cgroup.procs; " for place in places)
    try:
        process = subprocess.Popen(
            ["unshare", "--mount", "/bin/sh", "-c", join + STAGE],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "BREAK_IN": BREAK_IN},
        )
        process.wait()
    finally:
        for place in places:
            place.rmdir()
    return process.pid


def record() -> tuple[int, list[dict[str, Any]]]:
    """Events of a run during the break-in, and the pid of the staged nginx."""
    with tempfile.TemporaryDirectory() as state:
        command = [
            Path(sys.executable).with_name("daemoneye"),
            "run",
            "-o",
            "json",
            "--events",
            "--node",
            "web-1",
            "--state",
            state,
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            events: list[dict[str, Any]] = []
            pid = 0
            for line in run.stdout or ():
                event = json.loads(line)
                if event["kind"] == "status" and not pid:
                    pid = break_in()
                if event["kind"] == "event":
                    events.append(event)
                    if event["event"] == "process_exit" and event["pid"] == pid:
                        run.send_signal(signal.SIGTERM)
    return pid, events


def main() -> int:
    """Write the recording."""
    if os.geteuid() != 0:
        sys.stderr.write("recording needs root\n")
        return 3
    root, events = record()
    tree = {root}
    begun = False
    kept = []
    for event in events:
        begun = begun or (event["pid"] == root and event["exe"].startswith("/opt/nginx/"))
        if event["event"] == "process_fork" and event["ppid"] in tree:
            tree.add(event["pid"])
        if not begun or event["pid"] not in tree:
            continue
        known = [image for image in (event["parent"], *event["ancestors"]) if image["pid"] in tree]
        event["parent"] = known[0] if known else {"pid": event["ppid"], "exe": "", "argv": []}
        event["ancestors"] = known[1:]
        kept.append(event)
    TARGET.write_text("".join(json.dumps(event, separators=(",", ":")) + "\n" for event in kept))
    sys.stderr.write(f"{TARGET}: {len(kept)} events\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
