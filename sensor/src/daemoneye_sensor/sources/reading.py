"""One set of rings as the source `ebpf` reads it: the sensor's own, or one that a sensor of another release left.

Responsible for what of the rings' counters was told, for what is looked at a second time, and for the end of rings that are not ours: they fall
silent when ours take over, are read out where their records are of our form, counted where not, and removed when that is safe in the spool. Not
for rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

import numpy as np

from daemoneye_sensor.pinned import Pinned
from daemoneye_sensor.rings import Span

TOLD: Final = "told:"
"""Prefix of the positions that say how much of a kernel counter was published: a successor does not publish it again."""
HELD: Final = "held"
"""Records that rings held that nobody can read."""
_READ_OUT_S: Final = 10.0
"""Rings that fell silent are empty within a turn or two; what our looks have not got any further with for so long never comes."""
_FOR_EVER: Final = 1 << 63


class Reading:
    """Rings, and how far their counters were told.

    Attributes:
        rings: The rings.
        over: Whether nothing is read from them any more: what they still hold is lost.
        told: Whether that was said.
    """

    def __init__(self, rings: Pinned, resume: Mapping[str, int]) -> None:
        """Go on where a predecessor's newest batch of these rings stops, which says so by `resume`."""
        self.rings = rings
        self._blobs_seen = 0  # up to where the blob ring's chunks were looked at
        self.over = self.told = False
        self._told = {key.removeprefix(TOLD): count for key, count in resume.items() if key.startswith(TOLD)}
        self._silent = False
        self._stands: tuple[int, ...] = ()
        self._until = 0.0
        for name, ring in rings.rings.items():
            if rings.alike:
                rings.advance(name, resume.get(name, 0))
            else:
                ring.advance(resume.get(name, 0))

    def silence(self) -> None:
        """Have the programs that write here write no more; they count what they see, unless a predecessor of ours had them do neither."""
        if self.rings.wanted:
            self.rings.lease(0)
        self._silent = True

    def close_accounts(self) -> None:
        """Have them not even count: others see the events now. This lasts, should we end before we have read out the rings."""
        self.rings.want([])
        self.rings.lease(_FOR_EVER)

    @property
    def finished(self) -> bool:
        """Whether there is nothing to read at the moment; in rings that are silent, ever."""
        rings = self.rings.rings.values()
        if not self.rings.alike or all(ring.produced == ring.position for ring in rings):
            return True
        if not self._silent:
            return False
        # From look to look: that we ourselves stood still, before the first or for a slow disk, says nothing of the rings.
        stands = tuple(ring.position for ring in rings)
        if stands != self._stands:
            self._stands, self._until = stands, time.monotonic() + _READ_OUT_S
        return time.monotonic() > self._until

    @property
    def roomy(self) -> bool:
        """Whether the rings can wait: none is more than half full."""
        return all(2 * (ring.produced - ring.position) <= ring.size for ring in self.rings.rings.values())

    def done_with(self, blobs: Span, unclaimed: np.ndarray) -> int:
        """Position up to which the blob ring is done with after a look at it; `unclaimed` are the chunks that no row asked for, shape (n,).

        Strings that were seen for the first time and that no row asked for yet belong to an execution that came after our look at its ring:
        they stay where they are and are read again, once. (Or to one that found no room there: then once is enough.)
        """
        ring = self.rings.rings["blob"]
        fresh = max(self._blobs_seen - ring.position, 0) // ring.stride
        self._blobs_seen = blobs.end
        waiting = np.flatnonzero(unclaimed[fresh:])
        if not len(waiting) or blobs.malformed:
            return blobs.end
        return ring.position + (fresh + int(waiting[0])) * ring.stride

    def lost(self) -> list[tuple[str, str, int]]:
        """(stage or HELD, ring, records) that were lost since the last call."""
        dropped = self.rings.dropped()
        counts = {
            (name if name in ("lease", "table") else "ring", name): n for name, n in dropped.items() if name != "blob"
        }
        if self.over:
            counts |= {(HELD, name): n for name, n in self.rings.held().items()}
            self.told = True
        news = [(*which, count - self._told.get("/".join(which), 0)) for which, count in counts.items()]
        self._told |= {"/".join(which): count for which, count in counts.items()}
        return [(stage, ring, count) for stage, ring, count in news if count > 0]

    def positions(self) -> dict[str, int]:
        """What was told, for batches to carry."""
        return {f"{TOLD}{key}": count for key, count in self._told.items() if count}

    def remove(self) -> None:
        """Have the kernel forget programs and rings."""
        self.rings.remove()
        self.rings.close()
