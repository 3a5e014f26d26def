"""One node's stream of rows: its clock, its open windows, whose they are, and what waits to be learned.

Responsible for where in the stream learning happens: at ticks of the events' time, or after so many executions, never at a batch's border.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Protocol, Self

import numpy as np

from daemoneye.errors import CorruptData
from daemoneye.events.sets import groups
from daemoneye_analytics.behaviour.clock import BACK_NS
from daemoneye_analytics.behaviour.telling import Place
from daemoneye_analytics.behaviour.windows import BIN_NS, OpenWindows, Rows
from daemoneye_analytics.frame import Frame
from daemoneye_analytics.pods import Pod

TICK_NS: Final = 10_000_000_000
BLOCK: Final = 4096
"""With each so-manieth row of a node something is learned though the tick is not over. It matters where more come in a tick."""


class Arriving(Protocol):
    """n rows as they arrive, in order of time; arrays of shape (n,)."""

    def __len__(self) -> int: ...

    @property
    def time(self) -> np.ndarray:
        """Wall time, ns, int64."""

    @property
    def workload(self) -> np.ndarray:
        """Hash of the workload with its image, u64."""

    @property
    def identity(self) -> np.ndarray:
        """Row in the frame's identities, int64."""

    def cgroup(self, frame: Frame, at: int) -> tuple[int, int]:
        """Both ids of a row's cgroup."""

    def span(self, first: int, last: int) -> Self:
        """Those from `first` to before `last`, not copied."""


class Node:
    """A node.

    Attributes:
        place: Its name, epoch and lane.
        windows: Its open windows.
        places: Whose each open window's workload is.
        told: Start of the window that was told of each workload, ns.
        kind: Class of its rows.
        pending: What is learned at the next tick, with its weights.
    """

    def __init__(self, name: str, kind: Any = Rows) -> None:
        """A node of that name with rows of a class like `Rows`."""
        self.place = (name, 0, "")
        self.windows: OpenWindows[Any] = OpenWindows(kind)
        self.kind = kind
        self.places: dict[int, Place] = {}
        self.told: dict[int, int] = {}
        self.pending: list[tuple[Any, np.ndarray]] = []
        self.tick = 0
        self._count = 0

    def steps(self, arrived: Arriving) -> Iterator[tuple[int, bool, Arriving]]:
        """Rows in steps between which something may be learned: the tick of each, whether a block of rows ended before it, and the rows."""
        n = len(arrived)
        if not n:
            return
        if int(arrived.time.max()) < self.tick * TICK_NS - BACK_NS:
            # Waiting for where the clock was, no window would ever be over.
            self.tick = int(arrived.time.min()) // TICK_NS
        tick = np.maximum.accumulate(np.maximum(arrived.time // TICK_NS, self.tick))
        block = (self._count + np.arange(n)) // BLOCK
        begun = self._count // BLOCK if self._count % BLOCK else self._count // BLOCK - 1
        self._count += n
        borders = np.flatnonzero((np.diff(tick) != 0) | (np.diff(block) != 0)) + 1
        for first, last in zip([0, *borders.tolist()], [*borders.tolist(), n], strict=True):
            yield int(tick[first]), int(block[first]) != begun, arrived.span(first, last)
            begun = int(block[first])

    def enter(self, tick: int) -> bool:
        """Go on to a tick; whether the bin that was open is over."""
        self.tick = max(tick, self.tick)
        now = self.tick * TICK_NS // BIN_NS
        return bool(now != self.windows.bin)

    def open(self) -> None:
        """Begin the bin of the present tick."""
        self.windows.bin = self.tick * TICK_NS // BIN_NS
        self.places.clear()
        self.told.clear()

    def hear(self, frame: Frame, arrived: Arriving) -> None:
        """Learn whose the rows are: once for each workload in a bin."""
        first, _ = groups(arrived.workload)
        for at, key in zip(first.tolist(), arrived.workload[first].tolist(), strict=True):
            if key not in self.places:
                identity = frame.identities[int(arrived.identity[at])]
                pod = frame.pods.of(*arrived.cgroup(frame, at))
                self.places[key] = Place(identity.workload, identity.container_id, identity.pod_uid, pod)

    @property
    def _names(self) -> list[str]:
        return [name.removeprefix("e_") for name in self.kind.names() if name.startswith("e_")]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and JSON for a checkpoint."""
        rows = self.windows.rows
        arrays: dict[str, np.ndarray] = {}
        if rows is not None:
            arrays = dict(zip(self.kind.names(), rows.columns, strict=True))
        for at, (e, weight) in enumerate(self.pending):
            arrays |= {f"p{at}_{name}": getattr(e, name) for name in self._names} | {f"p{at}_weight": weight}
        places = [[key, p.workload, p.container_id, p.pod_uid, list(p.pod)] for key, p in self.places.items()]
        plain = {
            "place": list(self.place), "tick": self.tick, "count": self._count, "bin": self.windows.bin, "places": places,
            "told": list(self.told.items()), "pending": len(self.pending),
        }  # fmt: skip
        return arrays, plain

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], plain: dict[str, Any], kind: Any, models: int) -> Node:
        """The inverse of `state`; windows whose models were others begin anew, and rows of an earlier release, which knew less of them, are not learned.

        Raises:
            CorruptData: It is of another form.
        """
        try:
            name, epoch, lane = plain["place"]
            node = cls(str(name), kind)
            node.place = (str(name), int(epoch), str(lane))
            node.tick, node._count, node.windows.bin = int(plain["tick"]), int(plain["count"]), int(plain["bin"])
            node.told = {int(key): int(start) for key, start in plain["told"]}
            for key, workload, container, uid, pod in plain["places"]:
                namespace, name, container_name, image, owner_kind, owner, labels, policies = pod
                labelled = tuple((str(k), str(v)) for k, v in labels)
                node.places[int(key)] = Place(
                    workload,
                    container,
                    uid,
                    Pod(namespace, name, container_name, image, owner_kind, owner, labelled, tuple(map(str, policies))),
                )
            if (
                "features" in arrays
                and arrays["features"].shape[1] == kind.WIDTH
                and arrays["scores"].shape[1] == models
            ):
                node.windows.rows = kind.of([arrays[name] for name in kind.names()])
            for at in range(int(plain["pending"])):
                if not all(f"p{at}_{name}" in arrays for name in node._names):
                    continue
                node.pending.append(
                    (kind.THINGS(*(arrays[f"p{at}_{name}"] for name in node._names)), arrays[f"p{at}_weight"])
                )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            msg = f"not a node's windows: {error!r}"
            raise CorruptData(msg) from error
        return node
