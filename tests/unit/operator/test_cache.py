"""The cache: never older than what it has, and put right by a resync."""

import asyncio

import pytest

from daemoneye_operator import resources
from daemoneye_operator.cache import Cache
from daemoneye_operator.reconcile.findingobject import Ref


def obj(name, version, namespace=None):
    metadata = {"name": name, "resourceVersion": str(version)}
    if namespace:
        metadata["namespace"] = namespace
    return {"metadata": metadata}


class Api:
    """Lists as the API server gives them."""

    def __init__(self, lists):
        self.lists = lists

    async def list(self, path, *, names_only=False):
        for item in self.lists.get(path.rpartition("/")[2], []):
            yield item


@pytest.fixture
def changes():
    return []


@pytest.fixture
def cache(changes):
    return Cache(lambda: changes.append(1))


def test_an_older_version_changes_nothing(cache, changes):
    cache.put(resources.POLICIES, obj("p", 12))
    cache.put(resources.POLICIES, obj("p", 9))
    assert cache.policy("p")["metadata"]["resourceVersion"] == "12"
    assert len(changes) == 1


def test_a_version_that_is_no_number_is_new(cache):
    cache.put(resources.POLICIES, obj("p", 12))
    cache.put(resources.POLICIES, obj("p", "opaque"))
    assert cache.policy("p")["metadata"]["resourceVersion"] == "opaque"


def test_deletion_is_told_once(cache, changes):
    cache.put(resources.EXCEPTIONS, obj("e", 1, "shop"))
    cache.gone(resources.EXCEPTIONS, obj("e", 2, "shop"))
    cache.gone(resources.EXCEPTIONS, obj("e", 2, "shop"))
    assert not cache.of(resources.EXCEPTIONS)
    assert len(changes) == 2


def test_resync_finds_what_a_watch_missed(cache):
    gone: list[Ref] = []
    cache.finding_gone = gone.append
    cache.put(resources.POLICIES, obj("deleted", 1))
    api = Api({resources.POLICIES: [obj("new", 5)], resources.FINDINGS: [obj("kept", 3, "shop")]})
    asyncio.run(cache.resync(api, lambda: {Ref("shop", "kept"), Ref("shop", "lost")}))
    assert set(cache.of(resources.POLICIES)) == {("", "new")}
    assert gone == [Ref("shop", "lost")]
