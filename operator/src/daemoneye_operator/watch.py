"""One resource of the Kubernetes API, listed and watched for ever.

Responsible for a table of projections that is as new as the API server lets it be, and for saying what changed; not for what anybody makes of
it. The client is synchronous, so each watch has a thread that reads and projects; everything else happens in the loop. Answers are read
as plain JSON, a page or a line at a time: models would cost ten times the memory and seconds of CPU for twenty thousand pods.

::

    list in pages of 100 ──▶ watch from its version, with bookmarks, for 290 s ──▶ watch again from the last version heard
         ▲                                       │
         └── 410 Gone, or not a word in 290 s ◀──┘         errors: again after up to 10 s; one line of log a minute
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import urllib3.exceptions
from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException

Key = tuple[str, str]
"""Namespace (empty for what has none) and name."""
Project = Callable[[dict[str, Any]], Any]
OnEvent = Callable[[str, Key, Any], None]

ADDED: Final = "ADDED"
MODIFIED: Final = "MODIFIED"
DELETED: Final = "DELETED"

# What a page takes while it is read is never quite given back: with 500 objects, 70 MB more among a thousand nodes and their pods.
_PAGE: Final = 100
_WATCH_S: Final = 290
# For the answer's head and each part of the body: a watch that says nothing for longer than it was to last is dead.
_WATCH_TIMEOUT: Final = (10, _WATCH_S + 15)
_LIST_TIMEOUT: Final = (10, 60)
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 10.0
_SHORT_S: Final = 1.0
_END_S: Final = 2.0
_MINUTE: Final = 60.0
_CHUNK: Final = 1 << 16
_GONE: Final = 410

_log = logging.getLogger(__name__)


class _Gone(Exception):  # noqa: N818 - not an error: the version has expired
    """What was asked for is no longer known: list again."""


class _Refused(Exception):  # noqa: N818 - carries what the API server said
    """The API server said no."""


# What a connection, a proxy or a restarting API server may come up with.
_TROUBLE: Final = (_Refused, ApiException, urllib3.exceptions.HTTPError, OSError, ValueError)


class Watch:
    """The objects of one resource, as projections.

    A change that leaves the projection as it was is no change. An object that was deleted and made again between two lists shows as
    modified.

    Attributes:
        objects: (namespace, name) → projection; to be read in the loop only.
        synced: Set after the first whole list.
        last_heard: Monotonic seconds of the last page of a list, event or bookmark, or of the last refusal: who is told no is not blind. At
            first, of the making.
        last_refused: Monotonic seconds of the last refusal; at first minus infinity.
        last_tried: Monotonic seconds of the last sign of life of the thread: what it heard, or that it asked. Who does neither hangs.
    """

    def __init__(
        self,
        api: ApiClient,
        path: str,
        *,
        project: Project = lambda obj: obj,
        labels: str = "",
        fields: str = "",
        on_change: Callable[[], None] | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        """Nothing happens before `run`.

        Args:
            api: The client.
            path: Of the collection, as in ``/apis/apps/v1/namespaces/N/daemonsets``.
            project: What to keep of an object; called in the thread, at once.
            labels: A label selector.
            fields: A field selector.
            on_change: Called in the loop after `objects` changed, once for what came together.
            on_event: Called in the loop for each change: ADDED, MODIFIED or DELETED, the key, and the (last) projection.
        """
        self.objects: dict[Key, Any] = {}
        self.synced = asyncio.Event()
        self.last_heard = self.last_tried = time.monotonic()
        self.last_refused = float("-inf")
        self._api = api
        self._path = path
        self._project = project
        self._selectors = [(k, v) for k, v in (("labelSelector", labels), ("fieldSelector", fields)) if v]
        self._on_change = on_change or (lambda: None)
        self._on_event = on_event or (lambda kind, key, projection: None)  # noqa: ARG005 - nobody listens

    @property
    def resource(self) -> str:
        """Plural of what is watched."""
        return self._path.rpartition("/")[2]

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life."""
        return max(time.monotonic() - self.last_tried, 0.0)

    async def run(self) -> None:
        """Keep `objects` current until cancelled. An error of `project` ends it; nothing that the API server does, does."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        failure: list[BaseException] = []

        def deliver(function: Callable[..., None], *values: Any) -> None:
            with suppress(RuntimeError):  # the loop was closed before the thread noticed
                loop.call_soon_threadsafe(function, *values)

        reader = _Reader(self._api, self._path, self._selectors, self._project, self._tried, self._page, self._refused)

        def read() -> None:
            try:
                reader.run(
                    lambda objects: deliver(self._listed, objects), lambda events: deliver(self._happened, events)
                )
            except BaseException as error:  # noqa: BLE001 - raised again in the loop, which is where somebody sees it
                failure.append(error)
            deliver(ended.set)

        thread = threading.Thread(target=read, name=f"watch {self._path}", daemon=True)
        thread.start()
        try:
            await ended.wait()
        finally:
            reader.end()
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_S):
                    await ended.wait()
                thread.join(_END_S)  # its last statement was to say so
        for error in failure:
            raise error

    # ── in the thread: times alone are set ──────────────────────────────────────────────────────────────────────────

    def _tried(self) -> None:
        self.last_tried = time.monotonic()

    def _page(self) -> None:
        self.last_heard = self.last_tried = time.monotonic()

    def _refused(self) -> None:
        self.last_heard = self.last_refused = time.monotonic()

    # ── in the loop ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _listed(self, objects: dict[Key, Any]) -> None:
        gone = [(DELETED, key, projection) for key, projection in self.objects.items() if key not in objects]
        changed = self._apply([*gone, *((MODIFIED, key, projection) for key, projection in objects.items())])
        if changed or not self.synced.is_set():
            self.synced.set()
            self._on_change()

    def _happened(self, events: list[tuple[str, Key, Any]]) -> None:
        if self._apply(events):
            self._on_change()

    def _apply(self, events: list[tuple[str, Key, Any]]) -> bool:
        """Whether anything changed. What is known decides between ADDED and MODIFIED: after a list, an event may tell what it told."""
        self.last_heard = self.last_tried = time.monotonic()
        changed = False
        for kind, key, projection in events:
            known = key in self.objects
            if kind == DELETED:
                if not known:
                    continue
                del self.objects[key]
            else:
                if known and self.objects[key] == projection:
                    continue
                self.objects[key] = projection
            changed = True
            self._on_event(kind if kind == DELETED else MODIFIED if known else ADDED, key, projection)
        return changed


class _Reader:
    """What happens in the thread."""

    def __init__(
        self,
        api: ApiClient,
        path: str,
        selectors: list[tuple[str, str]],
        project: Project,
        tried: Callable[[], None],
        paged: Callable[[], None],
        refused: Callable[[], None],
    ) -> None:
        self._tried = tried
        self._paged = paged
        self._refused = refused
        self._api = api
        self._path = path
        self._selectors = selectors
        self._project = project
        self._end = threading.Event()
        self._response: urllib3.HTTPResponse | None = None
        self._version = ""
        self._word = 0.0  # when the last one was heard: a list, an event or a bookmark
        self._failures = 0
        self._logged = float("-inf")

    def end(self) -> None:
        """Have `run` return soon; called in another thread."""
        self._end.set()
        response = self._response
        if response is not None:
            with suppress(Exception):  # it may just have ended by itself
                response.shutdown()

    def run(
        self, listed: Callable[[dict[Key, Any]], None], happened: Callable[[list[tuple[str, Key, Any]]], None]
    ) -> None:
        """List and watch until `end`."""
        while not self._end.is_set():
            self._tried()
            try:
                if not self._version:
                    objects, version = self._list()
                    listed(objects)
                    self._version, self._word = version, time.monotonic()
                began = time.monotonic()
                self._follow(happened)
                if time.monotonic() - began >= _SHORT_S:
                    self._doubt()
                    continue
                # A server that ends every watch at once must not be asked a thousand times a second.
                trouble: Exception | None = None
            except _Gone:
                self._version, trouble = "", None
            except _TROUBLE as error:
                trouble = error
            except AttributeError:
                # http.client's, when `end` takes the connection away under its hands.
                if not self._end.is_set():
                    raise
                trouble = None
            self._wait(trouble)
            self._doubt()

    def _doubt(self) -> None:
        """List again when too long nothing was heard, not even a bookmark.

        The version may be one that the server does not know, or something on the way cuts each watch before its first word.
        """
        if time.monotonic() - self._word >= 0.9 * _WATCH_S:
            self._version = ""

    def _wait(self, trouble: Exception | None) -> None:
        self._failures += 1
        if trouble is not None and not self._end.is_set() and time.monotonic() - self._logged >= _MINUTE:
            self._logged = time.monotonic()
            _log.warning("watch of %s: %s", self._path, str(trouble).strip() or repr(trouble))
        longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(self._failures - 1, 10))
        self._end.wait(longest * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all come back at once

    def _list(self) -> tuple[dict[Key, Any], str]:
        objects: dict[Key, Any] = {}
        following = ""
        while True:
            query: list[tuple[str, str | int]] = [("limit", _PAGE)]
            query += [("continue", following)] if following else []
            with self._request(query, _LIST_TIMEOUT) as response:
                page = json.loads(response.read())
            self._paged()
            for item in page.get("items") or ():
                objects[_key(item)] = self._project(item)
            following = page["metadata"].get("continue", "")
            if not following or self._end.is_set():
                break
        return objects, page["metadata"]["resourceVersion"]

    def _follow(self, happened: Callable[[list[tuple[str, Key, Any]]], None]) -> None:
        """One watch, to its end.

        Raises:
            _Gone: The version has expired.
        """
        query = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", _WATCH_S),
            ("resourceVersion", self._version),
        ]
        with self._request(query, _WATCH_TIMEOUT) as response:
            rest = b""
            for chunk in response.stream(_CHUNK, decode_content=False):
                *lines, rest = (rest + chunk).split(b"\n")
                if lines:
                    self._lines(lines, happened)

    def _lines(self, lines: list[bytes], happened: Callable[[list[tuple[str, Key, Any]]], None]) -> None:
        """Deliver what came together; what stands before an error is delivered, too."""
        events: list[tuple[str, Key, Any]] = []
        try:
            for line in filter(None, lines):
                event = json.loads(line)
                kind, item = event["type"], event["object"]
                if kind == "ERROR":
                    raise _Gone if item.get("code") == _GONE else _Refused(_said(item))
                if kind in (ADDED, MODIFIED, DELETED):
                    events.append((kind, _key(item), self._project(item)))
                self._version, self._failures = item["metadata"]["resourceVersion"], 0
                self._word = time.monotonic()
        finally:
            happened(events)

    @contextmanager
    def _request(self, query: list[Any], timeout: tuple[int, int]) -> Iterator[urllib3.HTTPResponse]:
        request = self._api.param_serialize(
            "GET",
            self._path,
            query_params=[*query, *self._selectors],
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        response: urllib3.HTTPResponse = self._api.call_api(*request, _request_timeout=timeout).response
        self._response = response
        try:
            if self._end.is_set():
                raise _Refused("ended")
            if response.status == _GONE:
                raise _Gone
            if response.status != 200:
                self._refused()
                raise _Refused(f"{response.status} {_said(_json(response.read()))}".strip())
            yield response
        finally:
            self._response = None
            # Of a connection that has been read to the end this closes nothing: it is back in the pool.
            response.close()


def _key(item: dict[str, Any]) -> Key:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _json(data: bytes) -> Any:
    with suppress(ValueError):
        return json.loads(data)
    return {}


def _said(status: Any) -> str:
    """The sentence of a Status object."""
    return str(status.get("message") or status.get("reason") or "") if isinstance(status, dict) else ""
