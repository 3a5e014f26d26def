"""The state of a detector that is made of parts: one flat table for the checkpoint, and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

from daemoneye_analytics.detectors.base import State

_LOG: Final = logging.getLogger(__name__)


class Part(Protocol):
    """Something that a checkpoint keeps."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""


def gathered(form: int, parts: Mapping[str, Part]) -> State:
    """The state of all parts, each value named by its part; `form` is the number of this form."""
    return {
        "format": form,
        **{f"{name}_{key}": value for name, part in parts.items() for key, value in part.state().items()},
    }


def restored(state: State, form: int, parts: Mapping[str, Part], detector: str) -> None:
    """Give each part what `gathered` took from it.

    Raises:
        ValueError: The state is of another form.
    """
    if state.get("format") != form:
        msg = f"state of {detector} has format {state.get('format')}, this version reads {form}"
        raise ValueError(msg)
    for name, part in parts.items():
        prefix = f"{name}_"
        part.restore({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})


def collected(parts: Mapping[str, Part]) -> State:
    """The state of parts that somebody named, whose names hold no dot: each value behind its part's name and a dot."""
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state().items()}


def renewed(state: State, parts: Mapping[str, Part], what: str) -> None:
    """Give each part what `collected` took from one of its name, if there was one; a part that cannot use it begins anew, which is logged.

    Args:
        state: What was collected, from these parts or former ones.
        parts: Those that there are now.
        what: What a part is, in the log.
    """
    for name, part in parts.items():
        mine = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        if not mine:
            continue
        try:
            part.restore(mine)
        except ValueError as error:
            _LOG.warning("%s %s begins anew: %s", what, name, error)
