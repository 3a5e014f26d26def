"""One node's stream of executions: its clock, its open windows, whose they are, and what waits to be learned.

Responsible for where in the stream learning happens: at ticks of the events' time, or after so many executions, never at a batch's border.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from daemoneye.errors import CorruptData
from daemoneye.events.sets import groups
from daemoneye_analytics.behaviour.catalogue import PROCESS_FEATURES
from daemoneye_analytics.behaviour.executions import COLUMNS, Arrivals, Executions
from daemoneye_analytics.behaviour.features import Measured
from daemoneye_analytics.behaviour.telling import Place
from daemoneye_analytics.behaviour.windows import BIN_NS, OpenWindows, Rows
from daemoneye_analytics.frame import Frame
from daemoneye_analytics.pods import Pod

TICK_NS: Final = 10_000_000_000
BLOCK: Final = 1000


class Node:
    """A node.

    Attributes:
        place: Its name, epoch and lane.
        windows: Its open windows.
        places: Whose each open window's workload is.
        told: Start of the window that was told of each workload, ns.
        pending: Executions that are learned at the next tick, with their weights.
    """

    def __init__(self, name: str) -> None:
        self.place = (name, 0, "urgent")
        self.windows = OpenWindows()
        self.places: dict[int, Place] = {}
        self.told: dict[int, int] = {}
        self.pending: list[tuple[Executions, np.ndarray]] = []
        self.tick = 0
        self._count = 0

    def steps(self, arrived: Arrivals) -> Iterator[tuple[int, bool, Arrivals]]:
        """Executions in steps between which something may be learned: the tick of each, whether a block of executions ended before it, and the rows."""
        n = len(arrived)
        if not n:
            return
        tick = np.maximum.accumulate(np.maximum(arrived.executions.time // TICK_NS, self.tick))
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

    def hear(self, frame: Frame, arrived: Arrivals) -> None:
        """Learn whose the executions are: once for each workload in a bin."""
        first, _ = groups(arrived.executions.workload)
        for at, key in zip(first.tolist(), arrived.executions.workload[first].tolist(), strict=True):
            if key not in self.places:
                identity = frame.identities[int(arrived.identity[at])]
                row = frame.images.section.rows[frame.exec_image[int(arrived.row[at])]]
                pod = frame.pods.of(int(row["cgroup_id"]), int(row["cgroup_v1_id"]))
                self.places[key] = Place(identity.workload, identity.container_id, identity.pod_uid, pod)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and JSON for a checkpoint."""
        rows = self.windows.rows
        arrays: dict[str, np.ndarray] = {}
        if rows is not None:
            arrays = {f"e_{name}": getattr(rows.executions, name) for name in COLUMNS}
            arrays |= {
                "features": rows.measured.features,
                "new": rows.measured.new,
                "evidence": rows.measured.evidence,
                "scores": rows.scores,
                "flagged": rows.flagged,
            }
        for at, (e, weight) in enumerate(self.pending):
            arrays |= {f"p{at}_{name}": getattr(e, name) for name in COLUMNS} | {f"p{at}_weight": weight}
        places = [[key, p.workload, p.container_id, p.pod_uid, list(p.pod)] for key, p in self.places.items()]
        plain = {
            "place": list(self.place), "tick": self.tick, "count": self._count, "bin": self.windows.bin, "places": places,
            "told": list(self.told.items()), "pending": len(self.pending),
        }  # fmt: skip
        return arrays, plain

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], plain: dict[str, Any], models: int) -> Node:
        """The inverse of `state`; windows whose models were others begin anew.

        Raises:
            CorruptData: It is of another form.
        """
        try:
            name, epoch, lane = plain["place"]
            node = cls(str(name))
            node.place = (str(name), int(epoch), str(lane))
            node.tick, node._count, node.windows.bin = int(plain["tick"]), int(plain["count"]), int(plain["bin"])
            node.told = {int(key): int(start) for key, start in plain["told"]}
            for key, workload, container, uid, pod in plain["places"]:
                namespace, name, container_name, image, kind, owner, labels, policies = pod
                labelled = tuple((str(k), str(v)) for k, v in labels)
                node.places[int(key)] = Place(
                    workload,
                    container,
                    uid,
                    Pod(namespace, name, container_name, image, kind, owner, labelled, tuple(map(str, policies))),
                )
            if (
                "features" in arrays
                and arrays["features"].shape[1] == len(PROCESS_FEATURES)
                and arrays["scores"].shape[1] == models
            ):
                node.windows.rows = Rows(
                    Executions(*(arrays[f"e_{name}"] for name in COLUMNS)),
                    Measured(arrays["features"], arrays["new"], arrays["evidence"]),
                    arrays["scores"],
                    arrays["flagged"],
                )
            for at in range(int(plain["pending"])):
                node.pending.append(
                    (Executions(*(arrays[f"p{at}_{name}"] for name in COLUMNS)), arrays[f"p{at}_weight"])
                )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            msg = f"not a node's windows: {error!r}"
            raise CorruptData(msg) from error
        return node
