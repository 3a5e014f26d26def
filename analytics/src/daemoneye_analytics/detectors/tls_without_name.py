"""tls_without_name: a program that a shell started speaks TLS with a bare address outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from daemoneye.events.ancestry import cgroup_pairs
from daemoneye.events.flags import Flag
from daemoneye.events.sockets import Direction
from daemoneye.findings import Finding, Process, Technique
from daemoneye_analytics.conversations import Networks, endpoint, is_inside, who
from daemoneye_analytics.detectors.base import Parameter, detector
from daemoneye_analytics.detectors.habits import Habits
from daemoneye_analytics.detectors.parts import Part
from daemoneye_analytics.detectors.programs import SHELLS, named
from daemoneye_analytics.detectors.teller import Teller, hourly
from daemoneye_analytics.evidence import Verdict, shown
from daemoneye_analytics.frame import Frame

_WEB: Final = Technique("T1071.001", "Web Protocols")
_ENCRYPTED: Final = Technique("T1573", "Encrypted Channel")
# What an intruder's shell has at hand to speak TLS: looked for below other programs, too (sudo, timeout, xargs).
_TOOLS: Final = (
    "curl", "wget", "aria2c", "openssl", "socat", "ncat", "nc", "gnutls-cli", "python*", "perl*", "ruby*", "php*", "node", "nodejs", "lua*", "tclsh*",
    "pwsh", "busybox", "toybox",
)  # fmt: skip
# First processes of containers that only start and reap others.
_INITS: Final = ("tini*", "dumb-init", "catatonit", "docker-init", "s6-*", "runsv*", "supervisord", "pause")
_DEPTH: Final = 3
"""Ancestors among which a tool's shell is looked for."""
_STARTING_NS: Final = 60_000_000_000
"""Time from a workload's first process on within which shells belong to its start (`npm start` runs its program by one)."""


@detector(
    name="tls_without_name",
    version=1,
    title="A shell's program speaks TLS with a bare address",
    severity="medium",
    techniques=(_WEB, _ENCRYPTED),
    parameters=(
        Parameter("shells", (), "names of more shells; * stands for any characters"),
        Parameter("tools", (), "names of more programs with which a shell speaks TLS by way of others"),
        Parameter("exclude_destinations", (), "addresses or networks (CIDR) that may be spoken to by address"),
        Parameter(
            "max_shells",
            65_536,
            "processes remembered that were shells, 40 bytes each; the oldest go first",
            minimum=1_000,
        ),
        hourly("source, program and address"),
    ),
)
class TlsWithoutName(Teller):
    """Tells hellos of TLS and QUIC that name no server, to an address outside, by a shell, its child, or a downloader or interpreter that it started.

    Who has a server with a name asks for it by name, for its certificate says it; malware's servers are often bare addresses. What services do
    by address is left out, for it is common: only a process counts that a shell started in the middle of a workload. A shell is not in the middle if only
    shells and inits (tini, dumb-init …) stand between it and the workload's border, or if it began within a minute of the workload's first process, and
    none has a terminal: that is how images start their main program, systemd its units and the kubelet its probes. Addresses inside are left out, too:
    clients in a cluster dial the API server (KUBERNETES_SERVICE_HOST is an address), kubelets, webhooks and each other without a name. So are hellos
    with an encrypted name (ECH), and rows without a process (capture files). A command by `kubectl exec` without a terminal looks like a probe and is
    not seen, nor is a program that names some server. Costs a look at the hellos' flags and at the
    names of what is executed.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__(parameters)
        self._is_shell = named((*SHELLS, *parameters["shells"]))
        self._is_tool = named((*_TOOLS, *parameters["tools"]))
        self._is_init = named(_INITS)
        self._shells = Habits(parameters["max_shells"])
        self._excluded = Networks(parameters["exclude_destinations"], "detector tls_without_name.exclude_destinations")

    def process(self, frame: Frame) -> list[Finding]:
        """See `Detector`."""
        if len(frame.exec_image):
            shell = frame.exe.where(self._is_shell)[frame.exec_image]
            self._shells.add(frame.exec_rows["process_uid"][shell], frame.exec_time[shell])
        found = []
        for record in ("tls_client_hello", "quic_initial"):
            rows = frame.rows(record)
            nameless = rows["flags"] & np.uint32(Flag.SNI_ABSENT | Flag.ECH) == Flag.SNI_ABSENT
            own = (rows["pid"] > 0) & (rows["direction"] != Direction.INBOUND)
            found += [self._judge(frame, record, index) for index in np.flatnonzero(nameless & own).tolist()]
        return [one for one in found if one is not None]

    @property
    def _parts(self) -> dict[str, Part]:
        return {**super()._parts, "shells": self._shells}

    def _judge(self, frame: Frame, record: str, index: int) -> Finding | None:
        row = frame.row(record, index)
        address, image = bytes(row["dst_ip"]), int(row["image"])
        if image < 0 or is_inside(address) or address in self._excluded:
            return None
        chain = [image, *(i for i in frame.ancestors[image].tolist() if i >= 0)]
        shell = 0 if self._was_shell(frame, record, index) else self._shell_of(frame, chain)
        if shell < 0 or not self._is_in_the_middle(frame, chain[shell:]):
            return None
        process, started_by = (_process(frame, chain[at]) for at in (0, shell))
        source, target = who(row), endpoint(address, row["dst_port"])
        what = "QUIC" if record == "quic_initial" else "TLS"
        return self._tell(frame, record, index, Verdict(
            key=f"nameless:{source} {process.exe} {endpoint(address)}", severity="medium",
            title=f"{process.exe} speaks {what} with a bare address: {target}", techniques=(_WEB, _ENCRYPTED), confidence=0.6, explanation=(
                f"{shown(process)} began {what} with {target} and named no server (no SNI).",
                f"The shell {shown(started_by)} started it, by way of others perhaps." if shell else "It is a shell, or what a shell made of itself.",
                f"It ran in {row['workload'] or 'an unknown workload'} at {endpoint(bytes(row['src_ip']))}; its JA4 is {row['ja4'] or 'not known'}.",
                "Servers that people run have names, which their certificates say; servers of malware are often bare addresses.",
            ),
        ))  # fmt: skip

    def _was_shell(self, frame: Frame, record: str, index: int) -> bool:
        """Whether the row's process executed a shell before: `sh -c` becomes its last command rather than start it."""
        uid = frame.rows(record)["process_uid"][index : index + 1]
        return bool(self._shells.before(uid, np.array([frame.wall(record, index)]))[0])

    def _shell_of(self, frame: Frame, chain: list[int]) -> int:
        """Position in the chain of processes (the row's own first) of the shell that it belongs to; -1 if there is none."""
        if self._is(frame, self._is_shell, chain[0]):
            return 0
        depth = _DEPTH if self._is(frame, self._is_tool, chain[0]) else 1
        return next(
            (at for at in range(1, min(depth + 1, len(chain))) if self._is(frame, self._is_shell, chain[at])), -1
        )

    def _is_in_the_middle(self, frame: Frame, chain: list[int]) -> bool:
        """Whether a shell, the first of the chain, was started by a program that was at work, or by somebody at a terminal."""
        rows = frame.images.section.rows[chain]
        outside = np.flatnonzero(cgroup_pairs(rows) != cgroup_pairs(rows[:1]))
        own = int(outside[0]) if len(outside) else len(chain)
        starters = [
            True,
            *(self._is(frame, self._is_shell, i) or self._is(frame, self._is_init, i) for i in chain[1:own]),
        ]
        before = own if all(starters) else starters.index(False)
        if rows["tty"][:before].any():
            return True
        # Where the border is not known, nor is what the workload began with: rather silence.
        late = int(rows["start_time"][0]) - int(rows["start_time"][own - 1]) > _STARTING_NS
        return bool(len(outside)) and before < own and late

    @staticmethod
    def _is(frame: Frame, of: Any, image: int) -> bool:
        return bool(of(frame.exe.values[frame.exe.codes[image]]))


def _process(frame: Frame, image: int) -> Process:
    return Process(int(frame.images.section.rows["pid"][image]), frame.exe.values[frame.exe.codes[image]], ())
