"""Times as Kubernetes writes them.

Responsible for turning seconds since 1970 into RFC 3339 and back; not for asking what time it is: callers pass `now`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_FRACTION: Final = re.compile(r"\.(\d+)")


def rfc3339(seconds: float) -> str:
    """Time in UTC to the second, as `metav1.Time` has it."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro(seconds: float) -> str:
    """Time in UTC to the microsecond, as `metav1.MicroTime` has it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time; digits beyond the microsecond, which findings have, are dropped.

    Raises:
        ValueError: It is no such time, or names no zone.
    """
    time = datetime.fromisoformat(
        _FRACTION.sub(lambda match: f".{match[1][:6]:0<6}", text.strip().upper().replace("Z", "+00:00"))
    )
    if time.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return time.timestamp()
