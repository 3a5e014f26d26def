"""Rows of several looks and tables as batches of a bearable size."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from daemoneye.events.codec import Section, concatenate
from daemoneye_sensor.sources.base import Drain


def batches(lane: str, sections: Iterable[Section], most: int) -> list[Drain]:
    """Drains of a lane, of each record no more than `most` rows in one: those of a record are together, in order of time."""
    by_record: dict[str, list[Section]] = {}
    for section in sections:
        if len(section.rows):
            by_record.setdefault(section.record.name, []).append(section)
    whole = [_in_time(concatenate(parts)) for parts in by_record.values()]
    drains = []
    for first in range(0, max((len(section.rows) for section in whole), default=0), most):
        parts = tuple(
            section
            if len(section.rows) <= most
            else section.take(np.arange(first, min(first + most, len(section.rows))))
            for section in whole
            if first < len(section.rows)
        )
        drains.append(Drain(lane, parts, rows=sum(len(part.rows) for part in parts)))
    return drains


def _in_time(section: Section) -> Section:
    moments = section.rows["time"]
    return section.take(np.argsort(moments, kind="stable")) if bool((moments[1:] < moments[:-1]).any()) else section
