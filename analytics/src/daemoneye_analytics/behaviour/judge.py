"""Statistics of windows → p-values of models → one score.

Responsible for which reference each figure is held against; references and the aggregation are given. A window that is still open is judged as if it
were as large as it may become, and by what can only grow: an alarm that is raised early would be raised at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from daemoneye_analytics.analyzer import aggregate, score
from daemoneye_analytics.behaviour.catalogue import WINDOW, WINDOW_FEATURES
from daemoneye_analytics.behaviour.models import Spec
from daemoneye_analytics.behaviour.reference import Reference
from daemoneye_analytics.behaviour.windows import SIZE, Windows
from daemoneye_analytics.detectors.parts import collected, renewed

_FORMAT: Final = 1
_SHIFT: Final = WINDOW_FEATURES.index("shift")
"""The one statistic that can fall while a window is open."""


class Judgement(NamedTuple):
    """What is said of w windows.

    Attributes:
        p: Aggregate p-value, float64, shape (w,); NaN where no model is calibrated.
        score: From 0 to 1, float64, shape (w,); NaN likewise.
        models: Each model's p-value, float64, shape (w, number of models).
    """

    p: np.ndarray
    score: np.ndarray
    models: np.ndarray


class _Alike(NamedTuple):
    """What makes w windows alike: their size for a mean, whose spread depends on it, and for all whether their workload has left Learning.

    What can only grow has one class: an open window's p is then that of a closed one, and neither needs many windows of its kind.
    """

    size: np.ndarray
    noise: np.ndarray
    learned: np.ndarray

    @classmethod
    def of(cls, windows: Windows, learned: np.ndarray) -> _Alike:
        """Those of some windows."""
        return cls(np.where(windows.closed, windows.size, SIZE), np.full(len(learned), np.nan), learned)

    def by(self, statistic: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Size, noise and learned as a reference wants them for a statistic by its number, or for a sum."""
        return (self.size if statistic == _SHIFT else np.full(len(self.size), SIZE)), self.noise, self.learned


class Judge:
    """References for every statistic of windows and for every model that adds several."""

    def __init__(self, specs: Sequence[Spec]) -> None:
        self.specs = tuple(specs)
        self.process = tuple(spec for spec in specs if spec.scope != WINDOW)
        """Models of processes: their largest scores are the statistics after those of the window."""
        self._names = (*WINDOW_FEATURES, *(spec.name for spec in self.process))
        self._single = [Reference() for _ in self._names]
        self._sums = {spec.name: Reference() for spec in specs if spec.scope == WINDOW and len(spec.features) > 1}

    def judge(self, windows: Windows, learned: np.ndarray) -> tuple[Judgement, np.ndarray]:
        """Judge windows by what was seen before them.

        Args:
            windows: w windows.
            learned: Whether the workload has left Learning, bool, shape (w,).

        Returns:
            The judgement, and the sums of the models that add, float64, shape (w, number of them), for `add`.
        """
        alike = _Alike.of(windows, learned)
        single = np.column_stack(
            [reference.p_values(windows.statistics[:, at], *alike.by(at)) for at, reference in enumerate(self._single)]
        )
        models, sums = [], []
        for spec in self.specs:
            columns = [self._names.index(name) for name in (spec.features if spec.scope == WINDOW else (spec.name,))]
            if spec.name not in self._sums:
                p = single[:, columns[0]]
                # What can still fall says nothing of an open window, and has its weight all the same: it will speak at the end.
                silent = ~windows.closed & ~np.isnan(p) & (columns == [_SHIFT])
                models.append(np.where(silent, 1.0, p))
                continue
            with np.errstate(divide="ignore"):
                surprise = -np.log10(single[:, columns])
            # Nothing is known yet of what can still fall: it adds nothing.
            surprise[np.ix_(~windows.closed, np.array(columns) == _SHIFT)] = 0.0
            sums.append(surprise.sum(axis=1))
            models.append(self._sums[spec.name].p_values(sums[-1], *alike.by(None)))
        each = np.column_stack(models)
        p = aggregate(each, np.array([spec.weight for spec in self.specs]))
        return Judgement(p, score(p), each), np.column_stack(sums) if sums else np.zeros((len(p), 0))

    def add(self, windows: Windows, sums: np.ndarray, learned: np.ndarray, kept: np.ndarray) -> None:
        """Remember the windows of a mask for later ones to be held against."""
        alike, workload = _Alike.of(windows, learned), windows.workload[kept]
        for at, reference in enumerate(self._single):
            size, noise, group = alike.by(at)
            reference.add(windows.statistics[kept, at], size[kept], noise[kept], group[kept], workload)
        for at, reference in enumerate(self._sums.values()):
            size, noise, group = alike.by(None)
            reference.add(sums[kept, at], size[kept], noise[kept], group[kept], workload)

    def refresh(self) -> None:
        """Let what was added count."""
        for reference in (*self._single, *self._sums.values()):
            reference.refresh()

    def summary(self) -> dict[str, dict[str, int]]:
        """Each reference's counts by name."""
        return {name: reference.summary() for name, reference in self._all().items()}

    def status(self) -> dict[str, Any]:
        """Each reference's figures by name, with all of its classes: some 3 kB each."""
        return {name: reference.status() for name, reference in self._all().items()}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"format": _FORMAT, **collected(self._all())}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave, of those references that there still are.

        Raises:
            ValueError: It is of another form.
        """
        if state.get("format") != _FORMAT:
            msg = f"references of format {state.get('format')}, this version reads {_FORMAT}"
            raise ValueError(msg)
        renewed(state, self._all(), "the reference of")

    def _all(self) -> dict[str, Reference]:
        return {
            **dict(zip(self._names, self._single, strict=True)),
            **{f"{name}+": r for name, r in self._sums.items()},
        }
