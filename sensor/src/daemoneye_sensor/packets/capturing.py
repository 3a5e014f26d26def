"""What is to be captured: the settings of a capture, out of a node's configuration.

Responsible for their meaning and defaults; not for which interfaces of a node they mean (:mod:`daemoneye_sensor.packets.interfaces`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Self

from daemoneye.nodeconfig import NodeConfig

_MIB: Final = 1 << 20
_SNAPLEN: Final = 1500
_BUFFER_MB: Final = 100
_CPU_PERCENT: Final = 10.0


class Asking(NamedTuple):
    """What one policy asks for: packets that its filter takes; conversations and DNS by switches, whatever the filter says; whether it allows evidence."""

    name: str
    filter: str
    flows: bool = True
    dns: bool = True
    evidence: bool = False


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
        xdp: Whether XDP is to count what arrives, where it can.
        evidence: Whether parts of packets may be told (`packet_anomaly`).
        policies: Who asks for it; none on one machine, where nobody is told apart.
    """

    interfaces: tuple[str, ...] = ("",)
    filters: tuple[str, ...] = ("",)
    snaplen: int = _SNAPLEN
    buffer_bytes: int = _BUFFER_MB * _MIB
    promiscuous: bool = False
    flows: bool = True
    dns: bool = True
    cpu_percent: float = _CPU_PERCENT
    xdp: bool = False
    evidence: bool = False
    policies: tuple[Asking, ...] = ()

    @classmethod
    def from_config(cls, config: NodeConfig) -> Self | None:
        """The capture of a node, and which of its policies asks for what; None if none does.

        Raises:
            ValueError, TypeError: A value is of another kind than this release reads.
        """
        whole = cls.from_network(config.network)
        if whole is None:
            return None
        asking = ((policy.name, cls.from_network(policy.network)) for policy in config.policies)
        policies = tuple(Asking(name, one.filters[0], one.flows, one.dns, one.evidence) for name, one in asking if one is not None)  # fmt: skip
        return replace(whole, evidence=any(one.evidence for one in policies), policies=policies)

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
            xdp=network.get("flow_counter") == "Xdp",
            evidence=isinstance(kept := network.get("evidence"), Mapping) and kept.get("enabled") is True,
        )

    def without(self, filters: Collection[str]) -> Self | None:
        """The same without filters that do not compile, and without the policies that have them; None when nothing is left of it."""
        kept = tuple(expression for expression in self.filters if expression not in filters)
        asking = tuple(policy for policy in self.policies if policy.filter not in filters)
        return replace(self, filters=kept, policies=asking) if kept else None


def _texts(network: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A setting that is a list under its plural when policies were merged, and one text or nothing in a policy."""
    values = network.get(f"{name}s")
    if values is None:
        values = [network.get(name)]
    if isinstance(values, str) or not all(value is None or isinstance(value, str) for value in values):
        msg = f"{name}s is no list of texts: {values!r}"
        raise TypeError(msg)
    return tuple(sorted({value or "" for value in values})) or ("",)
