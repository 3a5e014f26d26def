"""What this node answers to its configuration.

Responsible for turning what is known (the configuration, what programs and filters say) into one :class:`~daemoneye.nodeconfig.NodeAnswer`;
not for finding it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from daemoneye.errors import CorruptData
from daemoneye.events.registry import KERNEL_EVENTS
from daemoneye.nodeconfig import REFUSED, NodeAnswer, NodeConfig, NodePolicy, PolicyAnswer
from daemoneye_sensor.packets.capturing import Capture
from daemoneye_sensor.settings import wanted_events

BAD_FILTER: Final = "BadFilter"
BAD_SELECTOR: Final = "InvalidSpec"
SOCKETS_PARTLY: Final = "SocketsPartly"


def check(config: NodeConfig) -> None:
    """See that a configuration, which may be another release's, holds what is taken for granted later. Selectors may be wrong: Selection says so.

    Raises:
        CorruptData: A value is of another kind than this release reads.
    """
    about = "kernel"
    try:
        wanted_events(config.kernel)
        about = "network"
        Capture.from_network(config.network)
        for policy in config.policies:
            about = f"policy {policy.name!r}"
            values: tuple[tuple[object, type], ...] = ((policy.name, str), (policy.uid, str), (policy.generation, int))
            if not all(isinstance(value, kind) for value, kind in values):
                raise TypeError("name and UID are texts, the generation is a number")
            asks_for_kernel(policy)
            filter_of(policy)
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise CorruptData(f"the configuration cannot be run by this release: {about}: {error}") from error


def asks_for_kernel(policy: NodePolicy) -> bool:
    """Whether a policy asks for kernel monitoring."""
    return bool(policy.kernel.get("enable_ebpf", True))


def events_of(config: NodeConfig) -> tuple[str, ...]:
    """Names of the events that a configuration asks for: none without a policy."""
    return wanted_events(config.kernel) if any(map(asks_for_kernel, config.policies)) else ()


def of_sockets(events: Sequence[str], missing: Mapping[str, str]) -> tuple[str, str]:
    """Reason and sentence why sockets are not seen in full; both empty when they are, or nobody asks for them."""
    if not missing or not any(KERNEL_EVENTS[event].ring == "socket" for event in events):
        return "", ""
    first, why = min(missing.items())
    return SOCKETS_PARTLY, f"sockets are not seen in full: {', '.join(sorted(missing))} cannot run ({first}: {why})"


def filter_of(policy: NodePolicy) -> tuple[str, int] | None:
    """A policy's capture filter with its snapshot length, as `daemoneye_sensor.filters` asks about it; None when it captures nothing."""
    capture = Capture.from_network(policy.network)
    return None if capture is None else (capture.filters[0], capture.snaplen)


def answer(
    config_hash: str,
    config: NodeConfig,
    *,
    programs: tuple[str, str],
    capture: tuple[str, str],
    filters: Mapping[tuple[str, int], str],
    selectors: Mapping[str, str],
    sockets: tuple[str, str] = ("", ""),
) -> NodeAnswer:
    """The answer of a node.

    Args:
        config_hash: Name of the configuration; empty before there is one.
        config: The configuration that is run.
        programs: Reason and sentence why kernel programs do not run; both empty when they do or nobody asks for them.
        capture: Reason and sentence why packets are not captured as asked, likewise.
        filters: Capture filters that do not compile, with libpcap's words.
        selectors: UIDs of policies whose selectors mean nothing, with what is wrong.
        sockets: Reason and sentence why sockets are not seen in full, likewise; no reason to call the programs failed.

    A policy whose filter is bad is refused, and what it asks of the kernel goes on nevertheless: a slip in a filter must not end what is
    watched beside it.
    """
    return NodeAnswer(
        hash=config_hash,
        policies=tuple(_policy(policy, programs, filters, selectors) for policy in config.policies),
        programs=not programs[0],
        capture=not capture[0],
        problem=next((problem for problem in (programs, capture) if problem[0]), sockets),
    )


def _policy(
    policy: NodePolicy,
    programs: tuple[str, str],
    filters: Mapping[tuple[str, int], str],
    selectors: Mapping[str, str],
) -> PolicyAnswer:
    about = (policy.name, policy.uid, policy.generation)
    if policy.uid in selectors:
        return PolicyAnswer(*about, REFUSED, BAD_SELECTOR, selectors[policy.uid])
    place = filter_of(policy)
    if place is not None and place in filters:
        return PolicyAnswer(*about, REFUSED, BAD_FILTER, f"captureFilter {place[0]!r}: {filters[place]}")
    if programs[0] and asks_for_kernel(policy):
        return PolicyAnswer(*about, REFUSED, *programs)
    return PolicyAnswer(*about)
