"""Who asks for rows about packets: the policies of a capture, by their filters and their switches.

Responsible for the set of policies that each row names (`daemoneye.events.policy_set`); not for whose the row's processes are: by that
:mod:`daemoneye_sensor.enrich.explainer` narrows it. Without policies, as on one machine, every number is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from daemoneye.events.codec import Section
from daemoneye.events.dns_query import DNS_QUERY
from daemoneye.events.packet_anomaly import PACKET_ANOMALY
from daemoneye.events.packet_flow import PACKET_FLOW
from daemoneye.events.policy_set import name_text, set_number, set_text, sets_section
from daemoneye.events.sets import unique
from daemoneye_sensor.packets.capturing import Asking, Capture
from daemoneye_sensor.packets.columns import any_of
from daemoneye_sensor.packets.selection import DNS_PORTS

_KEPT: Final = 4096
"""Sets that are remembered: whoever chooses packets may find many combinations of 64 filters."""


class Askers:
    """The policies of one capture after the other: rows may begin under one and be told under the next."""

    def __init__(self, capture: Capture) -> None:
        self._sets: dict[int, bytes] = {}
        self.follow(capture)

    def follow(self, capture: Capture) -> None:
        """Another capture: from now on its policies ask."""
        self._capture = capture
        self._by_filters: dict[int, int] = {}

    def by_filters(self, mask: int) -> int:
        """Number of the set of policies whose filters are among those of a mask (bit i: the capture's i-th)."""
        number = self._by_filters.get(mask)
        if number is None:
            taking = {text for place, text in enumerate(self._capture.filters) if mask >> place & 1}
            number = self._number(policy for policy in self._capture.policies if policy.filter in taking)
            if len(self._by_filters) >= _KEPT:
                self._by_filters.clear()
            self._by_filters[mask] = number
        return number

    def mark(self, sections: Iterable[Section]) -> None:
        """Give rows whose events have a switch of their own to the policies that have it on."""
        for section in sections:
            if section.record is PACKET_FLOW:
                section.rows["policy_set"] = self._number(one for one in self._capture.policies if one.flows)
            elif section.record is DNS_QUERY:
                section.rows["policy_set"] = self._number(one for one in self._capture.policies if one.dns)
            elif section.record is PACKET_ANOMALY:
                self._allowed(section)

    def named(self, sections: Sequence[Section]) -> tuple[Section, ...]:
        """The sections with one more that names the sets of their rows, if they have any."""
        numbers = {number for section in sections for number in unique(section.rows["policy_set"]).tolist()}
        sets = {number: self._sets[number] for number in sorted(numbers) if number in self._sets}
        return (*sections, sets_section(sets)) if sets else (*sections,)

    def _allowed(self, section: Section) -> None:
        """Of the policies that ask for a packet only those may be told parts of it that allow evidence; for DNS, those ask that have it on."""
        allowed = {name_text(one.name): one for one in self._capture.policies if one.evidence}
        by_dns = self._number(one for one in allowed.values() if one.dns)
        dns = any_of(section.rows["src_port"], DNS_PORTS) | any_of(section.rows["dst_port"], DNS_PORTS)
        for number in unique(section.rows["policy_set"]).tolist():
            names = self._sets.get(number, b"").split(b"\0")
            mine = self._number(allowed[name] for name in names if name in allowed)
            section.rows["policy_set"][(section.rows["policy_set"] == number) & ~dns] = mine
        section.rows["policy_set"][dns] = by_dns

    def _number(self, policies: Iterable[Asking]) -> int:
        names = set_text(policy.name for policy in policies)
        number = set_number(names)
        if number:
            self._sets.pop(number, None)  # the newest are kept longest
            while len(self._sets) >= _KEPT:
                del self._sets[next(iter(self._sets))]
            self._sets[number] = names
        return number
