"""What is to be captured: the settings of a capture, out of a node's configuration.

Responsible for their meaning and defaults; not for which interfaces of a node they mean (:mod:`daemoneye_sensor.packets.interfaces`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

_MIB: Final = 1 << 20
_SNAPLEN: Final = 1500
_BUFFER_MB: Final = 100
_CPU_PERCENT: Final = 10.0


@dataclass(frozen=True, slots=True)
class Capture:
    """One capture of a node.

    Attributes:
        interfaces: Names, shell patterns, `auto`, or an empty text for the interface of the default route; sorted, never empty.
        filters: Expressions of pcap-filter(7), or-ed: a packet that one of them takes is inspected. An empty text takes everything.
        snaplen: Bytes kept of a packet.
        buffer_bytes: Room for frames that wait to be read, of all interfaces together.
        promiscuous: Whether frames for other machines are taken, too.
        flows: Whether conversations are counted, whatever the filters say.
        dns: Whether DNS is read, whatever the filters say.
        cpu_percent: What it may cost, in percent of one core.
    """

    interfaces: tuple[str, ...] = ("",)
    filters: tuple[str, ...] = ("",)
    snaplen: int = _SNAPLEN
    buffer_bytes: int = _BUFFER_MB * _MIB
    promiscuous: bool = False
    flows: bool = True
    dns: bool = True
    cpu_percent: float = _CPU_PERCENT

    @classmethod
    def from_network(cls, network: Mapping[str, Any]) -> Self | None:
        """The capture that a section `network` asks for, merged or of one policy; None if it asks for none. What is missing has its default.

        Raises:
            ValueError, TypeError: A value is of another kind than this release reads.
        """
        if not network.get("enable_packet_capture"):
            return None
        return cls(
            interfaces=_texts(network, "capture_interface"),
            filters=_texts(network, "capture_filter"),
            snaplen=int(network.get("max_packet_size") or _SNAPLEN),
            buffer_bytes=int(network.get("buffer_size_mb") or _BUFFER_MB) * _MIB,
            promiscuous=bool(network.get("promiscuous", False)),
            flows=bool(network.get("enable_flow_events", True)),
            dns=bool(network.get("enable_dns_events", True)),
            cpu_percent=float(network.get("capture_cpu_percent") or _CPU_PERCENT),
        )

    def without(self, filters: Collection[str]) -> Self | None:
        """The same without filters that do not compile; None when nothing is left of it."""
        kept = tuple(expression for expression in self.filters if expression not in filters)
        return replace(self, filters=kept) if kept else None


def _texts(network: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A setting that is a list under its plural when policies were merged, and one text or nothing in a policy."""
    values = network.get(f"{name}s")
    if values is None:
        values = [network.get(name)]
    if isinstance(values, str) or not all(value is None or isinstance(value, str) for value in values):
        msg = f"{name}s is no list of texts: {values!r}"
        raise TypeError(msg)
    return tuple(sorted({value or "" for value in values})) or ("",)
