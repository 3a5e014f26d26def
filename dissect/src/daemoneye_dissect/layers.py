# SPDX-License-Identifier: GPL-2.0-only
"""One frame, dissected by scapy into layers and fields: bounded JSON.

Responsible for which protocols are known and for how much is said of a frame; the time that it may take is `daemoneye_dissect.limits`' affair.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass, field
from typing import Any, Final

from scapy.config import conf
from scapy.packet import NoPayload, Packet, Padding, Raw

MAX_FRAME: Final = 1 << 16
"""Bytes of a frame that are looked at."""
MAX_LAYERS: Final = 32
MAX_FIELDS: Final = 64
MAX_TEXT: Final = 256
MAX_DEPTH: Final = 4
MAX_TOTAL: Final = 32 << 10
"""Characters of one answer's names and values, of which each costs _EACH at least."""
_EACH: Final = 8
_SHOWN: Final = 64
# What a cluster's wire may carry and whatever binds to it. Radio, buses and clients that open sockets stay out: they cost memory.
_PROTOCOLS: Final = (
    "l2", "inet", "inet6", "dhcp", "dhcp6", "dns", "http", "igmp", "ipsec", "isakmp", "kerberos", "l2tp", "ldap", "llmnr", "mgcp", "netbios", "netflow",
    "ntp", "ppp", "pptp", "quic", "radius", "rip", "rtp", "sctp", "smb", "smb2", "snmp", "ssh", "tftp", "tls.all", "vrrp", "vxlan",
)  # fmt: skip
# What they import when a frame has it: no file can be opened then.
_LATER: Final = (
    "encodings.ascii", "encodings.idna", "encodings.latin_1", "encodings.utf_16", "encodings.utf_16_be", "encodings.utf_16_le", "hashlib", "math",
    "scapy.contrib.http2", "scapy.layers.ntlm", "scapy.layers.spnego", "scapy.layers.tls.keyexchange_tls13",
    "scapy.layers.tls.record_sslv2", "scapy.layers.tls.record_tls13", "scapy.route", "scapy.route6", "zlib",
)  # fmt: skip


def load() -> None:
    """Import the protocols and all that they ever import; takes a second, and is to be done before privileges go."""
    logging.getLogger("scapy").setLevel(logging.CRITICAL)  # neither it nor a frame writes lines into anybody's log
    for name in _PROTOCOLS:
        importlib.import_module(f"scapy.layers.{name}")
    for name in _LATER:
        importlib.import_module(name)
    conf.debug_dissector = False  # what a protocol cannot read stays Raw
    conf.verb = 0


@dataclass(slots=True)
class _Teller:
    left: int = MAX_TOTAL
    cut: bool = False
    layers: list[dict[str, Any]] = field(default_factory=list)

    def text(self, value: str, most: int = MAX_TEXT) -> str:
        """So much of a text as there is room for."""
        most = max(min(most, self.left), 0)
        if len(value) > most:
            self.cut = True
            value = value[:most]
        self.left -= max(len(value), _EACH)
        # A lone surrogate is no JSON that everybody reads.
        return value.encode("utf-8", "backslashreplace").decode()


def dissect(frame: bytes, link: int) -> dict[str, Any]:
    """Layers with their fields, outermost first, and whether something was left out.

    Raises:
        ValueError: scapy does not know the link type.
    """
    first = conf.l2types.num2layer.get(link) or conf.l3types.num2layer.get(link)
    if first is None:
        raise ValueError(f"link type {link} is not known")
    told = _Teller(cut=len(frame) > MAX_FRAME)
    layer: Packet = first(frame[:MAX_FRAME])
    while not isinstance(layer, NoPayload):
        if len(told.layers) == MAX_LAYERS or told.left <= 0:
            told.cut = True
            break
        told.layers.append({"name": told.text(str(layer.name)), "fields": _fields(told, layer, 0)})
        layer = layer.payload
    return {"layers": told.layers, "cut": told.cut}


def _fields(told: _Teller, layer: Packet, depth: int) -> dict[str, Any]:
    if isinstance(layer, (Raw, Padding)):
        return {"load": _value(told, bytes(layer.load), depth)}
    fields: dict[str, Any] = {}
    for description in layer.fields_desc:
        if len(fields) == MAX_FIELDS or told.left <= 0:
            told.cut = True
            break
        try:
            value = layer.getfieldval(description.name)
            if value is None:
                continue
            nested = isinstance(value, (Packet, list, bytes))
            shown = value if nested else description.i2repr(layer, value)
        except Exception as error:  # noqa: BLE001 - a protocol's own code, on bytes of an attacker's choice
            shown = f"unreadable: {type(error).__name__}"
        fields[told.text(description.name)] = _value(told, shown, depth)
    return fields


def _value(told: _Teller, value: Any, depth: int) -> Any:
    if isinstance(value, bytes):
        told.cut |= len(value) > _SHOWN
        return told.text(value[:_SHOWN].decode("utf-8", "backslashreplace"))
    if depth >= MAX_DEPTH and isinstance(value, (Packet, list)):
        told.cut = True
        return ""
    if isinstance(value, Packet):
        return {"name": told.text(str(value.name)), "fields": _fields(told, value, depth + 1)}
    if isinstance(value, list):
        told.left -= _EACH
        told.cut |= len(value) > MAX_FIELDS
        return [_value(told, entry, depth + 1) for entry in value[:MAX_FIELDS] if told.left > 0]
    return told.text(str(value))
