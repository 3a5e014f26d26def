"""HTTP/1 in the clear: requests and the heads of their responses, out of the two directions of a connection.

Bodies are not read: a request is looked for behind the body that its predecessor announced, a response at the beginning of a segment.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from daemoneye.events.flags import Flag
from daemoneye.events.http_request import HTTP_REQUEST
from daemoneye_sensor.l7 import http
from daemoneye_sensor.packets.rows import Ends, Rows
from daemoneye_sensor.packets.stream import Stream

_OPEN: Final = 32
"""Requests that may wait for their response at once; of more, the oldest is told without."""
_UNSEEN: Final = int(Flag.RESPONSE_UNSEEN)
_WHOLE: Final = 1 << 32
_HALF: Final = 1 << 31


class _Asked(NamedTuple):
    time: int
    policy_set: int
    request: http.Request


class Exchange:
    """The requests of one connection.

    Attributes:
        done: Nothing more is awaited.
    """

    service = "http"
    incomplete = False

    def __init__(self, ends: Ends, *, client_out: bool) -> None:
        """`ends` are the client's and the server's; `client_out`: the client is whoever opened the conversation."""
        self.done = False
        self._ends = ends
        self._client_out = client_out
        self._client: Stream | None = None
        self._server: Stream | None = None
        self._began = 0, 0  # when the request did, and who asks for it
        self._body_until: int | None = None
        self._asked: deque[_Asked] = deque()

    def add(self, rows: Rows, time: int, sequence: int, payload: bytes, *, out: bool, policy_set: int = 0) -> None:
        """A segment; `policy_set`: who asks for what begins with it.

        Raises:
            Malformed: It begins like a message and is none.
        """
        if out == self._client_out:
            self._request(rows, (time, policy_set), sequence, payload)
        elif self._asked:
            self._response(rows, time, sequence, payload)

    def end(self, rows: Rows) -> None:
        """No more comes: tell what there is."""
        while self._asked:
            self._tell(rows, self._asked.popleft(), None, 0)
        self.done = True

    def _request(self, rows: Rows, begins: tuple[int, int], sequence: int, payload: bytes) -> None:
        if self._client is None:
            if self._body_until is not None:
                before = (self._body_until - sequence) % _WHOLE
                if 0 < before < _HALF:  # bytes of a body, whatever they look like
                    payload, sequence = payload[before:], sequence + before
            if not http.looks_like_request(payload):
                return
            self._client, self._began = Stream(sequence % _WHOLE), begins
        if not self._client.add(sequence % _WHOLE, payload):
            if self._client.full:
                self._client = None
            return
        start, self._client = self._client, None  # a malformed head must not be met again with every segment
        while start.data and http.looks_like_request(start.data):
            request = http.request(start.data)
            if request is None:
                self._client = start
                return
            self._asked.append(_Asked(*self._began, request))
            if len(self._asked) > _OPEN:
                self._tell(rows, self._asked.popleft(), None, 0)
            start.drop(request.size)
            body = request.content_length or 0
            self._body_until = (start.next - len(start.data) + body) % _WHOLE
            start.drop(body)
            self._began = begins

    def _response(self, rows: Rows, time: int, sequence: int, payload: bytes) -> None:
        if self._server is None:
            if not http.looks_like_response(payload):
                return
            self._server = Stream(sequence)
        if not self._server.add(sequence, payload):
            if self._server.full:
                self._server = None
            return
        start, self._server = self._server, None
        response = http.response(start.data)
        if response is None:
            self._server = start
        elif response.status >= 200 or response.status == 101:
            asked = self._asked.popleft()
            self._tell(rows, asked, response, time)
            if response.status == 101 or (asked.request.method == "CONNECT" and response.status < 300):
                self.end(rows)  # what follows is another protocol, TLS mostly, and whoever reads that begins anew

    def _tell(self, rows: Rows, asked: _Asked, response: http.Response | None, time: int) -> None:
        request = asked.request
        values: dict[str, object] = {}
        if response is not None:
            values = {
                "status": response.status,
                "server": response.server,
                "content_type": response.content_type,
                "latency": max(time - asked.time, 0),
            }
        rows.add(
            HTTP_REQUEST, self._ends, asked.time, 0 if response else _UNSEEN, method=request.method, host=request.host,
            uri=request.uri, user_agent=request.user_agent, version=request.version, oddities=request.oddities,
            request_bytes=min(request.content_length or 0, 0xFFFFFFFF), policy_set=asked.policy_set, **values,
        )  # fmt: skip
