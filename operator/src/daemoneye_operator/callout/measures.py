"""The callout's metrics, out of its tally.

Responsible for which part has which value; names and help are :mod:`daemoneye.metrics`'.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from daemoneye import metrics
from daemoneye.metrics import Sample
from daemoneye_operator.callout.decision import REASONS
from daemoneye_operator.callout.tally import Tally

COMPONENT: Final = "callout"


def samples(tally: Tally, *, connected: bool) -> Iterator[Sample]:
    """All that is known now; each outcome is shown before it happens, so that its first time is a rise."""
    yield metrics.BROKER_CONNECTED(connected, COMPONENT)
    yield metrics.CALLOUT_DECISIONS(tally.granted, "granted")
    for reason in REASONS:
        yield metrics.CALLOUT_DECISIONS(tally.refused[reason], reason)
    yield metrics.CALLOUT_DECISIONS(tally.errors, "Error")
