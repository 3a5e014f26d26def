"""HTTP/1 in the clear: requests and the heads of their responses, out of the two directions of a connection.

Bodies are not read: a message is looked for behind the body that its predecessor announced, or at the beginning of a segment where nothing
says where that body ends: it is chunked and goes on in other segments, or it ends with the connection.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from daemoneye.events.flags import Flag
from daemoneye.events.http_request import HTTP_REQUEST
from daemoneye_sensor.l7 import http
from daemoneye_sensor.l7.errors import Malformed
from daemoneye_sensor.packets.rows import Ends, Rows
from daemoneye_sensor.packets.stream import Stream

_OPEN: Final = 32
"""Requests that may wait for their response at once; of more, the oldest is told without."""
_PARTIAL, _UNSEEN = map(int, (Flag.PARTIAL, Flag.RESPONSE_UNSEEN))
_AGAIN: Final = 1 << 20
"""So many bytes before the end of the last message are sent again; what is farther away belongs to another connection of the same ports."""
_WHOLE: Final = 1 << 32
_HALF: Final = 1 << 31


class _Asked(NamedTuple):
    time: int
    policy_set: int
    request: http.Request
    flags: int = 0


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
        self._passed: dict[
            bool, tuple[int, int]
        ] = {}  # of the client or not: sequence number behind its last message, and bytes of the body
        self._asked: deque[_Asked] = deque()

    def add(self, rows: Rows, time: int, sequence: int, payload: bytes, *, out: bool, policy_set: int = 0) -> None:
        """A segment; `policy_set`: who asks for what begins with it.

        Raises:
            Malformed: It begins like a message and is none.
        """
        if out == self._client_out:
            self._request(rows, (time, policy_set), sequence, payload)
            return
        if not self._asked and http.looks_like_response(payload):
            self._cut_off()
        if self._asked:
            self._response(rows, time, sequence, payload)

    def end(self, rows: Rows) -> None:
        """No more comes: tell what there is."""
        self._cut_off()
        while self._asked:
            self._tell(rows, self._asked.popleft(), None, 0)
        self.done = True

    def _request(self, rows: Rows, begins: tuple[int, int], sequence: int, payload: bytes) -> None:
        if self._client is None:
            payload, sequence = self._behind(payload, sequence, client=True)
            if not http.looks_like_request(payload):
                return
            self._client, self._began = Stream(sequence), begins
        if not self._client.add(sequence % _WHOLE, payload):
            if self._client.full:
                self._cut_off()
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
            self._began = begins
            size = http.body_size(start.data, request)
            self._pass(start, size, client=True)
            if size is None:
                return

    def _response(self, rows: Rows, time: int, sequence: int, payload: bytes) -> None:
        if self._server is None:
            payload, sequence = self._behind(payload, sequence, client=False)
            if not http.looks_like_response(payload):
                return
            self._server = Stream(sequence)
        if not self._server.add(sequence % _WHOLE, payload):
            if self._server.full:
                self._server = None
            return
        start, self._server = self._server, None
        more = True
        while more:
            response = http.response(start.data)
            if response is None:
                self._server = start
                return
            start.drop(response.size)
            if response.status < 200 and response.status != 101:
                more = http.looks_like_response(start.data)
                continue
            asked = self._asked.popleft()
            self._tell(rows, asked, response, time)
            method, status = asked.request.method, response.status
            if status == 101 or (method == "CONNECT" and status < 300):
                self.end(rows)  # what follows is another protocol, TLS mostly, and whoever reads that begins anew
                return
            # RFC 9112 6.3: whatever its head says, there is none behind these.
            size = 0 if method == "HEAD" or status in {204, 304} else http.body_size(start.data, response)
            self._pass(start, size, client=False)
            more = size is not None and bool(self._asked) and http.looks_like_response(start.data)

    def _cut_off(self) -> None:
        """What there is of a request whose end nobody saw, by its whole lines: the capture cut its packets, or its answer came first."""
        start, self._client = self._client, None
        if start is None or not (lines := start.data[: start.data.rfind(b"\n") + 1]):
            return
        try:
            request = http.request(lines + b"\r\n")
        except Malformed:
            return
        if request is None:
            return
        oddities = tuple(odd for odd in request.oddities if odd != "no_host")
        self._asked.append(_Asked(*self._began, request._replace(oddities=oddities), _PARTIAL))
        self._passed[True] = start.next, 0

    def _pass(self, stream: Stream, size: int | None, *, client: bool) -> None:
        """Pass the body that a stream begins with, as far as it is known where it ends."""
        size = size or 0
        self._passed[client] = (stream.next - len(stream.data) + size) % _WHOLE, size
        stream.drop(size)

    def _behind(self, payload: bytes, sequence: int, *, client: bool) -> tuple[bytes, int]:
        """What a segment has behind the last message, and where: no bytes of its body, whatever they look like, nor what is sent again."""
        if client in self._passed:
            until, size = self._passed[client]
            before = (until - sequence) % _WHOLE
            if 0 < before < min(size + _AGAIN, _HALF):
                return payload[before:], until
        return payload, sequence % _WHOLE

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
            HTTP_REQUEST, self._ends, asked.time, asked.flags | (0 if response else _UNSEEN), method=request.method, host=request.host,
            uri=request.uri, user_agent=request.user_agent, version=request.version, oddities=request.oddities,
            request_bytes=min(request.content_length or 0, 0xFFFFFFFF), policy_set=asked.policy_set, **values,
        )  # fmt: skip
