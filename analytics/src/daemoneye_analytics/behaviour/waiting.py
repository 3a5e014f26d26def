"""Batches of a node's sockets that wait for what its packets say.

Responsible for how long: sensors read packets about once a second and sockets three times as often, so that a name comes after the connection that it is
of. Nothing waits on a node whose packets say no names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from daemoneye import envelope
from daemoneye.errors import CorruptData
from daemoneye_analytics.frame import Frame
from daemoneye_analytics.share import Share

WAIT_NS: Final = 2_000_000_000
_MOST: Final = 64
"""Batches that wait at most: in two seconds there are six."""


class _Batch(NamedTuple):
    first: int
    last: int
    frame: Frame


class Waiting:
    """A node's batches in order."""

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque()

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, frame: Frame) -> None:
        """A batch, if it has rows of sockets."""
        time = np.concatenate([frame.rows(record)["time"] for record in ("socket_open", "socket_close")])
        if len(time):
            wall = frame.batch.wall_ns(time)
            self._batches.append(_Batch(int(wall.min()), int(wall.max()), frame))

    def since(self, now: int) -> int:
        """Time of the earliest row that waits, ns, or now."""
        return min((batch.first for batch in self._batches), default=now)

    def over(self, now: int, wait: int) -> Iterator[Frame]:
        """Those that have waited so long at a moment, both in ns; those that a clock which went back left in the future do not wait either."""
        while self._batches:
            if now - wait < self._batches[0].last <= now + wait and len(self._batches) <= _MOST:
                break
            yield self._batches.popleft().frame

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the batches as sensors send them."""
        frames = [batch.frame for batch in self._batches]
        sent = [np.frombuffer(envelope.encode(f.batch.envelope, f.batch.sections), np.uint8) for f in frames]
        return {
            "bytes": np.concatenate((np.zeros(0, np.uint8), *sent)),
            "sizes": np.array([len(one) for one in sent], np.int64),
            "skips": np.array([f.skip for f in frames], np.int64),
            "shares": np.array([(f.share.part, f.share.parts) for f in frames], np.int64).reshape(-1, 2),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: It is of another form.
        """
        self._batches.clear()
        try:
            ends = np.cumsum(state["sizes"])
            about = zip(state["skips"].tolist(), state["shares"].tolist(), strict=True)
            for data, (skip, share) in zip(np.split(state["bytes"], ends[:-1]), about, strict=False):
                self.add(Frame(envelope.decode(data.tobytes()), skip=skip, share=Share(*share)))
        except (KeyError, TypeError, AttributeError, CorruptData) as error:
            raise ValueError(f"not batches that wait: {error!r}") from error
