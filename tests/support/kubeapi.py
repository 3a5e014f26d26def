"""A stand-in for the API server that can fail as a real one does but seldom: expired versions, errors, connections that end.

Lists in pages and watches of collections whose objects a test puts and takes away, or applies. tests/cluster holds the same code to the real one.
"""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kubernetes.client import ApiClient, Configuration

OBJECTS = {"pods": "/api/v1/pods", "namespaces": "/api/v1/namespaces"}
_REFUSED = {"kind": "Status", "message": "refused by the test"}


class KubeApi:
    """Objects by collection.

    Attributes:
        asked: Queries, in order, as (path, parameters).
        refuse: Status codes to answer the next requests with.
        expired: Versions before this one are answered with 410.
        blind: Collections whose watches show nothing any more, though they stay open.
        away: Nobody is answered; `drop` ends the watches that are open.
    """

    def __init__(self, port: int) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.refuse: list[int] = []
        self.expired = 0
        self.blind: set[str] = set()
        self.away = False
        self.counts: Counter[str] = Counter()
        self.changed = threading.Condition()
        self.version = 100
        self.stopping = False
        self.hang_up = 0
        self._port = port
        self._objects: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self._log: list[tuple[int, str, str, dict[str, Any]]] = []

    def client(self) -> ApiClient:
        """A client of it."""
        configuration = Configuration()
        configuration.host = f"http://127.0.0.1:{self._port}"
        return ApiClient(configuration)

    def put(self, path: str, name: str, namespace: str = "", **content: Any) -> dict[str, Any]:
        """Make or change an object; metadata's other keys are given as `metadata`."""
        with self.changed:
            self.version += 1
            metadata = {"name": name, **content.pop("metadata", {}), "resourceVersion": str(self.version)}
            if namespace:
                metadata["namespace"] = namespace
            item = {**content, "metadata": metadata}
            known = self._objects.setdefault(path, {})
            kind = "MODIFIED" if (namespace, name) in known else "ADDED"
            known[namespace, name] = item
            self._log.append((self.version, path, kind, item))
            self.changed.notify_all()
            return item

    def take(self, path: str, name: str, namespace: str = "") -> None:
        """Delete an object."""
        with self.changed:
            self.version += 1
            item = self._objects[path].pop((namespace, name))
            item = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
            self._log.append((self.version, path, "DELETED", item))
            self.changed.notify_all()

    def expire(self) -> None:
        """Forget the history, and say so to every watch."""
        with self.changed:
            self.expired = self.version
            self.hang_up += 1
            self.changed.notify_all()

    def drop(self) -> None:
        """End every watch without a word."""
        with self.changed:
            self.hang_up += 1
            self.changed.notify_all()

    def since(self, path: str, version: int) -> list[tuple[int, str, dict[str, Any]]]:
        """What happened after a version."""
        return [(at, kind, item) for at, where, kind, item in self._log if where == path and at > version]

    def page(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        """One page of a list."""
        with self.changed:
            items = list(self._objects.get(path, {}).values())
            begin, limit = int(query.get("continue", 0)), int(query["limit"])
            following = str(begin + limit) if begin + limit < len(items) else ""
            metadata = {"resourceVersion": str(self.version), "continue": following}
            return {"metadata": metadata, "items": items[begin : begin + limit]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: KubeApi

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        path, _, text = self.path.partition("?")
        query = dict(urllib.parse.parse_qsl(text))
        away, refused, hang_up = self._fate(path, query)
        if away:
            self.close_connection = True
        elif refused:
            self._answer(refused, _REFUSED)
        elif path == "/version":
            self._answer(200, {"major": "1"})
        elif "watch" not in query:
            self._answer(200, self.api.page(path, query))
        else:
            with suppress(OSError):
                self._watch(path, int(query["resourceVersion"]), hang_up)
            self.close_connection = True

    def do_PATCH(self) -> None:
        path = self.path.partition("?")[0]
        collection, _, name = path.rpartition("/")
        _, refused, _ = self._fate(path, {})
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if refused:
            self._answer(refused, _REFUSED)
        else:
            self._answer(200, self.api.put(collection, name, content["metadata"].get("namespace", ""), **content))

    def _fate(self, path: str, query: dict[str, str]) -> tuple[bool, int, int]:
        """Whether nobody answers, the status to refuse with or 0, and the number of ends of watches so far.

        Settled before it is told that it was asked: what a test then says of requests to come is not about one that it has waited for, and what it
        ends is.
        """
        with self.api.changed:
            away, hang_up = self.api.away, self.api.hang_up
            refused = self.api.refuse.pop(0) if self.api.refuse and not away else 0
            self.api.asked.append((path, query))
        return away, refused, hang_up

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _watch(self, path: str, version: int, hang_up: int) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if version < self.api.expired:
            self._chunk({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}})
            self.wfile.write(b"0\r\n\r\n")
            return
        while True:
            with self.api.changed:
                while not (events := self.api.since(path, version)) or path in self.api.blind:
                    if self.api.stopping or self.api.hang_up != hang_up:
                        return
                    self.api.changed.wait(0.2)
            for at, kind, item in events:
                version = at
                self._chunk({"type": kind, "object": item})

    def _chunk(self, event: dict[str, Any]) -> None:
        # In two parts: a line may come in pieces.
        data = json.dumps(event).encode() + b"\n"
        for part in (data[:7], data[7:]):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()


@contextmanager
def serving() -> Iterator[KubeApi]:
    """One on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    api = KubeApi(server.server_address[1])
    server.RequestHandlerClass = type("Handler", (_Handler,), {"api": api})
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        api.stopping = True
        api.drop()
        server.shutdown()
        server.server_close()
        thread.join(60)
