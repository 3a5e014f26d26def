"""The behavioural analyser: what models say of processes and of windows, as p-values, and many models' p-values as one score.

Responsible for which reference each figure is held against, for aggregation and for what a score means; models, features and references are given. A score
is stated once and never renormalised: 0.8 means an aggregate p of 1e-4, one false alarm in 10,000 benign windows if the models are calibrated. A window
that is still open is judged as if it were as large as it may become, and by what can only grow: an alarm that is raised early would be raised at its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from daemoneye.errors import ConfigError
from daemoneye_analytics.behaviour.catalogue import WINDOW, WINDOW_FEATURES
from daemoneye_analytics.behaviour.features import Measured
from daemoneye_analytics.behaviour.models import BehavioralModel
from daemoneye_analytics.behaviour.reference import Reference
from daemoneye_analytics.behaviour.scorers import Scorers
from daemoneye_analytics.behaviour.windows import SIZE, Windows
from daemoneye_analytics.detectors.parts import collected, renewed

DECADES: Final = 5.0
"""Decades of p that the score's range from 0 to 1 spans."""
_FORMAT: Final = 1
_FALLING: Final = "shift"
"""The one statistic that can fall while a window is open."""
_SIGNS: Final = "intrusion"
SUSPECT_BITS: Final = 8.0
"""Bits of `intrusion` beyond which a window is rather an intruder's than not, even if one window in 2^8 were an intruder's: they are a likelihood ratio."""
_DAY_S: Final = 86_400
_NONE: Final[Mapping[str, int]] = {}


class Judgement(NamedTuple):
    """What is said of w windows.

    Attributes:
        p: Aggregate p-value, float64, shape (w,); NaN where no model is calibrated.
        score: From 0 to 1, float64, shape (w,); NaN likewise.
        models: Each model's p-value, float64, shape (w, number of models).
        alarm: Whether the score reaches the threshold, bool, shape (w,).
        suspect: Whether the window is no example of what is usual, whatever its score: by its signs alone it is rather an intruder's, bool, shape (w,).
    """

    p: np.ndarray
    score: np.ndarray
    models: np.ndarray
    alarm: np.ndarray
    suspect: np.ndarray


class BehavioralAnalyzer:
    """Models, what each is held against, and the threshold from which on their common score is an alarm.

    Windows of connections have an analyser of their own, without `figures`: names of the statistics that come before those of the models.

    Attributes:
        models: The models; at least one.
        anomaly_threshold: Score from 0 to 1.
        process: The models of processes (or connections) among them: their largest scores are the statistics after those of the window.
        scorers: What those say, and their training.

    Raises:
        ConfigError: No model, two of one name, or a threshold outside of 0 to 1.
    """

    def __init__(
        self,
        models: Sequence[BehavioralModel],
        anomaly_threshold: float = 0.8,
        update_seconds: int = _DAY_S,
        figures: Sequence[str] = WINDOW_FEATURES,
        held: Mapping[str, int] = _NONE,
    ) -> None:
        names = [model.name for model in models]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"the analyser needs models with different names, not {names}")
        if not 0 <= anomaly_threshold <= 1:
            raise ConfigError(f"anomaly_threshold {anomaly_threshold} must lie in 0 to 1")
        self.models = tuple(models)
        self.anomaly_threshold = anomaly_threshold
        self.process = tuple(model for model in models if model.scope != WINDOW)
        self.scorers = Scorers(self.process, update_seconds, held)
        self._names = (*figures, *(model.name for model in self.process))
        # A mean's spread depends on the window's size. What can only grow has one class: an open window's p is then that of a closed one.
        self._single = [Reference(sized=name == _FALLING) for name in self._names]
        self._falling = self._names.index(_FALLING) if _FALLING in self._names else -1
        self._sums = {
            model.name: Reference(sized=False) for model in models if model.scope == WINDOW and len(model.features) > 1
        }

    def analyze_process(self, measured: Measured) -> np.ndarray:
        """What each model of processes says of n executions, float64, shape (n, len(process)): larger is more unusual, NaN where it was not fitted yet.

        These are no p-values: a window's largest is held against other windows' largest ones by `analyze_windows`.
        """
        return self.scorers.score(measured)

    def analyze_windows(self, windows: Windows[Any], learned: np.ndarray) -> tuple[Judgement, np.ndarray]:
        """Judge windows by what was seen before them.

        Args:
            windows: w windows.
            learned: Whether the workload has left Learning, bool, shape (w,).

        Returns:
            The judgement, and the sums of the models that add, float64, shape (w, number of them), for `add`.
        """
        size = _size(windows)
        single = np.column_stack(
            [reference.p_values(windows.statistics[:, at], size, learned) for at, reference in enumerate(self._single)]
        )
        each, sums = [], []
        for model in self.models:
            columns = [self._names.index(name) for name in (model.features if model.scope == WINDOW else (model.name,))]
            if model.name not in self._sums:
                p = single[:, columns[0]]
                # What can still fall says nothing of an open window, and has its weight all the same: it will speak at the end.
                silent = ~windows.closed & ~np.isnan(p) & (columns == [self._falling])
                each.append(np.where(silent, 1.0, p))
                continue
            with np.errstate(divide="ignore"):
                surprise = -np.log10(single[:, columns])
            # Nothing is known yet of what can still fall: it adds nothing.
            surprise[np.ix_(~windows.closed, np.array(columns) == self._falling)] = 0.0
            sums.append(surprise.sum(axis=1))
            each.append(self._sums[model.name].p_values(sums[-1], size, learned))
        p_values = np.column_stack(each)
        p = aggregate(p_values, np.array([model.weight for model in self.models]))
        scores = score(p)
        # NaN never is.
        judgement = Judgement(p, scores, p_values, scores >= self.anomaly_threshold, self._suspect(windows))
        return judgement, np.column_stack(sums) if sums else np.zeros((len(p), 0))

    def _suspect(self, windows: Windows[Any]) -> np.ndarray:
        if _SIGNS not in self._names:
            return np.zeros(len(windows.statistics), bool)
        return np.asarray(windows.statistics[:, self._names.index(_SIGNS)] > SUSPECT_BITS)

    def add(self, windows: Windows[Any], sums: np.ndarray, learned: np.ndarray, kept: np.ndarray) -> None:
        """Remember the windows of a mask for later ones to be held against."""
        statistics = np.column_stack((windows.statistics, sums))[kept]
        size, group, workload = _size(windows)[kept], learned[kept], windows.workload[kept]
        for at, reference in enumerate(self._all().values()):
            reference.add(statistics[:, at], size, group, workload, windows.start[kept])

    def forget(self, workload: np.ndarray, start: np.ndarray) -> None:
        """Take windows back that were remembered, by their workloads, u64, and starts, int64: they turned out to be no example."""
        for reference in self._all().values():
            reference.forget(workload, start)

    def refresh(self) -> None:
        """Let what was added count."""
        for reference in self._all().values():
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


def _size(windows: Windows[Any]) -> np.ndarray:
    """Executions of each window; an open one counts as if it were full."""
    return np.where(windows.closed, windows.size, SIZE)


def aggregate(p_values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Bonferroni's minimum, weighted: min(1, min p_i · W / w_i), which holds however the models depend on each other.

    Equal weights give k · min p. (Genovese, Roeder, Wasserman: False discovery control with p-value weighting, 2006.)

    Args:
        p_values: float64, shape (n windows, m models); NaN where a model gives none, whose weight does not count then.
        weights: float64, shape (m,), positive: how much of the alarms each may raise; equal by default.

    Returns:
        float64, shape (n,); NaN where every model's is.
    """
    known = ~np.isnan(p_values)
    weight = np.ones(p_values.shape[1]) if weights is None else np.asarray(weights, np.float64)
    smallest = np.where(known, p_values / weight, np.inf).min(axis=1, initial=np.inf)
    total = (known * weight).sum(axis=1)
    return np.where(total > 0, np.minimum(1.0, total * np.where(total > 0, smallest, 1.0)), np.nan)


def score(p: np.ndarray) -> np.ndarray:
    """clip(-log10 p / 5, 0, 1) of any shape: p = 1 gives 0, 1e-4 gives 0.8, 1e-5 and less give 1; NaN stays."""
    with np.errstate(divide="ignore"):
        # A p of exactly 0 cannot come from data; it is the best score and no error.
        return np.clip(-np.log10(p) / DECADES, 0.0, 1.0)
