"""suspicious_exec: executions that are suspicious whatever a workload usually does.

Responsible for the rules, each with its own key, severity, ATT&CK techniques and words. Nothing is learned here, so that it speaks
from the first second on; what is merely new is `first_seen`'s affair.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from daemoneye.escape import decode
from daemoneye.events.flags import Flag
from daemoneye.findings import Finding, Technique
from daemoneye_analytics import evidence
from daemoneye_analytics.detectors.base import Declaration, Parameter, State, detector
from daemoneye_analytics.detectors.programs import SHELLS, named
from daemoneye_analytics.detectors.repeats import Repeats
from daemoneye_analytics.frame import Frame, combine

_SERVICES: Final = (
    "nginx", "httpd", "apache2", "lighttpd", "caddy", "haproxy", "java", "php-fpm*", "php-cgi*", "mysqld", "mariadbd", "postgres",
    "redis-server", "mongod", "memcached", "node", "nodejs", "gunicorn*", "uwsgi*", "uvicorn", "puma", "unicorn", "tomcat*", "catalina*",
    "named", "vsftpd", "proftpd",
)  # fmt: skip
_DATABASES: Final = ("mysqld", "mariadbd", "postgres", "redis-server", "mongod", "memcached")
_RUNTIMES: Final = (
    "runc", "crun", "youki", "containerd", "containerd-shim*", "dockerd", "docker", "podman", "conmon", "crio", "kubelet", "buildkitd",
    "memfd:runc_cloned*", "runc_cloned*",
)  # fmt: skip
_PRIVILEGED: Final = (
    "su", "sudo", "sudoedit", "doas", "pkexec", "ping", "ping4", "ping6", "arping", "clockdiff", "traceroute6.iputils", "mtr-packet",
    "passwd", "chage", "chfn", "chsh", "expiry", "gpasswd", "newgrp", "sg", "newuidmap", "newgidmap", "unix_chkpwd", "mount", "umount",
    "fusermount", "fusermount3", "mount.nfs", "mount.cifs", "ntfs-3g", "crontab", "at", "ssh-agent", "ssh-keysign", "staprun", "locate",
    "dbus-daemon-launch-helper", "polkit-agent-helper-1", "bwrap", "snap-confine", "exim4", "sendmail", "postdrop", "postqueue",
    "utempter", "dotlockfile", "wall", "write", "write.ul", "bsd-write", "Xorg.wrap", "chrome-sandbox", "dumpcap", "pppd", "gst-ptp-helper",
)  # fmt: skip
_WORLD_WRITABLE: Final = ("/tmp", "/var/tmp", "/dev/shm", "/run/user", "/run/shm", "/run/lock")  # noqa: S108 - what is looked for
_KERNEL_NAMES: Final = (b"kworker/", b"ksoftirqd/", b"kthreadd", b"migration/", b"rcu_", b"kswapd", b"watchdog/")
_MEMORY: Final = "/dev/shm/"  # noqa: S108
_FORMAT: Final = 1
_SYSTEM: Final = re.compile(r"(?:/usr)?/(?:s?bin|lib(?:exec|32|64)?)/")
_RUNC_COPY: Final = re.compile(r"/?(?:memfd:)?runc_cloned:")

_FILELESS: Final = Technique("T1620", "Reflective Code Loading")
_DELETION: Final = Technique("T1070.004", "File Deletion")
_MASQUERADING: Final = Technique("T1036", "Masquerading")
_TRANSFER: Final = Technique("T1105", "Ingress Tool Transfer")
_SHELL: Final = Technique("T1059.004", "Unix Shell")
_EXPLOIT: Final = Technique("T1190", "Exploit Public-Facing Application")
_WEB_SHELL: Final = Technique("T1505.003", "Web Shell")
_SETUID: Final = Technique("T1548.001", "Setuid and Setgid")
_INTERPRETER: Final = Technique("T1059", "Command and Scripting Interpreter")
_LOCATION: Final = Technique("T1036.005", "Match Legitimate Resource Name or Location")
_TASK_NAME: Final = Technique("T1036.004", "Masquerade Task or Service")

_ORDER: Final = ("critical", "high", "medium", "low", "informational")


@dataclass(frozen=True, slots=True)
class _Hit:
    """What one rule says about one row; severity and techniques may depend on the row."""

    key: str
    severity: str
    title: str
    techniques: tuple[Technique, ...]
    explanation: tuple[str, ...]
    confidence: float


_Row = dict[str, Any]
_Tell = Callable[[Frame, _Row], _Hit]


@detector(
    name="suspicious_exec",
    version=1,
    title="A program was executed in a way that attackers use",
    severity="high",
    techniques=(
        _FILELESS, _DELETION, _MASQUERADING, _TRANSFER, _SHELL, _EXPLOIT, _WEB_SHELL, _SETUID, _INTERPRETER, _LOCATION, _TASK_NAME,
    ),
    parameters=(
        Parameter("services", (), "names of more programs below which a shell is suspicious; * stands for any characters"),
        Parameter("shells", (), "names of more shells"),
        Parameter("privileged", (), "names of more programs that may gain privileges, in system directories and owned by root"),
        Parameter("directories", (), "more directories that everybody can write to"),
        Parameter("depth", 4, "ancestors among which a service is looked for, 1 to 8", minimum=1),
        Parameter("repeats", 20, "findings of the same rules, workload and program that are told within repeat_seconds", minimum=1),
        Parameter("repeat_seconds", 3600, "seconds after which repetitions are told again, with the number of those left out"),
        Parameter("exclude", (), "keys of rules that are off, such as exec-from-writable-directory"),
    ),
)  # fmt: skip
class SuspiciousExec:
    """Deterministic rules over single executions and their ancestors.

    Rules: memfd, deleted-executable, writable-layer, shell-below-service, privilege-gain, exec-from-writable-directory, kernel-name.
    Several rules that one execution meets make one finding with the highest severity and all their sentences. The same rules, workload
    and program are told a limited number of times an hour; the rest is counted and mentioned in the next hour's first finding. Processes that ran before
    the sensor started are judged by memfd and kernel-name alone: a deleted executable, say, is what every upgrade leaves behind.
    """

    declaration: ClassVar[Declaration]

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._is_shell = named((*SHELLS, *parameters["shells"]))
        self._is_service = named((*_SERVICES, *parameters["services"]))
        self._is_database = named(_DATABASES)
        self._is_runtime = named(_RUNTIMES)
        self._is_privileged = named((*_PRIVILEGED, *parameters["privileged"]))
        self._directories = tuple(f"{d.rstrip('/')}/" for d in (*_WORLD_WRITABLE, *parameters["directories"]))
        self._depth = min(parameters["depth"], 8)
        rules: dict[str, tuple[Callable[[Frame], np.ndarray], _Tell]] = {
            "memfd": (self._memfd, self._tell_memfd),
            "deleted-executable": (self._deleted, self._tell_deleted),
            "writable-layer": (self._drift, self._tell_drift),
            "shell-below-service": (self._shell, self._tell_shell),
            "privilege-gain": (self._gain, self._tell_gain),
            "exec-from-writable-directory": (self._writable, self._tell_writable),
            "kernel-name": (self._kernel_name, self._tell_kernel_name),
        }
        self._repeats = Repeats(parameters["repeats"], int(parameters["repeat_seconds"] * 1e9))
        # By position among all of them, whatever is excluded: the bits are part of what is remembered.
        self._rules = {
            key: (bit, applies, tell)
            for bit, (key, (applies, tell)) in enumerate(rules.items())
            if key not in parameters["exclude"]
        }

    def process(self, frame: Frame) -> list[Finding]:
        """See `Detector`."""
        if not len(frame.exec_image):
            return []
        met = np.zeros(len(frame.exec_image), np.uint64)
        for bit, applies, _ in self._rules.values():
            met |= applies(frame).astype(np.uint64) << np.uint64(bit)
        rows = np.flatnonzero(met)
        if not len(rows):
            return []
        image = frame.exec_image[rows]
        # A workload's pods that no policy wants must not use up what is told of the others.
        whose = frame.workload_hashes[frame.identity[image]] ^ frame.membership(image)
        keys = combine(met[rows], whose, frame.exe.hashes()[image])
        tells = [(bit, tell) for bit, _, tell in self._rules.values()]
        out = []
        for row, key, time, bits in zip(
            *(a.tolist() for a in (rows, keys, frame.exec_time[rows], met[rows])), strict=True
        ):
            hidden = self._repeats.admit(key, time)
            if hidden is not None:
                out.append(self._finding(frame, row, [t for bit, t in tells if bits >> bit & 1], hidden))
        return out

    def state(self) -> State:
        """See `Detector`."""
        return {"format": _FORMAT, **self._repeats.state()}

    def restore(self, state: State) -> None:
        """See `Detector`."""
        if state.get("format") != _FORMAT:
            msg = f"state of suspicious_exec has format {state.get('format')}, this version reads {_FORMAT}"
            raise ValueError(msg)
        self._repeats.restore(state)

    def status(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"phase": "active", "rules": list(self._rules), "suppressed": self._repeats.suppressed}

    # ── which rows ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _memfd(self, frame: Frame) -> np.ndarray:
        return frame.has(Flag.MEMFD)

    def _deleted(self, frame: Frame) -> np.ndarray:
        return frame.has(Flag.EXE_DELETED) & ~frame.has(Flag.MEMFD | Flag.SNAPSHOT)

    def _drift(self, frame: Frame) -> np.ndarray:
        contained = np.array([i.container_id != "" for i in frame.identities])
        return frame.has(Flag.WRITABLE_LAYER) & contained[frame.identity[frame.exec_image]] & ~frame.has(Flag.SNAPSHOT)

    def _shell(self, frame: Frame) -> np.ndarray:
        shell = frame.exe.where(self._is_shell)[frame.exec_image] & ~frame.has(Flag.SNAPSHOT)
        if shell.any():
            above = frame.ancestors[frame.exec_image, : self._depth]
            shell &= (self._services_of(frame)[above] & (above >= 0)).any(axis=1)
        return shell

    def _gain(self, frame: Frame) -> np.ndarray:
        gained = frame.has(Flag.CAPS_GAINED | Flag.SETUID | Flag.SETGID) & ~frame.has(Flag.SNAPSHOT)
        if gained.any():
            expected = frame.exe.where(lambda exe: self._is_privileged(exe) and _SYSTEM.match(exe) is not None)[
                frame.exec_image
            ]
            gained &= ~(expected & (frame.exec_rows["exe_uid"] == 0))
        return gained

    def _writable(self, frame: Frame) -> np.ndarray:
        out = frame.exe.where(self._is_writable)[frame.exec_image]
        script = frame.has(Flag.SCRIPT)
        if script.any():
            for directory in self._directories:
                out |= script & frame.exec_starts_with("filename", directory.encode())
        return out & ~frame.has(Flag.SNAPSHOT)

    def _kernel_name(self, frame: Frame) -> np.ndarray:
        out = np.zeros(len(frame.exec_image), bool)
        for prefix in _KERNEL_NAMES:
            out |= frame.exec_starts_with("argv", prefix)
        for row in np.flatnonzero(frame.exec_starts_with("argv", b"[")).tolist():
            first = frame.exec_text("argv", row).partition("\0")[0]
            out[row] = len(first) > 2 and first.endswith("]")
        return out & (frame.exec_rows["exe_len"] > 0)

    # ── what is said about one row ──────────────────────────────────────────────────────────────────────────────────

    def _tell_memfd(self, frame: Frame, row: _Row) -> _Hit:
        ancestors = evidence.ancestry(frame, row["image"])
        explanation = [
            f"{row['exe']} was executed from memory (memfd): its code lies in no file that could be inspected."
        ]
        severity, confidence = "high", 0.9
        if _RUNC_COPY.match(row["exe"]):
            if not ancestors or any(self._is_runtime(p.exe) for p in ancestors[-3:]):
                severity = "informational"
                explanation.append(
                    "runc executes itself from such a copy when it starts a container (CVE-2019-5736), so this is most likely harmless."
                )
            else:
                explanation.append(
                    f"It bears the name of runc's own copy, but {evidence.shown(ancestors[-1])} above it is no container runtime."
                )
        elif ancestors:
            explanation.append(f"{evidence.shown(ancestors[-1])} started it.")
        return _Hit(
            "memfd",
            severity,
            f"Program executed from memory: {row['exe']}",
            (_FILELESS,),
            tuple(explanation),
            confidence,
        )

    def _tell_deleted(self, _frame: Frame, row: _Row) -> _Hit:
        dropped = self._is_writable(row["exe"])
        explanation = [f"{row['exe']} had been deleted when it was executed: nobody can look at the file any more."]
        if dropped:
            explanation.append("It lay in a directory that everybody can write to.")
        return _Hit(
            "deleted-executable", "high" if dropped else "medium", f"Deleted program executed: {row['exe']}",
            (_DELETION, _MASQUERADING), tuple(explanation), 0.85,
        )  # fmt: skip

    def _tell_drift(self, _frame: Frame, row: _Row) -> _Hit:
        return _Hit(
            "writable-layer", "medium", f"Program that is not part of the container's image: {row['exe']}", (_TRANSFER,),
            (f"{row['exe']} lies in the writable layer of container {row['container_id'][:12]}: it came or was changed after the start.",),
            0.85,
        )  # fmt: skip

    def _tell_shell(self, frame: Frame, row: _Row) -> _Hit:
        ancestors = evidence.ancestry(frame, row["image"])
        names = self._services_of(frame)
        levels = [i for i in frame.ancestors[row["image"], : self._depth].tolist() if i >= 0]
        level = next(at for at, image in enumerate(levels) if names[image])
        service = ancestors[len(ancestors) - 1 - level]
        explanation = [
            f"{row['exe']} is a shell, and {evidence.shown(service)} is "
            + ("its parent." if level == 0 else f"among its ancestors, {level + 1} levels up."),
            "A service seldom needs a shell; code that was injected into it does.",
        ]
        if row["tty"]:
            explanation.append("The shell has a terminal: somebody works in it interactively.")
        database = self._is_database(service.exe)
        return _Hit(
            "shell-below-service", "high", f"Shell below {service.exe}: {row['exe']}",
            (_SHELL, _EXPLOIT) if database else (_SHELL, _EXPLOIT, _WEB_SHELL), tuple(explanation), 0.9 if level == 0 else 0.8,
        )  # fmt: skip

    def _tell_gain(self, _frame: Frame, row: _Row) -> _Hit:
        explanation = []
        if row["flags"] & Flag.SETUID:
            explanation.append(
                f"The set-user-id bit of {row['exe']} made user {row['uid']} effective user {row['euid']}."
            )
        if row["flags"] & Flag.SETGID:
            explanation.append(
                f"The set-group-id bit of {row['exe']} made group {row['gid']} effective group {row['egid']}."
            )
        if row["flags"] & Flag.CAPS_GAINED:
            explanation.append(
                f"{row['exe']} gave its process capabilities that the parent does not have (permitted: {row['cap_permitted']:#x})."
            )
        explanation.append(
            "It is none of the programs known to do so, or it does not belong to root in a system directory."
        )
        return _Hit(
            "privilege-gain",
            "medium",
            f"Privileges gained by executing {row['exe']}",
            (_SETUID,),
            tuple(explanation),
            0.8,
        )

    def _tell_writable(self, _frame: Frame, row: _Row) -> _Hit:
        path = row["exe"] if self._is_writable(row["exe"]) else row["filename"]
        directory = next(d for d in self._directories if path.startswith(d))
        explanation = [f"{path} was executed from {directory.rstrip('/')}, to which every user can write."]
        if path != row["exe"]:
            explanation.append(f"It is a script, run by {row['exe']}.")
        return _Hit(
            "exec-from-writable-directory", "medium" if directory == _MEMORY else "low",
            f"Program executed from a directory that everybody can write to: {path}", (_INTERPRETER, _LOCATION), tuple(explanation), 0.8,
        )  # fmt: skip

    def _tell_kernel_name(self, _frame: Frame, row: _Row) -> _Hit:
        return _Hit(
            "kernel-name", "high", f"Program that calls itself a kernel thread: {row['exe']}", (_TASK_NAME,),
            (f"{row['exe']} calls itself {row['argv'][0]!r}, as kernel threads do; a kernel thread has no executable.",), 0.9,
        )  # fmt: skip

    def _is_writable(self, path: str) -> bool:
        return path.startswith(self._directories)

    # ── helpers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _finding(self, frame: Frame, row: int, tells: list[_Tell], hidden: int) -> Finding:
        event = frame.exec_row(row)
        hits = sorted((tell(frame, event) for tell in tells), key=lambda hit: _ORDER.index(hit.severity))
        verdict = evidence.Verdict(
            key="+".join(sorted(hit.key for hit in hits)) + f":{event['workload']}:{event['exe']}",
            severity=hits[0].severity,
            title=hits[0].title,
            techniques=tuple(dict.fromkeys(t for hit in hits for t in hit.techniques)),
            explanation=(
                *(s for hit in hits for s in hit.explanation),
                f"It ran {evidence.place(frame, event)} as user {event['uid']}.",
                *([f"The same happened {hidden:,} more times since it was last told."] if hidden else []),
            ),
            confidence=max(hit.confidence for hit in hits),
        )
        return evidence.finding(frame, row, self.declaration, verdict)

    def _services_of(self, frame: Frame) -> np.ndarray:
        """Which images are services, by executable or, for scripts such as gunicorn, by the script's name; bool, shape (m,)."""
        out = frame.exe.where(self._is_service)
        section = frame.images.section
        scripts = np.flatnonzero(section.rows["flags"] & np.uint32(Flag.SCRIPT))
        if len(scripts):
            known = [self._is_service(decode(name)) for name in section.take(scripts).values("filename")]
            out[scripts] |= np.array(known)
        return out
