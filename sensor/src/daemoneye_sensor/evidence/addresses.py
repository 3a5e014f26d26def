"""A pod's addresses, as the kernel has them in its network namespace.

Responsible for finding one process of the pod by its cgroup's name, and for what its namespace's tables say. A pod in the node's own namespace has
none of its own: its packets are everybody's.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from daemoneye.events.addresses import MAPPED
from daemoneye_sensor.packets.namespace import of_node

PROC: Final = Path("/proc")
MAX_ADDRESSES: Final = 16
_LOCAL: Final = re.compile(r"^\s+\|--\s+(\S+)\s*\n\s+/32 host LOCAL", re.MULTILINE)
_MAX: Final = 1 << 20


def of_pod(uid: str, proc: Path = PROC) -> tuple[bytes, ...]:
    """Addresses of 16 bytes, IPv4 mapped; none if no process of the pod runs, or it uses the node's network. Reads a file of each process."""
    if not re.fullmatch(r"[0-9A-Za-z-]{8,64}", uid):
        return ()
    names = (f"pod{uid}", f"pod{uid.replace('-', '_')}")
    with suppress(OSError):
        node = of_node(proc).stat().st_ino
        for entry in proc.iterdir():
            if not entry.name.isdecimal():
                continue
            with suppress(OSError):
                cgroup = (entry / "cgroup").read_text("utf-8", "replace")
                if any(name in cgroup for name in names):
                    if (entry / "ns/net").stat().st_ino == node:
                        return ()
                    return of_namespace(entry)
    return ()


def of_namespace(process: Path) -> tuple[bytes, ...]:
    """Addresses in the network namespace of a process (its folder under /proc), without loopback and link-local ones.

    Raises:
        OSError: The process has gone.
    """
    found = [ipaddress.ip_address(text) for text in _LOCAL.findall(_read(process / "net/fib_trie"))]
    with suppress(FileNotFoundError):  # a kernel without IPv6
        found += [
            ipaddress.ip_address(bytes.fromhex(line.split()[0]))
            for line in _read(process / "net/if_inet6").splitlines()
        ]
    own = {ip for ip in found if not (ip.is_loopback or ip.is_link_local)}
    made = sorted(MAPPED + ip.packed if ip.version == 4 else ip.packed for ip in own)
    return tuple(made[:MAX_ADDRESSES])


def _read(path: Path) -> str:
    with path.open(encoding="ascii", errors="replace") as file:
        return file.read(_MAX)
