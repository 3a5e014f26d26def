"""The state of a detector that is made of parts: one flat table for the checkpoint, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from daemoneye_analytics.detectors.base import State


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
