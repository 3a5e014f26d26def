"""The cache: never older than what it has, and put right by a resync."""

import asyncio

import pytest

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
