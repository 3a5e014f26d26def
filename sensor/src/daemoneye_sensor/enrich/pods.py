"""What Kubernetes knows of this node's pods, by the UID in their cgroup's name.

Responsible for keeping documents within a bound and for saying when something changed; not for fetching them
(:mod:`daemoneye_sensor.configuration`) nor for joining them to rows (:mod:`daemoneye_sensor.enrich.podrows`).

A pod that was deleted keeps its document until others need its place: its last events are still to come.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Final

from daemoneye.errors import CorruptData
from daemoneye.podidentity import MAX_BYTES, PodIdentity

MAX_PODS: Final = 4096
# Of the fields that are no text.
_KINDS: Final[Mapping[str, type]] = {"labels": dict, "namespace_labels": dict, "images": dict, "cut": bool}

_FILE_HASH: Final = re.compile(r"[0-9a-f]{32}")

_log = logging.getLogger(__name__)


class Pods:
    """Documents of pods.

    Attributes:
        version: Rises with every change that a reader could see.
        ask: Called with the UID of a pod whose document is not known; says whether an answer may come soon. Set by whoever can fetch.
    """

    def __init__(self, limit: int = MAX_PODS) -> None:
        self.version = 0
        self.ask: Callable[[str], bool] = lambda _: False
        self._limit = limit
        self._documents: dict[str, PodIdentity] = {}  # the one used longest ago first
        self._deleted: set[str] = set()

    def __len__(self) -> int:
        """Documents."""
        return len(self._documents)

    def get(self, uid: str) -> PodIdentity | None:
        """The document of a pod, which counts as used by that."""
        document = self._documents.pop(uid, None)
        if document is not None:
            self._documents[uid] = document
        return document

    def take(self, uid: str, data: bytes | None) -> bool:
        """Learn what the broker says of a pod, None for one that was deleted; whether that is news. What cannot be read is none."""
        if data is None:
            if uid in self._documents:
                self._deleted.add(uid)
            return False
        try:
            document = _read(uid, data)
        except CorruptData as error:
            _log.warning("pod %s: %s", uid, error)
            return False
        self._deleted.discard(uid)
        before = self._documents.pop(uid, None)
        # An equal document stays the same object: what was computed from it stays good.
        self._documents[uid] = before if before == document and before is not None else document
        if before == document:
            return False
        self.version += 1
        while len(self._documents) > self._limit:
            oldest = next((u for u in self._documents if u in self._deleted), next(iter(self._documents)))
            del self._documents[oldest]
            self._deleted.discard(oldest)
        return True

    def living(self) -> list[str]:
        """UIDs of pods that are not known to be deleted."""
        return [uid for uid in self._documents if uid not in self._deleted]


def _read(uid: str, data: bytes) -> PodIdentity:
    """A document whose every value is of its kind, for others compute with it, and which is about the pod that it came for.

    Raises:
        CorruptData: It is not such a document.
    """
    if len(data) > MAX_BYTES:
        raise CorruptData(f"a pod's identity of {len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        document = PodIdentity.decode(data)
    except RecursionError as error:
        raise CorruptData("not a pod's identity: nested too deep") from error
    for field in fields(document):
        value = getattr(document, field.name)
        texts = value.values() if isinstance(value, dict) else ()
        if not isinstance(value, _KINDS.get(field.name, str)) or not all(isinstance(text, str) for text in texts):
            raise CorruptData(f"not a pod's identity: {field.name} is {type(value).__name__}")
    # A static pod's key is the hash of its file, which does not stand in the document (`daemoneye.podidentity.cgroup_uid`).
    if document.uid != uid and not (document.owner_kind == "Node" and _FILE_HASH.fullmatch(uid)):
        raise CorruptData(f"not this pod's identity: it is {document.uid[:64]!r}'s")
    return document
