"""DetectionException objects: which findings are kept silent, and what the exceptions' status says.

Responsible for reading them, for their scope and end, and for counting what each suppressed; not for what becomes of findings otherwise.
An exception holds in its own namespace, and matches a finding by what the Finding object would say, which is what people copy from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from pydantic import ValidationError

from daemoneye import conditions
from daemoneye.api.v1alpha1.exception import DetectionExceptionSpec
from daemoneye.errors import ConfigError
from daemoneye.wildcards import fits
from daemoneye_operator.reconcile import clock

MAX_EXCEPTIONS: Final = 5000
MAX_TAUGHT: Final = 256 * 1024
"""Bytes of benign verdicts in analytics' configuration; those that do not fit keep findings silent all the same."""


@dataclass(frozen=True, slots=True)
class Silence:
    """One exception that can be read; an empty pattern matches everything. `expires` is in seconds since 1970, `benign` its verdict."""

    uid: str
    namespace: str
    name: str
    expires: float
    detector: str = ""
    workload: str = ""
    image: str = ""
    key: str = ""
    benign: bool = False

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> Self:
        """The exception of an object that the API server gave.

        Raises:
            ConfigError: It does not hold together; the message says what and where.
        """
        try:
            spec = DetectionExceptionSpec.model_validate(obj.get("spec") or {}, by_alias=True, by_name=False)
            expires = clock.seconds(spec.expires_at)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ConfigError(f"spec.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except ValueError:
            raise ConfigError("spec.expiresAt is no time: write one such as 2027-01-31T00:00:00Z") from None
        meta, scope = obj["metadata"], spec.scope
        return cls(
            meta["uid"],
            meta["namespace"],
            meta["name"],
            expires,
            scope.detector or "",
            scope.workload or "",
            scope.image or "",
            scope.key or "",
            spec.verdict == "Benign",
        )

    def matches(self, spec: Mapping[str, Any]) -> bool:
        """Whether it is for a Finding with this spec."""
        subject = spec["subject"]
        return (
            self.detector in ("", spec["detector"])
            and self.key in ("", spec["key"])
            and (not self.workload or fits(self.workload, subject["workload"]))
            and (not self.image or fits(self.image, subject["image"]))
        )


class Exceptions:
    """The exceptions there are, with a count of what each suppressed that outlives the operator: it goes on from the status.

    Attributes:
        silenced: Findings that any of them suppressed since the start.
    """

    def __init__(self) -> None:
        self.silenced = 0
        self._silences: dict[str, list[Silence]] = {}
        self._suppressed: dict[str, int] = {}

    def load(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Take these objects for all that there are; of more than MAX_EXCEPTIONS the later ones are not in force."""
        silences: dict[str, list[Silence]] = {}
        suppressed: dict[str, int] = {}
        for obj, _ in zip(objects, range(MAX_EXCEPTIONS), strict=False):
            uid = obj["metadata"]["uid"]
            suppressed[uid] = max(self._suppressed.get(uid, 0), (obj.get("status") or {}).get("suppressed", 0))
            try:
                silence = Silence.of(obj)
            except ConfigError:
                continue  # its status says so
            silences.setdefault(silence.namespace, []).append(silence)
        self._silences, self._suppressed = silences, suppressed

    def suppress(self, namespace: str, spec: Mapping[str, Any], now: float) -> bool:
        """Whether an exception is in force for a Finding of this namespace with this spec; it is counted for the first that is."""
        for silence in self._silences.get(namespace, ()):
            if now < silence.expires and silence.matches(spec):
                self._suppressed[silence.uid] += 1
                self.silenced += 1
                return True
        return False

    def benign(self, now: float, release_namespace: str) -> list[dict[str, Any]]:
        """What analytics may learn: verdicts in force that say so, at most MAX_TAUGHT bytes of them, in the form of its configuration.

        In the release's namespace they are about processes outside of pods, too: those have no namespace.
        """
        taught: list[dict[str, Any]] = []
        room = MAX_TAUGHT
        everything = (silence for silences in self._silences.values() for silence in silences)
        for one in sorted(everything, key=lambda silence: (silence.namespace, silence.name)):
            if not one.benign or now >= one.expires:
                continue
            for namespace in (one.namespace, "") if one.namespace == release_namespace else (one.namespace,):
                entry = {
                    "namespace": namespace, "detector": one.detector, "workload": one.workload, "image": one.image, "key": one.key,
                    "expires": one.expires,
                }  # fmt: skip
                room -= len(json.dumps(entry))
                if room < 0:
                    return taught
                taught.append(entry)
        return taught

    def status(self, obj: Mapping[str, Any], now: float) -> dict[str, Any]:
        """The status of one of the objects."""
        previous = obj.get("status") or {}
        generation = obj["metadata"].get("generation", 0)
        try:
            silence = Silence.of(obj)
        except ConfigError as error:
            new = conditions.condition(conditions.READY, False, "InvalidSpec", str(error))
        else:
            end = clock.rfc3339(silence.expires)
            if now < silence.expires:
                new = conditions.condition(conditions.READY, True, "InForce", f"In force until {end}.")
            else:
                message = f"It ended at {end}: findings are objects again. Set spec.expiresAt anew, or delete it."
                new = conditions.condition(conditions.READY, False, "Expired", message)
        return {
            "observedGeneration": generation,
            "conditions": conditions.put(
                previous.get("conditions") or (), [new], generation=generation, now=clock.rfc3339(now)
            ),
            "suppressed": max(self._suppressed.get(obj["metadata"]["uid"], 0), previous.get("suppressed", 0)),
        }
