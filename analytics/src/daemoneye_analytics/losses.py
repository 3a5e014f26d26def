"""Losses that analytics notices itself: ranges of a lane that never came.

Responsible for telling them as rows of `loss`, each once. Which ranges they are is `daemoneye_analytics.watermarks`' affair.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from daemoneye import envelope
from daemoneye.envelope import Envelope
from daemoneye.events.codec import section_of
from daemoneye.events.loss import LOSS
from daemoneye_analytics.share import Share
from daemoneye_analytics.store import Store
from daemoneye_analytics.watermarks import Gap, Watermarks

_LOG = logging.getLogger(__name__)
# Sensors send their loss rows within seconds of what they lost; what nobody explains by then was lost in the stream.
EXPLAIN_S: Final = 5.0


class Losses:
    """Numbers what it tells in an epoch of its own: sensors' sequences are theirs."""

    def __init__(self) -> None:
        self._epoch = secrets.randbits(62)
        self._next: dict[str, int] = {}

    def facts(self) -> dict[str, Any]:
        """JSON for a checkpoint."""
        return {"loss_epoch": self._epoch, "loss_next": self._next}

    @classmethod
    def restored(cls, facts: Mapping[str, Any]) -> Losses:
        """The inverse of `facts`; raises KeyError, TypeError, AttributeError or ValueError for another form."""
        out = cls()
        out._epoch = int(facts["loss_epoch"])
        out._next = {str(node): int(following) for node, following in facts["loss_next"].items()}
        return out

    async def tell(self, watermarks: Watermarks, store: Store, share: Share) -> None:
        """Publish what nobody has explained in time; what the broker does not take now is kept for another time. Others tell of nodes that are not its own."""
        for gap in watermarks.take_gaps(time.monotonic() - EXPLAIN_S):
            node, epoch, lane = gap.key
            if not share.node(node):
                continue
            following = self._next.get(node, 0)
            payload = loss_batch(gap, self._epoch, following)
            if await store.loss(node, payload, f"stream-loss/{node}/{epoch}/{lane}/{gap.first}/{gap.end}"):
                _LOG.warning("%d records of %s (%s) were lost in the stream", gap.end - gap.first, node, lane)
                self._next[node] = following + 1
            else:
                watermarks.give_back(gap)
                return


def loss_batch(gap: Gap, epoch: int, sequence: int) -> bytes:
    """The message that tells a gap: one row of `loss`, stage `stream`, as row `sequence` of analytics' own epoch."""
    node, lost_epoch, lane = gap.key
    row: dict[str, Any] = {
        "time": gap.until, "since": gap.since, "count": gap.end - gap.first, "first_sequence": gap.first,
        "epoch": np.uint64(lost_epoch), "stage": [b"stream"], "lane": [lane.encode()],
        "reason": [b"trimmed from the stream before analytics read it, or not readable"],
    }  # fmt: skip
    about = Envelope(
        node=node, boot_id=gap.boot_id, epoch=epoch, lane="loss", first_sequence=sequence, rows=1, cluster=gap.cluster,
        clock_offset_ns=gap.clock_offset_ns, first_time=gap.until, last_time=gap.until, source="analytics",
    )  # fmt: skip
    return envelope.encode(about, [section_of(LOSS, row, 1)])
