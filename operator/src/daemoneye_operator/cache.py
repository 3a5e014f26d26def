"""Our resources as the operator last saw them.

Responsible for holding them and for telling who waits for changes; filled by kopf's handlers and by the list of each resync, which puts right
whatever a broken watch has missed. Findings are not held here: the aggregation has what it needs of them.
"""

from __future__ import annotations

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

    def of(self, plural: str) -> Mapping[Key, Object]:
        """The objects of a kind."""
        return self._objects[plural]

    def policy(self, name: str) -> Object | None:
        """A policy by its name."""
        return self._objects[resources.POLICIES].get(("", name))

    def put(self, plural: str, obj: Object) -> None:
        """An object was made or changed; one that is older than what is held is left alone."""
        held, key = self._objects[plural], key_of(obj)
        version = _version(obj)
        if (going := self._going[plural]) is not None:
            going.discard(key)
        if version > _version(held.get(key)) or version == _OPAQUE:
            held[key] = obj
            self._news(plural)

    def written(self, plural: str, obj: Object) -> None:
        """What the API server made of our own write: unless the object went meanwhile, or is another one by now."""
        held = self._objects[plural].get(key_of(obj))
        if held is not None and held["metadata"]["uid"] == obj["metadata"]["uid"]:
            self.put(plural, obj)

    def gone(self, plural: str, obj: Object) -> None:
        """An object was deleted."""
        key = key_of(obj)
        going = self._going[plural]
        if going is not None:
            going.add(key)
        if self._objects[plural].pop(key, None) is not None:
            self._news(plural)

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
        if {k: _version(o) for k, o in held.items()} != {k: _version(o) for k, o in listed.items()}:
            self._objects[plural] = listed
            self._news(plural)

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
