"""The cache: never older than what it has, and put right by a resync."""

import asyncio
from types import SimpleNamespace

import pytest

from daemoneye_operator import cache as module
from daemoneye_operator import resources
from daemoneye_operator.cache import Cache

POLICIES, EXCEPTIONS = resources.POLICIES, resources.EXCEPTIONS


def obj(name, version, namespace=None, uid="u"):
    metadata = {"name": name, "resourceVersion": str(version), "uid": uid}
    if namespace:
        metadata["namespace"] = namespace
    return {"metadata": metadata}


class Api:
    """Lists as the API server gives them; something may happen while one is on its way."""

    def __init__(self, lists, version, meanwhile=lambda: None):
        self.lists, self.version, self.meanwhile = lists, version, meanwhile

    async def list(self, path):
        found = list(self.lists.get(path.rpartition("/")[2], []))
        if path.endswith(POLICIES):
            self.meanwhile()
        return found, self.version


@pytest.fixture
def changes():
    return []


@pytest.fixture
def cache(changes):
    return Cache(lambda: changes.append(1))


def names(cache, plural=POLICIES):
    return {name: int(o["metadata"]["resourceVersion"]) for (_, name), o in cache.of(plural).items()}


def test_an_older_version_changes_nothing(cache, changes):
    cache.put(POLICIES, obj("p", 12))
    cache.put(POLICIES, obj("p", 9))
    assert names(cache) == {"p": 12}
    assert len(changes) == 1
    assert cache.revision[POLICIES] == 1


def test_a_version_that_is_no_number_is_new(cache):
    cache.put(POLICIES, obj("p", 12))
    cache.put(POLICIES, obj("p", "opaque"))
    cache.put(POLICIES, obj("p", "opaque too"))
    assert cache.policy("p")["metadata"]["resourceVersion"] == "opaque too"


def test_deletion_is_told_once(cache, changes):
    cache.put(EXCEPTIONS, obj("e", 1, "shop"))
    cache.gone(EXCEPTIONS, obj("e", 2, "shop"))
    cache.gone(EXCEPTIONS, obj("e", 2, "shop"))
    assert not cache.of(EXCEPTIONS)
    assert len(changes) == 2


def test_our_own_write_does_not_bring_back_what_is_gone(cache):
    cache.put(POLICIES, obj("p", 1))
    cache.gone(POLICIES, obj("p", 2))
    cache.written(POLICIES, obj("p", 3))
    assert names(cache) == {}
    cache.put(POLICIES, obj("p", 5, uid="another"))
    cache.written(POLICIES, obj("p", 6))
    assert names(cache) == {"p": 5}
    cache.written(POLICIES, obj("p", 7, uid="another"))
    assert names(cache) == {"p": 7}


def test_resync_finds_what_a_watch_missed(cache, changes):
    cache.put(POLICIES, obj("deleted", 1))
    cache.put(POLICIES, obj("edited", 2))
    asyncio.run(cache.resync(Api({POLICIES: [obj("edited", 4), obj("new", 5)]}, 9)))
    assert names(cache) == {"edited": 4, "new": 5}
    before = len(changes)
    asyncio.run(cache.resync(Api({POLICIES: [obj("edited", 4), obj("new", 5)]}, 10)))
    assert len(changes) == before, "nothing new, nothing to do"


def test_what_happens_while_a_list_is_on_its_way_is_kept(cache):
    cache.put(POLICIES, obj("kept", 1))
    cache.put(POLICIES, obj("leaving", 2))

    def meanwhile():
        cache.put(POLICIES, obj("made", 12))
        cache.put(POLICIES, obj("kept", 13))
        cache.gone(POLICIES, obj("leaving", 14))

    asyncio.run(cache.resync(Api({POLICIES: [obj("kept", 1), obj("leaving", 2)]}, 10, meanwhile)))
    assert names(cache) == {"made": 12, "kept": 13}


def test_what_is_made_again_while_a_list_is_on_its_way_is_kept(cache):
    cache.put(POLICIES, obj("p", 2))

    def meanwhile():
        cache.gone(POLICIES, obj("p", 10))
        cache.put(POLICIES, obj("p", 11, uid="again"))

    asyncio.run(cache.resync(Api({POLICIES: [obj("p", 11, uid="again")]}, 20, meanwhile)))
    assert names(cache) == {"p": 11}


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def resync(cache, *objects, version=99):
    asyncio.run(cache.resync(Api({POLICIES: list(objects)}, version)))


def test_what_handlers_tell_is_not_waited_for(cache, clock):
    cache.put(POLICIES, obj("p", 1))
    resync(cache, obj("p", 1))
    cache.gone(POLICIES, obj("p", 2))
    resync(cache)
    assert cache.untold_since() is None


def test_what_only_a_list_tells_is_waited_for(cache, clock):
    resync(cache, obj("p", 5))
    assert cache.untold_since() == 100.0
    clock[0] = 160.0
    resync(cache, obj("p", 5), obj("q", 7))
    assert cache.untold_since() == 100.0
    cache.put(POLICIES, obj("p", 5))
    assert cache.untold_since() == 160.0
    cache.put(POLICIES, obj("q", 9))
    assert cache.untold_since() is None


def test_a_deletion_that_only_a_list_tells_is_not_waited_for(cache, clock):
    """kopf, when its version has expired, lists anew and says nothing of what went meanwhile."""
    cache.put(POLICIES, obj("p", 1))
    cache.written(POLICIES, obj("p", 2))
    cache.put(POLICIES, obj("q", 3))
    resync(cache, version=9)
    assert not cache.of(POLICIES)
    assert cache.untold_since() is None


def test_our_own_writes_are_told_by_handlers_too(cache, clock):
    cache.put(POLICIES, obj("p", 1))
    cache.written(POLICIES, obj("p", 2))
    assert cache.untold_since() == 100.0
    clock[0] = 150.0
    cache.written(POLICIES, obj("p", 3))
    assert cache.untold_since() == 100.0, "since the first that nobody told"
    cache.put(POLICIES, obj("p", 2))
    assert cache.untold_since() == 150.0, "who is behind is not blind"
    cache.put(POLICIES, obj("p", 3))
    assert cache.untold_since() is None
    cache.put(POLICIES, obj("p", 4))
    cache.written(POLICIES, obj("p", 4))
    assert cache.untold_since() is None, "the handler was quicker than the answer"


def test_versions_that_are_no_numbers_are_not_waited_for(cache, clock):
    cache.put(POLICIES, obj("p", "a"))
    cache.written(POLICIES, obj("p", "b"))
    assert cache.untold_since() is None
