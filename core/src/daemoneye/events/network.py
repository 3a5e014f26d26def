"""The columns of every event about what crossed the network: two endpoints, and how sure the process beside them is."""

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


ENDPOINTS: Final[tuple[Field, ...]] = (
    *BASE,
    Field(20, "src_ip", "ip", "Address of whoever opened the conversation.", ocsf="src_endpoint.ip"),
    Field(21, "dst_ip", "ip", "Address of the other side.", ocsf="dst_endpoint.ip"),
    Field(22, "src_port", "u16", "Port of whoever opened it; of ICMP the type.", ocsf="src_endpoint.port"),
    Field(23, "dst_port", "u16", "Port of the other side; of ICMP the code.", ocsf="dst_endpoint.port"),
    Field(24, "proto", "u8", "IP protocol (IANA), named in JSON.", ocsf="connection_info.protocol_num"),
    Field(25, "attribution", "u8", "How the process was found: 0 none, 1 nat, 2 tuple, 3 exact."),
    Field(26, "vlan", "u16", "VLAN id of the outermost tag, 0 without one.", ocsf="src_endpoint.vlan_uid"),
)
"""The base columns and fields 20–26, 120 bytes. Records that begin with them declare their own fields from id 30 on."""
