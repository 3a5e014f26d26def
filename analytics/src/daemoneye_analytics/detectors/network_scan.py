"""network_scan: one source knocks at many doors of which none opens, or opens many that are for administrators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np

from daemoneye.events.base import splitmix64
from daemoneye.events.flags import Flag
from daemoneye.events.sockets import Direction, Ending
from daemoneye.findings import Finding, Technique
from daemoneye_analytics.conversations import Networks, endpoint, halves, is_group, who
from daemoneye_analytics.detectors.base import Parameter, detector
from daemoneye_analytics.detectors.distinct import Added, Distinct
from daemoneye_analytics.detectors.habits import Habits
from daemoneye_analytics.detectors.parts import Part
from daemoneye_analytics.detectors.teller import SECOND, Teller, hourly
from daemoneye_analytics.evidence import Verdict
from daemoneye_analytics.frame import Frame, combine

_DISCOVERY: Final = Technique("T1046", "Network Service Discovery")
_REMOTE: Final = Technique("T1018", "Remote System Discovery")
_SERVICES: Final = Technique("T1021", "Remote Services")
_RDP: Final = Technique("T1021.001", "Remote Desktop Protocol")
_SMB: Final = Technique("T1021.002", "SMB/Windows Admin Shares")
_DCOM: Final = Technique("T1021.003", "Distributed Component Object Model")
_SSH: Final = Technique("T1021.004", "SSH")
_VNC: Final = Technique("T1021.005", "VNC")
_WINRM: Final = Technique("T1021.006", "Windows Remote Management")
_KUBELET: Final = 10_250
# Ports behind which somebody rules a machine or a cluster.
_ADMINISTRATIVE: Final = {
    22: ("SSH", _SSH), 23: ("Telnet", _SERVICES), 135: ("RPC", _DCOM), 139: ("NetBIOS", _SMB), 445: ("SMB", _SMB), 2375: ("the Docker API", _SERVICES),
    2376: ("the Docker API", _SERVICES), 2379: ("etcd", _SERVICES), 3389: ("RDP", _RDP), 5900: ("VNC", _VNC), 5985: ("WinRM", _WINRM),
    5986: ("WinRM", _WINRM), 6443: ("the Kubernetes API", _SERVICES), _KUBELET: ("the kubelet", _SERVICES),
}  # fmt: skip
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_TCP, _UDP = 6, 17
_DYNAMIC: Final = 32_768
"""Ports of UDP from which on nobody listens: clients get theirs there, and traceroute, tracepath and mtr send theirs there."""
_TRIES: Final = 3
"""Packets of UDP after which whoever is not answered gives up; who goes on is answered where nobody looks, or speaks to somebody who only listens."""
_ONE_SIDED: Final = 1
"""In place of a door: that a source's conversations are captured in one direction only."""
_SHOWN: Final = 12


class _Doors(NamedTuple):
    """n conversations by the doors that they tried; arrays of shape (n,).

    Attributes:
        row: Their rows in the frame.
        window: Number of the window of time.
        time: Wall time in ns.
        source: The source's address, as a number.
        habit: The workload, or the address where that is unknown: whose habits it is.
        host: The other side's address, as a number.
        port, proto: Of the other side.
    """

    row: np.ndarray
    window: np.ndarray
    time: np.ndarray
    source: np.ndarray
    habit: np.ndarray
    host: np.ndarray
    port: np.ndarray
    proto: np.ndarray

    def of(self, mask: np.ndarray) -> _Doors:
        """Some of them."""
        return _Doors(*(column[mask] for column in self))

    def keys(self) -> np.ndarray:
        """A number for each door and whose habit it is, u64."""
        return combine(self.habit, self.host, self.port, self.proto)


@detector(
    name="network_scan",
    version=2,
    title="A source tries many ports or hosts",
    severity="medium",
    techniques=(_DISCOVERY, _REMOTE, _SERVICES, _RDP, _SMB, _DCOM, _SSH, _VNC, _WINRM),
    parameters=(
        Parameter("ports", 20, "ports of one host that stay shut to one source within a window", minimum=3),
        Parameter("hosts", 60, "hosts on which one port stays shut to one source within a window", minimum=3),
        Parameter(
            "administrative_hosts",
            20,
            "the same of a port of administrators, and hosts of which one source opens such a port for the first time",
            minimum=3,
        ),
        Parameter("window_seconds", 60, "length of a window, by the events' own time", minimum=1),
        Parameter(
            "learning_seconds",
            3600,
            "for how long it is learned whose habit it is to open the kubelets of many hosts",
            minimum=0,
        ),
        Parameter("exclude_sources", (), "addresses or networks (CIDR) that may try what they like"),
        Parameter(
            "max_doors",
            65_536,
            "shut doors remembered of each kind, 40 bytes each; those of the oldest windows go first",
            minimum=1_000,
        ),
        Parameter(
            "max_opened",
            131_072,
            "doors remembered that opened, 40 bytes each; those that were not opened for longest go first",
            minimum=1_000,
        ),
        hourly("source and target"),
    ),
)
class NetworkScan(Teller):
    """Counts, for each source, the doors (host and port) that stay shut, and the administrators' doors that it opens for the first time.

    Packets and sockets are read alike. Shut is what refuses (RST) or does not answer. Many ports of one host are a port scan: no client of one host has
    services on twenty ports of it that are all gone. Many hosts on one port are a sweep: twenty of a port of administrators (SSH, SMB, RDP, WinRM, Docker,
    kubelet …), at which nobody knocks by mistake; sixty of another, twice as many as there are targets of a scraper that are down at once, and a quarter
    of what a network of 254 addresses has.
    A door that opened to the same workload before counts for nothing: whoever loses its network, or its targets, does not look for them.

    Twenty hosts whose port of administrators opened to a workload for the first time within a minute are lateral movement, or a tool of administrators
    that runs for the first time: afterwards its doors are known, wherever its pods run. A person opens a handful in a minute. The kubelets have clients
    that speak to all of them (API server, metrics-server, Prometheus): of their port nothing is told before `learning_seconds` have passed.

    Nobody's door is shut because the capture lacks one direction (the source's own acknowledgements say that it was answered, and its UDP is not judged
    either), because UDP goes to a port from 32,768 on (traceroute) or in more than three packets (a stream), to a group (multicast), or because a
    connection that was there before the capture is reset. A scan slower than a window, and one of other ports that finds every door open, are not seen.
    Costs a sort of the doors that count and a look-up of every conversation.
    """

    _format: ClassVar[int] = 2

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__(parameters)
        self._excluded = Networks(parameters["exclude_sources"], "detector network_scan.exclude_sources")
        # By kind of what is found: what is counted, and of whom.
        self._counted = {kind: Distinct(parameters["max_doors"]) for kind in ("ports", "hosts", "opened")}
        self._opened = Habits(parameters["max_opened"])

    def process(self, frame: Frame) -> list[Finding]:
        """See `Detector`."""
        return [one for record in _READ for one in self._look(frame, record) if one is not None]

    def status(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            **super().status(),
            "doors": sum(map(len, self._counted.values())),
            "opened": len(self._opened),
            "dropped": sum(doors.dropped for doors in self._counted.values()),
        }

    @property
    def _parts(self) -> dict[str, Part]:
        return {**super()._parts, **self._counted, "known": self._opened}

    def _has_learned(self, begin: np.ndarray) -> np.ndarray:
        """Whether it was long enough known, when windows began, what opens; bool of the shape of `begin` (wall time in ns)."""
        return begin - self._opened.since >= self._p["learning_seconds"] * SECOND

    def _look(self, frame: Frame, record: str) -> list[Finding | None]:
        rows = frame.rows(record)
        if not len(rows):
            return []
        wall = frame.batch.wall_ns(rows["time"])
        source, workload = _named(rows["src_ip"]), frame.openers(record)
        every = _Doors(
            np.arange(len(rows)), wall // (self._p["window_seconds"] * SECOND), wall, source, np.where(workload > 0, workload, source),
            _named(rows["dst_ip"]), rows["dst_port"].astype(np.uint64), rows["proto"].astype(np.uint64),
        )  # fmt: skip
        shut, opened, one_sided = (every.of(mask) for mask in _READ[record](rows))
        self._opened.since = min(self._opened.since, int(wall[0]))
        self._opened.add(
            np.append(opened.keys(), combine(one_sided.source, _ONE_SIDED)), np.append(opened.time, one_sided.time)
        )
        unsure = (shut.proto == _UDP) & self._opened.before(combine(shut.source, _ONE_SIDED), shut.time)
        shut = shut.of(~unsure & ~self._opened.before(shut.keys(), shut.time))
        # What was there before anybody looked is known, and no news.
        fresh = rows["flags"][opened.row] & np.uint32(Flag.MID_STREAM) == 0
        new = opened.of(fresh & _is_administrative(opened))
        begin = new.window * self._p["window_seconds"] * SECOND
        new = new.of(~self._opened.before(new.keys(), begin) & ((new.port != _KUBELET) | self._has_learned(begin)))
        return [
            *self._find(frame, record, "ports", shut, shut.host, shut.port),
            *self._find(frame, record, "hosts", shut, shut.port, shut.host),
            *self._find(frame, record, "opened", new, new.port, new.host),
        ]

    def _find(
        self, frame: Frame, record: str, kind: str, doors: _Doors, target: np.ndarray, item: np.ndarray
    ) -> list[Finding | None]:
        if not len(doors.row):
            return []
        added = self._counted[kind].add(doors.window, splitmix64(splitmix64(doors.source ^ doors.proto) ^ target), item)
        few = self._reached(added, self._p[{"opened": "administrative_hosts"}.get(kind, kind)])
        if kind == "hosts":
            few = np.where(_is_administrative(doors), self._reached(added, self._p["administrative_hosts"]), few)
        return [
            self._judge(frame, record, int(doors.row[i]), kind, added.members(i)) for i in np.flatnonzero(few).tolist()
        ]

    @staticmethod
    def _reached(added: Added, count: int) -> np.ndarray:
        out = np.zeros(len(added.first), bool)
        out[added.reached(count)] = True
        return out

    def _judge(self, frame: Frame, record: str, index: int, kind: str, members: np.ndarray) -> Finding | None:
        row = frame.row(record, index)
        if bytes(row["src_ip"]) in self._excluded:
            return None
        source, target, port = who(row), endpoint(bytes(row["dst_ip"])), row["dst_port"]
        proto = "tcp" if row["proto"] == _TCP else "udp"
        seconds = self._p["window_seconds"]
        techniques: tuple[Technique, ...] = (_REMOTE, _DISCOVERY)
        about = f"{source} {target}" if kind == "ports" else f"{source} port {port}"
        sentences = (
            "They refused (RST) or did not answer; doors that opened are not counted.",
            "Whoever knows where he wants to go does not try so many.",
        )
        if kind == "ports":
            techniques = (_DISCOVERY,)
            ports = ", ".join(map(str, members[:_SHOWN].tolist()))
            title = f"{source} tries the ports of {target}"
            first = f"{source} tried {len(members)} {proto} ports of {target} within {seconds} s that stayed shut: {ports} and others."
        elif kind == "hosts":
            title = f"{source} tries port {port} of many hosts"
            first = f"{source} tried {proto} port {port} of {len(members)} hosts within {seconds} s on which it stayed shut; {target} was the last."
        else:
            name, technique = _ADMINISTRATIVE[port]
            techniques = (technique,)
            title = f"{source} opens {name} (port {port}) of many hosts"
            first = f"{source} opened tcp port {port} ({name}) of {len(members)} hosts within {seconds} s that it had not opened before; {target} was the last."
            sentences = (
                "All of them answered: behind this port somebody rules the machine, whoever has its credentials.",
                "Tools of administrators do so, too, when they run for the first time; later their hosts are known.",
            )
        return self._tell(frame, record, index, Verdict(
            key=f"{kind}:{about}:{proto}", severity="medium", title=title, techniques=techniques, explanation=(first, *sentences),
            confidence=0.8 if kind != "opened" else 0.6,
        ))  # fmt: skip


def _shut(rows: np.ndarray) -> np.ndarray:
    """Conversations of TCP and UDP whose opener was not let in, bool, shape (n,)."""
    src, dst = rows["src_tcp_flags"], rows["dst_tcp_flags"]
    nothing = rows["dst_packets"] == 0
    refused = (dst & _RST != 0) & (dst & _SYN == 0)
    # Whoever is let in acknowledges. A scan by ACK alone is answered by RST alone, other than a connection that ends.
    knocks = (src & _ACK == 0) & (nothing | refused)
    probes = (src == _ACK) & (dst == _RST) & (rows["src_packets"] == 1)
    gives_up = nothing & (rows["src_packets"] <= _TRIES) & (rows["dst_port"] < _DYNAMIC)
    tcp, udp = rows["proto"] == _TCP, rows["proto"] == _UDP
    return (rows["src_packets"] > 0) & ~is_group(rows["dst_ip"]) & ((tcp & (knocks | probes)) | (udp & gives_up))


def _opened(rows: np.ndarray) -> np.ndarray:
    """Conversations whose opener was let in, bool, shape (n,)."""
    tcp, udp = rows["proto"] == _TCP, rows["proto"] == _UDP
    accepted = rows["dst_tcp_flags"] & (_SYN | _ACK) == _SYN | _ACK
    goes_on = (rows["src_tcp_flags"] & _ACK != 0) & (rows["dst_tcp_flags"] & _RST == 0)
    return (rows["src_packets"] > 0) & ((tcp & (accepted | goes_on)) | (udp & (rows["dst_packets"] > 0)))


def _one_sided(rows: np.ndarray) -> np.ndarray:
    """Conversations of TCP that went on although nothing came back: what did was not captured; bool, shape (n,)."""
    unseen = (rows["dst_packets"] == 0) & (rows["dst_tcp_flags"] == 0)
    return (rows["proto"] == _TCP) & (rows["src_tcp_flags"] & (_SYN | _ACK) == _SYN | _ACK) & unseen


def _of_packets(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _shut(rows), _opened(rows), _one_sided(rows)


def _of_begins(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sockets of TCP that a process connected."""
    nothing = np.zeros(len(rows), bool)
    return nothing, (rows["proto"] == _TCP) & (rows["direction"] == Direction.OUTBOUND), nothing


def _of_ends(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sockets of TCP that a process could not connect; what it gave up itself may be the slower of two addresses that it tried."""
    nothing = np.zeros(len(rows), bool)
    tried = (rows["proto"] == _TCP) & (rows["direction"] == Direction.OUTBOUND) & (rows["established"] == 0)
    return tried & np.isin(rows["ending"], (Ending.REFUSED, Ending.TIMEOUT, Ending.UNREACHABLE)), nothing, nothing


_READ: Final = {"packet_flow": _of_packets, "socket_open": _of_begins, "socket_close": _of_ends}
"""Which rows are read, and which of them stayed shut, opened, or are captured in one direction only (bool, shape (n,))."""


def _is_administrative(doors: _Doors) -> np.ndarray:
    return (doors.proto == _TCP) & np.isin(doors.port, list(_ADMINISTRATIVE))


def _named(addresses: np.ndarray) -> np.ndarray:
    """A number for each address, u64; the same one everywhere and always, for it is stored."""
    hi, lo = halves(addresses)
    return splitmix64(splitmix64(hi) ^ lo)
