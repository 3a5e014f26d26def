"""What detectors of the network have in common: rows of which a few become findings, and what says the same again and again is told seldom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

from daemoneye.findings import Finding
from daemoneye_analytics import conversations
from daemoneye_analytics.detectors.base import Declaration, Parameter, State
from daemoneye_analytics.detectors.parts import Part, gathered, restored
from daemoneye_analytics.detectors.repeats import Repeats
from daemoneye_analytics.evidence import Verdict
from daemoneye_analytics.frame import Frame, text_hash

SECOND: Final = 1_000_000_000
_HOUR: Final = 3600 * SECOND


def hourly(of: str, default: int = 1) -> Parameter:
    """The parameter that bounds how often something is told; every detector that is a `Teller` has it."""
    return Parameter("findings_per_hour", default, f"findings of one {of} within an hour; more are counted", minimum=1)


class Teller:
    """A detector but for its `process`; those that keep more than repetitions add it to `_parts`."""

    declaration: ClassVar[Declaration]
    _format: ClassVar[int] = 1
    """Number of the form of its state."""
    _again: ClassVar[str] = "The hour before it was seen {} times more."

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._p = parameters
        self._repeats = Repeats(parameters["findings_per_hour"], _HOUR)

    @property
    def _parts(self) -> dict[str, Part]:
        return {"repeats": self._repeats}

    def state(self) -> State:
        """See `Detector`."""
        return gathered(self._format, self._parts)

    def restore(self, state: State) -> None:
        """See `Detector`."""
        restored(state, self._format, self._parts, self.declaration.name)

    def status(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"phase": "active", "suppressed": self._repeats.suppressed}

    def _tell(self, frame: Frame, record: str, index: int, verdict: Verdict) -> Finding | None:
        """The finding about one row; None where its key was told often enough within the hour."""
        hidden = self._repeats.admit(text_hash(verdict.key), frame.wall(record, index))
        if hidden is None:
            return None
        if hidden:
            verdict = replace(verdict, explanation=(*verdict.explanation, self._again.format(hidden)))
        return conversations.finding(frame, record, index, self.declaration, verdict)
