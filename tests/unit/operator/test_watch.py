"""The watch: whatever the API server does, the table ends up as the objects are. tests/cluster/test_identity.py runs it on a real one."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from daemoneye_operator import watch as module
from daemoneye_operator.watch import Watch
from tests.support.broker import until
from tests.support.kubeapi import KubeApi, serving

NODES = "/api/v1/nodes"
PODS = "/api/v1/pods"


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with serving() as api:
        yield api


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT_S", 0.05)
    # Its thread ends at once or not at all: on a busy machine at once may take a while.
    monkeypatch.setattr(module, "_END_S", 60.0)


@asynccontextmanager
async def watching(api: KubeApi, path: str = NODES, **options: Any):
    client = api.client()
    watch = Watch(client, path, **options)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        client.close()
        assert not [t for t in threading.enumerate() if t.name.startswith("watch ")], "the thread ends with it"


def names(watch: Watch) -> set[str]:
    return {name for _, name in watch.objects}


def watches(api: KubeApi) -> list[dict[str, str]]:
    return [query for _, query in api.asked if "watch" in query]


async def synced(watch: Watch) -> None:
    async with asyncio.timeout(60):
        await watch.synced.wait()


async def test_objects_come_and_change_and_go(api: KubeApi):
    seen: list[tuple[str, tuple[str, str], Any]] = []
    api.put(NODES, "a", size=1)
    options: dict[str, Any] = {"project": lambda o: o["size"], "on_event": lambda *event: seen.append(event)}
    async with watching(api, **options) as watch:
        await synced(watch)
        assert watch.objects == {("", "a"): 1}
        api.put(NODES, "b", size=1)
        await until("b", lambda: "b" in names(watch))
        api.put(NODES, "a", size=2)
        api.put(NODES, "a", size=2, other="is not projected, so nothing has changed")
        api.take(NODES, "b")
        await until("b gone", lambda: "b" not in names(watch))
        assert watch.objects == {("", "a"): 2}
    assert seen == [
        ("ADDED", ("", "a"), 1), ("ADDED", ("", "b"), 1), ("MODIFIED", ("", "a"), 2), ("DELETED", ("", "b"), 1),
    ]  # fmt: skip


async def test_a_list_of_several_pages_is_one_list(api: KubeApi):
    for i in range(203):
        api.put(PODS, f"p{i}", "ns")
    calls: list[int] = []
    async with watching(api, PODS, on_change=lambda: calls.append(1), project=lambda _: None) as watch:
        await synced(watch)
        assert len(watch.objects) == 203
        assert ("ns", "p7") in watch.objects
    assert calls == [1]
    lists = [query for path, query in api.asked if "watch" not in query]
    assert [query.get("continue") for query in lists] == [None, "100", "200"]
    assert {query["limit"] for query in lists} == {"100"}


async def test_an_empty_collection_is_synced_and_says_so(api: KubeApi):
    calls: list[int] = []
    async with watching(api, on_change=lambda: calls.append(1)) as watch:
        await synced(watch)
        assert calls == [1]


async def test_selectors_and_bookmarks_are_asked_for(api: KubeApi):
    async with watching(api, PODS, labels="app=x,tier in (a,b)", fields="spec.nodeName!=") as watch:
        await synced(watch)
        await until("a watch", lambda: watches(api))
    for _, query in api.asked:
        assert query["labelSelector"] == "app=x,tier in (a,b)"
        assert query["fieldSelector"] == "spec.nodeName!="
    assert api.asked[-1][1]["allowWatchBookmarks"] == "true"
    assert int(api.asked[-1][1]["timeoutSeconds"]) <= 300


async def test_what_went_while_nobody_looked_is_told_after_the_next_list(api: KubeApi):
    seen: list[tuple[str, str]] = []
    for name in ("stays", "goes", "changes"):
        api.put(NODES, name, size=1)
    options: dict[str, Any] = {
        "project": lambda o: o["size"],
        "on_event": lambda kind, key, _: seen.append((kind, key[1])),
    }
    async with watching(api, **options) as watch:
        await synced(watch)
        await until("a watch", lambda: watches(api))
        seen.clear()
        api.refuse = [500, 500]
        with api.changed:
            api.put(NODES, "changes", size=2)
            api.put(NODES, "comes", size=1)
            api.take(NODES, "goes")
            api._log.clear()
            api.expire()
        await until("the list", lambda: len(seen) == 3)
        assert set(seen) == {("MODIFIED", "changes"), ("ADDED", "comes"), ("DELETED", "goes")}
        assert names(watch) == {"stays", "changes", "comes"}


async def test_a_watch_that_ends_goes_on_from_where_it_was(api: KubeApi):
    api.put(NODES, "a")
    async with watching(api) as watch:
        await synced(watch)
        api.put(NODES, "b")
        await until("b", lambda: "b" in names(watch))
        version = api.version
        api.drop()
        await until("another watch", lambda: len(watches(api)) == 2)
        api.put(NODES, "c")
        await until("c", lambda: "c" in names(watch))
    lists = [query for _, query in api.asked if "watch" not in query]
    assert len(lists) == 1
    assert watches(api)[1]["resourceVersion"] == str(version)


async def test_an_expired_page_begins_the_list_again(api: KubeApi):
    for i in range(150):
        api.put(NODES, f"n{i}")
    page = api.page

    def once(path: str, query: dict[str, str]) -> dict[str, Any]:
        if not query.get("continue"):
            api.refuse = [410] if len(api.asked) == 1 else []
        return page(path, query)

    api.page = once  # type: ignore[method-assign]
    async with watching(api) as watch:
        await synced(watch)
        assert len(watch.objects) == 150
    assert [query.get("continue") for _, query in api.asked if "watch" not in query] == [None, "100", None, "100"]


async def test_errors_are_waited_out_and_logged_once(api: KubeApi, caplog: pytest.LogCaptureFixture):
    api.refuse = [503, 403, 500]
    api.put(NODES, "a")
    with caplog.at_level(logging.WARNING, logger=module.__name__):
        async with watching(api) as watch:
            began = watch.last_heard
            await synced(watch)
            assert watch.last_heard > began
    assert [record.getMessage() for record in caplog.records] == [
        "watch of /api/v1/nodes: 503 refused by the test",
    ]


async def test_an_error_in_a_projection_is_not_hidden(api: KubeApi):
    api.put(NODES, "a")
    client = api.client()
    with pytest.raises(KeyError, match="nothing"):
        async with asyncio.timeout(60):
            await Watch(client, NODES, project=lambda o: o["nothing"]).run()
    client.close()


async def test_it_ends_at_once_though_nothing_happens(api: KubeApi):
    async with watching(api) as watch:
        await synced(watch)
        await until("a watch", lambda: watches(api))
        ending = time.monotonic()
    assert time.monotonic() - ending < module._END_S / 2, "the read that waits is cut off"


async def test_what_happens_comes_while_the_watch_lasts(api: KubeApi):
    async with watching(api) as watch:
        await synced(watch)
        await until("a watch", lambda: watches(api))
        api.put(NODES, "new")
        await until("new", lambda: "new" in names(watch))
        assert len(watches(api)) == 1


async def test_who_is_refused_is_not_silent(api: KubeApi, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_LONGEST_WAIT_S", 0.05)
    api.refuse = [403] * 100_000
    async with watching(api) as watch:
        began = watch.last_heard
        await until("refused again and again", lambda: len(api.asked) > 5)
        assert watch.last_heard > began
        assert not watch.synced.is_set()


async def test_watches_that_are_cut_before_a_word_are_followed_by_a_list(api: KubeApi, monkeypatch: pytest.MonkeyPatch):
    """A proxy that ends what is idle, and a server without bookmarks: quiet is not blind."""
    monkeypatch.setattr(module, "_WATCH_S", 3)
    monkeypatch.setattr(module, "_LONGEST_WAIT_S", 0.05)
    async with watching(api) as watch:
        await synced(watch)
        heard = watch.last_heard

        def cut() -> bool:
            api.drop()
            return watch.last_heard > heard

        await until("heard", cut)
        assert len(watches(api)) > 2
        assert len([query for _, query in api.asked if "watch" not in query]) == 2


async def test_a_long_list_is_heard_page_by_page(api: KubeApi, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_PAGE", 1)
    for name in "abc":
        api.put(NODES, name)
    heard: list[float] = []
    client = api.client()
    watch = Watch(client, NODES, project=lambda _: heard.append(watch.last_heard))
    made = watch.last_heard
    task = asyncio.create_task(watch.run())
    await synced(watch)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    client.close()
    assert made < heard[0] < heard[1] < heard[2]


async def test_a_watch_that_shows_nothing_is_silent_by_what_it_heard_alone(api: KubeApi):
    async with watching(api) as watch:
        await synced(watch)
        await until("a watch", lambda: watches(api))
        api.blind.add(NODES)
        heard, tried = watch.last_heard, watch.last_tried
        api.put(NODES, "a")
        api.drop()
        await until("another watch", lambda: len(watches(api)) == 2)
        assert watch.last_heard == heard
        assert watch.last_tried > tried
        assert watch.resource == "nodes"
