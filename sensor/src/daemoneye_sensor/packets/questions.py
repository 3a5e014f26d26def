"""DNS questions and the responses that belong to them."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Final, NamedTuple

from daemoneye.events.dns_query import DNS_QUERY
from daemoneye.events.flags import Flag
from daemoneye_sensor.l7 import dns
from daemoneye_sensor.packets.rows import Ends, Rows
from daemoneye_sensor.packets.stream import Stream

WAIT_NS: Final = 10_000_000_000
"""A question that nobody answered for so long is told as such."""
MAX_OPEN: Final = 16_384
_NEAR: Final = 64
"""The latest questions, among which that of a response is that does not say which."""
_PARTIAL, _TRUNCATED, _UNSEEN = map(int, (Flag.PARTIAL, Flag.TRUNCATED, Flag.RESPONSE_UNSEEN))


class _Asked(NamedTuple):
    ends: Ends
    time: int
    message: dns.Message
    size: int


class Questions:
    """Open questions; a row each when the response, or nothing, came.

    Attributes:
        answers: Whether the data of answers is read and kept.
    """

    def __init__(self, rows: Rows) -> None:
        self.answers = True
        self._rows = rows
        self._open: OrderedDict[tuple[int, int, str, str], _Asked] = OrderedDict()

    def add(self, flow: int, ends: Ends, time: int, data: bytes, *, cut: bool) -> None:
        """A message; `ends` are those of its sender and receiver.

        Raises:
            Malformed: It is no DNS message.
        """
        message = dns.parse(data, answers=self.answers)
        key = flow, message.id, message.query.lower(), message.type
        if not message.response:
            self._open.setdefault(key, _Asked(ends, time, message, len(data)))
            if len(self._open) > MAX_OPEN:
                self._unanswered(self._open.popitem(last=False)[1])
            return
        asked = self._open.pop(key, None)
        if asked is None and not message.questions and message.id:
            # Who did not understand a question may not repeat it (FORMERR).
            near = islice(reversed(self._open), _NEAR)
            if (said := next((one for one in near if one[:2] == key[:2]), None)) is not None:
                asked = self._open.pop(said)
                message = message._replace(query=asked.message.query, type=asked.message.type)
        flags = (_PARTIAL if cut or message.partial else 0) | (_TRUNCATED if message.truncated else 0)
        self._rows.add(
            DNS_QUERY,
            asked.ends if asked else ends.turned(),
            asked.time if asked else time,
            flags,
            latency=max(time - asked.time, 0) if asked else 0,
            transaction=message.id, query=message.query, type=message.type, rcode=message.rcode, answers=message.answers, ttls=message.ttls,
            answer_count=message.answer_count, message_bytes=len(data),
        )  # fmt: skip

    def expire(self, now: int) -> None:
        """Tell the questions that were asked `WAIT_NS` before `now`."""
        while self._open:
            asked = next(iter(self._open.values()))
            if now - asked.time < WAIT_NS:
                break
            self._unanswered(self._open.popitem(last=False)[1])

    def end(self) -> None:
        """Tell all that are open."""
        while self._open:
            self._unanswered(self._open.popitem(last=False)[1])

    def _unanswered(self, asked: _Asked) -> None:
        message = asked.message
        flags = _UNSEEN | (_PARTIAL if message.partial else 0)
        self._rows.add(
            DNS_QUERY, asked.ends, asked.time, flags, transaction=message.id, query=message.query, type=message.type, message_bytes=asked.size
        )  # fmt: skip


class Dialogue:
    """DNS over TCP (RFC 7766): messages with their length before them, both ways.

    Attributes:
        done: Nothing more is awaited.
    """

    service = "dns"
    incomplete = False

    def __init__(self, questions: Questions, flow: int, ends: Ends) -> None:
        """`ends` are those of the conversation."""
        self.done = False
        self._questions = questions
        self._flow = flow
        self._ends = ends, ends.turned()
        self._streams: dict[bool, Stream] = {}

    def add(self, rows: Rows, time: int, sequence: int, payload: bytes, *, out: bool, policy_set: int = 0) -> None:  # noqa: ARG002 - the questions have their rows, and DNS a switch of its own
        """A segment.

        Raises:
            Malformed: It is no DNS message.
        """
        stream = self._streams.setdefault(out, Stream(sequence))
        if not stream.add(sequence, payload):
            self.done = stream.full
            return
        messages, consumed = dns.frames(stream.data)
        stream.drop(consumed)
        for message in messages:
            self._questions.add(self._flow, self._ends[not out], time, message, cut=False)

    def end(self, rows: Rows) -> None:  # noqa: ARG002 - the questions have theirs
        """No more comes; open questions are told in their time."""
        self.done = True
