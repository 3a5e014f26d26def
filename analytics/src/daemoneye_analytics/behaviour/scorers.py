"""The models of processes: what each says of an execution, and when they are trained.

Responsible for handing features to them; a model that is fitted is `daemoneye_analytics.behaviour.shape`'s, one that is not adds its features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from daemoneye_analytics.behaviour import canaries
from daemoneye_analytics.behaviour.catalogue import Part
from daemoneye_analytics.behaviour.features import Measured
from daemoneye_analytics.behaviour.models import BehavioralModel
from daemoneye_analytics.detectors.parts import collected, renewed

if TYPE_CHECKING:
    from daemoneye_analytics.behaviour.shape import ShapeModel


class Scorers:
    """The models of processes, in their order."""

    def __init__(self, specs: Sequence[BehavioralModel], update_seconds: int, held: Mapping[str, int]) -> None:
        self._specs = tuple(specs)
        self._fitted: dict[str, ShapeModel] = {}
        for spec in specs:
            if spec.learned:
                from daemoneye_analytics.behaviour.shape import ShapeModel

                self._fitted[spec.name] = ShapeModel(
                    spec.name, spec.features, spec.detector, spec.parameters, interval_s=update_seconds, canaries=canaries.rows(spec.features),
                    hold=held.get(spec.name, 0),
                )  # fmt: skip

    def score(self, measured: Measured) -> np.ndarray:
        """What each says of n executions, float64, shape (n, models); larger is more unusual, NaN where one was not fitted yet."""
        out = np.full((len(measured.new), len(self._specs)), np.nan)
        for at, spec in enumerate(self._specs):
            rows = _columns(measured, spec)
            out[:, at] = self._fitted[spec.name].score(rows) if spec.learned else rows.sum(axis=1)
        return out

    def column(self, name: str) -> int | None:
        """Where the scores of a model of processes stand among the columns of `score`; None where no such model has this name."""
        return next((at for at, spec in enumerate(self._specs) if spec.name == name), None)

    @property
    def numbers(self) -> dict[str, int]:
        """Of each fitted model the number of the one in use, 0 before the first."""
        return {name: model.number for name, model in self._fitted.items()}

    def explain(self, name: str, measured: Measured, row: int) -> list[Part]:
        """What a model finds odd about a row, the oddest first; empty where no model of processes has this name."""
        column = self.column(name)
        if column is None:
            return []
        spec = self._specs[column]
        values = _columns(measured, spec)[row]
        if spec.learned:
            return self._fitted[name].explain(values)
        parts = [Part(f, v, v, None) for f, v in zip(spec.features, values.tolist(), strict=True) if v > 0]
        return sorted(parts, key=lambda part: -part.more)

    def offer(self, measured: Measured) -> None:
        """Executions that may be learned from."""
        for spec in self._specs:
            if spec.learned:
                self._fitted[spec.name].offer(_columns(measured, spec))

    def advance(self, now_ns: int) -> bool:
        """Train what is due and promote what was trained, by the events' time; whether one was promoted."""
        promoted = False
        for model in self._fitted.values():
            promoted |= model.promote(now_ns)
            if model.due(now_ns):
                model.begin(now_ns)
        return promoted

    def hasten(self) -> None:
        """What is usual has changed: train anew as soon as may be."""
        for model in self._fitted.values():
            model.hasten()

    def status(self) -> dict[str, Any]:
        """Each fitted model's figures by name; `counted` of them are since this process began."""
        return {name: {**model.status(), "counted": dict(model.counted)} for name, model in self._fitted.items()}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return collected(self._fitted)

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave, of those models that there still are."""
        renewed(state, self._fitted, "model")


def _columns(measured: Measured, spec: BehavioralModel) -> np.ndarray:
    return np.column_stack([measured.column(name) for name in spec.features])
