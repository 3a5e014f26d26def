"""What a test cluster leaves on the machine, and its removal: containers, mounts, links, cgroups, iptables rules, network namespaces.

`snapshot` before `up` and after `down` must be equal; tests/cluster/conftest.py compares them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")
_SYSCTLS: Final = ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables")
_TABLES: Final = (("iptables-save", "iptables-restore"), ("ip6tables-save", "ip6tables-restore"))
_MOUNTS: Final = ("/sys/fs/bpf", "/sys/kernel/tracing")


def snapshot() -> dict[str, list[str]]:
    """What a cluster could leave behind, by kind."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    links = [link["ifname"] for link in json.loads(_output("ip", "-j", "link"))]
    processes = [
        name
        for pid in Path("/proc").iterdir()
        if pid.name.isdigit() and (name := _name(pid)).startswith(("kube", "etcd", "containerd", "coredns"))
    ]
    tables = [line for save, _ in _TABLES for line in _rules(save)]
    return {
        "mounts": sorted(mounts), "links": sorted(links), "processes": sorted(processes), "iptables rules": sorted(tables),
        "cgroups": sorted(map(str, _cgroups())), "network namespaces": sorted(p.name for p in _namespaces()),
        "pins": sorted(map(str, _pins())),
    }  # fmt: skip


def remember(state: Path) -> None:
    """Keep what `remove` restores."""
    tables = {restore: _output(save) for save, restore in _TABLES}
    sysctls = {key: path.read_text() for key in _SYSCTLS if (path := Path("/proc/sys") / key).exists()}
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    memory = {
        "tables": tables, "sysctls": sysctls, "absent": [m for m in _MOUNTS if m not in mounts], "namespaces": [p.name for p in _namespaces()],
        "pins": [str(p) for p in _pins()],
    }  # fmt: skip
    (state / "before.json").write_text(json.dumps(memory))


def end_containers(state: Path) -> None:
    """Kill what runs in pods, and containerd's shims of this cluster."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        pids = [pid for cgroup in _cgroups() for pid in _members(cgroup)]
        pids += [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _is_shim(p, state)]
        if not pids:
            return
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def remove(state: Path, *bridges: str) -> None:
    """Everything but the state directory."""
    _unmount(str(state) + "/")
    memory = {}
    with suppress(FileNotFoundError, ValueError):
        memory = json.loads((state / "before.json").read_text())
    for path in _namespaces():
        if path.name.startswith("cni-") and path.name not in memory.get("namespaces", ()):
            subprocess.run(["ip", "netns", "delete", path.name])
    # A pod's end of a veth goes with its namespace, and the other end with it.
    for bridge in bridges:
        subprocess.run(["ip", "link", "delete", bridge], stderr=subprocess.DEVNULL)
    for restore, table in memory.get("tables", {}).items():
        _restore(restore, table)
    for key, value in memory.get("sysctls", {}).items():
        (Path("/proc/sys") / key).write_text(value)
    for cgroup in sorted(_cgroups(), key=lambda p: -len(p.parts)):
        with suppress(OSError):
            cgroup.rmdir()
    # A sensor that was killed leaves its rings pinned, for the next one to take over.
    for path in _pins() if "pins" in memory else ():
        if str(path) not in memory["pins"]:
            shutil.rmtree(path)
    for mount in memory.get("absent", ()):
        subprocess.run(["umount", mount], stderr=subprocess.DEVNULL)


def _restore(restore: str, table: str) -> None:
    """Tables that did not exist before are emptied: restoring leaves alone what it does not name."""
    named = {line[1:] for line in table.splitlines() if line.startswith("*")}
    for name in ("mangle", "nat", "filter", "raw"):
        if name not in named:
            program = restore.removesuffix("-restore")
            subprocess.run([program, "-t", name, "-F"], stderr=subprocess.DEVNULL)
            subprocess.run([program, "-t", name, "-X"], stderr=subprocess.DEVNULL)
    subprocess.run([restore], input=table, text=True, check=True)


def _rules(save: str) -> list[str]:
    # Chains that are built in show up once a table was looked at; counters change by themselves.
    return [
        line
        for line in _output(save).splitlines()
        if line.startswith("-") or (line.startswith(":") and line.split()[1] == "-")
    ]


def _cgroups() -> list[Path]:
    tops = [p for pattern in ("kubepods*", "*/kubepods*", "k8s.io", "*/k8s.io") for p in _CGROUPS.glob(pattern)]
    return [Path(root) for top in tops for root, _, _ in os.walk(top)]


def _members(cgroup: Path) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in (cgroup / "cgroup.procs").read_text().split() if word != "0"]
    return []


def _is_shim(process: Path, state: Path) -> bool:
    with suppress(OSError):
        words = (process / "cmdline").read_bytes().split(b"\0")
        return words[0].endswith(b"containerd-shim-runc-v2") and any(w.startswith(os.fsencode(state)) for w in words)
    return False


def _unmount(prefix: str) -> None:
    for _ in range(3):
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        ours = sorted({m for m in mounts if m.startswith(prefix)}, reverse=True)
        if not ours:
            return
        subprocess.run(["umount", "--lazy", *ours], stderr=subprocess.DEVNULL)


def _namespaces() -> list[Path]:
    return list(Path("/run/netns").glob("*"))


def _pins() -> list[Path]:
    return list(Path("/sys/fs/bpf").glob("daemoneye/*/*"))


def _name(process: Path) -> str:
    """Its name; empty for one that has ended and waits for its parent to notice."""
    with suppress(OSError, IndexError):
        name, _, rest = (process / "stat").read_text().rpartition(")")
        return "" if rest.split()[0] == "Z" else name.partition("(")[2]
    return ""


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
