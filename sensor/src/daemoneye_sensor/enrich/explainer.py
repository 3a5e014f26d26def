"""What explains rows, whichever source they come from: the process table, the identities of cgroups and the owners of sockets.

One object for all sources of a sensor: `EbpfSource(explainer=…)` teaches it what the kernel says, and other sources' drains are explained by the
same knowledge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from daemoneye.events.ancestry import cgroup_pairs
from daemoneye.events.codec import Section
from daemoneye.events.policy_set import POLICY_SET, set_number, sets_of, sets_section
from daemoneye.events.sets import unique
from daemoneye_sensor.enrich.identities import Identities
from daemoneye_sensor.enrich.owners import Owners
from daemoneye_sensor.processes import ProcessTable, context
from daemoneye_sensor.sources.base import Drain

_NO_PAIRS = np.zeros(0, np.uint64)


class Explainer:
    """Shared by the sources of one sensor.

    Attributes:
        table: Images of the processes.
        identities: Whose cgroups are, for rows about processes and their sockets.
        packets: The same for rows about packets: in a cluster other policies may want those. It shares the others' `cgroups`, and is told by
            `select(Selection(config, captures))` who captures.
        owners: Whose sockets are.
        excluded: Rows about packets that belong to no policy, dropped since the start.
    """

    def __init__(self, identities: Identities | None = None, packets: Identities | None = None) -> None:
        """Empty. Without `identities` everything belongs; without `packets` these are the others' too."""
        self.table = ProcessTable()
        self.identities = Identities() if identities is None else identities
        self.packets = self.identities if packets is None else packets
        self.owners = Owners()
        self.excluded = 0

    def forget(self) -> None:
        """Nobody told what happened meanwhile: know no processes and no sockets any more."""
        self.table = ProcessTable()
        self.owners.forget()

    def explain(self, drain: Drain, netns: int = 0) -> Drain:
        """A drain of rows about packets, with the processes of both sides where they are known, and with what explains them.

        A row belongs to those of the policies that ask for it (its set) which select either side's process; a row without a process to all that ask.
        Rows that belong to none are left out and counted (`excluded`). To be called once for each drain, when the kernel's source was looked at after
        it: the process of a packet may be younger than the look before.

        Args:
            drain: Event sections, and their sets of policies where there are any. It is not changed.
            netns: Network namespace (inode) of the interfaces, 0 if it is not known.
        """
        if not drain.rows:
            return drain
        sections = [self.owners.attribute(section, netns) for section in drain.sections if not section.context]
        asked = next((section for section in drain.sections if section.record is POLICY_SET), None)
        kept, sets = self._wanted(sections, sets_of(asked)) if self.packets.selective else (sections, {})
        rows = sum(len(section.rows) for section in kept)
        self.excluded += drain.rows - rows
        if not rows:
            return replace(drain, sections=(), rows=0)
        explaining = context(self.table.images, kept)
        pairs = _pairs([*kept, explaining])
        explained = (*kept, explaining, *self.packets.context(pairs), sets_section(sets))
        return replace(drain, sections=tuple(section for section in explained if len(section.rows)), rows=rows)

    def _wanted(self, sections: list[Section], asked: dict[int, bytes]) -> tuple[list[Section], dict[int, bytes]]:
        """What of the sections belongs to somebody, and the sets of policies that its rows name now. `asked` are those that they name so far."""
        pairs = _pairs(sections)
        self.packets.holds(pairs, room=False)  # nothing is held: what is not known is only asked for
        selecting = self.packets.masks(pairs)
        asking = {number: self.packets.mask(names) for number, names in asked.items()}
        kept: list[Section] = []
        sets: dict[int, bytes] = {}
        for section in sections:
            rows = section.rows
            masks = selecting[np.searchsorted(pairs, cgroup_pairs(rows))]
            peers = rows["peer_pid"] != 0
            masks[peers] |= selecting[np.searchsorted(pairs, cgroup_pairs(rows[peers], "peer_"))]
            masks &= _each(rows["policy_set"], lambda number: asking.get(number, 0))
            mine = section.take(masks != 0)
            masks = masks[masks != 0]
            names = {mask: self.packets.names(mask) for mask in unique(masks).tolist()}
            numbers = {mask: set_number(text) for mask, text in names.items()}
            mine.rows["policy_set"] = _each(masks, numbers.__getitem__)
            kept.append(mine)
            sets |= {numbers[mask]: text for mask, text in names.items()}
        return kept, sets


def _each(values: np.ndarray, answer: Callable[[int], int]) -> np.ndarray:
    """An answer for each of n numbers, asked once for each distinct one; u64, shape (n,)."""
    distinct = unique(values)
    return np.array([answer(value) for value in distinct.tolist()], np.uint64)[np.searchsorted(distinct, values)]


def _pairs(sections: list[Section]) -> np.ndarray:
    """Distinct cgroup pairs of both sides of all rows; 0 is that of a row without a process."""
    found = [_NO_PAIRS]
    for section in sections:
        found.append(cgroup_pairs(section.rows))
        if "peer_pid" in (section.rows.dtype.names or ()):
            found.append(cgroup_pairs(section.rows, "peer_")[section.rows["peer_pid"] != 0])
    return unique(np.concatenate(found))
