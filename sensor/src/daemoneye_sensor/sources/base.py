"""What a source is: something that the pipeline drains, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from daemoneye.events.codec import Section


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a source's rows come from.

    Attributes:
        node: Name of the node, empty for the sensor's own. Of a drain's own origin only boot id and clock count.
        boot_id: Kernel boot within which process keys are unique.
        epoch: Identity of the rings or of the recording: sequences count within it.
        clock_offset_ns: Wall clock minus the clock of the rows.
    """

    node: str
    boot_id: str
    epoch: int
    clock_offset_ns: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Records that a source knows to be lost since it last said so."""

    stage: str
    ring: str
    count: int
    reason: str
    lane: str = "urgent"


@dataclass(frozen=True, slots=True)
class Drain:
    """What one look at a source gave: rows of one lane, whole.

    Attributes:
        lane: Lane of the events.
        sections: Event sections first, then their context; the rows are the source's until `commit`.
        positions: Ring name → position after these rows.
        rows: Event rows.
        more: More is ready at once.
        origin: Where they come from, if not from the source's own origin (a recording may hold several).
    """

    lane: str
    sections: tuple[Section, ...]
    positions: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0
    more: bool = False
    origin: Origin | None = None


class Source(Protocol):
    """A source of events. Bad records are counted by it (`lost`), never raised."""

    name: str
    patient: bool
    """Whether it can wait: a recording does while the spool is filling, a kernel does not."""

    def open(self, resume: Mapping[str, int], epoch: int | None) -> Origin:
        """Begin. `resume` and `epoch` are those of the newest batch that the spool holds: what it covers is not to be given again.

        Raises:
            MachineError: This machine lacks something.
            CorruptData: The recording cannot be read.
        """

    def wake_fd(self) -> int | None:
        """A descriptor that becomes readable when it is worth looking before the next turn of the clock."""

    def drain(self) -> Drain | None:
        """Rows that are ready, or None."""

    def commit(self, drain: Drain) -> Origin | None:
        """The spool holds them: they may be forgotten.

        Returns:
            The origin of what comes after this, if it is another one: sequences and losses count in its epoch from then on.
        """

    def lost(self) -> list[Lost]:
        """Losses since the last call."""

    def positions(self) -> dict[str, int]:
        """Facts that a loss batch carries for a successor's `resume`."""

    def status(self) -> dict[str, object]:
        """Facts for the heartbeat: counters since the start."""

    @property
    def finished(self) -> bool:
        """No more will come."""

    def close(self, *, keep: bool) -> None:
        """End. `keep` leaves for a successor what can be taken over."""
