"""The columns of every event about what crossed the network: two endpoints, and how sure the processes beside them are."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from daemoneye.events.base import BASE
from daemoneye.events.schema import Field


class Attribution(IntEnum):
    """How a row of the network found its process; append-only."""

    NONE = 0
    """Not at all: the process columns are 0."""
    NAT = 1
    """By a 5-tuple that was translated on the way."""
    TUPLE = 2
    """By its 5-tuple in the same network namespace."""
    EXACT = 3
    """By the socket itself."""
    DESCRIPTOR = 4
    """By the socket that a system call's descriptor names when the call ends, on kernels whose sockets do not tell who sends and receives."""


ENDPOINTS: Final[tuple[Field, ...]] = (
    *BASE,
    Field(20, "src_ip", "ip", "Address of whoever opened the conversation.", ocsf="src_endpoint.ip"),
    Field(21, "dst_ip", "ip", "Address of the other side.", ocsf="dst_endpoint.ip"),
    Field(22, "src_port", "u16", "Port of whoever opened it; of ICMP the type.", ocsf="src_endpoint.port"),
    Field(23, "dst_port", "u16", "Port of the other side; of ICMP the code.", ocsf="dst_endpoint.port"),
    Field(24, "proto", "u8", "IP protocol (IANA), named in JSON.", ocsf="connection_info.protocol_num"),
    Field(25, "attribution", "u8", "How the process was found: 0 none, 1 nat, 2 tuple, 3 exact, 4 descriptor."),
    Field(26, "vlan", "u16", "VLAN id of the outermost tag, 0 without one.", ocsf="src_endpoint.vlan_uid"),
)
"""The base columns and fields 20–26, 120 bytes. Records that begin with them declare their own fields from id 30 on."""

PACKET: Final[tuple[Field, ...]] = (
    *ENDPOINTS,
    Field(
        90,
        "peer_uid",
        "u64",
        "Key of the other side's process where that is on this node, too, folded like process_uid.",
        key_of=("peer_pid", "peer_start_time"),
    ),
    Field(91, "peer_start_time", "u64", "Start of the other side's process by the boot-time clock.", unit="ns"),
    Field(92, "peer_cgroup_id", "u64", "Id of its cgroup in the v2 hierarchy."),
    Field(93, "peer_cgroup_v1_id", "u64", "Id of its cgroup in the v1 hierarchy of the memory controller, 0 where that is on v2."),
    Field(94, "peer_pid", "u32", "Process id of the other side in the host's namespace; 0 where it is not known."),
    Field(
        95,
        "direction",
        "u16",
        "Which side the process is on: 1 outbound (the source), 2 inbound (the destination, that of the source is not known), 0 without a process.",
        ocsf="connection_info.direction",
    ),
    Field(96, "peer_attribution", "u16", "How the other side's process was found, in the words of attribution."),
    Field(97, "policy_set", "u64", "Which policies it belongs to: number of a row of policy_set, named in JSON (policies); 0 on one machine."),
)  # fmt: skip
"""The columns of ENDPOINTS and fields 90–97, 168 bytes: what events about packets begin with. They declare their own fields from id 30 on."""

OF_PEER: Final = {
    "peer_uid": "process_uid", "peer_start_time": "start_time", "peer_cgroup_id": "cgroup_id", "peer_cgroup_v1_id": "cgroup_v1_id",
    "peer_pid": "pid", "peer_attribution": "attribution",
}  # fmt: skip
"""Columns about the other side's process, and what people read them as in the object `peer`."""
