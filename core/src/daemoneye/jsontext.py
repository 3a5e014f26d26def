"""Values that a structural schema cannot hold: it knows no value of any type, so that a cluster's objects write them as text in JSON."""

from __future__ import annotations

import json
from typing import Any


def value(given: Any) -> Any:
    """What a text says in JSON; text that is none, and whatever is no text, stands for itself."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except ValueError:
        return given
