"""Which process trees are in which windows that later ones are held against: what is found out late takes them back.

Responsible for remembering the newest ones, in a ring of bounded size: after some ten thousand windows a flag comes too late.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from daemoneye.events.sets import unique

_ROOM: Final = 1 << 18
"""Processes with their window, 24 bytes each."""
_ROW: Final = np.dtype([("process", "<u8"), ("workload", "<u8"), ("start", "<i8")])


class Kept:
    """Processes, and for each a window that it is in."""

    def __init__(self) -> None:
        self._rows = np.zeros(0, _ROW)
        self._pending: list[np.ndarray] = []
        self._waiting = 0

    def add(self, processes: np.ndarray, workload: int, start: int) -> None:
        """Remember a window: u64 of any shape, of its executions and their ancestors; 0 is nobody."""
        known = unique(processes.ravel())
        rows = np.zeros(len(known), _ROW)
        rows["process"], rows["workload"], rows["start"] = known, workload, start
        self._pending.append(rows[known != 0])
        self._waiting += len(rows)
        if self._waiting > _ROOM // 8:
            self._join()

    def take(self, processes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Forget the windows that one of these processes is in: their workloads, u64, and starts, int64, some more than once."""
        self._join()
        gone = np.isin(self._rows["process"], processes)
        windows = self._rows[gone]
        self._rows = self._rows[~gone]
        return windows["workload"], windows["start"]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        self._join()
        return {"rows": self._rows.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: It is of another form.
        """
        rows = state.get("rows")
        if not isinstance(rows, np.ndarray) or rows.dtype != _ROW or rows.ndim != 1:
            raise ValueError("not the windows that were kept")
        self._rows, self._pending, self._waiting = rows[-_ROOM:].copy(), [], 0

    def _join(self) -> None:
        if self._pending:
            self._rows = np.concatenate((self._rows, *self._pending))[-_ROOM:]
            self._pending, self._waiting = [], 0
