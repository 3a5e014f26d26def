"""Our resources as the operator last saw them.

Responsible for holding them and for telling who waits for changes; filled by kopf's handlers and by the list of each resync, which puts right
whatever a broken watch has missed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from daemoneye_operator import resources
from daemoneye_operator.kube import Kube
from daemoneye_operator.reconcile.findingobject import Ref

Object = Mapping[str, Any]
Key = tuple[str, str]

KINDS: Final = (resources.POLICIES, resources.PEERS, resources.EXCEPTIONS)
"""Kinds that are held whole; of Findings the aggregation holds what it needs."""


class Cache:
    """Objects of our kinds by plural and (namespace, name).

    Attributes:
        finding_gone: Called with each Finding that somebody else deleted.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.finding_gone: Callable[[Ref], None] = lambda _: None
        self._changed = changed
        self._objects: dict[str, dict[Key, Object]] = {plural: {} for plural in KINDS}

    def of(self, plural: str) -> dict[Key, Object]:
        """The objects of a kind."""
        return self._objects[plural]

    def policy(self, name: str) -> Object | None:
        """A policy by its name."""
        return self._objects[resources.POLICIES].get(("", name))

    def put(self, plural: str, obj: Object) -> None:
        """An object was made or changed; one that is older than what is held is left alone."""
        held = self._objects[plural]
        key = _key(obj)
        if _version(obj) >= _version(held.get(key)):
            held[key] = obj
            self._changed()

    def gone(self, plural: str, obj: Object) -> None:
        """An object was deleted."""
        if plural == resources.FINDINGS:
            self.finding_gone(Ref(*_key(obj)))
        elif self._objects[plural].pop(_key(obj), None) is not None:
            self._changed()

    async def resync(self, kube: Kube, findings: Callable[[], set[Ref]]) -> None:
        """Read everything anew; `findings` gives those that are held to exist.

        Raises:
            ApiError: The API server did not answer.
        """
        for plural in KINDS:
            self._objects[plural] = {_key(obj): obj async for obj in kube.list(resources.ours(plural))}
        held = findings()
        path = resources.ours(resources.FINDINGS)
        there = {Ref(*_key(obj)) async for obj in kube.list(path, names_only=True)}
        for ref in held - there:
            self.finding_gone(ref)
        self._changed()


def _key(obj: Object) -> Key:
    return obj["metadata"].get("namespace") or "", obj["metadata"]["name"]


def _version(obj: Object | None) -> int:
    """Versions of one kind are ordered numbers (KEP-5504); an older server's that is no number counts as new."""
    if obj is None:
        return -1
    version = obj["metadata"].get("resourceVersion", "")
    return int(version) if version.isdigit() else 1 << 62
