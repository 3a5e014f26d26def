"""A workload's machine: namespaces and a root of its own over this one's, in a cgroup of its own, driven through its launcher.

Its root is an overlay: this machine's programs below, stand-ins for what it lacks above them, and a writable layer in memory that goes with it. Whatever
else this machine holds (homes, configuration, logs, mounted disks) is hidden, the network is a loopback of its own: nothing that runs there reaches out.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

HERE: Final = Path(__file__).parent
CGROUPS: Final = Path("/sys/fs/cgroup")
SLICE: Final = "corpus.slice"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INIT: Final = "/usr/sbin/tini"
# Directories that are emptied, and those of which only what is named stays.
_EMPTY: Final = (
    "root",
    "home",
    "tmp",
    "srv",
    "opt",
    "mnt",
    "media",
    "boot",
    "run",
    "etc",
    "var/log",
    "var/spool",
    "var/cache",
    "var/tmp",
    "var/mail",
)
_KEPT: Final = {
    "": ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "dev", "proc", "sys", "var", *_EMPTY),
    "var/lib": ("dpkg", "pam", "ucf"),
}
_ETC: Final = (
    "alternatives", "bash.bashrc", "debian_version", "group", "host.conf", "hosts", "init.d", "inputrc", "issue", "ld.so.cache", "ld.so.conf",
    "ld.so.conf.d", "localtime", "login.defs", "mime.types", "nsswitch.conf", "os-release", "pam.d", "passwd", "profile", "profile.d", "protocols",
    "security", "services", "shells", "skel", "terminfo", "timezone",
)  # fmt: skip
_DEVICES: Final = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
# Runs in the new namespaces before anything joins the cgroup: $1 is the directory of this workload, $2 the shared layer.
_SETUP: Final = """
set -e
cd "$1"; mkdir upper work root
mount -t overlay overlay -o lowerdir="$2":/,upperdir=upper,workdir=work root
mount -t proc proc root/proc
mount -t tmpfs -o mode=755 tmpfs root/dev
mkdir root/dev/pts root/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts root/dev/pts
mount -t tmpfs -o mode=1777 tmpfs root/dev/shm
ln -s pts/ptmx root/dev/ptmx; ln -s /proc/self/fd root/dev/fd; ln -s fd/0 root/dev/stdin; ln -s fd/1 root/dev/stdout; ln -s fd/2 root/dev/stderr
ip link set lo up
ip address add 203.0.113.7/32 dev lo; ip address add 10.20.0.5/32 dev lo; ip route add local 10.20.0.0/24 dev lo
hostname "$3"
for d in $4; do set -- $(echo $d | tr : ' '); mknod -m 666 root/dev/$1 c $2 $3; done
exec chroot root "$INIT"
"""


class Layer:
    """The layer that all workloads of a recording share: stand-ins, what is hidden, a small /etc. Memory-backed; `directory` is mounted over."""

    def __init__(self, directory: Path, stand_ins: Iterable[str]) -> None:
        """Build it: `stand_ins` are paths of programs that do nothing."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "corpus", directory], check=True)
        self.path = directory / "layer"
        self.path.mkdir()
        launcher = directory / "launcher"
        subprocess.run(["cc", "-O2", "-static", "-o", launcher, HERE / "launcher.c", "-lutil"], check=True)
        for parent, kept in _KEPT.items():
            for entry in sorted(Path("/", parent).iterdir()):
                if entry.name in kept:
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    self._emptied(f"{parent}/{entry.name}")
                else:  # a whiteout
                    (self.path / parent).mkdir(parents=True, exist_ok=True)
                    os.mknod(self.path / parent / entry.name, stat.S_IFCHR, 0)
        for name in _EMPTY:
            self._emptied(name)
        for name in ("tmp", "var/tmp", "run/lock", "var/mail", "root/.ssh"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
            (self.path / name).chmod(0o1777 if name.endswith(("tmp", "lock")) else 0o755)
        self._etc()
        for program in (_INIT, *stand_ins):
            target = self.path / program.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(launcher, target)

    def _emptied(self, name: str) -> None:
        path = self.path / name.strip("/")
        path.mkdir(parents=True, exist_ok=True)
        os.setxattr(path, "trusted.overlay.opaque", b"y")

    def _etc(self) -> None:
        etc = self.path / "etc"
        for name in _ETC:
            source = Path("/etc", name)
            if source.is_dir():
                shutil.copytree(source, etc / name, symlinks=True)
            elif source.exists():
                shutil.copy(source, etc / name)
        (etc / "shadow").write_text("root:*:20000:0:99999:7:::\nu1000:$y$corpus$not-a-password:20000:0:99999:7:::\n")
        (etc / "shadow").chmod(0o640)
        with (etc / "passwd").open("a") as passwd:
            passwd.writelines(f"u{uid}:x:{uid}:{uid}::/home/u{uid}:/bin/bash\n" for uid in range(1000, 1006))
        for uid in range(1000, 1006):
            home = self.path / f"home/u{uid}"
            (home / ".ssh").mkdir(parents=True)
            for path in (home, home / ".ssh"):
                os.chown(path, uid, uid)
        for name in ("cron.d", "cron.daily", "logrotate.d", "ssh", "systemd/system", "sudoers.d"):
            (etc / name).mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Give the memory back, and the cgroups' slice if no other recording has it."""
        subprocess.run(["umount", "-l", self.directory], check=True)
        with suppress(OSError):
            (_cgroup_root() / SLICE).rmdir()


class Machine:
    """One workload, running. Its commands are sent one at a time; an answer is an exit status."""

    def __init__(self, layer: Layer, name: str, files: dict[str, tuple[str, int]]) -> None:
        """Start it; `files` are what its writable layer begins with: path → (text, mode)."""
        self.name = name
        self._cgroup = _cgroup_root() / SLICE / f"{name}.service"
        self._cgroup.mkdir(parents=True, exist_ok=True)
        self._directory = layer.directory / name
        self._directory.mkdir()
        self._own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        devices = " ".join(f"{device}:{major}:{minor}" for device, (major, minor) in _DEVICES.items())
        joined = os.open(self._cgroup / "cgroup.procs", os.O_WRONLY)
        shell = ["/bin/sh", "-c", _SETUP, "setup", str(self._directory), str(layer.path), name, devices]
        command = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--net",
            "--ipc",
            "--uts",
            "--propagation",
            "private",
            *shell,
        ]
        fds = (theirs.fileno(), joined)
        environment = {"PATH": PATH, "LANG": "C.UTF-8", "INIT": _INIT, "LAUNCHER_FDS": f"{fds[0]} {fds[1]}"}
        try:
            self._process = subprocess.Popen(command, env=environment, pass_fds=fds)
        finally:
            theirs.close()
            os.close(joined)
        self._own.settimeout(240)
        self._ask("")  # it is set up when it answers
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        self.first = int(children.split()[0])
        """Its first process, as seen from here."""
        self._write(files)

    def _ask(self, *fields: str) -> int:
        self._own.send(b"".join(os.fsencode(field) + b"\0" for field in fields))
        return int(self._own.recv(64) or b"119")

    def _write(self, files: dict[str, tuple[str, int]]) -> None:
        root = Path(f"/proc/{self.first}/root")
        for name, (text, mode) in files.items():
            path = root / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(mode)

    def daemon(self, name: str, uid: int, argv: Sequence[str]) -> None:
        """Start a daemon that runs what `run` gives it."""
        self._ok(name, self._ask("daemon", name, str(uid), *argv[:1], *argv))

    def run(self, daemon: str, uid: int, cwd: str, argv: Sequence[str], *, wait: bool = True) -> int:
        """Run a program to its end as a child of a daemon."""
        return self._ask("to", daemon, "run" if wait else "spawn", str(uid), cwd, *argv)

    def type(self, daemon: str, uid: int, cwd: str, argv: Sequence[str], lines: Sequence[str], pause_ms: int) -> int:
        """Run a shell on a terminal and type lines into it, then `exit`."""
        return self._ask("to", daemon, "type", str(uid), cwd, str(pause_ms), "\n".join([*lines, "exit"]), *argv)

    @staticmethod
    def _ok(what: str, status: int) -> None:
        if status:
            raise RuntimeError(f"{what}: the launcher answered {status}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._own.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for _turn in range(100):
            with suppress(OSError):
                self._cgroup.rmdir()
                break
            time.sleep(0.05)  # the kernel takes its time with the last processes, and tells nobody when it is done


def _cgroup_root() -> Path:
    unified = CGROUPS / "unified"
    return unified if unified.is_dir() else CGROUPS
