"""One row of the network, told to a person: between whom, whose process it was where that is known, and how far it can be trusted.

Responsible for turning such a row into a `Finding`; used for the few rows that a detector chose. What `daemoneye_analytics.evidence` is for
executions. Where an address belongs is told here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, Final

import numpy as np

from daemoneye.errors import ConfigError
from daemoneye.events.addresses import protocol_name, text
from daemoneye.events.flags import Flag
from daemoneye.events.jsonform import rfc3339
from daemoneye.events.sockets import Direction
from daemoneye.findings import EventReference, Finding, Process, finding_id
from daemoneye_analytics.detectors.base import Declaration
from daemoneye_analytics.evidence import SCORES, Verdict, ancestry, place, process, shown, subject
from daemoneye_analytics.frame import Frame
from daemoneye_analytics.pods import Pod


class Networks:
    """A few networks, as people write them."""

    def __init__(self, networks: Sequence[str], where: str = "") -> None:
        """Addresses or networks (CIDR).

        Raises:
            ConfigError: One of them is neither; `where` says which setting it is.
        """
        self._networks = []
        for network in networks:
            try:
                self._networks.append(ip_network(network))
            except ValueError as error:
                raise ConfigError(f"{where}: {error}") from error

    def __contains__(self, address: bytes) -> bool:
        """Whether an address of 16 bytes lies in one of them."""
        return bool(self._networks) and any(ip_address(text(address)) in network for network in self._networks)


# What is routed nowhere but in one's own network. Networks for documentation are not among them: nobody's own machines are there, and whoever meets
# one looks at somebody's example. 34.118.224.0/20 is public, but where GKE puts the Services of its clusters.
_INSIDE: Final = Networks((
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15",
    "224.0.0.0/3", "34.118.224.0/20", "::/127", "fc00::/7", "fe80::/10", "ff00::/8",
))  # fmt: skip


@lru_cache(maxsize=65_536)
def is_inside(address: bytes) -> bool:
    """Whether an address belongs to the own machine or network: private, shared, local, multicast or reserved."""
    return address in _INSIDE


def is_group(addresses: np.ndarray) -> np.ndarray:
    """Which of n addresses of 16 bytes are multicast or the broadcast of IPv4, to whom nobody answers by that address; bool, shape (n,)."""
    hi, lo = halves(addresses)
    four = (hi == 0) & (lo >> np.uint64(32) == 0xFFFF)
    low = lo & np.uint64(0xFFFFFFFF)
    return np.where(four, (low >> np.uint64(28) == 0xE) | (low == 0xFFFFFFFF), hi >> np.uint64(56) == 0xFF)


def halves(addresses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two halves of n addresses of 16 bytes as numbers, u64, shape (n,)."""
    both = np.ascontiguousarray(addresses).view(">u8").reshape(-1, 2).astype(np.uint64)
    return both[:, 0], both[:, 1]


def endpoint(address: bytes, port: int | None = None) -> str:
    """An address, with a port if there is one, in a sentence."""
    shown = text(address)
    if port is None:
        return shown
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"


def finding(frame: Frame, record: str, index: int, declaration: Declaration, verdict: Verdict) -> Finding:
    """The finding about row `index` of `frame.rows(record)`."""
    row = frame.row(record, index)
    wall = frame.wall(record, index)
    start = frame.wall(record, index, "start_time") if row["pid"] else 0
    src, dst = bytes(row["src_ip"]), bytes(row["dst_ip"])
    proto = protocol_name(int(row["proto"]))
    image = int(row["image"])
    mine = process(frame, image) if image >= 0 else Process(row["pid"], "", ())
    pod = frame.pods.of(row["cgroup_id"], row["cgroup_v1_id"])
    ends = f"{endpoint(src, row['src_port'])} {endpoint(dst, row['dst_port'])} {proto}"
    peer = _peer(frame, row)
    reasons = list(verdict.confidence_reasons)
    confidence = verdict.confidence
    if row["flags"] & Flag.MID_STREAM:
        confidence -= 0.1
        reasons.append("The conversation was there before it was watched: who opened it is a guess by the ports.")
    if row["direction"] == Direction.INBOUND:
        reasons.append("The process is the other side's: of who opened the conversation only the address is known.")
    return Finding(
        id=finding_id(
            detector=declaration.name, version=declaration.version, node=frame.envelope.node, pid=row["pid"], start_ns=start, event_ns=wall,
            key=f"{verdict.key} {ends}",
        ),
        time=rfc3339(np.array([wall]))[0],
        severity=verdict.severity,
        score=SCORES[verdict.severity],
        detector=declaration.name,
        title=verdict.title,
        subject=subject(
            frame, row, start, pod, exe=mine.exe, argv=mine.argv,
            src_ip=text(src), src_port=row["src_port"], dst_ip=text(dst), dst_port=row["dst_port"], proto=proto,
        ),
        key=verdict.key,
        techniques=verdict.techniques,
        explanation=(*verdict.explanation, *_sides(frame, row, peer)),
        confidence=round(max(confidence, 0.1), 3),
        confidence_reasons=tuple(reasons),
        events=(EventReference(frame.envelope.node, frame.envelope.epoch, frame.envelope.lane, row["sequence"], record),),
        process_tree=(*ancestry(frame, image), mine) if image >= 0 else (),
        policies=_policies(frame, row, pod, peer),
    )  # fmt: skip


def _policies(frame: Frame, row: dict[str, Any], pod: Pod, peer: dict[str, Any]) -> tuple[str, ...]:
    """Names of the policies that a row belongs to: its own where it has some (packets), else those of its pods; whose other side it is, it concerns, too."""
    own = frame.pods.sets.get(row.get("policy_set", 0))
    if own is not None:
        return own
    others = frame.pods.of(peer["cgroup_id"], peer["cgroup_v1_id"]).policies if peer else ()
    return tuple(dict.fromkeys((*pod.policies, *others)))


def _peer(frame: Frame, row: dict[str, Any]) -> dict[str, Any]:
    """The other side's process in the words of a row's own; empty where it is not known."""
    if not row.get("peer_pid"):
        return {}
    image = int(row["peer_image"])
    return {
        "process": process(frame, image) if image >= 0 else Process(row["peer_pid"], "", ()),
        "workload": row["peer_workload"], "cgroup_id": row["peer_cgroup_id"], "cgroup_v1_id": row["peer_cgroup_v1_id"],
    }  # fmt: skip


def _sides(frame: Frame, row: dict[str, Any], peer: dict[str, Any]) -> list[str]:
    """What is to be said of a row's two sides."""
    if peer:
        return [f"The other side is {shown(peer['process'])} {place(frame, peer)}."]
    if row["direction"] == Direction.INBOUND:
        return ["The process is the one that was spoken to; who opened the conversation is not on this node."]
    return []


def who(row: dict[str, Any]) -> str:
    """Who opened a conversation, in a sentence: the workload where it is known, and the address."""
    address, workload = endpoint(bytes(row["src_ip"])), opener(row)
    return f"{workload} ({address})" if workload else address


def opener(row: dict[str, Any]) -> str:
    """The workload that opened a conversation; empty where it is unknown: the row's process may be the other side's."""
    return "" if row["direction"] == Direction.INBOUND else str(row["workload"])
