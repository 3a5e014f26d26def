"""network_scan: one source knocks at many doors of which none opens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np

from daemoneye.events.base import splitmix64
from daemoneye.findings import Finding, Technique
from daemoneye_analytics import conversations
from daemoneye_analytics.conversations import endpoint, halves, who
from daemoneye_analytics.detectors.base import Declaration, Parameter, State, detector
from daemoneye_analytics.detectors.distinct import Distinct
from daemoneye_analytics.detectors.parts import Part, gathered, restored
from daemoneye_analytics.detectors.repeats import Repeats
from daemoneye_analytics.evidence import Verdict
from daemoneye_analytics.frame import Frame, text_hash

_DISCOVERY: Final = Technique("T1046", "Network Service Discovery")
_REMOTE: Final = Technique("T1018", "Remote System Discovery")
_SECOND: Final = 1_000_000_000
_FORMAT: Final = 1
_RST, _SYN_ACK = 0x04, 0x12
_TCP, _UDP = 6, 17
_SHOWN: Final = 12


@detector(
    name="network_scan",
    version=1,
    title="A source tries many ports or hosts",
    severity="medium",
    techniques=(_DISCOVERY, _REMOTE),
    parameters=(
        Parameter("ports", 20, "ports of one host that stay shut to one source within a window", minimum=3),
        Parameter("hosts", 20, "hosts on which one port stays shut to one source within a window", minimum=3),
        Parameter("window_seconds", 60, "length of a window, by the events' own time", minimum=1),
        Parameter(
            "max_doors",
            65_536,
            "shut doors remembered of each kind, 40 bytes each; those of the oldest windows go first",
            minimum=1_000,
        ),
        Parameter(
            "findings_per_hour", 1, "findings of one source and target within an hour; more are counted", minimum=1
        ),
    ),
)
class NetworkScan:
    """Counts, for each source, the doors (host and port) that stay shut: refused by RST, or without any answer.

    Many ports of one host are a port scan, many hosts on one port a sweep. Doors that open count for nothing, so that a client of many servers, a
    load balancer or a scraper of metrics is none, however many it speaks to; a scraper whose targets are all gone looks like a sweep. A scan slower than
    a window, or one that finds every door open, is not seen. Costs a sort of the flows that were not answered.
    """

    declaration: ClassVar[Declaration]

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._p = parameters
        # By kind of scan: what is counted, and of whom.
        self._shut = {kind: Distinct(parameters["max_doors"]) for kind in ("ports", "hosts")}
        self._repeats = Repeats(parameters["findings_per_hour"], 3600 * _SECOND)

    def process(self, frame: Frame) -> list[Finding]:
        """See `Detector`."""
        rows = frame.rows("packet_flow")
        at = np.flatnonzero(_shut(rows)) if len(rows) else np.zeros(0, np.int64)
        if not len(at):
            return []
        mine = rows[at]
        window = frame.batch.wall_ns(mine["time"]) // (self._p["window_seconds"] * _SECOND)
        source, host = _named(mine["src_ip"]), _named(mine["dst_ip"])
        port, proto = mine["dst_port"].astype(np.uint64), mine["proto"].astype(np.uint64)
        found = []
        for kind, target, item in (("ports", host, port), ("hosts", port, host)):
            group = splitmix64(splitmix64(source ^ proto) ^ target)
            added = self._shut[kind].add(window, group, item)
            found += [
                self._finding(frame, int(at[i]), kind, added.members(i)) for i in added.reached(self._p[kind]).tolist()
            ]
        return [one for one in found if one is not None]

    def state(self) -> State:
        """See `Detector`."""
        return gathered(_FORMAT, self._parts)

    def restore(self, state: State) -> None:
        """See `Detector`."""
        restored(state, _FORMAT, self._parts, self.declaration.name)

    @property
    def _parts(self) -> dict[str, Part]:
        return {**self._shut, "repeats": self._repeats}

    def status(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            "phase": "active",
            "doors": sum(map(len, self._shut.values())),
            "dropped": sum(doors.dropped for doors in self._shut.values()),
            "suppressed": self._repeats.suppressed,
        }

    def _finding(self, frame: Frame, index: int, kind: str, members: np.ndarray) -> Finding | None:
        row = frame.row("packet_flow", index)
        source, target = who(row), endpoint(bytes(row["dst_ip"]))
        proto = "tcp" if row["proto"] == _TCP else "udp"
        about = f"{source} {target}" if kind == "ports" else f"{source} port {row['dst_port']}"
        key = f"{kind}:{about}:{proto}"
        time = int(frame.batch.wall_ns(np.array([frame.rows("packet_flow")["time"][index]]))[0])
        hidden = self._repeats.admit(text_hash(key), time)
        if hidden is None:
            return None
        seconds = self._p["window_seconds"]
        if kind == "ports":
            ports = ", ".join(map(str, members[:_SHOWN].tolist()))
            title = f"{source} tries the ports of {target}"
            first = f"{source} tried {len(members)} {proto} ports of {target} within {seconds} s that stayed shut: {ports} and others."
        else:
            title = f"{source} tries port {row['dst_port']} of many hosts"
            first = f"{source} tried {proto} port {row['dst_port']} of {len(members)} hosts within {seconds} s on which it stayed shut; {target} was the last."
        sentences = [
            first,
            "They refused (RST) or did not answer; doors that opened are not counted.",
            "Whoever knows where he wants to go does not try so many.",
        ]
        if hidden:
            sentences.append(f"The hour before it was seen {hidden} times more.")
        verdict = Verdict(
            key=key, severity="medium", title=title, techniques=(_DISCOVERY,) if kind == "ports" else (_REMOTE, _DISCOVERY), explanation=sentences,
            confidence=0.8,
        )  # fmt: skip
        return conversations.finding(frame, "packet_flow", index, self.declaration, verdict)


def _shut(rows: np.ndarray) -> np.ndarray:
    """Conversations of TCP and UDP to which nobody answered but by RST, bool, shape (n,)."""
    refused = (rows["dst_tcp_flags"] & _RST != 0) & (rows["dst_tcp_flags"] & _SYN_ACK != _SYN_ACK)
    tcp, udp = rows["proto"] == _TCP, rows["proto"] == _UDP
    return (rows["src_packets"] > 0) & (
        (tcp & (refused | (rows["dst_packets"] == 0))) | (udp & (rows["dst_packets"] == 0))
    )


def _named(addresses: np.ndarray) -> np.ndarray:
    """A number for each address, u64; the same one everywhere and always, for it is stored."""
    hi, lo = halves(addresses)
    return splitmix64(splitmix64(hi) ^ lo)
