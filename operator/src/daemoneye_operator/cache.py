"""Our resources as the operator last saw them.

Responsible for holding them and for telling who waits for changes; filled by kopf's handlers and by the list of each resync, which puts right
whatever a broken watch has missed. What lists and our own writes told, and no handler did, is remembered: it says whether kopf's watches see
anything. Not so of deletions: when kopf has to list anew, it never tells which objects are gone. Findings are not held here: the aggregation
has what it needs of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from daemoneye_operator import resources
from daemoneye_operator.kube import Kube

Object = Mapping[str, Any]
Key = tuple[str, str]

_OPAQUE: Final = 1 << 62
KINDS: Final = (resources.POLICIES, resources.PEERS, resources.EXCEPTIONS)


class Cache:
    """Objects of our kinds by plural and (namespace, name).

    Attributes:
        revision: Counts the changes of each kind, so that what follows from its objects is computed once a change.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.revision = dict.fromkeys(KINDS, 0)
        self._changed = changed
        self._objects: dict[str, dict[Key, Object]] = {plural: {} for plural in KINDS}
        # What went while a list was on its way; None while there is none.
        self._going: dict[str, set[Key] | None] = dict.fromkeys(KINDS)
        # Versions that no handler told: since when, and which one it has to tell at least.
        self._untold: dict[tuple[str, Key], tuple[float, int]] = {}

    def of(self, plural: str) -> Mapping[Key, Object]:
        """The objects of a kind."""
        return self._objects[plural]

    def policy(self, name: str) -> Object | None:
        """A policy by its name."""
        return self._objects[resources.POLICIES].get(("", name))

    def put(self, plural: str, obj: Object) -> None:
        """A handler told that an object was made or changed; one that is older than what is held is left alone."""
        key = key_of(obj)
        if (expected := self._untold.pop((plural, key), None)) is not None and _version(obj) < expected[1]:
            self._untold[plural, key] = time.monotonic(), expected[1]
        if (going := self._going[plural]) is not None:
            going.discard(key)
        self._take(plural, key, obj)

    def written(self, plural: str, obj: Object) -> None:
        """What the API server made of our own write: unless the object went meanwhile, or is another one by now."""
        key = key_of(obj)
        held = self._objects[plural].get(key)
        if held is not None and held["metadata"]["uid"] == obj["metadata"]["uid"] and self._take(plural, key, obj):
            self._expect(plural, key, _version(obj))

    def gone(self, plural: str, obj: Object) -> None:
        """A handler told that an object was deleted."""
        key = key_of(obj)
        self._untold.pop((plural, key), None)
        going = self._going[plural]
        if going is not None:
            going.add(key)
        if self._objects[plural].pop(key, None) is not None:
            self._news(plural)

    def untold_since(self) -> float | None:
        """Since when, in monotonic seconds, there is something that a handler should have told and has not; None when there is not."""
        return min((since for since, _ in self._untold.values()), default=None)

    async def resync(self, kube: Kube) -> None:
        """Read everything anew.

        Raises:
            ApiError: The API server did not answer.
        """
        for plural in KINDS:
            going: set[Key] = set()
            self._going[plural] = going
            try:
                objects, version = await kube.list(resources.ours(plural))
            finally:
                self._going[plural] = None
            listed = {key_of(obj): obj for obj in objects}
            self._merge(plural, {key: obj for key, obj in listed.items() if key not in going}, version)

    def _merge(self, plural: str, listed: dict[Key, Object], version: int) -> None:
        """Take a list, which is of this version, for all that there is, but for what was heard of while it was on its way."""
        held = self._objects[plural]
        for key, obj in held.items():
            since = _version(listed[key]) if key in listed else version
            if since < _version(obj) < _OPAQUE:
                listed[key] = obj
        before, after = ({k: _version(o) for k, o in objects.items()} for objects in (held, listed))
        if before != after:
            self._objects[plural] = listed
            for key in before.keys() - after.keys():
                self._untold.pop((plural, key), None)
            for key, at in after.items():
                if before.get(key) != at:
                    self._expect(plural, key, at)
            self._news(plural)

    def _take(self, plural: str, key: Key, obj: Object) -> bool:
        held, version = self._objects[plural], _version(obj)
        if version <= _version(held.get(key)) and version != _OPAQUE:
            return False
        held[key] = obj
        self._news(plural)
        return True

    def _expect(self, plural: str, key: Key, version: int) -> None:
        """A handler is to tell of this version or a later one. Who is waited for already is waited for since then."""
        if version != _OPAQUE:
            since, _ = self._untold.get((plural, key), (time.monotonic(), 0))
            self._untold[plural, key] = since, version

    def _news(self, plural: str) -> None:
        self.revision[plural] += 1
        self._changed()


def key_of(obj: Object) -> Key:
    """Namespace, empty for what has none, and name."""
    return obj["metadata"].get("namespace") or "", obj["metadata"]["name"]


def _version(obj: Object | None) -> int:
    """Versions of one kind are ordered numbers (KEP-5504); an older server's that is no number counts as new."""
    if obj is None:
        return -1
    version = obj["metadata"].get("resourceVersion", "")
    return int(version) if version.isdigit() else _OPAQUE
