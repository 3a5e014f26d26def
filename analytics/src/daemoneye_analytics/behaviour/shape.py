"""A model of how executions or connections look: a frozen pyod detector over their features, fitted again from time to time.

Responsible for the model's life: learning rows, fitting in the background, taking over at a fixed event time, going back. What a fit is, is
`daemoneye_analytics.behaviour.frozen`'s affair, and how it is kept `snapshot`'s.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from itertools import starmap
from typing import Any, Final

import numpy as np

from daemoneye.errors import ConfigError, CorruptData
from daemoneye_analytics.behaviour import snapshot
from daemoneye_analytics.behaviour.catalogue import Part
from daemoneye_analytics.behaviour.frozen import Frozen
from daemoneye_analytics.behaviour.outliers import choose
from daemoneye_analytics.behaviour.reservoir import Reservoir
from daemoneye_analytics.behaviour.retraining import Training, objection, standing_out
from daemoneye_analytics.behaviour.signing import Signer

log = logging.getLogger(__name__)

ROWS: Final = 8_192
RECENT: Final = 2_048
MINIMUM: Final = 500
"""Rows before the first fit."""
DELAY_NS: Final = 60_000_000_000
"""From the begin of a fit until it takes effect, in event time: replays give the same, however fast the fit was."""
RETRY_NS: Final = 3_600_000_000_000
SNAPSHOTS: Final = 3
"""Models kept: the one in use and those before it."""
OUTCOMES: Final = ("promoted", "rejected", "refused", "errors")
_FORMAT: Final = 1
_REASON: Final = 300
_DAY_S: Final = 86_400
_NO_PARAMETERS: Final[Mapping[str, object]] = {}


def check(detector: str, parameters: Mapping[str, object], where: str) -> None:
    """Refuse what `ShapeModel` would refuse, without making one.

    Raises:
        ConfigError: The detector or a parameter cannot be used; the text begins with `where` and names the choices.
    """
    choose(detector, parameters, where)


class ShapeModel:
    """Scores of rows by a pyod detector that was fitted to a sample of earlier rows.

    The caller offers rows, and at its ticks of event time asks `due`, calls `begin` and `promote`. All follows from rows and event times.

    Attributes:
        name: The model's.
        features: Names of the columns.
        counted: Since this process began, by `OUTCOMES`: fits that took over, fits that did not, stored models that were refused, batches that were not
            scored. `status` goes on with what was counted before.
    """

    def __init__(  # noqa: PLR0913 - a model's settings by name
        self,
        name: str,
        features: tuple[str, ...],
        detector: str = "HBOS",
        parameters: Mapping[str, object] = _NO_PARAMETERS,
        *,
        seed: int = 0,
        interval_s: float = _DAY_S,
        signer: Signer | None = None,
        canaries: np.ndarray | None = None,
        hold: int = 0,
    ) -> None:
        """A model that has learned nothing.

        Args:
            name: In status, messages and its bytes.
            features: Names of the columns of all rows, in order; at least one.
            detector: Name of a pyod detector in `daemoneye_analytics.behaviour.outliers.KINDS`.
            parameters: Some of its settings.
            seed: Of all its chance.
            interval_s: Seconds of event time from one fit to the next.
            signer: Seals what `state` gives; None: with a key of this process.
            canaries: Rows of known attacks, float64, shape (c, k), which must stand out by a new model; see `retraining.objection`.
            hold: Number of a kept model to go back to, when what was kept is restored, and to stay at; 0 for none.

        Raises:
            ConfigError: A detector or parameter that cannot be used; the text names the choices.
        """
        if not features or len(set(features)) != len(features):
            raise ConfigError(f"model {name} needs features, each once, not {list(features)}")
        self.name = name
        self.features = features
        self._choice = choose(detector, parameters, f"model {name}")
        self._seed = seed
        self._interval_ns = int(interval_s * 1_000_000_000)
        self._signer = signer or Signer()
        self._canaries = np.zeros((0, len(features))) if canaries is None else canaries
        self._hold, self._held = hold, False
        self._rows = Reservoir(len(features), ROWS, RECENT, seed)
        self._models: list[Frozen] = []
        self._sealed: dict[int, bytes] = {}
        self._training: Training | None = None
        self._number = 0
        self._asked_ns = 0
        self._next_ns = 0
        self._reason = ""
        self._counts = {"refused": 0, "rejected": 0, "errors": 0}
        self.counted = Counter(dict.fromkeys(OUTCOMES, 0))

    @property
    def number(self) -> int:
        """Number of the model in use, 0 before the first. Scores of different numbers are alike in scale, not equal."""
        return self._models[0].number if self._models else 0

    @property
    def caution(self) -> str:
        """What speaks against the chosen detector; empty if nothing does."""
        return self._choice.kind.caution

    def offer(self, rows: np.ndarray) -> None:
        """Learn rows, float64, shape (n, k): they may become part of the next fit."""
        self._rows.offer(rows)

    def score(self, rows: np.ndarray) -> np.ndarray:
        """How unusual rows are.

        Args:
            rows: float64, shape (n, k); NaN is a value that is not known.

        Returns:
            float64, shape (n,): 0 for the usual row, 1 for one in a thousand. NaN before the first fit, for a row without any value, and where the
            detector fails (status counts it). A row's score is the same alone and among others.
        """
        if not self._models:
            return np.full(len(rows), np.nan)
        try:
            return self._models[0].score(rows)
        except Exception as error:
            self._counts["errors"] += 1
            self.counted["errors"] += 1
            self._reason = f"model {self.number} could not score: {error!r}"
            if self._counts["errors"] == 1:
                log.exception("model %s: %d rows were not scored; the next ones are counted only", self.name, len(rows))
            return np.full(len(rows), np.nan)

    def explain(self, row: np.ndarray) -> list[Part]:
        """What makes a row odd, float64, shape (k,): the features by which its score is higher than with their medians, the largest first.

        Empty before the first fit.
        """
        if not self._models:
            return []
        k = len(self.features)
        rows = np.repeat(row[np.newaxis], k + 1, axis=0)
        rows[np.arange(k), np.arange(k)] = median = self._models[0].median
        scores = self.score(rows)
        more = scores[k] - scores[:k]
        found = zip(self.features, more.tolist(), row.tolist(), median.tolist(), strict=True)
        return sorted((part for part in starmap(Part, found) if part.more > 0), key=lambda part: -part.more)

    def due(self, now_ns: int) -> bool:
        """Whether a fit should begin: the interval is over, or there is no model, and there are rows enough; never while a model is held."""
        if self._training or self._held or self._rows.seen < MINIMUM:
            return False
        # A clock that was put back far does not stop retraining.
        return now_ns >= self._next_ns or now_ns < self._asked_ns - self._interval_ns

    def hasten(self) -> None:
        """A fit is due as soon as an hour went by since the last one began, not only when the interval is over."""
        self._next_ns = min(self._next_ns, self._asked_ns + RETRY_NS)

    def begin(self, now_ns: int) -> bool:
        """Begin a fit in the background at this event time, due or not; False where one is running."""
        if self._training:
            return False
        self._number += 1
        self._asked_ns, self._next_ns = now_ns, now_ns + self._interval_ns
        self._training = self._train(self._rows.sample, self._number, now_ns)
        return True

    def promote(self, now_ns: int) -> bool:
        """At `DELAY_NS` after the begin or later: wait for the fit, try it, and let it take over unless something speaks against it.

        Returns:
            Whether another model is in use now; otherwise `status` has the reason.
        """
        training = self._training
        if not training or training.begun_ns - DELAY_NS <= now_ns < training.begun_ns + DELAY_NS:
            return False
        self._training = None
        found = training.finish()
        old = self._models[0] if self._models else None
        reason = found if isinstance(found, str) else objection(old, found, self._rows.recent, self._canaries)
        if reason or isinstance(found, str):
            self._reason = reason
            self._counts["rejected"] += 1
            self.counted["rejected"] += 1
            self._next_ns = training.begun_ns + min(self._interval_ns, RETRY_NS)
            log.warning("model %s: candidate %d does not take over: %s", self.name, training.number, reason)
            return False
        self._reason = ""
        self._models = [found, *self._models][:SNAPSHOTS]
        self.counted["promoted"] += 1
        return True

    def state(self) -> dict[str, Any]:
        """What `restore` needs: numpy arrays and JSON values; models as signed bytes (uint8)."""
        seen, sample, recent = self._rows.state()
        state: dict[str, Any] = {
            "format": _FORMAT,
            "configuration": self._configuration(),
            "seen": seen,
            "number": self._number,
            "asked_ns": self._asked_ns,
            "next_ns": self._next_ns,
            "counts": dict(self._counts),
            "sample": sample,
            "recent": recent,
            "models": len(self._models),
        }
        # A model never changes: it is sealed once.
        self._sealed = {m.number: self._sealed.get(m.number) or self._seal(m) for m in self._models}
        for index, model in enumerate(self._models):
            state[f"model{index}"] = np.frombuffer(self._sealed[model.number], np.uint8)
        if self._training:
            state["training"] = {"begun_ns": self._training.begun_ns, "number": self._training.number}
            state["training_rows"] = self._training.rows
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave. A stored model that is not ours to the last bit is refused, logged and counted, and fitted anew from the rows.

        Raises:
            ValueError: The state is of another form or configuration; nothing changed.
        """
        if state.get("format") != _FORMAT or state.get("configuration") != self._configuration():
            msg = f"state of another format or configuration than model {self.name} has: {state.get('configuration')!r}"
            raise ValueError(msg)
        try:
            rows = Reservoir(len(self.features), ROWS, RECENT, self._seed)
            rows.restore(int(state["seen"]), state["sample"], state["recent"])
            number, asked, following = (int(state[key]) for key in ("number", "asked_ns", "next_ns"))
            counts = {key: int(state["counts"][key]) for key in self._counts}
            stored = [bytes(state[f"model{index}"]) for index in range(min(SNAPSHOTS, int(state["models"])))]
            running = state.get("training")
            training = (state["training_rows"], int(running["number"]), int(running["begun_ns"])) if running else None
        except (KeyError, TypeError, AttributeError) as error:
            msg = f"state of model {self.name}: {error!r}"
            raise ValueError(msg) from error
        if training and (training[0].ndim != 2 or training[0].shape[1] != len(self.features)):
            msg = f"state of model {self.name}: its training's rows do not fit"
            raise ValueError(msg)
        models: list[Frozen] = []
        for sealed in stored:
            try:
                models.append(snapshot.unseal(sealed, self.name, self.features, self._choice, self._signer))
            except CorruptData as error:
                counts["refused"] += 1
                self.counted["refused"] += 1
                self._reason = f"stored model refused: {error}"
                log.warning("model %s: stored model refused, it is fitted anew: %s", self.name, error)
        self._rows, self._models, self._counts, self._sealed = rows, models, counts, {}
        self._number, self._asked_ns = number, asked
        # The one in use was refused: an earlier one serves until the fit, which is due at once.
        self._next_ns = following if len(models) == len(stored) else 0
        self._training = self._train(*training) if training else None
        self._go_back()

    def _go_back(self) -> None:
        """Use the model that is to be held, forget those after it and give up a fit that runs."""
        earlier = [model for model in self._models if model.number <= self._hold]
        self._held = bool(earlier) and earlier[0].number == self._hold
        if self._held:
            self._models, self._training, self._reason = earlier, None, ""
        elif self._hold:
            kept = ", ".join(str(model.number) for model in self._models) or "none"
            self._reason = f"training {self._hold} is to be held and is not kept any more; kept: {kept}"
            log.warning("model %s: %s", self.name, self._reason)

    def status(self) -> dict[str, Any]:
        """State, figures and reasons for people; JSON."""
        phase = "held" if self._held else "active" if self._models else "learning"
        status: dict[str, Any] = {
            "phase": "training" if self._training else phase,
            "detector": self._choice.detector,
            "rows": self._rows.seen,
            "model": self.number,
            "trained_ns": self._models[0].trained_ns if self._models else 0,
            "kept": [model.number for model in self._models],
            **self._counts,
        }
        if self._models and len(self._canaries):
            status["canaries_found"] = self._canaries_found()
        return status | {
            key: text[:_REASON] for key, text in (("reason", self._reason), ("caution", self.caution)) if text
        }

    def _canaries_found(self) -> int:
        try:
            return standing_out(self._models[0], self._rows.recent, self._canaries)
        except Exception:  # noqa: BLE001 - a detector that raises is counted where rows are scored
            return 0

    def _configuration(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "features": list(self.features),
            "detector": self._choice.detector,
            "parameters": dict(self._choice.parameters),
            "seed": self._seed,
        }

    def _seal(self, model: Frozen) -> bytes:
        try:
            return snapshot.seal(model, self.name, self.features, self._choice, self._signer)
        except ValueError as error:
            self._reason = f"model {model.number} is not kept: {error}"
            log.warning("model %s: %s", self.name, self._reason)
            return b""

    def _train(self, rows: np.ndarray, number: int, begun_ns: int) -> Training:
        return Training(rows, self._choice, seed=self._seed, number=number, begun_ns=begun_ns)
