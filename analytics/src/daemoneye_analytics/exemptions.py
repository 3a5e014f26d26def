"""Benign verdicts: what somebody said is wanted behaviour, so that it is learned although it is unusual.

Responsible for reading them from the operator's document and for what they cover, in the words of Finding objects, from which people copy. That findings
are kept silent is the operator's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from daemoneye.escape import escape
from daemoneye.wildcards import fits

_SECOND: Final = 1_000_000_000
_TEXTS: Final = ("namespace", "detector", "workload", "image", "key")
_MAX: Final = 5000
_LATEST: Final = 10**12
"""Seconds since 1970: more is no time, and may be no float either."""


@dataclass(frozen=True, slots=True)
class Exemption:
    """One verdict. An empty `detector`, `workload`, `image` or `key` stands for any; the namespace is empty for what is in no pod.

    Attributes:
        namespace: Namespace of the pods that it is about.
        detector: Name of the detector.
        workload: Pattern of the workload.
        image: Pattern of the image.
        key: What the finding is about.
        expires: When it ends, seconds since 1970 of the events' own time.
    """

    namespace: str
    detector: str
    workload: str
    image: str
    key: str
    expires: float

    def covers(self, namespace: str, workload: str, image: str, key: str, time_ns: int) -> bool:
        """Whether it is for a finding of this workload with this key at this time."""
        return (
            time_ns < self.expires * _SECOND
            and self.namespace == namespace
            and self.key in ("", escape(key))
            and (not self.workload or fits(self.workload, escape(workload)))
            and (not self.image or fits(self.image, escape(image)))
        )


def read(entries: Any) -> tuple[Exemption, ...]:
    """The verdicts of a document; what is wrong in one leaves it out: then nothing is learned, and nothing is lost."""
    found = []
    for entry in entries[:_MAX] if isinstance(entries, list) else ():
        if not isinstance(entry, Mapping):
            continue
        texts = {name: entry.get(name, "") for name in _TEXTS}
        expires = entry.get("expires")
        if not isinstance(expires, int | float) or isinstance(expires, bool) or not 0 <= expires <= _LATEST:
            continue
        if all(isinstance(text, str) for text in texts.values()):
            found.append(Exemption(**texts, expires=float(expires)))
    return tuple(found)
